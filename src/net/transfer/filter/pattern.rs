//! rsync's patterns: `*` and `?` stop at a slash, `**` does not, `[…]` is a class of characters,
//! and a backslash makes the next character itself (exclude.c and wildmatch.c of rsync).

/// Where in a path a pattern has to match; always up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// From the transfer's root: it begins with a slash, or with `**`.
    Root,
    /// The last component: it has no slash.
    Name,
    /// As many of the last components as it has itself.
    Tail(usize),
    /// From the root, or behind any slash: it has a `**`, but not at its beginning.
    Anywhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    Any,
    /// `*`
    Star,
    /// `**`
    Deep,
    /// `[…]`: the index of its set.
    Class(u16),
}

/// A set of bytes.
type Set = [u64; 4];

/// A pattern, ready to be matched in a time that its length times that of a path bounds.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    start: Start,
    tokens: Vec<Token>,
    classes: Vec<Set>,
    /// Its text, where it has no wildcard, and one name is all that it matches.
    name: Option<Vec<u8>>,
    /// It begins with `**`: a slash before the path may count.
    deep_first: bool,
}

impl Pattern {
    /// Reads a pattern, without the slash that may end it.
    pub(super) fn parse(text: &[u8]) -> Pattern {
        let has_wildcard = text.iter().any(|byte| b"*?[".contains(byte));
        let is_deep = text.windows(2).any(|pair| pair == b"**");
        let deep_first = text.starts_with(b"**");
        let slashes = text.iter().filter(|byte| **byte == b'/').count();
        let start = match text.first() {
            Some(b'/') => Start::Root,
            _ if deep_first => Start::Root,
            _ if is_deep => Start::Anywhere,
            _ if slashes == 0 => Start::Name,
            _ => Start::Tail(slashes.saturating_add(1)),
        };
        let mut pattern = Pattern {
            start,
            tokens: Vec::new(),
            classes: Vec::new(),
            name: (!has_wildcard && start == Start::Name).then(|| text.to_vec()),
            deep_first,
        };
        let text = text.strip_prefix(b"/").unwrap_or(text);
        match has_wildcard {
            true => pattern.read(text),
            // a backslash is itself where there is no wildcard
            false => pattern.tokens = text.iter().copied().map(Token::Byte).collect(),
        }
        pattern
    }

    fn read(&mut self, mut text: &[u8]) {
        while let Some((first, rest)) = text.split_first() {
            text = rest;
            let token = match first {
                b'?' => Token::Any,
                b'*' => {
                    let more = text.iter().take_while(|byte| **byte == b'*').count();
                    text = text.get(more..).unwrap_or_default();
                    if more == 0 { Token::Star } else { Token::Deep }
                }
                b'\\' => match text.split_first() {
                    Some((escaped, rest)) => {
                        text = rest;
                        Token::Byte(*escaped)
                    }
                    None => Token::Byte(b'\\'),
                },
                b'[' => match class(text) {
                    Some((set, rest)) => {
                        text = rest;
                        self.class(set)
                    }
                    // a class without an end matches nothing
                    None => {
                        text = &[];
                        self.class([0; 4])
                    }
                },
                byte => Token::Byte(*byte),
            };
            self.tokens.push(token);
        }
    }

    fn class(&mut self, set: Set) -> Token {
        let index = u16::try_from(self.classes.len()).unwrap_or(u16::MAX);
        self.classes.push(set);
        Token::Class(index)
    }

    pub(super) fn start(&self) -> Start {
        self.start
    }

    /// The name that is all that it matches.
    pub(super) fn literal_name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// True if it matches a path without a slash before it.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        if let (Some(Token::Byte(last)), Some(found)) = (self.tokens.last(), path.last())
            && last != found
        {
            return false;
        }
        match self.start {
            // so that `**/` matches at the root, too
            Start::Root if self.deep_first => self.is_match(&[b"/", path].concat()),
            Start::Root => self.is_match(path),
            Start::Name => self.is_match(tail(path, 1)),
            Start::Tail(components) => {
                let tail = tail(path, components);
                tail.iter().filter(|b| **b == b'/').count() + 1 >= components && self.is_match(tail)
            }
            Start::Anywhere => {
                let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
                let starts = slashes.map(|(at, _)| at.saturating_add(1));
                std::iter::once(0)
                    .chain(starts)
                    .any(|at| path.get(at..).is_some_and(|rest| self.is_match(rest)))
            }
        }
    }

    /// True if a pattern that begins at the root may match something beneath the directory `dir`.
    pub(super) fn may_match_beneath(&self, dir: &[u8]) -> bool {
        let beginning = [dir, b"/"].concat();
        self.reached(&beginning).iter().any(|reached| *reached)
    }

    fn is_match(&self, text: &[u8]) -> bool {
        self.reached(text).last().copied().unwrap_or_default()
    }

    /// After which of its tokens the whole text may have been read: all states of the automaton at
    /// once, so that no pattern takes more than its length times that of the text.
    fn reached(&self, text: &[u8]) -> Vec<bool> {
        let mut now = vec![false; self.tokens.len().saturating_add(1)];
        let mut next = now.clone();
        if let Some(first) = now.first_mut() {
            *first = true;
        }
        self.skip_stars(&mut now);
        for byte in text {
            next.fill(false);
            let mut any = false;
            for (at, token) in self.tokens.iter().enumerate() {
                if !now.get(at).copied().unwrap_or_default() {
                    continue;
                }
                let to = match token {
                    Token::Byte(wanted) if wanted == byte => at.saturating_add(1),
                    Token::Any if *byte != b'/' => at.saturating_add(1),
                    Token::Class(index) if *byte != b'/' && self.is_in(*index, *byte) => {
                        at.saturating_add(1)
                    }
                    Token::Star if *byte != b'/' => at,
                    Token::Deep => at,
                    _ => continue,
                };
                if let Some(state) = next.get_mut(to) {
                    (*state, any) = (true, true);
                }
            }
            std::mem::swap(&mut now, &mut next);
            if !any {
                break;
            }
            self.skip_stars(&mut now);
        }
        now
    }

    /// Stars match nothing, too.
    fn skip_stars(&self, states: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            let is_star = matches!(token, Token::Star | Token::Deep);
            if is_star
                && states.get(at).copied().unwrap_or_default()
                && let Some(behind) = states.get_mut(at.saturating_add(1))
            {
                *behind = true;
            }
        }
    }

    fn is_in(&self, class: u16, byte: u8) -> bool {
        self.classes.get(usize::from(class)).is_some_and(|set| has(set, byte))
    }
}

fn has(set: &Set, byte: u8) -> bool {
    let word = set.get(usize::from(byte >> 6)).copied().unwrap_or_default();
    word & (1 << (byte & 63)) != 0
}

/// The last components of a path; all of it where it has fewer.
fn tail(path: &[u8], components: usize) -> &[u8] {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    match slashes.map(|(at, _)| at).nth(components.saturating_sub(1)) {
        Some(at) => path.get(at.saturating_add(1)..).unwrap_or_default(),
        None => path,
    }
}

/// Reads a class behind its `[`. Returns its bytes, and the text behind its `]`; `None` where it
/// has no end.
fn class(text: &[u8]) -> Option<(Set, &[u8])> {
    let (negated, mut text) = match text.split_first() {
        Some((b'!' | b'^', rest)) => (true, rest),
        _ => (false, text),
    };
    let mut set: Set = [0; 4];
    let (mut is_first, mut before) = (true, None);
    loop {
        let (byte, rest) = text.split_first()?;
        text = rest;
        match byte {
            b']' if !is_first => break,
            b'[' if text.starts_with(b":") => {
                if let Some((name, rest)) = named(text) {
                    (0..=u8::MAX).filter(|b| is_of(name, *b)).for_each(|b| insert(&mut set, b));
                    text = rest;
                    before = None;
                } else {
                    insert(&mut set, b'[');
                    before = Some(b'[');
                }
            }
            b'-' if before.is_some() && !text.starts_with(b"]") => {
                let (mut last, rest) = text.split_first()?;
                text = rest;
                if *last == b'\\' {
                    let (escaped, rest) = text.split_first()?;
                    (last, text) = (escaped, rest);
                }
                (before.unwrap_or(*last)..=*last).for_each(|b| insert(&mut set, b));
                before = None;
            }
            byte => {
                let mut byte = *byte;
                if byte == b'\\' {
                    let (escaped, rest) = text.split_first()?;
                    (byte, text) = (*escaped, rest);
                }
                insert(&mut set, byte);
                before = Some(byte);
            }
        }
        is_first = false;
    }
    if negated {
        set = set.map(|word| !word);
    }
    Some((set, text))
}

fn insert(set: &mut Set, byte: u8) {
    if let Some(word) = set.get_mut(usize::from(byte >> 6)) {
        *word |= 1 << (byte & 63);
    }
}

/// Reads `:name:]`.
fn named(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b":")?;
    let end = text.windows(2).position(|pair| pair == b":]")?;
    let (name, rest) = text.split_at_checked(end)?;
    name.iter().all(u8::is_ascii_lowercase).then_some((name, rest.get(2..)?))
}

/// True if a byte is of one of POSIX's classes.
fn is_of(name: &[u8], byte: u8) -> bool {
    match name {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => byte == b' ' || byte == b'\t',
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => false,
    }
}
