//! What put and get share: their options, and a transfer that is retried until it is complete.

use super::connect::{self, RemoteSession};
use super::failure::{Failure, exit};
use super::interrupt::{self, RERUN};
use super::running;
use super::transfer_args::TransferArgs;
use crate::net::NetError;
use crate::net::client::Client;
use crate::net::transfer::filter::Filter;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::{Event, Reporter};
use crate::net::transfer::send::source::{Origin, TransferSource};
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
    let show = job.args.show(job.verb, &job.options.filter, session.outage())?;
    let mut carrier = Carrier {
        session,
        reporter: show.reporter(),
        options: job.options,
        stuck: None,
    };
    let limit = carrier.session.rate();
    let run = carrier.run(once, is_repeatable);
    let result = running::adjustable(run, &limit, job.verb, job.about).await;
    let Carrier {
        session, reporter, ..
    } = carrier;
    drop(reporter);
    let ended = show.end(result, job.about).await;
    session.quit().await;
    ended
}

/// A transfer over one session after another.
struct Carrier {
    session: RemoteSession,
    reporter: Reporter,
    options: Options,
    /// How much had been transferred when the last session was lost, and since when it is no more
    /// than that.
    stuck: Option<(u64, Instant)>,
}

impl Carrier {
    async fn run(
        &mut self,
        once: impl AsyncFn(Arc<Client>, Options, Reporter) -> Result<(), NetError>,
        is_repeatable: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        loop {
            let client = self.session.client();
            let attempt = once(client.clone(), self.options.clone(), self.reporter.clone());
            let Err(error) = until_interrupted(&client, attempt).await? else {
                return Ok(());
            };
            if let Some(why) = client.refusal() {
                self.session.refused(why).await?;
            } else if !error.is_transient() {
                return Err(error.into());
            } else if !is_repeatable() {
                return Err(lost_stream(&client, error));
            } else {
                self.restart(&client, error).await?;
            }
        }
    }

    /// Prepares another attempt after the loss of a session.
    async fn restart(&mut self, lost: &Client, why: NetError) -> Result<(), Failure> {
        let progress = self.reporter.counters.progress();
        let since = match self.stuck {
            Some((before, since)) if before == progress => since,
            _ => Instant::now() - lost.stalled(),
        };
        self.stuck = Some((progress, since));
        let retry_for = self.session.retry_for();
        if since.elapsed() >= retry_for {
            return Err(connect::gave_up(why, retry_for).hint(RERUN));
        }
        self.session.retry(why).await?;
        self.reporter.report(Event::Retrying).await;
        self.options.retried = true;
        // only content tells whether the target is what was committed when the connection was lost
        self.options.checksum |= self.options.if_version.is_some();
        Ok(())
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

/// The transfer of sources none of which can be sent: names each, and connects to no server.
///
/// # Errors
/// As [`Show::end`].
pub async fn refuse_all(
    verb: &'static str,
    args: &TransferArgs,
    sources: impl Iterator<Item = TransferSource>,
) -> Result<(), Failure> {
    let show = args.show(verb, &Filter::default(), Arc::default())?;
    for TransferSource { label, origin, .. } in sources {
        if let Origin::Missing(error) = origin {
            show.reporter().failed(label, &error).await;
        }
    }
    show.end(Ok(()), "").await
}
