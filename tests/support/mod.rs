//! Hermetic servers and clients: the built binary, real sockets on port 0, their own directories.

pub mod chance;
mod client;
pub mod disk;
pub mod floods;
pub mod frames;
pub mod imports;
pub mod messages;
pub mod proxy;
pub mod s3;
pub mod schema;
pub mod script;
mod server;
pub mod sshd;
pub mod store;
pub mod terminal;
pub mod tree;

pub use client::{Client, Ended, Running};
pub use server::Server;

use client::collect;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// More than all tests take, even on a slow machine.
const ALL_TESTS: Duration = Duration::from_secs(40 * 60);

/// Ends the test run if it hangs, and says what it waits for: no test may wait without end, and one
/// that does should have a name.
fn limit_the_run() {
    static LIMITED: std::sync::Once = std::sync::Once::new();
    LIMITED.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(ALL_TESTS);
            let pid = std::process::id().to_string();
            let mut ps = Command::new("ps");
            ps.args(["-o", "pid,etime,args", "--ppid", &pid]);
            let processes = ps.output().map(|output| output.stdout).unwrap_or_default();
            let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
            let names = threads.filter_map(|t| std::fs::read(t.path().join("comm")).ok());
            // what a macro prints would be captured
            let mut err = std::io::stderr().lock();
            let _ = err.write_all(b"the tests hang; their threads and processes:\n");
            let _ = err.write_all(&names.collect::<Vec<_>>().concat());
            let _ = err.write_all(&processes);
            std::process::exit(101);
        });
    });
}

/// The built binary, without the environment of the test run.
pub fn haul() -> Command {
    limit_the_run();
    let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("USER", "tester")
        .env("HOME", "/nonexistent");
    command.stdin(Stdio::null());
    command
}

/// A command run by another program.
pub fn under(command: Command, prefix: &[String]) -> Command {
    let [program, arguments @ ..] = prefix else {
        return command;
    };
    let mut outer = Command::new(program);
    outer.args(arguments).arg(command.get_program()).args(command.get_args());
    outer.env_clear().stdin(Stdio::null());
    outer.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| value.map(|value| (name, value))),
    );
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

/// True where strace can be run; says so where it cannot.
pub fn has_strace() -> bool {
    let found = Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success());
    if !found {
        println!("skipped: strace is not installed");
    }
    found
}

/// Runs a command with input; it must end in time.
pub fn run_with(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let (out, err) = (
        collect(Box::new(child.stdout.take().unwrap())),
        collect(Box::new(child.stderr.take().unwrap())),
    );
    let status = wait(&mut child);
    writer.join().unwrap();
    Output {
        status,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    }
}

/// Waits for a child, but not for ever.
pub fn wait(child: &mut Child) -> std::process::ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("a command hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until something is true; polls, and panics when it takes too long.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
