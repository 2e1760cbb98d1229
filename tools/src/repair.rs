//! `synod repair`: goes on from what is left when a quorum was lost for good.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use synod::repair::{GroupFinding, Repair, RepairError, RepairNote, RepairOptions};
use synod::{Config, GroupId, NodeId, new_cluster_id};

use crate::error::ToolError;
use crate::terminal::{complain, say};

const EXAMPLES: &str = "\
When most of a group's voters are lost for good, with their directories, the group stops: nobody can
know any more what they acknowledged. This command makes a new cluster of what is left. Whatever only
the lost nodes had is lost, also if it was acknowledged. If a majority can be brought back, with its
directories as they were last, do that, and nothing else.

1. Stop the node. Look at what it has; nothing is changed. Do it on every survivor, and go on with
   the one that has the most; or copy the other directories over and give them with --with:
     synod repair --config node-2.toml
     synod repair --config node-2.toml --with copy-of-node-5
2. Write the new cluster's file of this node, say new-2.toml: as node-2.toml, with the `cluster` that
   the first step proposes and another `dir`. Then repair; the old directory stays as it is, closed:
     synod repair --config node-2.toml --into new-2.toml --accept-data-loss
     synod serve --config new-2.toml
   Node 2 is now the only voter of every group.
3. Bring the others in: files with the new `cluster`, new directories, and then their votes:
     synod init --replace --config new-1.toml
     synod serve --config new-1.toml
     synod member add --cluster new-cluster.toml --group 1 --node 1
     synod member add --cluster new-cluster.toml --directory 0 --node 1

Never start the lost nodes again, should they be found: two of them are a quorum of the old cluster,
and would go on with a history of their own. They and the new cluster refuse each other, so the two
never mix, but clients with the old cluster file would not notice. Give all clients the new one.

A repair takes all groups of the node into the new cluster, also those that were made at run time, and
the directories that name them, which need votes as the groups do. Where only some have lost their quorum and
the others are served elsewhere, think twice: those become copies that go their own way.

What is kept: all that this node knows as chosen, and behind it all that it has accepted, which may
have been acknowledged or not. A state machine with data of its own may be ahead of the log after the
loss of a leader's disk: see that it holds no more than the index that is shown, or restore it.

The repair is recorded in DIR/repairs.jsonl, and a node that came out of one says so at every start.";

/// Make a new cluster of what is left when a quorum is lost for good
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The configuration file of the node that is left, which must be stopped
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The directory of another survivor, or a copy of it; may be given several times
    #[arg(long, value_name = "DIR")]
    with: Vec<PathBuf>,
    /// Show only this group; a repair is always of all
    #[arg(long, conflicts_with = "accept_data_loss")]
    group: Option<GroupId>,
    /// The configuration file of the repaired node: the same, but for `cluster` and `dir`
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// Do it; without this it is only shown
    #[arg(long, requires = "into")]
    accept_data_loss: bool,
    /// Do not ask: for scripts
    #[arg(long, requires = "accept_data_loss")]
    yes: bool,
    /// Take what is intact of a damaged log
    #[arg(long)]
    damaged_too: bool,
    /// Take groups in which this node has no vote
    #[arg(long)]
    without_vote_too: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let config = read(&args.config)?;
    let into = args.into.as_deref().map(read).transpose()?;
    let options = RepairOptions {
        with: args.with.clone(),
        damaged_too: args.damaged_too,
        without_vote_too: args.without_vote_too,
    };
    let repair = Repair::examine(&config, &options)?;
    if let Some(group) = args.group.filter(|group| repair.findings().iter().all(|finding| finding.group != *group)) {
        return Err(ToolError::Failed(format!(
            "{} has no group {group}: its groups are 1 to {}, and those that were made at run time",
            config.dir.display(),
            config.groups
        )));
    }
    repair.warnings().iter().for_each(|warning| say(format_args!("WARNING: {warning}\n")));
    let shown = repair.findings().iter().filter(|finding| args.group.is_none_or(|group| finding.group == group));
    shown.for_each(|finding| say(Described { node: config.node, finding }));
    match into {
        Some(into) if args.accept_data_loss => {
            repair.check(&into)?;
            if !args.yes {
                confirm(&config)?;
            }
            let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let command = std::env::args().collect::<Vec<_>>().join(" ");
            repair.carry_out(&into, &RepairNote { seconds, command })?;
            say(format_args!(
                "Node {} is the only voter of cluster {}, in {}. Start it, bring the other nodes in, and give them votes \
                 (`synod help repair`, step 3). Never start the old directories again.\n",
                into.node,
                into.cluster,
                into.dir.display()
            ));
        }
        into => {
            if let Some(obstacle) = repair.obstacle() {
                return Err(ToolError::Failed(flags(&obstacle)));
            }
            into.iter().try_for_each(|into| repair.check(into))?;
            say(Dangers);
            say("Nothing was changed.");
            if into.is_none() {
                say(format_args!(
                    " To go on, write the file of the repaired node, as {} but with another `dir` and\n  cluster = \"{:032x}\"\n\
                     and give it with --into and --accept-data-loss",
                    args.config.display(),
                    new_cluster_id()
                ));
            }
            say("\n");
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Config, ToolError> {
    Config::read(path).map_err(|error| ToolError::in_file(path, error))
}

/// Has the operator type what is given up.
fn confirm(config: &Config) -> Result<(), ToolError> {
    if !std::io::stdin().is_terminal() {
        return Err(ToolError::Usage("nobody is there to confirm it: add --yes in scripts".into()));
    }
    say(Dangers);
    say(format_args!("To give up cluster {} type its id: ", config.cluster));
    let _ = std::io::stdout().flush();
    let mut typed = String::new();
    std::io::stdin()
        .read_line(&mut typed)
        .map_err(|error| ToolError::Io { what: "cannot read the answer".into(), error })?;
    if typed.trim() == config.cluster {
        Ok(())
    } else {
        complain("that is another one");
        Err(ToolError::Failed("not confirmed: nothing was changed".into()))
    }
}

/// The library names its options, the command its flags.
fn flags(text: &str) -> String {
    text.replace("`damaged_too`", "--damaged-too").replace("`without_vote_too`", "--without-vote-too")
}

impl From<RepairError> for ToolError {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Config(error) => Self::Config(error),
            other => Self::Failed(flags(&other.to_string()).replace('\n', " ")),
        }
    }
}

/// What may be lost, in plain words.
struct Dangers;

impl std::fmt::Display for Dangers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "What a repair costs: all that only the lost nodes had is lost, also what they acknowledged, and nobody can tell \
             what that was.\nWhat was accepted here and is not known as chosen is taken for chosen, also if it was never \
             acknowledged.\nThe lost nodes must never be started again: they would go on with a history of their own.\n",
        )
    }
}

/// One group, for people.
struct Described<'a> {
    node: NodeId,
    finding: &'a GroupFinding,
}

impl std::fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = self.finding;
        let voters: Vec<String> = of.voters.iter().map(NodeId::to_string).collect();
        let voters = if voters.is_empty() { "unknown".into() } else { voters.join(", ") };
        let dropped = if of.ending { ", is being dropped" } else { "" };
        writeln!(f, "{}: version {}, voters {voters}{dropped}", of.name(), of.version)?;
        if !of.votes {
            writeln!(f, "  node {} has no vote in it", self.node)?;
        }
        if of.quorum {
            writeln!(f, "  these replicas are a quorum of its voters: nothing of it is lost")?;
        } else if of.whole {
            let why = "enough to have all that was acknowledged, though too few to go on";
            writeln!(f, "  these replicas are {why}: nothing of it is lost")?;
        }
        let from = if of.from == self.node { String::new() } else { format!(", from node {}", of.from) };
        writeln!(f, "  known as chosen: slots up to {}, entries up to index {}{from}", of.chosen, of.index)?;
        if of.gone > 0 {
            writeln!(f, "  trimmed: slots up to {}, of which only the effect is known", of.gone)?;
        }
        writeln!(f, "  accepted: slots up to {}; promised: ballot {}", of.accepted, of.promised)?;
        if of.kept > 0 {
            writeln!(
                f,
                "  taken for chosen, though not known to be: {} slot(s) with {} entries, up to index {}",
                of.kept,
                of.kept_entries,
                of.index + of.kept_entries
            )?;
        }
        if of.dropped > 0 {
            writeln!(f, "  dropped: {} vote(s), for values that a higher ballot has replaced", of.dropped)?;
        }
        if of.lost > 0 {
            writeln!(f, "  lost: {} slot(s) behind those are known to have been chosen", of.lost)?;
        }
        writeln!(
            f,
            "  after the repair: version {}, node {} the only voter, at ballot {}",
            of.new_version, self.node, of.new_ballot
        )
    }
}
