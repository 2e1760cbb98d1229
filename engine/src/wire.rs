//! The group messages on the wire.
//!
//! A wire frame of kind [`RECORDS`] is a run of records, each with the header of `synod_wal::record`: an Accept is
//! the very record that the leader's log holds. [`ACKS`] is a list of fixed-size acknowledgements, [`HEARTBEAT`] and
//! [`HEARTBEAT_ACK`] belong to the pair of shards, and so does [`LANE`]. Everything that comes in is checked here:
//! what is decoded is legal.

use synod_core::{Ballot, Body, Message, Slot, Value, Vote};
use synod_wal::record::{RecordHeader, body_crc};

use crate::apply::ApplyState;
use crate::batch::Batch;
use crate::checkpoint::message::{self, CheckpointMessage};
use crate::configuration;
use crate::large::PartOf;
use crate::payload::{BatchHeader, Payload, Place};

pub(crate) mod introductions;
pub(crate) mod points;

/// Wire frame kind: a run of records that bear their own checksums.
pub(crate) const RECORDS: u8 = 3;
/// Wire frame kind: acknowledgements.
pub(crate) const ACKS: u8 = 4;
/// Wire frame kind: a heartbeat of the sender's shard.
pub(crate) const HEARTBEAT: u8 = 5;
/// Wire frame kind: the answer to a heartbeat.
pub(crate) const HEARTBEAT_ACK: u8 = 6;
/// Wire frame kind: a client's request.
pub(crate) const CLIENT_REQUEST: u8 = 7;
/// Wire frame kind: the reply to a client.
pub(crate) const CLIENT_REPLY: u8 = 8;

/// Wire frame kind: where the sender's shard takes datagrams, and what these must bear.
pub(crate) const LANE: u8 = 9;

/// What a heartbeat over a connection says in `support`: its sender takes datagrams.
pub(crate) const TAKES_DATAGRAMS: u64 = 1;

/// The version of all record layouts.
pub(crate) const RECORD_VERSION: u16 = 8;

/// Record kinds. The first five are found in the log too, and the two behind them only there.
pub(crate) mod kind {
    pub(crate) const ACCEPT: u8 = 1;
    pub(crate) const PROMISE: u8 = 2;
    pub(crate) const LEARNED: u8 = 3;
    pub(crate) const CHOSEN: u8 = 4;
    pub(crate) const SUMMARY: u8 = 5;
    pub(crate) const ARRIVAL: u8 = 6;
    pub(crate) const READABLE: u8 = 7;
    pub(crate) const PREPARE: u8 = 16;
    pub(crate) const PROMISED: u8 = 17;
    pub(crate) const REPORT: u8 = 18;
    pub(crate) const PRE_VOTE: u8 = 20;
    pub(crate) const PRE_VOTE_REPLY: u8 = 21;
    pub(crate) const EXPECTED: u8 = 22;
    pub(crate) const REJECT: u8 = 23;
    pub(crate) const COMMIT: u8 = 24;
    pub(crate) const LEARN_REQUEST: u8 = 25;
    pub(crate) const BEHIND: u8 = 26;
    pub(crate) const RESIGN: u8 = 27;
    pub(crate) const STATE: u8 = 28;
    pub(crate) const CAMPAIGN: u8 = 44;
    pub(crate) const NAMED: u8 = 45;
    pub(crate) const APPLIED: u8 = 46;
}

const NOOP: u8 = 0;
const EPOCH_START: u8 = 1;
pub(crate) const BATCH: u8 = 2;
pub(crate) const CONFIGURATION: u8 = 3;
/// A part of a large entry; `entries` says which.
pub(crate) const PART: u8 = 4;
/// What a witness keeps of a batch: the header says the same, and the body says how long the batch's is, and its checksum.
pub(crate) const BATCH_STUB: u8 = 5;
/// The same of a part.
pub(crate) const PART_STUB: u8 = 6;

/// Bytes that are no legal message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed message: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// What a record with a value says, whatever its kind.
#[derive(Debug)]
pub(crate) struct ValueFields {
    pub(crate) slot: Slot,
    pub(crate) ballot: Ballot,
    pub(crate) first: Slot,
    pub(crate) chosen: Slot,
}

/// The header of a record that holds a value. Its numbers: slot, ballot, origin, first, chosen, client, sequence.
pub(crate) fn value_header(kind: u8, uid: u128, fields: &ValueFields, value: &Value<Payload>) -> RecordHeader {
    let (flags, batch) = match &value.body {
        Body::Noop => (NOOP, BatchHeader::default()),
        Body::EpochStart => (EPOCH_START, BatchHeader::default()),
        Body::Batch(payload) => {
            let mut batch = payload.header();
            let stub = stub_body(value);
            if let Some(stub) = &stub {
                (batch.bytes, batch.crc) = (stub.len() as u32, body_crc(&[stub]));
            }
            match batch.part {
                Some(part) => {
                    (if stub.is_some() { PART_STUB } else { PART }, BatchHeader { entries: part.pack(), ..batch })
                }
                None => (if stub.is_some() { BATCH_STUB } else { BATCH }, batch),
            }
        }
        Body::Configuration(configuration) => {
            let bytes = configuration::encode(configuration);
            let (len, crc) = (bytes.len() as u32, body_crc(&[&bytes]));
            (CONFIGURATION, BatchHeader { bytes: len, crc, ..BatchHeader::default() })
        }
    };
    RecordHeader {
        kind,
        flags,
        version: RECORD_VERSION,
        body_len: batch.bytes,
        uid,
        numbers: [
            fields.slot.0,
            fields.ballot.pack(),
            value.origin.pack(),
            fields.first.0,
            fields.chosen.0,
            batch.client,
            batch.sequence,
        ],
        entries: batch.entries,
        body_crc: batch.crc,
    }
}

/// What the sender of a chosen value knows to be chosen; 0: it does not say.
pub(crate) fn value_chosen(header: &RecordHeader) -> Slot {
    Slot(header.numbers[4])
}

/// Appends a chosen value for one who has asked, of an answer that goes up to `through`. Its sender knows that all up to
/// `chosen` is chosen.
pub(crate) fn append_learned(
    out: &mut Vec<u8>,
    uid: u128,
    slot: Slot,
    through: Slot,
    chosen: Slot,
    value: &Value<Payload>,
) {
    let fields = ValueFields { slot, ballot: Ballot::ZERO, first: through, chosen };
    append_value(out, &value_header(kind::LEARNED, uid, &fields, value), value);
}

/// The body of a stub's record, if the value is one.
pub(crate) fn stub_body(value: &Value<Payload>) -> Option<[u8; 8]> {
    let Body::Batch(payload) = &value.body else { return None };
    let BatchHeader { bytes, crc, .. } = payload.header();
    value.is_stub().then(|| (u64::from(crc) << 32 | u64::from(bytes)).to_le_bytes())
}

/// Length and checksum of the batch of which a stub has this body.
fn stubbed(body: &[u8]) -> Result<(u32, u32), Malformed> {
    let number = u64::from_le_bytes(body.try_into().map_err(|_| Malformed("the length of a stub"))?);
    Ok((number as u32, (number >> 32) as u32))
}

/// What the batch's own checksum is, of a record that holds a value: the body's, or what a stub says.
#[cfg(feature = "simulation")]
pub(crate) fn batch_crc(header: &RecordHeader, body: &[u8]) -> u32 {
    match header.flags {
        BATCH_STUB | PART_STUB => stubbed(body).map_or(0, |(_, crc)| crc),
        _ => header.body_crc,
    }
}

/// The header of a record without a value.
pub(crate) fn plain_header(kind: u8, uid: u128, numbers: [u64; 7]) -> RecordHeader {
    RecordHeader { kind, flags: 0, version: RECORD_VERSION, body_len: 0, uid, numbers, entries: 0, body_crc: 0 }
}

/// The value of a record whose body is `body` and stays at `place`.
pub(crate) fn value_with(header: &RecordHeader, body: &[u8], place: Place) -> Result<Value<Payload>, Malformed> {
    let [_, _, origin, _, _, client, sequence] = header.numbers;
    let body = match header.flags {
        NOOP if header.body_len == 0 => Body::Noop,
        EPOCH_START if header.body_len == 0 => Body::EpochStart,
        BATCH if header.entries > 0 => {
            let (entries, bytes, crc) = (header.entries, header.body_len, header.body_crc);
            Body::Batch(Payload::new(BatchHeader { entries, bytes, crc, client, sequence, part: None }, place))
        }
        PART => {
            let (bytes, crc) = (header.body_len, header.body_crc);
            let part = PartOf::unpack(header.entries, bytes).ok_or(Malformed("the part of an entry"))?;
            let batch = BatchHeader { entries: 1, bytes, crc, client, sequence, part: Some(part) };
            Body::Batch(Payload::new(batch, place))
        }
        BATCH_STUB if header.entries > 0 => {
            let (bytes, crc) = stubbed(body)?;
            let batch = BatchHeader { entries: header.entries, bytes, crc, client, sequence, part: None };
            Body::Batch(Payload::new(batch, Place::Stub))
        }
        PART_STUB => {
            let (bytes, crc) = stubbed(body)?;
            let part = PartOf::unpack(header.entries, bytes).ok_or(Malformed("the part of an entry"))?;
            let batch = BatchHeader { entries: 1, bytes, crc, client, sequence, part: Some(part) };
            Body::Batch(Payload::new(batch, Place::Stub))
        }
        CONFIGURATION => {
            let configuration = configuration::decode(body).ok_or(Malformed("the configuration"))?;
            Body::Configuration(Box::new(configuration))
        }
        _ => return Err(Malformed("the kind of value")),
    };
    Ok(Value { origin: Ballot::unpack(origin), body })
}

/// Appends a whole record to `out`, padded.
pub(crate) fn append_record(out: &mut Vec<u8>, header: &RecordHeader, body: &[&[u8]]) {
    let start = out.len();
    out.extend_from_slice(&header.encode());
    body.iter().for_each(|part| out.extend_from_slice(part));
    assert!(out.len() - start == header.encode().len() + header.body_len as usize);
    out.resize(start + header.record_bytes(), 0);
}

/// Appends a record that holds a value, with the bytes of its batch.
pub(crate) fn append_value(out: &mut Vec<u8>, header: &RecordHeader, value: &Value<Payload>) {
    if let Some(stub) = stub_body(value) {
        return append_record(out, header, &[&stub]);
    }
    match &value.body {
        Body::Batch(payload) => payload.with_parts(&[], |parts| append_record(out, header, parts)),
        Body::Configuration(configuration) => append_record(out, header, &[&configuration::encode(configuration)]),
        Body::Noop | Body::EpochStart => append_record(out, header, &[]),
    }
}

/// Appends a message. An Accept goes its own way, as a reference to the log's frame, where it is in one.
pub(crate) fn append_message(out: &mut Vec<u8>, uid: u128, message: &Message<Payload>) {
    let (kind, numbers) = match message {
        Message::Accept { ballot, first, slot, chosen, value } => {
            let fields = ValueFields { slot: *slot, ballot: *ballot, first: *first, chosen: *chosen };
            let header = value_header(kind::ACCEPT, uid, &fields, value);
            return append_value(out, &header, value);
        }
        Message::Learned { slot, through, value } => {
            return append_learned(out, uid, *slot, *through, Slot::ZERO, value);
        }
        Message::PreVote { ballot, version } => (kind::PRE_VOTE, [*version, ballot.pack(), 0, 0, 0, 0, 0]),
        Message::PreVoteReply { ballot, granted, promised } => {
            (kind::PRE_VOTE_REPLY, [0, ballot.pack(), promised.pack(), u64::from(*granted), 0, 0, 0])
        }
        Message::Expected { ballot, next } => (kind::EXPECTED, [next.0, ballot.pack(), 0, 0, 0, 0, 0]),
        Message::Reject { ballot, promised } => (kind::REJECT, [0, ballot.pack(), promised.pack(), 0, 0, 0, 0]),
        Message::Commit { ballot, first, chosen, low, stalled } => {
            (kind::COMMIT, [0, ballot.pack(), low.0, first.0, chosen.0, u64::from(*stalled), 0])
        }
        Message::LearnRequest { from } => (kind::LEARN_REQUEST, [from.0, 0, 0, 0, 0, 0, 0]),
        Message::Behind { chosen } => (kind::BEHIND, [0, 0, 0, 0, chosen.0, 0, 0]),
        Message::Resign { ballot } => (kind::RESIGN, [0, ballot.pack(), 0, 0, 0, 0, 0]),
        Message::Campaign { ballot } => (kind::CAMPAIGN, [0, ballot.pack(), 0, 0, 0, 0, 0]),
    };
    append_record(out, &plain_header(kind, uid, numbers), &[]);
}

/// Appends a vote that is no acknowledgement, with the end of the durable log that it rests on; a report bears none,
/// since its promise does.
pub(crate) fn append_vote(out: &mut Vec<u8>, uid: u128, vote: &Vote<Payload>, log_end: u64) {
    let (kind, numbers) = match vote {
        Vote::Prepare { ballot, attempt, version, order } => {
            (kind::PREPARE, [*version, ballot.pack(), 0, log_end, 0, u64::from(*attempt), order.pack()])
        }
        Vote::Promise { ballot, attempt, chosen, reports } => {
            (kind::PROMISED, [0, ballot.pack(), 0, log_end, chosen.0, u64::from(*attempt), u64::from(*reports)])
        }
        Vote::Report { ballot, attempt, slot, accepted, value } => {
            // The session stays in its place; the two ballots and the attempt take the others.
            let fields = ValueFields {
                slot: *slot,
                ballot: *ballot,
                first: Slot(accepted.pack()),
                chosen: Slot(u64::from(*attempt)),
            };
            let header = value_header(kind::REPORT, uid, &fields, value);
            return append_value(out, &header, value);
        }
        Vote::Accepted { .. } => unreachable!("acknowledgements have a list of their own"),
    };
    append_record(out, &plain_header(kind, uid, numbers), &[]);
}

/// What a record on the wire says.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Message<Payload>),
    /// A vote, and the end of the durable log that it rests on; 0 when it bears none.
    Vote(Vote<Payload>, u64),
    /// What the chosen slots of a group did, for one who lacks them.
    State(ApplyState),
    /// About checkpoints.
    Checkpoint(CheckpointMessage),
    /// The replica that the sender is in this group, whatever else was said of its shard.
    Named(u128),
    /// The chained checksum of the sender's apply state behind a slot.
    Applied {
        slot: Slot,
        chain: u32,
    },
}

/// Appends the chained checksum of the apply state behind a slot.
pub(crate) fn append_applied(out: &mut Vec<u8>, uid: u128, slot: Slot, chain: u32) {
    append_record(out, &plain_header(kind::APPLIED, uid, [slot.0, 0, u64::from(chain), 0, 0, 0, 0]), &[]);
}

/// Appends that the sender is this replica in a group.
pub(crate) fn append_named(out: &mut Vec<u8>, uid: u128, replica: u128) {
    append_record(out, &plain_header(kind::NAMED, uid, [replica as u64, 0, (replica >> 64) as u64, 0, 0, 0, 0]), &[]);
}

/// Appends what the chosen slots of a group did up to `state.slot`.
pub(crate) fn append_state(out: &mut Vec<u8>, uid: u128, state: &ApplyState) {
    let mut body = Vec::new();
    state.encode(&mut body);
    let plain = plain_header(kind::STATE, uid, [state.slot.0, 0, 0, 0, 0, 0, 0]);
    let header = RecordHeader { body_len: body.len() as u32, body_crc: body_crc(&[&body]), ..plain };
    append_record(out, &header, &[&body]);
}

fn decode_state(slot: u64, body: &[u8]) -> Option<ApplyState> {
    let (chunks, rest) = body.as_chunks::<8>();
    let mut numbers = chunks.iter().map(|n| u64::from_le_bytes(*n));
    let state = ApplyState::decode(&mut numbers)?;
    (rest.is_empty() && numbers.next().is_none() && state.slot == Slot(slot)).then_some(state)
}

/// Decodes a record whose header and body CRCs were checked. `body` is the range of its body in the receive buffer
/// `buffer`; an Accept's batch stays there until it is stored.
pub(crate) fn decode_record(
    header: &RecordHeader,
    buffer: &[u8],
    body: std::ops::Range<usize>,
) -> Result<Incoming, Malformed> {
    if header.version != RECORD_VERSION {
        return Err(Malformed("the record's version"));
    }
    let [a, ballot, c, d, e, f, g] = header.numbers;
    let ballot = Ballot::unpack(ballot);
    let attempt = |n: u64| u32::try_from(n).map_err(|_| Malformed("the attempt"));
    let checked_value = |place: Place| {
        let value = value_with(header, &buffer[body.clone()], place)?;
        if let Body::Batch(payload) = &value.body
            && payload.header().part.is_none()
            && !value.is_stub()
        {
            let batch = Batch::decode(&buffer[body.clone()]).map_err(|_| Malformed("the batch"))?;
            if batch.len() != payload.header().entries as usize {
                return Err(Malformed("the number of entries"));
            }
        }
        Ok(value)
    };
    let owned = || Place::Owned(buffer[body.clone()].into());
    let message = match header.kind {
        kind::ACCEPT => Message::Accept {
            ballot,
            first: Slot(d),
            slot: Slot(a),
            chosen: Slot(e),
            value: checked_value(Place::Received(body.clone()))?,
        },
        kind::LEARNED => {
            Message::Learned { slot: Slot(a), through: Slot(d), value: checked_value(Place::Received(body.clone()))? }
        }
        kind::PRE_VOTE => Message::PreVote { ballot, version: a },
        kind::PRE_VOTE_REPLY => Message::PreVoteReply { ballot, granted: d == 1, promised: Ballot::unpack(c) },
        kind::EXPECTED => Message::Expected { ballot, next: Slot(a) },
        kind::REJECT => Message::Reject { ballot, promised: Ballot::unpack(c) },
        kind::COMMIT => Message::Commit { ballot, first: Slot(d), chosen: Slot(e), low: Slot(c), stalled: f == 1 },
        kind::LEARN_REQUEST => Message::LearnRequest { from: Slot(a) },
        kind::BEHIND => Message::Behind { chosen: Slot(e) },
        kind::RESIGN => Message::Resign { ballot },
        kind::CAMPAIGN => Message::Campaign { ballot },
        kind::STATE => {
            let state = decode_state(a, &buffer[body.clone()]).ok_or(Malformed("the state of a group"))?;
            return Ok(Incoming::State(state));
        }
        kind::PREPARE => {
            let vote = Vote::Prepare { ballot, attempt: attempt(f)?, version: a, order: Ballot::unpack(g) };
            return Ok(Incoming::Vote(vote, d));
        }
        kind::PROMISED => {
            let (chosen, reports) = (Slot(e), attempt(g)?);
            return Ok(Incoming::Vote(Vote::Promise { ballot, attempt: attempt(f)?, chosen, reports }, d));
        }
        kind::REPORT => {
            let (slot, accepted, attempt) = (Slot(a), Ballot::unpack(d), attempt(e)?);
            let value = checked_value(owned())?;
            return Ok(Incoming::Vote(Vote::Report { ballot, attempt, slot, accepted, value }, 0));
        }
        kind::NAMED => return Ok(Incoming::Named(u128::from(c) << 64 | u128::from(a))),
        kind::APPLIED => {
            let chain = u32::try_from(c).map_err(|_| Malformed("the chained checksum"))?;
            return Ok(Incoming::Applied { slot: Slot(a), chain });
        }
        kind if message::KINDS.contains(&kind) => {
            return CheckpointMessage::decode(header, &buffer[body]).map(Incoming::Checkpoint);
        }
        _ => return Err(Malformed("the kind of record")),
    };
    Ok(Incoming::Message(message))
}

/// One acknowledgement: 48 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ack {
    pub(crate) uid: u128,
    pub(crate) ballot: Ballot,
    pub(crate) up_to: Slot,
    pub(crate) stable: Slot,
    /// How long the follower's log took to make the votes durable, in microseconds.
    pub(crate) wal_us: u32,
}

/// The bytes of one [`Ack`].
pub(crate) const ACK_BYTES: usize = 48;

impl Ack {
    pub(crate) fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.uid.to_le_bytes());
        for number in [self.ballot.pack(), self.up_to.0, self.stable.0, u64::from(self.wal_us)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// What a frame's body says: the end of the durable log that the votes rest on, and the acknowledgements.
    pub(crate) fn decode_all(body: &[u8]) -> Result<(u64, impl Iterator<Item = Self> + '_), Malformed> {
        let (log_end, acks) = body.split_first_chunk::<8>().ok_or(Malformed("the end of the log"))?;
        let (acks, rest) = acks.as_chunks::<ACK_BYTES>();
        if !rest.is_empty() {
            return Err(Malformed("the length of a list of acknowledgements"));
        }
        let acks = acks.iter().map(|ack| {
            let number = |at: usize| u64::from_le_bytes(ack[at..at + 8].try_into().expect("eight bytes"));
            Self {
                uid: u128::from_le_bytes(ack[..16].try_into().expect("sixteen bytes")),
                ballot: Ballot::unpack(number(16)),
                up_to: Slot(number(24)),
                stable: Slot(number(32)),
                wal_us: number(40) as u32,
            }
        });
        Ok((u64::from_le_bytes(*log_end), acks))
    }
}

/// A heartbeat or its answer: the sender's clock, echoed, and how far its log has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heartbeat {
    /// The asker's clock in nanoseconds; the answer bears it back.
    pub(crate) sent_ns: u64,
    /// The sender's log is durable through this sequence.
    pub(crate) wal_sequence: u64,
    /// The sender's disk has no room for more of its log: it takes no proposals.
    pub(crate) full: bool,
    /// In an answer: the epoch of the support that it grants. In a question: [`TAKES_DATAGRAMS`], or 0.
    pub(crate) support: u64,
}

impl Heartbeat {
    pub(crate) fn encode(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..8].copy_from_slice(&self.sent_ns.to_le_bytes());
        out[8..16].copy_from_slice(&self.wal_sequence.to_le_bytes());
        out[16] = u8::from(self.full);
        out[24..].copy_from_slice(&self.support.to_le_bytes());
        out
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let body: &[u8; 32] = body.try_into().map_err(|_| Malformed("the length of a heartbeat"))?;
        let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
        if number(16) > 1 {
            return Err(Malformed("the flags of a heartbeat"));
        }
        Ok(Self { sent_ns: number(0), wal_sequence: number(8), full: number(16) == 1, support: number(24) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use synod_core::MemberId;
    use synod_wal::record::{RECORD_HEADER_BYTES, body_crc};

    use super::*;
    use crate::apply::Effect;
    use crate::batch::Entries;
    use crate::sessions::command::Command;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, member: MemberId(3) }
    }

    fn batch() -> Value<Payload> {
        let mut entries = Entries::one(b"hello").unwrap();
        entries.push(b"world").unwrap();
        let mut scratch = Vec::new();
        let parts = entries.parts(&mut scratch);
        let header = BatchHeader {
            entries: 2,
            bytes: entries.body_bytes() as u32,
            crc: body_crc(&parts),
            client: 9,
            sequence: 4,
            part: None,
        };
        Value { origin: ballot(2), body: Body::Batch(Payload::new(header, Place::Closed(entries.clone()))) }
    }

    fn part(part: PartOf) -> Value<Payload> {
        let (bytes, crc) = (5, body_crc(&[b"hello"]));
        let header = BatchHeader { entries: 1, bytes, crc, client: 9, sequence: 4, part: Some(part) };
        let entry = std::rc::Rc::new(b"say hello".to_vec());
        Value { origin: ballot(2), body: Body::Batch(Payload::new(header, Place::Part(entry, 4..9))) }
    }

    #[test]
    fn parts_come_back() {
        let sent = PartOf { number: 3, count: 200 };
        let message =
            Message::Accept { ballot: ballot(2), first: Slot(1), slot: Slot(5), chosen: Slot(3), value: part(sent) };
        let mut bytes = Vec::new();
        append_message(&mut bytes, 77, &message);
        let Incoming::Message(Message::Accept { value, .. }) = decode(&bytes) else { panic!("an Accept") };
        let Body::Batch(payload) = &value.body else { panic!("a batch") };
        let header = payload.header();
        assert_eq!((header.part, header.bytes, header.client, header.sequence), (Some(sent), 5, 9, 4));
        payload.with_parts(&bytes, |parts| assert_eq!(parts.concat(), b"hello"));
    }

    #[test]
    fn stubs_come_back_without_a_byte_of_the_batch() {
        for whole in [batch(), part(PartOf { number: 3, count: 200 })] {
            let (Body::Batch(payload), sent) = (&whole.body, whole.stub()) else { panic!("a batch") };
            let message = Message::Accept {
                ballot: ballot(2),
                first: Slot(1),
                slot: Slot(5),
                chosen: Slot(3),
                value: sent.clone(),
            };
            let mut bytes = Vec::new();
            append_message(&mut bytes, 77, &message);
            assert!(!bytes.windows(5).any(|window| window == b"hello"));
            let Incoming::Message(Message::Accept { value, .. }) = decode(&bytes) else { panic!("an Accept") };
            let Body::Batch(stub) = &value.body else { panic!("a batch") };
            assert!(value.is_stub() && value.origin == whole.origin);
            assert_eq!(stub.header(), payload.header());
            let mut again = Vec::new();
            append_value(&mut again, &RecordHeader::decode(&bytes).unwrap(), &value);
            assert_eq!(again, bytes);
        }
    }

    fn decode(bytes: &[u8]) -> Incoming {
        let header = RecordHeader::decode(bytes).unwrap();
        let body = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.body_len as usize;
        header.check_body(&bytes[body.clone()]).unwrap();
        decode_record(&header, bytes, body).unwrap()
    }

    /// Encoding what was decoded gives the same bytes.
    fn check_message(message: &Message<Payload>) {
        let mut bytes = Vec::new();
        append_message(&mut bytes, 77, message);
        let Incoming::Message(decoded) = decode(&bytes) else { panic!("a message") };
        assert_eq!(std::mem::discriminant(&decoded), std::mem::discriminant(message));
        match (&decoded, message) {
            (Message::Accept { slot, .. } | Message::Learned { slot, .. }, _) => assert_eq!(*slot, Slot(5)),
            _ => {
                let mut again = Vec::new();
                append_message(&mut again, 77, &decoded);
                assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn every_message_comes_back() {
        let (b, p) = (ballot(7), ballot(8));
        check_message(&Message::Accept { ballot: b, first: Slot(1), slot: Slot(5), chosen: Slot(3), value: batch() });
        check_message(&Message::Learned { slot: Slot(5), through: Slot(6), value: batch() });
        check_message(&Message::PreVote { ballot: b, version: 3 });
        check_message(&Message::Behind { chosen: Slot(4) });
        check_message(&Message::PreVoteReply { ballot: b, granted: true, promised: p });
        check_message(&Message::Expected { ballot: b, next: Slot(4) });
        check_message(&Message::Reject { ballot: b, promised: p });
        check_message(&Message::Commit { ballot: b, first: Slot(1), chosen: Slot(2), low: Slot(1), stalled: true });
        check_message(&Message::LearnRequest { from: Slot(4) });
        check_message(&Message::Resign { ballot: b });
        check_message(&Message::Campaign { ballot: b });
    }

    #[test]
    fn every_vote_comes_back() {
        for vote in [
            Vote::Prepare { ballot: ballot(7), attempt: 3, version: 2, order: ballot(6) },
            Vote::Promise { ballot: ballot(7), attempt: 3, chosen: Slot(9), reports: 2 },
            Vote::Report { ballot: ballot(7), attempt: 3, slot: Slot(5), accepted: ballot(6), value: batch() },
        ] {
            let mut bytes = Vec::new();
            append_vote(&mut bytes, 77, &vote, 12);
            let Incoming::Vote(decoded, log_end) = decode(&bytes) else { panic!("a vote") };
            assert_eq!(log_end, if matches!(decoded, Vote::Report { .. }) { 0 } else { 12 });
            let mut again = Vec::new();
            append_vote(&mut again, 77, &decoded, 12);
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn sessions_survive_a_state_message() {
        let value = |body| Value { origin: ballot(1), body };
        let batch = |(client, sequence)| BatchHeader { entries: 1, client, sequence, ..BatchHeader::default() };
        let mut state = ApplyState::default();
        state.apply_header(Slot(1), &value(Body::EpochStart));
        state.apply_header(Slot(2), &value(Body::Batch(batch(Command::Open { sessions_max: 8 }.header()))));
        state.apply_header(Slot(3), &value(Body::Batch(batch((2, 1)))));
        let mut bytes = Vec::new();
        append_state(&mut bytes, 77, &state);
        let Incoming::State(mut taken) = decode(&bytes) else { panic!("a state") };
        assert_eq!(taken, state);
        let again = taken.apply_header(Slot(4), &value(Body::Batch(batch((2, 1)))));
        assert_eq!(again, Effect::Duplicate(Some((Slot(3), 1))));
    }

    #[test]
    fn acks_and_heartbeats_come_back() {
        let ack = Ack { uid: 5, ballot: ballot(7), up_to: Slot(9), stable: Slot(8), wal_us: 120 };
        let mut bytes = 12u64.to_le_bytes().to_vec();
        ack.append(&mut bytes);
        ack.append(&mut bytes);
        let (log_end, acks) = Ack::decode_all(&bytes).unwrap();
        assert_eq!((log_end, acks.collect::<Vec<_>>()), (12, vec![ack, ack]));
        assert!(Ack::decode_all(&bytes[1..]).is_err());
        let heartbeat = Heartbeat { sent_ns: 5, wal_sequence: 6, full: true, support: 7 };
        assert_eq!(Heartbeat::decode(&heartbeat.encode()), Ok(heartbeat));
    }

    proptest! {
        #[test]
        fn random_records_never_panic(
            kind in 0u8..48, flags in 0u8..8, numbers in any::<[u64; 7]>(), entries in prop_oneof![0u32..5, 0x20000u32..0x50005],
            body in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let header = RecordHeader {
                kind, flags, version: RECORD_VERSION, body_len: body.len() as u32, uid: 1, numbers, entries,
                body_crc: body_crc(&[&body]),
            };
            let _ = decode_record(&header, &body, 0..body.len());
            let _ = Heartbeat::decode(&body);
            let _ = Ack::decode_all(&body).map(|(_, acks)| acks.count());
        }
    }
}
