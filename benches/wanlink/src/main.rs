//! A long link on one machine: two network namespaces with a TUN device each, and this program
//! between them, which gives every packet a rate, a delay, a queue and random loss. TCP's own slow
//! start, congestion control and loss recovery are what is measured. Needs root, /dev/net/tun and
//! iproute2; nothing leaves the machine.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tun_rs::{DeviceBuilder, SyncDevice};

/// Bytes of a packet at most.
const MTU: usize = 1500;

/// Joins the namespaces NAME-a (10.77.0.1) and NAME-b (10.77.0.2), says "ready", and carries
/// packets until SIGINT or SIGTERM
#[derive(Parser)]
struct Args {
    /// Rate of each direction, in Mbit/s
    #[arg(short, long, default_value_t = 200.0)]
    rate: f64,

    /// One-way delay, in milliseconds
    #[arg(short, long, default_value_t = 25.0)]
    delay: f64,

    /// Packets lost at random, in percent
    #[arg(short, long, default_value_t = 0.0)]
    loss: f64,

    /// Room of the queue, in KiB [default: what fits into a round trip, at least 64]
    #[arg(short, long)]
    queue: Option<f64>,

    /// Default congestion control in the namespaces
    #[arg(short, long, default_value = "cubic")]
    congestion: String,

    /// What a plain user may choose besides it
    #[arg(short, long, value_name = "LIST")]
    allowed: Option<String>,

    /// Prefix of the namespaces' names
    name: String,
}

/// A packet that is to arrive at a time.
type OnItsWay = (Instant, Vec<u8>);

/// Packets of one direction, by what became of them.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    lost: AtomicU64,
    dropped: AtomicU64,
}

/// xorshift*: the same losses in every run.
struct Random(u64);

impl Random {
    /// From 0 up to 1.
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status().context("ip (iproute2)")?;
    ensure!(status.success(), "ip {arguments}");
    Ok(())
}

/// Takes the namespaces away again, however the program ends.
struct Namespaces(String);

impl Namespaces {
    fn make(name: &str) -> Result<Namespaces> {
        let made = Namespaces(name.to_string());
        for side in ["a", "b"] {
            ip(&format!("netns add {name}-{side}"))?;
        }
        Ok(made)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for side in ["a", "b"] {
            let _ = ip(&format!("netns del {}-{side}", self.0));
        }
    }
}

/// A device in a namespace; its packets are read and written here.
fn device(args: &Args, side: &str, address: &str, peer: &str) -> Result<Arc<SyncDevice>> {
    let (namespace, interface) = (format!("{}-{side}", args.name), format!("wan{side}{}", std::process::id() % 100_000));
    let device = DeviceBuilder::new().name(&interface).build_sync().context("/dev/net/tun")?;
    ip(&format!("link set {interface} netns {namespace}"))?;
    ip(&format!("-n {namespace} link set lo up"))?;
    ip(&format!("-n {namespace} addr add {address} peer {peer} dev {interface}"))?;
    ip(&format!("-n {namespace} link set {interface} mtu {MTU} txqueuelen 10000 up"))?;
    let sysctl = |setting: String| {
        let status = Command::new("ip").args(["netns", "exec", &namespace, "sysctl", "-qw", &setting]).status();
        if !status.is_ok_and(|s| s.success()) {
            eprintln!("wanlink: {setting} is not to be had here");
        }
    };
    if let Some(allowed) = &args.allowed {
        sysctl(format!("net.ipv4.tcp_allowed_congestion_control={allowed}"));
    }
    sysctl(format!("net.ipv4.tcp_congestion_control={}", args.congestion));
    Ok(Arc::new(device))
}

/// Takes what a device sends: loses it, drops it because the queue is full, or says when it
/// arrives.
fn transmit(from: &SyncDevice, args: &Args, counts: &Counts, seed: u64, on: &Sender<OnItsWay>) {
    let second_per_byte = 8e-6 / args.rate;
    let delay = Duration::from_secs_f64(args.delay / 1e3);
    let round_trip = args.rate * 1e6 / 8.0 * 2.0 * args.delay / 1e3;
    let queue = args.queue.map_or(round_trip, |kib| kib * 1024.0).max(65_536.0) * second_per_byte;
    let mut random = Random(seed);
    let mut free = Instant::now();
    let mut buffer = [0; MTU + 64];
    while let Ok(length) = from.recv(&mut buffer) {
        let now = Instant::now();
        free = free.max(now);
        if free.duration_since(now).as_secs_f64() > queue {
            counts.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        free += Duration::from_secs_f64(length as f64 * second_per_byte);
        if random.uniform() * 100.0 < args.loss {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        counts.sent.fetch_add(1, Ordering::Relaxed);
        if on.send((free + delay, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

/// Hands packets over when they are due. They are in order: all are delayed alike.
fn deliver(to: &SyncDevice, on: &Receiver<OnItsWay>) {
    while let Ok((due, packet)) = on.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // a device that is full drops, like any other
        let _ = to.send(&packet);
    }
}

fn main() -> Result<()> {
    let args = Arc::new(Args::parse());
    let _namespaces = Namespaces::make(&args.name)?;
    let a = device(&args, "a", "10.77.0.1", "10.77.0.2")?;
    let b = device(&args, "b", "10.77.0.2", "10.77.0.1")?;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopping, main) = (stop.clone(), std::thread::current());
    ctrlc::set_handler(move || {
        stopping.store(true, Ordering::SeqCst);
        main.unpark();
    })?;
    let mut counted = Vec::new();
    for (name, from, to, seed) in [("a to b", &a, &b, 0x9e37_79b9_7f4a_7c15), ("b to a", &b, &a, 0x2545_f491_4f6c_dd1d)] {
        let counts = Arc::new(Counts::default());
        counted.push((name, counts.clone()));
        let (on, off) = channel();
        let (from, to, args) = (from.clone(), to.clone(), args.clone());
        std::thread::spawn(move || transmit(&from, &args, &counts, seed, &on));
        std::thread::spawn(move || deliver(&to, &off));
    }
    println!("ready");
    while !stop.load(Ordering::SeqCst) {
        std::thread::park();
    }
    for (name, counts) in counted {
        let [sent, lost, dropped] = [&counts.sent, &counts.lost, &counts.dropped].map(|c| c.load(Ordering::Relaxed));
        eprintln!("wanlink: {name}: {sent} sent, {lost} lost at random, {dropped} dropped by the \
        queue");
    }
    Ok(())
}
