//! Ed25519 keys: a machine's own, and the public keys and fingerprints of others.

use super::file::{self, FileError};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{CertifiedKey, SigningKey};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A public key as it travels in TLS: DER of SubjectPublicKeyInfo (RFC 7250, RFC 8410).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey(Vec<u8>);

/// SHA-256 of a [`PublicKey`]. Prints as `SHA256:` and base64 without padding, as ssh does.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl PublicKey {
    /// From the DER bytes that a peer presented.
    pub fn from_der(der: &[u8]) -> PublicKey {
        PublicKey(der.to_vec())
    }

    /// From one line of base64.
    pub fn from_base64(text: &str) -> Option<PublicKey> {
        STANDARD.decode(text).ok().filter(|der| !der.is_empty()).map(PublicKey)
    }

    /// From a PEM file (`BEGIN PUBLIC KEY`), like the `key.pub` that haul writes.
    ///
    /// # Errors
    /// [`FileError`] where it cannot be read or is something else.
    pub fn from_pem_file(path: &Path) -> Result<PublicKey, FileError> {
        let text = std::fs::read(path).map_err(|e| FileError::io(path, e))?;
        let der = SubjectPublicKeyInfoDer::from_pem_slice(&text).map_err(|_| {
            FileError::content(path, "is not a public key in PEM form (-----BEGIN PUBLIC KEY-----)")
        })?;
        Ok(PublicKey(der.to_vec()))
    }

    /// Its DER bytes.
    pub fn to_der(&self) -> &[u8] {
        &self.0
    }

    /// As one line of base64.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.0)
    }

    /// What is shown to people and stored in `known_servers`.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        Fingerprint(out)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

impl Fingerprint {
    /// From `SHA256:base64`.
    pub fn parse(text: &str) -> Option<Fingerprint> {
        let bytes = STANDARD_NO_PAD.decode(text.strip_prefix("SHA256:")?).ok()?;
        bytes.try_into().ok().map(Fingerprint)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A private key with its public one: who a server or a client is.
#[derive(Clone)]
pub struct Identity {
    signing: Arc<dyn SigningKey>,
    public: PublicKey,
}

impl Identity {
    /// Loads the key at `path`, or makes one there (mode 0600), with its public key as `PATH.pub`.
    ///
    /// # Errors
    /// [`FileError`] where the file cannot be read, written or understood, or others may read it.
    pub fn load_or_create(path: &Path) -> Result<Identity, FileError> {
        if let Some(identity) = Identity::load(path)? {
            return Ok(identity);
        }
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| FileError::content(path, "no random numbers to make a key from"))?;
        let identity =
            Identity::from_pkcs8(document.as_ref()).map_err(|r| FileError::content(path, r))?;
        file::replace(
            &path.with_extension("pub"),
            pem("PUBLIC KEY", &identity.public.0).as_bytes(),
        )?;
        file::replace(path, pem(PRIVATE, document.as_ref()).as_bytes())?;
        Ok(identity)
    }

    /// Makes a key that lasts as long as this process.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn generate() -> std::io::Result<Identity> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let document = document.map_err(|_| std::io::Error::other("no random numbers"))?;
        Identity::from_pkcs8(document.as_ref()).map_err(std::io::Error::other)
    }

    /// Loads the key at `path`; none where there is no such file.
    ///
    /// # Errors
    /// As [`Identity::load_or_create`].
    pub fn load(path: &Path) -> Result<Option<Identity>, FileError> {
        use std::os::unix::fs::PermissionsExt;
        let text = match std::fs::read(path) {
            Ok(text) => Zeroizing::new(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(FileError::io(path, e)),
        };
        let mode = std::fs::metadata(path)
            .map_err(|e| FileError::io(path, e))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            let reason = format!(
                "other users may read this private key (mode {:o}): chmod 600 it",
                mode & 0o777
            );
            return Err(FileError::content(path, reason));
        }
        let der = private_der(&text).ok_or_else(|| {
            FileError::content(
                path,
                "is not a private key in PEM form (-----BEGIN PRIVATE KEY-----)",
            )
        })?;
        let identity = Identity::from_pkcs8(&der);
        identity.map(Some).map_err(|r| FileError::content(path, r))
    }

    fn from_pkcs8(der: &[u8]) -> Result<Identity, &'static str> {
        let signing =
            any_eddsa_type(&PrivatePkcs8KeyDer::from(der)).map_err(|_| "is not an Ed25519 key")?;
        let public = signing.public_key().ok_or("has no public key")?;
        Ok(Identity {
            public: PublicKey(public.to_vec()),
            signing,
        })
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// For rustls: the raw public key in the place of a certificate.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(vec![self.public.0.clone().into()], self.signing.clone()))
    }
}

/// The label of a private key in PEM form.
const PRIVATE: &str = "PRIVATE KEY";

/// The DER of a private key in PEM form. No copy of it stays behind in memory.
fn private_der(pem: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, text) = text.split_once(&format!("-----BEGIN {PRIVATE}-----"))?;
    let (body, _) = text.split_once(&format!("-----END {PRIVATE}-----"))?;
    // as large as it can become: a buffer that grows leaves the smaller one behind
    let mut base64 = Zeroizing::new(String::with_capacity(body.len()));
    base64.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; body.len()]);
    let length = STANDARD.decode_slice(base64.as_bytes(), &mut der).ok()?;
    der.truncate(length);
    Some(der)
}

fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let lines: Vec<&str> = (0..body.len())
        .step_by(64)
        .filter_map(|i| body.get(i..body.len().min(i.saturating_add(64))))
        .collect();
    let lines = Zeroizing::new(lines.join("\n"));
    Zeroizing::new(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", *lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_private_and_is_reloaded() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = Identity::load_or_create(&path).unwrap();
        let reloaded = Identity::load_or_create(&path).unwrap();
        assert_eq!(made.public(), reloaded.public());
        assert_eq!(
            &PublicKey::from_pem_file(&dir.path().join("key.pub")).unwrap(),
            made.public()
        );
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let print = made.public().fingerprint();
        assert_eq!(Fingerprint::parse(&print.to_string()), Some(print));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Identity::load(&path).err().unwrap().to_string().contains("chmod 600"));
    }
}
