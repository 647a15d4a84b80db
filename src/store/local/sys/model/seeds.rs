//! Runs of a scenario from many seeds.

/// Runs a scenario of the tests of `filter` from the seeds below `count`, on all processors:
/// `HAUL_SEED=n` runs one, `HAUL_SEEDS=n` that many.
pub(in crate::store::local) fn each_seed(
    count: u64,
    filter: &str,
    run: impl Fn(u64) -> Result<(), String> + Sync,
) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("HAUL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HAUL_SEEDS").unwrap_or(count),
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (seeds, run) = (seeds.clone(), &run);
            scope.spawn(move || {
                for seed in seeds.filter(|seed| seed % threads == thread) {
                    if let Err(why) = run(seed) {
                        panic!("{why}\nagain: HAUL_SEED={seed} cargo test --lib {filter}");
                    }
                }
            });
        }
    });
}
