//! Status codes: three digits in the families of RFC 959, section 4.2.

use std::fmt;

/// The code of a reply or of a failed file.
///
/// An unknown code stays as it is, and is judged by its first digit: a newer peer may use codes
/// that an older one does not know.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u16);

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal;)*) => {
        impl Code {
            $($(#[doc = $doc])+ pub const $name: Code = Code($value);)*
            /// Every code with its name, for the documentation and its test.
            pub const ALL: &'static [(u16, &'static str)] = &[$(($value, stringify!($name))),*];
        }
    };
}

codes! {
    /// A transfer has been accepted and is under way.
    STARTED = 150;
    /// Done; nothing more to say.
    OK = 200;
    /// The reply has the answer.
    ANSWER = 213;
    /// The session ends because the client asked for it.
    BYE = 221;
    /// Logged in.
    LOGGED_IN = 230;
    /// The change was made.
    CHANGED = 250;
    /// The server is full or going away; try again later.
    UNAVAILABLE = 421;
    /// A transfer was ended before it was complete.
    ABORTED = 426;
    /// The server does not know the session (any more): log in again.
    NO_SESSION = 430;
    /// Another writer has locked the target.
    LOCKED = 450;
    /// An error below the server: I/O, limits of the system.
    LOCAL_ERROR = 451;
    /// No space, or no inodes.
    NO_SPACE = 452;
    /// A peer broke the protocol.
    MALFORMED = 500;
    /// A parameter is out of range or not valid.
    BAD_PARAMETER = 501;
    /// The request is not known to this server.
    NOT_IMPLEMENTED = 502;
    /// The request is known but not now: before login, or in a wrong state.
    BAD_SEQUENCE = 503;
    /// The receiver has no user or group that an option of the transfer names.
    UNKNOWN_OWNER = 504;
    /// Login refused, or not logged in.
    LOGIN_REFUSED = 530;
    /// No such file or directory.
    NOT_FOUND = 550;
    /// The target is another version than the one named, or the source changed while it was read.
    VERSION_CHANGED = 551;
    /// A quota is used up.
    QUOTA = 552;
    /// This name is not allowed: reserved, too long, not a single component.
    BAD_NAME = 553;
    /// Not permitted: by the file system or by what this user may do.
    DENIED = 554;
    /// Another entry is in the way: it exists, is (not) a directory, is not empty.
    CONFLICT = 555;
    /// This kind of entry cannot be transferred (FIFO, device, socket).
    BAD_KIND = 556;
    /// It is a directory, and directories were not asked for or a file was to go there.
    IS_DIRECTORY = 557;
}

impl Code {
    /// True for 1xx and 2xx.
    pub fn is_success(self) -> bool {
        (100..300).contains(&self.0)
    }

    /// From a peer's number: anything that is not three digits counts as [`Code::MALFORMED`].
    pub fn from_wire(value: u32) -> Code {
        match u16::try_from(value) {
            Ok(v) if (100..600).contains(&v) => Code(v),
            _ => Code::MALFORMED,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Code::ALL.iter().find(|(value, _)| *value == self.0) {
            Some((value, name)) => write!(f, "{value} {name}"),
            None => write!(f, "Unknown({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_pass_and_nonsense_is_malformed() {
        assert_eq!(format!("{:?}", Code::from_wire(299)), "Unknown(299)");
        assert!(Code::from_wire(299).is_success());
        assert!(!Code::from_wire(599).is_success());
        assert_eq!(Code::from_wire(0), Code::MALFORMED);
        assert_eq!(Code::from_wire(u32::MAX), Code::MALFORMED);
    }
}
