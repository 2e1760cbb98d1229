//! Datagrams between the nodes: each waits to be delivered, lost, doubled or kept back by hand.

use synod::simulation::SimDatagram;

use super::Shards;

/// A datagram on its way: from which node, to which one, and its bytes.
pub type Post = (usize, usize, Vec<u8>);

impl Shards {
    /// The first `nodes` nodes take heartbeats as datagrams, once they are started.
    pub fn with_lanes(mut self, nodes: usize) -> Self {
        self.lanes = nodes;
        self
    }

    /// Gives a node that has just started its socket, always at the same port.
    pub(super) fn open_lanes(&mut self, at: usize) {
        let (lanes, seed) = (self.lanes, self.setup.seed + at as u64 + 1000 * self.nodes[at].boot);
        if at < lanes {
            self.shard(at).open_lanes(at as u16 + 1, seed);
        }
    }

    /// What a node has sent is on its way from now on.
    pub(super) fn post_datagrams(&mut self, at: usize) {
        for SimDatagram { connection, bytes, .. } in self.shard(at).take_datagrams() {
            let to = (0..self.setup.nodes).find(|other| *other != at && Self::conn(at, *other) == connection);
            let to = to.expect("the connection is to one of the nodes");
            if !self.drowned.contains(&(at, to)) {
                self.datagrams.push((at, to, bytes));
            }
        }
    }

    /// Delivers the first datagram that may arrive; false when there is none.
    pub(super) fn deliver_datagram(&mut self) -> bool {
        let may = |(from, to, _): &Post| !self.late.contains(&(*from, *to)) && !self.nodes[*to].paused;
        let Some(at) = self.datagrams.iter().position(may) else { return false };
        let (_, to, bytes) = self.datagrams.remove(at);
        self.receive_datagram(to, &bytes);
        self.turn(to);
        true
    }

    /// A node gets a datagram, if it runs; its turn is yet to come. Whether it was of use.
    pub fn receive_datagram(&mut self, at: usize, bytes: &[u8]) -> bool {
        self.nodes[at].shard.is_some() && self.shard(at).receive_datagram(bytes)
    }
}
