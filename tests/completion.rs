//! Completion in the real shells, at a terminal: keys go in, and what counts is the command that
//! the shell then runs.

use crate::support::terminal::Terminal;
use crate::support::tree::{set_mode, write};
use crate::support::{Client, Server};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the shells show when they are ready.
const PROMPT: &str = "ready> ";

/// What the program in haul's place shows at its end.
const ENDED: &str = "[ended]";

/// A shell with haul's completion, in a directory with local files and with a server that it is
/// logged in to as `srv`.
struct Shell {
    terminal: Terminal,
    /// The words of the command that ran, each in angle brackets.
    ran: PathBuf,
    client: Client,
    server: Server,
}

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/completions");

impl Shell {
    /// Starts a shell with its settings; `None`, and a word about it, where it is not installed.
    fn start(program: &str, arguments: &[&str], settings: &str) -> Option<Shell> {
        if Command::new(program).arg("--version").output().is_err() {
            println!("skipped: {program} is not installed");
            return None;
        }
        let server = Server::start();
        for name in [
            "my dir/summer (1).jpg",
            "my dir/winter.jpg",
            "pictures/a",
            "it's",
            "$(touch pwned)",
        ] {
            write(&server.root.join(name), b"x");
        }
        let client = server.client();
        for name in [
            "two words.txt",
            "phrase.txt",
            "secret",
            "dust",
            "docs/x",
            "docs/alone/only.txt",
        ] {
            write(&client.work().join(name), b"x");
        }
        let (bin, ran) = (client.dir.path().join("bin"), client.dir.path().join("ran"));
        stand_in(&bin.join("haul"), &ran);
        let rc = client.dir.path().join(".zshrc");
        write(&rc, settings.as_bytes());
        let mut command = Command::new(program);
        command
            .env_clear()
            .args(arguments.iter().map(|a| a.replace("RC", &rc.display().to_string())))
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("LANG", "C.UTF-8")
            .env("HOME", client.work())
            .env("SCRIPTS", SCRIPTS)
            .env("ZDOTDIR", client.dir.path())
            .env("HAUL_CONFIG_DIR", client.config())
            .current_dir(client.work());
        let mut terminal = Terminal::start(command, 80);
        terminal.expect(PROMPT);
        Some(Shell {
            terminal,
            ran,
            client,
            server,
        })
    }

    /// Types a line, in which `\t` is the TAB key, and gives the words that the shell ran in the
    /// end.
    #[track_caller]
    fn run(&mut self, keys: &str) -> String {
        self.terminal.enter(&format!("{keys}\r"));
        self.terminal.expect(ENDED);
        self.terminal.expect(PROMPT);
        // some shells take a slash of theirs back where one is typed
        std::fs::read_to_string(&self.ran).unwrap().replace("//.", "/.")
    }

    #[track_caller]
    fn runs(&mut self, keys: &str, words: &str) {
        assert_eq!(self.run(keys), words, "{keys:?}");
    }

    /// Types the beginning of a line and waits until these are offered; then gives it up.
    #[track_caller]
    fn offers(&mut self, keys: &str, words: &[&str]) {
        self.terminal.enter(&format!("{keys}\t\t"));
        for word in words {
            self.terminal.expect(word);
        }
        // Ctrl-U takes the line away
        self.runs("\x15haul ls", "<ls>");
    }
}

/// A program in haul's place that completes as haul does, and otherwise tells with which words it
/// was called.
fn stand_in(path: &Path, ran: &Path) {
    let script = format!(
        "#!/bin/sh\n\
         if [ \"$1\" = complete ]; then exec {haul} \"$@\"; fi\n\
         for word; do printf '<%s>' \"$word\"; done > {ran}\n\
         printf '[%s]\\n' ended\n",
        haul = env!("CARGO_BIN_EXE_haul"),
        ran = ran.display(),
    );
    write(path, script.as_bytes());
    set_mode(path, 0o755);
}

/// What every shell must do.
fn completes(shell: &mut Shell) {
    let home = shell.client.work().display().to_string();
    // subcommands, options, values of options
    shell.runs("haul mkd\tsrv:new", "<mkdir><srv:new>");
    shell.runs("haul help unl\t", "<help><unlock>");
    shell.runs("haul put --check\t-q x srv:", "<put><--checksum><-q><x><srv:>");
    shell.runs("haul put --retry-f\t5m x srv:", "<put><--retry-for><5m><x><srv:>");
    shell.runs("haul generate m\tx", "<generate><man><x>");
    shell.runs(
        "haul put --password-file=sec\tx srv:",
        "<put><--password-file=secret><x><srv:>",
    );
    shell.runs(
        "haul put --password-file sec\tx srv:",
        "<put><--password-file><secret><x><srv:>",
    );
    // local paths, with what the shell has to quote; directories where only they fit
    shell.runs("haul put two\tsrv:", "<put><two words.txt><srv:>");
    shell.runs("haul put two\tphr\tsrv:", "<put><two words.txt><phrase.txt><srv:>");
    shell.runs("haul put -r docs/al\ton\tsrv:", "<put><-r><docs/alone/only.txt><srv:>");
    shell.runs("haul put docs/alone/\tsrv:", "<put><docs/alone/only.txt><srv:>");
    shell.runs("haul serve d\talo\t/.", "<serve><docs/alone/.>");
    shell.runs("haul serve --state=d\t/. .", "<serve><--state=docs/.><.>");
    shell.runs("haul serve ~/d\t/.", &format!("<serve><{home}/docs/.>"));
    shell.runs("haul put ~/phr\tsrv:", &format!("<put><{home}/phrase.txt><srv:>"));
    completes_remote_names(shell);
    completes_doubtful_words(shell);
}

/// Hosts, and names on a server.
fn completes_remote_names(shell: &mut Shell) {
    // saved hosts
    shell.runs("haul ls s\t", "<ls><srv:>");
    shell.runs("haul ls kim@s\t", "<ls><kim@srv:>");
    shell.runs("haul put phr\tsr\t", "<put><phrase.txt><srv:>");
    shell.runs("haul login s\t", "<login><srv>");
    // names on the server, beneath each other and with what the shell has to quote
    shell.runs("haul ls srv:pic\t", "<ls><srv:pictures/>");
    shell.runs("haul stat srv:pic\t\t", "<stat><srv:pictures/a>");
    shell.runs("haul get srv:my\tsu\tx", "<get><srv:my dir/summer (1).jpg><x>");
    shell.runs("haul get srv:pictures/\tphr\t", "<get><srv:pictures/a><phrase.txt>");
    shell.runs("haul rm srv:it\t", "<rm><srv:it's>");
    shell.runs("haul rm srv:\\$\t", "<rm><srv:$(touch pwned)>");
    // whatever the command
    shell.runs("haul cat srv:pic\t\t", "<cat><srv:pictures/a>");
    shell.runs("haul du -s srv:pic\t", "<du><-s><srv:pictures/>");
    shell.runs("haul touch srv:pic\t\t", "<touch><srv:pictures/a>");
    shell.runs("haul chmod 644 srv:pic\t\t", "<chmod><644><srv:pictures/a>");
    shell.runs("haul find srv:pic\t -name x", "<find><srv:pictures/><-name><x>");
    shell.runs("haul cp phr\tsr\t", "<cp><phrase.txt><srv:>");
    shell.runs(
        "haul put --files-from=phr\t. srv:",
        "<put><--files-from=phrase.txt><.><srv:>",
    );
    // in quotes that are open
    shell.runs("haul put \"two\tsrv:", "<put><two words.txt><srv:>");
    shell.runs("haul put x \"two\tsrv:", "<put><x><two words.txt><srv:>");
    shell.runs("haul get \"srv:my d\tsu\tx", "<get><srv:my dir/summer (1).jpg><x>");
    shell.runs("haul get 'srv:my d\tsu\tx", "<get><srv:my dir/summer (1).jpg><x>");
    shell.runs("haul ls srv:'my d\tsu\t", "<ls><srv:my dir/summer (1).jpg>");
    shell.runs("haul rm 'srv:it\tx", "<rm><srv:it's><x>");
    shell.runs("haul rm \"srv:\\$\tx", "<rm><srv:$(touch pwned)><x>");
    assert!(!shell.client.work().join("pwned").exists());
    let url = format!("haul://kim@{}", shell.server.address);
    shell.runs(&format!("haul ls {url}/pic\t\t"), &format!("<ls><{url}/pictures/a>"));
}

/// Words that nothing fits, or several.
fn completes_doubtful_words(shell: &mut Shell) {
    // nothing fits: the line stays as it is, and no local name is put there
    shell.runs("haul ls srv:ph\t", "<ls><srv:ph>");
    shell.runs("haul ls ph\tx", "<ls><phx>");
    shell.runs("haul ls nowhere:\tx", "<ls><nowhere:x>");
    shell.runs("haul frobnicate \tx", "<frobnicate><x>");
    // a server whose key is not pinned is asked nothing, and neither is the user
    let stranger = Server::start();
    shell.runs(
        &format!("haul ls haul://kim@{}/\tx", stranger.address),
        &format!("<ls><haul://kim@{}/x>", stranger.address),
    );
    // several fit: they are shown, and nothing is typed that is not common to them
    shell.offers("haul put ", &["docs", "phrase.txt", "secret"]);
    shell.offers("haul rm srv:", &["my", "pictures"]);
    shell.offers("haul ls --h", &["--help", "--human-readable"]);
    shell.runs("haul rm srv:\tpi\t", "<rm><srv:pictures/>");
    // users of this machine's server, beside subcommands where both may come
    shell.runs("haul invite l\t", "<invite><ls>");
    let state = shell.server.state.display().to_string();
    shell.runs(
        &format!("haul user rm --state {state} k\t"),
        &format!("<user><rm><--state><{state}><kim>"),
    );
    shell.runs(
        &format!("haul invite --state {state} k\t--ttl 5m"),
        &format!("<invite><--state><{state}><kim><--ttl><5m>"),
    );
}

const BASH: &str = "PS1='ready> '\nbind 'set enable-bracketed-paste off'\n";

fn bash(settings: &str) {
    let settings = format!("{BASH}{settings}");
    if let Some(mut shell) = Shell::start("bash", &["--noprofile", "--rcfile", "RC"], &settings) {
        completes(&mut shell);
    }
}

#[test]
fn completion_in_bash() {
    bash(". \"$SCRIPTS/haul.bash\"\n");
}

/// bash-completion finds the script by the command's name, and loads it when it is needed.
#[test]
fn completion_in_bash_with_bash_completion() {
    const LOADER: &str = "/usr/share/bash-completion/bash_completion";
    if !Path::new(LOADER).exists() {
        println!("skipped: bash-completion is not installed");
        return;
    }
    bash(&format!(
        "export BASH_COMPLETION_USER_DIR=$HOME/../loaded\n\
         mkdir -p $BASH_COMPLETION_USER_DIR/completions\n\
         cp \"$SCRIPTS/haul.bash\" $BASH_COMPLETION_USER_DIR/completions/haul\n\
         . {LOADER}\n"
    ));
}

#[test]
fn completion_in_zsh() {
    let settings = "PS1='ready> '\n\
        unset zle_bracketed_paste\n\
        fpath=(\"$SCRIPTS\" $fpath)\n\
        autoload -Uz compinit && compinit -u -D\n";
    let Some(mut shell) = Shell::start("zsh", &["-d", "-i"], settings) else {
        return;
    };
    completes(&mut shell);
}

#[test]
fn completion_in_fish() {
    let settings = "function fish_prompt; printf 'ready> '; end\n\
        set -g fish_autosuggestion_enabled 0\n\
        set -p fish_complete_path $SCRIPTS\n";
    let Some(mut shell) = Shell::start("fish", &["--no-config", "-C", "source RC"], settings)
    else {
        return;
    };
    completes(&mut shell);
}

/// What a server calls its files reaches a terminal only where the terminal shows it as it is.
#[test]
fn completion_leaves_out_names_that_a_terminal_would_act_on() {
    let server = Server::start();
    let client = server.client();
    for name in ["fine", ".hidden", "\u{1b}[31mred", "two\nlines", "tab\there", "\u{202e}txt"] {
        write(&server.root.join(name), b"x");
    }
    assert_eq!(client.ok(["complete", "--", "rm", "srv:"]), "none\nsrv:fine\n");
    assert_eq!(client.ok(["complete", "--", "rm", "srv:."]), "none\nsrv:.hidden\n");
    assert_eq!(client.ok(["complete", "--", "rm", "nowhere:"]), "none\n");
}
