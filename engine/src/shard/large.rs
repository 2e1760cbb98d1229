//! Large entries in a shard: cut into parts where they are proposed, put together where they are handed over.
//!
//! The parts of an entry stand one behind another in the group's log, so what is proposed behind it in the same group waits
//! until all are proposed. Other groups do not: of one group only a few parts are in flight, and most of each frame of the
//! log is for others. Parts leave memory like any value; whoever needs the whole entry has it put together, out of memory
//! or out of the log, a few parts a turn and a few entries at a time.
//!
//! Invariants: an entry of which one part was proposed and the last will not be never takes effect, and its proposer is
//! told so; a machine gets an entry whole, in its turn, or not at all.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use synod_core::{Ballot, Body, Slot};
use synod_wal::ops::{DiskError, RecordPlace};
use synod_wal::record::body_crc;

use super::group::{OpenBatch, Pending, Run};
use super::reads::{CommittedEntries, Purpose, ReadError, ReadRequest};
use super::{Shard, read_back};
use crate::batch::Entries;
use crate::client::protocol::ReplyV1;
use crate::large::{Cutting, LargeBudget, LargePermit, PartOf};
use crate::limits::{
    GATHER_PARTS_PER_TURN, GATHERS_MAX, LARGE_ENTRIES_MAX, LARGE_READS_MAX, PARTS_IN_FLIGHT_MAX, PARTS_MAX,
};
use crate::marks::{Mark, mark};
use crate::metrics::{RecordWeighted, SlotTimes};
use crate::outcome::{GroupId, Outcome, Overload, ProposeError, Rejection};
use crate::payload::{BatchHeader, Payload, Place};
use crate::sessions::command::is_session;
use crate::wire::PART;

/// A large entry that waits in a group's queue until all its parts are proposed.
#[derive(Debug)]
pub(crate) struct LargeEntry {
    bytes: Rc<Vec<u8>>,
    part_bytes: usize,
    /// The part that comes next.
    next: u16,
    /// The ballot that the parts before it were proposed at.
    origin: Option<Ballot>,
    _permit: Option<LargePermit>,
    /// There are as many of these as large entries that wait in the shard.
    _counted: Rc<()>,
}

impl LargeEntry {
    /// What it counts for in the queue: its next part.
    pub(super) fn weight(&self) -> usize {
        self.part_bytes.min(self.bytes.len())
    }

    /// Whether a part of it was proposed.
    pub(super) fn has_begun(&self) -> bool {
        self.origin.is_some()
    }

    fn count(&self) -> u16 {
        self.bytes.len().div_ceil(self.part_bytes) as u16
    }

    /// The bytes of the next part.
    fn range(&self) -> Range<usize> {
        let start = usize::from(self.next) * self.part_bytes;
        start..(start + self.part_bytes).min(self.bytes.len())
    }
}

/// An entry that is being put together.
#[derive(Debug)]
pub(super) struct Gather {
    number: u64,
    group: u32,
    index: u64,
    first: Slot,
    last: Slot,
    /// The slot whose part comes next.
    next: Slot,
    bytes: Vec<u8>,
    /// The log is being read.
    reading: bool,
    goal: Goal,
}

/// Whom it is for.
enum Goal {
    /// The group's state machine.
    Machine,
    /// A reader.
    Reader(ReadRequest),
}

impl std::fmt::Debug for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Machine => "Machine",
            Self::Reader(_) => "Reader",
        })
    }
}

/// How far an entry was put together.
enum Step {
    /// Not to its end yet.
    Waits,
    /// All of it is there.
    Done,
    /// It is no longer here: the log was trimmed, or another state was taken over.
    Gone,
    /// It should be here and is not.
    Lost,
}

/// Who gets one part of an entry.
pub(crate) enum PartReply {
    /// A client's request: connection and request id.
    Client(u64, u64),
    /// Anyone else.
    Callback(Box<dyn FnOnce(ReplyV1) + Send>),
}

/// The large entries of a shard.
#[derive(Debug, Default)]
pub(crate) struct Large {
    pub(crate) cutting: Cutting,
    /// The node's.
    pub(crate) budget: LargeBudget,
    counted: Rc<()>,
    /// Only the first few are worked on.
    gathers: VecDeque<Gather>,
    next_gather: u64,
    /// The last turn stopped at [`GATHER_PARTS_PER_TURN`]: the next one has work without an event.
    goes_on: bool,
    /// Groups with outcomes that wait for the state machine, some of them perhaps no longer.
    holding: Vec<u32>,
}

impl Large {
    pub(super) fn new(cutting: Cutting) -> Self {
        Self { cutting, ..Self::default() }
    }

    /// Drops what is being put together.
    pub(super) fn abandon(&mut self) {
        self.gathers.clear();
        self.holding.clear();
        self.goes_on = false;
    }

    /// Entries that are being put together, or wait for that.
    pub(super) fn gathers(&self) -> usize {
        self.gathers.len()
    }

    /// Whether the next turn has parts to put together that wait for nothing else.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Large entries that are not wholly proposed.
    pub(super) fn waiting(&self) -> usize {
        Rc::strong_count(&self.counted) - 1
    }
}

impl Shard {
    // ---- proposing ----

    /// As [`Shard::propose`], for entries of users: the group's machine has the last word on them, and one may have to be
    /// cut.
    pub(crate) fn propose_any(
        &mut self,
        at: u32,
        mut entries: Entries,
        session: Option<(u64, u64)>,
        run: Run,
        permit: Option<LargePermit>,
    ) -> Result<(), (Run, Rejection)> {
        if self.groups[at as usize].prepares {
            if let Err(rejection) = self.admit(at, 0, run.submitted_ns) {
                return Err((run, rejection));
            }
            entries = match self.prepare(at, &entries) {
                Ok(prepared) => prepared.into_owned(),
                Err(rejection) => return Err((run, rejection)),
            };
        }
        if self.large.cutting.cuts(&entries) {
            self.propose_large(at, entries, session, run, permit)
        } else {
            self.propose(at, &entries, session, run)
        }
    }

    /// Takes an entry that must be cut.
    pub(super) fn propose_large(
        &mut self,
        at: u32,
        entries: Entries,
        session: Option<(u64, u64)>,
        run: Run,
        permit: Option<LargePermit>,
    ) -> Result<(), (Run, Rejection)> {
        let Cutting { part_bytes, .. } = self.large.cutting;
        let refused = match self.admit(at, part_bytes, run.submitted_ns) {
            Err(rejection) => Some(rejection),
            Ok(()) if entries.bytes.len().div_ceil(part_bytes) > PARTS_MAX => Some(Rejection::TooLarge),
            Ok(()) if self.large.waiting() >= LARGE_ENTRIES_MAX => Some(self.overloaded(Overload::Large)),
            Ok(()) => None,
        };
        if let Some(rejection) = refused {
            return Err((run, rejection));
        }
        mark(Mark::LargeEntry);
        self.phases.queue.record_weighted(self.now_ns.saturating_sub(run.submitted_ns), 1);
        let large = LargeEntry {
            bytes: Rc::new(entries.bytes),
            part_bytes,
            next: 0,
            origin: None,
            _permit: permit,
            _counted: Rc::clone(&self.large.counted),
        };
        let weight = large.weight();
        let session = self.session_here(at, session);
        let batch =
            OpenBatch { runs: vec![run], session, opened_ns: self.now_ns, large: Some(large), ..Default::default() };
        self.groups[at as usize].open.push_back(batch);
        self.note_dirty(at, weight);
        Ok(())
    }

    /// A session's id as the group's log has it: another group's id becomes one that no session here has.
    pub(super) fn session_here(&self, at: u32, session: Option<(u64, u64)>) -> Option<(u64, u64)> {
        session.map(|(id, sequence)| {
            let mark = if is_session(id) { self.groups[at as usize].kind.session_mark() } else { 0 };
            (id ^ mark, sequence)
        })
    }

    /// Gives up large entries of which parts were proposed in epochs that are over: the others would be of no use. What
    /// waits behind one does not take its place.
    pub(super) fn cut_short(&mut self) {
        let cut: Vec<u32> = self.dirty.iter().copied().filter(|at| self.is_cut_short(*at)).collect();
        for at in cut {
            let rejection = self.overloaded(Overload::Group);
            self.reject_open(at, rejection);
        }
    }

    fn is_cut_short(&self, at: u32) -> bool {
        let group = &self.groups[at as usize];
        let large = group.open.front().and_then(|batch| batch.large.as_ref());
        large.is_some_and(|large| large.origin.is_some_and(|origin| group.replica.epoch() != Some(origin)))
    }

    /// Whether the next part of a group's large entry has to wait.
    pub(super) fn part_waits(&self, at: u32) -> bool {
        self.groups[at as usize].pending.len() >= PARTS_IN_FLIGHT_MAX || self.is_cut_short(at)
    }

    /// Proposes the next part of the large entry at the head of a group's queue.
    pub(super) fn close_part(&mut self, at: u32) {
        let now_ns = self.now_ns;
        let group = &mut self.groups[at as usize];
        let origin = group.replica.epoch().expect("the caller has seen that it may propose");
        let batch = group.open.front_mut().expect("the caller has seen it");
        let large = batch.large.as_mut().expect("the caller has seen it");
        let (part, range) = (PartOf { number: large.next, count: large.count() }, large.range());
        large.next += 1;
        large.origin = Some(origin);
        let (client, sequence) = batch.session.unwrap_or((0, 0));
        let header = BatchHeader {
            entries: 1,
            bytes: range.len() as u32,
            crc: body_crc(&[&large.bytes[range.clone()]]),
            client,
            sequence,
            part: Some(part),
        };
        let bytes = range.len();
        let payload = Payload::new(header, Place::Part(Rc::clone(&large.bytes), range));
        let (opened, mut runs) = (batch.opened_ns, Vec::new());
        if part.is_last() {
            runs = std::mem::take(&mut batch.runs);
            let weight = large.weight();
            group.open.pop_front();
            group.open_bytes -= weight;
            self.dirty_bytes -= weight;
        }
        let slot = group.replica.log().last().next();
        let times = SlotTimes { opened, closed: now_ns, ..SlotTimes::default() };
        self.in_pipe.slots += 1;
        self.in_pipe.bytes += bytes;
        let entries = u32::from(part.is_last());
        group.pending.push_back(Pending { slot, origin, runs, entries, bytes, acks: 0, times });
        self.act(at, &[], |r, out| {
            r.propose(payload, out);
        });
    }

    // ---- outcomes ----

    /// Notes what became of a run, to be told in this turn; while the group's machine is still being given what the run
    /// stands behind, when it has that.
    pub(super) fn note_outcome(&mut self, at: u32, run: Run, outcome: Outcome) {
        let group = &mut self.groups[at as usize];
        let index = group.apply.next_index - 1;
        if group.held.is_empty() && !(group.feeding && group.machine_next <= index) {
            self.completions.push((run, at, outcome));
            return;
        }
        mark(Mark::OutcomeHeld);
        if group.held.is_empty() {
            self.large.holding.push(at);
        }
        group.held.push_back((index, run, outcome));
    }

    /// Notes that a run has failed, to be told behind what was proposed before it.
    pub(super) fn note_failure(&mut self, at: u32, run: Run, error: ProposeError) {
        let group = &mut self.groups[at as usize];
        match group.held.back() {
            Some((index, ..)) => {
                let index = *index;
                group.held.push_back((index, run, Err(error)));
            }
            None => self.completions.push((run, at, Err(error))),
        }
    }

    /// Lets outcomes go that waited for machines.
    pub(super) fn release_held(&mut self) {
        let mut holding = std::mem::take(&mut self.large.holding);
        holding.retain(|at| {
            let group = &mut self.groups[*at as usize];
            while let Some((index, ..)) = group.held.front()
                && (*index < group.machine_next || !group.feeding)
            {
                let (_, run, outcome) = group.held.pop_front().expect("it is the front");
                self.completions.push((run, *at, outcome));
            }
            !group.held.is_empty()
        });
        holding.append(&mut self.large.holding);
        self.large.holding = holding;
    }

    // ---- putting together ----

    /// Has the entry at position `place` of a group's indexes put together for the group's machine.
    pub(super) fn gather_for_machine(&mut self, at: u32, place: usize) {
        let group = &mut self.groups[at as usize];
        group.feeding = true;
        group.gathers_from = Some(group.indexes[place].0);
        self.gather(at, place, Goal::Machine);
    }

    /// As [`Shard::gather_for_machine`], for a reader.
    pub(super) fn gather_for_reader(&mut self, at: u32, place: usize, request: ReadRequest) {
        let readers = self.large.gathers.iter().filter(|gather| matches!(gather.goal, Goal::Reader(_))).count();
        if readers >= LARGE_READS_MAX {
            return self.answer(request.reply, Err(ReadError::Overloaded));
        }
        mark(Mark::LargeRead);
        self.gather(at, place, Goal::Reader(request));
    }

    fn gather(&mut self, at: u32, place: usize, goal: Goal) {
        let group = &self.groups[at as usize];
        let (first, index) = group.indexes[place];
        let last = Slot(first.0 + group.indexes.slots(first) - 1);
        let number = self.large.next_gather;
        self.large.next_gather += 1;
        let (bytes, reading) = (Vec::new(), false);
        self.large.gathers.push_back(Gather {
            number,
            group: at,
            index,
            first,
            last,
            next: first,
            bytes,
            reading,
            goal,
        });
    }

    /// Goes on with what is being put together. Called once a turn.
    pub(super) fn step_gathers(&mut self) {
        let (mut place, mut parts) = (0, GATHER_PARTS_PER_TURN);
        self.large.goes_on = false;
        while place < GATHERS_MAX
            && let Some(mut gather) = self.large.gathers.remove(place)
        {
            let step = self.step_gather(&mut gather, &mut parts);
            match step {
                Step::Waits => {
                    self.large.gathers.insert(place, gather);
                    place += 1;
                }
                Step::Done => self.gathered(gather),
                Step::Gone => self.give_up(gather, None),
                Step::Lost => self.give_up(gather, Some("the log's index lacks a part of an entry".into())),
            }
            if self.fatal.is_some() {
                return;
            }
        }
    }

    fn step_gather(&mut self, gather: &mut Gather, parts: &mut usize) -> Step {
        let group = &self.groups[gather.group as usize];
        let at = group.indexes.partition_point(|(slot, _)| *slot < gather.first);
        if group.indexes.get(at) != Some(&(gather.first, gather.index)) {
            return if gather.reading { Step::Waits } else { Step::Gone };
        }
        while !gather.reading && gather.next <= gather.last {
            if *parts == 0 {
                self.large.goes_on = true;
                return Step::Waits;
            }
            let log = group.replica.log();
            if gather.next > log.floor() {
                let entry = log.get(gather.next).expect("what is chosen and above the floor is in memory");
                let Body::Batch(payload) = &entry.value.body else { unreachable!("parts are batches") };
                payload.with_body(|body| gather.bytes.extend_from_slice(body));
                gather.next = gather.next.next();
                *parts -= 1;
                continue;
            }
            // What is above the floor may be on its way to the disk still.
            let end = gather.last.min(log.floor()).min(Slot(gather.next.0 + GATHER_PARTS_PER_TURN as u64 - 1));
            let places = (gather.next.0..=end.0).map(|slot| self.index.get(group.names.uid, slot));
            let Some(places) = places.map(|place| Some(place?.record())).collect::<Option<Vec<RecordPlace>>>() else {
                return Step::Lost;
            };
            mark(Mark::LargeFromLog);
            gather.reading = true;
            self.read_disk(places, Purpose::Gather { group: gather.group, number: gather.number });
            return Step::Waits;
        }
        if gather.reading { Step::Waits } else { Step::Done }
    }

    /// Parts were read back.
    pub(super) fn on_gather_read(&mut self, number: u64, result: Vec<Result<Vec<u8>, DiskError>>) {
        let Some(place) = self.large.gathers.iter().position(|gather| gather.number == number) else { return };
        let gather = &mut self.large.gathers[place];
        gather.reading = false;
        for record in result {
            let part = record.map_err(|error| error.to_string()).and_then(|record| {
                part_of(&record, gather.next).map(<[u8]>::to_vec).ok_or("a record is not what the index says".into())
            });
            match part {
                Ok(part) => {
                    gather.bytes.extend_from_slice(&part);
                    gather.next = gather.next.next();
                }
                Err(reason) => {
                    let gather = self.large.gathers.remove(place).expect("it is there");
                    return self.give_up(gather, Some(reason));
                }
            }
        }
    }

    /// An entry is whole.
    fn gathered(&mut self, gather: Gather) {
        let Gather { group: at, index, last, bytes, goal, .. } = gather;
        let group = &mut self.groups[at as usize];
        match goal {
            Goal::Machine => {
                mark(Mark::LargeHandedOver);
                (group.feeding, group.gathers_from) = (false, None);
                if let Err(reason) = group.feed_large(last, index, &bytes) {
                    self.fatal = Some(reason);
                    return;
                }
                self.feed_machine(at);
            }
            Goal::Reader(request) => {
                let next_index = group.apply.next_index;
                let entries = Entries { ends: vec![bytes.len() as u32], bytes };
                let answer = CommittedEntries { first_index: index, entries, next_index, parts: 0 };
                self.answer(request.reply, Ok(answer));
            }
        }
    }

    /// An entry cannot be put together: for a reason, or since it is no longer here.
    fn give_up(&mut self, gather: Gather, reason: Option<String>) {
        let at = gather.group;
        let group = &mut self.groups[at as usize];
        match (gather.goal, reason) {
            (Goal::Machine, Some(reason)) => {
                self.fatal = Some(format!("group {} cannot be replayed: {reason}", group.names.id));
            }
            (Goal::Machine, None) => {
                // Another state has taken its place, which the machine has or will be given.
                (group.feeding, group.gathers_from) = (false, None);
                self.feed_machine(at);
            }
            (Goal::Reader(request), Some(reason)) => self.answer(request.reply, Err(ReadError::Disk(reason))),
            (Goal::Reader(request), None) => {
                let first_index = group.first_index();
                self.answer(request.reply, Err(ReadError::Trimmed { first_index }));
            }
        }
    }

    /// A group is no more, and neither are its large entries.
    pub(super) fn forget_large(&mut self, at: u32, error: &ReadError) {
        let (of, others) = std::mem::take(&mut self.large.gathers).into_iter().partition(|gather| gather.group == at);
        self.large.gathers = others;
        let of: VecDeque<Gather> = of;
        for gather in of {
            if let Goal::Reader(request) = gather.goal {
                self.answer(request.reply, Err(error.clone()));
            }
        }
        self.large.holding.retain(|of| *of != at);
        let held = std::mem::take(&mut self.groups[at as usize].held);
        self.completions.extend(held.into_iter().map(|(_, run, outcome)| (run, at, outcome)));
    }

    // ---- single parts, for clients ----

    /// Reads one part of the large entry at an index.
    pub(crate) fn read_part(&mut self, id: GroupId, index: u64, part: u32, reply: PartReply) {
        let failed = |text: &str| ReplyV1::Failed { text: text.into() };
        let Some(at) = self.group_at(id) else {
            return self.answer_part(reply, failed(&self.not_readable_here(id).to_string()));
        };
        let group = &self.groups[at as usize];
        let (first_index, next_index) = (group.first_index(), group.apply.next_index);
        if index < first_index {
            return self.answer_part(reply, ReplyV1::Trimmed { first_index });
        }
        let place = group.indexes.partition_point(|(_, first)| *first < index);
        let large = group.indexes.get(place).filter(|(_, first)| *first == index);
        let Some((first, slots)) = large.map(|(first, _)| (*first, group.indexes.slots(*first))) else {
            return self.answer_part(reply, failed("no entry in parts begins at this index"));
        };
        if u64::from(part) >= slots || slots == 1 {
            return self.answer_part(reply, failed("the entry has no such part"));
        }
        let slot = Slot(first.0 + u64::from(part));
        let answer = |bytes| ReplyV1::Part { index, part, parts: slots as u32, next_index, bytes };
        let log = group.replica.log();
        if slot > log.floor() {
            let entry = log.get(slot).expect("what is chosen and above the floor is in memory");
            let Body::Batch(payload) = &entry.value.body else { unreachable!("parts are batches") };
            let answer = answer(payload.with_body(<[u8]>::to_vec));
            return self.answer_part(reply, answer);
        }
        match self.index.get(group.names.uid, slot.0) {
            Some(place) => {
                let answer = answer(Vec::new());
                self.read_disk(vec![place.record()], Purpose::Part { group: at, slot, answer, reply });
            }
            None => self.answer_part(reply, ReplyV1::Trimmed { first_index: index + 1 }),
        }
    }

    /// A part was read back.
    pub(super) fn on_part_read(
        &mut self,
        slot: Slot,
        answer: ReplyV1,
        reply: PartReply,
        result: Vec<Result<Vec<u8>, DiskError>>,
    ) {
        let wrong = || ReadError::Disk("a record is not what the index says".into());
        let body = match result.into_iter().next() {
            Some(Ok(record)) => part_of(&record, slot).map(<[u8]>::to_vec).ok_or_else(wrong),
            Some(Err(error)) => Err(ReadError::Disk(error.to_string())),
            None => Err(wrong()),
        };
        let answer = match (body, answer) {
            (Ok(bytes), ReplyV1::Part { index, part, parts, next_index, .. }) => {
                ReplyV1::Part { index, part, parts, next_index, bytes }
            }
            (Ok(_), answer) => answer,
            (Err(error), _) => ReplyV1::Failed { text: error.to_string() },
        };
        self.answer_part(reply, answer);
    }

    pub(super) fn answer_part(&mut self, reply: PartReply, answer: ReplyV1) {
        match reply {
            PartReply::Client(connection, request) => self.reply(connection, request, &answer),
            PartReply::Callback(reply) => reply(answer),
        }
    }
}

/// The part in a record that was read back, if it is the one of this slot.
fn part_of(record: &[u8], slot: Slot) -> Option<&[u8]> {
    let (header, body) = read_back(record)?;
    (header.flags == PART && header.numbers[0] == slot.0).then_some(body)
}
