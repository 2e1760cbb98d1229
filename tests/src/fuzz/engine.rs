//! Decoders of the engine: group messages, the client protocol, batches, what the log's records mean, the directory's meta
//! file, the configuration.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::LazyLock;

use synod::client::protocol::{GroupInfoV1, IntroductionV1, RejectionV1, ReplyV1, Request};
use synod::fuzzing::{
    UID, ack_specimens, config_specimen, introduction_specimens, message_specimens, meta_specimen, recode_acks,
    recode_config, recode_heartbeat, recode_introductions, recode_messages, recode_meta, recode_summary,
    record_specimens, replay,
};
use synod::limits::{APPEND_PART_BYTES_MAX, BATCH_BYTES_MAX, ENTRY_BYTES_MAX};
use synod::{Batch, Entries, Member};
use synod_wal::{RecordPlace, Records};

use super::wal::{fix_records, put_u32, run_of};
use super::{Memory, Target, shape};

/// The group messages and votes of a peer.
pub(super) const MESSAGES: Target = Target {
    name: "messages",
    about: "a peer's frame of records: all group messages and votes",
    shape: |input| shape(input, &MESSAGE_BODIES, |bytes| fix_records(bytes)),
    run: messages,
    memory: Memory { bytes: 8 << 10, per_byte: 8 },
};

/// A peer's acknowledgements and heartbeats.
pub(super) const ACKS: Target = Target {
    name: "acks",
    about: "a peer's acknowledgements, or a heartbeat",
    shape: |input| shape(input, &ACK_BODIES, |_| ()),
    run: acks,
    memory: Memory { bytes: 4096, per_byte: 6 },
};

/// The introduced nodes that a peer knows.
pub(super) const INTRODUCTIONS: Target = Target {
    name: "introductions",
    about: "a peer's list of introduced nodes",
    shape: |input| shape(input, &INTRODUCTION_LISTS, |_| ()),
    run: introductions,
    memory: Memory { bytes: 4096, per_byte: 8 },
};

/// A client's request.
pub(super) const REQUEST: Target = Target {
    name: "request",
    about: "a client's request",
    shape: |input| shape(input, &REQUESTS, |_| ()),
    run: request,
    memory: Memory { bytes: 4096, per_byte: 8 },
};

/// The reply to a client.
pub(super) const REPLY: Target = Target {
    name: "reply",
    about: "a node's reply to a client, an archive",
    shape: |input| shape(input, &REPLIES, |_| ()),
    run: reply,
    memory: Memory { bytes: 8 << 10, per_byte: 8 },
};

/// The body of a batch.
pub(super) const BATCH: Target = Target {
    name: "batch",
    about: "the entries of a slot's value",
    shape: |input| shape(input, &BATCHES, |_| ()),
    run: batch,
    // The check lays the batch again, in memory that doubles.
    memory: Memory { bytes: 1024, per_byte: 4 },
};

/// Records of a log, as recovery takes them in.
pub(super) const REPLAY: Target = Target {
    name: "replay",
    about: "records of a log through recovery into a replica: votes, summaries, apply state",
    shape: |input| shape(input, &RECORD_RUNS, |bytes| fix_records(bytes)),
    run: replayed,
    memory: Memory { bytes: 16 << 10, per_byte: 16 },
};

/// A directory's meta file.
pub(super) const META: Target = Target {
    name: "meta",
    about: "the meta file of a node's directory, an archive behind a checksum",
    shape: |input| shape(input, &METAS, |bytes| fix_meta(bytes)),
    run: meta,
    memory: Memory { bytes: 4096, per_byte: 4 },
};

/// A configuration file.
pub(super) const CONFIG: Target = Target {
    name: "config",
    about: "a node's configuration file",
    shape: |input| shape(input, &CONFIGS, |_| ()),
    run: config,
    // The parser of the format holds a tree of what it reads, and error messages quote it.
    memory: Memory { bytes: 64 << 10, per_byte: 256 },
};

static MESSAGE_BODIES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut bodies = message_specimens();
    bodies.push(bodies.concat());
    bodies
});

static ACK_BODIES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(ack_specimens);

static INTRODUCTION_LISTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(introduction_specimens);

fn three_entries() -> Entries {
    let mut entries = Entries::new();
    for entry in [&b"hello"[..], b"", b"world"] {
        entries.push(entry).expect("it is short");
    }
    entries
}

const FOURTH: Member = Member { node: 4, address: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7004)) };

static REQUESTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let requests = [
        Request::Append { group: 3, session: Some((7, 1)), entries: three_entries() },
        Request::Append { group: 3, session: None, entries: three_entries() },
        Request::Read { group: 4, from_index: 9, bytes_max: 100, wait_ms: 5 },
        Request::Info { group: 1 },
        Request::OpenSession { group: 3 },
        Request::CloseSession { group: 3, session: 7 },
        Request::AppendPart { group: 3, session: Some((7, 1)), total: 9, offset: 4, bytes: b"world".to_vec() },
        Request::ReadPart { group: 3, index: 9, part: 2 },
        Request::Introduce { group: 1, member: FOURTH, witness: false },
    ];
    requests.iter().map(Request::encode).collect()
});

static REPLIES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let info = |group| GroupInfoV1 {
        phase_1: 2,
        phase_2: 2,
        group,
        leader: 1,
        epoch: 2 << 16,
        chosen_slot: 9,
        applied_slot: 9,
        next_index: 12,
        first_index: 1,
        chain: 5,
        elections: 1,
        configuration: 1,
        votes: true,
        witness: false,
        lease: true,
        checkpoint_index: 0,
        pinned_index: 0,
        pins: 0,
        pin_seconds: 0,
        shard: 1,
    };
    let replies = [
        ReplyV1::Committed { slot: 1, first_index: 2, count: 3 },
        ReplyV1::Rejected { rejection: RejectionV1::NotLeader, leader: 2 },
        ReplyV1::Entries { first_index: 1, next_index: 3, ends: vec![5, 5, 30], bytes: vec![7; 30] },
        ReplyV1::Trimmed { first_index: 7 },
        ReplyV1::Info { node: 1, process: 2, shards: 3, groups: vec![info(3), info(6)] },
        ReplyV1::Failed { text: "a text that is longer than what an archive keeps in place".into() },
        ReplyV1::Unknown,
        ReplyV1::InParts { index: 9, parts: 5, next_index: 12 },
        ReplyV1::Part { index: 9, part: 2, parts: 5, next_index: 12, bytes: vec![7; 30] },
        ReplyV1::Introduced {
            nodes: vec![IntroductionV1 { node: 4, address: FOURTH.address.to_string(), witness: false, version: 1 }],
        },
    ];
    replies.iter().map(|reply| reply.encode().to_vec()).collect()
});

static BATCHES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let one = Request::Append { group: 3, session: None, entries: three_entries() }.encode();
    // A request ends with its batch.
    vec![one[32..].to_vec(), [&1_u32.to_le_bytes()[..], &0_u32.to_le_bytes()].concat()]
});

static RECORD_RUNS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let records = record_specimens();
    let mut runs = vec![run_of(&records), run_of(&records[1..]), run_of(&records[..1]), run_of(&records[1..2])];
    runs.extend([i64::MAX as u64, u64::MAX - 1, u64::MAX].map(far_ahead));
    runs
});

/// A summary whose numbers are all this one, and a chosen batch of its session behind it: one step further.
fn far_ahead(number: u64) -> Vec<u8> {
    let records = record_specimens();
    let [(summary, _), .., (learned, batch), _] = &records[..] else { unreachable!("there are more specimens") };
    let bits = |number: u64| {
        let more = (0..9).map(|byte| (number >> (7 * byte)) as u8 | 0x80);
        let mut run: Vec<u8> = more.collect();
        run[8] &= 0x7f;
        run
    };
    // Session 9, its last sequence, used in the last slot, where its only position is: one entry, the last of all.
    let mut session = [&[9][..], &bits(number), &[0, 1, 1, 0, 1]].concat();
    let length = session.len() as u64;
    session.resize(session.len().next_multiple_of(8), 0);
    // Slot, next index, checksum, void batches, epoch and whether it is open, one session; no configuration, and nothing
    // accepted.
    let head = [number, number, 0, number, 1 << 16, 1, 1, length];
    let bytes = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let body = [bytes(&head), session, bytes(&[0; 4])].concat();
    let mut summary = *summary;
    (summary.numbers[0], summary.numbers[4]) = (number, number);
    (summary.body_len, summary.body_crc) = (body.len() as u32, crc32c::crc32c(&body));
    let (mut learned, next) = (*learned, number.wrapping_add(1));
    (learned.numbers[0], learned.numbers[4]) = (next, next);
    (learned.numbers[5], learned.numbers[6]) = (9, next);
    run_of(&[(summary, body), (learned, batch.clone())])
}

static METAS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| vec![meta_specimen()]);

static CONFIGS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let all = config_specimen();
    let least = "cluster = \"00000000000000000000000000000007\"\nnode = 1\ndir = \"d\"\n\
                 members = [{ node = 1, address = \"127.0.0.1:1\" }]\n";
    vec![all.into_bytes(), least.into()]
});

fn fix_meta(bytes: &mut [u8]) {
    if 16 <= bytes.len() {
        let crc = crc32c::crc32c(&bytes[16..]);
        put_u32(bytes, 8, crc);
    }
}

/// What a decoder took, encoded, must be taken again, and be the same.
fn settles(bytes: &[u8], recode: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let once = recode(bytes)?;
    assert_eq!(recode(&once).as_ref(), Some(&once), "what was decoded and encoded decodes to the same");
    Some(once)
}

fn messages(body: &[u8]) -> bool {
    let Some(again) = settles(body, recode_messages) else { return false };
    assert!(again.len() <= body.len(), "nothing is added");
    !body.is_empty()
}

fn acks(body: &[u8]) -> bool {
    if let Some(again) = settles(body, recode_heartbeat) {
        assert_eq!(again, body);
        return true;
    }
    let Some(again) = settles(body, recode_acks) else { return false };
    assert_eq!(again.len(), body.len());
    !body.is_empty()
}

fn introductions(body: &[u8]) -> bool {
    let Some(again) = settles(body, recode_introductions) else { return false };
    assert_eq!(again, body, "every byte counts");
    !body.is_empty()
}

fn request(body: &[u8]) -> bool {
    let Ok(request) = Request::decode(body) else { return false };
    let again = request.encode();
    // All but the seven bytes behind the operation says something.
    assert_eq!((again[0], &again[8..]), (body[0], &body[8..]));
    if let Request::AppendPart { total, offset, bytes, .. } = &request {
        let end = *offset as usize + bytes.len();
        assert!(!bytes.is_empty() && bytes.len() <= APPEND_PART_BYTES_MAX && end <= *total as usize);
    }
    if let Request::Append { session, entries, .. } = &request {
        assert!(!entries.is_empty() && session.is_none_or(|(client, sequence)| client > 0 && sequence > 0));
        assert!(entries.iter().all(|entry| entry.len() <= ENTRY_BYTES_MAX));
        let bytes: usize = entries.iter().map(|entry| entry.len() + 4).sum();
        assert!(entries.len() == 1 || bytes <= BATCH_BYTES_MAX);
    }
    true
}

fn reply(body: &[u8]) -> bool {
    let Ok(reply) = ReplyV1::decode(body) else { return false };
    assert_eq!(ReplyV1::decode(&reply.encode()).as_ref(), Ok(&reply));
    true
}

fn batch(body: &[u8]) -> bool {
    let Ok(batch) = Batch::decode(body) else { return false };
    let mut again = (batch.len() as u32).to_le_bytes().to_vec();
    let mut end = 0;
    for entry in batch.iter() {
        end += entry.len() as u32;
        again.extend_from_slice(&end.to_le_bytes());
    }
    batch.iter().for_each(|entry| again.extend_from_slice(entry));
    assert_eq!(again, body, "every byte counts");
    true
}

fn replayed(run: &[u8]) -> bool {
    let intact = || Records::new(run).map_while(Result::ok);
    for (header, body, _) in intact() {
        let recode = |header, body: &[u8]| recode_summary(header, body);
        if let Some((header, body)) = recode(&header, body) {
            assert_eq!(recode(&header, &body), Some((header, body)), "a summary comes back");
        }
    }
    let records = intact().map(|(header, body, range)| {
        let place = RecordPlace { generation: 1, offset: range.start as u64, bytes: range.len() as u32 };
        (place, header, body)
    });
    let Some(replayed) = replay(UID, records) else { return false };
    assert!(replayed.chosen <= replayed.last && 0 < replayed.next_index);
    0 < replayed.promised
}

fn meta(bytes: &[u8]) -> bool {
    settles(bytes, recode_meta).is_some()
}

fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let recode = |bytes: &[u8]| recode_config(std::str::from_utf8(bytes).ok()?).map(String::into_bytes);
    settles(text.as_bytes(), recode).is_some()
}
