//! ssh that dies, servers that are restarted, ports that answer nothing: transfers over ssh go on,
//! and leave no process behind.

use crate::support::sshd::{Remote, Sshd, has_sshd};
use crate::support::{Client, tree, until};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::net::TcpListener;
use std::path::Path;

const SIZE: usize = 6_000_000;

/// A transfer over ssh alone, slow enough to be disturbed.
const SLOW: [&str; 3] = ["--ports=0", "--bwlimit=1M", "--no-fsync"];

fn slow_put(client: &Client) -> crate::support::Running {
    tree::write(&client.work().join("large"), &tree::bytes(1, SIZE));
    client.spawn([&["put", "large", "ssh://box/"], &SLOW[..]].concat())
}

/// Waits until the host has some of the file, in a partial one.
#[track_caller]
fn begun(home: &Path) {
    until("some of the file has arrived", || {
        let names = fs::read_dir(home).unwrap().flatten();
        names.map(|entry| entry.path()).any(|path| {
            path.extension().is_some_and(|end| end == "haul") && tree::length(&path) > 0
        })
    });
}

fn arrived(sshd: &Sshd) -> bool {
    fs::read(sshd.home().join("large")).is_ok_and(|found| found == tree::bytes(1, SIZE))
}

#[test]
fn a_transfer_survives_the_end_of_its_ssh_in_the_same_session() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    let put = slow_put(&client);
    begun(&sshd.home());
    let server = sshd.process("real/haul serve --stdio");
    kill_process(sshd.process("-T -x -a"), Signal::KILL).unwrap();
    let ended = put.end();
    ended.retried();
    assert!(arrived(&sshd));
    // the server that waited was the one that went on
    assert!(
        sshd.processes()
            .iter()
            .all(|(pid, _)| *pid != server.as_raw_nonzero().get())
    );
    sshd.is_quiet();
}

#[test]
fn a_transfer_resumes_after_its_server_process_was_killed() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    let put = slow_put(&client);
    begun(&sshd.home());
    kill_process(sshd.process("real/haul serve --stdio"), Signal::KILL).unwrap();
    let ended = put.end();
    ended.retried();
    assert!(arrived(&sshd));
    sshd.is_quiet();
}

#[test]
fn a_transfer_waits_for_an_sshd_that_is_restarted() {
    if !has_sshd() {
        return;
    }
    let mut sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    let put = slow_put(&client);
    begun(&sshd.home());
    sshd.kill();
    let refused = std::net::TcpStream::connect(("127.0.0.1", sshd.port)).is_err();
    assert!(refused, "no sshd listens");
    // ssh has failed to connect at least once
    until("ssh says that it was refused", || {
        let _ = put.child.id();
        !sshd.processes().iter().any(|(_, line)| line.contains("haul serve"))
    });
    sshd.restart();
    let ended = put.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("trying again"), "{ended:?}");
    assert!(arrived(&sshd));
    sshd.is_quiet();
}

#[test]
fn a_get_survives_the_end_of_its_ssh() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    tree::write(&sshd.home().join("large"), &tree::bytes(1, SIZE));
    let get = client.spawn([&["get", "ssh://box/~/large", "."], &SLOW[..]].concat());
    begun(&client.work());
    kill_process(sshd.process("-T -x -a"), Signal::KILL).unwrap();
    get.end().retried();
    assert_eq!(fs::read(client.work().join("large")).unwrap(), tree::bytes(1, SIZE));
    sshd.is_quiet();
}

#[test]
fn further_connections_of_ssh_carry_data_and_are_replaced() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    tree::write(&client.work().join("large"), &tree::bytes(1, SIZE));
    let words = [&["put", "large", "ssh://box/", "--ssh-lanes=2"], &SLOW[..]].concat();
    let put = client.spawn(words);
    let ssh = || {
        let all = sshd.processes().into_iter();
        all.filter(|(_, line)| line.contains("/ssh_config -T"))
            .map(|(pid, _)| pid)
            .collect::<Vec<_>>()
    };
    until("two processes of ssh run", || ssh().len() == 2);
    begun(&sshd.home());
    // the one that was started last carries data alone
    let last = *ssh().iter().max().unwrap();
    kill_process(rustix::process::Pid::from_raw(last).unwrap(), Signal::KILL).unwrap();
    until("another one takes its place", || ssh().iter().any(|pid| *pid > last));
    let ended = put.end();
    assert_eq!((ended.code, ended.err.contains("trying again")), (0, false), "{ended:?}");
    assert!(arrived(&sshd));
    sshd.is_quiet();
}

#[test]
fn an_interrupted_command_leaves_no_process_and_can_be_repeated() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::KILL, -1)] {
        let put = slow_put(&client);
        begun(&sshd.home());
        put.signal(signal);
        assert_eq!(put.end().code, code);
        sshd.is_quiet();
    }
    client.ok(["put", "large", "ssh://box/"]);
    assert!(arrived(&sshd));
    sshd.is_quiet();
}

#[test]
fn a_port_that_is_taken_or_answers_nothing_delays_nothing() {
    if !has_sshd() {
        return;
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    tree::write(&client.work().join("large"), &tree::bytes(1, SIZE));
    let taken = format!("--ports={port}");
    client.ok(["put", "large", "ssh://box/", &taken]);
    assert!(arrived(&sshd));
    // a host whose name leads to a port that accepts and says nothing; the server's own does
    let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let proxy = format!("HostName 127.0.0.2\nProxyCommand nc 127.0.0.1 {}", sshd.port);
    let proxy = match Path::new("/usr/bin/nc").exists() {
        true => proxy,
        false => format!(
            "HostName 127.0.0.2\nProxyCommand bash -c 'exec 3<>/dev/tcp/127.0.0.1/{}; \
            cat <&3 & exec cat >&3'",
            sshd.port
        ),
    };
    let client = sshd.client_with(&format!("{proxy}\nHostKeyAlias [127.0.0.1]:{}", sshd.port));
    tree::write(&client.work().join("large"), &tree::bytes(1, SIZE));
    fs::remove_file(sshd.home().join("large")).unwrap();
    client.ok(["put", "large", "ssh://box/", &format!("--ports={port}")]);
    assert!(arrived(&sshd));
    drop((silent, elsewhere));
    sshd.is_quiet();
}

#[test]
fn a_haul_port_that_accepts_and_says_nothing_is_not_waited_for() {
    if !has_sshd() {
        return;
    }
    // the usual port of haul, on an address that is this test's own
    let Ok(silent) = TcpListener::bind("127.0.0.77:4285") else {
        println!("skipped: 127.0.0.77:4285 is taken");
        return;
    };
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client_with("");
    fs::write(client.work().join("f"), "x").unwrap();
    // ssh reaches it under the same name
    let config = fs::read_to_string(sshd.path("ssh_config")).unwrap();
    fs::write(sshd.path("ssh_config"), config.replace("Host box", "Host 127.0.0.77")).unwrap();
    let ended = client.run(["put", "f", "127.0.0.77:"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("no answer at port 4285; going over ssh"), "{ended:?}");
    assert_eq!(fs::read_to_string(sshd.home().join("f")).unwrap(), "x");
    drop(silent);
    sshd.is_quiet();
}

#[test]
fn two_transfers_at_once_do_not_disturb_each_other() {
    if !has_sshd() {
        return;
    }
    // no more than two connections that are not authenticated yet
    let sshd = Sshd::with(&Remote::Shell("sh"), "MaxStartups 2");
    let client = sshd.client();
    for name in ["a", "b"] {
        tree::write(&client.work().join(name), &tree::bytes(2, SIZE));
    }
    let one = client.spawn(["put", "a", "ssh://box/", "--bwlimit=4M"]);
    let other = client.spawn(["put", "b", "ssh://box/", "--ports=0"]);
    for ended in [one.end(), other.end()] {
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    for name in ["a", "b"] {
        assert_eq!(fs::read(sshd.home().join(name)).unwrap(), tree::bytes(2, SIZE));
    }
    sshd.is_quiet();
}

#[test]
fn more_logins_than_sshd_takes_at_once_are_retried() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::with(&Remote::Shell("sh"), "MaxStartups 2");
    let client = sshd.client();
    let puts: Vec<_> = (0..6)
        .map(|index| {
            let name = format!("f{index}");
            fs::write(client.work().join(&name), &name).unwrap();
            client.spawn(["put", &name, "ssh://box/", "--retry-for=1m"])
        })
        .collect();
    for put in puts {
        let ended = put.end();
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    for index in 0..6 {
        let name = format!("f{index}");
        assert_eq!(fs::read_to_string(sshd.home().join(&name)).unwrap(), name);
    }
    sshd.is_quiet();
}

#[test]
fn the_greeting_of_another_session_is_no_greeting() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    let real = sshd.path("real/haul");
    let recorded = sshd.path("recorded");
    // what the server says is recorded, and played to the next client
    let record = format!("exec {} \"$@\" | tee {}", real.display(), recorded.display());
    sshd.replace_haul(&record);
    fs::write(client.work().join("f"), "x").unwrap();
    client.ok(["put", "f", "ssh://box/"]);
    assert!(tree::length(&recorded) > 100);
    for end in ["", " -"] {
        // the second one sends back what the client says, and does not end
        sshd.replace_haul(&format!("exec cat {}{end}", recorded.display()));
        let ended = client.run(["put", "f", "ssh://box/~/g"]);
        assert_eq!(ended.code, 4, "{ended:?}");
    }
    assert!(!sshd.home().join("g").exists());
}

#[test]
fn an_ssh_that_hangs_is_replaced() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    let put = slow_put(&client);
    begun(&sshd.home());
    // like a network that is gone: nothing comes, and nothing ends
    kill_process(sshd.process("-T -x -a"), Signal::STOP).unwrap();
    put.end().retried();
    assert!(arrived(&sshd));
    sshd.is_quiet();
}

#[test]
fn a_command_that_was_killed_can_be_repeated_at_once() {
    if !has_sshd() {
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    let put = slow_put(&client);
    begun(&sshd.home());
    // the server there has the lock, and waits for its client
    put.kill();
    client.ok(["put", "large", "ssh://box/"]);
    assert!(arrived(&sshd));
    sshd.is_quiet();
}

/// Waits for the place of a server that has ended, and takes it: what it is sent goes to a file.
const IMPOSTOR: &str = "
import socket, sys, time
name, out = sys.argv[1], sys.argv[2]
s = socket.socket(socket.AF_UNIX)
while True:
    try:
        s.bind('\\0' + name)
        break
    except OSError:
        time.sleep(0.001)
s.listen()
open(out, 'w').close()
c, _ = s.accept()
open(out, 'wb').write(c.recv(65536))
";

#[test]
fn another_user_of_the_host_cannot_take_the_place_of_a_server() {
    let tools = ["/usr/bin/python3", "/usr/bin/setpriv"];
    let missing = tools.iter().find(|tool| !Path::new(tool).exists());
    if !has_sshd() || missing.is_some() || !rustix::process::geteuid().is_root() {
        println!("skipped: it needs sshd, python3, setpriv and root");
        return;
    }
    let sshd = Sshd::start(&Remote::Shell("sh"));
    let client = sshd.client();
    let before = places();
    let put = slow_put(&client);
    begun(&sshd.home());
    let new: Vec<String> = places().into_iter().filter(|name| !before.contains(name)).collect();
    let dir = tempfile::tempdir().unwrap();
    tree::set_mode(dir.path(), 0o777);
    // other tests have such places, too
    let mut impostors: Vec<_> = new
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let mut command = std::process::Command::new("/usr/bin/setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            command.args(["/usr/bin/python3", "-c", IMPOSTOR, name]);
            command.arg(dir.path().join(index.to_string())).spawn().unwrap()
        })
        .collect();
    kill_process(sshd.process("real/haul serve --stdio"), Signal::KILL).unwrap();
    let ended = put.end();
    for impostor in &mut impostors {
        let _ = impostor.kill();
        let _ = impostor.wait();
    }
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(arrived(&sshd));
    let caught = fs::read_dir(dir.path()).unwrap().flatten();
    let caught: Vec<u64> = caught.map(|file| tree::length(&file.path())).collect();
    assert!(caught.iter().all(|length| *length == 0), "{caught:?}");
    sshd.is_quiet();
}

/// The places of all servers over ssh on this machine.
fn places() -> Vec<String> {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let names = sockets.lines().filter_map(|line| line.split_once("@haul-"));
    names.map(|(_, name)| format!("haul-{name}")).collect()
}
