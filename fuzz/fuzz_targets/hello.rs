//! The first bytes of any connection.
#![no_main]

use haul::net::tls::socket::role_of;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = role_of(data);
});
