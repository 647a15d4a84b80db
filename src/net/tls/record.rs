//! TLS 1.3 records after the handshake (RFC 8446, section 5), encrypted and decrypted in place.
//!
//! rustls makes the handshake, derives every key and decides on the suite. Then it hands the keys
//! over, as it does for kTLS. Its own record layer copies each record once more, which is
//! measurable here: see `docs/PERFORMANCE.md`. The two directions share only the secret of the next
//! keys.

use crate::net::error::{LossReason, NetError};
use parking_lot::Mutex;
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, Tag,
    UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use rustls::kernel::KernelConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most bytes of content in one record.
pub(in crate::net) const CONTENT: usize = 16 << 10;
/// Bytes before the content: type, version, length.
pub(in crate::net) const HEAD: usize = 5;
/// Bytes behind the content: its type, and the tag.
pub(in crate::net) const TAIL: usize = 1 + TAG;
pub(super) const TAG: usize = 16;

/// Consecutive records without content that are accepted: each costs as much as a full one, and new
/// keys cost more.
pub(super) const MOST_BARREN: u32 = 32;

// content types, section 5.1
const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const DATA: u8 = 23;
/// Section 6: a warning, close_notify.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
// handshake types, section 4, and the values of a key update
const NEW_SESSION_TICKET: u8 = 4;
pub(super) const KEY_UPDATE: u8 = 24;
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

    /// Section 5.3: the number of the record, as wide as the IV, xor the IV. Every number is used
    /// once.
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

/// The source of a connection's next keys.
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
    /// The peer has asked for new keys of this side's direction.
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
/// [`NetError::Tls`] if a key does not fit a suite of TLS 1.3.
pub(in crate::net) fn directions<Data: Send + 'static>(
    secrets: &rustls::ExtractedSecrets,
    connection: KernelConnection<Data>,
) -> Result<(Decryptor, Encryptor), NetError> {
    let rustls::SupportedCipherSuite::Tls13(suite) = connection.negotiated_cipher_suite() else {
        // both configurations allow TLS 1.3 alone
        return Err(rustls::Error::General("the peer has no TLS 1.3".into()).into());
    };
    let limit = suite.common.confidentiality_limit;
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

/// The content of a record.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) enum Decrypted {
    /// So many bytes of content, at the beginning.
    Data(usize),
    /// A message of TLS itself, which has been processed.
    Nothing,
    /// The peer's close_notify: nothing follows.
    Closed,
}

/// Decrypts received records.
pub(in crate::net) struct Decryptor {
    keys: Keys,
    shared: Arc<Shared>,
    /// Records without content since the last that had some.
    barren: u32,
}

impl Decryptor {
    /// The bytes that follow the head of a record, including the tail.
    ///
    /// # Errors
    /// [`NetError::Lost`] if it is not the head of a record.
    pub(in crate::net) fn length(head: [u8; HEAD]) -> Result<usize, NetError> {
        let [kind, _, _, high, low] = head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != DATA || !(TAIL..=CONTENT + TAIL).contains(&length) {
            // these bytes are not authenticated: they end the connection, not the session
            return Err(NetError::Lost(LossReason::NotTls));
        }
        Ok(length)
    }

    /// Decrypts the next record: `inner` is the content and the byte of its type.
    ///
    /// # Errors
    /// [`NetError::Tls`] if it is not authentic, [`NetError::Protocol`] if it is not expected,
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
            (Some(&ALERT), [_, description]) => {
                Err(NetError::Lost(LossReason::TlsAlert(*description)))
            }
            (Some(&HANDSHAKE), [KEY_UPDATE, 0, 0, 1, asks @ (NOT_REQUESTED | REQUESTED)]) => {
                if *asks == REQUESTED {
                    self.shared.asked.store(true, Ordering::Relaxed);
                }
                self.keys = self.shared.next(false)?;
                Ok(Decrypted::Nothing)
            }
            // haul resumes no TLS session
            (Some(&HANDSHAKE), [NEW_SESSION_TICKET, ..]) => Ok(Decrypted::Nothing),
            _ => Err(NetError::Protocol("an unexpected message of TLS".into())),
        }
    }
}

/// Encrypts records.
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
    /// [`NetError::Tls`] if the next keys cannot be derived.
    pub(in crate::net) fn encrypt(
        &mut self,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), NetError> {
        for content in plain.chunks(CONTENT) {
            // the last record under these keys announces the next ones
            let spent = self.keys.sequence.saturating_add(1) >= self.limit;
            if self.shared.asked.swap(false, Ordering::Relaxed) || spent {
                self.record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, NOT_REQUESTED], out)?;
                self.keys = self.shared.next(true)?;
            }
            self.record(DATA, content, out)?;
        }
        Ok(())
    }

    /// Appends a close_notify.
    ///
    /// # Errors
    /// As [`Encryptor::encrypt`].
    pub(in crate::net) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), NetError> {
        self.record(ALERT, &CLOSE_NOTIFY, out)
    }

    pub(super) fn record(
        &mut self,
        kind: u8,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), NetError> {
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

/// What the tests of this folder do with an encryptor, besides encrypting.
#[cfg(test)]
impl Encryptor {
    /// Lets the key encrypt this many more records.
    pub(super) fn limit_to(&mut self, records: u64) {
        self.limit = self.keys.sequence + records;
    }

    /// Sends a key update that asks for one in return.
    pub(super) fn ask_for_keys(&mut self, out: &mut Vec<u8>) {
        self.record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, REQUESTED], out).unwrap();
        self.keys = self.shared.next(true).unwrap();
    }
}
