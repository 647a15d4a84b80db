//! The server's `users` file.
#![no_main]

use haul::auth::users;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    let _ = users::parse(Path::new("users"), text);
});
