//! The simulation: several servers, whose processes are stopped and killed, over a model of an
//! engine, in virtual time and from a seed. `HAUL_SEED=n cargo test --lib objects::simulation`
//! repeats one seed, `HAUL_SEEDS=n` runs that many.
//!
//! Every content says what it is, so that a torn one is noticed. The history of each path says
//! which content may be there in the end.

mod worker;

use super::simulated::{Line, ModelEngine};
use super::{ObjectStore, ServedObjects, Settings};
use crate::store::local::simulated::Chance;
use crate::store::{
    Durability, ErrorKind, RemotePath, Served, StageRequest, Staging, Store, StoreError,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use worker::Worker;

const LEASE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a part, here.
const PART: usize = 100;
const PATHS: usize = 3;
const WORKERS: usize = 5;
const STEPS: usize = 12;

/// What a client has done to a path.
#[derive(Clone, Debug)]
struct Done {
    path: usize,
    /// What it wrote; `None`: it removed.
    id: Option<u64>,
    began: Instant,
    /// `None`: the outcome is not known.
    ended: Option<Instant>,
}

/// A commit that began and succeeded, and a lock that was taken.
#[derive(Clone, Debug)]
struct Commit {
    path: usize,
    staged: Instant,
    version: String,
}

#[derive(Default)]
struct History {
    done: Vec<Done>,
    commits: Vec<Commit>,
    /// A path whose lock was taken between two moments.
    locks: Vec<(usize, Instant, Instant)>,
    ids: u64,
}

/// A process: it runs only while its line is not frozen.
struct Process<F> {
    line: Line,
    work: Pin<Box<F>>,
    thawed: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<F: Future> Future for Process<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.line.is_frozen() {
            if self.thawed.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let line = self.line.clone();
            self.thawed = Box::pin(async move { line.thaw().await });
            if self.line.is_frozen() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.work.as_mut().poll(cx)
    }
}

fn process<F: Future>(line: &Line, work: F) -> Process<F> {
    let waiting = line.clone();
    Process {
        line: line.clone(),
        work: Box::pin(work),
        thawed: Box::pin(async move { waiting.thaw().await }),
    }
}

/// The content that an id stands for.
fn content(id: u64) -> Vec<u8> {
    let size = usize::try_from(id % 7).unwrap() * PART + 8;
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend((8..size).map(|at| (at as u64).wrapping_mul(id) as u8));
    bytes
}

/// The id of a content that is whole.
fn id_of(bytes: &[u8]) -> Option<u64> {
    let id = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    (content(id) == bytes).then_some(id)
}

fn path(number: usize) -> RemotePath {
    RemotePath::parse(format!("f{number}").as_bytes()).unwrap()
}

async fn read(store: &dyn Store, number: usize) -> Result<Option<u64>, StoreError> {
    let path = path(number);
    let source = match store.open(&path).await {
        Err(e) if e.kind == ErrorKind::NotFound => return Ok(None),
        source => source?,
    };
    let size = usize::try_from(source.stat().await?.size).unwrap();
    let bytes = source.read_at(0, vec![0; size], Arc::new(())).await?;
    let id = id_of(&bytes);
    assert!(id.is_some(), "a torn file of {size} bytes");
    Ok(id)
}

fn store(line: &Line, seed: u64) -> ObjectStore {
    let chance = Mutex::new(Chance::new(seed));
    let settings = Settings {
        prefix: "p".into(),
        lease: LEASE,
        random: Arc::new(move || chance.lock().next()),
    };
    ObjectStore::open(Arc::new(line.clone()), settings)
}

/// Freezes and kills servers while workers use them.
async fn weather(lines: &[Line], mut chance: Chance) {
    for _ in 0..40 {
        sleep(Duration::from_secs(chance.below(200) as u64)).await;
        let line = &lines[chance.below(lines.len())];
        if chance.one_in(15) {
            line.kill();
            continue;
        }
        line.freeze(true);
        let kinds = if chance.one_in(6) { 4 } else { 3 };
        let long = [20, 100, 300, 60 * 3600][chance.below(kinds)];
        sleep(Duration::from_secs(long)).await;
        line.freeze(false);
    }
}

async fn run(seed: u64) {
    let engine = ModelEngine::new(seed);
    let mut chance = Chance::new(seed ^ 0x5eed);
    let history = Arc::new(Mutex::new(History::default()));
    let turns = Arc::new((0..PATHS).map(|_| tokio::sync::RwLock::new(())).collect::<Vec<_>>());
    let (mut lines, mut working) = (Vec::new(), Vec::new());
    for number in 0..WORKERS {
        let line = engine.line();
        let mut worker = Worker {
            store: store(&line, chance.next()),
            line: line.clone(),
            chance: Chance::new(chance.next()),
            history: history.clone(),
            turns: turns.clone(),
        };
        lines.push(line.clone());
        let work = async move {
            for _ in 0..STEPS {
                worker.step().await;
                // content of all ages
                if worker.chance.one_in(20) {
                    sleep(DAY + Duration::from_secs(3600)).await;
                }
            }
            assert!(!worker.line.is_frozen());
        };
        let _ = number;
        // a killed one never ends
        working.push(timeout(40 * DAY, process(&line, work)));
    }
    let storm = weather(&lines, Chance::new(chance.next()));
    let ((), _) = tokio::join!(storm, join_all(working));
    engine.calm();
    sleep(Duration::from_secs(120)).await;
    settle(seed, &engine, &history).await;
}

/// Checks what was found against what clients have done, and who has committed.
fn check_history(seed: u64, engine: &ModelEngine, history: &History, found: &[Option<u64>]) {
    let (done, commits, locks) = (&history.done, &history.commits, &history.locks);
    for number in 0..PATHS {
        let found = found[number];
        let of_path: Vec<&Done> = done.iter().filter(|d| d.path == number).collect();
        let may_be = |d: &Done| {
            let later = |other: &&Done| {
                other.ended.is_some() && d.ended.is_some_and(|ended| ended < other.began)
            };
            !of_path.iter().any(later)
        };
        let untouched = found.is_none() && !of_path.iter().any(|d| d.ended.is_some());
        assert!(
            untouched || of_path.iter().any(|d| d.id == found && may_be(d)),
            "seed {seed}: {found:?} is there: {of_path:#?}"
        );
    }
    for commit in commits {
        let written = engine.written(&commit.version).unwrap();
        // another writer had the lock by the time when this one's entry was written
        let stale = locks.iter().any(|(path, asked, staged)| {
            *path == commit.path && commit.staged < *asked && *staged < written
        });
        assert!(!stale, "seed {seed}: a stale writer has committed: {commit:?}");
    }
}

/// Checks that no lock outlives its lease.
async fn check_locks(seed: u64, last: &ObjectStore) {
    for number in 0..PATHS {
        let request = StageRequest {
            who: "last".into(),
            if_version: None,
            durability: Durability::Durable,
            size: None,
            window: 32 << 20,
            source: None,
        };
        let began = Instant::now();
        let staging: Box<dyn Staging> = loop {
            match last.stage(&path(number), &request).await {
                Ok(staging) => break staging,
                Err(e) => assert!(began.elapsed() < LEASE * 2, "seed {seed}: {e}"),
            }
            sleep(Duration::from_secs(5)).await;
        };
        staging.discard().await;
    }
}

/// Checks what is there in the end.
async fn settle(seed: u64, engine: &ModelEngine, history: &Mutex<History>) {
    let line = engine.line();
    let last = store(&line, seed ^ 0xe0d);
    let served = ServedObjects(last.clone());
    for _ in 0..2 {
        served.sweep(Duration::from_secs(1800)).await;
        sleep(3 * DAY).await;
    }
    let mut found = Vec::new();
    for number in 0..PATHS {
        found.push(read(&last, number).await.unwrap_or_else(|e| panic!("seed {seed}: {e}")));
    }
    check_history(seed, engine, &history.lock(), &found);
    check_locks(seed, &last).await;
    // and what nothing refers to is gone
    let blobs = engine.keys("p/b/");
    let mut referred = 0;
    for number in 0..PATHS {
        referred += usize::from(
            last.0
                .find(&path(number))
                .await
                .unwrap()
                .is_some_and(|found| !found.record.extents.is_empty()),
        );
    }
    assert!(
        blobs.len() <= referred * 7,
        "seed {seed}: {} blobs for {referred}",
        blobs.len()
    );
}

#[test]
fn servers_that_stop_and_die_lose_and_tear_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("HAUL_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("HAUL_FIRST_SEED").unwrap_or(1);
            first..first + number("HAUL_SEEDS").unwrap_or(300)
        }
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let mut runtime = runtime;
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(seed));
    }
}
