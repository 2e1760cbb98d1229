//! The disk model against what it says of itself.

use synod_wal::{AlignedBuf, DiskDone, DiskOp, SegmentSource, WriteData};

use super::*;

const SEGMENT_BYTES: u64 = 64 << 10;

fn page(byte: u8) -> WriteData {
    let mut page = AlignedBuf::new(4096);
    page.resize(4096);
    page.fill(byte);
    WriteData::Page(page)
}

fn write(ticket: u64, generation: u64, offset: u64, byte: u8) -> DiskOp {
    DiskOp::Write { ticket, generation, offset, data: page(byte), alone: false }
}

fn prepare(generation: u64, recycle: Option<u64>) -> DiskOp {
    DiskOp::Prepare { generation, recycle }
}

fn with_segments(count: u64) -> SimDisk {
    let mut disk = SimDisk::new(SEGMENT_BYTES);
    for generation in 1..=count {
        disk.start(prepare(generation, None));
    }
    assert_eq!(disk.finish_all().len() as u64, count);
    disk
}

#[test]
fn the_helper_keeps_its_order_and_writes_overtake_it() {
    let mut disk = with_segments(1);
    let second = disk.start(prepare(2, None));
    let gone = disk.start(DiskOp::Discard { generation: 2 });
    let written = disk.start(write(7, 1, 4096, 1));
    let ready: Vec<_> = disk.pending().iter().map(|pending| (pending.id, pending.ready)).collect();
    assert_eq!(ready, [(second, true), (gone, false), (written, true)]);
    let done = disk.finish(written, Outcome::Done);
    assert!(matches!(done, Some(DiskDone::Written { ticket: 7, result: Ok(()) })));
    assert!(matches!(disk.finish(second, Outcome::Done), Some(DiskDone::Prepared { generation: 2, result: Ok(()) })));
    assert_eq!(disk.segments(), [1, 2]);
    assert!(disk.finish(gone, Outcome::Done).is_none());
    assert_eq!((disk.segments(), disk.pending().len()), (vec![1], 0));
}

#[test]
fn a_crash_chooses_among_sectors_and_bytes_of_what_was_not_synced() {
    let mut disk = with_segments(1);
    let before = disk.start(write(1, 1, 4096, 1));
    disk.finish(before, Outcome::Done);
    let id = disk.start(write(2, 1, 4096, 2));
    for landed in [false, true] {
        if landed {
            assert_eq!(disk.advance(id), Some(Step::Land));
        }
        assert_eq!(disk.unsynced().iter().map(|(sectors, _)| *sectors).collect::<Vec<_>>(), [8]);
        for sectors in 0..256 {
            let mut crashed = disk.clone();
            crashed.crash(&mut Subset { sectors, changes: 0 });
            let left = crashed.peek(1, 4096, 4096);
            for (at, sector) in left.chunks(SECTOR_BYTES).enumerate() {
                let byte = if sectors >> at & 1 == 1 { 2 } else { 1 };
                assert!(sector.iter().all(|found| *found == byte));
            }
            assert!(crashed.pending().is_empty());
        }
        for bytes in 0..=4096 {
            let mut crashed = disk.clone();
            crashed.crash(&mut Prefix { write: 0, bytes, others: true });
            let left = crashed.peek(1, 4096, 4096);
            assert_eq!(left.iter().position(|byte| *byte == 1).unwrap_or(4096), bytes);
        }
    }
    // What is synced stays, and its answer may still be owed.
    assert_eq!(disk.advance(id), Some(Step::SyncFile));
    disk.crash(&mut false);
    assert_eq!(disk.peek(1, 4096, 1), [2]);
}

#[test]
fn names_that_were_not_synced_may_be_old_or_new() {
    let disk = with_segments(1);
    // Made anew: its name comes only behind its bytes, and may be lost before the directory is synced.
    for (steps, kept, lost) in [(1, vec![1], vec![1]), (4, vec![1, 2], vec![1]), (5, vec![1, 2], vec![1, 2])] {
        for (mut all, expected) in [(true, kept), (false, lost)] {
            let mut disk = disk.clone();
            let id = disk.start(prepare(2, None));
            for _ in 0..steps {
                disk.advance(id);
            }
            disk.crash(&mut all);
            disk.open();
            assert_eq!(disk.segments(), expected, "after {steps} steps");
            assert!(disk.segments().iter().all(|generation| disk.len(*generation).ok() == Some(SEGMENT_BYTES)));
        }
    }
    // Used again: it has either name, never both or none.
    for (mut all, expected) in [(true, [3]), (false, [1])] {
        let mut disk = disk.clone();
        let id = disk.start(prepare(3, Some(1)));
        assert_eq!(disk.advance(id), Some(Step::Rename));
        assert_eq!(disk.segments(), [3]);
        disk.crash(&mut all);
        assert_eq!(disk.segments(), expected);
    }
}

#[test]
fn what_a_failed_sync_dropped_is_seen_and_never_becomes_durable() {
    let mut disk = with_segments(1);
    let id = disk.start(write(1, 1, 4096, 1));
    disk.advance(id);
    let failed = disk.finish(id, Outcome::Eio);
    assert!(matches!(failed, Some(DiskDone::Written { result: Err(_), .. })));
    // A later sync says that all is well.
    let later = disk.start(write(2, 1, 8192, 2));
    disk.finish(later, Outcome::Done);
    assert_eq!((disk.peek(1, 4096, 1), disk.peek(1, 8192, 1)), (vec![1], vec![2]));
    disk.crash(&mut false);
    assert_eq!((disk.peek(1, 4096, 1), disk.peek(1, 8192, 1)), (vec![0], vec![2]));
}

#[test]
fn injected_faults_change_what_they_name_and_nothing_else() {
    let mut disk = with_segments(2);
    for byte in [1, 2] {
        let id = disk.start(write(1, 1, 4096, byte));
        disk.finish(id, Outcome::Done);
    }
    let sound = disk.clone();
    disk.flip_bit(1, 4096 * 8 + 3);
    assert_eq!(disk.peek(1, 4096, 2), [2 ^ 8, 2]);
    disk.flip_bit(1, 4096 * 8 + 3);
    disk.stale_sector(1, 9);
    assert_eq!((disk.peek(1, 4096, 1), disk.peek(1, 4608, 512)), (vec![2], vec![1; 512]));
    disk.zero_sector(1, 10);
    assert_eq!(disk.peek(1, 5120, 512), [0; 512]);
    disk.swap_sectors((1, 8), (2, 0));
    assert_eq!((disk.peek(1, 4096, 1), disk.peek(2, 0, 512)), (vec![0], vec![2; 512]));
    disk = sound.clone();
    disk.misdirect((1, 4096), (2, 8192), 4096);
    assert_eq!((disk.peek(1, 4096, 4096), disk.peek(2, 8192, 4096)), (vec![1; 4096], vec![2; 4096]));
    // A crash heals none of it.
    disk.crash(&mut true);
    assert_eq!((disk.peek(1, 4096, 1), disk.peek(2, 8192, 1)), (vec![1], vec![2]));
    // And the copy kept its own bytes.
    assert_eq!((sound.peek(1, 4096, 1), sound.peek(2, 8192, 1)), (vec![2], vec![0]));
}

#[test]
fn a_failed_deletion_stops_deletions_and_recycling_until_the_next_start() {
    let mut disk = with_segments(2);
    let first = disk.start(DiskOp::Discard { generation: 1 });
    disk.finish(first, Outcome::Eio);
    disk.start(DiskOp::Discard { generation: 2 });
    disk.start(prepare(3, Some(2)));
    disk.finish_all();
    assert_eq!(disk.segments(), [1, 2, 3]);
    disk.kill(&mut true);
    disk.open();
    disk.start(DiskOp::Discard { generation: 1 });
    disk.finish_all();
    assert_eq!(disk.segments(), [2, 3]);
}

#[test]
fn no_room_fails_the_making_of_a_file_and_leaves_none() {
    let mut disk = with_segments(1);
    disk.limit_bytes(2 * SEGMENT_BYTES - 1);
    let id = disk.start(prepare(2, None));
    let done = disk.finish(id, Outcome::Done);
    let Some(DiskDone::Prepared { result: Err(error), .. }) = done else { panic!("{done:?}") };
    assert_eq!(error.kind, std::io::ErrorKind::StorageFull);
    assert_eq!(disk.bytes(), SEGMENT_BYTES);
}
