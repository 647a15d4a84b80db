//! Tests of the handshake and the records of data connections together.

use crate::auth::Identity;
use crate::net::error::NetError;
use crate::net::lanes::socket::Socket;
use crate::net::tls::config;
use crate::net::tls::handshake::{self, Shaken};
use crate::net::tls::pin::Pin;
use crate::net::tls::record::{
    DATA, Decrypted, Decryptor, HANDSHAKE, HEAD, KEY_UPDATE, MOST_BARREN, TAG,
};
use crate::net::wire::ALPN_DATA;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The two ends of a TCP connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    (dialled, accepted)
}

/// The two ends of a connection: the client's and the server's.
pub(in crate::net) async fn pair() -> (Shaken, Shaken) {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_create(&dir.path().join("key")).unwrap();
    let (dialled, accepted) = sockets().await;
    let server = config::server_config(ALPN_DATA, &identity).unwrap();
    let client = config::client_config(ALPN_DATA, &Pin::new(None), None).unwrap();
    let (dialled, accepted) = (Socket::Tcp(dialled), Socket::Tcp(accepted));
    tokio::try_join!(handshake::connect(dialled, client), handshake::accept(accepted, server))
        .unwrap()
}

/// Opens all of `wire`; the content of each record.
fn open(decryptor: &mut Decryptor, mut wire: &[u8]) -> Result<Vec<(Decrypted, Vec<u8>)>, NetError> {
    let mut all = Vec::new();
    while let Some((head, rest)) = wire.split_first_chunk::<HEAD>() {
        let (body, rest) = rest.split_at(Decryptor::length(*head)?);
        let (inner, tag) = body.split_last_chunk().unwrap();
        let mut inner = inner.to_vec();
        let decrypted = decryptor.decrypt(*head, &mut inner, *tag)?;
        if let Decrypted::Data(n) = decrypted {
            inner.truncate(n);
        }
        all.push((decrypted, inner));
        wire = rest;
    }
    Ok(all)
}

#[tokio::test]
async fn keys_are_renewed_before_they_are_spent_and_when_the_peer_asks() {
    let (client, server) = pair().await;
    let (mut encryptor, mut decryptor) = (client.encryptor, server.decryptor);
    encryptor.limit_to(4);
    let mut wire = Vec::new();
    for n in 0..20 {
        encryptor.encrypt(&[n; 100], &mut wire).unwrap();
    }
    let decrypted = open(&mut decryptor, &wire).unwrap();
    let data: Vec<_> = decrypted.iter().filter(|(o, _)| *o != Decrypted::Nothing).collect();
    let renewed = decrypted.len() - data.len();
    assert!(renewed >= 5, "{renewed} times");
    assert!(data.iter().zip(0..).all(|((_, bytes), n)| *bytes == [n; 100]));
    // with a key update that asks for one in turn
    let mut wire = Vec::new();
    encryptor.ask_for_keys(&mut wire);
    encryptor.encrypt(b"more", &mut wire).unwrap();
    assert_eq!(open(&mut decryptor, &wire).unwrap().last().unwrap().1, b"more");
    let (mut encryptor, mut decryptor) = (server.encryptor, client.decryptor);
    let mut wire = Vec::new();
    encryptor.encrypt(b"answer", &mut wire).unwrap();
    let decrypted = open(&mut decryptor, &wire).unwrap();
    assert_eq!(decrypted.first().unwrap().0, Decrypted::Nothing, "a key update");
    assert_eq!(decrypted.last().unwrap().1, b"answer");
}

/// A client that asks for new keys at once: the server has that together with the end of the
/// handshake.
#[tokio::test]
async fn a_key_update_that_comes_with_the_end_of_the_handshake_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_create(&dir.path().join("key")).unwrap();
    let accept = config::server_config(ALPN_DATA, &identity).unwrap();
    let connect = config::client_config(ALPN_DATA, &Pin::new(None), None).unwrap();
    let (client, from_client) = sockets().await;
    let (to_server, server) = sockets().await;
    let (mut client_reads, mut client_writes) = from_client.into_split();
    let (mut server_reads, mut server_writes) = to_server.into_split();
    // the client's second flight waits until something is sent behind it
    let relay = async {
        let mut bytes = vec![0; 64 << 10];
        let n = client_reads.read(&mut bytes).await.unwrap();
        server_writes.write_all(&bytes[..n]).await.unwrap();
        let mut n = 0;
        while !bytes[..n].ends_with(b"end") {
            n += client_reads.read(&mut bytes[n..]).await.unwrap();
        }
        server_writes.write_all(&bytes[..n - 3]).await.unwrap();
    };
    let ask = async {
        let mut client = handshake::connect(Socket::Tcp(client), connect).await.unwrap();
        let mut wire = Vec::new();
        client.encryptor.ask_for_keys(&mut wire);
        client.encryptor.encrypt(b"question", &mut wire).unwrap();
        wire.extend_from_slice(b"end");
        client.socket.write_all(&wire).await.unwrap();
        client
    };
    let ends = async { tokio::join!(ask, handshake::accept(Socket::Tcp(server), accept), relay) };
    let (mut client, server, ()) = tokio::select! {
        ends = ends => ends,
        _ = tokio::io::copy(&mut server_reads, &mut client_writes) => {
            panic!("the server has closed")
        }
    };
    let mut server = server.unwrap();
    assert_eq!(server.early, b"", "nothing was taken for the handshake's");
    let decrypted = open(&mut server.decryptor, &server.received).unwrap();
    assert_eq!(decrypted.last().unwrap().1, b"question");
    let mut wire = Vec::new();
    server.encryptor.encrypt(b"answer", &mut wire).unwrap();
    let decrypted = open(&mut client.decryptor, &wire).unwrap();
    assert_eq!(decrypted.first().unwrap().0, Decrypted::Nothing, "a key update");
    assert_eq!(decrypted.last().unwrap().1, b"answer");
}

#[tokio::test]
async fn padding_is_removed_and_what_is_not_authentic_refused() {
    let (client, server) = pair().await;
    let (mut encryptor, mut decryptor) = (client.encryptor, server.decryptor);
    let mut wire = Vec::new();
    // the content, its type, and padding: the encryptor appends one more byte of type, zero
    encryptor.record(0, &[1, 2, 0, DATA, 0, 0], &mut wire).unwrap();
    assert_eq!(open(&mut decryptor, &wire).unwrap(), [(Decrypted::Data(3), vec![1, 2, 0])]);
    for (kind, content) in [(0, &[][..]), (HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2]), (20, &[1])] {
        let mut wire = Vec::new();
        encryptor.record(kind, content, &mut wire).unwrap();
        assert!(matches!(open(&mut decryptor, &wire), Err(NetError::Protocol(_))), "{kind}");
    }
    let mut wire = Vec::new();
    encryptor.close(&mut wire).unwrap();
    assert_eq!(open(&mut decryptor, &wire).unwrap().first().unwrap().0, Decrypted::Closed);
    for at in [HEAD, HEAD + 3, HEAD + 3 + TAG] {
        let (client, mut server) = pair().await;
        let (mut encryptor, mut wire) = (client.encryptor, Vec::new());
        encryptor.encrypt(b"abc", &mut wire).unwrap();
        *wire.get_mut(at).unwrap() ^= 1;
        assert!(matches!(open(&mut server.decryptor, &wire), Err(NetError::Tls(_))), "{at}");
    }
    let (client, mut server) = pair().await;
    let (mut encryptor, mut wire) = (client.encryptor, Vec::new());
    for _ in 0..=MOST_BARREN {
        encryptor.record(DATA, &[], &mut wire).unwrap();
    }
    let refused = open(&mut server.decryptor, &wire);
    assert!(matches!(refused, Err(NetError::Protocol(_))), "{refused:?}");
    assert!(Decryptor::length([DATA, 3, 3, 0x40, 0x12]).is_err(), "too long");
    assert!(Decryptor::length([DATA, 3, 3, 0, 16]).is_err(), "too short");
    assert!(Decryptor::length([HANDSHAKE, 3, 3, 1, 0]).is_err(), "not encrypted");
}
