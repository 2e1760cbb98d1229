//! Runs seeds through the simulator: `sim --seeds 1000`, or one again with `sim --seed 17 --print`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use synod_sim::sim::plan::{MS, Plan, S};
use synod_sim::sim::{run, shrink, world::Report};

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
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Print the plan and the events (not the turns and ticks) of the seed.
    #[arg(long, requires = "seed")]
    print: bool,
    /// Kinds of faults to leave out: crash, partition, break, pause, hang, disk-error, full.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// How long everything may fail, in simulated milliseconds, instead of what the seed draws.
    #[arg(long)]
    safety_ms: Option<u64>,
    /// Threads; by default one per core.
    #[arg(long)]
    threads: Option<usize>,
    /// Every so many seeds one is run twice, and must happen again event by event.
    #[arg(long, default_value_t = 100)]
    twice_every: u64,
}

impl Args {
    fn plan(&self, seed: u64) -> Result<Plan, String> {
        let mut plan = Plan::draw(seed);
        for fault in &self.without {
            *plan.mean_ns(fault).ok_or_else(|| format!("there is no fault called {fault}"))? = 0;
        }
        if let Some(ms) = self.safety_ms {
            plan.safety_ns = ms * MS;
        }
        Ok(plan)
    }
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    events: u64,
    simulated_ns: u64,
    committed: u64,
    marks: BTreeMap<&'static str, (u64, u64)>,
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
            }
            Err(failure) => self.failures.push((seed, failure)),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.plan(1) {
        eprintln!("sim: {error}");
        return ExitCode::from(2);
    }
    match args.seed {
        Some(seed) => one(&args, seed),
        None => many(&args),
    }
}

fn one(args: &Args, seed: u64) -> ExitCode {
    let plan = args.plan(seed).expect("checked");
    if args.print {
        println!("{plan:#?}");
    }
    match run(&plan, args.print) {
        Ok(report) => {
            println!("{report:#?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("seed {seed} fails: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn many(args: &Args) -> ExitCode {
    // Panics are failures of seeds, told at the end.
    std::panic::set_hook(Box::new(|_| {}));
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let (next, over, sum) = (AtomicU64::new(args.from), AtomicBool::new(false), Mutex::new(Sum::default()));
    let began = Instant::now();
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
    tell(args, &sum, began.elapsed())
}

fn work(args: &Args, next: &AtomicU64, sum: &Mutex<Sum>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= args.from + args.seeds {
            return;
        }
        let plan = args.plan(seed).expect("checked");
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
    for (mark, (count, seeds)) in &sum.marks {
        println!("{mark:<32} {count:>10} in {seeds} seeds");
    }
    let mut failures: Vec<_> = sum.failures.iter().collect();
    failures.sort_unstable();
    for (seed, failure) in failures.iter().take(5) {
        let plan = args.plan(*seed).expect("checked");
        let (smaller, mut without, failure) = shrink(&plan, failure.clone());
        let given: Vec<&str> = args.without.iter().map(String::as_str).collect();
        without.extend(given);
        println!("seed {seed} fails: {failure}");
        let without = if without.is_empty() { String::new() } else { format!(" --without {}", without.join(",")) };
        let safety = smaller.safety_ns / MS;
        println!("  cargo run --release -p synod-sim --bin sim -- --seed {seed} --print{without} --safety-ms {safety}");
    }
    if failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} seeds fail", failures.len());
    ExitCode::FAILURE
}
