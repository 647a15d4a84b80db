//! A transfer that one server sends to another by itself, on a ticket that this client gets from
//! the one and hands to the other.

use crate::net::client::Client;
use crate::net::client::copy::{ServerCopy, follow, request_of};
use crate::net::client::relay::put_request;
use crate::net::error::NetError;
use crate::net::session::channel::TransferChannel;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::Reporter;
use crate::net::transfer::report::remote::RemoteReporter;
use crate::net::wire::proto::{self, reply, request};
use crate::net::wire::{Code, FEATURE_SENDING};

/// How a transfer from server to server has ended.
pub enum Direct {
    /// It is complete.
    Done,
    /// The one server cannot send to the other, for this reason. Nothing has been sent.
    NotPossible(String),
}

impl Client {
    /// True of a server that sends to others.
    pub fn sends_to_others(&self) -> bool {
        self.login
            .granted()
            .is_some_and(|granted| granted.features & FEATURE_SENDING != 0)
    }

    /// Has the server send to another one. Files that fail are reported, and do not end it.
    ///
    /// # Errors
    /// Why the transfer ended before it was complete.
    pub async fn send_to(
        &self,
        to: &Client,
        copy: ServerCopy,
        options: Options,
        reporter: Reporter,
    ) -> Result<Direct, NetError> {
        let Some((host, port)) = to.route.place() else {
            let why = format!("only this machine reaches {}", to.server());
            return Ok(Direct::NotPossible(why));
        };
        let put = put_request(0, copy.destination.clone(), Vec::new(), &options);
        let ticket = match to.make_ticket(put).await {
            Ok(ticket) => ticket,
            // of earlier transfers that never began
            Err(NetError::Refused {
                code: Code::UNAVAILABLE,
                text,
            }) => return Ok(Direct::NotPossible(text)),
            Err(e) => return not_possible(e),
        };
        let transfer = self.next_transfer();
        let channel = TransferChannel::join(&self.core, transfer)?;
        let (copy, prefix) = request_of(transfer, copy, &options, &reporter);
        let request = proto::SendTo {
            copy: Some(Box::new(copy)),
            host: host.to_string(),
            port: port.into(),
            key: to.key.to_string(),
            ticket,
        };
        let followed = follow(channel, RemoteReporter::new(reporter, prefix));
        let sent = self.with_start(transfer, request::Body::SendTo(request), followed);
        // the user limits the session with the receiving server
        match self.at_rate(&to.rate, sent).await {
            Ok(()) => Ok(Direct::Done),
            Err(e) => not_possible(e),
        }
    }

    /// A ticket for this put.
    async fn make_ticket(&self, put: proto::Put) -> Result<Vec<u8>, NetError> {
        let make = proto::MakeTicket {
            put: Some(Box::new(put)),
        };
        match self.request(request::Body::MakeTicket(make)).await?.body {
            Some(reply::Body::Ticket(reply)) => Ok(reply.ticket),
            _ => Err(NetError::Protocol("expected a ticket in the reply, got none".into())),
        }
    }
}

/// Whether an error means that the data has to take another way.
fn not_possible(error: NetError) -> Result<Direct, NetError> {
    match error {
        NetError::Refused { code, text } if code == Code::NOT_IMPLEMENTED => {
            Ok(Direct::NotPossible(text))
        }
        error => Err(error),
    }
}
