//! The summary of a transfer: the last line, or the last JSON object.

use super::units::size;
use crate::net::printable;
use crate::net::transfer::report::Counters;
use crate::store::Omissions;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The shortest time, in seconds, with a meaningful rate.
const RATE_FROM: f64 = 0.5;

/// The result of a transfer.
pub struct Summary {
    verb: &'static str,
    pub files: u64,
    bytes: u64,
    dirs: u64,
    dirs_made: u64,
    dirs_not_empty: u64,
    unchanged: u64,
    skipped: u64,
    planned: u64,
    bytes_planned: u64,
    deleted: u64,
    deletions_planned: u64,
    bytes_saved: u64,
    failed: u64,
    seconds: f64,
    omissions: Omissions,
}

impl Summary {
    /// Sums up the counters of a transfer that took so long.
    pub fn of(verb: &'static str, counters: &Counters, took: Duration) -> Summary {
        let get = Counters::get;
        let before = get(&counters.files_before);
        Summary {
            verb,
            files: get(&counters.files_done).saturating_add(before),
            bytes: get(&counters.bytes_committed),
            dirs: get(&counters.dirs_done),
            dirs_made: get(&counters.dirs_made),
            dirs_not_empty: get(&counters.dirs_not_empty),
            // files that were committed before the transfer started again have been found unchanged
            // since
            unchanged: get(&counters.unchanged).saturating_sub(before),
            skipped: get(&counters.skipped),
            planned: get(&counters.planned),
            bytes_planned: get(&counters.bytes_planned),
            deleted: get(&counters.deleted),
            deletions_planned: get(&counters.deletions_planned),
            bytes_saved: get(&counters.bytes_saved),
            failed: get(&counters.failed),
            seconds: took.as_secs_f64(),
            omissions: counters.omissions(),
        }
    }

    /// True if anything that was asked for is there.
    pub fn has_done(&self) -> bool {
        let files = [self.files, self.unchanged, self.skipped, self.planned, self.deleted];
        files.into_iter().any(|count| count > 0) || self.dirs_made > 0
    }

    /// True if there is anything to report.
    pub fn has_any(&self) -> bool {
        let counts = [self.files, self.unchanged, self.skipped, self.planned, self.failed];
        counts.into_iter().any(|count| count > 0)
    }

    /// As an object.
    pub fn json(&self, complete: bool) -> Value {
        let mut summary = json!({
            "event": "summary", "verb": self.verb, "files": self.files, "bytes": self.bytes,
            "dirs": self.dirs, "unchanged": self.unchanged, "skipped": self.skipped,
            "planned": self.planned, "planned_bytes": self.bytes_planned,
            "deleted": self.deleted, "deletions_planned": self.deletions_planned,
            "saved": self.bytes_saved,
            "failed": self.failed, "seconds": self.seconds, "complete": complete,
        });
        if let Some(object) = summary.as_object_mut() {
            if self.dirs_not_empty > 0 {
                object.insert("dirs_not_empty".into(), json!(self.dirs_not_empty));
            }
            if !self.omissions.is_empty() {
                object.insert("not_set".into(), self.not_set_json());
            }
        }
        summary
    }

    fn not_set_json(&self) -> Value {
        let mut object: Map<String, Value> =
            self.not_set().map(|(count, name, _)| (name.into(), json!(count))).collect();
        if !self.omissions.why.is_empty() {
            object.insert("reason".into(), json!(self.omissions.why));
        }
        object.into()
    }

    /// What could not be set, of how many entries: its name in JSON, and a text for people with `#`
    /// for the count.
    fn not_set(&self) -> impl Iterator<Item = (u64, &'static str, &'static str)> {
        let o = &self.omissions;
        let counts = [
            (o.owners, "owners", "owners of #"),
            (o.groups, "groups", "groups of #"),
            (o.set_ids, "set_ids", "set-uid and set-gid bits of #"),
            (o.xattrs, "xattrs", "extended attributes of #"),
            (o.acls, "acls", "ACLs of #"),
            (o.devices, "devices", "# devices or sockets"),
            (o.links, "links", "# hard links"),
        ];
        counts.into_iter().filter(|(count, ..)| *count > 0)
    }

    /// The line that says what could not be set, if that is so.
    pub fn omitted(&self) -> Option<String> {
        let parts: Vec<String> = self
            .not_set()
            .map(|(count, _, what)| what.replace('#', &count.to_string()))
            .collect();
        if parts.is_empty() {
            return None;
        }
        let why = match self.omissions.why.as_str() {
            "" => String::new(),
            why => format!(": {}", printable(why)),
        };
        let verb = self.verb;
        Some(format!("{verb}: not set: {}{why}", parts.join(", ")))
    }

    /// As a line of a dry run.
    pub fn plan(&self) -> String {
        let s = if self.planned == 1 { "" } else { "s" };
        let bytes = size(self.bytes_planned);
        let delete = match self.deletions_planned {
            0 => String::new(),
            count => format!(", delete {count}"),
        };
        let would = match self.verb {
            "get" => "fetch",
            "cp" => "copy",
            _ => "send",
        };
        let mut line =
            format!("{}: would {would} {} file{s}, {bytes}{delete}", self.verb, self.planned);
        self.add_counts(&mut line);
        line
    }

    /// As a line.
    pub fn line(&self) -> String {
        let s = if self.files == 1 { "" } else { "s" };
        let mut line = format!("{}: {} file{s}, {}", self.verb, self.files, size(self.bytes));
        line += &format!(" in {:.1} s", self.seconds);
        if self.seconds >= RATE_FROM && self.bytes > 0 {
            line += &format!(" ({}/s)", size((self.bytes as f64 / self.seconds) as u64));
        }
        if self.bytes_saved > 0 {
            line += &format!(", compression saved {}", size(self.bytes_saved));
        }
        self.add_counts(&mut line);
        line
    }

    fn add_counts(&self, line: &mut String) {
        let counts = [
            (self.unchanged, "unchanged"),
            (self.skipped, "skipped"),
            (self.deleted, "deleted"),
            (self.dirs_not_empty, "not deleted because they are not empty"),
            (self.failed, "failed"),
        ];
        for (count, what) in counts {
            if count > 0 {
                *line += &format!(", {count} {what}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_takes_half_a_second() {
        let summary = |seconds| Summary {
            verb: "put",
            files: 1,
            bytes: 2 << 20,
            dirs: 0,
            dirs_made: 0,
            dirs_not_empty: 0,
            unchanged: 3,
            skipped: 0,
            planned: 0,
            bytes_planned: 0,
            deleted: 0,
            deletions_planned: 0,
            bytes_saved: 0,
            failed: 0,
            seconds,
            omissions: Omissions::default(),
        };
        assert_eq!(summary(0.49).line(), "put: 1 file, 2 MiB in 0.5 s, 3 unchanged");
        assert_eq!(summary(0.5).line(), "put: 1 file, 2 MiB in 0.5 s (4 MiB/s), 3 unchanged");
    }
}
