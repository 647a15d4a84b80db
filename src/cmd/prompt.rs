//! Questions at the terminal. A question is a future: the end of the command ends it at once, and
//! restores the terminal.

use super::failure::Failure;
use super::screen;
use crate::auth::password::Secret;
use parking_lot::Mutex;
use rustix::termios::{
    LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr,
};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use zeroize::Zeroizing;

/// The most bytes of an answer; a line of a terminal has no more.
const LONGEST: usize = 4096;

/// The question that is being asked, for [`suspend`] and [`resume`].
static CURRENT: Mutex<Option<Arc<Question>>> = Mutex::new(None);

/// True if a user can be asked at a terminal.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Refuses an option that asks where no user can be asked.
///
/// # Errors
/// A usage failure that names the option.
pub fn must_ask(option: &str) -> Result<(), Failure> {
    match can_ask() {
        true => Ok(()),
        false => Err(Failure::usage(format!("{option} asks at a terminal, and there is none"))
            .hint("leave the option out, or name what is meant")),
    }
}

/// Asks for a line. `None` at the end of input.
///
/// # Errors
/// The terminal's.
pub async fn line(question: &str) -> io::Result<Option<Secret>> {
    ask(question, Echo::Shown, TypedAhead::Taken).await
}

/// Asks for a line that the terminal does not show. `None` at the end of input.
///
/// # Errors
/// The terminal's.
pub async fn secret(question: &str) -> io::Result<Option<Secret>> {
    ask(question, Echo::Hidden, TypedAhead::Dropped).await
}

/// Asks a question whose answer is yes or no; anything else is no. Text that was typed before the
/// question is not an answer to it.
///
/// # Errors
/// The terminal's.
pub async fn yes(question: &str) -> io::Result<bool> {
    let answer = ask(question, Echo::Shown, TypedAhead::Dropped).await?;
    Ok(answer.is_some_and(|answer| matches!(answer.trim(), "yes" | "y")))
}

/// The first line of standard input if that is not a terminal. `None` at the end of input.
///
/// # Errors
/// Standard input's, and a line that is too long.
pub async fn first_line_of_input() -> io::Result<Option<Secret>> {
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    let mut input = BufReader::new(tokio::io::stdin().take(most));
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    input.read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => text(line).map(Some),
        Some(_) if line.len() >= LONGEST => Err(too_long()),
        Some(_) => text(line).map(Some),
    }
}

/// Restores the terminal before this process is stopped in the middle of a question.
pub fn suspend() {
    if let Some(question) = current() {
        question.restore(OptionalActions::Now);
    }
}

/// Asks the question once more after this process has been continued.
pub fn resume() {
    if let Some(question) = current() {
        // the half-typed answer is not on the screen any more
        let _ = tcflush(&question.terminal, QueueSelector::IFlush);
        question.show();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    Shown,
    Hidden,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TypedAhead {
    Taken,
    Dropped,
}

/// A question, and the terminal that it is asked at.
struct Question {
    text: String,
    terminal: File,
    before: Termios,
    echo: Echo,
}

impl Question {
    fn new(text: &str, terminal: File, echo: Echo) -> io::Result<Question> {
        Ok(Question {
            text: text.to_string(),
            before: tcgetattr(&terminal)?,
            terminal,
            echo,
        })
    }

    fn show(&self) {
        if self.echo == Echo::Hidden {
            let mut hidden = self.before.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            hidden.local_modes.insert(LocalModes::ECHONL);
            let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &hidden);
        }
        eprint!("{}", self.text);
        let _ = io::stderr().flush();
    }

    fn restore(&self, when: OptionalActions) {
        if self.echo == Echo::Hidden {
            let _ = tcsetattr(&self.terminal, when, &self.before);
        }
    }
}

/// Restores the terminal however the question ends.
struct Asked {
    question: Arc<Question>,
    answered: bool,
}

impl Drop for Asked {
    fn drop(&mut self) {
        *CURRENT.lock() = None;
        if self.answered {
            self.question.restore(OptionalActions::Drain);
        } else {
            // half an answer must not become the shell's next command
            let _ = tcflush(&self.question.terminal, QueueSelector::IFlush);
            self.question.restore(OptionalActions::Now);
            eprintln!();
        }
    }
}

fn current() -> Option<Arc<Question>> {
    CURRENT.lock().clone()
}

/// Opens the terminal once more: the non-blocking mode must not change for other processes that
/// have it open.
fn open_terminal() -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let open = |path| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    open("/dev/tty").or_else(|_| open("/dev/stdin"))
}

async fn ask(text: &str, echo: Echo, typed_ahead: TypedAhead) -> io::Result<Option<Secret>> {
    let terminal = open_terminal()?;
    let _bar = screen::hide();
    let question = Arc::new(Question::new(text, terminal.try_clone()?, echo)?);
    if typed_ahead == TypedAhead::Dropped {
        tcflush(&terminal, QueueSelector::IFlush)?;
    }
    *CURRENT.lock() = Some(question.clone());
    let mut asked = Asked {
        question,
        answered: false,
    };
    asked.question.show();
    #[expect(
        deprecated,
        reason = "unsound for types that change their descriptor: a File does not"
    )]
    let terminal = AsyncFd::new(terminal)?;
    let answer = read_line(&terminal).await?;
    asked.answered = answer.is_some();
    Ok(answer)
}

async fn read_line(terminal: &AsyncFd<File>) -> io::Result<Option<Secret>> {
    // never grows: reallocating would leave a copy of the answer
    let mut line = Zeroizing::new(Vec::with_capacity(2 * LONGEST));
    let mut buffer = Zeroizing::new([0; LONGEST]);
    loop {
        let mut ready = terminal.readable().await?;
        let read = match ready.try_io(|terminal| terminal.get_ref().read(&mut buffer[..])) {
            Ok(read) => read?,
            Err(_would_block) => continue,
        };
        line.extend_from_slice(buffer.get(..read).unwrap_or_default());
        match line.last() {
            Some(b'\n') => return self::text(line).map(Some),
            _ if line.len() > LONGEST => return Err(too_long()),
            None => return Ok(None),
            // typed before the end of input
            Some(_) if read == 0 => return self::text(line).map(Some),
            Some(_) => {}
        }
    }
}

fn text(mut line: Zeroizing<Vec<u8>>) -> io::Result<Secret> {
    while line.pop_if(|last| matches!(last, b'\n' | b'\r')).is_some() {}
    let text = std::str::from_utf8(&line).map(|text| Secret::new(text.into()));
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the line is too long")
}
