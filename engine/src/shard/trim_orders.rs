//! Trimming on demand: an operator or a database says up to where a group's log is not needed.
//!
//! The log of a shard is one, and goes a segment at a time from its oldest on, so an order can free less than it names: what
//! lies in the same segment as something newer stays until that may go too, and so does what something newer needs to be
//! read after a restart. It frees nothing that a restart, a replica that
//! lags or a reader needs: for that it has checkpoints taken and waits for them, up to its time.

use synod_core::Slot;

use super::Shard;
use super::group::Group;
use super::trim::{Keeps, readable_behind};
use crate::client::protocol::ReplyV1;
use crate::marks::{Mark, mark};
use crate::outcome::GroupId;

/// Orders that a shard carries out at a time.
const ORDERS_MAX: usize = 64;

/// Who is told where the log begins afterwards.
pub(crate) enum TrimReply {
    /// A client's request: connection and request id.
    Client(u64, u64),
    /// Anyone else.
    Callback(Box<dyn FnOnce(Result<u64, String>) + Send>),
}

/// What is to go.
pub(crate) struct TrimOrder {
    at: u32,
    /// The first index that stays.
    before: u64,
    until_ns: u64,
    reply: TrimReply,
}

impl Group {
    /// The last slot all of whose entries have an index below `index`.
    pub(super) fn last_slot_before(&self, index: u64) -> Slot {
        if index >= self.apply.next_index {
            return self.apply.slot;
        }
        let at = self.indexes.partition_point(|(_, first)| *first <= index);
        at.checked_sub(1).map_or(Slot::ZERO, |at| self.indexes[at].0.prev())
    }
}

impl Shard {
    /// Frees what the log holds of a group before an index, and answers with the index at which it begins then. An order
    /// that cannot do all of it in its time is refused with what is in its way; what it has freed stays freed.
    pub(crate) fn trim(&mut self, id: GroupId, before: u64, until_ns: u64, reply: TrimReply) {
        match self.check_trim(id, before) {
            Err(reason) => self.answer_trim(reply, Err(reason)),
            Ok(at) => {
                mark(Mark::TrimOrdered);
                self.trim_orders.push(TrimOrder { at, before, until_ns, reply });
                self.step_trims();
            }
        }
    }

    fn check_trim(&self, id: GroupId, before: u64) -> Result<u32, String> {
        let at = self.group_at(id).ok_or_else(|| format!("there is no group {id} on this node"))?;
        let group = &self.groups[at as usize];
        if before > group.apply.next_index {
            return Err(format!(
                "the log of group {id} ends before index {}: it cannot be trimmed up to {before}",
                group.apply.next_index
            ));
        }
        if let Some(reason) = self.pinned_below(at, before) {
            return Err(reason);
        }
        if self.trim_orders.len() == ORDERS_MAX {
            return Err("too many orders to trim are under way: try again later".into());
        }
        Ok(at)
    }

    fn answer_trim(&mut self, reply: TrimReply, answer: Result<u64, String>) {
        match reply {
            TrimReply::Callback(reply) => reply(answer),
            TrimReply::Client(connection, request) => self.reply(connection, request, &trim_reply(answer)),
        }
    }

    /// Whether an order is about this segment: it holds nothing that the order's group is to keep.
    pub(super) fn trim_is_ordered(&self, generation: u64) -> bool {
        self.trim_orders.iter().any(|order| self.is_ordered_by(order, generation))
    }

    fn is_ordered_by(&self, order: &TrimOrder, generation: u64) -> bool {
        let group = &self.groups[order.at as usize];
        let highest = self.index.segment_slots(generation).find(|(uid, _)| *uid == group.names.uid);
        group.first_index() < order.before
            && highest.is_none_or(|(_, slot)| {
                let slot = self.slot_in(group, generation, Slot(slot));
                let goes = readable_behind(order.at as usize, slot, &self.newer_summaries(generation));
                goes.unwrap_or(slot) <= group.last_slot_before(order.before)
            })
    }

    /// Looks how far the orders are: with each heartbeat, behind the release of segments.
    pub(super) fn step_trims(&mut self) {
        for order in std::mem::take(&mut self.trim_orders) {
            match self.step_trim(&order) {
                None => self.trim_orders.push(order),
                Some(answer) => self.answer_trim(order.reply, answer),
            }
        }
    }

    fn step_trim(&self, order: &TrimOrder) -> Option<Result<u64, String>> {
        let group = &self.groups[order.at as usize];
        let first_index = group.first_index();
        let oldest = self.writer.oldest().filter(|oldest| oldest.sealed);
        let Some(oldest) = oldest.filter(|oldest| self.is_ordered_by(order, oldest.generation)) else {
            return Some(Ok(first_index));
        };
        (order.until_ns <= self.now_ns).then(|| {
            let newer = self.newer_summaries(oldest.generation);
            let slots = self.index.segment_slots(oldest.generation).collect();
            let keeps = (0..self.groups.len())
                .find_map(|at| Some((self.groups[at].names.id, self.keeps(at, oldest.generation, &slots, &newer)?)));
            let reason = match keeps {
                Some((id, keeps)) => format!("group {id} keeps the oldest part of the log, since {}", keeps.reason()),
                None => "the rest takes longer".into(),
            };
            Err(format!("the log now begins at index {first_index}; {reason}"))
        })
    }

    /// A group is no more.
    pub(super) fn forget_trims(&mut self, at: u32) {
        let (gone, rest): (Vec<_>, Vec<_>) = self.trim_orders.drain(..).partition(|order| order.at == at);
        self.trim_orders = rest;
        for order in gone {
            self.answer_trim(order.reply, Err("the group is no longer on this shard".into()));
        }
    }

    /// The node stops.
    pub(super) fn fail_trims(&mut self) {
        for order in std::mem::take(&mut self.trim_orders) {
            self.answer_trim(order.reply, Err("the node is stopping".into()));
        }
    }
}

/// The reply to a client's request.
pub(crate) fn trim_reply(answer: Result<u64, String>) -> ReplyV1 {
    match answer {
        Ok(first_index) => ReplyV1::Trimmed { first_index },
        Err(text) => ReplyV1::Failed { text },
    }
}

impl Keeps {
    fn reason(self) -> &'static str {
        match self {
            Self::Voter => "another replica may need it and there is no checkpoint that it could take instead",
            Self::Unchosen => "it holds proposals that are not chosen yet",
            Self::Machine => "its state machine needs a newer checkpoint, or has not made durable what it applied",
            Self::Reader => "a reader has pinned it, trimming is paused, or `hold_entries` covers it",
            Self::Summary => "the next segment's summary of the votes is not durable yet",
        }
    }
}
