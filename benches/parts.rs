//! Micro-benchmarks of the pure parts (framing, reassembly, digests), and of the parallel reader
//! over a store whose reads take 50 ms each. `cargo bench`, or `cargo bench -- slow` for one group.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use haul::chunk::CHUNK_SIZE;
use haul::chunk::ahead::Ahead;
use haul::chunk::digest::{Digest, RootHasher, chunk_digest, whole_digest};
use haul::chunk::reassembly::Reassembly;
use haul::net::wire::frame::{FrameHeader, FrameKind};
use haul::store::PartRules;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Chunks of the files below: 1 GiB.
const CHUNKS: u64 = 1024;

fn framing(c: &mut Criterion) {
    let header = FrameHeader {
        kind: FrameKind::Chunk,
        attempt: 0,
        transfer: 7,
        number: 123_456,
        offset: 5 << 20,
        length: CHUNK_SIZE as u32,
        unpacked: 0,
        digest: [7; 32],
    };
    let bytes = header.encode();
    let mut group = c.benchmark_group("framing");
    group.bench_function("encode", |b| b.iter(|| black_box(&header).encode()));
    group.bench_function("decode", |b| b.iter(|| FrameHeader::decode(black_box(&bytes))));
    group.finish();
}

/// The chunks of a file in the order in which eight connections may bring them.
fn order() -> Vec<u64> {
    let blocks: Vec<u64> = (0..CHUNKS).collect();
    blocks.chunks(8).flat_map(|block| block.iter().rev().copied()).collect()
}

fn reassembly(c: &mut Criterion) {
    let order = order();
    let mut group = c.benchmark_group("reassembly of 1,024 chunks");
    group.throughput(Throughput::Elements(CHUNKS));
    for (name, held) in [("in order", None), ("as they come", Some(8))] {
        let rules = PartRules {
            least: 1,
            most: 4 << 20,
            skip_gap_after: held,
        };
        group.bench_function(name, |b| {
            b.iter_batched(
                Reassembly::default,
                |mut reassembly| {
                    for chunk in &order {
                        let offset = chunk * CHUNK_SIZE as u64;
                        let inserted =
                            reassembly.insert(offset, CHUNK_SIZE as u64, [*chunk as u8; 32], ());
                        assert!(inserted.is_ok());
                        while let Some(part) = reassembly.take_part(&rules) {
                            black_box(part);
                        }
                    }
                    reassembly
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn digests(c: &mut Criterion) {
    let bytes = vec![7; CHUNK_SIZE];
    let mut group = c.benchmark_group("digests");
    group.throughput(Throughput::Bytes(CHUNK_SIZE as u64));
    group.bench_function("of a chunk", |b| b.iter(|| chunk_digest(3 << 20, black_box(&bytes))));
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("of a file of 4 KiB", |b| {
        b.iter(|| whole_digest(black_box(bytes.get(..4096).unwrap_or_default())))
    });
    group.throughput(Throughput::Elements(CHUNKS));
    let values: Vec<Digest> = (0..CHUNKS).map(|i| [i as u8; 32]).collect();
    group.bench_function("merge of 1,024", |b| {
        b.iter(|| {
            let mut root = RootHasher::default();
            values.iter().for_each(|value| root.push(*value, CHUNK_SIZE as u64));
            root.root()
        });
    });
    group.finish();
}

/// Twelve chunks of 10 MB, in order, from a store that takes 50 ms for each, however many are asked
/// for at once. Buffers are used again, as a transfer's are.
fn slow_store(c: &mut Criterion) {
    const SIZE: usize = 10_000_000;
    const COUNT: usize = 12;
    let source = vec![7; SIZE];
    let source: &'static [u8] = source.leak();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build();
    let Ok(runtime) = runtime else { return };
    let mut group = c.benchmark_group("slow store, 12 chunks of 10 MB");
    group.sample_size(10).throughput(Throughput::Bytes((SIZE * COUNT) as u64));
    for at_once in [1, 5, 10] {
        let free = Mutex::new(vec![vec![0; SIZE]; at_once]);
        let free = &free;
        let buffers = || free.lock().unwrap_or_else(PoisonError::into_inner);
        group.bench_function(format!("{at_once} at once"), |b| {
            b.to_async(&runtime).iter(|| async move {
                let mut ahead = Ahead::new(at_once);
                let (mut asked, mut read) = (0, 0);
                while read < COUNT {
                    while asked < COUNT && !ahead.is_full() {
                        let mut buffer =
                            buffers().pop().expect("there are as many as reads at once");
                        ahead.start(async move {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            buffer.copy_from_slice(source);
                            (asked, buffer)
                        });
                        asked += 1;
                    }
                    let (number, bytes) = ahead.next().await.expect("a job is under way");
                    assert_eq!((number, bytes.len()), (read, SIZE));
                    buffers().push(bytes);
                    read += 1;
                }
            });
        });
    }
    group.finish();
}

criterion_group!(parts, framing, reassembly, digests, slow_store);
criterion_main!(parts);
