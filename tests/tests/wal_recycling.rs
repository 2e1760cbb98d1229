//! A released segment whose recycling fails must keep the later ones where they are: a gap looks like damage.

use synod_sim::disk::*;
use synod_wal::*;

fn config() -> WriterConfig {
    WriterConfig { segment_bytes: 48 << 10, spare_segments: 1, ..WriterConfig::new(3, 1) }
}

fn grown() -> (SimLog, Dice) {
    let mut dice = Dice::new(1);
    let mut log = SimLog::start(SimDisk::new(48 << 10), &config(), History::default(), &mut |_, _| {}).unwrap();
    log.settle(&mut dice, &mut |_, _| {});
    while log.writer.segments().len() < 4 {
        log.append(&[(1, 1, 9000)], &mut |_, _| {});
        log.settle(&mut dice, &mut |_, _| {});
    }
    (log, dice)
}

#[test]
fn a_failed_recycling_leaves_no_gap() {
    for step in 0..3 {
        let (mut log, _) = grown();
        log.release(&mut |_, _| {});
        log.release(&mut |_, _| {});
        let pending = log.disk.pending();
        assert_eq!(pending.len(), 2);
        for _ in 0..step {
            log.disk.advance(pending[0].id);
        }
        let done = log.disk.finish(pending[0].id, Outcome::Eio).unwrap();
        log.done(done).expect_err("poisoned");
        // The helper goes on with what was queued.
        let done = log.disk.finish(pending[1].id, Outcome::Done).unwrap();
        log.done(done).expect_err("poisoned");
        for cut in [None, Some(false), Some(true)] {
            let mut disk = log.disk.clone();
            match cut {
                None => disk.kill(&mut true),
                Some(mut all) => disk.crash(&mut all),
            }
            let result = log.history.recover(&mut disk, SimLog::expect(&config()));
            assert!(result.is_ok(), "step {step}, cut {cut:?}: {result:?}");
        }
    }
}

#[test]
fn a_failed_recycling_leaves_no_gap_on_files() {
    let directory = tempfile::tempdir().unwrap();
    let disk_config =
        DiskConfig { directory: directory.path().into(), segment_bytes: 48 << 10, sync: SyncMode::Durable };
    let mut disk = BlockingDisk::new(disk_config).unwrap();
    let mut writer = Writer::new(config(), &Recovery::empty());
    let (mut ops, mut events, mut done) = (Vec::new(), Vec::new(), Vec::new());
    writer.start(&mut ops);
    let mut poisoned = false;
    let mut released = false;
    loop {
        for op in ops.drain(..) {
            disk.submit(op);
        }
        if disk.in_flight() > 0 {
            disk.wait(&mut done);
        }
        for d in done.drain(..) {
            poisoned |= writer.on_done(d, &mut ops, &mut events).is_err();
        }
        if disk.in_flight() > 0 || !ops.is_empty() {
            continue;
        }
        if released {
            break;
        }
        if writer.segments().len() < 4 {
            let frame = SharedFrame::new(Frame::new(AlignedBuf::new(16 << 10)));
            let body = vec![7; 9000];
            frame.push(&RecordHeader { body_len: 9000, body_crc: body_crc(&[&body]), ..Default::default() }, &[&body]);
            writer.append(frame, false, &mut ops);
        } else {
            // Segment 5 is the spare; 6 is the next one, and its name is taken: the first recycling fails.
            std::fs::write(directory.path().join(segment_name(6)), b"").unwrap();
            writer.release(1, &mut ops);
            writer.release(2, &mut ops);
            released = true;
        }
    }
    assert!(poisoned);
    drop(disk);
    let expect = Expect { shard: 3, incarnation: 1, segment_bytes: 48 << 10 };
    recover(&mut FileSource::new(directory.path()), expect, &mut |_, _, _, _| {}).expect("nothing was lost");
}
