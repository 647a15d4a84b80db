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
        assert!(haul().args(["generate", what]).arg(dir.path()).status().unwrap().success());
        let committed = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(what));
        assert!(files(dir.path()) == committed, "stale: run haul generate {what} {what}");
    }
}

/// The sections that a reader looks for are in every page, under their own names.
#[test]
fn every_manual_page_has_its_sections_and_refers_to_pages_that_are_there() {
    let pages = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("man"));
    assert!(pages.contains_key("haul.1") && pages.contains_key("haul-user-add.1"));
    let about_rsync = &pages["haul-from-rsync.7"];
    assert!(about_rsync.contains("haul\\-put(1)") && about_rsync.contains("\\-\\-delete"));
    for (name, page) in pages.iter().filter(|(name, _)| name.ends_with(".1")) {
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXAMPLES",
            "EXIT STATUS",
            "FILES",
            "ENVIRONMENT",
            "SEE ALSO",
        ] {
            let found = page.lines().filter(|l| {
                [format!(".SH {section}"), format!(".SH \"{section}\"")].contains(&l.to_string())
            });
            assert_eq!(found.count(), 1, "{name}: {section}");
        }
        assert!(!page.contains(".SH EXTRA"), "{name}");
        let references = page.replace("\\-", "-");
        let (_, references) = references.split_once(".SH \"SEE ALSO\"\n").unwrap();
        for reference in references.trim().split(", ") {
            let file = reference.replace("(1)", ".1");
            assert!(pages.contains_key(&file) && file != *name, "{name}: {reference}");
        }
    }
}

#[test]
fn manual_help_and_readme_say_the_same_of_exit_codes_and_files() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/haul.1")).unwrap();
    let page = page.replace("\\-", "-").replace("\\*(Aq", "'");
    let help = String::from_utf8(haul().arg("--help").output().unwrap().stdout).unwrap();
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, table) = readme.split_once("| exit | meaning |\n| --- | --- |\n").unwrap();
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 11);
    for row in rows {
        let cells: Vec<String> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        assert!(page.contains(&format!("\\fB{}\\fR\n{}\n", cells[1], cells[2])), "{row}");
        let said = help
            .lines()
            .any(|line| line.trim().starts_with(&cells[1]) && line.ends_with(&cells[2]));
        assert!(said, "{row}: {help}");
    }
    assert!(
        page.contains("NAME host=HOST port=PORT") && readme.contains("NAME host=HOST port=PORT")
    );
}

/// `strip` takes what only a debugger reads: without it the binary is seven times as large.
#[test]
fn the_release_binary_is_stripped() {
    let manifest =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let (_, release) = manifest.split_once("[profile.release]\n").unwrap();
    assert!(release.split("\n\n").next().unwrap().contains("strip = true"));
}
