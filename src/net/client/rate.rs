//! The rate of a transfer whose data the server sends: the user changes it while the transfer runs.

use crate::net::client::Client;
use crate::net::data::pacer::RateLimit;
use crate::net::error::NetError;
use crate::net::wire::Code;
use crate::net::wire::proto::{self, request};

impl Client {
    /// Runs a transfer, and has the server send at this rate, which the user changes meanwhile.
    ///
    /// # Errors
    /// The transfer's, and that the server cannot limit its rate.
    pub(super) async fn at_rate(
        &self,
        rate: &RateLimit,
        transfer: impl Future<Output = Result<(), NetError>>,
    ) -> Result<(), NetError> {
        let mut changes = rate.changes();
        let rate = *changes.borrow_and_update();
        if rate.is_some() {
            self.limit(rate).await?;
        }
        tokio::pin!(transfer);
        loop {
            tokio::select! {
                ended = &mut transfer => return ended,
                Ok(()) = changes.changed() => {}
            }
            let rate = *changes.borrow_and_update();
            tokio::select! {
                ended = &mut transfer => return ended,
                // that the server cannot do it does not end the transfer
                limited = self.limit(rate) => if let Err(error) = limited {
                    tracing::debug!(%error, "the rate of the server is not limited");
                },
            }
        }
    }

    /// Has the server send no more than `rate` bytes a second over this session's data connections,
    /// and within a copy of its own; `None`: as fast as it can.
    async fn limit(&self, rate: Option<u64>) -> Result<(), NetError> {
        let rate = rate.unwrap_or(0);
        match self.request(request::Body::Limit(proto::Limit { rate })).await {
            Err(NetError::Refused { code, .. }) if code == Code::NOT_IMPLEMENTED => {
                let text = "this server is too old to limit the rate of its transfers".into();
                Err(NetError::Refused { code, text })
            }
            other => other.map(drop),
        }
    }
}
