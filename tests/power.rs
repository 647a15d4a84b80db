//! Power loss after an acknowledgement. The server's system calls, in the order in which strace saw
//! them, drive a model of a disk that keeps nothing but fsynced data and names.

use crate::support::tree::{bytes, partial_dir, write};
use crate::support::{Server, has_strace};
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

/// A file's or a directory's number in the model.
type Inode = usize;
/// Names in a directory.
type Names = HashMap<String, Inode>;

/// The state of memory and disk.
#[derive(Default)]
struct Disk {
    inodes: usize,
    now: HashMap<PathBuf, Inode>,
    /// The names of each directory that are on the disk.
    names: HashMap<Inode, Names>,
    /// Files with written data that is not on the disk.
    dirty: HashMap<Inode, bool>,
}

impl Disk {
    fn inode(&mut self, path: &Path) -> Inode {
        if let Some(known) = self.now.get(path) {
            return *known;
        }
        self.inodes += 1;
        self.now.insert(path.to_path_buf(), self.inodes);
        self.inodes
    }

    fn sync(&mut self, path: &Path) {
        let inode = self.inode(path);
        self.dirty.insert(inode, false);
        let children = self.now.iter().filter(|(p, _)| p.parent() == Some(path));
        let names =
            children.map(|(p, i)| (p.file_name().unwrap().to_string_lossy().into_owned(), *i));
        let names: Names = names.collect();
        self.names.insert(inode, names);
    }

    /// syncfs: everything.
    fn sync_all(&mut self) {
        let paths: Vec<PathBuf> = self.now.keys().cloned().collect();
        paths.iter().for_each(|path| self.sync(path));
    }

    /// A directory takes what is in it along.
    fn rename(&mut self, from: &Path, to: &Path) {
        let moved: Vec<PathBuf> =
            self.now.keys().filter(|p| p.starts_with(from)).cloned().collect();
        for path in moved {
            let inode = self.now.remove(&path).unwrap();
            let rest = path.strip_prefix(from).unwrap();
            let path = if rest.as_os_str().is_empty() {
                to.to_path_buf()
            } else {
                to.join(rest)
            };
            self.now.insert(path, inode);
        }
    }

    /// True if a file with all its data is at this path after a power loss.
    fn survives(&self, root: &Path, path: &Path) -> bool {
        let Some(mut inode) = self.now.get(root).copied() else {
            return false;
        };
        for name in path.components() {
            let name = name.as_os_str().to_string_lossy();
            let Some(next) = self.names.get(&inode).and_then(|names| names.get(&*name)) else {
                return false;
            };
            inode = *next;
        }
        self.dirty.get(&inode).is_none_or(|dirty| !dirty)
    }
}

/// A call of the trace: the time of its end, its name, and its arguments with the paths of
/// descriptors.
struct Call {
    at: f64,
    name: String,
    arguments: String,
}

fn calls(log: &str) -> Vec<Call> {
    let mut begun = HashMap::<&str, String>::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        // PID, which is padded to a column, time, call
        let Some((pid, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((at, rest)) = rest.trim_start().split_once(' ') else {
            continue;
        };
        let Ok(at) = at.parse() else { continue };
        let whole = if let Some(head) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(pid, head.to_string());
            continue;
        } else if let Some((_, tail)) = rest.split_once(" resumed>") {
            begun.remove(pid).unwrap_or_default() + tail
        } else {
            rest.to_string()
        };
        let Some((call, result)) = whole.rsplit_once(" = ") else {
            continue;
        };
        if result.starts_with('-') {
            continue;
        }
        let Some((name, arguments)) = call.split_once('(') else {
            continue;
        };
        let arguments = format!("{arguments} = {result}");
        let name = name.to_string();
        calls.push(Call {
            at,
            name,
            arguments,
        });
    }
    calls
}

/// The paths in `<…>` and the names in quotes, in order.
fn paths(arguments: &str) -> (Vec<PathBuf>, Vec<String>) {
    let angled = arguments.split('<').skip(1).filter_map(|s| s.split('>').next());
    let quoted = arguments.split('"').skip(1).step_by(2).map(str::to_string);
    (angled.map(PathBuf::from).collect(), quoted.collect())
}

fn replay(log: &str, until: f64) -> Disk {
    let mut disk = Disk::default();
    for call in calls(log).into_iter().filter(|c| c.at <= until) {
        let (dirs, names) = paths(&call.arguments);
        match (call.name.as_str(), dirs.as_slice(), names.as_slice()) {
            ("openat", [dir, ..], [name, ..]) if call.arguments.contains("O_CREAT") => {
                let path = dir.join(name);
                disk.inode(dir);
                disk.inode(&path);
            }
            ("mkdirat", [dir, ..], [name, ..]) => {
                let inode = disk.inode(&dir.join(name));
                disk.dirty.insert(inode, false);
            }
            ("pwrite64" | "pwritev", [file, ..], _) => {
                let inode = disk.inode(file);
                disk.dirty.insert(inode, true);
            }
            ("fsync" | "fdatasync", [file, ..], _) => disk.sync(file),
            ("syncfs", ..) => disk.sync_all(),
            ("renameat", [from, to, ..], [old, new, ..]) => {
                disk.rename(&from.join(old), &to.join(new))
            }
            ("unlinkat", [dir, ..], [name, ..]) => drop(disk.now.remove(&dir.join(name))),
            _ => {}
        }
    }
    disk
}

/// Puts a tree; returns the trace, and when the client knew of each file.
fn put(arguments: &[&str]) -> (Server, String, Vec<(PathBuf, f64)>) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    // a slow fsync: an acknowledgement that does not wait for it comes long before its end
    let trace = "trace=openat,mkdirat,pwrite64,pwritev,fsync,fdatasync,syncfs,renameat,unlinkat";
    let slow = "inject=fsync,fdatasync,syncfs:delay_enter=30000";
    let prefix = [
        "strace",
        "-D",
        "-f",
        "-y",
        "-ttt",
        "-o",
        log.to_str().unwrap(),
        "-e",
        trace,
        "-e",
        slow,
    ];
    let mut server = Server::under(&prefix, &[]);
    let client = server.client();
    let tree = client.work().join("tree");
    for n in 0..40 {
        write(&tree.join(format!("small/{}/{n:02}", n % 4)), &bytes(n, 2000));
    }
    write(&tree.join("deep/er/large"), &bytes(1, 5 << 20));
    let mut command =
        client.command(["put", "-r", "--json"].iter().chain(arguments).chain(&["tree", "srv:"]));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut known = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "file" {
            known.push((PathBuf::from(event["path"].as_str().unwrap()), at));
        }
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(known.len(), 41);
    server.signal(rustix::process::Signal::TERM);
    server.wait();
    let text = std::fs::read_to_string(&log).unwrap();
    (server, text, known)
}

#[test]
fn what_was_acknowledged_survives_power_loss() {
    if !has_strace() {
        return;
    }
    let (server, log, known) = put(&["--no-whole-dirs"]);
    let root = server.root.canonicalize().unwrap();
    for (path, at) in &known {
        assert!(replay(&log, *at).survives(&root, path), "{} is lost", path.display());
    }
    // and a tree that was put without fsync does not: the model can tell
    for options in [&["--no-fsync"][..], &["--no-fsync", "--no-whole-dirs"]] {
        let (server, log, known) = put(options);
        let root = server.root.canonicalize().unwrap();
        let lost = known.iter().filter(|(path, at)| !replay(&log, *at).survives(&root, path));
        assert_eq!(lost.count(), known.len());
    }
}

/// A directory that appears whole does so after a power loss, too, at any moment; and the content
/// of every file in it that was acknowledged before that is on the disk.
#[test]
fn a_new_directory_survives_power_loss_whole_or_not_at_all() {
    if !has_strace() {
        return;
    }
    let (server, log, known) = put(&[]);
    let root = server.root.canonicalize().unwrap();
    let partial = partial_dir(&root.join("tree"));
    let at_each_call: Vec<f64> = calls(&log).iter().map(|call| call.at).collect();
    let (mut before, mut after) = (0, 0);
    for at in &at_each_call {
        let disk = replay(&log, *at);
        let survivors = known.iter().filter(|(path, _)| disk.survives(&root, path)).count();
        match survivors {
            0 => before += 1,
            all if all == known.len() => after += 1,
            some => panic!("{some} of {}", known.len()),
        }
    }
    assert!(before > 100 && after > 0, "{before} {after}");
    assert!(known.iter().all(|(path, _)| replay(&log, f64::MAX).survives(&root, path)));
    for (path, at) in &known {
        let disk = replay(&log, *at);
        let is_there = disk.survives(&root, path) || {
            let inside = path.strip_prefix("tree").unwrap();
            let inode = disk.now.get(&partial.join(inside)).copied();
            inode.is_some_and(|inode| disk.dirty.get(&inode).is_none_or(|dirty| !dirty))
        };
        assert!(is_there, "the content of {} is lost", path.display());
    }
}
