//! Tests of the decoder.

use crate::chunk::CHUNK_SIZE;
use crate::chunk::digest::{chunk_digest, whole_digest};
use crate::net::data::decoder::*;
use crate::net::tls::record::CONTENT;
use crate::net::tls::tests::pair;
use crate::net::wire::frame::{FrameHeader, FrameKind};

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

/// Frames of all kinds and sizes.
fn frames(dice: &mut Dice) -> Vec<(FrameHeader, Vec<u8>)> {
    let lengths = [
        0,
        1,
        1000,
        CONTENT,
        WORTH,
        WORTH + 1,
        300_000,
        CHUNK_SIZE - 1,
        CHUNK_SIZE,
        CHUNK_SIZE,
    ];
    (1..40)
        .map(|number| {
            let length = lengths[dice.roll(lengths.len())];
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
            let offset = (CHUNK_SIZE * (dice.roll(3) + 1)) as u64;
            let (kind, offset, digest) = match dice.roll(3) {
                0 => (FrameKind::Ping, 0, [0; 32]),
                1 => (FrameKind::File, 0, whole_digest(&bytes)),
                _ if length == 0 => (FrameKind::End, offset, [3; 32]),
                _ => (FrameKind::Chunk, offset, chunk_digest(offset, &bytes)),
            };
            let bytes = if kind == FrameKind::Ping { Vec::new() } else { bytes };
            let header = FrameHeader {
                number,
                offset,
                length: u32::try_from(bytes.len()).unwrap(),
                digest,
                ..FrameHeader::bare(kind)
            };
            (header, bytes)
        })
        .collect()
}

/// Receives `wire` in pieces of any size.
fn receive(
    decoder: &mut FrameDecoder,
    mut wire: &[u8],
    dice: &mut Dice,
) -> Result<Vec<ReceivedFrame>, NetError> {
    let mut all = Vec::new();
    while !wire.is_empty() {
        let piece = match dice.roll(3) {
            0 => 1 + dice.roll(50),
            1 => 1 + dice.roll(20_000),
            _ => 1 + dice.roll(2_000_000),
        };
        let mut piece = wire.get(..piece).unwrap_or(wire);
        let mut n = 0;
        for mut part in decoder.room(usize::MAX) {
            n += std::io::Read::read(&mut piece, &mut part).unwrap();
        }
        decoder.received(n)?;
        all.extend(std::iter::from_fn(|| decoder.next()));
        wire = &wire[n..];
    }
    Ok(all)
}

#[tokio::test]
async fn frames_come_out_as_they_went_in_however_records_and_reads_are_cut() {
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let frames = frames(&mut dice);
        let (client, server) = pair().await;
        let (mut encryptor, mut wire) = (client.encryptor, Vec::new());
        for (header, bytes) in &frames {
            // as haul sends them; header and payload together; in records of any size
            match if seed % 3 == 0 { 0 } else { dice.roll(3) } {
                0 => {
                    encryptor.encrypt(&header.encode(), &mut wire).unwrap();
                    encryptor.encrypt(bytes, &mut wire).unwrap();
                    encryptor.encrypt(header.trailer(), &mut wire).unwrap();
                }
                1 => encryptor
                    .encrypt(
                        &[&header.encode(), bytes.as_slice(), header.trailer()].concat(),
                        &mut wire,
                    )
                    .unwrap(),
                _ => {
                    let all = [&header.encode(), bytes.as_slice(), header.trailer()].concat();
                    let mut all = all.as_slice();
                    while !all.is_empty() {
                        let (now, rest) = all.split_at((1 + dice.roll(2 * CONTENT)).min(all.len()));
                        encryptor.encrypt(now, &mut wire).unwrap();
                        all = rest;
                    }
                }
            }
        }
        encryptor.close(&mut wire).unwrap();
        let early = wire.len().min(dice.roll(3) * 700);
        let (received, rest) = wire.split_at(early);
        let pool = BufferPool::new(2);
        let mut decoder = FrameDecoder::new(server.decryptor, Vec::new(), received.to_vec(), pool);
        decoder.process().unwrap();
        let mut arrived: Vec<ReceivedFrame> = std::iter::from_fn(|| decoder.next()).collect();
        arrived.extend(receive(&mut decoder, rest, &mut dice).unwrap());
        assert!(decoder.is_closed() && decoder.is_between_frames());
        assert_eq!(arrived.len(), frames.len());
        for (arrived, (header, bytes)) in arrived.iter().zip(&frames) {
            assert_eq!(arrived.header, *header);
            assert!(arrived.intact && *arrived.payload == *bytes, "seed {seed}: {header:?}");
        }
    }
}

#[tokio::test]
async fn a_payload_with_another_digest_is_not_intact_and_one_that_ends_early_no_frame() {
    let (client, server) = pair().await;
    let (mut encryptor, mut wire) = (client.encryptor, Vec::new());
    let bytes = vec![7; 200_000];
    let header = FrameHeader {
        number: 1,
        length: 200_000,
        digest: whole_digest(&bytes[1..]),
        ..FrameHeader::bare(FrameKind::File)
    };
    encryptor.encrypt(&header.encode(), &mut wire).unwrap();
    encryptor.encrypt(&bytes, &mut wire).unwrap();
    encryptor.encrypt(&header.encode(), &mut wire).unwrap();
    encryptor.encrypt(&bytes[..10 * CONTENT], &mut wire).unwrap();
    encryptor.close(&mut wire).unwrap();
    let mut decoder =
        FrameDecoder::new(server.decryptor, Vec::new(), Vec::new(), BufferPool::new(2));
    let arrived = receive(&mut decoder, &wire, &mut Dice(1)).unwrap();
    assert_eq!(arrived.len(), 1);
    assert!(!arrived[0].intact);
    assert!(decoder.is_closed() && !decoder.is_between_frames());
}
