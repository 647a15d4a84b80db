//! A file system of its own with little room.

use std::path::Path;
use std::process::{Command, Stdio};

/// A tmpfs, unmounted when dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts one with these options; `None`, with a word, where the tests may not.
    pub fn mount(options: &str) -> Option<SmallDisk> {
        SmallDisk::within(&std::env::temp_dir(), options)
    }

    /// The same in a directory.
    pub fn within(top: &Path, options: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir_in(top).unwrap();
        if mount(options, dir.path()) {
            return Some(SmallDisk(dir));
        }
        eprintln!("skipped: mounting a small tmpfs is not allowed here");
        None
    }

    /// A Btrfs of 512 MiB, where files can share blocks; `None`, with a word, where there is none.
    pub fn sharing() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        let run = |program: &str, arguments: &[&str], at: &Path| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .arg(&image)
                .stderr(Stdio::null())
                .stdout(Stdio::null());
            let arguments = (at != image).then_some(at);
            command.args(arguments).status().is_ok_and(|status| status.success())
        };
        let made = ["mkfs.btrfs", "/usr/sbin/mkfs.btrfs"]
            .into_iter()
            .any(|mkfs| run(mkfs, &["-q"], &image));
        let disk = tempfile::tempdir().unwrap();
        if made && run("mount", &["-o", "loop"], disk.path()) {
            // the mount keeps the image
            return Some(SmallDisk(disk));
        }
        eprintln!("skipped: mounting a Btrfs is not allowed here");
        None
    }

    /// The bytes that are free.
    pub fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.path()).unwrap();
        found.f_bfree * found.f_frsize
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
