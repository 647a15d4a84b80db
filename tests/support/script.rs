//! Peers that speak the protocol by hand, rightly or wrongly.

use super::{Client, Ended, Server};
use haul::auth::{Fingerprint, Identity};
use haul::net::control::codec::{encode, read_message};
use haul::net::data::carry::{ReadFrames, WriteFrames};
use haul::net::data::connection::{DataConnection, FrameReader, FrameWriter};
use haul::net::lanes::socket::Socket;
use haul::net::tls::config;
use haul::net::tls::pin::Pin;
use haul::net::wire::frame::{Attach, FrameHeader, FrameKind, ROLE_DATA};
use haul::net::wire::proto::{self, control_message::Body, request, transfer_message};
use haul::net::wire::{ALPN_CONTROL, ALPN_DATA, EXPORTER_LABEL};
use ring::hmac;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub const SESSION: [u8; 16] = *b"a session of ids";

/// A control connection on which the test sends any message.
pub struct ScriptedClient {
    pub tls: tokio_rustls::client::TlsStream<TcpStream>,
    pub address: SocketAddr,
    pub key: hmac::Key,
    pub fingerprint: Fingerprint,
    pub session: [u8; 16],
    /// Messages of transfers that overtook the reply to a request.
    early: VecDeque<Body>,
}

impl ScriptedClient {
    /// Connects with a key that the server lists for `kim`.
    pub async fn connect(server: &Server) -> ScriptedClient {
        let client = server.client();
        let identity = Identity::load(&client.config().join("key")).unwrap();
        let fingerprint = Fingerprint::parse(&server.fingerprint).unwrap();
        ScriptedClient::open(server.address, fingerprint, identity.as_ref()).await
    }

    /// Connects with another client's key, for another session than the usual one.
    pub async fn connect_as(server: &Server, client: &Client, session: [u8; 16]) -> ScriptedClient {
        let identity = Identity::load(&client.config().join("key")).unwrap();
        let fingerprint = Fingerprint::parse(&server.fingerprint).unwrap();
        let tcp = TcpStream::connect(server.address).await.unwrap();
        ScriptedClient::over(tcp, fingerprint, identity.as_ref(), session).await
    }

    pub async fn open(
        address: SocketAddr,
        fingerprint: Fingerprint,
        identity: Option<&Identity>,
    ) -> ScriptedClient {
        let tcp = TcpStream::connect(address).await.unwrap();
        ScriptedClient::over(tcp, fingerprint, identity, SESSION).await
    }

    /// Connects from this address of the machine, without a key.
    pub async fn from_address(source: IpAddr, server: &Server) -> ScriptedClient {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        let tcp = socket.connect(server.address).await.unwrap();
        let fingerprint = Fingerprint::parse(&server.fingerprint).unwrap();
        ScriptedClient::over(tcp, fingerprint, None, SESSION).await
    }

    async fn over(
        tcp: TcpStream,
        fingerprint: Fingerprint,
        identity: Option<&Identity>,
        session: [u8; 16],
    ) -> ScriptedClient {
        let address = tcp.peer_addr().unwrap();
        let pin = Pin::new(Some(fingerprint));
        let config = config::client_config(ALPN_CONTROL, &pin, identity).unwrap();
        let tls = tokio_rustls::TlsConnector::from(config)
            .connect(config::server_name(), tcp)
            .await
            .unwrap();
        let exported = tls
            .get_ref()
            .1
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(&session))
            .unwrap();
        ScriptedClient {
            tls,
            address,
            key: hmac::Key::new(hmac::HMAC_SHA256, &exported),
            fingerprint,
            session,
            early: VecDeque::new(),
        }
    }

    pub async fn send(&mut self, body: Body) {
        let mut bytes = Vec::new();
        encode(&proto::ControlMessage { body: Some(body) }, &mut bytes).unwrap();
        self.raw(&bytes).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        // some tests expect that the server has hung up
        let _ = self.tls.write_all(bytes).await;
        let _ = self.tls.flush().await;
    }

    /// The next message that is not a heartbeat; none when the server has hung up.
    pub async fn receive(&mut self) -> Option<Body> {
        match self.early.pop_front() {
            Some(body) => Some(body),
            None => self.next().await,
        }
    }

    async fn next(&mut self) -> Option<Body> {
        loop {
            match read_message(&mut self.tls).await.ok()?.0.body {
                Some(Body::Heartbeat(_)) => {}
                body => return body,
            }
        }
    }

    /// Sends a request and returns its reply.
    pub async fn ask(&mut self, number: u64, body: request::Body) -> Option<proto::Reply> {
        self.send(Body::Request(proto::Request {
            number,
            body: Some(body),
        }))
        .await;
        loop {
            match self.next().await? {
                Body::Reply(reply) if reply.number == number => return Some(reply),
                early @ Body::Transfer(_) => self.early.push_back(early),
                _ => {}
            }
        }
    }

    /// Logs in with the key, as request 1.
    pub async fn login(&mut self) {
        let refused = self.try_login_as("kim").await;
        assert_eq!(refused, None);
    }

    /// Logs in; returns the server's reply if it refused.
    pub async fn try_login_as(&mut self, user: &str) -> Option<proto::Reply> {
        let login = proto::Login {
            session: self.session.to_vec(),
            user: user.into(),
            password: None,
            window: 4 << 20,
            features: 0,
            client: "script".into(),
            ..Default::default()
        };
        let reply = self.ask(1, request::Body::Login(login)).await.unwrap();
        (reply.code != 230).then_some(reply)
    }

    /// Tries to log in with a password, as request `number`; none when the server has hung up.
    pub async fn try_password(
        &mut self,
        number: u64,
        user: &str,
        password: &str,
    ) -> Option<proto::Reply> {
        let login = proto::Login {
            session: SESSION.to_vec(),
            user: user.into(),
            password: Some(password.into()),
            ..Default::default()
        };
        self.ask(number, request::Body::Login(login)).await
    }

    pub async fn transfer(&mut self, transfer: u32, body: transfer_message::Body) {
        self.send(Body::Transfer(proto::TransferMessage {
            transfer,
            body: Some(body),
        }))
        .await;
    }

    /// A data connection with this attach message; the first frame, if the server accepted it.
    pub async fn data(&self, attach: &Attach) -> Option<(FrameReader, FrameWriter)> {
        let (mut reader, mut writer) = self.data_unattached().await;
        writer.write_raw(&attach.encode()).await.ok()?;
        let header = reader.next().await.ok()??.header;
        assert_eq!(header.kind, FrameKind::Attached);
        Some((reader, writer))
    }

    pub async fn data_unattached(&self) -> (FrameReader, FrameWriter) {
        let config =
            config::client_config(ALPN_DATA, &Pin::new(Some(self.fingerprint)), None).unwrap();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let connection = DataConnection::connect(Socket::Tcp(tcp), config).await.unwrap();
        connection.split(haul::chunk::buffer::BufferPool::new(1))
    }

    /// A right proof.
    pub fn attach(&self, n: u32) -> Attach {
        let mut proof = [0; 32];
        proof.copy_from_slice(
            hmac::sign(&self.key, &Attach::signed(ROLE_DATA, &self.session, n)).as_ref(),
        );
        Attach {
            session: self.session,
            n,
            proof,
        }
    }
}

/// A server that logs every client in and then follows the test.
pub struct ScriptedServer {
    listener: TcpListener,
    pub address: SocketAddr,
    identity: Identity,
    _dir: tempfile::TempDir,
}

/// One client's connection to a [`ScriptedServer`].
pub struct Scripted {
    pub tls: tokio_rustls::server::TlsStream<TcpStream>,
}

impl ScriptedServer {
    pub async fn start() -> ScriptedServer {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&dir.path().join("key")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        ScriptedServer {
            listener,
            address,
            identity,
            _dir: dir,
        }
    }

    /// A client that trusts this server and has a key.
    pub fn client(&self) -> Client {
        let client = Client::new().with_env("HAUL_RETRY_FOR", "1s");
        let config = client.config();
        Identity::load_or_create(&config.join("key")).unwrap();
        let print = self.identity.public().fingerprint();
        std::fs::write(
            config.join("known_servers"),
            format!("127.0.0.1:{} {print}\n", self.address.port()),
        )
        .unwrap();
        client
    }

    /// Of its key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.identity.public().fingerprint()
    }

    /// `haul://…` for a path on this server.
    pub fn url(&self, path: &str) -> String {
        format!("haul://kim@127.0.0.1:{}/{path}", self.address.port())
    }

    pub async fn accept(&self) -> Scripted {
        let (tcp, _) = self.listener.accept().await.unwrap();
        let config = config::server_config(ALPN_CONTROL, &self.identity).unwrap();
        Scripted {
            tls: tokio_rustls::TlsAcceptor::from(config).accept(tcp).await.unwrap(),
        }
    }

    /// True when a client completes the handshake.
    pub async fn try_accept(&self) -> bool {
        let (tcp, _) = self.listener.accept().await.unwrap();
        let config = config::server_config(ALPN_CONTROL, &self.identity).unwrap();
        match tokio_rustls::TlsAcceptor::from(config).accept(tcp).await {
            Ok(mut tls) => read_message(&mut tls).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Accepts a client and logs it in.
    pub async fn logged_in(&self) -> Scripted {
        let mut client = self.accept().await;
        let (number, body) = client.request().await;
        assert!(matches!(body, request::Body::Login(_)), "{body:?}");
        let reply = proto::LoginReply {
            window: 4 << 20,
            connections: 1,
            ..Default::default()
        };
        client.reply(number, 230, Some(proto::reply::Body::Login(reply))).await;
        client
    }

    /// Accepts a data connection, whatever it proves, with this server's key or another's.
    pub async fn accept_data(
        &self,
        identity: Option<&Identity>,
    ) -> Option<(FrameReader, FrameWriter)> {
        let (tcp, _) = self.listener.accept().await.unwrap();
        let config = config::server_config(ALPN_DATA, identity.unwrap_or(&self.identity)).unwrap();
        let connection = DataConnection::accept(Socket::Tcp(tcp), config).await.ok()?;
        let (mut reader, mut writer) = connection.split(haul::chunk::buffer::BufferPool::new(1));
        reader.preamble(60).await.ok()?;
        writer.write(&FrameHeader::bare(FrameKind::Attached), &[]).await.ok()?;
        writer.flush().await.ok()?;
        Some((reader, writer))
    }
}

impl Scripted {
    pub async fn request(&mut self) -> (u64, request::Body) {
        loop {
            match read_message(&mut self.tls).await.expect("the client hung up").0.body {
                Some(Body::Request(request)) => return (request.number, request.body.unwrap()),
                Some(Body::Heartbeat(_)) => {}
                other => panic!("not a request: {other:?}"),
            }
        }
    }

    /// The next size that the client allows to be outstanding.
    pub async fn window(&mut self) -> u64 {
        loop {
            let message = read_message(&mut self.tls).await.expect("the client hung up");
            if let Some(Body::Window(window)) = message.0.body {
                return window.bytes;
            }
        }
    }

    pub async fn message(&mut self) -> Option<transfer_message::Body> {
        loop {
            match read_message(&mut self.tls).await.ok()?.0.body {
                Some(Body::Transfer(message)) => return message.body,
                Some(_) => {}
                None => return None,
            }
        }
    }

    pub async fn send(&mut self, body: Body) {
        let mut bytes = Vec::new();
        encode(&proto::ControlMessage { body: Some(body) }, &mut bytes).unwrap();
        let _ = self.tls.write_all(&bytes).await;
        let _ = self.tls.flush().await;
    }

    pub async fn reply(&mut self, number: u64, code: u32, body: Option<proto::reply::Body>) {
        self.send(Body::Reply(proto::Reply {
            number,
            code,
            text: "scripted".into(),
            body,
        }))
        .await;
    }

    pub async fn transfer(&mut self, transfer: u32, body: transfer_message::Body) {
        self.send(Body::Transfer(proto::TransferMessage {
            transfer,
            body: Some(body),
        }))
        .await;
    }
}

/// Runs a command while the script plays the server.
pub async fn against<F: Future<Output = ()>>(
    client: &Client,
    arguments: &[&str],
    script: F,
) -> Ended {
    let (arguments, mut command) = (
        arguments.iter().map(ToString::to_string).collect::<Vec<_>>(),
        client.command([""; 0]),
    );
    command.args(arguments);
    let running = tokio::task::spawn_blocking(move || super::run_with(command, b""));
    let output = tokio::select! {
        output = running => output.unwrap(),
        () = async { script.await; std::future::pending::<()>().await } => unreachable!(),
    };
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        bytes: output.stdout,
    }
}
