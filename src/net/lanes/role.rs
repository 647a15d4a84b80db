//! What a connection is for.

/// The two kinds of connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `haul/1`.
    Control,
    /// `haul-data/1`.
    Data,
}
