//! The driver on io_uring: a direct write linked to an fdatasync, on a ring of its own.
//!
//! Invariants:
//! - a ticket succeeds only through the success of its fdatasync, which runs only after the whole write (a short write
//!   breaks the link); any other completion fails it;
//! - data and file of a write are held until its completion, also when the driver is dropped: the drop waits;
//! - a write that is alone may be carried out within `submit`, by one blocking call; while such writes are slow they take
//!   the ring instead, so that a slow disk does not hold its thread;
//! - plain ring flags: with DEFER_TASKRUN completions are posted only when this thread enters this ring, so the event fd
//!   would never fire while its executor sleeps elsewhere.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    rc::Rc,
    time::{Duration, Instant},
};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use crate::{
    PAGE_BYTES,
    disk::{
        Disk, DiskConfig, SyncMode,
        files::SegmentFiles,
        helper::{Helper, Job},
        signal::Signal,
    },
    ops::{DiskDone, DiskError, DiskOp, WriteData},
};

/// Entries of the ring: far more than the writer's two frames and a header need.
const RING_ENTRIES: u32 = 64;
/// Writes that may be in flight, two entries each.
const WRITES_MAX: usize = RING_ENTRIES as usize / 2;
/// Writes go at once on the caller's thread only while the last ones took less than this on average: what it saves is some
/// 0.1 ms.
const AT_ONCE_MAX: Duration = Duration::from_millis(2);
/// Weight of the newest write in that average: one of so many.
const AVERAGE_OVER: u32 = 16;

/// A disk on io_uring.
pub struct UringDisk {
    ring: IoUring,
    pending: Vec<Pending>,
    /// Writes that were carried out within `submit`, or failed before the ring took them.
    answered: Vec<DiskDone>,
    /// How long a write of one page takes, averaged over the last ones.
    page_write: Duration,
    /// The newest segment that was written to.
    open: Option<(u64, Rc<File>)>,
    files: SegmentFiles,
    sync: SyncMode,
    /// The ring refused a submission: its queue is in an unknown state and gets nothing more.
    broken: Option<DiskError>,
    helper: Helper,
    signal: Signal,
}

/// A write that the kernel may still be reading from.
struct Pending {
    ticket: u64,
    generation: u64,
    data: WriteData,
    since: Instant,
    /// Held open: the kernel looks up the file of a linked request only when that request starts.
    file: Rc<File>,
}

impl UringDisk {
    /// Tries whether io_uring can be used here.
    ///
    /// # Errors
    /// A message that says what to do.
    pub fn probe() -> Result<(), String> {
        let ring = IoUring::new(2).map_err(|error| explain(&error))?;
        if !ring.params().is_feature_skip_cqe_on_success() {
            return Err(
                "this kernel's io_uring is too old: Linux 5.17 or newer is needed, or use the blocking disk".into()
            );
        }
        Ok(())
    }

    /// A driver over a directory, which its owner has locked. To be used and dropped on one thread.
    ///
    /// # Errors
    /// If io_uring or the directory cannot be used, or a thread or an eventfd cannot be made.
    pub fn new(config: DiskConfig) -> Result<Self, DiskError> {
        let directory = config.directory.display().to_string();
        Self::probe().map_err(|text| DiskError::invalid("start io_uring for", &directory, text))?;
        let files = SegmentFiles::open(&config)?;
        let failed = |error: io::Error| DiskError::from_io("start io_uring for", &directory, &error);
        let ring = IoUring::new(RING_ENTRIES).map_err(failed)?;
        let signal = Signal::new().map_err(failed)?;
        ring.submitter().register_eventfd(signal.as_fd().as_raw_fd()).map_err(failed)?;
        let helper = Helper::start(files.clone(), signal.clone()).map_err(failed)?;
        Ok(Self {
            ring,
            pending: Vec::with_capacity(WRITES_MAX),
            answered: Vec::new(),
            page_write: Duration::ZERO,
            open: None,
            files,
            sync: config.sync,
            broken: None,
            helper,
            signal,
        })
    }

    /// Whether the directory is in memory, so that nothing survives the machine, whatever the sync mode.
    pub fn durability_none(&self) -> bool {
        self.files.is_in_memory()
    }

    fn write(&mut self, ticket: u64, generation: u64, offset: u64, data: WriteData) -> Result<(), DiskError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        assert!(self.pending.len() < WRITES_MAX, "the writer has at most two frames and a header in flight");
        let file = self.file(generation).map_err(|error| self.error(generation, &error))?;
        self.pending.push(Pending { ticket, generation, data, since: Instant::now(), file });
        self.push(offset);
        while let Err(error) = self.ring.submit() {
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            let error = self.error(generation, &error);
            self.broken = Some(error.clone());
            // Nobody can say which entries the kernel took: all fail, and none of their memory is ever freed.
            for pending in self.pending.drain(..) {
                if pending.ticket != ticket {
                    let result = Err(error.clone());
                    self.answered.push(DiskDone::Written { ticket: pending.ticket, result });
                }
                std::mem::forget(pending);
            }
            return Err(error);
        }
        Ok(())
    }

    /// Writes on the caller's thread.
    fn write_at_once(&mut self, generation: u64, offset: u64, data: &WriteData) -> Result<(), DiskError> {
        let file = self.file(generation).map_err(|error| self.error(generation, &error))?;
        let flags = match self.sync {
            SyncMode::Durable => ReadWriteFlags::DSYNC,
            SyncMode::Os => ReadWriteFlags::empty(),
        };
        let since = Instant::now();
        let written = loop {
            match pwritev2(&file, &[io::IoSlice::new(data.bytes())], offset, flags) {
                Err(Errno::INTR) => {}
                other => break other.map_err(|error| self.error(generation, &error.into()))?,
            }
        };
        self.took(since.elapsed());
        if written != data.bytes().len() {
            return Err(self.error(generation, &short_write(written, data)));
        }
        Ok(())
    }

    /// Takes the duration of a write of one page into the average.
    fn took(&mut self, time: Duration) {
        self.page_write = (self.page_write * (AVERAGE_OVER - 1) + time) / AVERAGE_OVER;
    }

    /// Queues the entries of the last pending write.
    #[allow(unsafe_code)]
    fn push(&mut self, offset: u64) {
        let pending = self.pending.last().expect("a write was just added");
        let fd = types::Fd(pending.file.as_raw_fd());
        let bytes = pending.data.bytes();
        let write = opcode::Write::new(fd, bytes.as_ptr(), bytes.len() as u32).offset(offset).build();
        let pushed = match self.sync {
            SyncMode::Durable => {
                let flags = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
                let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
                let pair = [write.flags(flags).user_data(pending.ticket), sync.user_data(pending.ticket)];
                // SAFETY: the buffer and the file live in `pending`, unmoved on the heap, until the completion is reaped or
                // for ever; a sealed frame or page is not changed meanwhile.
                unsafe { self.ring.submission().push_multiple(&pair) }
            }
            SyncMode::Os => {
                // SAFETY: as above.
                unsafe { self.ring.submission().push(&write.user_data(pending.ticket)) }
            }
        };
        pushed.expect("the ring has room for all writes in flight");
    }

    fn file(&mut self, generation: u64) -> io::Result<Rc<File>> {
        if self.open.as_ref().is_none_or(|(open, _)| *open < generation) {
            let file = self.files.writer(&self.files.path(generation), false)?;
            self.open = Some((generation, Rc::new(file)));
        }
        let (open, file) = self.open.as_ref().expect("opened above");
        assert_eq!(*open, generation, "a segment behind the open one is never written");
        Ok(Rc::clone(file))
    }

    fn reap(&mut self, done: &mut Vec<DiskDone>) {
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else {
                return;
            };
            // The second completion of a ticket that failed already.
            let Some(at) = self.pending.iter().position(|pending| pending.ticket == entry.user_data()) else {
                continue;
            };
            let pending = self.pending.swap_remove(at);
            if pending.data.bytes().len() == PAGE_BYTES {
                self.took(pending.since.elapsed());
            }
            let expected = match self.sync {
                // The success of the write itself is not told: a result here is the fdatasync's, or a failed write's.
                SyncMode::Durable => 0,
                SyncMode::Os => pending.data.bytes().len() as i32,
            };
            let result = if entry.result() == expected {
                Ok(())
            } else {
                let error = if entry.result() < 0 {
                    io::Error::from_raw_os_error(-entry.result())
                } else {
                    short_write(entry.result() as usize, &pending.data)
                };
                Err(self.error(pending.generation, &error))
            };
            done.push(DiskDone::Written { ticket: pending.ticket, result });
        }
    }

    fn error(&self, generation: u64, error: &io::Error) -> DiskError {
        DiskError::from_io("write", self.files.file(generation), error)
    }
}

impl Disk for UringDisk {
    fn submit(&mut self, op: DiskOp) {
        match op {
            DiskOp::Write { ticket, generation, offset, data, alone: true }
                if self.pending.is_empty() && self.broken.is_none() && self.page_write < AT_ONCE_MAX =>
            {
                let result = self.write_at_once(generation, offset, &data);
                self.answered.push(DiskDone::Written { ticket, result });
            }
            DiskOp::Write { ticket, generation, offset, data, .. } => {
                if let Err(error) = self.write(ticket, generation, offset, data) {
                    self.answered.push(DiskDone::Written { ticket, result: Err(error) });
                }
            }
            DiskOp::Prepare { generation, recycle } => self.helper.submit(Job::Prepare { generation, recycle }),
            DiskOp::Discard { generation } => self.helper.submit(Job::Discard { generation }),
            DiskOp::Read { request, places } => {
                let newest = self.open.as_ref().map_or(0, |(open, _)| *open);
                self.helper.submit(Job::Read { request, places, newest });
            }
        }
    }

    fn poll(&mut self, done: &mut Vec<DiskDone>) {
        done.append(&mut self.answered);
        self.reap(done);
        self.helper.poll(done);
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }

    fn wait(&mut self, done: &mut Vec<DiskDone>) {
        let before = done.len();
        while 0 < self.in_flight() {
            self.poll(done);
            if before < done.len() {
                return;
            }
            self.signal.wait();
        }
    }

    fn in_flight(&self) -> usize {
        self.pending.len() + self.answered.len() + self.helper.in_flight()
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while !self.pending.is_empty() {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "cannot wait for writes in flight");
                    // The kernel may still read from them.
                    self.pending.drain(..).for_each(std::mem::forget);
                }
                _ => self.reap(&mut done),
            }
        }
    }
}

fn short_write(written: usize, data: &WriteData) -> io::Error {
    let text = format!("only {written} of {} bytes were written", data.bytes().len());
    io::Error::new(io::ErrorKind::WriteZero, text)
}

fn explain(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "it is not allowed here: set sysctl kernel.io_uring_disabled=0, or, in a container, allow the io_uring_* system \
             calls in its seccomp profile"
        }
        io::ErrorKind::Unsupported => {
            "the kernel or a container's seccomp profile does not offer it: use Linux 5.17 or newer, and allow the io_uring_* \
             system calls"
        }
        io::ErrorKind::OutOfMemory => {
            "too little memory may be locked: raise the memlock limit (ulimit -l, LimitMEMLOCK=)"
        }
        _ => "see `man io_uring_setup`",
    };
    format!("io_uring cannot be used ({error}): {advice}")
}
