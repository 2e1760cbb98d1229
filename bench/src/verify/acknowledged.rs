//! What the load was told about its proposals to one group.
//!
//! Invariants: a sequence is acknowledged, unknown or neither, never two at once; a later acknowledgement settles an
//! unknown outcome, an unknown outcome never unsettles an acknowledgement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::runs::RunSet;

/// The outcomes of all proposals to one group, by producer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledged {
    producers: BTreeMap<u64, Outcomes>,
}

/// The outcomes of one producer's proposals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Saved")]
pub(super) struct Outcomes {
    pub(super) acknowledged: RunSet,
    pub(super) unknown: RunSet,
    /// Acknowledgements of what was acknowledged before.
    pub(super) repeated: u64,
}

impl Acknowledged {
    /// No outcomes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `count` proposals from sequence `first` on are committed. Constant time if they follow the last ones.
    ///
    /// # Panics
    /// If `first` is 0, `count` is 0, or the range ends beyond 64 bits.
    pub fn acknowledge(&mut self, producer: u64, first: u64, count: u64) {
        let last = last_of(first, count);
        let outcomes = self.producers.entry(producer).or_default();
        outcomes.repeated += count - outcomes.acknowledged.insert(first, last);
        if first <= outcomes.unknown.last() {
            let settled = one_run(first, last);
            outcomes.unknown = outcomes.unknown.difference(&settled);
        }
    }

    /// `count` proposals from sequence `first` on may have been committed or not: nobody can say.
    ///
    /// # Panics
    /// If `first` is 0, `count` is 0, or the range ends beyond 64 bits.
    pub fn unknown(&mut self, producer: u64, first: u64, count: u64) {
        let last = last_of(first, count);
        let outcomes = self.producers.entry(producer).or_default();
        if outcomes.acknowledged.last() < first {
            outcomes.unknown.insert(first, last);
        } else {
            let open = one_run(first, last).difference(&outcomes.acknowledged);
            outcomes.unknown = outcomes.unknown.union(&open);
        }
    }

    /// Adds what another load was told about the same group.
    pub fn absorb(&mut self, other: &Self) {
        for (&producer, theirs) in &other.producers {
            for run in theirs.acknowledged.runs() {
                self.acknowledge(producer, run.first, run.count());
            }
            for run in theirs.unknown.runs() {
                self.unknown(producer, run.first, run.count());
            }
            self.producers.entry(producer).or_default().repeated += theirs.repeated;
        }
    }

    /// Acknowledged entries.
    #[must_use]
    pub fn acknowledged_count(&self) -> u64 {
        self.producers.values().map(|outcomes| outcomes.acknowledged.count()).sum()
    }

    /// Entries of unknown outcome.
    #[must_use]
    pub fn unknown_count(&self) -> u64 {
        self.producers.values().map(|outcomes| outcomes.unknown.count()).sum()
    }

    pub(super) const fn producers(&self) -> &BTreeMap<u64, Outcomes> {
        &self.producers
    }
}

/// [`Outcomes`] as a load sent them, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    acknowledged: RunSet,
    unknown: RunSet,
    repeated: u64,
}

impl TryFrom<Saved> for Outcomes {
    type Error = &'static str;

    fn try_from(saved: Saved) -> Result<Self, Self::Error> {
        if saved.unknown.difference(&saved.acknowledged) != saved.unknown {
            return Err("damaged outcomes: a sequence is both acknowledged and unknown");
        }
        Ok(Self { acknowledged: saved.acknowledged, unknown: saved.unknown, repeated: saved.repeated })
    }
}

fn last_of(first: u64, count: u64) -> u64 {
    assert!(1 <= first, "sequences start at 1");
    assert!(1 <= count, "an outcome is about at least one proposal");
    first.checked_add(count - 1).expect("a producer counts its proposals in 64 bits")
}

fn one_run(first: u64, last: u64) -> RunSet {
    let mut set = RunSet::new();
    set.insert(first, last);
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_order_melt_into_one_run() {
        let mut acked = Acknowledged::new();
        for batch in 0..1000 {
            acked.acknowledge(7, 1 + batch * 64, 64);
        }
        assert_eq!(acked.acknowledged_count(), 64_000);
        assert_eq!(acked.producers()[&7].acknowledged.runs().len(), 1);
    }

    #[test]
    fn an_acknowledgement_settles_an_unknown_outcome_and_not_the_reverse() {
        let mut acked = Acknowledged::new();
        acked.unknown(1, 5, 6);
        acked.acknowledge(1, 7, 2);
        assert_eq!((acked.acknowledged_count(), acked.unknown_count()), (2, 4));
        acked.unknown(1, 1, 20);
        assert_eq!((acked.acknowledged_count(), acked.unknown_count()), (2, 18));
    }

    #[test]
    fn absorbing_and_json_keep_all() {
        let mut first = Acknowledged::new();
        first.acknowledge(1, 1, 3);
        first.acknowledge(1, 3, 1);
        let mut second = Acknowledged::new();
        second.acknowledge(2, 1, 4);
        second.unknown(2, 9, 2);
        first.absorb(&second);
        assert_eq!((first.acknowledged_count(), first.unknown_count()), (7, 2));
        assert_eq!(first.producers()[&1].repeated, 1);
        let json = serde_json::to_string(&first).unwrap();
        assert_eq!(serde_json::from_str::<Acknowledged>(&json).unwrap(), first);
        let both = json.replace("\"unknown\":[[9,10]]", "\"unknown\":[[4,10]]");
        assert!(serde_json::from_str::<Acknowledged>(&both).is_err());
    }
}
