//! A command at a pseudo-terminal that is its controlling one: what it shows, what the user types.

use super::{PATIENCE, wait};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

/// What has been shown so far.
#[derive(Default)]
struct Shown {
    text: Mutex<(String, bool)>,
    more: Condvar,
}

/// A command that runs at a terminal. Killed when dropped.
pub struct Terminal {
    child: Child,
    master: File,
    shown: Arc<Shown>,
    /// Bytes of it that were waited for.
    seen: usize,
}

impl Terminal {
    /// Starts a command at a terminal with this many columns.
    pub fn start(command: Command, columns: u16) -> Terminal {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = std::ffi::OsStr::from_bytes(name.as_bytes());
        let slave = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&slave, size).unwrap();
        // a session of its own, whose terminal this is; it becomes the command itself
        let mut command = super::under(command, &["setsid".into(), "--ctty".into()]);
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio()).env("TERM", "xterm");
        let child = command.spawn().unwrap();
        drop((command, slave));
        let master = File::from(master);
        let shown = Arc::new(Shown::default());
        let (mut from, into) = (master.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // an error is the end: nobody has the other side open any more
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                into.text.lock().unwrap().0 += &String::from_utf8_lossy(&buffer[..read]);
                into.more.notify_all();
            }
            into.text.lock().unwrap().1 = true;
            into.more.notify_all();
        });
        Terminal {
            child,
            master,
            shown,
            seen: 0,
        }
    }

    /// Waits until this is shown, after what was waited for before.
    #[track_caller]
    pub fn expect(&mut self, what: &str) {
        let text = self.shown.text.lock().unwrap();
        let missing =
            |(text, ended): &mut (String, bool)| !text[self.seen..].contains(what) && !*ended;
        let (text, _) = self.shown.more.wait_timeout_while(text, PATIENCE, missing).unwrap();
        let found = text.0[self.seen..].find(what);
        self.seen +=
            found.unwrap_or_else(|| panic!("never shown: {what}: {:?}", text.0)) + what.len();
    }

    /// Types something.
    pub fn enter(&mut self, what: &str) {
        self.master.write_all(what.as_bytes()).unwrap();
    }

    /// True where what is typed is shown.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.master).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .unwrap();
    }

    /// Waits for the end; gives the exit code and all that was shown. The terminal must then be as
    /// it was.
    #[track_caller]
    pub fn end_echoing(mut self) -> (Option<i32>, String) {
        let status = wait(&mut self.child);
        assert!(self.echoes(), "the terminal does not show what is typed any more");
        let text = self.shown.text.lock().unwrap();
        let (text, _) = self
            .shown
            .more
            .wait_timeout_while(text, PATIENCE, |(_, ended)| !*ended)
            .unwrap();
        (status.code(), text.0.clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
