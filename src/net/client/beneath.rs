//! Requests about many entries beneath one directory of the server.

use crate::net::client::Client;
use crate::net::control::codec::refused;
use crate::net::error::NetError;
use crate::net::transfer::backup::BackupOptions;
use crate::net::transfer::view::{Seen, View};
use crate::net::wire::proto::{self, reply, request};
use crate::net::wire::{MAX_DIRS, MAX_LISTED, entry};
use crate::store::{Entry, Page, RemotePath, Removal};

fn unexpected(what: &str) -> NetError {
    NetError::Protocol(format!("expected one {what} for each path asked for, got another number"))
}

impl Client {
    /// Pages of directories beneath `base`, each from its cookie on (empty: the start). Returns
    /// those of the first directories, of at least one.
    ///
    /// # Errors
    /// [`NetError`], here and below: refused, or lost on the way. The inner one is about a
    /// directory.
    pub async fn list_beneath(
        &self,
        base: &[u8],
        dirs: &[(RemotePath, Vec<u8>)],
        view: &View,
    ) -> Result<Vec<Result<Page, NetError>>, NetError> {
        let cursor = |(path, cookie): &(RemotePath, Vec<u8>)| proto::DirCursor {
            path: path.as_bytes().to_vec(),
            cookie: cookie.clone(),
        };
        let list = proto::ListBeneath {
            base: base.to_vec(),
            dirs: dirs.iter().map(cursor).collect(),
            limit: u32::try_from(MAX_LISTED).unwrap_or(0),
            one_file_system: view.one_file_system,
        };
        match self.request(request::Body::ListBeneath(list)).await?.body {
            Some(reply::Body::ListBeneath(reply)) if is_bounded(&reply, dirs.len()) => {
                reply.pages.into_iter().map(page_of).collect()
            }
            _ => Err(unexpected("page")),
        }
    }

    /// What the server has at each path beneath `base`; `top` is the directory beneath it whose
    /// file system the view may not leave.
    pub async fn see_beneath(
        &self,
        (base, top): (&[u8], &RemotePath),
        paths: &[RemotePath],
        view: &View,
    ) -> Result<Vec<Seen>, NetError> {
        let stat = proto::StatBeneath {
            base: base.to_vec(),
            paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
            view: view.to_wire(),
            top: top.as_bytes().to_vec(),
        };
        match self.request(request::Body::StatBeneath(stat)).await?.body {
            Some(reply::Body::StatBeneath(reply)) if reply.kinds.len() == paths.len() => {
                Ok(reply.kinds.into_iter().map(Seen::from_wire).collect())
            }
            _ => Err(unexpected("kind")),
        }
    }

    /// Removes entries beneath `base`, durably, or moves them aside. What is gone already is no
    /// error.
    pub async fn remove_beneath(
        &self,
        base: &[u8],
        removals: &[Removal],
        backup: Option<&BackupOptions>,
    ) -> Result<Vec<Result<(), NetError>>, NetError> {
        let remove = proto::RemoveBeneath {
            base: base.to_vec(),
            removals: removals.iter().map(entry::removal_to_wire).collect(),
            backup: backup.map(BackupOptions::to_wire),
        };
        match self.request(request::Body::RemoveBeneath(remove)).await?.body {
            Some(reply::Body::RemoveBeneath(reply)) => results_of(reply, removals.len()),
            _ => Err(unexpected("result")),
        }
    }
}

/// The result of each of so many entries.
pub(super) fn results_of(
    reply: proto::RemoveBeneathReply,
    count: usize,
) -> Result<Vec<Result<(), NetError>>, NetError> {
    if reply.removed.len() != count {
        return Err(unexpected("result"));
    }
    let result = |removed: proto::Removed| match removed.code {
        0 => Ok(()),
        code => Err(refused(code, removed.text)),
    };
    Ok(reply.removed.into_iter().map(result).collect())
}

/// True of a reply with as many pages and entries as a server sends at most.
fn is_bounded(reply: &proto::ListBeneathReply, dirs: usize) -> bool {
    let entries = reply.pages.iter().map(|page| page.entries.len());
    (1..=dirs).contains(&reply.pages.len())
        && entries.sum::<usize>() <= MAX_LISTED.saturating_add(MAX_DIRS)
}

fn page_of(page: proto::DirPage) -> Result<Result<Page, NetError>, NetError> {
    if page.code != 0 {
        return Ok(Err(refused(page.code, page.text)));
    }
    let entries = page.entries.into_iter().map(|e| Ok(entry::from_wire(e)?.0));
    Ok(Ok(Page {
        entries: entries.collect::<Result<Vec<Entry>, NetError>>()?,
        next: Some(page.cookie).filter(|cookie| !cookie.is_empty()),
    }))
}
