//! The payload of a compressed frame.
#![no_main]

use haul::chunk::CHUNK_SIZE;
use haul::chunk::buffer::BufferPool;
use haul::net::data::packer::decode;
use haul::net::data::payload::ReceivedFrame;
use haul::net::wire::frame::{FrameHeader, FrameKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((length, payload)) = data.split_first_chunk() else {
        return;
    };
    let unpacked = u32::from_be_bytes(*length) % (CHUNK_SIZE as u32 + 1);
    let pool = BufferPool::new(1);
    let header = FrameHeader {
        number: 1,
        length: payload.len() as u32,
        unpacked,
        ..FrameHeader::bare(FrameKind::File)
    };
    if unpacked == 0 || FrameHeader::decode(&header.encode()).is_err() {
        return;
    }
    let frame = ReceivedFrame {
        header,
        payload: pool.share(payload.to_vec()),
        intact: true,
        charge: None,
    };
    if let Ok(frame) = decode(frame, &pool) {
        assert_eq!(frame.payload.len(), unpacked as usize);
        assert_eq!((frame.header.length, frame.header.unpacked), (unpacked, 0));
    }
});
