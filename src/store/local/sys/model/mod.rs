//! A file system in memory that forgets, at a power loss, what was not synced: data and names apart, each in any order.
//!
//! It keeps of every inode all contents, and of every name all inodes, since they were last synced. A power loss picks any of
//! them: page by page of a file, name by name of a directory. It has two devices; each has a type, a granularity of its
//! timestamps, and keeps a birth time or not. The numbers of inodes that are durably gone are used again at once.

mod calls;
mod chance;
mod device;
mod inode;
mod world;

pub(in crate::store::local) use chance::Chance;
pub(in crate::store::local) use device::Device;
pub(in crate::store::local) use world::{Handle, World};
