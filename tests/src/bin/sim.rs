//! Runs seeds through the simulator: `sim --seeds 1000`, or one again with `sim --seed 17 --print`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use synod::simulation::marks;
use synod_sim::sim::plan::{FAULTS, Plan, S};
use synod_sim::sim::{kept, run, shrink, world::Report};

/// Runs simulated clusters and judges them. Every seed draws a cluster, a load and a mix of faults of its own; a failing
/// one is made smaller and printed as a command that replays it.
#[derive(Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run only this seed.
    #[arg(long, conflicts_with_all = ["seeds", "from", "plan"])]
    seed: Option<u64>,
    /// Run only this plan: the line that a failure prints, or one of `tests/seeds.txt`.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    plan: Option<Plan>,
    /// Print the plan and the events (not the turns and ticks) of the seed or plan.
    #[arg(long)]
    print: bool,
    /// Kinds of faults to leave out, as they are called in the summary of a run.
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(FAULTS))]
    without: Vec<String>,
    /// Threads; by default one per core.
    #[arg(long)]
    threads: Option<usize>,
    /// Fail when a rare branch of the product was never taken.
    #[arg(long)]
    require_marks: bool,
    /// Every so many seeds one is run twice, and must happen again event by event.
    #[arg(long, default_value_t = 100)]
    twice_every: u64,
}

impl Args {
    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::draw(seed);
        for fault in &self.without {
            *plan.mean_ns(fault).expect("one of the possible values") = 0;
        }
        plan
    }
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    events: u64,
    simulated_ns: u64,
    committed: u64,
    marks: BTreeMap<&'static str, (u64, u64)>,
    peaks: BTreeMap<&'static str, (u64, u64)>,
    failures: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, seed: u64, result: Result<Report, String>) {
        self.seeds += 1;
        match result {
            Ok(report) => {
                self.events += report.events;
                self.simulated_ns += report.simulated_ns;
                self.committed += report.committed;
                for (mark, count) in report.marks {
                    let (all, seeds) = self.marks.entry(mark).or_default();
                    (*all, *seeds) = (*all + count, *seeds + 1);
                }
                for (name, (peak, max)) in report.peaks {
                    let (most, bound) = self.peaks.entry(name).or_default();
                    (*most, *bound) = ((*most).max(peak), (*bound).max(max));
                }
            }
            Err(failure) => self.failures.push((seed, failure)),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.plan.clone().or_else(|| args.seed.map(|seed| args.plan(seed))) {
        Some(plan) => one(&args, &plan),
        None => many(&args),
    }
}

fn one(args: &Args, plan: &Plan) -> ExitCode {
    if args.print {
        println!("{plan:#?}");
    }
    match run(plan, args.print) {
        Ok(report) => {
            println!("{report:#?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("it fails: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn many(args: &Args) -> ExitCode {
    // Panics are failures of seeds, told at the end.
    std::panic::set_hook(Box::new(|_| {}));
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let began = Instant::now();
    let again: Vec<_> =
        kept().into_iter().filter_map(|plan| run(&plan, false).err().map(|failure| (plan, failure))).collect();
    for (plan, failure) in &again {
        println!("a plan that failed before fails again: {failure}\n  sim --print --plan '{plan}'");
    }
    let (next, over, sum) = (AtomicU64::new(args.from), AtomicBool::new(false), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(args, &next, &sum))).collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(500));
                progress(&sum.lock().expect("no holder panics"), args.seeds, began);
            }
        });
        workers.into_iter().for_each(|worker| worker.join().expect("a worker catches panics"));
        over.store(true, Ordering::Relaxed);
    });
    let sum = sum.into_inner().expect("no holder panics");
    let told = tell(args, &sum, began.elapsed());
    if again.is_empty() { told } else { ExitCode::FAILURE }
}

fn work(args: &Args, next: &AtomicU64, sum: &Mutex<Sum>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= args.from + args.seeds {
            return;
        }
        let plan = args.plan(seed);
        let mut result = run(&plan, false);
        if seed.is_multiple_of(args.twice_every)
            && let Ok(report) = &result
            && run(&plan, false).as_ref() != Ok(report)
        {
            result = Err("it does not happen again event by event: something but the seed decides".into());
        }
        sum.lock().expect("no holder panics").add(seed, result);
    }
}

fn progress(sum: &Sum, seeds: u64, began: Instant) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    eprint!(
        "\r{} of {seeds} seeds, {:.0} a second, {:.2} simulated hours, {} failures ",
        sum.seeds,
        sum.seeds as f64 / began.elapsed().as_secs_f64(),
        sum.simulated_ns as f64 / (3600 * S) as f64,
        sum.failures.len()
    );
    let _ = std::io::stderr().flush();
}

fn tell(args: &Args, sum: &Sum, took: Duration) -> ExitCode {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    println!(
        "{} seeds, {} events, {:.2} simulated hours, {} entries committed, in {:.1} s",
        sum.seeds,
        sum.events,
        sum.simulated_ns as f64 / (3600 * S) as f64,
        sum.committed,
        took.as_secs_f64()
    );
    println!("what happened:");
    for (mark, (count, seeds)) in &sum.marks {
        println!("  {mark:<32} {count:>10} in {seeds} seeds");
    }
    println!("the fullest queues, and their bounds:");
    for (name, (peak, max)) in &sum.peaks {
        println!("  {name:<32} {peak:>10} of {max}");
    }
    println!("rare branches, how often they were taken:");
    let marks = marks();
    let row = |row: &[(String, u64)]| {
        row.iter().map(|(mark, hits)| format!("{mark:<32} {hits:>10}")).collect::<Vec<_>>().join("    ")
    };
    marks.chunks(2).for_each(|pair| println!("  {}", row(pair)));
    let never: Vec<&str> = marks.iter().filter(|(_, hits)| *hits == 0).map(|(mark, _)| mark.as_str()).collect();
    if !never.is_empty() {
        println!("never taken: {}", never.join(", "));
    }
    let mut failures: Vec<_> = sum.failures.iter().collect();
    failures.sort_unstable();
    for (seed, failure) in failures.iter().take(5) {
        let (smaller, failure) = shrink(&args.plan(*seed), failure.clone());
        println!("seed {seed} fails: {failure}");
        println!("  cargo run --release -p synod-sim --bin sim -- --print --plan '{smaller}'");
    }
    if !failures.is_empty() {
        println!("{} seeds fail", failures.len());
        return ExitCode::FAILURE;
    }
    if args.require_marks && !never.is_empty() {
        println!("{} rare branches were never taken: run more seeds, or draw plans that get there", never.len());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
