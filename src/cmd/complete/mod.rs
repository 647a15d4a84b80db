//! `haul complete`: the candidates for the shells' completion scripts. Hidden: people do not call
//! it.
//!
//! The first line of the answer says which local names fit too, and the shell completes those
//! itself: `files`, `dirs` or `none`. Each further line is one candidate for the whole last word,
//! unquoted, with its description behind a tab. A candidate that ends with `/`, `:` or `=` is the
//! beginning of more.

mod candidate;
mod candidates;
mod line;
mod remote;

use super::failure::Failure;
use super::find;
use super::output;
use candidate::Candidate;
use candidates::Local;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

/// Print the candidates for the last word of a command line
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// The words are quoted as bash shows them
    #[arg(long)]
    quoted: bool,

    /// The words behind the command's name, up to the cursor; the last one may be empty
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "WORD"
    )]
    words: Vec<OsString>,
}

/// Prints the candidates for the last word; `description` is the command line's.
pub(super) async fn run(args: Args, mut description: clap::Command) -> Result<(), Failure> {
    let mut words = args.words;
    if args.quoted {
        words = words.iter().map(|word| line::unquote(word)).collect();
    }
    let last = words.pop().unwrap_or_default();
    // behind the name of the command
    words.insert(0, OsString::new());
    let mut words = find::as_options(words);
    words.remove(0);
    description.build();
    let line = line::Line::read(&description, &words);
    let (local, found) = candidates::of(&line, &last).await;
    print(local, &found)
}

fn print(local: Local, candidates: &[Candidate]) -> Result<(), Failure> {
    let mut text = match local {
        Local::None => b"none\n".to_vec(),
        Local::Files => b"files\n".to_vec(),
        Local::Dirs => b"dirs\n".to_vec(),
    };
    for candidate in candidates.iter().filter(|c| output::is_plain(c.value.as_bytes())) {
        text.extend_from_slice(candidate.value.as_bytes());
        if !candidate.help.is_empty() {
            text.push(b'\t');
            text.extend_from_slice(output::name(candidate.help.as_bytes()).as_bytes());
        }
        text.push(b'\n');
    }
    // a shell that no longer listens needs no answer
    let _ = std::io::stdout().lock().write_all(&text);
    Ok(())
}
