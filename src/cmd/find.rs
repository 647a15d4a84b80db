//! `haul find`: finds files and directories on a server by their attributes.

use super::connect::{ConnectArgs, RemoteSession};
use super::each::{self, each_remote};
use super::failure::{Failure, exit, local_failure};
use super::hint;
use super::locate::locate;
use super::location::Location;
use super::output;
use super::patterns::Patterns;
use super::remote::Remote;
use super::sessions::Sessions;
use super::walk::{Descend, Step, walk};
use crate::auth::users;
use crate::net::transfer::filter::glob::NamePattern;
use crate::store::{Entry, Kind, RemotePath, Time};
use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;

/// The tests, as options of this command; find writes them with one dash.
const TESTS: &[&str] = &[
    "name", "iname", "type", "size", "mtime", "mmin", "newer", "maxdepth", "mindepth", "print0",
    "print",
];

/// Find files and directories on a server
///
/// Prints the path of each entry that passes all tests, as haul commands take it. Tests are written
/// with one dash, as with find, or with two. Symlinks are not followed.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul find nas: -name '*.tmp' -mtime +7
  haul find nas:photos -iname '*.jpg' -size +10M
  haul find nas: -type d -maxdepth 2
  haul find nas: -name '*.tmp' -print0 | xargs -0 haul rm
  haul find nas: -newer nas:stamp --json | jq .path

N is exact, +N more, -N less. A size has the unit c (bytes), k, M or G; without one it counts blocks
of 512 bytes. As with find, a size is rounded up to its unit, and a time down to days or minutes.")]
pub struct Args {
    /// Where to start: [USER@]HOST:PATH. PATH may be a pattern
    #[arg(required = true, value_name = "PATH", value_hint = hint::REMOTE)]
    paths: Vec<OsString>,

    /// The name matches a pattern, such as '*.txt'
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    name: Option<OsString>,

    /// The same, with small letters equal to large ones
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    iname: Option<OsString>,

    /// It is a file (f), a directory (d) or a symlink (l); several with commas
    #[arg(long = "type", value_name = "KIND", value_delimiter = ',', value_parser = parse_kind)]
    kinds: Vec<Kind>,

    /// It is a file of this size: +10M, -1k, 0
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = SizeTest::parse)]
    size: Option<SizeTest>,

    /// It was changed N days ago: +7, -1
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = Count::parse)]
    mtime: Option<Count>,

    /// It was changed N minutes ago: -60
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = Count::parse)]
    mmin: Option<Count>,

    /// It was changed later than FILE, here or on the server
    #[arg(long, value_name = "FILE", value_hint = hint::LOCAL_OR_REMOTE)]
    newer: Option<OsString>,

    /// Search at most N levels beneath PATH; 0: PATH itself
    #[arg(long, value_name = "N")]
    maxdepth: Option<usize>,

    /// Print nothing that is less than N levels beneath PATH
    #[arg(long, value_name = "N")]
    mindepth: Option<usize>,

    /// Print each path with a zero byte behind it, for xargs -0
    #[arg(long, conflicts_with = "json")]
    print0: bool,

    /// Print each path, as is usual
    #[arg(long)]
    print: bool,

    /// Print one JSON object per line: name, path, kind, size, mtime, mode, target, version
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// The words of a command line, those of the tests of `find` as options with two dashes.
pub fn as_options(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_some_and(|command| command == "find") {
        for word in words.iter_mut().skip(2) {
            let test = word.as_bytes().strip_prefix(b"-");
            if test.is_some_and(|test| TESTS.iter().any(|known| known.as_bytes() == test)) {
                *word = OsString::from_vec([b"-", word.as_bytes()].concat());
            }
        }
    }
    words
}

/// A test's option as find writes it; any other option as it is.
pub fn as_test(option: &OsStr) -> OsString {
    let test = option.as_bytes().strip_prefix(b"--");
    match test.filter(|test| TESTS.iter().any(|known| known.as_bytes() == *test)) {
        Some(test) => OsString::from_vec([b"-", test].concat()),
        None => option.to_os_string(),
    }
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    match text {
        "f" => Ok(Kind::File),
        "d" => Ok(Kind::Dir),
        "l" => Ok(Kind::Symlink),
        _ => Err("expected f, d or l".into()),
    }
}

/// A number that is compared: `+N`, `-N`, `N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    order: Ordering,
    number: u64,
}

impl Count {
    fn parse(text: &str) -> Result<Count, String> {
        let (order, digits) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(digits), _) => (Ordering::Greater, digits),
            (_, Some(digits)) => (Ordering::Less, digits),
            _ => (Ordering::Equal, text),
        };
        let number = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let number = number.and_then(|digits| digits.parse().ok());
        let number = number.ok_or_else(|| format!("expected N, +N or -N, got {text}"))?;
        Ok(Count { order, number })
    }

    fn is_passed(self, found: u64) -> bool {
        found.cmp(&self.number) == self.order
    }
}

/// A size that is compared, in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeTest {
    count: Count,
    unit: u64,
}

impl SizeTest {
    fn parse(text: &str) -> Result<SizeTest, String> {
        let units = [
            ('c', 1),
            ('w', 2),
            ('b', 512),
            ('k', 1 << 10),
            ('M', 1 << 20),
            ('G', 1 << 30),
        ];
        let found = units
            .iter()
            .find_map(|(letter, unit)| text.strip_suffix(*letter).map(|number| (number, *unit)));
        let (number, unit) = found.unwrap_or((text, 512));
        let count = Count::parse(number)
            .map_err(|_| format!("expected a size like +10M, -1k or 0, got {text}"))?;
        Ok(SizeTest { count, unit })
    }
}

/// What an entry has to pass.
struct Tests<'a> {
    args: &'a Args,
    name: Option<NamePattern>,
    iname: Option<NamePattern>,
    newer: Option<Time>,
    now: i64,
}

impl Tests<'_> {
    fn are_passed(&self, entry: &Entry, path: &RemotePath) -> bool {
        let args = self.args;
        let name = path.split().map(|(_, name)| name.as_bytes().to_vec()).unwrap_or_default();
        let age = self.now.saturating_sub(entry.attributes.mtime.secs);
        let age = u64::try_from(age).unwrap_or_default();
        let is_of = |kinds: &[Kind]| kinds.is_empty() || kinds.contains(&entry.kind);
        self.name.as_ref().is_none_or(|pattern| pattern.matches(&name))
            && self.iname.as_ref().is_none_or(|pattern| pattern.matches(&lower(&name)))
            && is_of(&args.kinds)
            && args.size.is_none_or(|size| {
                entry.kind == Kind::File && size.count.is_passed(entry.size.div_ceil(size.unit))
            })
            && args.mtime.is_none_or(|days| days.is_passed(age / 86_400))
            && args.mmin.is_none_or(|minutes| minutes.is_passed(age / 60))
            && self.newer.is_none_or(|time| entry.attributes.mtime > time)
    }
}

/// In small letters; bytes that are no text stay as they are.
fn lower(bytes: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_lowercase().into_bytes(),
        Err(_) => bytes.to_ascii_lowercase(),
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let remotes = each::parse(&args.paths)?;
    let newer = match &args.newer {
        Some(file) => Some(time_of(file, &args.connect).await?),
        None => None,
    };
    let now = users::now();
    let pattern = |text: &OsString| NamePattern::new(text.as_bytes());
    let tests = Tests {
        name: args.name.as_ref().map(pattern),
        iname: args.iname.as_ref().map(|text| NamePattern::new(&lower(text.as_bytes()))),
        newer,
        now: i64::try_from(now).unwrap_or(i64::MAX),
        args: &args,
    };
    let done = each_remote(&remotes, &args.connect, Patterns::All, async |session, top| {
        search(session, &tests, top).await
    });
    done.await
}

/// The modification time of a file, here or on a server.
async fn time_of(file: &OsStr, connect_args: &ConnectArgs) -> Result<Time, Failure> {
    match Location::parse(file)? {
        Location::Local(path) => {
            let found = std::fs::metadata(&path).map_err(|e| local_failure(&path, &e))?;
            Ok(Time {
                secs: found.mtime(),
                nanos: u32::try_from(found.mtime_nsec()).unwrap_or_default(),
            })
        }
        Location::Remote(remote) => {
            let mut sessions = Sessions::new(connect_args);
            let remote = locate(&remote, connect_args).await?;
            let session = sessions.with(&remote.server).await?;
            let path = remote.path.as_bytes();
            let found = session.ask(async |client| client.stat(path, false).await).await;
            let (entry, _) = found.map_err(|e| Failure::about(&remote.shown, e))?;
            sessions.quit().await;
            Ok(entry.attributes.mtime)
        }
    }
}

async fn search(
    session: &mut RemoteSession,
    tests: &Tests<'_>,
    top: &Remote,
) -> Result<(), Failure> {
    let most = tests.args.maxdepth.unwrap_or(usize::MAX);
    let least = tests.args.mindepth.unwrap_or_default();
    let visit = async |_: &mut RemoteSession, step: Step<'_>| {
        let Step::Entry { path, entry, depth } = step else {
            return Ok(Descend::No);
        };
        if depth >= least && tests.are_passed(entry, path) {
            print(tests.args, top, (path, entry))?;
        }
        match depth < most {
            true => Ok(Descend::Yes),
            false => Ok(Descend::No),
        }
    };
    match walk(session, top, visit).await? {
        true => Ok(()),
        false => Err(Failure::already_reported(exit::PARTIAL)),
    }
}

fn print(args: &Args, top: &Remote, (path, entry): (&RemotePath, &Entry)) -> Result<(), Failure> {
    if args.json {
        return output::line(&output::entry_json(entry, path.as_bytes(), None).to_string());
    }
    let shown = top.written(path);
    if !args.print0 {
        return output::line(&output::name(&shown));
    }
    match io::stdout().lock().write_all(&[&shown[..], b"\0"].concat()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::already_reported(0)),
        Err(e) => Err(Failure::io("cannot write to standard output", &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_find_does() {
        let passes = |text, size: u64| {
            let test = SizeTest::parse(text).unwrap();
            test.count.is_passed(size.div_ceil(test.unit))
        };
        assert!(passes("+1M", (1 << 20) + 1) && !passes("+1M", 1 << 20));
        assert!(passes("-1M", 0) && !passes("-1M", 1), "rounded up");
        assert!(passes("1k", 1000) && passes("5c", 5) && passes("1", 512) && passes("0", 0));
        for wrong in ["", "+", "M", "1X", "+-1", "1.5M", "++1"] {
            assert!(SizeTest::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tests_are_options_of_find_only() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            as_options(words("haul find nas: -name x -type -foo")),
            words("haul find nas: --name x --type -foo")
        );
        assert_eq!(as_options(words("haul ls -size")), words("haul ls -size"));
        assert_eq!(as_test(OsStr::new("--name")), "-name");
        assert_eq!(as_test(OsStr::new("--json")), "--json");
    }
}
