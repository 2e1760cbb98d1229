//! The simulator: whole clusters in one thread, on a simulated network, disk and clock, driven by a seed.
//!
//! It runs the production code of core, shard, log and frames ([`synod::simulation`]) and plays the drivers' part. A seed
//! draws a [`plan::Plan`]; a [`world::World`] carries it out, first with everything failing, then with a quorum healed and
//! the rest broken for good, then with all healed; an [`observe::Observer`] judges what it sees.

use std::panic::{AssertUnwindSafe, catch_unwind};

mod agenda;
mod clock;
mod datagrams;
mod faults;
pub(crate) mod files;
mod groups;
mod growth;
mod links;
pub mod load;
mod lost;
pub mod machine;
mod members;
mod moves;
pub mod network;
pub mod observe;
pub mod plan;
mod process;
pub mod reads;
pub mod world;

use plan::{FAULTS, Plan, S};
use world::{Report, World};

/// The plans that failed once: those of `tests/seeds.txt`, which tells why.
///
/// # Panics
/// When a line there is no plan.
pub fn kept() -> Vec<Plan> {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.parse().unwrap_or_else(|error| panic!("tests/seeds.txt: {error}: {line}"))).collect()
}

/// Runs a plan; a panic of the code under test is a failure like any other.
///
/// # Errors
/// What went wrong, and when.
pub fn run(plan: &Plan, print: bool) -> Result<Report, String> {
    let run = || World::new(plan.clone(), print).run();
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic".into()))
    })
}

/// A failing plan made smaller: fewer kinds of faults and less time, as long as it still fails. Gives the plan and the
/// failure.
pub fn shrink(plan: &Plan, failure: String) -> (Plan, String) {
    let (mut best, mut failure) = (plan.clone(), failure);
    for fault in FAULTS {
        let mut smaller = best.clone();
        let mean = smaller.mean_ns(fault).expect("a kind of fault");
        if std::mem::take(mean) > 0
            && let Err(still) = run(&smaller, false)
        {
            (best, failure) = (smaller, still);
        }
    }
    let mut safety_ns = best.safety_ns / 2;
    while safety_ns >= S / 4 {
        let smaller = Plan { safety_ns, quiet_ns: best.quiet_ns.min(safety_ns / 2), ..best.clone() };
        match run(&smaller, false) {
            Err(still) => (best, failure) = (smaller, still),
            Ok(_) => break,
        }
        safety_ns /= 2;
    }
    (best, failure)
}
