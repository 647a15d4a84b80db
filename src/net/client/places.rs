//! What a put and a get are about: the paths at either end.

use crate::net::client::requests::IfMissing;
use crate::net::transfer::receive::destination::Target;
use crate::net::transfer::send::chosen::Chosen;
use std::sync::Arc;

/// Where a put goes on the server.
#[derive(Clone)]
pub struct PutDestination {
    /// A path beneath the user's root.
    pub path: Vec<u8>,
    /// The path must be a directory.
    pub directory: bool,
    /// The name of each source there, if the destination is a directory. Of a source without a name
    /// its contents go there.
    pub names: Vec<Vec<u8>>,
    /// What becomes of a path where nothing is.
    pub if_missing: IfMissing,
}

/// Where a get goes on this machine.
#[derive(Clone)]
pub struct GetDestination {
    /// A place for each source.
    pub target: Target,
    /// What the user calls the destination.
    pub label: Vec<u8>,
    /// The versions of the destination and the directories above it: the server refuses a source
    /// that is one of them.
    pub ancestors: Vec<String>,
}

impl GetDestination {
    /// The same, for a transfer that writes nothing.
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> GetDestination {
        if let Target::Tree(tree) = &mut self.target {
            tree.dry_run = dry_run;
        }
        self
    }
}

/// What a get fetches.
#[derive(Clone)]
pub struct GetSources {
    /// Paths beneath the user's root.
    pub paths: Vec<Vec<u8>>,
    /// What is sent of each; none where everything is.
    pub chosen: Vec<Arc<Chosen>>,
}

impl GetSources {
    /// All of these paths.
    pub fn whole(paths: Vec<Vec<u8>>) -> GetSources {
        GetSources {
            paths,
            chosen: Vec::new(),
        }
    }

    /// What is chosen of each, as it travels.
    pub(super) fn chosen_to_wire(&self) -> Vec<Vec<u8>> {
        self.chosen.iter().map(|chosen| chosen.to_wire()).collect()
    }
}
