//! Logs that live in this process's memory, and outlive the nodes that write them: a log store of one's own.
//!
//! What was written is there once it is answered, as on a disk that is never lost. Answers come late, through the event
//! descriptor. A store can be made to fail: from then on it takes no write, and has none of those that it has not answered,
//! as after a power cut.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::event::{EventfdFlags, eventfd};
use synod::log_store::{Disk, DiskDone, DiskError, DiskOp, LogPlace, LogStore, RecordPlace, SegmentSource};

/// A log's segments, by generation.
type Segments = Arc<Mutex<BTreeMap<u64, Vec<u8>>>>;

/// The logs of one node.
#[derive(Default)]
pub struct MemoryLogs {
    logs: Mutex<HashMap<u128, Segments>>,
    failing: Arc<AtomicBool>,
}

impl MemoryLogs {
    /// Fails all writes from now on, or none any more.
    pub fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// How many logs there are.
    pub fn count(&self) -> usize {
        self.logs.lock().expect("no holder panics").len()
    }

    /// Changes what stands in the segments of all logs.
    pub fn spoil(&self, spoil: impl Fn(&mut BTreeMap<u64, Vec<u8>>)) {
        let logs = self.logs.lock().expect("no holder panics");
        logs.values().for_each(|segments| spoil(&mut segments.lock().expect("no holder panics")));
    }

    fn log(&self, place: &LogPlace) -> Segments {
        Arc::clone(self.logs.lock().expect("no holder panics").entry(place.log).or_default())
    }
}

impl LogStore for MemoryLogs {
    fn segments(&self, place: &LogPlace) -> io::Result<Box<dyn SegmentSource>> {
        Ok(Box::new(Source(self.log(place))))
    }

    fn open(&self, place: &LogPlace, _: Option<u64>) -> Result<Box<dyn Disk>, DiskError> {
        let event =
            eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| DiskError::from_io("open", NAME, &error.into()))?;
        Ok(Box::new(MemoryDisk {
            segments: self.log(place),
            segment_bytes: place.segment_bytes as usize,
            failing: Arc::clone(&self.failing),
            event,
            waiting: Vec::new(),
            done: Vec::new(),
        }))
    }

    fn forget(&self, place: &LogPlace) {
        self.logs.lock().expect("no holder panics").remove(&place.log);
    }
}

const NAME: &str = "the log in memory";

struct Source(Segments);

impl SegmentSource for Source {
    fn generations(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.0.lock().expect("no holder panics").keys().copied().collect())
    }

    fn len(&mut self, generation: u64) -> io::Result<u64> {
        Ok(self.0.lock().expect("no holder panics").get(&generation).ok_or(io::ErrorKind::NotFound)?.len() as u64)
    }

    fn read_at(&mut self, generation: u64, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let segments = self.0.lock().expect("no holder panics");
        let segment = segments.get(&generation).ok_or(io::ErrorKind::NotFound)?;
        let rest = segment.get(offset as usize..).unwrap_or_default();
        let bytes = rest.len().min(buf.len());
        buf[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }

    fn name(&self, generation: u64) -> String {
        format!("segment {generation} of {NAME}")
    }
}

struct MemoryDisk {
    segments: Segments,
    segment_bytes: usize,
    failing: Arc<AtomicBool>,
    event: OwnedFd,
    /// Submitted, and not done yet.
    waiting: Vec<DiskOp>,
    done: Vec<DiskDone>,
}

impl MemoryDisk {
    fn carry_out(&mut self, op: DiskOp) -> Option<DiskDone> {
        let mut segments = self.segments.lock().expect("no holder panics");
        let broken = || DiskError::from_io("write", NAME, &io::Error::from_raw_os_error(5));
        let failing = self.failing.load(Ordering::SeqCst);
        Some(match op {
            DiskOp::Write { ticket, .. } if failing => DiskDone::Written { ticket, result: Err(broken()) },
            DiskOp::Prepare { generation, .. } if failing => DiskDone::Prepared { generation, result: Err(broken()) },
            DiskOp::Discard { .. } if failing => return None,
            DiskOp::Write { ticket, generation, offset, data, .. } => {
                let (bytes, offset) = (data.bytes(), offset as usize);
                let place = segments.get_mut(&generation).and_then(|file| file.get_mut(offset..offset + bytes.len()));
                let written = place.map(|place| place.copy_from_slice(bytes));
                let missing = || DiskError::invalid("write", NAME, "no such place was prepared");
                DiskDone::Written { ticket, result: written.ok_or_else(missing) }
            }
            DiskOp::Prepare { generation, recycle } => {
                let old = recycle.and_then(|old| segments.remove(&old));
                let old = old.filter(|old| old.len() == self.segment_bytes);
                segments.insert(generation, old.unwrap_or_else(|| vec![0; self.segment_bytes]));
                DiskDone::Prepared { generation, result: Ok(()) }
            }
            DiskOp::Read { request, places } => {
                DiskDone::Read { request, result: places.iter().map(|place| read(&segments, place)).collect() }
            }
            DiskOp::Discard { generation } => {
                segments.remove(&generation);
                return None;
            }
        })
    }
}

fn read(segments: &BTreeMap<u64, Vec<u8>>, place: &RecordPlace) -> Result<Vec<u8>, DiskError> {
    let offset = place.offset as usize;
    let record = segments.get(&place.generation).and_then(|file| file.get(offset..offset + place.bytes as usize));
    let record = record.ok_or_else(|| DiskError::invalid("read", NAME, "no such place"))?;
    place.check(|| NAME.into(), record).map(|()| record.to_vec())
}

impl Disk for MemoryDisk {
    fn submit(&mut self, op: DiskOp) {
        self.waiting.push(op);
        rustix::io::write(&self.event, &1_u64.to_ne_bytes()).expect("the counter is far from full");
    }

    /// What was submitted before the last call is done.
    fn poll(&mut self, done: &mut Vec<DiskDone>) {
        done.append(&mut self.done);
        let waiting = std::mem::take(&mut self.waiting);
        self.done = waiting.into_iter().filter_map(|op| self.carry_out(op)).collect();
        if !self.done.is_empty() {
            rustix::io::write(&self.event, &1_u64.to_ne_bytes()).expect("the counter is far from full");
        }
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn wait(&mut self, done: &mut Vec<DiskDone>) {
        let before = done.len();
        while self.in_flight() > 0 && done.len() == before {
            self.poll(done);
        }
    }

    fn in_flight(&self) -> usize {
        let discards = self.waiting.iter().filter(|op| matches!(op, DiskOp::Discard { .. })).count();
        self.waiting.len() - discards + self.done.len()
    }
}
