//! `synod group`: groups that are made and dropped while the cluster runs.

use synod::client::protocol::MadeGroupV1;

use crate::error::ToolError;
use crate::target::{ClusterFile, Target, made_groups};
use crate::terminal::say;

const EXAMPLES: &str = "\
Examples:
  synod group create --cluster demo/cluster.toml --group 9
  synod group list   --cluster demo/cluster.toml
  synod group drop   --cluster demo/cluster.toml --group 9

A new group has a replica on every node; its number is one behind those of the configuration. What is
dropped is gone for good, on all nodes: its log, its checkpoints, its sessions. Its number may be used
again, for a group that has nothing to do with it; the uid tells the two apart.";

/// Make, drop and list groups while the cluster runs
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a group
    Create(Target),
    /// Drop a group that was made so, and all that it holds
    Drop(Target),
    /// List the groups that were made so
    List(List),
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    cluster: ClusterFile,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    match &args.action {
        Action::Create(target) => show(&[target.client_of_any_group()?.create_group(target.group)?]),
        Action::Drop(target) => {
            let MadeGroupV1 { group, uid, .. } = target.client_of_any_group()?.drop_group(target.group)?;
            say(format_args!("group {group}, uid {uid:032x}, is dropped\n"));
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
