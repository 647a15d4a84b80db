//! Passwords: argon2id hashes (RFC 9106), in the PHC string format.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use std::sync::LazyLock;
use zeroize::Zeroizing;

/// Longest password, in bytes: hashing must not take as long as a peer likes.
pub const MAX_PASSWORD: usize = 1024;

/// A password in memory, which is wiped when it is dropped.
pub type Secret = Zeroizing<String>;

/// What is verified against where there is nothing to verify against, so that it takes the same
/// time.
static DECOY: LazyLock<Option<String>> = LazyLock::new(|| hash("no such user").ok());

/// A password that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    /// It is empty.
    #[error("the password is empty")]
    Empty,
    /// Longer than [`MAX_PASSWORD`].
    #[error("the password is longer than 1024 bytes")]
    TooLong,
    /// The hash could not be made.
    #[error("the password could not be hashed")]
    Hash,
}

/// The PHC string for a new password.
///
/// # Errors
/// [`BadPassword`].
pub fn hash(password: &str) -> Result<String, BadPassword> {
    match password.len() {
        0 => Err(BadPassword::Empty),
        n if n > MAX_PASSWORD => Err(BadPassword::TooLong),
        _ => match Argon2::default().hash_password(password.as_bytes()) {
            Ok(hash) => Ok(hash.to_string()),
            Err(_) => Err(BadPassword::Hash),
        },
    }
}

/// True when the string is one that [`verify`] understands.
pub fn is_hash(phc: &str) -> bool {
    PasswordHash::new(phc).is_ok()
}

/// Checks a password; `None` for a user that does not exist or has none, which takes as long and is
/// false.
///
/// Costs 19 MiB and some 20 ms: callers bound how many run at once.
pub fn verify(password: &str, phc: Option<&str>) -> bool {
    if password.len() > MAX_PASSWORD {
        return false;
    }
    let decoy = DECOY.as_deref();
    let Some(hash) = phc.or(decoy).and_then(|text| PasswordHash::new(text).ok()) else {
        return false;
    };
    let matches = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
    matches && phc.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_of_a_real_user_passes() {
        let phc = hash("correct horse").unwrap();
        assert!(phc.starts_with("$argon2id$"));
        assert!(verify("correct horse", Some(&phc)));
        assert!(!verify("wrong", Some(&phc)));
        assert!(!verify("no such user", None));
        assert_eq!(hash(""), Err(BadPassword::Empty));
        assert_eq!(hash(&"x".repeat(1025)), Err(BadPassword::TooLong));
    }
}
