//! What offers take of the memory of a session: sender and receiver count alike.

use crate::chunk::CHUNK_SIZE;
use crate::net::transfer::metadata::metadata_cost;
use crate::net::wire::proto;

/// What an unsettled offer takes of the window's part for offers, besides its path and the like.
const OFFER_COST: usize = 512;
/// What one of a file that is staged takes more: of more than a chunk, or a stream.
const STAGED_COST: usize = 2048;

/// What an offer takes of the window's part for offers until it is settled: about as much as either
/// side keeps of it. Its path is counted twice, like its target, as the one that writes has copies
/// of both.
pub(super) fn offer_cost(path: usize, offer: &proto::Offer) -> u64 {
    let is_staged = offer.stream || offer.size > CHUNK_SIZE as u64;
    let twice = path.saturating_add(offer.target.len()).saturating_mul(2);
    let once = offer.content.len().saturating_add(offer.version.len());
    let once = once.saturating_add(metadata_cost(offer));
    let fixed = OFFER_COST.saturating_add(if is_staged { STAGED_COST } else { 0 });
    fixed.saturating_add(twice).saturating_add(once) as u64
}
