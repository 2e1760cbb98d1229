//! `synod transfer`: hands a group over to another node.

use std::time::Duration;

use synod::client::Client;
use synod::{GroupId, NodeId};

use crate::error::ToolError;
use crate::target::{ClusterFile, check_group, check_node};
use crate::terminal::say;

const EXAMPLES: &str = "\
Examples:
  synod transfer --cluster demo/cluster.toml --group 1 --to 2

The leader stops proposing until node 2 holds all it has proposed, and node 2 takes over at once. If
it does not in time, the leader goes on. A group goes back to the node that prefers it after a few
seconds, unless that node is away.";

/// Hand a group over to another node
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: ClusterFile,
    /// The group to hand over
    #[arg(long)]
    group: GroupId,
    /// The node that is to lead it
    #[arg(long, value_name = "NODE")]
    to: NodeId,
    /// Give up after so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    timeout_ms: u32,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let cluster = args.cluster.read()?;
    check_group(&cluster, args.group)?;
    check_node(&cluster, args.to)?;
    Client::new(cluster).transfer(args.group, args.to, Duration::from_millis(u64::from(args.timeout_ms)))?;
    say(format_args!("node {} leads group {}\n", args.to, args.group));
    Ok(())
}
