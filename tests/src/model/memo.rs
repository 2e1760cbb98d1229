//! What was worked out already: the same event at the same voter has the same outcome in every state.
//!
//! There are far fewer states of one voter than of the whole, so nearly every step is found here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex};

use super::packet::digest;
use super::turn::{Outcome, run, voter_of};
use super::voter::Sealed;
use super::{Bug, Step};

/// So that the checker's threads seldom wait for each other.
const SHARDS: usize = 256;

/// Takes a key, which is a digest already, for its own hash.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are whole numbers");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// An outcome; `None` when the core panicked.
type Known = Option<Arc<Outcome>>;

pub(super) struct Memo(Vec<Mutex<HashMap<u64, Known, BuildHasherDefault<Ready>>>>);

impl Default for Memo {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Memo {
    /// The outcome of a step among `voters`; `None` when the core panicked.
    pub(super) fn outcome(&self, voters: &[Arc<Sealed>], step: &Step, bug: Option<Bug>) -> Known {
        let before = &voters[voter_of(step)];
        // A voter's digest has its number in it, and a packet's the one that it is for.
        let (event, peer) = match step {
            Step::Deliver(packet) => (packet.digest(), None),
            Step::Campaign(_, other) => (digest(&(*other, voters[*other].digest)), Some(&voters[*other].voter)),
            Step::Sync(_) => (digest(&1), None),
            Step::Retry(_) => (digest(&2), None),
            Step::Propose(_) => (digest(&3), None),
            Step::Heartbeat(_) => (digest(&4), None),
            Step::Crash(_) => (digest(&5), None),
        };
        let key = before.digest.rotate_left(17).wrapping_add(event);
        let shard = &self.0[(key >> 8) as usize % SHARDS];
        if let Some(known) = shard.lock().expect("no holder panics").get(&key) {
            return known.clone();
        }
        let outcome = run(&before.voter, peer, step, bug).map(Arc::new);
        shard.lock().expect("no holder panics").insert(key, outcome.clone());
        outcome
    }
}
