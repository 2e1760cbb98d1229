//! A log store whose disks fail when a test says so.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{Disk, DiskDone, DiskError, DiskOp, LogPlace, LogStore, SegmentSource};

/// Says whether an operation fails: then the error, and it is not carried out. It is asked once for each.
type Fails = Arc<dyn Fn(&DiskOp) -> Option<DiskError> + Send + Sync>;

/// A store over another one, whose writes and preparations fail when they are told to.
#[derive(Clone)]
pub struct FailingStore {
    store: Arc<dyn LogStore>,
    fails: Fails,
}

impl FailingStore {
    /// A store over `store`.
    pub fn new(store: Arc<dyn LogStore>, fails: impl Fn(&DiskOp) -> Option<DiskError> + Send + Sync + 'static) -> Self {
        Self { store, fails: Arc::new(fails) }
    }
}

impl fmt::Debug for FailingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FailingStore")
    }
}

impl LogStore for FailingStore {
    fn segments(&self, place: &LogPlace) -> io::Result<Box<dyn SegmentSource>> {
        self.store.segments(place)
    }

    fn open(&self, place: &LogPlace, tail: Option<u64>) -> Result<Box<dyn Disk>, DiskError> {
        let disk = self.store.open(place, tail)?;
        Ok(Box::new(FailingDisk { disk, fails: Arc::clone(&self.fails), failed: Vec::new() }))
    }

    fn forget(&self, place: &LogPlace) {
        self.store.forget(place);
    }
}

struct FailingDisk {
    disk: Box<dyn Disk>,
    fails: Fails,
    failed: Vec<DiskDone>,
}

impl Disk for FailingDisk {
    fn submit(&mut self, op: DiskOp) {
        match ((self.fails)(&op), op) {
            (Some(error), DiskOp::Write { ticket, .. }) => {
                self.failed.push(DiskDone::Written { ticket, result: Err(error) });
            }
            (Some(error), DiskOp::Prepare { generation, .. }) => {
                self.failed.push(DiskDone::Prepared { generation, result: Err(error) });
            }
            (_, op) => self.disk.submit(op),
        }
    }

    fn poll(&mut self, done: &mut Vec<DiskDone>) {
        done.append(&mut self.failed);
        self.disk.poll(done);
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.disk.event_fd()
    }

    fn wait(&mut self, done: &mut Vec<DiskDone>) {
        done.append(&mut self.failed);
        if done.is_empty() {
            self.disk.wait(done);
        }
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight() + self.failed.len()
    }
}
