//! The power goes, or the process, between any two steps of the log's I/O: what was acknowledged comes back, nothing comes
//! back that was not issued, a mere crash is never taken for damage, and the log goes on.
//!
//! A usual run cuts at every step, tries every subset of up to 8 sectors, and takes a sample of larger ones and of byte
//! prefixes. `SYNOD_DEEP=1` takes every byte prefix and 256 subsets of more sectors, and denser samples of crashes within
//! a recovery: some nine million cuts and twenty million within recoveries, in about a quarter of an hour on two cores.
//! What fails says the step and the choice, and both are told by the seed alone.

use std::fmt::Debug;

use synod_sim::disk::{CrashChoice, Dice, History, OpKind, Outcome, Prefix, SimDisk, SimLog, Step, Subset};
use synod_wal::DiskDone;

#[path = "wal_crash/script.rs"]
mod script;

use script::{Done, append, config, run, start};

const SEED: u64 = 20;
const ACTS: usize = 240;
/// Up to so many sectors every subset of them is tried.
const SECTORS_ALL_MAX: usize = 8;

fn deep() -> bool {
    std::env::var_os("SYNOD_DEEP").is_some()
}

/// What a crash met between two steps.
type Boundary = (SimDisk, History);

fn boundaries(acts: usize) -> (Vec<Boundary>, Done) {
    let mut boundaries = Vec::new();
    let done = run(SEED, acts, &mut |disk, history| boundaries.push((disk.clone(), history.clone())));
    (boundaries, done)
}

/// Calls `with` for what a crash of `disk` may leave: all of it, or a sample of `samples`.
fn cuts(disk: &SimDisk, samples: Option<(usize, &mut Dice)>, mut with: impl FnMut(&dyn Debug, &mut dyn CrashChoice)) {
    let writes = disk.unsynced();
    let changes = disk.unsynced_changes();
    let sectors: usize = writes.iter().map(|(sectors, _)| sectors).sum();
    for all in [false, true] {
        with(&all, &mut all.clone());
    }
    // Bytes behind the last one that is not zero change nothing.
    let used = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if sectors <= SECTORS_ALL_MAX && samples.as_ref().is_none_or(|(samples, _)| 1 < *samples) {
        for changes in 0..1 << changes {
            for sectors in 0..1 << sectors {
                let subset = Subset { sectors, changes };
                with(&subset, &mut subset.clone());
            }
        }
    }
    if let Some((samples, dice)) = samples {
        if sectors + changes == 0 {
            return;
        }
        for _ in 0..samples {
            let seed = dice.roll();
            with(&("seed", seed), &mut Dice::new(seed));
            if !writes.is_empty() {
                let write = dice.below(writes.len());
                let bytes = dice.below(used(&writes[write].1) + 1);
                let prefix = Prefix { write, bytes, others: dice.below(2) == 0 };
                with(&prefix, &mut prefix.clone());
            }
        }
        return;
    }
    if SECTORS_ALL_MAX < sectors {
        for seed in 0..256 {
            with(&("seed", seed), &mut Dice::new(seed));
        }
    }
    for (write, (_, bytes)) in writes.iter().enumerate() {
        for bytes in 0..=used(bytes) {
            for others in [false, true] {
                let prefix = Prefix { write, bytes, others };
                with(&prefix, &mut prefix.clone());
            }
        }
    }
}

#[track_caller]
fn recovered(disk: &mut SimDisk, history: &History, step: usize, choice: &dyn Debug) {
    if let Err(wrong) = history.recover(disk, SimLog::expect(&config())) {
        panic!("seed {SEED}, cut at step {step}, left {choice:?}: {wrong}");
    }
}

#[test]
fn a_power_cut_between_any_two_steps_loses_nothing_that_was_acknowledged() {
    let (boundaries, done) = boundaries(ACTS);
    assert!(200 <= done.all(), "{done:?}");
    assert!(done.rolls.min(done.releases).min(done.pairs) >= 20, "{done:?}");
    assert!(done.power_cuts.min(done.kills).min(done.clean_restarts) >= 2, "{done:?}");
    let mut dice = Dice::new(SEED);
    let mut runs = 0;
    for (step, (disk, history)) in boundaries.iter().enumerate() {
        let samples = if deep() { None } else { Some((16, &mut dice)) };
        cuts(disk, samples, |what, choice| {
            let mut disk = disk.clone();
            disk.crash(choice);
            recovered(&mut disk, history, step, what);
            runs += 1;
        });
    }
    eprintln!("{} steps of {} acts, {runs} power cuts: {done:?}", boundaries.len(), done.all());
    assert!(20 * boundaries.len() < runs, "most cuts had something to choose");
}

#[test]
fn a_crash_within_the_recovery_from_a_crash_loses_nothing_either() {
    let (boundaries, _) = boundaries(if deep() { ACTS } else { ACTS / 2 });
    let mut dice = Dice::new(SEED + 1);
    let (mut runs, mut restarts) = (0, 0);
    for (step, (disk, history)) in boundaries.iter().enumerate() {
        for first in 0..if deep() { 4 } else { 2 } {
            let seed = dice.roll();
            let mut disk = disk.clone();
            // Half of them only kill the process: what it had not synced is seen and may still go.
            if first % 2 == 0 {
                disk.crash(&mut Dice::new(seed))
            } else {
                disk.kill(&mut Dice::new(seed))
            }
            let mut inner = Dice::new(seed + 1);
            let mut second = 0;
            let samples = if deep() { 8 } else { 1 };
            let mut watch = |disk: &SimDisk, history: &History| {
                second += 1;
                // The usual run looks at every third step, each time at others.
                if !deep() && (second + step) % 3 != 0 {
                    return;
                }
                cuts(disk, Some((samples, &mut inner)), |what, choice| {
                    let mut disk = disk.clone();
                    disk.crash(choice);
                    recovered(&mut disk, history, step, &(seed, "then at", second, what));
                    runs += 1;
                });
            };
            let mut order = Dice::new(seed + 2);
            let mut log = start(disk, history.clone(), &mut watch);
            append(&mut log, 1 << 40, &mut order, &mut watch);
            if log.writer.may_start_frame(usize::MAX) {
                append(&mut log, 2 << 40, &mut order, &mut watch);
            }
            log.settle(&mut order, &mut watch);
            // And it can be started again, with all that was acknowledged since.
            assert_eq!(log.history.acknowledged, log.history.issued.len() as u64);
            start(log.disk, log.history, &mut |_, _| {});
            restarts += 1;
        }
    }
    eprintln!("{} steps, {restarts} restarts, {runs} power cuts within them", boundaries.len());
    assert!(2 * restarts < runs);
}

#[test]
fn a_kept_tail_that_is_not_flushed_can_be_lost_and_this_test_bench_sees_it() {
    let mut log = start(SimDisk::new(script::SEGMENT_BYTES), History::default(), &mut |_, _| {});
    let mut dice = Dice::new(1);
    log.settle(&mut dice, &mut |_, _| {});
    log.append(&[(1, 1, 100)], &mut |_, _| {});
    let write = log.disk.pending()[0].id;
    log.disk.advance(write);
    // The process dies with the frame in the cache; the next one reads it.
    log.disk.kill(&mut true);
    let expect = SimLog::expect(&config());
    let mut history = log.history.clone();
    assert_eq!(history.recover(&mut log.disk, expect).expect("it is there").durable_through, 1);
    // A node that goes on without a flush counts the frame as durable.
    history.acknowledged = 1;
    let mut flushed = log.disk.clone();
    flushed.flush_tail(1).expect("the segment is there");
    flushed.crash(&mut false);
    history.recover(&mut flushed, expect).expect("what is flushed stays");
    log.disk.crash(&mut false);
    let wrong = history.recover(&mut log.disk, expect).expect_err("the frame is gone");
    assert!(wrong.contains("recovered up to frame 0"), "{wrong}");
}

#[test]
fn a_fault_at_any_step_of_a_write_poisons_the_log_and_costs_nothing_acknowledged() {
    let mut runs = 0;
    for outcome in [Outcome::Eio, Outcome::NoSpace, Outcome::Short(0), Outcome::Short(700)] {
        for (landed, first) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
            if landed && matches!(outcome, Outcome::Short(_)) {
                // A sync is never short.
                continue;
            }
            let mut log = start(SimDisk::new(script::SEGMENT_BYTES), History::default(), &mut |_, _| {});
            let mut dice = Dice::new(1);
            log.settle(&mut dice, &mut |_, _| {});
            for number in 0..3 {
                log.append(&[(1, number, 100)], &mut |_, _| {});
                log.settle(&mut dice, &mut |_, _| {});
            }
            log.append(&[(1, 4, 100)], &mut |_, _| {});
            log.append(&[(2, 5, 5000)], &mut |_, _| {});
            let mut writes: Vec<_> = log.disk.pending().iter().map(|pending| pending.id).collect();
            assert_eq!(writes.len(), 2);
            writes.rotate_left(first);
            if landed {
                log.disk.advance(writes[0]);
            }
            let failed = log.disk.finish(writes[0], outcome).expect("a write is answered");
            log.done(failed).expect_err("a fault poisons the log");
            // The other one ends well, and yet nothing is told durable any more; nor may anything be written.
            let other = log.disk.finish(writes[1], Outcome::Done).expect("a write is answered");
            log.done(other).expect_err("it stays poisoned");
            assert_eq!(log.history.acknowledged, 3);
            assert!(log.writer.is_poisoned() && !log.writer.may_start_frame(usize::MAX));
            assert!(log.disk.pending().is_empty());
            for seed in 0..200 {
                let mut disk = log.disk.clone();
                if seed % 4 == 0 {
                    disk.kill(&mut Dice::new(seed))
                } else {
                    disk.crash(&mut Dice::new(seed))
                }
                recovered(&mut disk, &log.history, 0, &(outcome, landed, first, seed));
                // What a failed sync dropped may still be seen, and no later sync makes it durable: then the power goes too.
                disk.crash(&mut Dice::new(seed));
                start(disk, log.history.clone(), &mut |_, _| {});
                runs += 1;
            }
        }
    }
    assert_eq!(runs, 12 * 200);
}

#[test]
fn a_fault_at_any_step_of_making_a_segment_costs_nothing() {
    let (mut runs, mut steps) = (0, [0; 2]);
    for outcome in [Outcome::Eio, Outcome::NoSpace] {
        for recycles in [false, true] {
            for step in 0.. {
                let mut log = start(SimDisk::new(script::SEGMENT_BYTES), History::default(), &mut |_, _| {});
                let mut dice = Dice::new(1);
                log.settle(&mut dice, &mut |_, _| {});
                while log.writer.segments().len() < 3 {
                    log.append(&[(1, 1, 9000)], &mut |_, _| {});
                    log.settle(&mut dice, &mut |_, _| {});
                }
                let mut ops = Vec::new();
                if recycles {
                    log.release(&mut |_, _| {});
                } else {
                    log.writer.prepare_ahead(2, &mut ops);
                    for op in ops {
                        log.disk.start(op);
                    }
                }
                log.append(&[(1, 2, 9000)], &mut |_, _| {});
                let acknowledged = log.history.acknowledged;
                let pending = log.disk.pending();
                let prepare = pending[0];
                assert!(matches!(prepare.kind, OpKind::Prepare { .. }), "{pending:?}");
                if !(0..step).all(|_| log.disk.advance(prepare.id).is_some()) {
                    break;
                }
                steps[usize::from(recycles)] = step;
                let mut whole = log.disk.clone();
                if whole.advance(prepare.id).is_none() {
                    // All steps were taken: none is left to fail.
                    break;
                }
                let failed = log.disk.finish(prepare.id, outcome).expect("it is answered");
                let write = log.disk.finish(pending[1].id, Outcome::Done).expect("it is answered");
                if outcome == Outcome::NoSpace && !recycles {
                    log.done(failed).expect("a full disk is waited out");
                    assert!(log.writer.starved().is_some());
                    log.done(write).expect("what is open goes on");
                    assert_eq!(log.history.acknowledged, acknowledged + 1);
                } else {
                    log.done(failed).expect_err("a fault poisons the log");
                    log.done(write).expect_err("it stays poisoned");
                    assert_eq!(log.history.acknowledged, acknowledged);
                }
                for seed in 0..50 {
                    let mut disk = log.disk.clone();
                    if seed % 4 == 0 {
                        disk.kill(&mut Dice::new(seed))
                    } else {
                        disk.crash(&mut Dice::new(seed))
                    }
                    recovered(&mut disk, &log.history, step, &(outcome, recycles, seed));
                    let mut log = start(disk, log.history.clone(), &mut |_, _| {});
                    log.settle(&mut dice, &mut |_, _| {});
                    append(&mut log, 1 << 40, &mut dice, &mut |_, _| {});
                    log.settle(&mut dice, &mut |_, _| {});
                    assert_eq!(log.history.acknowledged, log.history.issued.len() as u64);
                    runs += 1;
                }
            }
        }
    }
    // Made anew: a name, its bytes, a sync, the true name, the directory. Used again: the name, a sync, the directory.
    assert_eq!((runs, steps), (2 * (5 + 3) * 50, [5, 3]));
}

/// Finishes all writes, and no making of a file.
fn finish_writes(log: &mut SimLog) {
    while let Some(write) = log.disk.pending().into_iter().find(|of| matches!(of.kind, OpKind::Write { .. })) {
        let done = log.disk.finish(write.id, Outcome::Done).expect("a write is answered");
        log.done(done).expect("it is sound");
    }
}

/// A segment's name that is not durable may not bear a frame: a crash would take the name, and the frame with it.
#[test]
fn rename_without_dir_fsync() {
    for recycles in [false, true] {
        let mut log = start(SimDisk::new(script::SEGMENT_BYTES), History::default(), &mut |_, _| {});
        let mut dice = Dice::new(1);
        log.settle(&mut dice, &mut |_, _| {});
        let mut number = 0;
        let mut append = |log: &mut SimLog| {
            number += 1;
            log.append(&[(1, number, 9000)], &mut |_, _| {});
        };
        while log.writer.segments().len() < 3 {
            append(&mut log);
            log.settle(&mut dice, &mut |_, _| {});
        }
        if recycles {
            log.release(&mut |_, _| {});
        }
        // All that is ready is used up; the next file is being made.
        while log.writer.may_start_frame(usize::MAX) {
            append(&mut log);
            finish_writes(&mut log);
        }
        let made = log.disk.pending()[0];
        let OpKind::Prepare { generation } = made.kind else { panic!("{made:?}") };
        while log.disk.advance(made.id) != Some(Step::Rename) {}
        // It has its name, though not durably: the log does not touch it.
        assert!(!log.writer.may_start_frame(usize::MAX));
        assert!(log.disk.pending().iter().all(|of| !matches!(of.kind, OpKind::Write { .. })));
        for changes in 0..1 << log.disk.unsynced_changes() {
            let choice = Subset { sectors: 0, changes };
            let mut disk = log.disk.clone();
            disk.crash(&mut choice.clone());
            recovered(&mut disk, &log.history, 0, &choice);
        }
        // A driver that answered now would lose what was acknowledged, and this test bench sees it.
        log.done(DiskDone::Prepared { generation, result: Ok(()) }).expect("it is believed");
        finish_writes(&mut log);
        append(&mut log);
        finish_writes(&mut log);
        assert_eq!(log.history.acknowledged, log.history.issued.len() as u64);
        log.disk.crash(&mut false);
        log.history.recover(&mut log.disk, SimLog::expect(&config())).expect_err("the frame went with its name");
    }
}

#[test]
fn a_full_disk_is_met_while_a_segment_is_made_and_leaves_a_sound_log() {
    let mut log = start(SimDisk::new(script::SEGMENT_BYTES), History::default(), &mut |_, _| {});
    let mut dice = Dice::new(1);
    log.settle(&mut dice, &mut |_, _| {});
    log.disk.limit_bytes(log.disk.bytes());
    let mut number = 0;
    while !log.disk.pending().is_empty() || log.writer.may_start_frame(0) {
        number += 1;
        if log.writer.may_start_frame(0) {
            log.append(&[(1, number, 3000)], &mut |_, _| {});
        } else {
            let id = log.disk.pending()[0].id;
            let done = log.disk.finish(id, Outcome::Done).expect("writes and preparations are answered");
            log.done(done).expect("a full disk is waited out");
        }
        assert!(number < 1000, "the disk is full by now");
    }
    let full = log.writer.starved().expect("there is no room").to_string();
    assert!(full.contains("the disk is full"), "{full}");
    assert_eq!(log.history.acknowledged, log.history.issued.len() as u64, "what was open was used up");
    let mut disk = log.disk;
    disk.kill(&mut true);
    disk.limit_bytes(u64::MAX);
    // With room again, a restart goes on.
    let mut log = start(disk, log.history, &mut |_, _| {});
    log.settle(&mut dice, &mut |_, _| {});
    append(&mut log, 1 << 40, &mut dice, &mut |_, _| {});
    log.settle(&mut dice, &mut |_, _| {});
    assert_eq!(log.history.acknowledged, log.history.issued.len() as u64);
}
