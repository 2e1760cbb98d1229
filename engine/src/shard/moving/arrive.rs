//! A group's way into its new shard.

use synod_core::planted::{Bug, is};
use synod_core::{Ballot, Configuration, Recovered, ReplicaId, Slot};
use synod_wal::ops::RecordPlace;
use synod_wal::record::RecordHeader;

use super::{Baggage, Luggage, Passing};
use crate::checkpoint::{Kept, StoreOp};
use crate::directory::Birth;
use crate::homes::Away;
use crate::marks::{Mark, mark};
use crate::meta::{MovedGroup, Noted};
use crate::outcome::GroupId;
use crate::payload::Payload;
use crate::persist::{Summary, arrival_header};
use crate::recovery::{RecoveredGroup, Recoverer};
use crate::shard::checkpoints::GroupCheckpoints;
use crate::shard::events::Event;
use crate::shard::frames::Held;
use crate::shard::group::{Group, GroupKind, GroupNames};
use crate::shard::{Shard, early_tries};
use crate::wire::kind;

/// Nobody reads it: a group that is taken in is found in the log by what its frames say.
const NO_PLACE: RecordPlace = RecordPlace { generation: 0, offset: 0, bytes: 0 };

/// A group that comes.
pub(super) struct Arriving {
    at: u32,
    from: usize,
    number: u64,
    names: GroupNames,
    /// If it was made at run time: by the order in which slot, and what it began with.
    made: Option<(Slot, Birth)>,
    replica: ReplicaId,
    founders: Option<Configuration>,
    /// What it was where it came from.
    votes: Summary,
    /// What a start would make of the records that came.
    taken: Recoverer,
    /// The last frame with one of them.
    frame: u64,
    stage: Stage,
    checkpoint: Option<Kept>,
    /// The checkpoint is being copied.
    importing: bool,
}

enum Stage {
    /// What came is on its way to the disk.
    Taking { last: bool },
    /// More was asked for.
    Asked,
    /// All is durable; the node's directory is being told.
    Switching(Box<(Recovered<Payload>, RecoveredGroup)>),
}

impl Arriving {
    /// Whether a start would find the group as it was.
    fn is_whole(&self) -> bool {
        let Some(found) = self.taken.group(self.names.uid) else { return false };
        let votes = found.summary();
        let settled = Summary { apply: votes.apply.settled(), ..votes };
        self.taken.malformed.is_none() && found.hole().is_none() && settled == self.votes
    }
}

impl Shard {
    /// A group stands still on another shard, and is to come here.
    pub(super) fn begin_arrival(&mut self, id: GroupId, number: u64, from: usize, baggage: Baggage) {
        let is_here = self.group_at(id).is_some() || self.moves.arriving.contains_key(&id);
        let has_room = self.writer.starved().is_none() && !self.writer.bytes_over_limit() && !self.memory_full();
        if is_here || !has_room || self.stopping || self.suspect || !self.started {
            let reason = "its new shard cannot take it now".into();
            let pass = self.pass(id, number, Passing::GivenUp { reason });
            return self.send_pass(from, pass);
        }
        let Baggage { uid, home, made, replica, founders, votes, checkpoint } = baggage;
        let (names, votes) = (GroupNames { id, uid, home }, Summary { arrival: number, ..votes });
        let at = self.add_husk(names.clone());
        self.index.remove(uid);
        let importing = checkpoint.is_some();
        if let Some(from) = checkpoint {
            self.checkpoints.ops.push(StoreOp::Import { group: at, uid, from });
        }
        let (summary, body) = votes.encode(uid);
        let arriving = Arriving {
            at,
            from,
            number,
            names,
            made,
            replica,
            founders,
            votes,
            taken: Recoverer::default(),
            frame: 0,
            stage: Stage::Taking { last: false },
            checkpoint: None,
            importing,
        };
        self.moves.arriving.insert(id, arriving);
        self.push_arriving(id, &arrival_header(uid, number), &[]);
        self.push_arriving(id, &summary, &body);
    }

    /// Appends a record of a group that comes to the log.
    fn push_arriving(&mut self, id: GroupId, header: &RecordHeader, body: &[u8]) {
        let arriving = self.moves.arriving.get_mut(&id).expect("the caller has seen it");
        let (filling, span) = self.frames.push(header, &[body]);
        if matches!(header.kind, kind::ACCEPT | kind::LEARNED) {
            let [slot, ballot, ..] = header.numbers;
            let (slot, ballot) = (Slot(slot), Ballot::unpack(ballot));
            filling.held.push(Held { group: arriving.at, slot, ballot, span });
        }
        arriving.frame = filling.id;
        arriving.taken.note(NO_PLACE, header, body);
    }

    /// More of a group that comes.
    pub(super) fn take_records(&mut self, id: GroupId, number: u64, records: Vec<(RecordHeader, Vec<u8>)>, last: bool) {
        let Some(arriving) = self.moves.arriving.get_mut(&id).filter(|arriving| arriving.number == number) else {
            return;
        };
        arriving.stage = Stage::Taking { last };
        for (header, body) in records {
            self.push_arriving(id, &header, &body);
        }
    }

    pub(super) fn step_arrivals(&mut self) {
        let ids: Vec<GroupId> = self.moves.arriving.keys().copied().collect();
        for id in ids {
            let arriving = self.moves.arriving.get_mut(&id).expect("it is one of them");
            let Stage::Taking { last } = arriving.stage else { continue };
            if self.frames.waits(arriving.frame).is_some() && !is(Bug::GroupsMoveEarly) {
                continue;
            }
            let (from, number) = (arriving.from, arriving.number);
            if !last {
                arriving.stage = Stage::Asked;
                let pass = self.pass(id, number, Passing::More);
                self.send_pass(from, pass);
            } else if !arriving.importing {
                self.switch_group(id);
            }
        }
    }

    /// All that a group has elsewhere is durable here: the node's directory is told.
    fn switch_group(&mut self, id: GroupId) {
        let arriving = self.moves.arriving.get_mut(&id).expect("the caller has seen it");
        let (uid, number, replica) = (arriving.names.uid, arriving.number, arriving.replica.0);
        let whole = arriving.is_whole().then(|| arriving.taken.finish(id, uid).ok()).flatten();
        let Some(found) = whole else {
            return self.turn_away(id, number, "what was copied is not the same group: this is a bug");
        };
        let made = arriving.made.as_ref().map(|(slot, birth)| (slot.0, birth.clone()));
        let moved = MovedGroup { group: id, made, number, anew: false, shard: self.shard.0 as u32, replica };
        arriving.stage = Stage::Switching(Box::new(found));
        let note = std::sync::Arc::clone(self.moves.note.as_ref().expect("the driver has set it"));
        let note = Box::new(move || note(Noted::Moved(moved)));
        self.checkpoints.ops.push(StoreOp::Note { group: arriving.at, note });
    }

    fn arriving_at(&mut self, at: u32) -> Option<(GroupId, &mut Arriving)> {
        self.moves.arriving.iter_mut().find(|(_, arriving)| arriving.at == at).map(|(id, arriving)| (*id, arriving))
    }

    pub(in crate::shard) fn on_imported(&mut self, at: u32, result: Result<Kept, String>) {
        let uid = self.groups[at as usize].names.uid;
        match (self.arriving_at(at), result) {
            (Some((_, arriving)), Ok(kept)) => (arriving.checkpoint, arriving.importing) = (Some(kept), false),
            (Some((id, arriving)), Err(reason)) => {
                let number = arriving.number;
                self.turn_away(id, number, &format!("its checkpoint cannot be copied: {reason}"));
            }
            // It was turned away meanwhile.
            (None, Ok(kept)) => self.checkpoints.ops.push(StoreOp::Remove { uid, slot: kept.slot().0 }),
            (None, Err(_)) => {}
        }
    }

    /// The node's directory says that the group is here, or nobody knows what it says.
    pub(in crate::shard) fn on_noted(&mut self, at: u32, result: Result<(), String>) {
        let Some((id, arriving)) = self.arriving_at(at) else { return self.on_forgotten(at, result) };
        let (from, number) = (arriving.from, arriving.number);
        let made = arriving.made.as_ref().map_or(Slot::ZERO, |(slot, _)| *slot);
        if let Err(reason) = result {
            self.fatal = Some(format!(
                "it cannot be noted that group {id} is on shard {} from now on ({reason}): the next start looks where it is",
                self.shard.0
            ));
            return;
        }
        self.placement.put(id, Away { made, shard: self.shard.0 });
        let pass = self.pass(id, number, Passing::Switched);
        self.send_pass(from, pass);
    }

    /// A group does not come after all, unless it is here already.
    pub(super) fn turn_away(&mut self, id: GroupId, number: u64, reason: &str) {
        let Some(arriving) = self.moves.arriving.get(&id).filter(|arriving| arriving.number == number) else {
            return;
        };
        if matches!(arriving.stage, Stage::Switching(_)) {
            return;
        }
        let Arriving { at, from, names, checkpoint, .. } = self.moves.arriving.remove(&id).expect("it is there");
        self.frames.forget_group(at);
        self.index.remove(names.uid);
        if let Some(kept) = checkpoint {
            self.checkpoints.ops.push(StoreOp::Remove { uid: names.uid, slot: kept.slot().0 });
        }
        let pass = self.pass(id, number, Passing::GivenUp { reason: reason.into() });
        self.send_pass(from, pass);
    }

    /// The group goes on here.
    pub(super) fn settle(&mut self, id: GroupId, number: u64, luggage: Luggage) {
        if self.moves.arriving.get(&id).is_none_or(|arriving| arriving.number != number) {
            return;
        }
        let Arriving { at, names, made, replica, founders, checkpoint, stage, .. } =
            self.moves.arriving.remove(&id).expect("it is there");
        let Stage::Switching(found) = stage else { unreachable!("luggage follows the switch") };
        mark(Mark::GroupArrived);
        let (state, RecoveredGroup { apply, indexes, gone, .. }) = *found;
        let Luggage { machine, machine_next, pins, trimming_paused, ending, promises_from_ns } = luggage;
        if let Some(founders) = &founders {
            self.made.found(self.homes.directory(id) as usize, founders);
        }
        let (uid, maker) = (names.uid, &mut self.made.maker);
        let genesis = match &made {
            Some((_, birth)) => birth.genesis().or(founders.map(|founders| birth.sized(founders))),
            None => founders.and_then(|founders| founders.with_phase_2(maker.config.phase_2)),
        };
        maker.names.name(uid, replica.0);
        let taken = machine.as_ref().is_some_and(|machine| machine.takes_checkpoints());
        let mut checkpoints = GroupCheckpoints::new(uid, taken, checkpoint);
        (checkpoints.pins, checkpoints.trimming_paused) = (pins, trimming_paused);
        let (name, replica) = (replica.0, maker.replica(replica, genesis, state));
        let (preferred, prefers) = (maker.config.preferred(id), early_tries(maker.config.prefers(id)));
        let group = Group::new(names, replica, apply, (indexes, gone), machine, checkpoints, machine_next - 1);
        let kind = made.as_ref().map_or(GroupKind::Configured, |(slot, _)| GroupKind::Made(*slot));
        let promises_from_ns = if is(Bug::MovedVotersAreFree) { 0 } else { promises_from_ns };
        self.groups[at as usize] = Group { kind, preferred, arrival: number, ending, promises_from_ns, ..group };
        self.prefers[at as usize] = prefers;
        self.by_uid.insert(uid, at);
        let is_home = self.homes.shard(id) == self.shard.0;
        if !is_home {
            self.moves.enter(id, at);
        }
        if let Some((_, birth)) = made {
            self.made.arrive(at, &self.groups[at as usize], Some(birth).filter(|_| !is_home));
        } else if is_home {
            let place = (id / self.shard.1 as u64) as usize;
            self.by_id.resize(self.by_id.len().max(place + 1), None);
            self.by_id[place] = Some(at);
        }
        tracing::info!(group = id, number, shard = self.shard.0, "a group has come from another shard");
        for peer in 0..self.peers.len() {
            self.send_name(peer, uid, name);
        }
        self.connect_group(at);
        self.arm_timer(at, true);
        self.feed_machine(at);
        self.tell_event(Event::GroupMoved { group: id, shard: self.shard.0 });
    }

    /// A place for a group that is not here yet.
    fn add_husk(&mut self, names: GroupNames) -> u32 {
        let at = self.groups.len() as u32;
        let husk = self.made.maker.husk(names);
        self.groups.push(husk);
        self.prefers.push(0);
        at
    }
}
