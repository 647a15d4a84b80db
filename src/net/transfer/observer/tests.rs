//! Frames that pass, and those that do not.

use super::*;

const CHUNK: u64 = CHUNK_SIZE as u64;

fn chunk(offset: u64) -> FrameHeader {
    FrameHeader {
        number: 1,
        offset,
        length: CHUNK_SIZE as u32,
        ..FrameHeader::bare(FrameKind::Chunk)
    }
}

/// A file of ten chunks that the receiver wants from the third one on.
async fn wanted() -> Observer {
    let names = Names {
        sources: vec![b"f".to_vec()],
        prefix: Vec::new(),
    };
    let allowance = Allowance::new(1 << 20);
    let mut observer = Observer::new(names, ModeRules::default(), Reporter::silent(), allowance);
    let offer = proto::Offer {
        number: 1,
        kind: proto::Kind::File.into(),
        size: 10 * CHUNK,
        ..Default::default()
    };
    let offers = vec![offer];
    observer.offers(&mut proto::Offers { offers }).unwrap();
    let wants = vec![proto::Want {
        number: 1,
        offset: 2 * CHUNK,
        ..Default::default()
    }];
    observer.wants(&proto::Wants { wants }).await;
    observer
}

/// A connection is lost again and again: what the receiver has, or is about to get, is not
/// queued for it once more.
#[tokio::test]
async fn a_frame_passes_once_in_an_attempt() {
    let mut observer = wanted().await;
    for offset in [2, 5, 3, 9, 4] {
        assert!(observer.frame(&chunk(offset * CHUNK)), "{offset}");
        for before in 0..=2 {
            assert!(!observer.frame(&chunk(before * CHUNK)));
        }
        assert!(!observer.frame(&chunk(offset * CHUNK)), "{offset}");
    }
    for offset in 6..9 {
        assert!(observer.frame(&chunk(offset * CHUNK)));
    }
    assert!((2..10).all(|offset| !observer.frame(&chunk(offset * CHUNK))));
    let end = FrameHeader {
        offset: 10 * CHUNK,
        length: 0,
        ..FrameHeader {
            kind: FrameKind::End,
            ..chunk(0)
        }
    };
    assert!(observer.frame(&end) && !observer.frame(&end));
    // of another attempt, or of another file
    let next = FrameHeader {
        attempt: 1,
        ..chunk(6 * CHUNK)
    };
    assert!(!observer.frame(&next));
    let changed = proto::Offer {
        number: 1,
        size: 10 * CHUNK,
        ..Default::default()
    };
    let mut changed = proto::Changed {
        offer: Some(Box::new(changed)),
        attempt: 1,
    };
    assert_eq!(observer.changed(&mut changed).unwrap(), 1);
    assert!(!observer.frame(&next), "it is not wanted yet");
    let wants = vec![proto::Want {
        number: 1,
        ..Default::default()
    }];
    observer.wants(&proto::Wants { wants }).await;
    assert!(observer.frame(&next) && !observer.frame(&chunk(7 * CHUNK)));
    let mut other = next;
    other.number = 2;
    assert!(!observer.frame(&other));
}
