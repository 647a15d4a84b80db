//! Reads a directory of a server: all of it where it is not too large, else in parts.

use super::connect::RemoteSession;
use super::failure::{Failure, exit};
use crate::store::Entry;

/// How often a listing restarts because the directory changed meanwhile.
const RESTARTS: usize = 8;

/// A page of a directory, and where the next one starts.
pub type Page = (Vec<Entry>, Option<Vec<u8>>);

/// Some entries of a directory.
pub struct Part {
    /// The entries, in the server's order.
    pub entries: Vec<Entry>,
    /// They are all entries of the directory.
    pub complete: bool,
}

/// A directory that is being read.
pub struct Reader {
    dir: Vec<u8>,
    first: Option<Page>,
    /// Where the next page starts; `None` after the last one.
    cookie: Option<Vec<u8>>,
    begun: bool,
}

impl Reader {
    /// A reader of the directory `dir`, whose first page may be there already.
    pub fn new(dir: &[u8], first: Option<Page>) -> Reader {
        Reader {
            dir: dir.to_vec(),
            first,
            cookie: Some(Vec::new()),
            begun: false,
        }
    }

    /// The next part; `None` after the last one. The first part has all entries if these are at
    /// most `most`; until it is complete, a directory that changes meanwhile is read from its
    /// start once more.
    ///
    /// # Errors
    /// The server's refusal, and that the session is lost.
    pub async fn next(
        &mut self,
        session: &mut RemoteSession,
        most: usize,
    ) -> Result<Option<Part>, Failure> {
        let (mut entries, mut restarts) = (Vec::new(), 0);
        let is_first = !std::mem::replace(&mut self.begun, true);
        while let Some(cookie) = self.cookie.clone() {
            let asked = match self.first.take() {
                Some(page) => Ok(page),
                None => {
                    let (dir, cookie) = (&self.dir, &cookie);
                    session.ask(async |client| client.list(dir, cookie.clone()).await).await
                }
            };
            match asked {
                Ok((page, next)) => {
                    entries.extend(page);
                    self.cookie = next;
                }
                Err(e) if e.exit() == exit::LOCKED && is_first && restarts < RESTARTS => {
                    restarts += 1;
                    entries.clear();
                    self.cookie = Some(Vec::new());
                }
                Err(e) => return Err(e),
            }
            if !is_first || entries.len() > most {
                return Ok(Some(Part {
                    entries,
                    complete: false,
                }));
            }
        }
        Ok(is_first.then_some(Part {
            entries,
            complete: true,
        }))
    }
}
