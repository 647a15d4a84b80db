//! Every system call fails once, or is the last: strace makes it so from outside. Whatever happens,
//! exit 0 means that the destination has the right content, every file is the old one or the new
//! one, and the next run succeeds.

use crate::support::tree::{bytes, partial_dir, record_of, snapshot, staged, write};
use crate::support::{Client, Ended, Server, has_strace, run_with, under};
use std::path::{Path, PathBuf};

/// The calls that change something, or make it last.
const CALLS: [&str; 12] = [
    "openat",
    "close",
    "pwrite64",
    "fsync",
    "fdatasync",
    "renameat",
    "ftruncate",
    "fchmod",
    "utimensat",
    "unlinkat",
    "flock",
    "mkdirat",
];
/// What becomes of them.
const FAULTS: [&str; 3] = ["error=EIO", "error=ENOSPC", "signal=SIGKILL"];
/// Errors that are tried only once with each call.
const RARE: [&str; 2] = ["error=EDQUOT", "error=EROFS"];
/// At most so many of one kind are tried, spread over all.
const TRIES: usize = 3;

fn source(dir: &Path) {
    write(&dir.join("large"), &bytes(1, (3 << 20) + 5));
    write(&dir.join("new/small"), &bytes(2, 3000));
    write(&dir.join("small"), &bytes(3, 100));
    std::os::unix::fs::symlink("small", dir.join("link")).unwrap();
}

/// What is there, without what haul has left for its next run or its next sweep.
fn visible(dir: &Path) -> std::collections::BTreeMap<PathBuf, crate::support::tree::Entry> {
    let mut all = snapshot(dir);
    all.retain(|path, _| !path.to_string_lossy().contains(".haul"));
    all
}

/// What is there before.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// Two of the files, older.
    Some,
    /// Not even the directory.
    Nothing,
}

impl Before {
    fn prepare(self, dir: &Path) {
        for place in [dir, &partial_dir(dir), &staged(dir)] {
            let _ = std::fs::remove_dir_all(place).or_else(|_| std::fs::remove_file(place));
        }
        if self == Before::Some {
            write(&dir.join("large"), b"an old one");
            write(&dir.join("small"), b"old");
        }
    }
}

#[track_caller]
fn old_or_new(before: Before, dir: &Path, source: &Path, what: &str) {
    for name in ["large", "small", "new/small"] {
        let Ok(found) = std::fs::read(dir.join(name)) else {
            let was_there = before == Before::Some && name != "new/small";
            assert!(!was_there, "{what}: {name} is gone");
            continue;
        };
        let new = std::fs::read(source.join(name)).unwrap();
        let is_old = found == b"an old one" || found == b"old";
        assert!(found == new || is_old, "{what}: {name} is neither old nor new");
    }
}

fn strace(log: &Path, options: &[&str]) -> Vec<String> {
    // -D: strace is not the parent, so that a signal to the child goes to haul
    let fixed = ["strace", "-D", "-f", "-qq", "-o", log.to_str().unwrap()];
    fixed.iter().chain(options).map(ToString::to_string).collect()
}

/// How often each call is made by any one thread.
fn counts(log: &Path) -> Vec<(&'static str, usize)> {
    let text = std::fs::read_to_string(log).unwrap();
    let most = |call: &str| {
        let mut by_thread = std::collections::HashMap::<&str, usize>::new();
        for line in text.lines().filter(|l| l.contains(&format!(" {call}("))) {
            *by_thread.entry(line.split_whitespace().next().unwrap()).or_default() += 1;
        }
        by_thread.into_values().max().unwrap_or(0)
    };
    CALLS.into_iter().map(|call| (call, most(call))).collect()
}

/// Which of `count` calls are tried.
fn picks(count: usize) -> Vec<usize> {
    match count {
        0 => Vec::new(),
        n if n <= TRIES => (1..=n).collect(),
        n => vec![1, n.div_ceil(2), n],
    }
}

/// The options that let this call fail, where it is about one of these paths.
fn inject(call: &str, fault: &str, at: usize, paths: &[PathBuf]) -> Vec<String> {
    let mut options = vec![
        "-e".into(),
        format!("trace={call}"),
        "-e".into(),
        format!("inject={call}:{fault}:when={at}"),
    ];
    options.extend(paths.iter().flat_map(|path| ["-P".to_string(), path.display().to_string()]));
    options
}

/// The directories and partial files of the sample tree in `dir`: what a library does elsewhere
/// when a program starts does not count.
fn places(before: Before, dir: &Path) -> Vec<PathBuf> {
    let mut places = vec![dir.parent().unwrap().canonicalize().unwrap()];
    let dir = places[0].join(dir.file_name().unwrap());
    // where files are written: those of a new directory have no partial files
    let (top, new) = match before {
        Before::Some => (dir.clone(), partial_dir(&dir.join("new"))),
        Before::Nothing => (partial_dir(&dir), partial_dir(&dir).join("new")),
    };
    places.extend([dir.clone(), top.clone(), new.clone(), new.join("small")]);
    places.extend([staged(&dir), staged(&dir.join("new")), record_of(&top.join("large"))]);
    for name in ["large", "small", "link"] {
        places.extend([staged(&top.join(name)), top.join(name)]);
    }
    places
}

#[test]
fn a_get_survives_every_call_that_fails_or_is_the_last() {
    get_survives(Before::Some);
}

#[test]
fn a_get_of_a_new_tree_survives_every_call_that_fails_or_is_the_last() {
    get_survives(Before::Nothing);
}

fn get_survives(before: Before) {
    if !has_strace() {
        return;
    }
    let server = Server::start();
    source(&server.root.join("tree"));
    let client = server.client();
    let (tree, log) = (client.work().join("tree"), client.dir.path().join("log"));
    let get = |client: &Client, options: &[&str]| -> Ended {
        let command = client.command(["get", "-r", "--retry-for=1s", "srv:tree", "."]);
        Ended::of(run_with(under(command, &strace(&log, options)), b""))
    };
    before.prepare(&tree);
    let plain = get(&client, &["-e", &format!("trace={}", CALLS.join(","))]);
    assert_eq!(plain.code, 0, "{plain:?}");
    let new = snapshot(&server.root.join("tree"));
    assert_eq!(visible(&tree), new);
    let mut failed = 0;
    for (call, count) in counts(&log) {
        for at in picks(count) {
            for fault in FAULTS.into_iter().chain(RARE).filter(|f| at == 1 || !RARE.contains(f)) {
                let what = format!("{call} {at} of {count}: {fault}");
                before.prepare(&tree);
                let options = inject(call, fault, at, &places(before, &tree));
                let ended = get(&client, &options.iter().map(String::as_str).collect::<Vec<_>>());
                if (call, at, fault) == ("fsync", 1, "error=EIO") {
                    // the next one would succeed, and say nothing of what was lost: it is not asked
                    assert_ne!(ended.code, 0, "{what}: {ended:?}");
                }
                if ended.code == 0 {
                    assert_eq!(visible(&tree), new, "{what}: exit 0");
                } else {
                    failed += 1;
                }
                old_or_new(before, &tree, &server.root.join("tree"), &what);
                let next = client.run(["get", "-r", "srv:tree", "."]);
                assert_eq!(next.code, 0, "{what}: the next run: {next:?}, after {ended:?}");
                assert_eq!(visible(&tree), new, "{what}: the next run");
            }
        }
    }
    assert!(
        failed > 20,
        "only {failed} runs failed: the faults are not where the calls are"
    );
}

#[test]
fn a_put_survives_every_call_of_the_server_that_fails_or_is_the_last() {
    put_survives(Before::Some);
}

#[test]
fn a_put_of_a_new_tree_survives_every_call_of_the_server_that_fails_or_is_the_last() {
    put_survives(Before::Nothing);
}

fn put_survives(before: Before) {
    if !has_strace() {
        return;
    }
    let mut server = Server::start();
    let client = server.client();
    source(&client.work().join("tree"));
    let (tree, log) = (server.root.join("tree"), server.dir.path().join("log"));
    let run = |server: &mut Server, options: &[&str]| -> Ended {
        let prefix = strace(&log, options);
        server.set_prefix(&prefix.iter().map(String::as_str).collect::<Vec<_>>());
        server.kill();
        server.restart();
        let ended = client.run(["put", "-r", "--retry-for=0", "tree", "srv:"]);
        server.set_prefix(&[]);
        server.kill();
        server.restart();
        ended
    };
    before.prepare(&tree);
    let plain = run(&mut server, &["-e", &format!("trace={}", CALLS.join(","))]);
    assert_eq!(plain.code, 0, "{plain:?}");
    let new = snapshot(&client.work().join("tree"));
    assert_eq!(visible(&tree), new);
    let mut failed = 0;
    for (call, count) in counts(&log) {
        for at in picks(count) {
            for fault in FAULTS.into_iter().chain(RARE).filter(|f| at == 1 || !RARE.contains(f)) {
                let what = format!("{call} {at} of {count}: {fault}");
                before.prepare(&tree);
                // the root itself is what a server needs to start at all
                let options = inject(
                    call,
                    fault,
                    at,
                    &places(before, &tree)[usize::from(call == "openat" || call == "close")..],
                );
                let ended =
                    run(&mut server, &options.iter().map(String::as_str).collect::<Vec<_>>());
                if (call, at, fault) == ("fsync", 1, "error=EIO") {
                    // the next one would succeed, and say nothing of what was lost: it is not asked
                    assert_ne!(ended.code, 0, "{what}: {ended:?}");
                }
                if ended.code == 0 {
                    assert_eq!(visible(&tree), new, "{what}: exit 0");
                } else {
                    failed += 1;
                }
                old_or_new(before, &tree, &client.work().join("tree"), &what);
                let next = client.run(["put", "-r", "tree", "srv:"]);
                assert_eq!(next.code, 0, "{what}: the next run: {next:?}, after {ended:?}");
                assert_eq!(visible(&tree), new, "{what}: the next run");
            }
        }
    }
    assert!(
        failed > 20,
        "only {failed} runs failed: the faults are not where the calls are"
    );
}

/// A group of small files is synced by one syncfs where that is known to work. When it fails, each
/// file's own fsync says whether that file is safe.
#[test]
fn a_syncfs_that_fails_is_no_file_that_is_safe() {
    if !has_strace() {
        return;
    }
    let server = Server::start();
    for n in 0..20 {
        write(&server.root.join(format!("tree/{n:02}")), &bytes(n, 3000));
    }
    let client = server.client();
    let log = client.dir.path().join("log");
    let get = |options: &[&str]| {
        let _ = std::fs::remove_dir_all(client.work().join("tree"));
        let command = client.command(["get", "-r", "--retry-for=1s", "srv:tree", "."]);
        Ended::of(run_with(under(command, &strace(&log, options)), b""))
    };
    let trace = ["-e", "trace=syncfs,fsync", "-e", "inject=syncfs:error=EIO"];
    let ended = get(&trace);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(snapshot(&client.work().join("tree")), snapshot(&server.root.join("tree")));
    let seen = std::fs::read_to_string(&log).unwrap();
    if !seen.contains("syncfs(") {
        return; // an older kernel, whose syncfs does not tell of every error
    }
    assert!(seen.matches("fsync(").count() >= 20, "{seen}");
    let ended = get(&[&trace[..], &["-e", "inject=fsync:error=EIO:when=1"]].concat());
    assert_ne!(ended.code, 0, "{ended:?}");
}

/// Far into a file, chunks go past the page cache, where the file system is good at that.
#[test]
fn what_cannot_go_past_the_page_cache_goes_through_it() {
    if !has_strace() {
        return;
    }
    let server = Server::start();
    let content = bytes(1, (96 << 20) + 4097);
    write(&server.root.join("f"), &content);
    let client = server.client();
    let log = client.dir.path().join("log");
    let file = client.work().join("f");
    let get = |options: &[&str]| {
        let command = client.command(["get", "--retry-for=1s", "srv:f", "."]);
        Ended::of(run_with(under(command, &strace(&log, options)), b""))
    };
    let trace = ["-e", "trace=pwritev,pwrite64"];
    assert_eq!(get(&trace).code, 0);
    assert!(std::fs::read(&file).unwrap() == content);
    if !std::fs::read_to_string(&log).unwrap().contains("pwritev(") {
        return; // another file system
    }
    for when in ["1", "3"] {
        std::fs::remove_file(&file).unwrap();
        let refused = format!("inject=pwritev:error=EINVAL:when={when}");
        assert_eq!(get(&[&trace[..], &["-e", &refused]].concat()).code, 0);
        assert!(std::fs::read(&file).unwrap() == content, "{when}");
    }
    write(&file, b"old");
    let full = "inject=pwritev:error=ENOSPC:when=2";
    let ended = get(&[&trace[..], &["-e", full]].concat());
    ended.failed(1, &["f: no space left"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
}

/// The other verbs that change something: done or not done, and never half.
#[test]
fn mkdir_mv_and_rm_survive_a_kill_at_any_call() {
    if !has_strace() {
        return;
    }
    let mut server = Server::start();
    let client = server.client();
    let log = server.dir.path().join("log");
    let verbs: [(&[&str], &str); 3] = [
        (&["mkdir", "-p", "--retry-for=0", "srv:a/b/c"], "mkdirat"),
        (&["mv", "--retry-for=0", "srv:f", "srv:g"], "renameat"),
        (&["rm", "-r", "--retry-for=0", "srv:d"], "unlinkat"),
    ];
    for (verb, call) in verbs {
        for (call, at) in [(call, 1), (call, 2), ("fsync", 1), ("fsync", 2)] {
            for fault in FAULTS {
                let _ = std::fs::remove_dir_all(server.root.join("a"));
                let _ = std::fs::remove_file(server.root.join("g"));
                write(&server.root.join("f"), b"content");
                write(&server.root.join("d/1"), b"1");
                write(&server.root.join("d/2"), b"2");
                let root = server.root.canonicalize().unwrap();
                let dirs = ["", "a", "a/b", "d"]
                    .map(|d| if d.is_empty() { root.clone() } else { root.join(d) });
                let options = inject(call, fault, at, &dirs);
                let prefix = strace(&log, &options.iter().map(String::as_str).collect::<Vec<_>>());
                server.set_prefix(&prefix.iter().map(String::as_str).collect::<Vec<_>>());
                server.kill();
                server.restart();
                let ended = client.run(verb);
                server.set_prefix(&[]);
                server.kill();
                server.restart();
                let (f, g) = (server.root.join("f"), server.root.join("g"));
                let what = format!("{verb:?} {call} {at} {fault}: {ended:?}");
                let done = match verb[0] {
                    "mkdir" => server.root.join("a/b/c").is_dir(),
                    "mv" => !f.exists() && g.exists(),
                    _ => !server.root.join("d").exists(),
                };
                assert!(ended.code != 0 || done, "{what}");
                if verb[0] == "mv" {
                    assert!(f.exists() != g.exists(), "{what}");
                    let there = if f.exists() { &f } else { &g };
                    assert_eq!(std::fs::read(there).unwrap(), b"content", "{what}");
                }
                if !done {
                    client.ok(verb);
                }
            }
        }
    }
}

/// What the receiver has already is compared by size and time, and not read: empty files neither,
/// however many there are.
#[test]
fn what_is_unchanged_is_not_read() {
    if !has_strace() {
        return;
    }
    let server = Server::start();
    let client = server.client();
    for n in 0..1000 {
        write(&client.work().join(format!("tree/empty-{n:03}")), b"");
    }
    assert_eq!(client.run(["put", "-r", "tree", "srv:"]).code, 0);
    let log = client.dir.path().join("log");
    let command = client.command(["put", "-r", "tree", "srv:"]);
    let ended = Ended::of(run_with(under(command, &strace(&log, &["-e", "trace=openat"])), b""));
    assert_eq!(ended.code, 0, "{ended:?}");
    let opened = std::fs::read_to_string(&log).unwrap().matches("\"empty-").count();
    assert!(opened <= 100, "{opened} of 1,000 unchanged files were opened");
}
