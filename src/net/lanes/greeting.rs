//! What both sides of a carrier say first, before its segments.
//!
//! The client sends 32 fixed bytes, a length and a [`CarrierHello`]. The server answers with 32
//! bytes that follow from the hello's nonce, a length and a [`CarrierWelcome`]. The client looks
//! for them among what a login script has printed before: no other session has printed the same.

use crate::net::error::NetError;
use crate::net::wire::proto::{CarrierHello, CarrierWelcome};
use prost::Message;
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The lowest port of direct connections: a client cannot have the server listen on a privileged
/// one, nor a server send its clients to well-known services.
pub const LOWEST_PORT: u16 = 1024;
/// The bytes of other programs that may precede a welcome.
pub const MOST_NOISE: usize = 64 << 10;
/// Length of the bytes that mark a hello or a welcome, of the nonce and of the secret.
pub const MARK: usize = 32;
/// The bytes before a hello.
const HELLO: [u8; MARK] = *b"\x00haul carrier, version 1.\r\n\xff\xfe\x1a\x04\x00";
/// The most bytes of a hello or a welcome.
const MOST: usize = 8 << 10;
/// Bytes that are read at once.
const PIECE: usize = 4 << 10;
/// Length of the length before a hello or a welcome.
const LENGTH: usize = 4;

/// Random bytes: a nonce or a secret.
///
/// # Errors
/// If the system has none.
pub fn random() -> io::Result<[u8; MARK]> {
    let mut bytes = [0; MARK];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("no random numbers"))?;
    Ok(bytes)
}

/// The bytes before the welcome that answers a hello with this nonce.
fn mark_of(nonce: &[u8]) -> [u8; MARK] {
    let mut context = Context::new(&SHA256);
    context.update(&HELLO);
    context.update(nonce);
    let mut mark = [0; MARK];
    mark.copy_from_slice(context.finish().as_ref());
    mark
}

fn framed(mark: [u8; MARK], message: &impl Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
    [&mark[..], &length.to_be_bytes(), &encoded].concat()
}

/// The bytes of a hello.
pub fn hello(hello: &CarrierHello) -> Vec<u8> {
    framed(HELLO, hello)
}

/// The bytes of a welcome.
pub fn welcome(nonce: &[u8], welcome: &CarrierWelcome) -> Vec<u8> {
    framed(mark_of(nonce), welcome)
}

/// Reads a hello; returns its bytes too. Not a byte behind it is read.
///
/// # Errors
/// [`NetError::Lost`] at the end of the stream, [`NetError::Protocol`] for anything else.
pub async fn read_hello(
    reader: &mut (impl AsyncRead + Unpin),
) -> Result<(CarrierHello, Vec<u8>), NetError> {
    let mut bytes = vec![0; MARK + LENGTH];
    reader.read_exact(&mut bytes).await.map_err(NetError::lost)?;
    let not = || NetError::Protocol("expected the hello of a haul client".into());
    let length = match bytes.split_first_chunk::<MARK>() {
        Some((mark, length)) if *mark == HELLO => <[u8; LENGTH]>::try_from(length).ok(),
        _ => None,
    };
    let length = u32::from_be_bytes(length.ok_or_else(not)?) as usize;
    if length > MOST {
        return Err(not());
    }
    let mut encoded = vec![0; length];
    reader.read_exact(&mut encoded).await.map_err(NetError::lost)?;
    let hello = CarrierHello::decode(&encoded[..]).map_err(|_| not())?;
    if hello.nonce.len() != MARK || hello.secret.len() != MARK {
        return Err(not());
    }
    bytes.extend_from_slice(&encoded);
    Ok((hello, bytes))
}

/// A welcome, and what came before and behind it.
#[derive(Debug)]
pub struct Welcomed {
    /// What the server said.
    pub welcome: CarrierWelcome,
    /// What other programs printed before.
    pub noise: Vec<u8>,
    /// The first bytes of the carrier.
    pub rest: Vec<u8>,
}

/// Why there is no welcome.
#[derive(Debug)]
pub enum Unwelcome {
    /// The stream ended without one; these bytes came instead.
    Ended(Vec<u8>),
    /// More than [`MOST_NOISE`] came that is none, or what this side has said itself.
    Noise(Vec<u8>),
    /// A welcome that cannot be read.
    Malformed,
    /// The stream failed.
    Failed(io::Error),
}

/// Waits for the welcome that answers a hello with this nonce. There is no deadline: the user may
/// have been asked for a password.
///
/// # Errors
/// [`Unwelcome`].
pub async fn await_welcome(
    reader: &mut (impl AsyncRead + Unpin),
    nonce: &[u8],
) -> Result<Welcomed, Unwelcome> {
    let mark = mark_of(nonce);
    let (mut bytes, mut piece) = (Vec::<u8>::new(), [0; PIECE]);
    let mut searched = 0_usize;
    loop {
        let new = bytes.get(searched..).unwrap_or_default();
        let is_echo = new.windows(MARK).any(|at| at == nonce);
        if let Some(at) = new.windows(MARK).position(|at| at == mark) {
            let noise = bytes.drain(..searched.saturating_add(at)).collect();
            return behind_mark(reader, bytes, noise).await;
        }
        searched = bytes.len().saturating_sub(MARK - 1);
        if searched > MOST_NOISE || is_echo {
            return Err(Unwelcome::Noise(bytes));
        }
        match reader.read(&mut piece).await {
            Ok(0) => return Err(Unwelcome::Ended(bytes)),
            Ok(n) => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
            Err(e) => return Err(Unwelcome::Failed(e)),
        }
    }
}

/// Reads a welcome whose mark is at the start of `bytes`.
async fn behind_mark(
    reader: &mut (impl AsyncRead + Unpin),
    mut bytes: Vec<u8>,
    noise: Vec<u8>,
) -> Result<Welcomed, Unwelcome> {
    loop {
        let behind = bytes.get(MARK..).unwrap_or_default();
        if let Some((length, rest)) = behind.split_first_chunk::<LENGTH>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > MOST {
                return Err(Unwelcome::Malformed);
            }
            if let Some((encoded, rest)) = rest.split_at_checked(length) {
                let welcome = CarrierWelcome::decode(encoded);
                return Ok(Welcomed {
                    welcome: welcome.map_err(|_| Unwelcome::Malformed)?,
                    noise,
                    rest: rest.to_vec(),
                });
            }
        }
        match reader.read_buf(&mut bytes).await {
            Ok(0) => return Err(Unwelcome::Ended(noise)),
            Ok(_) => {}
            Err(e) => return Err(Unwelcome::Failed(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; MARK] = [7; MARK];

    fn a_welcome() -> Vec<u8> {
        let sent = CarrierWelcome {
            user: "kim".into(),
            ..CarrierWelcome::default()
        };
        welcome(&NONCE, &sent)
    }

    #[tokio::test]
    async fn a_welcome_is_found_behind_noise_however_it_comes() {
        let noise = b"Welcome to host\r\nhaul carrier, version 1.\n".to_vec();
        let all = [&noise[..], &a_welcome(), b"rest"].concat();
        for piece in [1, 7, 31, 33, 4096] {
            let (mut near, mut far) = tokio::io::duplex(piece);
            let sent = all.clone();
            let writing = tokio::spawn(async move {
                use tokio::io::AsyncWriteExt;
                near.write_all(&sent).await.unwrap();
            });
            let found = await_welcome(&mut far, &NONCE).await.unwrap();
            assert_eq!((found.welcome.user.as_str(), &found.noise), ("kim", &noise));
            let mut rest = found.rest;
            far.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"rest");
            writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_welcome_of_another_session_is_noise() {
        let others = welcome(&[8; MARK], &CarrierWelcome::default());
        let end = await_welcome(&mut &others[..], &NONCE).await;
        assert!(matches!(end, Err(Unwelcome::Ended(noise)) if noise == others));
        let both = [others.clone(), a_welcome()].concat();
        let found = await_welcome(&mut &both[..], &NONCE).await.unwrap();
        assert_eq!((found.welcome.user.as_str(), found.noise), ("kim", others));
    }

    #[tokio::test]
    async fn an_echo_is_no_answer() {
        let own = CarrierHello {
            nonce: NONCE.to_vec(),
            ..CarrierHello::default()
        };
        let sent = [b"hello\n".to_vec(), hello(&own)].concat();
        // it does not end
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        tokio::io::AsyncWriteExt::write_all(&mut near, &sent).await.unwrap();
        let end = await_welcome(&mut far, &NONCE).await;
        assert!(matches!(end, Err(Unwelcome::Noise(noise)) if noise == sent));
    }

    #[tokio::test]
    async fn noise_is_bounded_and_lengths_are_checked() {
        let noise = vec![b'x'; MOST_NOISE * 2];
        let end = await_welcome(&mut &noise[..], &NONCE).await;
        assert!(matches!(end, Err(Unwelcome::Noise(noise)) if noise.len() < MOST_NOISE * 2));
        let long = [&mark_of(&NONCE)[..], &[0xff; 4]].concat();
        let end = await_welcome(&mut &long[..], &NONCE).await;
        assert!(matches!(end, Err(Unwelcome::Malformed)));
    }

    #[tokio::test]
    async fn a_hello_is_read_to_its_end_and_no_further() {
        let sent = CarrierHello {
            nonce: NONCE.to_vec(),
            secret: vec![1; MARK],
            ..CarrierHello::default()
        };
        let bytes = [&hello(&sent)[..], b"more"].concat();
        let mut reader = &bytes[..];
        let (read, raw) = read_hello(&mut reader).await.unwrap();
        assert_eq!((read, reader), (sent, &b"more"[..]));
        assert_eq!(raw, bytes[..bytes.len() - 4]);
        for bad in [&b"ls\n"[..], &[0; 40], &[&HELLO[..], &[0xff; 4]].concat()] {
            assert!(read_hello(&mut &bad[..]).await.is_err());
        }
    }
}
