//! A copy within the server: it sends to itself, and reports how far it is.

use crate::net::client::Client;
use crate::net::client::requests::{GetSources, PutDestination};
use crate::net::control::codec::refused;
use crate::net::error::NetError;
use crate::net::session::channel::TransferChannel;
use crate::net::transfer::mode::umask;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::Reporter;
use crate::net::transfer::report::remote::RemoteReporter;
use crate::net::wire::Code;
use crate::net::wire::proto::{self, request, transfer_message::Body};

/// What a server copies, and where to.
#[derive(Clone)]
pub struct ServerCopy {
    /// Paths beneath the user's root; a slash at the end follows a symlink.
    pub sources: GetSources,
    /// Where they go, as in a put.
    pub destination: PutDestination,
    /// What no source has is going to be deleted: refused where a source is in the destination.
    pub mirror: bool,
    /// What the user writes before a path on the server.
    pub prefix: Vec<u8>,
}

impl Client {
    /// Has the server copy within itself. Files that fail are reported, and do not end it.
    ///
    /// # Errors
    /// Why the copy ended before it was complete.
    pub async fn copy(
        &self,
        copy: ServerCopy,
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let transfer = self.next_transfer();
        let channel = TransferChannel::join(&self.core, transfer)?;
        let (request, prefix) = request_of(transfer, copy, &options, &reporter);
        let followed = follow(channel, RemoteReporter::new(reporter, prefix));
        let copied = self.with_start(transfer, request::Body::Copy(request), followed);
        match self.at_rate(&self.rate, copied).await {
            Err(NetError::Refused { code, .. }) if code == Code::NOT_IMPLEMENTED => {
                let text = "this server is too old to copy within itself".into();
                Err(NetError::Refused { code, text })
            }
            other => other,
        }
    }
}

/// The request of a copy, and what stands before its paths.
pub(super) fn request_of(
    transfer: u32,
    copy: ServerCopy,
    options: &Options,
    reporter: &Reporter,
) -> (proto::Copy, Vec<u8>) {
    let request = proto::Copy {
        transfer,
        chosen: copy.sources.chosen_to_wire(),
        sources: copy.sources.paths,
        destination: copy.destination.path,
        directory: copy.destination.directory,
        names: copy.destination.names,
        if_missing: copy.destination.if_missing.into(),
        options: Some(options.to_wire()),
        each: reporter.is_of_each(),
        chmod: options.chmod.texts().to_vec(),
        umask: umask(),
        mirror: copy.mirror,
    };
    (request, copy.prefix)
}

/// Takes the reports of a copy until it has ended.
pub(super) async fn follow(
    mut channel: TransferChannel,
    mut reports: RemoteReporter,
) -> Result<(), NetError> {
    let core = channel.core().clone();
    loop {
        let message = tokio::select! {
            // what has come counts before the news that the session is over
            biased;
            message = channel.receive() => message,
            why = core.down() => return Err(why),
        };
        match message {
            Some(Body::Report(report)) => {
                if reports.report(report).await {
                    core.progress();
                }
                channel.send(Body::Taken(proto::ReportTaken {})).await?;
            }
            Some(Body::Finished(finished)) => {
                reports.finished(finished);
                return Ok(());
            }
            Some(Body::Cancel(cancel)) => return Err(refused(cancel.code, cancel.text)),
            Some(_) => {
                return Err(NetError::Protocol("it sent a transfer's message for a copy".into()));
            }
            None => return Err(core.down().await),
        }
    }
}
