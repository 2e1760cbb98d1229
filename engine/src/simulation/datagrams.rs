//! Datagrams beside the connections of a simulated shard.

use super::SimShard;

/// A datagram that a shard sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimDatagram {
    /// It goes to the node at the other end of this connection.
    pub connection: u64,
    /// The port there.
    pub port: u16,
    /// What it is.
    pub bytes: Vec<u8>,
}

impl SimShard {
    /// Gives the shard a socket for datagrams at a port, before it has connections. `seed` draws its tokens.
    pub fn open_lanes(&mut self, port: u16, seed: u64) {
        let mut drawn = u128::from(seed);
        let draw_token = move || {
            drawn = drawn.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(1);
            drawn.max(1)
        };
        self.shard.lanes.open(port, Box::new(draw_token));
    }

    /// A datagram has come to the shard's socket. Whether it was of use.
    pub fn receive_datagram(&mut self, bytes: &[u8]) -> bool {
        self.shard.on_datagram(bytes)
    }

    /// Datagrams to send, since the last call.
    pub fn take_datagrams(&mut self) -> Vec<SimDatagram> {
        let outgoing = self.shard.lanes.outgoing.drain(..);
        outgoing
            .map(|parcel| SimDatagram { connection: parcel.connection, port: parcel.port, bytes: parcel.bytes })
            .collect()
    }

    /// To how many peers datagrams get through now.
    pub fn lanes(&self) -> usize {
        self.shard.datagrams().peers
    }
}
