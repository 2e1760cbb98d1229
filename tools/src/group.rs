//! `synod group`: groups that are made and dropped while the cluster runs.

use std::time::Duration;

use synod::GroupId;
use synod::client::Client;
use synod::client::protocol::MadeGroupV1;

use crate::error::ToolError;
use crate::target::{ClusterFile, made_groups};
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
    Create(Order),
    /// Drop a group that was made so, and all that it holds
    Drop(Order),
    /// List the groups that were made so
    List(List),
}

#[derive(clap::Args)]
struct Order {
    #[command(flatten)]
    cluster: ClusterFile,
    /// The group
    #[arg(long)]
    group: GroupId,
    /// Seconds that it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u32,
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    cluster: ClusterFile,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    match &args.action {
        Action::Create(order) => show(&[order.client()?.create_group(order.group)?]),
        Action::Drop(order) => {
            let MadeGroupV1 { group, uid, .. } = order.client()?.drop_group(order.group)?;
            say(format_args!("group {group}, uid {uid:032x}, is dropped\n"));
        }
        Action::List(list) => show(&made_groups(&list.cluster.read()?)?),
    }
    Ok(())
}

impl Order {
    fn client(&self) -> Result<Client, ToolError> {
        let mut client = Client::new(self.cluster.read()?);
        client.set_timeout(Duration::from_secs(u64::from(self.timeout)));
        Ok(client)
    }
}

fn show(groups: &[MadeGroupV1]) {
    for MadeGroupV1 { group, uid, ending } in groups {
        let state = if *ending { ", is being dropped" } else { "" };
        say(format_args!("group {group}, uid {uid:032x}{state}\n"));
    }
}
