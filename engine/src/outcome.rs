//! What becomes of a proposal, and the types that name it.

use synod_core::Ballot;

/// A group's number on its node and in its cluster.
pub type GroupId = u64;
/// A node's number in its cluster; never 0.
pub type NodeId = u64;

/// A leader's ballot as users see it: it grows with every change of leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub(crate) Ballot);

impl Epoch {
    /// A number that grows with every change of leader of the group.
    pub fn number(self) -> u64 {
        self.0.pack()
    }
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where entries were committed: durably, on a quorum, in this order for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The slot that holds them; the last one of an entry that is cut into parts.
    pub slot: u64,
    /// The index of the first of them; the others follow without a gap.
    pub first_index: u64,
    /// How many.
    pub count: u32,
}

/// What has no room for a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Overload {
    /// The mailbox of the group's shard: its thread does not keep up.
    Shard,
    /// The queue of the group: its slots do not keep up.
    Group,
    /// The shard's memory for values that are not applied yet.
    Memory,
    /// The log has `wal_mib_max`, and something keeps it: a replica that is away, a reader's pin, a missing checkpoint.
    Log,
    /// The log's index has twice `index_mib`.
    Index,
    /// The disk.
    Disk,
    /// Nothing is full, but it waited longer than `queue_ms_max`.
    Wait,
    /// The session has as many unsettled batches as it may.
    Session,
    /// The state machine, which prepares proposals and is being restored.
    Machine,
    /// As many large entries wait to be proposed as may, of the shard or the node.
    Large,
}

impl Overload {
    /// All of them; an archive has their places here.
    pub(crate) const ALL: [Self; 10] = [
        Self::Shard,
        Self::Group,
        Self::Memory,
        Self::Log,
        Self::Index,
        Self::Disk,
        Self::Wait,
        Self::Session,
        Self::Machine,
        Self::Large,
    ];

    /// When it is worth to try again, where nothing is measured.
    pub(crate) fn retry_after_ms(self) -> u32 {
        match self {
            // The next tick.
            Self::Shard | Self::Group | Self::Memory | Self::Wait | Self::Session => 5,
            Self::Large => 100,
            Self::Log | Self::Index | Self::Machine => 500,
            Self::Disk => 1000,
        }
    }

    /// The refusal.
    pub(crate) fn rejection(self) -> Rejection {
        Rejection::Overloaded { what: self, retry_after_ms: self.retry_after_ms() }
    }
}

impl std::fmt::Display for Overload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shard => "the shard's mailbox is full",
            Self::Group => "the group's queue is full",
            Self::Memory => "the shard's memory for values in flight is full",
            Self::Log => {
                "the log has reached wal_mib_max: bring back replicas that are away, unpin what readers do not need, or \
                 have checkpoints taken"
            }
            Self::Index => "the log's index has reached twice index_mib",
            Self::Disk => "the disk is full",
            Self::Wait => "it has waited longer than queue_ms_max",
            Self::Session => "the session has too many unsettled batches",
            Self::Machine => "the state machine prepares proposals, and is being restored",
            Self::Large => "too many entries of more than 1 MiB wait to be proposed",
        })
    }
}

/// Why a proposal was refused before it was proposed: it never takes effect, and may be tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// Another node leads the group, or none does yet.
    #[error("this node does not lead the group{}", match leader { Some(l) => format!("; node {l} does"), None => String::new() })]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// There is no room for it now. Try again later.
    #[error("overloaded: {what}; try again in {retry_after_ms} ms")]
    Overloaded {
        /// What is full.
        what: Overload,
        /// When there may be room again, in milliseconds: a guess.
        retry_after_ms: u32,
    },
    /// An entry or a batch is over its limit.
    #[error("an entry is larger than 64 MiB, or a batch of several larger than 512 KiB")]
    TooLarge,
    /// There is no such group.
    #[error("there is no such group on this node")]
    UnknownGroup,
    /// The handle's epoch has ended, or it was refused once: reopen it.
    #[error("the handle's epoch has ended or a proposal of it was refused: open a new one")]
    HandleClosed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The group is being dropped: it takes nothing more.
    #[error("the group is being dropped, and takes nothing more")]
    GroupDropped,
    /// The group's state machine refuses it: see [`StateMachine::before_propose`](crate::StateMachine::before_propose).
    #[error("the group's state machine refuses the entry: the leader's log at level debug says why")]
    Refused,
}

/// What became of a proposal that was not committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Never proposed.
    #[error("rejected: {0}")]
    Rejected(#[from] Rejection),
    /// Its slot holds another value, or it is void: it never takes effect.
    #[error("superseded by another leader: it never takes effect")]
    Superseded,
    /// Its session committed it before, so long ago that the position is no longer known: it is in the log once. Take it
    /// for done. (A batch that was committed lately and is repeated gives `Ok`, with its position.)
    #[error("already committed in this session, at a position that is no longer remembered: take it for done")]
    Duplicate,
    /// Its sequence does not follow its session: it does not take effect. Repeat first what comes before it.
    #[error("the sequence does not follow the session: repeat first what comes before it")]
    OutOfSession,
    /// Its session has ended: closed, not used for too long, or displaced by others. It does not take effect now or later
    /// in this session, but whether it did before is not known. Look for it in the log, and open a new session.
    #[error(
        "the session has expired, and whether these entries were committed before is unknown: look for them in the log, \
         then open a new session"
    )]
    SessionExpired,
    /// It may take effect or not: leadership was lost, or the time was up, while it was in flight. Look for it in the
    /// log, or repeat it in a session.
    #[error("unknown: it may take effect or not; look for it in the log, or use a session")]
    Unknown,
}

/// The outcome of a proposal.
pub type Outcome = Result<Committed, ProposeError>;
