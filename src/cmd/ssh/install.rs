//! A copy of haul for a host that has none: whether the user wants it, and which program it is.

use super::super::failure::{Failure, exit};
use super::super::prompt;
use super::super::screen;
use super::super::ssh_args::SshArgs;
use super::command::SshCommand;
use super::report::TerminalReport;
use crate::auth::installed::{Directory, Place};
use crate::net::client::tunnel::install::{Copy, Installer};
use crate::net::client::tunnel::report::Report;
use crate::net::error::{NoHaul, TunnelError};
use crate::net::{NetError, printable};
use std::path::PathBuf;
use std::sync::Arc;

/// Where packages put programs for other machines, as `haul-SYSTEM-MACHINE`.
const PROGRAMS: &str = "/usr/lib/haul/remote";

/// Puts a copy of haul to the host.
///
/// # Errors
/// That the user does not want it, that there is no program for that machine, and what fails there.
pub(super) async fn install(
    command: &SshCommand,
    args: &SshArgs,
    why: NoHaul,
    report: &Arc<TerminalReport>,
) -> Result<Place, Failure> {
    let shown = command.shown();
    let missing = || Failure::from(NetError::Tunnel(TunnelError::NoHaul(why)));
    if !args.install && !prompt::can_ask() {
        return Err(missing());
    }
    let name = format!("haul-{}", env!("CARGO_PKG_VERSION"));
    let own = machine();
    let report: Arc<dyn Report> = report.clone();
    let start = async |program: &[u8]| {
        let hash = blake3::hash(program).to_hex();
        let copy = Copy {
            name: &name,
            size: program.len(),
            hash: &hash,
        };
        let started = Installer::start(|script| command.to_run(script), &copy, &report).await;
        started.map_err(NetError::Tunnel)
    };
    let program = program_for(&own)?;
    let (installer, theirs) = start(program.as_deref().unwrap_or_default()).await?;
    // another machine needs another program, and the script has this one's hash
    let (installer, program) = match (theirs == own, program) {
        (true, Some(program)) => (installer, program),
        _ => {
            drop(installer);
            let Some(program) = file_for(&theirs)? else {
                return Err(no_program(&theirs, theirs == own));
            };
            (start(&program).await?.0, program)
        }
    };
    if !args.install && !is_wanted(&shown, why, program.len()).await? {
        return Err(missing());
    }
    let sent = installer.send(&program).await.map_err(NetError::Tunnel)?;
    let directory = Directory::ALL.into_iter().find(|directory| directory.name() == sent);
    let directory = directory.ok_or_else(|| Failure::internal("an unknown directory"))?;
    let word = directory.word().replacen("$HOME", "~", 1);
    screen::say(&format!("haul: {shown}: haul is in {word}/bin/{name} there"));
    Ok(Place { directory, name })
}

async fn is_wanted(shown: &str, why: NoHaul, bytes: usize) -> Result<bool, Failure> {
    let size = humansize::format_size(bytes, humansize::BINARY);
    let question = format!(
        "{}: {why}. Put a copy ({size}) to ~/.cache/haul/bin? [yes/no] ",
        printable(shown)
    );
    let answer = prompt::yes(&question).await;
    answer.map_err(|e| Failure::new(exit::CONNECT, format!("cannot read the answer: {e}")))
}

fn no_program(machine: &str, is_own: bool) -> Failure {
    let why = match is_own {
        true => "this haul needs libraries that may be missing there",
        false => "this haul is for another kind of machine",
    };
    let file = programs().join(file_name(machine));
    Failure::new(exit::CONNECT, format!("no copy of haul for {}: {why}", printable(machine)))
        .hint(format!("install haul there, or put a static build to {}", file.display()))
}

/// This machine, as `uname -sm` prints it.
fn machine() -> String {
    let uname = rustix::system::uname();
    format!(
        "{} {}",
        uname.sysname().to_string_lossy(),
        uname.machine().to_string_lossy()
    )
}

fn file_name(machine: &str) -> String {
    format!("haul-{}", machine.replace([' ', '/'], "-"))
}

/// The program for this kind of machine: this one, if it needs no libraries, or else a file.
fn program_for(own: &str) -> Result<Option<Vec<u8>>, Failure> {
    let running = std::fs::read("/proc/self/exe").unwrap_or_default();
    match is_static(&running) {
        true => Ok(Some(running)),
        false => file_for(own),
    }
}

/// The directory of programs for other machines.
fn programs() -> PathBuf {
    std::env::var_os("HAUL_REMOTE_DIR").map_or_else(|| PROGRAMS.into(), PathBuf::from)
}

fn file_for(machine: &str) -> Result<Option<Vec<u8>>, Failure> {
    let path = programs().join(file_name(machine));
    match std::fs::read(&path) {
        Ok(program) => Ok(Some(program)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::io(&format!("read {}", path.display()), &e)),
    }
}

/// True of an ELF program (64 bits, little-endian) that names no interpreter, and so needs no
/// libraries: see elf(5).
fn is_static(program: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, length: usize| {
        let bytes = program.get(at..at.checked_add(length)?)?;
        let shift = |all: u64, byte: &u8| (all << 8) | u64::from(*byte);
        Some(bytes.iter().rev().fold(0, shift))
    };
    let segments = || {
        let is_elf = program.get(..6)? == b"\x7fELF\x02\x01";
        let (first, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        let at = |index: u64| usize::try_from(first.checked_add(index.checked_mul(size)?)?).ok();
        let kinds = (0..count).map(|index| number(at(index)?, 4));
        let kinds: Option<Vec<u64>> = kinds.collect();
        kinds.filter(|kinds| is_elf && !kinds.is_empty())
    };
    segments().is_some_and(|kinds| !kinds.contains(&u64::from(INTERPRETER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_libraries_is_not_static() {
        // the C library's own loader names no interpreter
        let sh = std::fs::read("/bin/sh").unwrap();
        assert!(!is_static(&sh));
        assert!(!is_static(b"#!/bin/sh\n") && !is_static(b"") && !is_static(&sh[..40]));
        let mut changed = sh.clone();
        let first = usize::from(u16::from_le_bytes([sh[0x20], sh[0x21]]));
        let (size, count) = (usize::from(sh[0x36]), usize::from(sh[0x38]));
        for index in 0..count {
            let at = first + index * size;
            if changed[at] == 3 {
                changed[at] = 4;
            }
        }
        assert!(is_static(&changed));
    }

    #[test]
    fn files_are_named_as_their_machines() {
        assert_eq!(file_name("Linux x86_64"), "haul-Linux-x86_64");
        assert_eq!(file_name("../x y"), "haul-..-x-y");
    }
}
