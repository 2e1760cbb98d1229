use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use synod_wal::buf::AlignedBuf;
use synod_wal::ops::WriteData;
use synod_wal::recover::{Expect, RecoverError, recover};

use super::*;

/// A disk that says what it was told to say.
struct Says {
    answers: Vec<DiskDone>,
    event: OwnedFd,
}

impl Disk for Says {
    fn submit(&mut self, _: DiskOp) {}

    fn poll(&mut self, done: &mut Vec<DiskDone>) {
        done.append(&mut self.answers);
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn wait(&mut self, done: &mut Vec<DiskDone>) {
        self.poll(done);
    }

    fn in_flight(&self) -> usize {
        self.answers.len()
    }
}

fn write(ticket: u64) -> DiskOp {
    let data = WriteData::Page(AlignedBuf::new(4096));
    DiskOp::Write { ticket, generation: 1, offset: 0, data, alone: false }
}

fn written(ticket: u64) -> DiskDone {
    DiskDone::Written { ticket, result: Ok(()) }
}

/// What comes through of some answers, to these operations.
fn through(ops: Vec<DiskOp>, answers: Vec<DiskDone>) -> Vec<DiskDone> {
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let mut disk = CheckedDisk::new(Box::new(Says { answers, event }));
    ops.into_iter().for_each(|op| disk.submit(op));
    let mut done = Vec::new();
    disk.poll(&mut done);
    done
}

#[test]
fn answers_to_what_was_asked_pass_and_any_other_fails_a_write() {
    let prepare = || DiskOp::Prepare { generation: 2, recycle: None };
    let prepared = |generation| DiskDone::Prepared { generation, result: Ok(()) };
    let good = through(vec![write(1), prepare(), write(2)], vec![written(2), prepared(2), written(1)]);
    let ok = |done: &DiskDone| matches!(done, DiskDone::Written { result: Ok(()), .. } | DiskDone::Prepared { .. });
    assert!(good.len() == 3 && good.iter().all(ok), "{good:?}");
    let strange = [written(3), prepared(3), DiskDone::Read { request: 5, result: vec![] }];
    for answer in strange {
        let bad = through(vec![write(1)], vec![answer]);
        let [DiskDone::Written { ticket: 1, result: Err(error) }] = &bad[..] else { panic!("{bad:?}") };
        assert!(error.to_string().contains("breaks its contract"), "{error}");
    }
    let twice = through(vec![write(1), prepare()], vec![written(1), written(1)]);
    assert!(matches!(&twice[..], [DiskDone::Written { ticket: 1, result: Err(_) }]), "{twice:?}");
}

#[test]
fn records_that_are_none_or_too_few_are_errors() {
    let place = RecordPlace { generation: 1, offset: 4096, bytes: 96 };
    let read = || DiskOp::Read { request: 7, places: vec![place; 3] };
    let result = vec![Ok(vec![0xa5; 96]), Ok(vec![])];
    let done = through(vec![read()], vec![DiskDone::Read { request: 7, result }]);
    let [DiskDone::Read { request: 7, result }] = &done[..] else { panic!("{done:?}") };
    assert!(result.len() == 3 && result.iter().all(Result::is_err), "{result:?}");
    assert!(result[2].as_ref().unwrap_err().to_string().contains("too few"));
}

/// Segments that are not what the contract says.
struct Lies {
    generation: u64,
    bytes: u64,
    read: usize,
}

impl SegmentSource for Lies {
    fn generations(&mut self) -> io::Result<Vec<u64>> {
        Ok(vec![self.generation])
    }

    fn len(&mut self, _: u64) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_at(&mut self, _: u64, _: u64, buf: &mut [u8]) -> io::Result<usize> {
        buf.fill(0x5a);
        Ok(self.read)
    }

    fn name(&self, generation: u64) -> String {
        format!("lie {generation}")
    }
}

#[test]
fn a_log_of_lies_is_no_log() {
    let lies = [(0, 8192, 4096), (1 << 63, 8192, 4096), (1, 1 << 40, 4096), (1, u64::MAX, 4096), (1, 8192, 1 << 30)];
    for (generation, bytes, read) in lies {
        let mut source = CheckedSource(Box::new(Lies { generation, bytes, read }));
        let expect = Expect { shard: 0, incarnation: 7, segment_bytes: 8192 };
        let error = recover(&mut source, expect, &mut |_, _, _, _| {}).unwrap_err();
        assert!(matches!(error, RecoverError::Io { .. }), "{error}");
        assert!(error.to_string().contains("breaks its contract"), "{error}");
    }
}
