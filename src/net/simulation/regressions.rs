//! Seeds that have failed once, with what they found.

use super::run;

/// Each is a seed, and what it found.
const SEEDS: [(u64, &str); 0] = [];

#[test]
fn seeds_that_have_failed_once_pass() {
    for (seed, found) in SEEDS {
        println!("{seed}: {found}");
        run(seed);
    }
}
