//! The receiver: says what it wants, puts what arrives back in order, commits, and settles every
//! offer.
//!
//! One task owns all state and never waits for the store: what touches that runs as a job of one
//! set (`Jobs`).

use crate::net::control::codec::refused;
use crate::net::error::{LossReason, NetError, code_of};
use crate::net::jobs::Work;
use crate::net::session::SessionCore;
use crate::net::session::channel::{ChannelEvent, TransferChannel};
use crate::net::transfer::metadata::omissions_to_wire;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::decide::{Batch, Decided, Decider};
use crate::net::transfer::receive::destination::{Decision, Target};
use crate::net::transfer::receive::files::{Activity, Files};
use crate::net::transfer::receive::job::{JobDone, Jobs};
use crate::net::transfer::receive::ledger::Ledger;
use crate::net::transfer::report::{Reporter, Waiting};
use crate::net::transfer::{STALL, hands_over};
use crate::net::wire::proto::{self, transfer_message::Body};
use crate::store::{Content, Durability, MadeDir};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How often the receiver looks whether anything moves.
const TICK: Duration = Duration::from_secs(5);
/// Bytes of a data connection in that time that are more than pings.
const MORE_THAN_PINGS: u64 = 1 << 10;

/// One transfer, from the side that gets the files.
pub(super) struct Receiver {
    pub(super) channel: TransferChannel,
    pub(super) target: Target,
    pub(super) options: Options,
    pub(super) ledger: Ledger,
    pub(super) decider: Decider,
    /// The number of the last offer: they count up.
    pub(super) last_number: u64,
    /// The sender has offered everything.
    pub(super) all_offered: bool,
    /// The last job of all is under way.
    is_syncing: bool,
    /// When anything last moved.
    moved: Instant,
    /// When bytes of a frame last came, and how many had moved by then: on a slow link a chunk
    /// takes its time.
    arrived: (Instant, u64),
}

/// What a turn of the receiver's loop came to.
enum Turn {
    /// Something moved.
    Moved,
    /// Nothing did.
    Idle,
    /// All is settled, and the sender knows.
    Finished,
}

/// Receives the transfer of `channel` into `target`. `label` is what the user calls the
/// destination.
///
/// # Errors
/// [`NetError`] if the transfer as a whole ended before it was complete. Files that failed are
/// reported and do not end it.
pub async fn receive(
    channel: TransferChannel,
    target: Target,
    label: Vec<u8>,
    options: Options,
    reporter: Reporter,
) -> Result<(), NetError> {
    let core = channel.core().clone();
    // the target may have received an attempt before this one
    let target = target.renewed();
    let copies = hands_over(&core, &options);
    let mut files = Files::new(target.clone(), options.clone(), &core, copies);
    let mut jobs = Jobs::new(core.tasks().clone());
    let receiver = Receiver {
        channel,
        ledger: Ledger::new(label, reporter, target.is_write_only(), options.on_settled.clone()),
        decider: Decider::new(target.clone(), options.clone(), core.pool().buffers().clone()),
        target,
        options,
        last_number: 0,
        all_offered: false,
        is_syncing: false,
        moved: Instant::now(),
        arrived: (Instant::now(), 0),
    };
    let result = receiver.run(&core, &mut files, &mut jobs).await;
    match result {
        // no record vouches for the bytes after a fault
        Ok(()) | Err(NetError::Internal(_)) => {}
        Err(_) => files.suspend(jobs).await,
    }
    result
}

impl Receiver {
    async fn run(
        mut self,
        core: &Arc<SessionCore>,
        files: &mut Files,
        jobs: &mut Jobs,
    ) -> Result<(), NetError> {
        let mut clock = tokio::time::interval(TICK);
        loop {
            if core.is_refused() {
                return Err(core.down().await);
            }
            let (since, waiting) = (Instant::now(), waits_for(files));
            // Everything that is ready is processed before the answers go out.
            let is_due = !self.ledger.answers.is_empty() || files.has_gathered();
            let turn = tokio::select! {
                biased;
                Some(job) = jobs.next() => self.job_ended(job?, files, jobs).await?,
                arrived = self.channel.receive_any() => match arrived {
                    Some(event) => self.received(event, files, jobs).await?,
                    None => return Err(core.down().await),
                },
                why = core.down() => return Err(why),
                () = std::future::ready(()), if is_due => {
                    files.start_gathered(jobs);
                    self.ledger.answers.flush(&self.channel).await?;
                    Turn::Idle
                }
                _ = clock.tick() => {
                    let activity = files.activity();
                    self.check_progress(core, activity).await?;
                    Turn::Idle
                }
            };
            match turn {
                Turn::Finished => return Ok(()),
                Turn::Idle => continue,
                Turn::Moved => {}
            }
            self.moved = Instant::now();
            core.progress();
            let waited = self.moved.saturating_duration_since(since);
            self.ledger.reporter.counters.waited(waiting, waited);
            self.go_on(jobs).await?;
        }
    }

    /// Starts what is due.
    async fn go_on(&mut self, jobs: &mut Jobs) -> Result<(), NetError> {
        if self.ledger.answers.is_large() {
            self.ledger.answers.flush(&self.channel).await?;
        }
        let candidates = self.ledger.take_ready();
        if !candidates.is_empty() {
            let dirs = Vec::new();
            self.decider.add(Batch { dirs, candidates });
        }
        if let Some(decide) = self.decider.next() {
            jobs.start(decide, JobDone::Decided);
        }
        let durability = self.options.durability;
        if let Some(complete) = self.ledger.dirs.complete(&self.target, &self.options) {
            jobs.start(complete, JobDone::Directories);
        }
        if self.all_offered && self.ledger.is_settled() && !self.is_syncing {
            self.is_syncing = true;
            self.ledger.answers.flush(&self.channel).await?;
            let target = self.target.clone();
            let sync = Work::new("unchanged", async move {
                match durability {
                    Durability::Durable => target.sync_unchanged().await,
                    Durability::Volatile => Ok(()),
                }
            });
            jobs.start(sync, JobDone::Synced);
        }
        Ok(())
    }

    async fn job_ended(
        &mut self,
        job: JobDone,
        files: &mut Files,
        jobs: &mut Jobs,
    ) -> Result<Turn, NetError> {
        match job {
            JobDone::Decided(decided) => {
                let decided = self.decider.ended(decided);
                self.decided(decided, files, jobs).await;
            }
            JobDone::Directories(dirs) => {
                self.ledger.dirs.completed();
                for (number, result) in dirs {
                    self.ledger.settle_dir(number, result).await;
                }
            }
            JobDone::Synced(synced) => {
                let () = synced?;
                let omissions = self.target.omissions();
                self.ledger.reporter.counters.omitted(&omissions);
                let omissions = omissions_to_wire(&omissions);
                self.channel.send(Body::Finished(proto::Finished { omissions })).await?;
                return Ok(Turn::Finished);
            }
            JobDone::Staged { .. } | JobDone::Batch(_) | JobDone::RetryDue(_) => {
                for event in files.ended(job, jobs) {
                    self.ledger.file_event(event).await;
                }
            }
        }
        Ok(Turn::Moved)
    }

    async fn received(
        &mut self,
        event: ChannelEvent,
        files: &mut Files,
        jobs: &mut Jobs,
    ) -> Result<Turn, NetError> {
        match event {
            ChannelEvent::Message(body) => self.message(body, files, jobs).await?,
            ChannelEvent::File(file) => {
                for event in files.hand(file, jobs) {
                    self.ledger.file_event(event).await;
                }
            }
            ChannelEvent::Frame(frame) => {
                for event in files.frame(frame, jobs)? {
                    self.ledger.file_event(event).await;
                }
            }
        }
        Ok(Turn::Moved)
    }

    /// Looks whether anything moves: a receiver at work says so, and one whose sender is silent
    /// gives up.
    async fn check_progress(
        &mut self,
        core: &SessionCore,
        files: Activity,
    ) -> Result<(), NetError> {
        if !core.is_attached() {
            self.moved = Instant::now();
        }
        let is_arriving = self.observe_arrivals(core);
        let idle = self.moved.elapsed();
        let completing = self.ledger.dirs.is_completing() || self.is_syncing;
        let working = files.is_working || self.decider.is_busy() || completing || is_arriving;
        if working && idle > STALL / 4 {
            // a slow disk or a slow link, not a dead receiver
            self.channel.send(Body::Acks(proto::Acks::default())).await?;
        }
        let idle = idle.min(self.arrived.0.elapsed());
        if files.waits_for_sender && idle > STALL.saturating_mul(2) {
            return Err(NetError::Lost(LossReason::SenderStalled));
        }
        Ok(())
    }

    /// True if a frame is on its way, and bytes of it have come since the last look.
    fn observe_arrivals(&mut self, core: &SessionCore) -> bool {
        let (moved, pool) = (core.pool().moved(), core.pool());
        let pings = MORE_THAN_PINGS.saturating_mul(pool.alive() as u64);
        let since = moved.saturating_sub(self.arrived.1);
        let is_arriving = core.charged() > 0 && since > pings;
        self.arrived = match is_arriving {
            true => (Instant::now(), moved),
            false => (self.arrived.0, moved),
        };
        is_arriving
    }

    async fn message(
        &mut self,
        body: Body,
        files: &mut Files,
        jobs: &mut Jobs,
    ) -> Result<(), NetError> {
        match body {
            Body::Offers(offers) => self.offers(offers.offers).await,
            Body::Withdrawals(list) => {
                for withdrawal in list.withdrawals {
                    self.withdrawn(withdrawal, files).await;
                }
                Ok(())
            }
            Body::Exclusions(list) => {
                for exclusion in list.exclusions {
                    self.excluded(exclusion).await;
                }
                Ok(())
            }
            Body::Changed(changed) => self.changed(changed, files, jobs),
            Body::End(_) => {
                self.all_offered = true;
                let walked = &self.ledger.reporter.counters.walked;
                walked.store(true, Ordering::Relaxed);
                Ok(())
            }
            Body::Cancel(cancel) => Err(refused(cancel.code, cancel.text)),
            _ => Err(NetError::Protocol("it sent a receiver's message to the receiver".into())),
        }
    }

    async fn decided(&mut self, decided: Decided, files: &mut Files, jobs: &mut Jobs) {
        let ledger = &mut self.ledger;
        for (number, made) in decided.made {
            match made {
                Ok(MadeDir::New | MadeDir::Resumed) => ledger.dirs.made(number),
                Ok(MadeDir::Existing) => {}
                Err(error) => {
                    // if the one above could not be made, that is the reason
                    let error = ledger.dirs.failure_above(number).cloned().unwrap_or(error);
                    ledger.refuse(number, error).await;
                }
            }
            ledger.dirs.settled(number);
        }
        for (candidate, decision) in decided.decided {
            let number = candidate.number;
            let decision = match ledger.dirs.failure(candidate.parent) {
                Some(error) => Decision::Failed(error.clone()),
                None => decision,
            };
            match decision {
                Decision::Unchanged(difference) => {
                    ledger.settle_unchanged(number, difference).await;
                }
                Decision::Skipped => ledger.settle_skipped(number).await,
                Decision::Deferred => ledger.settle_deferred(number),
                Decision::Failed(e) => {
                    ledger.settle_failed(number, code_of(&e.kind), e.describe()).await
                }
                Decision::Planned(difference) => ledger.settle_planned(number, difference).await,
                Decision::Wanted(difference) if ledger.contains(number) => {
                    ledger.wanted(number, difference);
                    ledger.reporter.counters.started(candidate.path.as_bytes());
                    if files.want(candidate, jobs) {
                        ledger.answers.want_all(number);
                    }
                }
                Decision::Linked(path, version) if ledger.contains(number) => {
                    files.link(candidate, Content::HardLink { path, version }, jobs);
                }
                // withdrawn meanwhile
                Decision::Wanted(_) | Decision::Linked(..) => {}
            }
        }
    }
}

/// What the receiver waits for when it waits.
fn waits_for(files: &Files) -> Waiting {
    match files.is_busy() {
        true => Waiting::Receiver,
        false => Waiting::Network,
    }
}
