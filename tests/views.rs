//! What a transfer sees of its sources: symlinks that it follows, file systems that it does not
//! enter, ignore files, and why an entry is not sent.

use crate::support::disk::SmallDisk;
use crate::support::tree::{Entry, set_mtime, snapshot, write};
use crate::support::{Client, Ended, Server};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tree with symlinks to a file, to directories, and out of the tree.
fn linked(top: &Path) {
    write(&top.join("f"), b"content");
    write(&top.join("d/e/x"), b"x");
    for (to, name) in [("f", "link"), ("d/e", "dirlink"), ("../../f", "d/e/up")] {
        symlink(to, top.join(name)).unwrap();
    }
    let beside = top.with_file_name("beside");
    write(&beside.join("b/c"), b"beside");
    symlink(beside.join("b"), top.join("absolute")).unwrap();
    for dir in [beside.join("b"), top.join("d/e"), top.join("d"), top.to_path_buf()] {
        set_mtime(&dir, 1_000_000_000_000_000_000);
    }
}

/// Each of these failed, with a line of its own that says why.
fn failed_each(ended: &Ended, names: &[&str], why: &str) {
    assert_eq!(ended.code, 3, "{ended:?}");
    for name in names {
        let start = format!("haul: {name}: ");
        let line = ended.err.lines().find(|line| line.starts_with(&start));
        assert!(line.is_some_and(|line| line.contains(why)), "{name}: {ended:?}");
    }
}

/// A tree, but for the times of symlinks: rsync sets them only where they differ by a second.
fn entries(top: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut entries = snapshot(top);
    for entry in entries.values_mut() {
        if let Entry::Symlink { mtime, .. } = entry {
            *mtime = (0, 0);
        }
    }
    entries
}

/// What rsync makes of a tree.
fn of_rsync(options: &str, from: &Path, work: &Path) -> BTreeMap<PathBuf, Entry> {
    let to = work.join(format!("rsync{options}"));
    let from = format!("{}/", from.display());
    let rsync = Command::new("rsync").args([options, &from]).arg(&to).output().unwrap();
    assert!(rsync.status.success(), "{}", String::from_utf8_lossy(&rsync.stderr));
    let made = entries(&to);
    std::fs::remove_dir_all(to).unwrap();
    made
}

#[test]
fn symlinks_are_sent_as_what_they_lead_to() {
    let server = Server::start();
    let client = server.client();
    let work = client.work();
    linked(&work.join("src"));
    for options in ["-aL", "-ak"] {
        let wanted = of_rsync(options, &work.join("src"), &work);
        client.ok(["put", options, "src/", "srv:put"]);
        client.ok(["cp", options, "src/", "copy"]);
        client.ok(["cp", options, "-c", "--no-fsync", "src/", "copy"]);
        assert_eq!(entries(&server.root.join("put")), wanted, "{options}");
        assert_eq!(entries(&work.join("copy")), wanted, "{options}");
        // nothing changes, and nothing more is deleted
        write(&server.root.join("put/dirlink/extra"), b"old");
        let out = client.ok(["put", options, "--delete", "--json", "src/", "srv:put"]);
        assert!(!out.contains(r#""event":"file""#), "{out}");
        assert_eq!(entries(&server.root.join("put")), wanted, "{options}");
        std::fs::remove_dir_all(server.root.join("put")).unwrap();
        std::fs::remove_dir_all(work.join("copy")).unwrap();
    }
    // a source that is a symlink itself
    client.ok(["put", "-aL", "src/dirlink", "src/link", "srv:"]);
    assert!(server.root.join("dirlink").symlink_metadata().unwrap().is_dir());
    assert!(server.root.join("link").symlink_metadata().unwrap().is_file());
}

#[test]
fn a_server_follows_symlinks_within_the_users_root_only() {
    let server = Server::start();
    let client = server.client();
    let root = server.root.clone();
    write(&root.join("src/f"), b"content");
    write(&root.join("else/where/x"), b"x");
    symlink("../else", root.join("src/beneath")).unwrap();
    symlink("where/x", root.join("else/file")).unwrap();
    client.ok(["get", "-aL", "srv:src", "."]);
    let there = client.work().join("src");
    assert_eq!(std::fs::read(there.join("beneath/file")).unwrap(), b"x");
    assert!(there.join("beneath/file").symlink_metadata().unwrap().is_file());
    write(&there.join("beneath/where/old"), b"old");
    client.ok(["get", "-aL", "--delete", "srv:src", "."]);
    assert!(!there.join("beneath/where/old").exists());
    // outside
    let outside = client.work().join("outside");
    write(&outside.join("secret"), b"secret");
    symlink(&outside, root.join("src/dir")).unwrap();
    symlink(outside.join("secret"), root.join("src/file")).unwrap();
    symlink("../../../../../../etc/passwd", root.join("src/passwd")).unwrap();
    let ended = client.run(["get", "-aL", "srv:src/", "second"]);
    failed_each(&ended, &["src/dir", "src/file", "src/passwd"], "leads to nothing");
    let names = std::fs::read_dir(client.work().join("second")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["beneath", "f"]);
}

#[test]
fn symlinks_that_lead_nowhere_or_upward_fail_by_name() {
    let client = Client::new();
    let top = client.work().join("src");
    write(&top.join("d/f"), b"f");
    symlink("missing", top.join("nowhere")).unwrap();
    symlink("..", top.join("d/up")).unwrap();
    let ended = client.run(["cp", "-aL", "src", "copy"]);
    failed_each(&ended, &["src/nowhere"], "leads to nothing");
    failed_each(&ended, &["src/d/up"], "above itself");
    assert!(client.work().join("copy/src/d/f").is_file());
    // as they are
    client.ok(["cp", "-a", "src/", "same"]);
    assert_eq!(snapshot(&client.work().join("same")), snapshot(&top));
}

#[test]
fn another_file_system_is_not_entered() {
    let server = Server::start();
    let client = server.client();
    for (top, verb, from, to) in [
        (client.work(), "put", "src/", "srv:dest"),
        (server.root.clone(), "get", "srv:src/", "dest"),
    ] {
        write(&top.join("src/f"), b"f");
        let Some(disk) = SmallDisk::within(&top.join("src"), "size=1m") else {
            return;
        };
        let name = disk.path().file_name().unwrap();
        write(&disk.path().join("in"), b"in");
        let dest = match verb {
            "put" => server.root.join("dest"),
            _ => client.work().join("dest"),
        };
        client.ok([verb, "-ax", from, to]);
        assert!(dest.join("f").is_file() && dest.join(name).is_dir());
        // what is there is none of its business
        write(&dest.join(name).join("stays"), b"other");
        write(&dest.join("old"), b"old");
        client.ok([verb, "-ax", "--delete", from, to]);
        assert!(dest.join(name).join("stays").exists() && !dest.join("old").exists());
        assert!(!dest.join(name).join("in").exists());
        let why = client.run([verb, "-anx", "--why", from, to]);
        assert!(why.err.contains("(-x: another file system begins there)"), "{why:?}");
        client.ok([verb, "-a", from, to]);
        assert!(dest.join(name).join("in").exists());
    }
}

/// A destination that is in part another file system: nothing in there is deleted.
#[test]
fn a_deletion_does_not_enter_another_file_system() {
    let client = Client::new();
    write(&client.work().join("src/f"), b"f");
    let dest = client.work().join("dest");
    write(&dest.join("old"), b"old");
    let Some(disk) = SmallDisk::within(&dest, "size=1m") else {
        return;
    };
    write(&disk.path().join("in"), b"in");
    client.ok(["cp", "-ax", "--delete", "src/", "dest"]);
    assert!(disk.path().join("in").exists() && !dest.join("old").exists());
}

/// The names of the files that git does not ignore, beneath a directory.
fn of_git(top: &Path) -> Option<Vec<String>> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(top).args(arguments).env("GIT_CONFIG_NOSYSTEM", "1");
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().ok()
    };
    git(&["init", "-q"])?;
    let listed = git(&["ls-files", "-z", "--others", "--exclude-standard"])?;
    std::fs::remove_dir_all(top.join(".git")).unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut names: Vec<String> = text.split_terminator('\0').map(String::from).collect();
    names.sort();
    Some(names)
}

fn files(top: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(top).into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| !entry.file_type().is_dir());
    let name = |path: &Path| path.strip_prefix(top).unwrap().display().to_string();
    let mut names: Vec<String> = files.map(|file| name(file.path())).collect();
    names.sort();
    names
}

/// A tree with ignore files that exclude, include again, and say nothing.
fn ignoring(top: &Path) {
    for path in [
        "a.o",
        "keep.o",
        "b/x.o",
        "b/y.c",
        "b/keep.o",
        "build/z",
        "b/build/z",
        "b/c/tmp/t",
        "b/c/log",
        "docs/build",
        "top",
        "b/top",
        "vendor/lib/deep.c",
        "vendor/ok.c",
    ] {
        write(&top.join(path), path.as_bytes());
    }
    write(
        &top.join(".gitignore"),
        b"# objects\n*.o\n!keep.o\nbuild/\n/top\nvendor/**/deep.c\r\n[unclosed\n",
    );
    write(&top.join("b/.gitignore"), b"!x.o\nlog\n");
    write(&top.join("b/c/.gitignore"), b"\xEF\xBB\xBFtmp\n!log\n");
}

#[test]
fn ignore_files_have_gits_meaning() {
    let server = Server::start();
    let client = server.client();
    let (here, there) = (client.work().join("src"), server.root.join("src"));
    ignoring(&here);
    ignoring(&there);
    let Some(wanted) = of_git(&here) else {
        eprintln!("skipped: there is no git");
        return;
    };
    client.ok(["put", "-a", "--ignore-file=.gitignore", "src/", "srv:put"]);
    assert_eq!(files(&server.root.join("put")), wanted);
    client.ok(["get", "-a", "--ignore-file", ".gitignore", "srv:src/", "got"]);
    assert_eq!(files(&client.work().join("got")), wanted);
    // a rule decides first
    client.ok(["cp", "-a", "--include=a.o", "--ignore-file", ".gitignore", "src/", "copy"]);
    assert!(client.work().join("copy/a.o").exists());
    assert!(!client.work().join("copy/build").exists());
}

#[test]
fn what_ignore_files_exclude_is_not_deleted() {
    let server = Server::start();
    let client = server.client();
    for (verb, from, to) in [("put", "src/", "srv:dest"), ("get", "srv:src/", "dest")] {
        let (at_source, at_dest) = match verb {
            "put" => (client.work(), server.root.clone()),
            _ => (server.root.clone(), client.work()),
        };
        let dest = at_dest.join("dest");
        ignoring(&at_source.join("src"));
        for path in ["other.o", "build/out", "gone/x.o", "gone/y", "old", "b/log"] {
            write(&dest.join(path), b"theirs");
        }
        let mirror = |options: &[&str]| {
            let words = [verb, "-a", "--delete", "--ignore-file=.gitignore"];
            client.ok(words.iter().chain(options).chain(&[from, to]));
        };
        mirror(&[]);
        let stay = |path: &str| dest.join(path).exists();
        assert!(stay("other.o") && stay("build/out") && stay("gone/x.o") && stay("b/log"));
        assert!(!stay("gone/y") && !stay("old") && stay("b/y.c"), "{verb}");
        mirror(&["--delete-excluded"]);
        assert!(
            !stay("other.o") && !stay("build") && !stay("gone") && !stay("b/log"),
            "{verb}"
        );
    }
}

#[test]
fn ignore_files_are_bounded_and_their_names_checked() {
    let client = Client::new();
    write(&client.work().join("src/f"), b"f");
    let refused = client.run(["cp", "-a", "--ignore-file", "a/b", "src", "dest"]);
    refused.failed(2, &["--ignore-file a/b", "name of a file"]);
    write(&client.work().join("src/d/.ig"), &b"pattern\n".repeat(10_000));
    write(&client.work().join("src/d/g"), b"g");
    let ended = client.run(["cp", "-a", "--ignore-file", ".ig", "src/", "dest"]);
    ended.failed(3, &["src/d/.ig", "32 KiB"]);
    assert_eq!(files(&client.work().join("dest")), ["f"]);
}

#[test]
fn a_dry_run_says_why() {
    let server = Server::start();
    let client = server.client();
    ignoring(&client.work().join("src"));
    ignoring(&server.root.join("src"));
    write(&client.work().join("rules"), b"# none\n- *.c\n");
    for (verb, from, to) in [("put", "src/", "srv:dest"), ("get", "srv:src/", "dest")] {
        let words = [
            verb,
            "-an",
            "--why",
            "--exclude-from=rules",
            "--ignore-file=.gitignore",
            "--exclude",
            "/docs/",
            "--max-size=7",
            from,
            to,
        ];
        let shown = client.run(words).err;
        let top = "src";
        for line in [
            format!("exclude {top}/vendor/ok.c (--exclude-from rules, line 2: - *.c)"),
            format!("exclude {top}/a.o ({top}/.gitignore, line 2: *.o)"),
            format!("exclude {top}/build ({top}/.gitignore, line 4: build/)"),
            format!("exclude {top}/docs (--exclude /docs/)"),
            format!("exclude {top}/b/keep.o (--max-size)"),
        ] {
            assert!(shown.lines().any(|l| l == line), "{verb}: no {line} in\n{shown}");
        }
        assert!(
            shown.lines().any(|l| l.starts_with("new ") && l.ends_with("keep.o")),
            "{shown}"
        );
        let json = client.ok(words.iter().chain(&["--json"]));
        let lines: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |name: &str| {
            let path = format!("{top}/{name}");
            lines.iter().find(|line| line["path"] == path.as_str()).unwrap()
        };
        let ignored = of("a.o");
        assert_eq!(
            (&ignored["event"], &ignored["reason"]),
            (&"excluded".into(), &"ignore_file".into())
        );
        assert_eq!((&ignored["line"], &ignored["pattern"]), (&2.into(), &"*.o".into()));
        let ruled = of("vendor/ok.c");
        assert_eq!((&ruled["reason"], &ruled["rule"]), (&"rule".into(), &"- *.c".into()));
        assert_eq!(ruled["origin"], "--exclude-from rules, line 2");
    }
    client
        .run(["put", "-a", "--why", "src/", "srv:dest"])
        .failed(2, &["--why", "-n"]);
    assert!(!server.root.join("dest").exists());
}

/// Of a file that is there already, a dry run says what else it lacks.
#[test]
fn a_dry_run_says_which_modes_and_owners_differ() {
    let server = Server::start();
    let client = server.client();
    for name in ["mode", "same"] {
        write(&client.work().join("src").join(name), b"x");
    }
    client.ok(["put", "-a", "src/", "srv:dest"]);
    crate::support::tree::set_mode(&client.work().join("src/mode"), 0o600);
    for options in [&["-an"][..], &["-ani"], &["-an", "--why"], &["-ai"]] {
        let words = ["put"].iter().chain(options).chain(&["src/", "srv:dest"]);
        let shown = client.run(words).err;
        assert!(shown.lines().any(|line| line == "mode    src/mode"), "{shown}");
        let has_same = shown.lines().any(|line| line == "same    src/same");
        assert_eq!(has_same, options.contains(&"--why"), "{shown}");
    }
    let none = client.run(["put", "-an", "src/", "srv:dest"]).err;
    assert!(!none.contains("src/mode"), "{none}");
}

#[test]
fn a_rule_that_includes_decides_before_ignore_files_for_deletions_too() {
    let client = Client::new();
    let work = client.work();
    ignoring(&work.join("src"));
    let words = ["cp", "-a", "--ignore-file=.gitignore", "--include=a.o", "--include=build/"];
    for _ in 0..2 {
        client.ok(words.iter().chain(&["--delete-excluded", "src/", "dest"]));
        assert!(work.join("dest/a.o").exists() && work.join("dest/build/z").exists());
    }
    std::fs::remove_file(work.join("src/a.o")).unwrap();
    client.ok(words.iter().chain(&["--delete", "src/", "dest"]));
    assert!(!work.join("dest/a.o").exists() && work.join("dest/build/z").exists());
}

/// At the top of a source, too: the transfer ends at once.
#[test]
fn an_ignore_file_that_cannot_be_used_fails_by_name_wherever_it_is() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("src/.ig"), &[b'\n'; 70_000]);
    write(&client.work().join("text/.ig"), b"\xff*\n");
    write(&client.work().join("text/f"), b"f");
    for (source, why) in [("src", "32 KiB"), ("text", "UTF-8")] {
        let ended = client.run(["put", "-a", "--ignore-file=.ig", source, "srv:dest"]);
        ended.failed(3, &[why]);
    }
    assert_eq!(files(&server.root.join("dest")), [""; 0]);
}

#[test]
fn a_mount_that_is_named_is_sent() {
    let client = Client::new();
    let top = client.work().join("src");
    write(&top.join("f"), b"f");
    let Some(disk) = SmallDisk::within(&top, "size=1m") else {
        return;
    };
    write(&disk.path().join("in/g"), b"g");
    let name = disk.path().file_name().unwrap().to_str().unwrap();
    client.ok(["cp", "-aRx", &format!("src/./{name}"), "d1"]);
    client.ok(["cp", "-aRx", &format!("src/./{name}/in/g"), "d2"]);
    for dest in ["d1", "d2"] {
        assert!(client.work().join(dest).join(name).join("in/g").exists(), "{dest}");
    }
    write(&client.work().join("d1").join(name).join("old"), b"old");
    client.ok(["cp", "-aRx", "--delete", &format!("src/./{name}"), "d1"]);
    assert!(!client.work().join("d1").join(name).join("old").exists());
}

/// haul's own names stay hidden behind a symlink.
#[test]
fn a_symlink_does_not_lead_to_names_of_haul() {
    let server = Server::start();
    let client = server.client();
    let partial = crate::support::tree::staged(&server.root.join("part"));
    write(&partial, b"secret");
    std::fs::create_dir(server.root.join("src")).unwrap();
    let target = Path::new("..").join(partial.file_name().unwrap());
    symlink(target, server.root.join("src/link")).unwrap();
    for words in [["get", "-rL", "srv:src", "g"], ["get", "-RL", "srv:src/./link", "g"]] {
        let ended = client.run(words);
        assert!(ended.code == 1 || ended.code == 3, "{ended:?}");
        let got = client.work().join("g");
        assert!(!got.exists() || files(&got).is_empty());
    }
}

#[test]
fn a_get_that_follows_a_symlink_mirrors_what_it_leads_to() {
    let server = Server::start();
    let client = server.client();
    write(&server.root.join("real/f"), b"f");
    symlink("real", server.root.join("link")).unwrap();
    for words in [
        ["get", "-rL", "--delete", "srv:link", "g"],
        ["get", "-rk", "--delete", "srv:link", "g"],
    ] {
        write(&client.work().join("g/link/old"), b"old");
        client.ok(words);
        assert_eq!(files(&client.work().join("g")), ["link/f"]);
    }
    // one whose contents are sent, and removed
    client.ok(["get", "-r", "--remove-source-files", "srv:link/", "h"]);
    assert!(!server.root.join("real/f").exists() && client.work().join("h/f").exists());
}
