//! New directories over the model file system: power loss, kills and other writers at any call.

use super::publish::complete;
use super::stage::stage;
use crate::store::local::inode::mtime;
use crate::store::local::partial::unlock;
use crate::store::local::small::put_whole;
use crate::store::local::sys::model::{Chance, Device, Handle, World, each_seed};
use crate::store::local::sys::{Directory, Node, OpenFile};
use crate::store::local::tree::Tree;
use crate::store::{
    Attributes, Content, Durability, NewEntry, RemotePath, StageRequest, StoreError, Time,
    UnlockMode,
};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files of the new directory, with their sizes: the last one arrives in parts.
const FILES: [(&str, usize); 7] = [
    ("a", 5),
    ("b", 17),
    ("in/a", 9),
    ("in/b", 0),
    ("in/deep/a", 23),
    ("in/deep/b", 8),
    ("large", 40),
];
const DIRS: [&str; 3] = ["", "in", "in/deep"];
/// About as many calls as a transfer makes.
const CALLS: usize = 130;

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.trim_end_matches('/').as_bytes()).unwrap()
}

fn content(file: &str, version: usize) -> Vec<u8> {
    let size = FILES.iter().find(|(name, _)| *name == file).unwrap().1;
    let hash = blake3::hash(format!("{file} {version}").as_bytes());
    hash.as_bytes().iter().copied().cycle().take(size).collect()
}

fn attributes(version: usize) -> Attributes {
    Attributes {
        mtime: Time {
            secs: 1_000_000_000 + 4 * version as i64,
            nanos: 0,
        },
        mode: 0o444,
        ..Attributes::default()
    }
}

struct Scenario {
    world: World,
    chance: Chance,
    /// Where the directory is made.
    top: &'static str,
    newest: usize,
    /// The version of each file that a transfer has reported.
    reported: BTreeMap<&'static str, usize>,
    /// Another writer has made the directory, and a file in it.
    intruded: Arc<AtomicUsize>,
    log: Vec<String>,
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ended {
    Well,
    Failed,
}

impl Scenario {
    fn new(seed: u64) -> Scenario {
        let mut chance = Chance::new(seed);
        let mut device = || {
            let (fs_type, syncfs_lies) =
                *chance.of(&[(0xEF53, false), (0x5846_5342, false), (0x6573_5546, true)]);
            Device {
                fs_type,
                syncfs_lies,
                granularity: *chance.of(&[1, 2_000_000_000]),
                has_birth: true,
            }
        };
        let devices = vec![device(), device()];
        Scenario {
            log: vec![format!("{devices:?}")],
            world: World::new(seed, devices),
            top: ["new", "sub/new", "mount/new"][chance.below(3)],
            chance,
            newest: 1,
            reported: BTreeMap::new(),
            intruded: Arc::default(),
        }
    }

    fn within(&self, name: &str) -> String {
        format!("{}/{name}", self.top)
    }

    /// Makes a directory as a transfer does.
    fn make_dir(tree: &Tree<Handle>, path: &RemotePath) -> Result<(), StoreError> {
        if stage(tree, path, ("writer", Durability::Durable))?.is_some() {
            return Ok(());
        }
        let (dir, name) = tree.parent(path)?;
        if tree.partial_dirs().around(path).is_none() {
            tree.mark_unsynced(path.split().unwrap().0);
        }
        match dir.make_dir_at(name.as_bytes(), 0o755) {
            Err(Errno::EXIST) => {
                let _ = dir.open_dir_at(name.as_bytes()).and_then(|inner| inner.fchmod(0o755));
                Ok(())
            }
            other => crate::store::error::At::at(other, "make directory", path),
        }
    }

    fn is_unchanged(tree: &Tree<Handle>, path: &RemotePath, wanted: (usize, Time)) -> bool {
        let Ok((dir, name)) = tree.parent(path) else {
            return false;
        };
        dir.stat_at(name.as_bytes())
            .is_ok_and(|found| (found.st_size as usize, mtime(&found)) == wanted)
    }

    fn put_large(tree: &Arc<Tree<Handle>>, path: &RemotePath, version: usize) -> bool {
        let request = StageRequest {
            who: "writer".into(),
            if_version: None,
            durability: Durability::Durable,
            size: None,
            window: 32 << 20,
            source: Some(format!("large {version}")),
        };
        let Ok(staged) = crate::store::local::stage::stage(tree, path, &request, None) else {
            return false;
        };
        let bytes = content("large", version);
        let written = staged.write_now(0, &[Arc::new(bytes.clone())]);
        written
            .and_then(|()| staged.commit_now(bytes.len() as u64, &attributes(version)))
            .is_ok()
    }

    /// Runs a transfer of some files in one version: the source has no others at the time.
    fn transfer(&mut self, version: usize) -> Ended {
        let all = self.chance.one_in(2);
        let offered = FILES.iter().filter(|_| all || !self.chance.one_in(3)).copied();
        let offered: Vec<_> = offered.collect();
        let ended = self.transfer_of(&offered, version);
        if ended == Ended::Well {
            self.reported.extend(offered.iter().map(|(file, _)| (*file, version)));
        }
        ended
    }

    fn transfer_of(&mut self, offered: &[(&'static str, usize)], version: usize) -> Ended {
        let tree = Arc::new(Tree::strict(Arc::new(self.world.root())));
        for dir in DIRS {
            if let Err(e) = Scenario::make_dir(&tree, &path(&self.within(dir))) {
                self.log.push(format!("{dir}: {e}"));
                return Ended::Failed;
            }
        }
        let mut well = true;
        let mut entries = Vec::new();
        for (file, size) in offered.iter().copied() {
            let at = path(&self.within(file));
            if Scenario::is_unchanged(&tree, &at, (size, attributes(version).mtime)) {
                self.log.push(format!("{file} unchanged"));
                well &= Scenario::note_unchanged(&tree, &at);
            } else if file == "large" {
                well &= Scenario::put_large(&tree, &at, version);
            } else {
                entries.push(NewEntry {
                    path: at,
                    content: Content::File(Arc::new(content(file, version))),
                    attributes: attributes(version),
                    if_version: None,
                });
            }
        }
        let group = 1 + self.chance.below(entries.len().max(1));
        for group in entries.chunks(group) {
            let results = put_whole(&tree, group, "writer", Durability::Durable);
            well &= results.iter().all(Result::is_ok);
            let failed = results.iter().filter_map(|result| result.as_ref().err());
            self.log.extend(failed.map(|e| format!("put: {e}")));
        }
        for dir in DIRS.iter().rev() {
            let of = (path(&self.within(dir)), Some(attributes(7)));
            for end in complete(&tree, &[of], Durability::Durable) {
                if let Err(e) = end {
                    self.log.push(format!("{dir}: {e}"));
                    well = false;
                }
            }
        }
        match tree.sync().is_ok() && well {
            true => Ended::Well,
            false => Ended::Failed,
        }
    }

    fn note_unchanged(tree: &Arc<Tree<Handle>>, path: &RemotePath) -> bool {
        let pending = crate::store::local::unchanged::Unchanged::new(tree);
        let Ok((dir, name)) = tree.parent(path) else {
            return false;
        };
        dir.stat_at(name.as_bytes()).is_ok_and(|found| {
            let version = crate::store::local::inode::version(&found);
            let noted = pending.note(&(path.clone(), crate::store::Kind::File, version));
            noted.is_ok() && pending.sync().is_ok()
        })
    }

    /// What is there under its name is complete, and all that was reported is there.
    fn check(&mut self) -> Result<(), String> {
        let intruded = self.intruded.load(Ordering::Relaxed) > 0;
        for (file, _) in FILES {
            let at = path(&self.within(file));
            let found = self.world.content(&self.within(file));
            let versions = match self.reported.get(file) {
                Some(version) => *version..=self.newest,
                None => 1..=self.newest,
            };
            let is_whole = |found: &Vec<u8>| {
                let mut versions = versions.clone();
                versions.any(|version| content(file, version) == *found)
            };
            let fits = match &found {
                None => !self.reported.contains_key(file),
                Some(found) => is_whole(found) || intruded && found == b"theirs",
            };
            if !fits {
                let wrong =
                    format!("{file} is {found:02x?} at {at:?}, reported {:?}", self.reported);
                return Err(format!("{wrong}\n{}", self.log.join("\n")));
            }
        }
        Ok(())
    }

    /// Lets another process come in between, at some call.
    fn intrude(&mut self) {
        let calls = self.chance.below(CALLS) as u64;
        let (top, made) = (self.top, self.intruded.clone());
        let takes_lock = self.chance.one_in(2);
        let intruder = move |world: &World| {
            let tree = Tree::strict(Arc::new(world.root()));
            let at = path(top);
            if takes_lock {
                let _ = unlock(&tree, &at, UnlockMode::Force);
                return;
            }
            let Ok((dir, name)) = tree.parent(&at) else {
                return;
            };
            if dir.make_dir_at(name.as_bytes(), 0o755).is_ok() {
                made.fetch_add(1, Ordering::Relaxed);
                let file = dir
                    .open_dir_at(name.as_bytes())
                    .and_then(|inner| inner.create_at(b"a", OFlags::WRONLY, 0o644));
                let _ = file.and_then(|file| file.pwrite_all(b"theirs", 0));
            }
        };
        self.world.intrude_after(calls, Box::new(intruder));
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..2 + self.chance.below(4) {
            self.newest += usize::from(self.chance.one_in(3));
            let fault = self.chance.below(8);
            match fault {
                0..4 => self.world.stop_after(self.chance.below(CALLS) as u64),
                4 => {
                    let count = 1 + self.chance.below(3) as u64;
                    self.world.fail_some_after(self.chance.below(CALLS) as u64, count);
                }
                5 => self.intrude(),
                _ => {}
            }
            self.log.push(format!("transfer of {}, fault {fault}", self.newest));
            let ended = self.transfer(self.newest);
            let stopped = self.world.calm();
            self.log.push(format!("{ended:?}, stopped {stopped}"));
            if ended == Ended::Failed && fault > 5 {
                return Err(format!("it fails without a fault\n{}", self.log.join("\n")));
            }
            // what another process has written is not synced by anybody
            let power = self.intruded.load(Ordering::Relaxed) == 0 && self.chance.one_in(2);
            if stopped || fault == 6 {
                self.log.push(format!("power {power}"));
                match power {
                    true => self.world.lose_power(),
                    false => self.world.kill(),
                }
            }
            self.check()?;
        }
        self.log.push("the last transfer".into());
        if self.transfer(self.newest) == Ended::Failed {
            return Err(format!("it fails without a fault\n{}", self.log.join("\n")));
        }
        self.check()?;
        self.world.lose_power();
        self.check()
    }
}

#[test]
fn whatever_happens_at_any_call_a_new_directory_has_complete_files_only() {
    each_seed(10_000, "partial_dir", |seed| Scenario::new(seed).run());
}
