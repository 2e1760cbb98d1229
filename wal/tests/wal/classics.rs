//! The classics of logs: mistakes that others have made before, each by its name. What lies around them is in `evidence.rs`,
//! `verdicts.rs` and `writer.rs`.

use synod_wal::{DiskDone, DiskOp, RecoverError, Verdict, WalError, segment_name};

use crate::log::{Log, MemoryDisk, PAGE, Seen, disk_error, ticket};

fn numbers(seen: &[Seen]) -> Vec<u64> {
    seen.iter().map(|seen| seen.number).collect()
}

/// One segment with a frame of one page for each number.
fn with_frames(numbers: std::ops::RangeInclusive<u64>) -> Log {
    let mut log = Log::open(MemoryDisk::default());
    for number in numbers {
        log.append(&[(number, b"acknowledged")]);
    }
    log
}

/// Alters a byte of the page at `page` of a segment.
fn rot(disk: &mut MemoryDisk, generation: u64, page: u64) {
    disk.files.get_mut(&generation).expect("the segment exists")[(page * PAGE) as usize + 70] ^= 4;
}

/// Where an acknowledged frame cannot be read, what lies behind it is not cut off: it was acknowledged too.
#[test]
fn mid_log_corruption_truncated() {
    for page in 1..=8 {
        let mut disk = with_frames(1..=10).disk;
        rot(&mut disk, 1, page);
        let before = disk.files.clone();
        match disk.recover() {
            Err(RecoverError::Damaged { file, offset, sequence, .. }) => {
                assert_eq!((file, offset, sequence), (segment_name(1), page * PAGE, page));
            }
            other => panic!("frame {page} of 10 is bad: {other:?}"),
        }
        assert_eq!(disk.files, before, "and nothing is altered");
    }
}

/// The same bad last frame is a torn tail while nothing speaks for its acknowledgement, and damage when anything does.
#[test]
fn torn_tail_vs_corrupt_tail() {
    let mut disk = with_frames(1..=3).disk;
    rot(&mut disk, 1, 3);
    let (recovery, seen) = disk.recover().expect("nobody says that it was acknowledged");
    assert_eq!(recovery.verdict, Verdict::TornTail { file: segment_name(1), offset: 3 * PAGE });
    assert_eq!(numbers(&seen), [1, 2]);
    // A mark, written when the shard went quiet, states that it was durable.
    let mut log = with_frames(1..=3);
    log.append(&[]);
    rot(&mut log.disk, 1, 3);
    assert!(matches!(log.disk.recover(), Err(RecoverError::Damaged { sequence: 3, .. })));
    // So does the end that the next segment states.
    let mut disk = Log::open(with_frames(1..=3).disk).disk;
    rot(&mut disk, 1, 3);
    assert!(matches!(disk.recover(), Err(RecoverError::Damaged { sequence: 3, .. })));
    // A tail that was cut stays cut: the frames that take its place do not make it damage.
    let mut disk = with_frames(1..=3).disk;
    rot(&mut disk, 1, 3);
    let mut log = Log::open(disk);
    for number in 30..33 {
        log.append(&[(number, b"new")]);
    }
    assert_eq!(numbers(&log.disk.recover().expect("sound").1), [1, 2, 30, 31, 32]);
}

/// Nothing here has two copies. A segment's header is the nearest: the other one never stands in for a bad one.
#[test]
fn one_of_two_superblocks_bad() {
    let two_segments = || {
        let mut log = Log::open(with_frames(1..=2).disk);
        log.append(&[(3, b"acknowledged")]);
        log.disk
    };
    for generation in [1, 2] {
        let mut disk = two_segments();
        rot(&mut disk, generation, 0);
        match disk.recover() {
            Err(RecoverError::Damaged { file, offset: 0, .. }) => assert_eq!(file, segment_name(generation)),
            other => panic!("the header of segment {generation} is bad: {other:?}"),
        }
    }
    let mut disk = two_segments();
    let (first, second) = (disk.files[&1][..PAGE as usize].to_vec(), disk.files[&2][..PAGE as usize].to_vec());
    disk.files.get_mut(&1).expect("segment 1")[..PAGE as usize].copy_from_slice(&second);
    assert!(disk.recover().is_err(), "the header of segment 2 in segment 1");
    let mut disk = two_segments();
    disk.files.get_mut(&2).expect("segment 2")[..PAGE as usize].copy_from_slice(&first);
    assert!(disk.recover().is_err(), "the header of segment 1 in segment 2");
}

/// A file that is used again still holds whole frames of its former life, just where the new ones end.
#[test]
fn recycled_segment_stale_record() {
    let mut log = Log::open(MemoryDisk::default());
    let mut number = 0;
    while log.writer.open_generation() != Some(5) {
        number += 1;
        // All frames have the same length, so old ones begin where the new ones end.
        log.append(&[(number, &[0x5a; 3000])]);
        if let Some(oldest) = log.writer.oldest().filter(|oldest| oldest.sealed) {
            log.with_ops(|writer, ops| writer.release(oldest.generation, ops));
            log.drive();
        }
    }
    for _ in 0..6 {
        let (recovery, seen) = log.disk.recover().expect("sound");
        assert_eq!(recovery.verdict, Verdict::Clean);
        assert_eq!(seen.last().map_or(number, |seen| seen.number), number, "a record of the file's former life");
        let end = recovery.last.expect("an end").offset as usize;
        let stale = &log.disk.files[&5][end..];
        assert!(stale.starts_with(b"SYNF"), "a whole frame of another life lies there");
        number += 1;
        log.append(&[(number, &[0x5a; 3000])]);
    }
}

/// The frame lands whole in another place, and its own place keeps what was there.
#[test]
fn misdirected_write_well_formed() {
    let page = PAGE as usize;
    let at = |number: u64| number as usize * page..(number as usize + 1) * page;
    for (from, to) in [(2, 1), (2, 3), (4, 2), (2, 6), (5, 9), (5, 4)] {
        let mut disk = with_frames(1..=5).disk;
        let file = disk.files.get_mut(&1).expect("segment 1");
        let frame = file[at(from)].to_vec();
        file[at(from)].fill(0);
        file[at(to)].copy_from_slice(&frame);
        match disk.recover() {
            Err(RecoverError::Damaged { .. }) => {}
            // Only the last one's acknowledgement nothing speaks for.
            Ok((recovery, seen)) => {
                assert!(from == 5 && to > from, "frame {from} at {to}: {recovery:?}");
                assert_eq!(numbers(&seen), [1, 2, 3, 4]);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A failed sync drops what it was to make durable, and the next one succeeds without it.
#[test]
fn fsync_fails_then_succeeds() {
    let mut log = with_frames(1..=2);
    log.take_events();
    log.submit(&[(3, b"lost")]);
    let failed = DiskDone::Written { ticket: ticket(&log.take_write()), result: Err(disk_error()) };
    let poisoned = WalError::Poisoned { cause: disk_error() };
    assert_eq!(log.done(failed), Err(poisoned.clone()));
    // No operation asks the disk again, and good news of any later one counts for nothing.
    assert!(log.ops.is_empty());
    assert!(!log.writer.may_start_frame(usize::MAX));
    for ticket in 0..10 {
        assert_eq!(log.done(DiskDone::Written { ticket, result: Ok(()) }), Err(poisoned.clone()));
    }
    assert_eq!(log.take_events(), [], "nothing is told durable");
    assert_eq!(log.writer.durable_through(), 2);
}

/// The disk is full in the middle of a frame of several groups: all of it fails, and no part of it is told durable.
#[test]
fn enospc_mid_group_commit() {
    let mut log = with_frames(1..=2);
    log.take_events();
    log.submit(&[(3, b"one group"), (4, b"another"), (5, b"a third")]);
    let write = log.take_write();
    let DiskOp::Write { offset, ref data, .. } = write else { unreachable!("it is one") };
    let (ticket, bytes) = (ticket(&write), data.bytes().to_vec());
    // Half of it has landed.
    let half = bytes.len() / 2;
    log.disk.files.get_mut(&1).expect("open")[offset as usize..][..half].copy_from_slice(&bytes[..half]);
    let full = synod_wal::DiskError::from_io("write", "x.seg", &std::io::Error::from_raw_os_error(28));
    let failed = DiskDone::Written { ticket, result: Err(full) };
    assert!(matches!(log.done(failed), Err(WalError::Poisoned { .. })), "what was begun cannot be taken back");
    assert_eq!(log.take_events(), []);
    assert!(log.ops.is_empty(), "it is not tried again");
    let (_, seen) = log.disk.recover().expect("what was acknowledged is there");
    assert!(numbers(&seen) == [1, 2] || numbers(&seen) == [1, 2, 3, 4, 5], "a part of a frame: {seen:?}");
}
