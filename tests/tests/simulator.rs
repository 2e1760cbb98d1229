//! Simulated clusters: a few seeds in every test run, and all plans that ever failed. `cargo run --release -p synod-sim
//! --bin sim -- --seeds N` runs more.

use synod_sim::sim::plan::Plan;
use synod_sim::sim::{kept, run};

#[test]
fn plans_that_once_failed_pass() {
    for plan in kept() {
        run(&plan, false).unwrap_or_else(|failure| panic!("{failure}\n{plan}"));
    }
}

#[test]
fn fresh_seeds_pass() {
    let mut committed = 0;
    for seed in 1_000_000..1_000_020 {
        let report = run(&Plan::draw(seed), false).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        committed += report.committed;
    }
    // A run in which little happens shows little.
    assert!(committed > 2_000, "only {committed} entries were committed");
}

#[test]
fn a_seed_happens_again_event_by_event() {
    let plan = Plan::draw(7);
    let first = run(&plan, false).expect("it passes");
    assert_eq!(run(&plan, false).expect("it passes"), first);
}

#[test]
fn a_plan_comes_back_from_its_line() {
    for seed in 0..100 {
        for plan in [Plan::draw(seed), Plan::draw_rough(seed)] {
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
    }
    assert!("seed=1 nodes=3".parse::<Plan>().unwrap_err().contains("groups"));
    assert!("color=1".parse::<Plan>().unwrap_err().contains("color"));
}
