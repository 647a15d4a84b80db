//! The sessions of a command that talks to several servers.

use super::connect::{self, ConnectArgs, RemoteSession};
use super::failure::Failure;
use super::location::ServerName;

/// Sessions with servers, one after another.
pub struct Sessions<'a> {
    args: &'a ConnectArgs,
    current: Option<(ServerName, RemoteSession)>,
}

impl<'a> Sessions<'a> {
    /// No session yet; `args` are for those to come.
    pub fn new(args: &'a ConnectArgs) -> Sessions<'a> {
        Sessions {
            args,
            current: None,
        }
    }

    /// The session with a server: the last one, if that is with the same server.
    ///
    /// # Errors
    /// Those of connecting.
    pub async fn with(&mut self, server: &ServerName) -> Result<&mut RemoteSession, Failure> {
        let session = match self.current.take() {
            Some((same, session)) if same == *server => session,
            other => {
                if let Some((_, session)) = other {
                    session.quit().await;
                }
                connect::for_requests(server, self.args).await?
            }
        };
        Ok(&mut self.current.insert((server.clone(), session)).1)
    }

    /// Says goodbye.
    pub async fn quit(self) {
        if let Some((_, session)) = self.current {
            session.quit().await;
        }
    }
}
