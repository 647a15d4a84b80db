//! Reads what the files of `src/` import from each other: `use` trees and paths in the code,
//! resolved to the files that define what they name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A source file.
pub struct Source {
    pub path: String,
    /// Its module, without `crate`.
    pub module: Vec<String>,
    /// Its text, without comments and without the module of its tests.
    pub text: String,
}

/// A path in an import, and whether it is exported again.
struct Import {
    path: Vec<String>,
    is_export: bool,
}

/// Every source file beneath `src`.
pub fn sources(src: &Path) -> Vec<Source> {
    let files = walkdir::WalkDir::new(src).into_iter().map(Result::unwrap);
    let files = files.filter(|file| file.path().extension().is_some_and(|x| x == "rs"));
    files.map(|file| Source::read(src, file.path())).collect()
}

/// True for files that are only part of tests.
pub fn is_test_only(path: &str) -> bool {
    [
        "/simulation/",
        "/simulated.rs",
        "/objects/simulated/",
        "/power",
        "/model",
        "/chance.rs",
        "/tests.rs",
        "/tests/",
    ]
    .iter()
    .any(|part| {
        path.split_once("/src/")
            .is_some_and(|(_, path)| format!("/{path}").contains(part))
    })
}

impl Source {
    fn read(src: &Path, path: &Path) -> Source {
        let relative = path.strip_prefix(src).unwrap().with_extension("");
        let mut module: Vec<String> =
            relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module
            .last()
            .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
        {
            module.pop();
        }
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        Source {
            path: path.display().to_string(),
            module,
            text: text.lines().filter(is_code).collect::<Vec<_>>().join("\n"),
        }
    }

    /// What it imports of this crate, as paths without `crate`.
    pub fn imports(&self) -> Vec<Vec<String>> {
        self.all_imports().into_iter().map(|import| import.path).collect()
    }

    fn all_imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        let mut rest = String::new();
        let mut text = self.text.as_str();
        while let Some((before, after)) = next_use(text) {
            rest.push_str(before);
            let (tree, after) = after.split_once(';').unwrap_or((after, ""));
            let is_export = before.trim_end().ends_with("pub") || before.trim_end().ends_with(')');
            for path in leaves(tree) {
                let path = self.absolute(&path).map(|path| Import { path, is_export });
                imports.extend(path);
            }
            text = after;
        }
        rest.push_str(text);
        for start in ["crate::", "super::"] {
            for (at, _) in rest.match_indices(start) {
                let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
                let path: String = rest[at..].chars().take_while(|c| is_part(*c)).collect();
                let path =
                    path.trim_end_matches(':').split("::").map(String::from).collect::<Vec<_>>();
                let path = self.absolute(&path).map(|path| Import {
                    path,
                    is_export: false,
                });
                imports.extend(path);
            }
        }
        imports
    }

    /// A path from the crate's root; `None` for another crate's.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&self.module[..], rest].concat()),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let above = self.module.get(..self.module.len().checked_sub(ups)?)?;
                Some([above, &path[ups..]].concat())
            }
            _ => None,
        }
    }
}

/// What is before the next `use`, with its visibility, and what follows.
fn next_use(text: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find("use ")?;
        let line = text[..at].rsplit('\n').next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with("pub") {
            return Some((&text[..at], &text[at + 4..]));
        }
        from = at + 4;
    }
}

/// The paths in a tree of imports.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((head, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![
            path.split("::")
                .filter(|p| *p != "*")
                .map(|p| p.trim().to_string())
                .collect(),
        ];
    };
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    let head: Vec<String> =
        head.trim().trim_end_matches("::").split("::").map(String::from).collect();
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    let of_part = |part| {
        leaves(part).into_iter().map(|leaf| match leaf[..] {
            [ref own] if own == "self" => head.clone(),
            _ => [&head[..], &leaf[..]].concat(),
        })
    };
    parts.flat_map(of_part).collect()
}

/// Which file defines what a path names: exports are followed.
struct Resolver<'a> {
    files: BTreeMap<&'a [String], usize>,
    imports: Vec<Vec<Import>>,
}

impl Resolver<'_> {
    fn file(&self, path: &[String], depth: usize) -> Option<usize> {
        let module = (0..=path.len()).rev().map(|n| &path[..n]);
        let (module, file) = module
            .filter(|m| !m.is_empty())
            .find_map(|m| Some((m, *self.files.get(m)?)))?;
        let Some(item) = path.get(module.len()) else {
            return Some(file);
        };
        let exports = self.imports[file].iter().filter(|import| import.is_export);
        let mut named = exports.filter(|import| import.path.last() == Some(item));
        match named.next() {
            Some(export) if depth < 8 && export.path != path => {
                self.file(&export.path, depth + 1).or(Some(file))
            }
            _ => Some(file),
        }
    }
}

/// Files that import each other in a circle, each with what it imports of the next.
pub fn circles(sources: &[Source]) -> Vec<Vec<String>> {
    let resolver = Resolver {
        files: sources
            .iter()
            .enumerate()
            .map(|(i, source)| (&source.module[..], i))
            .collect(),
        imports: sources.iter().map(Source::all_imports).collect(),
    };
    let edges: Vec<BTreeSet<usize>> = (0..sources.len())
        .map(|i| {
            let used = resolver.imports[i].iter().filter(|import| !import.is_export);
            let used = used.filter_map(|import| resolver.file(&import.path, 0));
            used.filter(|other| *other != i).collect()
        })
        .collect();
    let reach: Vec<BTreeSet<usize>> = (0..sources.len()).map(|i| reached(&edges, i)).collect();
    let mut found = BTreeSet::new();
    for (i, reached) in reach.iter().enumerate() {
        let circle: Vec<String> = reached
            .iter()
            .filter(|other| reach[**other].contains(&i))
            .map(|other| sources[*other].path.clone())
            .collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

/// Every file that is reached over imports.
fn reached(edges: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![from]);
    while let Some(at) = waiting.pop() {
        for next in &edges[at] {
            if seen.insert(*next) {
                waiting.push(*next);
            }
        }
    }
    seen
}
