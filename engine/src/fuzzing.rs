//! The door for fuzzers: what decodes bytes from disk and wire, without a shard around it, and legal bytes to start from.
//!
//! Each `recode_*` decodes as production does and encodes what came out; `None` when the bytes were refused. So a fuzzer
//! sees panics, memory, and whether what is decoded survives another round.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use synod_core::{
    Ballot, Body, Configuration, MemberId, Message, Payload as _, Record, Replica, ReplicaId, Slot, Value, Vote,
};
use synod_wal::ops::RecordPlace;
use synod_wal::record::{RECORD_HEADER_BYTES, RecordHeader, Records, body_crc};

use crate::apply::ApplyState;
use crate::batch::Entries;
use crate::checkpoint::format::{Decoder, Encoder, Head};
use crate::checkpoint::packs;
use crate::config::{Config, Member};
use crate::introductions::Introduction;
use crate::large::PartOf;
use crate::limits::{WINDOW_BYTES, WINDOW_SLOTS};
use crate::meta::{MetaV7, decode_meta, encode_meta};
use crate::payload::{BatchHeader, Payload, Place};
use crate::persist::{Summary, record_header};
use crate::recovery::Recoverer;
use crate::wire::{Ack, Heartbeat, Incoming, append_applied, append_message, append_named, append_state, append_vote};
use crate::wire::{decode_record, introductions};

/// The group of all specimens.
pub const UID: u128 = 77;
/// The cluster of all specimens.
const CLUSTER: u128 = 7;

/// The body of a peer's frame of records: prepares, promises, reports, accepts, and all other group messages.
pub fn recode_messages(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for record in Records::new(body) {
        let (header, record_body, range) = record.ok()?;
        let start = range.start + RECORD_HEADER_BYTES;
        match decode_record(&header, body, start..start + record_body.len()).ok()? {
            Incoming::Message(message) => append_message(&mut out, header.uid, &placed(message, body)),
            Incoming::Vote(vote, log_end) => append_vote(&mut out, header.uid, &vote, log_end),
            Incoming::State(state) => append_state(&mut out, header.uid, &state),
            Incoming::Checkpoint(message) => message.append(header.uid, &mut out),
            Incoming::Named(replica) => append_named(&mut out, header.uid, replica),
            Incoming::Applied { slot, chain } => append_applied(&mut out, header.uid, slot, chain),
        }
    }
    Some(out)
}

/// The body of a peer's frame of acknowledgements.
pub fn recode_acks(body: &[u8]) -> Option<Vec<u8>> {
    let (log_end, acks) = Ack::decode_all(body).ok()?;
    let mut out = log_end.to_le_bytes().to_vec();
    acks.for_each(|ack| ack.append(&mut out));
    Some(out)
}

/// The body of a heartbeat or its answer.
pub fn recode_heartbeat(body: &[u8]) -> Option<Vec<u8>> {
    Heartbeat::decode(body).ok().map(|heartbeat| heartbeat.encode().to_vec())
}

/// The body of a peer's frame of introductions.
pub fn recode_introductions(body: &[u8]) -> Option<Vec<u8>> {
    introductions::decode(body).ok().map(|list| introductions::encode(&list))
}

/// A group's summary in the log: header and body of its record.
pub fn recode_summary(header: &RecordHeader, body: &[u8]) -> Option<(RecordHeader, Vec<u8>)> {
    Summary::decode(header, body).map(|summary| summary.encode(header.uid))
}

/// The meta file of a node's directory.
pub fn recode_meta(bytes: &[u8]) -> Option<Vec<u8>> {
    decode_meta(bytes).ok().map(|meta| encode_meta(&meta))
}

/// The file of a checkpoint: head, chunks and end.
pub fn recode_checkpoint(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = Decoder::open(bytes, CLUSTER, UID).ok()?;
    let mut data = Vec::new();
    decoder.read_to_end(&mut data).ok()?;
    Some(encode_checkpoint(&decoder.head, &data))
}

fn encode_checkpoint(head: &Head, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    let mut encoder = Encoder::new(head, &mut out).expect("memory takes all");
    encoder.write_all(data).and_then(|()| encoder.finish()).expect("memory takes all");
    bytes
}

/// Where the members of a pack of checkpoints lie: offset and length.
pub fn find_packed(bytes: &[u8]) -> Vec<(u64, u64)> {
    let read = |offset: u64, most: usize| {
        let start = (offset as usize).min(bytes.len());
        Ok(bytes[start..bytes.len().min(start + most)].to_vec())
    };
    let members = packs::members(bytes.len() as u64, read).expect("memory can be read");
    members.iter().map(|member| (member.offset, member.bytes)).collect()
}

/// A node's configuration: read, checked, and asked for all that a start asks it for.
pub fn recode_config(text: &str) -> Option<String> {
    let config: Config = toml::from_str(text).ok()?;
    config.validate().ok()?;
    assert!(config.nodes().contains(&config.node), "a node is one of its members");
    assert!(config.members.iter().any(|member| member.address == config.address()));
    for group in [1, config.groups] {
        assert_ne!(config.group_uid(group), 0, "no group is called 0");
        let _ = config.prefers(group);
    }
    Some(toml::to_string(&config).expect("a configuration that was read can be written"))
}

/// What the records of a log come to for one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// The promise, packed.
    pub promised: u64,
    /// The chosen prefix, which is applied.
    pub chosen: u64,
    /// The last slot that holds a value.
    pub last: u64,
    /// The index that the next entry gets.
    pub next_index: u64,
}

/// Replays records as recovery does, then starts the replica of the group `uid` from them. `None` when a record makes no
/// sense or a slot is missing.
pub fn replay<'a>(uid: u128, records: impl Iterator<Item = (RecordPlace, RecordHeader, &'a [u8])>) -> Option<Replayed> {
    let mut recoverer = Recoverer::default();
    for (place, header, body) in records {
        recoverer.record(place, &header, body);
    }
    if recoverer.malformed.is_some() {
        return None;
    }
    let (state, recovered) = recoverer.finish(1, uid).ok()?;
    // Stubs are a witness's.
    let witness = state.entries.iter().any(|(_, value)| value.is_stub());
    let voters = [(1, ReplicaId(1)), (2, ReplicaId(2)), (3, ReplicaId(3).of_kind(true))];
    let config = synod_core::Config {
        replica: if witness { voters[2].1 } else { ReplicaId(1) },
        genesis: Configuration::genesis(voters),
        peers: 0,
        window_slots: WINDOW_SLOTS,
        window_bytes: WINDOW_BYTES,
    };
    let replica = Replica::new(config, state);
    let log = replica.log();
    for slot in log.chosen().0 + 1..=log.last().0 {
        let entry = log.get(Slot(slot)).expect("the log has no gaps");
        assert!(entry.accepted <= replica.promised(), "a vote is a promise");
        if let Body::Batch(payload) = &entry.value.body
            && !entry.value.is_stub()
        {
            assert_eq!(payload.with_body(<[u8]>::len), payload.bytes() as usize);
        }
    }
    Some(Replayed {
        promised: replica.promised().pack(),
        chosen: log.chosen().0,
        last: log.last().0,
        next_index: recovered.apply.next_index,
    })
}

/// A message whose batch is in memory of its own, so that it can be encoded again.
fn placed(message: Message<Payload>, buffer: &[u8]) -> Message<Payload> {
    let own = |value: Value<Payload>| {
        let body = match value.body {
            Body::Batch(payload) if !synod_core::Payload::is_stub(&payload) => {
                let bytes = payload.with_parts(buffer, |parts| parts.concat());
                Body::Batch(Payload::new(payload.header(), Place::Owned(bytes.into())))
            }
            other => other,
        };
        Value { origin: value.origin, body }
    };
    match message {
        Message::Accept { ballot, first, slot, chosen, value } => {
            Message::Accept { ballot, first, slot, chosen, value: own(value) }
        }
        Message::Learned { slot, through, value } => Message::Learned { slot, through, value: own(value) },
        other => other,
    }
}

fn ballot(round: u64) -> Ballot {
    Ballot { round, member: MemberId(2) }
}

fn epoch_start(round: u64) -> Value<Payload> {
    Value { origin: ballot(round), body: Body::EpochStart }
}

/// A batch of two entries; in a session when `sequence` is not 0.
fn batch(round: u64, sequence: u64) -> Value<Payload> {
    let mut entries = Entries::one(b"hello").expect("it is short");
    entries.push(b"world").expect("it is short");
    let header = BatchHeader {
        entries: 2,
        bytes: entries.body_bytes() as u32,
        crc: body_crc(&entries.parts(&mut Vec::new())),
        client: if sequence == 0 { 0 } else { 9 },
        sequence,
        part: None,
    };
    Value { origin: ballot(round), body: Body::Batch(Payload::new(header, Place::Closed(entries))) }
}

/// A part of a large entry; it is in a session when `sequence` is not 0.
fn part(round: u64, number: u16, sequence: u64) -> Value<Payload> {
    let client = if sequence == 0 { 0 } else { 9 };
    let part = Some(PartOf { number, count: 2 });
    let header = BatchHeader { entries: 1, bytes: 5, crc: body_crc(&[b"hello"]), client, sequence, part };
    Value { origin: ballot(round), body: Body::Batch(Payload::new(header, Place::Owned((*b"hello").into()))) }
}

/// One legal body of a frame of records for each message and vote.
pub fn message_specimens() -> Vec<Vec<u8>> {
    let (b, p) = (ballot(7), ballot(8));
    let messages = [
        Message::Accept { ballot: b, first: Slot(1), slot: Slot(5), chosen: Slot(3), value: batch(7, 4) },
        Message::Learned { slot: Slot(5), through: Slot(6), value: batch(6, 0) },
        Message::Accept { ballot: b, first: Slot(1), slot: Slot(5), chosen: Slot(3), value: batch(7, 4).stub() },
        Message::PreVote { ballot: b, version: 2 },
        Message::Behind { chosen: Slot(6) },
        Message::PreVoteReply { ballot: b, granted: true, promised: p },
        Message::Expected { ballot: b, next: Slot(4) },
        Message::Reject { ballot: b, promised: p },
        Message::Commit { ballot: b, first: Slot(1), chosen: Slot(2), low: Slot(1), stalled: true },
        Message::LearnRequest { from: Slot(4) },
        Message::Resign { ballot: b },
    ];
    let parts = [
        Message::Accept { ballot: b, first: Slot(1), slot: Slot(6), chosen: Slot(3), value: part(7, 1, 6) },
        Message::Learned { slot: Slot(6), through: Slot(6), value: part(6, 0, 0) },
    ];
    let votes = [
        Vote::Prepare { ballot: b, attempt: 3, version: 2, order: b },
        Vote::Promise { ballot: b, attempt: 3, chosen: Slot(9), reports: 2 },
        Vote::Report { ballot: b, attempt: 3, slot: Slot(5), accepted: ballot(6), value: batch(6, 1) },
        Vote::Report { ballot: b, attempt: 3, slot: Slot(6), accepted: ballot(6), value: epoch_start(6) },
    ];
    let encode = |append: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        append(&mut out);
        out
    };
    let encoded = |message: &Message<Payload>| encode(&|out| append_message(out, UID, message));
    let votes = votes.iter().map(|vote| encode(&|out| append_vote(out, UID, vote, 12)));
    let applied = encode(&|out| append_applied(out, UID, Slot(1024), 0xfeed));
    messages.iter().map(encoded).chain(votes).chain(parts.iter().map(encoded)).chain([applied]).collect()
}

/// Legal lists of acknowledgements, and a heartbeat.
pub fn ack_specimens() -> Vec<Vec<u8>> {
    let ack = Ack { uid: UID, ballot: ballot(7), up_to: Slot(9), stable: Slot(8), wal_us: 120 };
    let mut two = 12u64.to_le_bytes().to_vec();
    ack.append(&mut two);
    ack.append(&mut two);
    vec![two, Heartbeat { sent_ns: 5, wal_sequence: 6, full: true, support: 7 }.encode().to_vec()]
}

/// Legal lists of introductions.
pub fn introduction_specimens() -> Vec<Vec<u8>> {
    let of = |node, address: SocketAddr, witness| Introduction { node, address, witness, version: 1 };
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let far = SocketAddr::from(([0xfe80, 0, 0, 0, 0, 0, 0, 2], 7005));
    [vec![of(4, local(7004), false)], vec![of(4, local(7004), false), of(5, far, true), of(9, local(7009), false)]]
        .map(|list| introductions::encode(&list))
        .into()
}

/// The records of a log, as (header, body): first the summary of an older part, then votes behind it.
pub fn record_specimens() -> Vec<(RecordHeader, Vec<u8>)> {
    let mut apply = ApplyState::default();
    apply.apply(Slot(1), &epoch_start(1));
    apply.apply(Slot(2), &batch(1, 1));
    let accepted = vec![(Slot(3), ballot(1), ballot(1))];
    let summary = Summary { promised: ballot(1), chosen: Slot(2), apply, arrival: 0, accepted }.encode(UID);
    let accept = |slot, round, value| Record::Accept { slot: Slot(slot), ballot: ballot(round), first: Slot(1), value };
    let records = [
        (2, Record::Promise { ballot: ballot(1) }),
        (2, accept(3, 1, batch(1, 3))),
        (3, Record::Promise { ballot: ballot(4) }),
        (3, accept(4, 4, epoch_start(4))),
        (3, accept(5, 4, batch(4, 0))),
        (3, accept(6, 4, part(4, 0, 5))),
        (3, accept(7, 4, part(4, 1, 5))),
        (4, Record::Chosen),
        (4, Record::Learned { slot: Slot(5), value: batch(4, 0) }),
        (7, accept(8, 4, Value { origin: ballot(4), body: Body::Noop })),
    ];
    let record = |(chosen, record): &(u64, Record<Payload>)| {
        let body = match record {
            Record::Accept { value: Value { body: Body::Batch(payload), .. }, .. }
            | Record::Learned { value: Value { body: Body::Batch(payload), .. }, .. } => {
                payload.with_body(<[u8]>::to_vec)
            }
            _ => Vec::new(),
        };
        (record_header(UID, Slot(*chosen), record), body)
    };
    std::iter::once(summary).chain(records.iter().map(record)).collect()
}

/// A legal meta file.
pub fn meta_specimen() -> Vec<u8> {
    encode_meta(&MetaV7::specimen())
}

/// Legal files of checkpoints, with more and more data.
pub fn checkpoint_specimens() -> Vec<Vec<u8>> {
    let mut state = ApplyState::default();
    [0, 1, 100, 300]
        .map(|bytes| {
            let origin = Ballot { round: 1, member: MemberId(1) };
            state.apply(state.slot.next(), &Value { origin, body: Body::EpochStart });
            encode_checkpoint(&Head { cluster: CLUSTER, uid: UID, state: state.clone() }, &vec![7; bytes])
        })
        .into()
}

/// A legal pack of checkpoints.
pub fn pack_specimen() -> Vec<u8> {
    let mut pack = Vec::new();
    for (uid, checkpoint) in (UID..).zip(checkpoint_specimens()) {
        packs::append(&mut pack, uid, 9, &checkpoint);
    }
    pack
}

/// A legal configuration file.
pub fn config_specimen() -> String {
    let member = |node: u16| Member { node: node.into(), address: SocketAddr::from(([127, 0, 0, 1], 7000 + node)) };
    let config = Config::new(7, 1, "data", vec![member(1), member(2), member(3)]);
    toml::to_string(&config).expect("numbers and texts have a TOML form")
}
