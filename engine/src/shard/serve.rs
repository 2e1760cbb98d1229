//! Serving what is committed: to replicas that lag, to readers, to state machines that start behind.

use synod_core::planted::{Bug, is};
use synod_core::{Body, Slot, Value};
use synod_wal::ops::{DiskError, DiskOp, RecordPlace};

use super::group::Group;
use super::links::Part;
use super::reads::{CommittedEntries, Purpose, ReadError, ReadReply, ReadRequest};
use super::{Shard, read_back};
use crate::batch::{Batch, Entries};
use crate::client::protocol::{GroupInfoV1, ReplyV1};
use crate::limits::{LEARN_BYTES_MAX, READ_BYTES_MAX};
use crate::marks::{Mark, mark};
use crate::outcome::GroupId;
use crate::payload::{Payload, Place};
use crate::wire::{self, value_with};

impl Shard {
    /// Sends chosen values from `from` on: out of memory, or out of the log where they have left memory.
    pub(super) fn serve_learn(&mut self, at: u32, peer: u8, from: Slot) {
        let group = &self.groups[at as usize];
        let log = group.replica.log();
        if from <= log.floor() {
            let places = self.index.range(group.names.uid, from.0, LEARN_BYTES_MAX as u64);
            let places: Vec<RecordPlace> = places
                .take_while({
                    let mut next = from.0;
                    move |(slot, _)| {
                        next += 1;
                        // What is in memory may be on its way to the disk still.
                        *slot + 1 == next && *slot <= log.floor().0
                    }
                })
                .map(|(_, place)| place.record())
                .collect();
            if places.is_empty() {
                self.offer_or_state(at, peer, from.0);
                return;
            }
            mark(Mark::LearnFromLog);
            self.read_disk(places, Purpose::Learn { group: at, peer });
            return;
        }
        mark(Mark::LearnFromMemory);
        let mut through = from;
        let mut bytes = 0;
        let last = if is(Bug::UnchosenIsServed) { log.last() } else { log.chosen() };
        for slot in (from.0..=last.0).map(Slot) {
            bytes += log.get(slot).map_or(0, |e| value_bytes(&e.value.body));
            if bytes > LEARN_BYTES_MAX && slot > from {
                break;
            }
            through = slot;
        }
        let mut records = Vec::new();
        for slot in (from.0..=through.0).map(Slot) {
            let value = self.kept_by(at, peer, &log.get(slot).expect("it is in memory").value);
            wire::append_learned(&mut records, group.names.uid, slot, through, log.chosen(), &value);
        }
        self.send_records(peer, records);
    }

    /// What a peer's replica keeps of a value: a witness is sent no payload.
    fn kept_by(&self, at: u32, peer: u8, value: &Value<Payload>) -> Value<Payload> {
        if self.replica_of(at, peer as usize).is_witness() { value.stub() } else { value.clone() }
    }

    fn send_records(&mut self, peer: u8, records: Vec<u8>) {
        let now_us = self.now_ns / 1000;
        // Nothing is lost when there is no room: the replica asks again.
        self.peers[peer as usize].push_bulk(Part::Owned(records), now_us);
    }

    pub(super) fn read_disk(&mut self, places: Vec<RecordPlace>, purpose: Purpose) {
        let request = self.next_read;
        self.next_read += 1;
        self.reads.insert(request, purpose);
        self.disk_ops.push(DiskOp::Read { request, places });
    }

    pub(super) fn on_read(&mut self, purpose: Purpose, result: Vec<Result<Vec<u8>, DiskError>>) {
        match purpose {
            Purpose::Learn { group, peer } => self.on_learn_read(group, peer, result),
            Purpose::Entries { group, request, firsts } => {
                let next_index = self.groups[group as usize].apply.next_index;
                let answer = collect(result, &firsts, &request, next_index);
                self.answer(request.reply, answer);
            }
            Purpose::Machine { group, slots } => self.on_machine_read(group, &slots, result),
            Purpose::Gather { number, .. } => self.on_gather_read(number, result),
            Purpose::Leave { group } => self.on_leaving_read(group, result),
            Purpose::Part { slot, answer, reply, .. } => self.on_part_read(slot, answer, reply, result),
        }
    }

    fn on_learn_read(&mut self, at: u32, peer: u8, result: Vec<Result<Vec<u8>, DiskError>>) {
        let uid = self.groups[at as usize].names.uid;
        let mut values = Vec::new();
        for record in result {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(%error, "a chosen value cannot be read back");
                    break;
                }
            };
            let Some((header, body)) = read_back(&record).filter(|(header, _)| header.uid == uid) else { break };
            let Ok(value) = value_with(&header, body, Place::Owned(body.into())) else { break };
            values.push((Slot(header.numbers[0]), self.kept_by(at, peer, &value)));
        }
        let Some(through) = values.last().map(|(slot, _)| *slot) else { return };
        let mut records = Vec::new();
        let chosen = self.groups[at as usize].replica.log().chosen();
        for (slot, value) in values {
            wire::append_learned(&mut records, uid, slot, through, chosen, &value);
        }
        self.send_records(peer, records);
    }

    // ---- readers ----

    /// Reads committed entries, or waits for them.
    pub(crate) fn read(&mut self, id: GroupId, request: ReadRequest) {
        let Some(at) = self.group_at(id) else {
            let error = self.not_readable_here(id);
            self.answer(request.reply, Err(error));
            return;
        };
        if self.is_witness() {
            return self.answer(request.reply, Err(ReadError::Witness));
        }
        self.read_at(at, request);
    }

    fn read_at(&mut self, at: u32, request: ReadRequest) {
        let group = &mut self.groups[at as usize];
        let next_index = group.apply.next_index;
        if request.from_index >= next_index {
            if request.wait_until_ns > self.now_ns && !self.stopping {
                group.waiters.push(request);
                self.waiting.push(at);
            } else {
                let first_index = request.from_index;
                let none = CommittedEntries { first_index, next_index, ..CommittedEntries::default() };
                self.answer(request.reply, Ok(none));
            }
            return;
        }
        let first_index = group.first_index();
        if request.from_index < first_index {
            self.answer(request.reply, Err(ReadError::Trimmed { first_index }));
            return;
        }
        let start = group.indexes.partition_point(|(_, first)| *first <= request.from_index) - 1;
        let (slot, index) = group.indexes[start];
        let slots = group.indexes.slots(slot);
        if slots > 1 && request.whole {
            return self.gather_for_reader(at, start, request);
        }
        if slots > 1 {
            let parts = slots as u32;
            let large = CommittedEntries { first_index: index, next_index, parts, ..CommittedEntries::default() };
            return self.answer(request.reply, Ok(large));
        }
        if slot > group.replica.log().floor() {
            let answer = read_memory(group, start, &request);
            self.answer(request.reply, Ok(answer));
            return;
        }
        let (slots, places) = self.places_from(at, start, request.bytes_max);
        let firsts = slots.iter().map(|(_, first)| *first).collect();
        self.read_disk(places, Purpose::Entries { group: at, request, firsts });
    }

    /// The slots from position `start` of a group's indexes on, as far as about `bytes_max` go and they have left memory,
    /// and where they lie. What is in memory may be on its way to the disk still.
    fn places_from(&self, at: u32, start: usize, bytes_max: usize) -> (Vec<(Slot, u64)>, Vec<RecordPlace>) {
        let group = &self.groups[at as usize];
        let mut bytes = 0;
        let mut slots = Vec::new();
        let mut places = Vec::new();
        for (slot, first) in group.indexes.range(start..) {
            if *slot > group.replica.log().floor() || group.indexes.slots(*slot) > 1 {
                break;
            }
            let Some(place) = self.index.get(group.names.uid, slot.0) else { break };
            bytes += place.bytes as usize;
            if bytes > bytes_max && !slots.is_empty() {
                break;
            }
            slots.push((*slot, *first));
            places.push(place.record());
        }
        (slots, places)
    }

    pub(super) fn wake_readers(&mut self, at: u32) {
        if !self.groups[at as usize].waiters.is_empty() {
            for request in std::mem::take(&mut self.groups[at as usize].waiters) {
                self.read_at(at, request);
            }
        }
    }

    /// A group is no more: its readers are told, and what is being read for it is for nobody.
    pub(super) fn forget_reads(&mut self, at: u32, waiters: Vec<ReadRequest>, error: &ReadError) {
        let of = |purpose: &Purpose| match purpose {
            Purpose::Learn { group, .. } | Purpose::Entries { group, .. } | Purpose::Machine { group, .. } => *group,
            Purpose::Gather { group, .. } | Purpose::Part { group, .. } | Purpose::Leave { group } => *group,
        };
        let over = self.reads.extract_if(|_, purpose| of(purpose) == at).map(|(_, purpose)| purpose);
        let mut parts = Vec::new();
        let over = over.filter_map(|purpose| match purpose {
            Purpose::Entries { request, .. } => Some(request),
            Purpose::Part { reply, .. } => {
                parts.push(reply);
                None
            }
            Purpose::Learn { .. } | Purpose::Machine { .. } | Purpose::Gather { .. } | Purpose::Leave { .. } => None,
        });
        let over: Vec<ReadRequest> = over.chain(waiters).collect();
        for reply in parts {
            self.answer_part(reply, ReplyV1::Failed { text: error.to_string() });
        }
        over.into_iter().for_each(|request| self.answer(request.reply, Err(error.clone())));
    }

    /// Answers readers whose time is up. Groups without readers cost nothing.
    pub(super) fn expire_reads(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_unstable();
        waiting.dedup();
        for at in waiting {
            let now_ns = self.now_ns;
            let waiters = &self.groups[at as usize].waiters;
            if waiters.iter().any(|r| r.wait_until_ns <= now_ns) {
                self.wake_readers(at);
            } else if !waiters.is_empty() {
                self.waiting.push(at);
            }
        }
    }

    pub(super) fn answer(&mut self, reply: ReadReply, answer: Result<CommittedEntries, ReadError>) {
        match reply {
            ReadReply::Callback(reply) => reply(answer),
            ReadReply::Client(connection, request) => self.reply(connection, request, &read_reply(answer)),
        }
    }

    // ---- state machines that start behind ----

    /// Hands a machine what it lacks, out of the log, until it stands where the group stands.
    pub(super) fn feed_machine(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        let waits = group.feeding || group.checkpoints.restore.is_some() || group.still;
        if group.machine.is_none() || waits || group.machine_next >= group.apply.next_index {
            return;
        }
        if group.machine_next < group.first_index() {
            let (id, next, first) = (group.names.id, group.machine_next, group.first_index());
            if group.checkpoints.taken && !self.peers.is_empty() {
                mark(Mark::CheckpointLacks);
                tracing::error!(
                    group = id,
                    next,
                    first,
                    "the log no longer has what the state machine needs, and there is no intact checkpoint: the other \
                     nodes are asked for one"
                );
                group.checkpoints.lacks = true;
            } else {
                self.fatal = Some(format!(
                    "the state machine of group {id} needs index {next}, but the log begins at {first}: restore its data \
                     from a backup that holds index {} or later",
                    first - 1
                ));
            }
            return;
        }
        let start = group.indexes.partition_point(|(_, first)| *first <= group.machine_next) - 1;
        let (slot, _) = group.indexes[start];
        if group.indexes.slots(slot) > 1 {
            return self.gather_for_machine(at, start);
        }
        if slot > group.replica.log().floor() {
            mark(Mark::MachineFromMemory);
            self.feed_from_memory(at, start);
            return;
        }
        mark(Mark::MachineFromLog);
        group.feeding = true;
        let (slots, places) = self.places_from(at, start, READ_BYTES_MAX);
        self.read_disk(places, Purpose::Machine { group: at, slots });
    }

    fn feed_from_memory(&mut self, at: u32, start: usize) {
        let group = &mut self.groups[at as usize];
        for place in start..group.indexes.len() {
            let (slot, first) = group.indexes[place];
            if group.indexes.slots(slot) > 1 {
                return self.gather_for_machine(at, place);
            }
            let value = group.replica.log().get(slot).expect("it is above the floor").value.clone();
            let Body::Batch(payload) = &value.body else { unreachable!("only batches have indexes") };
            if let Err(reason) = payload.with_body(|body| group.feed_machine(slot, first, body)) {
                self.fatal = Some(reason);
                return;
            }
        }
    }

    fn on_machine_read(&mut self, at: u32, slots: &[(Slot, u64)], result: Vec<Result<Vec<u8>, DiskError>>) {
        let group = &mut self.groups[at as usize];
        group.feeding = false;
        for (record, (slot, first)) in result.into_iter().zip(slots) {
            let fed = record.map_err(|error| format!("group {} cannot be replayed: {error}", group.names.id)).and_then(
                |record| {
                    let (_, body) = read_back(&record).expect("the index points at values");
                    group.feed_machine(*slot, *first, body)
                },
            );
            if let Err(reason) = fed {
                self.fatal = Some(reason);
                return;
            }
        }
        self.feed_machine(at);
    }

    /// What one group looks like here.
    pub(crate) fn group_info(&self, at: u32) -> GroupInfoV1 {
        let group = &self.groups[at as usize];
        let (pinned_index, pins, pin_seconds) = self.pinned(at);
        let quorums = group.replica.quorums();
        GroupInfoV1 {
            phase_1: quorums.phase_1 as u32,
            phase_2: quorums.phase_2 as u32,
            group: group.names.id,
            leader: self.leader_of(at).unwrap_or(0),
            epoch: self.epoch_of(at).map_or(0, |e| e.number()),
            chosen_slot: group.replica.log().chosen().0,
            applied_slot: group.apply.slot.0,
            next_index: group.apply.next_index,
            first_index: group.first_index(),
            chain: group.apply.chain,
            elections: group.elections,
            configuration: group.replica.configuration().version,
            votes: group.replica.votes(),
            witness: group.replica.is_witness(),
            lease: self.holds_lease(at),
            checkpoint_index: group.checkpoints.index(),
            pinned_index,
            pins,
            pin_seconds,
            shard: self.shard.0 as u32,
        }
    }
}

fn value_bytes(body: &Body<Payload>) -> usize {
    match body {
        Body::Batch(payload) => payload.header().bytes as usize,
        Body::Noop | Body::EpochStart | Body::Configuration(_) => 0,
    }
}

/// Entries from position `start` of the group's indexes on, whose values are in memory.
fn read_memory(group: &Group, start: usize, request: &ReadRequest) -> CommittedEntries {
    let mut entries = Entries::new();
    for (slot, first) in group.indexes.range(start..).take_while(|(slot, _)| group.indexes.slots(*slot) == 1) {
        let Some(entry) = group.replica.log().get(*slot) else { break };
        let Body::Batch(payload) = &entry.value.body else { unreachable!("only batches have indexes") };
        let skip = request.from_index.saturating_sub(*first) as usize;
        payload.with_body(|body| {
            let batch = Batch::decode(body).expect("a batch is checked when it comes in");
            batch.iter().skip(skip).for_each(|entry| entries.append_one(entry));
        });
        if entries.body_bytes() > request.bytes_max {
            break;
        }
    }
    CommittedEntries { first_index: request.from_index, entries, next_index: group.apply.next_index, parts: 0 }
}

/// Entries out of records that were read back.
fn collect(
    result: Vec<Result<Vec<u8>, DiskError>>,
    firsts: &[u64],
    request: &ReadRequest,
    next_index: u64,
) -> Result<CommittedEntries, ReadError> {
    let mut entries = Entries::new();
    for (record, first) in result.into_iter().zip(firsts) {
        let record = record.map_err(|error| ReadError::Disk(error.to_string()))?;
        let batch = read_back(&record).and_then(|(_, body)| Batch::decode(body).ok());
        let batch = batch.ok_or_else(|| ReadError::Disk("a record is not what the index says".into()))?;
        let skip = request.from_index.saturating_sub(*first) as usize;
        batch.iter().skip(skip).for_each(|entry| entries.append_one(entry));
    }
    Ok(CommittedEntries { first_index: request.from_index, entries, next_index, parts: 0 })
}

/// The reply to a client's read.
pub(crate) fn read_reply(answer: Result<CommittedEntries, ReadError>) -> ReplyV1 {
    match answer {
        Ok(CommittedEntries { first_index, next_index, parts, .. }) if parts > 0 => {
            ReplyV1::InParts { index: first_index, parts, next_index }
        }
        Ok(CommittedEntries { first_index, entries, next_index, .. }) => {
            ReplyV1::Entries { first_index, next_index, ends: entries.ends, bytes: entries.bytes }
        }
        Err(ReadError::Trimmed { first_index }) => ReplyV1::Trimmed { first_index },
        Err(error) => ReplyV1::Failed { text: error.to_string() },
    }
}
