//! Groups that are placed on other shards, as an operator would have it.

use synod::GroupId;
use synod::simulation::SimShard;

use super::groups::NUMBERS;
use super::plan::{S, US};
use super::world::{Event, World};

/// An operator waits so long for an order.
const PATIENCE_NS: u64 = 10 * S;

impl World {
    /// Any group should be on any shard. Whoever leads its directory takes the order.
    pub(super) fn place_a_group(&mut self) {
        let made = if self.plan.groups_ns > 0 { NUMBERS } else { 0 };
        let group = 1 + self.dice.below(self.plan.groups as usize + made) as GroupId;
        let to = self.dice.below(self.plan.shards);
        self.mark("group placed");
        for node in 0..self.plan.nodes {
            if !self.nodes[node].paused {
                let shard = self.nodes[node].moves.directory_shard(group);
                let place = |sim: &mut SimShard| sim.place_group(group, to, PATIENCE_NS, Box::new(drop));
                self.with_shard(node, shard, place);
            }
        }
    }

    /// What a shard tells others of its node arrives soon, in order.
    pub(super) fn send_passes(&mut self, node: usize, shard: usize) {
        let life = self.nodes[node].life;
        let Some(process) = &mut self.nodes[node].process else { return };
        let passes = process.shards[shard].take_passes();
        let count = passes.len();
        process.passes.extend(passes);
        for _ in 0..count {
            let after = self.dice.below(50 * US as usize) as u64;
            self.after(after, Event::Pass { node, life });
        }
    }

    /// The next of these arrives.
    pub(super) fn pass(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if let Some((to, pass)) = process.passes.pop_front() {
            self.with_shard(node, to, |sim| sim.on_pass(pass));
        }
    }

    /// Whether all nodes that are not given up have the groups on the same shards.
    pub(super) fn places_agree(&self) -> Result<(), String> {
        let nodes = || (0..self.plan.nodes).filter(|node| !self.nodes[*node].given_up);
        let places = |group: GroupId| nodes().map(move |node| self.shard_of(node, group)).collect::<Vec<_>>();
        let apart = (1..=self.plan.groups + NUMBERS as GroupId)
            .find(|group| places(*group).windows(2).any(|pair| pair[0] != pair[1]));
        match apart {
            Some(group) => Err(format!("group {group} is on different shards: {:?}", places(group))),
            None => Ok(()),
        }
    }
}
