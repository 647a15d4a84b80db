//! Filters: haul's choice against that of the rsync binary, over random trees and rules.

use crate::support::chance::Chance;
use crate::support::tree::write;
use crate::support::{Client, Server};
use haul::net::transfer::filter::{Filter, Rule, Verdict};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const NAMES: [&str; 8] = ["a", "b", "ab", "abc", "a.o", "b.o", "c.txt", "node_modules"];
const PARTS: [&str; 15] = [
    "a",
    "b",
    "*",
    "**",
    "?",
    "*.o",
    "a*",
    "[ab]",
    "[!a]*",
    "abc",
    "c.txt",
    "node_modules",
    "*.*",
    "a**",
    "***",
];

/// A tree: paths, those of directories with a slash at their end.
fn tree(chance: &mut Chance) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for _ in 0..5 + chance.below(15) {
        let depth = 1 + chance.below(4);
        let names: Vec<&str> = (0..depth).map(|_| *chance.of(&NAMES)).collect();
        let above: Vec<String> = (1..depth).map(|n| names[..n].join("/") + "/").collect();
        let file = names.join("/");
        let is_dir = |path: &str| paths.contains(&format!("{path}/"));
        let is_free = above.iter().all(|dir| !paths.contains(dir.trim_end_matches('/')));
        if is_free && !is_dir(&file) {
            paths.extend(above);
            paths.insert(file);
        }
    }
    paths
}

fn make(top: &Path, paths: &BTreeSet<String>) {
    for path in paths {
        match path.strip_suffix('/') {
            Some(dir) => std::fs::create_dir_all(top.join(dir)).unwrap(),
            None => write(&top.join(path), path.as_bytes()),
        }
    }
}

fn rules(chance: &mut Chance) -> Vec<String> {
    let rule = |chance: &mut Chance| {
        let sign = *chance.of(&["+ ", "- ", "- "]);
        let start = *chance.of(&["", "", "", "/"]);
        let parts: Vec<&str> = (0..1 + chance.below(3)).map(|_| *chance.of(&PARTS)).collect();
        let end = *chance.of(&["", "", "/"]);
        format!("{sign}{start}{}{end}", parts.join("/"))
    };
    (0..1 + chance.below(6)).map(|_| rule(chance)).collect()
}

/// What rsync would copy.
fn of_rsync(top: &Path, rules: &[String]) -> BTreeSet<String> {
    let to = top.with_file_name("nowhere");
    let mut rsync = Command::new("rsync");
    rsync.args(["-rn", "--out-format=%n"]);
    rsync.args(rules.iter().map(|rule| format!("--filter={rule}")));
    let out = rsync.arg(format!("{}/", top.display())).arg(to).output().unwrap();
    assert!(out.status.success(), "{rules:?}: {}", String::from_utf8_lossy(&out.stderr));
    let names = String::from_utf8(out.stdout).unwrap();
    names.lines().filter(|name| *name != "./").map(String::from).collect()
}

/// What a filter takes of a tree. With `searches` it finds what is included beneath excluded
/// directories, as a transfer does.
fn of_filter(filter: &Filter, paths: &BTreeSet<String>, searches: bool) -> BTreeSet<String> {
    let mut taken = BTreeSet::new();
    walk(filter, paths, ("", None), searches, &mut taken);
    taken
}

fn walk(
    filter: &Filter,
    paths: &BTreeSet<String>,
    (dir, within): (&str, Option<usize>),
    searches: bool,
    taken: &mut BTreeSet<String>,
) {
    let inside = paths.iter().filter_map(|path| Some((path, path.strip_prefix(dir)?)));
    let entries = inside.filter(|(_, rest)| {
        let name = rest.strip_suffix('/').unwrap_or(rest);
        !name.is_empty() && !name.contains('/')
    });
    for (path, _) in entries {
        let name = path.strip_suffix('/').unwrap_or(path);
        let verdict = filter.judge(name.as_bytes(), name.len() < path.len(), within);
        match verdict {
            Verdict::Take(_) => {
                // and the directories above it
                let above = name.match_indices('/').map(|(at, _)| path[..=at].to_string());
                taken.extend(above.chain([path.clone()]));
                walk(filter, paths, (path, None), searches, taken);
            }
            Verdict::Descend(rule) if searches => {
                walk(filter, paths, (path, Some(rule)), searches, taken);
            }
            Verdict::Descend(_) | Verdict::Skip(_) => {}
        }
    }
}

fn filter_of(rules: &[String]) -> Filter {
    let rules = rules.iter().map(|rule| Rule::parse(rule.as_bytes()).unwrap());
    Filter::new(rules.collect()).unwrap()
}

/// `HAUL_SEEDS=n cargo test filters` for more than usual.
#[test]
fn a_filter_takes_what_rsync_takes_over_random_trees_and_rules() {
    let rounds = std::env::var("HAUL_SEEDS").map_or(120, |n| n.parse().unwrap());
    for seed in 1..=rounds {
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let (paths, work) = (tree(&mut chance), tempfile::tempdir_in("/dev/shm").unwrap());
        let top = work.path().join("top");
        make(&top, &paths);
        for _ in 0..3 {
            let rules = rules(&mut chance);
            let (filter, rsync) = (filter_of(&rules), of_rsync(&top, &rules));
            let here = of_filter(&filter, &paths, false);
            assert_eq!(here, rsync, "seed {seed}: {rules:?}");
            // the difference: more of what is included, never more of what nothing includes
            let more = of_filter(&filter, &paths, true);
            let everywhere: Vec<String> =
                std::iter::once("+ */".to_string()).chain(rules.clone()).collect();
            let most = of_rsync(&top, &everywhere);
            assert!(
                more.is_superset(&here) && more.is_subset(&most),
                "seed {seed}: {rules:?}: {more:?}"
            );
        }
    }
}

/// The paths beneath a directory.
fn found(top: &Path) -> BTreeSet<String> {
    let entries = walkdir::WalkDir::new(top).min_depth(1).into_iter().map(Result::unwrap);
    let shown = entries.map(|entry| {
        let path = entry.path().strip_prefix(top).unwrap().to_str().unwrap().to_string();
        if entry.file_type().is_dir() { path + "/" } else { path }
    });
    shown.collect()
}

#[test]
fn put_and_get_send_what_the_filter_takes() {
    let server = Server::start();
    let client = server.client();
    for seed in 1..=25 {
        let mut chance = Chance(0x517c_c1b7_2722_0a95_u64.wrapping_mul(seed));
        let (paths, rules) = (tree(&mut chance), rules(&mut chance));
        let (top, name) = (client.work().join(format!("t{seed}")), format!("t{seed}"));
        std::fs::create_dir_all(&top).unwrap();
        make(&top, &paths);
        let wanted = of_filter(&filter_of(&rules), &paths, true);
        let options: Vec<String> = rules.iter().map(|rule| format!("--filter={rule}")).collect();
        let run = |verb: &str, from: String, to: String| {
            let words = [verb.to_string(), "-r".into()].into_iter();
            client.ok(words.chain(options.clone()).chain([from, to]));
        };
        run("put", format!("{name}/"), format!("srv:{name}"));
        assert_eq!(found(&server.root.join(&name)), wanted, "put, {seed}: {rules:?}");
        // all of it is at the server, and the rules choose there
        std::fs::remove_dir_all(server.root.join(&name)).unwrap();
        make(&server.root.join(&name), &paths);
        run("get", format!("srv:{name}/"), format!("back{seed}"));
        assert_eq!(found(&client.work().join(format!("back{seed}"))), wanted, "get, {rules:?}");
    }
}

/// The paths that have one kind in both trees.
fn without_conflicts(paths: &BTreeSet<String>, other: &BTreeSet<String>) -> BTreeSet<String> {
    let conflicts = |path: &str| {
        let names = path.trim_end_matches('/').match_indices('/').map(|(at, _)| &path[..at]);
        let is_file_above = names.clone().any(|above| other.contains(above));
        let is_other_kind = match path.strip_suffix('/') {
            Some(dir) => other.contains(dir),
            None => other.contains(&format!("{path}/")),
        };
        is_file_above || is_other_kind
    };
    paths.iter().filter(|path| !conflicts(path)).cloned().collect()
}

/// `--delete` with rules that exclude: what is at DEST then is what the rsync binary makes of it.
#[test]
fn a_mirror_is_that_of_rsync_over_random_trees_and_rules() {
    let server = Server::start();
    let client = server.client();
    for seed in 1..=90 {
        let mut chance = Chance(0x2545_f491_4f6c_dd1d_u64.wrapping_mul(seed));
        let (source, other) = (tree(&mut chance), tree(&mut chance));
        let dest = without_conflicts(&other, &source);
        let rules: Vec<String> =
            rules(&mut chance).iter().map(|rule| rule.replace("+ ", "- ")).collect();
        let rules = if chance.below(4) == 0 { Vec::new() } else { rules };
        let verb = *chance.of(&["cp", "put", "get"]);
        let (work, there) =
            (client.work().join(seed.to_string()), server.root.join(seed.to_string()));
        make(&work.join("s"), &source);
        make(&there.join("s"), &source);
        for to in [work.join("haul"), work.join("rsync"), there.join("haul")] {
            std::fs::create_dir_all(&to).unwrap();
            make(&to, &dest);
        }
        let mut options: Vec<String> =
            rules.iter().map(|rule| format!("--filter={rule}")).collect();
        options.extend((chance.below(4) == 0).then(|| "--delete-excluded".to_string()));
        let path = |name: &str| work.join(name).display().to_string();
        let remote = |name: &str| format!("srv:{seed}/{name}");
        let words = |from: String, to: String, delete: &str| {
            let given = ["-a".to_string(), delete.to_string()].into_iter().chain(options.clone());
            given.chain([from, to]).collect::<Vec<_>>()
        };
        let (from, to, made) = match verb {
            "put" => (path("s/"), remote("haul"), there.join("haul")),
            "get" => (remote("s/"), path("haul"), work.join("haul")),
            _ => (path("s/"), path("haul"), work.join("haul")),
        };
        let run = words(from, to, "--delete=yes");
        client.ok([verb.to_string()].into_iter().chain(run));
        let mut rsync = Command::new("rsync");
        let rsync = rsync.args(words(path("s/"), path("rsync"), "--delete")).status().unwrap();
        assert!(rsync.success(), "seed {seed}");
        let (ours, theirs) = (found(&made), found(&work.join("rsync")));
        assert_eq!(ours, theirs, "seed {seed}: {verb} {options:?}: {source:?} to {dest:?}");
    }
}

fn put(client: &Client, options: &[&str], from: &str, to: &str) {
    client.ok([&["put", "-r"], options, &[from, to]].concat());
}

#[test]
fn rules_come_from_options_and_files_in_their_order() {
    let server = Server::start();
    let client = server.client();
    for path in ["src/a.c", "src/a.o", "src/keep.o", "src/node_modules/x.js", "src/d/b.jpg"] {
        write(&client.work().join(path), b"12345");
    }
    write(&client.work().join("src/empty/nothing.o"), b"");
    write(
        &client.work().join("rules"),
        b"# a comment\n\n+ keep.o\n*.o\nnode_modules/\n",
    );
    let sent = |options: &[&str]| {
        let _ = std::fs::remove_dir_all(server.root.join("dst"));
        put(&client, options, "src/", "srv:dst");
        let found = found(&server.root.join("dst"));
        found.into_iter().collect::<Vec<_>>().join(" ")
    };
    let listed = "a.c d/ d/b.jpg empty/ keep.o";
    assert_eq!(sent(&["--exclude-from=rules"]), listed);
    assert_eq!(sent(&["--exclude-from", "rules", "-m"]), "a.c d/ d/b.jpg keep.o");
    assert_eq!(
        sent(&["--exclude=*.o", "--include=keep.o", "--exclude=node_modules", "-m"]),
        "a.c d/ d/b.jpg"
    );
    assert_eq!(sent(&["--include=*.jpg", "--exclude=*"]), "d/ d/b.jpg");
    assert_eq!(sent(&["--only=*.jpg", "--only", "*.c"]), "a.c d/ d/b.jpg");
    assert_eq!(
        sent(&["-f", "- *.o", "-f", "- /d", "--filter=- node_modules/***", "-m"]),
        "a.c"
    );
    assert_eq!(sent(&["--min-size=1", "--max-size=4", "-m"]), "");
    // a source is matched under its own name
    put(&client, &["--exclude=/src/d", "--exclude=*.o"], "src", "srv:named");
    let named = found(&server.root.join("named"));
    assert!(
        named.contains("src/a.c") && !named.iter().any(|p| p.starts_with("src/d/")),
        "{named:?}"
    );
}

#[test]
fn a_rule_that_is_none_is_named_with_its_place_and_nothing_is_touched() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("t/x"), b"x");
    write(&client.work().join("rules"), b"*.o\n\n+ \n");
    for (option, named) in [
        (
            "--filter=x",
            &["--filter x", "expected '+ PATTERN', '- PATTERN' or 'P PATTERN'"][..],
        ),
        ("--filter=. file", &["--filter . file", "--exclude-from"]),
        ("--exclude=", &["--exclude", "the pattern is empty"]),
        (
            "--exclude-from=rules",
            &["--exclude-from rules, line 3", "the pattern is empty"],
        ),
    ] {
        client.run(["put", "-r", option, "t", "srv:"]).failed(2, named);
    }
    client
        .run(["put", "-r", "--include-from=gone", "t", "srv:"])
        .failed(1, &["gone"]);
    assert_eq!(std::fs::read_dir(&server.root).unwrap().count(), 0);
}
