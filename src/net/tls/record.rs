//! TLS 1.3 records after the handshake (RFC 8446, section 5), encrypted and decrypted in place.
//!
//! rustls makes the handshake, derives every key and decides on the suite; then it hands the keys over, as it does for a
//! kernel with kTLS. Its own record layer copies each record into a vector of its own, which is measurable here: see
//! `docs/PERFORMANCE.md`. The two directions share nothing but the secret that the next keys come from.

use crate::net::error::{LossReason, NetError};
use parking_lot::Mutex;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use rustls::kernel::KernelConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most bytes of content in one record.
pub(in crate::net) const CONTENT: usize = 16 << 10;
/// Bytes before the content: type, version, length.
pub(in crate::net) const HEAD: usize = 5;
/// Bytes behind it: the content's type, and the tag.
pub(in crate::net) const TAIL: usize = 1 + TAG;
const TAG: usize = 16;

/// Records without content, one after another, that are borne: each costs as much as one that has some, and new keys more.
const MOST_BARREN: u32 = 32;

// content types, section 5.1
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// Section 6: a warning, close_notify.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
// handshake types, section 4, and what a key update says of the other direction
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const NOT_REQUESTED: u8 = 0;
const REQUESTED: u8 = 1;

/// One direction's keys, and the number of the next record under them.
struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Keys {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Keys, NetError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(unusable()),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable())?;
        Ok(Keys {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().map_err(|_| unusable())?,
            sequence,
        })
    }

    /// Section 5.3: the number of the record, as wide as the IV, xor the IV. Every number is used once.
    fn nonce(&mut self) -> Result<Nonce, NetError> {
        let number = self.sequence;
        self.sequence = number.checked_add(1).ok_or_else(unusable)?;
        let mut nonce = self.iv;
        for (byte, of) in nonce.iter_mut().rev().zip(number.to_le_bytes()) {
            *byte ^= of;
        }
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

fn unusable() -> NetError {
    NetError::Tls(rustls::Error::General("a key that cannot be used".into()))
}

/// Where the next keys of a connection come from.
trait Secrets: Send {
    fn next(&mut self, sending: bool) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error>;
}

impl<Data: Send> Secrets for KernelConnection<Data> {
    fn next(&mut self, sending: bool) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match sending {
            true => self.update_tx_secret(),
            false => self.update_rx_secret(),
        }
    }
}

struct Shared {
    secrets: Mutex<Box<dyn Secrets>>,
    /// The peer has asked for new keys of our direction, too.
    asked: AtomicBool,
}

impl Shared {
    fn next(&self, sending: bool) -> Result<Keys, NetError> {
        let mut secrets = self.secrets.lock();
        let (sequence, next) = secrets.next(sending)?;
        Keys::new(sequence, &next)
    }
}

/// The two directions of a connection whose handshake is complete.
///
/// # Errors
/// [`NetError::Tls`] where a key is none of a suite of TLS 1.3.
pub(in crate::net) fn directions<Data: Send + 'static>(
    secrets: &rustls::ExtractedSecrets,
    connection: KernelConnection<Data>,
) -> Result<(Decryptor, Encryptor), NetError> {
    let limit = match connection.negotiated_cipher_suite() {
        rustls::SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
    };
    let shared = Arc::new(Shared {
        secrets: Mutex::new(Box::new(connection)),
        asked: AtomicBool::new(false),
    });
    let decryptor = Decryptor {
        keys: Keys::new(secrets.rx.0, &secrets.rx.1)?,
        shared: shared.clone(),
        barren: 0,
    };
    let encryptor = Encryptor {
        keys: Keys::new(secrets.tx.0, &secrets.tx.1)?,
        limit,
        shared,
    };
    Ok((decryptor, encryptor))
}

/// What a record carried.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) enum Decrypted {
    /// So many bytes of content, at the beginning.
    Data(usize),
    /// A message of TLS' own, which has been taken care of.
    Nothing,
    /// The peer says properly that nothing follows.
    Closed,
}

/// Decrypts what is received.
pub(in crate::net) struct Decryptor {
    keys: Keys,
    shared: Arc<Shared>,
    /// Records without content since the last that had some.
    barren: u32,
}

impl Decryptor {
    /// How many bytes follow the head of a record, the tail included.
    ///
    /// # Errors
    /// [`NetError::Lost`] where it is the head of none.
    pub(in crate::net) fn length(head: [u8; HEAD]) -> Result<usize, NetError> {
        let [kind, _, _, high, low] = head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != DATA || !(TAIL..=CONTENT + TAIL).contains(&length) {
            // nobody has vouched for this yet: it ends the connection, not the session
            return Err(NetError::Lost(LossReason::NotTls));
        }
        Ok(length)
    }

    /// Decrypts the next record: `inner` is the content and the byte of its type.
    ///
    /// # Errors
    /// [`NetError::Tls`] where it is not authentic, [`NetError::Protocol`] where it has no place here,
    /// [`NetError::Lost`] on an alert.
    pub(in crate::net) fn decrypt(
        &mut self,
        head: [u8; HEAD],
        inner: &mut [u8],
        tag: [u8; TAG],
    ) -> Result<Decrypted, NetError> {
        let nonce = self.keys.nonce()?;
        let decrypted = self
            .keys
            .key
            .open_in_place_separate_tag(nonce, Aad::from(head), Tag::from(tag), inner, 0..)
            .map_err(|_| NetError::Tls(rustls::Error::DecryptError))?;
        // section 5.4: zeros may follow the type
        let end = decrypted.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let (content, padded) = decrypted.split_at_checked(end).unwrap_or_default();
        self.barren = match (padded.first(), content) {
            (Some(&DATA), [_, ..]) => 0,
            _ => self.barren.saturating_add(1),
        };
        if self.barren > MOST_BARREN {
            return Err(NetError::Protocol("it sends records without content".into()));
        }
        match (padded.first(), content) {
            (Some(&DATA), content) => Ok(Decrypted::Data(content.len())),
            (Some(&ALERT), content) if content == CLOSE_NOTIFY => Ok(Decrypted::Closed),
            (Some(&ALERT), [_, description]) => Err(NetError::Lost(LossReason::TlsAlert(*description))),
            (Some(&HANDSHAKE), [KEY_UPDATE, 0, 0, 1, asks @ (NOT_REQUESTED | REQUESTED)]) => {
                if *asks == REQUESTED {
                    self.shared.asked.store(true, Ordering::Relaxed);
                }
                self.keys = self.shared.next(false)?;
                Ok(Decrypted::Nothing)
            }
            // nothing is resumed
            (Some(&HANDSHAKE), [NEW_SESSION_TICKET, ..]) => Ok(Decrypted::Nothing),
            _ => Err(NetError::Protocol("an unexpected message of TLS".into())),
        }
    }
}

/// Encrypts what is sent.
pub(in crate::net) struct Encryptor {
    keys: Keys,
    /// Records that one key may encrypt.
    limit: u64,
    shared: Arc<Shared>,
}

impl Encryptor {
    /// Appends `plain` to `out`, in as few records as it takes.
    ///
    /// # Errors
    /// [`NetError::Tls`] where the next keys cannot be made.
    pub(in crate::net) fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), NetError> {
        for content in plain.chunks(CONTENT) {
            // the last record under these keys says that others follow
            let spent = self.keys.sequence.saturating_add(1) >= self.limit;
            if self.shared.asked.swap(false, Ordering::Relaxed) || spent {
                self.record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, NOT_REQUESTED], out)?;
                self.keys = self.shared.next(true)?;
            }
            self.record(DATA, content, out)?;
        }
        Ok(())
    }

    /// Appends the alert that says that nothing follows.
    ///
    /// # Errors
    /// As [`Encryptor::seal`].
    pub(in crate::net) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), NetError> {
        self.record(ALERT, &CLOSE_NOTIFY, out)
    }

    fn record(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), NetError> {
        let length = u16::try_from(content.len().saturating_add(TAIL)).map_err(|_| unusable())?;
        let [high, low] = length.to_be_bytes();
        // the version of TLS 1.2, section 5.1
        let head: [u8; HEAD] = [DATA, 3, 3, high, low];
        out.extend_from_slice(&head);
        let inner = out.len();
        out.extend_from_slice(content);
        out.push(kind);
        let nonce = self.keys.nonce()?;
        let inner = out.get_mut(inner..).unwrap_or_default();
        let tag = self
            .keys
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(head), inner)
            .map_err(|_| unusable())?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

#[cfg(test)]
pub(in crate::net) mod tests {
    use super::*;
    use crate::auth::Identity;
    use crate::net::tls::config;
    use crate::net::tls::handshake::{self, Shaken};
    use crate::net::tls::pin::Pin;
    use crate::net::wire::ALPN_DATA;
    use tokio::net::{TcpListener, TcpStream};

    /// The two ends of a connection: the client's and the server's.
    pub(in crate::net) async fn pair() -> (Shaken, Shaken) {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&dir.path().join("key")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let server = config::server_config(ALPN_DATA, &identity).unwrap();
        let client = config::client_config(ALPN_DATA, &Pin::new(None), None).unwrap();
        tokio::try_join!(handshake::connect(dialled, client), handshake::accept(accepted, server)).unwrap()
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
        encryptor.limit = encryptor.keys.sequence + 4;
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
        encryptor
            .record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, REQUESTED], &mut wire)
            .unwrap();
        encryptor.keys = encryptor.shared.next(true).unwrap();
        encryptor.encrypt(b"more", &mut wire).unwrap();
        assert_eq!(open(&mut decryptor, &wire).unwrap().last().unwrap().1, b"more");
        let (mut encryptor, mut decryptor) = (server.encryptor, client.decryptor);
        let mut wire = Vec::new();
        encryptor.encrypt(b"answer", &mut wire).unwrap();
        let decrypted = open(&mut decryptor, &wire).unwrap();
        assert_eq!(decrypted.first().unwrap().0, Decrypted::Nothing, "a key update");
        assert_eq!(decrypted.last().unwrap().1, b"answer");
    }

    /// A client that asks for new keys at once: the server has that together with the end of the handshake.
    #[tokio::test]
    async fn a_key_update_that_comes_with_the_end_of_the_handshake_is_answered() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&dir.path().join("key")).unwrap();
        let accept = config::server_config(ALPN_DATA, &identity).unwrap();
        let connect = config::client_config(ALPN_DATA, &Pin::new(None), None).unwrap();
        // the client's second flight waits between these two until something is sent behind it
        let (outer, inner) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let client = TcpStream::connect(outer.local_addr().unwrap()).await.unwrap();
        let (from_client, _) = outer.accept().await.unwrap();
        let to_server = TcpStream::connect(inner.local_addr().unwrap()).await.unwrap();
        let (server, _) = inner.accept().await.unwrap();
        let server = tokio::spawn(handshake::accept(server, accept));
        let (mut client_reads, mut client_writes) = from_client.into_split();
        let (mut server_reads, mut server_writes) = to_server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut server_reads, &mut client_writes).await });
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let relay = tokio::spawn(async move {
            let mut bytes = vec![0; 64 << 10];
            let n = client_reads.read(&mut bytes).await.unwrap();
            server_writes.write_all(&bytes[..n]).await.unwrap();
            released.await.unwrap();
            let mut n = 0;
            while !bytes[..n].ends_with(b"end") {
                n += client_reads.read(&mut bytes[n..]).await.unwrap();
            }
            server_writes.write_all(&bytes[..n - 3]).await.unwrap();
            server_writes
        });
        let mut client = handshake::connect(client, connect).await.unwrap();
        let (mut encryptor, mut wire) = (client.encryptor, Vec::new());
        encryptor
            .record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, REQUESTED], &mut wire)
            .unwrap();
        encryptor.keys = encryptor.shared.next(true).unwrap();
        encryptor.encrypt(b"question", &mut wire).unwrap();
        wire.extend_from_slice(b"end");
        client.tcp.write_all(&wire).await.unwrap();
        release.send(()).unwrap();
        let _open = relay.await.unwrap();
        let mut server = server.await.unwrap().unwrap();
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
        assert_eq!(
            open(&mut decryptor, &wire).unwrap(),
            [(Decrypted::Data(3), vec![1, 2, 0])]
        );
        for (kind, content) in [(0, &[][..]), (HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2]), (20, &[1])] {
            let mut wire = Vec::new();
            encryptor.record(kind, content, &mut wire).unwrap();
            assert!(
                matches!(open(&mut decryptor, &wire), Err(NetError::Protocol(_))),
                "{kind}"
            );
        }
        let mut wire = Vec::new();
        encryptor.close(&mut wire).unwrap();
        assert_eq!(
            open(&mut decryptor, &wire).unwrap().first().unwrap().0,
            Decrypted::Closed
        );
        for at in [HEAD, HEAD + 3, HEAD + 3 + TAG] {
            let (client, mut server) = pair().await;
            let (mut encryptor, mut wire) = (client.encryptor, Vec::new());
            encryptor.encrypt(b"abc", &mut wire).unwrap();
            *wire.get_mut(at).unwrap() ^= 1;
            assert!(
                matches!(open(&mut server.decryptor, &wire), Err(NetError::Tls(_))),
                "{at}"
            );
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
}
