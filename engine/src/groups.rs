//! Making, dropping and listing groups while the cluster runs.

use crate::limits::{GROUPS_MADE_MAX, GROUPS_PLACED_MAX};
use crate::outcome::{GroupId, Rejection};

/// Groups have numbers below this; from here on they are names of directories.
pub(crate) const DIRECTORIES: GroupId = 1 << 62;
const DIRECTORIES_END: GroupId = DIRECTORIES + (1 << 16);

/// The name of a directory: of the group whose log says which groups were made at run time, and where groups were placed. There
/// are as many as the cluster had shards at first, counted from 0, and group G is named by number G modulo how many there are.
///
/// A directory is a group like any other, but only who votes in it can be asked and changed, by [`Handle::info`],
/// [`Handle::membership`] and [`Handle::change_membership`]: a node that is to go for good is taken out of all of them.
///
/// [`Handle::info`]: crate::Handle::info
/// [`Handle::membership`]: crate::Handle::membership
/// [`Handle::change_membership`]: crate::Handle::change_membership
///
/// # Panics
/// When no cluster has so many.
pub const fn directory_group(number: u64) -> GroupId {
    assert!(number < DIRECTORIES_END - DIRECTORIES, "a node has fewer shards");
    DIRECTORIES + number
}

/// The number of the directory that has this name.
pub(crate) fn directory_number(group: GroupId) -> Option<u64> {
    (DIRECTORIES..DIRECTORIES_END).contains(&group).then(|| group - DIRECTORIES)
}

/// What a group, or a directory, is called in texts.
pub(crate) fn name_of(group: GroupId) -> String {
    match directory_number(group) {
        Some(number) => format!("directory {number}"),
        None => format!("group {group}"),
    }
}

/// A group that was made at run time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MadeGroup {
    /// Its name, which is free again once the group was dropped.
    pub group: GroupId,
    /// Its uid, which no other group ever has.
    pub uid: u128,
    /// It is being dropped: nothing more is committed in it.
    pub ending: bool,
}

/// What a caller wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GroupChange {
    /// The group, and how many of its voters choose a value; 0: a majority.
    Create(GroupId, u16),
    Drop(GroupId),
    /// The group, and the shard that it should be on.
    Place(GroupId, usize),
}

impl GroupChange {
    pub(crate) fn group(self) -> GroupId {
        match self {
            Self::Create(group, _) | Self::Drop(group) | Self::Place(group, _) => group,
        }
    }
}

/// Why a group was not made or dropped. Only [`GroupError::Unknown`] leaves it open whether it was, and
/// [`GroupError::Ending`] says that it will be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GroupError {
    /// The node does not take the order: see [`Rejection`]. The leader that is meant is that of the shard's directory.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// There is a group of this name.
    #[error("there is a group {0} already: drop it first, or choose another number")]
    Exists(GroupId),
    /// There is no group of this name.
    #[error("there is no group {0}: see `synod group list`")]
    UnknownGroup(GroupId),
    /// The group is one of those that the configuration names.
    #[error("group {0} is one of the `groups` of the configuration, which are always there; others begin behind them")]
    Configured(GroupId),
    /// The number is none that a group can have.
    #[error("{0} cannot be a group's number: choose one below 2^62")]
    BadNumber(GroupId),
    /// The voters are fewer than are to choose a value, or the witnesses among them are enough.
    #[error(
        "{phase_2} of {voters} voters cannot choose a value: take at most {voters}, more than there are witnesses, or 0 for a \
         majority"
    )]
    Quorum {
        /// How many were to choose.
        phase_2: u16,
        /// How many voters there are.
        voters: usize,
    },
    /// There are as many groups as a shard may have.
    #[error("this shard has {GROUPS_MADE_MAX} groups that were made at run time, and can have no more: drop one first")]
    TooMany,
    /// The node has no such shard.
    #[error("there is no shard {shard}: this cluster's nodes have {shards}, counted from 0")]
    NoSuchShard {
        /// The one that was meant.
        shard: usize,
        /// How many there are.
        shards: usize,
    },
    /// As many groups of the configuration as may be were moved already.
    #[error("{GROUPS_PLACED_MAX} groups were moved already, and no more can be: move those")]
    TooManyPlaced,
    /// The shard's memory of dropped groups is used up.
    #[error("so many groups were dropped since this node started that it makes no more: restart it, or ask another")]
    UsedUp,
    /// Another order for the same group is under way.
    #[error("another order for this group is under way: try again when it is through")]
    Busy,
    /// The group is being dropped, and that goes on: it waits for a quorum of its voters.
    #[error("the group is being dropped; its end waits until a quorum of its voters can be reached")]
    Ending,
    /// The order took no effect, since another leader came before it. Try again.
    #[error("another leader came before the order, which takes no effect: try again")]
    Superseded,
    /// The order was proposed, and what became of it is not known.
    #[error("the order was proposed, and what became of it is not known: see `synod group list`")]
    Unknown,
}

/// The outcome: the group that was made or dropped.
pub type GroupOutcome = Result<MadeGroup, GroupError>;
