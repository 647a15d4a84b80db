//! Hosts without haul, with an older one, or with homes that execute nothing: a copy is put there.

use crate::support::sshd::{Remote, Sshd, has_shell, has_sshd};
use crate::support::terminal::Terminal;
use crate::support::{Client, Ended};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// A client with a program for such hosts, and a file to send.
fn client_of(sshd: &Sshd) -> Client {
    let output = Command::new("uname").arg("-sm").output().unwrap();
    let machine = String::from_utf8(output.stdout).unwrap().trim().replace(' ', "-");
    let programs = sshd.path("programs");
    let _ = fs::create_dir(&programs);
    let program = programs.join(format!("haul-{machine}"));
    if !program.exists() {
        symlink(env!("CARGO_BIN_EXE_haul"), program).unwrap();
    }
    let client = sshd.client().with_env("HAUL_REMOTE_DIR", programs.to_str().unwrap());
    fs::write(client.work().join("f"), "x").unwrap();
    client
}

fn copies(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn name() -> String {
    format!("haul-{}", env!("CARGO_PKG_VERSION"))
}

#[track_caller]
fn put(client: &Client, sshd: &Sshd, options: &[&str]) -> Ended {
    let _ = fs::remove_file(sshd.home().join("f"));
    let ended = client.run([&["put", "f", "ssh://box/"], options].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(fs::read_to_string(sshd.home().join("f")).unwrap(), "x");
    ended
}

#[test]
fn a_copy_is_put_where_there_is_none_with_any_login_shell() {
    if !has_sshd() {
        return;
    }
    for shell in ["sh", "bash", "tcsh", "fish"] {
        if !has_shell(shell) {
            continue;
        }
        let sshd = Sshd::start(&Remote::Shell(shell));
        sshd.remove_haul();
        let client = client_of(&sshd);
        // a script is told what it may do, and nothing is put there
        let refused = client.run(["put", "f", "ssh://box/"]);
        assert_eq!(refused.code, 4, "{shell}: {refused:?}");
        assert!(refused.err.contains("haul is not installed there"), "{shell}: {refused:?}");
        assert!(refused.err.contains("--install"), "{shell}: {refused:?}");
        assert!(copies(&sshd.home().join(".cache/haul/bin")).is_empty());
        let first = put(&client, &sshd, &["--install"]);
        assert!(first.err.contains("~/.cache/haul/bin/haul-"), "{shell}: {first:?}");
        assert_eq!(copies(&sshd.home().join(".cache/haul/bin")), [name()]);
        // from then on nothing is asked or said
        let again = put(&client, &sshd, &[]);
        assert_eq!(again.err.lines().count(), 1, "{shell}: {again:?}");
        assert_eq!(client.ok(["cat", "ssh://box/~/f"]), "x");
        sshd.is_quiet();
    }
}

#[test]
fn one_question_at_a_terminal() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    sshd.remove_haul();
    let client = client_of(&sshd);
    let mut terminal = Terminal::start(client.command(["put", "f", "ssh://box/"]), 120);
    terminal.expect("haul is not installed there. Put a copy");
    terminal.enter("no\r");
    let (code, shown) = terminal.end_echoing();
    assert_eq!(code, Some(4), "{shown}");
    assert!(!sshd.home().join(".cache/haul").exists() || !sshd.home().join("f").exists());
    let mut terminal = Terminal::start(client.command(["put", "f", "ssh://box/"]), 120);
    terminal.expect("haul is not installed there. Put a copy");
    terminal.enter("yes\r");
    let (code, shown) = terminal.end_echoing();
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(fs::read_to_string(sshd.home().join("f")).unwrap(), "x");
    sshd.is_quiet();
}

#[test]
fn an_older_haul_is_replaced_by_a_copy_and_another_one_is_used_as_it_is() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = client_of(&sshd);
    // what haul 0.1 says to an option that it does not know
    sshd.replace_haul("echo \"error: unexpected argument '--stdio' found\" >&2; exit 2");
    let refused = client.run(["put", "f", "ssh://box/"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("haul is too old there"), "{refused:?}");
    put(&client, &sshd, &["--install"]);
    put(&client, &sshd, &[]);
    // a copy that is not there any more: the host's own is taken
    fs::remove_dir_all(sshd.home().join(".cache")).unwrap();
    sshd.replace_haul(&format!("exec {} \"$@\"", sshd.path("real/haul").display()));
    let ended = put(&client, &sshd, &[]);
    assert!(ended.err.contains("is not there any more"), "{ended:?}");
    put(&client, &sshd, &[]);
    sshd.is_quiet();
}

#[test]
fn a_program_that_cannot_be_executed_is_named() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    sshd.replace_haul("exit 126");
    let client = client_of(&sshd);
    let refused = client.run(["put", "f", "ssh://box/"]);
    refused.failed(4, &["haul cannot be executed there", "--install"]);
    put(&client, &sshd, &["--install"]);
}

#[test]
fn the_last_three_copies_stay() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    sshd.remove_haul();
    let bin = sshd.home().join(".cache/haul/bin");
    fs::create_dir_all(&bin).unwrap();
    for (age, old) in ["haul-0.0.1", "haul-0.0.2", "haul-0.0.3"].iter().enumerate() {
        fs::write(bin.join(old), "old").unwrap();
        crate::support::tree::set_mtime(&bin.join(old), 1_000_000_000 * (age as u64 + 1));
    }
    fs::write(bin.join("other"), "not haul's").unwrap();
    put(&client_of(&sshd), &sshd, &["--install"]);
    let mut expected = vec!["haul-0.0.2".to_string(), "haul-0.0.3".into(), name(), "other".into()];
    expected.sort();
    assert_eq!(copies(&bin), expected);
}

#[test]
fn a_home_that_executes_nothing_is_passed_over() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    sshd.remove_haul();
    let cache = sshd.home().join(".cache");
    fs::create_dir(&cache).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "noexec", "none"])
        .arg(&cache)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: no file system can be mounted");
        return;
    }
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _mounted = Mounted(&cache);
    let runtime = sshd.home().join("run");
    fs::create_dir(&runtime).unwrap();
    let line = format!("XDG_RUNTIME_DIR={}; export XDG_RUNTIME_DIR", runtime.display());
    let remote = fs::read_to_string(sshd.path("remote")).unwrap();
    fs::write(sshd.path("remote"), remote.replace("\nexec", &format!("\n{line}\nexec"))).unwrap();
    let client = client_of(&sshd);
    let first = put(&client, &sshd, &["--install"]);
    assert!(first.err.contains("$XDG_RUNTIME_DIR/haul/bin"), "{first:?}");
    assert_eq!(copies(&runtime.join("haul/bin")), [name()]);
    assert!(copies(&cache.join("haul/bin")).is_empty());
    put(&client, &sshd, &[]);
    sshd.is_quiet();
}

#[test]
fn a_copy_that_is_damaged_or_for_another_machine_is_not_used() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    sshd.remove_haul();
    let client = client_of(&sshd);
    // another kind of machine, for which there is no program
    fs::create_dir_all(sshd.home().join("bin")).unwrap();
    let uname = sshd.home().join("bin/uname");
    fs::write(&uname, "#!/bin/sh\necho Plan9 mips\n").unwrap();
    fs::set_permissions(&uname, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = client.run(["put", "f", "ssh://box/", "--install"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("Plan9 mips") && refused.err.contains("haul-Plan9-mips"));
    // one whose program does not run there
    fs::write(sshd.path("programs/haul-Plan9-mips"), b"\x7fELF of another machine").unwrap();
    let refused = client.run(["put", "f", "ssh://box/", "--install"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("does not run there"), "{refused:?}");
    assert!(
        copies(&sshd.home().join(".cache/haul/bin")).is_empty(),
        "nothing is left there"
    );
}
