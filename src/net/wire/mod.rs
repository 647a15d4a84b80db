//! The messages and frames of the protocol: pure encoding and decoding, no I/O.
//!
//! `control.proto` and the files that it imports describe the control connection, [`frame`] the
//! data connections, [`code`] the status codes. [`request`] has the facts of each request.
//! [`measure`] bounds the memory of a decoded control message. [`entry`] converts entries to the
//! store's types and back, and checks all of them.

pub mod code;
pub mod entry;
pub mod frame;
pub mod measure;
pub mod reader;
pub mod request;

/// The messages of the `.proto` files, as prost generates them.
#[allow(missing_docs, clippy::doc_markdown)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/haul.v1.rs"));
}

pub use code::Code;
pub use reader::Malformed;

/// ALPN name of a control connection, with the protocol's version.
pub const ALPN_CONTROL: &[u8] = b"haul/1";
/// ALPN name of a data connection.
pub const ALPN_DATA: &[u8] = b"haul-data/1";
/// Label of the TLS exporter that keys the data connections' proofs.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-haul-data";
/// A feature, as a bit in `Login` and `LoginReply`: that side decompresses frames.
pub const FEATURE_COMPRESSION: u64 = 1;
/// Another one: that server sends to others, for clients that have a ticket from them.
pub const FEATURE_SENDING: u64 = 2;
/// Longest control message, in bytes.
pub const MAX_CONTROL: usize = 1 << 20;
/// The same before the login.
pub const MAX_CONTROL_BEFORE_LOGIN: usize = 8 << 10;
/// Longest version of a file or directory, in bytes.
pub const MAX_VERSION: usize = 256;
/// Most directories of a request for pages beneath a base.
pub const MAX_DIRS: usize = 256;
/// Most entries of its reply, besides one for each directory.
pub const MAX_LISTED: usize = 1024;
/// Most paths of any other request beneath a base.
pub const MAX_PATHS: usize = 1024;
/// Bytes a sender may have outstanding before the login's reply has granted a window.
pub const INITIAL_WINDOW: u64 = 1 << 20;
/// The default port of a server.
pub const DEFAULT_PORT: u16 = 4285;
