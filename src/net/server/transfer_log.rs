//! The log line of a transfer.

use crate::net::error::NetError;
use crate::net::printable;
use crate::net::server::session::Session;
use crate::net::transfer::report::Counters;
use std::net::IpAddr;
use std::time::Instant;

/// The log line of a transfer, which is written at its end.
pub(super) struct TransferLog {
    who: String,
    from: IpAddr,
    verb: &'static str,
    path: String,
    started: Instant,
}

/// A path as the log shows it.
pub(super) fn logged_path(path: &[u8]) -> String {
    match path {
        [] => "/".into(),
        path => printable(&String::from_utf8_lossy(path)),
    }
}

impl TransferLog {
    pub(super) fn new(session: &Session, verb: &'static str, path: &[u8]) -> TransferLog {
        TransferLog {
            who: session.who.clone(),
            from: session.grant.address(),
            verb,
            path: logged_path(path),
            started: Instant::now(),
        }
    }

    /// Writes the line.
    pub(super) fn ended(self, c: &Counters, ended: &Result<(), NetError>) {
        let TransferLog {
            who,
            from,
            verb,
            path,
            started,
        } = self;
        let (files, bytes) = (Counters::get(&c.files_done), Counters::get(&c.bytes_done));
        let (unchanged, failed) = (Counters::get(&c.unchanged), Counters::get(&c.failed));
        let seconds = format_args!("{:.1}", started.elapsed().as_secs_f32()).to_string();
        match ended {
            Ok(()) => {
                tracing::info!(
                    %who, %from, path, files, bytes, unchanged, failed, %seconds,
                    "{verb} finished"
                )
            }
            Err(e) => {
                let error = printable(&e.to_string());
                tracing::info!(
                    %who, %from, path, files, bytes, unchanged, failed, %seconds, %error,
                    "{verb} ended"
                );
            }
        }
    }
}
