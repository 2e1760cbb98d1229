//! Frames of the log that stand where they do not belong.

use std::rc::Rc;

use synod_wal::{RecoverError, WriterConfig, recover};

use super::{Schedule, schedules};
use crate::disk::{Dice, History, SimDisk, SimLog};

/// The disk has written the last frame over an earlier one, and told that all is well. It is a whole frame of this log, and
/// recovery must not take it for the one that stood there.
fn a_frame_in_anothers_place_is_damage() {
    let config = WriterConfig { segment_bytes: 256 << 10, ..WriterConfig::new(1, 77) };
    let disk = SimDisk::new(config.segment_bytes);
    let mut log = SimLog::start(disk, &config, History::default(), &mut |_, _| {}).expect("it is empty");
    let mut dice = Dice::new(1);
    log.settle(&mut dice, &mut |_, _| {});
    for number in 1..=6 {
        log.append(&[(1, number, 100)], &mut |_, _| {});
        log.settle(&mut dice, &mut |_, _| {});
    }
    let frames = Rc::clone(&log.history.issued);
    let (last, earlier) = frames.split_last().expect("there are six");
    for place in earlier {
        let mut disk = log.disk.clone();
        disk.misdirect((last.generation, last.offset), (place.generation, place.offset), last.bytes().len());
        let recovered = recover(&mut disk, SimLog::expect(&config), &mut |_, _, _, _| ());
        assert!(matches!(recovered, Err(RecoverError::Damaged { .. })), "{recovered:?}");
    }
}

/// All of them.
pub(super) const SCHEDULES: &[Schedule] = schedules! {
    a_frame_in_anothers_place_is_damage shows FramesCountAnywhere,
};
