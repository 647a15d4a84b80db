//! The record beside a staging file: read back after a crash, from a directory that others may
//! write to.
#![no_main]

use haul::chunk::digest::RootHasher;
use haul::store::local::record::{ResumeRecord, SLOT};
use libfuzzer_sys::fuzz_target;

fn look(bytes: &[u8]) {
    let Some(record) = ResumeRecord::decode(bytes) else { return };
    let slot = record.encode().expect("what was read fits");
    assert_eq!(ResumeRecord::decode(&slot).as_ref(), Some(&record));
    if let Some(point) = record.checkpoint() {
        let _ = RootHasher::resume(point.offset >> 20, point.digests);
    }
}

fuzz_target!(|data: &[u8]| {
    look(data);
    // the checksum would keep a fuzzer out: here it is right
    let hash = blake3::hash(data).to_hex();
    let mut slot = [data, b"\n", hash.as_bytes(), b"\n"].concat();
    if slot.len() <= SLOT {
        slot.resize(SLOT, 0);
        look(&slot);
    }
});
