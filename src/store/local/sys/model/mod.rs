//! A file system in memory that loses at a power loss what was not synced: data and names apart,
//! each in any order.
//!
//! It keeps all contents of every inode, and all inodes of every name, since the last sync. A power
//! loss picks any of them: page by page of a file, name by name of a directory. Each of its two
//! devices has a type and a granularity of its timestamps, and keeps birth times or not. Numbers of
//! inodes that are durably gone are reused at once.

mod calls;
mod chance;
mod device;
mod inode;
mod seeds;
mod world;

pub(crate) use chance::Chance;
pub(in crate::store::local) use device::Device;
pub(in crate::store::local) use seeds::each_seed;
pub(in crate::store::local) use world::{Handle, World};
