//! `synod member`: who votes in a group, how many votes it takes, and changing that; and nodes that join.

use synod::{Membership, MembershipChange, NodeId};

use crate::error::ToolError;
use crate::introduce;
use crate::target::VotersOf;
use crate::terminal::say;

const EXAMPLES: &str = "\
Examples:
  synod member show   --cluster demo/cluster.toml --group 1
  synod member remove --cluster demo/cluster.toml --group 1 --node 3
  synod member add    --cluster demo/cluster.toml --group 1 --node 3
  synod member add    --cluster demo/cluster.toml --group 1 --node 4 --witness
  synod member quorum --cluster demo/cluster.toml --group 1 --phase-2 2
  synod member remove --cluster demo/cluster.toml --directory 0 --node 3

A node that joins, while the others run:
  synod init --join      --config node-4.toml
  synod serve            --config node-4.toml
  synod member introduce --cluster demo/cluster.toml --node 4 --address 127.0.0.1:7004
  synod member add       --cluster demo/cluster.toml --group 1 --node 4

`introduce` tells each node of the cluster file that can be reached, and says who knows the new one.
One is enough: the nodes tell each other, also those that are down now, and remember it for good. The
new node then learns all groups, and votes in those to which it is added. Add it to the cluster file,
too: clients look there for leaders. To introduce a node again does no harm; with another --address it
has moved there. What a node's own configuration says of another counts more than an introduction, and
`show` lists the nodes that were introduced. At most 64 can be, and none is forgotten.

Every node of the cluster has a replica of every group. A voter decides what is committed; a learner
only gets it. A node that is added must have caught up first. One that is removed may be switched
off as soon as the command says that it is done. If a change fails with the voters' version, somebody
else was faster: look again.

The list of groups that are made and moved while the cluster runs has voters of its own: that is a
directory, and there are as many as the cluster had shards at first, counted from 0. To take a node out
for good, take its vote away in every group and in every directory; else nobody can make, drop or
move groups any more once too many of them are gone.

By default a majority of the voters elects a leader (phase 1), and a majority chooses an entry
(phase 2). `quorum` has phase 2 take fewer or more, at least 1: phase 1 then takes all voters but one
less than that. Of five voters, with --phase-2 2, two commit, so the slowest three are not waited
for; but a new leader needs four, and the log of a node that is lost may hold an entry that one other
node has, too. With --phase-2 1 the leader's disk alone holds what was last committed, and nobody else
can lead while that node is down. --phase-2 0 is a majority again. The size stays as it is when voters
come and go.

A witness is a voter that keeps votes and no entries: two other nodes and a witness stand the loss of
any one of the three, at the cost of two logs. Which nodes are witnesses, their configuration says
(`witnesses = [4]`, the same on all nodes); --witness only says that you know it. Witnesses must be
fewer than the voters that choose an entry.";

/// Show or change who votes in a group, and how many votes it takes
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Show who votes
    Show(VotersOf),
    /// Tell the running nodes of one that joins them, or that has moved
    Introduce(introduce::Args),
    /// Give a node's replica a vote
    Add(Add),
    /// Take a node's vote away
    Remove(Change),
    /// Change how many voters choose an entry
    Quorum(Quorum),
}

#[derive(clap::Args)]
struct Change {
    #[command(flatten)]
    at: At,
    /// The node
    #[arg(long)]
    node: NodeId,
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    change: Change,
    /// The node is a witness
    #[arg(long)]
    witness: bool,
}

#[derive(clap::Args)]
struct Quorum {
    #[command(flatten)]
    at: At,
    /// How many voters choose an entry; 0: a majority
    #[arg(long, value_name = "VOTERS")]
    phase_2: u16,
}

/// What is to be changed.
#[derive(clap::Args)]
struct At {
    #[command(flatten)]
    of: VotersOf,
    /// Only if the voters are still those of this version; by default those that are found now
    #[arg(long)]
    version: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    match &args.action {
        Action::Show(of) => {
            show(&of.client()?.membership(of.group())?);
            introduce::show(&of.cluster()?);
        }
        Action::Introduce(args) => introduce::run(args)?,
        Action::Add(Add { change, witness: false }) => change.carry_out(MembershipChange::Add(change.node))?,
        Action::Add(Add { change, witness: true }) => change.carry_out(MembershipChange::AddWitness(change.node))?,
        Action::Remove(change) => change.carry_out(MembershipChange::Remove(change.node))?,
        Action::Quorum(Quorum { at, phase_2 }) => at.carry_out(MembershipChange::Quorum(*phase_2))?,
    }
    Ok(())
}

impl Change {
    fn carry_out(&self, change: MembershipChange) -> Result<(), ToolError> {
        introduce::check_member(&self.at.of.cluster()?, self.node)?;
        self.at.carry_out(change)
    }
}

impl At {
    fn carry_out(&self, change: MembershipChange) -> Result<(), ToolError> {
        let (mut client, group) = (self.of.client()?, self.of.group());
        let version = match self.version {
            Some(version) => version,
            None => client.membership(group)?.version,
        };
        show(&client.change_membership(group, version, change)?);
        Ok(())
    }
}

fn show(membership: &Membership) {
    let list = |nodes: &[NodeId]| match nodes {
        [] => "none".to_owned(),
        nodes => nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", "),
    };
    let Membership { version, phase_1, phase_2, majority, voters, witnesses, learners } = membership;
    let quorums = match (majority, voters.len()) {
        (true, voters) => format!("{phase_2} of {voters}, a majority"),
        (false, voters) => format!("{phase_1} of {voters} elect, {phase_2} choose"),
    };
    let witnesses = if witnesses.is_empty() { String::new() } else { format!(" (witnesses {})", list(witnesses)) };
    let (voters, learners) = (list(voters), list(learners));
    say(format_args!("version {version}, voters {voters}{witnesses}, learners {learners}, quorum {quorums}\n"));
}
