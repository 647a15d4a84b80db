//! Options that hands know from rsync. Those that ask for what haul always does are accepted, so
//! that an old command line works; those that it cannot do are refused with what to type instead.

use super::failure::Failure;
use crate::net::transfer::mode::umask;
use crate::net::transfer::options::{Options, PreservedTargets};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

/// Options of put and get with rsync's names.
#[derive(clap::Args, Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct HabitArgs {
    /// Like -rogD: haul always preserves modes, times and symlinks. One line says what the
    /// receiving side could not set
    #[arg(short, long)]
    archive: bool,

    /// Skip files that are newer at the destination
    #[arg(short, long)]
    update: bool,

    /// Skip files that exist at the destination
    #[arg(long)]
    ignore_existing: bool,

    /// Print each file that is sent or deleted with the reason: new, size, time, content …
    #[arg(short = 'i', long = "itemize-changes")]
    pub itemize: bool,

    /// Skip files that do not exist at the destination
    #[arg(long)]
    existing: bool,

    /// Take times that differ by no more than SECONDS for the same
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32))]
    modify_window: Option<u32>,

    /// Change modes on the way: D755,F644, go-w; D is for directories, F for files
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    chmod: Vec<String>,

    /// Make DEST's missing directories, too
    #[arg(long)]
    pub mkpath: bool,

    /// Skip files of the same size, whatever their times are; changed content may be missed
    #[arg(long, conflicts_with = "checksum")]
    size_only: bool,

    /// Show progress, like --progress: partial files always stay for the next run
    #[arg(short = 'P', overrides_with = "no_progress")]
    progress_and_partial: bool,

    /// Print sizes for people, as always
    #[arg(short = 'h', long, hide = true)]
    human_readable: bool,

    #[arg(short = 't', long, hide = true)]
    times: bool,

    #[arg(short = 'p', long, hide = true)]
    perms: bool,

    #[arg(short = 'l', long, hide = true)]
    links: bool,

    #[arg(short = 'W', long, hide = true)]
    whole_file: bool,

    #[arg(short = 'S', long, hide = true)]
    sparse: bool,

    #[arg(long, hide = true)]
    partial: bool,

    #[arg(long, hide = true)]
    stats: bool,

    #[arg(long, hide = true, value_name = "FLAGS", require_equals = true)]
    info: Option<OsString>,

    #[command(flatten)]
    refused: Refused,
}

/// What haul cannot do, or does in another way.
#[derive(clap::Args, Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
struct Refused {
    #[arg(long, hide = true)]
    append: bool,

    #[arg(long, hide = true)]
    append_verify: bool,

    #[arg(long, hide = true)]
    inplace: bool,

    #[arg(short = 'y', long, hide = true)]
    fuzzy: bool,

    #[arg(short = 'C', long, hide = true)]
    cvs_exclude: bool,

    #[arg(short = 'd', long, hide = true)]
    dirs: bool,

    #[arg(long, hide = true, alias = "no-R", alias = "no-implied-dirs")]
    no_relative: bool,

    #[arg(long, hide = true, value_name = "VALUE")]
    link_dest: Option<OsString>,

    #[arg(long, hide = true, value_name = "VALUE")]
    copy_dest: Option<OsString>,

    #[arg(long, hide = true, value_name = "VALUE")]
    compare_dest: Option<OsString>,

    #[arg(long, hide = true, value_name = "VALUE")]
    compress_level: Option<OsString>,

    #[arg(long, hide = true, value_name = "VALUE")]
    partial_dir: Option<OsString>,

    #[arg(long, hide = true, value_name = "VALUE")]
    temp_dir: Option<OsString>,
}

impl Refused {
    /// The option that was given, why it is refused, and what to type instead.
    fn first(&self) -> Option<(&'static str, &'static str, &'static str)> {
        self.different().or_else(|| self.missing())
    }

    /// What haul does not have.
    fn missing(&self) -> Option<(&'static str, &'static str, &'static str)> {
        let dests = [&self.link_dest, &self.copy_dest, &self.compare_dest];
        let places = self.partial_dir.is_some() || self.temp_dir.is_some();
        let dest = dests.into_iter().any(Option::is_some);
        let level = self.compress_level.is_some();
        let rows = [
            (
                self.dirs,
                "-d, --dirs",
                "haul sends directories with -r",
                "list them with a slash at the end: --files-from",
            ),
            (
                self.no_relative,
                "--no-relative, --no-implied-dirs",
                "paths that are chosen go to their whole paths",
                "leave out -R, or name the files as sources",
            ),
            (
                dest,
                "--link-dest, --copy-dest, --compare-dest",
                "haul compares with DEST only",
                "leave it out",
            ),
            (
                level,
                "--compress-level",
                "the level is a value of -z",
                "write --compress=LEVEL",
            ),
            (
                places,
                "--partial-dir, --temp-dir",
                "a partial file is beside its target",
                "leave it out",
            ),
        ];
        rows.into_iter()
            .find_map(|(given, option, why, instead)| given.then_some((option, why, instead)))
    }

    /// What haul does in another way.
    fn different(&self) -> Option<(&'static str, &'static str, &'static str)> {
        let resumes = "haul resumes larger files by itself, and verifies them: leave it out";
        [
            (self.append, "--append", "it would not be verified", resumes),
            (self.append_verify, "--append-verify", "it is not needed", resumes),
            (
                self.inplace,
                "--inplace",
                "readers would see a mixture of old and new",
                "leave it out: each file appears whole",
            ),
            (self.fuzzy, "--fuzzy", "haul sends changed files whole", "leave it out"),
            (
                self.cvs_exclude,
                "-C",
                "haul has no list of its own",
                "write the patterns as --exclude",
            ),
        ]
        .into_iter()
        .find_map(|(given, option, why, instead)| given.then_some((option, why, instead)))
    }
}

impl HabitArgs {
    /// True for -a: directories are taken, too, and owners, groups and devices preserved.
    pub fn archive(&self) -> bool {
        self.archive
    }

    /// The options that have been given because of which entries are skipped.
    pub fn skips(&self) -> Option<String> {
        let options = [
            (self.update, "-u"),
            (self.ignore_existing, "--ignore-existing"),
            (self.existing, "--existing"),
        ];
        let given = options.into_iter().filter_map(|(given, name)| given.then_some(name));
        let given = given.collect::<Vec<_>>().join(" or ");
        (!given.is_empty()).then_some(given)
    }

    /// True where progress is asked for.
    pub fn progress(&self) -> bool {
        let is_progress = |flags: &OsString| flags.to_string_lossy().contains("progress");
        self.progress_and_partial || self.info.as_ref().is_some_and(is_progress)
    }

    /// Sets what they say.
    ///
    /// # Errors
    /// A usage failure: an option that haul does not have.
    pub fn apply(&self, options: &mut Options) -> Result<(), Failure> {
        if let Some((option, why, instead)) = self.refused.first() {
            return Err(Failure::usage(format!("{option}: {why}")).hint(instead));
        }
        options.preserved = match (self.ignore_existing, self.update) {
            (true, _) => PreservedTargets::All,
            (false, true) => PreservedTargets::Newer,
            (false, false) => PreservedTargets::None,
        };
        options.size_only = self.size_only;
        for modes in &self.chmod {
            let added = options.chmod.add(modes, umask());
            added.map_err(|e| Failure::usage(format!("--chmod {modes}: {e}")))?;
        }
        options.existing = self.existing;
        options.modify_window = Duration::from_secs(self.modify_window.unwrap_or(0).into());
        Ok(())
    }

    /// Refuses a number behind `-P`, which scp takes for a port.
    ///
    /// # Errors
    /// A usage failure that shows where the port goes.
    pub fn check_port(&self, sources: &[OsString]) -> Result<(), Failure> {
        let is_number = |source: &&OsString| {
            let text = source.to_string_lossy();
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        let number = sources.iter().find(is_number);
        match number.filter(|number| self.progress_and_partial && !exists(number)) {
            Some(port) => {
                let port = port.to_string_lossy();
                Err(Failure::usage(format!("-P shows progress, and {port} is no file"))
                    .hint(format!("write a port as haul://HOST:{port}/PATH")))
            }
            None => Ok(()),
        }
    }
}

fn exists(path: &OsStr) -> bool {
    Path::new(path).symlink_metadata().is_ok()
}
