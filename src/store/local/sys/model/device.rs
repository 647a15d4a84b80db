//! What distinguishes the devices of the model.

/// What a device is like.
#[derive(Clone, Debug)]
pub(in crate::store::local) struct Device {
    /// As statfs(2) has it; whether syncfs means anything follows from it.
    pub(in crate::store::local) fs_type: u64,
    /// Nanoseconds that its timestamps are multiples of.
    pub(in crate::store::local) granularity: u64,
    pub(in crate::store::local) has_birth: bool,
    /// syncfs(2) succeeds and does nothing, as over a FUSE whose daemon is not told.
    pub(in crate::store::local) syncfs_lies: bool,
}
