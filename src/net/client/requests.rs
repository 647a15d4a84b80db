//! The requests of a session, one method each.

use crate::net::client::Client;
use crate::net::client::relay::put_request;
use crate::net::control::codec::refused;
use crate::net::error::{LossReason, NetError};
use crate::net::session::SessionCore;
use crate::net::session::channel::TransferChannel;
use crate::net::transfer::options::Options;
use crate::net::transfer::receive::receiver;
use crate::net::transfer::report::{Counters, Reporter};
use crate::net::transfer::send::sender;
use crate::net::transfer::send::source::TransferSource;
use crate::net::wire::measure::MAX_LIST;
use crate::net::wire::proto::{self, control_message, reply, request};
use crate::net::wire::request::Repeat;
use crate::net::wire::{Code, entry};
use crate::store::{Entry, LockEntry, Space};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

pub use crate::net::client::places::{GetDestination, GetSources, PutDestination};
pub use crate::net::wire::proto::IfMissing;

/// Reports at its end what compression has saved since its beginning.
pub(super) struct Saved {
    core: Arc<SessionCore>,
    before: u64,
    counters: Arc<Counters>,
}

impl Drop for Saved {
    fn drop(&mut self) {
        let saved = self.core.pool().packer().saved().saturating_sub(self.before);
        self.counters.bytes_saved.fetch_add(saved, Ordering::Relaxed);
    }
}

impl Client {
    /// Waits for the reply to a request.
    ///
    /// # Errors
    /// [`NetError::Refused`] for a reply of another family than success.
    pub(super) async fn reply(
        &self,
        reply: oneshot::Receiver<proto::Reply>,
    ) -> Result<proto::Reply, NetError> {
        let reply = tokio::select! {
            biased;
            reply = reply => reply.map_err(|_| NetError::Lost(LossReason::SessionOver))?,
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
    pub(super) async fn request(&self, body: request::Body) -> Result<proto::Reply, NetError> {
        let repeat = body.facts().repeat;
        let reply = self.router.start(&self.core, body).await?;
        match self.reply(reply).await {
            // a repetition could have its effect twice, or fail because it had its effect
            Err(e) if repeat == Repeat::Unsafe && e.is_transient() && self.core.is_down() => {
                Err(NetError::OutcomeUnknown(e.to_string()))
            }
            other => other,
        }
    }

    /// An entry's attributes, and with `hash` its BLAKE3 hash.
    ///
    /// # Errors
    /// [`NetError`], here and below: refused, or lost on the way.
    pub async fn stat(
        &self,
        path: &[u8],
        hash: bool,
    ) -> Result<(Entry, Option<[u8; 32]>), NetError> {
        let path = path.to_vec();
        let reply = self.request(request::Body::Stat(proto::Stat { path, hash })).await?;
        match reply.body {
            Some(reply::Body::Entry(found)) => Ok(entry::from_wire(found)?),
            _ => Err(NetError::Protocol(
                "expected an entry in the reply to stat, got none".into(),
            )),
        }
    }

    /// A page of a directory from `cookie` on (empty: the start), and the cookie of the next page.
    pub async fn list(
        &self,
        path: &[u8],
        cookie: Vec<u8>,
    ) -> Result<(Vec<Entry>, Option<Vec<u8>>), NetError> {
        let list = proto::List {
            path: path.to_vec(),
            cookie,
            limit: 0,
        };
        let reply = self.request(request::Body::List(list)).await?;
        let Some(reply::Body::List(page)) = reply.body else {
            return Err(NetError::Protocol(
                "expected a page in the reply to list, got none".into(),
            ));
        };
        let entries = page.entries.into_iter().map(|e| Ok(entry::from_wire(e)?.0));
        let entries = entries.collect::<Result<Vec<Entry>, NetError>>()?;
        Ok((entries, Some(page.cookie).filter(|c| !c.is_empty())))
    }

    /// Makes a directory; with `parents` also the missing ones above it.
    pub async fn make_dir(&self, path: &[u8], parents: bool) -> Result<(), NetError> {
        let path = path.to_vec();
        self.request(request::Body::MakeDirectory(proto::MakeDirectory { path, parents }))
            .await
            .map(drop)
    }

    /// Makes the missing directories above the destination of a put, and the destination itself
    /// where that must be a directory.
    pub async fn make_path(&self, destination: &PutDestination) -> Result<(), NetError> {
        let path = destination.path.as_slice();
        let several = destination.names.len() > 1;
        let dir = match destination.directory || several {
            true => path,
            false => path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default(),
        };
        match dir {
            [] => Ok(()),
            dir => self.make_dir(dir, true).await,
        }
    }

    /// Removes an entry; with `recursive` also everything in it.
    pub async fn remove(&self, path: &[u8], recursive: bool) -> Result<(), NetError> {
        let path = path.to_vec();
        self.request(request::Body::Remove(proto::Remove { path, recursive }))
            .await
            .map(drop)
    }

    /// Renames an entry to `to`, or into it if it is a directory. With `directory` it must be one.
    pub async fn rename(&self, from: &[u8], to: &[u8], directory: bool) -> Result<(), NetError> {
        let rename = proto::Rename {
            from: from.to_vec(),
            to: to.to_vec(),
            directory,
        };
        self.request(request::Body::Rename(rename)).await.map(drop)
    }

    /// A page of the locks and partial files in a directory, from `cookie` on (empty: the start),
    /// and the cookie of the next page.
    pub async fn locks(
        &self,
        path: &[u8],
        cookie: Vec<u8>,
    ) -> Result<(Vec<LockEntry>, Option<Vec<u8>>), NetError> {
        let locks = proto::Locks {
            path: path.to_vec(),
            cookie,
            limit: 0,
        };
        let reply = self.request(request::Body::Locks(locks)).await?;
        let Some(reply::Body::Locks(page)) = reply.body else {
            return Err(NetError::Protocol(
                "expected a page in the reply to locks, got none".into(),
            ));
        };
        let locks = page.locks.into_iter().map(entry::lock_from_wire).collect();
        Ok((locks, Some(page.cookie).filter(|c| !c.is_empty())))
    }

    /// Removes the partial file of a target, with `force` also that of a running transfer. Returns
    /// false if it had none.
    pub async fn unlock(&self, path: &[u8], force: bool) -> Result<bool, NetError> {
        let path = path.to_vec();
        let reply = self.request(request::Body::Unlock(proto::Unlock { path, force })).await?;
        match reply.body {
            Some(reply::Body::Unlock(unlocked)) => Ok(unlocked.removed),
            _ => Err(NetError::Protocol(
                "expected a result in the reply to unlock, got none".into(),
            )),
        }
    }

    /// The home directory of a user of the server's machine, from the root.
    pub async fn home(&self, user: &str) -> Result<Vec<u8>, NetError> {
        let user = user.to_string();
        let reply = self.request(request::Body::Home(proto::Home { user })).await?;
        match reply.body {
            Some(reply::Body::Home(home)) => Ok(home.path),
            _ => Err(NetError::Protocol("expected a directory in the reply, got none".into())),
        }
    }

    /// Has the server lend this session memory to move data, and waits for that.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn borrow(&self) -> Result<(), NetError> {
        let noop = proto::Noop { borrow: true };
        self.request(request::Body::Noop(noop)).await.map(drop)
    }

    /// The sizes of the file system that holds `path`.
    pub async fn space(&self, path: &[u8]) -> Result<Space, NetError> {
        let path = path.to_vec();
        let reply = self.request(request::Body::Space(proto::Space { path })).await?;
        match reply.body {
            Some(reply::Body::Space(space)) => Ok(entry::space_from_wire(&space)),
            _ => Err(NetError::Protocol("expected sizes in the reply to space, got none".into())),
        }
    }

    /// Puts sources to a server.
    pub async fn put(
        &self,
        sources: Arc<Vec<TransferSource>>,
        destination: PutDestination,
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let transfer = self.next_transfer();
        let channel = TransferChannel::join(&self.core, transfer)?;
        let mut source_ids = Vec::new();
        for source in sources.iter() {
            source_ids.extend(source.dir_versions().await);
            if options.on_settled.is_some() {
                source_ids.extend(source.home_version().await);
            }
        }
        source_ids.truncate(MAX_LIST);
        let put = put_request(transfer, destination, source_ids, &options);
        self.dialer.start();
        let _saved = self.count_saved(&reporter);
        let sent = sender::send(channel, sources, options, reporter);
        self.with_start(transfer, request::Body::Put(put), sent).await
    }

    /// Gets remote paths from a server.
    pub async fn get(
        &self,
        sources: GetSources,
        destination: GetDestination,
        options: Options,
        reporter: Reporter,
    ) -> Result<(), NetError> {
        let transfer = self.next_transfer();
        let channel = TransferChannel::join(&self.core, transfer)?;
        let GetDestination {
            target,
            label,
            ancestors,
        } = destination;
        let get = proto::Get {
            transfer,
            chosen: sources.chosen_to_wire(),
            sources: sources.paths,
            options: Some(options.to_wire()),
            destination_ancestors: ancestors,
            names: target.names(),
        };
        self.dialer.start();
        let _saved = self.count_saved(&reporter);
        let received = receiver::receive(channel, target, label, options, reporter);
        let got = self.with_start(transfer, request::Body::Get(get), received);
        self.at_rate(&self.rate, got).await
    }

    /// Counts what compression saves, until the value is dropped.
    pub(super) fn count_saved(&self, reporter: &Reporter) -> Saved {
        Saved {
            core: self.core.clone(),
            before: self.core.pool().packer().saved(),
            counters: reporter.counters.clone(),
        }
    }

    /// Sends the request that starts a transfer and runs the transfer without waiting for the
    /// reply. A refused request ends both. The client tells the server of an end that only the
    /// client knows of.
    pub(super) async fn with_start(
        &self,
        number: u32,
        body: request::Body,
        transfer: impl Future<Output = Result<(), NetError>> + Send + 'static,
    ) -> Result<(), NetError> {
        let started = self.router.start(&self.core, body).await?;
        // On the thread that waits for it, each of its steps would be a switch from and to the
        // threads that receive and write.
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
}
