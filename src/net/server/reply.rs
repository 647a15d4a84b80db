//! Replies to requests.

use crate::net::control::codec::encode;
use crate::net::error::NetError;
use crate::net::lanes::socket::Socket;
use crate::net::wire::Code;
use crate::net::wire::proto::{self, control_message::Body, reply};
use tokio::io::AsyncWriteExt;
use tokio_rustls::server::TlsStream;

/// A reply of success.
pub(super) struct Done {
    pub(super) code: Code,
    pub(super) text: &'static str,
    pub(super) body: Option<reply::Body>,
}

/// What a request is answered with.
pub(super) type Answer = Result<Done, NetError>;

impl Done {
    /// An answer that is its code.
    pub(super) fn new(code: Code, text: &'static str) -> Done {
        Done {
            code,
            text,
            body: None,
        }
    }

    /// An answer with a body.
    pub(super) fn with(code: Code, text: &'static str, body: reply::Body) -> Done {
        let body = Some(body);
        Done { code, text, body }
    }
}

/// A refusal of a request.
pub(super) fn refusal(code: Code, text: impl Into<String>) -> NetError {
    let text = text.into();
    NetError::Refused { code, text }
}

/// The reply to request `number`.
pub(super) fn reply(number: u64, code: Code, text: &str) -> proto::Reply {
    proto::Reply {
        number,
        code: u32::from(code.0),
        text: text.into(),
        body: None,
    }
}

/// Sends a reply on a connection that has no session yet.
pub(super) async fn send(tls: &mut TlsStream<Socket>, reply: proto::Reply) -> Result<(), NetError> {
    let mut out = Vec::new();
    let message = proto::ControlMessage {
        body: Some(Body::Reply(reply)),
    };
    encode(&message, &mut out)?;
    tls.write_all(&out).await.map_err(NetError::lost)?;
    tls.flush().await.map_err(NetError::lost)
}
