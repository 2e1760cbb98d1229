//! A connection that no shard has yet, and what a handshake does with it on a thread that waits.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::transport::ByteStream;

/// A connection.
pub enum Socket {
    /// One of the system's.
    Tcp(TcpStream),
    /// One of another transport.
    Own(Box<dyn ByteStream>),
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(stream) => stream.fmt(f),
            Self::Own(_) => f.write_str("Own"),
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl Socket {
    /// The system's socket, if it is one.
    pub fn into_tcp(self) -> Option<TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Own(_) => None,
        }
    }

    /// Small messages go out at once from now on.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Own(_) => Ok(()),
        }
    }

    /// Reads some bytes before the deadline, which is so far away; 0 at the end.
    fn read_by(&self, buf: &mut [u8], deadline: Instant, left: Duration) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => {
                let mut socket = stream;
                stream.set_read_timeout(Some(left))?;
                socket.read(buf)
            }
            Self::Own(stream) => {
                let read = wait_for(deadline, |context| stream.poll_read(context, buf))?;
                check_count(read, buf.len())
            }
        }
    }

    /// Fills `buf` before the deadline: one that counts for all reads together, or a byte now and then would hold the place.
    pub(super) fn read_exact_by(&self, mut buf: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buf.is_empty() {
            let left = time_left(deadline)?;
            match self.read_by(buf, deadline, left) {
                Ok(0) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end closed the connection"));
                }
                Ok(n) => buf = &mut buf[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What a timeout is called differs; the next round finds the deadline passed.
                Err(error)
                    if matches!(self, Self::Tcp(_))
                        && matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends all bytes before the deadline.
    pub(super) fn write_all_by(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                let mut socket = stream;
                stream.set_write_timeout(Some(time_left(deadline)?))?;
                socket.write_all(bytes)
            }
            Self::Own(stream) => {
                while !bytes.is_empty() {
                    let sent = wait_for(deadline, |context| stream.poll_write(context, &[IoSlice::new(bytes)]))?;
                    bytes = &bytes[check_written(sent, bytes.len())?..];
                }
                Ok(())
            }
        }
    }

    /// Sends as much as goes without waiting, once.
    pub(super) fn write_now(&self, bytes: &[u8]) {
        // Best effort: the connection is closed in any case.
        match self {
            Self::Tcp(stream) => {
                let mut socket = stream;
                let _ = stream.set_nonblocking(true);
                let _ = socket.write(bytes);
            }
            Self::Own(stream) => {
                let _ = stream.poll_write(&mut Context::from_waker(Waker::noop()), &[IoSlice::new(bytes)]);
            }
        }
    }

    /// The handshake is over: whoever gets the connection waits as long as it likes.
    pub(super) fn clear_timeouts(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_write_timeout(None)?;
                stream.set_read_timeout(None)
            }
            Self::Own(_) => Ok(()),
        }
    }

    /// Ends the connection; it fails only when it is over already.
    pub(super) fn shutdown(&self) {
        match self {
            Self::Tcp(stream) => drop(stream.shutdown(Shutdown::Both)),
            Self::Own(stream) => stream.shutdown(),
        }
    }
}

/// A number of bytes that another's stream has given, of so many that it could.
pub(super) fn check_count(given: usize, most: usize) -> io::Result<usize> {
    if given <= most {
        return Ok(given);
    }
    let text = format!("the transport breaks its contract: it moved {given} of {most} bytes");
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// As [`check_count`], of bytes that were to go out.
pub(super) fn check_written(given: usize, most: usize) -> io::Result<usize> {
    if given == 0 {
        return Err(io::Error::new(
            io::ErrorKind::WriteZero,
            "the transport took none of the bytes that it said it would",
        ));
    }
    check_count(given, most)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls on this thread until the deadline.
fn wait_for<T>(deadline: Instant, mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>) -> io::Result<T> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => thread::park_timeout(time_left(deadline)?),
        }
    }
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the other end did not finish the handshake in time"))
    } else {
        Ok(left)
    }
}

#[cfg(test)]
mod tests;
