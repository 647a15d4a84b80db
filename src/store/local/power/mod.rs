//! Power loss, kills and other writers at any system call: the real code over the model file
//! system, from a seed.
//!
//! A machine runs several transfers of small and larger files, of sources that change and change
//! back, some without fsync. It is stopped at some call, and restarted. Whatever happens, a target
//! is one complete version of one source, and every version that was reported as done, or as
//! unchanged, survives a power loss.

mod backup;
mod expected;
mod samples;
mod steps;

use crate::store::local::inode::mtime;
use crate::store::local::partial::unlock;
use crate::store::local::small::put_whole;
use crate::store::local::sys::Directory;
use crate::store::local::sys::model::{Chance, Device, Handle, World, each_seed};
use crate::store::local::times::Times;
use crate::store::local::tree::Tree;
use crate::store::{Content, Durability, NewEntry, Resume, Staging, UnlockMode};
use expected::Expected;
use parking_lot::Mutex;
use samples::{PART, SMALL, TARGETS, attributes, content, path, point, source};
use std::collections::BTreeMap;
use std::sync::Arc;
use steps::{Staged, begin, settle, write};

/// About as many calls as a transfer makes: faults come within so many.
const CALLS: usize = 260;

struct Scenario {
    world: World,
    chance: Chance,
    expected: BTreeMap<&'static str, Expected>,
    /// The newest version of each source.
    newest: BTreeMap<&'static str, usize>,
    /// One larger file, of two sources in turn, and nothing else: it is resumed, or not, many
    /// times.
    one_file: bool,
    log: Vec<String>,
}

/// Where a larger file may end.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// Only where it is complete.
    Complete,
    /// Also when its writer gives up.
    Anywhere,
}

/// A writer that came in between, and the version that it writes.
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

    /// Picks a version of a source: the current one, the one before, or a new one.
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

    /// True if a target looks like this version of its source.
    fn is_unchanged(
        tree: &Tree<Handle>,
        times: &Times<Handle>,
        target: &str,
        version: usize,
    ) -> bool {
        let Ok((dir, name)) = tree.parent(&path(target)) else {
            return false;
        };
        let Ok(found) = dir.stat_at(name.as_bytes()) else {
            return false;
        };
        let same_size = found.st_size as usize == content(target, version).len();
        same_size && times.is_same(&path(target), attributes(version).mtime, mtime(&found))
    }

    /// Runs one transfer; true if it ended without an error.
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
        let end = if all { End::Complete } else { End::Anywhere };
        // on the first device most often enough for one syncfs
        while !entries.is_empty() {
            let group: Vec<_> = entries.drain(..entries.len().min(16)).collect();
            well &= self.put_group(&tree, &group, durability);
        }
        for (target, version) in larger {
            well &= self.put_large(&tree, (target, version), durability, end);
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

    /// Reports a target that was written completely: its content is known again.
    fn put(&mut self, target: &'static str, version: usize, durability: Durability) {
        self.expected.get_mut(target).unwrap().lost &= !durability.is_durable();
        self.report(target, version, durability);
    }

    fn attempt(&mut self, target: &'static str, version: usize, durability: Durability) {
        self.log.push(format!("{target} {version} begins"));
        self.expected.get_mut(target).unwrap().attempted(version, durability);
    }

    fn put_group(
        &mut self,
        tree: &Tree<Handle>,
        group: &[(&'static str, usize)],
        durability: Durability,
    ) -> bool {
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

    /// Writes a larger file: from a checkpoint on, with checkpoints, given up, or of a source that
    /// changes meanwhile.
    fn put_large(
        &mut self,
        tree: &Arc<Tree<Handle>>,
        (target, mut version): (&'static str, usize),
        durability: Durability,
        end: End,
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
                3 if end == End::Anywhere => return true,
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
        match staged.commit_now(bytes.len() as u64, &attributes(version)) {
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

    /// Checks every target.
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
                // no other version can appear any more
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

    /// Lets another process take the lock away and write, at some call.
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
                // it continues, not knowing what has happened since
                let target = std::str::from_utf8(staged.path().as_bytes()).unwrap().to_string();
                let target = TARGETS.iter().find(|(name, _)| **name == target).unwrap().0;
                let whole = content(target, version);
                let written =
                    (PART..whole.len()).step_by(PART).all(|at| write(&staged, at, &whole));
                if written && staged.commit_now(whole.len() as u64, &attributes(version)).is_ok() {
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

#[test]
fn whatever_happens_at_any_call_a_target_is_one_version_and_what_was_reported_is_there() {
    each_seed(20_000, "power", |seed| Scenario::new(seed).run());
}
