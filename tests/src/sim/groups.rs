//! Groups that come and go, as an operator would have it, with a few entries in each.
//!
//! Each group that was made is judged under a name of its own, which belongs to its uid: votes and values of an old group
//! would be seen in a new one of its number. So is the directory of each shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use synod::simulation::{DIRECTORIES, SimShard, directory_of, directory_uid};
use synod::{Entries, GroupError, GroupId, GroupOutcome, Outcome, ProposeError, Rejection};

use super::plan::{MS, S};
use super::world::World;
use crate::check::oracle::quorum_of;

/// An operator waits so long for an order.
const PATIENCE_NS: u64 = 10 * S;
/// Names of groups by their uids begin here.
const NAMES: GroupId = 1 << 40;
/// Numbers that groups are made with, behind those of the plan.
pub(super) const NUMBERS: usize = 4;

/// What became of an order: the group, and whether it was to be made.
type Told = (GroupId, bool, GroupOutcome);
/// What became of an entry: the group's uid, whether the group was dropped before it was proposed, the payload.
type Appended = (u128, bool, u64, Outcome);

/// The groups made at run time.
#[derive(Default)]
pub(super) struct Groups {
    told: Arc<Mutex<Vec<Told>>>,
    appended: Arc<Mutex<Vec<Appended>>>,
    /// The groups that are known to have been made.
    made: BTreeSet<u128>,
    /// The groups that somebody wanted to drop, and those that are known to be.
    ending: BTreeSet<u128>,
    dropped: BTreeSet<u128>,
    /// What is committed: by uid and index, the payload.
    committed: BTreeMap<(u128, u64), u64>,
    payloads: u64,
}

impl World {
    /// The name of a group by its uid, for who judges votes: that of the plan, or one that it gets now.
    pub(super) fn name_of(&mut self, uid: u128) -> GroupId {
        if let Some(name) = self.uids.get(&uid) {
            return *name;
        }
        let (shards, shard) = (self.plan.shards as u64, directory_of(&self.nodes[0].config, uid));
        let next = (NAMES + self.uids.len() as u64) * shards + shard as u64;
        self.uids.insert(uid, next);
        if uid != directory_uid(&self.nodes[0].config, shard) {
            self.begin_group(next);
        }
        next
    }

    /// A group begins with the quorums of the plan, as the directory does not.
    pub(super) fn begin_group(&mut self, group: GroupId) {
        self.observer.begins_with(group, quorum_of(self.plan.nodes, self.plan.phase_2));
    }

    /// Makes a group, drops one, or writes in one.
    pub(super) fn change_groups(&mut self) -> Result<(), String> {
        self.take_group_outcomes()?;
        let group = self.plan.groups + 1 + self.dice.below(NUMBERS) as GroupId;
        let (step, node) = (self.dice.below(4), self.dice.below(self.plan.nodes));
        if self.nodes[node].paused {
            return Ok(());
        }
        let Some(uid) = self.shard(node, group).map(|shard| shard.uid(group)) else { return Ok(()) };
        match (step, uid) {
            (0, Some(_)) => {
                // Whichever of them the leader knows.
                let uids = (0..self.plan.nodes).filter_map(|node| self.shard(node, group)?.uid(group));
                let uids: Vec<u128> = uids.collect();
                self.groups.ending.extend(uids);
                self.order(node, group, false);
            }
            (_, None) => self.order(node, group, true),
            (_, Some(_)) => {
                for node in 0..self.plan.nodes {
                    if !self.nodes[node].paused {
                        self.append(node, group);
                    }
                }
            }
        }
        Ok(())
    }

    fn order(&mut self, asked: usize, group: GroupId, create: bool) {
        let shard = self.nodes[asked].moves.directory_shard(group);
        // Whoever is asked first names the leader; an operator asks all.
        let nodes = self.plan.nodes;
        for node in (0..nodes).map(|at| (asked + at) % nodes) {
            if self.nodes[node].paused {
                continue;
            }
            let told = Arc::clone(&self.groups.told);
            let reply = Box::new(move |outcome| {
                told.lock().expect("no holder panics").push((group, create, outcome));
            });
            let create = create.then_some(self.plan.phase_2);
            self.with_shard(node, shard, |sim: &mut SimShard| sim.change_groups(group, create, PATIENCE_NS, reply));
        }
    }

    fn append(&mut self, node: usize, group: GroupId) {
        let shard = self.shard_of(node, group);
        let Some(uid) = self.shard(node, group).and_then(|sim| sim.uid(group)) else { return };
        self.groups.payloads += 1;
        let (payload, late) = (self.groups.payloads, self.groups.dropped.contains(&uid));
        let appended = Arc::clone(&self.groups.appended);
        let reply = move |outcome| {
            appended.lock().expect("no holder panics").push((uid, late, payload, outcome));
        };
        let entries = Entries::one(&payload.to_le_bytes()).expect("it fits");
        self.with_shard(node, shard, |sim| sim.propose(group, entries, None, None, reply));
    }

    /// Hears what became of orders and entries.
    fn take_group_outcomes(&mut self) -> Result<(), String> {
        let appended = std::mem::take(&mut *self.groups.appended.lock().expect("no holder panics"));
        for (uid, late, payload, outcome) in appended {
            match outcome {
                Ok(_) if late => return Err(format!("{payload} is committed in group {uid:032x}, which was dropped")),
                Ok(committed) => {
                    self.mark("entry in a made group");
                    let before = self.groups.committed.insert((uid, committed.first_index), payload);
                    if let Some(before) = before.filter(|before| *before != payload) {
                        return Err(format!(
                            "{before} and {payload} are both committed at index {} of group {uid:032x}",
                            committed.first_index
                        ));
                    }
                }
                Err(ProposeError::Rejected(Rejection::GroupDropped)) => self.mark("entry refused by a dropped group"),
                Err(_) => {}
            }
        }
        let told = std::mem::take(&mut *self.groups.told.lock().expect("no holder panics"));
        for (group, create, outcome) in told {
            match (create, outcome) {
                (true, Ok(made)) => {
                    self.mark("group made");
                    if made.group != group || !self.groups.made.insert(made.uid) {
                        return Err(format!("group {group} was made twice under one uid: {made:?}"));
                    }
                }
                (false, Ok(made)) => {
                    self.mark("group dropped");
                    self.groups.dropped.insert(made.uid);
                }
                (_, Err(GroupError::Unknown)) => self.mark("order for a group unknown"),
                (_, Err(GroupError::Ending)) => self.mark("group ends slowly"),
                (_, Err(_)) => {}
            }
        }
        Ok(())
    }

    /// A node comes back: whatever it has voted in is there, unless somebody wanted it dropped.
    pub(super) fn check_made_groups(&mut self, node: usize, shard: usize, sim: &SimShard) -> Result<(), String> {
        let here: BTreeSet<u128> = sim.made_groups().iter().map(|made| made.uid).collect();
        let shards = self.plan.shards as u64;
        let directory = sim.uid(DIRECTORIES).expect("every shard has one");
        for (uid, name) in &self.uids {
            let is_made = *name >= NAMES * shards && *name % shards == shard as u64 && *uid != directory;
            let lost = is_made && !here.contains(uid) && !self.groups.ending.contains(uid);
            if lost && self.observer.has_voted(node, *name) {
                return Err(format!("node {} has voted in group {uid:032x}, and has forgotten it", node + 1));
            }
        }
        Ok(())
    }

    /// Compares what the groups that are not of the plan have recovered with the votes that were durable.
    pub(super) fn made_groups_restarted(&mut self, node: usize, shard: usize, sim: &SimShard) -> Result<(), String> {
        let moves = &self.nodes[node].moves;
        // What is listed here may be elsewhere, and what is here may be listed elsewhere.
        let listed = sim.made_groups().into_iter().map(|made| made.group);
        let here = listed.filter(|group| moves.shard(*group) == shard);
        let groups: Vec<GroupId> = here.chain(moves.guests(shard)).chain([DIRECTORIES]).collect();
        for group in groups {
            let (Some(uid), Some(held)) = (sim.uid(group), sim.held(group)) else {
                return Err(format!("node {}: group {group} is listed and not there", node + 1));
            };
            let name = self.name_of(uid);
            self.observer.restarted(node, name, held.promised, held.chosen, &held.values)?;
        }
        Ok(())
    }

    /// At the end of a run: all nodes have the same groups with the same logs, and none that was dropped.
    pub(super) fn settle_groups(&mut self, end_ns: u64) -> Result<(), String> {
        while self.plan.groups_ns > 0
            && let Err(why) = self.groups_agree()
        {
            if self.now_ns > end_ns {
                return Err(why);
            }
            self.run_for(200 * MS)?;
        }
        self.take_group_outcomes()
    }

    fn groups_agree(&self) -> Result<(), String> {
        for shard in 0..self.plan.shards {
            let nodes = 0..self.plan.nodes;
            let sims: Option<Vec<&SimShard>> =
                nodes.map(|node| Some(&self.nodes[node].process.as_ref()?.shards[shard])).collect();
            let Some(sims) = sims else { return Err("a node does not run".into()) };
            let lists: Vec<_> = sims.iter().map(|sim| sim.made_groups()).collect();
            if lists.iter().any(|list| *list != lists[0] || list.iter().any(|made| made.ending)) {
                let ending = lists.iter().flatten().find(|made| made.ending).map(|made| made.group);
                let states = ending.map_or_else(String::new, |group| self.describe(group));
                return Err(format!(
                    "the nodes do not agree which groups of shard {shard} there are: {lists:?} {states}"
                ));
            }
            if let Some(made) = lists[0].iter().find(|made| self.groups.dropped.contains(&made.uid)) {
                return Err(format!("{made:?} was dropped, and is there"));
            }
            for group in lists[0].iter().map(|made| made.group).chain([DIRECTORIES]) {
                let nodes = 0..self.plan.nodes;
                let hosts: Vec<&SimShard> = match group {
                    DIRECTORIES => sims.clone(),
                    _ => nodes.filter_map(|node| self.shard(node, group)).collect(),
                };
                let infos: Vec<_> = hosts.iter().filter_map(|sim| sim.info(group)).collect();
                let same = infos.iter().all(|info| {
                    (info.applied_slot, info.chain, info.next_index)
                        == (infos[0].applied_slot, infos[0].chain, infos[0].next_index)
                        && info.votes
                });
                let Some(uid) = hosts[0].uid(group) else { return Err(format!("group {group} is on no shard")) };
                let committed = self.groups.committed.range((uid, 0)..=(uid, u64::MAX)).next_back();
                let whole = committed.is_none_or(|((_, index), _)| *index < infos[0].next_index);
                if infos.len() < sims.len() || !same || !whole {
                    return Err(format!("the replicas of group {group} of shard {shard} do not converge: {infos:?}"));
                }
            }
        }
        Ok(())
    }
}
