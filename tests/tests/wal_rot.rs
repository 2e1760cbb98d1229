//! Every bit of a log of 64 KiB flipped, sectors zeroed, gone stale, swapped, frames written elsewhere: nothing is ever
//! accepted as other content. What recovery says is either the log as it was; or damage, with file and offset; or, only
//! where no sound frame says that the one hit was durable, a log cut at that one.
//!
//! The usual run takes every bit of one log; `SYNOD_DEEP=1` also of one whose files were used before, and a hundred times
//! as many patterns of several bits.

use std::{collections::BTreeSet, fmt::Debug};

use synod_sim::disk::{Dice, History, Issued, SECTOR_BYTES, SimDisk, SimLog};
use synod_wal::{
    FRAME_HEADER_BYTES, FrameHeader, PAGE_BYTES, RECORD_HEADER_BYTES, RecordHeader, Records, RecoverError, Recovery,
    Verdict, WriterConfig, body_crc, recover, segment_name,
};

const SEGMENT_BYTES: u64 = 32 << 10;
const PAGE: u64 = PAGE_BYTES as u64;

fn deep() -> bool {
    std::env::var_os("SYNOD_DEEP").is_some()
}

fn config(shard: u32, incarnation: u128) -> WriterConfig {
    WriterConfig {
        segment_bytes: SEGMENT_BYTES,
        spare_segments: 1,
        second_frame_bytes_min: 0,
        ..WriterConfig::new(shard, incarnation)
    }
}

/// Two live segments of 32 KiB and all that is known of them.
struct Sound {
    disk: SimDisk,
    history: History,
    /// Live segments, oldest first; the last is open.
    live: Vec<u64>,
    config: WriterConfig,
}

/// A log of two live segments: the older one full, the newer one with frames of one and of two pages, the last two of them
/// in flight together. `turns` is how many segments were released and used again before.
fn sound(config: WriterConfig, turns: u64) -> Sound {
    let mut dice = Dice::new(7);
    let nobody = &mut |_: &SimDisk, _: &History| {};
    let mut log = SimLog::start(SimDisk::new(SEGMENT_BYTES), &config, History::default(), nobody).expect("a new log");
    log.settle(&mut dice, nobody);
    let mut number = 0;
    let mut append = |log: &mut SimLog, bytes: &[usize]| {
        number += 1;
        let record = |(at, bytes): (usize, &usize)| (at as u128, number * 10 + at as u64, *bytes);
        log.append(&bytes.iter().enumerate().map(record).collect::<Vec<_>>(), &mut |_, _| {});
    };
    while log.opened < turns + 2 {
        let large = log.history.issued.len() % 2 == 1;
        append(&mut log, if large { &[700, 5, 3900] } else { &[1200] });
        log.settle(&mut dice, nobody);
        if 2 < log.writer.segments().len() {
            log.release(nobody);
            log.settle(&mut dice, nobody);
        }
    }
    append(&mut log, &[500, 4000]);
    log.settle(&mut dice, nobody);
    append(&mut log, &[3000]);
    append(&mut log, &[60, 60]);
    log.settle(&mut dice, nobody);
    let live: Vec<u64> = log.writer.segments().map(|segment| segment.generation).collect();
    assert_eq!(live.len(), 2);
    Sound { disk: log.disk, history: log.history, live, config }
}

/// What recovery gave.
type Found = (Result<Recovery, RecoverError>, Vec<(u64, RecordHeader, Vec<u8>)>);

impl Sound {
    fn newest(&self) -> u64 {
        *self.live.last().expect("a segment is live")
    }

    fn frames(&self) -> impl Iterator<Item = (u64, &Issued)> {
        let live = |(_, frame): &(u64, &Issued)| self.live.contains(&frame.generation);
        (1..).zip(self.history.issued.iter().map(|frame| &**frame)).filter(live)
    }

    fn last(&self) -> u64 {
        self.history.issued.len() as u64
    }

    /// Whether a frame that is neither `hit` nor at or before `sequence` says that `sequence` was durable.
    fn is_covered(&self, sequence: u64, hit: &BTreeSet<u64>) -> bool {
        self.frames().filter(|(other, _)| sequence < *other && !hit.contains(other)).any(|(other, frame)| {
            let header = FrameHeader::decode(frame.bytes(), frame.generation).expect("it was issued");
            sequence + 2 <= other || sequence <= header.durable_through
        })
    }

    /// Recovers `disk` and holds it against what was there. `hit`: frames whose bytes are changed; `headers`: segments
    /// whose header page is. Gives whether damage was told.
    fn judge(&self, disk: &mut SimDisk, hit: &BTreeSet<u64>, headers: &BTreeSet<u64>, what: &dyn Debug) -> bool {
        let (result, seen) = recovered(disk, &self.config);
        let recovery = match result {
            Err(RecoverError::Damaged { file, offset, .. }) => {
                let header = headers.iter().any(|generation| (segment_name(*generation), 0) == (file.clone(), offset));
                let frame = hit.iter().any(|hit| {
                    let frame = &self.history.issued[*hit as usize - 1];
                    (segment_name(frame.generation), frame.offset) == (file.clone(), offset)
                });
                // A frame of this log that was never meant for there says that something is wrong, at the log's end.
                let end = self.frames().last().map(|(_, last)| last.offset + last.bytes().len() as u64);
                let stray = file == segment_name(self.newest()) && Some(offset) == end;
                assert!(header || frame || stray, "{what:?}: damage told at {file} {offset}, hit {hit:?} {headers:?}");
                return true;
            }
            other => other.unwrap_or_else(|error| panic!("{what:?}: {error}")),
        };
        let end = recovery.durable_through;
        let kept = self.frames().filter(|(sequence, _)| *sequence <= end);
        let records = kept
            .flat_map(|(sequence, frame)| frame.records.iter().map(move |(_, header, body)| (sequence, header, body)));
        assert!(
            records.eq(seen.iter().map(|(sequence, header, body)| (*sequence, header, body))),
            "{what:?}: recovery accepted records that were not there, or left some out, up to frame {end}"
        );
        assert!(headers.is_empty(), "{what:?}: a live segment's header was hit and nobody noticed");
        if end < self.last() {
            assert!(hit.contains(&(end + 1)), "{what:?}: cut at frame {}, which was not hit", end + 1);
            assert!(!self.is_covered(end + 1, hit), "{what:?}: cut at frame {}, which was durable", end + 1);
        } else {
            assert_eq!(end, self.last(), "{what:?}");
            assert!(hit.is_empty(), "{what:?}: {hit:?} were hit and nobody noticed");
        }
        false
    }

    /// What differs in `disk`: the frames, and the headers of live segments.
    fn changed(&self, disk: &SimDisk) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let hit = |(_, frame): &(u64, &Issued)| {
            disk.peek(frame.generation, frame.offset, frame.bytes().len()) != frame.bytes()
        };
        let header =
            |generation: &u64| disk.peek(*generation, 0, PAGE_BYTES) != self.disk.peek(*generation, 0, PAGE_BYTES);
        let frames = self.frames().filter(hit).map(|(sequence, _)| sequence).collect();
        (frames, self.live.iter().copied().filter(header).collect())
    }
}

fn recovered(disk: &mut SimDisk, config: &WriterConfig) -> Found {
    let mut seen = Vec::new();
    let result = recover(disk, SimLog::expect(config), &mut |_, sequence, header, body| {
        seen.push((sequence, *header, body.to_vec()));
    });
    (result, seen)
}

#[test]
fn every_flipped_bit_of_64_kib_is_found_or_of_no_account() {
    for turns in if deep() { vec![0, 4] } else { vec![0] } {
        let sound = sound(config(1, 77), turns);
        assert_eq!(sound.live.len() as u64 * SEGMENT_BYTES, 64 << 10);
        let (mut damaged, mut bits) = (0, 0);
        let mut disk = sound.disk.clone();
        for &generation in &sound.live {
            for page in 0..SEGMENT_BYTES / PAGE {
                let hits = |(_, frame): &(u64, &Issued)| {
                    let pages = frame.offset / PAGE..(frame.offset + frame.bytes().len() as u64) / PAGE;
                    frame.generation == generation && pages.contains(&page)
                };
                let hit = sound.frames().filter(hits).map(|(sequence, _)| sequence).collect();
                let headers = (page == 0).then_some(generation).into_iter().collect();
                for bit in page * PAGE * 8..(page + 1) * PAGE * 8 {
                    disk.flip_bit(generation, bit);
                    damaged += u64::from(sound.judge(&mut disk, &hit, &headers, &(turns, generation, bit)));
                    disk.flip_bit(generation, bit);
                    bits += 1;
                }
            }
        }
        assert_eq!(bits, 524_288);
        let (result, seen) = recovered(&mut disk, &sound.config);
        assert_eq!((result.expect("sound again").verdict, seen.is_empty()), (Verdict::Clean, false));
        // All but the last two frames and what is unused.
        let used: u64 = sound.frames().map(|(_, frame)| frame.bytes().len() as u64).sum();
        let free = |sequence: &u64| !sound.is_covered(*sequence, &BTreeSet::new());
        let uncovered: u64 =
            sound.frames().filter(|(sequence, _)| free(sequence)).map(|(_, frame)| frame.bytes().len() as u64).sum();
        assert_eq!(damaged, (used - uncovered + 2 * PAGE) * 8);
        eprintln!("{bits} flipped bits, {damaged} told as damage, {} in uncovered last frames", uncovered * 8);
    }
}

#[test]
fn every_flipped_bit_of_1_mib_of_records_is_refused() {
    let body: Vec<u8> = (0..4096 - RECORD_HEADER_BYTES - 5).map(|at| (at * 7) as u8).collect();
    let mut accepted = 0;
    let mut bits = 0;
    for number in 0..256 {
        let header = RecordHeader {
            kind: number as u8,
            body_len: body.len() as u32,
            uid: u128::from(number) << 64,
            numbers: [number; 7],
            entries: 9,
            body_crc: body_crc(&[&body]),
            ..RecordHeader::default()
        };
        let mut record = header.encode().to_vec();
        record.extend_from_slice(&body);
        record.resize(4096, 0);
        assert!(matches!(Records::new(&record).next(), Some(Ok(_))));
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            accepted += u64::from(matches!(Records::new(&record).next(), Some(Ok(_))));
            record[bit / 8] ^= 1 << (bit % 8);
            bits += 1;
        }
    }
    assert_eq!((bits, accepted), (8_388_608, 0));
}

/// Spoils a copy of each of two sound logs in every way that `spoil` names, by number, until it names none.
#[track_caller]
fn each_spoilt(mut spoil: impl FnMut(&Sound, &mut SimDisk, u64) -> bool) -> (u64, u64) {
    let (mut runs, mut damaged) = (0, 0);
    for turns in [0, 4] {
        let sound = sound(config(1, 77), turns);
        for number in 0.. {
            let mut disk = sound.disk.clone();
            if !spoil(&sound, &mut disk, number) {
                break;
            }
            let (hit, headers) = sound.changed(&disk);
            damaged += u64::from(sound.judge(&mut disk, &hit, &headers, &("log", turns, "fault", number)));
            runs += 1;
        }
    }
    eprintln!("{runs} faults, {damaged} told as damage");
    (runs, damaged)
}

const SECTORS: u64 = SEGMENT_BYTES / SECTOR_BYTES as u64;

/// The `number`th sector of all live segments.
fn sector(sound: &Sound, number: u64) -> Option<(u64, u64)> {
    sound.live.get((number / SECTORS) as usize).map(|generation| (*generation, number % SECTORS))
}

#[test]
fn every_zeroed_sector_is_found() {
    let (runs, damaged) = each_spoilt(|sound, disk, number| {
        sector(sound, number).inspect(|(generation, sector)| disk.zero_sector(*generation, *sector)).is_some()
    });
    assert_eq!(runs, 2 * 2 * SECTORS);
    assert!(0 < damaged);
}

#[test]
fn every_stale_sector_is_found() {
    let (runs, damaged) = each_spoilt(|sound, disk, number| {
        sector(sound, number).inspect(|(generation, sector)| disk.stale_sector(*generation, *sector)).is_some()
    });
    assert_eq!(runs, 2 * 2 * SECTORS);
    assert!(0 < damaged);
}

#[test]
fn patterns_of_two_to_eight_bits_are_found() {
    let patterns = if deep() { 1_000_000 } else { 10_000 };
    let (runs, damaged) = each_spoilt(|sound, disk, number| {
        let mut dice = Dice::new(number);
        let bits = SEGMENT_BYTES as usize * 8;
        let generation = sound.live[dice.below(sound.live.len())];
        // Half of them close together, as bursts are.
        let (start, span) = if number % 2 == 0 { (0, bits) } else { (dice.below(bits - 64), 64) };
        let flips: BTreeSet<usize> = (0..2 + dice.below(7)).map(|_| start + dice.below(span)).collect();
        flips.into_iter().for_each(|bit| disk.flip_bit(generation, bit as u64));
        number < patterns
    });
    assert_eq!(runs, 2 * patterns);
    assert!(0 < damaged);
}

#[test]
fn every_pair_of_swapped_sectors_is_found() {
    let (runs, damaged) = each_spoilt(|sound, disk, number| {
        let all = 2 * SECTORS;
        let pair = sector(sound, number / all).zip(sector(sound, number % all));
        pair.inspect(|(one, other)| disk.swap_sectors(*one, *other)).is_some()
    });
    assert_eq!(runs, 2 * (2 * SECTORS).pow(2));
    assert!(0 < damaged);
}

#[test]
fn every_misdirected_frame_is_found() {
    for lost in [false, true] {
        let (runs, damaged) = each_spoilt(|sound, disk, number| {
            // Each frame to each page of each file, prepared ones too.
            let files = disk.segments();
            let pages = SEGMENT_BYTES / PAGE * files.len() as u64;
            let Some((_, frame)) = sound.frames().nth((number / pages) as usize) else {
                return false;
            };
            let (page, bytes) = (number % pages, frame.bytes().len());
            let (generation, offset) = (files[(page * PAGE / SEGMENT_BYTES) as usize], page * PAGE % SEGMENT_BYTES);
            let bytes = bytes.min((SEGMENT_BYTES - offset) as usize);
            if lost && (generation, offset) != (frame.generation, frame.offset) {
                disk.misdirect((frame.generation, frame.offset), (generation, offset), bytes);
            } else {
                disk.overwrite(generation, offset, &frame.bytes()[..bytes]);
            }
            true
        });
        assert!(100 < runs && 0 < damaged);
    }
}

#[test]
fn every_header_written_over_anothers_is_found() {
    let (runs, damaged) = each_spoilt(|sound, disk, number| {
        let (from, to) = (number / 2, number % 2);
        let Some(from) = sound.live.get(from as usize) else {
            return false;
        };
        let header = disk.peek(*from, 0, PAGE_BYTES);
        disk.overwrite(sound.live[to as usize], 0, &header);
        true
    });
    // Two of each four wrote a header over itself.
    assert_eq!((runs, damaged), (8, 4));
}

#[test]
fn frames_of_other_shards_and_nodes_are_never_taken_for_ours() {
    for (shard, incarnation) in [(2, 77), (1, 78), (1, 77 << 64)] {
        let (runs, damaged) = each_spoilt(|ours, disk, number| {
            // The frame of the same sequence of a log that did the same.
            let theirs = sound(config(shard, incarnation), ours.live[0] - 1);
            assert_eq!(theirs.live, ours.live);
            let Some((sequence, frame)) = theirs.frames().nth(number as usize) else {
                return false;
            };
            assert_ne!(frame.bytes(), ours.history.issued[sequence as usize - 1].bytes());
            disk.overwrite(frame.generation, frame.offset, frame.bytes());
            true
        });
        assert!(10 < runs && 0 < damaged);
        // A whole file of theirs is foreign, whichever it is.
        let ours = sound(config(1, 77), 0);
        let theirs = sound(config(shard, incarnation), 0);
        for generation in ours.live.clone() {
            let mut disk = ours.disk.clone();
            disk.overwrite(generation, 0, &theirs.disk.peek(generation, 0, SEGMENT_BYTES as usize));
            let (result, _) = recovered(&mut disk, &ours.config);
            assert!(matches!(&result, Err(RecoverError::Foreign { file, .. }) if *file == segment_name(generation)));
        }
    }
}

#[test]
fn a_read_that_fails_is_an_error_and_not_a_shorter_log() {
    let sound = sound(config(1, 77), 0);
    for &generation in &sound.live {
        for page in 0..SEGMENT_BYTES / PAGE {
            let mut disk = sound.disk.clone();
            disk.fail_reads(generation, page * PAGE, PAGE, 1);
            let (result, _) = recovered(&mut disk, &sound.config);
            assert!(matches!(result, Err(RecoverError::Io { .. })), "{result:?}");
            // Nothing was changed, so the next try finds all.
            sound.judge(&mut disk, &BTreeSet::new(), &BTreeSet::new(), &(generation, page));
        }
    }
}

#[test]
fn a_frame_header_covers_its_segment_and_its_place() {
    // What the faults above rest on: the same frame under another generation is none.
    let sound = sound(config(1, 77), 0);
    for (sequence, frame) in sound.frames() {
        let head = &frame.bytes()[..FRAME_HEADER_BYTES];
        assert_eq!(FrameHeader::decode(head, frame.generation).map(|header| header.sequence), Ok(sequence));
        for other in (1..100).filter(|other| *other != frame.generation) {
            assert!(FrameHeader::decode(head, other).is_err());
        }
    }
}
