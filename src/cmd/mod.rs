//! The command line: one file per subcommand, with its arguments and its work. No other layer
//! prints.

mod allowing;
mod backup;
mod bar;
mod bench;
mod between;
mod calls;
mod carry;
mod cat;
mod chmod;
mod chosen;
mod complete;
mod confine;
mod connect;
mod connect_args;
mod cp;
mod deferred;
mod deletion;
mod deletion_args;
mod destination;
mod df;
mod drop_root;
mod du;
mod each;
pub mod failure;
mod filter;
mod find;
mod generate;
mod get;
mod habits;
mod hint;
mod interrupt;
mod invite;
mod limit;
mod listen;
mod listing;
mod ln;
mod locate;
pub mod location;
mod locks;
mod log_file;
mod login;
mod ls;
mod manual;
mod metadata;
mod mkdir;
mod mv;
mod others;
mod output;
mod panics;
mod paths;
mod patterns;
mod place_copy;
mod progress;
mod prompt;
mod put;
mod rate;
mod remote;
mod remote_sources;
mod report;
mod report_json;
mod rm;
mod rsync;
mod running;
mod runtime;
mod screen;
mod serve;
mod serve_stdio;
mod served_place;
mod server;
mod server_name;
mod service;
mod sessions;
mod settings;
mod shared_state;
mod show;
mod source_removal;
mod sources;
mod ssh;
mod ssh_args;
mod stat;
mod store_args;
mod summary;
mod table;
mod touch;
mod transfer;
mod undelete;
mod units;
mod user;
mod view;
mod walk;
mod wire;

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
  with or without a leading slash. ssh://[USER@]HOST[:PORT]/PATH goes over ssh,
  and so does HOST:PATH where no haul server answers; there a PATH without a
  slash starts at your home directory.

Examples:
  server$ haul serve /srv/files       prints an invite, and what to type there
  laptop$ haul login server           asks for that invite, and never again
  laptop$ haul put -r photos server:  and haul get, ls, find, rm, mv, cat, stat

`haul help COMMAND` lists the options of a command, with examples.

Exit status:";

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Put(put::Args),
    Get(get::Args),
    Cp(cp::Args),
    Rsync(rsync::Args),
    Ls(ls::Args),
    Find(find::Args),
    Cat(cat::Args),
    Mkdir(mkdir::Args),
    Rm(rm::Args),
    Mv(mv::Args),
    Ln(ln::Args),
    Touch(touch::Args),
    Chmod(chmod::Args),
    Stat(stat::Args),
    Du(du::Args),
    Df(df::Args),
    Undelete(undelete::Args),
    Locks(locks::Args),
    Unlock(locks::UnlockArgs),
    Limit(limit::Args),
    Login(login::Args),
    Invite(invite::Args),
    User(user::Args),
    Bench(bench::Args),
    Generate(generate::Args),
    #[command(hide = true)]
    Complete(complete::Args),
    #[command(hide = true)]
    PlaceCopy(place_copy::Args),
}

impl Command {
    /// True if standard output is to be JSON.
    fn is_json(&self) -> bool {
        match self {
            Command::Serve(args) => args.json,
            Command::Put(args) => args.transfer.json,
            Command::Get(args) => args.transfer.json,
            Command::Cp(args) => args.transfer.json,
            Command::Ls(args) => args.json,
            Command::Stat(args) => args.json,
            Command::Df(args) => args.json,
            Command::Du(args) => args.json,
            Command::Find(args) => args.json,
            Command::Undelete(args) => args.json,
            Command::Locks(args) => args.json,
            Command::Limit(args) => args.json,
            Command::Mkdir(_)
            | Command::Rm(_)
            | Command::Mv(_)
            | Command::Ln(_)
            | Command::Touch(_)
            | Command::Rsync(_)
            | Command::Chmod(_)
            | Command::Cat(_)
            | Command::Unlock(_)
            | Command::Login(_)
            | Command::Invite(_)
            | Command::User(_)
            | Command::Bench(_)
            | Command::Generate(_)
            | Command::Complete(_)
            | Command::PlaceCopy(_) => false,
        }
    }
}

/// The command line of this process, with the tests of `haul find` as options.
pub fn parse() -> Cli {
    let words = find::as_options(std::env::args_os().collect());
    let wants_json = words.iter().any(|word| word == "--json");
    Cli::try_parse_from(words).unwrap_or_else(|error| {
        if wants_json && error.use_stderr() {
            Failure::of_parser(&error).print_json();
        }
        error.exit()
    })
}

/// Runs a command. A failure goes to standard error as one line.
pub fn main(cli: Cli, return_free_memory: fn()) -> ExitCode {
    panics::catch();
    runtime::forbid_memory_dumps();
    runtime::raise_open_files();
    match cli.command {
        Command::Rsync(args) => run_rsync(&args),
        command => match run(command, return_free_memory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        },
    }
}

/// Runs a command line of rsync, with rsync's exit codes.
fn run_rsync(args: &rsync::Args) -> ExitCode {
    let translated = match rsync::translate(args) {
        Ok(translated) => translated,
        Err(failure) => return failure.report_as(1),
    };
    let result = match Cli::try_parse_from(&translated.words) {
        // it starts no server
        Ok(cli) => run(cli.command, || {}),
        Err(e) => Err(rsync::refused(&e)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = translated.exit(failure.exit(), failure.is_vanished());
            failure.report_as(code)
        }
    }
}

fn run(command: Command, return_free_memory: fn()) -> Result<(), Failure> {
    if command.is_json() {
        failure::set_json();
    }
    let result = panics::contain(|| match command {
        // the server handles signals itself
        Command::Serve(args) => serve::run(&args, return_free_memory),
        Command::PlaceCopy(args) => place_copy::run(&args),
        // boxed: it is large, and each of these would move it through the stack
        other => runtime::block_on(async {
            let result = interrupt::run(panics::run(Box::pin(run_client(other)))).await;
            ssh::close_all().await;
            result
        }),
    });
    screen::finish();
    result
}

async fn run_client(command: Command) -> Result<(), Failure> {
    match command {
        // the server has a runtime of its own
        Command::Serve(_) | Command::PlaceCopy(_) => Ok(()),
        // it has been translated
        Command::Rsync(_) => Ok(()),
        // what a transfer remembers is large: it is not moved from frame to frame
        Command::Put(args) => Box::pin(put::run(args)).await,
        Command::Get(args) => Box::pin(get::run(args)).await,
        Command::Cp(args) => Box::pin(cp::run(args)).await,
        Command::Ls(args) => ls::run(args).await,
        Command::Find(args) => find::run(args).await,
        Command::Cat(args) => Box::pin(cat::run(args)).await,
        Command::Mkdir(args) => mkdir::run(args).await,
        Command::Rm(args) => rm::run(args).await,
        Command::Mv(args) => mv::run(args).await,
        Command::Ln(args) => ln::run(args).await,
        Command::Touch(args) => touch::run(args).await,
        Command::Chmod(args) => chmod::run(args).await,
        Command::Du(args) => du::run(args).await,
        Command::Stat(args) => stat::run(args).await,
        Command::Df(args) => df::run(args).await,
        Command::Undelete(args) => undelete::run(args).await,
        Command::Locks(args) => locks::run(args).await,
        Command::Unlock(args) => locks::unlock(args).await,
        Command::Limit(args) => limit::run(args).await,
        Command::Login(args) => login::run(args).await,
        Command::Invite(args) => invite::run(args),
        Command::User(args) => user::run(args).await,
        Command::Bench(args) => Box::pin(bench::run(args)).await,
        Command::Generate(args) => generate::run(&args, description()),
        Command::Complete(args) => complete::run(args, description()).await,
    }
}

/// The command's description, for manuals and completions.
fn description() -> clap::Command {
    use clap::CommandFactory;
    Cli::command()
}
