//! When to dial a peer again: pure, with the time handed in.
//!
//! Invariants:
//! - A pause is at least half of [`BACKOFF_US_MIN`] and at most [`BACKOFF_US_MAX`].
//! - It becomes short again after a connection that lived, or by an explicit reset: a peer that breaks each connection at once
//!   is not hurried.

/// The first pause, in microseconds.
pub const BACKOFF_US_MIN: u64 = 10_000;
/// The longest pause, in microseconds.
pub const BACKOFF_US_MAX: u64 = 1_000_000;
/// A connection that lived so long, in microseconds, was a good one: the next pause is short again.
pub const LIVED_US_MIN: u64 = 1_000_000;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
