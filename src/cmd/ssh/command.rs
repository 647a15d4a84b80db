//! The command line of ssh, or of the program in its place.

use super::super::failure::Failure;
use super::super::location::ServerName;
use crate::auth::installed::Place;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::time::timeout;

/// The cipher that is fastest with a processor's instructions for AES.
const FAST: &str = "aes128-gcm@openssh.com";
/// How long ssh may take to print its configuration.
const ASKING: Duration = Duration::from_secs(2);

/// ssh's options: no terminal, nothing forwarded, and nothing that its configuration may have for
/// interactive use.
const OPTIONS: [&str; 6] = [
    "-T",
    "-x",
    "-a",
    "-oRemoteCommand=none",
    "-oPermitLocalCommand=no",
    "-oClearAllForwardings=yes",
];

/// How ssh reaches a host.
#[derive(Clone, Debug)]
pub struct SshCommand {
    /// The program and its options.
    program: Vec<OsString>,
    /// `[USER@]HOST`.
    destination: String,
    port: Option<u16>,
}

impl SshCommand {
    /// The command for a host, by ssh or by the program that the user has named.
    ///
    /// # Errors
    /// A usage failure for a program that cannot be split into words.
    pub fn new(name: &ServerName, program: Option<&OsStr>) -> Result<SshCommand, Failure> {
        let words = match program.map(OsStr::to_str) {
            None => vec!["ssh".to_string()],
            Some(text) => text
                .and_then(shlex::split)
                .filter(|words| !words.is_empty())
                .ok_or_else(|| {
                    Failure::usage("-e: expected a program and its options, quoted as for a shell")
                })?,
        };
        let user = name.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let mut command = SshCommand {
            program: words.into_iter().map(OsString::from).collect(),
            destination: format!("{user}{}", name.host),
            port: name.port,
        };
        if command.is_ssh() {
            command.program.extend(OPTIONS.iter().map(OsString::from));
            if let Some(port) = name.port {
                command.program.extend(["-p".into(), port.to_string().into()]);
            }
        }
        Ok(command)
    }

    /// True of ssh itself, under any path.
    fn is_ssh(&self) -> bool {
        let program = self.program.first().map(Path::new).and_then(Path::file_name);
        program.is_some_and(|name| name == "ssh")
    }

    /// What ssh calls the host, with the port.
    pub fn destination(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}{port}", self.destination)
    }

    /// The host's name among those of all programs, without blanks.
    pub fn key(&self) -> String {
        let program = self.program.first().filter(|_| !self.is_ssh());
        let program = program.map(|name| format!("{}+", name.to_string_lossy()));
        format!("{}{}", program.unwrap_or_default(), self.destination()).replace(' ', "+")
    }

    /// The host, as the user reads it.
    pub fn shown(&self) -> String {
        format!("ssh://{}", self.destination())
    }

    /// The command line that starts a server there.
    pub fn to_serve(&self, place: Option<&Place>) -> Vec<OsString> {
        self.to_start(place, "serve --stdio")
    }

    /// The command line that starts haul there, with these arguments.
    pub fn to_start(&self, place: Option<&Place>, arguments: &str) -> Vec<OsString> {
        self.to_run(&match place {
            None => format!("haul {arguments}"),
            Some(place) => format!("sh -c '{}'", place.command(arguments)),
        })
    }

    /// The command line that runs a command there.
    pub fn to_run(&self, command: &str) -> Vec<OsString> {
        let mut words = self.program.clone();
        words.extend([self.destination.clone().into(), command.into()]);
        words
    }

    /// What ssh's configuration says of the host; of another program nothing is known.
    pub async fn ask(&self) -> SshConfig {
        if !self.is_ssh() {
            return SshConfig::default();
        }
        let mut command = tokio::process::Command::new(
            self.program.first().map_or(OsStr::new("ssh"), OsString::as_os_str),
        );
        command.args(self.program.iter().skip(1)).arg("-G").arg(&self.destination);
        command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        match timeout(ASKING, command.output()).await {
            Ok(Ok(output)) => SshConfig::parse(&String::from_utf8_lossy(&output.stdout)),
            _ => SshConfig::default(),
        }
    }

    /// The same command, which gives an attempt to connect up after a while: the next one may find
    /// another network. It still waits for the user.
    #[must_use]
    pub fn with_time_out(&self) -> SshCommand {
        let mut command = self.clone();
        if command.is_ssh() {
            command.program.push("-oConnectTimeout=15".into());
        }
        command
    }

    /// The same command with the ciphers of the configuration, the fastest first.
    #[must_use]
    pub fn with_ciphers_of(&self, config: &SshConfig) -> SshCommand {
        let mut command = self.clone();
        command.program.extend(config.fastest_first().map(OsString::from));
        command
    }
}

/// What ssh's configuration says of a host, as `ssh -G` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshConfig {
    /// The host's name or address.
    pub hostname: Option<String>,
    user: Option<String>,
    port: Option<String>,
    ciphers: Option<String>,
}

impl SshConfig {
    fn parse(text: &str) -> SshConfig {
        let value = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(String::from))
        };
        SshConfig {
            hostname: value("hostname"),
            user: value("user"),
            port: value("port"),
            ciphers: value("ciphers"),
        }
    }

    /// `USER@HOST:PORT`, if all of that is known.
    pub fn real_name(&self) -> Option<String> {
        let SshConfig {
            hostname: Some(host),
            user: Some(user),
            port: Some(port),
            ..
        } = self
        else {
            return None;
        };
        Some(format!("{user}@{host}:{port}"))
    }

    /// The option that has ssh prefer AES-GCM where this processor has instructions for it: it
    /// takes a third of the time of ssh's own first choice. The ciphers are those that the
    /// configuration allows, and no other.
    fn fastest_first(&self) -> Option<String> {
        let ciphers = self.ciphers.as_deref().filter(|_| has_aes())?;
        let (fast, others): (Vec<&str>, Vec<&str>) =
            ciphers.split(',').partition(|cipher| *cipher == FAST);
        let is_useful = !fast.is_empty() && ciphers.split(',').next() != Some(FAST);
        is_useful.then(|| format!("-oCiphers={FAST},{}", others.join(",")))
    }
}

/// True if the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::super::super::location::parse_host;
    use super::*;

    fn words(host: &str, program: Option<&str>) -> String {
        let command = SshCommand::new(&parse_host(host).unwrap(), program.map(OsStr::new)).unwrap();
        let words = command.to_serve(None);
        words.join(OsStr::new("|")).into_string().unwrap()
    }

    #[test]
    fn ssh_is_the_users_with_nothing_interactive() {
        let options = OPTIONS.join("|");
        assert_eq!(
            words("ssh://kim@h:2222", None),
            format!("ssh|{options}|-p|2222|kim@h|haul serve --stdio")
        );
        assert_eq!(
            words("h", Some("/opt/ssh -i 'my key'")),
            format!("/opt/ssh|-i|my key|{options}|h|haul serve --stdio")
        );
        assert_eq!(
            words("box", Some("docker exec -i")),
            "docker|exec|-i|box|haul serve --stdio"
        );
        let bad = SshCommand::new(&parse_host("h").unwrap(), Some(OsStr::new("ssh 'x")));
        assert_eq!(bad.unwrap_err().exit(), 2);
    }

    #[test]
    fn ciphers_are_those_of_the_configuration_in_another_order() {
        let config = |ciphers: &str| {
            SshConfig::parse(&format!("user kim\nhostname h.example\nciphers {ciphers}\nport 22\n"))
        };
        let usual = config("chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-ctr");
        assert_eq!(usual.hostname.as_deref(), Some("h.example"));
        assert_eq!(usual.real_name().as_deref(), Some("kim@h.example:22"));
        if has_aes() {
            assert_eq!(
                usual.fastest_first().as_deref(),
                Some("-oCiphers=aes128-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr")
            );
        }
        for other in ["aes256-ctr", "aes128-gcm@openssh.com,aes256-ctr", ""] {
            assert_eq!(config(other).fastest_first(), None, "{other}");
        }
    }
}
