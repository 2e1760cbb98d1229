//! The record: a header of 96 bytes and a body, the same bytes on disk and on the wire.
//!
//! Invariants:
//! - a header decodes only when its own CRC holds and its body length is within bounds, so later code never rechecks;
//! - a record is padded with zeros to a multiple of 16 bytes, and other padding is refused: every stored bit counts;
//! - numbers and kinds mean nothing here.

use std::ops::Range;

use crc32c::{crc32c, crc32c_append};
use thiserror::Error;

use crate::codec::{is_zero, put, round_up, u16_at, u32_at, u64_at, u128_at};

/// Bytes of a record header.
pub const RECORD_HEADER_BYTES: usize = 96;
/// Records start at, and are padded to, multiples of this many bytes.
pub const RECORD_ALIGN: usize = 16;
/// The longest body that a record may have, in bytes: a value of 1 MiB and what its owner lays around it.
pub const RECORD_BODY_BYTES_MAX: usize = (1 << 20) + 2048;

/// What stands before a record's body. See `docs/internals/wal_format.md` for the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordHeader {
    /// What the record is; the log does not interpret it.
    pub kind: u8,
    /// Flags of the kind.
    pub flags: u8,
    /// Version of the kind's layout.
    pub version: u16,
    /// Bytes of the body, without padding.
    pub body_len: u32,
    /// The group that the record belongs to.
    pub uid: u128,
    /// Numbers of the kind.
    pub numbers: [u64; 7],
    /// How many entries the body holds.
    pub entries: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Fewer bytes than the record needs.
    #[error("a record of {need} bytes was cut to {have}")]
    Short {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// The header's checksum does not match.
    #[error("a record header's CRC does not match")]
    HeaderCrc,
    /// Reserved bytes are set: a newer layout, or a broken writer.
    #[error("a record header's reserved bytes are not zero")]
    Reserved,
    /// The body would be longer than any body may be.
    #[error("a record body of {0} bytes is over the limit of {RECORD_BODY_BYTES_MAX}")]
    BodyTooLong(u32),
    /// The body's length is not the one that the header states.
    #[error("a record body has {have} bytes, its header states {stated}")]
    BodyLength {
        /// Bytes that the header states.
        stated: u32,
        /// Bytes there.
        have: usize,
    },
    /// The body's checksum does not match.
    #[error("a record body's CRC does not match")]
    BodyCrc,
    /// Padding that is not zero.
    #[error("a record's padding is not zero")]
    Padding,
}

impl RecordHeader {
    /// The header's bytes.
    ///
    /// # Panics
    /// If `body_len` is over [`RECORD_BODY_BYTES_MAX`].
    pub fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        assert!(self.body_len as usize <= RECORD_BODY_BYTES_MAX, "record body of {} bytes", self.body_len);
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[0] = self.kind;
        bytes[1] = self.flags;
        put(&mut bytes, 2, self.version.to_le_bytes());
        put(&mut bytes, 4, self.body_len.to_le_bytes());
        put(&mut bytes, 8, self.uid.to_le_bytes());
        for (index, number) in self.numbers.iter().enumerate() {
            put(&mut bytes, 24 + 8 * index, number.to_le_bytes());
        }
        put(&mut bytes, 80, self.entries.to_le_bytes());
        put(&mut bytes, 84, self.body_crc.to_le_bytes());
        let crc = crc32c(&bytes[..92]);
        put(&mut bytes, 92, crc.to_le_bytes());
        bytes
    }

    /// Reads a header from the first 96 bytes of `bytes`.
    ///
    /// # Errors
    /// If there are fewer bytes, the CRC does not match, or a field is out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() < RECORD_HEADER_BYTES {
            return Err(RecordError::Short { need: RECORD_HEADER_BYTES, have: bytes.len() });
        }
        if crc32c(&bytes[..92]) != u32_at(bytes, 92) {
            return Err(RecordError::HeaderCrc);
        }
        if u32_at(bytes, 88) != 0 {
            return Err(RecordError::Reserved);
        }
        let body_len = u32_at(bytes, 4);
        if body_len as usize > RECORD_BODY_BYTES_MAX {
            return Err(RecordError::BodyTooLong(body_len));
        }
        Ok(Self {
            kind: bytes[0],
            flags: bytes[1],
            version: u16_at(bytes, 2),
            body_len,
            uid: u128_at(bytes, 8),
            numbers: std::array::from_fn(|index| u64_at(bytes, 24 + 8 * index)),
            entries: u32_at(bytes, 80),
            body_crc: u32_at(bytes, 84),
        })
    }

    /// Checks that `body` is the body of this header.
    ///
    /// # Errors
    /// If its length or its CRC differ.
    pub fn check_body(&self, body: &[u8]) -> Result<(), RecordError> {
        if body.len() != self.body_len as usize {
            return Err(RecordError::BodyLength { stated: self.body_len, have: body.len() });
        }
        if crc32c(body) != self.body_crc {
            return Err(RecordError::BodyCrc);
        }
        Ok(())
    }

    /// Bytes of the whole record, with padding.
    pub fn record_bytes(&self) -> usize {
        record_bytes(self.body_len as usize)
    }
}

/// Bytes of a record whose body has `body_len` bytes: header, body and padding.
pub const fn record_bytes(body_len: usize) -> usize {
    round_up(RECORD_HEADER_BYTES + body_len, RECORD_ALIGN)
}

/// CRC32C of a body that lies in several parts.
pub fn body_crc(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |crc, part| crc32c_append(crc, part))
}

/// Walks a run of records, as it stands in a frame or in a message. Every check is made before a record is yielded;
/// after an error the walk ends.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    bodies: Bodies,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bodies {
    Check,
    Checked,
}

impl<'a> Records<'a> {
    /// A walk over `bytes` that checks headers, bodies and padding.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, bodies: Bodies::Check }
    }

    /// A walk over a run whose bodies were checked before.
    pub(crate) fn checked(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, bodies: Bodies::Checked }
    }

    fn record(&self) -> Result<(RecordHeader, &'a [u8], Range<usize>), RecordError> {
        let rest = &self.bytes[self.at..];
        let header = RecordHeader::decode(rest)?;
        let need = header.record_bytes();
        if rest.len() < need {
            return Err(RecordError::Short { need, have: rest.len() });
        }
        let body_end = RECORD_HEADER_BYTES + header.body_len as usize;
        let body = &rest[RECORD_HEADER_BYTES..body_end];
        if self.bodies == Bodies::Check {
            header.check_body(body)?;
        }
        if !is_zero(&rest[body_end..need]) {
            return Err(RecordError::Padding);
        }
        Ok((header, body, self.at..self.at + need))
    }
}

impl<'a> Iterator for Records<'a> {
    /// The header, the body, and where the whole padded record lies in the run.
    type Item = Result<(RecordHeader, &'a [u8], Range<usize>), RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.bytes.len() {
            return None;
        }
        let record = self.record();
        self.at = match &record {
            Ok((_, _, range)) => range.end,
            Err(_) => self.bytes.len(),
        };
        Some(record)
    }
}
