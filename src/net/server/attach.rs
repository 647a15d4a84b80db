//! A data connection joins its session by proof, and is part of it until it ends.

use crate::chunk::buffer::BufferPool;
use crate::net::data::carry::WriteFrames;
use crate::net::data::connection::{DataConnection, FrameReader, FrameWriter};
use crate::net::error::{LossReason, NetError};
use crate::net::server::config::Config;
use crate::net::server::registry::Registry;
use crate::net::server::revocation;
use crate::net::server::session::Session;
use crate::net::wire::frame::{ATTACH_LEN, ATTACHED_BBR, Attach, FrameHeader, FrameKind};
use crate::store::shares::Share;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a data connection's proof waits for a login that is still under way.
const HOLD_PROOF: Duration = Duration::from_secs(10);
/// Buffers of a data connection before it has a session.
const BUFFERS: usize = 8;

/// A data connection that has proved its session, with its user's share of connections.
pub(super) struct Attached {
    session: Arc<Session>,
    reader: FrameReader,
    writer: FrameWriter,
    share: Option<Share>,
}

/// Finds the session that a data connection proves to belong to, and accepts the connection.
///
/// # Errors
/// [`NetError::Protocol`] or [`NetError::Lost`] if the connection does not belong to a session, or
/// there is no room for it; [`NetError::Refused`] if its session is revoked.
pub(super) async fn attach(
    config: &Config,
    registry: &Registry,
    connection: DataConnection,
    peer: SocketAddr,
) -> Result<Attached, NetError> {
    let (mut reader, mut writer) = connection.split(BufferPool::new(BUFFERS));
    let find = async {
        let attach = Attach::decode(&reader.preamble(ATTACH_LEN).await?)?;
        let session = registry.wait_for(&attach.session).await;
        Ok::<_, NetError>((attach, session))
    };
    let late = |_| NetError::Lost(LossReason::NoSuchLogin);
    let (attach, session) = timeout(HOLD_PROOF, find).await.map_err(late)??;
    session.admit(&attach)?;
    revocation::check(&config.users, &session, peer.ip()).map_err(revocation::refusal)?;
    let share = registry.connection_share(&session)?;
    // what it carries needs memory; one that waits in vain is dialled once more
    timeout(HOLD_PROOF, registry.lent(&session)).await.map_err(late)??;
    reader.use_pool(session.core.pool().buffers().clone());
    let attached = FrameHeader {
        attempt: if writer.has_bbr() { ATTACHED_BBR } else { 0 },
        ..FrameHeader::bare(FrameKind::Attached)
    };
    writer.write(&attached, &[]).await?;
    writer.flush().await?;
    Ok(Attached {
        session,
        reader,
        writer,
        share,
    })
}

impl Attached {
    /// Carries frames until the connection ends.
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) async fn carry(self) -> Result<(), NetError> {
        let Attached {
            session,
            reader,
            writer,
            share,
        } = self;
        let _until_it_ends = share;
        let core = session.core.clone();
        drop(session);
        match core.pool().add(reader, writer).owner.await {
            Ok(Err(e @ NetError::Protocol(_))) => {
                core.shut_down(e.clone());
                Err(e)
            }
            ended => ended.flatten(),
        }
    }
}
