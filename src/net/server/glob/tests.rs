//! Pages of matches, over a directory of this machine.

use super::*;
use crate::store::local::LocalStore;
use std::path::Path;

/// A tree with directories, hidden names and a symlink to a directory.
fn sample(root: &Path) {
    for file in ["a.txt", "b.txt", "b", "d/a.txt", "d/e/c.txt", "d/.h/x.txt", ".g/y.txt"] {
        std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        std::fs::write(root.join(file), b"").unwrap();
    }
    std::os::unix::fs::symlink("d", root.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
}

async fn answers(root: &Path, pattern: &str, paths: usize) -> Vec<String> {
    let store = LocalStore::open(root).unwrap();
    let glob = Glob::parse(pattern.as_bytes()).unwrap();
    let (mut found, mut cookie) = (Vec::new(), Vec::new());
    let most = Most {
        paths,
        bytes: 1 << 20,
    };
    loop {
        let base = RemotePath::root();
        let walk = Walk::new(&store, &base, &glob, &cookie).unwrap();
        let matches = walk.run(most).await.unwrap();
        assert!(matches.paths.len() <= paths);
        let texts = matches.paths.iter().map(|path| format!("{path:?}").replace('"', ""));
        found.extend(texts);
        match matches.next {
            Some(next) => cookie = next,
            None => return found,
        }
    }
}

#[tokio::test]
async fn pages_of_any_size_have_the_same_paths_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    for (pattern, expected) in [
        ("*.txt", &["a.txt", "b.txt"][..]),
        ("**/*.txt", &["a.txt", "b.txt", "d/a.txt", "d/e/c.txt"]),
        (
            "**",
            &["a.txt", "b", "b.txt", "d", "d/a.txt", "d/e", "d/e/c.txt", "link", "out"],
        ),
        ("{d,link}/*.txt", &["d/a.txt", "link/a.txt"]),
        ("{b,a}.txt", &["a.txt", "b.txt"]),
        ("d/.*/*", &["d/.h/x.txt"]),
        ("out/*", &[]),
        ("*/passwd", &[]),
        ("none/*", &[]),
        ("d/**/c.txt", &["d/e/c.txt"]),
    ] {
        for paths in [1, 2, 100] {
            assert_eq!(answers(dir.path(), pattern, paths).await, expected, "{pattern} {paths}");
        }
    }
}

#[tokio::test]
async fn a_directory_with_more_candidates_than_are_remembered_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let count = CANDIDATES * 2 + 10;
    for n in 0..count {
        std::fs::write(dir.path().join(format!("{n:05}")), b"").unwrap();
    }
    let found = answers(dir.path(), "*", CANDIDATES).await;
    assert_eq!(found.len(), count);
    assert!(found.is_sorted());
}

#[test]
fn foreign_cookies_are_refused() {
    for cookie in [&b"\x02a"[..], b"\x00", b"\x00../x", b"\x01/etc"] {
        assert!(Resume::parse(cookie).is_err(), "{cookie:?}");
    }
}
