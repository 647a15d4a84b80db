//! Bounds before and around the login: floods of connections, descriptors, memory.

use crate::support::messages::{offered, offers};
use crate::support::script::ScriptedClient;
use crate::support::terminal::Terminal;
use crate::support::tree::{read, snapshot, staged, write};
use crate::support::{Client, Ended, Server, run_with, under, until};
use haul::net::wire::proto::{self, control_message::Body, request};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::io::Write;
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn limit_files(pid: Option<Pid>, files: u64) -> Rlimit {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(files),
        maximum,
    };
    prlimit(pid, Resource::Nofile, limit).unwrap()
}

/// Processor time of the server, in ticks of 10 ms.
fn ticks(server: &Server) -> u64 {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", server.pid().as_raw_nonzero())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_flood_of_idle_connections_keeps_nobody_out() {
    limit_files(None, 4096);
    let server = Server::start();
    let client = server.client();
    let flood: Vec<TcpStream> = (0..900)
        .map(|n| {
            let mut tcp = TcpStream::connect(server.address).unwrap();
            // a third says nothing, a third a byte, a third the beginning of a handshake
            match n % 3 {
                0 => {}
                1 => drop(tcp.write_all(&[22])),
                _ => drop(tcp.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])),
            }
            tcp
        })
        .collect();
    let started = Instant::now();
    client.ok(["ls", "srv:"]);
    // far from the deadlines of 10 and 20 s after which the flood would be gone by itself
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert!(server.memory("VmRSS") < 150_000);
    drop(flood);
}

#[test]
fn without_file_descriptors_the_server_waits_and_recovers() {
    let server = Server::start();
    let client = server.client();
    limit_files(Some(server.pid()), 40);
    let flood: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let before = ticks(&server);
    std::thread::sleep(Duration::from_secs(2));
    assert!(ticks(&server) - before < 100, "it spins");
    drop(flood);
    until("it serves again", || client.run(["ls", "srv:"]).code == 0);
}

/// On either side: small files in groups, larger ones, and more directories than may be open.
#[test]
fn a_transfer_gets_by_with_few_open_files() {
    let few = ["sh", "-c", "ulimit -n 128 && exec \"$@\"", "sh"];
    let server = Server::under(&few, &[]);
    let client = server.client();
    let tree = client.work().join("tree");
    for i in 0..2400 {
        write(&tree.join(format!("{}/{i}", i % 60)), b"small");
    }
    for i in 0..40 {
        write(&tree.join(format!("large/{i}")), &vec![7; (1 << 20) + i]);
    }
    let few = few.map(String::from);
    for arguments in [["put", "-r", "tree", "srv:"], ["get", "-r", "srv:tree/", "back"]] {
        let ended = Ended::of(run_with(under(client.command(arguments), &few), b""));
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    assert_eq!(snapshot(&tree), snapshot(&server.root.join("tree")));
    assert_eq!(snapshot(&tree), snapshot(&client.work().join("back")));
}

/// A put of a stream that does not end, as this file.
fn endless(client: &Client, name: &str) -> Child {
    let mut command = client.command(["put".to_string(), "-".into(), format!("srv:{name}")]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Transfers borrow the server's memory. When all is lent they wait in line, and nobody is refused.
#[test]
fn transfers_wait_for_memory_and_other_requests_do_not() {
    let server = Server::with(&["--max-memory", "32M"]);
    let client = server.client();
    write(&client.work().join("f"), b"x");
    let mut held = Vec::new();
    let is_staged = |n: usize| staged(&server.root.join(format!("held-{n}"))).exists();
    let mut lent = 0;
    for n in 0..12 {
        held.push(endless(&client, &format!("held-{n}")));
        let since = Instant::now();
        while !is_staged(n) && since.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !is_staged(n) {
            break;
        }
        lent += 1;
    }
    assert!((1..12).contains(&lent), "{lent}");
    let waiting = client.spawn(["put", "--progress", "f", "srv:"]);
    client.ok(["ls", "srv:"]);
    assert!(!server.root.join("f").exists());
    // another user has a share of their own
    let other = server.client_of("pat");
    write(&other.work().join("g"), b"y");
    other.ok(["put", "g", "srv:"]);
    for child in &mut held {
        let _ = child.kill();
        let _ = child.wait();
    }
    let ended = waiting.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(read(&server.root.join("f")), "x");
}

/// A session that has been lent much has less outstanding when others come, and what it does not
/// need any more is lent to them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_more_than_fair_goes_back_once_the_client_confirms() {
    let server = Server::with(&["--max-memory", "128M"]);
    let client = server.client();
    let mut sessions = Vec::new();
    for n in 0..4 {
        let mut session = ScriptedClient::connect_as(&server, &client, [n; 16]).await;
        session.login().await;
        let body = request::Body::Noop(proto::Noop { borrow: true });
        session
            .send(Body::Request(proto::Request {
                number: 2,
                body: Some(body),
            }))
            .await;
        sessions.push(session);
        if n < 3 {
            let window = next_window(&mut sessions[usize::from(n)]).await;
            assert_eq!((window.number, window.ahead), (0, 0));
        }
    }
    // what the first one has is more than fair, and no memory is there for the fourth
    assert_eq!(next_window(&mut sessions[3]).await.ahead, 1);
    let asked = next_window(&mut sessions[0]).await;
    assert!(asked.number > 0 && asked.bytes < 2 << 20, "{asked:?}");
    assert_eq!(next_window(&mut sessions[3]).await.ahead, 1);
    let settled = proto::Window {
        settled: asked.number,
        ..Default::default()
    };
    sessions[0].send(Body::Window(settled)).await;
    let lent = loop {
        let window = next_window(&mut sessions[3]).await;
        if window.bytes > 0 {
            break window.bytes;
        }
    };
    assert_eq!(lent, 1 << 20);
    // who is alone again is lent more
    let mut first = sessions.swap_remove(0);
    for session in &mut sessions {
        session.ask(3, request::Body::Quit(proto::Quit {})).await;
    }
    while next_window(&mut first).await.bytes <= asked.bytes {}
}

async fn next_window(session: &mut ScriptedClient) -> proto::Window {
    let next = async {
        loop {
            let message = session.receive().await.unwrap_or_else(|| panic!("hung up"));
            if let Body::Window(window) = message {
                return window;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next)
        .await
        .expect("no window")
}

/// A terminal tells who waits.
#[test]
fn the_bar_tells_that_a_transfer_waits_for_its_turn() {
    let server = Server::with(&["--max-memory", "16M"]);
    let client = server.client();
    write(&client.work().join("f"), b"x");
    let mut first = endless(&client, "held");
    until("it is staged", || staged(&server.root.join("held")).exists());
    let mut terminal = Terminal::start(client.command(["put", "f", "srv:"]), 80);
    terminal.expect("the server is busy: 1 in line");
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(terminal.end_echoing().0, Some(0));
    assert_eq!(read(&server.root.join("f")), "x");
}

#[test]
fn clients_that_were_killed_do_not_keep_others_out() {
    let server = Server::with(&["--max-memory", "512M", "--max-sessions", "12"]);
    let client = server.client();
    let mut held: Vec<_> = (0..5)
        .map(|n| {
            let mut command =
                client.command(["put".to_string(), "-".into(), format!("srv:held-{n}")]);
            command
                .stdin(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null());
            let child = command.spawn().unwrap();
            until("it is staged", || staged(&server.root.join(format!("held-{n}"))).exists());
            child
        })
        .collect();
    for child in &mut held {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // of twelve sessions one user has six; those that wait for their clients make room
    for _ in 0..8 {
        let child = client.command(["ls", "srv:"]).stdout(std::process::Stdio::null()).spawn();
        assert!(crate::support::wait(&mut child.unwrap()).success());
    }
    write(&client.work().join("f"), &[7; 3 << 20]);
    client.ok(["put", "f", "srv:"]);
}

/// One user opens sessions until the server refuses; places remain for the next user.
#[tokio::test(flavor = "multi_thread")]
async fn one_user_cannot_take_every_session() {
    let server = Server::with(&["--max-sessions", "8"]);
    let (greedy, other) = (server.client(), server.client_of("pat"));
    let mut sessions = Vec::new();
    let refused = loop {
        let mut session =
            ScriptedClient::connect_as(&server, &greedy, [sessions.len() as u8; 16]).await;
        if let Some(refused) = session.try_login_as("kim").await {
            break refused;
        }
        sessions.push(session);
    };
    assert_eq!(refused.code, 421);
    assert!((2..8).contains(&sessions.len()), "{}", sessions.len());
    write(&other.work().join("f"), &[7; 3 << 20]);
    let put = tokio::task::spawn_blocking(move || other.ok(["put", "f", "srv:"]));
    put.await.unwrap();
    assert!(server.root.join("f").exists());
}

/// A user who asks for very many sources does not have all files open, and others do not notice.
#[tokio::test(flavor = "multi_thread")]
async fn the_sources_of_a_get_share_their_directories() {
    let server = Server::start();
    for n in 0..500 {
        write(&server.root.join(format!("d{n}/f")), b"x");
    }
    let open = || {
        let path = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
        std::fs::read_dir(path).unwrap().count()
    };
    let mut session = ScriptedClient::connect(&server).await;
    session.login().await;
    let before = open();
    let get = proto::Get {
        transfer: 1,
        sources: (0..500).map(|n| format!("d{n}").into_bytes()).collect(),
        options: Some(proto::Options {
            recursive: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let reply = session.ask(2, request::Body::Get(get)).await.unwrap();
    assert_eq!(reply.code, 150, "{reply:?}");
    offered(&mut session).await;
    // the handles that a transfer keeps, and those that are open for a moment
    assert!(open() < before + 256 + 64, "{} before, {} now", before, open());
}

/// Strangers fill neither the log nor the memory, however much they send.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_fill_neither_the_log_nor_the_memory() {
    let mut server = Server::start();
    let login = |user: String| {
        request::Body::Login(proto::Login {
            session: vec![7; 16],
            user,
            ..Default::default()
        })
    };
    let known = server.client();
    let connect = || ScriptedClient::connect_as(&server, &known, [7; 16]);
    // a name that is longer than any, in a message that is longer than any before a login
    let mut client = connect().await;
    assert!(client.ask(1, login("x".repeat(1_000_000))).await.is_none());
    // one in a message that is not
    let mut client = connect().await;
    let reply = client.ask(1, login("long".repeat(1000))).await.unwrap();
    assert_eq!(reply.code, 530, "{reply:?}");
    // behind it the server skips messages that were sent without waiting, however long
    let content = vec![proto::Offer {
        content: vec![7; 500_000],
        ..Default::default()
    }];
    client.transfer(1, offers(content)).await;
    assert_eq!(client.ask(2, login("nobody".into())).await.unwrap().code, 530);
    for _ in 0..100 {
        let mut client = connect().await;
        for number in 1..=3 {
            let reply = client.ask(number, login("nobody".into())).await;
            assert_eq!(reply.unwrap().code, 530);
        }
    }
    // very many that begin a message and do not end it
    let before = server.memory("VmRSS");
    let mut waiting = Vec::new();
    for _ in 0..60 {
        let mut client = connect().await;
        client.raw(&(1_u32 << 20).to_be_bytes()).await;
        client.raw(&vec![7; 1_000_000]).await;
        waiting.push(client);
    }
    let after = server.memory("VmRSS");
    assert!(after < before + 20_000, "{before} kB, then {after} kB");
    let log = server.log();
    let refused = log.matches("login refused").count();
    assert!((10..30).contains(&refused), "{refused} lines");
    assert!(log.len() < 20_000, "{} bytes", log.len());
}
