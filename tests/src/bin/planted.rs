//! Plants each bug in turn and runs seeds until the simulator catches it: `planted --seeds 2000`. A bug that is not caught
//! means that the tests are blind to it, and fails.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use synod_core::planted::{BUGS, Bug, plant};
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
    /// Only the bugs whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|_| {}));
    let mut escaped = 0;
    for bug in BUGS.into_iter().filter(|bug| format!("{bug:?}").contains(&args.only)) {
        match hunt(&args, bug) {
            Some((seed, failure)) => {
                let failure: String = failure.chars().take(160).collect();
                println!("{:<24} caught by seed {seed:>5}: {failure}", format!("{bug:?}"));
            }
            None => {
                escaped += 1;
                println!("{:<24} NOT caught in {} seeds", format!("{bug:?}"), args.seeds);
            }
        }
    }
    plant(None);
    if escaped == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first seed that catches a bug, and how.
fn hunt(args: &Args, bug: Bug) -> Option<(u64, String)> {
    plant(Some(bug));
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
                    if let Err(failure) = run(&Plan::draw(seed), false) {
                        caught.lock().expect("no holder panics").get_or_insert((seed, failure));
                    }
                }
            });
        }
    });
    caught.into_inner().expect("no holder panics")
}
