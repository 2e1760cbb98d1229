//! A whole log, as recovery finds it: arbitrary bytes in arbitrary segment files.
//!
//! The decoder's bytes are `[flags and count u8][generation u64, length u32] x count`, then the files' bytes. Flag `0x80`:
//! the fix-up leaves the links between frames and segments alone.

use std::collections::BTreeMap;
use std::io;
use std::sync::LazyLock;

use synod::fuzzing::{UID, record_specimens, replay};
use synod_wal::{
    End, Expect, FrameMeta, PAGE_BYTES, RECORD_HEADER_BYTES, RecordHeader, RecordPlace, Recovery, SegmentHeader,
    SegmentSource, recover, segment_name, wal_tag,
};

use super::wal::{INCARNATION, fix_frame, put_u32, sealed, u32_at};
use super::{Memory, Target, shape};

/// Recovery of a shard's log.
pub(super) const LOG: Target = Target {
    name: "log",
    about: "a whole log of a few segments, through recovery and into the replica",
    shape: |input| shape(input, &LOGS, |bytes| fix_log(bytes)),
    run: log,
    // The window holds the longest file, twice while it grows; the check holds the files too.
    memory: Memory { bytes: 64 << 10, per_byte: 6 },
};

const SEGMENT_PAGES: usize = 4;
const NOT_LINKED: u8 = 0x80;
const FILE_BYTES: usize = 12;
const FRAME_MAGIC: &[u8; 4] = b"SYNF";

type Files = BTreeMap<u64, Vec<u8>>;

static LOGS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut plain = Builder::default();
    plain.segment(false);
    plain.frame(0..4);
    plain.frame(4..6);

    // Three segments, an unused file, and a torn frame at the end.
    let mut rolled = Builder::default();
    rolled.segment(false);
    rolled.frame(0..1);
    rolled.frame(1..4);
    rolled.segment(false);
    rolled.frame(4..5);
    rolled.segment(false);
    rolled.frame(5..8);
    let torn = rolled.frame(8..9);
    rolled.file().0[torn + 100..].fill(0);
    rolled.files.insert(4, vec![0; SEGMENT_PAGES * PAGE_BYTES]);

    // The newest file was used before: frames of its older life stand behind its own.
    let mut recycled = Builder::default();
    recycled.segment(false);
    recycled.frame(0..3);
    let stale = recycled.file().0[PAGE_BYTES..2 * PAGE_BYTES].to_vec();
    recycled.segment(true);
    recycled.frame(3..6);
    recycled.file().0[2 * PAGE_BYTES..3 * PAGE_BYTES].copy_from_slice(&stale);

    // The last numbers that are taken, and one that is not.
    let end = i64::MAX as u64;
    let mut last = Builder { generation: end - 1, end: PAGE_BYTES, sequence: end - 2, ..Builder::default() };
    last.segment(false);
    last.frame(0..2);
    last.frame(2..4);
    last.frame(4..6);

    vec![
        plain.image(0),
        rolled.image(0),
        recycled.image(0),
        plain.image(NOT_LINKED),
        rolled.image(NOT_LINKED),
        last.image(NOT_LINKED),
    ]
});

/// Makes the files of a log.
#[derive(Default)]
struct Builder {
    files: Files,
    generation: u64,
    end: usize,
    sequence: u64,
    crc: u32,
}

impl Builder {
    fn file(&mut self) -> (&mut Vec<u8>, usize) {
        (self.files.get_mut(&self.generation).expect("a segment is open"), self.end)
    }

    fn segment(&mut self, recycled: bool) {
        let previous = (self.generation > 0).then_some(End {
            generation: self.generation,
            sequence: self.sequence,
            offset: self.end as u64,
            crc: self.crc,
        });
        self.generation += 1;
        let header = SegmentHeader {
            generation: self.generation,
            segment_bytes: (SEGMENT_PAGES * PAGE_BYTES) as u64,
            shard: 0,
            incarnation: INCARNATION,
            first_sequence: self.sequence + 1,
            recycled,
            previous,
        };
        let mut file = header.encode().to_vec();
        file.resize(SEGMENT_PAGES * PAGE_BYTES, 0);
        self.files.insert(self.generation, file);
        self.end = PAGE_BYTES;
    }

    /// Appends a frame of these specimens; gives where it starts.
    fn frame(&mut self, records: std::ops::Range<usize>) -> usize {
        self.sequence += 1;
        let meta = FrameMeta {
            generation: self.generation,
            sequence: self.sequence,
            durable_through: self.sequence.saturating_sub(2),
            prev_crc: self.crc,
            tag: wal_tag(INCARNATION, 0),
        };
        let frame = sealed(&record_specimens()[records], meta);
        self.crc = u32_at(&frame, 60);
        let (file, at) = self.file();
        file[at..at + frame.len()].copy_from_slice(&frame);
        self.end = at + frame.len();
        at
    }

    fn image(&self, flags: u8) -> Vec<u8> {
        let mut image = vec![flags | self.files.len() as u8];
        for (generation, file) in &self.files {
            image.extend_from_slice(&generation.to_le_bytes());
            image.extend_from_slice(&(file.len() as u32).to_le_bytes());
        }
        image.extend(self.files.values().flatten());
        image
    }
}

/// Where each file lies in an image: (generation, range); a length that is too much is cut.
fn places(image: &[u8]) -> Vec<(u64, std::ops::Range<usize>)> {
    let Some((first, rest)) = image.split_first() else { return Vec::new() };
    let (entries, _) = rest.as_chunks::<FILE_BYTES>();
    let entries = &entries[..entries.len().min(usize::from(first & !NOT_LINKED))];
    let mut at = 1 + entries.len() * FILE_BYTES;
    let place = |entry: &[u8; FILE_BYTES]| {
        let generation = u64::from_le_bytes(entry[..8].try_into().expect("eight bytes"));
        let start = at;
        at = (at + u32_at(entry, 8) as usize).min(image.len());
        (generation, start..at)
    };
    entries.iter().map(place).collect()
}

/// Puts right the checksums of all header pages and frames, and their links in the order of the files.
fn fix_log(image: &mut [u8]) {
    let linked = image.first().is_some_and(|first| first & NOT_LINKED == 0);
    let mut crc = 0;
    for (generation, range) in places(image) {
        let file = &mut image[range];
        let Some((page, rest)) = file.split_first_chunk_mut::<PAGE_BYTES>() else { continue };
        if page.iter().any(|byte| *byte != 0) {
            if linked && page[6] & 2 != 0 {
                put_u32(page, 52, crc);
            }
            let sum = crc32c::crc32c(&page[..PAGE_BYTES - 4]);
            put_u32(page, PAGE_BYTES - 4, sum);
        }
        for at in (0..rest.len() & !(PAGE_BYTES - 1)).step_by(PAGE_BYTES) {
            let frame = &mut rest[at..];
            if !frame.starts_with(FRAME_MAGIC) {
                continue;
            }
            let stated = u64::from_le_bytes(frame[8..16].try_into().expect("eight bytes"));
            // What stands in a recycled file from before is not of the chain.
            let of_chain = stated == generation;
            fix_frame(frame, stated, (linked && of_chain).then_some(crc));
            if of_chain {
                crc = u32_at(frame, 60);
            }
        }
    }
}

/// The files in memory.
struct Source<'a>(BTreeMap<u64, &'a [u8]>);

impl SegmentSource for Source<'_> {
    fn generations(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.0.keys().copied().collect())
    }

    fn len(&mut self, generation: u64) -> io::Result<u64> {
        Ok(self.0[&generation].len() as u64)
    }

    fn read_at(&mut self, generation: u64, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        assert!(offset.is_multiple_of(PAGE_BYTES as u64) && buf.len().is_multiple_of(PAGE_BYTES));
        let rest = self.0[&generation].get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn name(&self, generation: u64) -> String {
        segment_name(generation)
    }
}

fn log(image: &[u8]) -> bool {
    let files = places(image).into_iter().map(|(generation, range)| (generation, &image[range])).collect();
    let mut source = Source(files);
    let expect = Expect { shard: 0, incarnation: INCARNATION, segment_bytes: (SEGMENT_PAGES * PAGE_BYTES) as u64 };
    let mut visited: Vec<(RecordPlace, RecordHeader)> = Vec::new();
    let mut last = 0;
    let recovery = recover(&mut source, expect, &mut |place, sequence, header, body| {
        assert!(last <= sequence, "frames are visited in order");
        last = sequence;
        assert_eq!(header.check_body(body), Ok(()), "only intact records are visited");
        visited.push((place, *header));
    });
    let recovery = match recovery {
        Ok(recovery) => recovery,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    check_recovery(&recovery, &source, last);
    let record = |(place, header): &(RecordPlace, RecordHeader)| {
        let record = &source.0[&place.generation][place.offset as usize..][..place.bytes as usize];
        assert_eq!(RecordHeader::decode(record).as_ref(), Ok(header), "a record lies where its place says");
        (*place, *header, &record[RECORD_HEADER_BYTES..][..header.body_len as usize])
    };
    replay(UID, visited.iter().map(record));
    !recovery.segments.is_empty()
}

fn check_recovery(recovery: &Recovery, source: &Source<'_>, last: u64) {
    let files = recovery.segments.len() + recovery.free.len() + recovery.useless.len();
    assert_eq!(files, source.0.len(), "each file is live, free or useless");
    for segment in &recovery.segments {
        assert!(segment.bytes_used <= segment.segment_bytes, "a segment is not longer than its file");
        assert!(segment.segment_bytes <= source.0[&segment.generation].len() as u64);
    }
    assert!(recovery.segments.windows(2).all(|pair| pair[0].generation + 1 == pair[1].generation));
    assert!(recovery.segments.windows(2).all(|pair| pair[0].first_sequence <= pair[1].first_sequence));
    if let Some(end) = recovery.last {
        assert!(last == 0 || last <= end.sequence);
        // A next frame and a next segment exist: numbers never wrap around.
        assert!(end.sequence < recovery.next_sequence && end.generation < recovery.next_generation);
    }
}
