//! Who dials whom, and when again: pure, with the time handed in.
//!
//! Invariants:
//! - Of two nodes exactly one dials.
//! - While a dial is under way or a connection lives, no other dial begins.
//! - Between two dials passes at least half of [`BACKOFF_US_MIN`]; after failures in a row up to [`BACKOFF_US_MAX`].

/// The first pause, in microseconds.
pub const BACKOFF_US_MIN: u64 = 10_000;
/// The longest pause, in microseconds.
pub const BACKOFF_US_MAX: u64 = 1_000_000;
/// A connection that lived so long, in microseconds, was a good one: the next pause is short again.
pub const LIVED_US_MIN: u64 = 1_000_000;

/// Whether `me` dials `peer`, both node ids: the higher dials.
#[must_use]
pub fn dials(me: u64, peer: u64) -> bool {
    peer < me
}

/// Pauses between dials: doubling, with jitter, so that nodes which lost each other at once do not all come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    pause_us: u64,
    random: u64,
}

impl Backoff {
    /// `seed` makes the jitter: hand in another one for each peer.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { pause_us: BACKOFF_US_MIN, random: seed }
    }

    /// How long to wait now, in microseconds: half of the current pause, and up to the other half by chance. The pause
    /// doubles for the next time.
    #[must_use]
    pub fn next_pause_us(&mut self) -> u64 {
        assert!((BACKOFF_US_MIN..=BACKOFF_US_MAX).contains(&self.pause_us));
        let half = self.pause_us / 2;
        let pause = half + self.next_random() % (half + 1);
        self.pause_us = (self.pause_us * 2).min(BACKOFF_US_MAX);
        pause
    }

    /// Tells that a connection ended after `lived_us` microseconds. One that ended at once (refused, or broken by its first
    /// message) is no reason to hurry.
    pub fn lived(&mut self, lived_us: u64) {
        if LIVED_US_MIN <= lived_us {
            self.reset();
        }
    }

    /// The next pause is the shortest again.
    pub fn reset(&mut self) {
        self.pause_us = BACKOFF_US_MIN;
    }

    /// SplitMix64: small, and good enough to spread nodes.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The dialer's view of one connection.
#[derive(Clone, Debug)]
pub struct Reconnect {
    backoff: Backoff,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waits { until_us: u64 },
    Dials,
    Lives { since_us: u64 },
}

impl Reconnect {
    /// Dials at once. `seed` makes the jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { backoff: Backoff::new(seed), state: State::Waits { until_us: 0 } }
    }

    /// Whether to dial now; if so, the dial counts as begun, and [`connected`](Self::connected) or
    /// [`ended`](Self::ended) must follow.
    #[must_use]
    pub fn begin_dial(&mut self, now_us: u64) -> bool {
        match self.state {
            State::Waits { until_us } if until_us <= now_us => {
                self.state = State::Dials;
                true
            }
            _ => false,
        }
    }

    /// The dial succeeded and the hello was accepted.
    ///
    /// # Panics
    /// When no dial was under way.
    pub fn connected(&mut self, now_us: u64) {
        assert!(matches!(self.state, State::Dials), "connected without a dial: {:?}", self.state);
        self.state = State::Lives { since_us: now_us };
    }

    /// The dial failed, or the connection ended. Harmless when neither was.
    pub fn ended(&mut self, now_us: u64) {
        match self.state {
            State::Waits { .. } => return,
            State::Dials => {}
            State::Lives { since_us } => self.backoff.lived(now_us.saturating_sub(since_us)),
        }
        self.state = State::Waits { until_us: now_us + self.backoff.next_pause_us() };
    }

    /// Whether a connection lives.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Lives { .. })
    }

    /// When [`begin_dial`](Self::begin_dial) says yes, in microseconds; `None` while a dial or a connection is under way.
    #[must_use]
    pub fn dial_at_us(&self) -> Option<u64> {
        match self.state {
            State::Waits { until_us } => Some(until_us),
            State::Dials | State::Lives { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_of_two_nodes_dials() {
        assert!(dials(2, 1));
        assert!(!dials(1, 2));
        assert!(!dials(1, 1));
    }

    #[test]
    fn pauses_double_within_bounds_and_start_again_after_a_good_connection() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(seed);
            let mut pause_us = BACKOFF_US_MIN;
            for _ in 0..20 {
                let paused_us = backoff.next_pause_us();
                assert!(pause_us / 2 <= paused_us && paused_us <= pause_us);
                pause_us = (pause_us * 2).min(BACKOFF_US_MAX);
            }
            backoff.lived(LIVED_US_MIN - 1);
            assert!(BACKOFF_US_MAX / 2 <= backoff.next_pause_us());
            backoff.lived(LIVED_US_MIN);
            assert!(backoff.next_pause_us() <= BACKOFF_US_MIN);
        }
    }

    #[test]
    fn seeds_give_different_pauses() {
        let pauses: std::collections::BTreeSet<_> = (0..100).map(|seed| Backoff::new(seed).next_pause_us()).collect();
        assert!(90 < pauses.len());
    }

    #[test]
    fn one_dial_at_a_time_and_a_pause_after_each() {
        let mut link = Reconnect::new(7);
        assert!(link.begin_dial(0));
        assert!(!link.begin_dial(1));
        assert_eq!(link.dial_at_us(), None);
        link.ended(100);
        assert!(!link.begin_dial(100));
        let at_us = link.dial_at_us().unwrap();
        assert!(100 + BACKOFF_US_MIN / 2 <= at_us);
        link.ended(200);
        assert_eq!(link.dial_at_us(), Some(at_us));
        assert!(link.begin_dial(at_us));
        link.connected(at_us);
        assert!(link.is_connected());
        assert!(!link.begin_dial(u64::MAX));
        link.ended(at_us + LIVED_US_MIN);
        assert!(link.dial_at_us().unwrap() <= at_us + LIVED_US_MIN + BACKOFF_US_MIN);
    }
}
