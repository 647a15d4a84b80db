//! The properties of the model's devices.

/// The properties of a device.
#[derive(Clone, Debug)]
pub(in crate::store::local) struct Device {
    /// As in statfs(2). It decides whether haul trusts syncfs(2).
    pub(in crate::store::local) fs_type: u64,
    /// Nanoseconds that its timestamps are multiples of.
    pub(in crate::store::local) granularity: u64,
    pub(in crate::store::local) has_birth: bool,
    /// syncfs(2) succeeds and does nothing, as over FUSE.
    pub(in crate::store::local) syncfs_lies: bool,
}
