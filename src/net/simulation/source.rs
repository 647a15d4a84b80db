//! The sources of a simulated transfer: files in memory that may change while they are read.

use super::Chance;
use crate::store::{
    Allocation, Attributes, Change, DirPage, Durability, Entry, ErrorKind, ExistingDirs, Extent,
    FileSource, Kind, LockPage, Name, NewEntry, Page, RemotePath, RemoveScope, Space, StageRequest,
    Staging, Store, StoreError, Time, UnlockMode, Version, Watch, WholeFile,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that say where they are and of which version.
const STAMP: usize = 4096;

/// One file, as it is now.
#[derive(Clone)]
struct SourceFile {
    version: u64,
    size: usize,
    /// Its bytes can be read without waiting.
    at_hand: bool,
}

/// Files by path, and every version that each has had.
#[derive(Clone)]
pub(super) struct Files {
    now: Arc<Mutex<BTreeMap<String, SourceFile>>>,
    /// The sizes of all versions of a file.
    versions: Arc<Mutex<BTreeMap<String, Vec<usize>>>>,
}

/// The content of a version of a file.
pub(super) fn content(path: &str, version: u64, size: usize) -> Vec<u8> {
    let tag = path.bytes().fold(version.wrapping_mul(0x9e37_79b9), |tag, byte| {
        tag.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let mut bytes = vec![tag as u8; size];
    for (i, block) in bytes.chunks_mut(STAMP).enumerate() {
        let stamp = [tag.to_be_bytes(), (i as u64).to_be_bytes()].concat();
        let length = stamp.len().min(block.len());
        block[..length].copy_from_slice(&stamp[..length]);
    }
    bytes
}

impl Files {
    /// Some files: most are small, some have a chunk and a little, a few are larger.
    pub(super) fn new(chance: &mut Chance) -> Files {
        let files = Files {
            now: Arc::default(),
            versions: Arc::default(),
        };
        for n in 0..1 + chance.below(7) {
            let dir = *chance.of(&["", "", "sub/", "mount/"]);
            let path = format!("{dir}f{n}");
            let file = SourceFile {
                version: 1,
                size: size(chance),
                at_hand: chance.one_in(2),
            };
            files.versions.lock().insert(path.clone(), vec![file.size]);
            files.now.lock().insert(path, file);
        }
        files
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.now.lock().keys().cloned().collect()
    }

    /// A file is rewritten, in place.
    pub(super) fn change(&self, path: &str, chance: &mut Chance) {
        if let Some(file) = self.now.lock().get_mut(path) {
            file.version += 1;
            if chance.one_in(2) {
                file.size = size(chance);
            }
            self.versions.lock().get_mut(path).unwrap().push(file.size);
        }
    }

    /// What the file is now.
    pub(super) fn newest(&self, path: &str) -> Vec<u8> {
        let file = self.now.lock()[path].clone();
        content(path, file.version, file.size)
    }

    /// True for the content of any version that the file has had.
    pub(super) fn is_a_version(&self, path: &str, found: &[u8]) -> bool {
        let sizes = self.versions.lock()[path].clone();
        let of = |(version, size): (u64, usize)| {
            size == found.len() && content(path, version, size) == found
        };
        (1..).zip(sizes).any(of)
    }

    /// True for the hash of any version that the file has had.
    pub(super) fn is_a_hash(&self, path: &str, found: [u8; 32]) -> bool {
        let sizes = self.versions.lock()[path].clone();
        (1..)
            .zip(sizes)
            .any(|(version, size)| *blake3::hash(&content(path, version, size)).as_bytes() == found)
    }

    pub(super) fn store(&self, pause: Duration) -> Arc<dyn Store> {
        Arc::new(MemoryStore {
            files: self.clone(),
            pause,
        })
    }

    fn entry(&self, path: &RemotePath) -> Result<Entry, StoreError> {
        let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
        let now = self.now.lock();
        let is_dir =
            text.is_empty() || now.keys().any(|file| file.starts_with(&format!("{text}/")));
        let name = path.split().map(|(_, name)| name);
        let (kind, size, version) = match now.get(&text) {
            Some(file) => (Kind::File, file.size as u64, file.version),
            None if is_dir => (Kind::Dir, 0, 0),
            None => return Err(StoreError::new(ErrorKind::NotFound, path)),
        };
        Ok(Entry {
            name,
            kind,
            size,
            attributes: Attributes {
                mtime: Time {
                    secs: 1_600_000_000 + i64::try_from(version).unwrap_or(0),
                    nanos: 0,
                },
                mode: if kind == Kind::Dir { 0o755 } else { 0o644 },
                allocation: Allocation::Dense,
                metadata: None,
            },
            target: None,
            version: Version::Text(format!("{text} {version}")),
            owner: None,
            device: 0,
            links: 0,
        })
    }

    fn read(&self, path: &RemotePath, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
        let file = self.now.lock().get(&text).cloned();
        let file = file.ok_or_else(|| StoreError::new(ErrorKind::NotFound, path))?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.size);
        let to = file.size.min(from.saturating_add(length));
        Ok(content(&text, file.version, file.size)[from..to].to_vec())
    }
}

fn size(chance: &mut Chance) -> usize {
    match chance.below(12) {
        0 => 0,
        1..=7 => 1 + chance.below(3000),
        8 => 1 << 20,
        9 => (1 << 20) + 1 + chance.below(5000),
        _ => (2 << 20) + chance.below(3_000_000),
    }
}

struct MemoryStore {
    files: Files,
    pause: Duration,
}

struct MemoryFile {
    files: Files,
    path: RemotePath,
    at_hand: bool,
    pause: Duration,
}

fn unasked<T>(path: &RemotePath) -> Result<T, StoreError> {
    Err(StoreError::because("the source has no such call", path))
}

#[async_trait]
impl FileSource for MemoryFile {
    async fn stat(&self) -> Result<Entry, StoreError> {
        self.files.entry(&self.path)
    }

    fn is_at_hand(&self, _: u64, _: usize) -> bool {
        self.at_hand
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<Result<usize, StoreError>> {
        let read = self.files.read(&self.path, offset, buffer.len());
        Some(read.map(|bytes| {
            buffer[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        }))
    }

    async fn extent(&self, _: u64) -> Result<Extent, StoreError> {
        Ok(Extent::Data { end: u64::MAX })
    }

    fn error(&self, kind: ErrorKind) -> StoreError {
        StoreError::new(kind, &self.path)
    }

    async fn read_at(
        &self,
        offset: u64,
        buffer: Vec<u8>,
        watch: Arc<dyn Watch>,
    ) -> Result<Vec<u8>, StoreError> {
        tokio::time::sleep(self.pause).await;
        let bytes = self.files.read(&self.path, offset, buffer.len())?;
        watch.see(&bytes);
        Ok(bytes)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn resolve(&self, path: &RemotePath) -> Result<RemotePath, StoreError> {
        Ok(path.clone())
    }

    async fn subtree(&self, path: &RemotePath) -> Result<Arc<dyn Store>, StoreError> {
        unasked(path)
    }

    async fn stat_many(&self, paths: Vec<RemotePath>) -> Vec<Result<Entry, StoreError>> {
        paths.iter().map(|path| self.files.entry(path)).collect()
    }

    async fn list(&self, path: &RemotePath, _: &[u8], _: usize) -> Result<Page, StoreError> {
        unasked(path)
    }

    async fn list_whole(
        &self,
        paths: Vec<RemotePath>,
        _: usize,
    ) -> Vec<Result<DirPage, StoreError>> {
        tokio::time::sleep(self.pause).await;
        let page = |dir: &RemotePath| {
            let prefix = match dir.is_root() {
                true => String::new(),
                false => format!("{}/", String::from_utf8_lossy(dir.as_bytes())),
            };
            let mut names = std::collections::BTreeSet::new();
            for path in self.files.paths() {
                let rest = path.strip_prefix(&prefix);
                names.extend(rest.and_then(|rest| rest.split('/').next().map(str::to_string)));
            }
            let entry = |name: &String| {
                let name = Name::parse(name.as_bytes()).unwrap();
                self.files.entry(&dir.join(&name).unwrap())
            };
            Ok(DirPage {
                entries: names.iter().map(entry).collect::<Result<_, _>>()?,
                sized: true,
                rest: None,
            })
        };
        paths.iter().map(page).collect()
    }

    async fn make_dir(&self, path: &RemotePath) -> Result<(), StoreError> {
        unasked(path)
    }

    async fn make_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        _: ExistingDirs,
    ) -> Vec<Result<bool, StoreError>> {
        dirs.iter().map(|(path, _)| unasked(path)).collect()
    }

    async fn remove(&self, path: &RemotePath, _: RemoveScope) -> Result<(), StoreError> {
        unasked(path)
    }

    async fn rename(&self, from: &RemotePath, _: &RemotePath) -> Result<(), StoreError> {
        unasked(from)
    }

    async fn rename_new(&self, from: &RemotePath, _: &RemotePath) -> Result<(), StoreError> {
        unasked(from)
    }

    async fn change(&self, path: &RemotePath, _: Change) -> Result<(), StoreError> {
        unasked(path)
    }

    async fn space(&self, path: &RemotePath) -> Result<Option<Space>, StoreError> {
        unasked(path)
    }

    async fn open(&self, path: &RemotePath) -> Result<Arc<dyn FileSource>, StoreError> {
        let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
        let at_hand = self.files.now.lock().get(&text).is_some_and(|file| file.at_hand);
        Ok(Arc::new(MemoryFile {
            files: self.files.clone(),
            path: path.clone(),
            at_hand,
            pause: self.pause,
        }))
    }

    async fn read_whole(
        &self,
        paths: Vec<RemotePath>,
        most: usize,
    ) -> Vec<Result<WholeFile, StoreError>> {
        tokio::time::sleep(self.pause).await;
        let read = |path: &RemotePath| {
            let version = self.files.entry(path)?.version;
            let bytes = self.files.read(path, 0, most + 1)?;
            match bytes.len() > most {
                true => Err(StoreError::new(ErrorKind::SourceChanged, path)),
                false => Ok(WholeFile { version, bytes }),
            }
        };
        paths.iter().map(read).collect()
    }

    async fn put_whole(
        &self,
        entries: Vec<NewEntry>,
        _: &str,
        _: Durability,
    ) -> Vec<Result<String, StoreError>> {
        entries.iter().map(|entry| unasked(&entry.path)).collect()
    }

    async fn stage(
        &self,
        path: &RemotePath,
        _: &StageRequest,
    ) -> Result<Box<dyn Staging>, StoreError> {
        unasked(path)
    }

    async fn set_attributes(
        &self,
        entries: Vec<(RemotePath, Attributes)>,
    ) -> Vec<Result<(), StoreError>> {
        entries.iter().map(|(path, _)| unasked(path)).collect()
    }

    async fn locks(&self, path: &RemotePath, _: &[u8], _: usize) -> Result<LockPage, StoreError> {
        unasked(path)
    }

    async fn unlock(&self, path: &RemotePath, _: UnlockMode) -> Result<bool, StoreError> {
        unasked(path)
    }
}
