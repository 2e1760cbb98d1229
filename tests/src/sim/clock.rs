//! The clocks of the nodes, as the system's boot-time clock may behave: it never goes back, but it may run off, stand
//! still, or jump ahead, as it does for a machine that was suspended.

use super::plan::S;
use crate::disk::Dice;

/// A machine that was suspended, or whose clock jumps, is this far ahead.
pub(super) const JUMP_NS: u64 = 3600 * S;

/// One node's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// What it showed at the last change.
    local_ns: u64,
    /// When that was.
    since_ns: u64,
    /// How it has run since: so many millionths too fast.
    ppm: i64,
    frozen: bool,
}

impl Clock {
    pub(super) fn new(dice: &mut Dice, drift_ppm: u64) -> Self {
        let local_ns = 1 + dice.below(3600) as u64 * S;
        Self { local_ns, since_ns: 0, ppm: drift(dice, drift_ppm), frozen: false }
    }

    /// What it shows.
    pub(super) fn now_ns(&self, now_ns: u64) -> u64 {
        let elapsed = i128::from(now_ns - self.since_ns);
        let rate = if self.frozen { 0 } else { 1_000_000 + i128::from(self.ppm) };
        self.local_ns + (elapsed * rate / 1_000_000) as u64
    }

    fn rebase(&mut self, now_ns: u64) {
        (self.local_ns, self.since_ns) = (self.now_ns(now_ns), now_ns);
    }

    pub(super) fn freeze(&mut self, now_ns: u64, frozen: bool) {
        self.rebase(now_ns);
        self.frozen = frozen;
    }

    pub(super) fn jump(&mut self, now_ns: u64, by_ns: u64) {
        self.rebase(now_ns);
        self.local_ns += by_ns;
    }

    pub(super) fn run_off(&mut self, now_ns: u64, dice: &mut Dice, drift_ppm: u64) {
        self.rebase(now_ns);
        self.ppm = drift(dice, drift_ppm);
    }
}

fn drift(dice: &mut Dice, drift_ppm: u64) -> i64 {
    dice.below(2 * drift_ppm as usize + 1) as i64 - drift_ppm as i64
}
