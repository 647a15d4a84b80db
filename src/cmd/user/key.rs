//! `haul user key`: the keys with which a user logs in.

use super::account::{self, Named};
use crate::auth::last_used::{self, LastUsed};
use crate::auth::user::User;
use crate::auth::user::clean_label;
use crate::auth::user::{AuthorizedKey, parse_network};
use crate::auth::users;
use crate::auth::{Fingerprint, PublicKey};
use crate::cmd::failure::{Failure, exit};
use crate::cmd::hint;
use crate::cmd::output;
use crate::cmd::table;
use crate::cmd::units::{self, parse_time};
use clap::Subcommand;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Manage the keys that log a user in
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  haul user key add kim laptop.pub --label laptop --expires 90d
  haul user key ls kim
  haul user key rm kim laptop")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Add a key to a user, or change the options of a key
    #[command(after_help = "\
Examples:
  haul user key add kim laptop.pub --label laptop
  haul user key add backup key.pub --expires 90d --from 192.0.2.0/24")]
    Add(Add),
    /// Remove a key: its sessions and running transfers end at once
    #[command(after_help = "Example:\n  haul user key rm kim laptop")]
    Rm(Rm),
    /// List a user's keys
    #[command(after_help = "Example:\n  haul user key ls kim --json | jq -r .last_used")]
    Ls(Ls),
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    user: Named,

    /// The public key: the key.pub of a client
    #[arg(value_name = "FILE", value_hint = hint::LOCAL)]
    key: PathBuf,

    /// A label for the key
    #[arg(long, value_name = "TEXT", value_parser = parse_label)]
    label: Option<String>,

    /// When the key expires: after a time like 90d, or on a date like 2030-01-31
    #[arg(long, value_name = "TIME", value_parser = parse_expiry)]
    expires: Option<u64>,

    /// Accept the key only from this address or network; may be given several times
    #[arg(long, value_name = "CIDR", value_parser = parse_network)]
    from: Vec<IpNet>,
}

#[derive(clap::Args)]
struct Rm {
    #[command(flatten)]
    user: Named,

    /// The key's fingerprint or label, as haul user key ls prints it
    key: String,
}

#[derive(clap::Args)]
struct Ls {
    #[command(flatten)]
    user: Named,

    /// Print one JSON object per line: fingerprint, label, added, last_used, expires, from
    #[arg(long)]
    json: bool,
}

fn parse_label(text: &str) -> Result<String, String> {
    if text.is_empty() || clean_label(text) != text {
        return Err("a label has 1 to 64 characters and no control characters".into());
    }
    Ok(text.to_string())
}

/// Reads a time from now, or the beginning of a day, in seconds since 1970.
fn parse_expiry(text: &str) -> Result<u64, String> {
    if let Ok(time) = parse_time(text) {
        return Ok(users::now().saturating_add(time.as_secs()));
    }
    let wrong = |_| format!("expected a time like 90d or a date like 2030-01-31, got {text}");
    let date: jiff::civil::Date = text.parse().map_err(wrong)?;
    let start = date.to_zoned(jiff::tz::TimeZone::system()).map_err(wrong)?;
    Ok(u64::try_from(start.timestamp().as_second()).unwrap_or(0))
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Add(add) => add_key(add),
        Action::Rm(rm) => remove(&rm),
        Action::Ls(ls) => list(&ls),
    }
}

fn add_key(add: Add) -> Result<(), Failure> {
    let public = PublicKey::from_pem_file(&add.key)?;
    account::change(&add.user.state.users()?, &add.user.name, |user| {
        let index = user.keys.iter().position(|key| key.public == public);
        let before = index.map(|index| user.keys.remove(index));
        let added = before.as_ref().and_then(|key| key.added);
        user.keys.push(AuthorizedKey {
            label: add.label.clone().or(before.map(|key| key.label)).unwrap_or_default(),
            added: Some(added.unwrap_or_else(users::now)),
            expires: add.expires,
            from: add.from.clone(),
            public: public.clone(),
        });
        Ok(())
    })
}

fn remove(rm: &Rm) -> Result<(), Failure> {
    let name = &rm.user.name;
    let fingerprint = Fingerprint::parse(&rm.key);
    let meant = |key: &AuthorizedKey| match fingerprint {
        Some(wanted) => key.public.fingerprint() == wanted,
        None => key.label == rm.key,
    };
    account::change(&rm.user.state.users()?, name, |user| {
        let refused = |reason: String| {
            let hint = format!("haul user key ls {name} lists them");
            Err(Failure::new(exit::FAILED, reason).hint(hint))
        };
        match user.keys.iter().filter(|key| meant(key)).count() {
            0 => return refused(format!("{name} has no key {}", rm.key)),
            1 => {}
            n => return refused(format!("{name} has {n} keys {}: name it by fingerprint", rm.key)),
        }
        user.keys.retain(|key| !meant(key));
        Ok(())
    })
}

fn list(ls: &Ls) -> Result<(), Failure> {
    let users = ls.user.state.users()?;
    let user = account::find(&users, &ls.user.name)?;
    let last = LastUsed::read(users.beside(last_used::FILE))?;
    if ls.json {
        let mut keys = user.keys.iter().map(|key| as_json(&user, key, &last));
        return keys.try_for_each(|key| output::line(&key.to_string()));
    }
    let rows: Vec<_> = user.keys.iter().map(|key| row(&user, key, &last)).collect();
    table::print(["fingerprint", "label", "added", "last used", "expires", "from"], &rows)
}

fn row(user: &User, key: &AuthorizedKey, last: &LastUsed) -> [String; 6] {
    let fingerprint = key.public.fingerprint();
    let time = |at: Option<u64>, none: &str| match at {
        Some(at) => units::local_time(units::moment(at)),
        None => none.into(),
    };
    let from: Vec<String> = key.from.iter().map(IpNet::to_string).collect();
    [
        fingerprint.to_string(),
        output::name(key.label.as_bytes()),
        time(key.added, "?"),
        time(last.of(&user.name, &fingerprint), "never"),
        time(key.expires, "never"),
        if from.is_empty() {
            "anywhere".into()
        } else {
            from.join(",")
        },
    ]
}

/// A key as an object, with times in UTC, or null.
pub(super) fn as_json(user: &User, key: &AuthorizedKey, last: &LastUsed) -> Value {
    let fingerprint = key.public.fingerprint();
    let time = |at: Option<u64>| at.map(|at| units::rfc3339(units::moment(at)));
    json!({
        "fingerprint": fingerprint.to_string(),
        "label": key.label,
        "added": time(key.added),
        "last_used": time(last.of(&user.name, &fingerprint)),
        "expires": time(key.expires),
        "from": key.from.iter().map(IpNet::to_string).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_a_time_from_now_or_a_date() {
        let before = users::now();
        let day = parse_expiry("1d").unwrap();
        assert!((before + 86_400..=users::now() + 86_400).contains(&day));
        assert!(parse_expiry("2100-01-31").unwrap() > day);
        for wrong in ["", "soon", "2100-13-01", "-1d"] {
            assert!(parse_expiry(wrong).unwrap_err().contains("a date like"), "{wrong}");
        }
    }
}
