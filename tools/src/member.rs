//! `synod member`: who votes in a group, and changing it.

use synod::{Membership, MembershipChange, NodeId};

use crate::error::ToolError;
use crate::target::{Target, check_node};
use crate::terminal::say;

const EXAMPLES: &str = "\
Examples:
  synod member show   --cluster demo/cluster.toml --group 1
  synod member remove --cluster demo/cluster.toml --group 1 --node 3
  synod member add    --cluster demo/cluster.toml --group 1 --node 3

Every node of the cluster has a replica of every group. A voter decides what is committed; a learner
only gets it. A node that is added must have caught up first. One that is removed may be switched
off as soon as the command says that it is done. If a change fails with the voters' version, somebody
else was faster: look again.";

/// Show or change who votes in a group
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Show who votes
    Show(Target),
    /// Give a node's replica a vote
    Add(Change),
    /// Take a node's vote away
    Remove(Change),
}

#[derive(clap::Args)]
struct Change {
    #[command(flatten)]
    target: Target,
    /// The node
    #[arg(long)]
    node: NodeId,
    /// Only if the voters are still those of this version; by default those that are found now
    #[arg(long)]
    version: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    match &args.action {
        Action::Show(target) => show(&target.client()?.membership(target.group)?),
        Action::Add(change) => change.carry_out(MembershipChange::Add(change.node))?,
        Action::Remove(change) => change.carry_out(MembershipChange::Remove(change.node))?,
    }
    Ok(())
}

impl Change {
    fn carry_out(&self, change: MembershipChange) -> Result<(), ToolError> {
        check_node(&self.target.cluster()?, self.node)?;
        let mut client = self.target.client()?;
        let version = match self.version {
            Some(version) => version,
            None => client.membership(self.target.group)?.version,
        };
        show(&client.change_membership(self.target.group, version, change)?);
        Ok(())
    }
}

fn show(membership: &Membership) {
    let list = |nodes: &[NodeId]| match nodes {
        [] => "none".to_owned(),
        nodes => nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", "),
    };
    let Membership { version, voters, learners } = membership;
    say(format_args!("version {version}, voters {}, learners {}\n", list(voters), list(learners)));
}
