//! What a controller and its child processes tell each other: one JSON object a line, over the child's stdin and stdout.
//!
//! Invariant: every order is answered exactly once, in order; only [`Answer::Ready`] and [`Answer::Failed`] may come
//! without one.

use serde::{Deserialize, Serialize};

use crate::conditions::Load;
use crate::histogram::LatencyHistogram;
use crate::verify::{Acknowledged, Observer};

/// What a child is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Begin to propose; answered with [`Answer::Done`].
    Load(LoadPlan),
    /// The measured time begins: forget what was measured before; answered with [`Answer::Done`].
    Measure,
    /// Tell what the load did since the last time; answered with [`Answer::Sample`].
    Sample,
    /// Propose no more and wait for what is outstanding; answered with [`Answer::Outcomes`].
    StopLoad,
    /// Tell where the time went since the measured time began; answered with [`Answer::Phases`].
    Phases,
    /// Tell how far each group is; answered with [`Answer::Status`].
    Status,
    /// Tell what was applied; answered with [`Answer::Evidence`].
    Evidence,
}

/// What load to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadPlan {
    /// Groups of the cluster, numbered from 1.
    pub groups: u64,
    /// Shards of each node; a group's shard is its number modulo this.
    pub shards: u64,
    /// Bytes of one entry.
    pub payload: u32,
    /// How proposals are paced.
    #[serde(flatten)]
    pub load: Load,
    /// The upper half of this load's producer numbers; no two loads of a run share it.
    pub origin: u32,
}

impl LoadPlan {
    /// The groups of one shard, ascending.
    pub fn groups_of(&self, shard: u64) -> impl Iterator<Item = u64> + use<> {
        let (groups, shards) = (self.groups, self.shards);
        (1..=groups).filter(move |group| group % shards == shard)
    }
}

/// What a child says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The child has started and takes orders.
    Ready,
    /// It cannot go on.
    Failed {
        /// Why, and what to do.
        text: String,
    },
    /// The order is carried out.
    Done,
    /// What the load did.
    Sample(Sample),
    /// What became of all proposals, by group.
    Outcomes(Vec<(u64, Acknowledged)>),
    /// Where the time went.
    Phases(PhaseTimes),
    /// How far each group is.
    Status(Vec<GroupStatus>),
    /// What was applied.
    Evidence(Vec<Applied>),
}

/// What a load did in a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Entries committed.
    pub commits: u64,
    /// Entries of unknown outcome.
    pub unknown: u64,
    /// Entries refused.
    pub refused: u64,
    /// The latencies of those committed.
    pub latencies: LatencyHistogram,
}

impl Sample {
    /// Adds what another load did in the same time.
    pub fn merge(&mut self, other: &Self) {
        self.commits += other.commits;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.latencies.merge(&other.latencies);
    }
}

/// What one replica measured since the measured time began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseTimes {
    /// Where the time of the commits that it led went, by the phase's name.
    pub phases: Vec<(String, LatencyHistogram)>,
    /// Elections that it won.
    pub elections: u64,
}

/// How far one group is on one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The group.
    pub group: u64,
    /// Whether this replica leads it and takes proposals.
    pub leads: bool,
    /// The last slot applied.
    pub slot: u64,
    /// Entries applied.
    pub applied: u64,
    /// Entries that the observer has seen; behind `applied` while a restarted replica reads its log back.
    pub observed: u64,
}

/// What one replica applied in one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// The group.
    pub group: u64,
    /// What was seen.
    pub observer: Observer,
    /// The engine's own count of applied entries.
    pub applied: u64,
    /// The engine's chained checksum.
    pub chain: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_answers_survive_their_line() {
        let plan = LoadPlan { groups: 8, shards: 2, payload: 128, load: Load::Open { rate: 7 }, origin: 3 };
        assert_eq!(plan.groups_of(0).collect::<Vec<_>>(), [2, 4, 6, 8]);
        for order in [Order::Load(plan), Order::Measure, Order::Evidence] {
            let line = serde_json::to_string(&order).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order);
        }
        let mut sample = Sample { commits: 3, ..Sample::default() };
        sample.latencies.record_n(7, 3);
        for answer in [Answer::Ready, Answer::Sample(sample), Answer::Failed { text: "a\nb".into() }] {
            let line = serde_json::to_string(&answer).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer);
        }
    }
}
