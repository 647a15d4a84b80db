//! Direct data connections beside a tunnel: whether they are possible, and where.

use crate::auth::Fingerprint;
use crate::net::client::tcp::{tuned, within};
use crate::net::client::tunnel::report::Report;
use crate::net::data::connection::DataConnection;
use crate::net::error::NetError;
use crate::net::jobs::{JobSet, Work};
use crate::net::lanes::greeting::LOWEST_PORT;
use crate::net::lanes::role::Role;
use crate::net::task::Tasks;
use crate::net::tls::config::client_config;
use crate::net::tls::pin::Pin;
use crate::net::wire::ALPN_DATA;
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long the server may take to answer at an address.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long the look-up of the host's name may take.
const RESOLVING: Duration = Duration::from_secs(2);
/// The most addresses that are tried.
const MOST_ADDRESSES: usize = 8;

/// What is known of direct connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Untried,
    Open(SocketAddr),
    Closed,
}

/// Whether direct connections are possible, and how many carry data.
pub(super) struct Direct {
    reach: watch::Sender<Reach>,
    carrying: Arc<watch::Sender<usize>>,
}

/// Where a server may be.
pub(super) struct Candidates<'a> {
    /// Where it listens, as it says.
    pub(super) listed: &'a [String],
    /// The host that the program connects to, if that is known.
    pub(super) hostname: Option<&'a str>,
    /// Its key.
    pub(super) key: Fingerprint,
    /// Hears where the data goes.
    pub(super) report: &'a Arc<dyn Report>,
}

/// Counts a direct connection until it is dropped.
struct Proved(Arc<watch::Sender<usize>>);

impl Drop for Proved {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Direct {
    pub(super) fn new() -> Direct {
        Direct {
            reach: watch::Sender::new(Reach::Untried),
            carrying: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Another server process answers: nothing is known of its addresses.
    pub(super) fn reset(&self) {
        self.reach.send_replace(Reach::Untried);
    }

    /// A direct connection carries data, until the guard is dropped.
    pub(super) fn proved(&self) -> impl Drop + Send + use<> {
        self.carrying.send_modify(|count| *count = count.saturating_add(1));
        Proved(self.carrying.clone())
    }

    /// Waits until direct connections carry data, or do not.
    pub(super) async fn is_carrying(&self, wanted: bool) {
        let mut carrying = self.carrying.subscribe();
        // the sender is this value's own
        let _ = carrying.wait_for(|count| (*count > 0) == wanted).await;
    }

    /// The address to dial. The first connection finds out whether there is one; the others wait
    /// for it, as long as there is none.
    pub(super) async fn address(
        &self,
        number: u64,
        candidates: Candidates<'_>,
    ) -> Result<SocketAddr, NetError> {
        let mut reach = self.reach.subscribe();
        loop {
            let known = *reach.borrow_and_update();
            match known {
                Reach::Open(address) => return Ok(address),
                Reach::Untried if number == 0 => {
                    let found = find(&candidates).await?;
                    candidates.report.direct(found);
                    self.reach.send_replace(found.map_or(Reach::Closed, Reach::Open));
                }
                Reach::Untried | Reach::Closed => {
                    let _ = reach.changed().await;
                }
            }
        }
    }
}

/// The first address where the server answers, with its key: of those that it listens on, and of
/// the host that the program connects to. It may be behind another address than its own.
async fn find(candidates: &Candidates<'_>) -> Result<Option<SocketAddr>, NetError> {
    let listed: Vec<SocketAddr> = candidates.listed.iter().filter_map(|a| a.parse().ok()).collect();
    let Some(port) = listed.first().map(SocketAddr::port).filter(|port| *port >= LOWEST_PORT)
    else {
        return Ok(None);
    };
    let config = client_config(ALPN_DATA, &Pin::new(Some(candidates.key)), None)?;
    let mut addresses = resolved(candidates.hostname, port).await;
    let is_here = addresses.iter().any(|address| address.ip().is_loopback());
    let may_be = |address: &SocketAddr| {
        let ip = address.ip().to_canonical();
        // a server is not to have its clients look around on their own machine
        address.port() == port && !ip.is_unspecified() && (is_here || !ip.is_loopback())
    };
    addresses.extend(listed.into_iter().filter(may_be));
    let mut attempts = JobSet::new(Tasks::new(|_| {}));
    let mut seen = Vec::new();
    for address in addresses.into_iter().take(MOST_ADDRESSES) {
        if !seen.contains(&address) {
            seen.push(address);
            attempts.start(Work::new("attempt", answers(address, config.clone())), |found| found);
        }
    }
    while let Some(attempt) = attempts.next().await {
        if let Ok(Some(address)) = attempt {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// The address, if the server answers there.
async fn answers(address: SocketAddr, config: Arc<ClientConfig>) -> Option<SocketAddr> {
    let tcp = within(ATTEMPT, TcpStream::connect(address)).await.ok()?;
    let shaking = DataConnection::connect(tuned(tcp, Role::Data), config);
    timeout(ATTEMPT, shaking).await.ok()?.ok().map(|_| address)
}

/// The addresses of the host.
async fn resolved(hostname: Option<&str>, port: u16) -> Vec<SocketAddr> {
    let Some(host) = hostname else {
        return Vec::new();
    };
    match timeout(RESOLVING, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect(),
        _ => Vec::new(),
    }
}
