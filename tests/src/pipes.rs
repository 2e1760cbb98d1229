//! A network of pipes within this process: a transport of one's own, whose connections can be cut and falsified.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use synod::transport::{Acceptor, ByteStream, Transport};

/// Bytes that a pipe holds: little, so that writers wait.
const PIPE_BYTES: usize = 16 << 10;
/// Bytes that are read at once: a number that cuts frames anywhere.
const READ_BYTES: usize = 4099;

/// All connections of a cluster.
#[derive(Default)]
pub struct Network {
    state: Mutex<State>,
    /// Told of new connections and of stops.
    changed: Condvar,
    /// How many of the next writes are falsified.
    falsified: AtomicU64,
    /// How many of the next reads give numbers that cannot be.
    lies: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Who listens, with the connections that wait.
    listening: HashMap<SocketAddr, VecDeque<Stream>>,
    /// The ends of all connections that were made.
    ends: Vec<([u64; 2], [Arc<Pipe>; 2])>,
    away: HashSet<u64>,
}

impl Network {
    /// A node's way into the network.
    pub fn transport(self: &Arc<Self>, node: u64) -> Arc<dyn Transport> {
        Arc::new(Pipes { network: Arc::clone(self), node })
    }

    /// Cuts all connections of a node. New ones are refused until it is back.
    pub fn cut(&self, node: u64) {
        let mut state = self.state();
        state.away.insert(node);
        let ends = std::mem::take(&mut state.ends);
        let (cut, stay): (Vec<_>, Vec<_>) = ends.into_iter().partition(|(nodes, _)| nodes.contains(&node));
        state.ends = stay;
        drop(state);
        cut.iter().flat_map(|(_, pipes)| pipes).for_each(|pipe| pipe.end());
    }

    /// Lets a node connect again.
    pub fn heal(&self, node: u64) {
        self.state().away.remove(&node);
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.state().ends.iter().filter(|(_, pipes)| !pipes[0].inner().ended).count()
    }

    /// Changes a byte in each of the next writes.
    pub fn falsify(&self, writes: u64) {
        self.falsified.store(writes, Ordering::SeqCst);
    }

    /// Lets the next reads say that they have given more than was asked for.
    pub fn lie(&self, reads: u64) {
        self.lies.store(reads, Ordering::SeqCst);
    }

    /// Whether all that [`falsify`](Self::falsify) and [`lie`](Self::lie) have asked for is done.
    pub fn is_honest(&self) -> bool {
        self.falsified.load(Ordering::SeqCst) == 0 && self.lies.load(Ordering::SeqCst) == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

fn take_one(of: &AtomicU64) -> bool {
    of.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

struct Pipes {
    network: Arc<Network>,
    node: u64,
}

impl Transport for Pipes {
    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Acceptor>> {
        let mut state = self.network.state();
        if state.listening.contains_key(&address) {
            return Err(io::Error::new(ErrorKind::AddrInUse, format!("somebody listens at the pipe {address}")));
        }
        state.listening.insert(address, VecDeque::new());
        Ok(Box::new(Door { network: Arc::clone(&self.network), address }))
    }

    fn dial(&self, node: u64, address: SocketAddr, _: Duration) -> io::Result<Box<dyn ByteStream>> {
        let mut state = self.network.state();
        if state.away.contains(&self.node) || state.away.contains(&node) {
            return Err(io::Error::new(ErrorKind::ConnectionRefused, "the pipe is cut"));
        }
        let waiting = state.listening.get_mut(&address).ok_or(ErrorKind::ConnectionRefused)?;
        let (there, back) = (Arc::<Pipe>::default(), Arc::<Pipe>::default());
        let stream = |incoming: &Arc<Pipe>, outgoing: &Arc<Pipe>| Stream {
            network: Arc::clone(&self.network),
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
        };
        waiting.push_back(stream(&there, &back));
        let ours = stream(&back, &there);
        state.ends.retain(|(_, pipes)| !pipes[0].inner().ended);
        state.ends.push(([self.node, node], [there, back]));
        self.network.changed.notify_all();
        Ok(Box::new(ours))
    }
}

struct Door {
    network: Arc<Network>,
    address: SocketAddr,
}

impl Acceptor for Door {
    fn accept(&self) -> io::Result<(Box<dyn ByteStream>, String)> {
        let mut state = self.network.state();
        loop {
            let waiting = state.listening.get_mut(&self.address).ok_or(ErrorKind::ConnectionAborted)?;
            if let Some(stream) = waiting.pop_front() {
                return Ok((Box::new(stream), "a pipe".into()));
            }
            state = self.network.changed.wait(state).expect("no holder panics");
        }
    }

    fn stop(&self) {
        let waiting = self.network.state().listening.remove(&self.address);
        self.network.changed.notify_all();
        drop(waiting);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    bytes: VecDeque<u8>,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder panics")
    }

    fn end(&self) {
        let mut inner = self.inner();
        inner.ended = true;
        let waiting = [inner.reader.take(), inner.writer.take()];
        drop(inner);
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

struct Stream {
    network: Arc<Network>,
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

impl ByteStream for Stream {
    fn poll_read(&self, context: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.incoming.inner();
        let bytes = inner.bytes.len().min(buf.len()).min(READ_BYTES);
        if bytes == 0 && !inner.ended {
            inner.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        if bytes > 0 && take_one(&self.network.lies) {
            return Poll::Ready(Ok(buf.len() + 1));
        }
        for (to, from) in buf.iter_mut().zip(inner.bytes.drain(..bytes)) {
            *to = from;
        }
        let writer = inner.writer.take();
        drop(inner);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes))
    }

    fn poll_write(&self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut inner = self.outgoing.inner();
        if inner.ended {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let before = inner.bytes.len();
        let room = PIPE_BYTES - before;
        if room == 0 {
            inner.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        inner.bytes.extend(parts.iter().flat_map(|part| part.iter()).take(room));
        let bytes = inner.bytes.len() - before;
        if take_one(&self.network.falsified) {
            inner.bytes[before + bytes / 2] ^= 0x10;
        }
        let reader = inner.reader.take();
        drop(inner);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes))
    }

    fn shutdown(&self) {
        self.incoming.end();
        self.outgoing.end();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shutdown();
    }
}
