//! The seam for those who bring their own connections: encrypted ones, unix sockets, a network of a test.
//!
//! # Contract
//! - A stream carries bytes in their order, each once, both ways; it ends or fails, but never leaves bytes out in between.
//!   Frames are cut, and each checked against its checksums, above it. Checksums are no signature: whoever may write to the
//!   stream is taken for the node that it says it is, so a transport that crosses a network encrypts and authenticates.
//! - A stream is first used by a thread that waits (the handshake), then by the executor of one shard; [`shutdown`] may come
//!   from any thread at any time.
//! - A poll that gives [`Poll::Pending`] wakes the last waker that it was given, from any thread, once it would give
//!   something else. Waking too often is harmless, and so is waking after the end. Of each direction one is waited for at a
//!   time.
//! - No poll blocks: on a shard's thread all its groups would wait.
//! - What was written may be lost when a stream ends: what matters is asked for again on the next one.
//!
//! A number of bytes that cannot be ends the connection with an error that says so.
//!
//! [`shutdown`]: ByteStream::shutdown

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

/// Makes the connections of a node.
pub trait Transport: Send + Sync {
    /// Begins to listen. What others dial from now on waits until it is accepted.
    ///
    /// # Errors
    /// When the address cannot be had. Its text names the address.
    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Acceptor>>;

    /// Connects to a node, on a thread that may wait, `timeout` at the longest.
    ///
    /// # Errors
    /// When nobody answers in time. It is dialled again later, at growing intervals.
    fn dial(&self, node: u64, address: SocketAddr, timeout: Duration) -> io::Result<Box<dyn ByteStream>>;
}

/// Takes connections in, on a thread of its own.
pub trait Acceptor: Send + Sync {
    /// Waits for the next connection, and gives it with a name of where it comes from, for messages.
    ///
    /// # Errors
    /// When there is none: it is asked again, a moment later, unless it was stopped.
    fn accept(&self) -> io::Result<(Box<dyn ByteStream>, String)>;

    /// Lets an [`accept`](Self::accept) that waits, and all later ones, come back at once, with whatever. The address is free
    /// when the acceptor is dropped.
    fn stop(&self);
}

/// One connection. Dropping it ends it.
pub trait ByteStream: Send + Sync {
    /// Reads some bytes: 0 when the other end, or [`shutdown`](Self::shutdown), has ended the stream. `buf` is not empty.
    ///
    /// # Errors
    /// The connection is over.
    fn poll_read(&self, context: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Takes some of the bytes of `parts`, from the first on, at least one.
    ///
    /// # Errors
    /// The connection is over.
    fn poll_write(&self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Ends the connection in both directions. The other end is told, and whoever waits in a poll is woken. May be called
    /// again.
    fn shutdown(&self);
}
