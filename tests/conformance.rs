//! Requirements on every store: plain async functions over `&dyn Store`, run here against the local
//! directory and a store of objects.

use haul::chunk::digest::{Hashing, Reading, whole_digest};
use haul::store::local::LocalStore;
use haul::store::objects::engine::Engine;
use haul::store::objects::engine::s3::S3Engine;
use haul::store::objects::{ObjectStore, ServedObjects, Settings, probe};
use haul::store::{
    Allocation, Attributes, Bytes, Checkpoint, Content, Durability, ErrorKind, Kind, NewEntry,
    RemotePath, RemoveScope, Resume, Served, StageRequest, Staging, Store, StoreError, StoreExt,
    Time, UnlockMode,
};
use std::sync::Arc;

pub fn path(text: &str) -> RemotePath {
    RemotePath::parse(text.as_bytes()).unwrap()
}

pub fn shared(content: &[u8]) -> Bytes {
    Arc::new(content.to_vec())
}

pub const ATTRIBUTES: Attributes = Attributes {
    mtime: Time {
        secs: 1_000_000_000,
        nanos: 123_456_789,
    },
    mode: 0o640,
    allocation: Allocation::Dense,
    metadata: None,
};

pub fn entry(name: &str, content: Content) -> NewEntry {
    NewEntry {
        path: path(name),
        content,
        attributes: ATTRIBUTES,
        if_version: None,
    }
}

pub fn request(who: &str) -> StageRequest {
    StageRequest {
        who: who.into(),
        if_version: None,
        durability: Durability::Durable,
        size: None,
        window: 32 << 20,
        source: None,
    }
}

async fn read(store: &dyn Store, name: &str) -> Result<Vec<u8>, StoreError> {
    let source = store.open(&path(name)).await?;
    let size = usize::try_from(source.stat().await?.size).unwrap();
    let digest = Arc::new(Reading::new(Hashing::of_whole()));
    let bytes = source.read_at(0, vec![0; size], digest.clone()).await?;
    assert_eq!(digest.digest(), whole_digest(&bytes), "what was read was seen");
    Ok(bytes)
}

/// A read without waiting returns the same bytes as one that may wait.
async fn reads_what_is_at_hand(store: &dyn Store) {
    let content: Vec<u8> = (0..300_000).map(|i| (i / 7) as u8).collect();
    let put = store.put_whole(
        vec![entry("h", Content::File(shared(&content)))],
        "t",
        Durability::Volatile,
    );
    assert!(put.await.iter().all(Result::is_ok));
    let source = store.open(&path("h")).await.unwrap();
    for (offset, length) in [
        (0, 300_000),
        (0, 4096),
        (5, 1),
        (299_999, 1),
        (299_000, 5000),
        (300_000, 10),
    ] {
        // not every file system can tell
        if !source.is_at_hand(offset, length) {
            continue;
        }
        let mut now = vec![1; length];
        let n = source.read_now(offset, &mut now).unwrap().unwrap();
        let read = source.read_at(offset, vec![0; length], Arc::new(())).await.unwrap();
        assert!(now[..n] == read, "{offset} {length}");
    }
}

/// Stages a target without a writer. Other tests of this process start children, and a child
/// between fork and exec has the files of a moment ago open, with their locks.
pub async fn stage(store: &dyn Store, name: &str, request: &StageRequest) -> Box<dyn Staging> {
    let started = std::time::Instant::now();
    loop {
        match store.stage(&path(name), request).await {
            Ok(staging) => return staging,
            Err(e) => assert!(
                matches!(e.kind, ErrorKind::Locked(_)) && started.elapsed().as_secs() < 10,
                "{e}"
            ),
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// Entries that were put whole are there, with their attributes and a version.
async fn puts_whole_entries(store: &dyn Store) {
    let entries = vec![
        entry("a", Content::File(shared(b"one"))),
        entry("l", Content::Symlink(b"a".to_vec())),
        entry("no/b", Content::File(shared(b"x"))),
    ];
    let results = store.put_whole(entries, "test", Durability::Durable).await;
    assert!(results[0].is_ok() && results[1].is_ok(), "{results:?}");
    assert_eq!(results[2].as_ref().unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(read(store, "a").await.unwrap(), b"one");
    let stat = store.stat(&path("a")).await.unwrap();
    assert_eq!((stat.kind, stat.size, stat.attributes), (Kind::File, 3, ATTRIBUTES));
    assert_eq!(&stat.version.to_string(), results[0].as_ref().unwrap());
    let link = store.stat(&path("l")).await.unwrap();
    assert_eq!((link.kind, link.target.as_deref()), (Kind::Symlink, Some(&b"a"[..])));
    assert_eq!(store.open(&path("l")).await.err().unwrap().kind, ErrorKind::Symlink);
}

/// A staged file is invisible until it is committed, and locked until then.
async fn stages_and_commits(store: &dyn Store, kind: Kinds) {
    let mut staging = stage(store, "big", &request("first")).await;
    staging.write(0, vec![shared(b"hello "), shared(b"world")]).await.unwrap();
    assert_eq!(store.stat(&path("big")).await.unwrap_err().kind, ErrorKind::NotFound);
    assert!(
        store
            .list(&RemotePath::root(), &[], 100)
            .await
            .unwrap()
            .entries
            .iter()
            .all(|e| !e.name.as_ref().unwrap().as_bytes().starts_with(b".big"))
    );
    match store.stage(&path("big"), &request("second")).await.err().unwrap().kind {
        ErrorKind::Locked(holder) => {
            assert_eq!(holder.who, "first");
            // a lock in a store of objects is renewed now and then
            assert!(kind == Kinds::Objects || holder.written == Some(11), "{holder:?}");
        }
        other => panic!("{other:?}"),
    }
    let whole = store
        .put_whole(
            vec![entry("big", Content::File(shared(b"x")))],
            "third",
            Durability::Volatile,
        )
        .await;
    assert!(matches!(whole[0].as_ref().unwrap_err().kind, ErrorKind::Locked(_)));
    staging.commit(11, ATTRIBUTES).await.unwrap();
    assert_eq!(read(store, "big").await.unwrap(), b"hello world");
}

/// A file that was dropped or discarded, or has another size than expected, is not committed, and
/// its lock is free again.
async fn gives_up_staged_files(store: &dyn Store) {
    let mut dropped = stage(store, "s", &request("a")).await;
    dropped
        .write(0, vec![shared(b"left over, and longer than what comes")])
        .await
        .unwrap();
    drop(dropped);
    let mut discarded = stage(store, "s", &request("b")).await;
    discarded.write(0, vec![shared(b"x")]).await.unwrap();
    discarded.discard().await;
    let mut short = stage(store, "s", &request("c")).await;
    short.write(0, vec![shared(b"four")]).await.unwrap();
    assert!(short.commit(5, ATTRIBUTES).await.is_err());
    assert_eq!(store.stat(&path("s")).await.unwrap_err().kind, ErrorKind::NotFound);
    let mut again = stage(store, "s", &request("d")).await;
    again.write(0, vec![shared(b"wrong")]).await.unwrap();
    again.restart(None).await.unwrap();
    again.write(0, vec![shared(b"ok")]).await.unwrap();
    again.commit(2, ATTRIBUTES).await.unwrap();
    assert_eq!(read(store, "s").await.unwrap(), b"ok");
}

/// A later writer of the same source resumes at its checkpoint; a writer of another source does
/// not.
async fn keeps_and_resumes(store: &dyn Store) {
    let of = |source: &str| StageRequest {
        source: Some(source.into()),
        ..request("kim")
    };
    let point = Checkpoint {
        offset: 6,
        digests: vec![[3; 32], [4; 32]],
    };
    let mut first = stage(store, "r", &of("v1")).await;
    assert_eq!(first.resume(), Resume::Fresh);
    first.write(0, vec![shared(b"hello ")]).await.unwrap();
    first.checkpointer().unwrap().checkpoint(point.clone()).await.unwrap();
    first.write(6, vec![shared(b"lost")]).await.unwrap();
    drop(first);
    let mut held = store.locks(&RemotePath::root(), &[], 100).await.unwrap().entries;
    while held[0].live {
        // see `stage`
        held = store.locks(&RemotePath::root(), &[], 100).await.unwrap().entries;
    }
    assert_eq!(held.len(), 1);
    assert_eq!(
        (held[0].target.as_slice(), held[0].holder.who.as_str(), held[0].live),
        (&b"r"[..], "kim", false)
    );

    let mut second = stage(store, "r", &of("v1")).await;
    assert_eq!(second.resume(), Resume::From(point.clone()));
    assert!(matches!(
        store.unlock(&path("r"), UnlockMode::Abandoned).await.unwrap_err().kind,
        ErrorKind::Locked(_)
    ));
    second.write(6, vec![shared(b"world")]).await.unwrap();
    second.commit(11, ATTRIBUTES).await.unwrap();
    assert_eq!(read(store, "r").await.unwrap(), b"hello world");
    assert!(store.locks(&RemotePath::root(), &[], 100).await.unwrap().entries.is_empty());

    // another version of the source starts anew, and a restart forgets the checkpoint
    let mut third = stage(store, "r", &of("v2")).await;
    third.write(0, vec![shared(b"HELLO ")]).await.unwrap();
    let keeper = third.checkpointer().unwrap();
    keeper.checkpoint(point.clone()).await.unwrap();
    drop((third, keeper));
    let mut fourth = stage(store, "r", &of("v3")).await;
    assert_eq!(fourth.resume(), Resume::Discarded(6));
    fourth.write(0, vec![shared(b"again ")]).await.unwrap();
    let stale = fourth.checkpointer().unwrap();
    fourth.restart(Some("v4".into())).await.unwrap();
    stale.checkpoint(point.clone()).await.unwrap();
    drop((fourth, stale));
    let fifth = stage(store, "r", &of("v4")).await;
    assert_eq!(fifth.resume(), Resume::Fresh);
    fifth.discard().await;
    assert!(!store.unlock(&path("r"), UnlockMode::Abandoned).await.unwrap());
    assert_eq!(read(store, "r").await.unwrap(), b"hello world");
}

/// The target must have the version that the writer expects.
async fn checks_versions(store: &dyn Store) {
    let put = async |content: &[u8], version: Option<&str>| {
        let mut new = entry("v", Content::File(shared(content)));
        new.if_version = version.map(str::to_string);
        store.put_whole(vec![new], "test", Durability::Volatile).await.remove(0)
    };
    let first = put(b"1", Some("none")).await.unwrap();
    assert_eq!(put(b"2", Some("none")).await.unwrap_err().kind, ErrorKind::VersionChanged);
    let second = put(b"2", Some(&first)).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(put(b"3", Some(&first)).await.unwrap_err().kind, ErrorKind::VersionChanged);
    let request = StageRequest {
        if_version: Some(first),
        ..request("x")
    };
    assert_eq!(
        store.stage(&path("v"), &request).await.err().unwrap().kind,
        ErrorKind::VersionChanged
    );
    assert_eq!(read(store, "v").await.unwrap(), b"2");
}

/// Pages return each entry of a directory once, whatever their size.
async fn lists_in_pages(store: &dyn Store) {
    store.make_dir(&path("d")).await.unwrap();
    let new = (0..57)
        .map(|i| entry(&format!("d/{i}"), Content::File(shared(b""))))
        .collect();
    store.put_whole(new, "test", Durability::Volatile).await;
    for limit in [1, 7, 57, 1000] {
        let (mut names, mut cookie) = (Vec::new(), Vec::new());
        loop {
            let page = store.list(&path("d"), &cookie, limit).await.unwrap();
            assert!(page.entries.len() <= limit);
            names.extend(page.entries.into_iter().map(|e| e.name.unwrap()));
            match page.next {
                Some(next) => cookie = next,
                None => break,
            }
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 57, "pages of {limit}");
    }
    assert!(store.list(&path("d"), b"nonsense cookie", 10).await.is_err());
    for few in ["e", "f"] {
        store.make_dir(&path(few)).await.unwrap();
    }
    let dirs = ["e", "none", "f", "d", "e"].map(path).to_vec();
    let first = store.list_whole(dirs.clone(), 100).await;
    let counts = first.iter().map(|page| page.as_ref().map_or(999, |p| p.entries.len()));
    assert_eq!(counts.collect::<Vec<_>>(), [0, 999, 0, 57, 0]);
    let first = store.list_whole(dirs, 20).await;
    assert_eq!(first.len(), 4, "the fourth has as many as there may be in all");
    assert!(first.last().unwrap().as_ref().unwrap().rest.is_some());
    assert_eq!(
        store.list(&path("a"), &[], 10).await.unwrap_err().kind,
        ErrorKind::NotADirectory
    );
}

async fn makes_removes_renames(store: &dyn Store, kind: Kinds) {
    assert_eq!(store.make_dir(&path("x/y")).await.unwrap_err().kind, ErrorKind::NotFound);
    store.make_dir_all(&path("x/y/z")).await.unwrap();
    store.make_dir_all(&path("x/y")).await.unwrap();
    assert_eq!(store.make_dir(&path("x")).await.unwrap_err().kind, ErrorKind::Exists);
    assert_eq!(
        store.remove(&path("x"), RemoveScope::Entry).await.unwrap_err().kind,
        ErrorKind::NotEmpty
    );
    assert!(store.rename(&path("x"), &path("x/y/in-itself")).await.is_err());
    let renamed = store.rename(&path("x/y"), &path("moved")).await;
    match kind {
        Kinds::Directory => {
            renamed.unwrap();
            assert_eq!(store.stat(&path("moved/z")).await.unwrap().kind, Kind::Dir);
        }
        // refused by name
        Kinds::Objects => {
            let error = renamed.unwrap_err();
            assert!(error.describe().contains("cannot be renamed"), "{error}");
            store.remove(&path("x/y"), RemoveScope::Tree).await.unwrap();
            store.make_dir(&path("x/y")).await.unwrap();
            store.rename(&path("x/y"), &path("moved")).await.unwrap();
        }
    }
    store.remove(&path("moved"), RemoveScope::Tree).await.unwrap();
    store.remove(&path("x"), RemoveScope::Entry).await.unwrap();
    assert_eq!(
        store.remove(&path("x"), RemoveScope::Entry).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    assert_eq!(
        store.remove(&RemotePath::root(), RemoveScope::Tree).await.unwrap_err().kind,
        ErrorKind::Denied
    );
    let space = store.space(&RemotePath::root()).await.unwrap();
    match kind {
        Kinds::Directory => assert!(space.unwrap().total > 0),
        Kinds::Objects => assert_eq!(space, None),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    // as requests see it, and as a transfer does
    for (name, strict) in [("requests", false), ("transfers", true)] {
        store.make_dir(&path(name)).await.unwrap();
        let sub: Arc<dyn Store> = match strict {
            true => store.subtree(&path(name)).await.unwrap(),
            false => Arc::new(store.rooted_at(&path(name), "").unwrap()),
        };
        conforms(&*sub, Kinds::Directory).await;
    }
}

/// What kind of store is tested, where that makes a difference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    Directory,
    Objects,
}

async fn conforms(store: &dyn Store, kind: Kinds) {
    puts_whole_entries(store).await;
    reads_what_is_at_hand(store).await;
    stages_and_commits(store, kind).await;
    gives_up_staged_files(store).await;
    checks_versions(store).await;
    lists_in_pages(store).await;
    makes_removes_renames(store, kind).await;
    keeps_and_resumes(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_objects_conforms() {
    let engine: Arc<dyn Engine> = Arc::new(S3Engine::in_memory());
    let settings = Settings::new("some/prefix");
    probe(&engine, &settings.prefix, &settings.random).await.unwrap();
    let store = ObjectStore::open(engine, settings);
    for (name, strict) in [("requests", false), ("transfers", true)] {
        store.make_dir(&path(name)).await.unwrap();
        let sub: Arc<dyn Store> = match strict {
            true => store.subtree(&path(name)).await.unwrap(),
            false => {
                let served = ServedObjects(store.clone());
                served.rooted_at(&path(name), "kim").await.unwrap().store()
            }
        };
        conforms(&*sub, Kinds::Objects).await;
    }
}
