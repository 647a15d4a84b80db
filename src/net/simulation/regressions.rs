//! Seeds that have failed once, with what they found.

use super::run;

/// Each is a seed, and what it found.
const SEEDS: [(u64, &str); 1] = [(
    3287,
    "a chunk that could not be read again, of a file all of which had been sent, was waited for",
)];

#[test]
fn seeds_that_have_failed_once_pass() {
    for (seed, found) in SEEDS {
        println!("{seed}: {found}");
        run(seed);
    }
}
