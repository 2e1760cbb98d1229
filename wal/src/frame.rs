//! The frame: what one durable write of the log carries. A header of 64 bytes, records, and zeros up to a whole page.
//!
//! Invariants:
//! - a frame is sealed once and never changes afterwards; spans handed out while it was built stay right;
//! - a header decodes only under the generation of its segment, which seeds its CRC: what a recycled file still holds
//!   is never taken for a frame of today;
//! - `durable_through < sequence`, checked when sealing and when decoding.

use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
};

use crc32c::{crc32c, crc32c_append};
use thiserror::Error;

use crate::{
    PAGE_BYTES,
    buf::AlignedBuf,
    codec::{is_zero, put, round_up, u16_at, u32_at, u64_at},
    planted::{Bug, is},
    record::{
        RECORD_ALIGN, RECORD_BODY_BYTES_MAX, RECORD_HEADER_BYTES, RecordError, RecordHeader, Records, body_crc,
        record_bytes,
    },
    segment::NUMBER_MAX,
};

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 64;
/// The largest frame, in bytes: 1 MiB and a page for headers.
pub const FRAME_BYTES_MAX: usize = (1 << 20) + PAGE_BYTES;
/// The frame layout that this code writes and reads.
pub const FRAME_VERSION: u16 = 1;

/// "SYNF", read as little-endian.
pub(crate) const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"SYNF");

const _: () = assert!(FRAME_HEADER_BYTES + record_bytes(RECORD_BODY_BYTES_MAX) <= FRAME_BYTES_MAX);
const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));

/// What the writer adds to a frame when it seals it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameMeta {
    /// Generation of the segment that the frame goes to.
    pub generation: u64,
    /// The frame's number in the whole log.
    pub sequence: u64,
    /// Every frame up to this number was durable when the frame was sealed.
    pub durable_through: u64,
    /// CRC of the previous frame's header; 0 for the first frame of a log.
    pub prev_crc: u32,
    /// Tells the frames of this log from those of others: see [`wal_tag`](crate::segment::wal_tag).
    pub tag: u64,
}

/// Where a record lies in its frame, in bytes from the frame's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSpan {
    /// First byte of the record's header.
    pub start: u32,
    /// Behind the record's padding.
    pub end: u32,
    /// First byte of the body.
    pub body_start: u32,
    /// Behind the body.
    pub body_end: u32,
}

/// A frame under construction, or sealed.
#[derive(Debug)]
pub struct Frame {
    buf: AlignedBuf,
    records: u32,
    records_crc: u32,
}

impl Frame {
    /// An empty frame that grows in `buf`; what `buf` held is forgotten.
    ///
    /// # Panics
    /// If `buf` is larger than [`FRAME_BYTES_MAX`].
    pub fn new(mut buf: AlignedBuf) -> Self {
        assert!(buf.capacity() <= FRAME_BYTES_MAX, "a frame in a buffer of {} bytes", buf.capacity());
        buf.clear();
        buf.resize(FRAME_HEADER_BYTES);
        Self { buf, records: 0, records_crc: 0 }
    }

    /// Bytes left for padded records.
    pub fn remaining(&self) -> usize {
        // The capacity is whole pages, so there is always room for the padding.
        self.buf.remaining()
    }

    /// Whether a record with a body of `body_len` bytes still fits.
    pub fn fits(&self, body_len: usize) -> bool {
        record_bytes(body_len) <= self.remaining()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How many records there are.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of header and records so far; with the padding once sealed.
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Goes on in a larger buffer; spans given out before stay valid.
    ///
    /// # Panics
    /// If `buf` is smaller than what the frame holds, or larger than [`FRAME_BYTES_MAX`].
    pub fn grow(&mut self, mut buf: AlignedBuf) {
        assert!(buf.capacity() <= FRAME_BYTES_MAX, "a frame in a buffer of {} bytes", buf.capacity());
        buf.clear();
        buf.extend_from_slice(&self.buf);
        self.buf = buf;
    }

    /// Appends a record whose body is `body`, part after part.
    ///
    /// # Panics
    /// If it does not fit, or the header's `body_len` differs (in debug builds also its `body_crc`).
    pub fn push(&mut self, header: &RecordHeader, body: &[&[u8]]) -> RecordSpan {
        let body_len: usize = body.iter().map(|part| part.len()).sum();
        assert_eq!(body_len, header.body_len as usize, "the header states another body length");
        assert!(self.fits(body_len), "a record of {} bytes into {}", record_bytes(body_len), self.remaining());
        debug_assert_eq!(body_crc(body), header.body_crc, "the header states another body CRC");
        let encoded = header.encode();
        let start = self.buf.len();
        self.buf.extend_from_slice(&encoded);
        for part in body {
            self.buf.extend_from_slice(part);
        }
        let body_end = self.buf.len();
        let end = start + record_bytes(body_len);
        self.buf.resize(end);
        self.records += 1;
        self.records_crc = crc32c_append(self.records_crc, &encoded[RECORD_HEADER_BYTES - 4..]);
        RecordSpan {
            start: start as u32,
            end: end as u32,
            body_start: (start + RECORD_HEADER_BYTES) as u32,
            body_end: body_end as u32,
        }
    }

    /// Writes the header and pads to whole pages; gives the header's CRC, which the next frame bears.
    ///
    /// # Panics
    /// If `durable_through` is not below `sequence`.
    pub fn seal(&mut self, meta: FrameMeta) -> u32 {
        assert!(
            meta.durable_through < meta.sequence,
            "frame {} durable through {}",
            meta.sequence,
            meta.durable_through
        );
        let header = FrameHeader {
            generation: meta.generation,
            sequence: meta.sequence,
            durable_through: meta.durable_through,
            body_len: (self.buf.len() - FRAME_HEADER_BYTES) as u32,
            records: self.records,
            prev_crc: meta.prev_crc,
            records_crc: self.records_crc,
            tag: meta.tag,
            crc: 0,
        };
        let encoded = header.encode();
        self.buf[..FRAME_HEADER_BYTES].copy_from_slice(&encoded);
        self.buf.resize(header.frame_bytes());
        u32_at(&encoded, FRAME_HEADER_BYTES - 4)
    }
}

/// A frame that the log, the outboxes and the log cache use together: filled while it is built, shared once sealed.
#[derive(Debug)]
pub struct SharedFrame {
    building: RefCell<Option<Frame>>,
    sealed: OnceCell<Frame>,
}

impl SharedFrame {
    /// Shares `frame`, which is still to be filled.
    pub fn new(frame: Frame) -> Rc<Self> {
        Rc::new(Self { building: RefCell::new(Some(frame)), sealed: OnceCell::new() })
    }

    /// As [`Frame::push`].
    ///
    /// # Panics
    /// As [`Frame::push`], and after the seal.
    pub fn push(&self, header: &RecordHeader, body: &[&[u8]]) -> RecordSpan {
        self.building.borrow_mut().as_mut().expect("a sealed frame takes no records").push(header, body)
    }

    /// As [`Frame::grow`].
    ///
    /// # Panics
    /// As [`Frame::grow`], and after the seal.
    pub fn grow(&self, buf: AlignedBuf) {
        self.building.borrow_mut().as_mut().expect("a sealed frame does not grow").grow(buf);
    }

    /// Bytes left for padded records; 0 once sealed.
    pub fn remaining(&self) -> usize {
        self.building.borrow().as_ref().map_or(0, Frame::remaining)
    }

    /// Whether a record with a body of `body_len` bytes still fits; never once sealed.
    pub fn fits(&self, body_len: usize) -> bool {
        record_bytes(body_len) <= self.remaining()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records() == 0
    }

    /// How many records there are.
    pub fn records(&self) -> u32 {
        self.with(Frame::records)
    }

    /// Whether the frame is sealed.
    pub fn is_sealed(&self) -> bool {
        self.sealed.get().is_some()
    }

    /// As [`Frame::seal`]; from now on the bytes are shared.
    ///
    /// # Panics
    /// As [`Frame::seal`], and at a second seal.
    pub fn seal(&self, meta: FrameMeta) -> u32 {
        let mut frame = self.building.borrow_mut().take().expect("a frame is sealed once");
        let crc = frame.seal(meta);
        assert!(self.sealed.set(frame).is_ok(), "a frame is sealed once");
        crc
    }

    /// The whole frame, padded.
    ///
    /// # Panics
    /// Before the seal.
    pub fn sealed_bytes(&self) -> &[u8] {
        self.sealed.get().expect("the frame is sealed").bytes()
    }

    /// Calls `f` with the bytes so far, sealed or not. `f` must not push to this frame.
    pub fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        self.with(|frame| f(frame.bytes()))
    }

    fn with<R>(&self, f: impl FnOnce(&Frame) -> R) -> R {
        match self.sealed.get() {
            Some(frame) => f(frame),
            None => f(self.building.borrow().as_ref().expect("a frame that is not sealed is being built")),
        }
    }
}

/// A frame's header as read from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Generation of the segment.
    pub generation: u64,
    /// The frame's number in the whole log.
    pub sequence: u64,
    /// Every frame up to this number was durable when this one was sealed.
    pub durable_through: u64,
    /// Bytes of records.
    pub body_len: u32,
    /// How many records there are.
    pub records: u32,
    /// CRC of the previous frame's header.
    pub prev_crc: u32,
    /// CRC over the records' header CRCs.
    pub records_crc: u32,
    /// Tells the frames of this log from those of others.
    pub tag: u64,
    /// CRC of this header.
    pub crc: u32,
}

/// Why bytes are not an intact frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Fewer bytes than the frame needs.
    #[error("a frame of {need} bytes was cut to {have}")]
    Short {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// No frame starts here.
    #[error("no frame starts here")]
    Magic,
    /// The header's checksum does not match under this generation.
    #[error("the frame header's CRC does not match under this segment's generation")]
    Crc,
    /// A layout that this code does not know.
    #[error("frame version {0} is unknown; this program reads version {FRAME_VERSION}")]
    Version(u16),
    /// A field is out of bounds, though the checksum matches.
    #[error("a field of the frame header is out of bounds")]
    Field,
    /// A record is not intact.
    #[error("record {index} of the frame is not intact: {error}")]
    Record {
        /// Which record, from 0.
        index: u32,
        /// What is wrong with it.
        error: RecordError,
    },
    /// The records are not those that were sealed.
    #[error("the frame's records are not those that its header states")]
    Records,
    /// Padding that is not zero.
    #[error("the frame's padding is not zero")]
    Padding,
}

impl FrameHeader {
    /// Reads a header from the first 64 bytes of `bytes`, in a segment of `generation`.
    ///
    /// # Errors
    /// If no intact frame header of this generation stands there.
    pub fn decode(bytes: &[u8], generation: u64) -> Result<Self, FrameError> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err(FrameError::Short { need: FRAME_HEADER_BYTES, have: bytes.len() });
        }
        if u32_at(bytes, 0) != FRAME_MAGIC {
            return Err(FrameError::Magic);
        }
        if header_crc(bytes, generation) != u32_at(bytes, 60) {
            return Err(FrameError::Crc);
        }
        let version = u16_at(bytes, 4);
        if version != FRAME_VERSION {
            return Err(FrameError::Version(version));
        }
        let header = Self {
            generation: u64_at(bytes, 8),
            sequence: u64_at(bytes, 16),
            durable_through: u64_at(bytes, 24),
            body_len: u32_at(bytes, 32),
            records: u32_at(bytes, 36),
            prev_crc: u32_at(bytes, 40),
            records_crc: u32_at(bytes, 44),
            tag: u64_at(bytes, 48),
            crc: u32_at(bytes, 60),
        };
        let body_len = header.body_len as usize;
        let legal = u16_at(bytes, 6) == 0
            && u32_at(bytes, 56) == 0
            && (header.generation == generation || is(Bug::StaleFramesCount))
            && header.durable_through < header.sequence
            && header.sequence <= NUMBER_MAX
            && body_len <= FRAME_BYTES_MAX - FRAME_HEADER_BYTES
            && body_len.is_multiple_of(RECORD_ALIGN)
            && header.records as usize <= body_len / RECORD_HEADER_BYTES;
        if legal { Ok(header) } else { Err(FrameError::Field) }
    }

    /// Bytes of the whole frame, with padding.
    pub fn frame_bytes(&self) -> usize {
        round_up(FRAME_HEADER_BYTES + self.body_len as usize, PAGE_BYTES)
    }

    fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        put(&mut bytes, 0, FRAME_MAGIC.to_le_bytes());
        put(&mut bytes, 4, FRAME_VERSION.to_le_bytes());
        put(&mut bytes, 8, self.generation.to_le_bytes());
        put(&mut bytes, 16, self.sequence.to_le_bytes());
        put(&mut bytes, 24, self.durable_through.to_le_bytes());
        put(&mut bytes, 32, self.body_len.to_le_bytes());
        put(&mut bytes, 36, self.records.to_le_bytes());
        put(&mut bytes, 40, self.prev_crc.to_le_bytes());
        put(&mut bytes, 44, self.records_crc.to_le_bytes());
        put(&mut bytes, 48, self.tag.to_le_bytes());
        let crc = header_crc(&bytes, self.generation);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }
}

/// Checks everything behind a decoded header: records, their CRCs and number, and the padding. `bytes` is the whole
/// frame.
///
/// # Errors
/// If the frame is not intact.
pub fn check_frame(header: &FrameHeader, bytes: &[u8]) -> Result<(), FrameError> {
    let need = header.frame_bytes();
    if bytes.len() < need {
        return Err(FrameError::Short { need, have: bytes.len() });
    }
    let body_end = FRAME_HEADER_BYTES + header.body_len as usize;
    let body = &bytes[FRAME_HEADER_BYTES..body_end];
    let mut records = 0;
    let mut records_crc = 0;
    for record in Records::new(body) {
        let (_, _, range) = record.map_err(|error| FrameError::Record { index: records, error })?;
        records_crc = crc32c_append(records_crc, &body[range.start + RECORD_HEADER_BYTES - 4..][..4]);
        records += 1;
    }
    if records != header.records || records_crc != header.records_crc {
        return Err(FrameError::Records);
    }
    if !is_zero(&bytes[body_end..need]) {
        return Err(FrameError::Padding);
    }
    Ok(())
}

/// The generation is the seed: an old frame in a recycled file fails here.
fn header_crc(bytes: &[u8], generation: u64) -> u32 {
    let generation = if is(Bug::StaleFramesCount) { 0 } else { generation };
    crc32c_append(crc32c(&generation.to_le_bytes()), &bytes[..FRAME_HEADER_BYTES - 4])
}
