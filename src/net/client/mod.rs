//! The client: one method for each request. [`connection`] connects and logs in; `attachment` keeps the session attached
//! when its control connection is lost; `dial` keeps data connections up, and `grow` says how many.

pub mod connect;
mod dialer;
pub mod outage;
mod reattach;
mod tuner;

use crate::net::control::codec::refused;
use crate::net::error::NetError;
use crate::net::session::SessionCore;
use crate::net::session::channel::TransferChannel;
use crate::net::session::router::MessageRoom;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::receive::receiver;
use crate::net::transfer::report::Reporter;
use crate::net::transfer::send::sender;
use crate::net::transfer::send::source::TransferSource;
use crate::net::wire::proto::{self, control_message, reply, request};
use crate::net::wire::{Code, entry};
use crate::store::{Entry, LockEntry, Space};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

/// Bytes that this client allows a server to have outstanding.
pub const WINDOW: u64 = 32 << 20;

/// This machine's name, for the server's log and for who holds a lock.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The number of a session's login among its requests.
const LOGIN: u64 = 1;

/// What a login may do, as far as a hint depends on it; the server decides.
#[derive(Clone, Copy)]
struct Granted {
    write_only: bool,
}

/// A session on a server.
pub struct Client {
    server: String,
    core: Arc<SessionCore>,
    replies: Mutex<HashMap<u64, oneshot::Sender<proto::Reply>>>,
    next_request: tokio::sync::Mutex<u64>,
    next_transfer: AtomicU32,
    /// Data connections that there are to be, and the most that there may be.
    connections: watch::Sender<u64>,
    most_connections: AtomicU64,
    /// The shortest time that it took to connect, in microseconds.
    round_trip: AtomicU64,
    /// How the login ended, once that is known.
    login: watch::Sender<Option<Result<Granted, NetError>>>,
    keys: Option<Arc<reattach::Keys>>,
    attachment: Arc<reattach::Attachment>,
    /// The search for the right number of connections is under way.
    tuning: AtomicBool,
    /// Data connections that are being kept up.
    dialled: AtomicU64,
    /// Those of them that could not be, finally.
    hopeless: AtomicU64,
}

impl Client {
    fn received(&self, message: proto::ControlMessage, room: MessageRoom) -> Result<(), NetError> {
        match message.body {
            Some(control_message::Body::Reply(reply)) => {
                if reply.number == LOGIN && self.keys.is_some() {
                    self.login_answered(&reply)?;
                }
                let waiting = self.replies.lock().remove(&reply.number);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(reply);
                }
            }
            Some(control_message::Body::Transfer(message)) => self.core.deliver(message, room),
            Some(control_message::Body::Request(_)) => {
                return Err(NetError::Protocol("a server sent a request".into()));
            }
            Some(control_message::Body::End(end)) => return Err(refused(end.code, end.text)),
            Some(control_message::Body::Heartbeat(_)) | None => {}
        }
        Ok(())
    }

    fn login_answered(&self, reply: &proto::Reply) -> Result<(), NetError> {
        let result = match (&reply.body, Code::from_wire(reply.code)) {
            (Some(reply::Body::Login(granted)), code) if code.is_success() => {
                self.core.grant(granted.window.min(4 * WINDOW));
                let most = u64::from(granted.connections).max(1);
                self.connections.send_modify(|wanted| *wanted = most.min(*wanted));
                self.most_connections.fetch_min(most, Ordering::Relaxed);
                self.attachment.logged_in();
                Ok(Granted {
                    write_only: granted.write_only,
                })
            }
            (_, code) if code.is_success() => {
                return Err(NetError::Protocol("a login's reply says nothing of the session".into()));
            }
            _ => Err(refused(reply.code, reply.text.clone())),
        };
        self.login.send_replace(Some(result));
        Ok(())
    }

    /// Waits until the server has answered the login.
    ///
    /// # Errors
    /// [`NetError::Refused`] with code 530 or 421, and those of the connection.
    pub async fn logged_in(&self) -> Result<(), NetError> {
        let mut answer = self.login.subscribe();
        tokio::select! {
            biased;
            answered = answer.wait_for(Option::is_some) => match answered.ok().as_deref() {
                Some(Some(Err(e))) => Err(e.duplicate()),
                Some(Some(Ok(_))) => Ok(()),
                _ => Err(NetError::lost("the session is over")),
            },
            why = self.core.down() => Err(why),
        }
    }

    /// True once the server has said that this user may put files, and not look.
    pub fn is_write_only(&self) -> bool {
        matches!(&*self.login.borrow(), Some(Ok(granted)) if granted.write_only)
    }

    /// Why the login was refused, if it was: then that is also why anything else failed.
    pub fn refusal(&self) -> Option<NetError> {
        match &*self.login.borrow() {
            Some(Err(e)) => Some(e.duplicate()),
            _ => None,
        }
    }

    /// Sends a request; its reply comes through what is returned. When this is ready the request is on its way before
    /// anything that is sent later.
    async fn start_request(&self, body: request::Body) -> Result<oneshot::Receiver<proto::Reply>, NetError> {
        let (send, receive) = oneshot::channel();
        // held while the request is queued: the server takes a number that is behind for a repetition
        let mut next = self.next_request.lock().await;
        let number = *next;
        self.replies.lock().insert(number, send);
        let message = proto::Request {
            number,
            body: Some(body),
        };
        self.core.send(control_message::Body::Request(message)).await?;
        *next = number.saturating_add(1);
        Ok(receive)
    }

    /// Waits for the reply to a request.
    ///
    /// # Errors
    /// [`NetError::Refused`] for a reply of another family than success.
    async fn reply(&self, reply: oneshot::Receiver<proto::Reply>) -> Result<proto::Reply, NetError> {
        let reply = tokio::select! {
            biased;
            reply = reply => reply.map_err(|_| NetError::lost("the session is over"))?,
            why = self.core.down() => return Err(why),
        };
        self.core.progress();
        if Code::from_wire(reply.code).is_success() {
            Ok(reply)
        } else {
            Err(refused(reply.code, reply.text))
        }
    }

    /// Sends a request and waits for its reply.
    async fn request(&self, body: request::Body) -> Result<proto::Reply, NetError> {
        let changes = changes(&body);
        let reply = self.start_request(body).await?;
        match self.reply(reply).await {
            // asked a second time it might do it a second time, or fail because it is done
            Err(e) if changes && e.is_transient() && self.core.is_down() => {
                Err(NetError::OutcomeUnknown(e.to_string()))
            }
            other => other,
        }
    }

    /// The server, as `host:port`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What an entry is, and with `hash` its BLAKE3 hash.
    ///
    /// # Errors
    /// [`NetError`], here and below: refused, or lost on the way.
    pub async fn stat(&self, path: &[u8], hash: bool) -> Result<(Entry, Option<[u8; 32]>), NetError> {
        let path = path.to_vec();
        let reply = self.request(request::Body::Stat(proto::Stat { path, hash })).await?;
        match reply.body {
            Some(reply::Body::Entry(found)) => Ok(entry::from_wire(found)?),
            _ => Err(NetError::Protocol("a reply to stat has no entry".into())),
        }
    }

    /// A page of a directory from `cookie` on (empty: the start); the second value is where the next one starts.
    pub async fn list(&self, path: &[u8], cookie: Vec<u8>) -> Result<(Vec<Entry>, Option<Vec<u8>>), NetError> {
        let list = proto::List {
            path: path.to_vec(),
            cookie,
            limit: 0,
        };
        let reply = self.request(request::Body::List(list)).await?;
        let Some(reply::Body::List(page)) = reply.body else {
            return Err(NetError::Protocol("a reply to list has no page".into()));
        };
        let entries = page.entries.into_iter().map(|e| Ok(entry::from_wire(e)?.0));
        let entries = entries.collect::<Result<Vec<Entry>, NetError>>()?;
        Ok((entries, Some(page.cookie).filter(|c| !c.is_empty())))
    }

    /// Makes a directory; with `parents` those above it too.
    pub async fn make_dir(&self, path: &[u8], parents: bool) -> Result<(), NetError> {
        let path = path.to_vec();
        self.request(request::Body::MakeDirectory(proto::MakeDirectory { path, parents }))
            .await
            .map(drop)
    }

    /// Removes an entry; with `recursive` everything in it too.
    pub async fn remove(&self, path: &[u8], recursive: bool) -> Result<(), NetError> {
        let path = path.to_vec();
        self.request(request::Body::Remove(proto::Remove { path, recursive }))
            .await
            .map(drop)
    }

    /// Renames an entry; into `to` where that is a directory. `directory`: it must be one.
    pub async fn rename(&self, from: &[u8], to: &[u8], directory: bool) -> Result<(), NetError> {
        let rename = proto::Rename {
            from: from.to_vec(),
            to: to.to_vec(),
            directory,
        };
        self.request(request::Body::Rename(rename)).await.map(drop)
    }

    /// A page of the staging files of the entries of a directory, from `cookie` on (empty: the start).
    pub async fn locks(&self, path: &[u8], cookie: Vec<u8>) -> Result<(Vec<LockEntry>, Option<Vec<u8>>), NetError> {
        let locks = proto::Locks {
            path: path.to_vec(),
            cookie,
            limit: 0,
        };
        let reply = self.request(request::Body::Locks(locks)).await?;
        let Some(reply::Body::Locks(page)) = reply.body else {
            return Err(NetError::Protocol("a reply to locks has no page".into()));
        };
        let held = page.locks.into_iter().map(entry::lock_from_wire).collect();
        Ok((held, Some(page.cookie).filter(|c| !c.is_empty())))
    }

    /// Removes the staging file of a target, with `force` also that of a writer at work. False: there was none.
    pub async fn unlock(&self, path: &[u8], force: bool) -> Result<bool, NetError> {
        let path = path.to_vec();
        let reply = self
            .request(request::Body::Unlock(proto::Unlock { path, force }))
            .await?;
        match reply.body {
            Some(reply::Body::Unlock(unlocked)) => Ok(unlocked.removed),
            _ => Err(NetError::Protocol("a reply to unlock says nothing".into())),
        }
    }

    /// Sizes of what holds `path`.
    pub async fn space(&self, path: &[u8]) -> Result<Space, NetError> {
        let path = path.to_vec();
        let reply = self.request(request::Body::Space(proto::Space { path })).await?;
        match reply.body {
            Some(reply::Body::Space(space)) => Ok(entry::space_from_wire(&space)),
            _ => Err(NetError::Protocol("a reply to space has no sizes".into())),
        }
    }

    /// Puts sources to `destination`. `names` has for each what it is called there when the destination is a
    /// directory (empty: its contents go there); `directory` says that it must be one.
    pub async fn put(
        self: &Arc<Client>,
        sources: Arc<Vec<TransferSource>>,
        (destination, directory, names): (&[u8], bool, Vec<Vec<u8>>),
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let transfer = self.next_transfer.fetch_add(1, Ordering::Relaxed);
        let channel = TransferChannel::join(&self.core, transfer)?;
        let mut source_ids = Vec::new();
        for source in sources.iter() {
            source_ids.extend(source.identity().await);
        }
        let put = proto::Put {
            transfer,
            source_ids,
            destination: destination.to_vec(),
            directory,
            names,
            options: Some(options.to_wire()),
        };
        self.dial();
        let sent = sender::send(channel, sources, options, reporter);
        self.with_start(transfer, request::Body::Put(put), sent).await
    }

    /// Gets remote paths into `target`, which has a place for each; `label` is what the user calls it, `destination_ancestors` the versions
    /// of its directory and those above it, for the server to refuse a source that is one of them.
    pub async fn get(
        self: &Arc<Client>,
        sources: Vec<Vec<u8>>,
        (target, label, destination_ancestors): (Target, Vec<u8>, Vec<String>),
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let transfer = self.next_transfer.fetch_add(1, Ordering::Relaxed);
        let channel = TransferChannel::join(&self.core, transfer)?;
        let get = proto::Get {
            transfer,
            sources,
            options: Some(options.to_wire()),
            destination_ancestors,
            names: target.names(),
        };
        self.dial();
        let received = receiver::receive(channel, target, label, options, reporter);
        self.with_start(transfer, request::Body::Get(get), received).await
    }

    /// Runs a transfer after the request that starts it has been sent, without waiting for its reply: a refused
    /// request ends both. The server is told of an end that it does not know of.
    async fn with_start(
        &self,
        number: u32,
        body: request::Body,
        transfer: impl Future<Output = Result<(), NetError>> + Send + 'static,
    ) -> Result<(), NetError> {
        let started = self.start_request(body).await?;
        // As part of the thread that waits for it, each of its steps would be a switch from and to the threads that receive
        // and write.
        let mut transfer = self.core.tasks().spawn("transfer", transfer);
        let result = tokio::select! {
            result = &mut transfer => result.flatten(),
            started = self.reply(started) => match started {
                Ok(_) => transfer.await.flatten(),
                Err(e) => return Err(e),
            }
        };
        if let Err(e) = &result
            && !self.core.is_down()
        {
            let (code, text) = e.to_wire();
            let cancel = proto::transfer_message::Body::Cancel(proto::Cancel {
                code: u32::from(code.0),
                text,
            });
            let message = proto::TransferMessage {
                transfer: number,
                body: Some(cancel),
            };
            let _ = self.core.control.send(control_message::Body::Transfer(message)).await;
        }
        result
    }

    /// For how long nothing has gone forward.
    pub fn stalled(&self) -> Duration {
        self.core.stalled()
    }

    /// Whether the user was told that the connection was lost.
    pub fn already_reported(&self) -> bool {
        self.attachment.already_reported()
    }

    /// Says goodbye.
    pub async fn quit(&self) {
        self.leave(Duration::from_secs(2)).await;
    }

    /// Says goodbye, and waits at most this long until that is on its way. The answer is not waited for.
    pub async fn leave(&self, most: Duration) {
        self.attachment.leave();
        let bye = async {
            let _ = self.start_request(request::Body::Quit(proto::Quit {})).await;
            self.core.control.close();
            self.attachment.ended().await;
        };
        let _ = timeout(most, bye).await;
        self.core.shut_down(NetError::lost("logged out"));
    }
}

/// True for a request that is not the same when it is made twice.
fn changes(body: &request::Body) -> bool {
    match body {
        request::Body::MakeDirectory(request) => !request.parents,
        request::Body::Remove(_) | request::Body::Rename(_) | request::Body::Unlock(_) => true,
        _ => false,
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.core.shut_down(NetError::lost("logged out"));
    }
}
