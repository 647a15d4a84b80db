//! Tests of carriers and lanes together.

use crate::net::lanes::carrier::*;
use crate::net::lanes::greeting;
use crate::net::lanes::segment::{Header, Kind, MOST_DATA};
use crate::net::lanes::socket::Socket;
use crate::net::wire::proto::{CarrierHello, CarrierWelcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const NONCE: [u8; MARK] = [3; MARK];

/// A client's carrier and a server's, over a stream that holds so many bytes.
async fn pair(room: usize) -> (Carrier, Carrier, mpsc::Receiver<Lane>) {
    let (near, far) = tokio::io::duplex(room);
    let hello = CarrierHello {
        nonce: NONCE.to_vec(),
        secret: vec![1; MARK],
        ..CarrierHello::default()
    };
    let (client, answer) = Carrier::greet(tokio::io::split(near), greeting::hello(&hello), NONCE);
    let (mut reader, mut writer) = tokio::io::split(far);
    greeting::read_hello(&mut reader).await.unwrap();
    let welcome = greeting::welcome(&NONCE, &CarrierWelcome::default());
    writer.write_all(&welcome).await.unwrap();
    let server = Carrier::accept((reader, writer));
    let accepted = server.accepted().unwrap();
    assert!(answer.await.unwrap().is_ok());
    (client, server, accepted)
}

/// A server's end of a stream, driven by hand.
async fn by_hand() -> (Carrier, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 20);
    (Carrier::accept(tokio::io::split(far)), near)
}

async fn send(stream: &mut DuplexStream, kind: Kind, lane: u16, value: u32) {
    stream.write_all(&Header { kind, lane, value }.encode()).await.unwrap();
}

fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

#[tokio::test]
async fn lanes_carry_their_bytes_both_ways_at_once() {
    for room in [1 << 10, 1 << 20] {
        let (client, _server, mut accepted) = pair(room).await;
        let mut echoes = Vec::new();
        for (seed, role) in [(1, Role::Data), (2, Role::Control), (3, Role::Data)] {
            let mut near = Socket::Lane(client.open(role).unwrap());
            let far = accepted.recv().await.unwrap();
            assert_eq!(far.role(), role);
            // more than a window
            let sent = content(seed, 6 << 20);
            echoes.push(tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(far);
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
            }));
            echoes.push(tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(&mut near);
                let mut received = Vec::new();
                let write = async {
                    writer.write_all(&sent).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                let (_, read) = tokio::join!(write, reader.read_to_end(&mut received));
                read.unwrap();
                assert!(received == sent, "lane {seed}");
            }));
        }
        for echo in echoes {
            echo.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_lane_that_is_not_read_holds_no_other_one_up_and_takes_a_window() {
    let (client, _server, mut accepted) = pair(1 << 16).await;
    let mut stuck = client.open(Role::Data).unwrap();
    let unread = accepted.recv().await.unwrap();
    let filled = tokio::spawn(async move {
        let mut written = 0;
        while let Ok(done) = timeout(Duration::from_millis(300), stuck.write(&[7; 10_000])).await {
            written += done.unwrap();
        }
        (written, stuck)
    });
    let mut control = client.open(Role::Control).unwrap();
    let mut other = accepted.recv().await.unwrap();
    for round in 0..200_u8 {
        control.write_all(&[round; 1000]).await.unwrap();
        let mut received = [0; 1000];
        other.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [round; 1000]);
    }
    let (written, mut stuck) = filled.await.unwrap();
    // nothing was taken yet
    assert_eq!(written, 256 << 10);
    // it goes on as soon as it is read
    let mut unread = unread;
    let mut some = vec![0; written / 2];
    unread.read_exact(&mut some).await.unwrap();
    stuck.write_all(&[7; 10_000]).await.unwrap();
}

#[tokio::test]
async fn a_dropped_lane_ends_at_the_other_side_and_so_do_all_with_their_carrier() {
    let (client, server, mut accepted) = pair(1 << 16).await;
    let mut one = client.open(Role::Data).unwrap();
    one.write_all(b"last words").await.unwrap();
    drop(one);
    let mut far = accepted.recv().await.unwrap();
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"last words");
    assert!(far.write_all(&[0; 100]).await.is_err());
    let mut two = client.open(Role::Control).unwrap();
    let mut other = accepted.recv().await.unwrap();
    client.close().await;
    assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
    assert!(matches!(server.over().await, NetError::Lost(_)));
    assert_eq!(two.read(&mut [0]).await.unwrap(), 0);
    assert!(two.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_ends_its_carrier() {
    let data = u32::try_from(MOST_DATA).unwrap();
    let open = |lane| (Kind::Open, lane, 1);
    for (segments, why) in [
        (vec![(Kind::Data, 1, 0)], "never opened"),
        (vec![(Kind::Open, 1, 2)], "unknown kind"),
        (vec![open(1), open(1)], "may not be opened"),
        (vec![open(2), open(1)], "may not be opened"),
        ((1..=17).map(open).collect(), "may not be opened"),
        (vec![open(1), (Kind::Credit, 1, 1)], "more credit"),
        (vec![open(1), (Kind::Credit, 1, u32::MAX)], "more credit"),
    ] {
        let (server, mut stream) = by_hand().await;
        // lanes that are not dropped stay open
        let mut accepted = server.accepted().unwrap();
        let serve = tokio::spawn(async move {
            let mut lanes = Vec::new();
            while let Some(lane) = accepted.recv().await {
                lanes.push(lane);
            }
        });
        for (kind, lane, value) in segments {
            send(&mut stream, kind, lane, value).await;
        }
        let over = server.over().await.to_string();
        assert!(over.contains(why), "{why}: {over}");
        serve.await.unwrap();
    }
    // more than a window of a lane that is not read
    let (server, mut stream) = by_hand().await;
    let mut accepted = server.accepted().unwrap();
    send(&mut stream, Kind::Open, 1, 1).await;
    let _lane = accepted.recv().await.unwrap();
    let flood = async {
        for _ in 0..=crate::net::lanes::state::window(Role::Data) / MOST_DATA {
            send(&mut stream, Kind::Data, 1, data).await;
            if stream.write_all(&vec![0; MOST_DATA]).await.is_err() {
                return;
            }
        }
    };
    let ((), over) = tokio::join!(flood, server.over());
    assert!(over.to_string().contains("more bytes"), "{over}");
}
