//! The text of the progress bar, fitted to the columns of the terminal.

use super::units::{duration, size};
use std::time::Duration;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The shortest bar; without room for it, none is drawn.
const SHORTEST: usize = 10;
/// The gap between the names.
const GAP: &str = "  ";

/// A transfer at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Bytes at the receiver.
    pub done: u64,
    /// Bytes of the whole transfer, as far as they are known.
    pub total: u64,
    /// Files that are settled.
    pub files: u64,
    /// Files that were found.
    pub found: u64,
    /// More may be found.
    pub searching: bool,
    /// The size is known only at the end: a stream.
    pub endless: bool,
    /// Bytes a second, once it is known.
    pub rate: Option<f64>,
    /// For how long the server has been unreachable.
    pub lost: Option<Duration>,
    /// The transfer's turn in the line of those that the server has no memory for yet.
    pub turn: Option<u32>,
    /// Files under way, as a terminal may show them.
    pub current: Vec<String>,
}

/// The line with the bar, in its three parts, and the line with the names.
#[derive(Debug, PartialEq, Eq)]
pub struct Lines {
    /// The part of the bar that is done.
    pub filled: String,
    /// The rest of the bar.
    pub empty: String,
    /// The text behind it.
    pub text: String,
    /// The files under way.
    pub names: String,
}

impl Snapshot {
    /// As lines of at most this many columns.
    pub fn lines(&self, columns: usize) -> Lines {
        let mut parts = self.parts();
        while parts.len() > 1 && parts.join(", ").width() > columns {
            parts.pop();
        }
        let text = cut(&parts.join(", "), columns);
        let (filled, empty) = self.bar(columns.saturating_sub(text.width().saturating_add(1)));
        Lines {
            filled,
            empty,
            text,
            names: names(&self.current, columns),
        }
    }

    /// The line without a bar, for a log.
    pub fn line(&self) -> String {
        self.parts().join(", ")
    }

    /// The percentage of bytes that are done; `None` while it is unknown.
    fn percent(&self) -> Option<u64> {
        let known = !self.searching && !self.endless;
        let part = |total| self.done.min(total).saturating_mul(100).checked_div(total);
        known.then(|| part(self.total).unwrap_or(100))
    }

    /// The parts of the text, most important first.
    fn parts(&self) -> Vec<String> {
        let more = if self.searching { "+" } else { "" };
        let mut parts = Vec::new();
        parts.extend(self.percent().map(|percent| format!("{percent:>3}%")));
        match (self.lost, self.turn) {
            (Some(lost), _) => parts.push(format!("reconnecting for {} s", lost.as_secs())),
            (None, Some(turn)) => {
                parts.push(format!("the server is busy: {turn} in line"));
            }
            (None, None) => parts.extend(self.rate.map(|rate| format!("{}/s", size(rate as u64)))),
        }
        parts.push(match self.endless {
            true => size(self.done),
            false => format!("{} of {}{more}", size(self.done.min(self.total)), size(self.total)),
        });
        let remaining = self.total.saturating_sub(self.done);
        if let (Some(rate), None, Some(0..100)) =
            (self.rate.filter(|rate| *rate >= 1.0), self.lost, self.percent())
        {
            parts.push(format!("{} left", duration((remaining as f64 / rate) as u64)));
        }
        // the progress of a single file needs no count
        if self.found > 1 {
            parts.push(format!("{} of {}{more} files", self.files, self.found));
        }
        parts
    }

    fn bar(&self, columns: usize) -> (String, String) {
        let Some(percent) = self.percent().filter(|_| columns >= SHORTEST) else {
            return (String::new(), String::new());
        };
        let filled = columns.saturating_mul(usize::try_from(percent).unwrap_or(100)) / 100;
        ("━".repeat(filled), "━".repeat(columns.saturating_sub(filled)))
    }
}

/// The names side by side: as many of the last ones as fit.
fn names(current: &[String], columns: usize) -> String {
    let count = current.len().min(columns / 20).max(1);
    let gaps = GAP.len().saturating_mul(count.saturating_sub(1));
    let each = columns.saturating_sub(gaps) / count;
    let last = current.iter().skip(current.len().saturating_sub(count));
    last.map(|name| cut(name, each)).collect::<Vec<_>>().join(GAP)
}

/// A text in at most this many columns. A text that is too long loses its middle: the beginnings of
/// paths and the ends of names tell files apart.
pub fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_string();
    }
    let Some(room) = columns.checked_sub(1) else {
        return String::new();
    };
    let end = fitting(text.chars().rev(), room.div_ceil(2));
    let begin = fitting(text.chars(), room.saturating_sub(end.width()));
    format!("{begin}…{}", end.chars().rev().collect::<String>())
}

/// As many of these characters as fit.
fn fitting(chars: impl Iterator<Item = char>, columns: usize) -> String {
    let mut remaining = columns;
    chars
        .map_while(|c| {
            remaining = remaining.checked_sub(c.width().unwrap_or(0))?;
            Some(c)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            done: 45 << 20,
            total: 100 << 20,
            files: 12,
            found: 300,
            rate: Some((5 << 20) as f64),
            current: vec!["photos/2024/summer/IMG_0001.jpeg".into(), "文件.txt".into()],
            ..Snapshot::default()
        }
    }

    #[test]
    fn it_tells_how_far_how_fast_and_how_long() {
        assert_eq!(
            snapshot().line(),
            " 45%, 5 MiB/s, 45 MiB of 100 MiB, 0:11 left, 12 of 300 files"
        );
        let one = Snapshot {
            files: 0,
            found: 1,
            ..snapshot()
        };
        assert_eq!(one.line(), " 45%, 5 MiB/s, 45 MiB of 100 MiB, 0:11 left");
        let early = Snapshot {
            rate: None,
            searching: true,
            ..snapshot()
        };
        assert_eq!(early.line(), "45 MiB of 100 MiB+, 12 of 300+ files");
        let stream = Snapshot {
            endless: true,
            found: 1,
            ..snapshot()
        };
        assert_eq!(stream.line(), "5 MiB/s, 45 MiB");
        let empty = Snapshot {
            done: 0,
            total: 0,
            rate: None,
            found: 1,
            ..snapshot()
        };
        assert_eq!(empty.line(), "100%, 0 B of 0 B");
    }

    #[test]
    fn without_a_server_there_is_no_rate() {
        let lost = Snapshot {
            lost: Some(Duration::from_secs(12)),
            ..snapshot()
        };
        assert_eq!(
            lost.line(),
            " 45%, reconnecting for 12 s, 45 MiB of 100 MiB, 12 of 300 files"
        );
    }

    #[test]
    fn names_are_cut_in_their_middle() {
        assert_eq!(cut("photos/2024/summer/IMG_0001.jpeg", 20), "photos/20…_0001.jpeg");
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("文件文件文件", 7), "文件…件");
        assert_eq!(cut("abc", 1), "…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn it_fits_however_narrow_the_terminal() {
        for columns in 0..200 {
            let Lines {
                filled,
                empty,
                text,
                names,
            } = snapshot().lines(columns);
            let bar = filled.width() + empty.width();
            assert!(names.width() <= columns, "{columns}: {names}");
            assert!(
                text.width() + if bar > 0 { bar + 1 } else { 0 } <= columns,
                "{columns}: {text}"
            );
            assert!(columns < 100 || bar > 0, "{columns}");
        }
    }
}
