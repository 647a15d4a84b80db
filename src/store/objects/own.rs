//! Texts of the servers' own, such as their users.

use super::ObjectStore;
use super::engine::Condition;
use super::outcome::{Failed, Swapped, Write};
use crate::store::error::StoreError;
use crate::store::path::RemotePath;

fn failed(failed: Failed) -> StoreError {
    failed.about(&RemotePath::root())
}

impl ObjectStore {
    /// A text that all servers of this store share, and its version; `None` if there is none.
    ///
    /// # Errors
    /// The engine's, or that it is no text.
    pub async fn own_text(&self, name: &str) -> Result<Option<(String, String)>, StoreError> {
        let entries = &self.0.entries;
        let found = entries.requests.get(&entries.keys.own(name), None).await.map_err(failed)?;
        let Some(content) = found else {
            return Ok(None);
        };
        let no_text = |_| StoreError::because("it is no UTF-8 text", &RemotePath::root());
        let text = String::from_utf8(content.bytes).map_err(no_text)?;
        Ok(Some((text, content.object.tag)))
    }

    /// Replaces such a text if it still has this version, `None` for one that is not there. False
    /// if it has not.
    ///
    /// # Errors
    /// The engine's.
    pub async fn put_own_text(
        &self,
        name: &str,
        text: &str,
        version: Option<&str>,
    ) -> Result<bool, StoreError> {
        let entries = &self.0.entries;
        // an entity tag may be a hash of the bytes: no two versions have the same ones
        let nonce = entries.requests.nonce();
        let mut lines: Vec<&str> = text.lines().filter(|l| !l.starts_with(NONCE)).collect();
        let line = format!("{NONCE}{nonce}");
        lines.push(&line);
        let write = Write {
            key: entries.keys.own(name),
            body: vec![format!("{}\n", lines.join("\n")).into()],
            record: nonce,
            condition: match version {
                Some(tag) => Condition::Matches(tag.to_string()),
                None => Condition::Absent,
            },
        };
        match entries.requests.swap(write).await.map_err(failed)? {
            Swapped::Done(_) => Ok(true),
            Swapped::Other(_) => Ok(false),
        }
    }
}

/// The beginning of the line, a comment, that no other version has.
const NONCE: &str = "# version ";
