//! A small S3 server in this process: objects under keys, conditions, uploads in parts, listings.
//! On demand it misbehaves, as engines do.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How an engine behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Sound,
    /// It reports success whether a condition holds or not, and writes.
    IgnoresConditions,
    /// Its clock is 25 minutes ahead, and it refuses everything.
    Ahead,
    /// It loses answers, is overloaded, and reports errors to the losers of races.
    Stormy,
}

#[derive(Clone)]
struct Stored {
    bytes: Vec<u8>,
    record: Option<String>,
    tag: String,
}

#[derive(Default)]
struct World {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<String, BTreeMap<usize, (String, Vec<u8>)>>,
    count: u64,
}

/// A running engine.
pub struct Engine {
    pub address: SocketAddr,
    world: Arc<Mutex<World>>,
    manner: Arc<Mutex<Manner>>,
    dir: TempDir,
}

impl Engine {
    pub fn start(manner: Manner) -> Engine {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let engine = Engine {
            address: listener.local_addr().unwrap(),
            world: Arc::default(),
            manner: Arc::new(Mutex::new(manner)),
            dir: tempfile::tempdir().unwrap(),
        };
        let (world, manner) = (engine.world.clone(), engine.manner.clone());
        let requests = Arc::new(AtomicU64::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (world, manner, requests) = (world.clone(), manner.clone(), requests.clone());
                std::thread::spawn(move || {
                    let manner = || *manner.lock();
                    while serve(&stream, &world, manner, &requests).is_some() {}
                });
            }
        });
        engine
    }

    /// From now on it behaves so.
    pub fn behave(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    /// The arguments of a command that uses it.
    pub fn arguments(&self) -> Vec<String> {
        use std::os::unix::fs::PermissionsExt;
        let credentials = self.dir.path().join("credentials");
        let text = "[default]\naws_access_key_id = test\naws_secret_access_key = secret\n";
        std::fs::write(&credentials, text).unwrap();
        std::fs::set_permissions(&credentials, PermissionsExt::from_mode(0o600)).unwrap();
        let (endpoint, file) = (format!("http://{}", self.address), credentials);
        [
            "--store",
            "s3://bucket/some/prefix",
            "--endpoint",
            &endpoint,
            "--credentials",
        ]
        .into_iter()
        .map(str::to_string)
        .chain([file.to_str().unwrap().to_string()])
        .collect()
    }

    /// A file for the key of all its servers.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key")
    }

    /// All keys beneath the prefix that begin so.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let prefix = format!("some/prefix/{prefix}");
        let world = self.world.lock();
        world
            .objects
            .keys()
            .filter(|key| key.starts_with(&prefix))
            .cloned()
            .collect()
    }

    /// Changes the last byte of an object.
    pub fn damage(&self, key: &str) {
        *self.world.lock().objects.get_mut(key).unwrap().bytes.last_mut().unwrap() ^= 1;
    }

    /// The bytes of an object.
    pub fn object(&self, key: &str) -> Vec<u8> {
        self.world.lock().objects[key].bytes.clone()
    }
}

struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
            }
            None => break,
        }
    }
    let length = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = decode(path.strip_prefix("/bucket").unwrap_or("/"))
        .trim_start_matches('/')
        .to_string();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let query = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    });
    let query = query.collect();
    Some(Request {
        method,
        key,
        query,
        headers,
        body,
    })
}

/// A status, headers and a body.
type Answer = (u16, Vec<(String, String)>, Vec<u8>);

fn refusal(status: u16, code: &str) -> Answer {
    let body = format!("<Error><Code>{code}</Code></Error>");
    (status, Vec::new(), body.into_bytes())
}

/// Serves one request; `None` at the end of the connection.
fn serve(
    mut stream: &TcpStream,
    world: &Mutex<World>,
    manner: impl Fn() -> Manner,
    requests: &AtomicU64,
) -> Option<()> {
    let request = read(stream)?;
    let (number, manner) = (requests.fetch_add(1, Ordering::Relaxed), manner());
    let stormy = manner == Manner::Stormy;
    let mut answer = match number {
        n if stormy && n % 23 == 7 => refusal(503, "SlowDown"),
        _ if manner == Manner::Ahead => {
            let mut answer = refusal(403, "RequestTimeTooSkewed");
            let time = jiff::Timestamp::now() + Duration::from_secs(25 * 60);
            let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
            answer.1 = vec![("date".into(), printer.timestamp_to_rfc9110_string(&time).unwrap())];
            answer
        }
        _ => process(&request, &mut world.lock(), manner),
    };
    if stormy && answer.0 == 412 && number % 2 == 0 {
        answer = refusal(500, "UnknownError");
    }
    if stormy && number % 61 == 11 {
        std::thread::sleep(Duration::from_millis(300));
    }
    if stormy && number % 17 == 5 {
        // done, and nothing is heard of it
        let _ = stream.shutdown(std::net::Shutdown::Both);
        return None;
    }
    let (status, headers, body) = answer;
    let mut head = format!("HTTP/1.1 {status} x\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !head.contains("content-length") {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    if request.method != "HEAD" {
        stream.write_all(&body).ok()?;
    }
    Some(())
}

fn process(request: &Request, world: &mut World, manner: Manner) -> Answer {
    let query = |name: &str| request.query.get(name).cloned();
    world.count += 1;
    let tag = blake3::hash(&[&request.body[..], &world.count.to_be_bytes()].concat());
    let tag = tag.to_hex()[..32].to_string();
    match (request.method.as_str(), query("uploadId")) {
        ("PUT", Some(id)) => {
            let number: usize = query("partNumber").unwrap().parse().unwrap();
            let Some(upload) = world.uploads.get_mut(&id) else {
                return refusal(404, "NoSuchUpload");
            };
            upload.insert(number, (tag.clone(), request.body.clone()));
            tagged(&tag)
        }
        ("POST", Some(id)) => match world.uploads.remove(&id) {
            Some(parts) => {
                let bytes = parts.into_values().flat_map(|(_, bytes)| bytes).collect();
                put(world, request, bytes, &tag);
                let body = format!(
                    "<CompleteMultipartUploadResult><ETag>\"{tag}\"</ETag>\
                     </CompleteMultipartUploadResult>"
                );
                (200, Vec::new(), body.into_bytes())
            }
            None => refusal(404, "NoSuchUpload"),
        },
        ("DELETE", Some(id)) => {
            world.uploads.remove(&id);
            (204, Vec::new(), Vec::new())
        }
        ("POST", None) if query("uploads").is_some() => {
            world.uploads.insert(tag.clone(), BTreeMap::new());
            let body = format!(
                "<InitiateMultipartUploadResult><UploadId>{tag}</UploadId>\
                 </InitiateMultipartUploadResult>"
            );
            (200, Vec::new(), body.into_bytes())
        }
        ("POST", None) => remove(request, world),
        ("PUT", None) => {
            let found = world.objects.get(&request.key).map(|stored| stored.tag.clone());
            let wanted = request.headers.get("if-match");
            let holds = match (request.headers.get("if-none-match"), wanted) {
                (Some(_), _) => found.is_none(),
                (None, Some(wanted)) => found.as_ref() == Some(wanted),
                (None, None) => true,
            };
            if !holds && manner != Manner::IgnoresConditions {
                return refusal(412, "PreconditionFailed");
            }
            put(world, request, request.body.clone(), &tag);
            tagged(&tag)
        }
        ("DELETE", None) => {
            world.objects.remove(&request.key);
            (204, Vec::new(), Vec::new())
        }
        ("GET", None) if request.key.is_empty() => list(request, world),
        _ => get(request, world),
    }
}

/// Removes all objects that a body names.
fn remove(request: &Request, world: &mut World) -> Answer {
    let text = String::from_utf8(request.body.clone()).unwrap();
    for part in text.split("<Key>").skip(1) {
        world.objects.remove(&unescape(part.split("</Key>").next().unwrap()));
    }
    let body = "<DeleteResult><Deleted><Key>all</Key></Deleted></DeleteResult>";
    (200, Vec::new(), body.into())
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

fn tagged(tag: &str) -> Answer {
    (200, vec![("etag".into(), format!("\"{tag}\""))], Vec::new())
}

fn put(world: &mut World, request: &Request, bytes: Vec<u8>, tag: &str) {
    let record = request.headers.get("x-amz-meta-haul").cloned();
    let tag = tag.to_string();
    world.objects.insert(request.key.clone(), Stored { bytes, record, tag });
}

fn get(request: &Request, world: &World) -> Answer {
    let Some(stored) = world.objects.get(&request.key) else {
        return refusal(404, "NoSuchKey");
    };
    let mut headers = vec![
        ("etag".to_string(), format!("\"{}\"", stored.tag)),
        ("last-modified".to_string(), "Mon, 30 Nov 2026 12:00:00 GMT".to_string()),
    ];
    if let Some(record) = &stored.record {
        headers.push(("x-amz-meta-haul".into(), record.clone()));
    }
    let size = stored.bytes.len();
    let Some(range) = request.headers.get("range") else {
        headers.push(("content-length".into(), size.to_string()));
        return (200, headers, stored.bytes.clone());
    };
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
    let end = (end + 1).min(size);
    headers.push(("content-range".into(), format!("bytes {start}-{}/{size}", end - 1)));
    (206, headers, stored.bytes[start..end].to_vec())
}

fn list(request: &Request, world: &World) -> Answer {
    let query = |name: &str| request.query.get(name).cloned().unwrap_or_default();
    let (prefix, after) = (query("prefix"), query("start-after"));
    let most: usize = query("max-keys").parse().unwrap_or(1000);
    let found = world
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let found: Vec<_> = found.collect();
    let mut body = String::from("<ListBucketResult>");
    for (key, stored) in found.iter().take(most) {
        let key = key.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = write!(
            body,
            "<Contents><Key>{key}</Key><LastModified>2026-11-30T12:00:00.000Z</LastModified>\
             <ETag>&quot;{}&quot;</ETag><Size>{}</Size></Contents>",
            stored.tag,
            stored.bytes.len()
        );
    }
    if found.len() > most {
        body += "<NextContinuationToken>more</NextContinuationToken>";
    }
    body += "</ListBucketResult>";
    (200, Vec::new(), body.into_bytes())
}
