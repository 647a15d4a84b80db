//! The frames of a data connection, byte by byte.

use super::*;
use crate::chunk::LEAST_CHUNK;

fn header() -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Chunk,
        attempt: 2,
        transfer: 3,
        number: 4,
        offset: 5 << 20,
        length: 6,
        unpacked: 0,
        digest: [7; 32],
    }
}

/// The bytes are the protocol: this test fails when they change.
#[test]
fn header_bytes_are_frozen() {
    let mut expected = vec![3, 2, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4];
    expected.extend([0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0]);
    expected.extend([0; 32]);
    assert_eq!(header().encode().as_slice(), expected);
    assert_eq!(header().trailer(), [7; 32]);
    let digest = [0; 32];
    assert_eq!(FrameHeader::decode(&expected), Ok(FrameHeader { digest, ..header() }));
    let end = FrameHeader {
        kind: FrameKind::End,
        length: 0,
        ..header()
    };
    expected[0] = 4;
    expected[27] = 0;
    expected[32..].fill(7);
    assert_eq!(end.encode().as_slice(), expected);
    assert!(end.trailer().is_empty());
    assert_eq!(FrameHeader::decode(&expected), Ok(end));
}

#[test]
fn hole_bytes_are_frozen_and_bounded() {
    let header = FrameHeader {
        length: 0,
        ..header()
    };
    let hole = FrameHeader::of_hole(header, 3 << 20 | 5);
    let mut expected = vec![8, 2, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4];
    expected.extend([0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([0, 0, 0, 0, 0, 0x30, 0, 5]);
    expected.extend([0; 24]);
    assert_eq!(hole.encode().as_slice(), expected);
    assert_eq!(FrameHeader::decode(&expected), Ok(hole));
    let refused = |header: FrameHeader| FrameHeader::decode(&header.encode()).is_err();
    assert!(!refused(FrameHeader::of_hole(header, MAX_HOLE)));
    for length in [0, MAX_HOLE + 1, u64::MAX] {
        assert!(refused(FrameHeader::of_hole(header, length)), "{length}");
    }
    assert!(refused(FrameHeader { offset: 7, ..hole }));
    assert!(refused(FrameHeader { length: 1, ..hole }));
    assert!(refused(FrameHeader { number: 0, ..hole }));
    let mut digest = hole.digest;
    digest[8] = 1;
    assert!(refused(FrameHeader { digest, ..hole }));
}

#[test]
fn attach_bytes_are_frozen() {
    let attach = Attach {
        session: [9; 16],
        n: 258,
        proof: [8; 32],
    };
    let mut expected = b"haul\x01\0\0\0".to_vec();
    expected.extend([9; 16]);
    expected.extend([0, 0, 1, 2]);
    expected.extend([8; 32]);
    assert_eq!(attach.encode().as_slice(), expected);
    assert_eq!(Attach::decode(&expected), Ok(attach));
}

#[test]
fn cut_at_every_length_and_with_trailing_bytes_is_refused() {
    let bytes = header().encode();
    for n in 0..bytes.len() {
        assert!(FrameHeader::decode(&bytes[..n]).is_err(), "{n}");
    }
    assert!(FrameHeader::decode(&[&bytes[..], &[0]].concat()).is_err());
    let bytes = Attach {
        session: [1; 16],
        n: 1,
        proof: [2; 32],
    }
    .encode();
    for n in 0..bytes.len() {
        assert!(Attach::decode(&bytes[..n]).is_err(), "{n}");
    }
    assert!(Attach::decode(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn bounds_are_checked() {
    let refused = |change: fn(&mut FrameHeader)| {
        let mut h = header();
        change(&mut h);
        FrameHeader::decode(&h.encode()).is_err()
    };
    assert!(!refused(|_| ()));
    assert!(refused(|h| h.offset = 1));
    assert!(!refused(|h| h.offset = LEAST_CHUNK as u64));
    // a chunk is within one subtree of its size
    assert!(refused(
        |h| (h.offset, h.length) = (LEAST_CHUNK as u64, LEAST_CHUNK as u32 + 1)
    ));
    assert!(!refused(
        |h| (h.offset, h.length) = (2 * LEAST_CHUNK as u64, LEAST_CHUNK as u32 + 1)
    ));
    assert!(refused(
        |h| (h.offset, h.length) = (2 * LEAST_CHUNK as u64, CHUNK_SIZE as u32)
    ));
    assert!(refused(|h| h.offset = u64::MAX));
    assert!(refused(|h| h.offset = 1 << 63));
    assert!(refused(|h| h.length = 0));
    assert!(refused(|h| h.length = CHUNK_SIZE as u32 + 1));
    assert!(refused(|h| h.length = u32::MAX));
    assert!(refused(|h| h.number = 0));
    assert!(refused(|h| h.kind = FrameKind::End));
    assert!(refused(|h| h.kind = FrameKind::Goodbye));
    assert!(refused(|h| h.kind = FrameKind::File));
    let mut bytes = header().encode();
    bytes[40] = 1;
    assert!(FrameHeader::decode(&bytes).is_err(), "a chunk's digest before it");
}

#[test]
fn only_content_is_compressed_and_never_to_more_than_it_was() {
    let packed = |kind, length, unpacked| {
        let digest = [0; 32];
        let offset = 0;
        FrameHeader::decode(
            &FrameHeader {
                kind,
                length,
                unpacked,
                offset,
                digest,
                ..header()
            }
            .encode(),
        )
    };
    let whole = CHUNK_SIZE as u32;
    for kind in [FrameKind::File, FrameKind::Chunk] {
        assert_eq!(packed(kind, 9, 10).unwrap().content_length(), 10);
        assert_eq!(packed(kind, 1, whole).unwrap().content_length(), CHUNK_SIZE);
        for (length, unpacked) in [(10, 10), (10, 9), (0, 9), (9, whole + 1), (9, u32::MAX)] {
            assert!(packed(kind, length, unpacked).is_err(), "{length} {unpacked}");
        }
    }
    for kind in [FrameKind::End, FrameKind::Goodbye, FrameKind::Ping, FrameKind::Hole] {
        assert!(packed(kind, 0, 10).is_err());
    }
}

#[test]
fn the_length_of_compressed_content_follows_that_of_the_payload() {
    let bytes = FrameHeader {
        length: 0x0102,
        unpacked: 0x0304,
        ..header()
    }
    .encode();
    assert_eq!(bytes[24..32], [0, 0, 1, 2, 0, 0, 3, 4]);
}
