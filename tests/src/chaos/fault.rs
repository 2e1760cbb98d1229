//! Which faults came, and how often.

use std::collections::BTreeMap;
use std::fmt;

/// The faults of a run.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// How many were planned.
    pub planned: u64,
    /// How many happened.
    pub done: u64,
    /// How often each kind happened; a kill of two at once is one entry here and two kills in `done`.
    pub kinds: BTreeMap<&'static str, u64>,
}

impl Faults {
    /// A fault of a kind has happened; it counts for `count`.
    pub(super) fn happened(&mut self, kind: &'static str, count: u64) {
        self.done += count;
        *self.kinds.entry(kind).or_default() += 1;
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} planned", self.done, self.planned)?;
        for (at, (kind, times)) in self.kinds.iter().enumerate() {
            write!(f, "{} {times} x {kind}", if at == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}
