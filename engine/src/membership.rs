//! Who votes in a group, and changing it.

use crate::outcome::{NodeId, Rejection};

/// Who votes in a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Counts the changes; a change names the version that it is meant for.
    pub version: u64,
    /// How many voters it takes to elect a leader.
    pub phase_1: usize,
    /// How many voters it takes to choose a value.
    pub phase_2: usize,
    /// Both are majorities, and stay so when voters come and go; else `phase_2` stays.
    pub majority: bool,
    /// The nodes whose replicas vote.
    pub voters: Vec<NodeId>,
    /// Those of them whose replicas are witnesses: they keep votes and no entries.
    pub witnesses: Vec<NodeId>,
    /// The nodes whose replicas only learn.
    pub learners: Vec<NodeId>,
}

/// A change of who votes in a group, or of how many votes it takes; one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MembershipChange {
    /// The replica of this node, which learns already, gets a vote once it has caught up.
    Add(NodeId),
    /// As [`MembershipChange::Add`], for a node that is a witness. The other one refuses it, as this one does any other node:
    /// what a node is, its configuration says, and that of the leader or the node's introduction must say the same.
    AddWitness(NodeId),
    /// The replica of this node loses its vote, and learns on.
    Remove(NodeId),
    /// So many voters choose a value from now on, at least 1; 0: a majority. To elect a leader it then takes all voters but
    /// one less than that, so that whoever is elected hears of all that was chosen. An entry is as safe as its voters are
    /// many: with 1 it is on one disk when it is told committed.
    Quorum(u16),
}

impl MembershipChange {
    /// The node that is meant, if it is about one.
    pub fn node(self) -> Option<NodeId> {
        match self {
            Self::Add(node) | Self::AddWitness(node) | Self::Remove(node) => Some(node),
            Self::Quorum(_) => None,
        }
    }
}

/// Why the voters of a group were not changed. Only [`MembershipError::Unknown`] leaves it open whether they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MembershipError {
    /// The node does not take the change: see [`Rejection`].
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// The voters have been changed since.
    #[error(
        "the group's voters are those of version {version}, which is not the one that the change is meant for: look at them again"
    )]
    VersionConflict {
        /// The version that governs.
        version: u64,
    },
    /// The node has a vote already.
    #[error("node {0} votes already")]
    VotesAlready(NodeId),
    /// The node is a witness.
    #[error("node {0} is a witness, which keeps no entries: add it as one (`synod member add --witness`)")]
    IsWitness(NodeId),
    /// The node is no witness.
    #[error(
        "node {0} is no witness by this node's configuration, or as it was introduced, and its directory is made for what \
         its own configuration says"
    )]
    NoWitness(NodeId),
    /// Witnesses alone could choose a value, which would then be nowhere.
    #[error(
        "{phase_2} of {voters} voters would choose a value, and {witnesses} of them would be witnesses, which keep no entries: \
         have more others, or a larger quorum (`synod member quorum`)"
    )]
    Witnesses {
        /// How many would choose.
        phase_2: usize,
        /// How many voters there would be.
        voters: usize,
        /// How many of them would be witnesses.
        witnesses: usize,
    },
    /// The node has no vote.
    #[error("node {0} does not vote")]
    DoesNotVote(NodeId),
    /// The cluster has no such node.
    #[error("there is no node {0} in this cluster")]
    UnknownNode(NodeId),
    /// A group without voters would be lost.
    #[error("node {0} is the last voter: a group without voters would be lost")]
    LastVoter(NodeId),
    /// There are as many voters as a group may have, or as it may ever have had.
    #[error("the group can have no more voters")]
    TooMany,
    /// Without the node, those who are left could not commit: too few of them can be reached.
    #[error("without node {0} too few voters are left that can be reached: bring the others back first")]
    WouldStop(NodeId),
    /// The voters would be fewer than are to choose a value.
    #[error(
        "{phase_2} of {voters} voters cannot choose a value: change the quorum first (`synod member quorum`), or take a smaller one"
    )]
    Quorum {
        /// How many are to choose.
        phase_2: u16,
        /// How many voters there would be.
        voters: usize,
    },
    /// After the change too few voters could be reached to elect a leader and to choose.
    #[error(
        "the change would leave {voters} voters, of which {needed} must be reached to go on, and {reached} can be: bring the others back first"
    )]
    TooFew {
        /// How many voters there would be.
        voters: usize,
        /// How many of them must be reached.
        needed: usize,
        /// How many can be.
        reached: usize,
    },
    /// Another change is under way.
    #[error("another change of this group's voters is under way: try again when it is through")]
    Busy,
    /// The node did not catch up in time. Nothing was changed.
    #[error("node {0} has not caught up in time, or cannot be reached: nothing was changed")]
    NotCaughtUp(NodeId),
    /// The change was proposed, and what became of it is not known.
    #[error("the change was proposed, and what became of it is not known: look at the group's voters")]
    Unknown,
}

/// The outcome of a change: the voters that it led to. It is told when something is chosen under them; from then on a
/// node that lost its vote may be switched off.
pub type MembershipOutcome = Result<Membership, MembershipError>;
