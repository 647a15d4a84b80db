//! What the client reads of a copy within the server: counters and events, a few reports at a time.

use crate::net::control::codec::refused;
use crate::net::error::NetError;
use crate::net::session::channel::TransferChannel;
use crate::net::transfer::metadata::omissions_to_wire;
use crate::net::transfer::report::remote::{counts_to_wire, event_to_wire};
use crate::net::transfer::report::{Counters, Event, Reporter};
use crate::net::wire::proto::{self, transfer_message::Body};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often the client reads how far the copy is.
const TICK: Duration = Duration::from_millis(200);
/// Reports that the client has not taken; then the copy waits as soon as it has more to report.
const UNDER_WAY: usize = 4;
/// Events that wait for a report.
const WAITING: usize = 256;
/// Events of a report, and about their bytes.
const EVENTS: usize = 512;
const BYTES: usize = 128 << 10;

/// Reports of a copy, on their way to the client.
pub(super) struct CopyReporter {
    channel: TransferChannel,
    counters: Arc<Counters>,
    events: mpsc::Receiver<Event>,
    /// Those of the next report.
    gathered: Vec<proto::CopyEvent>,
    bytes: usize,
    /// The counters of the last report.
    last: proto::CopyCounts,
    under_way: usize,
}

/// What woke the reporter.
enum Wake {
    Message(Option<Body>),
    Down(NetError),
    Ended(Result<(), NetError>),
    Event(Option<Event>),
    Clock,
}

impl CopyReporter {
    /// Reports to the client of `channel`; `each`: also what became of files that did not fail.
    pub(super) fn new(channel: TransferChannel, each: bool) -> (Reporter, CopyReporter) {
        let (events_in, events) = mpsc::channel(WAITING);
        let reporter = Reporter::new(events_in, each);
        let reports = CopyReporter {
            channel,
            counters: reporter.counters.clone(),
            events,
            gathered: Vec::new(),
            bytes: 0,
            last: proto::CopyCounts::default(),
            under_way: 0,
        };
        (reporter, reports)
    }

    /// The counters of the copy.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Reports until the copy has ended. The client's word and the end of the session end it early,
    /// by `end`; what has been written by then is durable when this returns.
    ///
    /// # Errors
    /// Why the copy ended before it was complete.
    pub(super) async fn follow(
        &mut self,
        end: impl FnOnce(&NetError),
        copying: impl Future<Output = Result<(), NetError>>,
    ) -> Result<(), NetError> {
        let mut copying = std::pin::pin!(copying);
        let mut clock = tokio::time::interval(TICK);
        let core = self.channel.core().clone();
        let (mut is_over, mut is_drained) = (false, false);
        let why = loop {
            if is_over && is_drained {
                return self.finish().await;
            }
            let wake = tokio::select! {
                biased;
                message = self.channel.receive() => Wake::Message(message),
                why = core.down() => Wake::Down(why),
                ended = &mut copying, if !is_over => Wake::Ended(ended),
                event = self.events.recv(), if !is_drained && !self.is_full() => Wake::Event(event),
                _ = clock.tick() => Wake::Clock,
            };
            let processed = match wake {
                Wake::Message(None) => Err(core.down().await),
                Wake::Message(Some(message)) => self.message(message).await,
                Wake::Down(why) => Err(why),
                Wake::Ended(ended) => {
                    is_over = true;
                    ended
                }
                Wake::Event(Some(event)) => self.gather(event).await,
                Wake::Event(None) => {
                    is_drained = true;
                    Ok(())
                }
                Wake::Clock => self.flush().await,
            };
            if let Err(why) = processed {
                break why;
            }
        };
        // a sender that waits to report an event is not to wait any more
        self.events.close();
        if !is_over {
            end(&why);
            let _ = copying.await;
        }
        Err(why)
    }

    async fn message(&mut self, message: Body) -> Result<(), NetError> {
        match message {
            Body::Taken(_) => {
                let under_way = self.under_way.checked_sub(1);
                self.under_way =
                    under_way.ok_or_else(|| NetError::Protocol("it took no report".into()))?;
                match self.is_full() {
                    true => self.flush().await,
                    false => Ok(()),
                }
            }
            Body::Cancel(cancel) => Err(refused(cancel.code, cancel.text)),
            _ => Err(NetError::Protocol("it sent a sender's message to a copy".into())),
        }
    }

    /// True when there are as many events as a report has.
    fn is_full(&self) -> bool {
        self.gathered.len() >= EVENTS || self.bytes >= BYTES
    }

    async fn gather(&mut self, event: Event) -> Result<(), NetError> {
        let Some(event) = event_to_wire(event) else {
            return Ok(());
        };
        let texts = [event.path.len(), event.text.len(), event.version.len()];
        self.bytes = texts.into_iter().fold(self.bytes, usize::saturating_add);
        self.gathered.push(event);
        match self.is_full() {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// Sends a report, if there is something to report and the client has taken the earlier ones.
    async fn flush(&mut self) -> Result<(), NetError> {
        let counts = counts_to_wire(&self.counters);
        let is_due = !self.gathered.is_empty() || counts != self.last;
        if !is_due || self.under_way >= UNDER_WAY {
            return Ok(());
        }
        self.under_way = self.under_way.saturating_add(1);
        self.report(counts).await
    }

    async fn report(&mut self, counts: proto::CopyCounts) -> Result<(), NetError> {
        self.last = counts;
        self.bytes = 0;
        let report = proto::CopyReport {
            counts: Some(Box::new(counts)),
            events: std::mem::take(&mut self.gathered),
        };
        self.channel.send(Body::Report(report)).await?;
        self.channel.core().progress();
        Ok(())
    }

    /// The last report, and the end.
    async fn finish(&mut self) -> Result<(), NetError> {
        self.report(counts_to_wire(&self.counters)).await?;
        let omissions = omissions_to_wire(&self.counters.omissions());
        self.channel.send(Body::Finished(proto::Finished { omissions })).await
    }
}
