//! `synod init`: makes a node's directory, once.

use std::path::PathBuf;

use synod::{Config, Node};

use crate::error::ToolError;
use crate::terminal::say;

const EXAMPLES: &str = "\
A node's file, node-1.toml:
  cluster = \"8f14e45fceea167a5a36dedd4bea2543\"   # 32 hexadecimal digits, the same on all nodes
  node = 1                                       # this node, one of the members
  dir = \"node-1\"                                 # relative to this file
  groups = 8                                     # numbered 1 to 8
  [[members]]
  node = 1
  address = \"127.0.0.1:7001\"
  [[members]]
  node = 2
  address = \"127.0.0.1:7002\"
  [[members]]
  node = 3
  address = \"127.0.0.1:7003\"

Then:
  synod init --config node-1.toml
  synod serve --config node-1.toml

Do it once in a node's life, with the same members on all nodes that begin together. The groups of a new cluster begin when all its nodes have met once;
from then on a part of them may be away. A node that lost its directory has lost its votes: the other
nodes refuse an empty directory under its number.

A node that joins later, under a number that the cluster never had:
    synod init --join --config node-4.toml
    synod serve --config node-4.toml
    synod member introduce --cluster cluster.toml --node 4 --address 127.0.0.1:7004
  Its file has all members, itself among them. The other nodes run on, and let it in once it is
  introduced to one of them (or when they were started with it in their own files). It learns all
  groups, and votes in those to which `synod member add` adds it.

A node that only votes, and keeps no entries, is a witness: `witnesses = [3]`, above the members and
the same on all nodes, makes node 3 one. Two others and a witness go on without any one of the three.

With `udp_lane = true`, above the members, nodes that both say so send each other heartbeats by UDP, so
that a leader is not taken for lost behind a full TCP connection. Where datagrams do not get through,
all goes by TCP. It may change with every start; the ports are any that the system chooses.

When a directory is lost:
  If it, or the disk it is on, can be brought back as it was last: do that, and nothing else.
  If it is lost for good, make another one in its place:
    synod init --replace --config node-1.toml
    synod serve --config node-1.toml
  The other nodes take the new directory for node 1 as soon as they meet it, and refuse the old one
  from then on: it must never be started again, here or elsewhere. A replacement has no vote of its
  own accord; the other nodes must be a majority without it. An older copy of a directory, from a
  backup, is a lost directory: it has forgotten votes.";

/// Make the directory of a new node
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Make it in place of one that is lost for good, which must never be started again
    #[arg(long)]
    replace: bool,
    /// Make a node that joins a cluster which is there already, under a number of its own
    #[arg(long, conflicts_with = "replace")]
    join: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let config = Config::read(&args.config).map_err(|error| ToolError::in_file(&args.config, error))?;
    let made = if args.replace {
        Node::init_replacement(&config)?;
        "made anew"
    } else if args.join {
        Node::init_joining(&config)?;
        "made to join"
    } else {
        Node::init(&config)?;
        "made"
    };
    say(format_args!("node {} of cluster {} is {made} in {}\n", config.node, config.cluster, config.dir.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_the_help_is_a_configuration() {
        let (_, rest) = EXAMPLES.split_once("node-1.toml:\n").unwrap();
        let (text, _) = rest.split_once("Then:").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.toml");
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path).unwrap();
        assert_eq!((config.node, config.groups, config.members.len()), (1, 8, 3));
        assert_eq!(config.dir, dir.path().join("node-1"));
    }
}
