//! A node that the configurations of the others do not name: it is introduced while the cluster runs and much goes wrong.
//!
//! It has founded the cluster with the others and has its votes, as one that was taken out of their configurations, so all
//! that is checked of a node is checked of it. Until it is introduced nobody is connected to it.

use synod::{Introduction, Member};

use super::plan::MS;
use super::world::{Event, World};

/// The node that is introduced, in plans in which one is. It never is a witness.
pub(super) const STRANGER: usize = 0;

/// A node and where it listens.
pub(super) fn member(at: usize) -> Member {
    Member { node: at as u64 + 1, address: ([127, 0, 0, 1], 1000 + at as u16).into() }
}

impl World {
    /// Whether two nodes let each other in.
    pub(super) fn know_each_other(&self, nodes: [usize; 2]) -> bool {
        let [one, other] = nodes;
        self.knows(one, other) && self.knows(other, one)
    }

    fn knows(&self, at: usize, other: usize) -> bool {
        let (node, state) = (other as u64 + 1, &self.nodes[at]);
        state.config.members.iter().any(|member| member.node == node)
            || state.known.list().iter().any(|introduced| introduced.node == node)
    }

    /// The stranger is introduced to some node that runs.
    pub(super) fn introduce(&mut self) {
        let at = 1 + self.dice.below(self.plan.nodes - 1);
        if self.nodes[at].process.is_none() || self.nodes[at].paused {
            return self.after(50 * MS, Event::Introduce);
        }
        self.mark("node introduced");
        self.introduce_to(at);
    }

    /// The stranger is introduced to all, so that those who stay well know it.
    pub(super) fn introduce_to_all(&mut self) {
        if self.plan.introduce_ns > 0 {
            (1..self.plan.nodes).for_each(|at| self.introduce_to(at));
        }
    }

    fn introduce_to(&mut self, at: usize) {
        let state = &mut self.nodes[at];
        state.known.introduce(&state.config, member(STRANGER), false).expect("it is no other's number or address");
        self.follow_introductions(at);
    }

    /// Peers have told a node whom they know.
    pub(super) fn hear(&mut self, at: usize, heard: &[Introduction]) {
        let state = &mut self.nodes[at];
        let before = state.known.clone();
        state.known.merge(heard);
        if state.known != before {
            self.mark("introduction heard");
            self.follow_introductions(at);
        }
    }

    /// What a node knows is durable: now its shards learn of it.
    fn follow_introductions(&mut self, at: usize) {
        let known = self.nodes[at].known.clone();
        for shard in 0..self.plan.shards {
            self.with_shard(at, shard, |sim| sim.introduce(&known));
        }
    }
}
