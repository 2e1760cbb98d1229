//! Where a node keeps its logs: the seam for those who bring their own.
//!
//! A node asks its [`LogStore`] for two things of each shard's log: its segments, as recovery reads them, and a [`Disk`] that
//! carries out the log's operations. The system's own store is [`DiskBackend`]: files in the node's
//! directory, through io_uring or blocking calls. Another one is passed as
//! [`Options::log_store`](crate::Options::log_store); it may wrap the system's.
//!
//! Only the logs are in it. What the node says of itself and of its peers, and the checkpoints of its state machines, stay
//! files in its directory.
//!
//! # Contract
//! A vote leaves this node when the log has said that it is durable, so acknowledged entries are as safe as this is kept:
//!
//! - **A log has a name**: [`LogPlace::log`], 128 bits that are drawn once. What was written under a name is found again under
//!   that name, in this process and in all later ones, and under no other. A log that must not be voted with again is given
//!   up under its name, and the shard goes on with a new one.
//! - **Segments**: a log is a set of files, *segments*, numbered by *generations*. Each has a fixed size and reads as zeros,
//!   or as what the file had that was recycled into it, where nothing was written.
//! - [`DiskOp::Write`]: once it is answered with `Ok`, its bytes are there after whatever [`LogPlace::sync`] names: a power
//!   cut ([`SyncMode::Durable`]), or the end of the process ([`SyncMode::Os`]). Until then any of its pages may be old or new,
//!   or, of those that were being written, damaged. Two writes may be under way and may be carried out in any order; no page
//!   that an answered write has filled may change.
//! - [`DiskOp::Prepare`]: once it is answered with `Ok`, the segment is there after a power cut, in its full size. With
//!   `recycle` it takes the place of another one, which is gone from then on: after a crash one of the two is there, never
//!   both and never neither. What was `Prepare`d before a crash, and never written to, may be there or not.
//! - [`DiskOp::Discard`] has no answer. Until it is durable the segment may come back after a crash, but only with all that
//!   were discarded or recycled after it: from the front of the log segments go in their order, and a gap is damage.
//! - [`DiskOp::Read`] is answered with as many records as were asked for, each whole and checked
//!   ([`RecordPlace::check`]), or an error. Only what an answered write has filled is asked for.
//! - **Order**: `Prepare`, `Discard` and `Read` are carried out in the order of their submission. A `Write` goes only into a
//!   segment whose `Prepare` was answered, or one that recovery found.
//! - **Each operation but `Discard` is answered exactly once**, by [`Disk::poll`] or [`Disk::wait`].
//! - **An error of a write** says that nobody knows what became of it. It must never be tried again by the store and then be
//!   told as `Ok`: after a failed sync the system forgets what it could not write. The shard writes nothing more, ever, and
//!   the node stops loudly ([`Options::on_fatal`](crate::Options::on_fatal)); whether the write is there is found out by
//!   recovery. So too for a failed `Prepare`, except that a full disk ([`StorageFull`](std::io::ErrorKind::StorageFull),
//!   [`QuotaExceeded`](std::io::ErrorKind::QuotaExceeded)) is waited out: the `Prepare` is given again.
//! - **An error of a read** (an EIO) is logged, and that reader or peer gets nothing; votes are not touched. In recovery it
//!   keeps the node from starting, and nothing is changed.
//! - [`Disk::event_fd`] is a *blocking* eventfd whose counter is raised whenever an operation has completed after
//!   [`Disk::submit`] returned. What completes within `submit` need not raise it. It stays the same and open as long as the
//!   disk lives.
//! - **Threads**: [`LogStore`] may be called from several shards at once. A `Disk` stays on its shard's thread, which must
//!   not be kept waiting: all other shard's work waits with it. It is dropped only when nothing is in flight, unless the
//!   shard has panicked.
//!
//! What a crash may take: everything that was not answered. What it may not: anything that was. A store that is found empty
//! under a name that was opened once keeps its node from starting, since its votes are lost.
//!
//! What a store says is checked as far as it can be: numbers, sizes, records' checksums, and that answers are to what was
//! asked. A store that breaks the contract gets an error that says so, as does one whose bytes are not what was written.

mod checked;
#[cfg(any(test, feature = "simulation"))]
#[cfg_attr(not(feature = "simulation"), allow(unreachable_pub, reason = "other packages' tests use it"))]
pub(crate) mod failing;

use std::io;
use std::path::PathBuf;

use synod_wal::disk::{BlockingDisk, DiskConfig, FileSource, UringDisk, flush_tail};

pub use synod_wal::PAGE_BYTES;
pub use synod_wal::disk::{Disk, SyncMode};
pub use synod_wal::ops::{DiskDone, DiskError, DiskOp, RecordPlace, WriteData};
pub use synod_wal::recover::SegmentSource;

pub(crate) use checked::CheckedStore;

use crate::config::{DiskBackend, Sync};

/// Which log, and how it is to be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LogPlace {
    /// The log's name: drawn once, and never used for another log.
    pub log: u128,
    /// The shard.
    pub shard: usize,
    /// Where the system's store has this log. It exists when [`LogStore::open`] is called, and belongs to this process alone.
    pub directory: PathBuf,
    /// Size of a segment that is made, in bytes. Those that are there may have other sizes.
    pub segment_bytes: u64,
    /// When a write counts as done.
    pub sync: SyncMode,
}

impl LogPlace {
    fn config(&self) -> DiskConfig {
        DiskConfig { directory: self.directory.clone(), segment_bytes: self.segment_bytes, sync: self.sync }
    }
}

impl From<Sync> for SyncMode {
    fn from(sync: Sync) -> Self {
        match sync {
            Sync::Durable => Self::Durable,
            Sync::Os => Self::Os,
        }
    }
}

/// Where logs are kept. Its contract is that of the [module](self).
pub trait LogStore: Send + std::marker::Sync {
    /// The segments of a log, for recovery: none if there is nothing under its name. Nothing is written meanwhile. May be
    /// asked for several times, also with no `open` between.
    ///
    /// # Errors
    /// When they cannot be looked at: the node does not start.
    fn segments(&self, place: &LogPlace) -> io::Result<Box<dyn SegmentSource>>;

    /// Opens a log for writing, on its shard's thread, once per start. `tail` is the newest segment that recovery has found
    /// in use: before this returns, all that it and those before it hold must be durable as a write is, since what recovery
    /// has read may never have been.
    ///
    /// # Errors
    /// When it cannot be written to: the node does not start.
    fn open(&self, place: &LogPlace, tail: Option<u64>) -> Result<Box<dyn Disk>, DiskError>;

    /// A log is used no more: its records were copied into others, or it was never finished. Its room may be had again. A
    /// crash may come before the call; a log that was damaged is not forgotten, but left to whoever looks for what is lost.
    fn forget(&self, place: &LogPlace) {
        let _ = place;
    }
}

/// The system's files. A log that is used no more goes with its directory.
impl LogStore for DiskBackend {
    fn segments(&self, place: &LogPlace) -> io::Result<Box<dyn SegmentSource>> {
        Ok(Box::new(FileSource::new(&place.directory)))
    }

    fn open(&self, place: &LogPlace, tail: Option<u64>) -> Result<Box<dyn Disk>, DiskError> {
        if let Some(tail) = tail {
            flush_tail(&place.directory, tail)?;
        }
        Ok(match self {
            Self::Uring => Box::new(UringDisk::new(place.config())?),
            Self::Blocking => Box::new(BlockingDisk::new(place.config())?),
        })
    }
}
