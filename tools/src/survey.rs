//! What all nodes of a cluster say of themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use synod::client::protocol::GroupInfoV1;
use synod::client::{Client, ClientError, NodeInfo};
use synod::{Cluster, GroupId, NodeId};

/// A node that is up answers at once; this is for one that hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Every node's answer, in the order of the cluster file.
pub(crate) struct Survey {
    pub(crate) nodes: Vec<(NodeId, Result<NodeInfo, ClientError>)>,
}

impl Survey {
    /// Asks every node.
    pub(crate) fn take(client: &mut Client, cluster: &Cluster) -> Self {
        let nodes = cluster.members.iter().map(|member| (member.node, client.info(member.node, PATIENCE))).collect();
        Self { nodes }
    }

    /// What one node says of a group; `None` when the node is down or does not know it.
    pub(crate) fn group(&self, node: NodeId, group: GroupId) -> Option<&GroupInfoV1> {
        let (_, info) = self.nodes.iter().find(|(id, _)| *id == node)?;
        let groups = &info.as_ref().ok()?.groups;
        let at = groups.binary_search_by_key(&group, |info| info.group).ok()?;
        Some(&groups[at])
    }

    /// The node that leads a group. A deposed leader may not know it yet, so the newest epoch counts.
    pub(crate) fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leads = |(node, _): &(NodeId, _)| {
            let info = self.group(*node, group)?;
            (info.leader == *node && info.epoch > 0).then_some((info.epoch, *node))
        };
        self.nodes.iter().filter_map(leads).max().map(|(_, node)| node)
    }

    /// The groups of the cluster file, and all that any node has besides.
    pub(crate) fn groups(&self, cluster: &Cluster) -> BTreeSet<GroupId> {
        let known = self.answers().flat_map(|node| node.groups.iter().map(|info| info.group));
        (1..=cluster.groups).chain(known).collect()
    }

    /// The first group without a leader. One that was made at run time counts when most nodes that are up have it and a
    /// replica of it votes: else it is just being made or dropped.
    pub(crate) fn leaderless(&self, cluster: &Cluster) -> Option<GroupId> {
        let is_there = |group: GroupId| {
            let known: Vec<_> = self.nodes.iter().filter_map(|(node, _)| self.group(*node, group)).collect();
            2 * known.len() > self.answers().count() && known.iter().any(|info| info.votes)
        };
        let groups = self.groups(cluster).into_iter();
        groups.filter(|group| *group <= cluster.groups || is_there(*group)).find(|group| self.leader(*group).is_none())
    }

    fn answers(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter_map(|(_, answer)| answer.as_ref().ok())
    }
}
