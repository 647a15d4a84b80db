//! Writing files with holes: blocks of zeros are skipped.

use super::sys::{Call, OpenFile};

/// The least that file systems allocate, in bytes. Zeros that do not fill an aligned block are
/// written.
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes `bytes` at `offset`, a multiple of the block size, without blocks of zeros, and extends
/// the file to their end. The file must have no data there yet.
pub(super) fn write(file: &impl OpenFile, bytes: &[u8], offset: u64) -> Call<()> {
    for (from, run) in data_runs(bytes) {
        file.pwrite_all(run, offset.saturating_add(from as u64))?;
    }
    extend(file, offset.saturating_add(bytes.len() as u64))
}

/// Makes the file at least `size` bytes long, with a hole at its end. No other thread may write it
/// meanwhile.
pub(super) fn extend(file: &impl OpenFile, size: u64) -> Call<()> {
    match u64::try_from(file.fstat()?.st_size) {
        Ok(found) if found >= size => Ok(()),
        _ => file.ftruncate(size),
    }
}

/// True if some block of these bytes would be skipped.
pub(super) fn has_zero_block(bytes: &[u8]) -> bool {
    bytes.chunks(BLOCK).any(is_zero)
}

fn is_zero(block: &[u8]) -> bool {
    ZEROS.get(..block.len()) == Some(block)
}

/// Returns the runs of blocks that are not all zeros: the offset of each, and its bytes.
fn data_runs(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let (mut at, mut rest) = (0_usize, bytes);
    std::iter::from_fn(move || {
        let (zeros, behind) = split_run(rest, true);
        let (run, behind) = split_run(behind, false);
        let from = at.saturating_add(zeros.len());
        (at, rest) = (from.saturating_add(run.len()), behind);
        (!run.is_empty()).then_some((from, run))
    })
}

/// Splits off the leading blocks that are zeros, or that are not.
fn split_run(bytes: &[u8], zeros: bool) -> (&[u8], &[u8]) {
    let run = bytes.chunks(BLOCK).take_while(|block| is_zero(block) == zeros);
    let length = run.map(<[u8]>::len).sum();
    bytes.split_at_checked(length).unwrap_or((bytes, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_is_not_zero_in_whole_blocks() {
        let mut bytes = vec![0; 5 * BLOCK + 7];
        assert_eq!(data_runs(&bytes).count(), 0);
        assert!(has_zero_block(&bytes));
        bytes[2 * BLOCK - 1] = 1;
        bytes[2 * BLOCK] = 2;
        bytes[5 * BLOCK + 6] = 3;
        let runs: Vec<(usize, usize)> =
            data_runs(&bytes).map(|(at, run)| (at, run.len())).collect();
        assert_eq!(runs, [(BLOCK, 2 * BLOCK), (5 * BLOCK, 7)]);
        bytes.fill(1);
        assert_eq!(
            data_runs(&bytes).map(|(at, run)| (at, run.len())).collect::<Vec<_>>(),
            [(0, bytes.len())]
        );
        assert!(!has_zero_block(&bytes));
    }
}
