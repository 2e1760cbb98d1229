//! `synod status`: who leads, and how far every node is.

use std::fmt::Write;

use synod::Cluster;
use synod::client::Client;

use crate::error::ToolError;
use crate::survey::Survey;
use crate::target::ClusterFile;
use crate::terminal::{complain, say};

const EXAMPLES: &str = "\
Examples:
  synod status --cluster demo/cluster.toml

  group leader node process shard applied next    chain votes lease checkpoint pins pinned quorum
      1      2    1   40211     0      17 1001 9af01c22   yes    no        800    0      -    2+2
                  2   40212     0      17 1001 9af01c22   yes   yes        900    1    850    2+2
                  3    down

One line per group and node: the node's process, the shard that has the group, the last slot it has applied, the index that the
group's next entry gets, and the checksum over all that it has applied, which is equal wherever
the applied slot is. A leader that holds a lease answers linearizable reads by itself; it has none
until such a read was asked for. checkpoint is the last index that the node's newest checkpoint
covers; votes says `witness` of one that votes and keeps no entries; pins says how many readers keep its log, and pinned from which index on. quorum is how many
voters elect a leader, and how many choose. The exit status is 1 when a group has no leader, also one
that was made at run time.";

/// Show groups, leaders and how far every node is
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: ClusterFile,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let cluster = args.cluster.read()?;
    let survey = Survey::take(&mut Client::new(cluster.clone()), &cluster);
    say(table(&cluster, &survey));
    for (_, info) in &survey.nodes {
        if let Err(error) = info {
            complain(error);
        }
    }
    match survey.leaderless(&cluster) {
        None => Ok(()),
        Some(group) => Err(ToolError::Failed(format!(
            "group {group} has no leader: enough of its voters must be up (a majority, unless `synod member show` says \
             otherwise); an election takes a moment"
        ))),
    }
}

fn table(cluster: &Cluster, survey: &Survey) -> String {
    let mut out = format!(
        "{:>7} {:>6} {:>5} {:>8} {:>5} {:>10} {:>10} {:>9} {:>7} {:>6} {:>10} {:>5} {:>10} {:>6}\n",
        "group",
        "leader",
        "node",
        "process",
        "shard",
        "applied",
        "next",
        "chain",
        "votes",
        "lease",
        "checkpoint",
        "pins",
        "pinned",
        "quorum"
    );
    let mut line = |text: std::fmt::Arguments| writeln!(out, "{text}").expect("a string takes all");
    for group in survey.groups(cluster) {
        let leader = survey.leader(group).map_or("none".into(), |node| node.to_string());
        for (at, (node, answer)) in survey.nodes.iter().enumerate() {
            let head = if at == 0 { format!("{group:>7} {leader:>6}") } else { " ".repeat(14) };
            match (answer, survey.group(*node, group)) {
                (Ok(up), Some(info)) => line(format_args!(
                    "{head} {node:>5} {:>8} {:>5} {:>10} {:>10}  {:08x} {:>7} {:>6} {:>10} {:>5} {:>10} {:>6}",
                    up.process,
                    info.shard,
                    info.applied_slot,
                    info.next_index,
                    info.chain,
                    match (info.votes, info.witness) {
                        (true, true) => "witness",
                        (votes, _) =>
                            if votes {
                                "yes"
                            } else {
                                "no"
                            },
                    },
                    if info.lease { "yes" } else { "no" },
                    index(info.checkpoint_index),
                    info.pins,
                    index(info.pinned_index),
                    format!("{}+{}", info.phase_1, info.phase_2)
                )),
                (Ok(up), None) => line(format_args!("{head} {node:>5} {:>8}    missing", up.process)),
                (Err(_), _) => line(format_args!("{head} {node:>5}     down")),
            }
        }
    }
    out
}

/// An index, of which 0 stands for none.
fn index(index: u64) -> String {
    if index == 0 { "-".into() } else { index.to_string() }
}

#[cfg(test)]
mod tests {
    use synod::Member;
    use synod::client::protocol::GroupInfoV1;
    use synod::client::{ClientError, NodeInfo};

    use super::*;

    fn info(group: u64, leader: u64, epoch: u64) -> GroupInfoV1 {
        GroupInfoV1 {
            group,
            leader,
            epoch,
            chosen_slot: 17,
            applied_slot: 17,
            next_index: 1001,
            first_index: 1,
            chain: 0x00f0_1c22,
            elections: 1,
            configuration: 0,
            phase_1: 2,
            phase_2: 2,
            votes: group != 2,
            witness: false,
            lease: leader == 2,
            checkpoint_index: if leader == 2 { 900 } else { 0 },
            pinned_index: if leader == 2 { 850 } else { 0 },
            pins: u64::from(leader == 2),
            pin_seconds: 0,
            shard: 0,
        }
    }

    fn cluster() -> Cluster {
        let member = |node: u64| Member { node, address: format!("127.0.0.1:{}", 7000 + node).parse().unwrap() };
        Cluster { cluster: "1".repeat(32), groups: 2, shards: 1, members: vec![member(1), member(2), member(3)] }
    }

    #[test]
    fn the_table_shows_leaders_and_who_is_down() {
        let up = |node, groups| (node, Ok(NodeInfo { node, process: 4000 + node as u32, groups }));
        let down = (3, Err(ClientError::Failed("no".into())));
        // Node 1 has not heard yet that node 2 leads group 1.
        let one = up(1, vec![info(1, 1, 3), info(2, 0, 0)]);
        let two = up(2, vec![info(1, 2, 5)]);
        let survey = Survey { nodes: vec![one, two, down] };
        let table = table(&cluster(), &survey);
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let names = ["group", "leader", "node", "process", "shard", "applied", "next", "chain", "votes", "lease"];
        assert_eq!(words[0], [&names[..], &["checkpoint", "pins", "pinned", "quorum"]].concat());
        assert_eq!(words[1], ["1", "2", "1", "4001", "0", "17", "1001", "00f01c22", "yes", "no", "-", "0", "-", "2+2"]);
        assert_eq!(words[2], ["2", "4002", "0", "17", "1001", "00f01c22", "yes", "yes", "900", "1", "850", "2+2"]);
        assert_eq!(words[3], ["3", "down"]);
        assert_eq!(
            words[4],
            ["2", "none", "1", "4001", "0", "17", "1001", "00f01c22", "no", "no", "-", "0", "-", "2+2"]
        );
        assert_eq!(words[5], ["2", "4002", "missing"]);
        assert_eq!(survey.leaderless(&cluster()), Some(2));
    }

    #[test]
    fn a_group_made_at_run_time_needs_a_leader_too() {
        let led = |group| info(group, 1, 3);
        let survey = |third: &[Vec<GroupInfoV1>; 2]| {
            let nodes = third.iter().zip(1..).map(|(more, node)| {
                let groups = [vec![led(1), led(2)], more.clone()].concat();
                (node, Ok(NodeInfo { node, process: 4000, groups }))
            });
            Survey { nodes: nodes.chain([(3, Err(ClientError::Failed("no".into())))]).collect() }
        };
        let leaderless = |third: [Vec<GroupInfoV1>; 2]| survey(&third).leaderless(&cluster());
        let led_by_one = [vec![led(9)], vec![info(9, 0, 0)]];
        assert_eq!(survey(&led_by_one).groups(&cluster()).into_iter().collect::<Vec<_>>(), [1, 2, 9]);
        assert_eq!(leaderless(led_by_one), None);
        assert_eq!(leaderless([vec![info(9, 0, 0)], vec![info(9, 0, 0)]]), Some(9));
        // One node has yet to learn that it is made, or dropped.
        assert_eq!(leaderless([vec![info(9, 0, 0)], vec![]]), None);
        // Its last slot is chosen.
        let ended = || GroupInfoV1 { votes: false, ..info(9, 0, 0) };
        assert_eq!(leaderless([vec![ended()], vec![ended()]]), None);
    }
}
