//! Writes the log of a repaired shard: what is chosen, as learned values under the groups' new uids, and behind it each
//! group's forced configuration and promise.
//!
//! Invariant: each segment but the first begins with a summary of every group that was written before it, as the log wants
//! it, so that any prefix of segments can go.

use std::path::Path;

use synod_core::{Ballot, Body, Record, Slot, Value};
use synod_wal::disk::{BlockingDisk, DiskConfig, SyncMode};
use synod_wal::record::RecordHeader;

use super::RepairError;
use super::plan::Plan;
use super::survey::{FoundGroup, RecordReader, ShardLog};
use crate::apply::ApplyState;
use crate::configuration;
use crate::groups::name_of;
use crate::new_log::NewLog;
use crate::outcome::GroupId;
use crate::payload::{Payload, Place};
use crate::persist::{READABLE_RUNS_MAX, Summary, arrival_header, readable_record, record_header};
use crate::wire::{kind, value_with};

fn failed(error: impl ToString) -> RepairError {
    RepairError::Refused(error.to_string())
}

/// A group that was written, or is being written.
struct Written {
    uid: u128,
    promised: Ballot,
    state: ApplyState,
}

/// Writes the log of a shard.
pub(crate) struct ShardWriter {
    log: NewLog,
    groups: Vec<Written>,
}

impl ShardWriter {
    pub(crate) fn create(dir: &Path, shard: usize, replica: u128, segment_bytes: u64) -> Result<Self, RepairError> {
        let disk = DiskConfig { directory: dir.to_owned(), segment_bytes, sync: SyncMode::Durable };
        let disk = BlockingDisk::new(disk).map_err(failed)?;
        let log = NewLog::create(Box::new(disk), shard, replica, segment_bytes).map_err(failed)?;
        Ok(Self { log, groups: Vec::new() })
    }

    /// Adds a record of the last group.
    pub(crate) fn push(&mut self, header: &RecordHeader, body: &[u8]) -> Result<(), RepairError> {
        if !self.log.has_room(body.len()) {
            self.log.flush().map_err(failed)?;
            // What is summed up is before this place in the log, and the record is not.
            while self.log.take_rolled() {
                for group in &self.groups {
                    let Written { uid, promised, state } = group;
                    let (chosen, apply) = (state.slot, state.settled());
                    let (header, body) =
                        Summary { promised: *promised, chosen, apply, arrival: 0, accepted: Vec::new() }.encode(*uid);
                    self.log.push(&header, &body).map_err(failed)?;
                }
            }
        }
        self.log.push(header, body).map_err(failed)
    }

    fn group(&mut self) -> &mut Written {
        self.groups.last_mut().expect("a group is begun first")
    }

    /// Writes a chosen value into the next slot of the group.
    fn learn(&mut self, value: &Value<Payload>) -> Result<(), RepairError> {
        let Written { uid, state, .. } = self.group();
        let (uid, slot) = (*uid, state.slot.next());
        self.push_learned(uid, slot, value)?;
        self.group().state.apply(slot, value);
        Ok(())
    }

    fn push_learned(&mut self, uid: u128, slot: Slot, value: &Value<Payload>) -> Result<(), RepairError> {
        let header = record_header(uid, Slot::ZERO, &Record::Learned { slot, value: value.clone() });
        match &value.body {
            Body::Batch(payload) => payload.with_body(|body| self.push(&header, body)),
            Body::Configuration(configuration) => self.push(&header, &configuration::encode(configuration)),
            Body::Noop | Body::EpochStart => self.push(&header, &[]),
        }
    }

    /// Writes a group under its new uid: from `source` what is chosen there, and then what the plan adds.
    pub(crate) fn copy(
        &mut self,
        (id, uid): (GroupId, u128),
        found: &FoundGroup,
        source: &ShardLog,
        plan: &Plan<Payload>,
    ) -> Result<ApplyState, RepairError> {
        let mut reader = RecordReader::new(&source.dir);
        self.groups.push(Written { uid, promised: Ballot::ZERO, state: ApplyState::default() });
        let lacks = |slot: Slot| {
            RepairError::Refused(format!("{}: slot {slot} of {} is missing", source.dir.display(), name_of(id)))
        };
        let mut value_of = |slot: u64| {
            let place = source.index.get(found.uid, slot).ok_or_else(|| lacks(Slot(slot)))?;
            let (header, body) = reader.read(place.record())?;
            let holds_value = matches!(header.kind, kind::ACCEPT | kind::LEARNED) && header.numbers[0] == slot;
            let value = value_with(&header, &body, Place::Owned(body.clone().into()));
            value.ok().filter(|_| holds_value).ok_or_else(|| lacks(Slot(slot)))
        };
        let (gone, base) = (found.evidence.gone, &found.base);
        if base.slot > gone {
            // As the group came from another shard: its values, and what of them can be read, stand behind its summary.
            self.push(&arrival_header(uid, 0), &[])?;
        }
        if base.slot > Slot::ZERO {
            let apply = base.clone();
            let (promised, chosen, accepted) = (Ballot::ZERO, apply.slot, Vec::new());
            let (header, body) = Summary { promised, chosen, apply, arrival: 0, accepted }.encode(uid);
            self.push(&header, &body)?;
            self.group().state = base.clone();
        }
        for slot in gone.0 + 1..=base.slot.0 {
            self.push_learned(uid, Slot(slot), &value_of(slot)?)?;
        }
        if base.slot > gone {
            for runs in found.readable.chunks(READABLE_RUNS_MAX).chain(found.readable.is_empty().then_some(&[][..])) {
                let (header, body) = readable_record(uid, gone, runs);
                self.push(&header, &body)?;
            }
        }
        for slot in gone.max(base.slot).0 + 1..=found.evidence.chosen.0 {
            self.learn(&value_of(slot)?)?;
        }
        if self.group().state != found.apply {
            return Err(RepairError::Refused(format!(
                "{}: what the slots of {} did, read one by one, is not what they did at recovery",
                source.dir.display(),
                name_of(id)
            )));
        }
        for value in &plan.kept {
            self.learn(value)?;
        }
        let forced = Body::Configuration(Box::new(plan.forced.clone()));
        self.learn(&Value { origin: plan.ballot, body: forced })?;
        let chosen = self.group().state.slot;
        self.push(&record_header(uid, chosen, &Record::Promise { ballot: plan.ballot }), &[])?;
        let group = self.group();
        group.promised = plan.ballot;
        Ok(group.state.clone())
    }

    /// Makes all durable.
    pub(crate) fn finish(mut self) -> Result<(), RepairError> {
        self.log.flush().map_err(failed)
    }
}
