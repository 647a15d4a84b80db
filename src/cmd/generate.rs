//! `haul generate`: the manual pages and shell completions, from the same description as `--help`.

use super::failure::{Failure, exit};
use super::hint;
use super::manual;
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// Write the manual pages or the shell completions into a directory
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul generate man /usr/local/share/man/man1
  haul generate completions .          haul.bash, _haul (zsh), haul.fish")]
pub struct Args {
    /// What to write
    what: What,

    /// The directory; created if it does not exist
    #[arg(value_hint = hint::LOCAL_DIR)]
    dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Man,
    Completions,
}

/// Writes the pages or the scripts; `description` is the command line's.
pub(super) fn run(args: &Args, description: clap::Command) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(&args.dir).and_then(|()| match args.what {
        What::Man => manual::write(description, &args.dir),
        What::Completions => completions(&args.dir),
    });
    written.map_err(|e| {
        Failure::new(exit::FAILED, format!("cannot write to {}: {e}", args.dir.display()))
    })
}

/// The scripts ask `haul complete`, so that they know as much as the binary.
const COMPLETIONS: [(&str, &str); 3] = [
    ("haul.bash", include_str!("../../completions/haul.bash")),
    ("_haul", include_str!("../../completions/_haul")),
    ("haul.fish", include_str!("../../completions/haul.fish")),
];

fn completions(dir: &Path) -> std::io::Result<()> {
    COMPLETIONS
        .iter()
        .try_for_each(|(name, script)| std::fs::write(dir.join(name), script))
}
