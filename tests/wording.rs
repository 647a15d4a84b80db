//! One name for one thing: words that the glossary of docs/ARCHITECTURE.md has replaced do not come
//! back, neither as names in the code nor in comments, documents, manual pages and messages.

use std::path::{Path, PathBuf};

/// Words that no name in the code has as a part.
const NAMES: &[&str] = &[
    "again",
    "blind",
    "grow",
    "held",
    "identities",
    "keep",
    "keeper",
    "kept",
    "left",
    "leftover",
    "leftovers",
    "lineage",
    "look",
    "looked",
    "looks",
    "manners",
    "nudge",
    "outbox",
    "pace",
    "patience",
    "pulse",
    "pump",
    "pumped",
    "seal",
    "sealed",
    "seat",
    "told",
    "wayin",
    "whoever",
];

/// Names of types that were replaced.
const TYPES: &[&str] = &[
    "Arrived", "Groups", "Incoming", "Large", "Link", "Search", "Settled", "Stopped", "Unread",
    "WayIn", "Whole",
];

/// Names that have such a part and are not haul's own, or mean what the word says.
const OTHERS: &[&str] = &[
    "AGAIN",                      // errno
    "move_cursor_left",           // indicatif's
    "seal_in_place_separate_tag", // ring's
];

/// Words and phrases that no text has.
const PHRASES: &[&str] = &[
    "anew",
    "ask anew",
    "blind",
    "go on with",
    "goes on with",
    "gone on with",
    "held",
    "keep-partial",
    "kept",
    "leftover",
    "lineage",
    "left",
    "nobody",
    "nudge",
    "patience",
    "seal",
    "sealed",
    "staging file",
    "throws nothing",
    "told",
    "what is left",
    "whoever",
    "work off",
    "works off",
];

/// Lines that need such a word: another program's words, and an option's earlier name.
const EXCEPTIONS: &[&str] = &[
    "no space left on the device",
    "{} left\"",
    "0:11 left",
    "alias = \"keep-partial\"",
    "and never again",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files beneath `dir`, in order.
fn files(dir: &str) -> Vec<PathBuf> {
    let found = walkdir::WalkDir::new(root().join(dir)).sort_by_file_name();
    let files = found.into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).collect()
}

/// The parts of a name: `SendQueue` and `send_queue` have `send` and `queue`.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && was_lower) {
            parts.push(String::new());
        }
        was_lower = c.is_lowercase() || c.is_numeric();
        if c != '_' {
            parts.last_mut().unwrap().extend(c.to_lowercase());
        }
    }
    parts
}

/// A line of Rust as its code without strings, and its text: its strings and its comment.
fn split(line: &str) -> (String, String) {
    let (mut code, mut text) = (String::new(), String::new());
    let (mut in_string, mut chars) = (false, line.chars().peekable());
    while let Some(c) = chars.next() {
        match (in_string, c) {
            (true, '\\') => text.extend(chars.next()),
            (_, '"') => {
                in_string = !in_string;
                text.push(' ');
                code.push(' ');
            }
            (false, '\'') if chars.peek() == Some(&'"') => drop(chars.next()),
            (false, '/') if chars.peek() == Some(&'/') => {
                text.extend(chars);
                break;
            }
            (true, c) => text.push(c),
            (false, c) => code.push(c),
        }
    }
    (code, text)
}

/// The first of `PHRASES` that is in a text as whole words.
fn phrase_in(text: &str) -> Option<&'static str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let text = text.to_lowercase();
    PHRASES.iter().copied().find(|phrase| {
        text.match_indices(phrase).any(|(at, _)| {
            let before = text.get(..at).and_then(|t| t.chars().next_back());
            let after = text.get(at + phrase.len()..).and_then(|t| t.chars().next());
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
    })
}

fn name_in(code: &str) -> Option<&str> {
    let names = code.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut names = names.filter(|name| !OTHERS.contains(name));
    names.find(|name| {
        TYPES.contains(name) || parts(name).iter().any(|part| NAMES.contains(&part.as_str()))
    })
}

#[test]
fn words_that_were_replaced_do_not_come_back() {
    let (mut faults, mut lines) = (Vec::new(), 0);
    let texts = ["docs", "man"].iter().flat_map(|dir| files(dir));
    for path in files("src").into_iter().chain(texts).chain([root().join("README.md")]) {
        let is_rust = path.extension().is_some_and(|e| e == "rs");
        let content = std::fs::read_to_string(&path).unwrap();
        for (number, line) in content.lines().enumerate() {
            lines += 1;
            if EXCEPTIONS.iter().any(|exception| line.contains(exception)) {
                continue;
            }
            let (code, text) = match is_rust {
                true => split(line),
                false => (String::new(), line.to_string()),
            };
            let at = format!("{}:{}", path.strip_prefix(root()).unwrap().display(), number + 1);
            faults.extend(phrase_in(&text).map(|phrase| format!("{at}: {phrase}")));
            faults.extend(name_in(&code).map(|name| format!("{at}: the name {name}")));
        }
    }
    assert!(lines > 30_000, "{lines}");
    assert!(
        faults.is_empty(),
        "see the glossary in docs/ARCHITECTURE.md:\n{}",
        faults.join("\n")
    );
}

#[test]
fn words_are_found_where_they_are_and_nowhere_else() {
    assert_eq!(phrase_in("What is left is gone on with."), Some("gone on with"));
    assert_eq!(phrase_in("the leftmost, and `is_left`"), None);
    assert_eq!(name_in("let kept_bytes = 1;"), Some("kept_bytes"));
    assert_eq!(name_in("fn try_seal()"), Some("try_seal"));
    assert_eq!(name_in("struct TheOutbox;"), Some("TheOutbox"));
    assert_eq!(name_in("struct Link;"), Some("Link"));
    assert_eq!(name_in("let linked = looking;"), None);
    let (code, text) = split(r#"say("kept \" held"); // told"#);
    assert_eq!((code.contains("kept"), phrase_in(&text)), (false, Some("held")));
}
