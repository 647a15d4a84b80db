//! Imports run one way; every test file is part of the binary.

use std::path::Path;

/// What each layer may use, of this crate.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("cmd", &["cmd", "net", "chunk", "store", "auth"]),
    ("net", &["net", "chunk", "store", "auth"]),
    ("chunk", &["chunk", "store"]),
    ("store", &["store"]),
    ("auth", &["auth", "store"]),
];

fn sources(dir: &Path) -> Vec<(String, String)> {
    let walk = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    let sources = walk.filter(|e| e.path().extension().is_some_and(|x| x == "rs"));
    sources
        .map(|e| {
            (
                e.path().display().to_string(),
                std::fs::read_to_string(e.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn imports_run_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut looked_at = 0;
    for (layer, allowed) in ALLOWED {
        for (path, text) in sources(&src.join(layer)) {
            for (i, rest) in text.match_indices("crate::").map(|(at, m)| (at, &text[at + m.len()..])) {
                let module: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                assert!(
                    allowed.contains(&module.as_str()),
                    "{path}, byte {i}: {layer} must not use {module}"
                );
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 100);
    for (side, other) in [("client", "server"), ("server", "client")] {
        for (path, text) in sources(&src.join("net").join(side)) {
            for forbidden in [format!("net::{other}"), format!("super::{other}")] {
                assert!(
                    !text.contains(&format!("use crate::{forbidden}")) && !text.contains(&format!("use {forbidden}")),
                    "{path}"
                );
            }
        }
    }
}

/// A task that is started anywhere else can panic without a word: those of sessions and of the server start in `net::task`,
/// those of commands are watched by `cmd::panics`, and the other two pass panics on to whoever waits.
#[test]
fn tasks_start_where_no_panic_is_lost() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let starts = [
        "src/net/task.rs",
        "src/store/blocking.rs",
        "src/chunk/ahead.rs",
        "src/cmd/",
    ];
    for (path, text) in sources(&src) {
        let product = text.split("mod tests {").next().unwrap();
        for word in [
            "tokio::spawn(",
            "task::spawn",
            "spawn_blocking(",
            "thread::spawn(",
            "JoinHandle",
        ] {
            let is_start = starts.iter().any(|start| path.contains(start));
            assert!(is_start || !product.contains(word), "{path} has {word}");
        }
        // a thread of its own hands its panic over
        assert!(
            !product.contains("thread::Builder") || product.contains("catch_unwind("),
            "{path}"
        );
        // and what goes into a set is guarded
        let sets = product.matches("JoinSet::new()").count();
        assert!(product.matches(".guard(").count() >= sets, "{path}");
    }
}

#[test]
fn lower_layers_neither_print_nor_exit() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for layer in ["net", "chunk", "store", "auth"] {
        for (path, text) in sources(&src.join(layer)) {
            for word in ["println!", "eprintln!", "print!", "process::exit", "dbg!"] {
                assert!(!text.contains(word), "{path} has {word}");
            }
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

/// Time-outs and leases use the monotonic clock: the system's is only looked at for times that people read, for ages of
/// files, and for the end of an invite, which outlives the process.
#[test]
fn the_systems_clock_decides_nothing() {
    let allowed = [
        "store/local/lock.rs",
        "store/local/partial.rs",
        "net/transfer/receive/staged.rs",
        "auth/invite.rs",
        "auth/users.rs",
    ];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (path, text) in sources(&src) {
        let uses = text.contains("SystemTime::now") || text.contains("UNIX_EPOCH +");
        assert!(!uses || allowed.iter().any(|a| path.ends_with(a)), "{path}");
    }
}
