//! A disk in memory: one shard's directory of segment files, exact to the byte and to what a crash may leave of it.
//!
//! It takes the log's [`DiskOp`]s and gives its [`DiskDone`]s. An operation is started and finished separately, and goes on
//! step by step in between, so the caller decides the order, the delay (a hung disk is one whose operations are not
//! finished), the faults, and between which two steps the power goes.
//!
//! Invariants:
//! - the same calls leave the same bytes: no clock, no randomness but what a [`CrashChoice`] brings;
//! - `Prepare`, `Discard` and `Read` go on one by one in the order of their start, as on the helper thread of the real
//!   drivers; a write may overtake them and other writes;
//! - what is not synced is all that a crash chooses about; what is synced stays, whatever the choice;
//! - a copy shares its pages with the original until one of them is written.

use std::{collections::VecDeque, io, rc::Rc};

use synod_wal::{DiskDone, DiskError, DiskOp, RecordPlace, SegmentSource, WriteData, segment_name};

mod choice;
mod content;
mod directory;
mod log;
mod rot;
mod steps;
#[cfg(test)]
mod tests;

pub use choice::{CrashChoice, Dice, Fate, Prefix, SECTOR_BYTES, Sector, Subset};
pub use log::{History, Issued, SimLog, Watch};
pub use steps::Step;

use directory::{Directory, Name};
use steps::Job;

/// Names an operation that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(u64);

/// How the next step of an operation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It and all steps behind it succeed, if nothing of the disk is in their way.
    Done,
    /// It fails with EIO. A write that fails so may have left any of its bytes, a sync has dropped what it could not write.
    Eio,
    /// It fails with ENOSPC, without an effect.
    NoSpace,
    /// A write takes only so many bytes.
    Short(usize),
}

/// What an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// A write of so many bytes.
    Write {
        /// The segment.
        generation: u64,
        /// Where, in bytes from the file's start.
        offset: u64,
        /// How many bytes.
        bytes: usize,
    },
    /// The making of a segment's file.
    Prepare {
        /// The segment.
        generation: u64,
    },
    /// A read of so many records.
    Read {
        /// How many.
        places: usize,
    },
    /// The deletion of a segment's file.
    Discard {
        /// The segment.
        generation: u64,
    },
}

/// An operation that was started and not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Its name.
    pub id: OpId,
    /// What it is.
    pub kind: OpKind,
    /// Whether it may go on now, or waits for one before it.
    pub ready: bool,
}

/// The disk of one shard.
#[derive(Debug, Clone)]
pub struct SimDisk {
    segment_bytes: u64,
    directory: Directory,
    writes: Vec<Job>,
    helper: VecDeque<Job>,
    id_next: u64,
    /// As in the real helper: after a failed deletion or renaming nothing is deleted or recycled until the next start.
    old_stay: bool,
    bytes_max: u64,
    bad_reads: Vec<rot::BadRead>,
}

impl SimDisk {
    /// An empty directory for segments of this size.
    pub fn new(segment_bytes: u64) -> Self {
        Self {
            segment_bytes,
            directory: Directory::default(),
            writes: Vec::new(),
            helper: VecDeque::new(),
            id_next: 0,
            old_stay: false,
            bytes_max: u64::MAX,
            bad_reads: Vec::new(),
        }
    }

    /// Starts an operation. A `Discard` has a name too, for it takes time and may fail, though it has no answer.
    pub fn start(&mut self, op: DiskOp) -> OpId {
        let id = OpId(self.id_next);
        self.id_next += 1;
        let job = Job::new(id, op);
        if let OpKind::Write { .. } = job.kind() {
            self.writes.push(job)
        } else {
            self.helper.push_back(job)
        }
        id
    }

    /// What was started and not finished, in the order of the start.
    pub fn pending(&self) -> Vec<Pending> {
        let ready = self.helper.front().map(|job| job.id);
        let pending = |job: &Job| {
            let kind = job.kind();
            let ready = matches!(kind, OpKind::Write { .. }) || ready == Some(job.id);
            Pending { id: job.id, kind, ready }
        };
        let mut all: Vec<_> = self.writes.iter().chain(&self.helper).map(pending).collect();
        all.sort_unstable_by_key(|pending| pending.id);
        all
    }

    /// Carries out the next step of an operation, and tells which; `None` if only its answer is left. A step that the disk
    /// itself refuses (no such file, no room) is none: the operation has failed then.
    ///
    /// # Panics
    /// If the operation is not pending or not ready.
    pub fn advance(&mut self, id: OpId) -> Option<Step> {
        let mut job = self.take(id);
        let step = self.step(&mut job, Outcome::Done);
        match job.kind() {
            OpKind::Write { .. } => self.writes.push(job),
            _ => self.helper.push_front(job),
        }
        step
    }

    /// Ends an operation: a fault meets its next step, else all steps that are left are carried out. Gives its answer,
    /// `None` for a `Discard`.
    ///
    /// # Panics
    /// If the operation is not pending or not ready, or a fault finds no step left to meet.
    pub fn finish(&mut self, id: OpId, outcome: Outcome) -> Option<DiskDone> {
        let mut job = self.take(id);
        if outcome != Outcome::Done {
            let met = self.step(&mut job, outcome);
            assert!(met.is_some() || job.has_failed(), "no step of {:?} is left to fail", job.kind());
        }
        while self.step(&mut job, Outcome::Done).is_some() {}
        self.answer(job)
    }

    /// Carries out and ends every operation, in the order of the start, and gives the answers.
    pub fn finish_all(&mut self) -> Vec<DiskDone> {
        let ids: Vec<_> = self.pending().iter().map(|pending| pending.id).collect();
        ids.into_iter().filter_map(|id| self.finish(id, Outcome::Done)).collect()
    }

    /// The power goes. What is synced stays; of the rest, also of writes that were only started, what `choice` says is
    /// there. No operation is answered any more.
    pub fn crash(&mut self, choice: &mut dyn CrashChoice) {
        self.land_started(&mut true);
        self.directory.crash(choice);
        self.drop_process();
    }

    /// The process ends and the machine stays: what has landed is there for the next process to read, but no more durable
    /// than before. Writes that were only started land or do not, as [`CrashChoice::change`] says.
    pub fn kill(&mut self, choice: &mut dyn CrashChoice) {
        self.land_started(choice);
        self.drop_process();
    }

    /// A driver starts over the directory: it deletes what an earlier process left unfinished.
    ///
    /// # Panics
    /// If operations are pending.
    pub fn open(&mut self) {
        assert!(self.writes.is_empty() && self.helper.is_empty(), "the process before is over");
        let unfinished: Vec<_> = self.directory.names().filter(|name| matches!(name, Name::Unfinished(_))).collect();
        for name in unfinished {
            self.directory.remove(name).expect("it was listed");
        }
    }

    /// Makes a segment's file durable: the first half of [`flush_tail`](synod_wal::flush_tail).
    ///
    /// # Errors
    /// If there is no such file.
    pub fn flush_file(&mut self, generation: u64) -> io::Result<()> {
        self.directory.sync_file(Name::Segment(generation))
    }

    /// Makes the names of files durable: the second half of [`flush_tail`](synod_wal::flush_tail).
    pub fn flush_directory(&mut self) {
        self.directory.sync();
    }

    /// As [`flush_tail`](synod_wal::flush_tail): a segment's file, then the directory.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn flush_tail(&mut self, generation: u64) -> io::Result<()> {
        self.flush_file(generation)?;
        self.flush_directory();
        Ok(())
    }

    /// Sectors of each write that a [`crash`](Self::crash) would choose about, with the write's bytes, in the order in
    /// which it asks.
    pub fn unsynced(&self) -> Vec<(usize, Vec<u8>)> {
        let mut landed = self.clone();
        landed.land_started(&mut true);
        landed.directory.unsynced_writes().map(|(sectors, bytes)| (sectors, bytes.to_vec())).collect()
    }

    /// How many changes of names and sizes a [`crash`](Self::crash) would choose about.
    pub fn unsynced_changes(&self) -> usize {
        self.directory.unsynced_changes()
    }

    /// Limits what all files together may hold: making a file beyond that fails with ENOSPC.
    pub fn limit_bytes(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Bytes that all files hold.
    pub fn bytes(&self) -> u64 {
        self.directory.bytes()
    }

    fn land_started(&mut self, choice: &mut dyn CrashChoice) {
        for job in std::mem::take(&mut self.writes) {
            if job.is_untouched() && choice.change() {
                job.land(&mut self.directory);
            }
        }
    }

    fn drop_process(&mut self) {
        self.writes.clear();
        self.helper.clear();
        self.old_stay = false;
    }

    fn take(&mut self, id: OpId) -> Job {
        if let Some(at) = self.writes.iter().position(|job| job.id == id) {
            return self.writes.remove(at);
        }
        let first = self.helper.front().is_some_and(|job| job.id == id);
        assert!(first, "{id:?} is not pending, or one before it is not finished");
        self.helper.pop_front().expect("just looked at")
    }

    fn read(&mut self, place: &RecordPlace) -> Result<Vec<u8>, DiskError> {
        let failed = |error: &io::Error| DiskError::from_io("read", segment_name(place.generation), error);
        let mut record = vec![0; place.bytes as usize];
        let read = self.read_bytes(place.generation, place.offset, &mut record).map_err(|error| failed(&error))?;
        if read < record.len() {
            return Err(failed(&io::ErrorKind::UnexpectedEof.into()));
        }
        place.check(|| segment_name(place.generation), &record).map(|()| record)
    }

    fn read_bytes(&mut self, generation: u64, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.meet_bad_read(generation, offset, buf.len())?;
        Ok(self.directory.file(Name::Segment(generation))?.current.read(offset, buf))
    }
}

impl SegmentSource for SimDisk {
    fn generations(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.segments())
    }

    fn len(&mut self, generation: u64) -> io::Result<u64> {
        Ok(self.directory.file(Name::Segment(generation))?.current.len())
    }

    fn read_at(&mut self, generation: u64, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read_bytes(generation, offset, buf)
    }

    fn name(&self, generation: u64) -> String {
        segment_name(generation)
    }
}

/// What a write carries, shared by the copies of a disk.
type Data = Rc<WriteData>;
