//! Power loss, kills and rude neighbours at any system call: the real code over the model file system, from a seed.
//!
//! A machine gets several transfers of small and larger files, of sources that change and change back, some without
//! fsync; it is stopped at some call, and started again. Whatever happens, a target is one whole version of one source,
//! and what was reported as done, or as unchanged, is there after a power loss.

use super::inode::{mtime, version};
use super::partial::unlock;
use super::small::put_whole;
use super::stage::{LocalStaging, stage};
use super::sys::Directory;
use super::sys::model::{Chance, Device, Handle, World};
use super::times::Times;
use super::tree::Tree;
use super::unchanged::Unchanged;
use crate::store::error::At;
use crate::store::{
    Attributes, Checkpoint, Content, Durability, Kind, NewEntry, RemotePath, Resume, StageRequest, Staging, Time,
    UnlockMode,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Targets, with the sizes of their files: what is larger than this arrives in parts.
const SMALL: usize = 24;
const TARGETS: [(&str, usize); 19] = [
    ("a", 5),
    ("b", 8),
    ("sub/a", 16),
    ("sub/b", 17),
    ("mount/a", 9),
    ("mount/b", 20),
    ("mount/c", 3),
    ("mount/d", 3),
    ("c", 1),
    ("d", 23),
    ("e", 4),
    ("f", 2),
    ("g", 7),
    ("h", 12),
    ("sub/c", 6),
    ("sub/d", 21),
    ("large", 64),
    ("sub/large", 57),
    ("mount/large", 72),
];
/// Bytes of a part, and of what a checkpoint's offset is a multiple of.
const PART: usize = 8;
/// A transfer's calls, about: faults come within so many.
const CALLS: usize = 260;

/// A version of a source, as a sender would offer it.
fn content(target: &str, version: usize) -> Vec<u8> {
    let size = TARGETS.iter().find(|(name, _)| *name == target).unwrap().1;
    let hash = blake3::hash(format!("{target} {version}").as_bytes());
    let mut content: Vec<u8> = hash.as_bytes().iter().copied().cycle().take(size).collect();
    // a larger one has holes
    if let Some(hole) = content.get_mut(3 * PART..5 * PART) {
        hole.fill(0);
    }
    content
}

fn attributes(version: usize) -> Attributes {
    let mtime = Time {
        secs: 1_000_000_001 + 3 * version as i64,
        nanos: 987_654_321,
    };
    Attributes {
        mtime,
        mode: 0o644,
        ..Attributes::default()
    }
}

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).unwrap()
}

/// What may be found of a target.
#[derive(Default)]
struct Expected {
    /// Versions that may be there, 0 for none, by what this process has done; and after a power loss.
    now: Vec<usize>,
    on_disk: Vec<usize>,
    /// It was written without fsync since it was last known durable: a power loss may leave anything.
    unsynced: bool,
    /// That happened: nothing is known of it any more.
    lost: bool,
}

impl Expected {
    fn attempted(&mut self, version: usize, durability: Durability) {
        self.unsynced |= !durability.is_durable();
        self.now.push(version);
        self.on_disk.push(version);
    }

    fn reported(&mut self, version: usize, durability: Durability) {
        self.now = vec![version];
        self.unsynced |= !durability.is_durable();
        if durability.is_durable() {
            (self.on_disk, self.unsynced) = (vec![version], false);
        } else {
            self.on_disk.push(version);
        }
    }
}

struct Scenario {
    world: World,
    chance: Chance,
    expected: BTreeMap<&'static str, Expected>,
    /// The newest version of each source.
    newest: BTreeMap<&'static str, usize>,
    /// One larger file, of two sources in turn, and nothing else: it is resumed, or not, again and again.
    one_file: bool,
    log: Vec<String>,
}

type Staged = LocalStaging<Handle>;

/// A writer that came in between, with what it writes.
type Other = Arc<Mutex<Option<(Staged, usize)>>>;

impl Scenario {
    fn new(seed: u64) -> Scenario {
        let mut chance = Chance::new(seed);
        let mut device = || {
            let (fs_type, syncfs_lies) = *chance.of(&[
                (0xEF53, false),
                (0x5846_5342, false),
                (0x9123_683E, false),
                (0x6573_5546, true),
            ]);
            Device {
                fs_type,
                syncfs_lies,
                granularity: *chance.of(&[1, 1, 1_000_000_000, 2_000_000_000]),
                has_birth: !chance.one_in(3),
            }
        };
        let devices = vec![device(), device()];
        let none = || Expected {
            now: vec![0],
            on_disk: vec![0],
            ..Expected::default()
        };
        Scenario {
            log: vec![format!("{devices:?}")],
            world: World::new(seed, devices),
            chance,
            expected: TARGETS.iter().map(|(name, _)| (*name, none())).collect(),
            newest: TARGETS.iter().map(|(name, _)| (*name, 1)).collect(),
            one_file: seed % 2 == 1,
        }
    }

    fn tree(&self) -> Arc<Tree<Handle>> {
        Arc::new(Tree::strict(Arc::new(self.world.root())))
    }

    /// A version of a source: what it is now, or before, or has just become.
    fn version(&mut self, target: &'static str) -> usize {
        if self.one_file {
            return 1 + self.chance.below(2);
        }
        let newest = self.newest.get_mut(target).unwrap();
        match self.chance.below(4) {
            0 => *newest += 1,
            1 if *newest > 1 => return *newest - 1,
            _ => {}
        }
        *newest
    }

    /// True where a target looks as this version of its source would.
    fn is_unchanged(tree: &Tree<Handle>, times: &Times<Handle>, target: &str, version: usize) -> bool {
        let Ok((dir, name)) = tree.parent(&path(target)) else {
            return false;
        };
        let Ok(found) = dir.stat_at(name.as_bytes()) else {
            return false;
        };
        let same_size = found.st_size as usize == content(target, version).len();
        same_size && times.is_same(&path(target), attributes(version).mtime, mtime(&found))
    }

    /// One transfer; true when it got to its end without an error.
    fn transfer(&mut self, durability: Durability, all: bool) -> bool {
        let tree = self.tree();
        let times = Times::new(&tree);
        let (mut unchanged, mut entries, mut larger) = (Vec::new(), Vec::new(), Vec::new());
        for (target, size) in TARGETS {
            if self.one_file && target != "large" || !all && self.chance.one_in(3) {
                continue;
            }
            let version = self.version(target);
            if Scenario::is_unchanged(&tree, &times, target, version) {
                unchanged.push((target, version));
            } else if size <= SMALL {
                entries.push((target, version));
            } else {
                larger.push((target, version));
            }
        }
        let mut well = true;
        // on the first device enough for one syncfs, most often
        while !entries.is_empty() {
            let group: Vec<_> = entries.drain(..entries.len().min(16)).collect();
            well &= self.put_group(&tree, &group, durability);
        }
        for (target, version) in larger {
            well &= self.put_large(&tree, target, version, durability, all);
        }
        let synced = !durability.is_durable() || settle(&tree, &unchanged);
        if synced {
            for (target, version) in unchanged {
                self.report(target, version, durability);
            }
        }
        well && synced
    }

    fn report(&mut self, target: &'static str, version: usize, durability: Durability) {
        self.log.push(format!("{target} {version} done, {durability:?}"));
        self.expected.get_mut(target).unwrap().reported(version, durability);
    }

    /// The whole target is new: it is known again.
    fn put(&mut self, target: &'static str, version: usize, durability: Durability) {
        self.expected.get_mut(target).unwrap().lost &= !durability.is_durable();
        self.report(target, version, durability);
    }

    fn attempt(&mut self, target: &'static str, version: usize, durability: Durability) {
        self.log.push(format!("{target} {version} begins"));
        self.expected.get_mut(target).unwrap().attempted(version, durability);
    }

    fn put_group(&mut self, tree: &Tree<Handle>, group: &[(&'static str, usize)], durability: Durability) -> bool {
        let entry = |(target, version): &(&'static str, usize)| NewEntry {
            path: path(target),
            content: Content::File(Arc::new(content(target, *version))),
            attributes: attributes(*version),
            if_version: None,
        };
        let entries: Vec<NewEntry> = group.iter().map(entry).collect();
        for (target, version) in group {
            self.attempt(target, *version, durability);
        }
        let results = put_whole(tree, &entries, "writer", durability);
        for ((target, version), result) in group.iter().zip(&results) {
            match result {
                Ok(_) => self.put(target, *version, durability),
                Err(e) => self.log.push(format!("{target}: {e}")),
            }
        }
        results.iter().all(Result::is_ok)
    }

    /// A larger file: from a checkpoint on, with checkpoints, cut off or of a source that changes meanwhile.
    fn put_large(
        &mut self,
        tree: &Arc<Tree<Handle>>,
        target: &'static str,
        mut version: usize,
        durability: Durability,
        to_the_end: bool,
    ) -> bool {
        self.attempt(target, version, durability);
        let mut staged = match begin(tree, target, version, durability) {
            Ok(staged) => staged,
            Err(e) => {
                self.log.push(format!("{target}: {e}"));
                return false;
            }
        };
        let mut at = match staged.resume() {
            Resume::From(point) => point.offset as usize,
            _ => 0,
        };
        self.log.push(format!("{target} {version} from {at}"));
        let mut bytes = content(target, version);
        while at < bytes.len() {
            if !write(&staged, at, &bytes) {
                return false;
            }
            at += PART;
            match self.chance.below(16) {
                0..3 if at < bytes.len() => {
                    self.log.push(format!("{target} {version} checkpoint {at}"));
                    if staged.checkpoint_now(&point(&bytes, at)).is_err() {
                        return false;
                    }
                }
                3 if !to_the_end => return true,
                4 if self.chance.one_in(3) => {
                    version = self.version(target);
                    self.attempt(target, version, durability);
                    if staged.restart_now(Some(source(target, version))).is_err() {
                        return false;
                    }
                    (bytes, at) = (content(target, version), 0);
                }
                _ => {}
            }
        }
        match staged.commit_now(bytes.len() as u64, attributes(version)) {
            Ok(_) => {
                self.put(target, version, durability);
                true
            }
            Err(e) => {
                self.log.push(format!("{target}: {e}"));
                false
            }
        }
    }

    /// Looks at every target.
    fn check(&mut self, after_power_loss: bool) -> Result<(), String> {
        for (target, expected) in &mut self.expected {
            let found = self.world.content(target);
            let may = match after_power_loss {
                true => &expected.on_disk,
                false => &expected.now,
            };
            expected.lost |= after_power_loss && expected.unsynced;
            let is = |version: &usize| match version {
                0 => found.is_none(),
                version => found.as_ref() == Some(&content(target, *version)),
            };
            if let Some(version) = may.iter().find(|version| is(version)).copied() {
                // nothing else can come of it
                if after_power_loss && !expected.unsynced {
                    (expected.now, expected.on_disk) = (vec![version], vec![version]);
                }
            } else if !expected.lost {
                let wrong = format!("{target} is {found:02x?}, not one of {may:?}");
                return Err(format!("{wrong}\n{}", self.log.join("\n")));
            }
        }
        Ok(())
    }

    /// Another process takes the lock away and writes, at some call.
    fn intrude(&mut self, calls: usize) -> Other {
        let other = Other::default();
        let target = match self.one_file {
            true => "large",
            false => self.chance.of(&TARGETS).0,
        };
        let version = self.newest[target];
        self.newest.insert(target, version + 2);
        self.attempt(target, version + 1, Durability::Durable);
        let (slot, calls) = (other.clone(), self.chance.below(calls) as u64);
        let takes_over = move |world: &World| {
            let tree = Arc::new(Tree::strict(Arc::new(world.root())));
            let _ = unlock(&tree, &path(target), UnlockMode::Force);
            let Ok(staged) = begin(&tree, target, version + 1, Durability::Durable) else {
                return;
            };
            if write(&staged, 0, &content(target, version + 1)) {
                *slot.lock() = Some((staged, version + 1));
            }
        };
        self.world.intrude_after(calls, Box::new(takes_over));
        other
    }

    fn run(&mut self) -> Result<(), String> {
        let (transfers, calls) = match self.one_file {
            true => (4 + self.chance.below(8), CALLS / 5),
            false => (2 + self.chance.below(4), CALLS),
        };
        for _ in 0..transfers {
            let durability = match self.chance.one_in(5) {
                true => Durability::Volatile,
                false => Durability::Durable,
            };
            let fault = self.chance.below(8);
            let mut other = Other::default();
            match fault {
                4 => self.world.fail_after(self.chance.below(calls) as u64),
                0..4 => self.world.stop_after(self.chance.below(calls) as u64),
                5 => other = self.intrude(calls),
                _ => {}
            }
            self.log.push(format!("transfer, {durability:?}, fault {fault}"));
            let all = self.chance.one_in(2);
            let well = self.transfer(durability, all);
            let stopped = self.world.calm();
            if !well && fault > 5 {
                return Err(format!("it fails without a fault\n{}", self.log.join("\n")));
            }
            if stopped || fault == 6 {
                let power = !self.chance.one_in(3);
                self.log.push(format!("stopped {stopped}, power {power}"));
                match power {
                    true => self.world.lose_power(),
                    false => self.world.kill(),
                }
                self.check(power)?;
            } else {
                self.check(false)?;
            }
            if let Some((staged, version)) = other.lock().take() {
                // it goes on, not knowing what has happened since
                let target = std::str::from_utf8(staged.path().as_bytes()).unwrap().to_string();
                let target = TARGETS.iter().find(|(name, _)| **name == target).unwrap().0;
                let whole = content(target, version);
                let written = (PART..whole.len()).step_by(PART).all(|at| write(&staged, at, &whole));
                if written && staged.commit_now(whole.len() as u64, attributes(version)).is_ok() {
                    self.report(target, version, Durability::Durable);
                }
                drop(staged);
                self.check(false)?;
            }
        }
        self.log.push("the last transfer".into());
        if !self.transfer(Durability::Durable, true) {
            return Err(format!("it fails without a fault\n{}", self.log.join("\n")));
        }
        self.check(false)?;
        self.world.lose_power();
        self.check(true)
    }
}

fn source(target: &str, version: usize) -> String {
    format!("source of {target} {version}")
}

fn begin(
    tree: &Arc<Tree<Handle>>,
    target: &str,
    version: usize,
    durability: Durability,
) -> Result<Staged, crate::store::StoreError> {
    let request = StageRequest {
        who: "writer".into(),
        if_version: None,
        durability,
        source: Some(source(target, version)),
    };
    stage(tree, &path(target), &request, None)
}

fn write(staged: &Staged, at: usize, whole: &[u8]) -> bool {
    let part = whole[at..(at + PART).min(whole.len())].to_vec();
    match part.iter().all(|byte| *byte == 0) {
        true => staged.hole_now(at as u64, part.len() as u64).is_ok(),
        false => staged.write_now(at as u64, &[Arc::new(part)]).is_ok(),
    }
}

fn point(bytes: &[u8], at: usize) -> Checkpoint {
    Checkpoint {
        offset: at as u64,
        digests: vec![*blake3::hash(&bytes[..at]).as_bytes()],
    }
}

/// What the end of a transfer makes durable.
fn settle(tree: &Arc<Tree<Handle>>, unchanged: &[(&'static str, usize)]) -> bool {
    let pending = Unchanged::new(tree);
    let note = |(target, _): &(&'static str, usize)| {
        let (dir, name) = tree.parent(&path(target))?;
        let found = dir.stat_at(name.as_bytes()).at("stat", &path(target))?;
        pending.note(&(path(target), Kind::File, version(&found)))
    };
    unchanged.iter().map(note).all(|noted| noted.is_ok()) && pending.sync().is_ok()
}

#[test]
fn whatever_happens_at_any_call_a_target_is_one_version_and_what_was_reported_is_there() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("HAUL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HAUL_SEEDS").unwrap_or(20_000),
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let seeds = seeds.clone();
            scope.spawn(move || {
                for seed in seeds.filter(|seed| seed % threads == thread) {
                    if let Err(why) = Scenario::new(seed).run() {
                        panic!("{why}\nagain: HAUL_SEED={seed} cargo test --lib power");
                    }
                }
            });
        }
    });
}
