//! Answers the requests of a session, one after another.

use crate::auth::users;
use crate::net::control::codec;
use crate::net::error::NetError;
use crate::net::printable;
use crate::net::server::beneath;
use crate::net::server::changes;
use crate::net::server::config::Config;
use crate::net::server::copies;
use crate::net::server::operations;
use crate::net::server::registry::Registry;
use crate::net::server::reply::{Answer, Done, refusal};
use crate::net::server::reply_cache::ReplyCache;
use crate::net::server::revocation;
use crate::net::server::session::Session;
use crate::net::server::tickets;
use crate::net::server::transfer_log::logged_path;
use crate::net::server::transfers::{self, Place};
use crate::net::server::trash;
use crate::net::session::channel::TransferChannel;
use crate::net::session::router::MessageRoom;
use crate::net::wire::Code;
use crate::net::wire::proto::{self, control_message, request};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A request, with the channel of the transfer that it starts, or why that has none.
pub(super) struct Work {
    pub(super) request: proto::Request,
    pub(super) channel: Option<Result<TransferChannel, NetError>>,
    /// Occupied until the request is answered.
    pub(super) _room: MessageRoom,
}

/// Answers a session's requests.
pub(super) struct Worker {
    pub(super) config: Arc<Config>,
    pub(super) registry: Arc<Registry>,
    pub(super) session: Arc<Session>,
    pub(super) cache: Arc<Mutex<ReplyCache>>,
}

/// True for a request whose answer is a page of many entries.
fn lists(body: &request::Body) -> bool {
    use request::Body;
    matches!(
        body,
        Body::List(_)
            | Body::ListBeneath(_)
            | Body::Glob(_)
            | Body::Locks(_)
            | Body::ListTrash(_)
            | Body::RemoveBeneath(_)
            | Body::Discard(_)
            | Body::Restore(_)
    )
}

impl Worker {
    /// Answers requests until the client leaves, or there are no more.
    pub(super) async fn process(self, mut todo: mpsc::Receiver<Box<Work>>) {
        let core = &self.session.core;
        while let Some(work) = todo.recv().await {
            let Work {
                request,
                channel,
                _room,
            } = *work;
            let quits = matches!(request.body, Some(request::Body::Quit(_)));
            let _turn = match request.body.as_ref().is_some_and(lists) {
                true => Some(self.registry.answer(&self.session).await),
                false => None,
            };
            // a session that waits for requests has no room for carrying them out
            let reply = Box::pin(self.reply(request, channel)).await;
            self.cache.lock().remember(reply.clone());
            let sent = core.control.send(control_message::Body::Reply(reply)).await;
            if sent.is_err() {
                return;
            }
            if quits {
                core.shut_down(codec::refused(u32::from(Code::BYE.0), "goodbye".into()));
                return;
            }
        }
    }

    async fn reply(
        &self,
        request: proto::Request,
        channel: Option<Result<TransferChannel, NetError>>,
    ) -> proto::Reply {
        let change = request.body.as_ref().and_then(Change::of);
        let answer = match self.permit(request.body.as_ref()) {
            Ok(()) => self.answer(request.body, channel).await,
            Err(e) => Err(e),
        };
        let (code, text, body) = match answer {
            Ok(Done { code, text, body }) => (code, text.to_string(), body),
            Err(e) => {
                let (code, text) = e.to_wire();
                (code, text, None)
            }
        };
        if let Some(change) = change {
            change.log(&self.session, code, &text);
        } else if !code.is_success() {
            tracing::debug!(
                who = %self.session.who, %code, text = %printable(&text),
                "request refused"
            );
        }
        proto::Reply {
            number: request.number,
            code: u32::from(code.0),
            text,
            body,
        }
    }

    /// Checks the request against the users file as it is now, and not as it was at the login.
    fn permit(&self, body: Option<&request::Body>) -> Result<(), NetError> {
        let all = self.config.users.current()?;
        let user = self.session.grant.check(&all, users::now()).map_err(|why| {
            revocation::revoke(&self.session, why);
            revocation::refusal(why)
        })?;
        if let Some(only) = &self.session.only {
            only.permit(body)?;
        }
        // an unknown request is allowed to every user, and gets its answer: not implemented
        let checked = body.map_or(Ok(()), |body| body.facts().sender.check(user.access));
        checked.map_err(|(code, text)| refusal(code, text))
    }

    async fn answer(
        &self,
        body: Option<request::Body>,
        channel: Option<Result<TransferChannel, NetError>>,
    ) -> Answer {
        use request::Body;
        let session = &*self.session;
        let place = Place {
            config: &self.config,
            registry: &self.registry,
            session: &self.session,
        };
        let channel = channel.transpose()?;
        let Some(body) = body else {
            return Ok(Done::new(Code::NOT_IMPLEMENTED, "unknown request"));
        };
        match body {
            Body::Noop(request) => {
                if request.borrow {
                    self.registry.lend(&self.session).await?;
                }
                Ok(Done::new(Code::OK, "nothing done"))
            }
            Body::Quit(_) => Ok(Done::new(Code::BYE, "goodbye")),
            Body::Login(_) | Body::Enroll(_) | Body::Reattach(_) => {
                Ok(Done::new(Code::BAD_SEQUENCE, "already logged in"))
            }
            Body::ChangeDirectory(request) => operations::change_directory(session, &request).await,
            Body::Stat(request) => operations::stat(session, &request).await,
            Body::List(request) => operations::list(session, &request).await,
            Body::MakeDirectory(request) => operations::make_directory(session, &request).await,
            Body::Remove(request) => operations::remove(session, &request).await,
            Body::Rename(request) => operations::rename(session, &request).await,
            Body::Space(request) => operations::space(session, &request).await,
            Body::Locks(request) => operations::locks(session, &request).await,
            Body::Unlock(request) => operations::unlock(session, &request).await,
            Body::ListBeneath(request) => beneath::list(session, request).await,
            Body::StatBeneath(request) => beneath::stat(session, &request).await,
            Body::RemoveBeneath(request) => beneath::remove(session, request).await,
            Body::Discard(request) => trash::discard(session, request).await,
            Body::ListTrash(request) => trash::list(session, &request).await,
            Body::Restore(request) => trash::restore(session, request).await,
            Body::EmptyTrash(request) => trash::empty(session, &request).await,
            Body::Limit(request) => Ok(operations::limit(session, &request)),
            Body::Home(request) => operations::home(&self.config, &request),
            Body::Glob(request) => changes::glob(session, &request).await,
            Body::SetAttributes(request) => changes::set_attributes(session, &request).await,
            Body::MakeSymlink(request) => changes::make_symlink(session, &request).await,
            Body::MoveNew(request) => changes::move_new(session, &request).await,
            Body::Put(request) => transfers::put(place, request, channel).await,
            Body::Get(request) => transfers::get(place, request, channel).await,
            Body::Copy(request) => copies::copy(place, request, channel).await,
            Body::SendTo(request) => copies::send_to(place, request, channel).await,
            Body::MakeTicket(request) => tickets::make(place, request),
        }
    }
}

/// The log line of a request that changes the tree.
struct Change {
    verb: &'static str,
    path: String,
    to: Option<String>,
}

impl Change {
    fn of(body: &request::Body) -> Option<Change> {
        use request::Body;
        let (verb, path, to) = match body {
            Body::MakeDirectory(r) => ("mkdir", &r.path, None),
            Body::Remove(r) => ("rm", &r.path, None),
            Body::Unlock(r) => ("unlock", &r.path, None),
            Body::RemoveBeneath(r) => ("delete", &r.base, None),
            Body::Discard(r) => ("delete", &r.base, None),
            Body::Restore(r) => ("undelete", &r.base, None),
            Body::EmptyTrash(r) => ("empty the trash of", &r.base, None),
            Body::Rename(r) => ("mv", &r.from, Some(&r.to)),
            Body::MoveNew(r) => ("mv", &r.from, Some(&r.to)),
            Body::MakeSymlink(r) => ("ln", &r.path, Some(&r.target)),
            Body::SetAttributes(r) if r.mode.is_some() => ("chmod", &r.path, None),
            Body::SetAttributes(r) => ("touch", &r.path, None),
            // a transfer has a line of its own, at its end
            Body::Put(_) | Body::Get(_) | Body::Copy(_) | Body::SendTo(_) => return None,
            Body::Login(_)
            | Body::Enroll(_)
            | Body::Reattach(_)
            | Body::ChangeDirectory(_)
            | Body::Stat(_)
            | Body::List(_)
            | Body::Space(_)
            | Body::Locks(_)
            | Body::ListBeneath(_)
            | Body::StatBeneath(_)
            | Body::ListTrash(_)
            | Body::Limit(_)
            | Body::Glob(_)
            | Body::Home(_)
            | Body::MakeTicket(_)
            | Body::Noop(_)
            | Body::Quit(_) => return None,
        };
        Some(Change {
            verb,
            path: logged_path(path),
            to: to.map(|to| logged_path(to)),
        })
    }

    fn log(self, session: &Session, code: Code, text: &str) {
        let Change { verb, path, to } = self;
        let (who, from, to) =
            (&session.who, session.grant.address(), to.map(tracing::field::display));
        if code.is_success() {
            tracing::info!(%who, %from, path, to, "{verb} done");
        } else {
            tracing::info!(%who, %from, path, to, %code, error = printable(text), "{verb} failed");
        }
    }
}
