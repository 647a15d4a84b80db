//! The part of the terminal that is drawn again and again: what indicatif draws is kept, and put where the cursor is.
//!
//! The cursor stays where the bar begins. However a terminal has wrapped it after a change of its width, everything from
//! there on is the bar's, and can be cleared.

use indicatif::{ProgressDrawTarget, TermLike};
use parking_lot::{Mutex, MutexGuard};
use rustix::termios::tcgetwinsize;
use std::io::{self, Write};

/// Columns of a terminal that does not tell how many it has.
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

/// What is on standard error below its last line.
pub struct Screen {
    /// The bar as it was drawn last; `None` where there is none.
    drawn: Option<String>,
    /// The line below the bar, of its next drawing.
    below: String,
    /// How many want it hidden.
    hidden: usize,
}

/// The one screen.
pub fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock()
}

/// Columns that a line may have: in the last one a terminal may wrap already, so it stays free.
pub fn columns() -> usize {
    let columns = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    let columns = if columns == 0 { COLUMNS } else { columns };
    columns.saturating_sub(1)
}

impl Screen {
    /// There is a bar from now on.
    pub fn show(&mut self, drawn: String) {
        self.drawn = Some(drawn);
    }

    /// What stands below the bar when it is drawn next.
    pub fn set_below(&mut self, below: String) {
        self.below = below;
    }

    /// There is none any more.
    pub fn remove(&mut self) {
        if self.drawn.take().is_some() && self.hidden == 0 {
            let _ = io::stderr().write_all(CLEAR.as_bytes());
        }
    }

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

/// The terminal as indicatif knows it: takes what is drawn at once, and moves no cursor.
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

    /// All of it is there. It must keep its lines even where the terminal has become narrower a moment ago, so nothing is
    /// wrapped meanwhile; then the cursor goes back to its beginning.
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
