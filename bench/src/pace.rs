//! When entries are due, and what became of them: the part of a load that does not care how entries travel.
//!
//! Invariants: in a closed loop at most `window` entries of a group are outstanding; in an open loop the schedule never
//! waits, so that what was due during a stall counts from its due time; an entry is settled exactly once; a producer
//! number is given up at the first entry of it that was not committed.

use crate::conditions::Load;
use crate::messages::Sample;
use crate::verify::{Acknowledged, Stamp};

const NS_PER_SECOND: u128 = 1_000_000_000;

/// When entries are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// When an earlier one is settled.
    Closed {
        /// Outstanding entries per lane.
        window: u64,
    },
    /// At fixed times.
    Open(Schedule),
}

/// Fixed times: the entries of all lanes in turn, evenly spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    start_ns: u64,
    rate: u64,
    lanes: u64,
}

impl Pace {
    /// The pace of `load` over `lanes` groups, from `now_ns` on.
    ///
    /// # Panics
    /// Without lanes, or at a rate of 0.
    #[must_use]
    pub fn new(load: Load, lanes: u64, now_ns: u64) -> Self {
        assert!(0 < lanes, "a load has at least one group");
        match load {
            Load::Closed { window } => Self::Closed { window: window.into() },
            Load::Open { rate } => {
                assert!(0 < rate, "a rate is positive");
                Self::Open(Schedule { start_ns: now_ns, rate, lanes })
            }
        }
    }
}

impl Schedule {
    /// The time when entry `number` (over all lanes, from 0) is due.
    #[must_use]
    pub fn due_ns(&self, number: u64) -> u64 {
        let after = u128::from(number) * NS_PER_SECOND / u128::from(self.rate);
        self.start_ns.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// How many entries, over all lanes, are due at `now_ns`.
    #[must_use]
    pub fn due_count(&self, now_ns: u64) -> u64 {
        let Some(since_ns) = now_ns.checked_sub(self.start_ns) else { return 0 };
        let behind_the_first = u128::from(since_ns) * u128::from(self.rate) / NS_PER_SECOND;
        u64::try_from(behind_the_first).unwrap_or(u64::MAX - 1) + 1
    }

    /// The lanes in which entries fell due since `seen` were, each at most once; `seen` moves on.
    pub fn newly_due(&self, seen: &mut u64, now_ns: u64) -> impl Iterator<Item = u64> + use<> {
        let due = self.due_count(now_ns);
        let first = (*seen).max(due.saturating_sub(self.lanes));
        *seen = due.max(*seen);
        let lanes = self.lanes;
        (first..due).map(move |number| number % lanes)
    }

    /// How many entries of `lane` are due at `now_ns`.
    fn lane_due(&self, lane: u64, now_ns: u64) -> u64 {
        let due = self.due_count(now_ns);
        if due <= lane { 0 } else { (due - 1 - lane) / self.lanes + 1 }
    }
}

/// Entries that were proposed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The first one; the others follow in sequence.
    pub first: Stamp,
    /// How many.
    pub count: u64,
    /// Closed loop: when they were proposed. Open loop: the first one's place in its lane's schedule.
    from: u64,
}

impl Chunk {
    /// Takes the first `count` entries off; at most all of them.
    pub fn split(&mut self, count: u64, pace: &Pace) -> Self {
        let count = count.min(self.count);
        let head = Self { count, ..*self };
        self.count -= count;
        self.first.sequence += count;
        if let Pace::Open(_) = pace {
            self.from += count;
        }
        head
    }

    /// Whether `next` may be told together with this one: nothing tells the two apart.
    pub fn join(&mut self, next: &Self) -> bool {
        let follows = next.first.producer == self.first.producer
            && next.first.sequence == self.first.sequence + self.count
            && next.from == self.from;
        if follows {
            self.count += next.count;
        }
        follows
    }
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Committed.
    Committed,
    /// It may have been committed or not.
    Unknown,
    /// It never takes effect.
    Refused,
}

/// One group's entries.
#[derive(Debug)]
pub struct Lane {
    /// The group.
    pub group: u64,
    next: Stamp,
    outstanding: u64,
    /// Open loop: the place in the schedule of the next entry.
    place: u64,
    told: Acknowledged,
}

impl Lane {
    /// The lane of a group; `origin` is the upper half of its producer numbers.
    #[must_use]
    pub fn new(group: u64, origin: u32) -> Self {
        let next = Stamp { producer: u64::from(origin) << 32, sequence: 1 };
        Self { group, next, outstanding: 0, place: 0, told: Acknowledged::new() }
    }

    /// The lane's number: groups count from 1, lanes from 0.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.group - 1
    }

    /// The stamp of the next entry; those behind it follow in sequence.
    #[must_use]
    pub const fn next(&self) -> Stamp {
        self.next
    }

    /// Entries proposed and not settled.
    #[must_use]
    pub const fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// How many entries are due now.
    #[must_use]
    pub fn room(&self, pace: &Pace, now_ns: u64) -> u64 {
        match pace {
            Pace::Closed { window } => window.saturating_sub(self.outstanding),
            Pace::Open(schedule) => schedule.lane_due(self.number(), now_ns).saturating_sub(self.place),
        }
    }

    /// Forgets what is due by now: another load has proposed it.
    pub fn skip(&mut self, pace: &Pace, now_ns: u64) {
        if let Pace::Open(schedule) = pace {
            self.place = schedule.lane_due(self.number(), now_ns).max(self.place);
        }
    }

    /// The next `count` entries are proposed.
    ///
    /// # Panics
    /// Without entries.
    pub fn take(&mut self, count: u64, pace: &Pace, now_ns: u64) -> Chunk {
        assert!(0 < count, "a chunk holds at least one entry");
        let from = match pace {
            Pace::Closed { .. } => now_ns,
            Pace::Open(_) => self.place,
        };
        let chunk = Chunk { first: self.next, count, from };
        self.next.sequence += count;
        self.outstanding += count;
        self.place += count;
        chunk
    }

    /// A chunk's outcome is known at `now_ns`.
    ///
    /// # Panics
    /// If more is settled than was taken.
    pub fn settle(&mut self, chunk: Chunk, settled: Settled, pace: &Pace, now_ns: u64, sample: &mut Sample) {
        assert!(chunk.count <= self.outstanding, "an entry is settled once");
        self.outstanding -= chunk.count;
        let Stamp { producer, sequence } = chunk.first;
        match settled {
            Settled::Committed => {
                self.told.acknowledge(producer, sequence, chunk.count);
                sample.commits += chunk.count;
                match pace {
                    Pace::Closed { .. } => {
                        sample.latencies.record_n(now_ns.saturating_sub(chunk.from), chunk.count);
                    }
                    Pace::Open(schedule) => {
                        for place in chunk.from..chunk.from + chunk.count {
                            let due_ns = schedule.due_ns(place * schedule.lanes + self.number());
                            sample.latencies.record_n(now_ns.saturating_sub(due_ns), 1);
                        }
                    }
                }
                return;
            }
            Settled::Unknown => {
                self.told.unknown(producer, sequence, chunk.count);
                sample.unknown += chunk.count;
            }
            Settled::Refused => sample.refused += chunk.count,
        }
        // What is proposed from now on must not be judged by the order of what came to nothing.
        if producer == self.next.producer {
            self.next = Stamp { producer: producer + 1, sequence: 1 };
        }
    }

    /// What was told about all entries.
    #[must_use]
    pub const fn told(&self) -> &Acknowledged {
        &self.told
    }
}

/// The bytes of entries: noise, so that nothing on the way can make them smaller, under a stamp.
#[derive(Debug)]
pub struct Noise {
    block: Vec<u8>,
    payload: usize,
}

impl Noise {
    /// Where entries may start in the block.
    const STARTS: usize = 4096;

    /// Entries of `payload` bytes.
    #[must_use]
    pub fn new(payload: u32) -> Self {
        let payload = payload as usize;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        Self { block: (0..payload + Self::STARTS).map(|_| next()).collect(), payload }
    }

    /// The entry that bears `stamp`.
    #[inline]
    pub fn entry(&mut self, stamp: Stamp) -> &[u8] {
        // Steps of a cache line: each entry begins elsewhere in the noise than the one before.
        let start = (stamp.sequence as usize).wrapping_mul(64) % Self::STARTS;
        let entry = &mut self.block[start..start + self.payload];
        stamp.write(entry);
        entry
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn closed(window: u32) -> Pace {
        Pace::new(Load::Closed { window }, 4, 0)
    }

    #[test]
    fn a_closed_loop_refills_what_is_settled() {
        let (pace, mut sample) = (closed(10), Sample::default());
        let mut lane = Lane::new(1, 2);
        assert_eq!(lane.room(&pace, 0), 10);
        let mut chunk = lane.take(10, &pace, 100);
        assert_eq!(lane.room(&pace, 500), 0);
        let head = chunk.split(4, &pace);
        lane.settle(head, Settled::Committed, &pace, 600, &mut sample);
        assert_eq!((lane.room(&pace, 600), chunk.first.sequence, chunk.count), (4, 5, 6));
        assert_eq!((sample.commits, sample.latencies.count()), (4, 4));
        assert_eq!(sample.latencies.max_us(), Some(0.5));
        assert_eq!(lane.next(), Stamp { producer: 2 << 32, sequence: 11 });
    }

    #[test]
    fn what_came_to_nothing_ends_its_producer() {
        let (pace, mut sample) = (closed(10), Sample::default());
        let mut lane = Lane::new(1, 0);
        let (one, two) = (lane.take(2, &pace, 0), lane.take(3, &pace, 0));
        lane.settle(one, Settled::Unknown, &pace, 1, &mut sample);
        assert_eq!(lane.next(), Stamp { producer: 1, sequence: 1 });
        lane.settle(two, Settled::Refused, &pace, 1, &mut sample);
        assert_eq!(lane.next(), Stamp { producer: 1, sequence: 1 });
        assert_eq!((sample.commits, sample.unknown, sample.refused, lane.outstanding()), (0, 2, 3, 0));
        assert_eq!((lane.told().acknowledged_count(), lane.told().unknown_count()), (0, 2));
    }

    #[test]
    fn an_open_loop_counts_a_stall_for_every_entry_it_delayed() {
        let pace = Pace::new(Load::Open { rate: 1_000_000 }, 2, 1_000);
        let mut sample = Sample::default();
        let mut lane = Lane::new(2, 0);
        // Entries of the second lane are due at 2, 4, 6 and so on, in microseconds.
        assert_eq!((lane.room(&pace, 999), lane.room(&pace, 1_999), lane.room(&pace, 2_000)), (0, 0, 1));
        assert_eq!(lane.room(&pace, 8_000), 4);
        let chunk = lane.take(4, &pace, 8_000);
        assert_eq!(lane.room(&pace, 8_000), 0);
        lane.settle(chunk, Settled::Committed, &pace, 10_000, &mut sample);
        let near = |us: Option<f64>, expected: f64| (us.unwrap() / expected - 1.0).abs() < 0.001;
        assert!(near(sample.latencies.max_us(), 8.0), "due at 2, told at 10");
        assert!(near(sample.latencies.quantile_us(0.0), 2.0), "due at 8, told at 10");
        lane.skip(&pace, 20_000);
        assert_eq!(lane.room(&pace, 20_000), 0);
    }

    #[test]
    fn chunks_join_only_when_nothing_tells_them_apart() {
        let pace = closed(100);
        let mut lane = Lane::new(1, 0);
        let (mut one, two, three) = (lane.take(2, &pace, 5), lane.take(3, &pace, 5), lane.take(1, &pace, 6));
        assert!(one.join(&two));
        assert!(!one.join(&three));
        assert_eq!(one.count, 5);
    }

    #[test]
    fn entries_bear_their_stamp_and_differ() {
        let mut noise = Noise::new(128);
        let stamp = |sequence| Stamp { producer: 7, sequence };
        let one = noise.entry(stamp(1)).to_vec();
        let two = noise.entry(stamp(2)).to_vec();
        assert_eq!((Stamp::read(&one), Stamp::read(&two)), (Some(stamp(1)), Some(stamp(2))));
        assert_ne!(one[16..], two[16..]);
        assert_eq!(Noise::new(16).entry(stamp(3)).len(), 16);
    }

    proptest! {
        #[test]
        fn every_entry_of_a_schedule_is_due_once(
            rate in 1u64..3_000_000, lanes in 1u64..9, steps in prop::collection::vec(0u64..3_000_000, 1..20),
        ) {
            let pace = Pace::new(Load::Open { rate }, lanes, 77);
            let Pace::Open(schedule) = pace else { unreachable!() };
            let mut all: Vec<Lane> = (1..=lanes).map(|group| Lane::new(group, 0)).collect();
            let (mut now_ns, mut taken, mut seen) = (0, 0, 0);
            for step in steps {
                now_ns += step;
                for lane in schedule.newly_due(&mut seen, now_ns) {
                    let lane = &mut all[lane as usize];
                    let room = lane.room(&pace, now_ns);
                    if 0 < room {
                        lane.take(room, &pace, now_ns);
                        taken += room;
                    }
                }
                prop_assert_eq!(taken, schedule.due_count(now_ns));
                prop_assert!(taken == 0 || schedule.due_ns(taken - 1) <= now_ns);
            }
        }
    }
}
