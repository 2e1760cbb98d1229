//! Reading committed entries back: for tails, for state machines that start behind, for replicas that lag.

use synod_core::Slot;

use super::large::PartReply;
use crate::batch::Entries;
use crate::client::protocol::ReplyV1;
use crate::outcome::GroupId;

/// Committed entries, in order, without a gap.
#[derive(Clone, Debug, Default)]
pub struct CommittedEntries {
    /// The index of the first entry.
    pub first_index: u64,
    /// The entries; none when nothing behind the asked index is committed yet.
    pub entries: Entries,
    /// The index that the next committed entry of the group will get on this node.
    pub next_index: u64,
    /// The first entry comes in so many parts, and is not among these; 0 when it does not.
    pub(crate) parts: u32,
}

/// Why entries cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// The log begins later.
    #[error("the log of this group was trimmed: it begins at index {first_index}")]
    Trimmed {
        /// The first index that is still there.
        first_index: u64,
    },
    /// There is no such group.
    #[error("there is no group {0} on this node")]
    UnknownGroup(GroupId),
    /// The log could not be read.
    #[error("the log could not be read: {0}")]
    Disk(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The group has no leader that this node knows.
    #[error("no leader of the group is known here: enough of its voters must be up; an election takes a moment")]
    NotLeader {
        /// The leader, where one is known by now.
        leader: Option<crate::NodeId>,
    },
    /// What was asked for did not come in time.
    #[error("the time is up: no quorum has answered, or the index is not there yet; read again, or with more time")]
    TimedOut,
    /// Too many reads wait already.
    #[error("too many reads wait: read again later")]
    Overloaded,
    /// The group is on its way to another shard of the node.
    #[error("the group is being moved to another shard of this node, which takes a moment: read again")]
    Moving,
    /// This node keeps no entries.
    #[error("this node is a witness: it keeps no entries and answers no reads; ask another")]
    Witness,
    /// The group has no such state machine on this node.
    #[error("the group has no state machine of this type on this node")]
    NoMachine,
}

/// Who gets the answer to a read.
pub(crate) enum ReadReply {
    /// A client's request: connection and request id.
    Client(u64, u64),
    /// Anyone else.
    Callback(Box<dyn FnOnce(Result<CommittedEntries, ReadError>) + Send>),
}

/// A read of one group.
pub(crate) struct ReadRequest {
    pub(crate) from_index: u64,
    pub(crate) bytes_max: usize,
    /// Wait until there is something, or until this instant; 0: do not wait.
    pub(crate) wait_until_ns: u64,
    /// A large entry comes whole, or it is only said that there is one.
    pub(crate) whole: bool,
    pub(crate) reply: ReadReply,
}

/// What a read from the disk is for.
pub(crate) enum Purpose {
    /// Chosen values for a lagging replica: peer, the slots asked for.
    Learn { group: u32, peer: u8 },
    /// Entries for a reader: the index of each slot's first entry.
    Entries { group: u32, request: ReadRequest, firsts: Vec<u64> },
    /// Entries for the group's machine.
    Machine { group: u32, slots: Vec<(Slot, u64)> },
    /// Parts of a large entry that is being put together.
    Gather { group: u32, number: u64 },
    /// Records of a group that leaves for another shard.
    Leave { group: u32 },
    /// One part: its slot, and the answer without it.
    Part { group: u32, slot: Slot, answer: ReplyV1, reply: PartReply },
}
