//! Datagrams beside the connections: lost, doubled, late and overtaken, each by itself.

use super::plan::around;
use super::world::{Event, World};
use crate::disk::Dice;

/// Ports that processes get, so few that what was meant for an earlier process reaches the next one.
const PORTS: usize = 2;

/// One on its way.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    port: u16,
    bytes: Vec<u8>,
}

impl World {
    /// The shards of a node that has just started take datagrams, if the plan says so.
    pub(super) fn open_lanes(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut().filter(|_| node < self.plan.lane_nodes) else { return };
        for (sim, port) in process.shards.iter_mut().zip(&mut process.ports) {
            *port = 1 + self.dice.below(PORTS) as u16;
            sim.open_lanes(*port, self.dice.roll());
        }
    }

    pub(super) fn send_datagrams(&mut self, node: usize, shard: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        for sent in process.shards[shard].take_datagrams() {
            // A connection that is gone leads nowhere.
            let Some(conn) = self.network.conns.get(&sent.connection) else { continue };
            let nodes = self.network.links[conn.link].nodes;
            let to = if nodes[0] == node { nodes[1] } else { nodes[0] };
            if !self.network.passes_datagrams(node, to) || percent(&mut self.dice, self.plan.datagram_loss_percent) {
                self.mark("datagram lost");
                continue;
            }
            let mean = self.plan.delay_ns + self.plan.datagram_delay_ns + self.network.lag_ns(node, to);
            let copies = 1 + usize::from(percent(&mut self.dice, self.plan.datagram_twice_percent));
            for _ in 0..copies {
                let after = around(&mut self.dice, mean);
                let datagram = Datagram { port: sent.port, bytes: sent.bytes.clone() };
                self.after(after, Event::Datagram { from: node, to, shard, datagram });
            }
        }
    }

    /// A datagram arrives, unless nothing gets through any more, or nobody takes it at its port.
    pub(super) fn take_datagram(&mut self, (from, to): (usize, usize), shard: usize, datagram: &Datagram) {
        let port = self.nodes[to].process.as_ref().map(|process| process.ports[shard]);
        if !self.network.passes_datagrams(from, to) || port != Some(datagram.port) {
            return self.mark("datagram lost");
        }
        let taken = self.with_shard(to, shard, |sim| sim.receive_datagram(&datagram.bytes));
        self.mark(if taken == Some(true) { "datagram taken" } else { "datagram dropped" });
    }
}

fn percent(dice: &mut Dice, of_100: u64) -> bool {
    of_100 > 0 && (dice.below(100) as u64) < of_100
}
