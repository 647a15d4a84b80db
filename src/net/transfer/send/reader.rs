//! The reader of a sender: starts the reads that are due within the window, and turns what was read
//! into frames, in file order.
//!
//! It owns no state of the files: [`SendState`] says what is due, and what is live.

use crate::chunk::ahead::Ahead;
use crate::chunk::digest::Digest;
use crate::chunk::window::{Permit, cost};
use crate::chunk::{CHUNK_SIZE, Extent};
use crate::net::data::body::{ChunkRead, DeferredChunk, FileId, FrameBody};
use crate::net::session::SessionCore;
use crate::net::session::handed::{CopiedPart, HandedFile};
use crate::net::transfer::report::Waiting;
use crate::net::transfer::send::reading::Plan;
use crate::net::transfer::send::reads::{
    Chunk, ReadDone, SmallRead, check_unchanged, hash_hole, open_for_copy, read_chunk, read_small,
};
use crate::net::transfer::send::state::SendState;
use crate::net::transfer::send::stream::StreamEvent;
use crate::net::wire::frame::{FrameHeader, FrameKind, NO_DIGEST};
use crate::store::{ErrorKind, FileSource, StoreError};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Jobs (a chunk, or a batch of small files) that are read at once.
const PARALLEL: usize = 6;

/// An attempt at a file that cannot be sent to its end.
pub(super) enum ReadFailure {
    /// It is not any more what was offered.
    Changed(FileId),
    /// It cannot be read.
    Failed(FileId, StoreError),
}

impl ReadFailure {
    fn of(id: FileId, error: StoreError) -> ReadFailure {
        match error.kind {
            ErrorKind::SourceChanged => ReadFailure::Changed(id),
            _ => ReadFailure::Failed(id, error),
        }
    }
}

/// What the reader has found out.
pub(super) enum ReadEvent {
    /// A job has ended.
    Done(ReadDone),
    /// A connection has read a deferred chunk, or could not.
    Deferred(ChunkRead),
    /// The receiver has copied a part of a file, or could not.
    Copied(CopiedPart),
    /// A stream has come further.
    Stream(StreamEvent),
    /// The window has room for the read that is due.
    Room(Permit),
    /// More is known of where the current file has holes.
    LayoutFound,
}

/// Reads the files that are wanted.
pub(super) struct FileReader {
    core: Arc<SessionCore>,
    transfer: u32,
    ahead: Ahead<ReadDone>,
    /// The read that is due, until the window has room for it.
    planned: Option<Plan>,
    /// Connections tell of the chunks that they have read.
    deferred: mpsc::UnboundedReceiver<ChunkRead>,
    deferred_in: mpsc::UnboundedSender<ChunkRead>,
    /// A receiver in this process tells of the parts that it has copied.
    copied: mpsc::UnboundedReceiver<CopiedPart>,
    copied_in: mpsc::UnboundedSender<CopiedPart>,
    streams: mpsc::UnboundedReceiver<StreamEvent>,
    streams_in: mpsc::UnboundedSender<StreamEvent>,
}

impl FileReader {
    pub(super) fn new(core: Arc<SessionCore>, transfer: u32) -> FileReader {
        let (deferred_in, deferred) = mpsc::unbounded_channel();
        let (copied_in, copied) = mpsc::unbounded_channel();
        let (streams_in, streams) = mpsc::unbounded_channel();
        FileReader {
            core,
            transfer,
            ahead: Ahead::new(PARALLEL),
            planned: None,
            deferred,
            deferred_in,
            copied,
            copied_in,
            streams,
            streams_in,
        }
    }

    /// Where the readers of streams send what they read.
    pub(super) fn streams(&self) -> mpsc::UnboundedSender<StreamEvent> {
        self.streams_in.clone()
    }

    /// Plans the next read, if none waits.
    pub(super) fn plan(&mut self, state: &mut SendState) -> Option<ReadFailure> {
        if self.planned.is_some() || self.ahead.is_full() {
            return None;
        }
        match state.plan(self.core.pool().chunk_size()) {
            Ok(plan) => {
                self.planned = plan;
                None
            }
            Err((id, error)) => Some(ReadFailure::of(id, error)),
        }
    }

    /// What the transfer waits for at the moment; `None` while nothing is to be read.
    pub(super) fn waits_for(&self) -> Option<Waiting> {
        if self.planned.is_none() && self.ahead.is_empty() {
            return None;
        }
        Some(match (self.core.send_queue.is_queued(), &self.planned) {
            (true, _) => Waiting::Network,
            (false, Some(_)) if self.ahead.is_empty() => Waiting::Receiver,
            _ => Waiting::Source,
        })
    }

    /// The next event. Cancel-safe.
    pub(super) async fn next(&mut self, state: &mut SendState) -> ReadEvent {
        let may_start = self.planned.is_some() && !self.ahead.is_full();
        let needed = self.planned.as_ref().map_or(0, Plan::cost);
        let credit = self.core.send_queue.credit();
        let may_plan = self.planned.is_none() && !self.ahead.is_full();
        tokio::select! {
            biased;
            Some(done) = self.ahead.next(), if !self.ahead.is_empty() => ReadEvent::Done(done),
            Some(read) = self.deferred.recv() => ReadEvent::Deferred(read),
            Some(part) = self.copied.recv() => ReadEvent::Copied(part),
            Some(event) = self.streams.recv() => ReadEvent::Stream(event),
            permit = credit.acquire(needed), if may_start => ReadEvent::Room(permit),
            () = state.layout_found(), if may_plan => ReadEvent::LayoutFound,
        }
    }

    /// Processes an event; returns the attempts that cannot be sent to their end.
    pub(super) fn process(&mut self, event: ReadEvent, state: &mut SendState) -> Vec<ReadFailure> {
        match event {
            ReadEvent::Done(done) => self.done(done, state),
            ReadEvent::Deferred(read) => match read.digest {
                Ok(digest) => {
                    state.hashed(read.id, read.extent, digest);
                    Vec::new()
                }
                // The receiver waits for a chunk that was lost with its connection. It may have
                // committed the file, though: what has changed since is not offered again.
                Err(e) if state.is_sent(read.id) => vec![ReadFailure::Failed(read.id, e)],
                Err(e) => failure(state, read.id, e),
            },
            ReadEvent::Copied(part) => match part.result {
                Ok(extent) => {
                    state.copied(part.id, extent);
                    Vec::new()
                }
                Err(e) => failure(state, part.id, e),
            },
            ReadEvent::Stream(event) => self.stream(event, state),
            ReadEvent::Room(permit) => {
                if let Some(plan) = self.planned.take() {
                    self.start(plan, permit, state);
                }
                Vec::new()
            }
            ReadEvent::LayoutFound => Vec::new(),
        }
    }

    /// Starts a read. One of a file that is not live any more gives its permit back.
    fn start(&mut self, plan: Plan, permit: Permit, state: &SendState) {
        match plan {
            Plan::Small(batch) => self.ahead.start(read_small(batch, permit)),
            Plan::Chunk(file, ..)
            | Plan::Hole(file, _)
            | Plan::HandOver(file, _)
            | Plan::Check(file, ..)
                if !state.is_live(file.id) => {}
            Plan::Chunk(file, source, extent) => {
                let pool = self.core.pool().buffers().clone();
                self.ahead.start(read_chunk(file, source, extent, permit, pool));
            }
            Plan::Hole(file, hole) => {
                // the receiver hashes it meanwhile
                let header = self.header(file.id, FrameKind::Hole, at(hole.offset, 0), NO_DIGEST);
                let header = FrameHeader::of_hole(header, hole.length);
                self.push(header, Vec::new(), permit);
                self.ahead.start(hash_hole(file.id, hole));
            }
            Plan::HandOver(file, source) => self.ahead.start(open_for_copy(file, source)),
            Plan::Check(file, source, hash) => {
                self.ahead.start(check_unchanged(file, source, hash, permit))
            }
        }
    }

    fn done(&mut self, done: ReadDone, state: &mut SendState) -> Vec<ReadFailure> {
        match done {
            ReadDone::Small(files) => {
                files.into_iter().flat_map(|file| self.small(file, state)).collect()
            }
            ReadDone::Hole { id, chunks } => {
                for chunk in chunks {
                    state.hashed(id, chunk.extent(), chunk.digest);
                }
                Vec::new()
            }
            // given up, or restarted, after the read was started
            ReadDone::Chunk { id, .. }
            | ReadDone::Opened { id, .. }
            | ReadDone::Checked { id, .. }
                if !state.is_live(id) =>
            {
                Vec::new()
            }
            ReadDone::Opened { id, result } => match result {
                Ok(source) => self.hand_over(id, source),
                Err(e) => failure(state, id, e),
            },
            ReadDone::Chunk {
                id,
                extent,
                permit,
                result,
            } => {
                let header = |digest| self.header(id, FrameKind::Chunk, extent, digest);
                match result {
                    Ok(Chunk::Read(buffer, digest)) => {
                        let body = FrameBody::Bytes(buffer);
                        self.core.send_queue.push(header(digest), body, permit);
                        state.hashed(id, extent, digest);
                    }
                    Ok(Chunk::Deferred(source)) => {
                        let chunk = self.deferred(source, id, extent);
                        self.core.send_queue.push(header(NO_DIGEST), chunk, permit);
                    }
                    Err(e) => return failure(state, id, e),
                }
                Vec::new()
            }
            ReadDone::Checked {
                id,
                hash,
                permit,
                result,
            } => {
                match result {
                    Ok(()) => self.end(id, hash, permit, state),
                    Err(e) => return failure(state, id, e),
                }
                Vec::new()
            }
        }
    }

    /// All of a larger file was read, or copied, and it is what was offered.
    fn end(&self, id: FileId, hash: Option<Digest>, permit: Permit, state: &mut SendState) {
        let size = state.get(id.number).map_or(0, |file| file.size());
        let digest = hash.unwrap_or(NO_DIGEST);
        self.push(self.header(id, FrameKind::End, at(size, 0), digest), Vec::new(), permit);
        state.sent(id, hash, size);
    }

    /// A chunk that the connection that sends it reads.
    fn deferred(&self, source: Arc<dyn FileSource>, id: FileId, extent: Extent) -> FrameBody {
        let chunk = DeferredChunk::new(source, id, extent, self.deferred_in.clone());
        FrameBody::Deferred(chunk)
    }

    /// Hands an open file over to the receiver.
    fn hand_over(&self, id: FileId, source: Arc<dyn FileSource>) -> Vec<ReadFailure> {
        let file = HandedFile::new(id, source, self.copied_in.clone());
        self.core.hand_over(self.transfer, file);
        Vec::new()
    }

    fn small(&self, file: SmallRead, state: &mut SendState) -> Option<ReadFailure> {
        let SmallRead { id, permit, result } = file;
        if !state.is_live(id) {
            return None;
        }
        match result {
            Ok((bytes, digest)) => {
                let length = bytes.len();
                let header = self.header(id, FrameKind::File, at(0, length), digest);
                self.push(header, bytes, permit);
                state.sent(id, Some(digest), length as u64);
                None
            }
            Err(e) => Some(ReadFailure::of(id, e)),
        }
    }

    fn stream(&self, event: StreamEvent, state: &mut SendState) -> Vec<ReadFailure> {
        match event {
            StreamEvent::Frame(frame) if state.is_live(frame.id) => {
                let length = frame.bytes.len();
                let header =
                    self.header(frame.id, frame.kind, at(frame.offset, length), frame.digest);
                self.push(header, frame.bytes, frame.permit);
                if let Some((hash, bytes)) = frame.whole {
                    state.sent(frame.id, Some(hash), bytes);
                }
                Vec::new()
            }
            StreamEvent::Frame(_) => Vec::new(),
            StreamEvent::Failed(id, e) => failure(state, id, e),
        }
    }

    fn header(&self, id: FileId, kind: FrameKind, extent: Extent, digest: Digest) -> FrameHeader {
        FrameHeader {
            kind,
            attempt: id.attempt,
            transfer: self.transfer,
            number: id.number,
            offset: extent.offset,
            length: u32::try_from(extent.length).unwrap_or(u32::MAX),
            unpacked: 0,
            digest,
        }
    }

    fn push(&self, header: FrameHeader, bytes: Vec<u8>, permit: Permit) {
        let body = FrameBody::Bytes(self.core.pool().buffers().share(bytes));
        self.core.send_queue.push(header, body, permit);
    }
}

impl Plan {
    /// What it takes of the window.
    fn cost(&self) -> u64 {
        match self {
            Plan::Small(batch) => batch.iter().map(|file| file.cost()).fold(0, u64::saturating_add),
            Plan::Chunk(_, _, extent) => cost(usize::try_from(extent.length).unwrap_or(CHUNK_SIZE)),
            Plan::Hole(..) | Plan::HandOver(..) | Plan::Check(..) => cost(0),
        }
    }
}

fn at(offset: u64, length: usize) -> Extent {
    let length = length as u64;
    Extent { offset, length }
}

/// What comes of an attempt that cannot be read, if it is live.
fn failure(state: &SendState, id: FileId, error: StoreError) -> Vec<ReadFailure> {
    let live = state.is_live(id).then(|| ReadFailure::of(id, error));
    live.into_iter().collect()
}

#[cfg(test)]
mod tests;
