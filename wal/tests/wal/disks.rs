//! Both drivers on real files.

use std::{fs, os::unix::fs::FileExt, path::Path, time::Duration};

use synod_wal::{
    BlockingDisk, Disk, DiskConfig, DiskDone, DiskError, DiskOp, FileSource, RecordPlace, Recovery, SyncMode,
    UringDisk, Verdict, WalEvent, WriteData, Writer, flush_tail, recover, segment_name,
};

use crate::log::{EXPECT, PAGE, SEGMENT_BYTES, config, frame};

type Open = fn(DiskConfig) -> Result<Box<dyn Disk>, DiskError>;

/// Runs `test` with each driver that this machine can run.
fn with_each_disk(test: impl Fn(Open, &Path)) {
    let blocking: Open = |config| Ok(Box::new(BlockingDisk::new(config)?));
    let uring: Open = |config| Ok(Box::new(UringDisk::new(config)?));
    let directory = tempfile::tempdir().expect("a temporary directory");
    test(blocking, directory.path());
    match UringDisk::probe() {
        Ok(()) => {
            let directory = tempfile::tempdir().expect("a temporary directory");
            test(uring, directory.path());
        }
        Err(why) => eprintln!("skipped for io_uring: {why}"),
    }
}

fn disk_config(directory: &Path, sync: SyncMode) -> DiskConfig {
    DiskConfig { directory: directory.to_owned(), segment_bytes: SEGMENT_BYTES, sync }
}

fn recovered(directory: &Path) -> (Recovery, Vec<(RecordPlace, u64, Vec<u8>)>) {
    let mut seen = Vec::new();
    let recovery = recover(&mut FileSource::new(directory), EXPECT, &mut |place, sequence, _, body| {
        seen.push((place, sequence, body.to_vec()));
    });
    (recovery.expect("the log is sound"), seen)
}

/// A writer on a real disk.
struct RealLog {
    disk: Box<dyn Disk>,
    writer: Writer,
    events: Vec<WalEvent>,
}

impl RealLog {
    fn open(open: Open, directory: &Path, sync: SyncMode) -> Self {
        let (recovery, _) = recovered(directory);
        if let Some(generation) = recovery.tail_generation() {
            flush_tail(directory, generation).expect("the tail can be flushed");
        }
        let disk = open(disk_config(directory, sync)).expect("the disk starts");
        let mut log = Self { disk, writer: Writer::new(config(), &recovery), events: Vec::new() };
        log.with_ops(Writer::start);
        log.wait_until(|writer| writer.may_start_frame(0));
        log
    }

    fn with_ops<R>(&mut self, f: impl FnOnce(&mut Writer, &mut Vec<DiskOp>) -> R) -> R {
        let mut ops = Vec::new();
        let result = f(&mut self.writer, &mut ops);
        ops.into_iter().for_each(|op| self.disk.submit(op));
        result
    }

    fn wait_until(&mut self, reached: impl Fn(&Writer) -> bool) {
        while !reached(&self.writer) {
            assert!(self.disk.in_flight() > 0, "nothing is under way: {:?}", self.writer);
            let mut done = Vec::new();
            self.disk.wait(&mut done);
            for done in done {
                let mut events = Vec::new();
                self.with_ops(|writer, ops| writer.on_done(done, ops, &mut events)).expect("no failure");
                self.events.extend(events);
            }
        }
    }

    /// Appends as fast as the writer lets it, and waits until all is durable.
    fn append_all(&mut self, bodies: &[Vec<u8>]) -> Vec<RecordPlace> {
        let mut places = Vec::new();
        for body in bodies {
            self.wait_until(|writer| writer.may_start_frame(usize::MAX));
            let frame = frame(&[(1, body)]);
            // Every other one may be written at once.
            let alone = self.writer.next_sequence().is_multiple_of(2);
            let (_, generation, offset) = self.with_ops(|writer, ops| writer.append(frame, alone, ops));
            let bytes = synod_wal::record_bytes(body.len()) as u32;
            places.push(RecordPlace { generation, offset: offset + 64, bytes });
        }
        self.wait_until(|writer| writer.frames_in_flight() == 0 && writer.may_start_frame(0));
        places
    }

    fn read(&mut self, places: Vec<RecordPlace>) -> Vec<Result<Vec<u8>, DiskError>> {
        self.disk.submit(DiskOp::Read { request: 5, places });
        loop {
            let mut done = Vec::new();
            self.disk.wait(&mut done);
            for done in done {
                match done {
                    DiskDone::Read { request, result } => {
                        assert_eq!(request, 5);
                        return result;
                    }
                    other => {
                        let mut events = Vec::new();
                        self.with_ops(|writer, ops| writer.on_done(other, ops, &mut events)).expect("no failure");
                    }
                }
            }
        }
    }
}

fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| vec![index as u8; index * 317 % 9000]).collect()
}

#[test]
fn what_was_appended_is_recovered_over_restarts_and_rolls() {
    with_each_disk(|open, directory| {
        let all = bodies(60);
        for half in all.chunks(30) {
            let mut log = RealLog::open(open, directory, SyncMode::Durable);
            log.append_all(half);
            let through = log.events.iter().rev().find_map(|event| match event {
                WalEvent::Durable { through } => Some(*through),
                WalEvent::Rolled { .. } => None,
            });
            assert_eq!(through, Some(log.writer.next_sequence() - 1));
            assert!(log.writer.segments().len() > 3);
        }
        let (recovery, seen) = recovered(directory);
        assert_eq!(recovery.verdict, Verdict::Clean);
        assert_eq!(seen.iter().map(|(_, sequence, _)| *sequence).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
        assert!(seen.iter().map(|(.., body)| body).eq(all.iter()));
    });
}

#[test]
fn without_sync_the_system_has_the_frames() {
    with_each_disk(|open, directory| {
        let mut log = RealLog::open(open, directory, SyncMode::Os);
        log.append_all(&bodies(10));
        drop(log);
        assert_eq!(recovered(directory).1.len(), 10);
    });
}

#[test]
fn records_are_read_back_from_sealed_segments_and_from_the_open_one() {
    with_each_disk(|open, directory| {
        let mut log = RealLog::open(open, directory, SyncMode::Durable);
        let bodies = bodies(40);
        let places = log.append_all(&bodies);
        assert!(places[0].generation < places[39].generation);
        for (read, body) in log.read(places).into_iter().zip(&bodies) {
            let record = read.expect("the record is sound");
            let header = synod_wal::RecordHeader::decode(&record).expect("a record");
            assert_eq!(record.len(), header.record_bytes());
            assert_eq!(&record[96..96 + body.len()], body);
        }
    });
}

#[test]
fn a_record_that_is_damaged_or_not_there_is_an_error() {
    with_each_disk(|open, directory| {
        let mut log = RealLog::open(open, directory, SyncMode::Durable);
        let places = log.append_all(&bodies(40));
        let (sealed, last) = (places[3], places[39]);
        for place in [sealed, last] {
            let file = fs::OpenOptions::new().write(true).open(directory.join(segment_name(place.generation)));
            file.expect("the segment").write_all_at(b"?", place.offset + 96 + 5).expect("a write");
        }
        let wrong = [
            sealed,
            last,
            RecordPlace { bytes: places[4].bytes + 16, ..places[4] },
            RecordPlace { offset: places[4].offset + 16, ..places[4] },
            RecordPlace { bytes: 0, ..places[4] },
            RecordPlace { bytes: !15, ..places[4] },
            RecordPlace { offset: !15, ..places[4] },
            RecordPlace { offset: SEGMENT_BYTES - 96, bytes: 112, ..places[4] },
            RecordPlace { offset: SEGMENT_BYTES - 96, bytes: 112, ..last },
            RecordPlace { generation: 0, ..places[4] },
            RecordPlace { generation: 999, ..places[4] },
        ];
        for (result, place) in log.read(wrong.to_vec()).into_iter().zip(wrong) {
            let error = result.expect_err(&format!("{place:?}"));
            assert!(error.to_string().contains(".seg"), "{error}");
        }
        assert!(log.read(vec![places[4]])[0].is_ok());
    });
}

#[test]
fn released_segments_are_renamed_or_deleted_and_never_leave_a_gap() {
    with_each_disk(|open, directory| {
        let mut log = RealLog::open(open, directory, SyncMode::Durable);
        let places = log.append_all(&bodies(60));
        let last = places[59].generation;
        assert!(last > 6);
        // A mapping of the oldest does not keep it from going.
        assert!(log.read(vec![places[0]])[0].is_ok());
        for generation in 1..last {
            log.with_ops(|writer, ops| writer.release(generation, ops));
        }
        log.wait_until(|writer| writer.spares_ready() == 4);
        // A read is done behind the deletions that were asked for before it.
        assert!(log.read(vec![places[0]])[0].is_err());
        assert!(log.read(vec![places[59]])[0].is_ok());
        let (recovery, seen) = recovered(directory);
        assert_eq!(recovery.segments.iter().map(|segment| segment.generation).collect::<Vec<_>>(), [last]);
        assert_eq!(recovery.free, (last + 1..=last + 4).collect::<Vec<_>>());
        assert!(!seen.is_empty());
        // Recycled files serve as well as new ones.
        log.append_all(&bodies(60));
        drop(log);
        recovered(directory);
    });
}

#[test]
fn the_event_fd_becomes_readable_when_something_is_done() {
    with_each_disk(|open, directory| {
        let mut disk = open(disk_config(directory, SyncMode::Durable)).expect("the disk starts");
        let expect = |disk: &mut Box<dyn Disk>| {
            loop {
                let event = disk.event_fd();
                let mut fds = [rustix::event::PollFd::new(&event, rustix::event::PollFlags::IN)];
                let timeout = rustix::event::Timespec::try_from(Duration::from_secs(20)).expect("a timeout");
                assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1), "nothing woke the owner");
                let mut counter = [0; 8];
                rustix::io::read(event, &mut counter).expect("an eventfd is read");
                let mut done = Vec::new();
                disk.poll(&mut done);
                if !done.is_empty() {
                    return done;
                }
            }
        };
        disk.submit(DiskOp::Prepare { generation: 1, recycle: None });
        assert!(matches!(expect(&mut disk)[..], [DiskDone::Prepared { generation: 1, result: Ok(()) }]));
        let mut page = synod_wal::AlignedBuf::new(4096);
        page.resize(4096);
        disk.submit(DiskOp::Write {
            ticket: 8,
            generation: 1,
            offset: PAGE,
            data: WriteData::Page(page),
            alone: false,
        });
        // What is done at once is not told by the event fd.
        let mut done = Vec::new();
        disk.poll(&mut done);
        let done = if done.is_empty() { expect(&mut disk) } else { done };
        assert!(matches!(done[..], [DiskDone::Written { ticket: 8, result: Ok(()) }]));
        assert_eq!(disk.in_flight(), 0);
        // With nothing in flight there is nothing to wait for.
        disk.wait(&mut Vec::new());
    });
}

#[test]
fn a_write_that_is_alone_is_answered_by_the_next_poll() {
    for sync in [SyncMode::Durable, SyncMode::Os] {
        with_each_disk(|open, directory| {
            let mut disk = open(disk_config(directory, sync)).expect("the disk starts");
            let mut done = Vec::new();
            disk.submit(DiskOp::Prepare { generation: 1, recycle: None });
            disk.wait(&mut done);
            done.clear();
            let mut page = synod_wal::AlignedBuf::new(4096);
            page.resize(4096);
            page.fill(7);
            disk.submit(DiskOp::Write {
                ticket: 3,
                generation: 1,
                offset: PAGE,
                data: WriteData::Page(page),
                alone: true,
            });
            disk.poll(&mut done);
            assert!(matches!(done[..], [DiskDone::Written { ticket: 3, result: Ok(()) }]), "{done:?}");
            let file = fs::read(directory.join(segment_name(1))).expect("the segment");
            assert!(file[PAGE as usize..][..4096].iter().all(|byte| *byte == 7));
            assert_eq!(disk.in_flight(), 0);
        });
    }
}

#[test]
fn failures_are_answered_with_the_file_and_the_cause() {
    with_each_disk(|open, directory| {
        let mut disk = open(disk_config(directory, SyncMode::Durable)).expect("the disk starts");
        let page = || {
            let mut page = synod_wal::AlignedBuf::new(4096);
            page.resize(4096);
            WriteData::Page(page)
        };
        let mut answer = |op| {
            disk.submit(op);
            let mut done = Vec::new();
            disk.wait(&mut done);
            match done.pop() {
                Some(DiskDone::Written { result, .. } | DiskDone::Prepared { result, .. }) => result,
                other => panic!("{other:?}"),
            }
        };
        // No such file.
        for alone in [false, true] {
            let write = DiskOp::Write { ticket: 1, generation: 1, offset: 0, data: page(), alone };
            let error = answer(write).expect_err("no file");
            assert!(
                error.to_string().starts_with("cannot write ") && error.to_string().contains(&segment_name(1)),
                "{error}"
            );
        }
        // A name that is taken.
        fs::write(directory.join(segment_name(2)), b"x").expect("a file");
        let error = answer(DiskOp::Prepare { generation: 2, recycle: None }).expect_err("taken");
        assert!(error.to_string().contains("there already"), "{error}");
        // A write that the kernel refuses: its offset is negative there.
        answer(DiskOp::Prepare { generation: 3, recycle: None }).expect("a segment");
        for alone in [false, true] {
            let refused = DiskOp::Write { ticket: 2, generation: 3, offset: 1 << 63, data: page(), alone };
            let error = answer(refused).expect_err("a negative offset");
            assert_eq!(error.kind, std::io::ErrorKind::InvalidInput, "{error}");
        }
        // A file of the wrong size is not recycled but made anew, and one that is gone as well.
        for old in [2, 77] {
            answer(DiskOp::Prepare { generation: 4 + old, recycle: Some(old) }).expect("a segment");
            let found = fs::metadata(directory.join(segment_name(4 + old))).expect("the segment");
            assert_eq!(found.len(), SEGMENT_BYTES);
        }
        assert!(!directory.join(segment_name(2)).exists());
    });
}

#[test]
fn a_full_disk_is_named_as_such() {
    let error = DiskError::from_io("prepare", "x.seg", &std::io::Error::from_raw_os_error(28));
    assert_eq!(error.kind, std::io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("the disk is full: free space"), "{error}");
}

#[test]
fn a_drop_waits_for_writes_and_ends_the_helper_with_jobs_left() {
    with_each_disk(|open, directory| {
        let mut log = RealLog::open(open, directory, SyncMode::Durable);
        let submitted = [frame(&[(1, &[1; 20_000])]), frame(&[(2, &[2; 20_000])])];
        for frame in submitted {
            log.with_ops(|writer, ops| writer.append(frame, false, ops));
        }
        // More than the channel to the helper holds.
        for generation in 100..1000 {
            log.disk.submit(DiskOp::Prepare { generation, recycle: None });
        }
        drop(log);
        // What was handed to the kernel is on disk; nothing half-made bears a segment's name.
        let (recovery, seen) = recovered(directory);
        assert_eq!(seen.len(), 2);
        assert!(recovery.useless.is_empty());
    });
}

#[test]
fn unfinished_files_of_an_earlier_process_are_deleted() {
    with_each_disk(|open, directory| {
        let unfinished = directory.join("0000000000000009.seg.tmp");
        fs::write(&unfinished, b"half").expect("a file");
        let log = RealLog::open(open, directory, SyncMode::Durable);
        assert!(!unfinished.exists());
        drop(log);
    });
}

#[test]
fn a_directory_in_memory_works_and_says_so() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: there is no /dev/shm");
        return;
    };
    let disk = BlockingDisk::new(disk_config(directory.path(), SyncMode::Durable)).expect("the disk starts");
    assert!(disk.durability_none());
    drop(disk);
    let open: Open = |config| Ok(Box::new(BlockingDisk::new(config)?));
    RealLog::open(open, directory.path(), SyncMode::Durable).append_all(&bodies(20));
    if UringDisk::probe().is_ok() {
        let disk = UringDisk::new(disk_config(directory.path(), SyncMode::Durable)).expect("the disk starts");
        assert!(disk.durability_none());
        drop(disk);
        let open: Open = |config| Ok(Box::new(UringDisk::new(config)?));
        RealLog::open(open, directory.path(), SyncMode::Durable).append_all(&bodies(20));
        assert_eq!(recovered(directory.path()).1.len(), 40);
    }
}

#[test]
fn a_directory_that_is_missing_is_an_error() {
    let missing = Path::new("/nonexistent/synod");
    for error in [BlockingDisk::new(disk_config(missing, SyncMode::Durable)).err(), flush_tail(missing, 1).err()] {
        assert_eq!(error.expect("an error").kind, std::io::ErrorKind::NotFound);
    }
}
