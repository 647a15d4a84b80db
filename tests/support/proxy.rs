//! A link between client and server that counts, records, and cuts data connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What the link does to connections.
#[derive(Default)]
pub struct Rules {
    /// Each of the first data connections is cut after this many bytes from the client.
    pub cuts: Vec<usize>,
    /// Data connections are refused altogether.
    pub no_data: bool,
    /// Data connections of this many at most.
    pub record: bool,
}

/// A proxy in front of a server. Its threads end with the test's process.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    rules: Rules,
    data_connections: AtomicUsize,
    cut: AtomicUsize,
    recorded: Mutex<Vec<u8>>,
}

impl Proxy {
    pub fn start(server: SocketAddr, rules: Rules) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            rules,
            data_connections: AtomicUsize::new(0),
            cut: AtomicUsize::new(0),
            recorded: Mutex::default(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = accepting.clone();
                std::thread::spawn(move || drop(shared.carry(stream)));
            }
        });
        Proxy { address, shared }
    }

    /// Data connections so far.
    pub fn data_connections(&self) -> usize {
        self.shared.data_connections.load(Ordering::SeqCst)
    }

    /// Connections that were cut so far.
    pub fn cut(&self) -> usize {
        self.shared.cut.load(Ordering::SeqCst)
    }

    /// Everything that went over the wire, in both directions.
    pub fn recorded(&self) -> Vec<u8> {
        self.shared.recorded.lock().unwrap().clone()
    }
}

impl Shared {
    fn carry(self: Arc<Shared>, client: TcpStream) -> std::io::Result<()> {
        // The ALPN name stands in the clear in the ClientHello.
        let mut hello = vec![0; 16 << 10];
        let n = (&client).read(&mut hello)?;
        hello.truncate(n);
        let is_data = hello.windows(11).any(|w| w == b"haul-data/1");
        let mut limit = None;
        if is_data {
            if self.rules.no_data {
                return client.shutdown(Shutdown::Both);
            }
            let index = self.data_connections.fetch_add(1, Ordering::SeqCst);
            limit = self.rules.cuts.get(index).copied();
        }
        let server = TcpStream::connect(self.server)?;
        (&server).write_all(&hello)?;
        self.record(&hello);
        let (back_from, back_to, back) = (server.try_clone()?, client.try_clone()?, self.clone());
        std::thread::spawn(move || back.pipe(back_from, back_to, limit));
        self.pipe(client, server, limit);
        Ok(())
    }

    fn pipe(&self, mut from: TcpStream, mut to: TcpStream, limit: Option<usize>) {
        let mut buffer = vec![0; 64 << 10];
        let mut carried = 0;
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            carried += n;
            self.record(&buffer[..n]);
            if limit.is_some_and(|limit| carried > limit) {
                self.cut.fetch_add(1, Ordering::SeqCst);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return;
            }
            if to.write_all(&buffer[..n]).is_err() {
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    fn record(&self, bytes: &[u8]) {
        if self.rules.record {
            self.recorded.lock().unwrap().extend_from_slice(bytes);
        }
    }
}
