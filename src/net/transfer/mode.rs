//! Modes as chmod(1) takes them: octal, or changes like `u+x,go-w`.

/// The bits that haul never sets.
const SET_ID: u32 = 0o6000;

/// What becomes of a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It becomes this one.
    Octal(u32),
    /// It is changed step by step.
    Changes(Vec<Change>),
}

/// A step: the bits of `who` that `bits` has are added, removed or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The bits that may change.
    who: u32,
    action: Action,
    bits: Bits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Set,
}

/// The bits of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bits {
    /// These, and with `search` `x` for a directory or where some class has it.
    These { bits: u32, search: bool },
    /// Those that the class has, by the shift of its bits.
    Of(u32),
}

impl Mode {
    /// Reads a mode. Where no class is named, `umask` takes its part, as with chmod.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str, umask: u32) -> Result<Mode, String> {
        let wrong = || format!("expected a mode like 644, u+x or go-w, got {text}");
        let never = || "haul never sets set-uid and set-gid bits".to_string();
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8).map_err(|_| wrong())? {
                0o10000.. => Err(wrong()),
                mode if mode & SET_ID != 0 => Err(never()),
                mode => Ok(Mode::Octal(mode)),
            };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let steps = clause.find(['+', '-', '=']).ok_or_else(wrong)?;
            let (who, mut rest) = clause.split_at_checked(steps).ok_or_else(wrong)?;
            let who = classes(who, umask).ok_or_else(wrong)?;
            while let Some(first) = rest.chars().next() {
                let action = match first {
                    '+' => Action::Add,
                    '-' => Action::Remove,
                    '=' => Action::Set,
                    _ => return Err(wrong()),
                };
                rest = rest.get(1..).unwrap_or_default();
                let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
                let (letters, behind) = rest.split_at_checked(end).ok_or_else(wrong)?;
                let bits = bits(letters).ok_or_else(wrong)?;
                if action != Action::Remove
                    && matches!(bits, Bits::These { bits, .. } if bits & who & SET_ID != 0)
                {
                    return Err(never());
                }
                changes.push(Change { who, action, bits });
                rest = behind;
            }
        }
        Ok(Mode::Changes(changes))
    }

    /// The mode of an entry after the change.
    pub fn apply(&self, found: u32, is_dir: bool) -> u32 {
        match self {
            Mode::Octal(mode) if is_dir => mode | (found & SET_ID),
            Mode::Octal(mode) => *mode,
            Mode::Changes(changes) => {
                changes.iter().fold(found, |mode, change| change.apply(mode, is_dir))
            }
        }
    }
}

/// What a transfer makes of modes: changes for directories, and for everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModeRules {
    dirs: Vec<Mode>,
    files: Vec<Mode>,
    /// As they were given.
    texts: Vec<String>,
}

impl ModeRules {
    /// Adds changes with commas between; one that begins with `D` is for directories only, one with
    /// `F` for everything else, as with rsync.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn add(&mut self, text: &str, umask: u32) -> Result<(), String> {
        for clause in text.split(',') {
            let (of_dirs, of_files, clause) = match clause.split_at_checked(1) {
                Some(("D", clause)) => (true, false, clause),
                Some(("F", clause)) => (false, true, clause),
                _ => (true, true, clause),
            };
            let mode = Mode::parse(clause, umask)?;
            self.dirs.extend(of_dirs.then(|| mode.clone()));
            self.files.extend(of_files.then_some(mode));
        }
        self.texts.push(text.into());
        Ok(())
    }

    /// The changes as they were added.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The mode of an entry after all changes.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let rules = if is_dir { &self.dirs } else { &self.files };
        rules.iter().fold(mode, |mode, rule| rule.apply(mode, is_dir))
    }
}

impl Change {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let bits = match self.bits {
            Bits::These { bits, search } => {
                let searchable = search && (is_dir || mode & 0o111 != 0);
                bits | if searchable { 0o111 } else { 0 }
            }
            Bits::Of(shift) => {
                let class = mode.checked_shr(shift).unwrap_or_default() & 7;
                class | class << 3 | class << 6
            }
        };
        let bits = bits & self.who;
        match self.action {
            Action::Add => mode | bits,
            Action::Remove => mode & !bits,
            // a directory's set-uid and set-gid bits stay unless they are named
            Action::Set if is_dir => (mode & (!self.who | SET_ID)) | bits,
            Action::Set => (mode & !self.who) | bits,
        }
    }
}

/// The bits that belong to classes: all but those of the umask where none is named.
fn classes(letters: &str, umask: u32) -> Option<u32> {
    let named = letters.chars().map(|letter| match letter {
        'u' => Some(0o4700),
        'g' => Some(0o2070),
        'o' => Some(0o1007),
        'a' => Some(0o7777),
        _ => None,
    });
    match letters.is_empty() {
        true => Some(0o7777 & !(umask & 0o777)),
        false => named.sum_bits(),
    }
}

fn bits(letters: &str) -> Option<Bits> {
    match letters {
        "u" => return Some(Bits::Of(6)),
        "g" => return Some(Bits::Of(3)),
        "o" => return Some(Bits::Of(0)),
        _ => {}
    }
    let each = letters.chars().map(|letter| match letter {
        'r' => Some(0o444),
        'w' => Some(0o222),
        'x' => Some(0o111),
        's' => Some(SET_ID),
        't' => Some(0o1000),
        'X' => Some(0),
        _ => None,
    });
    let search = letters.contains('X');
    each.sum_bits().map(|bits| Bits::These { bits, search })
}

/// All bits of several.
trait SumBits {
    /// `None` where one of them is.
    fn sum_bits(self) -> Option<u32>;
}

impl<I: Iterator<Item = Option<u32>>> SumBits for I {
    fn sum_bits(mut self) -> Option<u32> {
        self.try_fold(0, |sum, bits| Some(sum | bits?))
    }
}

/// The umask of this process; the usual one if the system does not say.
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    umask.unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_chmod() {
        for (text, found, is_dir, expected) in [
            ("755", 0o644, false, 0o755),
            ("755", 0o2700, true, 0o2755),
            ("755", 0o4700, false, 0o755),
            ("1777", 0o755, true, 0o1777),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("+w", 0o444, false, 0o644),
            ("a+w", 0o444, false, 0o666),
            ("go-w,u=rw", 0o777, false, 0o655),
            ("u=rwx,go=rx", 0o600, false, 0o755),
            ("g=u", 0o640, false, 0o660),
            ("o=", 0o777, false, 0o770),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o744, false, 0o755),
            ("a+X", 0o600, true, 0o711),
            ("u-s", 0o4755, false, 0o755),
            ("g=rx", 0o2777, true, 0o2757),
            ("u+x-w", 0o644, false, 0o544),
            ("+t", 0o777, true, 0o1777),
            ("-x", 0o755, false, 0o644),
        ] {
            let mode = Mode::parse(text, 0o022).unwrap();
            assert_eq!(
                format!("{:o}", mode.apply(found, is_dir)),
                format!("{expected:o}"),
                "{text}"
            );
        }
    }

    #[test]
    fn rules_are_for_directories_or_for_files() {
        let mut rules = ModeRules::default();
        rules.add("D755,F644,Fg+w", 0o022).unwrap();
        rules.add("o-r", 0o022).unwrap();
        assert_eq!((rules.apply(0o700, true), rules.apply(0o600, false)), (0o751, 0o660));
        for wrong in ["", "D", "Dx", "755,", "F4755"] {
            assert!(ModeRules::default().add(wrong, 0o022).is_err(), "{wrong}");
        }
        assert_eq!(ModeRules::default().apply(0o4711, false), 0o4711);
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "999", "u", "x+r", "u+q", "u+x,", "77777", "u+rg", "=+,", "é+x", "+é"] {
            assert!(Mode::parse(text, 0o022).is_err(), "{text}");
        }
        for text in ["4755", "u+s", "g=s", "2755", "+s"] {
            assert!(Mode::parse(text, 0o022).unwrap_err().contains("never"), "{text}");
        }
    }
}
