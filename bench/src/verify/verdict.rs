//! The judgement after a run.
//!
//! Invariants: counts are of entries, not of (entry, replica) pairs, so replicas that agree on a fault count it once;
//! details are bounded whatever the damage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Acknowledged, Observer};
use crate::format::thousands;
use crate::runs::RunSet;

/// The most lines of details in a verdict.
pub const DETAILS_MAX: usize = 32;

/// Everything known about one group after the run.
#[derive(Debug, Clone)]
pub struct GroupEvidence<'a> {
    /// The group.
    pub group: u64,
    /// What the load was told.
    pub acknowledged: &'a Acknowledged,
    /// What the replicas hold.
    pub replicas: Vec<ReplicaEvidence<'a>>,
}

/// What one replica holds of one group.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaEvidence<'a> {
    /// The replica's node.
    pub node: u64,
    /// What it applied.
    pub observer: &'a Observer,
    /// The engine's own count of applied entries: the index behind the last one.
    pub applied: u64,
    /// The engine's chained checksum at that place.
    pub chain: u32,
}

/// Whether a run kept its promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Entries acknowledged to the load.
    pub acked: u64,
    /// Entries of unknown outcome; they may be there once or not at all.
    pub unknown: u64,
    /// Those of them that are there.
    pub unknown_applied: u64,
    /// Acknowledged entries that at least one replica lacks.
    pub lost: u64,
    /// Entries that came again, on the replica with most of them.
    pub duplicated: u64,
    /// Entries that came behind a later one of their producer, on the replica with most of them.
    pub reordered: u64,
    /// Entries that are there but were never proposed, or were refused.
    pub alien: u64,
    /// Entries that were acknowledged twice.
    pub acked_twice: u64,
    /// Entries that were too scattered to be remembered, so nobody can vouch for them.
    pub untracked: u64,
    /// Whether all replicas of each group answered and hold the same.
    pub replicas_agree: bool,
    /// What was found, at most [`DETAILS_MAX`] lines.
    pub details: Vec<String>,
}

impl Verdict {
    /// Whether nothing was violated.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.replicas_agree
            && self.lost == 0
            && self.duplicated == 0
            && self.reordered == 0
            && self.alien == 0
            && self.acked_twice == 0
            && self.untracked == 0
    }
}

/// Judges all groups of a run with `replicas` replicas of each.
#[must_use]
pub fn verdict(groups: &[GroupEvidence<'_>], replicas: usize) -> Verdict {
    let mut judge = Judge::new();
    for group in groups {
        judge.agreement(group, replicas);
        judge.counts(group);
        judge.entries(group);
    }
    judge.close()
}

/// Gathers the verdict, group by group.
struct Judge {
    verdict: Verdict,
    details_dropped: u64,
}

impl Judge {
    const fn new() -> Self {
        let verdict = Verdict {
            acked: 0,
            unknown: 0,
            unknown_applied: 0,
            lost: 0,
            duplicated: 0,
            reordered: 0,
            alien: 0,
            acked_twice: 0,
            untracked: 0,
            replicas_agree: true,
            details: Vec::new(),
        };
        Self { verdict, details_dropped: 0 }
    }

    fn close(mut self) -> Verdict {
        if 0 < self.details_dropped {
            let line = format!("and {} more", thousands(self.details_dropped));
            self.verdict.details.push(line);
        }
        assert!(self.verdict.details.len() <= DETAILS_MAX, "the last line is kept free for the count");
        self.verdict
    }

    fn detail(&mut self, line: String) {
        if self.verdict.details.len() + 1 < DETAILS_MAX {
            self.verdict.details.push(line);
        } else {
            self.details_dropped += 1;
        }
    }

    /// Whether all replicas are there and hold the same.
    fn agreement(&mut self, group: &GroupEvidence<'_>, replicas: usize) {
        if group.replicas.len() != replicas {
            self.verdict.replicas_agree = false;
            self.detail(format!(
                "group {}: {} of {replicas} replicas could be examined",
                group.group,
                group.replicas.len()
            ));
        }
        let Some((first, others)) = group.replicas.split_first() else {
            return;
        };
        for other in others {
            let facts = [
                ("entries", first.observer.entries(), other.observer.entries()),
                ("checksum of entries", first.observer.crc().into(), other.observer.crc().into()),
                ("applied index", first.applied, other.applied),
                ("chained checksum", first.chain.into(), other.chain.into()),
            ];
            for (fact, left, right) in facts.into_iter().filter(|(_, left, right)| left != right) {
                self.verdict.replicas_agree = false;
                let (a, b) = (first.node, other.node);
                self.detail(if fact.contains("checksum") {
                    format!("group {}: {fact} {left:08x} on node {a}, {right:08x} on node {b}", group.group)
                } else {
                    format!("group {}: {fact} {left} on node {a}, {right} on node {b}", group.group)
                });
            }
        }
    }

    /// What the observers and the load counted themselves.
    fn counts(&mut self, group: &GroupEvidence<'_>) {
        let most = |count: fn(&Observer) -> u64| group.replicas.iter().map(|r| count(r.observer)).max().unwrap_or(0);
        let duplicates = most(Observer::duplicates);
        let reorderings = most(|observer| observer.reorderings() - observer.duplicates());
        let malformed = most(Observer::malformed);
        let untracked = most(Observer::untracked);
        let acked_twice = group.acknowledged.producers().values().map(|outcomes| outcomes.repeated).sum();
        for (count, what) in [
            (duplicates, "applied again"),
            (reorderings, "applied behind a later one of their producer"),
            (malformed, "without a stamp of this load"),
            (untracked, "too scattered to be verified"),
            (acked_twice, "acknowledged twice"),
        ] {
            if 0 < count {
                self.detail(format!("group {}: entries {what}: {}", group.group, thousands(count)));
            }
        }
        self.verdict.duplicated += duplicates;
        self.verdict.reordered += reorderings;
        self.verdict.alien += malformed;
        self.verdict.untracked += untracked;
        self.verdict.acked_twice += acked_twice;
    }

    /// Compares what was told with what is there, producer by producer.
    fn entries(&mut self, group: &GroupEvidence<'_>) {
        self.verdict.acked += group.acknowledged.acknowledged_count();
        self.verdict.unknown += group.acknowledged.unknown_count();
        let nothing = RunSet::new();
        let mut lost: BTreeMap<u64, RunSet> = BTreeMap::new();
        let mut alien: BTreeMap<u64, RunSet> = BTreeMap::new();
        let mut unknown: BTreeMap<u64, RunSet> = BTreeMap::new();
        let gather = |into: &mut BTreeMap<u64, RunSet>, producer: u64, found: RunSet| {
            if !found.is_empty() {
                let all = into.entry(producer).or_default();
                *all = all.union(&found);
            }
        };
        for replica in &group.replicas {
            let present: BTreeMap<u64, &RunSet> =
                replica.observer.producers().iter().map(|log| (log.producer, &log.runs)).collect();
            for (&producer, told) in group.acknowledged.producers() {
                let there = present.get(&producer).copied().unwrap_or(&nothing);
                let missing = told.acknowledged.difference(there);
                if !missing.is_empty() {
                    self.detail(found("lacks acknowledged", group.group, replica.node, producer, &missing));
                }
                gather(&mut lost, producer, missing);
                let never = told.unknown.difference(there);
                gather(&mut unknown, producer, told.unknown.difference(&never));
            }
            for (&producer, &there) in &present {
                let strange = match group.acknowledged.producers().get(&producer) {
                    Some(told) => there.difference(&told.acknowledged).difference(&told.unknown),
                    None => there.clone(),
                };
                if !strange.is_empty() {
                    self.detail(found(
                        "holds never proposed or refused",
                        group.group,
                        replica.node,
                        producer,
                        &strange,
                    ));
                }
                gather(&mut alien, producer, strange);
            }
        }
        let total = |sets: BTreeMap<u64, RunSet>| sets.values().map(RunSet::count).fold(0, u64::saturating_add);
        self.verdict.lost += total(lost);
        self.verdict.unknown_applied += total(unknown);
        self.verdict.alien = self.verdict.alien.saturating_add(total(alien));
    }
}

/// One line about sequences on a replica; the first few runs stand for the rest.
fn found(what: &str, group: u64, node: u64, producer: u64, set: &RunSet) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> = set.runs().iter().take(SHOWN).map(ToString::to_string).collect();
    let more = if SHOWN < set.runs().len() { ", ..." } else { "" };
    format!(
        "group {group}: node {node} {what} entries: {} of producer {producer}: {}{more}",
        thousands(set.count()),
        shown.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Stamp;

    /// A log as (producer, sequence) pairs; sequence 0 makes a malformed entry.
    fn replica(stamps: &[(u64, u64)]) -> Observer {
        let mut observer = Observer::new();
        for &(producer, sequence) in stamps {
            let mut entry = [0; 16];
            Stamp { producer, sequence }.write(&mut entry);
            observer.apply_batch([entry.as_slice()]);
        }
        observer
    }

    /// Producer 1 had 1..=3 acknowledged, 4 refused, 5..=6 left unknown.
    fn told() -> Acknowledged {
        let mut told = Acknowledged::new();
        told.acknowledge(1, 1, 3);
        told.unknown(1, 5, 2);
        told
    }

    fn judge(told: &Acknowledged, logs: &[&[(u64, u64)]]) -> Verdict {
        let observers: Vec<_> = logs.iter().map(|log| replica(log)).collect();
        let replicas = observers.iter().zip(1..).map(|(observer, node)| ReplicaEvidence {
            node,
            observer,
            applied: observer.entries(),
            chain: 5,
        });
        verdict(&[GroupEvidence { group: 0, acknowledged: told, replicas: replicas.collect() }], 3)
    }

    const GOOD: &[(u64, u64)] = &[(1, 1), (1, 2), (1, 3), (1, 5)];

    #[test]
    fn a_clean_run() {
        let verdict = judge(&told(), &[GOOD; 3]);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.acked, verdict.unknown, verdict.unknown_applied), (3, 2, 1));
        assert_eq!(verdict.details, Vec::<String>::new());
    }

    #[test]
    fn each_violation_is_counted_once_and_named() {
        #[expect(clippy::type_complexity, reason = "a table reads best with its types in one place")]
        let table: [(&str, &[(u64, u64)], fn(&Verdict) -> u64, &str); 7] = [
            ("lost", &[(1, 1), (1, 3)], |v| v.lost, "lacks acknowledged entries: 1 of producer 1: 2"),
            ("duplicated", &[(1, 1), (1, 2), (1, 3), (1, 2)], |v| v.duplicated, "applied again: 1"),
            ("unknown twice", &[(1, 1), (1, 2), (1, 3), (1, 5), (1, 5)], |v| v.duplicated, "applied again: 1"),
            ("reordered", &[(1, 1), (1, 3), (1, 2)], |v| v.reordered, "behind a later one of their producer: 1"),
            ("refused", &[(1, 1), (1, 2), (1, 3), (1, 4)], |v| v.alien, "refused entries: 1 of producer 1: 4"),
            ("alien", &[(1, 1), (1, 2), (1, 3), (8, 1)], |v| v.alien, "refused entries: 1 of producer 8: 1"),
            ("malformed", &[(1, 1), (1, 2), (1, 3), (8, 0)], |v| v.alien, "without a stamp of this load: 1"),
        ];
        for (name, log, count, detail) in table {
            let verdict = judge(&told(), &[log; 3]);
            assert!(!verdict.is_clean(), "{name}");
            assert!(verdict.replicas_agree, "{name}");
            assert_eq!(count(&verdict), 1, "{name}: {verdict:?}");
            let sum = verdict.lost + verdict.duplicated + verdict.reordered + verdict.alien;
            assert_eq!(sum, 1, "{name} counts as one fault only: {verdict:?}");
            assert!(verdict.details.iter().any(|line| line.contains(detail)), "{name}: {:?}", verdict.details);
        }
    }

    #[test]
    fn a_fault_of_one_replica_is_enough() {
        let verdict = judge(&told(), &[GOOD, GOOD, &[(1, 1), (1, 2)]]);
        assert_eq!((verdict.lost, verdict.replicas_agree), (1, false));
        assert!(verdict.details.iter().any(|line| line.contains("node 3 lacks")), "{:?}", verdict.details);
    }

    #[test]
    fn what_nobody_applied_is_lost() {
        let verdict = judge(&told(), &[[].as_slice(); 3]);
        assert_eq!((verdict.lost, verdict.unknown_applied, verdict.replicas_agree), (3, 0, true));
    }

    #[test]
    fn a_missing_replica_is_no_agreement() {
        let verdict = judge(&told(), &[GOOD, GOOD]);
        assert!(!verdict.is_clean());
        assert!(verdict.details[0].contains("2 of 3 replicas"), "{:?}", verdict.details);
        assert!(!judge(&told(), &[]).is_clean());
    }

    #[test]
    fn engines_that_disagree_are_found() {
        let (told, observer) = (told(), replica(GOOD));
        let at = |node, applied, chain| ReplicaEvidence { node, observer: &observer, applied, chain };
        for (odd, word) in [(at(3, 9, 5), "applied index 4 on node 1, 9 on node 3"), (at(3, 4, 6), "chained checksum")]
        {
            let replicas = vec![at(1, 4, 5), at(2, 4, 5), odd];
            let verdict = verdict(&[GroupEvidence { group: 2, acknowledged: &told, replicas }], 3);
            assert!(!verdict.replicas_agree);
            assert!(verdict.details[0].contains(word), "{:?}", verdict.details);
        }
    }

    #[test]
    fn same_entries_in_another_order_are_no_agreement() {
        let mut told = Acknowledged::new();
        told.acknowledge(1, 1, 1);
        told.acknowledge(2, 1, 1);
        let verdict = judge(&told, &[&[(1, 1), (2, 1)], &[(1, 1), (2, 1)], &[(2, 1), (1, 1)]]);
        assert_eq!((verdict.lost, verdict.reordered, verdict.replicas_agree), (0, 0, false));
    }

    #[test]
    fn a_second_acknowledgement_is_a_fault() {
        let mut told = told();
        told.acknowledge(1, 2, 1);
        let verdict = judge(&told, &[GOOD; 3]);
        assert_eq!((verdict.acked_twice, verdict.is_clean()), (1, false));
    }

    #[test]
    fn details_are_bounded() {
        let told = Acknowledged::new();
        let log: Vec<_> = (0..500).map(|producer| (producer, 1)).collect();
        let verdict = judge(&told, &[log.as_slice(); 3]);
        assert_eq!((verdict.alien, verdict.details.len()), (500, DETAILS_MAX));
        assert_eq!(verdict.details.last().unwrap(), "and 1,469 more");
    }
}
