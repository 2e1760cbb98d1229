//! Logs that are lost, that rot, or that come back as they were before; and their replicas' successors.
//!
//! What a cluster survives, and so what is drawn (the budget): a log may be lost only while every other node's logs are
//! sound, have votes in all groups, and something is chosen behind the last change of voters in each. A log that ends
//! earlier than it did can be found out only by a peer that lives on and remembers: where none does, it is left alone or
//! taken away, as an operator would who knows; where one does, the node starts once all others can be reached, and for
//! a while nothing else goes wrong.

use synod::GroupId;
use synod::simulation::SimPlace;
use synod_core::ReplicaId;
use synod_core::planted::{Bug, is};
use synod_wal::recover::RecoverError;
use synod_wal::{Expect, recover};

use super::files::SimFiles;
use super::plan::{MS, around};
use super::world::{Event, World};
use crate::disk::{Dice, SECTOR_BYTES, SimDisk};

/// A checkpoint of a few kilobytes comes in several messages.
const PULL_BYTES: u32 = 700;
/// How long nothing else goes wrong while a log is being found out. The shard waits one second before it votes.
const CALM_NS: u64 = 3000 * MS;
/// By then it must have been found out.
const NOTICED_NS: u64 = 2500 * MS;

/// What has become of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spoilt {
    /// It must be refused.
    Damaged,
    /// It ends with this frame, and frames behind it were durable.
    EndsAt(u64),
    /// It is gone, and the id stays: a planted bug.
    Gone,
}

/// A shard's log on one node, as the simulator knows it.
#[derive(Clone, Default)]
pub(super) struct LogState {
    /// What is wrong with it.
    pub(super) spoilt: Option<Spoilt>,
    /// When a process that began with a log that ends too early must be found out.
    notice_by_ns: Option<u64>,
    /// Its shard does not know who founded the groups.
    knows_no_founders: bool,
    /// What a power cut would have left of it once.
    earlier: Option<SimDisk>,
}

/// What was lost so far. Where the others have trimmed, a checkpoint may be the only copy that is left beside a log: either
/// the one or the other is lost in a run, and where it is a checkpoint, nobody is given up.
#[derive(Default)]
pub(super) struct Lost {
    pub(super) checkpoint: bool,
    log: bool,
}

impl World {
    /// Whether nothing further may go wrong.
    pub(super) fn is_calm(&self) -> bool {
        self.now_ns < self.calm_until_ns
    }

    /// Where a shard starts.
    pub(super) fn place(&self, node: usize, shard: usize, seed: u64) -> SimPlace {
        let founders = |shard: usize| {
            let founders = self.nodes.iter().enumerate();
            (shard, founders.map(|(at, state)| (at as u64 + 1, state.founders[shard])).collect())
        };
        let state = &self.nodes[node];
        SimPlace {
            shard,
            replica: state.replicas[shard],
            founders: (0..self.plan.shards).filter(|of| !state.logs[*of].knows_no_founders).map(founders).collect(),
            moves: state.moves.clone(),
            segment_bytes: self.plan.segment_bytes,
            tight_memory: self.plan.entry_bytes_max > 1000,
            part_bytes: self.plan.part_bytes,
            seed,
            pull_bytes: PULL_BYTES,
        }
    }

    fn expect(&self, node: usize, shard: usize) -> Expect {
        let incarnation = self.nodes[node].replicas[shard];
        Expect { shard: shard as u32, incarnation, segment_bytes: self.plan.segment_bytes }
    }

    // ---- what happens to logs ----

    /// Whether a node may lose a log now.
    fn may_lose(&self, node: usize) -> bool {
        let others = || (0..self.plan.nodes).filter(move |other| *other != node);
        let sound = |at: &usize| self.nodes[*at].logs.iter().all(|log| log.spoilt.is_none());
        let group_survives = |group: GroupId| others().all(|other| self.observer.vote(other, group) == (true, true));
        self.nodes[node].process.is_some() && !self.lost.checkpoint
            // A new replica gets its machine's data from the log or from a checkpoint.
            && !self.machines_need_votes()
            && (0..self.plan.nodes).all(|at| sound(&at))
            && (1..=self.plan.groups).all(group_survives)
    }

    /// Nodes of which a replica has no vote yet, or not for sure; all, when a group's last change may still be lost.
    pub(super) fn without_votes(&self) -> usize {
        let votes = |node: usize| (1..=self.plan.groups).map(move |group| self.observer.vote(node, group));
        if self.lost.checkpoint
            || !self.members.is_quiet()
            || (0..self.plan.nodes).any(|node| votes(node).any(|(_, works)| !works))
        {
            return self.plan.nodes;
        }
        (0..self.plan.nodes).filter(|node| votes(*node).any(|(votes, _)| !votes)).count()
    }

    /// A node loses all it has.
    pub(super) fn wipe(&mut self, node: usize) {
        if !self.may_lose(node) {
            return;
        }
        self.lost.log = true;
        self.mark("node wiped");
        self.crash(node, true);
        let (machines, founders) = (self.dice.below(2) == 0, self.dice.below(2) == 0);
        for shard in 0..self.plan.shards {
            if is(Bug::WipedReplicaVotes) {
                self.nodes[node].disks[shard] = SimDisk::new(self.plan.segment_bytes);
                self.nodes[node].acknowledged[shard] = 0;
                self.nodes[node].logs[shard].spoilt = Some(Spoilt::Gone);
                continue;
            }
            self.renew(node, shard);
            self.nodes[node].logs[shard].knows_no_founders = founders;
        }
        if machines {
            (1..=self.plan.groups).for_each(|group| self.observer.machine_lost(node, group));
        }
        self.start_later(node);
    }

    /// A few bytes of a node's log rot, or in every other plan of a checkpoint.
    pub(super) fn rot(&mut self, node: usize) {
        if self.plan.seed.is_multiple_of(2) {
            self.rot_checkpoint();
            return;
        }
        if !self.may_lose(node) {
            return;
        }
        self.lost.log = true;
        let power = self.dice.below(2) == 0;
        self.crash(node, power);
        self.start_later(node);
        let shard = self.dice.below(self.plan.shards);
        let mut rotten = self.nodes[node].disks[shard].clone();
        let mut records = Vec::new();
        let seen = recover(&mut rotten, self.expect(node, shard), &mut |place, sequence, _, _| {
            records.push((place, sequence));
        });
        records.retain(|(_, sequence)| *sequence <= self.nodes[node].acknowledged[shard]);
        if seen.is_err() || records.is_empty() {
            return;
        }
        // Every other time near the end, where it looks like a torn frame.
        let from = if self.dice.below(2) == 0 { records.len().saturating_sub(4) } else { 0 };
        let (place, _) = records[from + self.dice.below(records.len() - from)];
        match self.dice.below(3) {
            0 => rotten.zero_sector(place.generation, place.offset / SECTOR_BYTES as u64),
            1 => rotten.stale_sector(place.generation, place.offset / SECTOR_BYTES as u64),
            _ => {
                let bit = place.offset * 8 + self.dice.below(place.bytes as usize * 8) as u64;
                rotten.flip_bit(place.generation, bit);
            }
        }
        self.spoil(node, shard, rotten);
    }

    /// Whose checkpoints rot.
    pub(super) fn rotting_node(&self) -> usize {
        (self.plan.seed / 2) as usize % self.plan.nodes
    }

    /// A few bytes of a checkpoint rot; always of the same node's.
    fn rot_checkpoint(&mut self) {
        let node = self.rotting_node();
        let shard = self.dice.below(self.plan.shards);
        let mut dice = Dice::new(self.dice.roll());
        if !self.lost.log && self.nodes[node].files[shard].rot(&mut dice) {
            self.mark("checkpoint rotten");
            self.lost.checkpoint = true;
            if self.dice.below(4) > 0 {
                // So it is looked at.
                self.crash_for_a_while(node, false);
            }
        }
    }

    /// A log may come back as it is now.
    pub(super) fn remember_log(&mut self, node: usize) {
        let shard = self.dice.below(self.plan.shards);
        let mut copy = self.nodes[node].disks[shard].clone();
        copy.crash(&mut false);
        self.nodes[node].logs[shard].earlier = Some(copy);
        let after = around(&mut self.dice, self.plan.rollback_ns / 4);
        self.after(after, Event::RollBack { node, shard });
    }

    /// A log comes back as it was.
    pub(super) fn roll_back(&mut self, node: usize, shard: usize) {
        if !self.faults_on || self.is_calm() || !self.may_lose(node) {
            return;
        }
        let Some(earlier) = self.nodes[node].logs[shard].earlier.take() else { return };
        self.lost.log = true;
        self.crash(node, true);
        self.start_later(node);
        self.spoil(node, shard, earlier);
    }

    fn start_later(&mut self, node: usize) {
        let down = around(&mut self.dice, self.plan.down_ns);
        self.after(down, Event::Start { node });
    }

    /// Puts a spoilt log in the place of a node's, unless nobody could tell that it is.
    fn spoil(&mut self, node: usize, shard: usize, mut disk: SimDisk) {
        let spoilt = match recover(&mut disk.clone(), self.expect(node, shard), &mut |_, _, _, _| ()) {
            Ok(found) if self.nodes[node].acknowledged[shard] < found.next_sequence => None,
            Ok(found) => Some(Spoilt::EndsAt(found.next_sequence - 1)),
            Err(RecoverError::Damaged { .. }) => Some(Spoilt::Damaged),
            // The node must say what it says.
            Err(_) => None,
        };
        match spoilt {
            Some(Spoilt::EndsAt(end)) if !self.is_known(node, shard, end) => return self.mark("nobody knows better"),
            Some(Spoilt::EndsAt(_)) => self.mark("log ends too early"),
            Some(_) => self.mark("log damaged"),
            None => self.mark("log unharmed"),
        }
        disk.limit_bytes(u64::MAX);
        self.nodes[node].disks[shard] = disk;
        self.nodes[node].logs[shard].spoilt = spoilt;
    }

    /// Whether a living peer remembers votes that rest on more than a log's first `end` frames.
    fn is_known(&self, node: usize, shard: usize, end: u64) -> bool {
        let replica = self.nodes[node].replicas[shard];
        let processes = self.nodes.iter().filter_map(|other| other.process.as_ref());
        processes.into_iter().any(|process| process.shards[shard].seen(node as u64 + 1, replica) > end)
    }

    // ---- and how it goes on ----

    /// A shard gets an empty log: it is another replica.
    pub(super) fn renew(&mut self, node: usize, shard: usize) {
        let replica = ReplicaId(u128::from(self.dice.roll()) << 64 | u128::from(self.dice.roll()));
        let replica = replica.of_kind(self.plan.is_witness(node)).0;
        let segment_bytes = self.plan.segment_bytes;
        let groups: Vec<_> = self.uids.iter().map(|(uid, name)| (*name, self.is_on(node, *uid, shard))).collect();
        let state = &mut self.nodes[node];
        state.moves.renew(shard, replica);
        state.replicas[shard] = replica;
        state.disks[shard] = SimDisk::new(segment_bytes);
        // They lie beside the log, and go with it.
        state.files[shard] = SimFiles::default();
        state.acknowledged[shard] = 0;
        let log = &mut state.logs[shard];
        *log = LogState { knows_no_founders: log.knows_no_founders, ..LogState::default() };
        self.observer.replaced(node, shard, replica, &groups);
    }

    /// Whether a node may start: one whose log ends too early does so once all others are there to tell it.
    pub(super) fn may_start(&mut self, node: usize) -> bool {
        let mut waits = false;
        for shard in 0..self.plan.shards {
            let log = &self.nodes[node].logs[shard];
            let Some(Spoilt::EndsAt(end)) = log.spoilt else { continue };
            if log.notice_by_ns.is_some() || !self.is_known(node, shard, end) {
                // Nobody could tell any more.
                self.mark("older log taken away");
                self.renew(node, shard);
            } else {
                waits = true;
            }
        }
        if !waits {
            return true;
        }
        if !self.all_can_reach(node) {
            return false;
        }
        self.calm_until_ns = self.now_ns + CALM_NS;
        for state in &mut self.nodes {
            state.fail_next = false;
            state.crash_again = 0;
        }
        true
    }

    /// Whether all others are well and can meet a node at once.
    fn all_can_reach(&self, node: usize) -> bool {
        let is_well = |other: usize| {
            let state = &self.nodes[other];
            let (network, there_and_back) = (&self.network, [(node, other), (other, node)]);
            let passes = |(from, to)| network.passes(from, to) && network.lag_ns(from, to) == 0;
            let is_up = state.process.is_some() && !state.paused && !state.hung && !state.full && state.slow_ns == 0;
            is_up && there_and_back.into_iter().all(passes)
        };
        let is_unheld = |link: &super::network::Link| {
            let end = link.nodes.iter().position(|at| *at == node);
            end.is_none_or(|end| link.believes[1 - end].is_none())
        };
        (0..self.plan.nodes).all(|other| other == node || is_well(other)) && self.network.links.iter().all(is_unheld)
    }

    /// Whether a shard begins with a log that lies about what it held, up to frame `last`.
    pub(super) fn begins_spoilt(&mut self, node: usize, shard: usize, last: u64) -> bool {
        let by_ns = self.now_ns + NOTICED_NS;
        let log = &mut self.nodes[node].logs[shard];
        match log.spoilt {
            Some(Spoilt::Gone) => log.spoilt = None,
            Some(spoilt) => {
                assert_eq!(spoilt, Spoilt::EndsAt(last), "node {} starts with a damaged log", node + 1);
                log.notice_by_ns = Some(by_ns);
            }
            None => return false,
        }
        true
    }

    /// A log that lost what peers have seen must not be voted with.
    pub(super) fn check_noticed(&self, node: usize, shard: usize) -> Result<(), String> {
        match self.nodes[node].logs[shard].notice_by_ns {
            Some(by_ns) if by_ns < self.now_ns => {
                Err(format!("node {} votes with a log that has lost votes, and peers know it", node + 1))
            }
            _ => Ok(()),
        }
    }

    /// Takes away all logs that are spoilt and not found out.
    pub(super) fn replace_spoilt_logs(&mut self) {
        for node in 0..self.plan.nodes {
            for shard in 0..self.plan.shards {
                if self.nodes[node].logs[shard].spoilt.is_some() {
                    self.crash(node, true);
                    self.renew(node, shard);
                }
            }
        }
    }
}
