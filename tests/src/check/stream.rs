//! What every replica hands to its state machine: one stream of entries per group.
//!
//! Invariants checked: a replica's indexes follow one another without a gap from where it starts; a running hash over
//! the entries is the same on all replicas at each index; a session's sequences only rise, so that none is delivered
//! twice. Memory is bounded: of each group the hashes of the last `window` indexes are kept, and what a replica
//! delivers below them is only counted ([`Streams::unchecked`]).

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A client's session and the sequence of an entry in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sequence {
    /// The session.
    pub client: u64,
    /// Rises by one with each entry.
    pub sequence: u64,
}

/// A stream that broke a promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamViolation {
    /// It skipped or repeated an index.
    #[error("group {group}: replica {replica} delivered index {index} where {expected} follows")]
    Gap {
        /// Whose stream.
        group: u64,
        /// Whose copy.
        replica: u64,
        /// What it delivered.
        index: u64,
        /// What follows.
        expected: u64,
    },
    /// It starts behind everything that any replica has delivered.
    #[error(
        "group {group}: replica {replica} starts at index {index}, but no replica has delivered up to there ({end})"
    )]
    StartsBeyond {
        /// Whose stream.
        group: u64,
        /// Whose copy.
        replica: u64,
        /// Its first index.
        index: u64,
        /// The highest one delivered anywhere.
        end: u64,
    },
    /// It delivers without having started.
    #[error("group {group}: replica {replica} delivered index {index} without a start")]
    NotStarted {
        /// Whose stream.
        group: u64,
        /// Whose copy.
        replica: u64,
        /// What it delivered.
        index: u64,
    },
    /// Two replicas differ.
    #[error(
        "group {group}: at index {index} replica {replica} has hash {hash:#x}, but replica {first} had {agreed:#x}"
    )]
    Diverged {
        /// Whose stream.
        group: u64,
        /// The first index at which they differ.
        index: u64,
        /// The later one.
        replica: u64,
        /// Its hash.
        hash: u64,
        /// The one that delivered the index first.
        first: u64,
        /// Its hash.
        agreed: u64,
    },
    /// A session's sequence was delivered again, or out of its order.
    #[error("group {group}: index {index} delivers {sequence:?}, but the session was at {last} already")]
    Repeated {
        /// Whose stream.
        group: u64,
        /// Where.
        index: u64,
        /// What.
        sequence: Sequence,
        /// The highest sequence before it.
        last: u64,
    },
}

/// The streams of all groups.
#[derive(Debug)]
pub struct Streams {
    window: usize,
    groups: BTreeMap<u64, Stream>,
    unchecked: u64,
}

#[derive(Debug)]
struct Stream {
    /// The hash at `start`, then at each index above it, with the replica that was first to deliver it.
    hashes: VecDeque<(u64, u64)>,
    /// The index of the first hash kept.
    start: u64,
    /// By replica: the last index delivered and the hash there, unless that was forgotten when it started.
    replicas: BTreeMap<u64, (u64, Option<u64>)>,
    /// By session: the highest sequence in the agreed stream.
    sessions: BTreeMap<u64, u64>,
}

impl Streams {
    /// Keeps the hashes of the last `window` indexes of each group.
    pub fn new(window: usize) -> Self {
        assert!(1 <= window);
        Self { window, groups: BTreeMap::new(), unchecked: 0 }
    }

    /// A replica starts to deliver, or does so again after a restart: `index` comes next. It is 1, or what follows a
    /// checkpoint that another replica has made.
    pub fn start(&mut self, group: u64, replica: u64, index: u64) -> Result<(), StreamViolation> {
        assert!(1 <= index, "indexes begin at 1");
        let stream = self.groups.entry(group).or_default();
        if stream.end() < index - 1 {
            return Err(StreamViolation::StartsBeyond { group, replica, index, end: stream.end() });
        }
        stream.replicas.insert(replica, (index - 1, stream.hash(index - 1)));
        Ok(())
    }

    /// A replica delivers an entry.
    pub fn deliver(
        &mut self,
        group: u64,
        replica: u64,
        index: u64,
        entry: &[u8],
        sequence: Option<Sequence>,
    ) -> Result<(), StreamViolation> {
        let stream = self.groups.entry(group).or_default();
        let Some(&(last, before)) = stream.replicas.get(&replica) else {
            return Err(StreamViolation::NotStarted { group, replica, index });
        };
        if index != last + 1 {
            return Err(StreamViolation::Gap { group, replica, index, expected: last + 1 });
        }
        let hash = before.map(|before| chain(before, index, entry, sequence));
        if stream.end() < index {
            let hash = hash.expect("whoever is at the end has a hash: the end is in the window");
            stream.admit(group, index, sequence)?;
            stream.hashes.push_back((hash, replica));
            if self.window < stream.hashes.len() {
                stream.hashes.pop_front();
                stream.start += 1;
            }
            stream.replicas.insert(replica, (index, Some(hash)));
            return Ok(());
        }
        let Some((agreed, first)) = stream.agreed(index) else {
            // Below the window a known hash only grows: it is compared when the window is reached.
            self.unchecked += u64::from(hash.is_none());
            stream.replicas.insert(replica, (index, hash));
            return Ok(());
        };
        match hash {
            Some(hash) if hash != agreed => {
                return Err(StreamViolation::Diverged { group, index, replica, hash, first, agreed });
            }
            Some(_) => {}
            // It started at a forgotten index, and goes on with what the others have.
            None => self.unchecked += 1,
        }
        stream.replicas.insert(replica, (index, Some(agreed)));
        Ok(())
    }

    /// The last index that each replica of a group has delivered.
    pub fn positions(&self, group: u64) -> BTreeMap<u64, u64> {
        let stream = self.groups.get(&group);
        stream
            .into_iter()
            .flat_map(|stream| stream.replicas.iter().map(|(&replica, &(last, _))| (replica, last)))
            .collect()
    }

    /// How many deliveries lay below the window and were not compared.
    pub fn unchecked(&self) -> u64 {
        self.unchecked
    }
}

impl Default for Stream {
    /// Nothing delivered: the hash at index 0 is 0.
    fn default() -> Self {
        let hashes = VecDeque::from([(0, 0)]);
        Self { hashes, start: 0, replicas: BTreeMap::new(), sessions: BTreeMap::new() }
    }
}

impl Stream {
    fn end(&self) -> u64 {
        self.start + self.hashes.len() as u64 - 1
    }

    /// The hash at an index of the window, and who was first there.
    fn agreed(&self, index: u64) -> Option<(u64, u64)> {
        let above = index.checked_sub(self.start)?;
        self.hashes.get(above as usize).copied()
    }

    /// The hash from which a replica goes on; what comes after index 0 never forgets where it began.
    fn hash(&self, index: u64) -> Option<u64> {
        if index == 0 { Some(0) } else { self.agreed(index).map(|(hash, _)| hash) }
    }

    /// Takes an entry's sequence into the agreed stream.
    fn admit(&mut self, group: u64, index: u64, sequence: Option<Sequence>) -> Result<(), StreamViolation> {
        let Some(sequence) = sequence else { return Ok(()) };
        let last = self.sessions.entry(sequence.client).or_insert(0);
        if sequence.sequence <= *last {
            return Err(StreamViolation::Repeated { group, index, sequence, last: *last });
        }
        *last = sequence.sequence;
        Ok(())
    }
}

/// The hash of a stream whose hash was `before`, with one entry more.
fn chain(before: u64, index: u64, entry: &[u8], sequence: Option<Sequence>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (before, index, entry, sequence).hash(&mut hasher);
    hasher.finish()
}
