//! An inode of the model: its contents since the last sync, and those that a power loss leaves.

use super::chance::Chance;
use crate::store::local::sys::Call;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that reach the disk together.
const PAGE: usize = 8;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, usize>),
    Symlink(Vec<u8>),
    /// A FIFO or the like, by the bits of its kind in a mode.
    Special(u32),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Meta {
    pub(super) mode: u32,
    /// User and group, if they were set.
    pub(super) owner: (Option<u32>, Option<u32>),
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) mtime: u64,
    pub(super) ctime: u64,
}

/// The states of an inode since the last sync; the last one is the current one.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) device: usize,
    pub(super) birth: u64,
    pub(super) bodies: Vec<Body>,
    pub(super) metas: Vec<Meta>,
    /// The open file description that holds flock(2), and the one that holds the commit lock.
    pub(super) locked: Option<u64>,
    pub(super) committing: Option<u64>,
    pub(super) opens: usize,
}

impl Inode {
    pub(super) fn body(&self) -> &Body {
        self.bodies.last().unwrap()
    }

    pub(super) fn meta(&self) -> Meta {
        self.metas.last().unwrap().clone()
    }

    pub(super) fn names(&self) -> Call<&BTreeMap<Vec<u8>, usize>> {
        match self.body() {
            Body::Dir(names) => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn data(&self) -> &[u8] {
        match self.body() {
            Body::File(data) => data,
            _ => &[],
        }
    }

    pub(super) fn sync_data(&mut self) {
        self.bodies.drain(..self.bodies.len() - 1);
    }

    pub(super) fn sync(&mut self) {
        self.sync_data();
        self.metas.drain(..self.metas.len() - 1);
    }
}

/// Picks, for each page, any content since the last sync, and any length.
pub(super) fn survivor(chance: &mut Chance, bodies: &[Body]) -> Vec<u8> {
    let contents: Vec<&[u8]> = bodies
        .iter()
        .map(|body| match body {
            Body::File(data) => &data[..],
            _ => &[],
        })
        .collect();
    let mut surviving = vec![0; chance.of(&contents).len()];
    for (i, page) in surviving.chunks_mut(PAGE).enumerate() {
        let from = chance.of(&contents);
        let start = (i * PAGE).min(from.len());
        let here = &from[start..(start + page.len()).min(from.len())];
        page[..here.len()].copy_from_slice(here);
    }
    surviving
}

/// Picks, for each name, any inode that it led to since the last sync.
pub(super) fn surviving_names(chance: &mut Chance, bodies: &[Body]) -> BTreeMap<Vec<u8>, usize> {
    let all: Vec<&BTreeMap<Vec<u8>, usize>> = bodies
        .iter()
        .filter_map(|body| match body {
            Body::Dir(names) => Some(names),
            _ => None,
        })
        .collect();
    let names: BTreeSet<&Vec<u8>> = all.iter().flat_map(|names| names.keys()).collect();
    let mut surviving = BTreeMap::new();
    for name in names {
        if let Some(inode) = chance.of(&all).get(name) {
            surviving.insert(name.clone(), *inode);
        }
    }
    surviving
}
