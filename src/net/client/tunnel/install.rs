//! Puts a copy of haul to a machine that ssh reaches: its bytes go to a script there.
//!
//! The script prints what machine it is, waits for a word, finds a directory where programs may be
//! executed, and writes its standard input to a file there. The copy then verifies itself and takes
//! its name. Lines that belong to this begin with a random mark, so that nothing else is taken for
//! them.

use crate::net::client::tunnel::process::Process;
use crate::net::client::tunnel::report::Report;
use crate::net::error::TunnelError;
use crate::net::lanes::greeting::{MOST_NOISE, random};
use std::ffi::OsString;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};

/// The script, for `sh -c` between single quotes; any shell passes it on as it is. `[ -O` makes
/// sure that no other user has made the directory. A file of one word is executed first: where that
/// fails, programs are not executed there.
const SCRIPT: &str = "umask 077; echo MARK machine \"$(uname -sm)\"; read -r go; \
    [ \"$go\" = send ] || exit 0; \
    for p in cache runtime tmp; do case $p in \
    cache) u=\"$HOME/.cache/haul\";; \
    runtime) [ -n \"$XDG_RUNTIME_DIR\" ] || continue; u=\"$XDG_RUNTIME_DIR/haul\";; \
    tmp) u=\"/var/tmp/haul-$(id -u)\";; esac; \
    mkdir -p \"$u/bin\" 2>/dev/null; [ -h \"$u\" ] && continue; [ -h \"$u/bin\" ] && continue; \
    [ -O \"$u\" ] && [ -O \"$u/bin\" ] || continue; \
    t=\"$u/bin/.new-$$\"; echo exit 0 > \"$t\" && chmod 700 \"$t\" && \"$t\" 2>/dev/null \
    || { rm -f \"$t\"; continue; }; \
    cat > \"$t\" && [ \"$(wc -c < \"$t\")\" -eq SIZE ] && echo MARK in $p && \
    \"$t\" place-copy \"$t\" NAME HASH; s=$?; rm -f \"$t\"; exit $s; done; exit 126";

/// A script that waits for the copy.
pub struct Installer {
    process: Process,
    reader: BufReader<ChildStdout>,
    writer: ChildStdin,
    mark: String,
}

/// A copy of haul, before it is sent.
pub struct Copy<'a> {
    /// The name that it is to have.
    pub name: &'a str,
    /// Its length, in bytes.
    pub size: usize,
    /// Its BLAKE3 hash, in hexadecimal.
    pub hash: &'a str,
}

/// The command for the other machine, with this mark.
fn script(mark: &str, copy: &Copy<'_>) -> String {
    let script = SCRIPT.replace("MARK", mark).replace("NAME", copy.name);
    let script = script.replace("SIZE", &copy.size.to_string()).replace("HASH", copy.hash);
    format!("sh -c '{script}'")
}

impl Installer {
    /// Starts the script: `command` makes a command line of what is to run there. Returns what
    /// machine it is, as `uname -sm` prints it.
    ///
    /// # Errors
    /// If the program does not start or ends early.
    pub async fn start(
        command: impl Fn(&str) -> Vec<OsString>,
        copy: &Copy<'_>,
        report: &Arc<dyn Report>,
    ) -> Result<(Installer, String), TunnelError> {
        let bytes = random().map_err(|e| TunnelError::Refused(e.to_string()))?;
        let hex: String = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mark = format!("haul-{hex}");
        report.starting();
        let command = command(&script(&mark, copy));
        let started = Process::start(&command, report);
        let (process, (stdout, writer)) = started.inspect_err(|_| report.started(false))?;
        let mut installer = Installer {
            process,
            reader: BufReader::new(stdout),
            writer,
            mark,
        };
        let machine = installer.line("machine").await;
        report.started(false);
        Ok((installer, machine?))
    }

    /// Sends the copy; returns the directory that has it now.
    ///
    /// # Errors
    /// If no directory there takes it, or it does not run there.
    pub async fn send(mut self, program: &[u8]) -> Result<String, TunnelError> {
        let sent = async {
            self.writer.write_all(b"send\n").await?;
            self.writer.write_all(program).await?;
            self.writer.shutdown().await
        };
        // if it is cut short, the script says so by its end
        let _ = sent.await;
        drop(self.writer);
        let directory = marked(&mut self.reader, &self.mark, "in").await;
        let status = self.process.ended().await;
        match directory.filter(|_| status.is_some_and(|status| status.success())) {
            Some(directory) => Ok(directory),
            None => Err(TunnelError::Refused("a copy of haul does not run there".into())),
        }
    }

    async fn line(&mut self, kind: &str) -> Result<String, TunnelError> {
        if let Some(line) = marked(&mut self.reader, &self.mark, kind).await {
            return Ok(line);
        }
        let status = self.process.ended().await;
        Err(TunnelError::Ended {
            program: self.process.program().to_string(),
            status: status.map_or_else(|| "it did not say why".into(), |status| status.to_string()),
        })
    }
}

/// The rest of the next line with this mark and kind; `None` if the stream ends before, or has too
/// much of something else.
async fn marked(reader: &mut BufReader<ChildStdout>, mark: &str, kind: &str) -> Option<String> {
    let mut limited = reader.take(MOST_NOISE as u64);
    let mut line = Vec::new();
    while limited.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).into_owned();
        let rest = text.trim_end().split_once(mark).map(|(_, rest)| rest.trim_start());
        if let Some(rest) = rest.and_then(|rest| rest.strip_prefix(kind)) {
            return Some(rest.trim_start().to_string());
        }
        line.clear();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_one_word_for_every_shell() {
        let copy = Copy {
            name: "haul-0.1.0",
            size: 5,
            hash: "ab",
        };
        let script = script("haul-00", &copy);
        let inner = script.strip_prefix("sh -c '").unwrap().strip_suffix('\'').unwrap();
        // what csh or fish would take for something of their own between single quotes
        assert!(!inner.contains(['\'', '\n', '!', '\\']), "{inner}");
    }
}
