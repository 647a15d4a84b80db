//! A blob that is being uploaded, in parts or at once.

use super::engine::Body;
use super::keys::Keys;
use super::lock_record::UploadRecord;
use super::outcome::Failed;
use super::record::Extent;
use super::requests::Requests;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OnceCell;

/// Bytes of a part at most.
pub const PART: usize = 6 << 20;
/// Bytes of a part at least, as S3 wants it. What is less is a blob of its own.
pub const LEAST_PART: usize = 5 << 20;
/// The smallest window that has room for such a part, and for the next one's beginning.
pub const LEAST_WINDOW: u64 = 6 << 20;
/// Parts of a file that the sender's window has room for: fewer would wait for each other.
const PARTS_OF_WINDOW: u64 = 3;
/// Parts of a blob: with more, a file gets a further blob.
pub const MOST_PARTS: usize = 1000;
/// Parts of a file on their way at once.
pub const PARTS_AT_ONCE: usize = 5;

/// Bytes of the parts of a file whose sender may have so many outstanding.
pub fn part_for(window: u64) -> usize {
    let share = usize::try_from(window / PARTS_OF_WINDOW).unwrap_or(usize::MAX);
    // with blobs of less, a file would have too many
    let least = if window >= LEAST_WINDOW { LEAST_PART } else { 1 << 20 };
    // of whole chunks
    (share >> 20 << 20).clamp(least, PART)
}

/// A part that is complete: its entity tag and bytes.
type Part = (String, u64);

/// A blob on its way.
pub struct Upload {
    at: u64,
    blob: String,
    key: String,
    requests: Requests,
    /// It is a single request, without parts.
    whole: bool,
    id: OnceCell<String>,
    parts: Mutex<Vec<Option<Part>>>,
    completing: AtomicBool,
}

impl Upload {
    /// An upload of the content from `at` on. A `whole` one has one part.
    pub fn new(requests: &Requests, keys: &Keys, at: u64, whole: bool) -> Upload {
        let blob = format!("{}{}", requests.nonce(), requests.nonce());
        Upload {
            at,
            key: keys.blob(&blob),
            blob,
            requests: requests.clone(),
            whole,
            id: OnceCell::new(),
            parts: Mutex::default(),
            completing: AtomicBool::new(false),
        }
    }

    /// The number of the next part.
    pub fn next_part(&self) -> usize {
        let mut parts = self.parts.lock();
        parts.push(None);
        parts.len().saturating_sub(1)
    }

    /// True if no further part fits.
    pub fn is_full(&self) -> bool {
        self.whole || self.parts.lock().len() >= MOST_PARTS
    }

    /// The engine's id. It is asked for with the first part; `true` for the caller whose part that
    /// was.
    ///
    /// # Errors
    /// The engine's.
    pub async fn begin(&self) -> Result<bool, Failed> {
        if self.whole {
            return Ok(false);
        }
        let first = AtomicBool::new(false);
        let begin = || async {
            first.store(true, Ordering::Relaxed);
            self.requests.begin_upload(&self.key).await
        };
        self.id.get_or_try_init(begin).await?;
        Ok(first.into_inner())
    }

    /// Uploads a part.
    ///
    /// # Errors
    /// The engine's.
    pub async fn put(&self, number: usize, body: Body) -> Result<(), Failed> {
        let size = body.iter().map(|piece| piece.len() as u64).sum();
        let tag = match self.id.get() {
            Some(id) => self.requests.put_part((&self.key, id), number, body).await?,
            None => self.requests.put_unique(&self.key, body).await?,
        };
        if let Some(slot) = self.parts.lock().get_mut(number) {
            *slot = Some((tag, size));
        }
        Ok(())
    }

    /// Makes an object of all parts, which are there.
    ///
    /// # Errors
    /// The engine's.
    pub async fn complete(&self) -> Result<Extent, Failed> {
        let parts: Vec<Part> = self.parts.lock().iter().flatten().cloned().collect();
        let size = parts.iter().map(|(_, size)| size).sum();
        if let Some(id) = self.id.get() {
            self.completing.store(true, Ordering::Relaxed);
            let tags = parts.into_iter().map(|(tag, _)| tag).collect();
            self.requests.complete_upload((&self.key, id), tags, size).await?;
        }
        Ok(Extent {
            at: self.at,
            size,
            blob: self.blob.clone(),
        })
    }

    /// Forgets it. One that may be complete stays for the sweeper: some engines lose content when
    /// both happen at once.
    pub async fn abort(&self) {
        if !self.completing.load(Ordering::Relaxed)
            && let Some(id) = self.id.get()
        {
            let _ = self.requests.abort_upload(&self.key, id).await;
        }
    }

    /// What a lock says of it, with the parts before `offset`.
    pub fn record(&self, offset: u64) -> UploadRecord {
        let mut end = self.at;
        let mut before = |part: &&Part| {
            end = end.saturating_add(part.1);
            end <= offset
        };
        let parts = self.parts.lock();
        let parts = parts.iter().map_while(Option::as_ref).take_while(|part| before(part));
        UploadRecord {
            at: self.at,
            blob: self.blob.clone(),
            upload: self.id.get().cloned(),
            parts: parts.cloned().collect(),
        }
    }
}

/// Makes an object of an earlier writer's upload, as far as its checkpoint covers it.
///
/// # Errors
/// The engine's; what is gone cannot be resumed.
pub async fn adopt(
    requests: &Requests,
    keys: &Keys,
    earlier: &UploadRecord,
) -> Result<Option<Extent>, Failed> {
    let size: u64 = earlier.parts.iter().map(|(_, size)| size).sum();
    if size == 0 {
        forget(requests, keys, earlier).await;
        return Ok(None);
    }
    let key = keys.blob(&earlier.blob);
    if let Some(upload) = &earlier.upload {
        let tags = earlier.parts.iter().map(|(tag, _)| tag.clone()).collect();
        requests.complete_upload((&key, upload), tags, size).await?;
    }
    Ok(Some(Extent {
        at: earlier.at,
        size,
        blob: earlier.blob.clone(),
    }))
}

/// Forgets the upload of a writer that cannot commit any more.
pub async fn forget(requests: &Requests, keys: &Keys, earlier: &UploadRecord) {
    if let Some(upload) = &earlier.upload {
        let _ = requests.abort_upload(&keys.blob(&earlier.blob), upload).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_fits_the_window() {
        assert_eq!(part_for(32 << 20), PART);
        assert_eq!(part_for(16 << 20), 5 << 20);
        assert_eq!(part_for(10 << 20), LEAST_PART);
        for window in [1 << 20, 4 << 20] {
            let part = part_for(window);
            assert!(part < LEAST_PART && part as u64 <= window && part.is_multiple_of(1 << 20));
        }
    }
}
