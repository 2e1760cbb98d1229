//! A group as its shard holds it: the replica, its open batches, its proposals in flight, its applied state.

use std::collections::VecDeque;

use synod_core::planted::{Bug, is};
use synod_core::{Ballot, RecordSeq, Replica, Slot, Timer};
use synod_wal::record::RecordHeader;

use super::agreement::Agreement;
use super::checkpoints::GroupCheckpoints;
use super::elections::Election;
use super::large::LargeEntry;
use super::membership::PendingChange;
use super::pace::Asking;
use super::points::PointRead;
use super::reads::ReadRequest;
use super::support::{Binding, Tenure};
use super::transfer::Transfer;
use crate::apply::ApplyState;
use crate::batch::{Batch, Entries};
use crate::indexes::Indexes;
use crate::machine::{CommittedBatch, StateMachine};
use crate::metrics::SlotTimes;
use crate::outcome::{GroupId, Outcome};
use crate::payload::Payload;
use crate::persist::Summary;

/// Who is told what became of a proposal.
pub(crate) enum Reply {
    /// A producer on the shard, by its number; the tag names the run.
    Local(u32),
    /// A client's request: connection and request id.
    Client(u64, u64),
    /// Anyone else.
    Callback(Box<dyn FnOnce(Outcome) + Send>),
}

/// A run of entries of one proposer within a batch.
pub(crate) struct Run {
    pub(crate) reply: Reply,
    pub(crate) tag: u64,
    pub(crate) count: u32,
    pub(crate) submitted_ns: u64,
    /// The ordered handle that it came through.
    pub(crate) handle: Option<u64>,
}

/// A batch that still takes entries.
#[derive(Default)]
pub(crate) struct OpenBatch {
    pub(crate) entries: Entries,
    pub(crate) runs: Vec<Run>,
    /// A batch of a session has no other entries.
    pub(crate) session: Option<(u64, u64)>,
    pub(crate) opened_ns: u64,
    /// A large entry, which is alone.
    pub(crate) large: Option<LargeEntry>,
}

impl OpenBatch {
    /// What it counts for in the queue, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.large.as_ref().map_or(self.entries.body_bytes() - 4, LargeEntry::weight)
    }

    /// Bytes of the body that goes into the next slot, at most.
    pub(crate) fn next_bytes(&self) -> usize {
        self.large.as_ref().map_or(self.entries.body_bytes(), LargeEntry::weight)
    }

    /// Whether a part of it is in a slot already.
    pub(crate) fn has_begun(&self) -> bool {
        self.large.as_ref().is_some_and(LargeEntry::has_begun)
    }
}

/// A batch that this leader has proposed and that is not applied yet.
pub(crate) struct Pending {
    pub(crate) slot: Slot,
    pub(crate) origin: Ballot,
    pub(crate) runs: Vec<Run>,
    pub(crate) entries: u32,
    pub(crate) bytes: usize,
    pub(crate) acks: usize,
    pub(crate) times: SlotTimes,
}

/// Where a group comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GroupKind {
    /// The configuration.
    Configured,
    /// It is the directory of groups made at run time.
    Directory,
    /// An order in this slot of its directory.
    Made(Slot),
    /// It was dropped: only its place is left.
    Gone,
}

impl GroupKind {
    /// What the ids of sessions are marked with, so that a group made again under a number knows none of the one before:
    /// a session's id is its slot, in whose upper bits there is the order that made the group.
    pub(crate) fn session_mark(self) -> u64 {
        match self {
            Self::Made(slot) => (slot.0 & ((1 << 22) - 1)) << 40,
            Self::Configured | Self::Directory | Self::Gone => 0,
        }
    }

    /// Whether users see it.
    pub(crate) fn is_visible(self) -> bool {
        matches!(self, Self::Configured | Self::Made(_))
    }
}

/// The part of a group that does not change.
#[derive(Clone, Debug)]
pub(crate) struct GroupNames {
    /// Its number, or a directory's name.
    pub(crate) id: GroupId,
    pub(crate) uid: u128,
    /// What places it on a shard: see [`crate::homes`].
    pub(crate) home: u64,
}

/// Entries that a replica lacks, and who has said that it has trimmed them.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Lacking {
    /// The first of them.
    pub(crate) from: u64,
    /// When that was first heard.
    pub(crate) since_ns: u64,
    /// The peers, as bits, that do not have it.
    pub(crate) without: u128,
}

pub(crate) struct Group {
    pub(crate) names: GroupNames,
    pub(crate) kind: GroupKind,
    /// It is being dropped: it takes no proposals.
    pub(crate) ending: bool,
    pub(crate) replica: Replica<Payload>,
    pub(crate) apply: ApplyState,
    pub(crate) machine: Option<Box<dyn StateMachine>>,
    /// The machine has the last word on what is proposed.
    pub(crate) prepares: bool,
    /// The index that the machine gets next.
    pub(crate) machine_next: u64,
    /// Entries that others have trimmed and that this replica lacks.
    pub(crate) lacking: Lacking,
    /// A read for the machine is under way.
    pub(crate) feeding: bool,
    /// The first slot of a large entry that is being put together for it.
    pub(crate) gathers_from: Option<Slot>,
    /// Outcomes that are told when the machine stands behind their indexes.
    pub(crate) held: VecDeque<(u64, Run, Outcome)>,
    /// The last slot with a record.
    pub(crate) last_recorded: Slot,
    /// The lowest slot that got another record in a frame that may not be durable, and the last such frame: until it is,
    /// the value cannot be read back.
    pub(crate) recorded_again: Option<(Slot, u64)>,
    pub(crate) open: VecDeque<OpenBatch>,
    pub(crate) open_bytes: usize,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) appended: RecordSeq,
    pub(crate) durable: RecordSeq,
    /// The frame with the group's last record.
    pub(crate) last_frame: u64,
    pub(crate) timer: (Timer, Option<u64>),
    pub(crate) election: Election,
    /// How its replica asks for what it lacks.
    pub(crate) asking: Asking,
    pub(crate) agreement: Agreement,
    /// A change of its voters under way.
    pub(crate) change: Option<Box<PendingChange>>,
    /// The peer whose leadership this replica follows.
    pub(crate) follows: Option<usize>,
    pub(crate) waiters: Vec<ReadRequest>,
    /// What took effect and is still in the log.
    pub(crate) indexes: Indexes,
    /// Up to here slots may be gone from the log.
    pub(crate) gone: Slot,
    /// The number of the move that has brought it into this log; 0: it has always been in it.
    pub(crate) arrival: u64,
    /// It is about to leave for another shard: it neither speaks nor listens.
    pub(crate) still: bool,
    /// Until then it makes no promise: where it was before, it was bound to a leader.
    pub(crate) promises_from_ns: u64,
    /// In the shard's list of groups with open batches.
    pub(crate) dirty: bool,
    /// In the shard's list of groups with chosen slots to apply.
    pub(crate) chosen: bool,
    /// In the shard's list of groups that the next beat looks at, with the beats since it was put there.
    pub(crate) beats: Option<u32>,
    /// The beats that found it busy.
    pub(crate) busy_beats: u32,
    pub(crate) elections: u64,
    /// Reads that wait for a leader's word or for an index.
    pub(crate) points: Vec<PointRead>,
    /// The leader to which this voter has bound the group.
    pub(crate) binding: Option<Binding>,
    /// What voters have confirmed, where this replica leads.
    pub(crate) tenure: Tenure,
    /// It is being handed over to another node: nothing is proposed.
    pub(crate) transfer: Option<Transfer>,
    /// In the shard's list of groups that another node prefers to lead.
    pub(crate) stray: bool,
    /// The leader that the listener was last told of.
    pub(crate) told_leader: Option<synod_core::Ballot>,
    /// The node that should lead it, if it can; 0: none.
    pub(crate) preferred: u64,
    pub(crate) checkpoints: GroupCheckpoints,
}

impl Group {
    pub(crate) fn new(
        names: GroupNames,
        replica: Replica<Payload>,
        apply: ApplyState,
        (indexes, gone): (Indexes, Slot),
        machine: Option<Box<dyn StateMachine>>,
        checkpoints: GroupCheckpoints,
        restored: u64,
    ) -> Self {
        let machine_next = machine.as_ref().map_or(apply.next_index, |m| m.durable_index().max(restored) + 1);
        let last_recorded = replica.log().last();
        Self {
            names,
            kind: GroupKind::Configured,
            ending: false,
            replica,
            apply,
            prepares: machine.as_ref().is_some_and(|machine| machine.prepares_proposals()),
            machine,
            machine_next,
            feeding: false,
            gathers_from: None,
            held: VecDeque::new(),
            last_recorded,
            recorded_again: None,
            lacking: Lacking::default(),
            open: VecDeque::new(),
            open_bytes: 0,
            pending: VecDeque::new(),
            appended: RecordSeq(0),
            durable: RecordSeq(0),
            last_frame: 0,
            timer: (Timer::Off, None),
            election: Election::None,
            asking: Asking::default(),
            agreement: Agreement::default(),
            change: None,
            follows: None,
            waiters: Vec::new(),
            indexes,
            gone,
            arrival: 0,
            still: false,
            promises_from_ns: 0,
            dirty: false,
            chosen: false,
            beats: None,
            busy_beats: 0,
            elections: 0,
            points: Vec::new(),
            binding: None,
            tenure: Tenure::default(),
            transfer: None,
            stray: false,
            told_leader: None,
            preferred: 0,
            checkpoints,
        }
    }

    /// The group's votes in short, as a record: header and body.
    pub(crate) fn summary(&self) -> (RecordHeader, Vec<u8>) {
        self.votes().encode(self.names.uid)
    }

    /// The group's votes in short.
    pub(crate) fn votes(&self) -> Summary {
        let log = self.replica.log();
        let accepted = (log.chosen().0 + 1..=log.last().0)
            .map(Slot)
            .filter_map(|slot| log.get(slot).map(|entry| (slot, entry.accepted, entry.value.origin)));
        Summary {
            promised: if is(Bug::SummariesForgetPromises) { Ballot::ZERO } else { self.replica.promised() },
            chosen: log.chosen(),
            apply: self.apply.settled(),
            arrival: self.arrival,
            accepted: accepted.collect(),
        }
    }

    /// The first index that can still be read here.
    pub(crate) fn first_index(&self) -> u64 {
        self.indexes.front().map_or(self.apply.next_index, |(_, index)| *index)
    }

    /// The last slot whose entries the local consumers no longer need.
    pub(crate) fn consumed(&self) -> Slot {
        match &self.machine {
            None if !self.checkpoints.away => self.apply.slot,
            machine => {
                let durable = machine.as_ref().map_or(0, |machine| machine.durable_index());
                // What a checkpoint covers is there again after a restart.
                let mut next = durable.max(self.checkpoints.index()) + 1;
                if self.machine_next >= self.first_index() {
                    // What it is being given out of the log is needed until it has it, whatever a restart would bring.
                    next = next.min(self.machine_next);
                }
                let after = self.indexes.partition_point(|(_, first)| *first < next);
                // The slot before the first one that is wholly unseen, less the one that may be seen in part.
                match self.indexes.get(after) {
                    Some((slot, first)) if *first == next => Slot(slot.0 - 1),
                    _ if next >= self.apply.next_index => self.apply.slot,
                    _ if after == 0 => Slot::ZERO,
                    _ => Slot(self.indexes[after - 1].0.0 - 1),
                }
            }
        }
    }

    /// Up to here values may leave memory when it holds more than it should: those behind it are soon put together.
    pub(crate) fn spare(&self) -> Slot {
        let settled = self.apply.settled_slot();
        self.gathers_from.map_or(settled, |first| settled.min(first.prev()))
    }

    /// Hands the machine a large entry whose last part is in `slot`, if it is the next one.
    ///
    /// # Errors
    /// Why the machine cannot go on.
    pub(crate) fn feed_large(&mut self, slot: Slot, index: u64, entry: &[u8]) -> Result<(), String> {
        let Some(machine) = &mut self.machine else { return Ok(()) };
        if self.machine_next == index {
            let end = (entry.len() as u32).to_le_bytes();
            let batch = CommittedBatch { slot: slot.0, first_index: index, entries: Batch::of_one(&end, entry) };
            machine.apply(&batch).map_err(|error| {
                format!("the state machine of group {} failed at slot {slot}: {error}", self.names.id)
            })?;
            self.machine_next = index + 1;
        }
        Ok(())
    }

    /// Hands the machine the batch in `slot`, whose entries have the indexes from `first` on, if it is the next one.
    ///
    /// # Errors
    /// Why the machine cannot go on.
    pub(crate) fn feed_machine(&mut self, slot: Slot, first: u64, body: &[u8]) -> Result<(), String> {
        let Some(machine) = &mut self.machine else { return Ok(()) };
        let entries = Batch::decode(body).expect("a batch is checked when it comes in");
        let next = first + entries.len() as u64;
        let failed = |why: &dyn std::fmt::Display| {
            format!("the state machine of group {} failed at slot {slot}: {why}", self.names.id)
        };
        let within = (first + 1..next).contains(&self.machine_next);
        if within && !machine.skips_what_it_holds() {
            return Err(failed(&format_args!("it holds index {}, within a batch", self.machine_next - 1)));
        }
        // A machine that keeps its own data may stand before the log, which a power cut has shortened: what was chosen by
        // others' votes may be applied before it is durable here.
        if self.machine_next == first
            || within
            || synod_core::planted::is(synod_core::planted::Bug::MachinesAreFedAgain)
        {
            machine
                .apply(&CommittedBatch { slot: slot.0, first_index: first, entries })
                .map_err(|error| failed(&error))?;
            self.machine_next = next;
        }
        Ok(())
    }

    /// The batch that takes `entries` more of `bytes` together, in a session or not; a new one when the last has no room.
    pub(crate) fn batch_for(
        &mut self,
        (entries, bytes): (usize, usize),
        entries_max: usize,
        session: Option<(u64, u64)>,
        now_ns: u64,
    ) -> &mut OpenBatch {
        let fits = |batch: &OpenBatch| {
            let shared = session.is_none() && batch.session.is_none() && batch.large.is_none();
            shared && batch.entries.has_room(entries, bytes, entries_max)
        };
        if !self.open.back().is_some_and(fits) {
            self.open.push_back(OpenBatch { session, opened_ns: now_ns, ..OpenBatch::default() });
        }
        self.open.back_mut().expect("there is one now")
    }
}
