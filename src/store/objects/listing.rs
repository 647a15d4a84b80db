//! Listings: keys from the engine, page by page, described by indexes, or else by a request each.

use super::engine::Object;
use super::entries::{Found, visible};
use super::index::{Known, names};
use super::keys::{Space, encoded};
use super::view::View;
use crate::store::entry::{Entry, Page};
use crate::store::error::{ErrorKind, StoreError};
use crate::store::path::{Name, RemotePath};
use crate::store::{DirPage, DirStream};
use async_trait::async_trait;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Objects of a page that engines return.
const PAGE: usize = 1000;
/// As many entries of one directory are found by a listing of it.
const LISTED: usize = 12;
/// Entries without an index beyond which one is worth it.
const INDEXED: usize = 64;
/// The first byte of a cookie.
const COOKIE: u8 = b'=';

/// Where a page begins.
fn start(view: &View, dir: &RemotePath, cookie: &[u8]) -> Result<Option<String>, StoreError> {
    if cookie.is_empty() {
        return Ok(None);
    }
    let name = cookie.strip_prefix(&[COOKIE]).and_then(|name| Name::parse(name).ok());
    let name = name.ok_or_else(|| StoreError::because("the cookie of a listing is none", dir))?;
    let prefix = view.entries.keys.within(Space::Entries, dir);
    Ok(Some(format!("{prefix}{}", encoded(&name))))
}

/// Some entries of a directory, and the cookie of those behind them.
///
/// # Errors
/// The engine's.
pub async fn page(
    view: &View,
    dir: &RemotePath,
    cookie: &[u8],
    limit: usize,
) -> Result<Page, StoreError> {
    let prefix = view.entries.keys.within(Space::Entries, dir);
    let mut after = start(view, dir, cookie)?;
    let limit = limit.clamp(1, PAGE);
    loop {
        let listed = view.entries.requests.list(&prefix, after.as_deref(), limit).await;
        let listed = listed.map_err(|failed| failed.about(dir))?;
        let last = listed.objects.last().map(|object| object.key.clone());
        let objects = names(listed.objects, |object| &object.key);
        let next = objects.last().map(|(name, _)| [&[COOKIE], name.as_bytes()].concat());
        let found = described(view, dir, objects).await?;
        let entry = |(name, found): (Name, Arc<Found>)| {
            let place = Some(found);
            visible(&place).and_then(|record| record.entry(Some(name)))
        };
        let entries: Vec<Entry> = found.into_iter().filter_map(entry).collect();
        match (listed.more, last) {
            // a page of fences alone
            (true, Some(last)) if entries.is_empty() => after = Some(last),
            (true, _) => return Ok(Page { entries, next }),
            (false, _) => {
                let next = None;
                return Ok(Page { entries, next });
            }
        }
    }
}

/// Describes objects of a directory; those that are gone are not in the result.
async fn described(
    view: &View,
    dir: &RemotePath,
    objects: Vec<(Name, Object)>,
) -> Result<Vec<(Name, Arc<Found>)>, StoreError> {
    let known = match objects.len() >= LISTED {
        true => view.shared.indexes.of(&view.entries, dir).await?,
        false => Known::default(),
    };
    let describe = |(name, object): (Name, Object)| {
        let known = known.get(&object.tag).cloned();
        async move {
            let whole = dir.join(&name).map_err(|why| bad_name(dir, why))?;
            let place = match known {
                Some(found) => {
                    view.entries.seen.note(&whole, Some(found.clone()));
                    return Ok(Some((name, found, true)));
                }
                None => match view.entries.seen.get(&whole) {
                    Some(Some(found)) if found.tag == object.tag => Some(found),
                    _ => view.entries.find(&whole).await?,
                },
            };
            Ok(place.map(|found| (name, found, false)))
        }
    };
    let results = view.each(objects, describe).await;
    let mut found = Vec::with_capacity(results.len());
    let mut asked = Vec::new();
    for result in results {
        if let Some((name, one, indexed)) = result? {
            if !indexed {
                asked.push((name.clone(), one.clone()));
            }
            found.push((name, one));
        }
    }
    if asked.len() >= INDEXED {
        for (name, one) in asked {
            view.shared.indexes.note(dir, &name, &one);
        }
        view.shared.indexes.write(&view.entries, dir).await;
    }
    Ok(found)
}

fn bad_name(dir: &RemotePath, why: crate::store::BadPath) -> StoreError {
    StoreError::new(ErrorKind::BadName(why), dir)
}

/// The entries of a directory from a cookie on.
struct Rest {
    view: View,
    dir: RemotePath,
    shown: RemotePath,
    cookie: Vec<u8>,
}

#[async_trait]
impl DirStream for Rest {
    async fn next_page(self: Box<Self>, limit: usize) -> Result<DirPage, StoreError> {
        let Rest {
            view,
            dir,
            shown,
            cookie,
        } = *self;
        dir_page(view, (dir, shown), &cookie, limit).await
    }
}

/// A page of a directory, with the way to the rest. `shown` is the path for errors.
///
/// # Errors
/// The engine's.
pub async fn dir_page(
    view: View,
    (dir, shown): (RemotePath, RemotePath),
    cookie: &[u8],
    limit: usize,
) -> Result<DirPage, StoreError> {
    let found = page(&view, &dir, cookie, limit).await.map_err(|e| e.about(&shown))?;
    let rest = found.next.map(|cookie| {
        let rest = Rest {
            view,
            dir,
            shown,
            cookie,
        };
        Box::new(rest) as Box<dyn DirStream>
    });
    Ok(DirPage {
        entries: found.entries,
        sized: true,
        rest,
    })
}

/// Describes many entries: those of one directory by a listing of it.
pub async fn stat_many(view: &View, paths: Vec<RemotePath>) -> Vec<Result<Entry, StoreError>> {
    let mut by_dir: HashMap<RemotePath, Vec<RemotePath>> = HashMap::new();
    for path in &paths {
        if let Some((dir, _)) = path.split() {
            by_dir.entry(dir).or_default().push(path.clone());
        }
    }
    let wide = by_dir.into_iter().filter(|(_, asked)| asked.len() >= LISTED).collect();
    let list = |(dir, asked): (RemotePath, Vec<RemotePath>)| async move {
        // what a listing does not answer is asked for by itself
        let found = stat_listed(view, &dir, &asked).await.ok()?;
        Some((asked, found))
    };
    let (mut listed, mut found) = (HashSet::new(), HashMap::new());
    for (asked, some) in view.each(wide, list).await.into_iter().flatten() {
        listed.extend(asked);
        found.extend(some);
    }
    let mut with_known = |path: RemotePath| {
        let known = listed.contains(&path).then(|| found.remove(&path));
        (path, known)
    };
    let asked: Vec<(RemotePath, Option<Option<Entry>>)> =
        paths.into_iter().map(&mut with_known).collect();
    let stat = |(path, known): (RemotePath, Option<Option<Entry>>)| async move {
        match known {
            Some(entry) => entry.ok_or_else(|| StoreError::new(ErrorKind::NotFound, &path)),
            None => view.stat(&path).await,
        }
    };
    view.each(asked, stat).await
}

/// Describes entries of one directory by listing the part of it that has them.
///
/// # Errors
/// If the directory cannot be listed, or most of that part is not asked for.
async fn stat_listed(
    view: &View,
    dir: &RemotePath,
    asked: &[RemotePath],
) -> Result<HashMap<RemotePath, Entry>, StoreError> {
    let whole = view.dir(dir).await?;
    let prefix = view.entries.keys.within(Space::Entries, &whole);
    let named = asked.iter().filter_map(|path| Some((path.split()?.1, path)));
    let wanted: BTreeMap<String, &RemotePath> = named
        .map(|(name, path)| (format!("{prefix}{}", encoded(&name)), path))
        .collect();
    let (Some((first, _)), Some((last, _))) = (wanted.first_key_value(), wanted.last_key_value())
    else {
        return Ok(HashMap::new());
    };
    // the greatest text that is less than the first key, and has the prefix
    let mut before = first.clone();
    before.pop();
    let mut after = Some(before.clone()).filter(|before| before.len() >= prefix.len());
    let mut pages = wanted.len().div_ceil(LISTED).saturating_add(1);
    let mut objects = Vec::new();
    loop {
        let page = view.entries.requests.list(&prefix, after.as_deref(), PAGE).await;
        let page = page.map_err(|failed| failed.about(dir))?;
        let end = page.objects.last().map(|object| object.key.clone());
        objects.extend(page.objects.into_iter().filter(|o| wanted.contains_key(&o.key)));
        match end {
            Some(end) if page.more && end < *last => after = Some(end),
            _ => break,
        }
        pages = pages.saturating_sub(1);
        if pages == 0 {
            return Err(StoreError::because("too much else is there", dir));
        }
    }
    let found = described(view, &whole, names(objects, |object| &object.key)).await?;
    let mut entries = HashMap::new();
    for path in asked.iter().filter(|path| path.split().is_some()) {
        if let Ok(absolute) = view.absolute(path) {
            view.entries.seen.note(&absolute, None);
        }
    }
    for (name, one) in found {
        let (Ok(path), Ok(absolute)) = (dir.join(&name), whole.join(&name)) else {
            continue;
        };
        let place = Some(one);
        view.entries.seen.note(&absolute, place.clone());
        let entry = visible(&place).and_then(|record| record.entry(Some(name)));
        entries.extend(entry.map(|entry| (path, entry)));
    }
    Ok(entries)
}
