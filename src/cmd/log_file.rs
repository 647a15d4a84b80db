//! `--log-file`: a line with the time for each file of a transfer, as rsync writes it.

use super::failure::{Failure, local_failure};
use crate::net::printable;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// A file that lines are appended to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogFile(Arc<File>);

impl LogFile {
    /// Opens it, and makes it if it does not exist.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn open(path: &Path) -> Result<LogFile, Failure> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.map(|file| LogFile(Arc::new(file)))
            .map_err(|e| local_failure(path, &e))
    }

    /// Appends a line. Several processes may append to one file: a line is written at once.
    ///
    /// # Errors
    /// The system's.
    pub fn line(&self, text: &str) -> std::io::Result<()> {
        let now = jiff::Zoned::now().strftime("%Y/%m/%d %H:%M:%S").to_string();
        let line = format!("{now} [{}] {}\n", std::process::id(), printable(text));
        (&*self.0).write_all(line.as_bytes())
    }
}
