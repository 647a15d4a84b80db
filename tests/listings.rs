//! Directories that change while they are listed: what is there all the time is not left out.

use crate::support::script::ScriptedServer;
use crate::support::tree::write;
use haul::chunk::buffer::BufferPool;
use haul::net::transfer::options::Options;
use haul::net::transfer::send::found::Walked;
use haul::net::transfer::send::source::{Origin, TransferSource};
use haul::net::transfer::send::walk::{Walk, WalkOptions};
use haul::net::wire::proto::{self, reply, request};
use haul::store::local::LocalStore;
use haul::store::{Entry, ErrorKind, RemotePath, Store};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// Files that are there from the beginning to the end.
const STAY: usize = 3000;
/// Files that are removed while the directory is listed.
const GO: usize = 600;

/// An overlay file system with files: there a position in a directory means
/// another place after a change. Unmounted when dropped.
struct Overlay {
    dir: TempDir,
}

impl Overlay {
    /// `None` where it cannot be mounted.
    fn mount() -> Option<Overlay> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["lower", "upper", "work", "merged"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let (lower, upper, work) = (at("lower"), at("upper"), at("work"));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(at("merged"));
        if !mount.output().is_ok_and(|output| output.status.success()) {
            println!("skipped: an overlay file system cannot be mounted here");
            return None;
        }
        // only in the upper layer, so that nothing of them is left when they are removed
        for (name, count) in [("stay", STAY), ("go", GO)] {
            for n in 0..count {
                write(&at("merged").join(format!("{name} {n}")), b"x");
            }
        }
        Some(Overlay { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("merged")
    }

    /// Removes some files, and makes others.
    fn change(&self) {
        for n in 0..GO {
            std::fs::remove_file(self.path().join(format!("go {n}"))).unwrap();
        }
        write(&self.path().join("come"), b"x");
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn stays(entry: &Entry) -> bool {
    entry
        .name
        .as_ref()
        .is_some_and(|name| name.as_bytes().starts_with(b"stay "))
}

async fn store_of(path: &Path) -> Arc<dyn Store> {
    LocalStore::open(path).unwrap().subtree(&RemotePath::root()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_in_a_directory_is_walked_whatever_changes_beside_it() {
    let Some(overlay) = Overlay::mount() else {
        return;
    };
    let origin = Origin::Tree {
        store: store_of(&overlay.path()).await,
        path: RemotePath::root(),
    };
    let sources = Arc::new(vec![TransferSource {
        label: b"t".to_vec(),
        origin,
        place: None,
        chosen: None,
    }]);
    let (out, mut walked) = tokio::sync::mpsc::channel(1);
    let options = Options {
        recursive: true,
        ..Options::default()
    };
    let options = WalkOptions::of(&options, BufferPool::for_window(1 << 20));
    let walk = tokio::spawn(Walk::new(sources, options, out).run());
    // it waits with what it found first
    while walked.is_empty() {
        tokio::task::yield_now().await;
    }
    overlay.change();
    let mut stayed = 0;
    while let Some(batch) = walked.recv().await {
        for step in batch {
            match step {
                Walked::Entry(found) if stays(&found.entry) => stayed += 1,
                Walked::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
    walk.await.unwrap();
    assert_eq!(stayed, STAY);
}

/// With nothing but a cookie a store cannot know which entries are left, where positions move: it
/// says so. Where they do not, it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_refused_where_entries_might_be_left_out() {
    let Some(overlay) = Overlay::mount() else {
        return;
    };
    let store = store_of(&overlay.path()).await;
    let root = RemotePath::root();
    let first = store.list(&root, &[], 512).await.unwrap();
    let cookie = first.next.unwrap();
    assert!(store.list(&root, &cookie, 512).await.is_ok(), "nothing has changed");
    overlay.change();
    let refused = store.list(&root, &cookie, 512).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::SourceChanged);
    for wrong in [&cookie[..8], &cookie[..15], &[&cookie[..], b"x"].concat()] {
        assert_eq!(store.list(&root, wrong, 512).await.unwrap_err().kind, ErrorKind::Other);
    }
}

/// A listing that the server cannot continue is begun again, as long as nothing was printed.
#[tokio::test(flavor = "multi_thread")]
async fn ls_lists_a_directory_again_that_changed_between_two_pages() {
    let server = ScriptedServer::start().await;
    let client = server.client();
    let ls = client.spawn(["ls", &server.url("d/")]);
    let mut peer = server.logged_in().await;
    let page = |names: &[&str], cookie: &[u8]| {
        let entry = |name: &&str| proto::Entry {
            name: name.as_bytes().to_vec(),
            kind: proto::Kind::File.into(),
            ..Default::default()
        };
        let (entries, cookie) = (names.iter().map(entry).collect(), cookie.to_vec());
        Some(reply::Body::List(proto::ListReply { entries, cookie }))
    };
    let dir = proto::Entry {
        kind: proto::Kind::Dir.into(),
        ..Default::default()
    };
    let (number, _) = peer.request().await;
    peer.reply(number, 213, Some(reply::Body::Entry(dir))).await;
    let steps: [(&[u8], u32, Option<reply::Body>); 4] = [
        (b"", 213, page(&["a", "old"], b"1")),
        (b"1", 551, None),
        (b"", 213, page(&["a", "b"], b"2")),
        (b"2", 213, page(&["c"], b"")),
    ];
    for (cookie, code, answer) in steps {
        let (number, body) = peer.request().await;
        assert!(
            matches!(&body, request::Body::List(list) if list.cookie == cookie),
            "{body:?}"
        );
        peer.reply(number, code, answer).await;
    }
    let (number, _) = peer.request().await;
    peer.reply(number, 221, None).await;
    let ended = tokio::task::spawn_blocking(move || ls.end()).await.unwrap();
    assert_eq!((ended.code, ended.out.as_str()), (0, "a\nb\nc\n"), "{ended:?}");
}
