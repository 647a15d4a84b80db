//! Questions at a terminal: answered, left with a signal, and the terminal as it was before.

use crate::support::terminal::Terminal;
use crate::support::{Client, Server};
use rustix::process::Signal;

/// Waits until the terminal hides what is typed: only then may a password be typed.
fn hidden(terminal: &mut Terminal, question: &str) {
    terminal.expect(question);
    assert!(!terminal.echoes());
}

/// A client that knows the server's key and has no key of its own, and its user's URL.
fn pinned(server: &Server) -> (Client, String) {
    let client = Client::new();
    server.user(&["add", "pat"], "right");
    std::fs::create_dir(client.config()).unwrap();
    let known = format!("{} {}\n", server.address, server.fingerprint);
    std::fs::write(client.config().join("known_servers"), known).unwrap();
    (client, format!("haul://pat@{}/", server.address))
}

/// Runs a command up to its question once for each signal, and looks how it ends.
fn left_by_every_signal(
    question: &str,
    is_hidden: bool,
    command: impl Fn() -> std::process::Command,
) {
    use Signal as S;
    for (signal, code) in [
        (S::INT, 130),
        (S::TERM, 143),
        (S::HUP, 129),
        (S::QUIT, 131),
        (S::ALARM, 142),
        (S::USR1, 138),
    ] {
        let mut terminal = Terminal::start(command(), 80);
        terminal.expect(question);
        assert_eq!(terminal.echoes(), !is_hidden, "{question}");
        // half an answer
        terminal.enter("haul1-");
        terminal.signal(signal);
        terminal.expect("haul: interrupted");
        let (ended, shown) = terminal.end_echoing();
        assert_eq!(ended, Some(code), "{question} {signal:?}: {shown:?}");
        assert!(!shown.contains("run the same command again"), "{shown:?}");
    }
}

#[test]
fn every_question_is_left_at_once_by_every_signal() {
    let server = Server::start();
    let (client, url) = pinned(&server);
    left_by_every_signal("password: ", true, || client.command(["ls", &url]));
    let stranger = Client::new();
    left_by_every_signal("[yes/no] ", false, || stranger.command(["ls", &url]));
    let address = server.address.to_string();
    left_by_every_signal("Invite for ", false, || stranger.command(["login", &address]));
    assert!(!stranger.config().join("known_servers").exists(), "nothing was pinned");
    let add = || {
        let mut command = crate::support::haul();
        command.args(["user", "add", "ann", "--state"]).arg(&server.state);
        command
    };
    left_by_every_signal("Password for ann: ", true, add);
    let users = std::fs::read_to_string(server.state.join("users")).unwrap();
    assert!(!users.contains("ann"), "{users}");
}

/// Ctrl-C as the terminal sends it: nothing more need be typed, and what is typed then is for the
/// shell.
#[test]
fn a_line_typed_after_ctrl_c_answers_nothing() {
    let server = Server::start();
    let (_, url) = pinned(&server);
    let client = Client::new();
    let mut terminal = Terminal::start(client.command(["ls", &url]), 80);
    terminal.expect("[yes/no] ");
    terminal.enter("ye\x03");
    terminal.expect("haul: interrupted");
    terminal.enter("yes\n");
    let (code, shown) = terminal.end_echoing();
    assert_eq!(code, Some(130), "{shown:?}");
    assert!(!client.config().join("known_servers").exists(), "it was pinned: {shown:?}");
}

#[test]
fn a_password_is_asked_for_up_to_three_times() {
    let server = Server::start();
    let (client, url) = pinned(&server);
    std::fs::write(server.root.join("f"), "x").unwrap();
    let mut terminal = Terminal::start(client.command(["ls", &url]), 80);
    for (password, follows) in
        [("wrong\n", "try again"), ("wronger\n", "try again"), ("right\n", "f\r\n")]
    {
        hidden(&mut terminal, "password: ");
        terminal.enter(password);
        terminal.expect(follows);
    }
    let (code, shown) = terminal.end_echoing();
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(!shown.contains("lemon") && !shown.contains("right"), "{shown:?}");

    let mut terminal = Terminal::start(client.command(["ls", &url]), 80);
    for _ in 0..3 {
        hidden(&mut terminal, "password: ");
        terminal.enter("wrong\n");
    }
    terminal.expect("login refused");
    let (code, shown) = terminal.end_echoing();
    assert_eq!(code, Some(5), "{shown:?}");
    assert_eq!(shown.matches("password: ").count(), 3, "{shown:?}");
}

/// An answer may be refused, and input may end.
#[test]
fn no_and_the_end_of_input_are_answers_too() {
    let server = Server::start();
    let (client, url) = pinned(&server);
    let stranger = Client::new();
    for (answer, code) in [("no\n", 6), ("\x04", 6)] {
        let mut terminal = Terminal::start(stranger.command(["ls", &url]), 80);
        terminal.expect("[yes/no] ");
        terminal.enter(answer);
        terminal.expect("is not known");
        assert_eq!(terminal.end_echoing().0, Some(code));
    }
    let mut terminal = Terminal::start(client.command(["ls", &url]), 80);
    hidden(&mut terminal, "password: ");
    terminal.enter("\x04");
    terminal.expect("no password was given");
    assert_eq!(terminal.end_echoing().0, Some(5));
    let mut terminal = Terminal::start(stranger.command(["ls", &url]), 80);
    terminal.expect("[yes/no] ");
    terminal.enter("yes\n");
    hidden(&mut terminal, "password: ");
    terminal.enter("right\n");
    assert_eq!(terminal.end_echoing().0, Some(0));
}

/// Input that is no terminal and never ends must not outlive a signal either.
#[test]
fn an_invite_that_never_comes_is_left_by_a_signal() {
    let server = Server::start();
    let client = Client::new();
    let mut command = client.command(["login", &server.address.to_string()]);
    let (reader, _writer) = std::io::pipe().unwrap();
    command.stdin(reader).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    crate::support::until("it has its handlers", || handles(child.id(), Signal::TERM));
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let mut child = child;
    assert_eq!(crate::support::wait(&mut child).code(), Some(143));
}

/// Whether a process has a handler for a signal, as proc(5) tells.
fn handles(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 1
}
