//! The progress bar, over counters that the transfer bumps.

use super::output::{duration, name, size};
use crate::net::transfer::Counters;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the bar is drawn anew.
const TICK: Duration = Duration::from_millis(100);
/// The rate is that of about the last this many seconds.
const RATE_SECONDS: f64 = 5.0;

/// The bar that is on the terminal now: what else is printed goes above it.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Prints a line on standard error, above the bar if there is one.
pub fn say(text: &str) {
    let bar = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(|| eprintln!("{text}")),
        None => eprintln!("{text}"),
    }
}

/// Shows progress until it is dropped.
pub struct Progress {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl Progress {
    /// A bar on standard error where that is a terminal, or where `forced`; none otherwise.
    pub fn start(counters: Arc<Counters>, forced: Option<bool>) -> Option<Progress> {
        if !forced.unwrap_or_else(|| std::io::stderr().is_terminal()) {
            return None;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{wide_bar:.cyan/dim} {prefix}\n{wide_msg:.dim}") {
            bar.set_style(style);
        }
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        let drawn = bar.clone();
        let task = tokio::spawn(async move {
            let mut rate = Rate::default();
            loop {
                draw(&drawn, &counters, &mut rate);
                tokio::time::sleep(TICK).await;
            }
        });
        Some(Progress { bar, task })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.bar.finish_and_clear();
    }
}

/// An average that forgets: exponential, with the time since the last look.
#[derive(Default)]
struct Rate {
    last: Option<(Instant, u64)>,
    per_second: f64,
}

impl Rate {
    fn update(&mut self, bytes: u64) -> f64 {
        let now = Instant::now();
        if let Some((then, before)) = self.last {
            let seconds = now.duration_since(then).as_secs_f64().max(1e-6);
            let current = bytes.saturating_sub(before) as f64 / seconds;
            let weight = if self.per_second == 0.0 {
                1.0
            } else {
                1.0 - (-seconds / RATE_SECONDS).exp()
            };
            self.per_second += weight * (current - self.per_second);
        }
        self.last = Some((now, bytes));
        self.per_second
    }
}

fn draw(bar: &ProgressBar, counters: &Counters, rate: &mut Rate) {
    let get = Counters::get;
    let walked = counters.walked.load(Ordering::Relaxed);
    let total = get(&counters.bytes_found)
        .saturating_sub(get(&counters.bytes_unchanged))
        .saturating_sub(get(&counters.bytes_failed));
    let done = get(&counters.bytes_done).min(total);
    let files = get(&counters.files_done) + get(&counters.unchanged) + get(&counters.failed);
    let per_second = rate.update(done);
    let left = total.saturating_sub(done);
    let eta = match per_second {
        r if r >= 1.0 => format!(
            ", {} {}",
            if walked { "ETA" } else { "ETA at least" },
            duration((left as f64 / r) as u64)
        ),
        _ => String::new(),
    };
    bar.set_length(total.max(1));
    bar.set_position(done);
    let more = if walked { "" } else { "+" };
    bar.set_prefix(format!(
        "{} of {}{more}, {files} of {}{more} files, {}/s{eta}",
        size(done),
        size(total),
        get(&counters.files_found),
        size(per_second as u64),
    ));
    let current: Vec<String> = counters.current().iter().map(|path| name(path.as_bytes())).collect();
    bar.set_message(current.join("  "));
    bar.tick();
}
