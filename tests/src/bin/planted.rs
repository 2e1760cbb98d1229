//! Plants each bug in turn and runs seeds until the simulator catches it. A bug that is not caught means that the tests
//! are blind to it, and fails.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use synod_core::planted::{BUGS, Bug, plant};
use synod_sim::leases::SCHEDULES;
use synod_sim::sim::plan::Plan;
use synod_sim::sim::run;

/// Bugs that only show in the moment when a replica is replaced, which the plans here do not hit. Named tests of the core
/// show them: `reconfigure_test.rs`.
const OF_RECONFIGURATION: [Bug; 2] = [Bug::ConfigurationOvertakes, Bug::OldConfigurationsVote];

/// Proves that the simulator can fail: plants bugs on purpose, one at a time, and counts the seeds until each is caught.
#[derive(Parser)]
struct Args {
    /// Seeds to try for each bug.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only the bugs whose names contain this; `none` runs the seeds without a bug, and none may fail.
    #[arg(long, default_value = "")]
    only: String,
}

/// Bugs that rough plans do not reach in time: the core's `no_vote_leaves_before_its_record_is_durable` shows the first, and a
/// crash between a checkpoint's file and its record in `tests/checkpoints.rs` is where the second would show. The third takes a
/// power cut within milliseconds of a group's first votes: `lone.rs` has it.
const OF_MOMENTS: [Bug; 3] = [Bug::PrepareLeavesEarly, Bug::CheckpointsAreInstalledEarly, Bug::GroupsAreNotRecorded];

/// Bugs of leases need a schedule to the millisecond: these were written for them.
const OF_LEASES: [Bug; 4] =
    [Bug::LeasesCountFromReceipt, Bug::RestartForgetsSupport, Bug::LeaseIsKeptInTransfer, Bug::OlderRoundsConfirm];

fn schedule_that_fails(bug: Bug) -> Option<&'static str> {
    if !OF_LEASES.contains(&bug) {
        return None;
    }
    plant(Some(bug));
    let failed = SCHEDULES.iter().find(|(_, run)| std::panic::catch_unwind(run).is_err());
    plant(None);
    failed.map(|(name, _)| *name)
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    if args.only == "none" {
        return match hunt(&args, None) {
            Some((seed, failure)) => {
                println!("seed {seed} fails without a bug: {failure}\n  sim --plan '{}'", Plan::draw_rough(seed));
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        };
    }
    let (mut escaped, mut needed) = (0, Vec::new());
    println!("{:<26} {:>6}  caught by", "bug", "seeds");
    let shown_here = BUGS.iter().filter(|bug| !OF_RECONFIGURATION.contains(bug) && !OF_MOMENTS.contains(bug));
    for bug in shown_here.filter(|bug| format!("{bug:?}").contains(&args.only)) {
        if let Some(schedule) = schedule_that_fails(*bug) {
            needed.push(0);
            println!("{:<26} {:>6}  the schedule {schedule}", format!("{bug:?}"), "-");
            continue;
        }
        match hunt(&args, Some(*bug)) {
            Some((seed, failure)) => {
                needed.push(seed - args.from + 1);
                let failure: String = failure.chars().take(140).collect();
                println!("{:<26} {:>6}  {failure}", format!("{bug:?}"), seed - args.from + 1);
            }
            None => {
                escaped += 1;
                println!("{:<26} {:>6}  NOT caught", format!("{bug:?}"), args.seeds);
            }
        }
    }
    needed.sort_unstable();
    let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
    let took = began.elapsed().as_secs_f64();
    println!("{} bugs caught, {escaped} not, by seed {median} in the median, in {took:.1} s", needed.len());
    if escaped == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plants a bug in core, shard and log.
fn plant_everywhere(bug: Option<Bug>) {
    use synod_wal::planted::Bug as WalBug;
    plant(bug);
    synod_wal::planted::plant(match bug {
        Some(Bug::StaleFramesCount) => Some(WalBug::StaleFramesCount),
        Some(Bug::BodiesAreNotChecked) => Some(WalBug::BodiesAreNotChecked),
        Some(Bug::SegmentsAreReadAlone) => Some(WalBug::SegmentsAreReadAlone),
        _ => None,
    });
}

/// The first seed that catches a bug, and how.
fn hunt(args: &Args, bug: Option<Bug>) -> Option<(u64, String)> {
    plant_everywhere(bug);
    let next = AtomicU64::new(args.from);
    let caught: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while caught.lock().expect("no holder panics").is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.from + args.seeds {
                        return;
                    }
                    if let Err(failure) = run(&Plan::draw_rough(seed), false) {
                        caught.lock().expect("no holder panics").get_or_insert((seed, failure));
                    }
                }
            });
        }
    });
    caught.into_inner().expect("no holder panics")
}
