//! Changes of who votes, and of how many votes it takes, as an operator would ask for them: votes are taken away while
//! much goes wrong, and given back later.
//!
//! The budget: a vote is taken away only where everybody else has one and its replica can catch up; and while it is not
//! known what became of a change, nobody is given up for good: it may still take effect.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use synod::simulation::SimShard;
use synod::{GroupId, MembershipChange, MembershipError, MembershipOutcome};

use super::machine::Kind;
use super::plan::{RETAIN_ALL_MIB, S};
use super::world::World;
use crate::check::oracle::quorum_of;

/// An operator waits so long for a change.
const PATIENCE_NS: u64 = 20 * S;

/// What an operator was told of a change that was asked for at a version.
type Told = (GroupId, u64, MembershipChange, MembershipOutcome);

/// The changes asked for.
#[derive(Default)]
pub(super) struct Members {
    told: Arc<Mutex<Vec<Told>>>,
    /// How many were asked for in a group at a version, of which it is not known what became of them.
    open: BTreeMap<(GroupId, u64), usize>,
}

impl Members {
    /// Whether no change may take effect that nobody knows of.
    pub(super) fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }
}

impl World {
    /// Takes a vote away, or gives one back; or changes how many choose.
    pub(super) fn change_voters(&mut self) -> Result<(), String> {
        self.take_changes()?;
        let group = 1 + self.dice.below(self.plan.groups as usize) as GroupId;
        let (node, anyone) = (self.dice.below(self.plan.nodes), self.dice.below(self.plan.nodes));
        let missing = (0..self.plan.nodes).find(|at| !self.observer.vote(*at, group).0);
        let mut change = missing.map_or(MembershipChange::Remove(node as u64 + 1), |at| self.addition(at));
        if self.plan.resize_percent > self.dice_below_percent() {
            let phase_2 = self.dice.below(self.plan.nodes + 1);
            // While witnesses have no vote, as few as they are may choose; then they can be given none any more.
            let phase_2 = if phase_2 <= self.plan.witnesses { 0 } else { phase_2 };
            change = MembershipChange::Quorum(phase_2 as u16);
        }
        if matches!(change, MembershipChange::Remove(_)) && self.machines_need_votes() {
            return Ok(());
        }
        // Mostly the leader is asked.
        let asked = if self.dice.below(4) == 0 { Some(anyone) } else { self.leader(group) };
        if let Some(asked) = asked {
            self.ask_for(asked, group, change);
        }
        Ok(())
    }

    /// Whether a replica without a vote may never catch up: logs are trimmed, and there are no checkpoints.
    pub(super) fn machines_need_votes(&self) -> bool {
        // Whoever pins logs has them trimmed, too.
        let trims = self.plan.retain_mib < RETAIN_ALL_MIB || self.plan.full_ns > 0 || self.plan.pin_ns > 0;
        trims && Kind::of(self.plan.machines) == Kind::WithoutCheckpoints
    }

    /// Between 0 and 99, without a draw in plans that need none.
    fn dice_below_percent(&mut self) -> u64 {
        if self.plan.resize_percent == 0 { 0 } else { self.dice.below(100) as u64 }
    }

    /// Gives all nodes that run their votes back.
    pub(super) fn give_votes_back(&mut self) -> Result<(), String> {
        self.take_changes()?;
        for group in 1..=self.plan.groups {
            let lacks = |at: &usize| !self.nodes[*at].given_up && !self.observer.vote(*at, group).0;
            if let Some(missing) = (0..self.plan.nodes).find(lacks)
                && let Some(leader) = self.leader(group)
            {
                self.ask_for(leader, group, self.addition(missing));
            }
        }
        Ok(())
    }

    /// A node gets its vote back.
    fn addition(&self, node: usize) -> MembershipChange {
        let add = if self.plan.is_witness(node) { MembershipChange::AddWitness } else { MembershipChange::Add };
        add(node as u64 + 1)
    }

    fn leader(&self, group: GroupId) -> Option<usize> {
        (0..self.plan.nodes).find(|at| {
            let info = self.shard(*at, group).and_then(|shard| shard.info(group));
            !self.nodes[*at].paused && info.is_some_and(|info| info.epoch > 0)
        })
    }

    fn ask_for(&mut self, node: usize, group: GroupId, change: MembershipChange) {
        let Some((version, _)) = self.shard(node, group).and_then(|shard| shard.configuration(group)) else { return };
        let told = Arc::clone(&self.members.told);
        let reply = Box::new(move |outcome| {
            told.lock().expect("no holder panics").push((group, version, change, outcome));
        });
        let ask = |shard: &mut SimShard| shard.change_membership(group, version, change, PATIENCE_NS, reply);
        if !self.nodes[node].paused && self.with_shard(node, self.shard_of(node, group), ask).is_some() {
            *self.members.open.entry((group, version)).or_default() += 1;
        }
    }

    /// Hears what became of the changes.
    pub(super) fn take_changes(&mut self) -> Result<(), String> {
        let told = std::mem::take(&mut *self.members.told.lock().expect("no holder panics"));
        for (group, version, change, outcome) in told {
            match outcome {
                // It may take effect at any time.
                Err(MembershipError::Unknown) => {
                    self.mark("change of voters unknown");
                    continue;
                }
                Err(MembershipError::NotCaughtUp(_)) => self.mark("new voter not caught up"),
                Err(_) => self.mark("change of voters refused"),
                Ok(membership) => {
                    let voters = &membership.voters;
                    let (right, mark) = match change {
                        MembershipChange::Add(node) | MembershipChange::AddWitness(node) => {
                            (voters.contains(&node), "vote given")
                        }
                        MembershipChange::Remove(node) => (!voters.contains(&node), "vote taken away"),
                        MembershipChange::Quorum(phase_2) => {
                            (membership.phase_2 == quorum_of(voters.len(), phase_2), "quorum changed")
                        }
                    };
                    if !right || membership.version != version + 1 {
                        return Err(format!("group {group}: {change:?} at version {version} led to {membership:?}"));
                    }
                    self.mark(mark);
                }
            }
            if let Some(open) = self.members.open.get_mut(&(group, version)) {
                // One that was taken for over may be asked for again by a node that is behind, and is answered twice then.
                *open = open.saturating_sub(1);
            }
        }
        // Behind a later configuration that works, none of an older version can be chosen.
        let newest = |group: GroupId| {
            let known = (0..self.plan.nodes).filter_map(|node| self.shard(node, group)?.configuration(group));
            known.map(|(version, _)| version).max().unwrap_or(0)
        };
        let still = |group: GroupId, version: u64| newest(group) <= version || !self.observer.vote(0, group).1;
        let over = self.members.open.iter().filter(|((group, version), open)| **open == 0 || !still(*group, *version));
        let over: Vec<_> = over.map(|(key, _)| *key).collect();
        for key in over {
            self.members.open.remove(&key);
        }
        Ok(())
    }
}
