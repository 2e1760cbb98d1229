//! One core's event machine: its groups, its log, its outboxes.
//!
//! Sans-IO: events go in (bytes of a peer, a disk's answer, a proposal, a tick), each with the shard's clock; disk
//! operations and outboxes come out, and the driver carries them out. Events only feed the shard; a turn, that is
//! [`Shard::complete`] and [`Shard::flush`], runs after them and flushes once: it applies, lets producers refill, closes
//! batches, starts at most as many frames of the log as may start, and puts what peers get into wire frames.
//!
//! Invariants: a vote leaves only when the frame with its record, and all before it, is durable; an entry is told
//! committed only when applied here; a frame of the log is filled in the order in which its records were made.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use synod_core::planted::{Bug, is};
use synod_core::{Action, Body, MemberId, Message, RecordSeq, Replica, Slot, Value, Vote};
use synod_transport::frame::encode_frame;
use synod_wal::buf::BufPool;
use synod_wal::index::{Index, Place as IndexPlace};
use synod_wal::ops::{DiskDone, DiskOp};
use synod_wal::record::{RECORD_HEADER_BYTES, RecordHeader, Records, body_crc};
use synod_wal::writer::{WalError, WalEvent, Writer};

use crate::apply::Effect;
use crate::batch::Entries;
use crate::client::protocol::Request;
use crate::configuration;
use crate::groups::directory_number;
use crate::homes::{Homes, Placement};
use crate::introductions::Introduction;
use crate::large::Cutting;
use crate::limits::*;
use crate::mailbox::PeerHello;
use crate::marks::{Mark, mark};
use crate::meta::MovedGroup;
use crate::metrics::{Phases, RecordWeighted, SlotTimes};
use crate::outcome::{Committed, Epoch, GroupId, Outcome, ProposeError, Rejection};
use crate::payload::{BatchHeader, Payload, Place};
use crate::persist::record_header;
use crate::seen::Seen;
use crate::wire::{self, ACKS, Ack, HEARTBEAT, HEARTBEAT_ACK, Heartbeat, Incoming, LANE, RECORDS, kind};

pub(crate) mod admission;
pub(crate) mod agreement;
mod catch_up;
#[cfg(feature = "simulation")]
mod census;
pub(crate) mod checkpoints;
pub(crate) mod clients;
pub(crate) mod elections;
pub(crate) mod events;
pub(crate) mod frames;
pub(crate) mod group;
mod identity;
pub(crate) mod introduced;
pub(crate) mod lane;
pub(crate) mod large;
pub(crate) mod links;
pub(crate) mod made;
mod mail;
pub(crate) mod membership;
pub(crate) mod memory;
pub(crate) mod moving;
pub(crate) mod pace;
pub(crate) mod points;
mod prepare;
pub(crate) mod producers;
mod pulse;
pub(crate) mod reads;
pub(crate) mod serve;
pub(crate) mod sessions;
pub(crate) mod support;
pub(crate) mod transfer;
mod trim;
pub(crate) mod trim_orders;

use admission::Pacing;
use checkpoints::{CheckpointPolicy, Checkpoints};
use clients::Clients;
use elections::{Elections, early_tries};
use events::{Event, OnEvent};
use frames::{Flying, Frames, Held};
use group::{Group, GroupKind, OpenBatch, Pending, Reply, Run};
use introduced::Introduced;
use lane::{Lanes, Way};
use large::Large;
use links::{Part, Peer};
use made::{MadeGroups, Maker};
use memory::Memory;
use moving::{Moves, Pass};
use pace::{Pace, Paces, Rate};
use points::Points;
use producers::Producers;
use pulse::BEAT_NS;
use reads::Purpose;
use sessions::Expiry;
use support::{Drift, Granted};
use transfer::Transfers;
use trim::Summaries;
use trim_orders::TrimOrder;

/// Durations of the failure detector, in nanoseconds. A peer that was silent this long is taken for gone.
const PEER_LOST_NS: u64 = 600_000_000;
/// A connection on which nothing came this long, not even a heartbeat, is half open: it is closed and dialled again.
const PEER_SILENT_NS: u64 = 3_000_000_000;
/// So long after its connection broke.
const PEER_BROKEN_NS: u64 = 100_000_000;
/// A leader whose phase-2 quorum was silent this long steps down.
const QUORUM_LOST_NS: u64 = 1_000_000_000;
/// So often it is looked again which leaders that concerns, while the same peers are silent.
const SILENT_AGAIN_NS: u64 = 200_000_000;
/// A log whose oldest frame is in flight this long makes its shard silent, so that others take over.
const WAL_STUCK_NS: u64 = 500_000_000;
/// On a full disk it is tried so often whether there is room again.
const RETRY_PREPARE_NS: u64 = 1_000_000_000;
/// Behind a restart a segment is added to the stock so often.
const SPARE_EVERY_NS: u64 = 1_000_000_000;
/// After a start no vote leaves for so long, unless all peers were met before.
const VOTE_WAIT_NS: u64 = 1_000_000_000;
/// A log in which nothing was written for so long gets a mark at its end.
const QUIET_NS: u64 = 100_000_000;
/// Refused handles that a shard remembers.
const CLOSED_HANDLES_MAX: usize = 4096;
/// Beats after which a group that is not settled is announced again.
const ANNOUNCE_AGAIN_BEATS: u32 = 25;

/// What a shard is made of.
pub(crate) struct Parts<'a> {
    /// The other nodes.
    pub(crate) peers: Vec<u64>,
    /// Where it is noted how far the peers' logs were seen.
    pub(crate) seen: Arc<Seen>,
    /// The shard's directories among them.
    pub(crate) groups: Vec<Group>,
    pub(crate) maker: Maker,
    pub(crate) writer: Writer,
    pub(crate) index: Index,
    pub(crate) seed: u64,
    pub(crate) memory: Memory,
    pub(crate) cutting: Cutting,
    pub(crate) retain_bytes: u64,
    pub(crate) index_bytes_max: usize,
    pub(crate) expiry: Expiry,
    /// How long proposals may wait.
    pub(crate) pacing: Pacing,
    /// When checkpoints are taken.
    pub(crate) checkpoints: CheckpointPolicy,
    /// How fast chosen values are fetched; without it, as they come.
    pub(crate) pace: Option<Rate>,
    /// The groups whose leader this node would rather be.
    pub(crate) prefers: Vec<bool>,
    /// By how much the nodes' clocks may run apart.
    pub(crate) clock_drift_percent: u64,
    /// This node.
    pub(crate) node: u64,
    /// This shard, and how many the node has.
    pub(crate) shard: (usize, usize),
    pub(crate) homes: Homes,
    /// Where all groups of the node are.
    pub(crate) placement: Arc<Placement>,
    /// What is noted of those that were moved.
    pub(crate) moved: &'a [MovedGroup],
}

/// What the driver must know or do besides disk operations and outboxes.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A peer knows of introductions that this node does not know.
    Heard(Vec<Introduction>),
    /// A connection has sent what it must not, or does not take its replies: close it.
    Close(u64),
    /// A client's request for a group of another shard: connection, request id, request.
    Forward(u64, u64, Request),
    /// To another shard of the node, about a group that moves.
    Pass(usize, Pass),
}

/// What is proposed and not applied, of all groups.
#[derive(Debug, Default)]
struct InPipe {
    slots: usize,
    bytes: usize,
}

pub(crate) struct Shard {
    pub(crate) groups: Vec<Group>,
    by_uid: HashMap<u128, u32>,
    /// The place of group `id`, at `id` divided by the node's number of shards; of those of the configuration.
    by_id: Vec<Option<u32>>,
    pub(crate) made: MadeGroups,
    pub(crate) peers: Vec<Peer>,
    pub(crate) lanes: Lanes,
    introduced: Introduced,
    pub(crate) writer: Writer,
    pub(crate) index: Index,
    pub(crate) frames: Frames,
    pub(crate) clients: Clients,
    pub(crate) producers: Producers,
    pub(crate) disk_ops: Vec<DiskOp>,
    pub(crate) checkpoints: Checkpoints,
    pace: Pace,
    pub(crate) notices: Vec<Notice>,
    pub(crate) phases: Phases,
    pub(crate) now_ns: u64,
    pub(crate) started: bool,
    actions: Vec<Action<Payload>>,
    pub(crate) elections: Elections,
    dirty: Vec<u32>,
    dirty_bytes: usize,
    chosen: Vec<u32>,
    beating: Vec<u32>,
    completions: Vec<(Run, u32, Outcome)>,
    /// Entries whose proposers were told in this turn.
    completed: u64,
    reads: HashMap<u64, Purpose>,
    /// Groups whose voters are being changed.
    changing: Vec<u32>,
    /// Groups with readers that wait, some of them perhaps more than once or no longer.
    waiting: Vec<u32>,
    next_read: u64,
    spare_entries: Vec<Entries>,
    /// Durable frames whose values may still be in memory, oldest first: (group, last slot).
    cached: VecDeque<Vec<(u32, Slot)>>,
    memory: Memory,
    pub(crate) large: Large,
    pacing: Pacing,
    retain_bytes: u64,
    index_bytes_max: usize,
    /// Durable summaries: (segment, per group the slot up to which it replaces older records).
    summaries: VecDeque<(u64, Summaries)>,
    summaries_flying: VecDeque<(u64, u64, Summaries)>,
    /// Early elections left, per group.
    prefers: Vec<u32>,
    pub(crate) node: u64,
    shard: (usize, usize),
    pub(crate) homes: Homes,
    pub(crate) placement: Arc<Placement>,
    pub(crate) moves: Moves,
    beat_due_ns: u64,
    /// The peers, as bits, of whose silence the leaders here have taken note, and until when that need not be done again.
    silent_peers: (u128, u64),
    /// Since when the log waits for its next segment.
    closed_since_ns: Option<u64>,
    retry_prepare_ns: u64,
    /// How many coming segments should be in stock before long, and how many of them were asked for; and when to ask on.
    spares_wanted: usize,
    spares_asked: usize,
    next_spare_ns: u64,
    /// The log has a new segment since the last beat.
    rolled: bool,
    random: u64,
    /// Ordered handles that were refused, the latest last. Their owners learn of it with the refusal, so the list
    /// only has to reach over what is in the mailbox.
    closed_handles: VecDeque<u64>,
    /// Slots with this node's proposals that are not applied yet.
    in_pipe: InPipe,
    /// Why this shard must stop.
    fatal: Option<String>,
    /// The log has lost votes: no replica in it may vote again under its id.
    pub(crate) suspect: bool,
    /// The end of the log that this process began with.
    recovered_end: u64,
    /// Until then no vote leaves unless all peers have been met: one of them may know that votes were lost.
    votes_from_ns: Option<u64>,
    /// When the last frame was started, and whether it was a mark.
    quiet_since: (u64, bool),
    seen: Arc<Seen>,
    /// When which group's idle sessions may end.
    expiry: Expiry,
    pub(crate) stopping: bool,
    /// Who is told what happens to the groups.
    pub(crate) events: Option<OnEvent>,
    points: Points,
    transfers: Transfers,
    trim_orders: Vec<TrimOrder>,
    drift: Drift,
    /// Until then no promise leaves: this voter may have been bound to a leader when it ended.
    promises_from_ns: u64,
}

impl Shard {
    pub(crate) fn new(parts: Parts<'_>) -> Self {
        let by_uid = parts.groups.iter().enumerate().map(|(at, g)| (g.names.uid, at as u32)).collect();
        let shards = parts.shard.1 as u64;
        let (mut by_id, mut moves) = (Vec::new(), Moves::default());
        for (at, group) in parts.groups.iter().enumerate().filter(|(_, group)| group.kind.is_visible()) {
            if parts.homes.shard(group.names.id) != parts.shard.0 {
                moves.enter(group.names.id, at as u32);
            } else if group.kind == GroupKind::Configured {
                by_id.resize((group.names.id / shards) as usize, None);
                by_id.push(Some(at as u32));
            }
        }
        let pool = BufPool::new(parts.memory.pool_bytes());
        let frame_bytes_max = parts.writer.frame_bytes_max();
        let recovered_end = parts.writer.durable_through();
        Self {
            peers: parts.peers.iter().map(|node| Peer::new(*node, Granted::starting_at(parts.seed))).collect(),
            lanes: Lanes::default(),
            introduced: Introduced::nobody(parts.node, &parts.peers),
            by_uid,
            by_id,
            made: MadeGroups::new(parts.maker, &parts.groups, parts.moved, (parts.homes, parts.shard.0)),
            groups: parts.groups,
            writer: parts.writer,
            index: parts.index,
            frames: Frames::new(pool, frame_bytes_max),
            clients: Clients::default(),
            producers: Producers::default(),
            disk_ops: Vec::new(),
            checkpoints: Checkpoints::new(parts.checkpoints),
            pace: Pace::new(parts.pace),
            notices: Vec::new(),
            phases: Phases::default(),
            now_ns: 1,
            started: false,
            actions: Vec::new(),
            elections: Elections::new(),
            dirty: Vec::new(),
            dirty_bytes: 0,
            chosen: Vec::new(),
            beating: Vec::new(),
            completions: Vec::new(),
            completed: 0,
            reads: HashMap::new(),
            changing: Vec::new(),
            waiting: Vec::new(),
            next_read: 1,
            spare_entries: Vec::new(),
            cached: VecDeque::new(),
            memory: parts.memory,
            large: Large::new(parts.cutting),
            pacing: parts.pacing,
            retain_bytes: parts.retain_bytes,
            index_bytes_max: parts.index_bytes_max,
            summaries: VecDeque::new(),
            summaries_flying: VecDeque::new(),
            prefers: parts.prefers.iter().map(|prefers| early_tries(*prefers)).collect(),
            node: parts.node,
            shard: parts.shard,
            homes: parts.homes,
            placement: parts.placement,
            moves,
            beat_due_ns: 0,
            silent_peers: (0, 0),
            closed_since_ns: None,
            retry_prepare_ns: 0,
            spares_wanted: 0,
            spares_asked: 0,
            next_spare_ns: 0,
            rolled: false,
            random: parts.seed | 1,
            closed_handles: VecDeque::new(),
            in_pipe: InPipe::default(),
            fatal: None,
            suspect: false,
            recovered_end,
            votes_from_ns: None,
            quiet_since: (0, true),
            seen: parts.seen,
            expiry: parts.expiry,
            stopping: false,
            events: None,
            points: Points::default(),
            transfers: Transfers::default(),
            trim_orders: Vec::new(),
            drift: Drift::of_percent(parts.clock_drift_percent),
            promises_from_ns: 0,
        }
    }

    /// Opens the log. Elections begin once it is open.
    pub(crate) fn start(&mut self, spares: usize) {
        self.wait_before_voting();
        self.wait_before_promising();
        self.writer.start(&mut self.disk_ops);
        self.spares_wanted = spares;
        self.spares_asked = if self.recovered_end == 0 { spares } else { 0 };
        self.writer.prepare_ahead(self.spares_asked, &mut self.disk_ops);
        for at in 0..self.groups.len() as u32 {
            self.feed_machine(at);
        }
    }

    /// The place of a group of this shard.
    pub(crate) fn group_at(&self, id: GroupId) -> Option<u32> {
        if self.homes.shard(id) != self.shard.0 {
            return self.moves.guest(id);
        }
        let shards = self.shard.1 as u64;
        let place = usize::try_from(id / shards).ok().and_then(|place| self.by_id.get(place).copied().flatten());
        place.or_else(|| self.made.place(id))
    }

    /// The place of a group, or of a directory: for who asks or changes who votes.
    pub(crate) fn electorate_at(&self, id: GroupId) -> Option<u32> {
        directory_number(id).map_or_else(|| self.group_at(id), |number| self.made.directory(number))
    }

    fn now_us(&self) -> u64 {
        self.now_ns / 1000
    }

    fn draw(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        range.start + self.random % (range.end - range.start)
    }

    // ---- the core's actions ----

    /// Lets a group's replica take an event and carries out what it asks for. `received` is the receive buffer that
    /// the event's values lie in.
    fn act(&mut self, at: u32, received: &[u8], event: impl FnOnce(&mut Replica<Payload>, &mut Vec<Action<Payload>>)) {
        if self.is_gone(at) || self.groups[at as usize].still {
            return;
        }
        let mut actions = std::mem::take(&mut self.actions);
        event(&mut self.groups[at as usize].replica, &mut actions);
        let mut rearm = false;
        for action in actions.drain(..) {
            self.perform(at, action, received, &mut rearm);
        }
        self.actions = actions;
        self.arm_timer(at, rearm);
        self.note_election(at);
        self.tell_leader(at);
    }

    fn perform(&mut self, at: u32, action: Action<Payload>, received: &[u8], rearm: &mut bool) {
        match action {
            Action::Persist { seq, chosen, record } => self.persist(at, seq, chosen, &record, received),
            Action::Send { to, message: Message::Accept { ballot, first, slot, chosen, value } } => {
                self.send_accept(at, to, Message::Accept { ballot, first, slot, chosen, value });
            }
            Action::Send { to, message: Message::LearnRequest { .. } } => self.ask_to_learn(at, to),
            Action::Send { to, message } => self.send_message(at, to, &message),
            Action::SendAfter { seq, to, vote } => {
                let Some(peer) = self.peer_of(at, to) else { return };
                let peer = peer as u8;
                let group = &self.groups[at as usize];
                let early = match &vote {
                    Vote::Prepare { .. } => is(Bug::PrepareLeavesEarly),
                    Vote::Accepted { .. } => is(Bug::AcceptLeavesEarly),
                    Vote::Promise { .. } | Vote::Report { .. } => is(Bug::PromiseLeavesEarly),
                };
                if seq > group.durable
                    && !early
                    && let Some(waits) = self.frames.waits(group.last_frame)
                {
                    waits.push_vote(peer, at, vote);
                } else {
                    self.send_vote(peer, at, &vote, 0);
                }
            }
            Action::Chosen { up_to } => self.on_chosen(at, up_to),
            Action::ServeLearn { to, from } => {
                if let Some(peer) = self.peer_of(at, to) {
                    self.serve_learn(at, peer as u8, from);
                }
            }
            Action::Elected { ballot } => {
                let group = &mut self.groups[at as usize];
                group.elections += 1;
                group.follows = None;
                tracing::debug!(group = group.names.id, %ballot, "leads");
                self.expiry.begin(at, group.apply.slot, self.now_ns);
                self.note_stray(at);
                self.beat(at);
            }
            Action::SteppedDown { ballot } => {
                tracing::debug!(group = self.groups[at as usize].names.id, %ballot, "leads no longer");
                self.fail_in_flight(at);
            }
            Action::Follows { ballot } => {
                let peer = self.peer_of(at, ballot.member);
                if let Some(peer) = peer {
                    // It has just spoken.
                    self.peer_lives(peer);
                }
                self.groups[at as usize].follows = peer;
            }
            Action::Reconfigured => self.note_configuration(at),
            Action::CaughtUp { outsider } => self.give_vote(at, outsider),
            Action::RestartTimer => *rearm = true,
        }
    }

    fn send_message(&mut self, at: u32, to: MemberId, message: &Message<Payload>) {
        let (uid, now_us) = (self.groups[at as usize].names.uid, self.now_us());
        if let Some(peer) = self.peer_of(at, to) {
            self.peers[peer].push_control(|out| wire::append_message(out, uid, message), now_us);
        }
    }

    /// Appends a record to the frame that is being filled.
    fn persist(
        &mut self,
        at: u32,
        seq: RecordSeq,
        chosen: Slot,
        record: &synod_core::Record<Payload>,
        received: &[u8],
    ) {
        let group = &mut self.groups[at as usize];
        let (header, mut own) = match record {
            synod_core::Record::Installed { .. } => group.summary(),
            _ => (record_header(group.names.uid, chosen, record), Vec::new()),
        };
        let held = match record {
            synod_core::Record::Accept { slot, ballot, value, .. } => {
                self.pace.stir(self.now_ns);
                Some((*slot, *ballot, value))
            }
            synod_core::Record::Learned { slot, value } => Some((*slot, synod_core::Ballot::ZERO, value)),
            synod_core::Record::Promise { .. } | synod_core::Record::Chosen | synod_core::Record::Installed { .. } => {
                None
            }
        };
        let payload = held.and_then(|(_, _, value)| match &value.body {
            Body::Batch(_) if value.is_stub() => {
                own = wire::stub_body(value).expect("it is a stub").into();
                None
            }
            Body::Batch(payload) => Some(payload),
            Body::Configuration(configuration) => {
                own = configuration::encode(configuration);
                None
            }
            Body::Noop | Body::EpochStart => None,
        });
        if let Some(payload) = payload
            && let Some((frame, _)) = payload.framed()
            && self.frames.filling.iter().any(|filling| std::rc::Rc::ptr_eq(&filling.frame, &frame))
        {
            // What was just appended again is adopted by a new leader, who appends it at its own ballot: a frame that is
            // being filled is not copied from.
            payload.detach();
        }
        let (filling, span) = match payload {
            Some(payload) => payload.with_parts(received, |parts| {
                let (filling, span) = self.frames.push(&header, parts);
                (filling.id, span)
            }),
            None => {
                let (filling, span) = self.frames.push(&header, &[&own]);
                (filling.id, span)
            }
        };
        let back = self.frames.filling.back_mut().expect("the record went there");
        debug_assert_eq!(back.id, filling);
        if let Some(payload) = payload
            && let Some(mut entries) = payload.set_framed(std::rc::Rc::clone(&back.frame), span)
        {
            entries.clear();
            self.spare_entries.push(entries);
        }
        if let Some((slot, ballot, _)) = held {
            back.held.push(Held { group: at, slot, ballot, span });
            let frame = back.id;
            if slot <= group.last_recorded {
                let lowest = group.recorded_again.map_or(slot, |(lowest, _)| lowest.min(slot));
                group.recorded_again = Some((lowest, frame));
            } else {
                group.last_recorded = slot;
            }
        }
        match back.waits.marks.last_mut() {
            Some((of, last)) if *of == at => *last = seq,
            _ => back.waits.marks.push((at, seq)),
        }
        group.appended = seq;
        group.last_frame = filling;
    }

    /// Sends an Accept: as a reference to the log's frame where its batch is in one.
    fn send_accept(&mut self, at: u32, to: MemberId, message: Message<Payload>) {
        let (uid, now_us) = (self.groups[at as usize].names.uid, self.now_us());
        let Message::Accept { value, .. } = &message else { unreachable!("only an Accept comes here") };
        let framed = match &value.body {
            Body::Batch(payload) => payload.framed(),
            Body::Noop | Body::EpochStart | Body::Configuration(_) => None,
        };
        let part = match framed {
            Some((frame, span)) => Part::Shared(frame, span.start, span.end),
            None => {
                let mut record = Vec::new();
                wire::append_message(&mut record, uid, &message);
                Part::Owned(record)
            }
        };
        let Some(peer) = self.peer_of(at, to) else {
            // Its node was never met, or has another replica now.
            return self.groups[at as usize].replica.disconnected(to);
        };
        // What is still being filled cannot be sent, and nothing overtakes it.
        if let Some(filling) = self.frames.filling.back_mut() {
            filling.sends.push((peer as u8, part));
        } else if !self.peers[peer].push_bulk(part, now_us) {
            self.groups[at as usize].replica.disconnected(to);
        }
    }

    fn send_vote(&mut self, peer: u8, at: u32, vote: &Vote<Payload>, wal_us: u32) {
        let (uid, now_us) = (self.groups[at as usize].names.uid, self.now_us());
        let log_end = self.writer.durable_through();
        let peer = &mut self.peers[peer as usize];
        match vote {
            Vote::Accepted { ballot, up_to, stable } => {
                let ack = Ack { uid, ballot: *ballot, up_to: *up_to, stable: *stable, wal_us };
                peer.push_ack(&ack, log_end, now_us);
            }
            vote => peer.push_control(|out| wire::append_vote(out, uid, vote, log_end), now_us),
        }
    }

    fn on_chosen(&mut self, at: u32, up_to: Slot) {
        let group = &mut self.groups[at as usize];
        for pending in group.pending.iter_mut().take_while(|p| p.slot <= up_to) {
            if pending.times.chosen == 0 {
                pending.times.chosen = self.now_ns;
            }
        }
        if !group.chosen {
            group.chosen = true;
            self.chosen.push(at);
        }
        self.beat(at);
    }

    /// The next beats look at this group until all its voters know all that is chosen.
    fn beat(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        match &mut group.beats {
            Some(beats) => *beats = 0,
            None => {
                group.beats = Some(0);
                self.beating.push(at);
            }
        }
    }

    /// Tells all proposers of a group that led until now: what was proposed is unknown, what was not is rejected.
    fn fail_in_flight(&mut self, at: u32) {
        for pending in std::mem::take(&mut self.groups[at as usize].pending) {
            self.in_pipe.slots -= 1;
            self.in_pipe.bytes -= pending.bytes;
            mark(Mark::FlightUnknown);
            let error = if is(Bug::UnknownIsToldRefused) {
                ProposeError::Rejected(Rejection::Stopping)
            } else {
                ProposeError::Unknown
            };
            pending.runs.into_iter().for_each(|run| self.note_failure(at, run, error));
        }
        let ending = self.groups[at as usize].ending;
        let leader = self.leader_of(at);
        self.reject_open(at, if ending { Rejection::GroupDropped } else { Rejection::NotLeader { leader } });
    }

    // ---- events ----

    /// A connection to a peer's shard is up.
    pub(crate) fn peer_connected(&mut self, node: u64, connection: u64, peer: PeerHello) {
        let Some(at) = self.peers.iter().position(|p| p.node == node) else { return };
        let PeerHello { boot, log, names, seen, lost } = peer;
        if self.peers[at].boot != 0 && self.peers[at].boot != boot {
            mark(Mark::PeerRestarted);
            // Whatever it led, it leads no longer.
            self.peer_lost(at);
            self.void_support(at);
        }
        self.peer_lives(at);
        self.check_own_log(node, seen, !self.peers[at].met);
        self.check_past_log(node, lost);
        let peer = &mut self.peers[at];
        peer.disconnect();
        peer.connection = Some(connection);
        peer.boot = boot;
        if peer.log != log {
            // Another log, with sequences of its own.
            (peer.log, peer.log_end) = (log, 0);
        }
        peer.names = names;
        peer.met = true;
        peer.heard_ns = self.now_ns;
        peer.beat_ns = self.now_ns;
        peer.answered_ns = self.now_ns;
        peer.well_ns = self.now_ns;
        // Leaders here wait for its support.
        peer.heartbeat_due_ns = self.now_ns;
        self.send_names(at);
        self.send_introductions(at);
        for group in 0..self.groups.len() as u32 {
            let member = self.address(group, at);
            self.act(group, &[], |r, out| r.connected(member, out));
        }
    }

    /// Tells a group that is new here, or has not listened for a while, which peers are connected.
    fn connect_group(&mut self, at: u32) {
        for peer in 0..self.peers.len() {
            if self.peers[peer].connection.is_some() {
                let member = self.address(at, peer);
                self.act(at, &[], |r, out| r.connected(member, out));
            }
        }
    }

    /// A connection is gone; of a peer or of a client.
    pub(crate) fn disconnected(&mut self, connection: u64) {
        if self.clients.remove(connection) {
            return;
        }
        let Some(at) = self.peers.iter().position(|p| p.connection == Some(connection)) else { return };
        self.peers[at].disconnect();
        let beat_ns = &mut self.peers[at].beat_ns;
        *beat_ns = (*beat_ns).min((self.now_ns + PEER_BROKEN_NS).saturating_sub(PEER_LOST_NS));
        self.pause_peer(at);
    }

    /// Nothing that is sent to a peer now arrives.
    fn pause_peer(&mut self, peer: usize) {
        for at in 0..self.groups.len() as u32 {
            let member = self.address(at, peer);
            self.groups[at as usize].replica.disconnected(member);
        }
    }

    /// A peer is there, or is heard again.
    fn peer_lives(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let node = peer.node;
        if std::mem::take(&mut peer.lost) || !peer.met {
            self.tell_event(Event::PeerConnected { shard: self.shard.0, node });
        }
    }

    /// A peer is silent: it is taken for gone.
    fn lose_peer(&mut self, at: usize) {
        mark(Mark::PeerLost);
        self.peers[at].lost = true;
        self.peers[at].well_ns = self.now_ns;
        if self.peers[at].met {
            self.tell_event(Event::PeerLost { shard: self.shard.0, node: self.peers[at].node });
        }
        self.peer_lost(at);
    }

    fn peer_lost(&mut self, peer: usize) {
        for at in 0..self.groups.len() as u32 {
            if self.groups[at as usize].follows == Some(peer) {
                self.groups[at as usize].follows = None;
                self.act(at, &[], Replica::leader_lost);
            }
        }
    }

    /// A whole frame of a peer has come in.
    pub(crate) fn on_peer_frame(&mut self, connection: u64, kind: u8, body: &[u8]) {
        let Some(at) = self.peers.iter().position(|p| p.connection == Some(connection)) else { return };
        self.peers[at].heard_ns = self.now_ns;
        let handled = match kind {
            RECORDS => self.on_records(at, body),
            ACKS => self.on_acks(at, body),
            HEARTBEAT => self.on_heartbeat(at, body, Way::Connection),
            HEARTBEAT_ACK => Heartbeat::decode(body).map(|answer| {
                self.note_support(at, answer.support, answer.sent_ns);
                self.note_silent_lane(at);
            }),
            LANE => self.on_lane_offer(at, body),
            wire::points::ROUND..=wire::points::POINTS_ANSWER => self.on_list(at, kind, body),
            wire::introductions::INTRODUCTIONS => self.on_introductions(body),
            _ => Err(wire::Malformed("the kind of frame")),
        };
        if let Err(malformed) = handled {
            tracing::warn!(peer = self.peers[at].node, %malformed, "closing a connection");
            self.notices.push(Notice::Close(connection));
        }
    }

    fn on_records(&mut self, peer: usize, body: &[u8]) -> Result<(), wire::Malformed> {
        let votes = self.may_vote();
        for record in Records::new(body) {
            let (header, record_body, range) = record.map_err(|_| wire::Malformed("a record"))?;
            let start = range.start + RECORD_HEADER_BYTES;
            let incoming = wire::decode_record(&header, body, start..start + record_body.len())?;
            if let Incoming::Named(replica) = incoming {
                self.on_named(peer, header.uid, replica)?;
                continue;
            }
            let Some(at) = self.by_uid.get(&header.uid).copied() else {
                // Not ours: never proof that the group is gone.
                continue;
            };
            let member = self.address(at, peer);
            match incoming {
                Incoming::Message(message) if !votes && !matches!(message, Message::LearnRequest { .. }) => {}
                Incoming::Vote(..) if !votes => {}
                Incoming::Message(message) if self.withholds_message(at, peer, &message) => {}
                Incoming::Vote(vote, _) if self.withholds_vote(at, peer, &vote) => {}
                Incoming::Message(message) => {
                    // A full memory takes no more values; whoever sent them sends them again.
                    if self.has_memory_for(at, &message) {
                        let paces = Paces::of(&message, &header);
                        self.note_answer(at, paces, range.len());
                        self.act(at, body, |r, out| r.receive(member, message, out));
                        self.note_pace(at, member, paces);
                    } else {
                        mark(Mark::MemoryFull);
                    }
                }
                Incoming::Vote(vote, log_end) => {
                    self.note_log_end(peer, log_end);
                    self.act(at, body, |r, out| r.receive_vote(member, vote, out));
                }
                // What a witness knows of the slots that it has trimmed helps nobody who lacks their entries.
                Incoming::State(_) if self.replica_of(at, peer).is_witness() => {}
                Incoming::State(state) => self.install(at, peer, state),
                Incoming::Checkpoint(message) => self.on_checkpoint_message(at, peer, message),
                Incoming::Applied { slot, chain } => self.on_applied(at, peer, slot, chain),
                Incoming::Named(_) => unreachable!("it is taken before"),
            }
        }
        Ok(())
    }

    fn on_acks(&mut self, peer: usize, body: &[u8]) -> Result<(), wire::Malformed> {
        let (log_end, acks) = Ack::decode_all(body)?;
        self.note_log_end(peer, log_end);
        for ack in acks {
            let Some(at) = self.by_uid.get(&ack.uid).copied() else { continue };
            let member = self.address(at, peer);
            let group = &mut self.groups[at as usize];
            let needed = (group.replica.quorums().phase_2 - 1).max(1);
            let run = group.pending.iter_mut().filter(|p| p.times.acknowledged == 0);
            for pending in run.take_while(|p| p.slot <= ack.up_to && p.origin == ack.ballot) {
                pending.acks += 1;
                if pending.acks >= needed {
                    pending.times.acknowledged = self.now_ns;
                    pending.times.remote_wal = u64::from(ack.wal_us) * 1000;
                }
            }
            let vote = Vote::Accepted { ballot: ack.ballot, up_to: ack.up_to, stable: ack.stable };
            self.act(at, &[], |r, out| r.receive_vote(member, vote, out));
        }
        Ok(())
    }

    fn push_frame(&mut self, peer: usize, kind: u8, body: &[u8]) {
        let now_us = self.now_us();
        let peer = &mut self.peers[peer];
        if peer.connection.is_some() {
            peer.stuck |= peer.outbox.push_control(encode_frame(kind, 0, body), now_us).is_err();
        }
    }

    /// A log that does not advance must not keep its node in office.
    fn wal_stuck(&self) -> bool {
        self.frames.flying.front().is_some_and(|f| self.now_ns > f.submitted_ns + WAL_STUCK_NS)
            || self.closed_since_ns.is_some_and(|since| self.now_ns > since + WAL_STUCK_NS)
    }

    /// Behind a restart the stock of segments grows one by one: to write so many at once would leave the disk no time for
    /// what the node has missed, or for the others' logs where they share it.
    fn stock_up(&mut self) {
        if self.spares_asked < self.spares_wanted && self.now_ns >= self.next_spare_ns {
            (self.spares_asked, self.next_spare_ns) = (self.spares_asked + 1, self.now_ns + SPARE_EVERY_NS);
            self.writer.prepare_ahead(self.spares_asked, &mut self.disk_ops);
        }
    }

    /// A full disk takes no proposals: whoever has room should lead.
    fn yields(&self) -> bool {
        let config = &self.made.maker.config;
        let may_lead = |peer: &Peer| !config.is_witness(peer.node) && peer.connection.is_some() && !peer.lost;
        let has_room = |peer: &Peer| may_lead(peer) && !peer.disk_full;
        self.writer.starved().is_some() && self.peers.iter().any(has_room)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self) {
        if self.writer.starved().is_some() && self.now_ns >= self.retry_prepare_ns {
            self.retry_prepare_ns = self.now_ns + RETRY_PREPARE_NS;
            self.release_segments();
            self.writer.retry_prepare(&mut self.disk_ops);
        }
        if !self.started {
            return;
        }
        self.stock_up();
        self.closed_since_ns = match self.writer.open_generation() {
            Some(_) => None,
            None => self.closed_since_ns.or(Some(self.now_ns)),
        };
        for at in 0..self.peers.len() {
            if !self.peers[at].lost && self.now_ns > self.peers[at].beat_ns + PEER_LOST_NS {
                self.lose_peer(at);
            }
            if let Some(connection) = self.peers[at].connection
                && self.now_ns > self.peers[at].heard_ns + PEER_SILENT_NS
            {
                mark(Mark::PeerSilent);
                tracing::warn!(peer = self.peers[at].node, "a peer is silent: closing its connection");
                self.peers[at].heard_ns = self.now_ns;
                self.notices.push(Notice::Close(connection));
                // Its heartbeats may have come by datagram. That is not enough to lead for ever.
                if !self.peers[at].lost {
                    self.lose_peer(at);
                }
            }
        }
        self.fire_timers();
        self.send_heartbeats();
        if self.now_ns >= self.beat_due_ns {
            self.beat_due_ns = self.now_ns + BEAT_NS;
            self.beat_groups();
        }
        self.expire_queues();
        self.expire_reads();
        self.expire_uploads();
        self.follow_changes();
        self.end_groups();
        self.follow_orders();
        self.expire_sessions();
        self.take_checkpoints();
        self.tick_transfers();
        self.follow_placements();
        self.step_moves();
        self.mark_quiet_log();
    }

    /// Looks at the groups that lead without a quorum, or whose voters lack something.
    fn beat_groups(&mut self) {
        self.leave_lost_groups();
        let rolled = std::mem::take(&mut self.rolled);
        let mut beating = std::mem::take(&mut self.beating);
        beating.retain(|at| {
            let group = &mut self.groups[*at as usize];
            let Some(beats) = &mut group.beats else { return false };
            *beats += 1;
            if *beats < 2 {
                // Busy: its Accepts bear what is chosen, but not what all voters have. Without that their logs only grow.
                group.busy_beats += 1;
                let due = rolled || group.busy_beats.is_multiple_of(ANNOUNCE_AGAIN_BEATS);
                if due && !is(Bug::BusyGroupsAreNotTold) {
                    self.act(*at, &[], |r, out| {
                        r.heartbeat(false, out);
                    });
                }
                return true;
            }
            let again = beats.is_multiple_of(ANNOUNCE_AGAIN_BEATS);
            let mut settled = false;
            self.act(*at, &[], |r, out| settled = r.heartbeat(again, out));
            if settled {
                self.groups[*at as usize].beats = None;
                self.tell_last_chain(*at);
            }
            !settled
        });
        beating.append(&mut self.beating);
        self.beating = beating;
        self.release_cache_behind();
        self.release_segments();
        self.renew_summaries();
        self.give_groups_home();
        self.unpin_oldest();
        self.take_checkpoints_ahead();
        self.step_trims();
    }

    /// Leads no more where a phase-2 quorum is silent, or where the log does not advance.
    fn leave_lost_groups(&mut self) {
        let all_gone = self.wal_stuck() || self.yields();
        let silent = |peer: &Peer| self.now_ns >= peer.answered_ns + QUORUM_LOST_NS;
        let silent = self.peers.iter().enumerate().fold(0, |all, (at, peer)| all | u128::from(silent(peer)) << at);
        // A peer that stays away need not be noticed again at every beat.
        let noticed = silent == self.silent_peers.0 && self.now_ns < self.silent_peers.1;
        if !all_gone && (silent == 0 || noticed) {
            return;
        }
        self.silent_peers = (silent, self.now_ns + SILENT_AGAIN_NS);
        for at in 0..self.groups.len() as u32 {
            let replica = &self.groups[at as usize].replica;
            let quorums = replica.quorums();
            if replica.leads() && (all_gone || self.reachable(at, replica.configuration()) < quorums.phase_2) {
                self.act(at, &[], |r, out| r.quorum_lost(out));
            }
        }
    }

    /// The disk has answered.
    pub(crate) fn on_disk(&mut self, done: DiskDone) -> Result<(), WalError> {
        if let DiskDone::Read { request, result } = done {
            if let Some(purpose) = self.reads.remove(&request) {
                self.on_read(purpose, result);
            }
            return Ok(());
        }
        let mut events = Vec::new();
        let starved = self.writer.starved().is_some();
        self.writer.on_done(done, &mut self.disk_ops, &mut events)?;
        self.note_starved(starved);
        for event in events {
            match event {
                WalEvent::Durable { through } => self.on_durable(through),
                WalEvent::Rolled { generation } => {
                    self.write_summaries();
                    self.rolled = true;
                    if !self.started {
                        tracing::info!(generation, "the log is open");
                        self.started = true;
                        self.take_over_own();
                        for at in 0..self.groups.len() as u32 {
                            self.arm_timer(at, true);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Logs when the disk gets full, and when there is room again.
    fn note_starved(&mut self, before: bool) {
        match self.writer.starved() {
            Some(cause) if !before => {
                self.retry_prepare_ns = self.now_ns + RETRY_PREPARE_NS;
                tracing::error!(%cause, "no room for a further segment of the log: proposals are refused until there is");
                self.tell_event(Event::DiskFull { shard: self.shard.0 });
            }
            None if before => {
                tracing::info!("there is room for the log again");
                self.tell_event(Event::DiskHasRoom { shard: self.shard.0 });
            }
            _ => {}
        }
    }

    fn on_durable(&mut self, through: u64) {
        while let Some(flying) = self.frames.flying.front()
            && flying.sequence <= through
        {
            let Flying { id, submitted_ns, waits, summaries, .. } =
                self.frames.flying.pop_front().expect("it is the front");
            self.made.note_durable(id);
            let wal_us = ((self.now_ns - submitted_ns.min(self.now_ns)) / 1000) as u32;
            for (at, seq) in waits.marks {
                self.groups[at as usize].durable = seq;
                let group = &mut self.groups[at as usize];
                for pending in &mut group.pending {
                    if pending.times.durable == 0 && pending.times.closed <= submitted_ns {
                        pending.times.durable = self.now_ns;
                    }
                }
                self.act(at, &[], |r, out| r.durable(seq, out));
                self.restore_machines(at);
            }
            for (peer, at, vote) in waits.votes {
                self.send_vote(peer, at, &vote, wal_us);
            }
            if summaries && let Some((generation, _, slots)) = self.summaries_flying.pop_front() {
                self.summaries.push_back((generation, slots));
                self.release_segments();
            }
        }
    }

    // ---- proposals ----

    /// Takes a run of entries of one proposer into the group's open batch; none of them is so large that it must be cut.
    pub(crate) fn propose(
        &mut self,
        at: u32,
        entries: &Entries,
        session: Option<(u64, u64)>,
        run: Run,
    ) -> Result<(), (Run, Rejection)> {
        if let Err(rejection) = self.admit(at, entries.body_bytes(), run.submitted_ns) {
            return Err((run, rejection));
        }
        let session = self.session_here(at, session);
        let (now_ns, bytes) = (self.now_ns, entries.body_bytes() - 4);
        self.phases.queue.record_weighted(now_ns.saturating_sub(run.submitted_ns), u64::from(run.count));
        let size = (entries.ends.len(), entries.bytes.len());
        let (spare, entries_max) = (&mut self.spare_entries, self.pacing.batch_entries_max);
        let batch = self.groups[at as usize].batch_for(size, entries_max, session, now_ns);
        if batch.entries.is_empty()
            && let Some(spare) = spare.pop()
        {
            batch.entries = spare;
        }
        batch.entries.append(entries);
        batch.runs.push(run);
        self.note_dirty(at, bytes);
        Ok(())
    }

    /// Takes one entry of a producer on this shard.
    pub(crate) fn propose_one(&mut self, at: u32, entry: &[u8], producer: u32, tag: u64) -> Result<(), Rejection> {
        let now_ns = self.now_ns;
        let Cutting { entry_bytes_max, part_bytes } = self.large.cutting;
        self.admit(at, if entry.len() > entry_bytes_max { part_bytes } else { entry.len() + 4 }, now_ns)?;
        let entry = &*self.prepare_one(at, entry)?;
        if entry.len() > entry_bytes_max {
            let entries = Entries::one(entry).map_err(|_| Rejection::TooLarge)?;
            let permit = self.large.budget.admit(&entries)?;
            let run = Run { reply: Reply::Local(producer), tag, count: 1, submitted_ns: now_ns, handle: None };
            return self.propose_large(at, entries, None, run, permit).map_err(|(_, rejection)| rejection);
        }
        let (spare, entries_max) = (&mut self.spare_entries, self.pacing.batch_entries_max);
        let batch = self.groups[at as usize].batch_for((1, entry.len()), entries_max, None, now_ns);
        if batch.entries.is_empty()
            && let Some(spare) = spare.pop()
        {
            batch.entries = spare;
        }
        batch.entries.append_one(entry);
        match batch.runs.last_mut() {
            Some(Run { reply: Reply::Local(of), tag: first, count, submitted_ns, handle: None })
                if *of == producer && *first + u64::from(*count) == tag && *submitted_ns == now_ns =>
            {
                *count += 1;
            }
            _ => batch.runs.push(Run {
                reply: Reply::Local(producer),
                tag,
                count: 1,
                submitted_ns: now_ns,
                handle: None,
            }),
        }
        self.note_dirty(at, entry.len() + 4);
        Ok(())
    }

    fn note_dirty(&mut self, at: u32, bytes: usize) {
        let group = &mut self.groups[at as usize];
        group.open_bytes += bytes;
        self.dirty_bytes += bytes;
        if !group.dirty {
            group.dirty = true;
            self.dirty.push(at);
        }
    }

    /// The node that leads a group, where it is known here.
    pub(crate) fn leader_of(&self, at: u32) -> Option<u64> {
        let replica = &self.groups[at as usize].replica;
        Some(replica.configuration().voter(replica.leader()?.member)?.node)
    }

    /// The epoch at which this node takes proposals of a group.
    pub(crate) fn epoch_of(&self, at: u32) -> Option<Epoch> {
        self.groups[at as usize].replica.epoch().map(Epoch)
    }

    /// Whether an ordered handle may still propose: its epoch is the group's, and it was never refused.
    pub(crate) fn handle_is_open(&mut self, handle: u64, at: u32, epoch: Epoch) -> bool {
        let open =
            self.epoch_of(at) == Some(epoch) && !self.closed_handles.contains(&handle) || is(Bug::HandlesStayOpen);
        if !open {
            mark(Mark::HandleRefused);
            self.close_handle(handle);
        }
        open
    }

    /// An ordered handle was refused: what it sends behind that is refused too.
    pub(crate) fn close_handle(&mut self, handle: u64) {
        if self.closed_handles.len() == CLOSED_HANDLES_MAX {
            self.closed_handles.pop_front();
        }
        if !self.closed_handles.contains(&handle) {
            self.closed_handles.push_back(handle);
        }
    }

    /// Whether no proposal is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.groups.iter().all(|g| g.pending.is_empty() && g.open.is_empty() && g.held.is_empty())
    }

    /// Gives up all leadership: the node stops. What waits is answered.
    pub(crate) fn resign_all(&mut self) {
        for at in 0..self.groups.len() as u32 {
            self.act(at, &[], |r, out| r.quorum_lost(out));
            self.wake_readers(at);
        }
        self.fail_points();
        self.fail_transfers();
        self.fail_trims();
    }

    /// Drops everything, so that whoever waits for an answer learns that there will be none.
    pub(crate) fn abandon(&mut self) {
        self.completions.clear();
        self.reads.clear();
        self.large.abandon();
        self.groups.clear();
    }

    pub(crate) fn shard_number(&self) -> usize {
        self.shard.0
    }

    /// The outbox of a connection, of a peer or a client.
    pub(crate) fn outbox(&mut self, connection: u64) -> Option<&mut links::Outgoing> {
        if let Some(peer) = self.peers.iter_mut().find(|p| p.connection == Some(connection)) {
            return Some(&mut peer.outbox);
        }
        self.clients.outbox(connection)
    }

    // ---- the turn ----

    /// The first half of a turn, after the events: applies what is chosen, tells its proposers, lets producers refill.
    ///
    /// # Errors
    /// The reason why this shard must stop: a state machine has failed.
    pub(crate) fn complete(&mut self) -> Result<(), String> {
        self.apply_chosen();
        self.step_gathers();
        self.release_held();
        self.cut_short();
        self.follow_directories();
        if let Some(fatal) = &self.fatal {
            return Err(fatal.clone());
        }
        self.deliver_completions();
        self.serve_points();
        self.step_transfers();
        Ok(())
    }

    /// Whether another turn has something to do, even if nothing happens until then: the last one left it, so that others
    /// do not wait for it.
    pub(crate) fn wants_turn(&self) -> bool {
        self.large.goes_on()
    }

    /// The second half of a turn: closes batches, starts frames, fills outboxes. The driver has read its clock again.
    pub(crate) fn flush(&mut self, now_ns: u64) {
        let completed = std::mem::take(&mut self.completed);
        if completed > 0 {
            self.phases.complete.record_weighted(now_ns.saturating_sub(self.now_ns), completed);
        }
        self.now_ns = now_ns;
        self.send_requests();
        self.start_frames();
        self.release_cache();
        self.send_points();
        let (now_us, log_end) = (self.now_us(), self.writer.durable_through());
        for at in 0..self.peers.len() {
            let fits = self.peers[at].flush(now_us, log_end);
            if let (true, Some(connection)) = (self.peers[at].stuck, self.peers[at].connection) {
                tracing::warn!(peer = self.peers[at].node, "a peer takes nothing: closing its connection");
                self.notices.push(Notice::Close(connection));
                continue;
            }
            if !fits {
                mark(Mark::OutboxFull);
                self.pause_peer(at);
            } else if self.peers[at].full && self.peers[at].outbox.queued_bytes() < PEER_OUTBOX_BYTES_MAX / 2 {
                mark(Mark::OutboxDrained);
                self.peers[at].full = false;
                for group in 0..self.groups.len() as u32 {
                    let member = self.address(group, at);
                    self.act(group, &[], |r, out| r.connected(member, out));
                }
                self.peers[at].flush(now_us, log_end);
            }
        }
    }

    /// Closes open batches into slots and starts frames, as far as the log may. So the log paces: one slot per group
    /// and frame, and no delay timer.
    fn start_frames(&mut self) {
        loop {
            let pending = self.frames.bytes_filling() + self.dirty_bytes;
            if (pending == 0 && self.frames.filling.is_empty()) || !self.writer.may_start_frame(pending) {
                return;
            }
            if self.frames.filling.len() < 2 {
                self.close_batches();
            }
            let Some(filling) = self.frames.filling.pop_front() else { return };
            // No vote is awaited for another slot, so nothing is lost while the thread waits for this frame.
            let alone = self.in_pipe.slots <= 1 && self.frames.filling.is_empty();
            self.quiet_since = (self.now_ns, filling.mark);
            let frame = std::rc::Rc::clone(&filling.frame);
            let (sequence, generation, offset) = self.writer.append(frame, alone, &mut self.disk_ops);
            let mut cached: Vec<(u32, Slot)> = Vec::with_capacity(filling.held.len());
            for Held { group, slot, ballot, span } in &filling.held {
                let place = IndexPlace {
                    generation,
                    offset: offset + u64::from(span.start),
                    bytes: span.end - span.start,
                    ballot: ballot.pack(),
                };
                self.index.insert(self.groups[*group as usize].names.uid, slot.0, place);
                // What only comes through here is not in memory.
                if !self.is_gone(*group) {
                    cached.push((*group, *slot));
                }
            }
            self.cached.push_back(cached);
            let now_us = self.now_us();
            for (peer, part) in filling.sends {
                if !self.peers[peer as usize].push_bulk(part, now_us) {
                    // Rare: the peer is away or its outbox is full. Every cursor waits for its connection.
                    for Held { group, .. } in &filling.held {
                        let member = self.address(*group, peer as usize);
                        self.groups[*group as usize].replica.disconnected(member);
                    }
                }
            }
            if filling.summaries
                && let Some(summaries) = self.summaries_flying.back_mut()
            {
                summaries.0 = generation;
            }
            self.frames.flying.push_back(Flying {
                id: filling.id,
                sequence,
                submitted_ns: self.now_ns,
                waits: filling.waits,
                summaries: filling.summaries,
            });
        }
    }

    fn close_batches(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut again = Vec::new();
        let mut parts = 0;
        dirty.retain(|at| {
            let part_waits = parts >= PARTS_PER_FRAME_MAX || self.part_waits(*at);
            let group = &mut self.groups[*at as usize];
            let Some(batch) = group.open.front() else {
                group.dirty = false;
                return false;
            };
            let (bytes, is_large) = (batch.next_bytes(), batch.large.is_some());
            if group.transfer.is_some() && !batch.has_begun() {
                return true;
            }
            if !group.replica.can_propose() || !self.frames.fits(bytes) {
                if group.replica.can_propose() {
                    mark(Mark::FrameFull);
                }
                return true;
            }
            if self.in_pipe.bytes + bytes > self.memory.window_bytes && self.in_pipe.slots > 0 {
                mark(Mark::ShardWindowFull);
                return true;
            }
            if is_large {
                if part_waits {
                    mark(Mark::PartWaits);
                    return true;
                }
                parts += 1;
                self.close_part(*at);
            } else {
                let batch = group.open.pop_front().expect("it is the front");
                self.close_batch(*at, batch);
            }
            let group = &mut self.groups[*at as usize];
            group.dirty = !group.open.is_empty();
            if group.dirty {
                // Behind the groups that have had no turn.
                again.push(*at);
            }
            false
        });
        dirty.append(&mut again);
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    fn close_batch(&mut self, at: u32, batch: OpenBatch) {
        let OpenBatch { entries, runs, session, opened_ns, large: _ } = batch;
        let group = &mut self.groups[at as usize];
        group.open_bytes -= entries.body_bytes() - 4;
        self.dirty_bytes -= entries.body_bytes() - 4;
        let (client, sequence) = session.unwrap_or((0, 0));
        let mut scratch = Vec::new();
        let crc = body_crc(&entries.parts(&mut scratch));
        let count = entries.len() as u32;
        let header =
            BatchHeader { entries: count, bytes: entries.body_bytes() as u32, crc, client, sequence, part: None };
        let local: u64 = runs.iter().filter(|r| matches!(r.reply, Reply::Local(_))).map(|r| u64::from(r.count)).sum();
        if local > 0 {
            // A producer on the shard puts its entries into the batch itself.
            self.phases.queue.record_weighted(0, local);
        }
        let origin = group.replica.epoch().expect("the caller has seen that it may propose");
        let slot = group.replica.log().last().next();
        let times = SlotTimes { opened: opened_ns, closed: self.now_ns, ..SlotTimes::default() };
        let bytes = entries.body_bytes();
        self.in_pipe.slots += 1;
        self.in_pipe.bytes += bytes;
        group.pending.push_back(Pending { slot, origin, runs, entries: count, bytes, acks: 0, times });
        let payload = Payload::new(header, Place::Closed(entries));
        self.act(at, &[], |r, out| {
            r.propose(payload, out);
        });
    }

    fn apply_chosen(&mut self) {
        while let Some(at) = self.chosen.pop() {
            self.groups[at as usize].chosen = false;
            let chosen = self.groups[at as usize].replica.log().chosen();
            while self.groups[at as usize].apply.slot < chosen {
                self.apply_next(at);
                if self.fatal.is_some() {
                    return;
                }
            }
            self.wake_readers(at);
        }
    }

    fn apply_next(&mut self, at: u32) {
        let now_ns = self.now_ns;
        let group = &mut self.groups[at as usize];
        let slot = group.apply.slot.next();
        let entry = group.replica.log().get(slot).expect("what is chosen and not applied is in memory");
        let value: Value<Payload> = entry.value.clone();
        let effect = group.apply.apply(slot, &value);
        match effect {
            Effect::Void => mark(Mark::BatchVoid),
            Effect::Duplicate(_) => mark(Mark::BatchDuplicate),
            Effect::Sessions if group.kind == GroupKind::Directory => self.made.note_applied(group.names.home),
            Effect::Sessions => self.expiry.note(at, slot, now_ns),
            Effect::UnknownSession => mark(Mark::SessionUnknown),
            _ => {}
        }
        if value.is_stub() {
            // A witness has nothing to read, and nothing to apply it to.
        } else if let (Effect::Entries { first_index }, Body::Batch(payload)) = (effect, &value.body) {
            let header = payload.header();
            group.indexes.push(slot, header.slots(), first_index);
            if header.part.is_some() {
                if group.machine_next == first_index {
                    self.feed_machine(at);
                }
            } else if let Err(reason) = payload.with_body(|body| group.feed_machine(slot, first_index, body)) {
                self.fatal = Some(reason);
                return;
            }
            self.note_applied(at, u64::from(header.entries), u64::from(header.bytes));
        } else if let (Effect::Part, Body::Batch(payload)) = (effect, &value.body) {
            self.note_applied(at, 0, u64::from(payload.header().bytes));
        }
        self.note_chain(at);
        let group = &mut self.groups[at as usize];
        let session_mark = group.kind.session_mark();
        let mut told = Vec::new();
        while let Some(pending) = group.pending.front()
            && pending.slot <= slot
        {
            let pending = group.pending.pop_front().expect("it is the front");
            self.in_pipe.slots -= 1;
            self.in_pipe.bytes -= pending.bytes;
            pending.times.record(&mut self.phases, now_ns, u64::from(pending.entries));
            self.pacing.note_slot(now_ns.saturating_sub(pending.times.closed));
            let ours = value.origin == pending.origin && pending.slot == slot;
            let mut first = match effect {
                Effect::Entries { first_index } => first_index,
                _ => 0,
            };
            for run in pending.runs {
                let count = run.count;
                let outcome = match effect {
                    _ if !ours => Err(ProposeError::Superseded),
                    Effect::Entries { .. } => Ok(Committed { slot: slot.0, first_index: first, count }),
                    Effect::Duplicate(Some((slot, first_index))) => Ok(Committed { slot: slot.0, first_index, count }),
                    Effect::Duplicate(None) => Err(ProposeError::Duplicate),
                    Effect::OutOfSession => Err(ProposeError::OutOfSession),
                    Effect::UnknownSession => Err(ProposeError::SessionExpired),
                    // The slot is the session's id.
                    Effect::Sessions => Ok(Committed { slot: slot.0 ^ session_mark, first_index: 0, count: 0 }),
                    Effect::Void | Effect::Part | Effect::Nothing => Err(ProposeError::Superseded),
                };
                first += u64::from(count);
                told.push((run, outcome));
            }
        }
        for (run, outcome) in told {
            self.note_outcome(at, run, outcome);
        }
    }

    /// Tells proposers; producers on the shard refill at once.
    fn deliver_completions(&mut self) {
        while !self.completions.is_empty() {
            let mut completions = std::mem::take(&mut self.completions);
            if is(Bug::AnswersAreDropped) {
                completions.truncate(64);
            }
            for (run, at, outcome) in completions {
                if outcome.is_ok() {
                    self.completed += u64::from(run.count);
                    let total = self.now_ns.saturating_sub(run.submitted_ns);
                    self.phases.total.record_weighted(total, u64::from(run.count));
                }
                match run.reply {
                    Reply::Local(producer) => self.complete_producer(producer, at, run.tag, run.count, outcome),
                    Reply::Client(connection, request) => self.reply_append(connection, request, outcome),
                    Reply::Callback(reply) => reply(outcome),
                }
            }
        }
        self.wake_producers();
    }

    // ---- the log ----

    /// Every group's votes in short, behind all that they are made of.
    fn write_summaries(&mut self) {
        let mut slots = Vec::with_capacity(self.groups.len());
        for at in 0..self.groups.len() {
            let group = &self.groups[at];
            slots.push((group.kind != GroupKind::Gone).then(|| group.apply.settled_slot()));
            if group.kind == GroupKind::Gone {
                continue;
            }
            let (header, body) = group.summary();
            self.frames.push(&header, &[&body]);
        }
        if let Some(filling) = self.frames.filling.back_mut() {
            if std::mem::replace(&mut filling.summaries, true) {
                // Those before them in the same frame say less.
                self.summaries_flying.pop_back();
            }
            self.summaries_flying.push_back((0, filling.id, slots));
        }
    }

    /// Bytes of memory for the places of slots, and for their first indexes.
    fn index_bytes(&self) -> usize {
        self.index.memory_bytes() / 3 * 5
    }

    /// Frees the oldest segments, beyond what may be kept or on a full disk, as far as nothing keeps them.
    fn release_segments(&mut self) {
        while (self.writer.bytes_live() > self.retain_bytes
            || self.writer.starved().is_some()
            || self.index_bytes() > self.index_bytes_max
            || self.writer.oldest().is_some_and(|oldest| self.trim_is_ordered(oldest.generation)))
            && let Some(oldest) = self.writer.oldest()
            && oldest.sealed
            && self.may_release(oldest.generation)
        {
            mark(Mark::SegmentReleased);
            let trims: Vec<(u128, u64)> = self.index.segment_slots(oldest.generation).collect();
            for (uid, slot) in trims {
                let Some(at) = self.by_uid.get(&uid) else {
                    self.index.trim(uid, slot);
                    continue;
                };
                let slot = self.slot_in(&self.groups[*at as usize], oldest.generation, Slot(slot)).0;
                self.index.trim(uid, slot);
                let (at, group) = (*at, &mut self.groups[*at as usize]);
                let first_before = group.first_index();
                group.gone = group.gone.max(Slot(slot));
                group.indexes.trim(Slot(slot));
                self.check_pins(at, first_before);
            }
            self.index.forget(oldest.generation);
            self.writer.release(oldest.generation, &mut self.disk_ops);
            while self.summaries.len() > 1 && self.summaries[0].0 <= oldest.generation {
                self.summaries.pop_front();
            }
        }
    }
}

/// A record that was read back from the log, as a header and the range of its body.
fn read_back(record: &[u8]) -> Option<(RecordHeader, &[u8])> {
    let header = RecordHeader::decode(record).ok()?;
    let body = record.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.body_len as usize)?;
    (header.kind == kind::ACCEPT || header.kind == kind::LEARNED).then_some((header, body))
}

#[cfg(test)]
mod tests;
