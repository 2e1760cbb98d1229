//! `synod group`: groups that are made and dropped while the cluster runs, and groups that move between shards.

use synod::client::protocol::MadeGroupV1;

use crate::error::ToolError;
use crate::target::{ClusterFile, Target, made_groups};
use crate::terminal::say;

const EXAMPLES: &str = "\
Examples:
  synod group create --cluster demo/cluster.toml --group 9
  synod group create --cluster demo/cluster.toml --group 10 --phase-2 1
  synod group list   --cluster demo/cluster.toml
  synod group drop   --cluster demo/cluster.toml --group 9
  synod group move   --cluster demo/cluster.toml --group 2 --to-shard 1

A new group has a replica on every node; its number is one behind those of the configuration. What is
dropped is gone for good, on all nodes: its log, its checkpoints, its sessions. Its number may be used
again, for a group that has nothing to do with it; the uid tells the two apart.

A group is on the shard that its number names, modulo how many shards there are (a group made at run
time: modulo how many there were at first). Where one shard has too much to do, a group of it may be
moved to another one, on all nodes and for good: `move` gives the order, and each node follows by
itself, also one that is away now. While a node copies what its log holds of the group, it takes no
part in it. `synod status` shows where groups are.

Making, dropping and moving groups takes a quorum of the voters of the directory that lists them: see
`synod member --help`.

--phase-2 says how many voters choose an entry; see `synod member --help` for what that means.";

/// Make, drop, list and move groups while the cluster runs
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a group
    Create(Create),
    /// Drop a group that was made so, and all that it holds
    Drop(Target),
    /// List the groups that were made so
    List(List),
    /// Move a group to another shard on every node
    Move(Move),
}

#[derive(clap::Args)]
struct Move {
    #[command(flatten)]
    target: Target,
    /// The shard, counted from 0
    #[arg(long, value_name = "SHARD")]
    to_shard: u32,
}

#[derive(clap::Args)]
struct Create {
    #[command(flatten)]
    target: Target,
    /// How many voters choose an entry; 0: a majority
    #[arg(long, value_name = "VOTERS", default_value_t = 0)]
    phase_2: u16,
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    cluster: ClusterFile,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    match &args.action {
        Action::Create(Create { target, phase_2 }) => {
            show(&[target.client()?.create_group(target.group, *phase_2)?]);
        }
        Action::Drop(target) => {
            let MadeGroupV1 { group, uid, .. } = target.client()?.drop_group(target.group)?;
            say(format_args!("group {group}, uid {uid:032x}, is dropped\n"));
        }
        Action::Move(Move { target, to_shard }) => {
            let MadeGroupV1 { group, .. } = target.client()?.place_group(target.group, *to_shard)?;
            say(format_args!("group {group} goes to shard {to_shard} on every node\n"));
        }
        Action::List(list) => show(&made_groups(&list.cluster.read()?)?),
    }
    Ok(())
}

fn show(groups: &[MadeGroupV1]) {
    for MadeGroupV1 { group, uid, ending } in groups {
        let state = if *ending { ", is being dropped" } else { "" };
        say(format_args!("group {group}, uid {uid:032x}{state}\n"));
    }
}
