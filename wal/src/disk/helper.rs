//! One thread per shard for what may block: making, recycling and deleting segment files, and reading records back.
//!
//! Invariants:
//! - jobs are done one by one in the order given, so files leave in the order of their generations, and no file is
//!   recycled or deleted while it is mapped;
//! - once an old file could not be deleted or renamed for good, all later ones stay: recovery must not meet a gap;
//! - no length from outside is trusted: a place is checked against its file, a record against its checksums;
//! - the shard's thread never waits for this one, except when the driver is dropped.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use memmap2::Mmap;
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use crate::{
    PAGE_BYTES,
    buf::AlignedBuf,
    disk::{
        files::{SegmentFiles, sync_directory},
        signal::Signal,
    },
    ops::{DiskDone, DiskError, RecordPlace},
    record::{RECORD_ALIGN, RECORD_BODY_BYTES_MAX, RECORD_HEADER_BYTES, record_bytes},
};

/// Jobs that may wait in the channel; more wait on the shard's side.
const JOBS_MAX: usize = 256;
/// Zeros are written in pieces of this many bytes.
const ZEROS_BYTES: usize = 1 << 20;
/// How much more a shard's thread counts: about ten times, as the scheduler has it.
const HELPER_NICE: i32 = 10;
/// Segments that stay mapped between reads: they cost no memory, and each of many groups may be read at another place.
const MAPPINGS_MAX: usize = 64;

/// Lets the threads of shards go before this one where there are too few cores for all: nobody waits for it as anxiously.
/// Where the system does not allow it, it goes without.
pub fn yield_to_shards() {
    let _ = rustix::process::setpriority_process(None, HELPER_NICE);
}

/// The shard's side of the helper.
#[derive(Debug)]
pub(crate) struct Helper {
    /// `None` only while being dropped.
    jobs: Option<Sender<Job>>,
    done: Option<Receiver<DiskDone>>,
    backlog: VecDeque<Job>,
    answers_due: usize,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) enum Job {
    Prepare {
        generation: u64,
        recycle: Option<u64>,
    },
    Discard {
        generation: u64,
    },
    /// Segments below `newest` are sealed.
    Read {
        request: u64,
        places: Vec<RecordPlace>,
        newest: u64,
    },
}

impl Helper {
    pub(crate) fn start(files: SegmentFiles, signal: Signal) -> io::Result<Self> {
        let (jobs, jobs_out) = bounded(JOBS_MAX);
        let (done_in, done) = bounded(JOBS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker { files, stop: Arc::clone(&stop), mappings: Vec::new(), unsealed: None, old_stay: false };
        let thread = std::thread::Builder::new().name("synod-wal-files".into()).spawn(move || {
            yield_to_shards();
            worker.run(&jobs_out, &done_in, &signal);
        })?;
        Ok(Self {
            jobs: Some(jobs),
            done: Some(done),
            backlog: VecDeque::new(),
            answers_due: 0,
            stop,
            thread: Some(thread),
        })
    }

    pub(crate) fn submit(&mut self, job: Job) {
        if !matches!(job, Job::Discard { .. }) {
            self.answers_due += 1;
        }
        self.backlog.push_back(job);
        self.hand_over();
    }

    pub(crate) fn poll(&mut self, done: &mut Vec<DiskDone>) {
        loop {
            match self.done.as_ref().expect("the helper is not being dropped").try_recv() {
                Ok(answer) => {
                    self.answers_due -= 1;
                    done.push(answer);
                }
                Err(TryRecvError::Empty) => break,
                // It ends only by a panic of its own: better loud than waiting for ever.
                Err(TryRecvError::Disconnected) => panic!("the log's file thread died"),
            }
        }
        self.hand_over();
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.answers_due
    }

    fn hand_over(&mut self) {
        let jobs = self.jobs.as_ref().expect("the helper is not being dropped");
        while let Some(job) = self.backlog.pop_front() {
            match jobs.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    self.backlog.push_front(job);
                    return;
                }
                Err(TrySendError::Disconnected(job)) => {
                    panic!("the log's file thread died before {job:?}")
                }
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Both channels close, so the thread neither waits for a job nor for room for an answer.
        self.jobs = None;
        self.done = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's file thread panicked");
        }
    }
}

struct Worker {
    files: SegmentFiles,
    stop: Arc<AtomicBool>,
    mappings: Vec<(u64, Mmap)>,
    /// The segment that was last read without being mapped.
    unsealed: Option<(u64, File)>,
    old_stay: bool,
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>, done: &Sender<DiskDone>, signal: &Signal) {
        while let Ok(job) = jobs.recv() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let answer = match job {
                Job::Prepare { generation, recycle } => {
                    DiskDone::Prepared { generation, result: self.prepare(generation, recycle) }
                }
                Job::Read { request, places, newest } => {
                    DiskDone::Read { request, result: places.iter().map(|place| self.read(place, newest)).collect() }
                }
                Job::Discard { generation } => {
                    self.discard(generation);
                    continue;
                }
            };
            if done.send(answer).is_err() {
                return;
            }
            signal.raise();
        }
    }

    fn prepare(&mut self, generation: u64, recycle: Option<u64>) -> Result<(), DiskError> {
        let recycled = match recycle.filter(|_| !self.old_stay) {
            Some(old) => self.recycle(old, generation).map_err(|error| {
                self.old_stay = true;
                self.error("recycle", old, &error)
            })?,
            None => false,
        };
        if !recycled {
            self.create(generation).map_err(|error| {
                // What was written so far only fills the disk further.
                let _ = std::fs::remove_file(self.files.unfinished_path(generation));
                self.error("prepare", generation, &error)
            })?;
        }
        sync_directory(self.files.directory()).map_err(|error| {
            self.old_stay = true;
            self.error("prepare", generation, &error)
        })
    }

    /// Renames a file for a new generation; false if it is not fit for that and was deleted.
    fn recycle(&mut self, old: u64, generation: u64) -> io::Result<bool> {
        self.close(old);
        let path = self.files.path(old);
        match std::fs::metadata(&path) {
            Ok(found) if found.len() == self.files.segment_bytes => {}
            Ok(_) => {
                std::fs::remove_file(&path)?;
                return Ok(false);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        let target = self.files.path(generation);
        if old != generation {
            refuse_existing(&target)?;
            std::fs::rename(&path, &target)?;
        }
        self.files.writer(&target, false)?.sync_all()?;
        Ok(true)
    }

    /// Makes a file whose blocks are all written, so that later writes change no metadata.
    fn create(&mut self, generation: u64) -> io::Result<()> {
        let target = self.files.path(generation);
        refuse_existing(&target)?;
        let unfinished = self.files.unfinished_path(generation);
        self.write_zeros(&unfinished)?;
        std::fs::rename(&unfinished, &target)
    }

    fn write_zeros(&self, unfinished: &Path) -> io::Result<()> {
        let file = self.files.writer(unfinished, true)?;
        // A full disk is found out before it is filled. Blocks that are only reserved are not enough: to write to them
        // first changes metadata.
        match fallocate(&file, FallocateFlags::empty(), 0, self.files.segment_bytes) {
            Err(Errno::NOTSUP | Errno::NOSYS) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let mut zeros = AlignedBuf::new(ZEROS_BYTES);
        zeros.resize(ZEROS_BYTES);
        let mut offset = 0;
        while offset < self.files.segment_bytes {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the node is stopping"));
            }
            let bytes = (self.files.segment_bytes - offset).min(ZEROS_BYTES as u64);
            file.write_all_at(&zeros[..bytes as usize], offset)?;
            offset += bytes;
        }
        file.sync_all()
    }

    fn discard(&mut self, generation: u64) {
        self.close(generation);
        if self.old_stay {
            return;
        }
        let removed =
            std::fs::remove_file(self.files.path(generation)).and_then(|()| sync_directory(self.files.directory()));
        if let Err(error) = removed {
            self.old_stay = true;
            let error = self.error("delete", generation, &error);
            tracing::warn!(%error, "an old segment stays; no later one is deleted or reused until the node restarts");
        }
    }

    fn read(&mut self, place: &RecordPlace, newest: u64) -> Result<Vec<u8>, DiskError> {
        let bytes = place.bytes as usize;
        let end = place.offset.checked_add(u64::from(place.bytes));
        let legal = (RECORD_HEADER_BYTES..=record_bytes(RECORD_BODY_BYTES_MAX)).contains(&bytes)
            && bytes.is_multiple_of(RECORD_ALIGN)
            && PAGE_BYTES as u64 <= place.offset
            && end.is_some();
        if !legal {
            let text = format!("no record of {bytes} bytes can lie at byte {}", place.offset);
            return Err(DiskError::invalid("read", self.files.file(place.generation), text));
        }
        let record = if place.generation < newest { self.read_mapped(place) } else { self.read_file(place) };
        let record = record.map_err(|error| self.error("read", place.generation, &error))?;
        place.check(|| self.files.file(place.generation), &record).map(|()| record)
    }

    fn read_file(&mut self, place: &RecordPlace) -> io::Result<Vec<u8>> {
        if self.unsealed.as_ref().is_none_or(|(open, _)| *open != place.generation) {
            self.unsealed = Some((place.generation, File::open(self.files.path(place.generation))?));
        }
        let (_, file) = self.unsealed.as_ref().expect("opened above");
        let mut record = vec![0; place.bytes as usize];
        file.read_exact_at(&mut record, place.offset)?;
        Ok(record)
    }

    fn read_mapped(&mut self, place: &RecordPlace) -> io::Result<Vec<u8>> {
        let mapping = self.mapping(place.generation)?;
        let start = usize::try_from(place.offset).ok();
        let record = start.and_then(|start| mapping.get(start..start.checked_add(place.bytes as usize)?));
        record.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    #[allow(unsafe_code)]
    fn mapping(&mut self, generation: u64) -> io::Result<&Mmap> {
        let at = match self.mappings.iter().position(|(mapped, _)| *mapped == generation) {
            Some(at) => at,
            None => {
                let file = File::open(self.files.path(generation))?;
                // SAFETY: the segment is sealed: no frame is written to it any more, and files are never truncated. It is
                // recycled or deleted only by this thread, which unmaps it first; other processes are kept out by the
                // directory's lock.
                let mapping = unsafe { Mmap::map(&file)? };
                if self.mappings.len() == MAPPINGS_MAX {
                    self.mappings.remove(0);
                }
                self.mappings.push((generation, mapping));
                self.mappings.len() - 1
            }
        };
        Ok(&self.mappings[at].1)
    }

    fn close(&mut self, generation: u64) {
        self.mappings.retain(|(mapped, _)| *mapped != generation);
        self.unsealed.take_if(|(open, _)| *open == generation);
    }

    fn error(&self, operation: &'static str, generation: u64, error: &io::Error) -> DiskError {
        DiskError::from_io(operation, self.files.file(generation), error)
    }
}

fn refuse_existing(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file of that name is there already"));
    }
    Ok(())
}
