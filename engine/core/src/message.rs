//! What travels between the replicas of a group.
//!
//! [`Vote`]s say something about the sender's durable state, so they leave only behind a durable record;
//! [`Message`]s may leave at once.

use crate::ids::{Ballot, Slot};
use crate::value::Value;

/// A message that rests on a durable record of its sender.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Vote<P> {
    /// Phase 1a. The candidate's own promise at `ballot` is durable first, so that no ballot is begun twice.
    Prepare {
        /// The candidate's ballot.
        ballot: Ballot,
        /// Counts the candidate's tries at this ballot: reports of different tries are not mixed.
        attempt: u32,
        /// The version of the configuration that the ballot is begun under.
        version: u64,
        /// The ballot of the leader that ordered the candidate to take over; zero: nobody did.
        order: Ballot,
    },
    /// Phase 1b: a promise, whole once `reports` messages [`Vote::Report`] of the same ballot and attempt are there.
    Promise {
        /// What was asked.
        ballot: Ballot,
        /// What was asked.
        attempt: u32,
        /// All slots up to here are chosen. The candidate learns them and never fills there.
        chosen: Slot,
        /// How many slots above `chosen` the acceptor holds a value for.
        reports: u32,
    },
    /// Phase 1b: what the acceptor holds in one slot above its chosen prefix.
    Report {
        /// What was asked.
        ballot: Ballot,
        /// What was asked.
        attempt: u32,
        /// The slot.
        slot: Slot,
        /// The ballot at which it was accepted.
        accepted: Ballot,
        /// The value.
        value: Value<P>,
    },
    /// Phase 2b, cumulative: every slot from the ballot's first to `up_to` is durably accepted here at `ballot`, or
    /// known here as chosen.
    Accepted {
        /// The leader's ballot.
        ballot: Ballot,
        /// The end of the unbroken run.
        up_to: Slot,
        /// The chosen prefix that the acceptor's durable log bears: what it will not ask for again.
        stable: Slot,
    },
}

/// A message that may leave at once.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message<P> {
    /// Would you promise at this ballot? Changes nothing at the one asked.
    PreVote {
        /// The ballot that the asker would begin.
        ballot: Ballot,
        /// The version of the configuration that it would be begun under.
        version: u64,
    },
    /// The answer to a [`Message::PreVote`].
    PreVoteReply {
        /// What was asked.
        ballot: Ballot,
        /// Whether a Prepare would find a promise here.
        granted: bool,
        /// The highest ballot promised here.
        promised: Ballot,
    },
    /// Phase 2a.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// The ballot's first slot: the one behind the leader's chosen prefix after phase 1.
        first: Slot,
        /// The slot.
        slot: Slot,
        /// The leader's chosen prefix: slots `first` to here were chosen by votes at `ballot`.
        chosen: Slot,
        /// The value.
        value: Value<P>,
    },
    /// A gap: the acceptor waits for this slot, and the leader goes back to it.
    Expected {
        /// The leader's ballot.
        ballot: Ballot,
        /// The slot that the acceptor can take next.
        next: Slot,
    },
    /// A Prepare or an Accept below what is promised here.
    Reject {
        /// The ballot that was refused.
        ballot: Ballot,
        /// The ballot promised here.
        promised: Ballot,
    },
    /// Commit knowledge: slots `first` to `chosen` were chosen by votes at `ballot`.
    Commit {
        /// The leader's ballot.
        ballot: Ballot,
        /// The ballot's first slot.
        first: Slot,
        /// The leader's chosen prefix.
        chosen: Slot,
        /// Every voter's durable log bears a chosen prefix of at least this: nobody will ask for what is below.
        low: Slot,
        /// The leader has waited in vain for something to be chosen: it may need the one addressed.
        stalled: bool,
    },
    /// Asks for chosen values from `from` on.
    LearnRequest {
        /// The first slot wanted.
        from: Slot,
    },
    /// A chosen value. Only sent by one who knows that it is chosen.
    Learned {
        /// The slot.
        slot: Slot,
        /// The end of what this answer brings; the asker goes on from there.
        through: Slot,
        /// The value.
        value: Value<P>,
    },
    /// The one addressed lacks a configuration that governs: it must learn first.
    Behind {
        /// The sender's chosen prefix, which bears it.
        chosen: Slot,
    },
    /// The leader of `ballot` no longer leads.
    Resign {
        /// The ballot given up.
        ballot: Ballot,
    },
    /// The leader of `ballot` orders the one addressed to take over at once.
    Campaign {
        /// The ballot that orders it.
        ballot: Ballot,
    },
}
