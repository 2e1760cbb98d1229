//! Which replicas a shard's groups began with.

use super::Shard;
use crate::peers::Genesis;

impl Shard {
    /// The shard's founders are known: the voters of all its groups at the beginning, this node's first replica among them.
    /// Told once, when the shard is made or when contact with the last of them was mutual, and never changed. A shard that
    /// is not told must not vote.
    pub(crate) fn found(&mut self, genesis: &Genesis) {
        tracing::debug!(shard = self.shard.0, ?genesis, "the founders are known");
    }
}
