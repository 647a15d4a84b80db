//! The data that `haul bench` generates.

use crate::cmd::failure::Failure;
use std::path::{Path, PathBuf};

/// This many small files …
const SMALL_FILES: usize = 4000;
/// … of this many bytes, …
const SMALL_SIZE: usize = 4096;
/// … and one large one, in MiB.
const LARGE_MIB: usize = 256;
/// Small files in directories, and a large one.
pub(super) fn generate(dir: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let (small, large) = (dir.join("small"), dir.join("large"));
    let failed = |e: std::io::Error| Failure::io("generate data", &e);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for i in 0..SMALL_FILES {
        let parent = small.join(format!("dir-{:03}", i / 100));
        std::fs::create_dir_all(&parent).map_err(failed)?;
        std::fs::write(parent.join(format!("file-{i:05}")), random.bytes(SMALL_SIZE))
            .map_err(failed)?;
    }
    let mut file = std::fs::File::create(&large).map_err(failed)?;
    for _ in 0..LARGE_MIB {
        std::io::Write::write_all(&mut file, &random.bytes(1 << 20)).map_err(failed)?;
    }
    Ok(vec![("small files".into(), small), ("a large file".into(), large)])
}

/// xorshift64: the same incompressible data every time.
struct Random(u64);

impl Random {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.to_be_bytes()
        });
        words.flatten().take(n).collect()
    }
}
