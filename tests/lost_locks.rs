//! A store that was closed, and a writer that lost its lock: neither publishes or removes anything.

use crate::conformance::{ATTRIBUTES, entry, path, request, shared, stage};
use crate::support::tree::staged;
use crate::support::until;
use haul::store::local::LocalStore;
use haul::store::{
    Content, Durability, ErrorKind, ExistingDirs, MadeDir, RemotePath, RemoveScope, Store,
};

/// As at the end of a removed user's session: a removal under way stops, and a complete partial
/// file does not get its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_publishes_and_removes_nothing() {
    const FILES: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for n in 0..FILES {
        std::fs::write(tree.join(n.to_string()), "").unwrap();
    }
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    std::fs::File::open(&tree).unwrap().set_modified(long_ago).unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let sub = store.subtree(&RemotePath::root()).await.unwrap();
    let mut large = stage(&*sub, "large", &request("me")).await;
    large.write(0, vec![shared(b"content")]).await.unwrap();

    let removing = store.clone();
    let removal =
        tokio::spawn(async move { removing.remove(&path("tree"), RemoveScope::Tree).await });
    until("the removal has begun", || {
        std::fs::metadata(&tree).unwrap().modified().unwrap() != long_ago
    });
    store.close();
    let removed = removal.await.unwrap();
    assert!(
        removed.is_err_and(|e| e.to_string().contains("access")),
        "it went on to its end"
    );
    assert!(std::fs::read_dir(&tree).unwrap().count() > 0);

    assert!(large.commit(7, ATTRIBUTES).await.is_err());
    let small = vec![entry("small", Content::File(shared(b"content")))];
    assert!(sub.put_whole(small, "me", Durability::Durable).await[0].is_err());
    for name in ["large", "small"] {
        assert!(!dir.path().join(name).exists(), "{name}");
    }
}

/// A writer whose partial file was taken away under it cannot commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_lost_its_lock_cannot_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    let mut slow = stage(&store, "f", &request("slow")).await;
    slow.write(0, vec![shared(b"slow")]).await.unwrap();
    std::fs::remove_file(staged(&dir.path().join("f"))).unwrap();
    let mut fast = stage(&store, "f", &request("fast")).await;
    fast.write(0, vec![shared(b"fast")]).await.unwrap();
    assert!(matches!(
        slow.commit(4, ATTRIBUTES).await.unwrap_err().kind,
        ErrorKind::Locked(_)
    ));
    fast.commit(4, ATTRIBUTES).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"fast");
}

/// The next attempt of a transfer in one process has nothing open of the one before, whose partial
/// directory another writer has taken over meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_store_puts_nothing_into_the_directory_of_another_writer() {
    let dir = tempfile::tempdir().unwrap();
    let open = || LocalStore::open(dir.path()).unwrap();
    let dirs = || vec![(path("new"), ATTRIBUTES), (path("new/sub"), ATTRIBUTES)];
    let with = |who| (who, Durability::Volatile);
    let first = open().subtree(&RemotePath::root()).await.unwrap();
    let made = first.stage_dirs(dirs(), ExistingDirs::OpenUp, with("first")).await;
    assert!(made.iter().all(|made| matches!(made, Ok(MadeDir::New))), "{made:?}");
    let file = |name| vec![entry(name, Content::File(shared(b"content")))];
    first
        .put_whole(file("new/sub/a"), "first", Durability::Volatile)
        .await
        .remove(0)
        .unwrap();
    let next = first.renewed().unwrap();
    drop(first);
    let other = open().subtree(&RemotePath::root()).await.unwrap();
    let made = other.stage_dirs(dirs(), ExistingDirs::OpenUp, with("other")).await;
    assert!(made.iter().all(|made| matches!(made, Ok(MadeDir::Resumed))), "{made:?}");
    let refused = next.stage_dirs(dirs(), ExistingDirs::OpenUp, with("first")).await;
    assert!(matches!(&refused[..], [Err(e)] if matches!(e.kind, ErrorKind::Locked(_))));
    assert!(next.make_dirs(dirs(), ExistingDirs::OpenUp).await.iter().all(Result::is_ok));
    next.put_whole(file("new/sub/b"), "first", Durability::Volatile)
        .await
        .remove(0)
        .unwrap();
    assert_eq!(std::fs::read(dir.path().join("new/sub/b")).unwrap(), b"content");
    // what the other one has resumed is merged with that
    let complete = dirs().into_iter().rev().map(|(path, of)| (path, Some(of))).collect();
    let ends = other.complete_dirs(complete, Durability::Volatile).await;
    assert!(ends.iter().all(Result::is_ok), "{ends:?}");
    for name in ["a", "b"] {
        assert_eq!(std::fs::read(dir.path().join("new/sub").join(name)).unwrap(), b"content");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
