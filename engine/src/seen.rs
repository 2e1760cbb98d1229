//! How far the votes of the peers' replicas have been seen: up to which sequence of its log each one's votes rest.
//!
//! A peer whose log ends below what others have seen of it has lost votes. Shards note what comes in, and every
//! handshake tells the peer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::outcome::NodeId;

/// The table, shared by the node and its shards.
#[derive(Default, Debug)]
pub(crate) struct Seen {
    highest: Mutex<HashMap<(usize, NodeId), (u128, u64)>>,
}

impl Seen {
    /// A vote of a peer's replica came in that rests on this sequence of its log.
    pub(crate) fn note(&self, shard: usize, node: NodeId, replica: u128, sequence: u64) {
        let mut highest = self.highest();
        let seen = highest.entry((shard, node)).or_insert((replica, sequence));
        // A new log has sequences of its own.
        *seen = if seen.0 == replica { (replica, seen.1.max(sequence)) } else { (replica, sequence) };
    }

    /// The replica of a peer that was seen last, and how far.
    pub(crate) fn of(&self, shard: usize, node: NodeId) -> Option<(u128, u64)> {
        self.highest().get(&(shard, node)).copied()
    }

    fn highest(&self) -> MutexGuard<'_, HashMap<(usize, NodeId), (u128, u64)>> {
        // Each change is a single step, so what a panicking thread leaves is whole.
        self.highest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_sequence_of_the_latest_log_is_kept() {
        let seen = Seen::default();
        assert_eq!(seen.of(0, 1), None);
        seen.note(0, 1, 7, 5);
        seen.note(0, 1, 7, 3);
        assert_eq!(seen.of(0, 1), Some((7, 5)));
        seen.note(0, 1, 8, 2);
        assert_eq!(seen.of(0, 1), Some((8, 2)));
        assert_eq!((seen.of(1, 1), seen.of(0, 2)), (None, None));
    }
}
