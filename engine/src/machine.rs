//! The user's seam: what applies the log.

use std::io;

use crate::batch::Batch;

/// Why a state machine cannot go on.
pub type MachineError = Box<dyn std::error::Error + Send + Sync>;

/// Entries that were committed together, in order.
#[derive(Clone, Copy, Debug)]
pub struct CommittedBatch<'a> {
    /// The slot that holds them; the last one of an entry of more than 1 MiB, which is cut into parts and comes alone.
    pub slot: u64,
    /// The index of the first; the others follow without a gap.
    pub first_index: u64,
    /// The entries.
    pub entries: Batch<'a>,
}

/// A state machine: it gets every committed entry of its group, in order, each once per start of the node.
///
/// It runs on the thread of the group's shard, so `apply` and `checkpoint` must not block. A machine in memory answers 0 as
/// its durable index and takes checkpoints; one on disk keeps the index of the last entry applied in the same transaction
/// as its data, and takes checkpoints for replicas that lag so far that the log no longer has what they need.
pub trait StateMachine: std::any::Any + Send {
    /// The last index whose effect this machine holds durably: entries behind it are handed over again after a
    /// restart, and the log up to it may be trimmed. A machine in memory answers 0. It may be higher than the log's end,
    /// when a power cut has taken the end of the log but not of the machine's data; it lies within a batch only if
    /// [`StateMachine::skips_what_it_holds`].
    fn durable_index(&self) -> u64;

    /// Applies a batch.
    ///
    /// # Errors
    /// An error stops the node: a state machine that skipped a batch would differ from its peers for ever.
    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError>;

    /// Whether [`StateMachine::before_propose`] is asked before entries are proposed. Asked once, when the group is made or
    /// recovered.
    fn prepares_proposals(&self) -> bool {
        false
    }

    /// An entry is about to be proposed, on the node that leads: gives what is proposed in its place, or nothing to propose
    /// it as it is. So what must be the same on all replicas is decided once: a time, a random number, the outcome of a
    /// lookup. The state seen here may be older than what the entry is applied to, since what is in flight is not applied; an
    /// entry that is repeated is prepared again, and one that was prepared may never be committed, so this changes nothing.
    ///
    /// # Errors
    /// An error refuses the entry, and all that was proposed in one batch with it, as
    /// [`Rejection::Refused`](crate::Rejection::Refused).
    fn before_propose(&mut self, entry: &[u8]) -> Result<Option<Vec<u8>>, MachineError> {
        let _ = entry;
        Ok(None)
    }

    /// Whether this machine takes checkpoints. Without them its log can only be trimmed as far as all replicas have it,
    /// and a replica that has lost its data must be given it from a backup.
    fn takes_checkpoints(&self) -> bool {
        false
    }

    /// A frozen view of the whole state, which another thread writes while this machine goes on: cheap to take.
    ///
    /// # Errors
    /// An error is logged, and a checkpoint is tried again later.
    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, MachineError> {
        Err("this state machine takes no checkpoints".into())
    }

    /// Replaces all state by that of a checkpoint, which holds what all entries up to `index` did. Called on a helper
    /// thread, or before the shard runs. A machine on disk has made it durable, as a whole, when this returns.
    ///
    /// # Errors
    /// An error stops the node.
    fn restore(&mut self, index: u64, input: &mut dyn io::Read) -> Result<(), MachineError> {
        let _ = input;
        Err(format!("this state machine takes no checkpoints, so not that of index {index} either").into())
    }

    /// The entries up to `index` behind the last one applied were for other machines of the group: see
    /// [`Router`](crate::Router). A machine on disk notes it with its next write, so that the log can be trimmed.
    fn passed(&mut self, index: u64) {
        let _ = index;
    }

    /// The group was dropped, and this machine goes with it: one that keeps its own data deletes it here, durably, since a
    /// later group may have the same number. It may be told more than once, with some or none of its data left; so is a
    /// machine that is made for a new group, which is then made again.
    fn dropped(&mut self) {}

    /// Whether a batch may be handed over of which this machine holds the first entries already.
    fn skips_what_it_holds(&self) -> bool {
        false
    }
}

/// A frozen view of a state machine's state.
pub trait Checkpoint: Send {
    /// Writes the state; on a helper thread, so it may take its time.
    ///
    /// # Errors
    /// Those of `out`, or why there is nothing to write.
    fn write(self: Box<Self>, out: &mut dyn io::Write) -> io::Result<()>;
}

/// A state of bytes that are there already.
impl Checkpoint for Vec<u8> {
    fn write(self: Box<Self>, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&self)
    }
}
