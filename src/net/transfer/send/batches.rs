//! What a walk has found, on its way to the sender in batches.

use crate::net::transfer::MAX_BATCH;
use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::send::found::Walked;
use crate::store::{RemotePath, StoreError};
use tokio::sync::mpsc;

/// Bytes of messages that go out in one batch.
const BATCH_BYTES: usize = 128 << 10;

/// The sender has gone.
pub(super) struct Gone;

/// The batch that is being filled, and the way to the sender.
pub(super) struct Batches {
    number: u64,
    batch: Vec<Walked>,
    /// About how many bytes the batch will be as messages.
    batch_bytes: usize,
    out: mpsc::Sender<Vec<Walked>>,
    /// Entries that are not sent are found, too.
    explains: bool,
}

impl Batches {
    pub(super) fn new(out: mpsc::Sender<Vec<Walked>>, explains: bool) -> Batches {
        Batches {
            number: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            out,
            explains,
        }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.number = self.number.saturating_add(1);
        self.number
    }

    pub(super) async fn push(&mut self, step: Walked) -> Result<(), Gone> {
        self.batch_bytes = self.batch_bytes.saturating_add(step.size());
        self.batch.push(step);
        if self.batch.len() >= MAX_BATCH || self.batch_bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        self.out.send(std::mem::take(&mut self.batch)).await.map_err(|_| Gone)
    }

    /// What has been found goes out before more is read, however little it is; unless what went out
    /// before has not been taken yet.
    pub(super) async fn flush_if_waited_for(&mut self) -> Result<(), Gone> {
        match self.out.capacity() == self.out.max_capacity() {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// Something cannot be sent.
    pub(super) async fn failed(
        &mut self,
        source: usize,
        path: &RemotePath,
        error: StoreError,
    ) -> Result<(), Gone> {
        let path = path.clone();
        self.push(Walked::Failed {
            source,
            path,
            error,
        })
        .await
    }

    /// Something is not to be sent.
    pub(super) async fn excluded(
        &mut self,
        source: usize,
        path: &RemotePath,
        why: Exclusion,
    ) -> Result<(), Gone> {
        if !self.explains {
            return Ok(());
        }
        let path = path.clone();
        self.push(Walked::Excluded { source, path, why }).await
    }
}
