//! A voter of the model: a real replica, what its disk holds, and what has not reached the disk yet.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use synod_core::{
    Ballot, Config, Configuration, MemberId, Record, RecordSeq, Recovered, Replica, ReplicaId, Slot, Value, Vote,
};

use super::oracle::{Effects, effects};
use super::packet::{Batch, digest};

/// How many voters the model has.
pub(super) const VOTERS: usize = 3;

/// A record that is appended and not durable.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Appended {
    pub(super) seq: RecordSeq,
    pub(super) chosen: Slot,
    pub(super) record: Record<Batch>,
}

/// A replica with its durable state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Voter {
    pub(super) replica: Replica<Batch>,
    /// What a start would find.
    pub(super) disk: Recovered<Batch>,
    pub(super) cache: VecDeque<Appended>,
    /// The votes that wait for their record, each once: the network is a set.
    pub(super) waiting: VecDeque<(RecordSeq, MemberId, Vote<Batch>)>,
    pub(super) durable: RecordSeq,
}

/// A voter that no longer changes, with what is asked of it often.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sealed {
    pub(super) digest: u64,
    pub(super) effects: Effects,
    pub(super) voter: Voter,
}

impl Sealed {
    pub(super) fn new(voter: Voter) -> Self {
        Self { digest: digest(&voter), effects: effects(&voter), voter }
    }
}

impl Hash for Sealed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

pub(super) fn member(index: usize) -> MemberId {
    MemberId(index as u16 + 1)
}

pub(super) fn index(member: MemberId) -> usize {
    usize::from(member.0) - 1
}

impl Voter {
    pub(super) fn start(me: usize, disk: Recovered<Batch>) -> Self {
        let replica = |of: usize| ReplicaId(of as u128 + 1);
        let config = Config {
            replica: replica(me),
            genesis: Configuration::genesis((0..VOTERS).map(|of| (of as u64, replica(of)))),
            peers: VOTERS - 1,
            window_slots: 64,
            window_bytes: 1 << 20,
        };
        Self {
            replica: Replica::new(config, disk.clone()),
            disk,
            cache: VecDeque::new(),
            waiting: VecDeque::new(),
            durable: RecordSeq(0),
        }
    }

    /// Makes the oldest record durable.
    pub(super) fn sync(&mut self) -> Record<Batch> {
        let Appended { seq, chosen, record } = self.cache.pop_front().expect("something is not durable");
        self.durable = seq;
        let disk = &mut self.disk;
        match &record {
            Record::Promise { ballot } => disk.promised = disk.promised.max(*ballot),
            Record::Accept { slot, ballot, value, .. } => {
                disk.promised = disk.promised.max(*ballot);
                put(disk, *slot, (*ballot, value.clone()));
            }
            Record::Learned { slot, value } => {
                put(disk, *slot, (Ballot::ZERO, value.clone()));
                // Only the chosen is learned, and in order.
                disk.chosen = disk.chosen.max(*slot);
            }
            Record::Chosen => {}
            Record::Installed { .. } => unreachable!("nothing is trimmed here"),
        }
        disk.chosen = disk.chosen.max(chosen);
        record
    }
}

fn put(disk: &mut Recovered<Batch>, slot: Slot, entry: (Ballot, Value<Batch>)) {
    let at = slot.0 as usize - 1;
    if at == disk.entries.len() {
        disk.entries.push(entry);
    } else {
        disk.entries[at] = entry;
    }
}
