//! The client's `known_servers` file.
#![no_main]

use haul::auth::known;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    if let Ok(pins) = known::parse(Path::new("known_servers"), text) {
        let again: String = pins.iter().map(|(name, print)| format!("{name} {print}\n")).collect();
        assert_eq!(known::parse(Path::new("known_servers"), &again).expect("its own text"), pins);
    }
});
