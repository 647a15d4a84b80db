//! A transfer from one server to another through this machine.
//!
//! Their messages pass from session to session, and so do frames, with the payload and digest that
//! the sending server gave them: it is the receiving server that verifies them. Nothing is written
//! here.
//!
//! A frame occupies its place in the window of the session that it came over until the receiving
//! server has acknowledged it. That window follows the other session's and is no larger, so the
//! receiving server never gets more than it granted.

use crate::net::client::Client;
use crate::net::client::login::Granted;
use crate::net::client::options::WINDOW;
use crate::net::client::requests::{GetSources, PutDestination};
use crate::net::control::codec::refused;
use crate::net::error::NetError;
use crate::net::session::channel::{ChannelEvent, Outgoing, TransferChannel, cancel};
use crate::net::transfer::observer::{Names, Observer};
use crate::net::transfer::options::Options;
use crate::net::transfer::report::Reporter;
use crate::net::wire::proto::{self, control_message, request, transfer_message::Body};
use std::sync::atomic::Ordering;
use tokio::sync::{Mutex, oneshot, watch};

/// What the receiving server has granted.
type Grants = watch::Receiver<Option<Result<Granted, NetError>>>;

/// What goes from one server to the other.
#[derive(Clone)]
pub struct RelayedSources {
    /// Paths at the sending server; a slash at the end follows a symlink.
    pub sources: GetSources,
    /// What the user calls each of them.
    pub labels: Vec<Vec<u8>>,
    /// What the user writes before a path of that server.
    pub prefix: Vec<u8>,
    /// The versions of those that are directories.
    pub ids: Vec<String>,
}

impl Client {
    /// Sends what another server has to this one. Files that fail are reported, and do not end it.
    ///
    /// # Errors
    /// Why the transfer ended before it was complete.
    pub async fn relay(
        &self,
        from: &Client,
        (sources, destination): (RelayedSources, PutDestination),
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let (get_number, put_number) = (from.next_transfer(), self.next_transfer());
        let relay = Relay {
            from: TransferChannel::join(&from.core, get_number)?,
            to: TransferChannel::join(&self.core, put_number)?,
        };
        let names = Names {
            sources: sources.labels,
            prefix: sources.prefix,
        };
        let accepted = from.core.accepted().clone();
        let observer = Observer::new(names, options.chmod.clone(), reporter.clone(), accepted);
        let put = put_request(put_number, destination, sources.ids, &options);
        let get = proto::Get {
            transfer: get_number,
            chosen: sources.sources.chosen_to_wire(),
            sources: sources.sources.paths,
            options: Some(options.to_wire()),
            destination_ancestors: Vec::new(),
            names: put.names.clone(),
        };
        from.dialer.start();
        self.dialer.start();
        self.core.send_queue.set_packing(put_number, options.packing);
        let _saved = self.count_saved(&reporter);
        self.relays.store(true, Ordering::Relaxed);
        let mut granted = self.login.changes();
        self.share_window(from, &mut granted).await?;
        let put = self.router.start(&self.core, request::Body::Put(put)).await?;
        let get = from.router.start(&from.core, request::Body::Get(get)).await?;
        let mut relaying = self.core.tasks().spawn("transfer", relay.run(Mutex::new(observer)));
        let result = tokio::select! {
            ended = &mut relaying => ended.flatten(),
            e = self.share_windows(from, granted) => Err(e),
            Err(e) = self.reply(put) => Err(e),
            Err(e) = from.started(get) => Err(e),
        };
        if let Err(e) = &result {
            for (client, number) in [(from, get_number), (self, put_number)] {
                if !client.core.is_down() {
                    cancel(&client.core, number, e).await;
                }
            }
        }
        result
    }

    /// Allows the sending server what this one has granted, now and whenever that changes, until a
    /// session is over.
    async fn share_windows(&self, from: &Client, mut granted: Grants) -> NetError {
        loop {
            if granted.changed().await.is_err() {
                return self.core.down().await;
            }
            if let Err(e) = self.share_window(from, &mut granted).await {
                return e;
            }
        }
    }

    async fn share_window(&self, from: &Client, granted: &mut Grants) -> Result<(), NetError> {
        let window = match &*granted.borrow_and_update() {
            Some(Ok(granted)) => granted.window.min(WINDOW),
            _ => return Ok(()),
        };
        if from.allowed.swap(window, Ordering::Relaxed) == window {
            return Ok(());
        }
        from.core.allow(window);
        from.core
            .send(control_message::Body::Window(proto::Window {
                bytes: window,
                ..proto::Window::default()
            }))
            .await
    }

    pub(super) fn next_transfer(&self) -> u32 {
        self.next_transfer.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for the reply of the sending server; a refusal names it.
    async fn started(&self, reply: oneshot::Receiver<proto::Reply>) -> Result<(), NetError> {
        match self.reply(reply).await {
            Err(NetError::Refused { code, text }) => {
                let text = format!("at {}: {text}", self.server);
                Err(NetError::Refused { code, text })
            }
            other => other.map(drop),
        }
    }
}

/// The request of a put whose filter is applied elsewhere.
pub(super) fn put_request(
    transfer: u32,
    destination: PutDestination,
    source_ids: Vec<String>,
    options: &Options,
) -> proto::Put {
    proto::Put {
        transfer,
        source_ids,
        destination: destination.path,
        directory: destination.directory,
        names: destination.names,
        if_missing: destination.if_missing.into(),
        // the sender applies it
        options: Some(proto::Options {
            filter: Vec::new(),
            ..options.to_wire()
        }),
    }
}

/// A transfer's place in both sessions.
struct Relay {
    from: TransferChannel,
    to: TransferChannel,
}

impl Relay {
    async fn run(self, observer: Mutex<Observer>) -> Result<(), NetError> {
        let Relay { from, to } = self;
        let (to_sender, to_receiver) = (from.outgoing(), to.outgoing());
        tokio::select! {
            Err(e) = forward(from, &to_receiver, &observer) => Err(e),
            ended = back(to, (&to_sender, &to_receiver), &observer) => ended,
        }
    }
}

/// Passes on what the sending server sends, until that fails.
async fn forward(
    mut from: TransferChannel,
    to: &Outgoing,
    observer: &Mutex<Observer>,
) -> Result<(), NetError> {
    let core = from.core().clone();
    loop {
        let event = tokio::select! {
            // what has come counts before the news that the session is over
            biased;
            event = from.receive_any() => event,
            why = core.down() => return Err(why),
        };
        match event {
            Some(ChannelEvent::Message(message)) => {
                let message = offered(message, to, &mut *observer.lock().await).await?;
                to.send(message).await?;
            }
            Some(ChannelEvent::Frame(frame)) => {
                if observer.lock().await.frame(&frame.header) {
                    to.pass_on(frame);
                }
            }
            // only of a sender in this process
            Some(ChannelEvent::File(_)) => {}
            None => return Err(core.down().await),
        }
        core.progress();
        to.progress();
    }
}

/// A message of the sending server, as the receiving one is to get it.
async fn offered(
    mut message: Body,
    to: &Outgoing,
    observer: &mut Observer,
) -> Result<Body, NetError> {
    match &mut message {
        Body::Offers(offers) => observer.offers(offers)?,
        Body::Withdrawals(withdrawals) => {
            observer.withdrawals(withdrawals).await;
            withdrawals
                .withdrawals
                .iter()
                .for_each(|withdrawal| to.forget(withdrawal.number));
        }
        Body::Exclusions(exclusions) => observer.exclusions(exclusions).await,
        Body::Changed(changed) => to.forget(observer.changed(changed)?),
        Body::End(_) => observer.all_offered(),
        Body::Cancel(cancel) => return Err(refused(cancel.code, cancel.text.clone())),
        _ => return Err(NetError::Protocol("it sent a receiver's message to the receiver".into())),
    }
    Ok(message)
}

/// Passes back what the receiving server answers, until it has finished.
async fn back(
    mut to: TransferChannel,
    (to_sender, to_receiver): (&Outgoing, &Outgoing),
    observer: &Mutex<Observer>,
) -> Result<(), NetError> {
    let core = to.core().clone();
    loop {
        let message = tokio::select! {
            biased;
            message = to.receive() => message,
            why = core.down() => return Err(why),
        };
        let Some(message) = message else {
            return Err(core.down().await);
        };
        answered(&message, to_receiver, &mut *observer.lock().await).await?;
        let is_last = matches!(message, Body::Finished(_));
        to_sender.send(message).await?;
        if is_last {
            return Ok(());
        }
        core.progress();
        to_sender.progress();
    }
}

/// Processes an answer of the receiving server.
async fn answered(message: &Body, to: &Outgoing, observer: &mut Observer) -> Result<(), NetError> {
    match message {
        Body::Wants(wants) => observer.wants(wants).await,
        Body::Acks(acks) => {
            for ack in &acks.acks {
                to.acknowledged(ack.number, ack.offset);
                observer.acknowledged(ack);
            }
        }
        Body::Results(results) => {
            for result in &results.results {
                to.forget(result.number);
                observer.result(result).await?;
            }
        }
        Body::Finished(finished) => observer.finished(finished)?,
        Body::Cancel(cancel) => return Err(refused(cancel.code, cancel.text.clone())),
        _ => return Err(NetError::Protocol("it sent a sender's message to the sender".into())),
    }
    Ok(())
}
