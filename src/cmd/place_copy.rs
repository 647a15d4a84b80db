//! `haul place-copy`: a copy of haul that was sent to this machine verifies itself and takes its
//! name. It is started by the script that wrote it.

use super::failure::Failure;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Copies that stay, the new one among them.
const COPIES: usize = 3;

/// Verify a copy of haul, and give it its name
#[derive(clap::Args)]
pub struct Args {
    /// The copy
    file: PathBuf,
    /// Its name
    name: String,
    /// Its BLAKE3 hash, in hexadecimal
    hash: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::io(&args.file.display().to_string(), &e);
    let dir = args.file.parent().unwrap_or(Path::new("."));
    let found = blake3::hash(&std::fs::read(&args.file).map_err(failed)?).to_hex();
    if found.as_str() != args.hash {
        let _ = std::fs::remove_file(&args.file);
        return Err(Failure::new(1, "the copy of haul was damaged on its way"));
    }
    File::open(&args.file).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&args.file, dir.join(&args.name)).map_err(failed)?;
    // older copies are of no more use to anybody, but that may fail
    let _ = remove_old(dir);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// Removes all copies but the newest.
fn remove_old(dir: &Path) -> io::Result<()> {
    let mut copies: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("haul-") {
            copies.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    copies.sort();
    let old = copies.len().saturating_sub(COPIES);
    copies.iter().take(old).try_for_each(|(_, path)| std::fs::remove_file(path))
}
