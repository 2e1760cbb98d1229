//! Decoders of the transport: frames out of a stream, the handshake, datagrams.

use std::sync::LazyLock;

use synod_transport::hello::{PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, REPLY_TEXT_BYTES_MAX};
use synod_transport::{
    DATAGRAM_BODY_BYTES_MAX, DATAGRAM_BYTES_MAX, Datagram, Decoder, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES,
    FrameHeader, HELLO_BYTES, HELLO_BYTES_MAX, Hello, HelloReply, HelloStatus, Identity, KnownPeer, LANE_OFFER_BYTES,
    LaneOffer, ReplicaRule, Role, append_frame, judge,
};

use super::{Memory, Target, shape};

/// Frames out of a stream that comes in pieces.
pub(super) const WIRE_FRAMES: Target = Target {
    name: "wire_frames",
    about: "frames of a connection: headers, bodies and padding, in pieces as a socket brings them",
    shape: |input| shape(input, &STREAMS, |bytes| fix_stream(bytes)),
    run: wire_frames,
    // A header may announce a body of 2 MiB, and the decoder makes room for it; while it grows it holds 64 KiB too.
    memory: Memory { bytes: (2 << 20) + (256 << 10), per_byte: 4 },
};

/// The first frame of a connection.
pub(super) const HELLO: Target = Target {
    name: "hello",
    about: "the body of a hello, and whether the dialer is let in",
    shape: |input| shape(input, &HELLOS, |_| ()),
    run: hello,
    // Rules are held twice while it is read again.
    memory: Memory { bytes: 4096, per_byte: 8 },
};

/// The answer to it.
pub(super) const HELLO_REPLY: Target = Target {
    name: "hello_reply",
    about: "the body of the reply to a hello",
    shape: |input| shape(input, &REPLIES, |_| ()),
    run: hello_reply,
    // A text that is not UTF-8 becomes up to three times as long.
    memory: Memory { bytes: 4096, per_byte: 12 },
};

/// A datagram, and what a connection says of them.
pub(super) const DATAGRAM: Target = Target {
    name: "datagram",
    about: "a datagram beside a connection, or the offer of a lane for them",
    shape: |input| shape(input, &DATAGRAMS, |bytes| fix_datagram(bytes)),
    run: datagram,
    // It is encoded again.
    memory: Memory { bytes: 4096, per_byte: 4 },
};

static DATAGRAMS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let datagram = |kind, body: &[u8]| Datagram { kind, sequence: 9, token: 7 << 64 | 5, body }.encode();
    let heartbeat = datagram(5, &[1; 32]);
    let longest = datagram(6, &[2; DATAGRAM_BODY_BYTES_MAX]);
    vec![heartbeat, datagram(6, b""), longest, LaneOffer { port: 4000, token: 7 << 64 | 5 }.encode().to_vec()]
});

static STREAMS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut stream = Vec::new();
    append_frame(&mut stream, 3, 0, b"hello");
    append_frame(&mut stream, 7, u64::MAX, b"");
    append_frame(&mut stream, 4, 9, &[5; 100]);
    let mut checked = FrameHeader::of_self_checked(3, 1, 16).encode().to_vec();
    checked.extend_from_slice(&[1; 16]);
    append_frame(&mut checked, 5, 0, &[3; 16]);
    let long = FrameHeader::of_self_checked(3, 1, FRAME_BODY_BYTES_MAX as usize).encode().to_vec();
    vec![stream, checked, long]
});

const HELLO_SPECIMEN: Hello = Hello {
    role: Role::Peer,
    version_min: PROTOCOL_VERSION_MIN,
    version_max: PROTOCOL_VERSION_MAX,
    cluster: 5,
    node: 2,
    incarnation: 22,
    boot: 3,
    target_node: 1,
    target_incarnation: 11,
    shard: 0,
    shard_count: 2,
    first_shards: 2,
    phase_2: 2,
    replacement: false,
    founder: true,
    founding: 77,
    replica: 33,
    rules: Vec::new(),
    target_replica: 44,
    seen_replica: 44,
    wal_sequence_seen: 8,
};

static HELLOS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let client = Hello { role: Role::Client, node: 0, incarnation: 0, boot: 0, ..HELLO_SPECIMEN };
    let rules = (0..3).map(|shard| ReplicaRule { shards: 3, shard, replica: u128::from(shard) + 1 });
    let moved = Hello { rules: rules.collect(), ..HELLO_SPECIMEN };
    vec![HELLO_SPECIMEN.encode(), client.encode(), moved.encode()]
});

static REPLIES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let reply = |status, text: &str| HelloReply {
        status,
        node: 1,
        incarnation: 11,
        boot: 4,
        shard_count: 2,
        first_shards: 2,
        replacement: false,
        founder: true,
        founding: 77,
        replica: 44,
        rules: vec![ReplicaRule { shards: 2, shard: 1, replica: 9 }],
        target_replica: 33,
        seen_replica: 33,
        wal_sequence_seen: 7,
        text: text.into(),
    };
    vec![
        reply(HelloStatus::Ok, "").encode(),
        reply(HelloStatus::WrongNode, "this is node 1, you mean node 2").encode(),
        reply(HelloStatus::Busy, &"é".repeat(REPLY_TEXT_BYTES_MAX / 2)).encode(),
    ]
});

/// Puts right the checksums of all frames that a stream holds whole, and of the last header.
fn fix_stream(stream: &mut [u8]) {
    let mut at = 0;
    while at + FRAME_HEADER_BYTES <= stream.len() {
        let body_len = u32::from_le_bytes(stream[at + 8..at + 12].try_into().expect("four bytes")) as usize;
        let body = at + FRAME_HEADER_BYTES;
        let self_checked = stream[at + 7] & 1 != 0;
        let whole = body_len <= stream.len() - body;
        if whole && !self_checked {
            let crc = crc32c::crc32c(&stream[body..body + body_len]);
            stream[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&stream[at..at + 28]);
        stream[at + 28..at + 32].copy_from_slice(&crc.to_le_bytes());
        if !whole {
            return;
        }
        at = (body + body_len).next_multiple_of(16);
    }
}

/// Puts the checksum of a datagram right; an offer has none.
fn fix_datagram(bytes: &mut [u8]) {
    if let Some(end) = bytes.len().checked_sub(4).filter(|end| *end > LANE_OFFER_BYTES) {
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
    }
}

fn datagram(bytes: &[u8]) -> bool {
    if let Some(offer) = LaneOffer::decode(bytes) {
        assert_eq!(offer.encode()[..], *bytes, "every byte counts");
        return true;
    }
    let Ok(datagram) = Datagram::decode(bytes) else { return false };
    assert!(bytes.len() <= DATAGRAM_BYTES_MAX && datagram.sequence > 0);
    assert_eq!(datagram.encode(), bytes, "every byte counts");
    true
}

fn wire_frames(stream: &[u8]) -> bool {
    // The bytes themselves say in which pieces they come, so that one input always means the same.
    let sum = crc32c::crc32c(stream);
    let piece = [1, 7, 32, 61, 4096][sum as usize % 5];
    let body_bytes_max = if sum & 0x100 == 0 { FRAME_BODY_BYTES_MAX } else { 64 };
    let mut decoder = Decoder::with_body_bytes_max(body_bytes_max);
    let (mut again, mut frames, mut failure) = (Vec::new(), 0, None);
    for piece in stream.chunks(piece) {
        assert_eq!(decoder.push(piece), piece.len(), "there is room for a piece");
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    assert!(frame.header.body_len <= body_bytes_max);
                    assert!(frame.body.as_ptr().align_offset(16) == 0, "a body is aligned");
                    again.extend_from_slice(&frame.header.encode());
                    again.extend_from_slice(frame.body);
                    again.resize(again.len().next_multiple_of(16), 0);
                    frames += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(failure.is_none_or(|before| before == error), "an error stays");
                    failure = Some(error);
                    break;
                }
            }
        }
        let bytes_max = FRAME_HEADER_BYTES + body_bytes_max as usize + (64 << 10);
        assert!(decoder.buffer_bytes() <= bytes_max, "a buffer of {} bytes", decoder.buffer_bytes());
    }
    assert!(stream.starts_with(&again), "what was decoded is what came");
    if failure.is_none() {
        let rest = stream.len() - again.len();
        assert!(
            rest < FRAME_HEADER_BYTES + (body_bytes_max as usize).next_multiple_of(16),
            "a whole frame is left over"
        );
    }
    0 < frames && failure.is_none()
}

fn hello(bytes: &[u8]) -> bool {
    let Ok(hello) = Hello::decode(bytes) else { return false };
    assert!((HELLO_BYTES..=HELLO_BYTES_MAX).contains(&bytes.len()));
    assert_eq!(Hello::decode(&hello.encode()).as_ref(), Ok(&hello));
    let me = Identity {
        cluster: 5,
        node: 1,
        incarnation: 11,
        replacement: false,
        founding: 0,
        shard_count: 2,
        first_shards: 2,
        phase_2: 2,
        members: &[1, 2, 3],
    };
    for known in [None, Some(&KnownPeer { incarnation: 22, boot: 3, retired: vec![21] })] {
        match judge(&hello, &me, known) {
            Ok(()) => {
                let cluster = hello.cluster == 5 || (hello.role == Role::Client && hello.cluster == 0);
                let peer = hello.role == Role::Client || ([2, 3].contains(&hello.node) && hello.target_node == 1);
                assert!(cluster && peer, "{hello:?} is let in");
            }
            Err(refusal) => assert!(refusal.status != HelloStatus::Ok && !refusal.text.is_empty()),
        }
    }
    true
}

fn hello_reply(bytes: &[u8]) -> bool {
    let Ok(reply) = HelloReply::decode(bytes) else { return false };
    let again = HelloReply::decode(&reply.encode()).expect("what was decoded can be decoded again");
    let cut = HelloReply { text: again.text.clone(), ..reply.clone() };
    assert_eq!(again, cut);
    // Replacement characters may make the text longer than a reply takes.
    assert!(reply.text.starts_with(&again.text));
    assert!(again.text == reply.text || REPLY_TEXT_BYTES_MAX < reply.text.len());
    true
}
