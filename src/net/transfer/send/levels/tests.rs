//! The way down of a walk has a bound, and leaves nothing out.

use crate::net::transfer::send::levels::*;
use crate::store::{Attributes, Kind, Version};
use async_trait::async_trait;
use std::collections::HashSet;

fn offered(path: RemotePath, page: Listed) -> Entered {
    Entered {
        state: DirState::Offered(0),
        path,
        inode: None,
        device: None,
        ignored: Ignored::none(),
        within: None,
        page,
    }
}

/// A tree in which each directory down to `depth` has `width` directories: the first leads
/// further down, the others are empty.
#[derive(Clone, Copy)]
struct Comb {
    width: usize,
    depth: usize,
    name: usize,
}

/// The rest of a directory of it.
struct Rest(Comb, usize);

#[async_trait]
impl DirStream for Rest {
    async fn next_page(self: Box<Self>, limit: usize) -> Listed {
        Ok(self.0.page_from(self.1, limit))
    }
}

impl Comb {
    fn page_from(self, at: usize, limit: usize) -> DirPage {
        let end = self.width.min(at + limit);
        let names = (at..end).map(|n| match n {
            0 => b"d".to_vec(),
            n => format!("{n:0>width$}", width = self.name).into_bytes(),
        });
        let entries = names.map(|name| Entry {
            name: Some(Name::parse(&name).unwrap()),
            kind: Kind::Dir,
            size: 0,
            attributes: Attributes::default(),
            target: None,
            version: Version::Facts([0; 7]),
            owner: None,
            device: 0,
            links: 0,
        });
        let entries = entries.collect();
        let rest = (end < self.width).then(|| Box::new(Rest(self, end)) as Box<dyn DirStream>);
        DirPage {
            entries,
            sized: true,
            rest,
        }
    }

    fn list(self, path: &RemotePath, limit: usize) -> Listed {
        let is_down = path.as_bytes().split(|b| *b == b'/').all(|name| name == b"d");
        let wide = (path.is_root() || is_down) && path.as_bytes().len() < 2 * self.depth;
        let width = if wide { self.width } else { 0 };
        Ok(Comb { width, ..self }.page_from(0, limit))
    }

    /// Walks all of it.
    async fn walk(self, mut levels: Levels) -> Walked {
        let (mut seen, mut most, mut together) = (HashSet::new(), 0, 0);
        let first = self.list(&RemotePath::root(), levels.limit());
        levels.enter(offered(RemotePath::root(), first));
        while let Some(step) = levels.next() {
            match step {
                Step::List(paths) => {
                    together = together.max(paths.len());
                    let (limit, mut found) = (levels.limit(), 0);
                    let mut pages = Vec::new();
                    for path in paths {
                        let page = self.list(&path, limit);
                        found += page.as_ref().map_or(0, |page| page.entries.len());
                        pages.push(page);
                        if found >= limit {
                            break;
                        }
                    }
                    levels.listed(pages);
                }
                Step::Enter { path, page, .. } => {
                    let path = path.unwrap();
                    assert!(seen.insert(path.clone()), "once");
                    levels.enter(offered(path, page));
                }
                Step::Offer(_, page) => {
                    page.unwrap().entries.into_iter().for_each(|e| levels.add(e, None))
                }
                Step::Read(rest) => {
                    let page = rest.next_page(levels.limit()).await;
                    levels.next_page(page);
                }
                Step::Close(_) => {}
            }
            most = most.max(levels.waiting);
        }
        Walked {
            directories: seen.len(),
            most,
            together,
        }
    }
}

/// How a walk went.
struct Walked {
    directories: usize,
    /// The most bytes that waited.
    most: usize,
    /// The most directories that one step listed.
    together: usize,
}

#[tokio::test]
async fn what_waits_has_a_bound_however_deep_and_wide_a_tree_is() {
    let (width, depth, name) = (1024, 2047, 255);
    let comb = Comb { width, depth, name };
    let (_, most) = comb.walk_down(Levels::default()).await;
    // the least pages of all levels come on top
    let least = depth * SMALLEST_PAGE * (ENTRY + name);
    assert!(most < ROOM + least, "{most}");
}

#[tokio::test]
async fn everything_is_walked_once_with_little_room() {
    let (width, depth, name) = (40, 60, 100);
    let comb = Comb { width, depth, name };
    for room in [0, 100_000, ROOM] {
        let walked = comb.walk(Levels::with_room(room)).await;
        assert_eq!(walked.directories, width * (depth + 1));
        let most = walked.most;
        assert!(
            most < room
                + depth * (SMALLEST_PAGE + 1) * (ENTRY + name)
                + (ENTRY + name) * PAGE / PART
        );
        // pages that are listed ahead would take the room of deeper ones
        assert_eq!(walked.together == 1, room == 0, "{room}: {}", walked.together);
    }
}

impl Comb {
    /// Only the way down: everything else waits.
    async fn walk_down(self, mut levels: Levels) -> (usize, usize) {
        let mut most = 0;
        let first = self.list(&RemotePath::root(), levels.limit());
        levels.enter(offered(RemotePath::root(), first));
        for depth in 1.. {
            loop {
                most = most.max(levels.waiting);
                match levels.next() {
                    Some(Step::List(paths)) => {
                        let limit = levels.limit();
                        levels.listed(
                            paths.iter().take(1).map(|path| self.list(path, limit)).collect(),
                        );
                    }
                    Some(Step::Offer(_, page)) => {
                        page.unwrap().entries.into_iter().for_each(|e| levels.add(e, None));
                    }
                    Some(Step::Enter { path, page, .. }) => {
                        levels.enter(offered(path.unwrap(), page));
                        break;
                    }
                    _ => return (depth, most),
                }
            }
        }
        (0, most)
    }
}
