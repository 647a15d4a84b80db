//! Shows the counters of a transfer: a bar on a terminal, a line now and then elsewhere. Other
//! lines go above the bar.

use super::bar::Snapshot;
use super::output::name;
use super::screen::{self, Terminal, say, screen};
use crate::net::client::outage::Outage;
use crate::net::transfer::report::Counters;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the bar is redrawn.
const TICK: Duration = Duration::from_millis(100);
/// How often a line is printed without a terminal.
const LINE: Duration = Duration::from_secs(5);
/// The rate is the mean over this time.
const RATE_OVER: Duration = Duration::from_secs(5);
/// The characters of the bar: done, and not.
const BAR: &str = "━━";
/// The shortest time with a meaningful rate.
const RATE_FROM: Duration = Duration::from_millis(500);

/// Where the user wants progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// On a terminal as a bar, elsewhere as lines.
    Always,
    /// On a terminal only.
    OnTerminal,
    /// Nowhere.
    Never,
}

/// Shows progress until it is dropped.
pub struct Progress {
    shown: Arc<Shown>,
    task: tokio::task::JoinHandle<()>,
}

/// The counters, and how they are shown.
struct Shown {
    counters: Arc<Counters>,
    outage: Arc<Outage>,
    rate: Mutex<Rate>,
    /// `None`: lines instead of a bar.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Progress on standard error, if it is wanted there.
    pub fn start(counters: Arc<Counters>, outage: Arc<Outage>, wish: Wish) -> Option<Progress> {
        let is_bar = io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        match wish {
            Wish::Always => {}
            Wish::OnTerminal if is_bar => {}
            Wish::OnTerminal | Wish::Never => return None,
        }
        let shown = Arc::new(Shown {
            counters,
            outage,
            rate: Mutex::new(Rate::default()),
            bar: is_bar.then(|| ProgressBar::with_draw_target(None, Terminal::target())),
        });
        if is_bar {
            screen().show(String::new());
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
        match &self.shown.bar {
            Some(_) => screen().remove(),
            None => self.shown.show(Instant::now()),
        }
    }
}

impl Shown {
    fn show(&self, now: Instant) {
        let rate = self.rate.lock().update(now, Counters::get(&self.counters.bytes_moved));
        let snapshot = Snapshot {
            lost: self.outage.lasted(now),
            turn: self.outage.turn(),
            ..snapshot(&self.counters, rate)
        };
        match &self.bar {
            Some(bar) => draw(bar, &snapshot, screen::columns()),
            None => say(&snapshot.line()),
        }
    }
}

/// Draws two lines: the bar with its text, and the names of the files under way.
fn draw(bar: &ProgressBar, snapshot: &Snapshot, columns: usize) {
    let lines = snapshot.lines(columns);
    let width = lines.filled.chars().chain(lines.empty.chars()).count();
    let template = match width {
        0 => "{prefix}".to_string(),
        width => format!("{{bar:{width}.cyan/dim}} {{prefix}}"),
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars(BAR));
    }
    screen().set_below(lines.names);
    bar.set_length(snapshot.total.max(1));
    bar.set_position(snapshot.done.min(snapshot.total));
    bar.set_prefix(lines.text);
    bar.tick();
}

fn snapshot(counters: &Counters, rate: Option<f64>) -> Snapshot {
    let get = Counters::get;
    let total = get(&counters.bytes_found)
        .saturating_sub(get(&counters.bytes_unchanged))
        .saturating_sub(get(&counters.bytes_planned))
        .saturating_sub(get(&counters.bytes_failed));
    Snapshot {
        done: get(&counters.bytes_done),
        total,
        files: get(&counters.files_done)
            .saturating_add(get(&counters.unchanged))
            .saturating_add(get(&counters.skipped))
            .saturating_add(get(&counters.planned))
            .saturating_add(get(&counters.failed)),
        found: get(&counters.files_found),
        searching: !counters.walked.load(Ordering::Relaxed),
        endless: counters.endless.load(Ordering::Relaxed),
        rate,
        current: counters.current().iter().map(|path| name(path.as_bytes())).collect(),
        ..Snapshot::default()
    }
}

/// Bytes a second over the last moments.
#[derive(Default)]
struct Rate {
    /// The bytes that had been moved by each moment, oldest first: one entry more than the window
    /// has.
    seen: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Bytes a second at `now`; `None` while it is too early to tell.
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
