//! Which cluster, node and group a command is for: checked before anybody is asked.

use std::path::PathBuf;
use std::time::Duration;

use synod::client::protocol::MadeGroupV1;
use synod::client::{Client, ClientError};
use synod::{Cluster, GroupId, NodeId, directory_group};

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

/// A group of the cluster, and how long what is asked about it may take.
#[derive(clap::Args)]
pub(crate) struct Target {
    #[command(flatten)]
    cluster: ClusterFile,
    /// The group
    #[arg(long)]
    pub(crate) group: GroupId,
    /// Seconds that it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u32,
}

impl Target {
    /// A client, whether there is such a group or not.
    pub(crate) fn client(&self) -> Result<Client, ToolError> {
        Ok(client(self.cluster.read()?, self.timeout))
    }
}

fn client(cluster: Cluster, timeout_seconds: u32) -> Client {
    let mut client = Client::new(cluster);
    client.set_timeout(Duration::from_secs(u64::from(timeout_seconds)));
    client
}

/// A group or a directory of the cluster, and how long what is asked about it may take.
#[derive(clap::Args)]
pub(crate) struct VotersOf {
    #[command(flatten)]
    cluster: ClusterFile,
    #[command(flatten)]
    whose: Whose,
    /// Seconds that it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u32,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// The group
    #[arg(long)]
    group: Option<GroupId>,
    /// The directory, counted from 0: the list of groups that are made and moved while the cluster runs
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(..1024))]
    directory: Option<u64>,
}

impl VotersOf {
    pub(crate) fn cluster(&self) -> Result<Cluster, ToolError> {
        self.cluster.read()
    }

    /// The group, or the directory's name.
    pub(crate) fn group(&self) -> GroupId {
        let directory = self.whose.directory.map(directory_group);
        self.whose.group.or(directory).expect("one of them must be given")
    }

    /// A client, for a group that the cluster has.
    pub(crate) fn client(&self) -> Result<Client, ToolError> {
        let cluster = self.cluster()?;
        if let Some(group) = self.whose.group {
            check_group(&cluster, group)?;
        }
        Ok(client(cluster, self.timeout))
    }
}

/// What one node holds of a group.
#[derive(clap::Args)]
pub(crate) struct Replica {
    #[command(flatten)]
    cluster: ClusterFile,
    /// The node that is asked
    #[arg(long)]
    pub(crate) node: NodeId,
    /// The group
    #[arg(long)]
    pub(crate) group: GroupId,
}

impl Replica {
    /// A client for a node and a group that the cluster has.
    pub(crate) fn client(&self) -> Result<Client, ToolError> {
        let cluster = self.cluster.read()?;
        check_group(&cluster, self.group)?;
        check_node(&cluster, self.node)?;
        Ok(Client::new(cluster))
    }
}

/// How long a node may take to say which groups were made at run time.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);

/// Fails unless the cluster has the group.
pub(crate) fn check_group(cluster: &Cluster, group: GroupId) -> Result<(), ToolError> {
    let is_made = || ask_all(cluster).iter().flatten().flatten().any(|made| made.group == group);
    if (1..=cluster.groups).contains(&group) || (group > cluster.groups && is_made()) {
        Ok(())
    } else {
        Err(ToolError::Failed(format!(
            "there is no group {group}: the cluster's groups are 1 to {} and those that `synod group list` shows",
            cluster.groups
        )))
    }
}

/// What each node knows of the groups that were made at run time.
fn ask_all(cluster: &Cluster) -> Vec<Result<Vec<MadeGroupV1>, ClientError>> {
    let mut client = Client::new(cluster.clone());
    cluster.members.iter().map(|member| client.made_groups(member.node, LIST_TIMEOUT)).collect()
}

/// The groups that were made at run time, as most nodes know them: where two do not agree, one has yet to learn of it.
pub(crate) fn made_groups(cluster: &Cluster) -> Result<Vec<MadeGroupV1>, ToolError> {
    let mut made = Vec::new();
    let mut failure = None;
    for answer in ask_all(cluster) {
        match answer {
            Ok(groups) => made.push(groups),
            Err(error) => failure = Some(error),
        }
    }
    // The list that most nodes have, and of several such the longest.
    let votes = |list: &Vec<MadeGroupV1>| (made.iter().filter(|other| *other == list).count(), list.len());
    match (made.iter().max_by_key(|list| votes(list)), failure) {
        (Some(list), _) => Ok(list.clone()),
        (None, Some(error)) => Err(error.into()),
        (None, None) => Ok(Vec::new()),
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
