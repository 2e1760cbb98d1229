//! Runs real clusters of three processes under real faults: `chaos --plan kills --kills 100`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand, ValueEnum};
use synod_sim::chaos::{Ended, Plan, Settings, child, run};

const EXAMPLES: &str = "\
Plans:
  kills       SIGKILL: any node, leaders, two or all at once, nodes that recover
  pauses      SIGSTOP for 0.1 to 5 s
  partitions  packets dropped between network namespaces: both ways, one way, around a leader,
              between two of three, 30 % of all (root, iproute2, nftables)
  relay       a relay between the nodes delays, cuts, resets, swallows, corrupts, doubles, slows
  full-disk   one node's disk has no room for a while (root)
  io-errors   a sync fails with EIO: the node must stop (strace)
  slow-disk   a sync takes 1.5 s now and then (strace)

Three durable nodes with four groups run as processes of their own; clients append and read over
TCP all the while and write down what they are told. In the end all is healed, all nodes are killed
once more, and the history is judged: nothing acknowledged lost or doubled, linearizable, the same
log on all replicas. A plan that cannot be run here says SKIPPED and why.

A failed run keeps its directory: the nodes' logs, and the histories as Porcupine reads them.

Examples:
  cargo run --release -p synod-sim --bin chaos -- --plan kills --kills 100
  cargo run --release -p synod-sim --bin chaos -- --plan all --seconds 12
  RUST_LOG=synod=debug cargo run --release -p synod-sim --bin chaos -- --plan relay --keep";

/// Runs real clusters of three processes under real faults, and judges what clients were told.
#[derive(Parser)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    child: Option<Child>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct Run {
    /// What is broken
    #[arg(long, value_enum, default_value_t = Which::All)]
    plan: Which,
    /// About how long each plan breaks things (kills go by their number)
    #[arg(long, value_name = "N", default_value_t = 15)]
    seconds: u64,
    /// How many kills
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: u64,
    /// Decides which faults come; drawn and told if not given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Where the directories of runs are made; on a real disk, or nothing is durable
    #[arg(long, value_name = "D", default_value = "target/chaos")]
    dir: PathBuf,
    /// Keep logs and data also when all is well
    #[arg(long)]
    keep: bool,
}

#[derive(Subcommand)]
enum Child {
    /// One node of a run
    #[command(hide = true)]
    Node {
        /// Its configuration
        #[arg(long)]
        config: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    All,
    Kills,
    Pauses,
    Partitions,
    Relay,
    FullDisk,
    IoErrors,
    SlowDisk,
}

impl Which {
    fn plans(self) -> Vec<Plan> {
        match self {
            Self::All => Plan::ALL.to_vec(),
            Self::Kills => vec![Plan::Kills],
            Self::Pauses => vec![Plan::Pauses],
            Self::Partitions => vec![Plan::Partitions],
            Self::Relay => vec![Plan::Relay],
            Self::FullDisk => vec![Plan::FullDisk],
            Self::IoErrors => vec![Plan::IoErrors],
            Self::SlowDisk => vec![Plan::SlowDisk],
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.child {
        Some(Child::Node { config }) => child::run(&config),
        None => run_plans(&arguments.run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("chaos: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run_plans(args: &Run) -> Result<(), String> {
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_micros() as u64 % 1_000_000);
    let seed = args.seed.unwrap_or_else(drawn);
    let program = std::env::current_exe().map_err(|error| format!("this program cannot find itself: {error}"))?;
    let settings = Settings {
        program,
        dir: args.dir.clone(),
        seed,
        seconds: args.seconds,
        kills: args.kills,
        keep: args.keep,
        progress: true,
    };
    for plan in args.plan.plans() {
        println!("plan {plan}, seed {seed}");
        match run(plan, &settings) {
            Ok(Ended::Passed(report)) => println!("{report}"),
            Ok(Ended::Skipped(why)) => println!("plan {plan}: SKIPPED: {why}"),
            Err(failure) => return Err(failure.to_string()),
        }
    }
    Ok(())
}
