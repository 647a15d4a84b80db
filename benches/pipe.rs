//! What one file costs without any protocol: bare threads that read, hash, encrypt, send over
//! loopback, receive, decrypt, hash and write it. No program that does these things on this machine
//! is much faster, so it is what haul is held against.
//!
//! ```text
//! cargo build --release --example pipe
//! target/release/examples/pipe SOURCE TARGET [--connections N] [--keep CHUNKS]
//! ```
//!
//! Without `--keep`, 128 KiB at a time go all the way on one thread and through one buffer on each
//! side. That is the least there is to do, and not enough for a transfer: what is sent has to be
//! kept until it is acknowledged, in case its connection is lost. With it, a connection has so many
//! chunks of 1 MiB in memory on each side, used in turn, and what is sent is encrypted in a copy.

use anyhow::{Context, Result, bail};
use blake3::Hasher;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

const CHUNK: usize = 1 << 20;
/// What stays in a processor's cache from one step to the next.
const PIECE: usize = 128 << 10;
/// The content of a record of TLS, and what its tag takes.
const RECORD: usize = 16 << 10;
const TAG: usize = 16;
/// A piece's records and their tags.
const SENT: usize = PIECE + PIECE / RECORD * TAG;

/// One direction's key and its count of records.
struct Key(LessSafeKey, u64);

impl Key {
    fn new() -> Result<Key> {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).ok().context("a key")?;
        Ok(Key(LessSafeKey::new(key), 0))
    }

    fn nonce(&mut self) -> Nonce {
        self.1 += 1;
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.1.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts a piece, and puts its tags behind it.
    fn seal(&mut self, piece: &mut [u8]) -> Result<()> {
        let (content, tags) = piece.split_at_mut(PIECE);
        for (record, to) in content.chunks_mut(RECORD).zip(tags.chunks_mut(TAG)) {
            let nonce = self.nonce();
            let tag = self.0.seal_in_place_separate_tag(nonce, Aad::empty(), record);
            to.copy_from_slice(tag.ok().context("encrypting")?.as_ref());
        }
        Ok(())
    }

    fn open(&mut self, content: &mut [u8], tags: &[u8]) -> Result<()> {
        for (record, tag) in content.chunks_mut(RECORD).zip(tags.chunks(TAG)) {
            let (nonce, tag) = (self.nonce(), Tag::try_from(tag).ok().context("a tag")?);
            let opened = self.0.open_in_place_separate_tag(nonce, Aad::empty(), tag, record, 0..);
            opened.ok().context("decrypting")?;
        }
        Ok(())
    }
}

/// Chunks of memory, used in turn, that have been touched.
struct Kept(Vec<Vec<u8>>, usize);

impl Kept {
    fn new(chunks: usize) -> Kept {
        Kept(vec![vec![1; CHUNK]; chunks], 0)
    }

    fn next(&mut self) -> &mut [u8] {
        self.1 = (self.1 + 1) % self.0.len();
        &mut self.0[self.1]
    }
}

/// Sends the chunks that it gets hold of, each behind its offset and digest.
fn send(mut to: TcpStream, file: &File, next: &AtomicU64, chunks: u64, keep: usize) -> Result<()> {
    let (mut key, mut out, mut kept) = (Key::new()?, vec![1; SENT], Kept::new(keep));
    loop {
        let chunk = next.fetch_add(1, Ordering::Relaxed);
        if chunk >= chunks {
            return Ok(());
        }
        let offset = chunk * CHUNK as u64;
        let mut hasher = Hasher::new();
        to.write_all(&offset.to_be_bytes())?;
        let mut read = |piece: &mut [u8], at: usize| -> Result<()> {
            file.read_exact_at(piece, offset + at as u64)?;
            hasher.update(piece);
            Ok(())
        };
        let mut whole = (keep > 0).then(|| kept.next());
        for (i, piece) in whole.iter_mut().flat_map(|whole| whole.chunks_mut(PIECE)).enumerate() {
            read(piece, i * PIECE)?;
        }
        for at in (0..CHUNK).step_by(PIECE) {
            match &whole {
                Some(whole) => out[..PIECE].copy_from_slice(&whole[at..at + PIECE]),
                None => read(&mut out[..PIECE], at)?,
            }
            key.seal(&mut out)?;
            to.write_all(&out)?;
        }
        to.write_all(hasher.finalize().as_bytes())?;
    }
}

/// Writes what comes where it belongs.
fn receive(mut from: TcpStream, file: &File, keep: usize) -> Result<()> {
    let (mut key, mut one, mut kept) = (Key::new()?, vec![1; PIECE], Kept::new(keep));
    let mut tags = [0; SENT - PIECE];
    loop {
        let mut offset = [0; 8];
        if from.read(&mut offset[..1])? == 0 {
            return Ok(());
        }
        from.read_exact(&mut offset[1..])?;
        let offset = u64::from_be_bytes(offset);
        let mut hasher = Hasher::new();
        let whole = if keep > 0 { kept.next() } else { &mut one };
        for at in (0..CHUNK).step_by(PIECE) {
            let place = if keep > 0 { at..at + PIECE } else { 0..PIECE };
            let piece = &mut whole[place];
            from.read_exact(piece)?;
            from.read_exact(&mut tags)?;
            key.open(piece, &tags)?;
            hasher.update(piece);
            if keep == 0 {
                file.write_all_at(piece, offset + at as u64)?;
            }
        }
        let mut digest = [0; blake3::OUT_LEN];
        from.read_exact(&mut digest)?;
        if hasher.finalize() != digest {
            bail!("a chunk did not come as it was sent");
        }
        if keep > 0 {
            file.write_all_at(whole, offset)?;
        }
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(source), Some(target)) = (args.first(), args.get(1)) else {
        bail!("pipe SOURCE TARGET [--connections N] [--keep CHUNKS]");
    };
    let option = |name: &str, default: usize| match args.iter().position(|a| a == name) {
        Some(at) => args
            .get(at + 1)
            .context("a number is missing")?
            .parse()
            .context("not a number"),
        None => Ok(default),
    };
    let (connections, keep) = (option("--connections", 2)?, option("--keep", 0)?);
    let started = Instant::now();
    let (source, target) = (File::open(source)?, File::create(target)?);
    let size = source.metadata()?.len();
    if !size.is_multiple_of(CHUNK as u64) {
        bail!("the file's size must be a multiple of 1 MiB");
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let next = AtomicU64::new(0);
    thread::scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        for _ in 0..connections {
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            running.push(scope.spawn(|| send(near, &source, &next, size / CHUNK as u64, keep)));
            running.push(scope.spawn(|| receive(far, &target, keep)));
        }
        let ended = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        ended.collect()
    })?;
    println!("{:.3} s", started.elapsed().as_secs_f64());
    Ok(())
}
