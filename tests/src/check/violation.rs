//! What a history of clients can show to be wrong, each with the operations that show it.

use super::history::{Append, Freshness, Read};

/// A promise to clients that was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// The test itself is wrong: its payloads are not unique.
    #[error("the test is wrong: {0} and {1} share a payload")]
    PayloadReused(Append, Append),
    /// An entry that nobody appended.
    #[error("the log has payload {payload} at index {index}, which nobody appended")]
    Phantom {
        /// Of the log.
        payload: u64,
        /// Where.
        index: u64,
    },
    /// One append, two entries.
    #[error("{append} is in the log twice, at indexes {first} and {second}")]
    Doubled {
        /// It.
        append: Append,
        /// The lower index.
        first: u64,
        /// The higher index.
        second: u64,
    },
    /// It was acknowledged and is not in the log.
    #[error("lost: {0} is not in the log")]
    Lost(Append),
    /// It was acknowledged for another index.
    #[error("{append} is in the log at index {index}")]
    Moved {
        /// It.
        append: Append,
        /// Where it is.
        index: u64,
    },
    /// It was said never to take effect.
    #[error("{append} took effect: it is in the log at index {index}")]
    TookEffect {
        /// It.
        append: Append,
        /// Where it is.
        index: u64,
    },
    /// Appends of one handle stand in another order than they were asked for.
    #[error("out of the handle's order: at index {index}, before it, stands {later}; after it {earlier}")]
    HandleReordered {
        /// Invoked first.
        earlier: Append,
        /// Invoked later, with a lower index.
        later: Append,
        /// The index of the later one.
        index: u64,
    },
    /// A handle's append took effect though an earlier one of it did not.
    #[error("in order or not at all: {later} is at index {index}, but before it {absent} never took effect")]
    HandleGap {
        /// The first of the handle that is not in the log.
        absent: Append,
        /// A later one that is.
        later: Append,
        /// Its index.
        index: u64,
    },
    /// An append was invoked after one with a higher index had returned.
    #[error("real time: index {low_index} is {low}, but index {high_index} had returned before: {high}")]
    RealTime {
        /// The later one in time.
        low: Append,
        /// Its index.
        low_index: u64,
        /// The earlier one in time.
        high: Append,
        /// Its index.
        high_index: u64,
    },
    /// A read missed what was acknowledged before it.
    #[error("stale: {read} missed {append}, at index {index}")]
    StaleRead {
        /// The reader.
        read: Read,
        /// What it missed.
        append: Append,
        /// Its index.
        index: u64,
    },
    /// A read told of an entry that was appended only later.
    #[error("{read} saw index {index} before it was asked for: {append}")]
    FutureRead {
        /// The reader.
        read: Read,
        /// Invoked after the read had returned.
        append: Append,
        /// Its index.
        index: u64,
    },
    /// A linearizable read saw less than one that had returned before it.
    #[error("the log shrank: {later} came after {earlier}")]
    ReadsWentBack {
        /// Saw more.
        earlier: Read,
        /// Saw less.
        later: Read,
    },
    /// A read told of indexes that the log does not have.
    #[error("{read} saw index {}, but the log ends at {end}", read.seen())]
    BeyondLog {
        /// The reader.
        read: Read,
        /// The log's last index.
        end: u64,
    },
    /// A read told of entries above the tail that it told.
    #[error("{0} told of an entry above its own tail")]
    BeyondTail(Read),
    /// A read told another entry than the log has.
    #[error("{read} told payload {told} at index {index}, where the log has {agreed}")]
    ReadDiffers {
        /// The reader.
        read: Read,
        /// Where.
        index: u64,
        /// What it told.
        told: u64,
        /// What is there.
        agreed: u64,
    },
    /// A read was asked for at least an index and saw less.
    #[error("{0} saw less than it asked for")]
    TooOld(Read),
    /// A client's monotonic read saw less than an earlier one of the same client.
    #[error("client {} went back: {later} came after {earlier}", later.client)]
    ClientWentBack {
        /// Saw more.
        earlier: Read,
        /// Saw less.
        later: Read,
    },
}

impl Read {
    /// Whether it kept the bound that it was asked for.
    pub(super) fn keeps_bound(&self) -> bool {
        match self.freshness {
            Freshness::AtLeast(bound) => self.tail.is_none_or(|tail| bound <= tail),
            Freshness::Linearizable | Freshness::Monotonic | Freshness::Stale => true,
        }
    }
}
