//! Imports run one way, and in no circle; tasks start where no panic is lost; every test file is
//! part of the binary.

use crate::support::imports::{Source, circles, is_test_only, sources};
use std::path::Path;

/// What each layer may use, of this crate.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("cmd", &["cmd", "net", "chunk", "store", "auth"]),
    ("net", &["net", "chunk", "store", "auth"]),
    ("chunk", &["chunk", "store"]),
    ("store", &["store"]),
    ("auth", &["auth", "store"]),
];

/// The layers within net, from the lowest to the highest: each may use itself and those before it.
/// Client and server never use each other.
const NET: [&[&str]; 9] = [
    &["error", "task", "jobs", "printable"],
    &["wire"],
    &["tls"],
    &["control"],
    &["data"],
    &["session"],
    &["transfer"],
    &["client", "server", "local"],
    &["deletion", "outbound"],
];

fn src() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The sources of the product, without tests.
fn product() -> Vec<Source> {
    sources(&src())
        .into_iter()
        .filter(|source| !is_test_only(&source.path))
        .collect()
}

#[test]
fn imports_run_one_way() {
    let mut looked_at = 0;
    for source in product() {
        let Some((_, allowed)) = ALLOWED
            .iter()
            .find(|(layer, _)| source.module.starts_with(&[layer.to_string()]))
        else {
            continue;
        };
        for import in source.imports() {
            let [module, ..] = &import[..] else { continue };
            assert!(
                allowed.contains(&module.as_str()),
                "{} must not use {import:?}",
                source.path
            );
            looked_at += 1;
        }
    }
    assert!(looked_at > 500, "{looked_at}");
}

#[test]
fn imports_within_net_run_down_its_layers() {
    let layer = |module: &[String]| match module {
        [net, layer, ..] if net == "net" => {
            NET.iter().position(|names| names.contains(&layer.as_str()))
        }
        _ => None,
    };
    let mut looked_at = 0;
    for source in product() {
        let Some(own) = layer(&source.module) else {
            continue;
        };
        for import in source.imports() {
            let Some(other) = layer(&import) else {
                continue;
            };
            // how an error of the net is told on the wire, and where a session's bytes become a
            // number, is one table each
            let is_wire = matches!(import[1].as_str(), "wire") && source.module[1] == "error";
            assert!(other <= own || is_wire, "{} must not use {import:?}", source.path);
            let sides = ["client", "server"];
            let crosses = other == own
                && sides.contains(&import[1].as_str())
                && import[1] != source.module[1];
            assert!(!crosses, "{} must not use {import:?}", source.path);
            looked_at += 1;
        }
    }
    assert!(looked_at > 300, "{looked_at}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let found = circles(&product());
    assert!(found.is_empty(), "{found:#?}");
}

/// A task that is started anywhere else can panic without a word: those of sessions and of the
/// server start in `net::task` and `net::jobs`, those of commands are watched by `cmd::panics`, and
/// the other two pass panics on to whoever waits.
#[test]
fn tasks_start_where_no_panic_is_lost() {
    let starts = [
        "src/net/task.rs",
        "src/net/jobs.rs",
        "src/store/blocking.rs",
        "src/chunk/ahead.rs",
        // passes panics on to those who wait, or does what a dropped value cannot wait for
        "src/store/objects/background.rs",
        "src/cmd/",
    ];
    let words = [
        "tokio::spawn(",
        "task::spawn",
        "spawn_blocking(",
        "thread::spawn(",
        "JoinHandle",
    ];
    for source in product() {
        let (path, text) = (&source.path, &source.text);
        for word in words {
            let is_start = starts.iter().any(|start| path.contains(start));
            assert!(is_start || !text.contains(word), "{path} has {word}");
        }
        // a thread of its own hands its panic over
        assert!(
            !text.contains("thread::Builder") || text.contains("catch_unwind("),
            "{path}"
        );
        // and what goes into a set is guarded
        let sets = text.matches("JoinSet::new()").count();
        assert!(text.matches("guard(").count() >= sets, "{path}");
    }
}

#[test]
fn lower_layers_neither_print_nor_exit() {
    for source in product().iter().filter(|source| !source.path.contains("src/cmd/")) {
        for word in ["println!", "eprintln!", "print!", "process::exit", "dbg!"] {
            let is_main = source.path.ends_with("src/main.rs");
            assert!(is_main || !source.text.contains(word), "{} has {word}", source.path);
        }
    }
}

#[test]
fn every_test_file_is_compiled() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let list = std::fs::read_to_string(tests.join("tests.rs")).unwrap();
    for entry in std::fs::read_dir(&tests).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(
            module == "tests" || list.contains(&format!("mod {module};")),
            "{name} is not in tests.rs"
        );
    }
}

/// Time-outs and leases use the monotonic clock: the system's is only looked at for times that
/// people read, for ages of files, and for the end of an invite, which outlives the process.
/// A file that passes 400 lines has a seam. Clippy counts the lines of functions.
#[test]
fn files_and_lines_are_short() {
    let mut faults = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in ["src", "tests", "docs", "README.md"] {
        let found = walkdir::WalkDir::new(root.join(dir)).into_iter();
        for entry in found.map(Result::unwrap).filter(|e| e.file_type().is_file()) {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let path = entry.path().strip_prefix(root).unwrap().display().to_string();
            if path.starts_with("src/") && text.lines().count() > 400 {
                faults.push(format!("{path}: more than 400 lines"));
            }
            // a row of a table cannot be broken
            let wide = |line: &str| line.chars().count() > 100 && !line.starts_with('|');
            let wide = text.lines().enumerate().filter(|(_, line)| wide(line));
            faults.extend(wide.map(|(n, _)| format!("{path}:{}: more than 100 columns", n + 1)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_systems_clock_decides_nothing() {
    let allowed = [
        "store/local/lock.rs",
        "store/local/partial.rs",
        "store/local/trash/batch.rs",
        // the time of what is touched, or made
        "store/objects/clock.rs",
        "net/transfer/receive/staged_jobs.rs",
        "auth/invite.rs",
        "auth/users.rs",
        "auth/user.rs",
    ];
    for source in product() {
        let uses = source.text.contains("SystemTime::now") || source.text.contains("UNIX_EPOCH +");
        let is_allowed = allowed.iter().any(|a| source.path.ends_with(a));
        assert!(!uses || is_allowed, "{}", source.path);
    }
}
