//! Who is who: keys and pins, users and what they may do, passwords, invites.
//!
//! Everything here is small text files, read with their line numbers for errors and replaced
//! atomically (`file`). The server's are in its state directory, the client's in its configuration
//! directory.

pub mod credential;
pub mod file;
pub mod installed;
pub mod invite;
pub mod key;
pub mod known;
pub mod last_used;
pub mod name;
pub mod password;
pub mod saved;
pub mod state_file;
pub mod user;
mod user_line;
pub mod users;

pub use file::FileError;
pub use key::{Fingerprint, Identity, PublicKey};
pub use name::UserName;
