//! What recovery takes for evidence, rule by rule.

use synod_wal::{RecoverError, Verdict, segment_name};

use crate::log::{EXPECT, Log, MemoryDisk, PAGE, SEGMENT_BYTES, Seen};

fn numbers(seen: &[Seen]) -> Vec<u64> {
    seen.iter().map(|seen| seen.number).collect()
}

/// Overwrites a page with what was never written by the log.
fn spoil(disk: &mut MemoryDisk, generation: u64, page: u64) {
    let file = disk.files.get_mut(&generation).expect("the segment exists");
    file[(page * PAGE) as usize..][..PAGE as usize].fill(0xa5);
}

fn blank(disk: &mut MemoryDisk, generation: u64, page: u64) {
    let file = disk.files.get_mut(&generation).expect("the segment exists");
    file[(page * PAGE) as usize..][..PAGE as usize].fill(0);
}

#[track_caller]
fn damage(disk: &mut MemoryDisk) -> (String, u64, u64, Option<u128>, String) {
    match disk.recover() {
        Err(RecoverError::Damaged { file, offset, sequence, uid, why }) => (file, offset, sequence, uid, why),
        other => panic!("not damaged: {other:?}"),
    }
}

/// Frame 1 durable, then frames 2 and 3 in flight together, all on disk.
fn two_in_flight() -> MemoryDisk {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    log.submit(&[(2, b"two")]);
    log.submit(&[(3, b"three")]);
    log.drive();
    log.disk
}

#[test]
fn the_frame_after_a_bad_one_is_no_evidence_since_both_may_have_been_in_flight() {
    for spoiled in [spoil, blank] {
        let mut disk = two_in_flight();
        spoiled(&mut disk, 1, 2);
        let (recovery, seen) = disk.recover().expect("a torn tail");
        assert_eq!(recovery.verdict, Verdict::TornTail { file: segment_name(1), offset: 2 * PAGE });
        assert_eq!((numbers(&seen), recovery.next_sequence), (vec![1], 2));
    }
}

#[test]
fn a_frame_two_after_a_bad_one_is_evidence() {
    let mut log = Log::open(two_in_flight());
    // In one segment: three in a row behind a durable one.
    log = Log::open({
        log.disk.files.clear();
        log.disk
    });
    log.append(&[(1, b"one")]);
    log.submit(&[(2, b"two")]);
    log.submit(&[(3, b"three")]);
    let second = log.take_write();
    log.complete(second);
    log.submit(&[(4, b"four")]);
    log.drive();
    let mut disk = log.disk;
    // Frame 4 states only frame 2 as durable, so its number alone speaks for frame 2's neighbour.
    spoil(&mut disk, 1, 2);
    let (file, offset, sequence, uid, why) = damage(&mut disk);
    assert_eq!((file, offset, sequence, uid), (segment_name(1), 2 * PAGE, 2, None));
    assert!(why.contains("frame 4 stands behind it"), "{why}");
}

#[test]
fn a_frame_that_states_a_bad_one_durable_is_evidence() {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    log.append(&[(2, b"two")]);
    // A mark, as written when a shard goes quiet.
    log.append(&[]);
    let mut disk = log.disk;
    spoil(&mut disk, 1, 2);
    let (_, offset, sequence, _, why) = damage(&mut disk);
    assert_eq!((offset, sequence), (2 * PAGE, 2));
    assert!(why.contains("states that all up to frame 2 was durable"), "{why}");
}

#[test]
fn a_bad_frame_before_a_stated_end_is_damage_and_names_a_group() {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    log.append(&[(2, b"two")]);
    let mut disk = Log::open(log.disk).disk;
    // The frame's own header is lost, its first record header is readable.
    disk.files.get_mut(&1).expect("segment 1")[2 * PAGE as usize..][..64].fill(0);
    let (file, offset, sequence, uid, _) = damage(&mut disk);
    assert_eq!((file, offset, sequence, uid), (segment_name(1), 2 * PAGE, 2, Some(7)));
}

#[test]
fn a_missing_last_frame_before_a_stated_end_is_damage() {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    log.append(&[(2, b"two")]);
    let mut disk = Log::open(log.disk).disk;
    blank(&mut disk, 1, 2);
    let (_, offset, sequence, ..) = damage(&mut disk);
    assert_eq!((offset, sequence), (2 * PAGE, 2));
    // The same file without a successor is a torn tail at most.
    let mut disk = MemoryDisk { files: [(1, disk.files[&1].clone())].into() };
    assert_eq!(disk.recover().expect("nothing says otherwise").0.next_sequence, 2);
}

#[test]
fn a_cut_frame_behind_a_stated_end_stays_cut() {
    let mut disk = two_in_flight();
    spoil(&mut disk, 1, 2);
    // The restart cuts frames 2 and 3, and writes another frame 2 and 3 into segment 2.
    let mut log = Log::open(disk);
    assert_eq!(log.append(&[(20, b"new two")]).0, 2);
    log.append(&[(30, b"new three")]);
    log.append(&[(40, b"new four")]);
    let (recovery, seen) = log.disk.recover().expect("sound");
    assert_eq!((numbers(&seen), recovery.verdict), (vec![1, 20, 30, 40], Verdict::Clean));
}

#[test]
fn a_crash_between_a_header_and_its_first_frame_loses_nothing() {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    // Two starts in a row without a frame.
    let log = Log::open(Log::open(log.disk).disk);
    let mut disk = log.disk;
    let (recovery, seen) = disk.recover().expect("sound");
    assert_eq!((numbers(&seen), recovery.verdict), (vec![1], Verdict::Clean));
    assert_eq!(recovery.segments.len(), 3);
    let last = recovery.last.expect("an end");
    assert_eq!((last.generation, last.sequence, last.offset), (3, 1, PAGE));
    let mut log = Log::open(disk);
    log.append(&[(2, b"two")]);
    assert_eq!(numbers(&log.disk.recover().expect("sound").1), [1, 2]);
}

#[test]
fn a_crash_while_a_header_is_written_leaves_a_free_file() {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    let mut disk = Log::open(log.disk).disk;
    // Any mixture of old and new sectors.
    disk.files.get_mut(&2).expect("segment 2")[512..4096].fill(0);
    let (recovery, seen) = disk.recover().expect("nothing was acknowledged behind it");
    assert_eq!((numbers(&seen), recovery.next_generation), (vec![1], 2));
    assert_eq!(recovery.free, [2, 3, 4]);
    let mut log = Log::open(disk);
    assert_eq!(log.append(&[(2, b"two")]), (2, 2, PAGE));
}

#[test]
fn a_lost_header_with_frames_behind_it_is_damage() {
    let mut log = Log::open(Log::open(MemoryDisk::default()).disk);
    log.append(&[(1, b"one")]);
    let mut disk = log.disk;
    blank(&mut disk, 2, 0);
    let (file, offset, sequence, uid, _) = damage(&mut disk);
    assert_eq!((file, offset, sequence, uid), (segment_name(2), 0, 1, Some(7)));
}

#[test]
fn a_lost_header_or_a_gap_in_the_middle_is_damage() {
    let build = || {
        let mut disk = MemoryDisk::default();
        for number in 1..=3 {
            let mut log = Log::open(disk);
            log.append(&[(number, b"x")]);
            disk = log.disk;
        }
        disk
    };
    for spoiled in [spoil, blank] {
        let mut disk = build();
        spoiled(&mut disk, 2, 0);
        assert_eq!(damage(&mut disk).0, segment_name(2));
    }
    let mut disk = build();
    disk.files.remove(&2);
    let (file, .., why) = damage(&mut disk);
    assert_eq!(file, segment_name(3));
    assert!(why.contains("segments 2 to 2 are missing"), "{why}");
}

#[test]
fn any_prefix_of_segments_may_be_gone() {
    let mut disk = MemoryDisk::default();
    for number in 1..=4 {
        let mut log = Log::open(disk);
        log.append(&[(number, b"x")]);
        disk = log.disk;
    }
    for first in 2..=4 {
        disk.files.remove(&(first - 1));
        let (recovery, seen) = disk.recover().expect("sound");
        assert_eq!(numbers(&seen), (first..=4).collect::<Vec<_>>());
        assert_eq!(recovery.next_sequence, 5);
    }
}

#[test]
fn stale_frames_of_a_recycled_file_are_nothing() {
    let mut log = Log::open(MemoryDisk::default());
    // Fill segments until file 1 is used again, with frames of more than a page so that stale bytes of all kinds lie
    // behind the end.
    let mut number = 0;
    while log.writer.open_generation() != Some(5) {
        number += 1;
        log.append(&[(number, &[0x5a; 9000])]);
        if let Some(oldest) = log.writer.oldest().filter(|oldest| oldest.sealed) {
            log.with_ops(|writer, ops| writer.release(oldest.generation, ops));
            log.drive();
        }
    }
    assert!(log.disk.files[&5][PAGE as usize..].iter().any(|byte| *byte != 0), "the file was used before");
    for _ in 0..4 {
        let (recovery, seen) = log.disk.recover().expect("sound");
        assert_eq!(recovery.verdict, Verdict::Clean);
        assert_eq!(seen.last().map(|seen| seen.number), seen.first().map(|_| number));
        number += 1;
        log.append(&[(number, b"small")]);
    }
    // A torn frame over stale ones is a torn tail, at the right place.
    let (_, _, offset) = log.append(&[(99, &[1; 9000])]);
    log.disk.files.get_mut(&5).expect("open")[offset as usize + 5000] ^= 1;
    let (recovery, _) = log.disk.recover().expect("a torn tail");
    assert_eq!(recovery.verdict, Verdict::TornTail { file: segment_name(5), offset });
}

#[test]
fn pages_of_another_log_inside_a_payload_are_no_evidence() {
    // Another directory's log whose frames lie, whole pages of them, in the body of a torn frame.
    let mut other = Log::open(MemoryDisk::default());
    for _ in 0..8 {
        other.append(&[(1, b"theirs")]);
    }
    let page = PAGE as usize;
    let theirs = &other.disk.files[&1][page..6 * page];
    let mut body = vec![0; page - 64 - 96];
    body.extend_from_slice(theirs);
    let mut log = Log::open(MemoryDisk::default());
    let foreign = synod_wal::WriterConfig { incarnation: 1, ..crate::log::config() };
    log.writer = synod_wal::Writer::new(foreign, &synod_wal::Recovery::empty());
    log.disk.files.clear();
    log.with_ops(synod_wal::Writer::start);
    log.drive();
    log.append(&[(1, &body)]);
    log.disk.files.get_mut(&1).expect("open")[page] ^= 1;
    let expect = synod_wal::Expect { incarnation: 1, ..EXPECT };
    let recovery = synod_wal::recover(&mut log.disk, expect, &mut |_, _, _, _| {}).expect("a torn tail");
    assert_eq!(recovery.verdict, Verdict::TornTail { file: segment_name(1), offset: PAGE });
}

#[test]
fn a_frame_of_another_log_at_the_end_is_never_visited() {
    // Frame 1 of another directory's log, in the place of this log's frame 1.
    let mut other = Log::open(MemoryDisk::default());
    other.append(&[(1, b"theirs")]);
    let page = PAGE as usize;
    let mut disk = other.disk.clone();
    let header = synod_wal::SegmentHeader::decode(&disk.files[&1]).expect("a header");
    let ours = synod_wal::SegmentHeader { incarnation: 1, ..header };
    disk.files.get_mut(&1).expect("open")[..page].copy_from_slice(&ours.encode());
    let expect = synod_wal::Expect { incarnation: 1, ..EXPECT };
    let recovery = synod_wal::recover(&mut disk, expect, &mut |_, _, _, _| panic!("visited")).expect("a torn tail");
    assert_eq!(recovery.verdict, Verdict::TornTail { file: segment_name(1), offset: PAGE });
}

#[test]
fn an_intact_frame_out_of_the_chain_is_damage() {
    // Frame 2 of another history of the same log, put in this one's place.
    let build = |body: &[u8]| {
        let mut log = Log::open(MemoryDisk::default());
        log.append(&[(1, body)]);
        log.append(&[(2, b"two")]);
        log.disk
    };
    let (mut ours, theirs) = (build(b"ours"), build(b"theirs"));
    let second = 2 * PAGE as usize..3 * PAGE as usize;
    ours.files.get_mut(&1).expect("open")[second.clone()].copy_from_slice(&theirs.files[&1][second]);
    let (_, offset, _, _, why) = damage(&mut ours);
    assert_eq!(offset, 2 * PAGE);
    assert!(why.contains("does not follow"), "{why}");
}

#[test]
fn foreign_and_newer_files_are_refused_with_their_own_errors() {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    for expect in [synod_wal::Expect { shard: 4, ..EXPECT }, synod_wal::Expect { incarnation: 9, ..EXPECT }] {
        let result = synod_wal::recover(&mut log.disk, expect, &mut |_, _, _, _| {});
        assert!(matches!(result, Err(RecoverError::Foreign { .. })), "{result:?}");
    }
    let page = &mut log.disk.files.get_mut(&1).expect("open")[..PAGE as usize];
    page[4] = 9;
    let crc = synod_wal::body_crc(&[&page[..4092]]);
    page[4092..].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(log.disk.recover(), Err(RecoverError::UnknownVersion { version: 9, .. })));
}

#[test]
fn a_renamed_file_is_damage() {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    log.append(&[(2, b"two")]);
    let mut disk = Log::open(log.disk).disk;
    let second = disk.files.remove(&2).expect("segment 2");
    disk.files.clear();
    disk.files.insert(1, second);
    assert!(damage(&mut disk).4.contains("renamed"));
}

#[test]
fn unused_files_of_another_size_are_set_apart_and_deleted() {
    let mut log = Log::open(MemoryDisk::default());
    log.append(&[(1, b"one")]);
    log.disk.files.insert(9, vec![0; SEGMENT_BYTES as usize / 2]);
    let (recovery, _) = log.disk.recover().expect("sound");
    assert_eq!((recovery.free, recovery.useless), (vec![2, 3], vec![9]));
    let log = Log::open(log.disk);
    assert!(!log.disk.files.contains_key(&9));
}

#[test]
fn an_empty_directory_is_an_empty_log() {
    let (recovery, seen) = MemoryDisk::default().recover().expect("sound");
    assert_eq!((recovery, seen.len()), (synod_wal::Recovery::empty(), 0));
}

#[test]
fn a_full_newest_segment_is_clean() {
    let mut log = Log::open(MemoryDisk::default());
    // Up to the last page: no room for another frame, and a crash before the roll.
    let mut offset = 0;
    while log.writer.open_generation() == Some(1) {
        offset = log.submit(&[(1, b"x")]).2;
        let write = log.take_write();
        log.complete(write);
    }
    assert!(offset + 2 * PAGE <= SEGMENT_BYTES);
    let (recovery, _) = log.disk.recover().expect("sound");
    assert_eq!(recovery.verdict, Verdict::Clean);
    assert_eq!(recovery.segments.len(), 1);
}
