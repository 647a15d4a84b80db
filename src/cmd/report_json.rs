//! The events of a transfer as JSON objects; docs/JSON.md lists them.

use super::output::{self, put_text};
use crate::net::transfer::exclusion::Exclusion;
use crate::net::transfer::filter::Filter;
use crate::net::transfer::receive::destination::Difference;
use crate::net::transfer::report::Event;
use serde_json::{Map, Value, json};

/// Why a file would be sent.
pub(super) fn word(difference: Difference) -> &'static str {
    match difference {
        Difference::New => "new",
        Difference::Kind => "kind",
        Difference::Size => "size",
        Difference::Time => "time",
        Difference::Content | Difference::Unspecified => "content",
        Difference::Version => "version",
        Difference::Mode => "mode",
        Difference::Owner => "owner",
    }
}

/// The same, if it is known.
fn known_word(difference: Difference) -> Option<&'static str> {
    (difference != Difference::Unspecified).then(|| word(difference))
}

/// An event, as an object; `rules` are those of the transfer, if it explains what it does not send.
pub(super) fn object(event: &Event, rules: Option<&Filter>) -> Value {
    let (name, path) = name_and_path(event);
    let mut object = Map::new();
    object.insert("event".into(), json!(name));
    if let Some(path) = path {
        put_text(&mut object, "path", path);
    }
    if let Event::Excluded { why, .. } = event {
        add_exclusion(&mut object, why, rules);
    }
    for (field, value) in fields(event) {
        if !value.is_null() {
            object.insert(field.into(), value);
        }
    }
    Value::Object(object)
}

/// Why an entry is not sent, and the rule or the line that says so.
fn add_exclusion(object: &mut Map<String, Value>, why: &Exclusion, rules: Option<&Filter>) {
    let reason = match why {
        Exclusion::Rule(index) => {
            if let Some(rule) = rules.and_then(|rules| rules.rule(*index)) {
                put_text(object, "rule", rule.text());
                object.insert("origin".into(), json!(rule.origin()));
            }
            "rule"
        }
        Exclusion::IgnoreFile {
            file,
            line,
            pattern,
        } => {
            put_text(object, "file", file);
            object.insert("line".into(), json!(line));
            object.insert("pattern".into(), json!(pattern));
            "ignore_file"
        }
        Exclusion::TooSmall => "min_size",
        Exclusion::TooLarge => "max_size",
        Exclusion::FileSystem => "file_system",
        Exclusion::Empty => "empty",
        Exclusion::Unknown => "unknown",
    };
    object.insert("reason".into(), json!(reason));
}

fn name_and_path(event: &Event) -> (&'static str, Option<&[u8]>) {
    match event {
        Event::Committed { path, .. } => ("file", Some(path)),
        Event::Unchanged { path, .. } => ("unchanged", Some(path)),
        Event::Skipped { path, .. } => ("skipped", Some(path)),
        Event::Planned { path, .. } => ("planned", Some(path)),
        Event::Excluded { path, .. } => ("excluded", Some(path)),
        Event::Deleted { path } => ("deleted", Some(path)),
        Event::DeletionPlanned { path } => ("deletion_planned", Some(path)),
        Event::NotDeleted { .. } => ("not_deleted", None),
        Event::Resumed { path, .. } => ("resumed", Some(path)),
        Event::Restarted { path, .. } => ("restarted", Some(path)),
        Event::Retrying => ("retrying", None),
        Event::Failed { path, .. } => ("failed", Some(path)),
    }
}

/// The other fields; an object has no null.
fn fields(event: &Event) -> Vec<(&'static str, Value)> {
    match event {
        Event::Committed {
            size,
            hash,
            version,
            difference,
            ..
        } => vec![
            ("size", json!(size)),
            ("hash", json!(hash.as_ref().map(|hash| output::hex(hash)))),
            ("version", json!(version)),
            ("difference", json!(known_word(*difference))),
        ],
        Event::Unchanged {
            size, difference, ..
        } => vec![("size", json!(size)), ("difference", json!(known_word(*difference)))],
        Event::Skipped { size, .. } => vec![("size", json!(size))],
        Event::Planned {
            size, difference, ..
        } => vec![("size", json!(size)), ("difference", json!(word(*difference)))],
        Event::NotDeleted {
            planned,
            reason,
            command,
        } => vec![
            ("planned", json!(planned)),
            ("reason", json!(reason)),
            ("command", json!(command)),
        ],
        Event::Resumed { offset, .. } => vec![("offset", json!(offset))],
        Event::Restarted { discarded, .. } => vec![("discarded", json!(discarded))],
        Event::Failed { code, text, .. } => {
            vec![("code", json!(code.0)), ("reason", json!(text))]
        }
        Event::Excluded { .. }
        | Event::Deleted { .. }
        | Event::DeletionPlanned { .. }
        | Event::Retrying => Vec::new(),
    }
}
