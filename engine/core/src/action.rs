//! What a replica asks of its caller.

use crate::ids::{Ballot, MemberId, Slot};
use crate::message::{Message, Vote};
use crate::value::Value;

/// Counts the records of one replica since it was started, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct RecordSeq(pub u64);

/// A record for the replica's log. Each also bears the replica's chosen prefix at that moment: a hint that is valid
/// once the record is durable, since the values up to there were appended before.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Record<P> {
    /// The replica promised `ballot`.
    Promise {
        /// The new promise.
        ballot: Ballot,
    },
    /// The replica accepted a value, and promised its ballot with that.
    Accept {
        /// The slot.
        slot: Slot,
        /// The ballot of the vote.
        ballot: Ballot,
        /// The ballot's first slot.
        first: Slot,
        /// The value.
        value: Value<P>,
    },
    /// The replica learned a chosen value. It beats what was accepted there and does not touch the promise.
    Learned {
        /// The slot.
        slot: Slot,
        /// The value.
        value: Value<P>,
    },
    /// All slots up to here are chosen, and what they did was taken over from another replica.
    Installed {
        /// The slot.
        slot: Slot,
    },
    /// Nothing but the chosen prefix, for a group that has gone quiet.
    Chosen,
}

/// One thing for the caller to do. The order of actions is the order of doing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action<P> {
    /// Append to the log, behind everything appended before. [`crate::Replica::durable`] reports it later.
    Persist {
        /// The number of this record.
        seq: RecordSeq,
        /// The replica's chosen prefix, which the record bears.
        chosen: Slot,
        /// The record.
        record: Record<P>,
    },
    /// Send now.
    Send {
        /// To whom; never the replica itself.
        to: MemberId,
        /// What.
        message: Message<P>,
    },
    /// Send when record `seq` and all before it are durable; never earlier.
    SendAfter {
        /// The record that must be durable first.
        seq: RecordSeq,
        /// To whom; never the replica itself.
        to: MemberId,
        /// What.
        vote: Vote<P>,
    },
    /// The chosen prefix has grown to `up_to`: apply in order.
    Chosen {
        /// The new end of the chosen prefix.
        up_to: Slot,
    },
    /// Send chosen values from `from` on, from memory or from the log.
    ServeLearn {
        /// Who asks.
        to: MemberId,
        /// The first slot wanted; at most the chosen prefix.
        from: Slot,
    },
    /// This replica has begun to lead at `ballot` and will take proposals once its epoch start is chosen.
    Elected {
        /// Its ballot.
        ballot: Ballot,
    },
    /// This replica leads no longer: what is in flight has an unknown outcome.
    SteppedDown {
        /// The ballot it led.
        ballot: Ballot,
    },
    /// This replica follows the leader of `ballot` from now on.
    Follows {
        /// The leader's ballot.
        ballot: Ballot,
    },
    /// Another configuration governs from now on: [`crate::Replica::configuration`] has it.
    Reconfigured,
    /// A replica without a vote has caught up with this leader, which may give it one.
    CaughtUp {
        /// The replica.
        outsider: MemberId,
    },
    /// Arm the timer afresh, even if its kind has not changed.
    RestartTimer,
}
