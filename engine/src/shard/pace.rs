//! How fast what is missing here is fetched from other nodes' logs.
//!
//! A node that comes back may lack much, in many groups, while all of them get on without it. Its replicas' requests for
//! chosen values take turns, first come first served: few are under way at a time, each is done only when what it brought
//! is durable, and while anything is chosen meanwhile, which they could hold up, all together bring so many bytes per second
//! (`learn_mib_per_second`), but always more than what is chosen in the groups that lag.
//!
//! Invariants: a request waits only while its replica follows a leader, or has no vote, and not once that leader says that
//! nothing is chosen: it may be this very vote that is missing. What is under way ends whatever becomes of the answer: by
//! the replica's next request, or when it asks no more.

use std::collections::VecDeque;

use synod_core::planted::{Bug, is};
use synod_core::{MemberId, Message, RecordSeq, Slot, Timer};
use synod_wal::record::RecordHeader;

use super::Shard;
use crate::limits::LEARN_BYTES_MAX;
use crate::marks::{Mark, mark};
use crate::payload::Payload;
use crate::wire::value_chosen;

/// What was not used of a rate in so short a time may be made up for.
const BURST_NS: u64 = 50_000_000;
/// When nothing was chosen for so long, nothing is held up. Longer than the wait for a request's turn: where all lags, it is
/// answers that tell of what is chosen.
const QUIET_NS: u64 = 1_000_000_000;
/// What a value costs besides its bytes, in bytes.
const VALUE_BYTES: u64 = 1 << 10;
/// Requests that may be under way.
pub(super) const REQUESTS_MAX: usize = 8;
/// Those among them whose groups' last answers were full.
const FULL_MAX: usize = 2;
/// What is learned is at least so much of what is chosen meanwhile: else a replica would never catch up.
const GAIN: (u64, u64) = (3, 2);
/// When so many slots are learned or chosen, the counts of both are halved.
const GAIN_SLOTS: u64 = 1 << 14;

/// So many bytes per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    bytes_per_second: u64,
    free_ns: u64,
}

impl Rate {
    /// # Panics
    /// When it is nothing at all.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        assert!(bytes_per_second > 0);
        Self { bytes_per_second, free_ns: 0 }
    }

    pub(super) fn is_free(&self, now_ns: u64) -> bool {
        self.free_ns <= now_ns
    }

    pub(super) fn take(&mut self, bytes: u64, now_ns: u64) {
        let from_ns = self.free_ns.max(now_ns.saturating_sub(BURST_NS));
        self.free_ns = from_ns + bytes.saturating_mul(1_000_000_000) / self.bytes_per_second;
    }
}

/// How a group's replica asks for chosen values.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Asking {
    turn: Turn,
    /// It has a place in the queue, also when it no longer waits.
    queued: bool,
    /// Its last answer was as large as answers get: more will come.
    full: bool,
    /// What answers say is chosen elsewhere, since something was missing; zero while none does.
    known: Slot,
}

/// When a request goes out.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Turn {
    /// As its turn comes.
    #[default]
    Patient,
    /// Its request waits.
    Waits,
    /// At once: its leader may wait for its vote.
    AtOnce,
}

/// A request that takes the place of others.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    at: u32,
    full: bool,
    /// The group's last record when it was answered.
    answered: Option<RecordSeq>,
}

/// The requests that are under way, and those that wait.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Without one, they come as fast as they are dealt with.
    rate: Option<Rate>,
    under_way: Vec<UnderWay>,
    /// Each group that [`Turn::Waits`], and others that did, once.
    waiting: VecDeque<u32>,
    /// What has come of the answer that is coming in.
    coming_bytes: usize,
    /// When something was chosen that did not wait for this.
    stirred_ns: u64,
    /// Slots that were learned lately, and that were chosen meanwhile in the groups that learn.
    learned: u64,
    chosen: u64,
}

impl Pace {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self {
            rate,
            under_way: Vec::with_capacity(REQUESTS_MAX),
            waiting: VecDeque::new(),
            coming_bytes: 0,
            stirred_ns: 0,
            learned: 0,
            chosen: 0,
        }
    }

    /// Whether any request may wait.
    pub(super) fn is_any(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Groups in the queue.
    #[cfg(feature = "simulation")]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests under way.
    #[cfg(feature = "simulation")]
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// A group is no more.
    pub(super) fn forget(&mut self, at: u32) {
        self.waiting.retain(|of| *of != at);
        self.under_way.retain(|of| of.at != at);
    }

    /// Whether a group's request may go now; its last answer was full or not.
    fn has_room(&self, at: u32, full: bool, now_ns: u64) -> bool {
        let other = self.under_way.iter().all(|of| of.at != at);
        let fulls = self.under_way.iter().filter(|of| of.full).count();
        let fits = other && self.under_way.len() < REQUESTS_MAX && (!full || fulls < FULL_MAX);
        fits && (!self.is_limited(now_ns) || self.rate.is_none_or(|rate| rate.is_free(now_ns)))
    }

    /// Something is being chosen.
    pub(super) fn stir(&mut self, now_ns: u64) {
        self.stirred_ns = now_ns;
    }

    /// Whether the rate holds now.
    fn is_limited(&self, now_ns: u64) -> bool {
        !self.falls_behind() && now_ns < self.stirred_ns + QUIET_NS
    }

    /// Whether too little was learned lately for what was chosen meanwhile.
    fn falls_behind(&self) -> bool {
        self.learned * GAIN.1 < self.chosen * GAIN.0
    }

    /// The group's request, if one is under way, is answered or given up: it is done when the record `last` is durable.
    fn end(&mut self, at: u32, last: RecordSeq) {
        if let Some(of) = self.under_way.iter_mut().find(|of| of.at == at) {
            of.answered.get_or_insert(last);
        }
    }

    /// A value of `bytes` has come in that its group has waited for in turn.
    fn pay(&mut self, bytes: usize, now_ns: u64) {
        // What came without a limit is no debt: until it is paid nothing would be asked, and nobody would say how much more
        // is chosen.
        if self.is_limited(now_ns)
            && let Some(rate) = &mut self.rate
        {
            rate.take(bytes as u64 + VALUE_BYTES, now_ns);
        }
    }

    /// A value has come in for a group that lacks much, and so many slots more are chosen in it.
    fn count(&mut self, chosen: u64) {
        self.learned += 1;
        self.chosen += chosen.min(GAIN_SLOTS);
        if self.learned.max(self.chosen) >= GAIN_SLOTS {
            self.learned /= 2;
            self.chosen /= 2;
        }
    }

    /// A value of `bytes` has come in. Gives the size of its answer when it was the last one of it.
    fn answer_bytes(&mut self, bytes: usize, last: bool) -> Option<usize> {
        self.coming_bytes += bytes;
        last.then(|| std::mem::take(&mut self.coming_bytes))
    }
}

/// What a message says about the pace of its group.
#[derive(Clone, Copy, Debug)]
pub(super) enum Paces {
    /// Nothing.
    No,
    /// A chosen value: whether it is the last of its answer, and what its sender knows to be chosen.
    Learned { last: bool, chosen: Slot },
    /// The leader waits for something to be chosen, or does not.
    Stalled(bool),
}

impl Paces {
    pub(super) fn of(message: &Message<Payload>, header: &RecordHeader) -> Self {
        match message {
            Message::Learned { slot, through, .. } => {
                Self::Learned { last: slot >= through, chosen: value_chosen(header) }
            }
            Message::Commit { stalled, .. } => Self::Stalled(*stalled),
            _ => Self::No,
        }
    }
}

impl Shard {
    /// Whether a replica's requests wait for their turn: nobody waits for its vote.
    fn takes_turns(&self, at: u32) -> bool {
        let group = &self.groups[at as usize];
        (group.replica.leader().is_some() || !group.replica.votes()) && group.asking.turn != Turn::AtOnce
    }

    /// A replica asks for chosen values: now, or when it is its turn.
    pub(super) fn ask_to_learn(&mut self, at: u32, to: MemberId) {
        let in_turn = self.takes_turns(at);
        let group = &self.groups[at as usize];
        self.pace.end(at, group.appended);
        if in_turn && (self.pace.is_any() || !self.may_ask(at)) {
            mark(Mark::LearnWaits);
            let asking = &mut self.groups[at as usize].asking;
            asking.turn = Turn::Waits;
            if !std::mem::replace(&mut asking.queued, true) {
                self.pace.waiting.push_back(at);
            }
            return;
        }
        self.send_learn_request(at, to);
    }

    /// Whether a group's request may go now.
    fn may_ask(&mut self, at: u32) -> bool {
        let groups = &self.groups;
        self.pace.under_way.retain_mut(|of| {
            let group = &groups[of.at as usize];
            if group.replica.asks().is_none() {
                of.answered.get_or_insert(group.appended);
            }
            of.answered.is_none_or(|last| group.durable < last)
        });
        self.pace.has_room(at, groups[at as usize].asking.full, self.now_ns)
    }

    fn send_learn_request(&mut self, at: u32, to: MemberId) {
        let group = &mut self.groups[at as usize];
        if group.asking.turn == Turn::Waits {
            group.asking.turn = Turn::Patient;
        }
        let (full, chosen) = (group.asking.full, group.replica.log().chosen());
        // Who has no vote asks round, and is not answered where there is nothing new.
        let lacks = group.replica.votes() || group.asking.known > chosen;
        if lacks && self.takes_turns(at) {
            self.pace.under_way.push(UnderWay { at, full, answered: None });
        }
        self.send_message(at, to, &Message::LearnRequest { from: chosen.next() });
    }

    /// Whether the group's request waits for its turn: then nobody has let it wait for an answer.
    pub(super) fn learn_waits(&self, at: u32) -> bool {
        let group = &self.groups[at as usize];
        group.asking.turn == Turn::Waits && group.timer.0 == Timer::Learn
    }

    /// A message of `bytes` comes in, and is not taken in yet.
    pub(super) fn note_answer(&mut self, at: u32, paces: Paces, bytes: usize) {
        let Paces::Learned { last, chosen } = paces else { return };
        let in_turn = self.takes_turns(at);
        let asking = &mut self.groups[at as usize].asking;
        let more = if asking.known == Slot::ZERO { 0 } else { chosen.0.saturating_sub(asking.known.0) };
        asking.known = asking.known.max(chosen);
        if more > 0 {
            self.pace.stir(self.now_ns);
        }
        if in_turn {
            self.pace.pay(bytes, self.now_ns);
            if asking.full {
                self.pace.count(more);
            }
        }
        if let Some(bytes) = self.pace.answer_bytes(bytes, last) {
            asking.full = bytes >= LEARN_BYTES_MAX / 2;
        }
    }

    /// A message from `from` was taken in.
    pub(super) fn note_pace(&mut self, at: u32, from: MemberId, paces: Paces) {
        let group = &mut self.groups[at as usize];
        let turn = &mut group.asking.turn;
        match paces {
            Paces::No => {}
            Paces::Learned { .. } if group.replica.asks().is_none() => {
                // Nothing is missing any more.
                let queued = group.asking.queued;
                group.asking = Asking { queued, ..Asking::default() };
            }
            Paces::Learned { .. } => {}
            Paces::Stalled(stalled) => {
                let leads = group.replica.leader().is_some_and(|ballot| ballot.member == from);
                match *turn {
                    Turn::Patient | Turn::Waits if leads && stalled && !is(Bug::LaggardsNeverHurry) => {
                        let waits = std::mem::replace(turn, Turn::AtOnce) == Turn::Waits;
                        if let Some(to) = group.replica.asks().filter(|_| waits) {
                            mark(Mark::LearnHurries);
                            self.send_learn_request(at, to);
                            self.arm_timer(at, true);
                        }
                    }
                    Turn::AtOnce if leads && !stalled => *turn = Turn::Patient,
                    _ => {}
                }
            }
        }
    }

    /// Time has passed, or something has become durable: requests whose turn it is are sent.
    pub(super) fn send_requests(&mut self) {
        while let Some(at) = self.pace.waiting.front().copied() {
            let group = &self.groups[at as usize];
            let asked = group.replica.asks().filter(|_| group.asking.turn == Turn::Waits);
            if asked.is_some() && !self.may_ask(at) {
                return;
            }
            self.pace.waiting.pop_front();
            let asking = &mut self.groups[at as usize].asking;
            asking.queued = false;
            if let Some(to) = asked {
                self.send_learn_request(at, to);
                self.arm_timer(at, true);
            } else if asking.turn == Turn::Waits {
                asking.turn = Turn::Patient;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_on_average_and_nothing_is_saved_up() {
        let mut rate = Rate::new(1000);
        assert!(rate.is_free(0));
        rate.take(500, 0);
        assert!(!rate.is_free(499_999_999));
        assert!(rate.is_free(500_000_000));
        // What was free for long allows no burst.
        rate.take(1000, 10_000_000_000);
        assert!(!rate.is_free(10_949_000_000));
        assert!(rate.is_free(10_950_000_000));
    }

    #[test]
    fn few_requests_are_under_way_and_fewer_of_those_that_bring_much() {
        let mut pace = Pace::new(None);
        for at in 0..FULL_MAX as u32 {
            assert!(pace.has_room(99, true, 0));
            pace.under_way.push(UnderWay { at, full: true, answered: None });
        }
        assert!(!pace.has_room(99, true, 0));
        for at in FULL_MAX as u32..REQUESTS_MAX as u32 {
            assert!(pace.has_room(99, false, 0));
            pace.under_way.push(UnderWay { at, full: false, answered: None });
        }
        assert!(!pace.has_room(99, false, 0));
    }

    #[test]
    fn a_rate_holds_only_while_more_is_learned_than_is_chosen() {
        const S: u64 = 1_000_000_000;
        let mut pace = Pace::new(Some(Rate::new(VALUE_BYTES)));
        pace.stir(S);
        pace.pay(VALUE_BYTES as usize, S);
        pace.count(0);
        let until = |pace: &Pace| (S..4 * S).step_by(S as usize / 100).find(|now_ns| pace.has_room(99, true, *now_ns));
        assert!(!pace.has_room(99, true, S + QUIET_NS - 1));
        assert_eq!(until(&pace), Some(S + QUIET_NS), "nothing is chosen any more");
        pace.stir(3 * S);
        assert_eq!(until(&pace), Some(3 * S - BURST_NS));
        pace.count(0);
        pace.count(2);
        assert_eq!(until(&pace), Some(3 * S - BURST_NS), "three for two is enough");
        pace.count(1);
        assert_eq!(until(&pace), Some(S), "four for three is not");
        pace.pay(VALUE_BYTES as usize, S);
        pace.count(0);
        assert_eq!(until(&pace), Some(3 * S - BURST_NS), "what had to come is no debt");
    }
}
