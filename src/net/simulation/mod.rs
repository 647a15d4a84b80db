//! The simulation: sender, receiver, sessions and retries of both sides in one process, over a
//! simulated network and the model file system, from a seed.
//!
//! Control messages and frames are the real bytes; only the records layer of data connections is
//! missing. Time is virtual: it moves on when every task waits. One seed is one run of a command:
//! some attempts under faults, then one without, which has to succeed. `HAUL_SEED=n cargo test
//! --lib simulation` repeats one seed, `HAUL_SEEDS=n` runs that many, from `HAUL_FIRST_SEED` on.

mod regressions;
mod session;
mod source;

use crate::net::error::NetError;
use crate::net::session::channel::{TransferChannel, cancel};
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::{destination::Target, receiver::receive, tree::Tree};
use crate::net::transfer::report::{Event, Reporter};
use crate::net::transfer::send::sender::send;
use crate::net::transfer::send::source::{Origin, TransferSource};
use crate::store::RemotePath;
pub(super) use crate::store::local::simulated::Chance;
use crate::store::local::simulated::Machine;
use session::{Session, WINDOW, Weather};
use source::Files;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Attempts under faults, at most.
const ATTEMPTS: usize = 4;
/// How long an attempt may take: every deadline of a transfer is shorter.
const LONGEST: Duration = Duration::from_secs(3600);
/// How long one without faults may take over the slowest line.
const LONGEST_CALM: Duration = Duration::from_secs(120);

/// What happens to an attempt from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    None,
    /// The session ends on both sides.
    Restart,
    /// The receiving process is killed.
    Kill,
    /// The receiving machine loses its power.
    PowerLoss,
    /// A call of the receiver's file system fails.
    FailedCall,
}

/// One run.
struct Scenario {
    seed: u64,
    chance: Chance,
    files: Files,
    machine: Machine,
    log: Vec<String>,
}

/// How an attempt ended.
struct Ended {
    sent: Result<(), NetError>,
    received: Option<Result<(), NetError>>,
    /// What the sender reported of each file.
    reported: BTreeMap<String, Vec<Event>>,
    took: Duration,
}

impl Ended {
    fn is_complete(&self) -> bool {
        let failed = |event: &Event| matches!(event, Event::Failed { .. });
        self.sent.is_ok() && !self.reported.values().flatten().any(failed)
    }
}

impl Scenario {
    fn new(seed: u64) -> Scenario {
        let mut chance = Chance::new(seed);
        Scenario {
            seed,
            files: Files::new(&mut chance),
            machine: Machine::new(chance.next()),
            chance,
            log: Vec::new(),
        }
    }

    /// Runs it to its end.
    async fn run(&mut self) {
        let attempts = self.chance.below(ATTEMPTS);
        for n in 0..attempts {
            let blow = *self.chance.of(&[
                Blow::None,
                Blow::Restart,
                Blow::Kill,
                Blow::PowerLoss,
                Blow::FailedCall,
            ]);
            let weather = Weather::new(&mut self.chance, false);
            self.log.push(format!("attempt {n}: {blow:?}, {weather:?}"));
            let changes = self.chance.one_in(3);
            let ended = self.attempt(weather, blow, changes).await;
            self.check(&ended);
        }
        let weather = Weather::new(&mut self.chance, true);
        self.log.push(format!("the last attempt: {weather:?}"));
        let ended = self.attempt(weather, Blow::None, false).await;
        self.check(&ended);
        assert!(
            ended.is_complete(),
            "without faults: {:?}, {:?}",
            ended.sent,
            ended.reported
        );
        assert!(matches!(ended.received, Some(Ok(()))), "{:?}", ended.received);
        assert!(ended.took < LONGEST_CALM, "it took {:?}", ended.took);
        // what was reported is durable
        self.machine.lose_power();
        for path in self.files.paths() {
            let found = self.machine.content(&path);
            assert!(found == Some(self.files.newest(&path)), "{path} is not the newest version");
        }
    }

    /// One transfer over one session.
    async fn attempt(&mut self, weather: Weather, blow: Blow, changes: bool) -> Ended {
        let started = Instant::now();
        let session = Session::start(&mut self.chance, weather);
        let (events, collected) = collect();
        let sender = self.sender(&session, Reporter::new(events, true));
        let receiver = self.receiver(&session);
        let watched = tokio::spawn(watch(session.sender.clone(), session.receiver.clone()));
        let work = async {
            if blow == Blow::FailedCall {
                self.machine.fail_after(self.chance.below(60) as u64);
            }
            if changes {
                self.change_files().await;
            }
            self.strike(&session, blow, receiver, sender).await
        };
        let Ok((sent, received)) = timeout(LONGEST, work).await else {
            panic!("neither side ended within an hour");
        };
        let took = started.elapsed();
        session.restart();
        let (a, b) = (session.sender.clone(), session.receiver.clone());
        drop(session);
        // every task of the session ends
        sleep(Duration::from_secs(300)).await;
        watched.abort();
        if !matches!(blow, Blow::Kill | Blow::PowerLoss) {
            assert_eq!(a.send_queue.credit().outstanding(), 0, "the sender's window");
            assert_eq!(a.offered().taken(), 0, "what was offered");
            assert_eq!(b.charged(), 0, "the receiver's window");
            assert_eq!(b.accepted().taken(), 0, "what was accepted");
        }
        self.machine.mend();
        if blow == Blow::PowerLoss {
            self.machine.lose_power();
        }
        let reported = collected.await.unwrap();
        Ended {
            sent,
            received,
            reported,
            took,
        }
    }

    fn sender(
        &mut self,
        session: &Session,
        reporter: Reporter,
    ) -> JoinHandle<Result<(), NetError>> {
        let store = self.files.store(pause(&mut self.chance));
        let sources = Arc::new(vec![TransferSource {
            label: Vec::new(),
            origin: Origin::Tree {
                store,
                path: RemotePath::root(),
            },
            place: None,
            chosen: None,
        }]);
        let channel = TransferChannel::join(&session.sender, 1).unwrap();
        let core = session.sender.clone();
        tokio::spawn(async move {
            let ended = send(channel, sources, options(), reporter).await;
            if let Err(e) = &ended {
                cancel(&core, 1, e).await;
            }
            ended
        })
    }

    fn receiver(&mut self, session: &Session) -> JoinHandle<Result<(), NetError>> {
        let target = Target::Tree(Tree {
            store: self.machine.store(pause(&mut self.chance)),
            tops: vec![RemotePath::root()],
            base: None,
            dry_run: false,
            who: "simulation".into(),
            release: None,
            own_lock_wait: Duration::ZERO,
            write_only: false,
        });
        let channel = TransferChannel::join(&session.receiver, 1).unwrap();
        let core = session.receiver.clone();
        tokio::spawn(async move {
            let ended = receive(channel, target, Vec::new(), options(), Reporter::silent()).await;
            if let Err(e) = &ended {
                cancel(&core, 1, e).await;
            }
            ended
        })
    }

    /// Changes files at some times.
    async fn change_files(&mut self) {
        for _ in 0..1 + self.chance.below(3) {
            let latest = *self.chance.of(&[5, 50, 500]);
            sleep(Duration::from_millis(self.chance.below(latest) as u64)).await;
            let paths = self.files.paths();
            let path = self.chance.of(&paths).clone();
            self.files.change(&path, &mut self.chance);
        }
    }

    /// Lets the blow fall at some time, and waits for both sides.
    async fn strike(
        &mut self,
        session: &Session,
        blow: Blow,
        receiver: JoinHandle<Result<(), NetError>>,
        sender: JoinHandle<Result<(), NetError>>,
    ) -> (Result<(), NetError>, Option<Result<(), NetError>>) {
        match blow {
            Blow::None | Blow::FailedCall => {}
            _ => sleep(Duration::from_millis(self.chance.below(3000) as u64)).await,
        }
        match blow {
            Blow::None | Blow::FailedCall => {}
            Blow::Restart => session.restart(),
            Blow::Kill | Blow::PowerLoss => {
                receiver.abort();
                session.restart();
                self.machine.kill();
            }
        }
        let sent = sender.await.unwrap();
        let received = match receiver.await {
            Ok(received) => Some(received),
            Err(aborted) => {
                assert!(aborted.is_cancelled(), "the receiver panicked");
                None
            }
        };
        (sent, received)
    }

    /// What must hold after every attempt.
    fn check(&mut self, ended: &Ended) {
        self.log.push(format!("{:?} {:?}", ended.sent, ended.received));
        if let Err(e) = &ended.sent {
            assert!(e.is_transient() || matches!(e, NetError::Refused { .. }), "{e}");
        }
        for (path, events) in &ended.reported {
            assert!(events.len() == 1, "{path} settled {} times: {events:?}", events.len());
            if let [
                Event::Committed {
                    hash: Some(hash), ..
                },
            ] = &events[..]
            {
                assert!(
                    self.files.is_a_hash(path, *hash),
                    "{path} was reported with a hash of no version"
                );
            }
        }
        if ended.sent.is_ok() {
            let files = self.files.paths();
            let settled = files.iter().all(|path| ended.reported.contains_key(path));
            assert!(settled, "not every file is settled: {:?}", ended.reported);
            // of directories only failures are reported
            let mut others = ended.reported.iter().filter(|(path, _)| !files.contains(path));
            assert!(others.all(|(_, events)| matches!(events[..], [Event::Failed { .. }])));
        }
        for path in self.files.paths() {
            if let Some(found) = self.machine.content(&path) {
                assert!(
                    self.files.is_a_version(&path, &found),
                    "{path} is a mixture, of {} bytes",
                    found.len()
                );
            }
        }
    }
}

fn options() -> Options {
    Options {
        recursive: true,
        ..Options::default()
    }
}

/// Collects what is reported of each file, but for what is only progress.
fn collect() -> (mpsc::Sender<Event>, JoinHandle<BTreeMap<String, Vec<Event>>>) {
    let (events, mut reported) = mpsc::channel(64);
    let collecting = tokio::spawn(async move {
        let mut all: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        while let Some(event) = reported.recv().await {
            let path = match &event {
                Event::Committed { path, .. }
                | Event::Unchanged { path, .. }
                | Event::Failed { path, .. } => path,
                _ => continue,
            };
            let path = String::from_utf8_lossy(path).into_owned();
            all.entry(path).or_default().push(event);
        }
        all
    });
    (events, collecting)
}

/// Memory stays within its bounds all the time.
async fn watch(
    sender: Arc<crate::net::session::SessionCore>,
    receiver: Arc<crate::net::session::SessionCore>,
) {
    loop {
        let outstanding = sender.send_queue.credit().outstanding();
        assert!(outstanding <= WINDOW, "{outstanding} bytes are outstanding");
        assert!(
            receiver.charged() <= 2 * WINDOW,
            "{} bytes have arrived",
            receiver.charged()
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// How long a call of a store takes: in memory, on a disk, on one that is busy.
fn pause(chance: &mut Chance) -> Duration {
    Duration::from_millis(*chance.of(&[0, 1, 2, 20, 150]))
}

/// Runs a seed; a failure says how to repeat it.
fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let mut scenario = Scenario::new(seed);
    let ran =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(scenario.run())));
    if let Err(panic) = ran {
        let log = scenario.log.join("\n  ");
        eprintln!(
            "seed {}:\n  {log}\nrepeat it with HAUL_SEED={seed} cargo test --lib simulation",
            scenario.seed
        );
        std::panic::resume_unwind(panic);
    }
}

/// Runs a range of seeds on as many threads as there are processors.
fn run_all(seeds: std::ops::Range<u64>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let seeds = seeds.clone();
            scope
                .spawn(move || seeds.skip(thread as usize).step_by(threads as usize).for_each(run));
        }
    });
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn transfers_end_as_they_should_whatever_the_network_and_the_machine_do() {
    if let Some(seed) = number("HAUL_SEED") {
        return run(seed);
    }
    let first = number("HAUL_FIRST_SEED").unwrap_or(0);
    run_all(first..first + number("HAUL_SEEDS").unwrap_or(SEEDS));
}

/// Seeds of one run of the tests: more than 10,000 transfers, in half a minute of two processors.
const SEEDS: u64 = 4000;
