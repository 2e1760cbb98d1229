//! Where a commit spends its time: one histogram a phase, recorded once per slot and weighted by entries.

use hdrhistogram::Histogram;

/// The phases of a commit, as the leader sees them. All values are nanoseconds.
#[derive(Clone, Debug)]
pub struct Phases {
    /// From submitting a proposal to its batch.
    pub queue: Histogram<u64>,
    /// From the first entry of a batch until it was closed.
    pub batch: Histogram<u64>,
    /// From closing until the leader's own record was durable.
    pub wal: Histogram<u64>,
    /// From handing the batch to the sockets until the acknowledgement that, with the leader's own vote, makes a quorum.
    pub remote: Histogram<u64>,
    /// That follower's time from its log's submission to durability, as it tells.
    pub remote_wal: Histogram<u64>,
    /// The difference: both ways on the wire, and both nodes' queues.
    pub network: Histogram<u64>,
    /// From closing until the slot was chosen.
    pub quorum: Histogram<u64>,
    /// From chosen to applied.
    pub apply: Histogram<u64>,
    /// From applied until the proposer was told, with what else its turn applied and told.
    pub complete: Histogram<u64>,
    /// From submitting a proposal until the proposer was told.
    pub total: Histogram<u64>,
}

fn histogram() -> Histogram<u64> {
    // 1 ns to 120 s with two significant digits: about 50 KiB.
    Histogram::new_with_bounds(1, 120_000_000_000, 2).expect("legal bounds")
}

impl Default for Phases {
    fn default() -> Self {
        Self {
            queue: histogram(),
            batch: histogram(),
            wal: histogram(),
            remote: histogram(),
            remote_wal: histogram(),
            network: histogram(),
            quorum: histogram(),
            apply: histogram(),
            complete: histogram(),
            total: histogram(),
        }
    }
}

impl Phases {
    /// The phases by name, in the order of a commit.
    pub fn named(&self) -> [(&'static str, &Histogram<u64>); 10] {
        [
            ("queue", &self.queue),
            ("batch", &self.batch),
            ("wal", &self.wal),
            ("remote", &self.remote),
            ("remote_wal", &self.remote_wal),
            ("network", &self.network),
            ("quorum", &self.quorum),
            ("apply", &self.apply),
            ("complete", &self.complete),
            ("total", &self.total),
        ]
    }

    /// Forgets all that was recorded.
    pub fn reset(&mut self) {
        for histogram in [
            &mut self.queue,
            &mut self.batch,
            &mut self.wal,
            &mut self.remote,
            &mut self.remote_wal,
            &mut self.network,
            &mut self.quorum,
            &mut self.apply,
            &mut self.complete,
            &mut self.total,
        ] {
            histogram.reset();
        }
    }
}

/// The datagrams of a shard since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Datagrams {
    /// Sent to peers.
    pub sent: u64,
    /// Taken in.
    pub taken: u64,
    /// Dropped, since one that was sent later, or the same, had been taken in.
    pub stale: u64,
    /// Dropped, since they bore the token of no connection, were damaged or made no sense.
    pub refused: u64,
    /// To how many peers they get through now, as far as one can tell: heartbeats need the connection no more.
    pub peers: usize,
}

/// The instants of one slot at its leader, in nanoseconds of the shard's clock; 0 is "not yet".
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlotTimes {
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) durable: u64,
    pub(crate) acknowledged: u64,
    pub(crate) remote_wal: u64,
    pub(crate) chosen: u64,
}

impl SlotTimes {
    /// Records a slot that was applied at `applied`, for `entries` entries.
    pub(crate) fn record(&self, phases: &mut Phases, applied: u64, entries: u64) {
        let phase = |histogram: &mut Histogram<u64>, from: u64, to: u64| {
            if from > 0 && to >= from {
                histogram.record_weighted(to - from, entries);
            }
        };
        phase(&mut phases.batch, self.opened, self.closed);
        phase(&mut phases.wal, self.closed, self.durable);
        phase(&mut phases.remote, self.closed, self.acknowledged);
        phase(&mut phases.quorum, self.closed, self.chosen);
        phase(&mut phases.apply, self.chosen, applied);
        if self.acknowledged > 0 {
            let remote = self.acknowledged - self.closed;
            phases.remote_wal.record_weighted(self.remote_wal, entries);
            phases.network.record_weighted(remote.saturating_sub(self.remote_wal), entries);
        }
    }
}

/// Weighted recording that never fails: a value beyond the bounds counts as the bound.
pub(crate) trait RecordWeighted {
    fn record_weighted(&mut self, value: u64, n: u64);
}

impl RecordWeighted for Histogram<u64> {
    fn record_weighted(&mut self, value: u64, n: u64) {
        self.saturating_record_n(value.max(1), n);
    }
}
