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

Do it once in a node's life. A node that lost its directory has lost its votes, and must not come
back empty under its old number.";

/// Make the directory of a new node
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let config = Config::read(&args.config).map_err(|error| ToolError::in_file(&args.config, error))?;
    Node::init(&config)?;
    say(format_args!("node {} of cluster {} is made in {}\n", config.node, config.cluster, config.dir.display()));
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
