//! Remote paths: as a peer sends them, and as people write them.
#![no_main]

use haul::cmd::location::Location;
use haul::net::wire::entry;
use haul::store::RemotePath;
use libfuzzer_sys::fuzz_target;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

fuzz_target!(|data: &[u8]| {
    let _ = Location::parse(OsStr::from_bytes(data));
    for bytes in [RemotePath::parse(data).ok(), entry::path(data, &RemotePath::root()).ok()] {
        let Some(path) = bytes else { continue };
        assert_eq!(RemotePath::parse(path.as_bytes()).as_ref(), Ok(&path));
        for name in path.components() {
            assert!(!matches!(name.as_bytes(), b"" | b"." | b"..") && !name.as_bytes().contains(&b'/'));
        }
    }
});
