//! A user's login name, parsed where it comes in: from a person, a file, or the other machine.

use std::fmt;

/// Longest user name, in bytes.
pub const MAX_USER: usize = 64;

/// 1 to 64 letters, digits and `._@+-`, not starting with `-` or `.`: safe in a file's line, in a
/// log and on a terminal.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UserName(String);

impl UserName {
    /// Parses a name.
    ///
    /// # Errors
    /// A sentence that says what a name looks like.
    pub fn parse(name: &str) -> Result<UserName, String> {
        let ok = |c: char| c.is_ascii_alphanumeric() || "._@+-".contains(c);
        let length = (1..=MAX_USER).contains(&name.len());
        if !length || name.starts_with(['-', '.']) || !name.chars().all(ok) {
            return Err("a user name has 1 to 64 letters, digits and ._@+- \
                        and does not start with '-' or '.'"
                .into());
        }
        Ok(UserName(name.to_string()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` lets a table align it
        f.pad(&self.0)
    }
}

impl PartialEq<str> for UserName {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

#[cfg(test)]
mod tests {
    use super::UserName;

    #[test]
    fn only_harmless_names_are_names() {
        for name in ["kim", "sam@host", "a.b+c-d_e", "0", &"x".repeat(64)] {
            assert_eq!(UserName::parse(name).unwrap().as_str(), name);
        }
        let long = "x".repeat(65);
        for name in [
            "", "-rf", ".hidden", "a b", "a\nb", "k\u{eb}m", "a/b", "a=b", "a:b", "a#b", &long,
        ] {
            assert!(UserName::parse(name).is_err(), "{name:?}");
        }
    }
}
