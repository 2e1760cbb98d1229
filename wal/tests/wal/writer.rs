//! The writer's rules.

use synod_wal::{DiskDone, DiskError, DiskOp, WalError, WalEvent};

use crate::log::{Log, MemoryDisk, PAGE, SEGMENT_BYTES, config, disk_error, ticket};

/// Appends till the log wants the next segment, without carrying out the last frame.
fn fill(log: &mut Log) {
    loop {
        log.submit(&[(0, &[1; 8000])]);
        if !log.writer.may_start_frame(usize::MAX) && log.writer.frames_in_flight() == 1 {
            return;
        }
        log.drive();
    }
}

#[test]
fn a_start_prepares_segments_and_opens_the_first_when_its_header_is_durable() {
    let mut log = Log::starting(MemoryDisk::default());
    let prepared: Vec<_> = log.ops.iter().map(|op| format!("{op:?}")).collect();
    assert_eq!(prepared.len(), 3, "one to open, two to spare: {prepared:?}");
    assert!(!log.writer.may_start_frame(usize::MAX));
    let first = log.ops.pop_front().expect("a preparation");
    log.complete(first);
    let header = log.take_write();
    assert!(!log.writer.may_start_frame(usize::MAX), "the header is not durable yet");
    assert_eq!(log.take_events(), []);
    log.complete(header);
    assert_eq!(log.take_events(), [WalEvent::Rolled { generation: 1 }]);
    assert!(log.writer.may_start_frame(0));
    assert_eq!(log.writer.open_generation(), Some(1));
}

#[test]
fn a_second_frame_starts_only_when_enough_is_pending_and_a_third_never() {
    let mut log = Log::open(MemoryDisk::default());
    assert!(log.writer.may_start_frame(0));
    log.submit(&[(1, b"a")]);
    assert!(!log.writer.may_start_frame(config().second_frame_bytes_min - 1));
    assert!(log.writer.may_start_frame(config().second_frame_bytes_min));
    log.submit(&[(2, b"b")]);
    assert!(!log.writer.may_start_frame(usize::MAX));
    let first = log.take_write();
    log.complete(first);
    assert!(log.writer.may_start_frame(usize::MAX));
}

#[test]
fn durability_is_told_in_order_whatever_the_order_of_completions() {
    let mut log = Log::open(MemoryDisk::default());
    log.submit(&[(1, b"a")]);
    log.submit(&[(2, b"b")]);
    let (first, second) = (log.take_write(), log.take_write());
    log.complete(second);
    assert_eq!(log.take_events(), []);
    assert!(!log.writer.may_start_frame(usize::MAX), "frame 3 must wait for frame 1");
    log.complete(first);
    assert_eq!(log.take_events(), [WalEvent::Durable { through: 2 }]);
}

#[test]
fn frames_state_what_was_durable_when_they_were_sealed() {
    let mut log = Log::open(MemoryDisk::default());
    for _ in 0..3 {
        log.append(&[(1, b"a")]);
    }
    log.submit(&[(2, b"b")]);
    log.submit(&[]);
    log.drive();
    let stated: Vec<_> = (0..5)
        .map(|index| {
            let bytes = &log.disk.files[&1][(PAGE * (index + 1)) as usize..];
            synod_wal::FrameHeader::decode(bytes, 1).expect("a frame").durable_through
        })
        .collect();
    assert_eq!(stated, [0, 1, 2, 3, 3]);
}

#[test]
fn a_roll_waits_until_all_frames_are_durable_and_frames_wait_for_the_header() {
    let mut log = Log::open(MemoryDisk::default());
    fill(&mut log);
    let last = log.take_write();
    assert!(log.ops.is_empty(), "no header before the last frame is durable");
    log.complete(last);
    let header = log.take_write();
    assert!(matches!(header, DiskOp::Write { generation: 2, offset: 0, .. }));
    assert!(!log.writer.may_start_frame(usize::MAX));
    log.take_events();
    log.complete(header);
    assert_eq!(log.take_events(), [WalEvent::Rolled { generation: 2 }]);
    let segments: Vec<_> = log.writer.segments().collect();
    assert!(segments[0].sealed);
    assert!(!segments[1].sealed);
    assert_eq!(segments[1].first_sequence, log.writer.next_sequence());
}

#[test]
fn a_roll_waits_for_a_file_that_is_not_ready() {
    let mut log = Log::starting(MemoryDisk::default());
    let first = log.ops.pop_front().expect("a preparation");
    log.complete(first);
    let header = log.take_write();
    log.complete(header);
    let preparations: Vec<_> = log.ops.drain(..).collect();
    fill(&mut log);
    log.drive();
    assert!(!log.writer.may_start_frame(usize::MAX));
    for op in preparations {
        log.complete(op);
    }
    log.drive();
    assert_eq!(log.writer.open_generation(), Some(2));
}

#[test]
fn spare_segments_are_kept_ready_and_more_can_be_asked_for() {
    let mut log = Log::open(MemoryDisk::default());
    assert_eq!(log.writer.spares_ready(), 2);
    fill(&mut log);
    log.drive();
    assert_eq!(log.writer.spares_ready(), 2);
    log.with_ops(|writer, ops| writer.prepare_ahead(5, ops));
    log.drive();
    assert_eq!(log.writer.spares_ready(), 5);
    fill(&mut log);
    log.drive();
    assert_eq!(log.writer.spares_ready(), 4);
}

#[test]
fn without_spare_segments_each_is_made_when_it_is_wanted() {
    let mut log = Log::open(MemoryDisk::default());
    let config = synod_wal::WriterConfig { spare_segments: 0, ..config() };
    log.writer = synod_wal::Writer::new(config, &synod_wal::Recovery::empty());
    log.disk.files.clear();
    log.with_ops(synod_wal::Writer::start);
    log.drive();
    for generation in 1..5 {
        assert_eq!((log.writer.open_generation(), log.writer.spares_ready()), (Some(generation), 0));
        fill(&mut log);
        log.drive();
    }
    log.append(&[(1, b"a")]);
    assert_eq!(log.disk.recover().expect("sound").0.segments.len(), 5);
}

#[test]
fn a_failed_write_poisons_for_ever() {
    let mut log = Log::open(MemoryDisk::default());
    log.submit(&[(1, b"a")]);
    log.submit(&[(2, b"b")]);
    let (first, second) = (ticket(&log.take_write()), ticket(&log.take_write()));
    let failed = DiskDone::Written { ticket: second, result: Err(disk_error()) };
    let error = log.done(failed).expect_err("the write failed");
    assert_eq!(error, WalError::Poisoned { cause: disk_error() });
    assert!(log.writer.is_poisoned());
    // The frame before it is durable, but nothing is told any more.
    let durable = DiskDone::Written { ticket: first, result: Ok(()) };
    assert_eq!(log.done(durable), Err(error));
    assert_eq!(log.take_events(), []);
    assert!(!log.writer.may_start_frame(usize::MAX));
    log.with_ops(|writer, ops| writer.prepare_ahead(9, ops));
    assert!(log.ops.is_empty());
}

#[test]
fn a_failed_preparation_poisons() {
    let mut log = Log::starting(MemoryDisk::default());
    let done = DiskDone::Prepared { generation: 2, result: Err(disk_error()) };
    assert!(log.done(done).is_err());
    assert!(log.writer.is_poisoned());
}

fn full_disk() -> DiskError {
    DiskError::from_io("prepare", "x.seg", &std::io::Error::from_raw_os_error(28))
}

#[test]
fn a_full_disk_is_waited_out_while_there_is_a_segment_to_go_on_in() {
    let mut log = Log::open(MemoryDisk::default());
    fill(&mut log);
    let last = log.take_write();
    log.complete(last);
    let header = log.take_write();
    log.complete(header);
    // A third segment is wanted, and there is no room for it.
    let Some(DiskOp::Prepare { generation: 4, recycle: None }) = log.ops.pop_front() else { panic!("{:?}", log.ops) };
    log.done(DiskDone::Prepared { generation: 4, result: Err(full_disk()) }).expect("it is waited for");
    assert_eq!(log.writer.starved(), Some(&full_disk()));
    // What is open and ready goes on.
    log.append(&[(1, b"a")]);
    fill(&mut log);
    log.drive();
    assert_eq!(log.writer.open_generation(), Some(3));
    log.ops.clear();
    // Trying again fails again.
    log.with_ops(|writer, ops| writer.retry_prepare(ops));
    assert!(matches!(log.ops.pop_front(), Some(DiskOp::Prepare { generation: 4, recycle: None })));
    log.done(DiskDone::Prepared { generation: 4, result: Err(full_disk()) }).expect("it is waited for");
    fill(&mut log);
    log.drive();
    assert!(!log.writer.may_start_frame(usize::MAX), "no segment is left");
    // A released file takes its place, without any room.
    log.with_ops(|writer, ops| writer.release(1, ops));
    assert!(matches!(log.ops.front(), Some(DiskOp::Prepare { generation: 4, recycle: Some(1) })), "{:?}", log.ops);
    log.drive();
    assert_eq!(log.writer.open_generation(), Some(4));
    assert_eq!(log.writer.starved(), None);
    assert!(!log.writer.is_poisoned());
}

#[test]
fn a_full_disk_poisons_a_log_that_cannot_even_open() {
    let mut log = Log::starting(MemoryDisk::default());
    for generation in 1..=2 {
        log.done(DiskDone::Prepared { generation, result: Err(full_disk()) }).expect("another one is under way");
    }
    assert!(log.done(DiskDone::Prepared { generation: 3, result: Err(full_disk()) }).is_err());
    assert!(log.writer.is_poisoned());
}

#[test]
fn a_failed_header_poisons() {
    let mut log = Log::open(MemoryDisk::default());
    fill(&mut log);
    let last = log.take_write();
    log.complete(last);
    let header = ticket(&log.take_write());
    assert!(log.done(DiskDone::Written { ticket: header, result: Err(disk_error()) }).is_err());
    assert!(!log.writer.may_start_frame(usize::MAX));
}

#[test]
fn released_segments_are_recycled_in_order_and_then_discarded() {
    let mut log = Log::open(MemoryDisk::default());
    for _ in 0..6 {
        fill(&mut log);
        log.drive();
    }
    assert_eq!(log.writer.oldest().map(|segment| segment.generation), Some(1));
    assert_eq!(log.writer.bytes_live(), 7 * SEGMENT_BYTES);
    let mut released = Vec::new();
    for generation in 1..=4 {
        log.with_ops(|writer, ops| writer.release(generation, ops));
        released.push(match log.ops.pop_back() {
            Some(DiskOp::Prepare { generation, recycle }) => {
                let op = DiskOp::Prepare { generation, recycle };
                log.complete(op);
                (Some(generation), recycle)
            }
            Some(DiskOp::Discard { generation }) => {
                log.complete(DiskOp::Discard { generation });
                (None, Some(generation))
            }
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(released, [(Some(10), Some(1)), (Some(11), Some(2)), (None, Some(3)), (None, Some(4))]);
    assert_eq!(log.writer.bytes_live(), 3 * SEGMENT_BYTES);
    // Recovery after any of this sees live segments without gaps.
    let (recovery, _) = log.disk.recover().expect("sound");
    assert_eq!(recovery.segments.first().map(|segment| segment.generation), Some(5));
    assert_eq!(recovery.free, [8, 9, 10, 11]);
}

#[test]
fn the_limit_counts_whole_files() {
    let mut log = Log::open(MemoryDisk::default());
    for segments in 1..=3 {
        assert_eq!(log.writer.bytes_live(), segments * SEGMENT_BYTES);
        assert_eq!(log.writer.bytes_over_limit(), config().bytes_max < segments * SEGMENT_BYTES);
        fill(&mut log);
        log.drive();
    }
    assert!(log.writer.bytes_over_limit());
    log.with_ops(|writer, ops| writer.release(1, ops));
    log.with_ops(|writer, ops| writer.release(2, ops));
    assert!(!log.writer.bytes_over_limit());
}

#[test]
fn a_restart_opens_a_new_segment_and_reuses_prepared_files() {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"a")]);
    let mut log = Log::starting(log.disk);
    let reused: Vec<_> = log
        .ops
        .iter()
        .map(|op| match op {
            DiskOp::Prepare { generation, recycle } => (*generation, *recycle),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(reused, [(2, Some(2)), (3, Some(3)), (4, None)]);
    log.drive();
    assert_eq!(log.take_events(), [WalEvent::Rolled { generation: 2 }]);
    assert_eq!(log.append(&[(2, b"b")]), (2, 2, PAGE));
    let (_, seen) = log.disk.recover().expect("sound");
    assert_eq!(seen.iter().map(|seen| seen.number).collect::<Vec<_>>(), [1, 2]);
}
