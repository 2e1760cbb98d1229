//! Producers that run on a group's shard: the fast door.

use super::Shard;
use crate::outcome::{Epoch, GroupId, Outcome, Rejection};

/// Proposes from the shard's own thread, without channels or allocations: for the embedding database's own hot path and
/// for load generators. All calls come on the shard's thread and must not block.
pub trait Producer: 'static {
    /// What became of `count` entries whose tags begin at `tag`. A run is told as a whole, in the order of proposing.
    fn completed(&mut self, group: GroupId, tag: u64, count: u32, outcome: Outcome, now_ns: u64);

    /// Time to propose: after completions, in the turn that completed them; at the start; and at every tick (5 ms).
    fn wake(&mut self, shard: &mut LocalShard<'_>);
}

/// A shard, as what runs on it sees it.
pub struct LocalShard<'a> {
    pub(crate) shard: &'a mut Shard,
    pub(crate) producer: Option<u32>,
}

impl LocalShard<'_> {
    /// The shard's clock in nanoseconds, read once a turn; the same as [`crate::now_ns`].
    pub fn now_ns(&self) -> u64 {
        self.shard.now_ns
    }

    /// The epoch at which this node takes proposals of `group` now.
    pub fn epoch(&self, group: GroupId) -> Option<Epoch> {
        self.shard.group_at(group).and_then(|at| self.shard.epoch_of(at))
    }

    /// The groups of this shard.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.shard.groups.iter().filter(|g| g.kind.is_visible()).map(|g| g.names.id)
    }

    /// Proposes an entry; its outcome comes to [`Producer::completed`] under `tag`. Tags of a group that grow by one
    /// are told in runs.
    ///
    /// # Errors
    /// A [`Rejection`]: it was not proposed.
    ///
    /// # Panics
    /// When this is not a producer's own shard.
    pub fn propose(&mut self, group: GroupId, tag: u64, entry: &[u8]) -> Result<(), Rejection> {
        let producer = self.producer.expect("only a producer proposes through its shard");
        let at = self.shard.group_at(group).ok_or_else(|| self.shard.not_here(group))?;
        self.shard.propose_one(at, entry, producer, tag)
    }

    /// Lets a producer run on this shard from now on.
    pub fn attach(&mut self, producer: Box<dyn Producer>) {
        self.shard.producers.all.push(Some(producer));
        self.shard.producers.due = true;
    }

    /// Where commits of this shard spend their time, since the last [`LocalShard::reset_phases`].
    pub fn phases(&self) -> &crate::metrics::Phases {
        &self.shard.phases
    }

    /// Forgets the recorded phases.
    pub fn reset_phases(&mut self) {
        self.shard.phases.reset();
    }

    /// How many datagrams this shard has sent and got; see [`Config::udp_lane`](crate::Config::udp_lane).
    pub fn datagrams(&self) -> crate::metrics::Datagrams {
        self.shard.datagrams()
    }

    /// Elections won by this shard's groups since the start.
    pub fn elections(&self) -> u64 {
        self.shard.groups.iter().filter(|g| g.kind.is_visible()).map(|g| g.elections).sum()
    }
}

/// The producers of a shard.
#[derive(Default)]
pub(crate) struct Producers {
    all: Vec<Option<Box<dyn Producer>>>,
    /// Whether they are woken in this turn.
    pub(crate) due: bool,
}

impl Producers {
    pub(super) fn are_any(&self) -> bool {
        !self.all.is_empty()
    }
}

impl Shard {
    pub(crate) fn complete_producer(&mut self, producer: u32, at: u32, tag: u64, count: u32, outcome: Outcome) {
        let (group, now_ns) = (self.groups[at as usize].names.id, self.now_ns);
        if let Some(Some(producer)) = self.producers.all.get_mut(producer as usize) {
            producer.completed(group, tag, count, outcome, now_ns);
            self.producers.due = true;
        }
    }

    pub(crate) fn wake_producers(&mut self) {
        if !std::mem::take(&mut self.producers.due) {
            return;
        }
        for number in 0..self.producers.all.len() {
            if let Some(mut producer) = self.producers.all[number].take() {
                producer.wake(&mut LocalShard { shard: self, producer: Some(number as u32) });
                self.producers.all[number] = Some(producer);
            }
        }
    }
}
