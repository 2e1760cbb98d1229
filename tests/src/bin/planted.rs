//! Plants each bug in turn and runs seeds until the simulator catches it. A bug that is not caught means that the tests
//! are blind to it, and fails.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use synod_core::planted::{BUGS, Bug, plant};
use synod_sim::schedules::{self, Schedule};
use synod_sim::sim::plan::Plan;
use synod_sim::sim::run;

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

/// Runs a schedule with a bug or without; why it fails, if it does.
fn failure_of(schedule: &Schedule, bug: Option<Bug>) -> Option<String> {
    plant_everywhere(bug);
    let failed = std::panic::catch_unwind(schedule.run).err();
    plant_everywhere(None);
    let text = |panic: Box<dyn std::any::Any + Send>| match panic.downcast_ref::<&str>() {
        Some(text) => (*text).to_owned(),
        None => panic.downcast_ref().cloned().unwrap_or_else(|| "a panic".to_owned()),
    };
    failed.map(text)
}

/// The schedules that fail without a bug: what they say of one would mean nothing. They are told.
fn unsound(schedules: &[&Schedule]) -> usize {
    let unsound = schedules.iter().filter_map(|schedule| Some((schedule.name, failure_of(schedule, None)?)));
    unsound.inspect(|(name, failure)| println!("the schedule {name} fails without a bug: {failure}")).count()
}

/// How a bug is caught.
enum Caught {
    /// By these schedules.
    BySchedules(Vec<&'static str>),
    /// With this seed, and how.
    BySeed(u64, String),
    /// Not at all, or not by this schedule, which says that it shows it.
    Not(Option<&'static str>),
}

/// Bugs that take an exact moment are shown by all schedules that were written for them, the others by seeds.
fn catch(args: &Args, bug: Bug) -> Caught {
    let mut shown_by = Vec::new();
    for schedule in schedules::all().filter(|schedule| schedule.shows.contains(&bug)) {
        if failure_of(schedule, Some(bug)).is_none() {
            return Caught::Not(Some(schedule.name));
        }
        shown_by.push(schedule.name);
    }
    if !shown_by.is_empty() {
        return Caught::BySchedules(shown_by);
    }
    match hunt(args, Some(bug)) {
        Some((seed, failure)) => Caught::BySeed(seed, failure),
        None => Caught::Not(None),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let without_bugs = args.only == "none";
    let bugs: Vec<Bug> = BUGS.iter().filter(|bug| format!("{bug:?}").contains(&args.only)).copied().collect();
    let needed = |of: &&Schedule| without_bugs || of.shows.iter().any(|bug| bugs.contains(bug));
    let schedules: Vec<&Schedule> = schedules::all().filter(needed).collect();
    if unsound(&schedules) > 0 {
        return ExitCode::FAILURE;
    }
    println!("{} schedules hold without a bug, in {:.1} s", schedules.len(), began.elapsed().as_secs_f64());
    if without_bugs {
        return match hunt(&args, None) {
            Some((seed, failure)) => {
                println!("seed {seed} fails without a bug: {failure}\n  sim --plan '{}'", Plan::draw_rough(seed));
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        };
    }
    let (mut by_schedule, mut escaped, mut needed) = (0, 0, Vec::new());
    println!("{:<30} {:>6}  caught by", "bug", "seeds");
    for bug in bugs {
        let (seeds, how) = match catch(&args, bug) {
            Caught::BySchedules(names) => {
                by_schedule += 1;
                ("-".to_owned(), format!("the schedule {}", names.join(", ")))
            }
            Caught::BySeed(seed, failure) => {
                needed.push(seed - args.from + 1);
                ((seed - args.from + 1).to_string(), failure.chars().take(140).collect())
            }
            Caught::Not(schedule) => {
                escaped += 1;
                let by = schedule.map_or(String::new(), |name| format!(" by the schedule {name}"));
                (schedule.map_or(args.seeds.to_string(), |_| "-".to_owned()), format!("NOT caught{by}"))
            }
        };
        println!("{:<30} {seeds:>6}  {how}", format!("{bug:?}"));
    }
    needed.sort_unstable();
    let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
    let (last, took) = (needed.last().copied().unwrap_or(0), began.elapsed().as_secs_f64());
    println!(
        "{} bugs caught, {escaped} not; {} by seed {median} in the median and {last} at the latest, {by_schedule} by \
         schedules; in {took:.1} s",
        needed.len() + by_schedule,
        needed.len()
    );
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
        Some(Bug::FramesCountAnywhere) => Some(WalBug::FramesCountAnywhere),
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
