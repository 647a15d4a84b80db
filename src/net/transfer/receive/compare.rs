//! Compares what is offered with what is there.

use crate::chunk::buffer::BufferPool;
use crate::chunk::hash::hash_file;
use crate::net::transfer::options::{Options, PreservedTargets};
use crate::net::transfer::receive::destination::{Candidate, Decision, Difference};
use crate::net::transfer::receive::tree::Tree;
use crate::store::{Attributes, Entry, ErrorKind, Kind, Omissions, RemotePath, StoreError, Time};
use std::time::Duration;

impl Candidate {
    /// How it differs from a target of its kind.
    fn difference(&self, old: &Entry) -> Difference {
        match (self.kind, self.hash) {
            (kind, _) if kind != Kind::File => Difference::Content,
            _ if self.size != Some(old.size) => Difference::Size,
            (_, Some(_)) => Difference::Content,
            (_, None) => Difference::Time,
        }
    }
}

impl Tree {
    /// What `Target::make_dirs` would return, without making any.
    pub(super) async fn plan_dirs(
        &self,
        dirs: Vec<(RemotePath, Attributes)>,
        options: &Options,
    ) -> Vec<Result<bool, StoreError>> {
        let paths: Vec<_> = dirs.into_iter().map(|(path, _)| path).collect();
        let found = self.store.stat_many(paths.clone()).await;
        let planned = paths.iter().zip(found).map(|(path, found)| match found {
            Ok(entry) if entry.kind == Kind::Dir => Ok(false),
            Ok(_) if options.replaces_files() && !options.existing => Ok(true),
            Ok(_) => Err(StoreError::new(ErrorKind::NotADirectory, path)),
            // one that is not to be made is not new either
            Err(e) if options.is_missing(&e) => Ok(!options.existing),
            Err(e) => Err(e),
        });
        planned.collect()
    }

    /// Decides about a candidate in whose place nothing is.
    pub(super) fn decide_new(&self, new: &Candidate) -> Decision {
        match self.store.rights().may_make(new.kind) {
            true => Decision::Wanted(Difference::New),
            false => self.omit_special(),
        }
    }

    /// A socket or device that this side may not make.
    fn omit_special(&self) -> Decision {
        self.store.omit(&Omissions {
            devices: 1,
            ..Omissions::default()
        });
        Decision::Skipped
    }

    pub(super) async fn compare(
        &self,
        new: &Candidate,
        old: &Entry,
        options: &Options,
        pool: &BufferPool,
    ) -> Decision {
        match old.kind {
            Kind::Dir if options.mirror && new.parent != 0 => {
                return match self.dry_run {
                    true => Decision::Wanted(Difference::Kind),
                    false => Decision::Deferred,
                };
            }
            Kind::Dir => {
                return Decision::Failed(StoreError::new(ErrorKind::IsADirectory, &new.path));
            }
            // a device or a FIFO is not to become a file, unless they are sent like files
            kind if kind != Kind::Other && (options.metadata.devices || !kind.is_special()) => {}
            _ => return Decision::Failed(StoreError::new(ErrorKind::BadKind, &new.path)),
        }
        if !self.store.rights().may_make(new.kind) {
            return self.omit_special();
        }
        // With a condition on the version, that is checked under the lock, and the content
        // replaced; unless it is our own of a moment ago, whose acknowledgement was lost.
        let (wanted, found) = (new.attributes.mtime, old.attributes.mtime);
        let same_time = is_within(options.modify_window, wanted, found)
            || self.is_same_time(&new.path, wanted, found).await;
        let conditional = options.if_version.is_some() || self.write_only;
        let ours = options.retried && !self.write_only && new.hash.is_some() && same_time;
        if conditional && !ours {
            return Decision::Wanted(Difference::Version);
        }
        if old.kind != new.kind {
            return match options.preserved {
                PreservedTargets::All => Decision::Skipped,
                PreservedTargets::Newer | PreservedTargets::None => {
                    Decision::Wanted(Difference::Kind)
                }
            };
        }
        let same = match new.kind {
            Kind::Symlink => old.target.as_ref() == Some(&new.target),
            kind if kind.is_special() => old.device == new.device,
            _ if new.size != Some(old.size) => false,
            _ if options.size_only => true,
            _ => match new.hash {
                Some(hash) => {
                    hash_file(&*self.store, &new.path, pool).await.is_ok_and(|(_, h)| h == hash)
                }
                None => same_time,
            },
        };
        if !same {
            return match options.preserved {
                PreservedTargets::All => Decision::Skipped,
                PreservedTargets::Newer if new.kind == Kind::File && wanted < found => {
                    Decision::Skipped
                }
                PreservedTargets::Newer | PreservedTargets::None => {
                    Decision::Wanted(new.difference(old))
                }
            };
        }
        self.adjust(new, old, same_time).await
    }

    /// Gives an entry with the right content the attributes that it lacks.
    async fn adjust(&self, new: &Candidate, old: &Entry, same_time: bool) -> Decision {
        let (path, attributes) = (&new.path, &new.attributes);
        let mode_differs =
            new.kind != Kind::Symlink && (old.attributes.mode ^ attributes.mode) & 0o777 != 0;
        let differs = mode_differs || !same_time || attributes.may_lack(old);
        if (mode_differs || !same_time) && new.kind == Kind::Symlink && self.dry_run {
            return Decision::Wanted(Difference::Time);
        }
        let difference = match (mode_differs, same_time) {
            (true, _) => Difference::Mode,
            (false, false) => Difference::Time,
            (false, true) if attributes.has_other_owner(old) => Difference::Owner,
            // whether extended attributes differ is not known before they are set
            (false, true) => Difference::Unspecified,
        };
        if !differs || self.dry_run {
            return Decision::Unchanged(difference);
        }
        match self
            .store
            .set_attributes(vec![(path.clone(), attributes.clone())])
            .await
            .pop()
        {
            Some(Ok(())) => Decision::Unchanged(difference),
            // a file that may only be replaced
            _ => Decision::Wanted(Difference::Time),
        }
    }
}

impl Tree {
    /// True if a file that is to have the time `wanted` has it. What a store keeps of times is
    /// measured with a file, which a dry run does not make.
    pub(super) async fn is_same_time(&self, path: &RemotePath, wanted: Time, found: Time) -> bool {
        wanted == found
            || match self.dry_run {
                true => is_rounded(wanted, found),
                false => self.store.is_same_time(path, wanted, found).await,
            }
    }
}

/// True of times that differ by no more than `window`.
fn is_within(window: Duration, a: Time, b: Time) -> bool {
    let nanos = |time: Time| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    nanos(a).abs_diff(nanos(b)) <= window.as_nanos()
}

/// True of a time that may be `wanted`, rounded down to one or two seconds.
fn is_rounded(wanted: Time, found: Time) -> bool {
    found.nanos == 0 && (0..2).contains(&wanted.secs.saturating_sub(found.secs))
}
