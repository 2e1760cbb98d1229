//! Recovery: reads all segments back, in bounded memory, and tells a torn tail from damage.
//!
//! Invariants:
//! - a segment is read only up to the end that its successor states; what lies behind was cut before and counts for
//!   nothing;
//! - only intact frames in an unbroken chain are visited, in order of their sequences;
//! - a bad frame is cut only in the newest segment, and only when nothing says that it was acknowledged. Everything else
//!   that cannot be read is [`RecoverError::Damaged`]: recovery never returns a shorter log instead.
//!
//! `docs/internals/wal_format.md` has the rules as a table.

use std::io;

use thiserror::Error;

use crate::{
    marks::{Mark, mark},
    ops::RecordPlace,
    record::RecordHeader,
    segment::{End, SegmentError, SegmentHeader, wal_tag},
};

mod files;
mod scan;

use files::{Files, PAGE};
use scan::{Chain, Scan};

/// Called for each record: where it lies, the sequence of its frame, its header, its body.
pub type Visit<'a> = dyn FnMut(RecordPlace, u64, &RecordHeader, &[u8]) + 'a;

/// The files of one shard's log, as recovery reads them.
pub trait SegmentSource {
    /// Generations of all segment files, by their names, in any order.
    ///
    /// # Errors
    /// If the directory cannot be read.
    fn generations(&mut self) -> io::Result<Vec<u64>>;

    /// Size of a segment's file, in bytes.
    ///
    /// # Errors
    /// If it cannot be found out.
    fn len(&mut self, generation: u64) -> io::Result<u64>;

    /// Reads into `buf` from `offset` on; gives how many bytes it read, 0 only at the file's end. `offset`, and `buf`'s
    /// start and length, are multiples of 4096.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn read_at(&mut self, generation: u64, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The file's name, for messages.
    fn name(&self, generation: u64) -> String;
}

/// What the log to recover must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    /// The shard.
    pub shard: u32,
    /// The data directory's incarnation.
    pub incarnation: u128,
    /// Size of a segment file, in bytes: unused files of another size are not used again.
    pub segment_bytes: u64,
}

/// A live segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub generation: u64,
    /// Sequence of its first frame, also when it has none yet.
    pub first_sequence: u64,
    /// Bytes up to the end of its last frame, with the header page.
    pub bytes_used: u64,
    /// Size of its file, in bytes.
    pub segment_bytes: u64,
    /// Whether a successor is open, so that it gets no more frames.
    pub sealed: bool,
}

/// How the log ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was cut.
    Clean,
    /// What stood behind the last intact frame was cut. It was never told durable, unless a last frame rotted later: only
    /// peers can know that.
    TornTail {
        /// The file.
        file: String,
        /// Where the cut is, in bytes.
        offset: u64,
    },
}

/// What recovery found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Live segments, oldest first; all are sealed, since every start opens a new one.
    pub segments: Vec<SegmentInfo>,
    /// Files prepared and not used, ascending.
    pub free: Vec<u64>,
    /// Unused files of another size than expected, ascending: to be deleted.
    pub useless: Vec<u64>,
    /// Where the log ends; `None` if there is no segment.
    pub last: Option<End>,
    /// The generation of the next segment.
    pub next_generation: u64,
    /// The sequence of the next frame.
    pub next_sequence: u64,
    /// How the log ended.
    pub verdict: Verdict,
    /// The last frame: it and all before it are durable once the kept tail is flushed.
    pub durable_through: u64,
}

impl Recovery {
    /// What recovery finds in an empty directory.
    pub fn empty() -> Self {
        Self {
            segments: Vec::new(),
            free: Vec::new(),
            useless: Vec::new(),
            last: None,
            next_generation: 1,
            next_sequence: 1,
            verdict: Verdict::Clean,
            durable_through: 0,
        }
    }

    /// The segment whose file must be flushed before anything is written, if there is one.
    pub fn tail_generation(&self) -> Option<u64> {
        self.last.map(|end| end.generation)
    }
}

/// Why a log cannot be used as it is.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// A file cannot be read.
    #[error("cannot read {file}: {source}. Check the disk and the permissions, then start again; nothing was changed")]
    Io {
        /// The file or directory.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Data that was acknowledged cannot be read back.
    #[error(
        "{file} is damaged at byte {offset} (frame {sequence}{}): {why}. Acknowledged data may be lost here, so nobody may \
         vote with this log again",
        of_group(.uid)
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where, in bytes.
        offset: u64,
        /// The frame that should stand there.
        sequence: u64,
        /// The group named by the first record header that is readable there.
        uid: Option<u128>,
        /// What is wrong.
        why: String,
    },
    /// The files belong to another directory or shard.
    #[error(
        "{file} belongs to {found}, not to {expected}: files were mixed up. Restore this directory's own files, or point \
         the node at the right directory; nothing was changed"
    )]
    Foreign {
        /// The file.
        file: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The files have a format that this program does not know.
    #[error("{file} has format version {version}, which this program does not read: start the version that wrote it")]
    UnknownVersion {
        /// The file.
        file: String,
        /// Its version.
        version: u16,
    },
}

fn of_group(uid: &Option<u128>) -> String {
    uid.map_or_else(String::new, |uid| format!(", group {uid:032x}"))
}

/// Reads the whole log and calls `visit` for each record of each intact frame, in order. On an error, what was visited
/// must be forgotten.
///
/// # Errors
/// If files cannot be read, are damaged, foreign, or of an unknown version.
pub fn recover(
    source: &mut dyn SegmentSource,
    expect: Expect,
    visit: &mut Visit<'_>,
) -> Result<Recovery, RecoverError> {
    let tag = wal_tag(expect.incarnation, expect.shard);
    let mut files = Files::new(source, tag);
    let mut generations = files.generations()?;
    generations.sort_unstable();
    generations.dedup();
    let (live, unused) = find_live(&mut files, expect, &generations)?;

    let mut recovery = Recovery::empty();
    for generation in unused {
        files.check_unused(generation, live.last())?;
        if files.len(generation)? == expect.segment_bytes {
            recovery.free.push(generation);
        } else {
            recovery.useless.push(generation);
        }
    }
    let Some(first) = live.first() else {
        return Ok(recovery);
    };
    let before = first.previous.unwrap_or(End { generation: 0, sequence: 0, offset: PAGE, crc: 0 });
    let mut chain = Chain { sequence: before.sequence, crc: before.crc };
    for (index, header) in live.iter().enumerate() {
        let successor = live.get(index + 1);
        // A file has its full size before its header is written.
        let file_bytes = files.len(header.generation)?;
        if file_bytes < header.segment_bytes {
            return Err(RecoverError::Damaged {
                file: files.name(header.generation),
                offset: file_bytes,
                sequence: chain.sequence + 1,
                uid: None,
                why: format!("the file was cut short: {file_bytes} of {} bytes are there", header.segment_bytes),
            });
        }
        let mut scan = Scan { files: &mut files, header, chain, offset: PAGE };
        match successor {
            Some(successor) => scan.read_sealed(successor, visit)?,
            None => recovery.verdict = scan.read_newest(visit)?,
        }
        chain = scan.chain;
        recovery.segments.push(SegmentInfo {
            generation: header.generation,
            first_sequence: header.first_sequence,
            bytes_used: scan.offset,
            segment_bytes: header.segment_bytes,
            sealed: true,
        });
    }
    let newest = recovery.segments.last().expect("there is a live segment");
    let end =
        End { generation: newest.generation, sequence: chain.sequence, offset: newest.bytes_used, crc: chain.crc };
    recovery.last = Some(end);
    recovery.next_generation = end.generation + 1;
    recovery.next_sequence = end.sequence + 1;
    recovery.durable_through = end.sequence;
    Ok(recovery)
}

/// Sorts the files into live segments and unused ones by their header pages. Live ones have no gaps, and no file before
/// the newest live one is anything else.
fn find_live(
    files: &mut Files<'_>,
    expect: Expect,
    generations: &[u64],
) -> Result<(Vec<SegmentHeader>, Vec<u64>), RecoverError> {
    let mut live: Vec<SegmentHeader> = Vec::new();
    let mut unused: Vec<(u64, &'static str)> = Vec::new();
    for &generation in generations {
        let file = files.name(generation);
        let page = files.page(generation, 0)?;
        let header = match SegmentHeader::decode(page) {
            Ok(header) => header,
            Err(SegmentError::Version(version)) => {
                return Err(RecoverError::UnknownVersion { file, version });
            }
            Err(SegmentError::Blank) => {
                mark(Mark::UnusedFound);
                unused.push((generation, "its header page is blank"));
                continue;
            }
            Err(_) => {
                mark(Mark::HeaderNotIntact);
                unused.push((generation, "its header page is not intact"));
                continue;
            }
        };
        if (header.incarnation, header.shard) != (expect.incarnation, expect.shard) {
            return Err(RecoverError::Foreign {
                file,
                found: directory_of(header.incarnation, header.shard),
                expected: directory_of(expect.incarnation, expect.shard),
            });
        }
        if header.generation < generation {
            mark(Mark::HeaderOfOlder);
            unused.push((generation, "its header page is one of an older segment"));
            continue;
        }
        let damaged =
            |file, why| RecoverError::Damaged { file, offset: 0, sequence: header.first_sequence, uid: None, why };
        if generation < header.generation {
            let why = format!("its header is one of segment {}: the file was renamed", header.generation);
            return Err(damaged(file, why));
        }
        // An intact segment stands behind: what is unused before it was not unused once.
        if let Some((unused, why)) = unused.first() {
            let why = format!("{why}, though segment {generation} came after it");
            return Err(damaged(files.name(*unused), why));
        }
        if let Some(before) = live.last().filter(|before| before.generation + 1 != generation) {
            let why = format!("segments {} to {} are missing", before.generation + 1, generation - 1);
            return Err(damaged(file, why));
        }
        live.push(header);
    }
    Ok((live, unused.into_iter().map(|(generation, _)| generation).collect()))
}

fn directory_of(incarnation: u128, shard: u32) -> String {
    format!("directory {incarnation:032x} shard {shard}")
}
