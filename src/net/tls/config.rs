//! Configurations of TLS 1.3 between raw public keys (RFC 7250).

use crate::auth::Identity;
use crate::net::error::NetError;
use crate::net::tls::pin::{AnyClient, NoKey, Pin};
use crate::net::wire::{ALPN_CONTROL, ALPN_DATA};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::ServerName;
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;

/// AES-128-GCM first: it is the fastest on processors with AES instructions, and as safe here.
fn crypto() -> Arc<CryptoProvider> {
    use provider::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_CHACHA20_POLY1305_SHA256,
            TLS13_AES_256_GCM_SHA384,
        ],
        ..provider::default_provider()
    })
}

/// A client's configuration for one kind of connection. It presents `identity` if the server asks.
///
/// # Errors
/// [`NetError::Tls`] if rustls refuses the parts.
pub fn client_config(
    alpn: &[u8],
    pin: &Arc<Pin>,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, NetError> {
    let builder = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pin.clone());
    let mut config = match identity {
        Some(id) => builder.with_client_cert_resolver(Arc::new(
            AlwaysResolvesClientRawPublicKeys::new(id.certified()),
        )),
        // only control connections are asked for a key
        None if alpn == ALPN_CONTROL => builder.with_client_cert_resolver(Arc::new(NoKey)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_secret_extraction = alpn == ALPN_DATA;
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// A server's configuration for one kind of connection. Only control connections ask for the
/// client's key.
///
/// # Errors
/// As [`client_config`].
pub fn server_config(alpn: &[u8], identity: &Identity) -> Result<Arc<ServerConfig>, NetError> {
    let builder = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = if alpn == ALPN_CONTROL {
        let algorithms = provider::default_provider().signature_verification_algorithms;
        builder.with_client_cert_verifier(Arc::new(AnyClient(algorithms)))
    } else {
        builder.with_no_client_auth()
    };
    let resolver = AlwaysResolvesServerRawPublicKeys::new(identity.certified());
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = alpn == ALPN_DATA;
    Ok(Arc::new(config))
}

/// The server name that TLS requires. It is neither sent nor checked: the pin decides.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(rustls::pki_types::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED.into()))
}
