//! Progress, over counters that the transfer bumps: a bar on a terminal, a line now and then elsewhere. What else is
//! printed goes above the bar.

use super::bar::Snapshot;
use super::output::name;
use crate::net::client::outage::Outage;
use crate::net::transfer::Counters;
use rustix::termios::tcgetwinsize;
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the bar is drawn anew.
const TICK: Duration = Duration::from_millis(100);
/// How often there is a line where there is no terminal.
const LINE: Duration = Duration::from_secs(5);
/// The rate is that of the last this much time.
const RATE_OVER: Duration = Duration::from_secs(5);
/// A rate takes this long to be told.
const RATE_FROM: Duration = Duration::from_millis(500);
/// Columns of a terminal that does not tell how many it has.
const COLUMNS: usize = 80;

/// The part of the terminal that is drawn again and again.
static SCREEN: Mutex<Screen> = Mutex::new(Screen { drawn: None, hidden: 0 });

/// The cursor stays where the bar begins. However a terminal has wrapped it after a change of its width, everything
/// from there on is the bar's, and can be cleared.
struct Screen {
    /// The bar as it was drawn last; `None` where there is none.
    drawn: Option<String>,
    /// How many want it hidden.
    hidden: usize,
}

/// Moves to the beginning of the bar's line, and clears the rest of the screen.
const CLEAR: &str = "\r\x1b[J";

fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Screen {
    /// Prints this where the bar is, and the bar behind it.
    fn print(&self, above: &str) {
        let bar = self.drawn.as_deref().filter(|_| self.hidden == 0);
        let (clear, bar) = match bar {
            Some(bar) => (CLEAR, bar),
            None => ("", ""),
        };
        let _ = io::stderr().write_all(format!("{clear}{above}{bar}").as_bytes());
    }
}

/// Prints a line on standard error, above the bar if there is one.
pub fn say(text: &str) {
    screen().print(&format!("{text}\n"));
}

/// Removes the bar for good: the command is over.
pub fn finish() {
    let mut screen = screen();
    if screen.drawn.is_some() {
        hide_bar(&mut screen);
    }
    screen.drawn = None;
}

/// Hides the bar until what this returns is dropped.
pub fn hide() -> Hidden {
    hide_bar(&mut screen());
    Hidden
}

fn hide_bar(screen: &mut Screen) {
    if screen.drawn.is_some() && screen.hidden == 0 {
        let _ = io::stderr().write_all(CLEAR.as_bytes());
    }
    screen.hidden = screen.hidden.saturating_add(1);
}

/// The bar is hidden.
pub struct Hidden;

impl Drop for Hidden {
    fn drop(&mut self) {
        let mut screen = screen();
        screen.hidden = screen.hidden.saturating_sub(1);
        if screen.drawn.is_some() {
            screen.print("");
        }
    }
}

/// Shows progress until it is dropped.
pub struct Progress {
    shown: Arc<Shown>,
    task: tokio::task::JoinHandle<()>,
}

/// What is shown, and how.
struct Shown {
    counters: Arc<Counters>,
    outage: Arc<Outage>,
    rate: Mutex<Rate>,
    /// A bar; without, lines.
    is_bar: bool,
}

impl Progress {
    /// Progress on standard error where that is a terminal, or where `forced`; none otherwise.
    pub fn start(counters: Arc<Counters>, outage: Arc<Outage>, forced: Option<bool>) -> Option<Progress> {
        let is_bar = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        if !forced.unwrap_or(is_bar) {
            return None;
        }
        let shown = Arc::new(Shown {
            counters,
            outage,
            rate: Mutex::new(Rate::default()),
            is_bar,
        });
        if is_bar {
            screen().drawn = Some(String::new());
        }
        let pause = if is_bar { TICK } else { LINE };
        let ticking = shown.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                ticking.show(Instant::now());
            }
        });
        Some(Progress { shown, task })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        if self.shown.is_bar {
            let mut screen = screen();
            if screen.drawn.take().is_some() && screen.hidden == 0 {
                let _ = io::stderr().write_all(CLEAR.as_bytes());
            }
        } else {
            self.shown.show(Instant::now());
        }
    }
}

impl Shown {
    fn show(&self, now: Instant) {
        let rate = self
            .rate
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .update(now, Counters::get(&self.counters.bytes_moved));
        let snapshot = snapshot(&self.counters, rate, self.outage.lasted(now));
        if !self.is_bar {
            return say(&snapshot.line());
        }
        let columns = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
        let columns = if columns == 0 { COLUMNS } else { columns };
        let mut screen = screen();
        if let Some(drawn) = &mut screen.drawn {
            // the last column stays free: there a terminal may wrap the line already
            *drawn = drawing(&snapshot, columns.saturating_sub(1));
            screen.print("");
        }
    }
}

/// The bar, and back to its beginning. It must be two lines even where the terminal has become narrower a moment ago, so
/// nothing is wrapped meanwhile.
fn drawing(snapshot: &Snapshot, columns: usize) -> String {
    let lines = snapshot.lines(columns);
    let bar = match lines.filled.len().saturating_add(lines.empty.len()) {
        0 => String::new(),
        _ => format!("\x1b[36m{}\x1b[0;2m{}\x1b[0m ", lines.filled, lines.empty),
    };
    let (text, names) = (lines.text, lines.names);
    format!("\x1b[?7l{bar}{text}\r\n\x1b[2m{names}\x1b[0m\x1b[1A\r\x1b[?7h")
}

fn snapshot(counters: &Counters, rate: Option<f64>, lost: Option<Duration>) -> Snapshot {
    let get = Counters::get;
    let total = get(&counters.bytes_found)
        .saturating_sub(get(&counters.bytes_unchanged))
        .saturating_sub(get(&counters.bytes_failed));
    Snapshot {
        done: get(&counters.bytes_done),
        total,
        files: get(&counters.files_done)
            .saturating_add(get(&counters.unchanged))
            .saturating_add(get(&counters.failed)),
        found: get(&counters.files_found),
        searching: !counters.walked.load(Ordering::Relaxed),
        endless: counters.endless.load(Ordering::Relaxed),
        rate,
        lost,
        current: counters.current().iter().map(|path| name(path.as_bytes())).collect(),
    }
}

/// Bytes a second over the last moments.
#[derive(Default)]
struct Rate {
    /// When how many bytes had been moved, the oldest first: one more than what is in the window.
    seen: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Bytes a second at this moment; `None` while it is too early to tell.
    fn update(&mut self, now: Instant, bytes: u64) -> Option<f64> {
        while let Some((then, _)) = self.seen.get(1)
            && now.saturating_duration_since(*then) >= RATE_OVER
        {
            self.seen.pop_front();
        }
        let (then, before) = *self.seen.front().unwrap_or(&(now, bytes));
        self.seen.push_back((now, bytes));
        let passed = now.saturating_duration_since(then);
        (passed >= RATE_FROM).then(|| bytes.saturating_sub(before) as f64 / passed.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds_and_takes_a_moment() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(rate.update(at(0), 0), None);
        // one burst is no rate
        assert_eq!(rate.update(at(100), 4000), None);
        assert_eq!(rate.update(at(499), 4000), None);
        assert_eq!(rate.update(at(1000), 4000), Some(4000.0));
        assert_eq!(rate.update(at(5000), 8000), Some(1600.0));
        assert_eq!(rate.update(at(10_000), 8000), Some(0.0));
        assert_eq!(rate.seen.len(), 2);
    }
}
