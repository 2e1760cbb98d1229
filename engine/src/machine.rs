//! The user's seam: what applies the log.

use crate::batch::Batch;

/// Entries that were committed together, in order.
#[derive(Clone, Copy, Debug)]
pub struct CommittedBatch<'a> {
    /// The slot that holds them.
    pub slot: u64,
    /// The index of the first; the others follow without a gap.
    pub first_index: u64,
    /// The entries.
    pub entries: Batch<'a>,
}

/// A state machine: it gets every committed entry of its group, in order, each once per start of the node.
///
/// It runs on the thread of the group's shard, so `apply` must not block.
pub trait StateMachine: std::any::Any {
    /// The last index whose effect this machine holds durably: entries behind it are handed over again after a
    /// restart, and the log up to it may be trimmed. A machine in memory answers 0 at the start and may then answer
    /// what it has applied only if it can do without the log after a restart. It may be higher than the log's end, when a
    /// power cut has taken the end of the log but not of the machine's data; it never lies within a batch.
    fn durable_index(&self) -> u64;

    /// Applies a batch.
    ///
    /// # Errors
    /// An error stops the node: a state machine that skipped a batch would differ from its peers for ever.
    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}
