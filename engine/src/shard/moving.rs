//! Groups that move between the shards of a running node.
//!
//! A directory's log says which shard a group should be on ([`crate::directory`]), the same for all nodes; each node follows
//! by itself, and again whenever the two differ. The group is moved in steps, by messages between the two shards:
//!
//! 1. At its old shard it stands still (`depart`): it gives up its leadership, and neither speaks nor listens any more. All
//!    that it has written becomes durable.
//! 2. Its new shard (`arrive`) takes its votes in short, every record that the old log has of it, and its newest checkpoint
//!    into its own log and store.
//! 3. When all that is durable there, and read in its order gives the same group, the node's directory is made to say where
//!    the group is. **This is the switch.** Before it a start finds the group where it was, and what was copied is ignored;
//!    behind it a start finds it at its new shard, and what the old log has is ignored.
//! 4. The old shard gives its state machine away, and the group goes on, as the replica that it was.
//!
//! A group that was made at run time ends as its directory says, wherever it is: the directory's shard tells the one that has
//! it, again and again, and hears from there that the group's last slot is chosen. When such a group was moved and is gone,
//! so is what the node's directory says of it.
//!
//! Shards of two nodes only meet in equal pairs, so for a moment the nodes that have moved a group and those that have not
//! are away for each other. What a guest is called is told over each connection (`NAMED`), since it is not what the
//! handshake says of its shard.
//!
//! Invariants:
//! - A group votes on at most one shard of a node: from where it stands still to the switch on none.
//! - Its new log holds all that its old one does before the switch, and the number of the move: a node counts each group's.
//!   A log that lacks the one that the node's directory names is damaged.
//! - To whom a voter was bound at its old shard it stays bound for as long, at the new one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use synod_core::planted::{Bug, is};
use synod_core::{Configuration, ReplicaId, Slot};
use synod_wal::record::RecordHeader;

use super::group::GroupKind;
use super::reads::ReadError;
use super::trim::Pin;
use super::{Notice, Shard};
use crate::apply::ApplyState;
use crate::checkpoint::StoreOp;
use crate::checkpoint::hand_over::Exported;
use crate::client::protocol::{Request, SHARDS};
use crate::directory::{Birth, PlacedGroup};
use crate::homes::Away;
use crate::machine::StateMachine;
use crate::marks::{Mark, mark};
use crate::meta::Noted;
use crate::outcome::{GroupId, Rejection};
use crate::persist::Summary;
use crate::wire;

mod arrive;
mod depart;

use arrive::Arriving;
use depart::Departing;

/// Groups that leave a shard at a time.
const MOVES_MAX: usize = 4;
/// Bytes of records in one message between shards.
const RECORDS_BYTES_MAX: u64 = 128 << 10;
/// So often it is looked whether all groups are where they should be.
const LOOK_NS: u64 = 500_000_000;
/// After a move that failed, the next try comes so much later.
const AGAIN_NS: u64 = 5_000_000_000;
/// A move that comes no further for so long is given up.
const STUCK_NS: u64 = 10_000_000_000;
/// Guests of which a peer may say what they are called.
const NAMED_MAX: usize = 1 << 16;

/// Makes it durable where a group is, or that it is no more.
pub(crate) type Note = Arc<dyn Fn(Noted) -> Result<(), String> + Send + Sync>;

/// A message between two shards of a node about a group that moves.
pub(crate) struct Pass {
    pub(crate) group: GroupId,
    /// Which move of the group it is, on this node; 0 in an order.
    pub(crate) number: u64,
    /// Who sends it.
    pub(crate) from: usize,
    pub(crate) what: Passing,
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match &self.what {
            Passing::Order { .. } => "order",
            Passing::Begin(_) => "begin",
            Passing::More => "more",
            Passing::Records { .. } => "records",
            Passing::Switched => "switched",
            Passing::Luggage(_) => "luggage",
            Passing::GiveUp { .. } => "give up",
            Passing::GivenUp { .. } => "given up",
            Passing::Fate { .. } => "fate",
            Passing::Ended { .. } => "ended",
        };
        write!(f, "move {} of group {}: {what}", self.number, self.group)
    }
}

/// What two shards tell each other of a group that moves.
pub(crate) enum Passing {
    /// It should be on that shard. To the one that has it. `made`: the slot of the order that made it, or 0.
    Order { made: Slot, to: usize },
    /// It stands still, and this is what it is.
    Begin(Box<Baggage>),
    /// What came is durable.
    More,
    /// What its old log has of it, in order.
    Records { records: Vec<(RecordHeader, Vec<u8>)>, last: bool },
    /// It is on its new shard from now on.
    Switched,
    /// What was in its old shard's memory.
    Luggage(Box<Luggage>),
    /// The move should be given up, unless it is too late for that.
    GiveUp { reason: String },
    /// The group does not come: it is where it was.
    GivenUp { reason: String },
    /// What its directory says of a guest that was made at run time.
    Fate { made: Slot, fate: Fate },
    /// The last slot of such a guest is chosen. To the shard of its directory.
    Ended { made: Slot },
}

/// What becomes of a group that was made at run time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It is being dropped.
    Ends,
    /// It is no more.
    Gone,
}

/// A group that stands still.
pub(crate) struct Baggage {
    uid: u128,
    home: u64,
    /// If it was made at run time: by the order in which slot, and what it began with.
    made: Option<(Slot, Birth)>,
    replica: ReplicaId,
    /// The founders of the shard that it began on.
    founders: Option<Configuration>,
    votes: Summary,
    checkpoint: Option<Exported>,
}

/// What a group takes along that is in no log.
pub(crate) struct Luggage {
    machine: Option<Box<dyn StateMachine>>,
    /// The index that the machine gets next.
    machine_next: u64,
    pins: BTreeMap<String, Pin>,
    trimming_paused: bool,
    /// It is being dropped.
    ending: bool,
    /// Until then it must make no promise.
    promises_from_ns: u64,
}

/// The groups of a shard that come and go.
#[derive(Default)]
pub(crate) struct Moves {
    /// The places of groups that are not at home here.
    guests: HashMap<GroupId, u32>,
    departing: BTreeMap<GroupId, Departing>,
    arriving: BTreeMap<GroupId, Arriving>,
    look_due_ns: u64,
    /// When a group that could not leave may try again.
    again_ns: BTreeMap<GroupId, u64>,
    /// Groups that are gone, and which the node's directory still names.
    forgetting: Vec<Forgetting>,
    /// Guests elsewhere that a directory here no longer names, and the frame of the log that says so.
    unnamed: BTreeMap<(u64, Slot), u64>,
    pub(crate) note: Option<Note>,
}

/// A group that is gone, and what is noted of it should be too.
struct Forgetting {
    /// Where the answer is awaited.
    at: u32,
    group: GroupId,
    made: Slot,
    /// Not before this frame of the log is durable.
    after: u64,
    asked: bool,
}

impl Moves {
    /// A guest has this place.
    pub(super) fn enter(&mut self, group: GroupId, at: u32) {
        self.guests.insert(group, at);
    }

    /// A guest is none any more.
    pub(super) fn leave(&mut self, group: GroupId) {
        self.guests.remove(&group);
    }

    /// Whether a group is on its way from here, or to here.
    pub(super) fn is_moving(&self, group: GroupId) -> bool {
        self.departing.contains_key(&group) || self.arriving.contains_key(&group)
    }

    /// Whether something is still noted of groups that are gone.
    pub(super) fn is_forgetting(&self) -> bool {
        !self.forgetting.is_empty()
    }

    /// The place of a guest.
    pub(super) fn guest(&self, group: GroupId) -> Option<u32> {
        self.guests.get(&group).copied()
    }

    /// Whether a group is on its way.
    pub(super) fn is_any(&self) -> bool {
        !self.departing.is_empty() || !self.arriving.is_empty()
    }

    /// It is looked at the next tick whether all groups are where they should be.
    pub(super) fn look_soon(&mut self) {
        self.look_due_ns = 0;
    }
}

impl Shard {
    /// Has groups moved that are not where the directories of this shard say, and guests told what these say of them. Called
    /// on ticks.
    pub(super) fn follow_placements(&mut self) {
        if self.now_ns < self.moves.look_due_ns || !self.started || self.stopping {
            return;
        }
        self.moves.look_due_ns = self.now_ns + LOOK_NS;
        self.made.follow_again();
        self.forget_moves();
        let mut orders = Vec::new();
        for group in self.groups.iter().filter(|group| group.kind == GroupKind::Directory) {
            for PlacedGroup { id, made, on } in group.apply.directory.placed() {
                let to = on.among(self.shard.1).unwrap_or_else(|| self.homes.shard(id));
                let now = self.placement.shard(id);
                let is_known = (made == Slot::ZERO) == (id <= self.homes.groups);
                if now != to && is_known {
                    orders.push((now, self.pass(id, 0, Passing::Order { made, to })));
                }
            }
        }
        let away = self.placement.made_away();
        let names: HashSet<(u64, Slot)> = away.iter().map(|(id, of)| (self.homes.directory(*id), of.made)).collect();
        self.moves.unnamed.retain(|made, _| names.contains(made));
        for (id, Away { made, shard }) in away {
            if let Some(fate) = self.fate(id, made) {
                orders.push((shard, self.pass(id, 0, Passing::Fate { made, fate })));
            }
        }
        for (to, order) in orders {
            self.send_pass(to, order);
        }
    }

    /// What a directory of this shard says of a guest elsewhere.
    fn fate(&mut self, id: GroupId, made: Slot) -> Option<Fate> {
        let number = self.homes.directory(id);
        let place = self.made.directory(number)?;
        let group = &self.groups[place as usize];
        let ApplyState { slot, directory, .. } = &group.apply;
        if let Some(made) = directory.get(made) {
            return made.ending.then_some(Fate::Ends);
        }
        // A directory that lost its log says nothing of what it has not learned again.
        if made > *slot {
            return None;
        }
        // Were it gone there before a start finds so here, the start would look for it at home.
        let frame = self.moves.unnamed.get(&(number, made)).copied().unwrap_or_else(|| {
            let (header, body) = group.summary();
            self.frames.push(&header, &[&body]).0.id
        });
        self.moves.unnamed.insert((number, made), frame);
        (self.frames.waits(frame).is_none() || is(Bug::GuestsGoEarly)).then_some(Fate::Gone)
    }

    /// A group that was moved at some time is gone: what is noted of it should be too, once the frame `after` is durable,
    /// which says so.
    pub(super) fn forget_move(&mut self, at: u32, group: GroupId, made: Slot, after: Option<u64>) {
        self.moves.forgetting.push(Forgetting { at, group, made, after: after.unwrap_or(0), asked: false });
        self.moves.look_soon();
    }

    fn forget_moves(&mut self) {
        for of in self.moves.forgetting.iter_mut().filter(|of| !of.asked) {
            if self.frames.waits(of.after).is_some() {
                continue;
            }
            of.asked = true;
            let (note, group, made) =
                (Arc::clone(self.moves.note.as_ref().expect("the driver has set it")), of.group, of.made);
            let note = Box::new(move || note(Noted::Gone { group, made }));
            self.checkpoints.ops.push(StoreOp::Note { group: of.at, note });
        }
    }

    /// What is noted of a group that is gone is gone too, or that has failed.
    fn on_forgotten(&mut self, at: u32, result: Result<(), String>) {
        let Some(place) = self.moves.forgetting.iter().position(|of| of.at == at && of.asked) else { return };
        if let Err(reason) = result {
            let group = self.moves.forgetting[place].group;
            tracing::error!(group, reason, "it cannot be noted that a group is gone: this is tried again");
            self.moves.forgetting[place].asked = false;
            return;
        }
        let Forgetting { group, made, .. } = self.moves.forgetting.remove(place);
        mark(Mark::MovedGroupForgotten);
        self.placement.forget(group, made);
    }

    /// The last slot of a group that was made at run time is chosen.
    pub(super) fn send_end(&mut self, group: GroupId, made: Slot) {
        let (to, pass) = (self.placement.directory_shard(group), self.pass(group, 0, Passing::Ended { made }));
        self.send_pass(to, pass);
    }

    /// Why a group that is not here takes nothing: it may be about to.
    pub(super) fn not_here(&self, id: GroupId) -> Rejection {
        let is_elsewhere = self.placement.shard(id) != self.shard.0;
        if self.moves.arriving.contains_key(&id)
            || is_elsewhere && (id <= self.homes.groups || self.placement.away(id).is_some())
        {
            Rejection::NotLeader { leader: None }
        } else {
            Rejection::UnknownGroup
        }
    }

    /// As [`Shard::not_here`], for reads.
    pub(super) fn not_readable_here(&self, id: GroupId) -> ReadError {
        match self.not_here(id) {
            Rejection::UnknownGroup => ReadError::UnknownGroup(id),
            _ => ReadError::Moving,
        }
    }

    /// The shard that a client's request is for.
    pub(crate) fn shard_for(&self, request: &Request) -> usize {
        let group = request.group();
        match request {
            Request::CreateGroup { .. } | Request::DropGroup { .. } | Request::PlaceGroup { .. } => {
                self.placement.directory_shard(group)
            }
            // The shard itself is asked.
            Request::Groups { .. } | Request::Info { .. } if group >= SHARDS => {
                (group - SHARDS) as usize % self.shard.1
            }
            _ => self.placement.shard(group),
        }
    }

    fn pass(&self, group: GroupId, number: u64, what: Passing) -> Pass {
        Pass { group, number, from: self.shard.0, what }
    }

    fn send_pass(&mut self, to: usize, pass: Pass) {
        if to == self.shard.0 {
            self.on_pass(pass);
        } else {
            self.notices.push(Notice::Pass(to, pass));
        }
    }

    /// A shard of this node says something about a group that moves.
    pub(crate) fn on_pass(&mut self, pass: Pass) {
        let Pass { group, number, from, what } = pass;
        match what {
            Passing::Order { made, to } => self.depart((group, made), to),
            Passing::Begin(baggage) => self.begin_arrival(group, number, from, *baggage),
            Passing::More => self.send_more(group, number),
            Passing::Records { records, last } => self.take_records(group, number, records, last),
            Passing::Switched => self.leave(group, number),
            Passing::Luggage(luggage) => self.settle(group, number, *luggage),
            Passing::GiveUp { reason } => self.turn_away(group, number, &reason),
            Passing::GivenUp { reason } => self.stay(group, number, &reason),
            Passing::Fate { made, fate } => self.heed(group, made, fate),
            Passing::Ended { made } => self.forget_group(group, made),
        }
    }

    /// Brings groups that are on their way further. Called on ticks.
    pub(super) fn step_moves(&mut self) {
        self.step_departures();
        self.step_arrivals();
    }

    // ---- names ----

    /// Tells a peer which replicas the groups are that its handshake does not say.
    pub(super) fn send_names(&mut self, peer: usize) {
        let names: Vec<(u128, u128)> = self.made.maker.names.named().collect();
        for (uid, replica) in names {
            self.send_name(peer, uid, replica);
        }
    }

    fn send_name(&mut self, peer: usize, uid: u128, replica: u128) {
        let now_us = self.now_us();
        if self.peers[peer].connection.is_some() {
            self.peers[peer].push_control(|out| wire::append_named(out, uid, replica), now_us);
        }
    }

    /// A peer says which replica it is in a group.
    pub(super) fn on_named(&mut self, peer: usize, uid: u128, replica: u128) -> Result<(), wire::Malformed> {
        let names = &mut self.peers[peer].names;
        if names.of_named(uid) == Some(replica) {
            return Ok(());
        }
        if names.named_len() >= NAMED_MAX {
            return Err(wire::Malformed("more names than there can be"));
        }
        let at = self.by_uid.get(&uid).copied();
        let before = at.map(|at| self.address(at, peer));
        self.peers[peer].names.name(uid, replica);
        if let (Some(at), Some(before)) = (at, before) {
            self.groups[at as usize].replica.disconnected(before);
            let member = self.address(at, peer);
            self.act(at, &[], |r, out| r.connected(member, out));
        }
        Ok(())
    }
}
