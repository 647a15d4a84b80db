//! What an acknowledged write survives.

/// Whether what was acknowledged survives a power loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Content and name are on disk before the write is acknowledged.
    #[default]
    Durable,
    /// The write is acknowledged once it is visible; the system brings it to disk later.
    Volatile,
}

impl Durability {
    /// True if an acknowledged write survives a power loss.
    pub fn is_durable(self) -> bool {
        self == Durability::Durable
    }
}
