//! Opens stores: a directory of this machine, and others that share it.

use super::times::Times;
use super::tree::{Backup, Following, Reach, Tree};
use super::unchanged::Unchanged;
use super::{LocalStore, inode, sys};
use crate::store::backup::BackupPlan;
use crate::store::error::At;
use crate::store::{FollowedLinks, RemotePath, Rights, Store, StoreError};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use std::path::Path;
use std::sync::Arc;

impl LocalStore {
    /// Opens a directory as the root of a store.
    ///
    /// # Errors
    /// That of opening it.
    pub fn open(root: &Path) -> std::io::Result<LocalStore> {
        let dir = Dir::open_ambient_dir(root, ambient_authority())?;
        // cap-std resolves through /proc/self/fd, which it opens once: now, since a confined server
        // cannot later. Without it, a path is resolved by opening it, which for a FIFO never ends.
        let _ = dir.canonicalize(".");
        Ok(LocalStore::over(Tree::new(sys::readable(dir))))
    }

    /// Opens the whole machine, as this process's own user may use it: symlinks lead wherever they
    /// lead for other programs.
    ///
    /// # Errors
    /// That of opening it.
    pub fn open_machine() -> std::io::Result<LocalStore> {
        let dir = Dir::open_ambient_dir("/", ambient_authority())?;
        Ok(LocalStore::over(Tree::new(sys::readable(dir)).with_reach(Reach::Anywhere)))
    }

    /// Returns a store of the same directory, with the right to set more, or less.
    ///
    /// # Errors
    /// That of another handle of the directory.
    pub fn with_rights(&self, rights: Rights) -> std::io::Result<LocalStore> {
        let root = self.tree.root().try_clone()?;
        let tree = Tree::new(root).with_reach(self.tree.reach());
        Ok(LocalStore::over(tree.with_rights(rights)))
    }

    pub(super) fn over(tree: Tree) -> LocalStore {
        let tree = Arc::new(tree);
        LocalStore {
            unchanged: Arc::new(Unchanged::new(&tree)),
            times: Arc::new(Times::new(&tree)),
            tree,
        }
    }

    /// Returns the versions of a directory of this machine and of all directories above it. If two
    /// of these are equal on both sides of a connection, both sides are the same machine, and the
    /// same place.
    pub fn ancestors(path: &Path) -> Vec<String> {
        inode::ancestors(path)
    }

    /// Returns a store whose root is a directory of this one, for a user with a root of their own.
    /// Its open files and its calls under way are shares of that user.
    ///
    /// # Errors
    /// That of opening it; symlinks that lead outside are not followed.
    pub fn rooted_at(&self, path: &RemotePath, user: &str) -> Result<LocalStore, StoreError> {
        let dir = self.tree.dir(path)?.try_clone().at("open directory", path)?;
        let rights = self.tree.rights().clone();
        let tree = Tree::new(dir).with_reach(self.tree.reach());
        Ok(LocalStore::over(tree.of(&Arc::from(user)).with_rights(rights)))
    }

    /// Returns the store beneath a directory, as [`Store::subtree`], which moves aside what it
    /// replaces or removes.
    ///
    /// # Errors
    /// Why that directory, or the one for the backups, cannot be used.
    pub async fn backing_up(
        &self,
        path: &RemotePath,
        plan: BackupPlan,
    ) -> Result<Arc<dyn Store>, StoreError> {
        let made = self.run_on(path, move |tree, path| {
            let dir = tree.dir(path)?;
            let backup = Backup::new(tree, (path, &dir), plan)?;
            Ok(tree.beneath(dir).with_backup(backup))
        });
        Ok(Arc::new(LocalStore::over(made.await?)))
    }

    /// Returns the same store, for one transfer that follows symlinks as far as the store does on
    /// the way to a directory.
    ///
    /// # Errors
    /// That of another handle of the directory.
    pub fn following(&self, links: FollowedLinks) -> Result<LocalStore, StoreError> {
        self.with_links(links, self.tree.reach())
    }

    /// The same for files of this process's own user: symlinks are followed wherever they lead.
    ///
    /// # Errors
    /// That of another handle of the directory.
    pub fn following_anywhere(&self, links: FollowedLinks) -> Result<LocalStore, StoreError> {
        self.with_links(links, Reach::Anywhere)
    }

    fn with_links(&self, links: FollowedLinks, reach: Reach) -> Result<LocalStore, StoreError> {
        let root = self.tree.root().try_clone().at("open directory", &RemotePath::root())?;
        let tree = self.tree.beneath(Arc::new(root));
        Ok(LocalStore::over(match links {
            FollowedLinks::None => tree,
            _ => tree.with_links(Following { links, reach }),
        }))
    }
}
