//! Sets of sequence numbers, kept as runs: a load that goes well needs one run, whatever its length.
//!
//! Invariants: runs are sorted, disjoint and not adjacent; sequences start at 1.

use serde::{Deserialize, Serialize};

/// An inclusive range of sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u64, u64)", from = "(u64, u64)")]
pub struct Run {
    /// The lowest.
    pub first: u64,
    /// The highest.
    pub last: u64,
}

impl Run {
    /// How many sequences it holds.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.last - self.first + 1
    }
}

impl From<(u64, u64)> for Run {
    fn from((first, last): (u64, u64)) -> Self {
        Self { first, last }
    }
}

impl From<Run> for (u64, u64) {
    fn from(run: Run) -> Self {
        (run.first, run.last)
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}..={}", self.first, self.last) }
    }
}

/// A set of sequence numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<Run>", try_from = "Vec<Run>")]
pub struct RunSet {
    runs: Vec<Run>,
}

impl RunSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// The runs, lowest first.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many sequences are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        // Disjoint runs within 1..=u64::MAX cannot overflow the sum.
        self.runs.iter().map(|run| run.count()).sum()
    }

    /// The highest sequence, 0 if there is none.
    #[must_use]
    #[inline]
    pub fn last(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.last)
    }

    /// Whether `sequence` is in it.
    #[must_use]
    pub fn contains(&self, sequence: u64) -> bool {
        let at = self.runs.partition_point(|run| run.last < sequence);
        self.runs.get(at).is_some_and(|run| run.first <= sequence)
    }

    /// Adds `sequence` if it directly follows the highest one: the hot path. Says whether it did.
    #[inline]
    pub fn extend_by_one(&mut self, sequence: u64) -> bool {
        match self.runs.last_mut() {
            Some(run) if run.last.wrapping_add(1) == sequence && sequence != 0 => {
                run.last = sequence;
                true
            }
            _ => false,
        }
    }

    /// Adds `first..=last` and returns how many of them were new. Constant time at the upper end.
    ///
    /// # Panics
    /// If the range is empty or starts at 0.
    pub fn insert(&mut self, first: u64, last: u64) -> u64 {
        assert!(1 <= first, "sequences start at 1");
        assert!(first <= last, "a run holds at least one sequence");
        match self.runs.last_mut() {
            Some(end) if first == end.last.wrapping_add(1) => {
                end.last = last;
                return last - first + 1;
            }
            Some(end) if first <= end.last => {}
            _ => {
                self.runs.push(Run { first, last });
                return last - first + 1;
            }
        }
        // Every run that overlaps or touches the new one melts into it.
        let from = self.runs.partition_point(|run| run.last < first - 1);
        let to = self.runs.partition_point(|run| run.first <= last.saturating_add(1));
        let Some((low, high)) = self.runs.get(from..to).and_then(|touched| Some((touched.first()?, touched.last()?)))
        else {
            self.runs.insert(from, Run { first, last });
            return last - first + 1;
        };
        let melted = Run { first: first.min(low.first), last: last.max(high.last) };
        let before: u64 = self.runs[from..to].iter().map(|run| run.count()).sum();
        self.runs.splice(from..to, [melted]);
        melted.count() - before
    }

    /// All that is in `self` or in `other`.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = Self::new();
        let (mut left, mut right) = (self.runs.as_slice(), other.runs.as_slice());
        loop {
            // Taking the lower run first keeps each insert at the upper end.
            let run = match (left.first(), right.first()) {
                (Some(a), Some(b)) if a.first <= b.first => (*a, &mut left),
                (Some(a), None) => (*a, &mut left),
                (_, Some(b)) => (*b, &mut right),
                (None, None) => return all,
            };
            *run.1 = &run.1[1..];
            all.insert(run.0.first, run.0.last);
        }
    }

    /// All that is in `self` but not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        let mut cuts = other.runs.as_slice();
        for run in &self.runs {
            // The first sequence of the run that is not yet judged; none when a cut reached its end.
            let mut open = Some(run.first);
            while let (Some(first), Some(cut)) = (open, cuts.first()) {
                if run.last < cut.first {
                    break;
                }
                if first < cut.first {
                    rest.push(Run { first, last: cut.first - 1 });
                }
                open = cut.last.checked_add(1).map(|behind| behind.max(first));
                open = open.filter(|&first| first <= run.last);
                if run.last < cut.last {
                    // This cut may reach into the next run as well.
                    break;
                }
                cuts = &cuts[1..];
            }
            rest.extend(open.map(|first| Run { first, last: run.last }));
        }
        Self { runs: rest }
    }
}

impl From<RunSet> for Vec<Run> {
    fn from(set: RunSet) -> Self {
        set.runs
    }
}

impl TryFrom<Vec<Run>> for RunSet {
    type Error = &'static str;

    fn try_from(runs: Vec<Run>) -> Result<Self, Self::Error> {
        // The first sequence that may begin a run; none is left behind the highest numbers.
        let mut free_from = Some(1);
        for run in &runs {
            if !free_from.is_some_and(|free| free <= run.first && run.first <= run.last) {
                return Err("runs must be sorted, disjoint, not adjacent, and start at 1 or later");
            }
            free_from = run.last.checked_add(2);
        }
        Ok(Self { runs })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(runs: &[(u64, u64)]) -> RunSet {
        let mut set = RunSet::new();
        for &(first, last) in runs {
            set.insert(first, last);
        }
        set
    }

    fn model(runs: &[(u64, u64)]) -> BTreeSet<u64> {
        runs.iter().flat_map(|&(first, last)| first..=last).collect()
    }

    fn members(set: &RunSet) -> BTreeSet<u64> {
        set.runs().iter().flat_map(|run| run.first..=run.last).collect()
    }

    #[test]
    fn the_ends_of_the_numbers() {
        let mut all = set(&[(2, u64::MAX)]);
        assert_eq!(all.insert(1, 5), 1);
        assert_eq!(all.count(), u64::MAX);
        assert_eq!(all.insert(u64::MAX, u64::MAX), 0);
        assert!(!all.extend_by_one(0));
        assert!(all.difference(&all).is_empty());
        assert_eq!(all.difference(&set(&[(1, u64::MAX - 1)])), set(&[(u64::MAX, u64::MAX)]));
        assert_eq!(set(&[(u64::MAX, u64::MAX)]).difference(&set(&[(1, u64::MAX)])), RunSet::new());
        assert_eq!(set(&[(u64::MAX, u64::MAX)]).difference(&set(&[(3, 4)])), set(&[(u64::MAX, u64::MAX)]));
    }

    #[test]
    fn illegal_json_is_refused() {
        for json in ["[[0,1]]", "[[3,2]]", "[[1,2],[3,4]]", "[[5,6],[1,2]]", "[[1,18446744073709551615],[1,2]]", "7"] {
            assert!(serde_json::from_str::<RunSet>(json).is_err(), "{json}");
        }
        assert_eq!(serde_json::from_str::<RunSet>("[[1,2],[4,4]]").unwrap(), set(&[(4, 4), (1, 2)]));
    }

    fn runs() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((1u64..60, 0u64..8).prop_map(|(first, more)| (first, first + more)), 0..20)
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(a in runs(), b in runs()) {
            let (left, right) = (set(&a), set(&b));
            prop_assert_eq!(members(&left), model(&a));
            prop_assert_eq!(left.count(), model(&a).len() as u64);
            prop_assert_eq!(members(&left.union(&right)), &model(&a) | &model(&b));
            prop_assert_eq!(members(&left.difference(&right)), &model(&a) - &model(&b));
            for sequence in 0..80 {
                prop_assert_eq!(left.contains(sequence), model(&a).contains(&sequence));
            }
            for result in [&left, &left.union(&right), &left.difference(&right)] {
                let json = serde_json::to_string(result).unwrap();
                prop_assert_eq!(&serde_json::from_str::<RunSet>(&json).unwrap(), result);
            }
        }

        #[test]
        fn insert_counts_what_is_new(a in runs(), first in 1u64..60, more in 0u64..20) {
            let mut grown = set(&a);
            let fresh = grown.insert(first, first + more);
            prop_assert_eq!(grown.count(), set(&a).count() + fresh);
        }
    }
}
