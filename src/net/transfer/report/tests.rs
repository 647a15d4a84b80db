//! Counters over several attempts.

use super::*;

/// A server that dies again and again, and each time takes with it what came: the run must end.
#[test]
fn what_is_resent_is_no_progress() {
    let counters = Counters::default();
    let send = |files, bytes| {
        Counters::add(&counters.files_done, files);
        counters.written(bytes);
    };
    send(3, 3000);
    let first = counters.progress();
    for _ in 0..5 {
        counters.begin_retry();
        assert_eq!(counters.progress(), first);
        send(3, 2500);
        assert_eq!(counters.progress(), first, "not even as far as before");
        send(0, 500);
        assert_eq!(counters.progress(), first);
    }
    counters.begin_retry();
    Counters::add(&counters.unchanged, 3);
    Counters::add(&counters.bytes_unchanged, 3000);
    send(1, 1);
    assert!(counters.progress() > first);
}
