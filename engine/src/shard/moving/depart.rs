//! A group's way out of its old shard.

use synod_core::{Replica, Slot};
use synod_wal::ops::{DiskError, RecordPlace};
use synod_wal::record::RecordHeader;

use super::{AGAIN_NS, Baggage, Luggage, MOVES_MAX, Passing, RECORDS_BYTES_MAX, STUCK_NS};
use crate::checkpoint::StoreOp;
use crate::checkpoint::hand_over::Exported;
use crate::marks::{Mark, mark};
use crate::membership::MembershipError;
use crate::outcome::{GroupId, Rejection};
use crate::persist::{READABLE_RUNS_MAX, readable_record};
use crate::shard::group::{GroupKind, GroupNames};
use crate::shard::reads::{CommittedEntries, Purpose, ReadError};
use crate::shard::transfer::TransferError;
use crate::shard::{Shard, read_back};

/// A group that leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Departing {
    at: u32,
    to: usize,
    number: u64,
    stage: Stage,
    /// When it last came further.
    moved_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Something of it is still on its way to the disk, or to its machine.
    Settling,
    /// Its checkpoint is being opened for the new shard.
    Exporting,
    /// Its records are being read, from this slot on.
    Reading { next: Slot },
    /// What was sent is not durable there. The records from `next` on follow, and then the indexes from `runs` on.
    Waiting { next: Slot, runs: usize },
    /// All was sent.
    Sent,
}

impl Shard {
    /// A group should be on another shard: it stands still.
    pub(super) fn depart(&mut self, (id, made): (GroupId, Slot), to: usize) {
        let Some(at) = self.group_at(id) else { return };
        let group = &self.groups[at as usize];
        let kind = if made == Slot::ZERO { GroupKind::Configured } else { GroupKind::Made(made) };
        let may = group.kind == kind
            && to < self.shard.1
            && to != self.shard.0
            && !group.still
            && self.moves.departing.len() < MOVES_MAX
            && self.moves.again_ns.get(&id).is_none_or(|again| *again <= self.now_ns);
        if !may || self.stopping || self.suspect || !self.may_vote() || self.writer.starved().is_some() {
            return;
        }
        let number = self.groups[at as usize].arrival + 1;
        tracing::info!(group = id, number, from = self.shard.0, to, "a group leaves for another shard");
        self.stand_still(at);
        let departing = Departing { at, to, number, stage: Stage::Settling, moved_ns: self.now_ns };
        self.moves.departing.insert(id, departing);
    }

    /// Leads no more, and neither speaks nor listens.
    fn stand_still(&mut self, at: u32) {
        self.act(at, &[], Replica::quorum_lost);
        self.reject_open(at, Rejection::NotLeader { leader: None });
        let change = self.groups[at as usize].change.take();
        if let Some(change) = change {
            self.fail_change(*change, MembershipError::Unknown);
        }
        self.changing.retain(|of| *of != at);
        self.forget_transfer(at, TransferError::Busy);
        self.forget_points(at, &ReadError::Moving);
        self.forget_election(at);
        let group = &mut self.groups[at as usize];
        (group.still, group.follows) = (true, None);
        // Whoever gives it a checkpoint may be on the other shard already.
        group.checkpoints.fetch = None;
        self.by_uid.remove(&group.names.uid);
    }

    /// The move is over: the group goes on where it is.
    pub(super) fn stay(&mut self, id: GroupId, number: u64, reason: &str) {
        let Some(Departing { at, .. }) = self.take_departing(id, number) else { return };
        mark(Mark::GroupStayed);
        tracing::warn!(group = id, number, reason, "a group stays on its shard for now");
        self.moves.again_ns.insert(id, self.now_ns + AGAIN_NS);
        let group = &mut self.groups[at as usize];
        group.still = false;
        self.by_uid.insert(group.names.uid, at);
        // What was said meanwhile, it has not heard.
        for peer in 0..self.peers.len() {
            let member = self.address(at, peer);
            self.groups[at as usize].replica.disconnected(member);
        }
        self.connect_group(at);
        self.arm_timer(at, true);
        self.feed_machine(at);
        self.made.note_left(self.homes.directory(id));
    }

    fn take_departing(&mut self, id: GroupId, number: u64) -> Option<Departing> {
        self.moves.departing.get(&id).filter(|departing| departing.number == number)?;
        self.moves.departing.remove(&id)
    }

    fn set_stage(&mut self, id: GroupId, stage: Stage) {
        let now_ns = self.now_ns;
        if let Some(departing) = self.moves.departing.get_mut(&id) {
            (departing.stage, departing.moved_ns) = (stage, now_ns);
        }
    }

    pub(super) fn step_departures(&mut self) {
        let departing: Vec<(GroupId, Departing)> = self.moves.departing.iter().map(|(id, of)| (*id, *of)).collect();
        for (id, Departing { at, number, stage, moved_ns, .. }) in departing {
            if stage == Stage::Settling && self.is_settled(at) {
                let group = &self.groups[at as usize];
                match group.checkpoints.newest().filter(|_| group.checkpoints.taken) {
                    Some(kept) => {
                        let (uid, slot) = (group.names.uid, kept.slot().0);
                        self.checkpoints.ops.push(StoreOp::Export { group: at, uid, slot });
                        self.set_stage(id, Stage::Exporting);
                    }
                    None => self.begin_departure(id, None),
                }
            } else if self.now_ns >= moved_ns + STUCK_NS {
                let reason = "it comes no further";
                match stage {
                    Stage::Settling | Stage::Exporting => self.stay(id, number, reason),
                    Stage::Reading { .. } | Stage::Waiting { .. } | Stage::Sent => {
                        self.set_stage(id, stage);
                        self.break_off(id, reason.into());
                    }
                }
            }
        }
    }

    /// Whether all of a group that stands still is durable, applied and told.
    fn is_settled(&self, at: u32) -> bool {
        let group = &self.groups[at as usize];
        let (written, told) = (group.durable == group.appended, group.held.is_empty() && group.pending.is_empty());
        written && told && !group.chosen && !group.feeding && !group.checkpoints.is_under_way()
    }

    /// The group with this place that leaves.
    fn leaving(&self, at: u32) -> Option<(GroupId, Departing)> {
        self.moves.departing.iter().find(|(_, departing)| departing.at == at).map(|(id, of)| (*id, *of))
    }

    pub(in crate::shard) fn on_exported(&mut self, at: u32, result: Result<Exported, String>) {
        let Some((id, departing)) = self.leaving(at).filter(|(_, of)| of.stage == Stage::Exporting) else { return };
        match result {
            Ok(exported) => self.begin_departure(id, Some(exported)),
            Err(reason) => {
                self.stay(id, departing.number, &format!("its checkpoint cannot be used: {reason}"));
                self.want_checkpoint(at);
            }
        }
    }

    fn begin_departure(&mut self, id: GroupId, checkpoint: Option<Exported>) {
        let at = self.moves.departing[&id].at;
        let group = &self.groups[at as usize];
        let GroupNames { uid, home, .. } = group.names;
        let made = match group.kind {
            GroupKind::Made(slot) => match self.birth_of(home, slot) {
                Some(birth) => Some((slot, birth.clone())),
                None => {
                    let number = self.moves.departing[&id].number;
                    return self.stay(id, number, "it is no more");
                }
            },
            _ => None,
        };
        let founders = self.made.founders_of(self.homes.directory(id)).cloned();
        let replica = self.made.maker.name(uid, home);
        let next = group.gone.next();
        let baggage = Baggage { uid, home, made, replica, founders, votes: group.votes(), checkpoint };
        self.set_stage(id, Stage::Waiting { next, runs: 0 });
        self.send_to_new_shard(id, Passing::Begin(Box::new(baggage)));
    }

    fn send_to_new_shard(&mut self, id: GroupId, what: Passing) {
        let Departing { to, number, .. } = self.moves.departing[&id];
        let pass = self.pass(id, number, what);
        self.send_pass(to, pass);
    }

    /// The new shard has what was sent.
    pub(super) fn send_more(&mut self, id: GroupId, number: u64) {
        let departing = self.moves.departing.get(&id).filter(|departing| departing.number == number).copied();
        let Some(Departing { at, stage: Stage::Waiting { next, runs }, .. }) = departing else { return };
        let group = &self.groups[at as usize];
        if next <= group.replica.log().last() {
            let places = self.index.range(group.names.uid, next.0, RECORDS_BYTES_MAX);
            let places: Vec<RecordPlace> = places.map(|(_, place)| place.record()).collect();
            if places.is_empty() {
                return self.break_off(id, format!("slot {next} is not in the log's index"));
            }
            self.set_stage(id, Stage::Reading { next });
            self.read_disk(places, Purpose::Leave { group: at });
            return;
        }
        let all = group.indexes.len();
        let of = group.indexes.range(runs..(runs + READABLE_RUNS_MAX).min(all));
        let of: Vec<_> = of.map(|(slot, index)| (*slot, group.indexes.slots(*slot), *index)).collect();
        let (runs, records) = (runs + of.len(), vec![readable_record(group.names.uid, group.gone, &of)]);
        let last = runs == all;
        self.set_stage(id, if last { Stage::Sent } else { Stage::Waiting { next, runs } });
        self.send_to_new_shard(id, Passing::Records { records, last });
    }

    /// Asks the new shard to give the move up, if it is not too late for that.
    fn break_off(&mut self, id: GroupId, reason: String) {
        tracing::error!(group = id, reason, "a group is not moved to another shard");
        self.send_to_new_shard(id, Passing::GiveUp { reason });
    }

    /// Records of a group that leaves were read.
    pub(in crate::shard) fn on_leaving_read(&mut self, at: u32, result: Vec<Result<Vec<u8>, DiskError>>) {
        let Some((id, Departing { stage: Stage::Reading { next }, .. })) = self.leaving(at) else { return };
        let uid = self.groups[at as usize].names.uid;
        let (mut next, mut records): (Slot, Vec<(RecordHeader, Vec<u8>)>) = (next, Vec::new());
        for record in result {
            let record = match record {
                Ok(record) => record,
                Err(error) => return self.break_off(id, error.to_string()),
            };
            let found = read_back(&record).filter(|(header, _)| (header.uid, header.numbers[0]) == (uid, next.0));
            let Some((header, body)) = found else {
                return self.break_off(id, format!("the record of slot {next} is not what the index says"));
            };
            records.push((header, body.to_vec()));
            next = next.next();
        }
        self.set_stage(id, Stage::Waiting { next, runs: 0 });
        self.send_to_new_shard(id, Passing::Records { records, last: false });
    }

    /// The group is on its new shard from now on: what is in memory here follows, and nothing is left.
    pub(super) fn leave(&mut self, id: GroupId, number: u64) {
        let Some(Departing { at, to, .. }) = self.take_departing(id, number) else { return };
        mark(Mark::GroupLeft);
        let promises_from_ns = self.bound_until(at);
        let group = &mut self.groups[at as usize];
        let (uid, next_index) = (group.names.uid, group.apply.next_index);
        let (kind, home) = (group.kind, group.names.home);
        let luggage = Luggage {
            machine: group.machine.take(),
            machine_next: group.machine_next,
            pins: std::mem::take(&mut group.checkpoints.pins),
            trimming_paused: group.checkpoints.trimming_paused,
            ending: group.ending,
            promises_from_ns,
        };
        // Whoever waits for more entries asks again, and is sent to where the group is.
        for request in std::mem::take(&mut group.waiters) {
            let first_index = request.from_index;
            self.answer(request.reply, Ok(CommittedEntries { first_index, next_index, ..CommittedEntries::default() }));
        }
        self.retire(at, TransferError::Busy, MembershipError::Unknown, &ReadError::Moving);
        let place = (id / self.shard.1 as u64) as usize;
        match (kind, self.by_id.get_mut(place).filter(|of| **of == Some(at))) {
            (GroupKind::Made(slot), _) => self.made.leave(at, (id, (home, slot))),
            (_, Some(place)) => *place = None,
            _ => {}
        }
        self.moves.leave(id);
        self.made.maker.names.forget(uid);
        self.moves.again_ns.remove(&id);
        let pass = self.pass(id, number, Passing::Luggage(Box::new(luggage)));
        self.send_pass(to, pass);
    }
}
