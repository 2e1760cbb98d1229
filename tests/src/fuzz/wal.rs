//! Decoders of the log's parts: records, frames, segment headers.

use std::sync::LazyLock;

use synod::fuzzing::record_specimens;
use synod_wal::{
    AlignedBuf, End, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameHeader, FrameMeta, PAGE_BYTES,
    RECORD_BODY_BYTES_MAX, RECORD_HEADER_BYTES, RecordHeader, Records, SegmentHeader, check_frame, segment_generation,
    segment_name, wal_tag,
};

use super::{Memory, Target, shape};

/// The directory that the specimens are of.
pub(super) const INCARNATION: u128 = 0x1234_5678_9abc_def0;
/// The generation under which [`FRAME`] reads.
const GENERATION: u64 = 2;

/// A run of records.
pub(super) const RECORDS: Target = Target {
    name: "records",
    about: "a run of records, as it stands in a frame of the log or of the wire",
    shape: |input| shape(input, &RUNS, |bytes| fix_records(bytes)),
    run: records,
    // The check lays the records again, in memory that doubles.
    memory: Memory { bytes: 4096, per_byte: 4 },
};

/// A frame of the log.
pub(super) const FRAME: Target = Target {
    name: "log_frame",
    about: "a frame of the log: header, records, padding",
    shape: |input| shape(input, &FRAMES, |bytes| fix_frame(bytes, GENERATION, None)),
    run: frame,
    // Only the check builds frames.
    memory: Memory { bytes: 8 << 10, per_byte: 4 },
};

/// A segment's header page.
pub(super) const SEGMENT: Target = Target {
    name: "segment_header",
    about: "the first page of a segment file, or its name",
    shape: |input| shape(input, &SEGMENTS, fix_segment),
    run: segment,
    memory: Memory { bytes: 12 << 10, per_byte: 2 },
};

/// All records of the engine's specimens in one run, and each run of one.
static RUNS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let runs: Vec<Vec<u8>> = record_specimens().iter().map(|record| run_of(std::slice::from_ref(record))).collect();
    std::iter::once(runs.concat()).chain(runs).collect()
});

static FRAMES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let meta = FrameMeta {
        generation: GENERATION,
        sequence: 3,
        durable_through: 1,
        prev_crc: 4,
        tag: wal_tag(INCARNATION, 0),
    };
    vec![sealed(&record_specimens(), meta), sealed(&record_specimens()[1..2], meta), sealed(&[], meta)]
});

static SEGMENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let first = SegmentHeader {
        generation: 1,
        segment_bytes: 64 << 20,
        shard: 2,
        incarnation: INCARNATION,
        first_sequence: 1,
        recycled: false,
        previous: None,
    };
    let previous = Some(End { generation: 5, sequence: 9, offset: 8192, crc: 0xddcc_bbaa });
    let later = SegmentHeader { generation: 6, first_sequence: 10, recycled: true, previous, ..first };
    vec![first.encode().to_vec(), later.encode().to_vec(), b"000000000000001f.seg".to_vec()]
});

/// The bytes of a run of records.
pub(super) fn run_of(records: &[(RecordHeader, Vec<u8>)]) -> Vec<u8> {
    let mut run = Vec::new();
    for (header, body) in records {
        run.extend_from_slice(&header.encode());
        run.extend_from_slice(body);
        run.resize(run.len().next_multiple_of(16), 0);
    }
    run
}

/// The bytes of a sealed frame.
pub(super) fn sealed(records: &[(RecordHeader, Vec<u8>)], meta: FrameMeta) -> Vec<u8> {
    let bytes = FRAME_HEADER_BYTES + run_of(records).len();
    let mut frame = Frame::new(AlignedBuf::new(bytes));
    for (header, body) in records {
        frame.push(header, &[body]);
    }
    frame.seal(meta);
    frame.bytes().to_vec()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Puts right the checksums of all records that a run holds whole, and of the header behind them. Gives the checksum over
/// the headers' checksums, and how many there are.
pub(super) fn fix_run(run: &mut [u8]) -> (u32, u32) {
    let (mut at, mut records_crc, mut records) = (0, 0, 0);
    while at + RECORD_HEADER_BYTES <= run.len() {
        let body = at + RECORD_HEADER_BYTES;
        let body_len = u32_at(run, at + 4) as usize;
        let whole = body_len <= run.len() - body;
        if whole {
            let crc = crc32c::crc32c(&run[body..body + body_len]);
            put_u32(run, at + 84, crc);
        }
        let crc = crc32c::crc32c(&run[at..at + 92]);
        put_u32(run, at + 92, crc);
        if !whole {
            break;
        }
        records_crc = crc32c::crc32c_append(records_crc, &crc.to_le_bytes());
        records += 1;
        at = (body + body_len).next_multiple_of(16);
    }
    (records_crc, records)
}

pub(super) fn fix_records(run: &mut [u8]) {
    fix_run(run);
}

/// Puts right the checksums of a frame, and its link to the one before it. Its number of records is left alone: that may be
/// what was edited.
pub(super) fn fix_frame(bytes: &mut [u8], generation: u64, prev_crc: Option<u32>) {
    if bytes.len() < FRAME_HEADER_BYTES {
        return;
    }
    let body_end = (FRAME_HEADER_BYTES + u32_at(bytes, 32) as usize).min(bytes.len());
    let (records_crc, _) = fix_run(&mut bytes[FRAME_HEADER_BYTES..body_end]);
    put_u32(bytes, 44, records_crc);
    if let Some(prev_crc) = prev_crc {
        put_u32(bytes, 40, prev_crc);
    }
    let seed = crc32c::crc32c(&generation.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &bytes[..60]);
    put_u32(bytes, 60, crc);
}

/// Makes a page of what is there, with its checksum. A name is left alone.
pub(super) fn fix_segment(bytes: &mut Vec<u8>) {
    if bytes.first() == Some(&b'0') {
        return;
    }
    bytes.resize(PAGE_BYTES, 0);
    let crc = crc32c::crc32c(&bytes[..PAGE_BYTES - 4]);
    put_u32(bytes, PAGE_BYTES - 4, crc);
}

fn records(run: &[u8]) -> bool {
    let mut again = Vec::new();
    let mut intact = true;
    for record in Records::new(run) {
        assert!(intact, "after an error the walk ends");
        let Ok((header, body, range)) = record else {
            intact = false;
            continue;
        };
        assert_eq!(range.start, again.len(), "records stand one behind the other");
        assert!(body.len() <= RECORD_BODY_BYTES_MAX);
        assert_eq!(header.check_body(body), Ok(()));
        again.extend_from_slice(&header.encode());
        again.extend_from_slice(body);
        again.resize(again.len().next_multiple_of(16), 0);
        assert_eq!(range.end, again.len());
    }
    assert!(run.starts_with(&again), "every stored bit counts");
    assert!(!intact || run.len() == again.len());
    intact && !run.is_empty()
}

fn frame(bytes: &[u8]) -> bool {
    let Ok(header) = FrameHeader::decode(bytes, GENERATION) else { return false };
    assert!(header.frame_bytes() <= FRAME_BYTES_MAX);
    if check_frame(&header, bytes).is_err() {
        return false;
    }
    let run = &bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.body_len as usize];
    let mut frame = Frame::new(AlignedBuf::new(header.frame_bytes()));
    for record in Records::new(run) {
        let (header, body, _) = record.expect("the frame was checked");
        frame.push(&header, &[body]);
    }
    let crc = frame.seal(FrameMeta {
        generation: header.generation,
        sequence: header.sequence,
        durable_through: header.durable_through,
        prev_crc: header.prev_crc,
        tag: header.tag,
    });
    assert_eq!(crc, header.crc);
    assert_eq!(frame.bytes(), &bytes[..header.frame_bytes()], "every stored bit counts");
    true
}

fn segment(bytes: &[u8]) -> bool {
    if let Ok(name) = std::str::from_utf8(bytes)
        && let Some(generation) = segment_generation(name)
    {
        assert_eq!(segment_name(generation), name);
        return true;
    }
    let Ok(header) = SegmentHeader::decode(bytes) else { return false };
    assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    true
}
