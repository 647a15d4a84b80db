//! Chunks in any order make the file and nothing else.

use super::*;
use crate::chunk::digest::{chunk_digest, whole_digest};
use crate::chunk::{CHUNK_SIZE, chunk_length};
use proptest::prelude::*;

const MIB: u64 = CHUNK_SIZE as u64;

fn rules(least: usize, most: usize, skip_gap_after: Option<usize>) -> PartRules {
    PartRules {
        least,
        most,
        skip_gap_after,
    }
}

#[test]
fn conflicts_and_shapes_are_refused() {
    let mut r = Reassembly::default();
    assert_eq!(r.insert(MIB, MIB, [1; 32], ()), Ok(Inserted::New));
    assert_eq!(r.insert(MIB, MIB, [1; 32], ()), Ok(Inserted::Duplicate));
    assert_eq!(r.insert(MIB, MIB, [2; 32], ()), Err(Mismatch::Conflict));
    assert_eq!(r.insert(0, 5, [3; 32], ()), Err(Mismatch::Shape));
    assert_eq!(r.insert(3 * MIB, 5, [4; 32], ()), Ok(Inserted::New));
    assert_eq!(r.insert(4 * MIB, MIB, [5; 32], ()), Err(Mismatch::Shape));
    assert_eq!(r.finish(2 * MIB, [0; 32]), Err(Mismatch::Shape));
    assert_eq!(r.insert(u64::MAX - 1, MIB, [5; 32], ()), Err(Mismatch::Shape));
}

#[test]
fn parts_obey_the_stores_rules() {
    let mut r = Reassembly::default();
    for i in 0..5 {
        r.insert(i * MIB, MIB, [0; 32], i).unwrap();
    }
    assert_eq!(r.take_part(&rules(1, 2 << 20, None)).unwrap().chunks.len(), 2);
    assert!(
        r.take_part(&rules(4 << 20, 8 << 20, None)).is_none(),
        "three MiB are less than the store wants"
    );
    r.insert(5 * MIB, 7, [0; 32], 5).unwrap();
    let last = r.take_part(&rules(4 << 20, 8 << 20, None)).unwrap();
    assert_eq!((last.offset, last.length), (2 * MIB, 3 * MIB + 7));
}

#[test]
fn chunks_that_were_taken_before_their_turn_still_count() {
    let mut r = Reassembly::default();
    let queued = 8;
    let any = rules(1, 16 << 20, Some(8));
    for i in 2..queued + 1 {
        r.insert(i * MIB, MIB, [i as u8; 32], ()).unwrap();
        assert!(r.take_part(&any).is_none(), "the missing ones may come soon");
    }
    r.insert((queued + 1) * MIB, 7, [3; 32], ()).unwrap();
    let part = r.take_part(&any).unwrap();
    assert_eq!((part.offset, part.length), (2 * MIB, (queued - 1) * MIB + 7));
    assert_eq!(r.taken().0, 0);
    assert_eq!(r.insert(2 * MIB, MIB, [2; 32], ()), Ok(Inserted::Duplicate));
    assert_eq!(r.insert(2 * MIB, MIB, [9; 32], ()), Err(Mismatch::Conflict));
    assert_eq!(r.insert(MIB, 5, [1; 32], ()), Err(Mismatch::Shape), "the end is known");
    assert_eq!(r.insert((queued + 2) * MIB, MIB, [4; 32], ()), Err(Mismatch::Shape));
    r.insert(MIB, MIB, [1; 32], ()).unwrap();
    r.insert(0, MIB, [0; 32], ()).unwrap();
    assert_eq!(r.take_part(&any).unwrap().length, 2 * MIB);
    assert_eq!(r.taken().0, (queued + 1) * MIB + 7);
}

#[tokio::test]
async fn holes_are_taken_in_their_turn_and_count_as_zeros() {
    let mut r = Reassembly::default();
    let last = vec![1_u8; 7];
    let any = rules(4 << 20, 4 << 20, Some(2));
    assert_eq!(r.insert_hole(MIB, 3 * MIB, ()), Ok(Inserted::New));
    assert_eq!(r.insert_hole(MIB, 3 * MIB, ()), Ok(Inserted::Duplicate));
    assert_eq!(r.insert_hole(MIB, MIB, ()), Err(Mismatch::Conflict));
    assert_eq!(r.insert_hole(0, 2 * MIB, ()), Err(Mismatch::Conflict));
    assert_eq!(r.insert(3 * MIB, MIB, [1; 32], ()), Err(Mismatch::Conflict));
    assert_eq!(
        r.insert(0, 5, [1; 32], ()),
        Err(Mismatch::Shape),
        "a hole is behind that end"
    );
    assert_eq!(r.insert_hole(u64::MAX - 1, MIB, ()), Err(Mismatch::Shape));
    assert_eq!(r.next_hole(), None, "the chunk before it is missing");
    let digest = chunk_digest(4 * MIB, &last);
    r.insert(4 * MIB, 7, digest, ()).unwrap();
    assert_eq!(r.insert_hole(4 * MIB, MIB, ()), Err(Mismatch::Conflict));
    assert_eq!(r.insert_hole(5 * MIB, MIB, ()), Err(Mismatch::Shape), "the end is known");
    let first = vec![2_u8; CHUNK_SIZE];
    r.insert(0, MIB, chunk_digest(0, &first), ()).unwrap();
    let part = r.take_part(&any).unwrap();
    assert_eq!((part.offset, part.length), (0, MIB), "a hole ends it");
    assert_eq!(r.next_hole(), Some((MIB, 3 * MIB)));
    assert!(r.take_part(&rules(1, 4 << 20, None)).is_none());
    let chunks = crate::chunk::hole::chunks(MIB, 3 * MIB).await;
    r.take_hole(&chunks);
    assert_eq!((r.next_hole(), r.next_offset()), (None, 4 * MIB));
    assert_eq!(r.insert_hole(MIB, 3 * MIB, ()), Ok(Inserted::Duplicate));
    assert_eq!(r.take_part(&any).unwrap().length, 7);
    let file = [first, vec![0; 3 * CHUNK_SIZE], last].concat();
    r.finish(4 * MIB + 7, whole_digest(&file)).unwrap();
    assert_eq!(r.complete(), Ok(Some((4 * MIB + 7, whole_digest(&file)))));
}

#[test]
fn a_single_chunk_is_complete_by_itself() {
    let mut r = Reassembly::default();
    assert_eq!(r.insert_whole(5, [1; 32], ()), Ok(Inserted::New));
    assert_eq!(r.complete(), Ok(None));
    assert_eq!(r.take_part(&rules(1, 100, None)).unwrap().length, 5);
    assert_eq!(r.complete(), Ok(Some((5, [1; 32]))));
    let mut empty = Reassembly::default();
    empty.insert_whole(0, [2; 32], ()).unwrap();
    assert_eq!(empty.complete(), Ok(Some((0, [2; 32]))));
}

#[test]
fn chunks_that_overlap_contradict_each_other() {
    let least = MIB / 4;
    let mut r = Reassembly::default();
    r.insert(MIB, MIB, [1; 32], ()).unwrap();
    assert_eq!(r.insert(MIB + least, least, [2; 32], ()), Err(Mismatch::Conflict));
    assert_eq!(r.insert(2 * MIB - least, least, [2; 32], ()), Err(Mismatch::Conflict));
    r.insert(2 * MIB + least, least, [3; 32], ()).unwrap();
    assert_eq!(r.insert(2 * MIB, MIB, [4; 32], ()), Err(Mismatch::Conflict));
    assert_eq!(r.insert_hole(2 * MIB, 2 * MIB, ()), Err(Mismatch::Conflict));
    // the same of one that was taken before its turn
    assert_eq!(r.take_part(&rules(1, 2 << 20, Some(2))).unwrap().offset, MIB);
    assert_eq!(r.insert(MIB + least, least, [2; 32], ()), Err(Mismatch::Conflict));
    assert_eq!(r.insert_hole(MIB + least, least, ()), Err(Mismatch::Conflict));
}

proptest! {
    /// Any order with any duplicates gives the file and nothing else; while a chunk is missing,
    /// nothing does.
    #[test]
    fn any_order_with_duplicates_gives_the_file(
        whole in 1_usize..10,
        sizes in proptest::collection::vec(0_u32..3, 1..9),
        tail in 1_usize..2000,
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
        missing in any::<prop::sample::Index>(),
        end_first in any::<bool>(),
        queued in proptest::option::of(1_usize..9),
    ) {
        let size = whole * CHUNK_SIZE + tail;
        let file: Vec<u8> = (0..size).map(|i| (1 + i / 7 % 253) as u8).collect();
        let mut pieces: Vec<(u64, &[u8])> = Vec::new();
        let mut rest = file.as_slice();
        while !rest.is_empty() {
            let offset = (size - rest.len()) as u64;
            let most = MIB >> sizes[pieces.len() % sizes.len()];
            let length = chunk_length(offset, rest.len() as u64, most) as usize;
            pieces.push((offset, &rest[..length]));
            rest = &rest[length..];
        }
        let chunks = pieces.len();
        let hash = whole_digest(&file);
        let mut r = Reassembly::default();
        let mut out = vec![0; file.len()];
        if end_first {
            r.finish(size as u64, hash).unwrap();
        }
        let last = missing.index(chunks);
        let feed = |r: &mut Reassembly<usize>, i: usize, out: &mut Vec<u8>| {
            let (offset, piece) = pieces[i];
            r.insert(offset, piece.len() as u64, chunk_digest(offset, piece), i).unwrap();
            let before = r.taken().0;
            while let Some(part) = r.take_part(&rules(1, 4 << 20, queued)) {
                assert!(queued.is_some() || part.offset >= before);
                for (offset, i) in part.chunks {
                    let room = &mut out[offset as usize..][..pieces[i].1.len()];
                    assert!(room.iter().all(|b| *b == 0), "written once");
                    room.copy_from_slice(pieces[i].1);
                }
            }
            let (taken, _) = r.taken();
            assert!(out[..taken as usize] == file[..taken as usize]);
        };
        let indices = order.iter().map(|i| i.index(chunks)).chain(0..chunks);
        for i in indices.filter(|i| *i != last) {
            feed(&mut r, i, &mut out);
        }
        prop_assert_eq!(r.complete(), Ok(None));
        feed(&mut r, last, &mut out);
        if !end_first {
            prop_assert_eq!(r.complete(), Ok(None));
            r.finish(size as u64, hash).unwrap();
        }
        prop_assert_eq!(r.complete(), Ok(Some((size as u64, hash))));
        prop_assert!(out == file);
    }
}
