//! What help texts and manual pages share: exit codes, files, variables, and related pages.

use clap::Command;

/// A term and what it means.
pub type Entry = (&'static str, &'static str);

/// The exit codes.
pub const EXITS: [Entry; 11] = [
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong usage"),
    ("3", "done in part: some files failed, each named on standard error"),
    ("4", "could not connect, or gave up retrying"),
    ("5", "login refused"),
    ("6", "the server's key is not the pinned one, or is not accepted"),
    ("7", "locked by another writer, or changed meanwhile (--if-version)"),
    ("8", "no such file or directory, or not allowed"),
    ("9", "nothing deleted: the guard of --delete prevented it"),
    (
        "129, 130, 143",
        "hung up, interrupted, terminated; partial files stay for the next run",
    ),
];

/// The exit codes of commands that talk to no server.
const LOCAL_EXITS: [&str; 4] = ["0", "1", "2", "129, 130, 143"];

const CLIENT_FILES: [Entry; 8] = [
    (
        "~/.config/haul/",
        "The settings of this user: $HAUL_CONFIG_DIR, else $XDG_CONFIG_HOME/haul, else this \
        directory.",
    ),
    (
        "~/.config/haul/servers",
        "The saved names, one line each: NAME host=HOST port=PORT, and user=USER where another \
        user than the local \
         one logs in. via=ssh reaches the host over ssh, via=auto directly or else over ssh. haul \
         login adds lines; you may edit them. Empty lines and lines that begin with # are ignored.",
    ),
    (
        "~/.config/haul/installed",
        "Where haul has put copies of itself over ssh, one line each: HOST in=DIRECTORY name=NAME.",
    ),
    (
        "/usr/lib/haul/remote/haul-SYSTEM-MACHINE",
        "Static builds of haul for other machines, named as uname -sm prints them, which haul \
        puts to hosts that have none.",
    ),
    (
        "~/.config/haul/known_servers",
        "The pinned keys, one line each: HOST:PORT SHA256:FINGERPRINT. Remove a line to accept a \
        new key of that \
         server at the next login.",
    ),
    (
        "~/.local/state/haul/paths",
        "What the paths to servers needed last time, with which the next transfer begins, one line \
        each: HOST:PORT, connections=, round_trip= (microseconds), since= (seconds since 1970). \
        A line lasts a week. It is in $XDG_STATE_HOME/haul if that is set, and in $HAUL_CONFIG_DIR \
        if that is. Nothing is lost with it.",
    ),
    (
        "~/.config/haul/key",
        "This user's private key. haul login makes it; only its owner may read it.",
    ),
    (
        "~/.config/haul/key.pub",
        "Its public half, for haul user add --key on a server.",
    ),
];

const SERVER_FILES: [Entry; 4] = [
    (
        "/var/lib/haul/",
        "The server's state, unless --state names another directory: $XDG_STATE_HOME/haul if that \
        is set, else this \
         directory for root and ~/.local/state/haul for others. Only its owner may read it.",
    ),
    (
        "/var/lib/haul/key",
        "The server's private key. Clients that have pinned it refuse to log in to a server with \
        another key.",
    ),
    (
        "/var/lib/haul/users",
        "The users, with their passwords, keys, rights and unused invites. haul user and haul \
        invite change it.",
    ),
    ("/var/lib/haul/last-used", "When each key logged in last."),
];

/// The files that a transfer keeps beside its target.
const PARTIAL_FILES: [Entry; 1] = [(
    ".NAME~HASH.haul, .NAME~HASH.haul-info, .NAME~HASH.haul-dir, .NAME~HASH.haul-old",
    "The partial file of a target NAME, which is also its lock, the checkpoint of how much of \
     it is durable, and the partial directory of a new directory NAME. \
     HASH belongs to NAME; other files that end with .haul are ordinary files. All go when NAME \
     is complete; haul locks lists them, haul unlock removes them.",
)];

const CLIENT_VARIABLES: [Entry; 6] = [
    ("HAUL_CONFIG_DIR", "The directory of the settings."),
    (
        "HAUL_PASSWORD",
        "The password, unless --password-file gives one. Without either, haul logs in with the \
        key.",
    ),
    ("HAUL_RETRY_FOR", "How long to retry without progress, like --retry-for."),
    ("HAUL_REMOTE_DIR", "Another directory than /usr/lib/haul/remote."),
    (
        "USER, LOGNAME",
        "The user to log in as, if neither the command nor the saved name has one.",
    ),
    (
        "XDG_CONFIG_HOME, HOME",
        "The parents of the settings directory without HAUL_CONFIG_DIR.",
    ),
];

const SERVER_VARIABLES: [Entry; 1] = [(
    "XDG_STATE_HOME, HOME",
    "The parents of the state directory without --state.",
)];

/// Pages beside those of a page's parent, its subcommands and its siblings there.
const RELATED: [(&str, &[&str]); 27] = [
    ("serve", &["invite", "user", "login", "locks"]),
    ("put", &["get", "ls", "stat", "undelete", "locks", "limit", "login"]),
    ("get", &["put", "ls", "stat", "limit", "login"]),
    ("cp", &["put", "get", "mv"]),
    ("rsync", &["put", "get", "cp"]),
    ("ls", &["stat", "find", "get", "df"]),
    ("find", &["ls", "du", "rm"]),
    ("cat", &["get", "ls"]),
    ("mkdir", &["put", "rm"]),
    ("rm", &["mkdir", "mv", "ls"]),
    ("mv", &["rm", "ln", "ls"]),
    ("ln", &["mv", "ls"]),
    ("touch", &["chmod", "stat"]),
    ("chmod", &["touch", "ls"]),
    ("du", &["df", "find"]),
    ("stat", &["ls", "df"]),
    ("df", &["stat", "ls"]),
    ("undelete", &["put", "get", "cp"]),
    ("locks", &["unlock", "put"]),
    ("unlock", &["locks"]),
    ("limit", &["put", "get"]),
    ("login", &["invite", "serve", "ls", "put"]),
    ("invite", &["login", "user", "serve"]),
    ("user", &["invite", "serve"]),
    ("bench", &["put", "get", "serve"]),
    ("generate", &["put", "serve"]),
    ("haul", &[]),
];

/// What the page of a command depends on.
struct Role {
    /// It talks to a server.
    client: bool,
    /// It uses the state of this machine's server.
    server: bool,
    /// It writes files, or lists locks and partial files.
    writes: bool,
}

impl Role {
    fn of(command: &Command) -> Role {
        let has = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
        let within = || command.get_subcommands().any(|inner| Role::of(inner).server);
        let name = command.get_name();
        let top = name == "haul";
        Role {
            client: top || name == "login" || has("accept_new"),
            server: has("state") || within(),
            writes: top || ["put", "get", "cp", "serve", "locks", "unlock"].contains(&name),
        }
    }
}

/// The exit codes of a command.
pub fn exits(command: &Command) -> Vec<Entry> {
    let role = Role::of(command);
    let every = EXITS.iter().copied();
    match command.get_name() {
        "serve" => [
            ("0", "stopped by SIGINT or SIGTERM"),
            ("1", "failed"),
            ("2", "wrong usage"),
            ("8", "the directory does not exist, or is not a directory"),
            ("130, 143", "a second signal ended it at once"),
        ]
        .to_vec(),
        _ if role.client => every.collect(),
        _ => every.filter(|(code, _)| LOCAL_EXITS.contains(code)).collect(),
    }
}

/// The files that a command uses.
pub fn files(command: &Command) -> Vec<Entry> {
    let role = Role::of(command);
    let mut files = Vec::new();
    if role.client {
        files.extend(CLIENT_FILES);
    }
    if role.server {
        files.extend(SERVER_FILES);
    }
    if role.writes {
        files.extend(PARTIAL_FILES);
    }
    if files.is_empty() {
        files.push((
            "DIR",
            "The output: haul.1 and a page for each command, or a script for each shell.",
        ));
    }
    files
}

/// The variables that a command reads.
pub fn variables(command: &Command) -> Vec<Entry> {
    let role = Role::of(command);
    let mut variables = Vec::new();
    if role.client {
        variables.extend(CLIENT_VARIABLES);
    }
    if role.server {
        variables.extend(SERVER_VARIABLES);
    }
    if command.get_name() == "bench" {
        variables.push(("TMPDIR", "The parent of the temporary directory; /tmp without it."));
    }
    variables
}

/// The commands that are related to a command.
pub fn related(name: &str) -> &'static [&'static str] {
    let found = RELATED.iter().find(|(page, _)| *page == name);
    found.map_or(&[], |(_, related)| related)
}
