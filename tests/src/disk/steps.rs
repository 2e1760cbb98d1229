//! The steps of an operation, as the real drivers take them (`wal/src/disk/helper.rs`, `blocking.rs`).
//!
//! Invariants: which steps an operation takes is decided when its first one is due; after a failed step it takes no more.

use std::{collections::VecDeque, io, rc::Rc};

use synod_core::planted::{Bug, is};
use synod_wal::{DiskDone, DiskError, DiskOp, RecordPlace, segment_name};

use super::{
    Data, OpId, OpKind, Outcome, SimDisk,
    directory::{Directory, Name},
};

/// One step of an operation: a crash may come before or behind it, not within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A write's bytes reach the file, not yet durable.
    Land,
    /// An unfinished file gets its name.
    Create,
    /// An unfinished file gets its size, all zeros.
    Fill,
    /// A file becomes durable.
    SyncFile,
    /// A file gets another name.
    Rename,
    /// A file loses its name.
    Remove,
    /// The names of files become durable.
    SyncDirectory,
    /// Records are read.
    Read,
}

/// An operation under way.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: OpId,
    op: Op,
    /// What is left; `None` before the first step.
    steps: Option<VecDeque<(Step, Name)>>,
    failed: Option<DiskError>,
    records: Vec<Result<Vec<u8>, DiskError>>,
}

#[derive(Debug, Clone)]
enum Op {
    Write { ticket: u64, generation: u64, offset: u64, data: Data },
    Prepare { generation: u64, recycle: Option<u64> },
    Read { request: u64, places: Vec<RecordPlace> },
    Discard { generation: u64 },
}

impl Job {
    pub(super) fn new(id: OpId, op: DiskOp) -> Self {
        let op = match op {
            DiskOp::Write { ticket, generation, offset, data, .. } => {
                Op::Write { ticket, generation, offset, data: Rc::new(data) }
            }
            DiskOp::Prepare { generation, recycle } => Op::Prepare { generation, recycle },
            DiskOp::Read { request, places } => Op::Read { request, places },
            DiskOp::Discard { generation } => Op::Discard { generation },
        };
        Self { id, op, steps: None, failed: None, records: Vec::new() }
    }

    pub(super) fn kind(&self) -> OpKind {
        match &self.op {
            Op::Write { generation, offset, data, .. } => {
                OpKind::Write { generation: *generation, offset: *offset, bytes: data.bytes().len() }
            }
            Op::Prepare { generation, .. } => OpKind::Prepare { generation: *generation },
            Op::Read { places, .. } => OpKind::Read { places: places.len() },
            Op::Discard { generation } => OpKind::Discard { generation: *generation },
        }
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.steps.is_none()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Lands a write's bytes. A file that is not there takes none.
    pub(super) fn land(&self, directory: &mut Directory) {
        if let Op::Write { generation, offset, data, .. } = &self.op {
            let _ = directory.write(Name::Segment(*generation), *offset, data, data.bytes().len());
        }
    }

    fn plan(&self, disk: &SimDisk) -> VecDeque<(Step, Name)> {
        match &self.op {
            Op::Write { generation, .. } => {
                let name = Name::Segment(*generation);
                [(Step::Land, name), (Step::SyncFile, name)].into()
            }
            Op::Read { .. } => [(Step::Read, Name::Segment(0))].into(),
            Op::Discard { .. } if disk.old_stay => VecDeque::new(),
            Op::Discard { generation } => {
                let name = Name::Segment(*generation);
                [(Step::Remove, name), (Step::SyncDirectory, name)].into()
            }
            Op::Prepare { generation, recycle } => {
                let (target, unfinished) = (Name::Segment(*generation), Name::Unfinished(*generation));
                let old = recycle.filter(|_| !disk.old_stay).map(Name::Segment);
                let found = old.and_then(|old| Some((old, disk.directory.file(old).ok()?.current.len())));
                let mut steps = VecDeque::new();
                match found {
                    Some((old, bytes)) if bytes == disk.segment_bytes => {
                        if old != target {
                            steps.push_back((Step::Rename, old));
                        }
                        steps.push_back((Step::SyncFile, target));
                    }
                    other => {
                        steps.extend(other.map(|(old, _)| (Step::Remove, old)));
                        steps.push_back((Step::Create, unfinished));
                        steps.push_back((Step::Fill, unfinished));
                        steps.push_back((Step::SyncFile, unfinished));
                        steps.push_back((Step::Rename, unfinished));
                    }
                }
                if !is(Bug::NamesAreNotSynced) {
                    steps.push_back((Step::SyncDirectory, target));
                }
                steps
            }
        }
    }

    fn error(&self, name: Name, error: &io::Error) -> DiskError {
        let (operation, generation) = match (&self.op, name) {
            (Op::Write { generation, .. }, _) => ("write", *generation),
            (Op::Read { .. }, _) => ("read", 0),
            (Op::Discard { generation }, _) => ("delete", *generation),
            (Op::Prepare { recycle: Some(old), .. }, Name::Segment(at)) if at == *old => ("recycle", *old),
            (Op::Prepare { generation, .. }, _) => ("prepare", *generation),
        };
        DiskError::from_io(operation, segment_name(generation), error)
    }
}

impl SimDisk {
    /// Takes the next step of `job`, which ends so. `None` if there is none, or the disk refused it.
    pub(super) fn step(&mut self, job: &mut Job, outcome: Outcome) -> Option<Step> {
        if job.steps.is_none() {
            job.steps = Some(job.plan(self));
        }
        let (step, name) = job.steps.as_mut().expect("just planned").pop_front()?;
        let taken = match fault(outcome) {
            None => self.succeed(job, step, name),
            Some(error) => self.fail(job, step, name, outcome).and(Err(error)),
        };
        let Err(error) = taken else {
            return Some(step);
        };
        job.failed = Some(job.error(name, &error));
        job.steps = Some(VecDeque::new());
        match job.op {
            Op::Discard { .. } => self.old_stay = true,
            // As the helper does: what was written so far only fills the disk further.
            Op::Prepare { generation, .. } => {
                self.old_stay |= step == Step::SyncDirectory || matches!(name, Name::Segment(_));
                let _ = self.directory.remove(Name::Unfinished(generation));
            }
            Op::Write { .. } | Op::Read { .. } => {}
        }
        None
    }

    fn succeed(&mut self, job: &mut Job, step: Step, name: Name) -> io::Result<()> {
        match (step, &job.op) {
            (Step::Land, Op::Write { offset, data, .. }) => {
                let room = self.directory.file(name)?.current.len();
                assert!(offset + data.bytes().len() as u64 <= room, "a write behind the end of {name:?}");
                self.directory.write(name, *offset, data, data.bytes().len())
            }
            (Step::Create, Op::Prepare { generation, .. }) => {
                self.refuse_existing(Name::Segment(*generation))?;
                self.directory.create(name);
                Ok(())
            }
            (Step::Fill, _) => {
                if self.bytes_max < self.directory.bytes() + self.segment_bytes {
                    return Err(io::Error::from_raw_os_error(ENOSPC));
                }
                let segment_bytes = self.segment_bytes;
                self.directory.file_mut(name)?.current.set_len(segment_bytes);
                Ok(())
            }
            (Step::SyncFile, _) => self.directory.sync_file(name),
            (Step::Rename, Op::Prepare { generation, .. }) => {
                let target = Name::Segment(*generation);
                self.refuse_existing(target)?;
                self.directory.rename(name, target)
            }
            (Step::Remove, _) => self.directory.remove(name),
            (Step::SyncDirectory, _) => {
                self.directory.sync();
                Ok(())
            }
            (Step::Read, Op::Read { places, .. }) => {
                job.records = places.iter().map(|place| self.read(place)).collect();
                Ok(())
            }
            (step, op) => panic!("{op:?} has no step {step:?}"),
        }
    }

    /// What a step that fails leaves behind.
    fn fail(&mut self, job: &mut Job, step: Step, name: Name, outcome: Outcome) -> io::Result<()> {
        match (step, outcome, &job.op) {
            (Step::Land, Outcome::Short(bytes), Op::Write { offset, data, .. }) => {
                assert!(bytes < data.bytes().len(), "a short write of {bytes} bytes is whole");
                self.directory.write(name, *offset, data, bytes)
            }
            (Step::Land, Outcome::Eio, Op::Write { offset, data, .. }) => {
                self.directory.write_failed(name, *offset, data)
            }
            (Step::SyncFile, Outcome::Eio, _) => self.directory.sync_file_failed(name),
            (Step::SyncDirectory, Outcome::Eio, _) => {
                self.directory.sync_failed();
                Ok(())
            }
            (Step::Read, Outcome::Eio, Op::Read { places, .. }) => {
                let eio = io::Error::from_raw_os_error(EIO);
                let failed =
                    |place: &RecordPlace| Err(DiskError::from_io("read", segment_name(place.generation), &eio));
                job.records = places.iter().map(failed).collect();
                Ok(())
            }
            (_, Outcome::Short(_), op) => panic!("only a write is short, not {op:?}"),
            _ => Ok(()),
        }
    }

    /// # Panics
    /// If steps are left.
    pub(super) fn answer(&mut self, job: Job) -> Option<DiskDone> {
        let result = job.failed.map_or(Ok(()), Err);
        match job.op {
            Op::Write { ticket, .. } => Some(DiskDone::Written { ticket, result }),
            Op::Prepare { generation, .. } => Some(DiskDone::Prepared { generation, result }),
            Op::Read { request, .. } => Some(DiskDone::Read { request, result: job.records }),
            Op::Discard { .. } => None,
        }
    }

    fn refuse_existing(&self, name: Name) -> io::Result<()> {
        if self.directory.file(name).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file of that name is there already"));
        }
        Ok(())
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn fault(outcome: Outcome) -> Option<io::Error> {
    match outcome {
        Outcome::Done => None,
        Outcome::Eio => Some(io::Error::from_raw_os_error(EIO)),
        Outcome::NoSpace => Some(io::Error::from_raw_os_error(ENOSPC)),
        Outcome::Short(bytes) => {
            Some(io::Error::new(io::ErrorKind::WriteZero, format!("only {bytes} bytes were written")))
        }
    }
}
