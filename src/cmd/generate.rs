//! `haul generate`: the manual pages and shell completions, from the same description as `--help`.

use super::failure::{Failure, exit};
use clap::ValueEnum;
use clap_complete::Shell;
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

    /// Where; made if it does not exist
    dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Man,
    Completions,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(&args.dir).and_then(|()| match args.what {
        What::Man => clap_mangen::generate_to(super::description(), &args.dir),
        What::Completions => completions(&args.dir),
    });
    written.map_err(|e| Failure::new(exit::FAILED, format!("cannot write to {}: {e}", args.dir.display())))
}

fn completions(dir: &Path) -> std::io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut super::description(), "haul", dir)?;
    }
    Ok(())
}
