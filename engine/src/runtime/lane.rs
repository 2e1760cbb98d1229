//! The driver's part of the lanes: a socket for datagrams, and where the peers' are.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use synod_transport::datagram::DATAGRAM_BYTES_MAX;
use synod_transport::net::datagrams::DatagramSocket;

use super::{Driver, Link};
use crate::clock::now_ns;
use crate::shard::Shard;
use crate::shard::lane::Parcel;

/// Each node has its sockets for datagrams at the address at which it listens: a connection that it has dialled may come
/// from another one of the same machine.
pub(super) struct LaneSocket {
    socket: DatagramSocket,
}

impl LaneSocket {
    /// The socket of a node that listens at `own`.
    pub(super) fn open(own: SocketAddr) -> Result<Self, String> {
        let socket = DatagramSocket::bind(own)
            .map_err(|error| format!("no socket for datagrams at {}: {error}; see `udp_lane`", own.ip()))?;
        Ok(Self { socket })
    }

    pub(super) fn port(&self) -> u16 {
        self.socket.port()
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(buffer).await
    }

    /// Sends what a shard has for a node that listens at `address`. What cannot be sent is as good as lost on its way.
    fn send(&self, mut address: SocketAddr, parcel: &Parcel) {
        address.set_port(parcel.port);
        if let Err(error) = self.socket.send(&parcel.bytes, address) {
            tracing::debug!(%address, %error, "a datagram is not sent");
        }
    }
}

impl Driver {
    /// Sends what a shard has for its peers, as far as the socket takes it at once.
    pub(super) fn send_datagrams(&self, shard: &mut Shard, links: &HashMap<u64, Rc<Link>>) {
        for parcel in std::mem::take(&mut shard.lanes.outgoing) {
            if let Some(lane) = &*self.lane.borrow()
                && let Some(node) = links.get(&parcel.connection).and_then(|link| link.node)
                && let Some(address) = shard.address_of(node)
            {
                lane.send(address, &parcel);
            }
        }
    }

    /// Takes datagrams in. Those of strangers cost no turn.
    pub(super) async fn take_datagrams(self: Rc<Self>, lane: Rc<LaneSocket>) {
        // One that is too long is not taken for the part of it that fits.
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        loop {
            match lane.receive(&mut buffer).await {
                Ok(len) => {
                    let mut shard = self.shard.borrow_mut();
                    shard.now_ns = now_ns();
                    if shard.on_datagram(&buffer[..len]) {
                        self.turn.set();
                    }
                }
                // The peers notice, and fall back on their connections.
                Err(error) => return tracing::warn!(%error, "no more datagrams are taken in"),
            }
            glommio::yield_if_needed().await;
        }
    }
}
