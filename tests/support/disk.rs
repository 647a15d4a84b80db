//! A file system of its own with little room.

use std::path::Path;
use std::process::Command;

/// A tmpfs, unmounted when dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts one with these options; `None`, with a word, where the tests may not.
    pub fn mount(options: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        if mount(options, dir.path()) {
            return Some(SmallDisk(dir));
        }
        eprintln!("skipped: mounting a small tmpfs is not allowed here");
        None
    }

    /// Gives it other options.
    pub fn remount(&self, options: &str) {
        assert!(mount(&format!("remount,{options}"), self.path()));
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn mount(options: &str, at: &Path) -> bool {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "haul-test"])
        .arg(at)
        .status();
    mounted.is_ok_and(|s| s.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
