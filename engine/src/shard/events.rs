//! What a listener is told: who leads the groups and who votes in them, their checkpoints, peers and the disk.

use std::sync::Arc;

use synod_core::Ballot;

use super::Shard;
use crate::outcome::{Epoch, GroupId, NodeId};

/// Something that happened to a group or a shard, as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Another node leads the group, or none is known to. Of this node it is told once it takes proposals.
    LeaderChanged {
        /// The group.
        group: GroupId,
        /// The leader, where one is known.
        leader: Option<NodeId>,
        /// Its epoch.
        epoch: Option<Epoch>,
    },
    /// Another configuration governs the group.
    ConfigurationChanged {
        /// The group.
        group: GroupId,
        /// Counts the changes.
        version: u64,
        /// The nodes that vote.
        voters: Vec<NodeId>,
        /// Whether this node's replica is one of the voters.
        votes: bool,
    },
    /// The group was made at run time, and has a replica on this node now. It is not told again at a start.
    GroupMade {
        /// The group.
        group: GroupId,
    },
    /// The group was dropped, and this node has nothing of it any more.
    GroupDropped {
        /// The group.
        group: GroupId,
    },
    /// This node has a newer durable checkpoint of the group, which its own state machine gave.
    CheckpointTaken {
        /// The group.
        group: GroupId,
        /// The last index that it covers.
        index: u64,
    },
    /// The group's state machine was restored from another node's checkpoint, since the log no longer had what it lacked.
    CheckpointInstalled {
        /// The group.
        group: GroupId,
        /// The last index that it covers.
        index: u64,
    },
    /// Another node's replica of the group has applied something else than this one, up to a slot that both have applied:
    /// memory or a disk of one of them has changed it. Whoever differs from most voters stops.
    ReplicasDiffer {
        /// The group.
        group: GroupId,
        /// The slot.
        slot: u64,
        /// The other node.
        node: NodeId,
    },
    /// A group has come from another shard of this node.
    GroupMoved {
        /// The group.
        group: GroupId,
        /// The shard that it is on now.
        shard: usize,
    },
    /// A shard is connected to its counterpart on another node, for the first time, or hears from it again after
    /// [`PeerLost`](Event::PeerLost).
    PeerConnected {
        /// The shard.
        shard: usize,
        /// The other node.
        node: NodeId,
    },
    /// Nothing was heard from another node's shard for so long that what it led is led by others. Its groups may have a
    /// quorum still.
    PeerLost {
        /// The shard.
        shard: usize,
        /// The other node.
        node: NodeId,
    },
    /// There is no room for a shard's log to grow: its groups refuse proposals until there is.
    DiskFull {
        /// The shard.
        shard: usize,
    },
    /// There is room again behind [`DiskFull`](Event::DiskFull).
    DiskHasRoom {
        /// The shard.
        shard: usize,
    },
}

/// Is told of events, on the threads of the shards, in the order in which they happen to each group and shard.
/// It must not block;
/// to act on an event, it posts to a thread of its own, or uses a [`Handle`](crate::Handle) without waiting.
pub type OnEvent = Arc<dyn Fn(&Event) + Send + Sync>;

impl Shard {
    pub(super) fn tell_event(&self, event: Event) {
        if let Some(listener) = &self.events {
            listener(&event);
        }
    }

    /// Tells of a leader that the listener does not know yet. Costs nothing without a listener.
    pub(super) fn tell_leader(&mut self, at: u32) {
        let Some(listener) = &self.events else { return };
        let group = &self.groups[at as usize];
        let epoch = self.leading_ballot(at);
        if group.told_leader == epoch || !group.kind.is_visible() {
            return;
        }
        let leader = epoch.and_then(|ballot| Some(group.replica.configuration().voter(ballot.member)?.node));
        listener(&Event::LeaderChanged { group: group.names.id, leader, epoch: epoch.map(Epoch) });
        self.groups[at as usize].told_leader = epoch;
    }

    /// The ballot of the group's leader; of this node only when it takes proposals.
    fn leading_ballot(&self, at: u32) -> Option<Ballot> {
        let replica = &self.groups[at as usize].replica;
        let ballot = replica.leader()?;
        let own = replica.configuration().voter(ballot.member).is_some_and(|voter| voter.node == self.node);
        if own { replica.epoch() } else { Some(ballot) }
    }

    pub(super) fn tell_configuration(&self, at: u32) {
        let Some(listener) = &self.events else { return };
        let group = &self.groups[at as usize];
        let configuration = group.replica.configuration();
        if !group.kind.is_visible() {
            return;
        }
        listener(&Event::ConfigurationChanged {
            group: group.names.id,
            version: configuration.version,
            voters: configuration.voters.iter().map(|voter| voter.node).collect(),
            votes: group.replica.votes(),
        });
    }
}
