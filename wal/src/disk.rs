//! The seam to a disk: operations in, completions out, one event fd to sleep on. Behind it are io_uring
//! ([`uring`]), plain blocking calls ([`blocking`]), and a simulated disk elsewhere.
//!
//! Invariants: a driver belongs to one thread; it holds the data of a write until the write's completion; it never tells
//! a write durable that is not.

use std::{os::fd::BorrowedFd, path::PathBuf};

use crate::ops::{DiskDone, DiskOp};

pub mod blocking;
pub mod files;
mod helper;
mod signal;
pub mod uring;

pub use blocking::BlockingDisk;
pub use files::{FileSource, flush_tail};
pub use helper::yield_to_shards;
pub use uring::UringDisk;

/// A disk that carries out the log's operations.
pub trait Disk {
    /// Starts an operation. It may complete at once, so whoever submits polls before it sleeps: the event fd tells only of
    /// what completes later.
    fn submit(&mut self, op: DiskOp);

    /// Adds what has completed to `done`, without waiting. Spurious calls are harmless.
    fn poll(&mut self, done: &mut Vec<DiskDone>);

    /// Becomes readable (8 bytes) when [`poll`](Self::poll) may yield something. Whoever sleeps on it reads it, then
    /// polls. It is a blocking eventfd: io_uring answers at once on a non-blocking one.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// Waits until at least one completion is there and adds all that are; returns at once if nothing is in flight.
    fn wait(&mut self, done: &mut Vec<DiskDone>);

    /// Operations that were submitted and whose completion was not given yet; `Discard` has none and is not counted.
    fn in_flight(&self) -> usize;
}

/// Whether a write counts as done when it is durable, or when the system has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// After fdatasync: survives a power cut.
    Durable,
    /// Without any sync: survives a crash of the process only; after a power cut recovery may refuse
    /// the log as damaged. For measurements and throw-away clusters.
    Os,
}

/// What a disk driver must know.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// The directory of one shard's segments; it must exist, and its owner must hold its lock.
    pub directory: PathBuf,
    /// Size of a segment file, in bytes.
    pub segment_bytes: u64,
    /// When a write counts as done.
    pub sync: SyncMode,
}
