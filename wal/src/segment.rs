//! The segment: a file of fixed size whose first page says what it is and where the log before it ended.
//!
//! Invariants:
//! - the header page is durable before the first frame of its segment is submitted, and is never written again;
//! - generations of live segments have no gaps, and `previous.generation + 1 == generation`;
//! - the CRC covers the whole page, so any changed bit of it is noticed.

use crc32c::crc32c;
use thiserror::Error;

use crate::{
    PAGE_BYTES,
    buf::AlignedBuf,
    codec::{is_zero, put, u16_at, u32_at, u64_at, u128_at},
};

/// The usual size of a segment file, in bytes.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// The segment layout that this code writes and reads.
pub const SEGMENT_VERSION: u16 = 1;
/// The smallest segment: the header page and two frames of one page.
pub const SEGMENT_BYTES_MIN: u64 = 3 * PAGE_BYTES as u64;

/// Generations and sequences are at most this, so that whatever is read from disk has a next one.
pub(crate) const NUMBER_MAX: u64 = i64::MAX as u64;

/// "SYNS", read as little-endian.
const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"SYNS");
/// Flag: the file may hold frames of an older generation behind its own.
const FLAG_RECYCLED: u16 = 1;
/// Flag: a segment came before this one.
const FLAG_PREVIOUS: u16 = 2;

/// Where a log ended when its next segment was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The segment before.
    pub generation: u64,
    /// Sequence of the log's last frame, there or in a segment before it; 0 if there is none.
    pub sequence: u64,
    /// Behind the last frame of that segment, in bytes from the file's start; the first page if it has none.
    pub offset: u64,
    /// CRC of the last frame's header; 0 if there is none.
    pub crc: u32,
}

/// The first page of a segment. See `docs/internals/wal_format.md` for the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of the segment, from 1.
    pub generation: u64,
    /// Size of the file, in bytes.
    pub segment_bytes: u64,
    /// The shard that the log belongs to.
    pub shard: u32,
    /// The data directory that the log belongs to.
    pub incarnation: u128,
    /// Sequence of the first frame.
    pub first_sequence: u64,
    /// Whether the file was used before under another generation.
    pub recycled: bool,
    /// Where the segment before ended; `None` for the first one of a log.
    pub previous: Option<End>,
}

/// Why a page is not the header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// Fewer bytes than a page.
    #[error("the header page was cut to {0} bytes")]
    Short(usize),
    /// Only zeros: prepared, never used.
    #[error("the header page is blank")]
    Blank,
    /// No segment starts here.
    #[error("the header page does not start a segment")]
    Magic,
    /// The checksum does not match.
    #[error("the header page's CRC does not match")]
    Crc,
    /// A layout that this code does not know.
    #[error("segment version {0} is unknown; this program reads version {SEGMENT_VERSION}")]
    Version(u16),
    /// A field is out of bounds, though the checksum matches.
    #[error("a field of the header page is out of bounds")]
    Field,
}

impl SegmentHeader {
    /// The page's bytes.
    pub fn encode(&self) -> AlignedBuf {
        let mut page = AlignedBuf::new(PAGE_BYTES);
        page.resize(PAGE_BYTES);
        let mut flags = 0;
        if self.recycled {
            flags |= FLAG_RECYCLED;
        }
        put(&mut page, 0, SEGMENT_MAGIC.to_le_bytes());
        put(&mut page, 4, SEGMENT_VERSION.to_le_bytes());
        put(&mut page, 8, self.generation.to_le_bytes());
        put(&mut page, 16, self.segment_bytes.to_le_bytes());
        put(&mut page, 24, self.incarnation.to_le_bytes());
        put(&mut page, 40, self.first_sequence.to_le_bytes());
        put(&mut page, 48, self.shard.to_le_bytes());
        if let Some(previous) = self.previous {
            flags |= FLAG_PREVIOUS;
            put(&mut page, 52, previous.crc.to_le_bytes());
            put(&mut page, 56, previous.generation.to_le_bytes());
            put(&mut page, 64, previous.sequence.to_le_bytes());
            put(&mut page, 72, previous.offset.to_le_bytes());
        }
        put(&mut page, 6, flags.to_le_bytes());
        let crc = crc32c(&page[..PAGE_BYTES - 4]);
        put(&mut page, PAGE_BYTES - 4, crc.to_le_bytes());
        debug_assert_eq!(Self::decode(&page), Ok(*self), "what is written can be read");
        page
    }

    /// Reads a header page.
    ///
    /// # Errors
    /// If the page is not an intact header.
    pub fn decode(page: &[u8]) -> Result<Self, SegmentError> {
        if page.len() < PAGE_BYTES {
            return Err(SegmentError::Short(page.len()));
        }
        let page = &page[..PAGE_BYTES];
        if is_zero(page) {
            return Err(SegmentError::Blank);
        }
        if u32_at(page, 0) != SEGMENT_MAGIC {
            return Err(SegmentError::Magic);
        }
        // The CRC stands in the same place in every version, so a damaged version is not taken for a new one.
        if crc32c(&page[..PAGE_BYTES - 4]) != u32_at(page, PAGE_BYTES - 4) {
            return Err(SegmentError::Crc);
        }
        let version = u16_at(page, 4);
        if version != SEGMENT_VERSION {
            return Err(SegmentError::Version(version));
        }
        let flags = u16_at(page, 6);
        let end = End {
            generation: u64_at(page, 56),
            sequence: u64_at(page, 64),
            offset: u64_at(page, 72),
            crc: u32_at(page, 52),
        };
        let header = Self {
            generation: u64_at(page, 8),
            segment_bytes: u64_at(page, 16),
            incarnation: u128_at(page, 24),
            first_sequence: u64_at(page, 40),
            shard: u32_at(page, 48),
            recycled: flags & FLAG_RECYCLED != 0,
            previous: (flags & FLAG_PREVIOUS != 0).then_some(end),
        };
        let legal = flags & !(FLAG_RECYCLED | FLAG_PREVIOUS) == 0 && header.is_legal();
        if legal { Ok(header) } else { Err(SegmentError::Field) }
    }

    fn is_legal(&self) -> bool {
        let page = PAGE_BYTES as u64;
        let sizes = SEGMENT_BYTES_MIN <= self.segment_bytes && self.segment_bytes.is_multiple_of(page);
        let link = match self.previous {
            None => self.generation == 1 && self.first_sequence == 1,
            Some(end) => {
                end.generation.checked_add(1) == Some(self.generation)
                    && end.sequence.checked_add(1) == Some(self.first_sequence)
                    && page <= end.offset
                    && end.offset.is_multiple_of(page)
            }
        };
        let numbers = self.generation <= NUMBER_MAX && self.first_sequence <= NUMBER_MAX;
        sizes && link && numbers
    }
}

/// A number that all frames of one log bear, so that a payload which happens to hold pages of another log, or of a
/// forger who does not know the directory's incarnation, is never taken for evidence in recovery.
pub fn wal_tag(incarnation: u128, shard: u32) -> u64 {
    (incarnation as u64) ^ ((incarnation >> 64) as u64).rotate_left(32) ^ u64::from(shard)
}

/// The file name of a segment.
pub fn segment_name(generation: u64) -> String {
    format!("{generation:016x}.seg")
}

/// The generation that a file name states, if it is a segment's.
pub fn segment_generation(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let canonical = digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if canonical { u64::from_str_radix(digits, 16).ok() } else { None }
}
