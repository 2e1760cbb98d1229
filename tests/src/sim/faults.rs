//! What goes wrong, when it does, and how it is made well again.

use super::plan::around;
use super::world::{Event, World};

impl World {
    pub(super) fn plan_fault(&mut self, kind: &'static str) {
        let mean = *self.plan.mean_ns(kind).expect("a kind of fault");
        if mean > 0 {
            let after = around(&mut self.dice, mean);
            self.after(after, Event::Fault { kind });
        }
    }

    pub(super) fn fault(&mut self, kind: &'static str) -> Result<(), String> {
        if !self.faults_on {
            return Ok(());
        }
        self.plan_fault(kind);
        let node = self.dice.below(self.plan.nodes);
        let stall = around(&mut self.dice, self.plan.stall_ns);
        match kind {
            "crash" => {
                let all = self.dice.below(12) == 0;
                let power = (self.dice.below(100) as u64) < self.plan.power_percent;
                for node in if all { 0..self.plan.nodes } else { node..node + 1 } {
                    if self.nodes[node].process.is_some() {
                        self.crash(node, power);
                        let down = around(&mut self.dice, self.plan.down_ns);
                        self.after(down, Event::Start { node });
                    }
                }
            }
            "partition" => self.partition(),
            "break" if !self.network.conns.is_empty() => {
                self.mark("connection broken");
                let at = self.dice.below(self.network.conns.len());
                let conn = *self.network.conns.keys().nth(at).expect("it is below the length");
                let end = self.dice.below(2);
                let link = self.network.conns[&conn].link;
                let node = self.network.links[link].nodes[end];
                if !self.nodes[node].paused {
                    self.close(node, conn);
                }
            }
            "pause" if self.nodes[node].process.is_some() && !self.nodes[node].paused => {
                self.mark("node paused");
                self.nodes[node].paused = true;
                self.after(stall, Event::Resume { node });
            }
            "hang" if !self.nodes[node].hung => {
                self.mark("disk hung");
                self.nodes[node].hung = true;
                self.after(stall, Event::Unhang { node });
            }
            "disk-error" => self.nodes[node].fail_next = true,
            "full" => {
                self.nodes[node].full = true;
                for disk in &mut self.nodes[node].disks {
                    let bytes = disk.bytes();
                    disk.limit_bytes(bytes);
                }
                self.after(2 * stall, Event::Room { node });
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn partition(&mut self) {
        self.mark("partition");
        let nodes = self.plan.nodes;
        let cut = 1 + self.dice.below((1usize << nodes) - 1);
        let lone = self.dice.below(nodes);
        let shape = self.dice.below(4);
        let mut blocked = Vec::new();
        for from in 0..nodes {
            for to in 0..nodes {
                let side = |node: usize| cut >> node & 1;
                let blocks = from != to
                    && match shape {
                        // Two sides.
                        0 => side(from) != side(to),
                        // One way only.
                        1 => side(from) == 0 && side(to) == 1,
                        // One node cannot be heard.
                        2 => from == lone,
                        // Any directions.
                        _ => self.dice.below(3) == 0,
                    };
                if blocks && self.network.passes(from, to) {
                    self.network.set_blocked(from, to, true);
                    blocked.push((from, to));
                }
            }
        }
        let after = around(&mut self.dice, self.plan.partition_for_ns);
        self.after(after, Event::Heal { blocked });
    }

    /// From now on a quorum is well; the others are down, or stay cut off in one direction or both, for good.
    pub(super) fn give_up_a_minority(&mut self) {
        self.faults_on = false;
        self.heal_nodes();
        let mut order: Vec<usize> = (0..self.plan.nodes).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.dice.below(at + 1));
        }
        let minority = (self.plan.nodes - 1) / 2;
        for node in order.into_iter().take(self.dice.below(minority + 1)) {
            self.mark("node given up");
            self.nodes[node].given_up = true;
            match self.dice.below(4) {
                0 => self.crash(node, true),
                way => {
                    for other in (0..self.plan.nodes).filter(|other| *other != node) {
                        self.network.set_blocked(node, other, way != 1);
                        self.network.set_blocked(other, node, way != 2);
                    }
                }
            }
        }
        for node in 0..self.plan.nodes {
            if !self.nodes[node].given_up {
                self.after(1, Event::Start { node });
            }
        }
    }

    /// Ends partitions, pauses, hangs and full disks.
    pub(super) fn heal_nodes(&mut self) {
        for from in 0..self.plan.nodes {
            for to in 0..self.plan.nodes {
                self.unblock(from, to);
            }
        }
        for node in 0..self.plan.nodes {
            self.nodes[node].fail_next = false;
            self.after(1, Event::Resume { node });
            self.after(1, Event::Unhang { node });
            self.after(1, Event::Room { node });
        }
    }

    pub(super) fn heal_all(&mut self) {
        for node in &mut self.nodes {
            node.given_up = false;
        }
        self.heal_nodes();
        for node in 0..self.plan.nodes {
            self.after(2, Event::Start { node });
        }
    }
}
