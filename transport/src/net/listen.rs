//! The port of a node and the handshake at both ends, on plain blocking threads: they work before an executor runs, and no
//! shard waits for a slow stranger.
//!
//! Invariants:
//! - One program per port: `SO_REUSEPORT` is never set, so a second one fails instead of taking half of the connections.
//! - A handshake has a deadline for the whole of it, not for each read, and only so many run at once.
//! - Not one byte behind the hello, or behind its reply, is read here: it belongs to whoever gets the socket.
//! - Before a hello was read, a stranger costs a thread and at most 4 KiB.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Type};

use super::socket::Socket;
use super::transport::{Acceptor, Transport};
use crate::frame::{
    FRAME_HEADER_BYTES, FrameError, FrameHeader, KIND_HELLO, KIND_HELLO_REPLY, encode_frame, padded_len,
};
use crate::hello::{HELLO_BYTES_MAX, Hello, HelloError, HelloReply, HelloStatus};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// How long to leave a full descriptor table alone.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// How long a reply may wait for its socket, which as a rule is empty.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Bounds of the listener's side of the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandshakeLimits {
    /// From accepting a connection to its whole hello.
    pub timeout: Duration,
    /// How many may be under way at once; who comes then is told that this node is busy.
    pub at_once_max: usize,
}

impl Default for HandshakeLimits {
    /// 5 seconds, 64 at once.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), at_once_max: 64 }
    }
}

/// A port that is taken, but not served yet.
#[derive(Debug)]
pub struct Listener {
    door: Door,
    addr: SocketAddr,
}

/// Where connections come in.
enum Door {
    Tcp(TcpListener),
    Own(Box<dyn Acceptor>),
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Tcp(_)) { "Tcp" } else { "Own" })
    }
}

impl Door {
    /// The next connection, and where it comes from.
    fn accept(&self) -> io::Result<(Socket, String)> {
        match self {
            Self::Tcp(socket) => socket.accept().map(|(stream, from)| (Socket::Tcp(stream), from.to_string())),
            Self::Own(acceptor) => acceptor.accept().map(|(stream, from)| (Socket::Own(stream), from)),
        }
    }

    /// Wakes the thread that accepts.
    fn stop(&self) {
        match self {
            // It fails only for a socket that is no longer listening.
            Self::Tcp(socket) => drop(SockRef::from(socket).shutdown(Shutdown::Both)),
            Self::Own(acceptor) => acceptor.stop(),
        }
    }
}

impl Listener {
    /// Takes a port. Port 0 takes a free one: see [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    /// When the port is in use (the text says so), or the address is not one of this machine.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let explain = |error: io::Error| explain_bind(addr, &error);
        let socket =
            socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP)).map_err(explain)?;
        // A restart need not wait for the old connections to time out. Two listeners at once stay impossible.
        socket.set_reuse_address(true).map_err(explain)?;
        socket.bind(&addr.into()).map_err(explain)?;
        socket.listen(BACKLOG).map_err(explain)?;
        let socket = TcpListener::from(socket);
        let addr = socket.local_addr()?;
        Ok(Self { door: Door::Tcp(socket), addr })
    }

    /// Takes an address of another transport.
    ///
    /// # Errors
    /// Those of the transport.
    pub fn over(transport: &dyn Transport, addr: SocketAddr) -> io::Result<Self> {
        Ok(Self { door: Door::Own(transport.listen(addr)?), addr })
    }

    /// The address that others dial.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Accepts connections from now on, with the default [`HandshakeLimits`].
    ///
    /// `on_hello` gets each hello and its socket; one of the system's is blocking and without timeouts. It runs on a short-lived thread of
    /// that connection, several at once. Its owner judges the hello, sends a [`reply`], and hands the socket on or drops it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve(self, on_hello: impl Fn(Hello, Socket) + Send + Sync + 'static) -> io::Result<ServingListener> {
        self.serve_within(HandshakeLimits::default(), on_hello)
    }

    /// As [`serve`](Self::serve), with other limits.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve_within(
        self,
        limits: HandshakeLimits,
        on_hello: impl Fn(Hello, Socket) + Send + Sync + 'static,
    ) -> io::Result<ServingListener> {
        let handshakes = Arc::new(Handshakes {
            limits,
            on_hello: Box::new(on_hello),
            running: Mutex::new(Running::default()),
            ended: Condvar::new(),
        });
        let door = Arc::new(self.door);
        let accepts = {
            let (door, handshakes) = (Arc::clone(&door), Arc::clone(&handshakes));
            thread::Builder::new().name("synod-accept".into()).spawn(move || accept_all(&door, &handshakes))?
        };
        Ok(ServingListener { door, addr: self.addr, handshakes, accepts: Some(accepts) })
    }
}

fn explain_bind(addr: SocketAddr, error: &io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "port {} of {} is in use: stop the program that holds it, or listen on another",
                addr.port(),
                addr.ip()
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this machine: listen on one that is", addr.ip())
        }
        _ => format!("cannot listen on {addr}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// A port that is served until [`stop`](Self::stop) or drop.
pub struct ServingListener {
    door: Arc<Door>,
    addr: SocketAddr,
    handshakes: Arc<Handshakes>,
    accepts: Option<JoinHandle<()>>,
}

impl ServingListener {
    /// The address that others dial.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Accepts nothing more, breaks off the handshakes under way and waits until their threads are through, also those in
    /// `on_hello`: so never call it from there. May be called again.
    pub fn stop(&mut self) {
        self.handshakes.stop();
        if let Some(accepts) = self.accepts.take() {
            self.door.stop();
            if accepts.join().is_err() {
                tracing::error!(addr = %self.addr, "the accepting thread had panicked");
            }
        }
        self.handshakes.wait_until_none_runs();
    }
}

impl Drop for ServingListener {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept_all(door: &Door, handshakes: &Arc<Handshakes>) {
    let mut failing = false;
    loop {
        let accepted = door.accept();
        if handshakes.running().stopping {
            return;
        }
        match accepted {
            Ok((stream, from)) => {
                failing = false;
                handshakes.begin(stream, from);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
            Err(error) => {
                // As a rule a full descriptor table: the connection stays in the backlog. Said once, not at each try.
                if !failing {
                    tracing::warn!(%error, "cannot accept connections, trying on: raise the limit of open files (ulimit -n)");
                }
                failing = true;
                thread::sleep(EXHAUSTED_PAUSE);
            }
        }
    }
}

/// What the accepting thread and the handshake threads share.
struct Handshakes {
    limits: HandshakeLimits,
    on_hello: Box<dyn Fn(Hello, Socket) + Send + Sync>,
    running: Mutex<Running>,
    /// Told when a handshake ends.
    ended: Condvar,
}

#[derive(Default)]
struct Running {
    next_id: u64,
    /// The sockets of the handshakes under way, so that a stop can break them off; `None` once the hello was read.
    sockets: BTreeMap<u64, Option<Arc<Socket>>>,
    stopping: bool,
}

impl Handshakes {
    fn running(&self) -> MutexGuard<'_, Running> {
        // Each change is a single step, so what a panicking thread leaves is whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, stream: Socket, from: String) {
        let stream = Arc::new(stream);
        let mut running = self.running();
        if running.stopping {
            return;
        }
        if self.limits.at_once_max <= running.sockets.len() {
            drop(running);
            refuse_busy(&stream, &from);
            return;
        }
        let id = running.next_id;
        running.next_id += 1;
        running.sockets.insert(id, Some(Arc::clone(&stream)));
        drop(running);
        let slot = Slot { handshakes: Arc::clone(self), id };
        let stranger = from.clone();
        let spawned = thread::Builder::new().name("synod-handshake".into()).spawn(move || slot.run(stream, &from));
        if let Err(error) = spawned {
            tracing::warn!(%error, from = %stranger, "connection closed, no thread for its handshake: raise the limit of threads");
        }
    }

    fn stop(&self) {
        let mut running = self.running();
        running.stopping = true;
        for socket in running.sockets.values().flatten() {
            // Wakes its thread.
            socket.shutdown();
        }
    }

    fn wait_until_none_runs(&self) {
        let running = self.running();
        drop(self.ended.wait_while(running, |running| !running.sockets.is_empty()));
    }
}

/// One handshake under way; its place is free again when this is dropped, also by a panic.
struct Slot {
    handshakes: Arc<Handshakes>,
    id: u64,
}

impl Slot {
    fn run(self, stream: Arc<Socket>, from: &str) {
        match read_hello(&stream, self.handshakes.limits.timeout) {
            Ok(hello) => {
                if let Some(stream) = self.take_socket(stream) {
                    (self.handshakes.on_hello)(hello, stream);
                }
            }
            Err(error) => tracing::debug!(%error, %from, "connection closed before its hello"),
        }
    }

    /// The socket alone, unless a stop has begun: after this a stop no longer touches it.
    fn take_socket(&self, stream: Arc<Socket>) -> Option<Socket> {
        let mut running = self.handshakes.running();
        if running.stopping {
            return None;
        }
        running.sockets.insert(self.id, None);
        Some(Arc::into_inner(stream).expect("only the table shared the socket"))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.handshakes.running().sockets.remove(&self.id);
        self.handshakes.ended.notify_all();
    }
}

/// Tells a stranger to come again, as far as that goes without waiting.
fn refuse_busy(stream: &Socket, from: &str) {
    tracing::debug!(%from, "connection closed: too many handshakes at once");
    let reply = HelloReply {
        status: HelloStatus::Busy,
        node: 0,
        incarnation: 0,
        boot: 0,
        shard_count: 0,
        first_shards: 0,
        replacement: false,
        founder: false,
        founding: 0,
        replica: 0,
        rules: Vec::new(),
        target_replica: 0,
        seen_replica: 0,
        wal_sequence_seen: 0,
        text: "too many handshakes at once: dial again in a moment".into(),
    };
    stream.write_now(&encode_frame(KIND_HELLO_REPLY, 0, &reply.encode()));
}

fn read_hello(stream: &Socket, timeout: Duration) -> Result<Hello, HandshakeError> {
    let deadline = Instant::now() + timeout;
    stream.set_nodelay()?;
    let body = read_frame(stream, KIND_HELLO, deadline)?;
    let hello = Hello::decode(&body)?;
    stream.clear_timeouts()?;
    Ok(hello)
}

/// Answers a hello. If the status is not [`HelloStatus::Ok`], drop the socket behind this.
///
/// # Errors
/// When the dialer has gone or takes nothing for 5 seconds: drop the socket.
pub fn reply(stream: &Socket, reply: &HelloReply) -> io::Result<()> {
    let deadline = Instant::now() + REPLY_TIMEOUT;
    stream.write_all_by(&encode_frame(KIND_HELLO_REPLY, 0, &reply.encode()), deadline)?;
    stream.clear_timeouts()
}

/// Why there is no connection. Dial again later, unless it was refused for a reason that stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// Nobody answers at this address.
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        /// Where to.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers, but not as a node does, or not in time.
    #[error("no handshake with {addr}: {source}")]
    Handshake {
        /// Where to.
        addr: SocketAddr,
        /// Why.
        source: HandshakeError,
    },
    /// The node does not let us in, and says why.
    #[error("node {} at {addr} refuses ({:?}): {}", reply.node, reply.status, reply.text)]
    Refused {
        /// Where to.
        addr: SocketAddr,
        /// Its answer; the status is never [`HelloStatus::Ok`].
        reply: Box<HelloReply>,
    },
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The connection broke or the time was over.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame's body is no hello or reply.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// Another frame came first.
    #[error("a frame of kind {found} came, kind {wanted} must be first: the other end breaks the protocol")]
    Kind {
        /// What came.
        found: u8,
        /// What must come.
        wanted: u8,
    },
}

/// Connects, says hello and waits for the reply, all within `timeout`. The socket that comes back is blocking and without
/// timeouts; the status of the reply that comes with it is [`HelloStatus::Ok`]. Blocks: never call it on a shard's thread.
///
/// # Errors
/// When nobody answers in time, or the answer is a refusal.
pub fn dial(addr: SocketAddr, hello: &Hello, timeout: Duration) -> Result<(HelloReply, TcpStream), DialError> {
    let deadline = Instant::now() + timeout;
    let stream = TcpStream::connect_timeout(&addr, timeout).map_err(|source| DialError::Connect { addr, source })?;
    let (reply, socket) = meet(addr, Socket::Tcp(stream), hello, deadline)?;
    Ok((reply, socket.into_tcp().expect("it is the one that went in")))
}

/// As [`dial`], over another transport.
///
/// # Errors
/// When nobody answers in time, or the answer is a refusal.
pub fn dial_over(
    transport: &dyn Transport,
    addr: SocketAddr,
    hello: &Hello,
    timeout: Duration,
) -> Result<(HelloReply, Socket), DialError> {
    let deadline = Instant::now() + timeout;
    let dialled = transport.dial(hello.target_node, addr, timeout);
    let stream = dialled.map_err(|source| DialError::Connect { addr, source })?;
    meet(addr, Socket::Own(stream), hello, deadline)
}

/// The dialer's side of the handshake.
fn meet(addr: SocketAddr, socket: Socket, hello: &Hello, deadline: Instant) -> Result<(HelloReply, Socket), DialError> {
    let reply = say_hello(&socket, hello, deadline).map_err(|source| DialError::Handshake { addr, source })?;
    if reply.status == HelloStatus::Ok {
        Ok((reply, socket))
    } else {
        Err(DialError::Refused { addr, reply: Box::new(reply) })
    }
}

fn say_hello(stream: &Socket, hello: &Hello, deadline: Instant) -> Result<HelloReply, HandshakeError> {
    stream.set_nodelay()?;
    stream.write_all_by(&encode_frame(KIND_HELLO, 0, &hello.encode()), deadline)?;
    let body = read_frame(stream, KIND_HELLO_REPLY, deadline)?;
    let reply = HelloReply::decode(&body)?;
    stream.clear_timeouts()?;
    Ok(reply)
}

/// Reads exactly one frame of a handshake and gives its body.
fn read_frame(stream: &Socket, kind: u8, deadline: Instant) -> Result<Vec<u8>, HandshakeError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact_by(&mut header, deadline)?;
    let header = FrameHeader::decode(&header)?;
    if header.kind != kind {
        return Err(HandshakeError::Kind { found: header.kind, wanted: kind });
    }
    header.check_len(HELLO_BYTES_MAX as u32)?;
    let body_len = header.body_len as usize;
    let mut body = vec![0; padded_len(body_len)];
    stream.read_exact_by(&mut body, deadline)?;
    header.check_body(&body)?;
    body.truncate(body_len);
    Ok(body)
}
