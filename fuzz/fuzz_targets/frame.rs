//! The header of a data frame.
#![no_main]

use haul::net::wire::frame::FrameHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = FrameHeader::decode(data) {
        assert_eq!(header.encode().as_slice(), data);
        assert!(header.content_length() <= haul::chunk::CHUNK_SIZE);
        assert!(header.offset.checked_add(u64::from(header.length)).is_some());
    }
});
