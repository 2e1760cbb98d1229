//! A socket for datagrams on a glommio executor.
//!
//! Invariant: the port is this socket's alone. glommio's own `bind` would share it (`SO_REUSEPORT`), and the system
//! may then give another shard the same one.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};

use rustix::net::SendFlags;

/// A bound socket that belongs to the executor of this thread.
pub struct DatagramSocket {
    socket: ::glommio::net::UdpSocket,
    port: u16,
}

impl DatagramSocket {
    /// Binds a socket to an address, at a port that the system chooses, whatever `address` says of it.
    ///
    /// # Errors
    /// Those of the system.
    ///
    /// # Panics
    /// Outside a glommio executor.
    pub fn bind(mut address: SocketAddr) -> io::Result<Self> {
        address.set_port(0);
        let socket = UdpSocket::bind(address)?;
        let port = socket.local_addr()?.port();
        // SAFETY: into_raw_fd gives up the ownership of an open datagram socket, and the glommio socket takes it.
        let socket = unsafe { ::glommio::net::UdpSocket::from_raw_fd(socket.into_raw_fd()) };
        Ok(Self { socket, port })
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for a datagram, from wherever it comes, and gives its length. What does not fit into `buf` is lost: one
    /// that fills it may have been longer. Only one task may wait.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.recv_from(buf).await.map(|(len, _)| len).map_err(io::Error::from)
    }

    /// Sends a datagram if the socket takes it at once; otherwise it is lost, as it may be on its way.
    ///
    /// # Errors
    /// Those of the socket: this datagram is lost too.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        // SAFETY: the socket owns the descriptor and is borrowed until this function ends.
        let fd = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        match rustix::net::sendto(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &to) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
