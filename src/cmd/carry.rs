//! A transfer that is retried until it is complete, over one session after another.

use super::connect::{self, RemoteSession};
use super::failure::{Failure, exit};
use super::interrupt::{self, RERUN};
use super::running;
use super::transfer::TransferArgs;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::{Event, Reporter};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the goodbye may take when the user wants to leave.
const FAREWELL: Duration = Duration::from_millis(250);

/// What a transfer does, and what it is about.
#[derive(Clone)]
pub struct Job<'a> {
    /// `put` or `get`.
    pub verb: &'static str,
    /// Its options.
    pub args: &'a TransferArgs,
    /// Those of the transfer itself.
    pub options: Options,
    /// The place that an error of the whole transfer is about.
    pub about: &'a str,
}

/// Runs a transfer to its end, and shows it. After each loss of its session it starts again, for as
/// long as the user wants to wait. `once` runs it on one session; `is_repeatable` says whether it
/// can start again.
///
/// # Errors
/// As [`Show::end`].
pub async fn carry(
    session: RemoteSession,
    job: Job<'_>,
    once: impl AsyncFn(Arc<Client>, Options, Reporter) -> Result<(), NetError>,
    is_repeatable: impl Fn() -> bool,
) -> Result<(), Failure> {
    let once = async |ends: Ends, options, reporter| once(ends.client, options, reporter).await;
    carry_between((session, None), job, once, is_repeatable).await
}

/// The sessions of an attempt.
pub struct Ends {
    /// The one that the user is shown.
    pub client: Arc<Client>,
    /// That with the server which sends to the first one.
    pub from: Option<Arc<Client>>,
}

/// The same over the sessions with two servers, of which the second one sends to the first.
///
/// # Errors
/// As [`Show::end`].
pub async fn carry_between(
    (session, from): (RemoteSession, Option<RemoteSession>),
    job: Job<'_>,
    once: impl AsyncFn(Ends, Options, Reporter) -> Result<(), NetError>,
    is_repeatable: impl Fn() -> bool,
) -> Result<(), Failure> {
    let show = job.args.show(job.verb, &job.options.filter, session.outage())?;
    let mut carrier = Carrier {
        session,
        from,
        reporter: show.reporter(),
        options: job.options,
        stuck: None,
    };
    let limit = carrier.session.rate();
    let run = carrier.run(once, is_repeatable);
    let result = running::adjustable(run, &limit, job.verb, job.about).await;
    let Carrier {
        session,
        from,
        reporter,
        ..
    } = carrier;
    drop(reporter);
    let ended = show.end(result, job.about).await;
    session.quit().await;
    if let Some(from) = from {
        from.quit().await;
    }
    ended
}

/// A transfer over one session after another.
struct Carrier {
    session: RemoteSession,
    from: Option<RemoteSession>,
    reporter: Reporter,
    options: Options,
    /// How much had been transferred when the last session was lost, and since when it is no more
    /// than that.
    stuck: Option<(u64, Instant)>,
}

impl Carrier {
    async fn run(
        &mut self,
        once: impl AsyncFn(Ends, Options, Reporter) -> Result<(), NetError>,
        is_repeatable: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        loop {
            let client = self.session.client();
            let from = self.from.as_ref().map(RemoteSession::client);
            let ends = Ends {
                client: client.clone(),
                from: from.clone(),
            };
            let attempt = once(ends, self.options.clone(), self.reporter.clone());
            let Err(error) = until_interrupted(&client, attempt).await? else {
                return Ok(());
            };
            // where both are over, the next attempt fails because of the other one
            let (lost, session) = match (from, &mut self.from) {
                (Some(from), Some(session)) if from.is_over() => (from, session),
                _ => (client, &mut self.session),
            };
            if let Some(why) = lost.refusal() {
                session.refused(why).await?;
            } else if !error.is_transient() {
                return Err(error.into());
            } else if !is_repeatable() {
                return Err(lost_stream(&lost, error));
            } else {
                let retry_for = session.retry_for();
                let progress = self.reporter.counters.progress();
                check_stuck(&mut self.stuck, progress, (&lost, &error), retry_for)?;
                session.retry(error).await?;
                self.restart().await;
            }
        }
    }

    /// Prepares another attempt after the loss of a session.
    async fn restart(&mut self) {
        self.reporter.report(Event::Retrying).await;
        self.options.retried = true;
        // only content tells whether the target is what was committed when the connection was lost
        self.options.checksum |= self.options.if_version.is_some();
    }
}

/// Gives up where no attempt has come farther for as long as the user wants to wait.
fn check_stuck(
    stuck: &mut Option<(u64, Instant)>,
    progress: u64,
    (lost, why): (&Client, &NetError),
    retry_for: Duration,
) -> Result<(), Failure> {
    let since = match *stuck {
        Some((before, since)) if before == progress => since,
        _ => Instant::now() - lost.stalled(),
    };
    *stuck = Some((progress, since));
    match since.elapsed() >= retry_for {
        true => Err(connect::gave_up(why.clone(), retry_for).hint(RERUN)),
        false => Ok(()),
    }
}

/// Waits for an attempt. A signal ends it; what has arrived by then is made durable.
async fn until_interrupted(
    client: &Client,
    attempt: impl Future<Output = Result<(), NetError>>,
) -> Result<Result<(), NetError>, Failure> {
    tokio::pin!(attempt);
    tokio::select! {
        result = &mut attempt => Ok(result),
        () = interrupt::asked() => {
            client.leave(FAREWELL).await;
            let _ = attempt.await;
            Err(Failure::already_reported(exit::INTERRUPTED))
        }
    }
}

/// The failure of a stream whose session was lost.
fn lost_stream(client: &Client, why: NetError) -> Failure {
    let next = match client.is_write_only() {
        true => "send it again",
        false => "check with haul stat",
    };
    Failure::from(why).hint(format!(
        "a stream cannot be read again; the file is there whole or not at all: {next}"
    ))
}
