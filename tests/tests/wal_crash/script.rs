//! A long run of the log, told by a seed, with somebody watching between any two steps.

use synod_sim::disk::{Dice, History, SimDisk, SimLog, Watch};
use synod_wal::WriterConfig;

pub(crate) const SEGMENT_BYTES: u64 = 48 << 10;
const GROUPS: u128 = 3;
const LIVE_SEGMENTS_MAX: usize = 3;

pub(crate) fn config() -> WriterConfig {
    WriterConfig {
        segment_bytes: SEGMENT_BYTES,
        spare_segments: 1,
        // Any second frame may fly.
        second_frame_bytes_min: 0,
        bytes_max: 1 << 20,
        ..WriterConfig::new(3, 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00)
    }
}

/// How often each thing was done.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) lone: usize,
    pub(crate) pairs: usize,
    pub(crate) marks: usize,
    pub(crate) rolls: usize,
    pub(crate) releases: usize,
    pub(crate) power_cuts: usize,
    pub(crate) kills: usize,
    pub(crate) clean_restarts: usize,
}

impl Done {
    pub(crate) fn all(&self) -> usize {
        let frames = self.lone + self.pairs + self.marks;
        frames + self.rolls + self.releases + self.power_cuts + self.kills + self.clean_restarts
    }
}

/// Runs `acts` acts.
pub(crate) fn run(seed: u64, acts: usize, watch: &mut Watch<'_>) -> Done {
    let mut dice = Dice::new(seed);
    let mut done = Done::default();
    let mut log = start(SimDisk::new(SEGMENT_BYTES), History::default(), watch);
    let mut opened = 0;
    for act in 0..acts {
        let number = act as u64;
        match dice.below(40) {
            0..18 => {
                append(&mut log, number, &mut dice, watch);
                done.lone += 1;
            }
            18..30 => {
                append(&mut log, number, &mut dice, watch);
                if log.writer.may_start_frame(usize::MAX) {
                    append(&mut log, number + (1 << 32), &mut dice, watch);
                    done.pairs += 1;
                }
            }
            30..33 => {
                ready(&mut log, &mut dice, watch);
                log.append(&[], watch);
                done.marks += 1;
            }
            33..36 => {}
            36..38 => {
                let mut disk = log.disk;
                disk.crash(&mut dice);
                log = start(disk, log.history, watch);
                opened = 0;
                done.power_cuts += 1;
            }
            38 => {
                let mut disk = log.disk;
                disk.kill(&mut dice);
                log = start(disk, log.history, watch);
                opened = 0;
                done.kills += 1;
            }
            _ => {
                log.settle(&mut dice, watch);
                log = start(log.disk, log.history, watch);
                opened = 0;
                done.clean_restarts += 1;
            }
        }
        // Sometimes all ends, sometimes the next act comes while things are in flight.
        for _ in 0..[0, 2, 5, 100][dice.below(4)] {
            log.turn(&mut dice, watch);
        }
        if opened < log.opened {
            opened = log.opened;
            done.rolls += 1;
            // The owner's summaries stand first in a segment; then old segments may go.
            ready(&mut log, &mut dice, watch);
            log.append(&[(0, number, 60), (1, number, 60), (2, number, 60)], watch);
            log.settle(&mut dice, watch);
            while LIVE_SEGMENTS_MAX < log.writer.segments().len() {
                log.release(watch);
                done.releases += 1;
            }
        }
    }
    log.settle(&mut dice, watch);
    done
}

pub(crate) fn start(disk: SimDisk, history: History, watch: &mut Watch<'_>) -> SimLog {
    SimLog::start(disk, &config(), history, watch).unwrap_or_else(|error| panic!("within the script: {error}"))
}

/// Submits a frame of one to three records of several groups.
pub(crate) fn append(log: &mut SimLog, number: u64, dice: &mut Dice, watch: &mut Watch<'_>) {
    ready(log, dice, watch);
    let record = |at: u64, bytes| (u128::from(number + at) % GROUPS, number * 4 + at, bytes);
    let records: Vec<_> = match dice.below(8) {
        // One page, with little in it and with all of it used.
        0..3 => vec![record(0, dice.below(300))],
        3 => vec![record(0, 4096 - 64 - 96)],
        4 | 5 => (0..3).map(|at| record(at, dice.below(1200))).collect(),
        6 => vec![record(0, 4096 + dice.below(4096))],
        _ => vec![record(0, dice.below(100)), record(1, 8000 + dice.below(8000))],
    };
    log.append(&records, watch);
}

/// Lets operations go on until a frame may start.
fn ready(log: &mut SimLog, dice: &mut Dice, watch: &mut Watch<'_>) {
    while !log.writer.may_start_frame(usize::MAX) {
        assert!(log.turn(dice, watch), "the log waits for nothing");
    }
}
