//! A connected socket on a glommio executor. Only this file and `datagrams` know glommio.
//!
//! Invariants:
//! - One reader and one writer at a time: glommio keeps one waker for each direction.
//! - The stream is borrowed only inside a poll, never across an await.
//! - The socket is shut down before it is closed: a poll that is still armed keeps the file, and the other end would not
//!   learn of the close.
//!
//! Why glommio's own order of reading is kept: it tries `recv` first, except behind a read that did not fill its buffer. Then
//! the socket is most likely empty, and a poll that is already armed saves the `recv` that would only say so.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::rc::Rc;

use futures_io::{AsyncRead, AsyncWrite};
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};

use super::own::OwnStream;
use super::socket::Socket;

/// One connection that belongs to the executor of this thread.
pub struct Connection {
    stream: Stream,
    reads: Cell<bool>,
    writes: Cell<bool>,
}

enum Stream {
    Tcp(RefCell<::glommio::net::TcpStream>),
    Own(OwnStream),
}

impl Connection {
    /// Takes a connected socket over. Small messages go out at once from now on.
    ///
    /// # Errors
    /// When the socket is already broken.
    ///
    /// # Panics
    /// Outside a glommio executor.
    pub fn from_socket(socket: impl Into<Socket>) -> io::Result<Rc<Self>> {
        let stream = match socket.into() {
            Socket::Tcp(socket) => {
                socket.set_nodelay(true)?;
                // SAFETY: into_raw_fd gives up the ownership of an open stream socket, and the glommio stream takes it.
                let stream = unsafe { ::glommio::net::TcpStream::from_raw_fd(socket.into_raw_fd()) };
                Stream::Tcp(RefCell::new(stream))
            }
            Socket::Own(stream) => Stream::Own(OwnStream::new(stream)),
        };
        Ok(Rc::new(Self { stream, reads: Cell::new(false), writes: Cell::new(false) }))
    }

    /// Reads some bytes; 0 when the other end, or [`shutdown`](Self::shutdown), has ended the stream. Dropping the future
    /// loses no byte. While bytes are there it never waits: a reader that must not hold the executor yields by itself.
    ///
    /// # Errors
    /// Those of the socket: the connection is over.
    ///
    /// # Panics
    /// When another read is under way, or `buf` is empty: its 0 would look like the end.
    pub async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        assert!(!buf.is_empty(), "a read of no bytes cannot be told from the end of the stream");
        let _only = Only::begin(&self.reads, "reader");
        poll_fn(|cx| match &self.stream {
            Stream::Tcp(stream) => Pin::new(&mut *stream.borrow_mut()).poll_read(cx, buf),
            Stream::Own(stream) => stream.poll_read(cx, buf),
        })
        .await
    }

    /// Sends what the socket takes at once, without waiting: 0 when that is nothing.
    ///
    /// # Errors
    /// Those of the socket: the connection is over.
    pub fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let stream = match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Own(stream) => return stream.try_send(slices),
        };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        with_fd(stream, |fd| {
            loop {
                match rustix::net::sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), flags) {
                    Ok(sent) => return Ok(sent),
                    Err(rustix::io::Errno::AGAIN) => return Ok(0),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }

    /// Sends some bytes and waits until the socket takes at least one: for what is left behind a
    /// [`try_send`](Self::try_send) that took less than it was given. Dropping the future sends nothing.
    ///
    /// # Errors
    /// Those of the socket: the connection is over.
    ///
    /// # Panics
    /// When another write is under way, or `buf` is empty.
    pub async fn write_some(&self, buf: &[u8]) -> io::Result<usize> {
        assert!(!buf.is_empty(), "a write of no bytes waits for nothing");
        let _only = Only::begin(&self.writes, "writer");
        poll_fn(|cx| match &self.stream {
            Stream::Tcp(stream) => Pin::new(&mut *stream.borrow_mut()).poll_write(cx, buf),
            Stream::Own(stream) => stream.poll_write(cx, buf),
        })
        .await
    }

    /// Ends the connection in both directions: the other end is told, and reads and writes that wait here come back. May be
    /// called again.
    pub fn shutdown(&self) {
        match &self.stream {
            // It can only fail because there is no connection any more, which is what is wanted.
            Stream::Tcp(stream) => drop(with_fd(stream, |fd| rustix::net::shutdown(fd, Shutdown::Both))),
            Stream::Own(stream) => stream.shutdown(),
        }
    }
}

fn with_fd<R>(stream: &RefCell<::glommio::net::TcpStream>, use_fd: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
    let stream = stream.borrow();
    // SAFETY: the stream owns the descriptor and is borrowed until this function ends.
    use_fd(unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) })
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Holds one direction of a connection.
struct Only<'a>(&'a Cell<bool>);

impl<'a> Only<'a> {
    fn begin(taken: &'a Cell<bool>, who: &str) -> Self {
        assert!(!taken.replace(true), "a connection has one {who} at a time");
        Self(taken)
    }
}

impl Drop for Only<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
