//! `synod member introduce`: tells a running cluster of a node; and what its nodes know of those.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use synod::client::{Client, ClientError};
use synod::{Cluster, Introduction, Member, NodeId};

use crate::error::ToolError;
use crate::target::{ClusterFile, check_node};
use crate::terminal::say;

/// A node that is up answers at once, or when its disk does.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: ClusterFile,
    /// The node that is introduced: a number that the cluster never had, or one that was introduced before and has moved
    #[arg(long)]
    node: NodeId,
    /// Where it listens, as its own configuration says
    #[arg(long, value_name = "HOST:PORT")]
    address: SocketAddr,
    /// It is a witness by its own configuration
    #[arg(long)]
    witness: bool,
}

/// Tells every node that can be reached, so that it is seen who knows; one would do.
pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let cluster = args.cluster.read()?;
    let mut client = Client::new(cluster.clone());
    let member = Member { node: args.node, address: args.address };
    let (mut known, mut failure) = (false, None);
    // It does not introduce itself.
    for asked in cluster.members.iter().map(|member| member.node).filter(|asked| *asked != args.node) {
        match client.introduce(asked, member, args.witness, PATIENCE) {
            Ok(of) => {
                known = true;
                say(format_args!("node {asked} knows node {} at {}{}\n", of.node, of.address, origin(&of)));
            }
            Err(error @ ClientError::Connection { .. }) => {
                say(format_args!("node {asked} does not answer: it is told by the others when it is back\n"));
                failure.get_or_insert(error.to_string());
            }
            Err(error) => return Err(ToolError::Failed(format!("node {asked}: {error}"))),
        }
    }
    match failure {
        Some(failure) if !known => Err(ToolError::Failed(format!("nobody knows node {}: {failure}", args.node))),
        None if !known => Err(ToolError::Failed(format!("the cluster file has nobody to tell of node {}", args.node))),
        _ => Ok(()),
    }
}

/// What says that a node is there.
fn origin(of: &Introduction) -> String {
    match of.version {
        0 => ", by its configuration".into(),
        version => format!(", introduction {version}"),
    }
}

/// What the nodes of a cluster know of introduced nodes, and who knows it.
fn introductions(cluster: &Cluster) -> BTreeMap<(NodeId, u64, SocketAddr), Vec<NodeId>> {
    let mut client = Client::new(cluster.clone());
    let mut knowing = BTreeMap::<_, Vec<NodeId>>::new();
    for member in &cluster.members {
        for of in client.introductions(member.node, PATIENCE).unwrap_or_default() {
            knowing.entry((of.node, of.version, of.address)).or_default().push(member.node);
        }
    }
    knowing
}

/// Shows the introduced nodes, if there are any.
pub(crate) fn show(cluster: &Cluster) {
    for ((node, version, address), knowing) in introductions(cluster) {
        let knowing: Vec<String> = knowing.iter().map(NodeId::to_string).collect();
        let knowing = knowing.join(", ");
        say(format_args!("node {node} was introduced at {address} (introduction {version}): known to {knowing}\n"));
    }
}

/// Fails unless the cluster has the node, by its file or because it was introduced.
pub(crate) fn check_member(cluster: &Cluster, node: NodeId) -> Result<(), ToolError> {
    check_node(cluster, node).or_else(|unknown| {
        let introduced = introductions(cluster).into_keys().any(|(of, ..)| of == node);
        if introduced { Ok(()) } else { Err(unknown) }
    })
}
