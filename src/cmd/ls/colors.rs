//! Colours of names, as LS_COLORS sets them.

use crate::store::{Entry, Kind};
use lscolors::{Indicator, LsColors};

/// The colours of the user.
pub struct Colors(LsColors);

impl Colors {
    /// Those of LS_COLORS, or the usual ones.
    pub fn from_env() -> Colors {
        Colors(LsColors::from_env().unwrap_or_default())
    }

    /// True where the environment allows colours at a terminal.
    pub fn are_wanted() -> bool {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// A name in the colour of its entry.
    pub fn paint(&self, entry: &Entry, name: &str) -> String {
        let style = match indicator(entry) {
            Some(indicator) => self.0.style_for_indicator(indicator),
            None => self.0.style_for_str(name),
        };
        match style {
            Some(style) => style.to_nu_ansi_term_style().paint(name).to_string(),
            None => name.to_string(),
        }
    }
}

/// The kind of an entry that has a colour of its own; `None`: its name's end decides.
fn indicator(entry: &Entry) -> Option<Indicator> {
    let mode = entry.attributes.mode;
    Some(match entry.kind {
        Kind::Dir => match (mode & 0o1000 != 0, mode & 0o002 != 0) {
            (true, true) => Indicator::StickyAndOtherWritable,
            (false, true) => Indicator::OtherWritable,
            (true, false) => Indicator::Sticky,
            (false, false) => Indicator::Directory,
        },
        Kind::Symlink => Indicator::SymbolicLink,
        Kind::File if mode & 0o4000 != 0 => Indicator::Setuid,
        Kind::File if mode & 0o2000 != 0 => Indicator::Setgid,
        Kind::File if mode & 0o111 != 0 => Indicator::ExecutableFile,
        Kind::File => return None,
        Kind::Fifo => Indicator::FIFO,
        Kind::Socket => Indicator::Socket,
        Kind::CharDevice => Indicator::CharacterDevice,
        Kind::BlockDevice => Indicator::BlockDevice,
        Kind::Other => Indicator::Normal,
    })
}
