//! Groups of the configuration that move between the shards of a running node.
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
//! Shards of two nodes only meet in equal pairs, so for a moment the nodes that have moved a group and those that have not
//! are away for each other. What a guest is called is told over each connection (`NAMED`), since it is not what the
//! handshake says of its shard.
//!
//! Invariants:
//! - A group votes on at most one shard of a node: from where it stands still to the switch on none.
//! - Its new log holds all that its old one does before the switch, and the number of the move: a node counts each group's.
//!   A log that lacks the one that the node's directory names is damaged.
//! - To whom a voter was bound at its old shard it stays bound for as long, at the new one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use synod_core::{Configuration, ReplicaId};
use synod_wal::record::RecordHeader;

use super::group::GroupKind;
use super::reads::ReadError;
use super::trim::Pin;
use super::{Notice, Shard};
use crate::checkpoint::hand_over::Exported;
use crate::client::protocol::{Request, SHARDS};
use crate::machine::StateMachine;
use crate::meta::MovedGroup;
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

/// Makes it durable that a group is on another shard from now on.
pub(crate) type Switch = Arc<dyn Fn(MovedGroup) -> Result<(), String> + Send + Sync>;

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
        };
        write!(f, "move {} of group {}: {what}", self.number, self.group)
    }
}

/// What two shards tell each other of a group that moves.
pub(crate) enum Passing {
    /// It should be on that shard. To the one that has it.
    Order { to: usize },
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
}

/// A group that stands still.
pub(crate) struct Baggage {
    uid: u128,
    home: u64,
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
    pub(crate) switch: Option<Switch>,
}

impl Moves {
    /// A guest has this place.
    pub(super) fn enter(&mut self, group: GroupId, at: u32) {
        self.guests.insert(group, at);
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
    /// Has groups moved that are not where the directories of this shard say. Called on ticks.
    pub(super) fn follow_placements(&mut self) {
        if self.now_ns < self.moves.look_due_ns || !self.started || self.stopping {
            return;
        }
        self.moves.look_due_ns = self.now_ns + LOOK_NS;
        let mut orders = Vec::new();
        for group in self.groups.iter().filter(|group| group.kind == GroupKind::Directory) {
            for (id, on) in group.apply.directory.placed() {
                let to = on.among(self.shard.1).unwrap_or_else(|| self.homes.shard(id));
                let now = self.placement.shard(id);
                if now != to && id <= self.homes.groups {
                    orders.push((now, self.pass(id, 0, Passing::Order { to })));
                }
            }
        }
        for (to, order) in orders {
            self.send_pass(to, order);
        }
    }

    /// Why a group that is not here takes nothing: it may be about to.
    pub(super) fn not_here(&self, id: GroupId) -> Rejection {
        if self.moves.arriving.contains_key(&id) || self.placement.shard(id) != self.shard.0 && id <= self.homes.groups
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
            Passing::Order { to } => self.depart(group, to),
            Passing::Begin(baggage) => self.begin_arrival(group, number, from, *baggage),
            Passing::More => self.send_more(group, number),
            Passing::Records { records, last } => self.take_records(group, number, records, last),
            Passing::Switched => self.leave(group, number),
            Passing::Luggage(luggage) => self.settle(group, number, *luggage),
            Passing::GiveUp { reason } => self.turn_away(group, number, &reason),
            Passing::GivenUp { reason } => self.stay(group, number, &reason),
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
