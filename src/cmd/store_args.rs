//! `--store`: a bucket of an object store, in place of a directory of this machine.

use super::failure::{Failure, exit};
use super::hint;
use super::shared_state::StoreText;
use super::units::parse_time;
use crate::auth::state_file::StateFile;
use crate::store::objects::engine::Engine;
use crate::store::objects::engine::s3::{Credentials, Place, S3Engine};
use crate::store::objects::{LEASE, ObjectStore, Settings, probe};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The shortest lease: a writer renews its lock six times in it.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);

/// Options that name a bucket.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct StoreArgs {
    /// Use this part of a bucket of an S3 object store. AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL apply, and so do
    /// the machine's own credentials in AWS
    #[arg(long, value_name = "s3://BUCKET/PREFIX", value_parser = parse_store)]
    store: Option<StoreName>,

    /// The address of an object store that is not Amazon's
    #[arg(long, value_name = "URL", requires = "store", value_parser = parse_endpoint)]
    endpoint: Option<String>,

    /// Read the credentials from this file, of the form of ~/.aws/credentials; only its owner may
    /// be able to read it
    #[arg(long, value_name = "FILE", requires = "store", value_hint = hint::LOCAL)]
    credentials: Option<PathBuf>,
}

/// A bucket, and the prefix of all keys in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StoreName {
    bucket: String,
    prefix: String,
}

fn parse_store(text: &str) -> Result<StoreName, String> {
    let wrong = || format!("expected s3://BUCKET or s3://BUCKET/PREFIX, got {text}");
    let rest = text.strip_prefix("s3://").ok_or_else(wrong)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    let is_bad = |part: &str| part.is_empty() || part == "." || part == "..";
    let bad_prefix = !prefix.is_empty() && prefix.split('/').any(is_bad);
    match bucket {
        "" => Err(wrong()),
        _ if bad_prefix || prefix.chars().any(char::is_control) => Err(wrong()),
        bucket => Ok(StoreName {
            bucket: bucket.into(),
            prefix: prefix.into(),
        }),
    }
}

fn parse_endpoint(text: &str) -> Result<String, String> {
    let is_url = text.starts_with("http://") || text.starts_with("https://");
    match is_url && text.len() > "https://".len() {
        true => Ok(text.trim_end_matches('/').into()),
        false => Err(format!("expected http://HOST:PORT or https://HOST, got {text}")),
    }
}

/// Parses `--lease`.
///
/// # Errors
/// For one that is too short.
pub fn parse_lease(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        lease if lease >= SHORTEST_LEASE => Ok(lease),
        _ => Err("expected at least 3s".into()),
    }
}

/// A bucket that was named.
pub struct NamedStore {
    engine: Arc<dyn Engine>,
    settings: Settings,
    shown: String,
}

impl StoreArgs {
    /// The bucket that the options name, if they do.
    ///
    /// # Errors
    /// Credentials that cannot be read, or settings that make no sense.
    pub fn named(&self, lease: Option<Duration>) -> Result<Option<NamedStore>, Failure> {
        let Some(name) = &self.store else {
            return Ok(None);
        };
        // of several, the process needs one as its default
        let _ = rustls::crypto::ring::default_provider().install_default();
        let credentials = self.credentials.as_deref().map(read_credentials).transpose()?;
        let place = Place {
            bucket: name.bucket.clone(),
            endpoint: self.endpoint.clone(),
        };
        let shown = format!("s3://{}/{}", name.bucket, name.prefix);
        let engine = S3Engine::at(&place, credentials);
        let engine = engine.map_err(|e| Failure::usage(format!("{shown}: {e}")))?;
        engine.host().into_iter().for_each(|host| {
            // a confined process could not load what looks names up
            let _ = (host.as_str(), 80).to_socket_addrs();
        });
        Ok(Some(NamedStore {
            engine: Arc::new(engine),
            settings: Settings {
                lease: lease.unwrap_or(LEASE),
                ..Settings::new(&name.prefix)
            },
            shown,
        }))
    }
}

impl NamedStore {
    /// The store, without a look at its engine: it is opened for a server that probes it.
    pub fn store(&self) -> ObjectStore {
        ObjectStore::open(self.engine.clone(), self.settings.clone())
    }

    /// The users of all its servers.
    ///
    /// # Errors
    /// Without the means to read them.
    pub fn users(&self) -> Result<StateFile, Failure> {
        let text = StoreText::new(self.store(), &self.shown, "users")?;
        Ok(StateFile::Shared(Arc::new(text)))
    }

    /// How long a lock counts.
    pub fn lease(&self) -> Duration {
        self.settings.lease
    }

    /// Checks that the engine is one that keeps haul's promises.
    ///
    /// # Errors
    /// What it does instead.
    pub async fn probe(&self) -> Result<String, Failure> {
        let probed = probe(&self.engine, &self.settings.prefix, &self.settings.random).await;
        probed.map_err(|e| {
            Failure::new(exit::FAILED, format!("{}: {e}", self.shown))
                .hint("docs/STORE.md says what an engine has to do")
        })
    }
}

/// Reads the first profile of a file as the tools of AWS write it.
fn read_credentials(path: &Path) -> Result<Credentials, Failure> {
    use std::os::unix::fs::MetadataExt;
    let failed = |why: &str| Failure::new(exit::FAILED, format!("{}: {why}", path.display()));
    let io = |e: std::io::Error| failed(&e.to_string());
    let mode = std::fs::metadata(path).map_err(io)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let hint = format!("run chmod 600 {}", path.display());
        return Err(failed("other users may read this file").hint(hint));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let value = |wanted: &str| {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let mut lines = lines.map(|(key, value)| (key.trim(), value.trim()));
        lines.find(|(key, _)| *key == wanted).map(|(_, value)| value.to_string())
    };
    match (value("aws_access_key_id"), value("aws_secret_access_key")) {
        (Some(id), Some(secret)) => Ok(Credentials {
            id,
            secret,
            token: value("aws_session_token"),
        }),
        _ => Err(failed("expected lines aws_access_key_id = … and aws_secret_access_key = …")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_addresses_are_read() {
        let name = |bucket: &str, prefix: &str| StoreName {
            bucket: bucket.into(),
            prefix: prefix.into(),
        };
        assert_eq!(parse_store("s3://b"), Ok(name("b", "")));
        assert_eq!(parse_store("s3://b/"), Ok(name("b", "")));
        assert_eq!(parse_store("s3://b/p/q/"), Ok(name("b", "p/q")));
        for wrong in ["b", "s3:b", "s3://", "s3:///p", "s3://b/p//q", "s3://b/../q"] {
            assert!(parse_store(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_endpoint("http://ceph:7480/").unwrap(), "http://ceph:7480");
        assert!(parse_endpoint("ceph:7480").is_err());
        assert!(parse_lease("1s").is_err());
        assert_eq!(parse_lease("3s").unwrap(), SHORTEST_LEASE);
    }

    #[test]
    fn credentials_come_from_a_private_file() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "[default]\naws_access_key_id = me\naws_secret_access_key=s=cret\n";
        std::fs::write(file.path(), text).unwrap();
        let found = read_credentials(file.path()).unwrap();
        assert_eq!((found.id.as_str(), found.secret.as_str()), ("me", "s=cret"));
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(read_credentials(file.path()).is_err());
    }
}
