//! Gets to standard output whose session dies: what has gone out cannot be taken back.

use crate::support::tree::{bytes, write};
use crate::support::{Ended, Server, until};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::process::Stdio;

const MIB: usize = 1 << 20;

/// Ports from which there are connections to a server, and their states (proc_net_tcp(5)).
fn ports_to(server: SocketAddr) -> BTreeMap<String, String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", server.port());
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = lines.filter(|line| line[2].ends_with(&port));
    found.map(|line| (line[1].to_string(), line[3].to_string())).collect()
}

/// A get of `f` to standard output, whose server dies and starts again when so many bytes have been
/// read; `meanwhile` happens in between. The rest is read once the client has given the session up.
fn get_over_a_death(
    server: &mut Server,
    length: usize,
    meanwhile: impl FnOnce(&Server),
) -> (Ended, Vec<u8>) {
    let client = server.client();
    let mut command = client.command(["get", "srv:f", "-"]);
    let mut get = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = get.stdout.take().unwrap();
    let mut read = vec![0; length];
    out.read_exact(&mut read).unwrap();
    let before = ports_to(server.address);
    server.kill();
    meanwhile(server);
    server.restart();
    let address = server.address;
    until("the client has been told that its session is gone", || {
        let closed_here =
            |(port, state): (String, String)| state == "06" && !before.contains_key(&port);
        ports_to(address).into_iter().any(closed_here)
    });
    out.read_to_end(&mut read).unwrap();
    (Ended::of(get.wait_with_output().unwrap()), read)
}

/// A pipe holds 64 KiB: the last bytes have arrived, and wait, once all before these have been
/// read.
const WAITING: usize = 100 << 10;

/// What has gone out already does not go out again, and it is no error that all of it has.
#[test]
fn a_stream_to_standard_output_that_was_complete_when_its_session_died_is_complete() {
    for (size, resumed) in [(300 << 10, false), (MIB, false), (9 * MIB, true), (9 * MIB + 5, true)]
    {
        let mut server = Server::start();
        let content = bytes(4, size);
        write(&server.root.join("f"), &content);
        let (ended, read) = get_over_a_death(&mut server, size - WAITING, |_| {});
        assert_eq!(ended.code, 0, "{size}: {ended:?}");
        assert!(read == content, "{size}: {} bytes", read.len());
        assert_eq!(ended.err.contains("resumes after"), resumed, "{size}: {}", ended.err);
    }
}

/// But what went out of another version cannot be taken back.
#[test]
fn a_stream_to_standard_output_of_a_source_that_changed_fails() {
    let mut server = Server::start();
    let size = 300 << 10;
    write(&server.root.join("f"), &bytes(4, size));
    let change = |server: &Server| write(&server.root.join("f"), &bytes(5, size));
    let (ended, _) = get_over_a_death(&mut server, size - WAITING, change);
    assert_eq!(ended.code, 7, "{ended:?}");
    assert!(ended.err.contains("changed while it was read"), "{ended:?}");
}
