//! The message that opens a data connection.
#![no_main]

use haul::net::wire::frame::Attach;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(attach) = Attach::decode(data) {
        assert_eq!(attach.encode().as_slice(), data);
    }
});
