//! `synod trim`: frees what a node's log no longer has to hold.

use std::time::Duration;

use crate::error::ToolError;
use crate::target::Replica;
use crate::terminal::say;

const EXAMPLES: &str = "\
Examples:
  synod trim --cluster demo/cluster.toml --node 2 --group 1 --before 1000001

A node trims its log by itself when it has more than `retain_mib`. This frees more: what node 2
holds of group 1 before entry 1000001. The log goes a segment at a time, and the groups of a shard
share its segments, so it may begin at a lower index afterwards. What a reader has pinned, or what a
restart or another replica needs, is not freed: where a state machine's checkpoint would help, one
is taken.";

/// Free what a node's log no longer has to hold
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    of: Replica,
    /// The index of the first entry that stays
    #[arg(long, value_name = "INDEX", value_parser = clap::value_parser!(u64).range(1..))]
    before: u64,
    /// Give up after so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    timeout_ms: u32,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let wait = Duration::from_millis(u64::from(args.timeout_ms));
    let first_index = args.of.client()?.trim(args.of.node, args.of.group, args.before, wait)?;
    say(format_args!("the log of group {} on node {} begins at index {first_index}\n", args.of.group, args.of.node));
    Ok(())
}
