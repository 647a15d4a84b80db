//! The options that say what a transfer sees of its sources.

use super::failure::Failure;
use crate::net::printable;
use crate::net::transfer::view::View;
use crate::net::wire::measure::MAX_IGNORE_FILES;
use crate::store::{FollowedLinks, Name};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Options about symlinks, file systems and ignore files.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ViewArgs {
    /// Send what symlinks lead to in their place
    #[arg(short = 'L', long)]
    copy_links: bool,

    /// The same for symlinks that lead to directories
    #[arg(short = 'k', long)]
    copy_dirlinks: bool,

    /// Do not enter directories in which another file system begins
    #[arg(short = 'x', long)]
    one_file_system: bool,

    /// Leave out what files called NAME exclude, each in its directory, as git does: .gitignore
    #[arg(long, value_name = "NAME")]
    ignore_file: Vec<OsString>,
}

impl ViewArgs {
    /// Which symlinks are followed.
    pub fn links(&self) -> FollowedLinks {
        match (self.copy_links, self.copy_dirlinks) {
            (true, _) => FollowedLinks::All,
            (false, true) => FollowedLinks::Dirs,
            (false, false) => FollowedLinks::None,
        }
    }

    /// What they say.
    ///
    /// # Errors
    /// A usage failure: a name that is none, or too many.
    pub fn view(&self) -> Result<View, Failure> {
        if self.ignore_file.len() > MAX_IGNORE_FILES {
            return Err(Failure::usage(format!(
                "--ignore-file is given more than {MAX_IGNORE_FILES} times"
            )));
        }
        let names = self.ignore_file.iter().map(|name| {
            Name::parse(name.as_bytes()).map_err(|_| {
                let shown = printable(&name.to_string_lossy());
                Failure::usage(format!("--ignore-file {shown}: expected the name of a file"))
            })
        });
        Ok(View {
            links: self.links(),
            one_file_system: self.one_file_system,
            ignore_files: names.collect::<Result<Vec<_>, _>>()?.into(),
        })
    }
}
