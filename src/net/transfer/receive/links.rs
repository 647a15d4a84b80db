//! Files with several names: what is offered as another name of a file that is there becomes that.

use crate::chunk::buffer::BufferPool;
use crate::chunk::hash::hash_file;
use crate::net::transfer::receive::destination::{Candidate, Decision, Difference};
use crate::net::transfer::receive::tree::Tree;
use crate::store::{Entry, Kind, StoreExt};

impl Tree {
    /// Decides whether a candidate becomes another name of a file, in place of being sent or
    /// staying the file that it is. `old` is what is in its place.
    ///
    /// The other file must be what is offered, by the rules by which a file is unchanged. Then it
    /// does not matter how the first offer ended, or whether there was one.
    pub(super) async fn or_link(
        &self,
        decision: Decision,
        new: &Candidate,
        old: Option<&Entry>,
        pool: &BufferPool,
    ) -> Decision {
        let may_link = matches!(decision, Decision::Unchanged(_) | Decision::Wanted(_));
        let Some(first) = new.link.as_ref().filter(|_| may_link && !self.write_only) else {
            return decision;
        };
        let Ok(found) = self.store.stat(first).await else {
            return decision;
        };
        let is_linked = old.is_some_and(|old| {
            old.linked_file().is_some() && old.linked_file() == found.linked_file()
        });
        let is_same = found.kind == new.kind
            && match new.kind {
                Kind::Symlink => found.target.as_ref() == Some(&new.target),
                Kind::File => self.is_same_file(new, &found, pool).await,
                _ => found.device == new.device,
            };
        match (is_same, is_linked) {
            (false, _) => decision,
            (true, true) => match decision {
                Decision::Unchanged(_) => decision,
                _ => Decision::Unchanged(Difference::Unspecified),
            },
            (true, false) => Decision::Linked(first.clone(), found.version),
        }
    }

    /// True of a file of the offered size, and time or hash.
    async fn is_same_file(&self, new: &Candidate, found: &Entry, pool: &BufferPool) -> bool {
        let (Some(path), true) = (&new.link, new.size == Some(found.size)) else {
            return false;
        };
        match new.hash {
            Some(hash) => hash_file(&*self.store, path, pool).await.is_ok_and(|(_, h)| h == hash),
            None => {
                let (wanted, time) = (new.attributes.mtime, found.attributes.mtime);
                self.is_same_time(path, wanted, time).await
            }
        }
    }
}
