//! A data connection whose other end is another implementation of TLS: rustls' own records, of
//! other sizes, and new keys.

use crate::support::Server;
use crate::support::messages::{get, offer, offered, offers, put, result, want, wanted};
use crate::support::script::ScriptedClient;
use crate::support::tree::bytes;
use haul::chunk::digest::chunk_digest;
use haul::net::tls::config;
use haul::net::tls::pin::Pin;
use haul::net::wire::ALPN_DATA;
use haul::net::wire::frame::{FrameHeader, FrameKind, HEADER_LEN};
use haul::net::wire::proto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A data connection of the session, made by rustls alone; its records carry at most 3,000 bytes.
async fn attached(client: &ScriptedClient) -> TlsStream<TcpStream> {
    let config =
        config::client_config(ALPN_DATA, &Pin::new(Some(client.fingerprint)), None).unwrap();
    let mut config = (*config).clone();
    config.max_fragment_size = Some(3000);
    let tcp = TcpStream::connect(client.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut tls = connector.connect(config::server_name(), tcp).await.unwrap();
    tls.write_all(&client.attach(1).encode()).await.unwrap();
    tls.flush().await.unwrap();
    let attached = header(&mut tls).await;
    assert_eq!(attached.kind, FrameKind::Attached);
    // within one machine haul leaves the choice to the system
    let choice = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    assert_eq!(attached.attempt, u8::from(choice.trim() == "bbr"));
    tls
}

async fn header(tls: &mut TlsStream<TcpStream>) -> FrameHeader {
    let mut header = [0; HEADER_LEN];
    tls.read_exact(&mut header).await.unwrap();
    FrameHeader::decode(&header).unwrap()
}

/// The header of a chunk of offer 1.
fn chunk(index: u64, bytes: &[u8]) -> FrameHeader {
    let offset = index << 20;
    FrameHeader {
        transfer: 1,
        number: 1,
        offset,
        length: u32::try_from(bytes.len()).unwrap(),
        digest: chunk_digest(offset, bytes),
        ..FrameHeader::bare(FrameKind::Chunk)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_records_and_new_keys_are_understood_and_answered() {
    let server = Server::start();
    let content = bytes(1, (3 << 20) + 1);
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let mut tls = attached(&client).await;

    assert_eq!(client.ask(2, put(1, b"f")).await.unwrap().code, 150);
    let size = content.len() as u64;
    let offer = offer(1, 0, b"", proto::Kind::File, size);
    client.transfer(1, offers(vec![offer])).await;
    wanted(&mut client).await;
    for (index, bytes) in (0..).zip(content.chunks(1 << 20)) {
        tls.write_all(&chunk(index, bytes).encode()).await.unwrap();
        let (now, later) = bytes.split_at(bytes.len() / 2);
        tls.write_all(now).await.unwrap();
        // in the middle of a payload, and it asks the server for new keys as well
        tls.get_mut().1.refresh_traffic_keys().unwrap();
        tls.write_all(later).await.unwrap();
        tls.write_all(chunk(index, bytes).trailer()).await.unwrap();
    }
    let seal = FrameHeader {
        kind: FrameKind::End,
        offset: size,
        length: 0,
        digest: *blake3::hash(&content).as_bytes(),
        ..chunk(0, b"x")
    };
    tls.write_all(&seal.encode()).await.unwrap();
    tls.flush().await.unwrap();
    let settled = result(&mut client).await;
    assert_eq!(settled.outcome, i32::from(proto::Outcome::Committed), "{settled:?}");
    assert!(std::fs::read(server.root.join("f")).unwrap() == content);

    assert_eq!(client.ask(3, get(2, b"f")).await.unwrap().code, 150);
    offered(&mut client).await;
    client.transfer(2, want(1)).await;
    let mut back = vec![0; content.len()];
    loop {
        let header = header(&mut tls).await;
        match header.kind {
            FrameKind::Chunk => {
                let at = usize::try_from(header.offset).unwrap();
                let payload = &mut back[at..at + header.length as usize];
                tls.read_exact(payload).await.unwrap();
                let mut digest = [0; 32];
                tls.read_exact(&mut digest).await.unwrap();
                assert_eq!(chunk_digest(header.offset, payload), digest);
                tls.get_mut().1.refresh_traffic_keys().unwrap();
                let ping = FrameHeader {
                    number: header.offset + 1,
                    ..FrameHeader::bare(FrameKind::Ping)
                };
                tls.write_all(&ping.encode()).await.unwrap();
                tls.flush().await.unwrap();
            }
            FrameKind::End => break,
            _ => {}
        }
    }
    assert!(back == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_nothing_but_new_keys_is_ended() {
    let server = Server::start();
    let mut client = ScriptedClient::connect(&server).await;
    client.login().await;
    let mut tls = attached(&client).await;
    for _ in 0..50 {
        tls.get_mut().1.refresh_traffic_keys().unwrap();
        if tls.flush().await.is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    let ended =
        tokio::time::timeout(std::time::Duration::from_secs(15), tls.read_to_end(&mut rest));
    assert!(ended.await.is_ok(), "it goes on");
    server.client().ok(["ls", "srv:"]);
}
