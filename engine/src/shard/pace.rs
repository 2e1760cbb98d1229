//! How fast what is missing here is fetched from other nodes' logs.
//!
//! A node that comes back may lack much, in many groups, while all of them get on without it. With a limit
//! (`learn_mib_per_second`), a replica's requests for chosen values wait for their turn, first come first served.
//!
//! Invariants: a request waits only while its replica follows a leader, or has no vote, and not once that leader says that
//! nothing is chosen: it may be this very vote that is missing. An answer's size is known when it is there, so each request
//! is counted as what those before it have brought lately; many bring nothing, as nothing is missing.

use std::collections::VecDeque;

use synod_core::planted::{Bug, is};
use synod_core::{MemberId, Message, Timer};

use super::Shard;
use crate::limits::LEARN_BYTES_MAX;
use crate::marks::{Mark, mark};
use crate::payload::Payload;

/// What was not used of a rate in so short a time may be made up for.
const BURST_NS: u64 = 50_000_000;
/// One of so many parts of what is usual is what the last request has brought.
const USUAL_PARTS: u64 = 4;

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
    /// Its last request is not answered.
    asked: bool,
}

/// When a request goes out.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Turn {
    /// As the rate allows.
    #[default]
    Patient,
    /// Its request waits.
    Waits,
    /// At once: its leader may wait for its vote.
    AtOnce,
}

/// The requests that wait, and for how long.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Without one, none waits.
    rate: Option<Rate>,
    /// What a request brings, lately.
    usual_bytes: u64,
    /// What has come of the answer that is coming in.
    coming_bytes: u64,
    /// Each group that [`Turn::Waits`], and others that did, once.
    waiting: VecDeque<u32>,
}

impl Pace {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self { rate, usual_bytes: LEARN_BYTES_MAX as u64, coming_bytes: 0, waiting: VecDeque::new() }
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

    /// A group is no more.
    pub(super) fn forget(&mut self, at: u32) {
        self.waiting.retain(|of| *of != at);
    }

    /// Whether a request may go now; if so, it is counted.
    fn admits(&mut self, now_ns: u64) -> bool {
        let usual_bytes = self.usual_bytes;
        self.rate.as_mut().is_none_or(|rate| {
            let free = rate.is_free(now_ns);
            if free {
                rate.take(usual_bytes, now_ns);
            }
            free
        })
    }

    /// A value has come in, the last of its answer or not.
    fn note(&mut self, bytes: usize, last: bool) {
        self.coming_bytes += bytes as u64;
        if last {
            let coming = std::mem::take(&mut self.coming_bytes);
            self.usual_bytes = (self.usual_bytes * (USUAL_PARTS - 1) + coming).div_ceil(USUAL_PARTS);
        }
    }
}

/// What a message says about the pace of its group.
#[derive(Clone, Copy, Debug)]
pub(super) enum Paces {
    /// Nothing.
    No,
    /// A chosen value; whether it is the last of its answer.
    Learned(bool),
    /// The leader waits for something to be chosen, or does not.
    Stalled(bool),
}

impl Paces {
    pub(super) fn of(message: &Message<Payload>) -> Self {
        match message {
            Message::Learned { slot, through, .. } => Self::Learned(slot >= through),
            Message::Commit { stalled, .. } => Self::Stalled(*stalled),
            _ => Self::No,
        }
    }
}

impl Shard {
    /// A replica asks for chosen values: now, or when it is its turn.
    pub(super) fn ask_to_learn(&mut self, at: u32, to: MemberId) {
        let group = &mut self.groups[at as usize];
        let waits = group.replica.leader().is_some() || !group.replica.votes();
        let in_turn = waits && group.asking.turn != Turn::AtOnce;
        if in_turn && (self.pace.is_any() || !self.pace.admits(self.now_ns)) {
            mark(Mark::LearnWaits);
            group.asking.turn = Turn::Waits;
            if !std::mem::replace(&mut group.asking.queued, true) {
                self.pace.waiting.push_back(at);
            }
            return;
        }
        if group.asking.turn == Turn::Waits {
            group.asking.turn = Turn::Patient;
        }
        self.send_learn_request(at, to);
    }

    fn send_learn_request(&mut self, at: u32, to: MemberId) {
        let group = &mut self.groups[at as usize];
        if std::mem::replace(&mut group.asking.asked, true) {
            // There was nothing to say, or it came in another way.
            self.pace.note(0, true);
        }
        let from = group.replica.log().chosen().next();
        self.send_message(at, to, &Message::LearnRequest { from });
    }

    /// Whether the group's request waits for its turn: then nobody has let it wait for an answer.
    pub(super) fn learn_waits(&self, at: u32) -> bool {
        let group = &self.groups[at as usize];
        group.asking.turn == Turn::Waits && group.timer.0 == Timer::Learn
    }

    /// A message of `bytes` from `from` was taken in.
    pub(super) fn note_pace(&mut self, at: u32, from: MemberId, paces: Paces, bytes: usize) {
        if self.pace.rate.is_none() {
            return;
        }
        let group = &mut self.groups[at as usize];
        match paces {
            Paces::No => {}
            Paces::Learned(last) => {
                self.pace.note(bytes, last);
                group.asking.asked &= !last;
                if group.replica.asks().is_none() && group.asking.turn == Turn::AtOnce {
                    group.asking.turn = Turn::Patient;
                }
            }
            Paces::Stalled(stalled) => {
                let leads = group.replica.leader().is_some_and(|ballot| ballot.member == from);
                match group.asking.turn {
                    Turn::Patient | Turn::Waits if leads && stalled && !is(Bug::LaggardsNeverHurry) => {
                        let waits = group.asking.turn == Turn::Waits;
                        group.asking.turn = Turn::AtOnce;
                        if let Some(to) = group.replica.asks().filter(|_| waits) {
                            mark(Mark::LearnHurries);
                            self.send_learn_request(at, to);
                            self.arm_timer(at, true);
                        }
                    }
                    Turn::AtOnce if leads && !stalled => group.asking.turn = Turn::Patient,
                    _ => {}
                }
            }
        }
    }

    /// Time has passed: requests whose turn it is are sent.
    pub(super) fn tick_pace(&mut self) {
        while let Some(at) = self.pace.waiting.front().copied() {
            let group = &self.groups[at as usize];
            let asked = group.replica.asks().filter(|_| group.asking.turn == Turn::Waits);
            if asked.is_some() && !self.pace.admits(self.now_ns) {
                return;
            }
            self.pace.waiting.pop_front();
            let asking = &mut self.groups[at as usize].asking;
            asking.queued = false;
            if asking.turn == Turn::Waits {
                asking.turn = Turn::Patient;
            }
            if let Some(to) = asked {
                self.send_learn_request(at, to);
                self.arm_timer(at, true);
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
    fn requests_are_counted_as_what_answers_bring() {
        let mut pace = Pace::new(Some(Rate::new(1000)));
        for _ in 0..100 {
            pace.note(60, false);
            pace.note(40, true);
        }
        assert_eq!(pace.usual_bytes, 103, "rounded up, so that it is never nothing");
        assert!(pace.admits(0));
        assert!(!pace.admits(102_000_000));
        assert!(pace.admits(103_000_000));
    }
}
