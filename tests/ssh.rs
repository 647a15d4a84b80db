//! Servers that ssh reaches, with a real sshd: shells, noise, forced commands, jumps, prompts.

use crate::support::sshd::{Remote, Sshd, has_shell, has_sshd};
use crate::support::terminal::Terminal;
use crate::support::{Ended, Running, haul, tree};
use std::fs;
use std::process::{Command, Stdio};

/// A put, a get and a listing, each of which leaves no process behind.
#[track_caller]
fn goes_both_ways(sshd: &Sshd, options: &[&str]) {
    let client = sshd.client();
    let source = client.work().join("photos");
    tree::rich_sample(&source);
    tree::write(&source.join("large"), &tree::bytes(1, 5_000_000));
    let run = |words: &[&str]| client.ok([words, options].concat());
    run(&["put", "-r", "photos", "ssh://box/"]);
    assert_eq!(tree::snapshot(&source), tree::snapshot(&sshd.home().join("photos")));
    run(&["get", "-r", "ssh://box/~/photos", "back"]);
    assert_eq!(tree::snapshot(&source), tree::snapshot(&client.work().join("back/photos")));
    let listed = run(&["ls", "ssh://box/~/"]);
    assert!(listed.lines().any(|line| line == "photos"), "{listed}");
    sshd.is_quiet();
}

#[test]
fn any_login_shell_runs_the_command() {
    if !has_sshd() {
        return;
    }
    for shell in ["bash", "dash", "tcsh", "fish"] {
        if has_shell(shell) {
            goes_both_ways(&Sshd::start(&Remote::Shell(shell)), &[]);
        }
    }
}

#[test]
fn without_direct_connections_all_goes_over_ssh() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    goes_both_ways(&sshd, &["--ports=0"]);
    goes_both_ways(&Sshd::start(&Remote::Shell("sh")), &["--ports=0", "--ssh-lanes=3"]);
}

#[test]
fn what_a_login_script_prints_does_not_matter_and_is_shown_to_who_asks() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("bash"));
    let noise = "for i in $(seq 500); do echo welcome to this host; done; printf 'no newline'";
    // also what another session was answered with
    let other = "printf '\\000haul carrier, version 1.\\r\\n\\377\\376\\032\\004\\000'";
    fs::write(sshd.home().join(".bashrc"), format!("{noise}\n{other}\n")).unwrap();
    goes_both_ways(&sshd, &[]);
    let client = sshd.client();
    fs::write(client.work().join("f"), "x").unwrap();
    let quiet = client.run(["put", "f", "ssh://box/"]);
    assert!(quiet.code == 0 && !quiet.err.contains("welcome"), "{quiet:?}");
    let shown = client.run(["put", "-v", "f", "ssh://box/"]);
    assert!(shown.code == 0 && shown.err.contains("welcome to this host"), "{shown:?}");
}

#[test]
fn a_host_that_only_makes_noise_is_given_up_with_it() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Forced("echo this account is not available"));
    let ended = sshd.client().run(["ls", "ssh://box/"]);
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.err.contains("this account is not available"), "{ended:?}");
    let endless = Sshd::start(&Remote::Forced("exec yes"));
    let ended = endless.client().run(["ls", "ssh://box/"]);
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.err.contains("something else"), "{ended:?}");
    endless.is_quiet();
}

#[test]
fn a_forced_command_confines_its_key() {
    if !has_sshd() {
        return;
    }
    let serve = "exec haul serve --stdio --root \"$HOME/given\" --read-only";
    let sshd = Sshd::start(&Remote::Forced(serve));
    fs::create_dir(sshd.home().join("given")).unwrap();
    fs::write(sshd.home().join("given/f"), "given").unwrap();
    fs::write(sshd.home().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", sshd.home().join("given/out")).unwrap();
    let client = sshd.client();
    for path in ["ssh://box/f", "ssh://box/~/f"] {
        assert_eq!(client.ok(["cat", path]), "given", "{path}");
    }
    for (path, code) in [("ssh://box/out", 1), ("ssh://box/etc/passwd", 8)] {
        let ended = client.run(["cat", path]);
        assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{path}: {ended:?}");
    }
    fs::write(client.work().join("f"), "changed").unwrap();
    client.run(["put", "f", "ssh://box/f"]).failed(8, &["may only read"]);
    client
        .run(["ls", "--via=ssh", "box:~root/"])
        .failed(1, &["no home directories"]);
    assert_eq!(fs::read_to_string(sshd.home().join("given/f")).unwrap(), "given");
    sshd.is_quiet();
}

#[test]
fn paths_begin_at_home_or_at_the_root_and_follow_symlinks_like_those_of_other_programs() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("f"), "there").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), sshd.home().join("link")).unwrap();
    fs::write(sshd.home().join("own"), "own").unwrap();
    let client = sshd.client();
    let cat = |path: &str| client.ok(["cat", "--via=ssh", path]);
    assert_eq!(cat("box:own"), "own");
    assert_eq!(cat("box:~/own"), "own");
    assert_eq!(cat(&format!("box:{}/own", sshd.home().display())), "own");
    assert_eq!(cat("box:link/f"), "there");
    assert_eq!(cat(&format!("ssh://box{}/f", elsewhere.path().display())), "there");
    let found = client.ok(["find", "--via=ssh", "box:", "-name", "own"]);
    assert_eq!(found, "box:own\n");
    client
        .run(["ls", "--via=ssh", "box:~nobody-of-this-name/"])
        .failed(8, &["no such user"]);
    let roots = client.ok(["ls", "-d", "--via=ssh", "box:~root"]);
    assert_eq!(roots.trim(), "/root");
    // a pattern, and a destination through the symlink
    fs::write(client.work().join("g"), "new").unwrap();
    client.ok(["put", "--via=ssh", "g", "box:link/"]);
    assert_eq!(fs::read_to_string(elsewhere.path().join("g")).unwrap(), "new");
    client.ok(["get", "--via=ssh", "box:o*", "."]);
    assert_eq!(fs::read_to_string(client.work().join("own")).unwrap(), "own");
    client.ok(["mv", "--via=ssh", "box:own", "box:moved"]);
    client.ok(["rm", "--via=ssh", "box:moved"]);
    assert!(!sshd.home().join("own").exists() && !sshd.home().join("moved").exists());
    sshd.is_quiet();
}

#[test]
fn a_jump_host_is_jumped_over() {
    if !has_sshd() {
        return;
    }
    // a jump needs no command, which a forced one does not disturb
    let jump = Sshd::start(&Remote::Shell("sh"));
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let proxy = format!(
        "ProxyJump between\n\
        Host between\nPort {port}\nIdentityFile {key}\nStrictHostKeyChecking no\n\
        UserKnownHostsFile /dev/null\nLogLevel ERROR",
        key = jump.path("key").display(),
        port = jump.port,
    );
    let client = sshd.client_with(&proxy);
    fs::write(client.work().join("f"), "jumped").unwrap();
    client.ok(["put", "f", "ssh://box/"]);
    assert_eq!(fs::read_to_string(sshd.home().join("f")).unwrap(), "jumped");
    sshd.is_quiet();
}

#[test]
fn commands_share_a_master_connection() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let socket = sshd.path("master");
    let settings =
        format!("ControlMaster auto\nControlPath {}\nControlPersist 60", socket.display());
    let client = sshd.client_with(&settings);
    fs::write(client.work().join("f"), "x").unwrap();
    client.ok(["put", "f", "ssh://box/"]);
    assert!(socket.exists(), "there is a master connection");
    client.ok(["put", "f", "ssh://box/~/g"]);
    client.ok(["get", "ssh://box/~/g", "h"]);
    assert_eq!(fs::read_to_string(client.work().join("h")).unwrap(), "x");
    let mut ssh = Command::new(sshd.path("client/ssh"));
    assert!(ssh.args(["-O", "exit", "box"]).output().unwrap().status.success());
    sshd.is_quiet();
}

#[test]
fn a_wrong_host_key_is_ssh_s_own_error() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    let other = fs::read_to_string(sshd.path("other.pub")).unwrap();
    fs::write(sshd.path("known_hosts"), format!("[127.0.0.1]:{} {other}", sshd.port)).unwrap();
    fs::write(client.work().join("f"), "x").unwrap();
    let ended = client.run(["put", "f", "ssh://box/"]);
    ended.failed(4, &["ssh ended before haul answered", "255"]);
    assert!(ended.err.contains("REMOTE HOST IDENTIFICATION HAS CHANGED"), "{ended:?}");
    assert!(!sshd.home().join("f").exists());
}

/// The client's key has a passphrase from now on: `open sesame`.
fn protect_key(sshd: &Sshd) {
    let changed = Command::new("ssh-keygen")
        .args(["-q", "-p", "-P", "", "-N", "open sesame", "-f"])
        .arg(sshd.path("key"))
        .output();
    assert!(changed.unwrap().status.success());
}

#[test]
fn ssh_asks_at_the_terminal_for_as_long_as_the_user_needs() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    protect_key(&sshd);
    fs::write(client.work().join("f"), "x").unwrap();
    let mut terminal = Terminal::start(client.command(["put", "f", "ssh://box/"]), 100);
    terminal.expect("Enter passphrase for key");
    terminal.enter("wrong\r");
    terminal.expect("Enter passphrase for key");
    terminal.enter("open sesame\r");
    let (code, shown) = terminal.end_echoing();
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(fs::read_to_string(sshd.home().join("f")).unwrap(), "x");
    sshd.is_quiet();
}

#[test]
fn an_interrupt_while_ssh_asks_ends_both() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    protect_key(&sshd);
    let mut terminal = Terminal::start(client.command(["ls", "ssh://box/"]), 100);
    terminal.expect("Enter passphrase for key");
    terminal.enter("\x03");
    let (code, shown) = terminal.end_echoing();
    assert_eq!(code, Some(130), "{shown}");
    sshd.is_quiet();
}

#[test]
fn a_plain_host_goes_over_ssh_where_no_haul_server_answers_and_one_line_says_so() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    fs::write(client.work().join("f"), "x").unwrap();
    // ssh's configuration alone knows this name
    let ended = client.run(["put", "f", "box:"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.err.contains("box: no haul server at port 4285; going over ssh"),
        "{ended:?}"
    );
    assert_eq!(fs::read_to_string(sshd.home().join("f")).unwrap(), "x");
    client.run(["ls", "--via=direct", "box:"]).failed(4, &["box:4285"]);
    // the settings say it for good
    fs::create_dir_all(client.config()).unwrap();
    fs::write(client.config().join("servers"), "nas host=box via=ssh\n").unwrap();
    let ended = client.run(["cat", "nas:f"]);
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.err.as_str()),
        (0, "x", ""),
        "{ended:?}"
    );
    sshd.is_quiet();
}

#[test]
fn another_program_takes_the_place_of_ssh() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("here");
    // as with docker exec: the host, and the command
    fs::write(&program, "#!/bin/sh\nshift; exec sh -c \"$*\"\n").unwrap();
    let run = |words: &[&str]| {
        let mut command = haul();
        let bin = std::path::Path::new(env!("CARGO_BIN_EXE_haul")).parent().unwrap();
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        command.env("HOME", dir.path()).current_dir(dir.path()).args(words);
        command.arg("-e").arg(format!("sh {}", program.display()));
        Ended::of(command.output().unwrap())
    };
    fs::write(dir.path().join("f"), "x").unwrap();
    assert_eq!(run(&["put", "f", "container:g"]).code, 0);
    assert_eq!(fs::read_to_string(dir.path().join("g")).unwrap(), "x");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let client = crate::support::Client::new();
    client
        .run(["ls", "-e", "no-such-ssh -q", "box:"])
        .failed(4, &["no-such-ssh", "-e"]);
    client.run(["ls", "-e", "ssh 'x", "box:"]).failed(2, &["-e"]);
    client.run(["ls", "ssh://-oProxyCommand=x/"]).failed(2, &["no valid host"]);
    client.run(["ls", "ssh://-x@h/"]).failed(2, &["no valid user"]);
    client
        .run(["ls", "-e", "ssh", "--", "-oProxyCommand=x:"])
        .failed(2, &["no valid host"]);
}

#[test]
fn serve_stdio_says_what_it_is_for() {
    let mut command = haul();
    command.args(["serve", "--stdio"]).stdin(Stdio::piped());
    let mut running = Running::start(command, Stdio::piped());
    use std::io::Write;
    running.child.stdin.take().unwrap().write_all(b"ls -l\n").unwrap();
    running.end().failed(2, &["haul client", "ssh://"]);
}

#[test]
fn ssh_pairs_with_a_server_for_good() {
    if !has_sshd() {
        return;
    }
    let server = crate::support::Server::start();
    let sshd = Sshd::start(&Remote::Shell("sh"));
    // the server's state is where the host's haul invite looks for it
    let real = sshd.path("real/haul");
    sshd.replace_haul(&format!(
        "echo a line of a login script; exec {} \"$@\" --state {}",
        real.display(),
        server.state.display()
    ));
    let client = sshd.client();
    let host = format!("kim@box:{}", server.address.port());
    let login = client.run(["login", "--via=ssh", "--name=srv", &host]);
    // ssh knows no kim: what matters is whom haul invites
    assert_eq!(login.code, 4, "{login:?}");
    let login = client.run(["login", "--via=ssh", "--name=srv", &host["kim@".len()..]]);
    assert_eq!(login.code, 0, "{login:?}");
    assert!(login.err.contains("From now on"), "{login:?}");
    // no ssh any more
    fs::remove_file(sshd.path("client/ssh")).unwrap();
    assert_eq!(client.ok(["ls", "srv:"]), "");
    let saved = fs::read_to_string(client.config().join("servers")).unwrap();
    assert!(saved.contains("host=127.0.0.1"), "{saved}");
}

#[test]
fn what_would_be_a_disaster_is_refused() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    fs::write(sshd.home().join("f"), "x").unwrap();
    let client = sshd.client();
    for path in ["ssh://box/", "ssh://box/~", "ssh://box/~/", "ssh://box//"] {
        client.run(["rm", "-r", path]).failed(2, &["haul does not remove this"]);
    }
    assert!(sshd.home().join("f").exists());
    let mut serve = haul();
    serve.args(["serve", "--read-only", "/tmp"]);
    let ended = Ended::of(serve.output().unwrap());
    ended.failed(2, &["--read-only", "--stdio"]);
    client
        .run(["rsync", "-a", "ssh://box/~/f", "ssh://box/~/g"])
        .failed(1, &["cannot both be remote"]);
}

#[test]
fn relative_paths_begin_behind_the_home_directory() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    fs::create_dir_all(sshd.home().join("a/b")).unwrap();
    fs::write(sshd.home().join("a/b/f"), "x").unwrap();
    let client = sshd.client();
    client.ok(["get", "-rR", "--via=ssh", "box:a/b", "here"]);
    assert_eq!(fs::read_to_string(client.work().join("here/a/b/f")).unwrap(), "x");
}

#[test]
fn a_root_that_is_not_there_is_the_answer() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Forced("exec haul serve --stdio --root /nonexistent"));
    let ended = sshd.client().run(["ls", "ssh://box/"]);
    ended.failed(4, &["/nonexistent: No such file"]);
    assert!(!ended.err.contains("--install"), "{ended:?}");
}
