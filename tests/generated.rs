//! Manual pages and completions in the repository are those that the binary generates.

use crate::support::haul;
use std::collections::BTreeMap;
use std::path::Path;

fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|e| {
            (
                e.file_name().into_string().unwrap(),
                std::fs::read_to_string(e.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn man_pages_and_completions_are_up_to_date() {
    for what in ["man", "completions"] {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            haul()
                .args(["generate", what])
                .arg(dir.path())
                .status()
                .unwrap()
                .success()
        );
        let committed = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(what));
        assert!(files(dir.path()) == committed, "stale: run haul generate {what} {what}");
    }
}
