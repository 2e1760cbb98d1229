//! The driver's part of the lanes: a socket for datagrams, and where the peers' are.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use synod_transport::net::datagrams::DatagramSocket;

use crate::outcome::NodeId;
use crate::shard::lane::Parcel;

/// Where the nodes are. Each has its sockets for datagrams at the address at which it listens: a connection that it has dialled
/// may come from another one of the same machine.
pub(crate) struct LanePlace {
    pub(crate) own: SocketAddr,
    pub(crate) members: HashMap<NodeId, SocketAddr>,
}

pub(super) struct LaneSocket {
    socket: DatagramSocket,
    members: HashMap<NodeId, SocketAddr>,
}

impl LaneSocket {
    pub(super) fn open(place: LanePlace) -> Result<Self, String> {
        let socket = DatagramSocket::bind(place.own)
            .map_err(|error| format!("no socket for datagrams at {}: {error}; see `udp_lane`", place.own.ip()))?;
        Ok(Self { socket, members: place.members })
    }

    pub(super) fn port(&self) -> u16 {
        self.socket.port()
    }

    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(buffer).await
    }

    /// Sends what a shard has for a node. What cannot be sent is as good as lost on its way.
    pub(super) fn send(&self, node: NodeId, parcel: &Parcel) {
        let Some(mut address) = self.members.get(&node).copied() else { return };
        address.set_port(parcel.port);
        if let Err(error) = self.socket.send(&parcel.bytes, address) {
            tracing::debug!(node, %address, %error, "a datagram is not sent");
        }
    }
}
