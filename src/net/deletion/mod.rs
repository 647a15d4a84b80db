//! Deletion: what a destination has and no source of a transfer has. It is searched for when
//! everything else is done, written down as a plan, and removed only as planned.
//!
//! The side that the user is at does this, for a put, a get and a copy alike: [`place`] is either
//! end, [`search`] finds, [`plan`] remembers.

pub mod pair;
pub mod place;
pub mod plan;
pub mod search;
pub mod trash;
