//! The write-ahead log of Synod: one per shard, shared by all its groups.
//!
//! # Parts
//! Pure, bytes in and operations out:
//! - [`record`]: the record, 96 bytes of header and a body, the same on disk and on the wire;
//! - [`buf`]: page-aligned buffers and their pool;
//! - [`frame`]: the frame, one durable write with the records of many groups;
//! - [`segment`]: the header page of a segment file;
//! - [`ops`]: what is asked of a disk and what it answers;
//! - [`writer`]: adaptive group commit, rolling, recycling, poisoning;
//! - [`recover`](mod@recover): reads all segments back and tells a torn tail from damage;
//! - [`index`]: per group, where each slot lies.
//!
//! Thin drivers behind the trait [`Disk`]: [`disk::uring`], [`disk::blocking`].
//!
//! # One commit
//! ```text
//! Frame::push* ─▶ Writer::append ─▶ DiskOp::Write ─▶ Disk ─▶ DiskDone::Written ─▶ Writer::on_done ─▶ WalEvent::Durable
//! ```
//!
//! # Invariants
//! - The log knows records as opaque numbers and bytes. It knows nothing of Paxos.
//! - Nothing is told durable before it and all before it are: frame n is submitted only when n-2 is durable.
//! - No block that holds acknowledged data is written again; a file is recycled only when its owner released it.
//! - After the first failure nothing more is written. After a start a new segment is opened; old ones get no frames.
//! - Recovery never guesses: acknowledged data that cannot be read is an error, not a shorter log.
//!
//! # Absent on purpose
//! No clock, no timer that delays a commit, no thread but one helper per driver, no compaction, no repair in place. A loss
//! of the last two frames after their acknowledgement looks like a torn tail here; peers find it (see
//! `docs/internals/wal_format.md`).

// Unsafe is allowed only where memory is allocated, mapped, or handed to the kernel.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod buf;
mod codec;
pub mod disk;
pub mod frame;
pub mod index;
pub mod marks;
pub mod ops;
pub mod planted;
pub mod record;
pub mod recover;
pub mod segment;
pub mod writer;

pub use buf::{AlignedBuf, BufPool};
pub use disk::{BlockingDisk, Disk, DiskConfig, FileSource, SyncMode, UringDisk, flush_tail};
pub use frame::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameError, FrameHeader, FrameMeta, RecordSpan, SharedFrame,
    check_frame,
};
pub use index::{Index, Place};
pub use ops::{DiskDone, DiskError, DiskOp, RecordPlace, WriteData};
pub use record::{
    RECORD_ALIGN, RECORD_BODY_BYTES_MAX, RECORD_HEADER_BYTES, RecordError, RecordHeader, Records, body_crc,
    record_bytes,
};
pub use recover::{Expect, RecoverError, Recovery, SegmentInfo, SegmentSource, Verdict, Visit, recover};
pub use segment::{End, SEGMENT_BYTES, SegmentError, SegmentHeader, segment_generation, segment_name, wal_tag};
pub use writer::{Appended, WalError, WalEvent, Writer, WriterConfig};

/// Everything on disk starts at, and is padded to, multiples of this many bytes.
pub const PAGE_BYTES: usize = 4096;
