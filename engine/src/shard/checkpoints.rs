//! When a group's state machine takes a checkpoint, and what becomes of it.
//!
//! Invariants: a checkpoint is taken of a machine that stands exactly where the group's apply state stands; a few at a
//! time are written per shard, fewer where they are large; at most two per group are kept, and a third only while a peer
//! still reads the oldest.

use std::collections::{BTreeMap, VecDeque};

use synod_core::{RecordSeq, Slot};

use super::Shard;
use super::catch_up::Fetch;
use super::events::Event;
use super::pace::Rate;
use super::trim::{Pin, readable_behind};
use crate::checkpoint::{Kept, SMALL_BYTES, StoreDone, StoreOp, WRITES_MAX};
use crate::config::Config;
use crate::limits::MIB;
use crate::marks::{Mark, mark};
use crate::outcome::GroupId;

/// Checkpoints that are not small and are written at a time: each is a frozen view that takes memory.
const LARGE_WRITES_MAX: usize = 2;
/// Checkpoints that a group keeps.
const KEPT_MAX: usize = 2;
/// A checkpoint that a peer has read from so recently is not deleted.
const SERVED_NS: u64 = 10_000_000_000;
/// After a checkpoint could not be written, the next try comes so much later.
const RETRY_NS: u64 = 5_000_000_000;
/// So often it is looked which checkpoints are due by their age.
const SWEEP_NS: u64 = 1_000_000_000;
/// Threads that may wait for a group's checkpoint.
const WAITERS_MAX: usize = 64;

/// The answer to a request for a checkpoint: the index that it covers, or why there is none.
pub(crate) type CheckpointReply = Box<dyn FnOnce(Result<u64, String>) + Send>;

/// When checkpoints are taken, and how fast those of others are fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckpointPolicy {
    entries: u64,
    bytes: u64,
    age_ns: u64,
    /// Entries kept behind a checkpoint.
    hold_entries: u64,
    /// While the log has no more bytes than this.
    hold_bytes_max: u64,
    /// How fast those of others are fetched.
    fetch: Rate,
    /// Bytes of a checkpoint in one message.
    pub(super) pull_bytes: u32,
}

impl CheckpointPolicy {
    pub(crate) fn new(config: &Config, pull_bytes: u32) -> Self {
        let or_never = |number: u64| if number == 0 { u64::MAX } else { number };
        Self {
            entries: or_never(config.checkpoint_entries),
            bytes: or_never(config.checkpoint_mib.saturating_mul(MIB)),
            age_ns: or_never(config.checkpoint_seconds.saturating_mul(1_000_000_000)),
            hold_entries: config.hold_entries,
            hold_bytes_max: config.wal_mib_max * MIB / 2,
            fetch: Rate::new(config.catch_up_mib_per_second * MIB),
            pull_bytes,
        }
    }
}

impl CheckpointPolicy {
    /// How many entries are kept behind a checkpoint, when the log has so many bytes.
    pub(super) fn hold(&self, log_bytes: u64) -> u64 {
        if self.has_room(log_bytes) { self.hold_entries } else { 0 }
    }

    /// Whether a log is far from the size at which proposals are refused.
    pub(super) fn has_room(&self, log_bytes: u64) -> bool {
        log_bytes <= self.hold_bytes_max
    }
}

/// A group's checkpoints, and what is under way with them.
#[derive(Default)]
pub(crate) struct GroupCheckpoints {
    /// Whole and durable, the newest last.
    pub(crate) kept: VecDeque<Kept>,
    /// Its machine takes checkpoints.
    pub(crate) taken: bool,
    /// One is being written.
    pub(super) writing: bool,
    /// One is wanted, and in the shard's queue for it.
    wanted: bool,
    waiters: Vec<CheckpointReply>,
    /// Applied since the last one was taken.
    entries: u64,
    bytes: u64,
    taken_ns: u64,
    not_before_ns: u64,
    /// Thousandths of all thresholds: groups with equal loads do not write all at once.
    scale: u64,
    /// Until then the oldest one is being read by a peer.
    served_until_ns: u64,
    /// The machine is with the store, to be restored.
    pub(crate) away: bool,
    /// The machine is to be restored from the newest checkpoint once this record is durable.
    pub(super) restore: Option<RecordSeq>,
    /// The log no longer has what the machine needs, nor is there a checkpoint: a peer must give one.
    pub(crate) lacks: bool,
    /// The checkpoint that is being fetched.
    pub(super) fetch: Option<Box<Fetch>>,
    /// Readers that need the log from an index on.
    pub(super) pins: BTreeMap<String, Pin>,
    /// Nothing of the group is trimmed.
    pub(super) trimming_paused: bool,
    /// The oldest segment at which what is accepted and not chosen was appended again.
    pub(super) rewritten_for: u64,
}

impl std::fmt::Debug for GroupCheckpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept: Vec<u64> = self.kept.iter().map(|kept| kept.slot().0).collect();
        let Self { writing, away, restore, lacks, fetch, .. } = self;
        write!(f, "checkpoints {kept:?} writing {writing} away {away} restore {restore:?} lacks {lacks} {fetch:?}")
    }
}

impl GroupCheckpoints {
    /// Those of a group with this uid.
    pub(crate) fn new(uid: u128, taken: bool, newest: Option<Kept>) -> Self {
        // Any even spread will do.
        let scale = 750 + (uid.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u64 % 500;
        Self { kept: newest.into_iter().collect(), taken, scale, ..Self::default() }
    }

    /// Whether one is being written, or restored from.
    pub(super) fn is_under_way(&self) -> bool {
        self.writing || self.away || self.restore.is_some()
    }

    pub(crate) fn newest(&self) -> Option<&Kept> {
        self.kept.back()
    }

    /// The last slot that a checkpoint covers.
    pub(crate) fn slot(&self) -> Slot {
        self.newest().map_or(Slot::ZERO, Kept::slot)
    }

    /// The last index that a checkpoint covers.
    pub(crate) fn index(&self) -> u64 {
        self.newest().map_or(0, Kept::index)
    }

    fn scaled(&self, threshold: u64) -> u64 {
        (threshold / 1000).saturating_mul(self.scale).saturating_add(threshold % 1000 * self.scale / 1000)
    }
}

/// The checkpoints of all groups of a shard.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    pub(super) policy: CheckpointPolicy,
    /// For the store.
    pub(crate) ops: Vec<StoreOp>,
    /// Groups whose checkpoint is due.
    due: VecDeque<u32>,
    /// The groups whose checkpoint is being written, and whether it may be a large one.
    writing: BTreeMap<u32, bool>,
    /// The size of the last one that was written: a group that has none yet may be like it.
    last_bytes: u64,
    sweep_ns: u64,
    pub(super) transfers: super::catch_up::Transfers,
}

impl std::fmt::Debug for StoreOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreOp")
    }
}

impl Checkpoints {
    pub(crate) fn new(policy: CheckpointPolicy) -> Self {
        let transfers = super::catch_up::Transfers::new(policy.fetch);
        Self {
            policy,
            ops: Vec::new(),
            due: VecDeque::new(),
            writing: BTreeMap::new(),
            last_bytes: u64::MAX,
            sweep_ns: 0,
            transfers,
        }
    }
}

impl Shard {
    /// A batch was applied: perhaps a checkpoint is due.
    pub(super) fn note_applied(&mut self, at: u32, entries: u64, bytes: u64) {
        let policy = self.checkpoints.policy;
        let of = &mut self.groups[at as usize].checkpoints;
        if of.taken {
            of.entries += entries;
            of.bytes += bytes;
            if of.entries >= of.scaled(policy.entries) || of.bytes >= of.scaled(policy.bytes) {
                self.want_checkpoint(at);
            }
        }
    }

    /// Has a group's checkpoint taken, as soon as it can be.
    pub(super) fn want_checkpoint(&mut self, at: u32) {
        let now_ns = self.now_ns;
        let of = &mut self.groups[at as usize].checkpoints;
        if of.taken && !of.wanted && !of.writing && of.not_before_ns <= now_ns {
            of.wanted = true;
            self.checkpoints.due.push_back(at);
        }
    }

    /// Somebody waits for a checkpoint.
    pub(crate) fn request_checkpoint(&mut self, id: GroupId, reply: CheckpointReply) {
        let Some(at) = self.group_at(id) else { return reply(Err(format!("there is no group {id} on this node"))) };
        let of = &mut self.groups[at as usize].checkpoints;
        if !of.taken {
            return reply(Err(format!("the state machine of group {id} takes no checkpoints")));
        }
        if of.waiters.len() == WAITERS_MAX {
            return reply(Err("too many wait for a checkpoint of this group: try again when they have it".into()));
        }
        of.waiters.push(reply);
        self.want_checkpoint(at);
    }

    /// Starts what is due, as far as the bound allows. Called on ticks.
    pub(super) fn take_checkpoints(&mut self) {
        if self.now_ns >= self.checkpoints.sweep_ns {
            self.checkpoints.sweep_ns = self.now_ns + SWEEP_NS;
            for at in 0..self.groups.len() as u32 {
                let (now_ns, policy) = (self.now_ns, self.checkpoints.policy);
                let of = &self.groups[at as usize].checkpoints;
                let old = of.entries > 0 && now_ns.saturating_sub(of.taken_ns) >= of.scaled(policy.age_ns);
                if old || !of.waiters.is_empty() {
                    self.want_checkpoint(at);
                }
                self.expire_pins(at);
            }
        }
        self.take_due_checkpoints();
    }

    fn take_due_checkpoints(&mut self) {
        for _ in 0..self.checkpoints.due.len() {
            let writing = &self.checkpoints.writing;
            let large = writing.values().filter(|large| **large).count();
            if writing.len() == WRITES_MAX || large == LARGE_WRITES_MAX {
                return;
            }
            let Some(at) = self.checkpoints.due.pop_front() else { return };
            self.groups[at as usize].checkpoints.wanted = false;
            self.take_checkpoint(at);
        }
    }

    /// Has checkpoints taken before the log needs them to stay within its budget: of the groups with entries in what goes
    /// once the last quarter of it is written.
    pub(super) fn take_checkpoints_ahead(&mut self) {
        let ahead = self.retain_bytes / 4 * 3;
        if !self.checkpoints.due.is_empty() || self.writer.bytes_live() <= ahead {
            return;
        }
        let mut left = self.writer.bytes_live();
        let goes = self.writer.segments().take_while(|segment| {
            left = left.saturating_sub(segment.segment_bytes);
            segment.sealed && left >= ahead
        });
        let Some(last) = goes.last() else { return };
        let newer = self.newer_summaries(last.generation);
        let lacks: Vec<u32> = self
            .index
            .segment_slots(last.generation)
            .filter_map(|(uid, slot)| Some((*self.by_uid.get(&uid)?, Slot(slot))))
            .filter(|(at, slot)| {
                let needed = readable_behind(*at as usize, *slot, &newer).unwrap_or(*slot);
                self.groups[*at as usize].checkpoints.slot() < needed
            })
            .map(|(at, _)| at)
            .collect();
        lacks.into_iter().for_each(|at| self.want_checkpoint(at));
    }

    fn take_checkpoint(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        let ready = group.machine_next == group.apply.next_index && !group.still;
        let of = &mut group.checkpoints;
        let Some(machine) = group.machine.as_mut().filter(|_| ready && of.restore.is_none()) else {
            // It still takes in the log, or is being restored: another time.
            mark(Mark::CheckpointPutOff);
            return;
        };
        let slot = group.apply.settled_slot();
        if of.slot() >= slot {
            let index = of.index();
            of.waiters.drain(..).for_each(|reply| reply(Ok(index)));
            return;
        }
        match machine.checkpoint() {
            Ok(view) => {
                of.writing = true;
                let large = of.newest().map_or(self.checkpoints.last_bytes, |kept| kept.bytes) > SMALL_BYTES;
                self.checkpoints.writing.insert(at, large);
                (of.entries, of.bytes, of.taken_ns) = (0, 0, self.now_ns);
                let (uid, state) = (group.names.uid, group.apply.settled());
                self.checkpoints.ops.push(StoreOp::Write { group: at, uid, state, view });
                tracing::debug!(group = group.names.id, %slot, "a checkpoint is taken");
            }
            Err(error) => self.checkpoint_failed(at, &error.to_string()),
        }
    }

    fn checkpoint_failed(&mut self, at: u32, reason: &str) {
        mark(Mark::CheckpointFailed);
        let group = &mut self.groups[at as usize];
        group.checkpoints.not_before_ns = self.now_ns + RETRY_NS;
        tracing::error!(
            group = group.names.id,
            reason,
            "no checkpoint: it is tried again, and the log grows meanwhile"
        );
        let reason = format!("no checkpoint could be taken: {reason}");
        group.checkpoints.waiters.drain(..).for_each(|reply| reply(Err(reason.clone())));
    }

    /// The store has answered.
    pub(crate) fn on_store(&mut self, done: StoreDone) {
        let done = match done {
            StoreDone::Exported { group, result } => return self.on_exported(group, result),
            StoreDone::Imported { group, result } => return self.on_imported(group, result),
            StoreDone::Noted { group, result } => return self.on_noted(group, result),
            done => done,
        };
        if let Some(group) = done.group()
            && self.is_gone(group)
        {
            return self.on_store_for_nobody(group, done);
        }
        match done {
            StoreDone::Written { group, result } => {
                self.checkpoints.writing.remove(&group);
                self.groups[group as usize].checkpoints.writing = false;
                match result {
                    Ok(kept) => {
                        mark(Mark::CheckpointWritten);
                        let index = kept.index();
                        self.checkpoints.last_bytes = kept.bytes;
                        self.keep_checkpoint(group, kept);
                        self.tell_event(Event::CheckpointTaken { group: self.groups[group as usize].names.id, index });
                        let waiters = std::mem::take(&mut self.groups[group as usize].checkpoints.waiters);
                        waiters.into_iter().for_each(|reply| reply(Ok(index)));
                        self.release_segments();
                    }
                    Err(reason) => self.checkpoint_failed(group, &reason),
                }
                self.take_due_checkpoints();
            }
            StoreDone::Read { request, result } => self.on_checkpoint_read(request, result),
            StoreDone::Begun { group, part, result } => self.on_fetch_begun(group, part, result),
            StoreDone::Appended { group, part, result } => self.on_fetch_appended(group, part, result),
            StoreDone::Finished { group, part, result } => self.on_fetch_finished(group, part, result),
            StoreDone::Restored { group, machine, result } => self.on_restored(group, machine, result),
            StoreDone::Exported { .. } | StoreDone::Imported { .. } | StoreDone::Noted { .. } => {
                unreachable!("they are taken before")
            }
        }
    }

    /// A checkpoint is durable: the oldest ones may go.
    pub(super) fn keep_checkpoint(&mut self, at: u32, kept: Kept) {
        let group = &mut self.groups[at as usize];
        if kept.slot() <= group.checkpoints.slot() {
            return;
        }
        group.checkpoints.kept.push_back(kept);
        self.drop_old_checkpoints(at);
    }

    pub(super) fn drop_old_checkpoints(&mut self, at: u32) {
        let now_ns = self.now_ns;
        let group = &mut self.groups[at as usize];
        let of = &mut group.checkpoints;
        let most = if of.served_until_ns > now_ns { KEPT_MAX + 1 } else { KEPT_MAX };
        while of.kept.len() > most {
            let old = of.kept.pop_front().expect("there are more than a few");
            self.checkpoints.ops.push(StoreOp::Remove { uid: group.names.uid, slot: old.slot().0 });
        }
    }

    /// A group is no more, and neither are its checkpoints.
    pub(super) fn forget_checkpoints(&mut self, uid: u128, of: GroupCheckpoints) {
        let over = of.kept.iter().map(|kept| StoreOp::Remove { uid, slot: kept.slot().0 });
        self.checkpoints.ops.extend(over);
        of.waiters.into_iter().for_each(|reply| reply(Err("the group is no longer on this shard".into())));
    }

    /// The store has answered for a group that is no more.
    fn on_store_for_nobody(&mut self, group: u32, done: StoreDone) {
        let uid = self.groups[group as usize].names.uid;
        let kept = match done {
            StoreDone::Written { result, .. } => {
                self.checkpoints.writing.remove(&group);
                result.ok()
            }
            StoreDone::Finished { result, .. } => result.ok(),
            StoreDone::Restored { mut machine, .. } => {
                machine.dropped();
                None
            }
            StoreDone::Read { .. } | StoreDone::Begun { .. } | StoreDone::Appended { .. } => None,
            StoreDone::Exported { .. } | StoreDone::Imported { .. } | StoreDone::Noted { .. } => None,
        };
        if let Some(kept) = kept {
            self.checkpoints.ops.push(StoreOp::Remove { uid, slot: kept.slot().0 });
        }
    }

    /// A peer reads one of a group's checkpoints.
    pub(super) fn note_served(&mut self, at: u32) {
        self.groups[at as usize].checkpoints.served_until_ns = self.now_ns + SERVED_NS;
    }
}
