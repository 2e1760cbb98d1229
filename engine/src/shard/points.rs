//! Reads of a known age: up to where a replica must have applied before it may answer.
//!
//! A leader answers a linearizable read at once while it holds its lease, and otherwise when a quorum of voters has named
//! its ballot in a round of questions that was asked after the read came. One round asks for all groups and reads that
//! wait, in one message per peer and turn. A follower asks its leader for the point, and waits until it has applied that
//! far.
//!
//! Invariants: reads are looked at behind all inputs of a turn, on a clock that was read after the last of them; a leader
//! answers only when its epoch start is chosen and all that it knows as chosen is applied; an answer counts only for
//! reads that came before its question was asked.

use synod_core::Ballot;
use synod_core::planted::{Bug, is};

use super::Shard;
use super::reads::ReadError;
use crate::client::protocol::ReplyV1;
use crate::limits::POINT_READS_MAX;
use crate::machine::StateMachine;
use crate::marks::{Mark, mark};
use crate::outcome::{Epoch, GroupId};
use crate::wire::Malformed;
use crate::wire::points::{self, LIST_ENTRIES_MAX, ListEntry, ListHeader};

/// What was asked and not answered for so long is asked again.
const ASK_AGAIN_NS: u64 = 50_000_000;
/// How long a leader tries to answer a follower, which asks again by itself.
const FORWARDED_NS: u64 = 1_000_000_000;

/// How old what is read may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    /// All that was acknowledged to anyone before the read began is there. Costs no message while the leader has a lease;
    /// that rests on clocks which run apart by no more than `clock_drift_percent`.
    Linearizable,
    /// The same without any clock: a quorum is asked each time.
    Quorum,
    /// The entry with this index is there, as it was told to whoever proposed or read it: a session reads its own writes.
    AtLeast(u64),
    /// Whatever this node has applied.
    Stale,
}

/// Where a read stands: all entries up to `index` are applied on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadPoint {
    /// The last index that is applied.
    pub index: u64,
    /// The epoch of the leader that vouched for it, where one had to.
    pub epoch: Option<Epoch>,
}

/// What a callback is given: the point, and the group's state machine as it stands there.
pub(crate) type AtPoint<'a> = Result<(ReadPoint, Option<&'a dyn StateMachine>), ReadError>;

/// Who gets the answer.
pub(crate) enum PointReply {
    /// A client's request: connection and request id.
    Client(u64, u64),
    /// A follower: its connection, and what it called its question.
    Peer(u64, u64),
    /// Anyone else.
    Callback(Box<dyn FnOnce(AtPoint<'_>) + Send>),
}

/// Whom a read has asked.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Nobody,
    /// The voters, as the leader at a ballot: the round, and when it was last asked.
    Voters(Ballot, u64, u64),
    /// The leader: what the question was called, and when it was last asked.
    Leader(u64, u64),
}

/// A read that waits.
pub(crate) struct PointRead {
    consistency: Consistency,
    until_ns: u64,
    asked: Asked,
    /// What the leader has said.
    target: Option<(u64, Ballot)>,
    reply: PointReply,
}

impl PointRead {
    pub(crate) fn new(consistency: Consistency, until_ns: u64, reply: PointReply) -> Self {
        Self { consistency, until_ns, asked: Asked::Nobody, target: None, reply }
    }
}

/// All reads of a shard that wait.
#[derive(Debug)]
pub(crate) struct Points {
    /// The groups that have any.
    groups: Vec<u32>,
    /// How many there are.
    waiting: usize,
    /// The number of the next question, to voters or leaders.
    next: u64,
    /// What the next round asks: the group, and whether to bind it.
    round: Vec<(u32, bool)>,
    /// What leaders are asked: the peer, the group, and whether they must ask a quorum.
    forward: Vec<(usize, u32, bool)>,
}

impl Default for Points {
    fn default() -> Self {
        Self { groups: Vec::new(), waiting: 0, next: 1, round: Vec::new(), forward: Vec::new() }
    }
}

impl Points {
    /// Reads that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }
}

impl Shard {
    /// Takes a read; it is answered in this turn at the earliest.
    pub(crate) fn read_point(&mut self, id: GroupId, read: PointRead) {
        let refused = match self.group_at(id) {
            None => self.not_readable_here(id),
            Some(_) if self.stopping => ReadError::Stopping,
            Some(_) if self.is_witness() => ReadError::Witness,
            Some(_) if self.points.waiting >= POINT_READS_MAX => ReadError::Overloaded,
            Some(at) => return self.wait_for_point(at, read),
        };
        self.answer_point(None, read.reply, Err(refused));
    }

    fn wait_for_point(&mut self, at: u32, read: PointRead) {
        let reads = &mut self.groups[at as usize].points;
        if reads.is_empty() {
            self.points.groups.push(at);
        }
        reads.push(read);
        self.points.waiting += 1;
    }

    /// Answers what can be answered, behind all inputs of the turn and all that they made chosen.
    pub(super) fn serve_points(&mut self) {
        for at in std::mem::take(&mut self.points.groups) {
            self.serve_points_of(at);
            if !self.groups[at as usize].points.is_empty() {
                self.points.groups.push(at);
            }
        }
    }

    fn serve_points_of(&mut self, at: u32) {
        let now_ns = self.now_ns;
        let group = &self.groups[at as usize];
        let applied = group.apply.next_index - 1;
        // What the state machine still lacks is not applied either.
        let fed = group.machine.is_some() || group.checkpoints.away;
        let ready = if fed { applied.min(group.machine_next - 1) } else { applied };
        let leads = group.replica.epoch();
        let all_applied = ready == applied && group.apply.slot == group.replica.log().chosen();
        let leased = self.holds_lease(at);
        let confirmed = self.confirmed_round(at);
        let vouched = |read: &PointRead| match (read.consistency, read.asked, leads) {
            (Consistency::Stale, ..) => Some(None),
            (Consistency::AtLeast(index), ..) => (index <= ready).then_some(None),
            _ if let Some((index, ballot)) = read.target => (index <= ready).then_some(Some(ballot)),
            (Consistency::Linearizable, _, Some(ballot)) if leased && all_applied => {
                mark(Mark::LeaseRead);
                Some(Some(ballot))
            }
            (_, Asked::Voters(at_ballot, round, _), Some(ballot)) if at_ballot == ballot && all_applied => {
                let confirmed = round <= confirmed || is(Bug::OlderRoundsConfirm) && confirmed > 0;
                if confirmed {
                    mark(Mark::QuorumRead);
                }
                confirmed.then_some(Some(ballot))
            }
            _ => None,
        };
        let mut answered = Vec::new();
        let mut expired = Vec::new();
        let mut by_lease = false;
        let mut reads = std::mem::take(&mut self.groups[at as usize].points);
        for read in reads.extract_if(.., |read| vouched(read).is_some() || read.until_ns <= now_ns) {
            match vouched(&read) {
                Some(ballot) => {
                    by_lease |= leased && read.consistency == Consistency::Linearizable;
                    answered.push((read.reply, ballot));
                }
                None => expired.push(read.reply),
            }
        }
        self.points.waiting -= answered.len() + expired.len();
        self.ask_point(at, &mut reads, by_lease);
        self.groups[at as usize].points = reads;
        for (reply, ballot) in answered {
            let point = ReadPoint { index: ready, epoch: ballot.map(Epoch) };
            self.answer_point(Some(at), reply, Ok(point));
        }
        for reply in expired {
            mark(Mark::PointReadExpired);
            let error = match self.leader_of(at) {
                Some(_) => ReadError::TimedOut,
                None => ReadError::NotLeader { leader: None },
            };
            self.answer_point(None, reply, Err(error));
        }
    }

    /// Asks for what the reads of a group need that wait on: the voters where this replica leads, else its leader.
    fn ask_point(&mut self, at: u32, reads: &mut [PointRead], by_lease: bool) {
        let (now_ns, number) = (self.now_ns, self.points.next);
        let needs = |read: &PointRead| {
            read.target.is_none() && matches!(read.consistency, Consistency::Linearizable | Consistency::Quorum)
        };
        let stale = |since: u64| since + ASK_AGAIN_NS <= now_ns;
        if let Some(ballot) = self.groups[at as usize].replica.epoch() {
            let mut due = false;
            let mut binds = by_lease;
            for read in reads.iter_mut().filter(|read| needs(read)) {
                binds |= read.consistency == Consistency::Linearizable;
                match &mut read.asked {
                    // A later question serves an earlier read too.
                    Asked::Voters(of, _, since) if *of == ballot => {
                        if stale(*since) {
                            *since = now_ns;
                            due = true;
                        }
                    }
                    asked => {
                        *asked = Asked::Voters(ballot, number, now_ns);
                        due = true;
                    }
                }
            }
            binds &= self.may_lease(at);
            if binds && let Some(tenure) = self.tenure(at) {
                // A lease that is used is renewed before its bindings lapse.
                if due || tenure.bind_asked_ns + super::support::BINDING_NS / 2 <= now_ns {
                    tenure.bind_asked_ns = now_ns;
                    due = true;
                }
            }
            if due {
                self.points.round.push((at, binds));
            }
            return;
        }
        let Some(peer) = self.groups[at as usize].replica.leader().and_then(|ballot| self.peer_of(at, ballot.member))
        else {
            return;
        };
        let (mut due, mut quorum) = (false, false);
        for read in reads.iter_mut().filter(|read| needs(read)) {
            if matches!(read.reply, PointReply::Peer(..)) {
                // Whoever asked learns of the leader by itself.
                continue;
            }
            quorum |= read.consistency == Consistency::Quorum;
            match &mut read.asked {
                Asked::Leader(_, since) => {
                    if stale(*since) {
                        *since = now_ns;
                        due = true;
                    }
                }
                asked => {
                    *asked = Asked::Leader(number, now_ns);
                    due = true;
                }
            }
        }
        if due {
            mark(Mark::PointForwarded);
            self.points.forward.push((peer, at, quorum));
        }
    }

    /// Sends the questions of this turn: one message per peer and kind.
    pub(super) fn send_points(&mut self) {
        if self.points.round.is_empty() && self.points.forward.is_empty() {
            return;
        }
        let header = ListHeader { number: self.points.next, sent_ns: self.now_ns, epoch: 0 };
        self.points.next += 1;
        let round = std::mem::take(&mut self.points.round);
        let entry = |(at, bind): &(u32, bool)| {
            let group = &self.groups[*at as usize];
            let ballot = group.replica.epoch()?;
            Some(ListEntry { uid: group.names.uid, ballot, number: u64::from(*bind) })
        };
        let entries: Vec<ListEntry> = round.iter().filter_map(entry).collect();
        for peer in 0..self.peers.len() {
            self.push_list(peer, points::ROUND, &header, &entries);
        }
        let forward = std::mem::take(&mut self.points.forward);
        for peer in 0..self.peers.len() {
            let of_peer = forward.iter().filter(|(to, ..)| *to == peer);
            let entry = |(_, at, quorum): &(usize, u32, bool)| ListEntry {
                uid: self.groups[*at as usize].names.uid,
                ballot: Ballot::ZERO,
                number: u64::from(*quorum),
            };
            let entries: Vec<ListEntry> = of_peer.map(entry).collect();
            self.push_list(peer, points::POINTS, &header, &entries);
        }
    }

    fn push_list(&mut self, peer: usize, kind: u8, header: &ListHeader, entries: &[ListEntry]) {
        for entries in entries.chunks(LIST_ENTRIES_MAX) {
            self.push_frame(peer, kind, &points::encode(header, entries));
        }
    }

    // ---- peers ----

    /// A list of a peer has come in.
    pub(super) fn on_list(&mut self, peer: usize, kind: u8, body: &[u8]) -> Result<(), Malformed> {
        let (header, entries) = points::decode(body)?;
        match kind {
            points::ROUND => self.on_round(peer, header, entries),
            points::ROUND_ANSWER => self.on_round_answer(peer, header, entries),
            points::POINTS => self.on_points(peer, header, entries),
            points::POINTS_ANSWER => self.on_points_answer(header, entries),
            _ => return Err(Malformed("the kind of list")),
        }
        Ok(())
    }

    /// A leader asks for which of its ballots this node's promises are.
    fn on_round(&mut self, peer: usize, header: ListHeader, entries: impl Iterator<Item = ListEntry>) {
        if !self.may_vote() {
            return;
        }
        let mut answers = Vec::new();
        for entry in entries {
            if let Some(at) = self.by_uid.get(&entry.uid).copied()
                && let Some(bound) = self.confirm(at, peer, entry.ballot, entry.number == 1)
            {
                answers.push(ListEntry { number: u64::from(bound), ..entry });
            }
        }
        let header = ListHeader { epoch: self.support_epoch(peer), ..header };
        self.push_list(peer, points::ROUND_ANSWER, &header, &answers);
    }

    fn on_round_answer(&mut self, peer: usize, header: ListHeader, entries: impl Iterator<Item = ListEntry>) {
        for entry in entries {
            let Some(at) = self.by_uid.get(&entry.uid).copied() else { continue };
            if header.number < self.points.next && self.address(at, peer).outsider_peer().is_none() {
                let bound = (entry.number == 1 && header.epoch > 0).then_some(header.epoch);
                self.confirmed(at, peer, entry.ballot, (header.number, header.sent_ns), bound);
            }
        }
    }

    /// A follower asks this leader.
    fn on_points(&mut self, peer: usize, header: ListHeader, entries: impl Iterator<Item = ListEntry>) {
        // A question of a process that is gone must not be answered to the next one: it counts anew.
        let Some(connection) = self.peers[peer].connection else { return };
        for entry in entries {
            let Some(at) = self.by_uid.get(&entry.uid).copied() else { continue };
            // One that does not lead is asked again, or another is.
            if self.leader_of(at) != Some(self.node) || self.points.waiting >= POINT_READS_MAX || self.stopping {
                continue;
            }
            let consistency = if entry.number == 1 { Consistency::Quorum } else { Consistency::Linearizable };
            let reply = PointReply::Peer(connection, header.number);
            self.wait_for_point(at, PointRead::new(consistency, self.now_ns + FORWARDED_NS, reply));
        }
    }

    /// A leader has answered: all reads that waited when it was asked need no more than that.
    fn on_points_answer(&mut self, header: ListHeader, entries: impl Iterator<Item = ListEntry>) {
        if header.number >= self.points.next {
            return;
        }
        for entry in entries {
            let Some(at) = self.by_uid.get(&entry.uid).copied() else { continue };
            for read in &mut self.groups[at as usize].points {
                if let Asked::Leader(number, _) = read.asked
                    && number <= header.number
                    && read.target.is_none()
                {
                    read.target = Some((entry.number, entry.ballot));
                }
            }
        }
    }

    // ---- answers ----

    fn answer_point(&mut self, at: Option<u32>, reply: PointReply, answer: Result<ReadPoint, ReadError>) {
        match reply {
            PointReply::Callback(reply) => {
                let machine = at.and_then(|at| self.groups[at as usize].machine.as_deref());
                reply(answer.map(|point| (point, machine)));
            }
            PointReply::Client(connection, request) => {
                self.reply(connection, request, &point_reply(answer));
            }
            PointReply::Peer(connection, number) => {
                let peer = self.peers.iter().position(|peer| peer.connection == Some(connection));
                if let (Some(peer), Some(at), Ok(ReadPoint { index, epoch: Some(Epoch(ballot)) })) = (peer, at, answer)
                {
                    let header = ListHeader { number, ..ListHeader::default() };
                    let entry = ListEntry { uid: self.groups[at as usize].names.uid, ballot, number: index };
                    self.push_list(peer, points::POINTS_ANSWER, &header, &[entry]);
                }
            }
        }
    }

    /// A group is no more.
    pub(super) fn forget_points(&mut self, at: u32, error: &ReadError) {
        self.points.groups.retain(|of| *of != at);
        self.points.round.retain(|(of, _)| *of != at);
        self.points.forward.retain(|(_, of, _)| *of != at);
        for read in std::mem::take(&mut self.groups[at as usize].points) {
            self.points.waiting -= 1;
            self.answer_point(None, read.reply, Err(error.clone()));
        }
    }

    /// The node stops: nobody waits for what will not come.
    pub(super) fn fail_points(&mut self) {
        for at in std::mem::take(&mut self.points.groups) {
            for read in std::mem::take(&mut self.groups[at as usize].points) {
                self.points.waiting -= 1;
                self.answer_point(None, read.reply, Err(ReadError::Stopping));
            }
        }
    }
}

/// The reply to a client's read.
pub(crate) fn point_reply(answer: Result<ReadPoint, ReadError>) -> ReplyV1 {
    match answer {
        Ok(ReadPoint { index, epoch }) => ReplyV1::Point { index, epoch: epoch.map_or(0, Epoch::number) },
        Err(error) => ReplyV1::Failed { text: error.to_string() },
    }
}
