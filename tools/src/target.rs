//! Which cluster, node and group a command is for: checked before anybody is asked.

use std::path::PathBuf;

use synod::{Cluster, GroupId, NodeId};

use crate::error::ToolError;

/// The flag that all clients share.
#[derive(clap::Args)]
pub(crate) struct ClusterFile {
    /// The cluster file, as `synod local` writes it
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
}

impl ClusterFile {
    pub(crate) fn read(&self) -> Result<Cluster, ToolError> {
        Cluster::read(&self.cluster).map_err(|error| ToolError::in_file(&self.cluster, error))
    }
}

/// Fails unless the cluster has the group.
pub(crate) fn check_group(cluster: &Cluster, group: GroupId) -> Result<(), ToolError> {
    if (1..=cluster.groups).contains(&group) {
        Ok(())
    } else {
        Err(ToolError::Failed(format!("there is no group {group}: the cluster's groups are 1 to {}", cluster.groups)))
    }
}

/// Fails unless the cluster has the node.
pub(crate) fn check_node(cluster: &Cluster, node: NodeId) -> Result<(), ToolError> {
    if cluster.members.iter().any(|member| member.node == node) {
        return Ok(());
    }
    let nodes: Vec<String> = cluster.members.iter().map(|member| member.node.to_string()).collect();
    Err(ToolError::Failed(format!("there is no node {node}: the cluster's nodes are {}", nodes.join(", "))))
}
