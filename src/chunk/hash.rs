//! The BLAKE3 hash of a file in a store, computed where the file is.

use super::CHUNK_SIZE;
use super::ahead::Ahead;
use super::buffer::BufferPool;
use super::digest::{Digest, Hashing, Reading, RootHasher, whole_digest};
use crate::store::{Entry, ErrorKind, RemotePath, Store, StoreError};
use std::sync::Arc;

/// Chunks that are read at once.
const AHEAD: usize = 4;

/// Reads a file in parallel and hashes it. Returns its entry, the same before and after, too.
///
/// # Errors
/// [`StoreError`], with [`ErrorKind::SourceChanged`] if the file changed meanwhile, or has not as
/// many bytes as its size.
pub async fn hash_file(
    store: &dyn Store,
    path: &RemotePath,
    pool: &BufferPool,
) -> Result<(Entry, Digest), StoreError> {
    let source = store.open(path).await?;
    let before = source.stat().await?;
    let changed = || StoreError::new(ErrorKind::SourceChanged, path);
    let single = before.size <= CHUNK_SIZE as u64;
    let (mut ahead, mut root, mut only) =
        (Ahead::new(AHEAD), RootHasher::default(), whole_digest(&[]));
    let mut offset = 0_u64;
    loop {
        while offset < before.size && !ahead.is_full() {
            let (source, pool, at) = (source.clone(), pool.clone(), offset);
            let wanted = before.size.saturating_sub(at).min(CHUNK_SIZE as u64);
            ahead.start(async move {
                let length = usize::try_from(wanted).unwrap_or(CHUNK_SIZE);
                let reading = Arc::new(Reading::new(match single {
                    true => Hashing::of_whole(),
                    false => Hashing::of_chunk(at),
                }));
                let buffer =
                    pool.share(source.read_at(at, pool.take(length), reading.clone()).await?);
                Ok((reading.digest(), buffer.len() as u64 == wanted, wanted))
            });
            offset = offset.saturating_add(wanted);
        }
        match ahead.next().await {
            Some(Ok((digest, true, length))) => {
                only = digest;
                root.push(digest, length);
            }
            Some(Ok((_, false, _))) => return Err(changed()),
            Some(Err(e)) => return Err(e),
            None => break,
        }
    }
    let more = source.read_at(before.size, vec![0; 1], Arc::new(())).await?;
    let after = source.stat().await?;
    if !more.is_empty() || after.version != before.version {
        return Err(changed());
    }
    match single {
        true => Ok((after, only)),
        false => Ok((after, root.root().ok_or_else(changed)?)),
    }
}
