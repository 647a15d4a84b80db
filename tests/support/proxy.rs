//! A link between client and server that treats connections as bad networks do: it counts, records,
//! refuses, cuts, delays, throttles and silences them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The faults of the link from the start.
#[derive(Default)]
pub struct Rules {
    /// Each of the first data connections is cut after this many bytes from the client.
    pub cuts: Vec<usize>,
    /// Bytes a second, in each direction, of each of the first data connections.
    pub rates: Vec<Option<usize>>,
    /// Bytes a second, in each direction, of every data connection.
    pub rate: Option<usize>,
    /// Time that every byte is on its way, in each direction.
    pub delay: Duration,
    /// Data connections are refused altogether.
    pub no_data: bool,
    /// Keep all bytes that go over it.
    pub record: bool,
}

/// Connections that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    Control,
    Data,
    /// The data connection with this number, from 0.
    OneData(usize),
}

impl Which {
    fn has(self, data: Option<usize>) -> bool {
        match self {
            Which::All => true,
            Which::Control => data.is_none(),
            Which::Data => data.is_some(),
            Which::OneData(index) => data == Some(index),
        }
    }
}

/// A proxy in front of a server. Its threads end with the test's process.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: Mutex<SocketAddr>,
    rules: Rules,
    data_connections: AtomicUsize,
    cut: AtomicUsize,
    from_client: AtomicUsize,
    by_connection: Mutex<Vec<usize>>,
    /// Bytes of each data connection in both directions.
    passed: Mutex<Vec<usize>>,
    recorded: Mutex<Vec<u8>>,
    /// The silent connections, present and future.
    silent: Mutex<Vec<Which>>,
    /// New connections are refused.
    closed: AtomicBool,
    carried: Mutex<Vec<Carried>>,
}

struct Carried {
    data: Option<usize>,
    ends: (TcpStream, TcpStream),
}

/// One direction of a connection.
struct Lane {
    /// The data connection with this number; `None` for a control connection.
    data: Option<usize>,
    /// The connection is cut after this many bytes.
    limit: Option<usize>,
    /// Bytes a second.
    rate: Option<usize>,
    direction: Direction,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToServer,
    ToClient,
}

/// Bytes that are to go out at a time.
type Due = (Instant, Vec<u8>);

impl Proxy {
    /// One that remembers what passes.
    pub fn recording(server: SocketAddr) -> Proxy {
        let rules = Rules {
            record: true,
            ..Rules::default()
        };
        Proxy::start(server, rules)
    }

    pub fn start(server: SocketAddr, rules: Rules) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            rules,
            data_connections: AtomicUsize::new(0),
            cut: AtomicUsize::new(0),
            from_client: AtomicUsize::new(0),
            by_connection: Mutex::default(),
            passed: Mutex::default(),
            recorded: Mutex::default(),
            silent: Mutex::default(),
            closed: AtomicBool::new(false),
            carried: Mutex::default(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = accepting.clone();
                if !shared.closed.load(Ordering::SeqCst) {
                    std::thread::spawn(move || drop(shared.carry(stream)));
                }
            }
        });
        Proxy { address, shared }
    }

    /// Data connections so far.
    pub fn data_connections(&self) -> usize {
        self.shared.data_connections.load(Ordering::SeqCst)
    }

    /// Connections that were cut by the rules so far.
    pub fn cut(&self) -> usize {
        self.shared.cut.load(Ordering::SeqCst)
    }

    /// Bytes from clients that were passed on so far.
    pub fn sent(&self) -> usize {
        self.shared.from_client.load(Ordering::SeqCst)
    }

    /// Bytes that the client has got rid of on each data connection so far.
    pub fn by_connection(&self) -> Vec<usize> {
        self.shared.by_connection.lock().unwrap().clone()
    }

    /// Bytes that these data connections have carried so far, in both directions.
    pub fn passed(&self, which: Which) -> usize {
        let passed = self.shared.passed.lock().unwrap();
        let of = passed.iter().enumerate().filter(|(index, _)| which.has(Some(*index)));
        of.map(|(_, bytes)| bytes).sum()
    }

    /// Everything that went over the wire, in both directions.
    pub fn recorded(&self) -> Vec<u8> {
        self.shared.recorded.lock().unwrap().clone()
    }

    /// From now on nothing goes through these connections, which stay open: a black hole.
    pub fn silence(&self, which: Which) {
        self.shared.silent.lock().unwrap().push(which);
    }

    /// Nothing is silent any more, and new connections are let in.
    pub fn heal(&self) {
        self.shared.silent.lock().unwrap().clear();
        self.shared.closed.store(false, Ordering::SeqCst);
    }

    /// Cuts these connections now.
    pub fn cut_now(&self, which: Which) {
        self.shared.carried.lock().unwrap().retain(|carried| {
            if which.has(carried.data) {
                let _ = carried.ends.0.shutdown(Shutdown::Both);
                let _ = carried.ends.1.shutdown(Shutdown::Both);
            }
            !which.has(carried.data)
        });
    }

    /// New connections are refused until [`Proxy::heal`].
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn carry(self: Arc<Shared>, client: TcpStream) -> std::io::Result<()> {
        // The ALPN name stands in the clear in the ClientHello.
        let mut hello = vec![0; 16 << 10];
        let n = (&client).read(&mut hello)?;
        hello.truncate(n);
        let is_data = hello.windows(11).any(|w| w == b"haul-data/1");
        let (mut limit, mut rate, mut data) = (None, None, None);
        if is_data {
            if self.rules.no_data {
                return client.shutdown(Shutdown::Both);
            }
            let index = self.data_connections.fetch_add(1, Ordering::SeqCst);
            data = Some(index);
            limit = self.rules.cuts.get(index).copied();
            rate = self.rules.rates.get(index).copied().flatten().or(self.rules.rate);
        }
        let server = TcpStream::connect(*self.server.lock().unwrap())?;
        for end in [&client, &server] {
            let _ = end.set_nodelay(true);
            if rate.is_some() {
                // large buffers would make a slow connection look fast
                let _ = socket2::SockRef::from(end).set_recv_buffer_size(64 << 10);
                let _ = socket2::SockRef::from(end).set_send_buffer_size(64 << 10);
            }
        }
        let ends = (client.try_clone()?, server.try_clone()?);
        self.carried.lock().unwrap().push(Carried { data, ends });
        let back = (server.try_clone()?, client.try_clone()?);
        let other = self.clone();
        let lane = |direction| Lane {
            data,
            limit,
            rate,
            direction,
        };
        let to_client = lane(Direction::ToClient);
        std::thread::spawn(move || other.pipe(back, Vec::new(), &to_client));
        self.pipe((client, server), hello, &lane(Direction::ToServer));
        Ok(())
    }

    fn is_silent(&self, data: Option<usize>) -> bool {
        self.silent.lock().unwrap().iter().any(|which| which.has(data))
    }

    fn pipe(self: &Arc<Shared>, (from, to): (TcpStream, TcpStream), first: Vec<u8>, lane: &Lane) {
        // with a delay as much is on its way as fits; without, one piece at a time
        let room = if self.rules.delay.is_zero() { 0 } else { 10_000 };
        let (send, receive) = sync_channel::<Due>(room);
        let (writing, end) = (self.clone(), to.try_clone());
        let Ok(end) = end else { return };
        let data = lane.data;
        let writer = std::thread::spawn(move || writing.write_all(end, data, &receive));
        if self.read_all((&from, &to), &send, first, lane).is_none() {
            let _ = from.shutdown(Shutdown::Both);
        }
        drop(send);
        let _ = writer.join();
    }

    fn read_all(
        &self,
        (mut from, to): (&TcpStream, &TcpStream),
        send: &SyncSender<Due>,
        first: Vec<u8>,
        lane: &Lane,
    ) -> Option<()> {
        let Lane {
            data,
            limit,
            rate,
            direction,
        } = *lane;
        let mut buffer = vec![0; if rate.is_some() { 8 << 10 } else { 64 << 10 }];
        let mut carried = first.len();
        if !first.is_empty() {
            self.pass(send, first, direction)?;
        }
        loop {
            let n = from.read(&mut buffer).unwrap_or(0);
            if n == 0 {
                return Some(());
            }
            carried += n;
            if let Some(index) = data {
                count(&mut self.passed.lock().unwrap(), index, n);
                if direction == Direction::ToServer {
                    count(&mut self.by_connection.lock().unwrap(), index, n);
                }
            }
            if limit.is_some_and(|limit| carried > limit) {
                self.cut.fetch_add(1, Ordering::SeqCst);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return None;
            }
            while self.is_silent(data) {
                std::thread::sleep(Duration::from_millis(10));
            }
            if let Some(rate) = rate {
                std::thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
            }
            self.pass(send, buffer[..n].to_vec(), direction)?;
        }
    }

    fn pass(&self, send: &SyncSender<Due>, bytes: Vec<u8>, direction: Direction) -> Option<()> {
        if direction == Direction::ToServer {
            self.from_client.fetch_add(bytes.len(), Ordering::SeqCst);
        }
        if self.rules.record {
            self.recorded.lock().unwrap().extend_from_slice(&bytes);
        }
        send.send((Instant::now() + self.rules.delay, bytes)).ok()
    }

    fn write_all(&self, mut to: TcpStream, data: Option<usize>, receive: &Receiver<Due>) {
        while let Ok((due, bytes)) = receive.recv() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            while self.is_silent(data) {
                std::thread::sleep(Duration::from_millis(10));
            }
            if to.write_all(&bytes).is_err() {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

fn count(counts: &mut Vec<usize>, index: usize, bytes: usize) {
    let needed = counts.len().max(index + 1);
    counts.resize(needed, 0);
    counts[index] += bytes;
}
