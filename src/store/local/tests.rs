//! Shares of a store's users: open files and threads.

use super::*;
use crate::store::{Content, ErrorKind, StoreExt};
use std::path::Path;
use std::time::Duration;

type Waits<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

const USED_UP: Duration = Duration::from_millis(200);

fn of_user(dir: &Path, user: &str) -> LocalStore {
    let store = LocalStore::open(dir).unwrap();
    store.rooted_at(&RemotePath::root(), user).unwrap()
}

fn open_beneath(dir: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    open.filter(|file| file.parent() == Some(dir)).count()
}

/// A user who reads very many files at once has only some of them open, and reads all of them.
#[tokio::test]
async fn files_beyond_a_users_share_are_opened_for_each_call() {
    let dir = tempfile::tempdir().unwrap();
    let store = of_user(dir.path(), "reads all files");
    let path = RemotePath::parse(b"f").unwrap();
    std::fs::write(dir.path().join("f"), b"content").unwrap();
    let share = HANDLES.sources.room("reads all files");
    let mut sources = Vec::new();
    for _ in 0..share + 100 {
        sources.push(store.open(&path).await.unwrap());
    }
    assert_eq!(open_beneath(dir.path()) as u64, share);
    let next = of_user(dir.path(), "the next user").open(&path).await.unwrap();
    assert_eq!(open_beneath(dir.path()) as u64, share + 1, "some are free");
    let version = next.stat().await.unwrap().version;
    for source in sources.iter().rev().take(200) {
        assert_eq!(source.stat().await.unwrap().version, version);
        assert_eq!(source.read_at(3, vec![0; 9], Arc::new(())).await.unwrap(), b"tent");
    }
    drop((sources, next));
    assert_eq!(HANDLES.sources.room("reads all files"), share, "given back");
    assert!(store.open(&path).await.unwrap().is_at_hand(0, 7));
}

/// A partial file of five bytes.
async fn staged(store: &LocalStore, name: &[u8]) -> Box<dyn Staging> {
    let request = StageRequest {
        who: "t".into(),
        if_version: None,
        durability: Durability::Durable,
        size: None,
        window: 32 << 20,
        source: Some("v1".into()),
    };
    let path = RemotePath::parse(name).unwrap();
    let mut staging = store.stage(&path, &request).await.unwrap();
    let bytes: crate::store::Bytes = Arc::new(vec![7; 5]);
    staging.write(0, vec![bytes]).await.unwrap();
    staging
}

/// Every call that waits for a disk takes of its user's share of the threads.
#[tokio::test]
async fn every_call_of_a_larger_file_takes_its_share_of_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let store = of_user(dir.path(), "waits for disks");
    let stage = async |name| staged(&store, name).await;
    let (committed, discarded) = (stage(b"committed").await, stage(b"discarded").await);
    let (mut restarted, partial) = (stage(b"restarted").await, stage(b"partial").await);
    let (mut written, mut extended) = (stage(b"written").await, stage(b"extended").await);
    let checkpointer = partial.checkpointer().unwrap();
    let parts: Vec<crate::store::Bytes> = vec![Arc::new(vec![7; 5])];
    // a write to memory waits for no disk, and takes nothing
    let in_memory = written.part_rules().skip_gap_after == Some(1);
    let owner = store.tree.owner().clone();
    let all = HANDLES.calls.take(&owner, u64::MAX).await;
    let mut calls: Vec<(&str, Waits)> = vec![
        (
            "commit",
            Box::pin(async { drop(committed.commit(5, Attributes::default()).await.unwrap()) }),
        ),
        ("discard", Box::pin(discarded.discard())),
        ("restart", Box::pin(async { restarted.restart(None).await.unwrap() })),
        (
            "checkpoint",
            Box::pin(async { checkpointer.checkpoint(Default::default()).await.unwrap() }),
        ),
        ("hole", Box::pin(async { extended.hole(5, 5).await.unwrap() })),
    ];
    if !in_memory {
        calls.push(("write", Box::pin(async { written.write(5, parts).await.unwrap() })));
    }
    let (mut waiting, mut at_once) = (Vec::new(), Vec::new());
    for (name, mut call) in calls {
        match tokio::time::timeout(USED_UP, &mut call).await {
            Ok(()) => at_once.push(name),
            Err(_) => waiting.push(call),
        }
    }
    assert!(at_once.is_empty(), "{at_once:?} take no share");
    let entry = NewEntry {
        path: RemotePath::parse(b"of another").unwrap(),
        content: Content::Symlink(b"x".to_vec()),
        attributes: Attributes::default(),
        if_version: None,
    };
    let put = of_user(dir.path(), "another")
        .put_whole(vec![entry], "t", Durability::Durable)
        .await;
    assert!(put.iter().all(Result::is_ok), "others continue");
    drop(all);
    for call in waiting {
        call.await;
    }
    let gone = store.stat(&RemotePath::parse(b"discarded").unwrap()).await;
    assert_eq!(gone.unwrap_err().kind, ErrorKind::NotFound);
    assert!(store.stat(&RemotePath::parse(b"committed").unwrap()).await.is_ok());
}

#[tokio::test]
async fn what_changed_since_it_was_listed_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    for name in ["same", "grown", "touched", "kind"] {
        std::fs::write(dir.path().join("d").join(name), b"x").unwrap();
    }
    let store = LocalStore::open(dir.path()).unwrap();
    let store = store.subtree(&RemotePath::root()).await.unwrap();
    let listed = store.list(&RemotePath::parse(b"d").unwrap(), b"", 100).await.unwrap();
    let mut removals: Vec<Removal> = listed
        .entries
        .iter()
        .map(|entry| Removal {
            path: RemotePath::parse(&[b"d/", entry.name.as_ref().unwrap().as_bytes()].concat())
                .unwrap(),
            kind: entry.kind,
            size: entry.size,
            mtime: entry.attributes.mtime,
        })
        .collect();
    let dir_of = |path: &[u8]| Removal {
        path: RemotePath::parse(path).unwrap(),
        kind: Kind::Dir,
        size: 0,
        mtime: Time::default(),
    };
    removals.extend([dir_of(b"d"), dir_of(b"gone"), dir_of(b"gone/too")]);
    let at = |name: &str| dir.path().join("d").join(name);
    let modified = || std::fs::metadata(dir.path().join("d")).unwrap().modified().unwrap();
    std::fs::write(at("grown"), b"xx").unwrap();
    let touched = std::fs::File::options().write(true).open(at("touched")).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    std::fs::remove_file(at("kind")).unwrap();
    std::fs::create_dir(at("kind")).unwrap();
    let before = modified();
    let results = store.remove_many(removals.clone()).await;
    for (removal, result) in removals.iter().zip(results) {
        let kind = result.map_err(|e| e.kind);
        match removal.path.as_bytes() {
            b"d/same" | b"gone" | b"gone/too" => assert_eq!(kind, Ok(()), "{removal:?}"),
            b"d" => assert_eq!(kind, Err(ErrorKind::NotEmpty)),
            _ => assert_eq!(kind, Err(ErrorKind::VersionChanged), "{removal:?}"),
        }
    }
    assert_eq!(modified(), before, "the time of a mirror's directory is its source's");
    assert!(!at("same").exists() && at("grown").exists() && at("touched").exists());
}
