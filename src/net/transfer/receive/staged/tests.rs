//! The states of a staged file.

use crate::net::transfer::receive::staged::*;

/// A checkpoint may end while a part of the attempt before is still being written: the partial
/// file has to be emptied when that ends, and is not to be taken for one that is being
/// rewritten.
#[test]
fn an_attempt_that_is_out_of_date_stays_so_until_its_part_is_written() {
    let wanted = Wanted {
        attempt: 1,
        size: Some(2 << 20),
        attributes: Attributes::default(),
        source_version: None,
        hash: None,
        is_copied: false,
    };
    let mut file = StagedFile::new(wanted, Instant::now());
    for state in [StagingState::Opening, StagingState::Busy, StagingState::Stale] {
        let before = std::mem::discriminant(&state);
        file.state = state;
        file.checkpointed();
        assert!(file.advance().unwrap().is_none());
        assert_eq!(std::mem::discriminant(&file.state), before);
    }
}
