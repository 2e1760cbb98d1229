//! Real processes under real faults, each plan once and in short. `cargo run --release -p synod-sim --bin chaos` runs
//! more of each.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use synod_sim::chaos::{Ended, Plan, Report, Settings, run};

/// One cluster at a time: three nodes and their clients have enough to do.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a plan; `None`, with the reason on stderr, where it cannot be run.
fn check(plan: Plan) -> Option<Report> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let settings = Settings {
        program: PathBuf::from(env!("CARGO_BIN_EXE_chaos")),
        dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos"),
        seed: 1,
        seconds: 4,
        // With fewer, not every kind need come: a whole deck of them kills so many.
        kills: 15,
        keep: false,
        progress: false,
    };
    match run(plan, &settings) {
        Ok(Ended::Passed(report)) => {
            assert!(report.faults.planned * 80 <= report.faults.done * 100, "{report}");
            // Whatever was judged had been acknowledged to a client, and the other way round.
            assert_eq!(report.judged.acknowledged, report.told.acknowledged(), "{report}");
            assert_eq!(report.judged.reads, report.told.reads, "{report}");
            Some(*report)
        }
        Ok(Ended::Skipped(why)) => {
            eprintln!("plan {plan}: SKIPPED: {why}");
            None
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn nothing_is_lost_when_nodes_are_killed() {
    let report = check(Plan::Kills).expect("every machine can kill");
    assert!(15_000 <= report.told.acknowledged(), "a thousand entries for each kill: {report}");
    for kind in ["a leader", "any node", "all at once", "two at once", "a recovering node"] {
        assert!(report.faults.kinds.contains_key(kind), "{kind}: {report}");
    }
}

#[test]
fn nothing_is_lost_when_nodes_stand_still() {
    check(Plan::Pauses).expect("every machine can pause");
}

#[test]
fn nothing_is_lost_between_partitions() {
    if let Some(report) = check(Plan::Partitions) {
        assert!(7 <= report.faults.kinds.len(), "every kind of partition: {report}");
    }
}

#[test]
fn nothing_is_lost_over_a_bad_wire() {
    let report = check(Plan::Relay).expect("every machine can relay");
    assert!(6 <= report.faults.kinds.len(), "every kind of disturbance: {report}");
}

#[test]
fn nothing_is_lost_on_a_full_disk() {
    check(Plan::FullDisk);
}

#[test]
fn a_node_stops_when_its_disk_fails() {
    check(Plan::IoErrors);
}

#[test]
fn others_lead_when_a_disk_is_slow() {
    check(Plan::SlowDisk);
}
