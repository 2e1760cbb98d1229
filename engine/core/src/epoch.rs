//! Which batches take effect: the two registers of the apply state.
//!
//! Taking the highest ballot per slot alone can, after two leader changes, commit a leader's second proposal without
//! its first. So a batch takes effect only behind an unbroken run from the epoch start of its origin. Every replica
//! runs these registers over the same chosen log, so all agree on what is void.

use crate::ids::Ballot;
use crate::planted::{Bug, is};
use crate::value::{Body, Value};

/// The registers `epoch` and `open`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Epoch {
    /// The origin of the highest epoch start so far. Never goes back.
    pub origin: Ballot,
    /// Whether the run behind it is unbroken.
    pub open: bool,
}

impl Epoch {
    /// Takes the next chosen value. True when it is a batch that takes effect; a batch for which this is false is
    /// *void*: not applied, no index, and its proposals are superseded.
    pub fn apply<P>(&mut self, value: &Value<P>) -> bool {
        match value.body {
            Body::EpochStart if value.origin >= self.origin => {
                *self = Self { origin: value.origin, open: true };
                false
            }
            Body::EpochStart | Body::Noop => {
                self.open = false;
                false
            }
            // Proposed only when all before it is chosen, so it stands in the run of its origin's epoch.
            Body::Configuration(_) => false,
            Body::Batch(_) => {
                self.open &= value.origin == self.origin;
                self.open || is(Bug::VoidTakesEffect)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MemberId;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, member: MemberId(1) }
    }

    fn check(log: &[(u64, Body<u32>)], takes_effect: &[bool]) {
        let mut epoch = Epoch::default();
        for ((round, body), want) in log.iter().zip(takes_effect) {
            let value = Value { origin: ballot(*round), body: body.clone() };
            assert_eq!(epoch.apply(&value), *want, "{value:?} in {log:?}");
        }
    }

    #[test]
    fn a_batch_takes_effect_behind_its_epoch_start() {
        check(&[(1, Body::EpochStart), (1, Body::Batch(1)), (1, Body::Batch(2))], &[false, true, true]);
    }

    #[test]
    fn proposal_two_without_one_is_void() {
        // Leader 1 proposed batches in slots 2 and 3. Leader 2 saw neither and put its epoch start in slot 2; leader 3
        // found slot 3 of leader 1 again. Slot 3 must not take effect, since slot 2 was lost.
        check(
            &[(1, Body::EpochStart), (2, Body::EpochStart), (1, Body::Batch(2)), (2, Body::Batch(3))],
            &[false, false, false, false],
        );
    }

    #[test]
    fn a_fill_closes_the_epoch() {
        check(&[(1, Body::EpochStart), (3, Body::Noop), (1, Body::Batch(2))], &[false, false, false]);
    }

    #[test]
    fn an_older_epoch_start_closes_and_never_goes_back() {
        check(
            &[(5, Body::EpochStart), (3, Body::EpochStart), (3, Body::Batch(1)), (5, Body::Batch(2))],
            &[false, false, false, false],
        );
    }

    #[test]
    fn a_batch_before_any_epoch_start_is_void() {
        check(&[(1, Body::Batch(1))], &[false]);
    }
}
