//! The command line: one file per subcommand, with its arguments and its work. No other layer
//! prints.

mod bar;
mod bench;
mod calls;
mod complete;
mod confine;
mod connect;
mod df;
mod drop_root;
mod each;
pub mod failure;
mod filter;
mod generate;
mod get;
mod habits;
mod hint;
mod interrupt;
mod invite;
pub mod location;
mod locks;
mod login;
mod ls;
mod manual;
mod metadata;
mod mkdir;
mod mv;
mod output;
mod panics;
mod progress;
mod prompt;
mod put;
mod report;
mod rm;
mod runtime;
mod screen;
mod serve;
mod server;
mod settings;
mod stat;
mod summary;
mod table;
mod transfer;
mod units;
mod user;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;

/// Moves files and trees between machines: encrypted, verified, atomic.
#[derive(Parser)]
#[command(
    name = "haul",
    version,
    max_term_width = 100,
    after_help = after_help(),
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The text behind the list of commands.
fn after_help() -> String {
    let exits = manual::reference::EXITS.iter();
    let exits: String = exits.map(|(code, meaning)| format!("\n  {code:<14}{meaning}")).collect();
    format!("{AFTER_HELP}{exits}")
}

const AFTER_HELP: &str = "\
Remote paths:
  [USER@]HOST:PATH, as with scp, or haul://[USER@]HOST[:PORT]/PATH. HOST may be
  a name that `haul login` has saved. PATH starts at your root on the server,
  with or without a leading slash.

Examples:
  server$ haul serve /srv/files       prints an invite, and what to type there
  laptop$ haul login server           asks for that invite, and never again
  laptop$ haul put -r photos server:  and haul get, ls, mkdir, mv, rm, stat, df

`haul help COMMAND` lists the options of a command, with examples.

Exit status:";

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Put(put::Args),
    Get(get::Args),
    Ls(ls::Args),
    Mkdir(mkdir::Args),
    Rm(rm::Args),
    Mv(mv::Args),
    Stat(stat::Args),
    Df(df::Args),
    Locks(locks::Args),
    Unlock(locks::UnlockArgs),
    Login(login::Args),
    Invite(invite::Args),
    User(user::Args),
    Bench(bench::Args),
    Generate(generate::Args),
    #[command(hide = true)]
    Complete(complete::Args),
}

impl Command {
    /// True if standard output is to be JSON.
    fn is_json(&self) -> bool {
        match self {
            Command::Serve(args) => args.json,
            Command::Put(args) => args.transfer.json,
            Command::Get(args) => args.transfer.json,
            Command::Ls(args) => args.json,
            Command::Stat(args) => args.json,
            Command::Df(args) => args.json,
            Command::Locks(args) => args.json,
            Command::Mkdir(_)
            | Command::Rm(_)
            | Command::Mv(_)
            | Command::Unlock(_)
            | Command::Login(_)
            | Command::Invite(_)
            | Command::User(_)
            | Command::Bench(_)
            | Command::Generate(_)
            | Command::Complete(_) => false,
        }
    }
}

/// Runs a command. A failure goes to standard error as one line.
pub fn main(cli: Cli) -> ExitCode {
    panics::catch();
    runtime::forbid_memory_dumps();
    runtime::raise_open_files();
    if cli.command.is_json() {
        failure::set_json();
    }
    let result = panics::contain(|| match cli.command {
        // the server handles signals itself
        Command::Serve(args) => serve::run(&args),
        other => runtime::block_on(interrupt::run(panics::run(run_client(other)))),
    });
    screen::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run_client(command: Command) -> Result<(), Failure> {
    match command {
        // the server has a runtime of its own
        Command::Serve(_) => Ok(()),
        Command::Put(args) => put::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Ls(args) => ls::run(args).await,
        Command::Mkdir(args) => mkdir::run(args).await,
        Command::Rm(args) => rm::run(args).await,
        Command::Mv(args) => mv::run(args).await,
        Command::Stat(args) => stat::run(args).await,
        Command::Df(args) => df::run(args).await,
        Command::Locks(args) => locks::run(args).await,
        Command::Unlock(args) => locks::unlock(args).await,
        Command::Login(args) => login::run(args).await,
        Command::Invite(args) => invite::run(args),
        Command::User(args) => user::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Generate(args) => generate::run(&args, description()),
        Command::Complete(args) => complete::run(args, description()).await,
    }
}

/// The command's description, for manuals and completions.
fn description() -> clap::Command {
    use clap::CommandFactory;
    Cli::command()
}
