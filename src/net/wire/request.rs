//! The facts of each request: who may send it, whether repeating it is safe, and which transfer it
//! starts.
//!
//! They stand here once. A new request does not compile until it has them.

use crate::auth::user::Access;
use crate::net::wire::Code;
use crate::net::wire::proto::request::Body;

/// Who may send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client that has not logged in yet.
    Stranger,
    /// Any client, before the login and after it.
    Anybody,
    /// Any user who is logged in.
    User,
    /// A user who may read.
    Reader,
    /// A user who may write, including one who may only write.
    Writer,
    /// A user who may read and write.
    ReaderAndWriter,
}

/// What a second request of the same content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It has the same effect as one request.
    Safe,
    /// It may have its effect twice, or fail because the first one succeeded.
    Unsafe,
}

/// The facts of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who may send it.
    pub sender: Sender,
    /// Whether a client may send it again without knowing the outcome.
    pub repeat: Repeat,
    /// The number of the transfer that it starts.
    pub transfer: Option<u32>,
}

impl Body {
    /// The facts of this request.
    pub fn facts(&self) -> Facts {
        let (sender, repeat, transfer) = match self {
            Body::Login(_) | Body::Enroll(_) | Body::Reattach(_) => {
                (Sender::Stranger, Repeat::Safe, None)
            }
            Body::Noop(_) | Body::Quit(_) => (Sender::Anybody, Repeat::Safe, None),
            Body::ChangeDirectory(_) | Body::Limit(_) => (Sender::User, Repeat::Safe, None),
            Body::Stat(_)
            | Body::List(_)
            | Body::Space(_)
            | Body::Locks(_)
            | Body::Glob(_)
            | Body::Home(_)
            | Body::ListBeneath(_)
            | Body::StatBeneath(_)
            | Body::ListTrash(_) => (Sender::Reader, Repeat::Safe, None),
            // what is gone already is no error
            Body::RemoveBeneath(_) | Body::Discard(_) | Body::EmptyTrash(_) => {
                (Sender::ReaderAndWriter, Repeat::Safe, None)
            }
            Body::MakeDirectory(request) if request.parents => (Sender::Writer, Repeat::Safe, None),
            Body::MakeDirectory(_) => (Sender::Writer, Repeat::Unsafe, None),
            Body::Remove(_)
            | Body::Rename(_)
            | Body::Unlock(_)
            | Body::MakeSymlink(_)
            | Body::MoveNew(_)
            | Body::Restore(_) => (Sender::ReaderAndWriter, Repeat::Unsafe, None),
            Body::SetAttributes(_) => (Sender::ReaderAndWriter, Repeat::Safe, None),
            Body::Put(put) => (Sender::Writer, Repeat::Safe, Some(put.transfer)),
            Body::Get(get) => (Sender::Reader, Repeat::Safe, Some(get.transfer)),
            Body::Copy(copy) => (Sender::ReaderAndWriter, Repeat::Safe, Some(copy.transfer)),
            // one that is not used expires
            Body::MakeTicket(_) => (Sender::Writer, Repeat::Safe, None),
            Body::SendTo(send) => {
                let transfer = send.copy.as_ref().map(|copy| copy.transfer);
                (Sender::Reader, Repeat::Safe, transfer)
            }
        };
        Facts {
            sender,
            repeat,
            transfer,
        }
    }
}

impl Sender {
    /// True if a client may send the request before it has logged in.
    pub fn is_allowed_before_login(self) -> bool {
        match self {
            Sender::Stranger | Sender::Anybody => true,
            Sender::User | Sender::Reader | Sender::Writer | Sender::ReaderAndWriter => false,
        }
    }

    /// Whether a user with this access may send the request.
    ///
    /// # Errors
    /// The code and the text of the refusal.
    pub fn check(self, access: Access) -> Result<(), (Code, &'static str)> {
        match (self, access) {
            (Sender::Anybody | Sender::User, _)
            | (Sender::Stranger | Sender::Reader, Access::Full | Access::ReadOnly)
            | (Sender::Writer, Access::Full | Access::WriteOnly)
            | (Sender::ReaderAndWriter, Access::Full) => Ok(()),
            (Sender::Writer | Sender::ReaderAndWriter, Access::ReadOnly) => {
                Err((Code::DENIED, "this user may only read"))
            }
            (Sender::Stranger | Sender::Reader | Sender::ReaderAndWriter, Access::WriteOnly) => {
                Err((Code::DENIED, "this user may only put files and make directories"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::wire::proto;

    fn allowed(body: &Body) -> [bool; 4] {
        let sender = body.facts().sender;
        let may = |access| sender.check(access).is_ok();
        [
            sender.is_allowed_before_login(),
            may(Access::ReadOnly),
            may(Access::WriteOnly),
            may(Access::Full),
        ]
    }

    #[test]
    fn access_decides_who_may_send_what() {
        let make = |parents| {
            Body::MakeDirectory(proto::MakeDirectory {
                parents,
                ..Default::default()
            })
        };
        for (body, expected) in [
            (Body::Noop(proto::Noop::default()), [true; 4]),
            (Body::Quit(proto::Quit {}), [true; 4]),
            (Body::ChangeDirectory(Default::default()), [false, true, true, true]),
            (Body::Limit(Default::default()), [false, true, true, true]),
            (Body::Stat(Default::default()), [false, true, false, true]),
            (Body::Get(Default::default()), [false, true, false, true]),
            (Body::Put(Default::default()), [false, false, true, true]),
            (Body::Copy(Default::default()), [false, false, false, true]),
            (Body::MakeTicket(Default::default()), [false, false, true, true]),
            (Body::SendTo(Default::default()), [false, true, false, true]),
            (make(true), [false, false, true, true]),
            (Body::Remove(Default::default()), [false, false, false, true]),
            (Body::Unlock(Default::default()), [false, false, false, true]),
            (Body::Glob(Default::default()), [false, true, false, true]),
            (Body::SetAttributes(Default::default()), [false, false, false, true]),
            (Body::MakeSymlink(Default::default()), [false, false, false, true]),
            (Body::MoveNew(Default::default()), [false, false, false, true]),
            (Body::Discard(Default::default()), [false, false, false, true]),
            (Body::ListTrash(Default::default()), [false, true, false, true]),
            (Body::Restore(Default::default()), [false, false, false, true]),
            (Body::EmptyTrash(Default::default()), [false, false, false, true]),
        ] {
            assert_eq!(allowed(&body), expected, "{body:?}");
        }
        assert!(Body::Login(Default::default()).facts().sender.is_allowed_before_login());
        assert_eq!(make(true).facts().repeat, Repeat::Safe);
        assert_eq!(make(false).facts().repeat, Repeat::Unsafe);
    }
}
