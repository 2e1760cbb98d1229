//! The driver of plain system calls: pwrite and fdatasync, on the caller's thread. For tests, for tools that inject
//! faults into system calls, and where io_uring is not allowed.
//!
//! Invariant: a write is answered with success only after all its bytes were taken and, if asked for, synced.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
};

use crate::{
    disk::{
        Disk, DiskConfig, SyncMode,
        files::SegmentFiles,
        helper::{Helper, Job},
        signal::Signal,
    },
    ops::{DiskDone, DiskError, DiskOp},
};

/// A disk of blocking calls.
#[derive(Debug)]
pub struct BlockingDisk {
    files: SegmentFiles,
    sync: SyncMode,
    /// The newest segment that was written to.
    open: Option<(u64, File)>,
    written: Vec<DiskDone>,
    helper: Helper,
    signal: Signal,
}

impl BlockingDisk {
    /// A driver over a directory, which its owner has locked.
    ///
    /// # Errors
    /// If the directory cannot be used, or a thread or an eventfd cannot be made.
    pub fn new(config: DiskConfig) -> Result<Self, DiskError> {
        let files = SegmentFiles::open(&config)?;
        let failed = |error: io::Error| DiskError::from_io("start", config.directory.display().to_string(), &error);
        let signal = Signal::new().map_err(failed)?;
        let helper = Helper::start(files.clone(), signal.clone()).map_err(failed)?;
        Ok(Self { files, sync: config.sync, open: None, written: Vec::new(), helper, signal })
    }

    /// Whether the directory is in memory, so that nothing survives the machine, whatever the sync mode.
    pub fn durability_none(&self) -> bool {
        self.files.is_in_memory()
    }

    fn write(&mut self, generation: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(open, _)| *open < generation) {
            self.open = Some((generation, self.files.writer(&self.files.path(generation), false)?));
        }
        let (open, file) = self.open.as_ref().expect("opened above");
        assert_eq!(*open, generation, "a segment behind the open one is never written");
        let written = loop {
            match file.write_at(bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if written != bytes.len() {
            let text = format!("only {written} of {} bytes were written", bytes.len());
            return Err(io::Error::new(io::ErrorKind::WriteZero, text));
        }
        match self.sync {
            SyncMode::Durable => file.sync_data(),
            SyncMode::Os => Ok(()),
        }
    }
}

impl Disk for BlockingDisk {
    fn submit(&mut self, op: DiskOp) {
        match op {
            DiskOp::Write { ticket, generation, offset, data, .. } => {
                let result = self
                    .write(generation, offset, data.bytes())
                    .map_err(|error| DiskError::from_io("write", self.files.file(generation), &error));
                self.written.push(DiskDone::Written { ticket, result });
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
        done.append(&mut self.written);
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
        self.written.len() + self.helper.in_flight()
    }
}
