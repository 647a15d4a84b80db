//! What a program's answer means: a greeting of haul, or why there is none.

use crate::net::client::tunnel::process::Process;
use crate::net::client::tunnel::report::Report;
use crate::net::error::{NoHaul, TunnelError};
use crate::net::lanes::greeting::{Unwelcome, Welcomed};
use crate::net::wire::proto::CarrierWelcome;
use std::process::ExitStatus;
use std::sync::Arc;

/// A greeting of the server.
pub(super) fn accept(
    welcomed: Welcomed,
    report: &Arc<dyn Report>,
) -> Result<CarrierWelcome, TunnelError> {
    if !welcomed.noise.is_empty() {
        report.noise(&welcomed.noise, false);
    }
    match welcomed.welcome.refused.is_empty() {
        true => Ok(welcomed.welcome),
        false => Err(TunnelError::Refused(welcomed.welcome.refused)),
    }
}

/// Why there was no greeting.
pub(super) async fn explain(
    unwelcome: Unwelcome,
    process: &Process,
    report: &Arc<dyn Report>,
) -> TunnelError {
    let noise = match unwelcome {
        Unwelcome::Malformed => return TunnelError::Malformed,
        Unwelcome::Noise(noise) => {
            report.noise(&noise, true);
            return TunnelError::Noise(noise.len());
        }
        Unwelcome::Ended(noise) => noise,
        Unwelcome::Failed(_) => Vec::new(),
    };
    let status = process.ended().await;
    if let Some(why) = status.and_then(|status| no_haul(status, &process.tail())) {
        return TunnelError::NoHaul(why);
    }
    if !noise.is_empty() {
        report.noise(&noise, true);
    }
    TunnelError::Ended {
        program: process.program().to_string(),
        status: status.map_or_else(|| "it did not say why".into(), |status| status.to_string()),
    }
}

/// Whether a program that ended like this could not start haul.
fn no_haul(status: ExitStatus, tail: &str) -> Option<NoHaul> {
    let tail = tail.to_lowercase();
    let says = |text: &str| tail.contains(text);
    match status.code()? {
        126 => Some(NoHaul::NotExecutable),
        127 => Some(NoHaul::Missing),
        // csh has no statuses of its own for these
        1 if says("haul: command not found") => Some(NoHaul::Missing),
        1 if says("haul: permission denied") => Some(NoHaul::NotExecutable),
        2 if says("unexpected argument '--stdio'") => Some(NoHaul::Old),
        _ => None,
    }
}
