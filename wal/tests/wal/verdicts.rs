//! Every cut and every flipped bit of a small log, and what recovery says.

use proptest::prelude::*;
use synod_wal::{RecoverError, Verdict, segment_name};

use crate::log::{Log, MemoryDisk, PAGE, Seen};

/// One segment with a header page and frames 1 to 4 of one page each, every one durable before the next; frame 2 has two
/// records.
fn small_log() -> MemoryDisk {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    log.append(&[(2, b"two"), (3, b"")]);
    log.append(&[(4, &[4; 300])]);
    log.append(&[(5, b"five")]);
    let mut disk = log.disk;
    disk.files.retain(|generation, _| *generation == 1);
    disk
}

const FRAMES: u64 = 4;
const END: u64 = PAGE * (FRAMES + 1);

/// The records of frames 1 to `frames`.
fn records_of(frames: u64) -> Vec<u64> {
    let all: [&[u64]; 4] = [&[1], &[2, 3], &[4], &[5]];
    all[..frames as usize].concat()
}

fn numbers(seen: &[Seen]) -> Vec<u64> {
    seen.iter().map(|seen| seen.number).collect()
}

#[track_caller]
fn check_torn(disk: &mut MemoryDisk, frames: u64, what: &str) {
    let (recovery, seen) = disk.recover().unwrap_or_else(|error| panic!("{what}: {error}"));
    let offset = PAGE * (frames + 1);
    assert_eq!(recovery.verdict, Verdict::TornTail { file: segment_name(1), offset }, "{what}");
    assert_eq!(recovery.next_sequence, frames + 1, "{what}");
    assert_eq!(recovery.segments[0].bytes_used, offset, "{what}");
    assert_eq!(numbers(&seen), records_of(frames), "{what}");
}

#[track_caller]
fn check_damaged(disk: &mut MemoryDisk, at: u64, frame: u64, what: &str) {
    match disk.recover() {
        Err(RecoverError::Damaged { file, offset, sequence, .. }) => {
            assert_eq!((file, offset, sequence), (segment_name(1), at, frame), "{what}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn an_untouched_log_is_clean() {
    let (recovery, seen) = small_log().recover().expect("sound");
    assert_eq!(recovery.verdict, Verdict::Clean);
    assert_eq!((recovery.next_generation, recovery.next_sequence, recovery.durable_through), (2, 5, 4));
    assert_eq!(numbers(&seen), records_of(4));
    assert_eq!(seen.iter().map(|seen| seen.sequence).collect::<Vec<_>>(), [1, 2, 2, 3, 4]);
    assert_eq!(seen[2].place.offset, 2 * PAGE + 64 + 112);
    assert_eq!(seen[3].body, [4; 300]);
}

#[test]
fn frames_cut_at_every_byte_lose_only_what_is_behind_the_cut() {
    // A write that a crash cut off leaves the zeros that were there before.
    let whole = small_log();
    for cut in PAGE..END {
        let mut disk = whole.clone();
        disk.files.get_mut(&1).expect("segment 1")[cut as usize..].fill(0);
        let frames = intact_before(&whole.files[&1], cut);
        let (recovery, seen) = disk.recover().unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!(numbers(&seen), records_of(frames), "cut at {cut}");
        assert_eq!(recovery.durable_through, frames, "cut at {cut}");
    }
}

#[test]
fn a_file_that_was_cut_short_is_damaged() {
    // Files have their full size before they are used, so no crash cuts one.
    for cut in PAGE..END {
        let mut disk = small_log();
        disk.files.get_mut(&1).expect("segment 1").truncate(cut as usize);
        match disk.recover() {
            Err(RecoverError::Damaged { file, offset, .. }) => assert_eq!((file, offset), (segment_name(1), cut)),
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
}

/// How many frames are whole when all bytes from `cut` on read as zeros.
fn intact_before(file: &[u8], cut: u64) -> u64 {
    (0..FRAMES)
        .take_while(|frame| {
            let end = (PAGE * (frame + 2)) as usize;
            file[(cut as usize).min(end)..end].iter().all(|byte| *byte == 0)
        })
        .count() as u64
}

#[test]
fn the_file_cut_within_its_header_page_was_never_opened() {
    // Nothing stands behind that says otherwise: a crash while the first header was written looks like this.
    for cut in [0, 1, 79, 4095] {
        let mut disk = small_log();
        disk.files.get_mut(&1).expect("segment 1").truncate(cut);
        let (recovery, seen) = disk.recover().expect("nothing was ever acknowledged");
        assert_eq!((recovery.segments.len(), recovery.useless.as_slice(), seen.len()), (0, &[1][..], 0));
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let whole = small_log();
    let mut disk = whole.clone();
    for bit in 0..END * 8 {
        let (at, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        disk.files.get_mut(&1).expect("segment 1")[at] ^= mask;
        let page = bit / 8 / PAGE;
        let what = format!("bit {bit} of page {page}");
        match page {
            // The header page: its frames say that it was durable once.
            0 => check_damaged(&mut disk, 0, 1, &what),
            // Frames 1 and 2 have a frame of two more behind them, frame 3 one that states it durable.
            1..=3 => check_damaged(&mut disk, page * PAGE, page, &what),
            // Of the last frame nobody here can know whether it was acknowledged.
            _ => check_torn(&mut disk, 3, &what),
        }
        disk.files.get_mut(&1).expect("segment 1")[at] ^= mask;
    }
    assert_eq!(disk.files, whole.files);
}

#[test]
fn every_flipped_bit_of_a_sealed_segment_is_damage() {
    let mut log = Log::open(small_log());
    log.append(&[(6, b"six")]);
    let mut disk = log.disk;
    for bit in 0..END * 8 {
        let (at, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        disk.files.get_mut(&1).expect("segment 1")[at] ^= mask;
        let page = bit / 8 / PAGE;
        let frame = if page == 0 { 5 } else { page };
        check_damaged(&mut disk, page * PAGE, frame, &format!("bit {bit} of page {page}"));
        disk.files.get_mut(&1).expect("segment 1")[at] ^= mask;
    }
}

#[test]
fn a_flipped_bit_behind_a_stated_end_counts_for_nothing() {
    let mut log = Log::open(small_log());
    log.append(&[(6, b"six")]);
    log.disk.files.get_mut(&1).expect("segment 1")[END as usize + 70] ^= 1;
    let (recovery, seen) = log.disk.recover().expect("sound");
    assert_eq!(recovery.verdict, Verdict::Clean);
    assert_eq!(numbers(&seen), [1, 2, 3, 4, 5, 6]);
}

/// A short history: bodies of frames, whether two fly at once, and a crash that keeps any subset of the pages of the
/// frames in flight.
fn history() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<bool>)> {
    let body = || prop::collection::vec(any::<u8>(), 0..9000);
    let durable = prop::collection::vec(body(), 0..12);
    let in_flight = prop::collection::vec(body(), 1..3);
    (durable, in_flight, prop::collection::vec(any::<bool>(), 8))
}

proptest! {
    /// The promise of the whole crate: after a crash at any point every durable frame comes back, whatever of the frames
    /// in flight reached the disk comes back whole or not at all, and the log goes on.
    #[test]
    fn no_crash_loses_a_durable_frame_or_shows_a_torn_one(histories in prop::collection::vec(history(), 1..5)) {
        let mut disk = MemoryDisk::default();
        let mut expected: Vec<Vec<u8>> = Vec::new();
        for (durable, in_flight, pages) in histories {
            let mut log = Log::open(disk);
            for body in durable {
                log.append(&[(0, &body)]);
                expected.push(body);
            }
            let mut flying = Vec::new();
            for body in in_flight {
                if log.writer.may_start_frame(usize::MAX) {
                    log.submit(&[(0, &body)]);
                    flying.push(body);
                }
            }
            let mut pages = pages.into_iter();
            let before = log.disk.clone();
            for op in std::mem::take(&mut log.ops) {
                log.disk.run(op);
            }
            // The crash: of what was in flight any subset of pages is on disk.
            for (generation, file) in &mut log.disk.files {
                for (at, page) in file.chunks_mut(PAGE as usize).enumerate() {
                    let old = &before.files[generation][at * PAGE as usize..][..PAGE as usize];
                    if old != page && !pages.next().unwrap_or(false) {
                        page.copy_from_slice(old);
                    }
                }
            }
            disk = log.disk;
            let (_, seen) = disk.recover().expect("a crash is never damage");
            let bodies: Vec<_> = seen.into_iter().map(|seen| seen.body).collect();
            prop_assert!(bodies.starts_with(&expected), "a durable frame is lost");
            let kept = bodies.len() - expected.len();
            prop_assert_eq!(&bodies[expected.len()..], &flying[..kept]);
            expected = bodies;
        }
    }
}
