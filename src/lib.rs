//! haul moves files between machines. This library holds its modules so that fuzz targets and
//! benchmarks reach them; it promises no stable interface. `docs/ARCHITECTURE.md` is the map.
//!
//! Imports run one way: `cmd → net → chunk → store`; `auth` is used by `net` and `cmd` alone.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

pub mod auth;
pub mod chunk;
// Its comments are the text of --help, where [USER@]HOST:PATH is no link.
#[allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]
pub mod cmd;
pub mod net;
pub mod store;
