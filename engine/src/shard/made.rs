//! Groups that are made and dropped while the shard runs: what its directories say is carried out here.
//!
//! The shard follows each of its directories ([`crate::directory`]): whatever the applied orders, or a state taken over from a peer,
//! leave different from the groups that are here is made or deleted at the end of the turn. A group may be a guest on another
//! shard ([`super::moving`]): that one is told what its directory says, until it has done so.
//!
//! Invariants:
//! - Before the first record of a new group there is a summary of the directory in the log that names it, so a start that
//!   finds a vote of a group knows that group. Behind the deletion of one there is a summary that names it no more, and
//!   until that is durable no segment goes: a start finds a group with all its votes, or not at all. What is noted of a guest
//!   in the node's directory stands for both.
//! - A new group begins only when whatever had its number before is gone from all shards of the node.
//! - A group is deleted only when the directory's log says so, and that is ordered only where the group's own last slot is
//!   known as chosen. Not to know a group proves nothing.
//! - The directory's log is never taken in twice, so a group that was deleted here never comes back under its uid.
//! - A place in the list of groups is never used again before the next start: what still refers to it finds nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use synod_core::planted::{Bug, is};
use synod_core::{Configuration, Recovered, Replica, ReplicaId, Slot};

use super::Shard;
use super::checkpoints::GroupCheckpoints;
use super::elections::early_tries;
use super::events::Event;
use super::group::{Group, GroupKind, GroupNames, Reply, Run};
use super::moving::Fate;
use crate::apply::ApplyState;
use crate::batch::Entries;
use crate::config::Config;
use crate::directory::{Birth, Made, On, Order};
use crate::groups::{DIRECTORIES, GroupChange, GroupError, GroupOutcome, MadeGroup};
use crate::homes::{Homes, Names};
use crate::limits::{GROUP_ORDERS_MAX, GROUPS_DROPPED_MAX, GROUPS_MADE_MAX, WINDOW_BYTES, WINDOW_SLOTS};
use crate::machine::StateMachine;
use crate::membership::MembershipError;
use crate::meta::{MovedGroup, made_guests};
use crate::node::MachineFactory;
use crate::outcome::{GroupId, Outcome, Overload, ProposeError, Rejection};
use crate::payload::Payload;
use crate::shard::reads::ReadError;
use crate::shard::transfer::TransferError;

/// So often a directory's leader orders again that a group is forgotten.
const FORGET_AGAIN_NS: u64 = 500_000_000;

/// Who is told what became of an order.
pub(crate) enum GroupReply {
    /// A client's request: connection and request id.
    Client(u64, u64),
    /// Anyone else.
    Callback(Box<dyn FnOnce(GroupOutcome) + Send>),
}

/// What groups are made of.
pub(crate) struct Maker {
    pub(crate) config: Config,
    /// The replicas that the groups of this shard are.
    pub(crate) names: Names,
    pub(crate) machines: Option<MachineFactory>,
}

impl Maker {
    /// The replica that a group here is.
    pub(crate) fn name(&self, uid: u128, home: u64) -> ReplicaId {
        ReplicaId(self.names.of_named(uid).unwrap_or_else(|| self.names.of(home)))
    }

    /// A group's replica as the log describes it; `genesis` is not known of founders.
    pub(crate) fn replica(
        &self,
        name: ReplicaId,
        genesis: Option<Configuration>,
        state: Recovered<Payload>,
    ) -> Replica<Payload> {
        let config = synod_core::Config {
            replica: name,
            genesis: genesis.unwrap_or_default(),
            peers: self.config.members.len() - 1,
            window_slots: WINDOW_SLOTS,
            window_bytes: WINDOW_BYTES,
        };
        Replica::new(config, state)
    }

    /// Stands for a group that is not here: without voters and peers it does nothing, and nobody finds it.
    pub(super) fn husk(&self, names: GroupNames) -> Group {
        let config = synod_core::Config {
            replica: self.name(names.uid, names.home),
            genesis: Configuration::default(),
            peers: 0,
            window_slots: 1,
            window_bytes: 1,
        };
        let replica = Replica::new(config, Recovered::default());
        let log = Default::default();
        let husk = Group::new(names, replica, ApplyState::default(), log, None, GroupCheckpoints::default(), 0);
        Group { kind: GroupKind::Gone, ..husk }
    }

    /// The state machine of a group.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(crate) fn machine(&self, id: GroupId) -> Result<Option<Box<dyn StateMachine>>, String> {
        // A witness has nothing to apply.
        let Some(make) = self.machines.as_ref().filter(|_| !self.config.is_witness(self.config.node)) else {
            return Ok(None);
        };
        make(id).map_err(|error| format!("the state machine of group {id} cannot be made: {error}"))
    }

    /// The state machine of a group of which nothing is in the log. What it holds is of a group that had the number before,
    /// or comes again from the other nodes: it begins with nothing.
    ///
    /// # Errors
    /// When it does not, or cannot be made.
    pub(crate) fn new_machine(&self, id: GroupId) -> Result<Option<Box<dyn StateMachine>>, String> {
        // A crash may have come between the end of the group before and its machine.
        if let Some(mut old) = self.machine(id)? {
            old.dropped();
        }
        match self.machine(id)? {
            Some(machine) if machine.durable_index() > 0 => Err(format!(
                "the state machine of the new group {id} holds index {} already: delete its data, which is that of an \
                 earlier group of this number (`StateMachine::dropped` should have)",
                machine.durable_index()
            )),
            machine => Ok(machine),
        }
    }

    /// Why a group that the directory names cannot be; `None` when it can.
    pub(crate) fn refuses(&self, id: GroupId) -> Option<String> {
        (id <= self.config.groups).then(|| {
            format!(
                "group {id} was made at run time, and `groups = {}` in the configuration says that it was always there: \
                 put `groups` back to what it was",
                self.config.groups
            )
        })
    }
}

/// An order that somebody has given.
struct PendingOrder {
    change: GroupChange,
    /// The place of the directory.
    directory: u32,
    /// The slot of the order that made the group; of a new one it is not known yet.
    made: Option<Slot>,
    /// What became of the proposal.
    told: Arc<Mutex<Option<Outcome>>>,
    until_ns: u64,
    reply: GroupReply,
}

/// The groups of a shard that were made at run time.
pub(crate) struct MadeGroups {
    pub(crate) maker: Maker,
    /// The places of the directories, by number.
    directories: BTreeMap<u64, u32>,
    by_id: HashMap<GroupId, u32>,
    /// Those at home, by directory, and the slot of the order.
    by_slot: BTreeMap<(u64, Slot), u32>,
    /// What the guests began with, whose directories are on other shards.
    guests: BTreeMap<(u64, Slot), Birth>,
    /// The numbers of the moves that have brought groups home which are not made again yet, since their log was begun anew.
    noted: BTreeMap<(u64, Slot), (GroupId, u64)>,
    /// The founders of shards that the cluster began with, once they are known.
    founders: BTreeMap<u64, Configuration>,
    /// The directories that may say something else than what is here.
    changed: BTreeSet<u64>,
    /// Those that could not be followed to the end.
    unfinished: BTreeSet<u64>,
    /// The frame with the summary that no longer names groups which were deleted; no segment goes before it is durable.
    deleting: Option<u64>,
    /// Those that are to end.
    ending: BTreeMap<(u64, Slot), u32>,
    orders: Vec<PendingOrder>,
    /// Places of groups that were deleted.
    dropped: usize,
    /// When it is ordered again that a group is forgotten.
    forget_again: BTreeMap<(u64, Slot), u64>,
}

impl MadeGroups {
    pub(crate) fn new(maker: Maker, groups: &[Group], moved: &[MovedGroup], (homes, shard): (Homes, usize)) -> Self {
        let made = |moved: &MovedGroup| (homes.directory(moved.group), moved.made());
        let guests = made_guests(moved, homes, shard).map(|(moved, _, birth)| (made(moved), birth.clone()));
        let is_home = |moved: &&MovedGroup| moved.is_on(shard) && homes.shard(moved.group) == shard;
        let noted = moved.iter().filter(is_home).filter(|moved| moved.made.is_some());
        let mut made = Self {
            maker,
            directories: BTreeMap::new(),
            by_id: HashMap::new(),
            by_slot: BTreeMap::new(),
            guests: guests.collect(),
            noted: noted.map(|moved| (made(moved), (moved.group, moved.number))).collect(),
            // A start leaves out what it finds elsewhere.
            unfinished: homes.directories(shard).collect(),
            founders: BTreeMap::new(),
            changed: BTreeSet::new(),
            deleting: None,
            ending: BTreeMap::new(),
            orders: Vec::new(),
            dropped: 0,
            forget_again: BTreeMap::new(),
        };
        for (at, group) in groups.iter().enumerate() {
            made.enter(at as u32, group);
        }
        made
    }

    fn enter(&mut self, at: u32, group: &Group) {
        match group.kind {
            GroupKind::Directory => drop(self.directories.insert(group.names.home, at)),
            GroupKind::Made(slot) => {
                let made = (group.names.home, slot);
                if !self.guests.contains_key(&made) {
                    self.by_id.insert(group.names.id, at);
                    self.by_slot.insert(made, at);
                    self.noted.remove(&made);
                }
                if group.ending {
                    self.ending.insert(made, at);
                }
            }
            GroupKind::Configured | GroupKind::Gone => {}
        }
    }

    /// A group has come from another shard. `birth`: when its directory is not here.
    pub(super) fn arrive(&mut self, at: u32, group: &Group, birth: Option<Birth>) {
        if let (GroupKind::Made(slot), Some(birth)) = (group.kind, birth) {
            self.guests.insert((group.names.home, slot), birth);
        }
        self.enter(at, group);
        self.note_left(group.names.home);
    }

    /// A group is no longer on this shard.
    pub(super) fn leave(&mut self, at: u32, (id, made): (GroupId, (u64, Slot))) {
        self.by_slot.remove(&made);
        self.guests.remove(&made);
        self.ending.remove(&made);
        self.forget_again.remove(&made);
        if self.by_id.get(&id) == Some(&at) {
            self.by_id.remove(&id);
        }
    }

    /// A group of a directory moves no more: what the directory has said since was not heeded.
    pub(super) fn note_left(&mut self, directory: u64) {
        if self.directories.contains_key(&directory) {
            self.changed.insert(directory);
        }
    }

    /// The directories that could not be followed to the end are followed again.
    pub(super) fn follow_again(&mut self) {
        self.changed.append(&mut self.unfinished);
    }

    /// The place of a directory, if it is on this shard.
    pub(crate) fn directory(&self, number: u64) -> Option<u32> {
        self.directories.get(&number).copied()
    }

    /// The place of a group.
    pub(super) fn place(&self, id: GroupId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    /// The founders of a shard that the cluster began with, if they are known.
    pub(super) fn founders_of(&self, first_shard: u64) -> Option<&Configuration> {
        self.founders.get(&first_shard)
    }

    /// The founders of a shard that the cluster began with are known.
    pub(super) fn found(&mut self, first_shard: usize, founders: &Configuration) {
        self.founders.insert(first_shard as u64, founders.clone());
    }

    /// Something was applied, or taken over, in a directory.
    pub(super) fn note_applied(&mut self, directory: u64) {
        self.changed.insert(directory);
    }

    /// A frame is durable.
    pub(super) fn note_durable(&mut self, frame: u64) {
        if self.deleting.is_some_and(|deleting| deleting <= frame) {
            self.deleting = None;
        }
    }

    /// Whether groups are being made or dropped.
    pub(super) fn is_any_order(&self) -> bool {
        !self.orders.is_empty() || !self.ending.is_empty()
    }

    /// Whether the deletion of a group is not durable yet.
    pub(super) fn is_deleting(&self) -> bool {
        self.deleting.is_some()
    }
}

impl Shard {
    /// Makes and deletes groups as the directories say by now.
    pub(super) fn follow_directories(&mut self) {
        while let Some(number) = self.made.changed.pop_first() {
            self.follow_directory(number);
            self.moves.look_soon();
        }
    }

    fn follow_directory(&mut self, number: u64) {
        let place = self.made.directories[&number];
        let applied = self.groups[place as usize].apply.slot;
        let directory = &self.groups[place as usize].apply.directory;
        let here = &self.made.by_slot;
        let ours = (number, Slot::ZERO)..(number + 1, Slot::ZERO);
        let gone: Vec<u32> = here
            .range(ours.clone())
            .filter(|((_, slot), _)| directory.get(*slot).is_none())
            .map(|(_, at)| *at)
            .collect();
        let is_guest = |slot: Slot, id: GroupId| self.placement.away(id).is_some_and(|away| away.made == slot);
        let new: Vec<(Slot, Made)> = directory
            .iter()
            .filter(|(slot, made)| !here.contains_key(&(number, *slot)) && !is_guest(*slot, made.id))
            .map(|(slot, made)| (slot, made.clone()))
            .collect();
        // What is on its way is heeded when it has arrived, and a name that is still in use elsewhere is waited for.
        let busy = |id: GroupId| self.moves.is_moving(id) || self.placement.away(id).is_some();
        let all = gone.len() + new.len();
        let gone: Vec<u32> =
            gone.into_iter().filter(|at| !self.moves.is_moving(self.groups[*at as usize].names.id)).collect();
        let new: Vec<(Slot, Made)> = new.into_iter().filter(|(_, made)| !busy(made.id)).collect();
        if gone.len() + new.len() < all {
            self.made.unfinished.insert(number);
        }
        let over =
            |((_, slot), _): &(&(u64, Slot), &(GroupId, u64))| *slot <= applied && directory.get(*slot).is_none();
        let over: Vec<((u64, Slot), (GroupId, u64))> =
            self.made.noted.range(ours.clone()).filter(over).map(|(made, noted)| (*made, *noted)).collect();
        // A machine deletes what it keeps before the log forgets the group; after a crash it is told again.
        for at in &gone {
            if let Some(machine) = &mut self.groups[*at as usize].machine {
                machine.dropped();
            }
        }
        if (!gone.is_empty() || !new.is_empty() || !over.is_empty()) && !is(Bug::GroupsAreNotRecorded) {
            let (header, body) = self.groups[place as usize].summary();
            let (filling, _) = self.frames.push(&header, &[&body]);
            if !gone.is_empty() || !over.is_empty() {
                self.made.deleting = Some(filling.id);
            }
        }
        for (made, (id, _)) in over {
            self.made.noted.remove(&made);
            self.forget_move(place, id, made.1, self.made.deleting);
        }
        gone.into_iter().for_each(|at| self.delete_group(at));
        new.into_iter().for_each(|(slot, made)| self.make_group(number, slot, &made));
        let directory = &self.groups[place as usize].apply.directory;
        let ends = |((_, slot), _): &(&(u64, Slot), &u32)| directory.get(*slot).is_some_and(|made| made.ending);
        let ending: Vec<u32> = self.made.by_slot.range(ours).filter(ends).map(|(_, at)| *at).collect();
        ending.into_iter().for_each(|at| self.end_group(at));
    }

    fn make_group(&mut self, directory: u64, slot: Slot, made: &Made) {
        let maker = &self.made.maker;
        if let Some(reason) = maker.refuses(made.id) {
            self.fatal = Some(reason);
            return;
        }
        let (id, uid) = (made.id, maker.config.uid_of_group(made.id, slot));
        let machine = match maker.new_machine(id) {
            Ok(machine) => machine,
            Err(reason) => {
                self.fatal = Some(reason);
                return;
            }
        };
        let founders = || self.made.founders.get(&directory).cloned().map(|founders| made.birth.sized(founders));
        let genesis = made.birth.genesis().or_else(founders);
        let replica = maker.replica(maker.name(uid, directory), genesis, Recovered::default());
        let taken = machine.as_ref().is_some_and(|machine| machine.takes_checkpoints());
        let checkpoints = GroupCheckpoints::new(uid, taken, None);
        let log = Default::default();
        let names = GroupNames { id, uid, home: directory };
        let mut group = Group::new(names, replica, ApplyState::default(), log, machine, checkpoints, 0);
        (group.kind, group.preferred) = (GroupKind::Made(slot), maker.config.preferred(id));
        group.arrival = self.made.noted.get(&(directory, slot)).map_or(0, |(_, number)| *number);
        let prefers = early_tries(maker.config.prefers(id));
        tracing::info!(group = id, uid = format!("{uid:032x}"), "a group is made");
        let at = self.groups.len() as u32;
        self.made.enter(at, &group);
        self.by_uid.insert(uid, at);
        self.groups.push(group);
        self.prefers.push(prefers);
        self.connect_group(at);
        if self.started {
            self.arm_timer(at, true);
        }
        if let Some(listener) = &self.events {
            listener(&Event::GroupMade { group: id });
        }
    }

    /// Deletes a group: whoever waits for it is told, and nothing of it is left but its place.
    fn delete_group(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        let GroupKind::Made(slot) = group.kind else { unreachable!("only these are deleted") };
        let GroupNames { id, uid, home } = group.names;
        tracing::info!(group = id, uid = format!("{uid:032x}"), "a group is dropped");
        group.ending = true;
        let arrival = group.arrival;
        let change = MembershipError::Rejected(Rejection::UnknownGroup);
        self.retire(at, TransferError::UnknownGroup(id), change, &ReadError::UnknownGroup(id));
        self.made.leave(at, (id, (home, slot)));
        self.made.maker.names.forget(uid);
        self.peers.iter_mut().for_each(|peer| peer.names.forget(uid));
        self.made.dropped += 1;
        if arrival > 0 {
            self.forget_move(at, id, slot, self.made.deleting);
        }
        if let Some(listener) = &self.events {
            listener(&Event::GroupDropped { group: id });
        }
    }

    /// What a group began with that the order in this slot has made, if that is known here.
    pub(super) fn birth_of(&self, directory: u64, made: Slot) -> Option<&Birth> {
        match self.made.directory(directory) {
            Some(place) => self.groups[place as usize].apply.directory.get(made).map(|made| &made.birth),
            None => self.made.guests.get(&(directory, made)),
        }
    }

    /// The shard of its directory says what becomes of a guest. It says so again, so what cannot be heeded now is not.
    pub(super) fn heed(&mut self, id: GroupId, made: Slot, fate: Fate) {
        let Some(at) = self.group_at(id).filter(|at| self.groups[*at as usize].kind == GroupKind::Made(made)) else {
            return;
        };
        match fate {
            _ if self.moves.is_moving(id) => {}
            Fate::Ends => self.end_group(at),
            Fate::Gone => {
                // As at home: before what is noted of it goes.
                if let Some(machine) = &mut self.groups[at as usize].machine {
                    machine.dropped();
                }
                self.delete_group(at);
                self.moves.leave(id);
            }
        }
    }

    fn end_group(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        let GroupKind::Made(slot) = group.kind else { unreachable!("only these end") };
        self.made.ending.insert((group.names.home, slot), at);
        if !std::mem::replace(&mut group.ending, true) {
            self.reject_open(at, Rejection::GroupDropped);
        }
    }

    /// A group is no more on this shard: whoever waits for it is told, and a husk takes its place.
    pub(super) fn retire(&mut self, at: u32, transfer: TransferError, change: MembershipError, read: &ReadError) {
        let GroupNames { id, uid, home } = self.groups[at as usize].names;
        self.forget_election(at);
        self.fail_in_flight(at);
        self.forget_large(at, read);
        let group = &mut self.groups[at as usize];
        let (pending, waiters) = (group.change.take(), std::mem::take(&mut group.waiters));
        let kept = std::mem::take(&mut group.checkpoints);
        if let Some(pending) = pending {
            self.fail_change(*pending, change);
        }
        self.forget_trims(at);
        self.forget_transfer(at, transfer);
        self.forget_reads(at, waiters, read);
        self.forget_points(at, read);
        self.forget_checkpoints(uid, kept);
        self.expiry.forget(at);
        self.pace.forget(at);
        for list in [&mut self.dirty, &mut self.chosen, &mut self.beating, &mut self.changing, &mut self.waiting] {
            list.retain(|of| *of != at);
        }
        self.cached.iter_mut().for_each(|held| held.retain(|(of, _)| *of != at));
        self.frames.forget_group(at);
        self.index.remove(uid);
        self.by_uid.remove(&uid);
        self.groups[at as usize] = self.made.maker.husk(GroupNames { id, uid, home });
        self.prefers[at as usize] = 0;
    }

    /// Whether the group that had this place is deleted.
    pub(super) fn is_gone(&self, at: u32) -> bool {
        matches!(self.groups[at as usize].kind, GroupKind::Gone)
    }

    /// Brings groups that are to end further towards that. Called on ticks.
    pub(super) fn end_groups(&mut self) {
        let places: Vec<((u64, Slot), u32)> = self.made.ending.iter().map(|(made, at)| (*made, *at)).collect();
        for ((directory, slot), at) in places {
            let replica = &self.groups[at as usize].replica;
            if replica.configuration().is_end() {
                self.tell_end((directory, slot), at);
            } else if replica.epoch().is_some() {
                let end = replica.configuration().end();
                self.act(at, &[], |r, out| {
                    r.reconfigure(end, out);
                });
            }
        }
    }

    /// The last slot of a group is chosen: the shard of its directory is told, from time to time.
    fn tell_end(&mut self, made: (u64, Slot), at: u32) {
        if self.made.forget_again.get(&made).is_none_or(|due_ns| *due_ns <= self.now_ns) {
            self.made.forget_again.insert(made, self.now_ns + FORGET_AGAIN_NS);
            self.send_end(self.groups[at as usize].names.id, made.1);
        }
    }

    /// The last slot of a group is chosen: the directory's leader orders that it is forgotten.
    pub(super) fn forget_group(&mut self, id: GroupId, made: Slot) {
        let directory = self.made.directory(self.homes.directory(id)).expect("it was sent to the directory's shard");
        if self.epoch_of(directory).is_some() {
            // If it is refused, or lost with the leadership, it is ordered again.
            let _ = self.propose_order(directory, Order::Forget { made }, |_| ());
        }
    }

    fn propose_order(
        &mut self,
        directory: u32,
        order: Order,
        reply: impl FnOnce(Outcome) + Send + 'static,
    ) -> Result<(), Rejection> {
        let run =
            Run { reply: Reply::Callback(Box::new(reply)), tag: 0, count: 0, submitted_ns: self.now_ns, handle: None };
        let entries = Entries::one(b"").expect("nothing fits everywhere");
        let proposed = self.propose(directory, &entries, Some(order.header()), run);
        proposed.map_err(|(_, rejection)| rejection)
    }

    // ---- orders ----

    /// Makes, drops or places a group, if this node leads the directory that it belongs to.
    pub(crate) fn change_groups(&mut self, change: GroupChange, until_ns: u64, reply: GroupReply) {
        let told = Arc::default();
        match self.begin_order(change, &told) {
            Ok((directory, made)) => {
                self.made.orders.push(PendingOrder { change, directory, made, told, until_ns, reply });
            }
            Err(error) => self.tell_groups(reply, Err(error)),
        }
    }

    /// Gives the place of the directory, and the slot of the order that made the group, for one that is there.
    fn begin_order(
        &mut self,
        change: GroupChange,
        told: &Arc<Mutex<Option<Outcome>>>,
    ) -> Result<(u32, Option<Slot>), GroupError> {
        let id = change.group();
        if self.stopping {
            return Err(Rejection::Stopping.into());
        }
        if id == 0 || id >= DIRECTORIES {
            return Err(GroupError::BadNumber(id));
        }
        let configured = id <= self.made.maker.config.groups;
        match change {
            GroupChange::Create(..) | GroupChange::Drop(_) if configured => return Err(GroupError::Configured(id)),
            GroupChange::Place(_, shard) if shard >= self.shard.1 => {
                return Err(GroupError::NoSuchShard { shard, shards: self.shard.1 });
            }
            GroupChange::Create(..) | GroupChange::Drop(_) | GroupChange::Place(..) => {}
        }
        let number = self.homes.directory(id);
        let directory = self.made.directory(number).expect("who sends the order asks the shard of the directory");
        if self.epoch_of(directory).is_none() {
            return Err(Rejection::NotLeader { leader: self.leader_of(directory) }.into());
        }
        if self.made.orders.len() >= GROUP_ORDERS_MAX {
            return Err(Overload::Group.rejection().into());
        }
        let list = &self.groups[directory as usize].apply.directory;
        let found = list.find(id).map(|(slot, made)| (slot, made.ending));
        let busy = self.made.orders.iter().any(|order| order.change.group() == id);
        let configuration = self.groups[directory as usize].replica.configuration();
        let (voters, may_choose) = (configuration.voters.len(), |phase_2| configuration.resize(phase_2).is_some());
        let (order, made) = match (change, found) {
            (GroupChange::Place(..), _) if busy => return Err(GroupError::Busy),
            (GroupChange::Place(..), None) if !configured => return Err(GroupError::UnknownGroup(id)),
            (GroupChange::Place(..), Some((_, true))) => return Err(GroupError::Ending),
            (GroupChange::Place(..), None) if !list.has_room_for(id) => return Err(GroupError::TooManyPlaced),
            (GroupChange::Place(_, shard), made) => {
                let on = On { shard: shard as u16, shards: self.shard.1 as u16 };
                match made {
                    Some((made, _)) => (Order::PlaceMade { made, on }, Some(made)),
                    None => (Order::Place { id, on }, None),
                }
            }
            (GroupChange::Create(..), Some(_)) => return Err(GroupError::Exists(id)),
            (GroupChange::Drop(_), None) if !busy => return Err(GroupError::UnknownGroup(id)),
            _ if busy => return Err(GroupError::Busy),
            (GroupChange::Create(..), None) if list.len() >= GROUPS_MADE_MAX => return Err(GroupError::TooMany),
            (GroupChange::Create(_, phase_2), None) if !may_choose(phase_2) => {
                return Err(GroupError::Quorum { phase_2, voters });
            }
            (GroupChange::Create(..), None) if self.made.dropped >= GROUPS_DROPPED_MAX => {
                return Err(GroupError::UsedUp);
            }
            (GroupChange::Create(_, phase_2), None) => (Order::Make { id, phase_2 }, None),
            (GroupChange::Drop(_), Some((made, _))) => (Order::End { made }, Some(made)),
            (GroupChange::Drop(_), None) => unreachable!("it is busy or unknown"),
        };
        let tell = Arc::clone(told);
        self.propose_order(directory, order, move |outcome| *tell.lock().expect("no holder panics") = Some(outcome))?;
        Ok((directory, made))
    }

    /// Looks what has become of the orders under way. Called on ticks.
    pub(super) fn follow_orders(&mut self) {
        for order in std::mem::take(&mut self.made.orders) {
            match self.outcome_of_order(&order) {
                None => self.made.orders.push(order),
                Some(outcome) => self.tell_groups(order.reply, outcome),
            }
        }
    }

    fn outcome_of_order(&self, order: &PendingOrder) -> Option<GroupOutcome> {
        let late = self.now_ns >= order.until_ns || self.stopping;
        let directory = &self.groups[order.directory as usize];
        let list = &directory.apply.directory;
        let id = order.change.group();
        let told = *order.told.lock().expect("no holder panics");
        let named = |made: Slot, ending| {
            let uid = self.made.maker.config.uid_of_group(id, made);
            MadeGroup { group: id, uid, ending }
        };
        match (told, order.made) {
            (Some(Err(ProposeError::Rejected(rejection))), _) => Some(Err(rejection.into())),
            (Some(Err(ProposeError::Superseded)), _) => Some(Err(GroupError::Superseded)),
            (Some(Err(_)), _) => Some(Err(GroupError::Unknown)),
            (Some(Ok(at)), made) if matches!(order.change, GroupChange::Place(..)) => {
                let placed = list.placed_by(id, made).is_some_and(|slot| slot.0 >= at.slot);
                let refused = if made.is_some() { GroupError::UnknownGroup(id) } else { GroupError::TooManyPlaced };
                Some(placed.then(|| named(made.unwrap_or(Slot::ZERO), false)).ok_or(refused))
            }
            (Some(Ok(at)), None) if list.get(Slot(at.slot)).is_some() => Some(Ok(named(Slot(at.slot), false))),
            (Some(Ok(_)), None) if list.find(id).is_some() => Some(Err(GroupError::Exists(id))),
            (Some(Ok(_)), None) if list.len() >= GROUPS_MADE_MAX => Some(Err(GroupError::TooMany)),
            // It was made, and somebody has dropped it by now.
            (Some(Ok(_)), None) => Some(Err(GroupError::Unknown)),
            (Some(Ok(_)), Some(made)) if list.get(made).is_none() => Some(Ok(named(made, true))),
            (Some(Ok(_)), Some(_)) => late.then_some(Err(GroupError::Ending)),
            (None, _) => late.then_some(Err(GroupError::Unknown)),
        }
    }

    fn tell_groups(&mut self, to: GroupReply, outcome: GroupOutcome) {
        match to {
            GroupReply::Callback(reply) => reply(outcome),
            GroupReply::Client(connection, request) => self.reply(connection, request, &outcome.into()),
        }
    }

    /// The groups of this shard that were made at run time, as this node knows them.
    pub(crate) fn made_groups(&self) -> Vec<MadeGroup> {
        let of = |at: &u32| {
            self.groups[*at as usize].apply.directory.iter().map(|(slot, made)| MadeGroup {
                group: made.id,
                uid: self.made.maker.config.uid_of_group(made.id, slot),
                ending: made.ending,
            })
        };
        self.made.directories.values().flat_map(of).collect()
    }
}
