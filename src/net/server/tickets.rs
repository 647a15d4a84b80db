//! Requests for tickets.

use crate::net::server::reply::{Answer, Done};
use crate::net::server::transfers::{Place, bad, check, put_options};
use crate::net::wire::Code;
use crate::net::wire::proto::{self, reply};

/// Makes a ticket for the put that the request describes.
pub(super) fn make(place: Place<'_>, request: proto::MakeTicket) -> Answer {
    let Place {
        registry, session, ..
    } = place;
    let put = request.put.ok_or_else(|| bad("a ticket is for a put"))?;
    check(registry, put.names.len())?;
    // what would be refused later is refused now
    put_options(session, put.options.clone())?;
    let secret = registry.tickets().make(&session.grant, &put)?;
    let ticket = secret.to_vec();
    let body = reply::Body::Ticket(proto::TicketReply { ticket });
    Ok(Done::with(Code::ANSWER, "ticket", body))
}
