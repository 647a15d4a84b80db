//! Where a larger file has data and where holes, found beside its reading.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::hole::MAX_HOLE;
use crate::net::task::Tasks;
use crate::net::transfer::send::reads::{OpenOnce, WantedFile, opened};
use crate::store::{Allocation, Extent, StoreError};
use tokio::sync::mpsc;

/// Pieces that are found ahead of the reading.
const AHEAD: usize = 64;

/// Chunks that are all data, or all hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Up to this offset.
    Data { end: u64 },
    /// Up to this offset.
    Hole { end: u64 },
}

/// What comes next in a file.
pub(super) enum Next {
    Chunk,
    /// A hole of this many bytes.
    Hole(u64),
    /// It is not known yet: wait for [`Layout::found`].
    Unknown,
    Failed(StoreError),
}

/// The layout of a file that is being read.
pub(super) enum Layout {
    /// Data, all of it.
    Dense,
    Sparse {
        /// What was found last.
        found: Option<Result<Piece, StoreError>>,
        pieces: mpsc::Receiver<Result<Piece, StoreError>>,
    },
}

impl Layout {
    /// That of a wanted file, from where it is wanted. Only one with holes is looked at.
    pub(super) fn of(wanted: &WantedFile, source: &OpenOnce, tasks: &Tasks) -> Layout {
        if wanted.allocation == Allocation::Dense {
            return Layout::Dense;
        }
        let (out, pieces) = mpsc::channel(AHEAD);
        tasks.detach("layout", find(wanted.clone(), source.clone(), out));
        Layout::Sparse {
            found: None,
            pieces,
        }
    }

    /// What is at `offset`, where what was given last has ended.
    pub(super) fn next(&mut self, offset: u64) -> Next {
        let Layout::Sparse { found, pieces } = self else {
            return Next::Chunk;
        };
        loop {
            match found {
                Some(Ok(Piece::Data { end })) if *end > offset => return Next::Chunk,
                Some(Ok(Piece::Hole { end })) if *end > offset => {
                    return Next::Hole(end.saturating_sub(offset));
                }
                Some(Err(e)) => return Next::Failed(e.clone()),
                _ => match pieces.try_recv() {
                    Ok(piece) => *found = Some(piece),
                    Err(_) => return Next::Unknown,
                },
            }
        }
    }

    /// Waits until more is known, where [`Next::Unknown`] was given. Cancel-safe.
    pub(super) async fn found(&mut self) {
        match self {
            Layout::Sparse { found, pieces } => match pieces.recv().await {
                Some(piece) => *found = Some(piece),
                // it has got all pieces, and then nothing is unknown
                None => std::future::pending().await,
            },
            Layout::Dense => std::future::pending().await,
        }
    }
}

/// Tells of every piece of a file, in order.
async fn find(wanted: WantedFile, source: OpenOnce, out: mpsc::Sender<Result<Piece, StoreError>>) {
    let mut offset = wanted.offset;
    while offset < wanted.size {
        let piece = piece_at(&wanted, &source, offset).await;
        offset = match piece {
            Ok(Piece::Data { end } | Piece::Hole { end }) => end,
            Err(_) => wanted.size,
        };
        if out.send(piece).await.is_err() {
            return;
        }
    }
}

async fn piece_at(
    wanted: &WantedFile,
    source: &OpenOnce,
    offset: u64,
) -> Result<Piece, StoreError> {
    let extent = opened(wanted, source).await?.extent(offset).await?;
    Ok(piece_of(extent, offset, wanted.size))
}

/// The whole chunks of an extent at `offset`, the start of a chunk. One that is data in part is
/// data.
fn piece_of(extent: Extent, offset: u64, size: u64) -> Piece {
    let chunk = CHUNK_SIZE as u64;
    let data = |end: u64| Piece::Data {
        end: end.checked_next_multiple_of(chunk).unwrap_or(u64::MAX).min(size),
    };
    match extent {
        Extent::Data { end } => data(end.max(offset.saturating_add(1))),
        Extent::Hole { end } => {
            let end = match end < size {
                true => end.saturating_sub(end % chunk),
                false => size,
            };
            match end > offset {
                // also one that goes on behind this one begins at a multiple of 1 MiB
                true => Piece::Hole {
                    end: end.min(offset.saturating_sub(offset % chunk).saturating_add(MAX_HOLE)),
                },
                false => data(offset.saturating_add(1)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::net::transfer::send::layout::*;

    #[test]
    fn pieces_are_whole_chunks() {
        let mib = CHUNK_SIZE as u64;
        let size = 1000 * mib + 5;
        let data = |end| Piece::Data { end };
        let hole = |end| Piece::Hole { end };
        let of = |extent, offset| piece_of(extent, offset, size);
        assert_eq!(of(Extent::Data { end: 1 }, 0), data(mib));
        assert_eq!(of(Extent::Data { end: 2 * mib }, mib), data(2 * mib));
        assert_eq!(
            of(Extent::Data { end: 0 }, mib),
            data(2 * mib),
            "it moves on whatever a store says"
        );
        assert_eq!(of(Extent::Data { end: u64::MAX }, mib), data(size));
        assert_eq!(of(Extent::Hole { end: mib - 1 }, 0), data(mib));
        assert_eq!(of(Extent::Hole { end: 2 * mib + 1 }, 0), hole(2 * mib));
        assert_eq!(of(Extent::Hole { end: u64::MAX }, 0), hole(MAX_HOLE));
        assert_eq!(of(Extent::Hole { end: size }, 1000 * mib), hole(size));
        assert_eq!(of(Extent::Hole { end: size - 1 }, 1000 * mib), data(size));
    }
}
