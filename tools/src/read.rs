//! `synod read`: what a group holds, as fresh as one asks for.

use std::time::Duration;

use synod::Consistency;

use crate::error::ToolError;
use crate::tail;
use crate::target::Replica;

const EXAMPLES: &str = "\
Examples:
  synod read --cluster demo/cluster.toml --node 2 --group 1 --consistency linearizable
  synod read --cluster demo/cluster.toml --node 3 --group 1 --consistency at-least --index 1001

Writes a node's committed entries to stdout as `synod tail` does, and ends where the consistency
says: `linearizable` and `quorum` have all that anyone was told committed before the command began
(the first by the leader's lease where it has one, the second by asking a majority), `at-least` has
the entry with that index, `stale` what the node has applied. Any node can be asked.";

/// How fresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Freshness {
    Linearizable,
    Quorum,
    AtLeast,
    Stale,
}

/// Write a node's committed entries to stdout, as fresh as asked for
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    of: Replica,
    /// How fresh the entries must be
    #[arg(long, value_enum, default_value = "linearizable")]
    consistency: Freshness,
    /// With `at-least`: the index that must be there
    #[arg(long, required_if_eq("consistency", "at-least"))]
    index: Option<u64>,
    /// The index of the first entry wanted
    #[arg(long, value_name = "INDEX", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// Give up after so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    timeout_ms: u32,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let consistency = match args.consistency {
        Freshness::Linearizable => Consistency::Linearizable,
        Freshness::Quorum => Consistency::Quorum,
        Freshness::AtLeast => Consistency::AtLeast(args.index.unwrap_or(0)),
        Freshness::Stale => Consistency::Stale,
    };
    let mut client = args.of.client()?;
    let wait = Duration::from_millis(u64::from(args.timeout_ms));
    let last = client.read_index(args.of.node, args.of.group, consistency, wait)?;
    tail::copy(&mut client, args.of.node, args.of.group, args.from, last.saturating_add(1))
}
