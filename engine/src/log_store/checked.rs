//! A store that is not the system's, with what it says checked: what it gets wrong is an error, never a panic.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{Disk, DiskDone, DiskError, DiskOp, LogPlace, LogStore, RecordPlace, SegmentSource};

/// No configuration makes larger segments.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Generations are below this.
const GENERATION_MAX: u64 = 1 << 63;

/// Another's store.
pub(crate) struct CheckedStore(pub(crate) Arc<dyn LogStore>);

impl LogStore for CheckedStore {
    fn segments(&self, place: &LogPlace) -> io::Result<Box<dyn SegmentSource>> {
        Ok(Box::new(CheckedSource(self.0.segments(place)?)))
    }

    fn open(&self, place: &LogPlace, tail: Option<u64>) -> Result<Box<dyn Disk>, DiskError> {
        Ok(Box::new(CheckedDisk::new(self.0.open(place, tail)?)))
    }

    fn forget(&self, place: &LogPlace) {
        self.0.forget(place);
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log store breaks its contract: {text}"))
}

struct CheckedSource(Box<dyn SegmentSource>);

impl SegmentSource for CheckedSource {
    fn generations(&mut self) -> io::Result<Vec<u64>> {
        let generations = self.0.generations()?;
        match generations.iter().find(|generation| !(1..GENERATION_MAX).contains(*generation)) {
            Some(generation) => Err(invalid(format!("there is no segment {generation}"))),
            None => Ok(generations),
        }
    }

    fn len(&mut self, generation: u64) -> io::Result<u64> {
        match self.0.len(generation)? {
            bytes if bytes > SEGMENT_BYTES_MAX => Err(invalid(format!("a segment of {bytes} bytes"))),
            bytes => Ok(bytes),
        }
    }

    fn read_at(&mut self, generation: u64, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read_at(generation, offset, buf)? {
            read if read > buf.len() => Err(invalid(format!("{read} bytes were read into {}", buf.len()))),
            read => Ok(read),
        }
    }

    fn name(&self, generation: u64) -> String {
        self.0.name(generation)
    }
}

/// Lets through only answers to what was asked. After any other the log is over: its next answer is an error.
struct CheckedDisk {
    disk: Box<dyn Disk>,
    writes: HashSet<u64>,
    prepared: HashSet<u64>,
    reads: HashMap<u64, Vec<RecordPlace>>,
    /// What the disk has got wrong, until it is told.
    wrong: Option<String>,
    raw: Vec<DiskDone>,
}

impl CheckedDisk {
    fn new(disk: Box<dyn Disk>) -> Self {
        let (writes, prepared, reads) = Default::default();
        Self { disk, writes, prepared, reads, wrong: None, raw: Vec::new() }
    }

    fn pass(&mut self, done: &mut Vec<DiskDone>) {
        for answer in std::mem::take(&mut self.raw) {
            match answer {
                DiskDone::Written { ticket, .. } if !self.writes.remove(&ticket) => {
                    self.wrong = Some(format!("it answers write {ticket}, which is not under way"));
                }
                DiskDone::Prepared { generation, .. } if !self.prepared.remove(&generation) => {
                    self.wrong = Some(format!("it answers for segment {generation}, which is not being prepared"));
                }
                DiskDone::Read { request, result } => match self.reads.remove(&request) {
                    Some(places) => done.push(DiskDone::Read { request, result: check_records(&places, result) }),
                    None => self.wrong = Some(format!("it answers read {request}, which is not under way")),
                },
                answer => done.push(answer),
            }
        }
        if let Some(wrong) = &self.wrong {
            self.spoil(&wrong.clone(), done);
        }
    }

    /// A write's answer is where the log looks for errors: the first that is there, or else one that is still to come.
    fn spoil(&mut self, wrong: &str, done: &mut Vec<DiskDone>) {
        tracing::error!(wrong, "the log store breaks its contract");
        let error = DiskError::invalid("trust", "the log store", format!("it breaks its contract: {wrong}"));
        let answered = done.iter_mut().find_map(|answer| match answer {
            DiskDone::Written { result, .. } => Some(result),
            _ => None,
        });
        if let Some(result) = answered {
            *result = Err(error);
        } else if let Some(ticket) = self.writes.iter().next().copied() {
            self.writes.remove(&ticket);
            done.push(DiskDone::Written { ticket, result: Err(error) });
        } else {
            return;
        }
        self.wrong = None;
    }
}

/// The records, as many as were asked for and each checked.
fn check_records(places: &[RecordPlace], result: Vec<Result<Vec<u8>, DiskError>>) -> Vec<Result<Vec<u8>, DiskError>> {
    let mut records = result.into_iter();
    let check = |place: &RecordPlace| {
        let file = || format!("segment {} of the log store", place.generation);
        let missing = || Err(DiskError::invalid("read", file(), "the answer has too few records"));
        let record = records.next().unwrap_or_else(missing)?;
        place.check(file, &record).map(|()| record)
    };
    places.iter().map(check).collect()
}

impl Disk for CheckedDisk {
    fn submit(&mut self, op: DiskOp) {
        match &op {
            DiskOp::Write { ticket, .. } => drop(self.writes.insert(*ticket)),
            DiskOp::Prepare { generation, .. } => drop(self.prepared.insert(*generation)),
            DiskOp::Read { request, places } => drop(self.reads.insert(*request, places.clone())),
            DiskOp::Discard { .. } => {}
        }
        self.disk.submit(op);
    }

    fn poll(&mut self, done: &mut Vec<DiskDone>) {
        self.disk.poll(&mut self.raw);
        self.pass(done);
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.disk.event_fd()
    }

    fn wait(&mut self, done: &mut Vec<DiskDone>) {
        self.disk.wait(&mut self.raw);
        self.pass(done);
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }
}

#[cfg(test)]
mod tests;
