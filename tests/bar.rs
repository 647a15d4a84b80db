//! What is shown while a transfer runs: at a terminal, at one that changes its size, and without
//! one.

use crate::support::proxy::{Proxy, Rules};
use crate::support::terminal::Terminal;
use crate::support::tree::{bytes, write};
use crate::support::{Client, Server, until};
use std::process::Command;

const MIB: usize = 1 << 20;

/// A client on a link of so many bytes a second, each way and on each of its connections.
fn slow(server: &Server, rate: usize) -> (Proxy, Client) {
    let rules = Rules {
        rate: Some(rate),
        ..Rules::default()
    };
    let proxy = Proxy::start(server.address, rules);
    let client = server.client_at(proxy.address);
    (proxy, client)
}

#[test]
fn the_bar_of_one_file_tells_how_far_it_is_and_goes() {
    let server = Server::start();
    let (_proxy, client) = slow(&server, MIB);
    write(&client.work().join("file"), &bytes(1, 6 * MIB));
    let mut terminal =
        Terminal::start(client.command(["put", "--connections=2", "file", "srv:"]), 80);
    terminal.expect("%, ");
    terminal.expect("MiB/s, ");
    terminal.expect(" of 6 MiB");
    // cleared, and the summary in its place
    terminal.expect("\r\x1b[Jput: 1 file, 6 MiB in ");
    let (code, shown) = terminal.end_echoing();
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(!shown.contains("of 1 "), "{shown:?}");
    // before anything was measured there was no rate
    let first = shown.find("MiB/s").unwrap();
    assert!(shown[..first].contains("of 6 MiB"), "{shown:?}");
}

/// A rate of the time before the connection was lost would be a lie.
#[test]
fn while_the_server_is_away_the_bar_says_for_how_long() {
    let mut server = Server::start();
    let (_proxy, client) = slow(&server, 3 * MIB);
    write(&client.work().join("file"), &bytes(1, 20 * MIB));
    let mut terminal = Terminal::start(client.command(["put", "file", "srv:"]), 80);
    terminal.expect("MiB/s, ");
    server.kill();
    terminal.expect("trying again");
    terminal.expect("reconnecting for ");
    terminal.expect("reconnecting for 1 s");
    server.restart();
    terminal.expect("MiB/s, ");
    terminal.expect("put: 1 file, 20 MiB in ");
    let (code, shown) = terminal.end_echoing();
    assert_eq!(code, Some(0), "{shown:?}");
    for drawn in shown.split("\x1b[J").filter(|drawn| drawn.contains("reconnecting")) {
        assert!(!drawn.contains("/s"), "{drawn:?}");
    }
}

/// A log gets lines, the last of which says how it ended.
#[test]
fn progress_without_a_terminal_is_lines() {
    let server = Server::start();
    let client = server.client();
    write(&client.work().join("file"), &bytes(1, 1000));
    for arguments in [
        ["put", "--progress", "file", "srv:"],
        ["get", "--progress", "srv:file", "back"],
    ] {
        let ended = client.run(arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(
            ended
                .err
                .lines()
                .any(|line| line.starts_with("100%, ") && line.ends_with("1000 B of 1000 B")),
            "{ended:?}"
        );
        assert!(!ended.err.contains('\x1b'), "{ended:?}");
    }
    let ended = client.run(["put", "-c", "file", "srv:"]);
    assert!(!ended.err.contains('%'), "{ended:?}");
}

/// A real terminal, that wraps the lines which have become too long.
struct Tmux(String);

impl Tmux {
    /// Runs a command in a window of its own; none where tmux is missing.
    fn start(command: &Command, columns: u16) -> Option<Tmux> {
        let name = format!("haul-test-{}-{:?}", std::process::id(), std::thread::current().id());
        let tmux = Tmux(name.replace(['(', ')'], ""));
        let size = columns.to_string();
        let mut start =
            tmux.command(&["-f", "/dev/null", "new-session", "-d", "-x", &size, "-y", "20"]);
        let size = format!(
            "trap : INT; seq 40; stty size; read -r go; env -i {}; echo ended; read -r go",
            shell(command)
        );
        let started = start.arg(size).output();
        match started {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(_) => {
                println!("skipped: tmux is not installed");
                return None;
            }
        }
        Some(tmux)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-u", "-L", &self.0]).args(arguments).env("LANG", "C.UTF-8");
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The lines on the screen that are not empty, and those that have left it.
    fn screen(&self) -> Vec<String> {
        let text = self.run(&["capture-pane", "-pJ", "-S", "-1000"]);
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(str::to_string)
            .collect()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}

/// A command with its environment, for a shell.
fn shell(command: &Command) -> String {
    let quoted =
        |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap().replace('\'', r"'\''"));
    let dir = quoted(command.get_current_dir().unwrap().as_os_str());
    let mut words: Vec<String> = vec!["-C".into(), dir, "TERM=tmux".into()];
    for (name, value) in command.get_envs() {
        words.extend(value.map(|value| format!("{}={}", name.to_str().unwrap(), quoted(value))));
    }
    words.extend(std::iter::once(command.get_program()).chain(command.get_args()).map(quoted));
    words.join(" ")
}

#[test]
fn the_bar_is_clean_after_the_terminal_has_changed_its_size() {
    let server = Server::start();
    let (_proxy, client) = slow(&server, 2 * MIB);
    let name =
        "a-name-that-is-as-long-as-the-names-of-photographs-are-when-a-camera-chooses-them.jpeg";
    write(&client.work().join(name), &bytes(1, 64 * MIB));
    let Some(tmux) = Tmux::start(&client.command(["put", "--connections=2", name, "srv:"]), 120)
    else {
        return;
    };
    until("it waits to begin", || {
        tmux.screen().last().is_some_and(|line| line == "20 120")
    });
    let above = tmux.screen();
    tmux.run(&["send-keys", "Enter"]);
    let bar = |columns: usize| {
        until("the bar is there, in one line", || {
            let screen = tmux.screen();
            let drawn = screen.strip_prefix(above.as_slice());
            // nothing is left of what was drawn before
            let Some([line, named]) = drawn else {
                return false;
            };
            line.contains('%') && line.chars().count() < columns && named.ends_with(".jpeg")
        });
    };
    bar(120);
    for columns in ["43", "97", "61", "30", "120"] {
        tmux.run(&["resize-window", "-x", columns]);
        bar(columns.parse().unwrap());
    }
    tmux.run(&["send-keys", "C-c"]);
    until("it has ended", || tmux.screen().iter().any(|line| line == "ended"));
    let screen = tmux.screen();
    let shown = screen.strip_prefix(above.as_slice());
    assert!(
        matches!(shown, Some([why, _]) if why.starts_with("haul: interrupted (")),
        "{screen:?}"
    );
}
