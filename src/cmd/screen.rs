//! The part of the terminal that is redrawn: it keeps the last drawing of indicatif, and prints it
//! at the cursor.
//!
//! The cursor stays at the beginning of the bar. However a terminal wraps it after a resize, all
//! below is the bar's and can be cleared.

use indicatif::{ProgressDrawTarget, TermLike};
use parking_lot::{Mutex, MutexGuard};
use rustix::termios::tcgetwinsize;
use std::io::{self, Write};

/// The columns of a terminal that does not report them.
const COLUMNS: usize = 80;
/// Most drawings a second.
const RATE: u8 = 20;
/// Moves to the beginning of the bar's line, and clears the rest of the screen.
const CLEAR: &str = "\r\x1b[J";

static SCREEN: Mutex<Screen> = Mutex::new(Screen {
    drawn: None,
    below: String::new(),
    hidden: 0,
});

/// The drawing below the last line of standard error.
pub struct Screen {
    /// The bar as it was drawn last; `None` without a bar.
    drawn: Option<String>,
    /// The line below the bar, of its next drawing.
    below: String,
    /// How many guards hide it.
    hidden: usize,
}

/// The one screen.
pub fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock()
}

/// The columns of a line. The last column of the terminal stays free: some terminals wrap there.
pub fn columns() -> usize {
    let columns = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    let columns = if columns == 0 { COLUMNS } else { columns };
    columns.saturating_sub(1)
}

impl Screen {
    /// Shows a bar from now on.
    pub fn show(&mut self, drawn: String) {
        self.drawn = Some(drawn);
    }

    /// Sets the line below the bar for its next drawing.
    pub fn set_below(&mut self, below: String) {
        self.below = below;
    }

    /// Removes the bar.
    pub fn remove(&mut self) {
        if self.drawn.take().is_some() && self.hidden == 0 {
            let _ = io::stderr().write_all(CLEAR.as_bytes());
        }
    }

    /// Prints text in place of the bar, and the bar below it.
    fn print(&self, above: &str) {
        let bar = self.drawn.as_deref().filter(|_| self.hidden == 0);
        let (clear, bar) = match bar {
            Some(bar) => (CLEAR, bar),
            None => ("", ""),
        };
        let _ = io::stderr().write_all(format!("{clear}{above}{bar}").as_bytes());
    }
}

/// Prints a line on standard error, above any bar.
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

/// Hides the bar until the guard is dropped.
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

/// Hides the bar.
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

/// The terminal for indicatif: it collects each drawing, and moves no cursor.
#[derive(Debug, Default)]
pub struct Terminal(Mutex<String>);

impl Terminal {
    /// Where a bar is drawn to.
    pub fn target() -> ProgressDrawTarget {
        ProgressDrawTarget::term_like_with_hz(Box::new(Terminal::default()), RATE)
    }

    fn add(&self, text: &str) {
        self.0.lock().push_str(text);
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        u16::try_from(columns()).unwrap_or(u16::MAX)
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text);
        self.add("\r\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text);
        Ok(())
    }

    /// Prints a complete drawing. Wrapping is off meanwhile, so that a terminal that has just
    /// become narrower keeps its lines; then the cursor returns to its beginning.
    fn flush(&self) -> io::Result<()> {
        let drawn = std::mem::take(&mut *self.0.lock());
        let mut screen = screen();
        if screen.drawn.is_some() && !drawn.is_empty() {
            let (bar, below) = (drawn.trim_end_matches(' '), &screen.below);
            let drawn = format!("\x1b[?7l{bar}\r\n\x1b[2m{below}\x1b[0m\x1b[1A\r\x1b[?7h");
            screen.show(drawn);
            screen.print("");
        }
        Ok(())
    }
}
