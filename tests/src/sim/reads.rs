//! Reads of a known age, and what they must have seen.
//!
//! A linearizable read that begins after an entry was told committed, or after another such read has ended, stands at or
//! behind it; and nothing reads what no state machine was given yet.

use std::sync::{Arc, Mutex};

use synod::simulation::SimShard;
use synod::{CommittedEntries, Consistency, GroupId, ReadError, ReadPoint};

use super::observe::{Observer, entry_of, payload};
use super::plan::{MS, Plan, S, pick};
use crate::disk::Dice;

/// Answers as shards told them, by ticket.
type Told = Arc<Mutex<Vec<(u64, Result<ReadPoint, ReadError>)>>>;

/// What was read of logs: the group, the index that was asked for, and the answer.
type Logs = Arc<Mutex<Vec<(GroupId, u64, Result<CommittedEntries, ReadError>)>>>;

/// A read that waits.
#[derive(Clone, Debug)]
struct Flying {
    ticket: u64,
    node: usize,
    group: GroupId,
    consistency: Consistency,
    /// It must stand there at least.
    floor: u64,
}

/// All reads of a run.
#[derive(Debug)]
pub struct Reads {
    flying: Vec<Flying>,
    told: Told,
    logs: Logs,
    next_ticket: u64,
    /// Per group the highest index that anyone was told of.
    told_to: Vec<u64>,
}

impl Reads {
    /// No reads yet.
    pub fn new(groups: u64) -> Self {
        Self {
            flying: Vec::new(),
            told: Told::default(),
            logs: Logs::default(),
            next_ticket: 1,
            told_to: vec![0; groups as usize],
        }
    }

    /// Somebody was told that the entry with this index is committed.
    pub fn acknowledged(&mut self, group: GroupId, index: u64) {
        let told = &mut self.told_to[group as usize - 1];
        *told = (*told).max(index);
    }

    /// Begins a read on a shard of a node.
    pub fn begin(&mut self, node: usize, group: GroupId, plan: &Plan, dice: &mut Dice, shard: &mut SimShard) {
        let told = self.told_to[group as usize - 1];
        let consistency = match dice.below(10) {
            0..5 if plan.leases() => Consistency::Linearizable,
            0..8 => Consistency::Quorum,
            8 => Consistency::AtLeast(told + dice.below(2) as u64),
            _ => Consistency::Stale,
        };
        let floor = match consistency {
            Consistency::Linearizable | Consistency::Quorum => told,
            Consistency::AtLeast(index) => index,
            Consistency::Stale => 0,
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.flying.push(Flying { ticket, node, group, consistency, floor });
        let told = Arc::clone(&self.told);
        let wait_ns = pick(dice, &[5 * MS, 100 * MS, S, 3 * S]);
        shard.read_index(group, consistency, wait_ns, move |answer| {
            told.lock().expect("no holder panics").push((ticket, answer));
        });
    }

    /// Reads the log of a group on a shard of a node, from somewhere on.
    pub fn begin_log(&mut self, group: GroupId, dice: &mut Dice, shard: &mut SimShard) {
        let Some(info) = shard.info(group) else { return };
        let from = info.first_index + dice.below((info.next_index - info.first_index) as usize + 1) as u64;
        let logs = Arc::clone(&self.logs);
        shard.read(group, from, move |answer| logs.lock().expect("no holder panics").push((group, from, answer)));
    }

    /// Judges what was read of logs: the very entries that were proposed, as the state machines have them.
    fn check_logs(&self, observer: &Observer) -> Result<Option<&'static str>, String> {
        let read = std::mem::take(&mut *self.logs.lock().expect("no holder panics"));
        let name = (!read.is_empty()).then_some("log read");
        for (group, from, answer) in read {
            let wrong =
                |index: u64| Err(format!("group {group}: a reader of the log is given another entry at {index}"));
            let entries = match answer {
                Ok(entries) => entries,
                Err(ReadError::Trimmed { .. } | ReadError::Disk(_) | ReadError::Overloaded) => continue,
                Err(ReadError::Witness | ReadError::Moving) => continue,
                Err(error) => return Err(format!("group {group}: a read of the log from {from} on failed: {error}")),
            };
            if entries.first_index != from {
                return wrong(entries.first_index);
            }
            for (index, entry) in (from..).zip(entries.entries.iter()) {
                let agreed = observer.entry(group, index);
                if agreed.is_some_and(|agreed| agreed != payload(entry))
                    || entry != entry_of(payload(entry), entry.len())
                {
                    return wrong(index);
                }
            }
        }
        Ok(name)
    }

    /// A node has ended: its reads are answered no more.
    pub fn node_ended(&mut self, node: usize) {
        self.told.lock().expect("no holder panics").clear();
        self.flying.retain(|read| read.node != node);
    }

    /// Judges what was answered since the last call, and gives a name for each answer.
    pub fn take_answers(&mut self, observer: &Observer) -> Result<Vec<&'static str>, String> {
        let mut names: Vec<&'static str> = self.check_logs(observer)?.into_iter().collect();
        let told = std::mem::take(&mut *self.told.lock().expect("no holder panics"));
        for (ticket, answer) in told {
            let Some(at) = self.flying.iter().position(|read| read.ticket == ticket) else { continue };
            let read = self.flying.swap_remove(at);
            let ReadPoint { index, epoch } = match answer {
                Ok(point) => point,
                Err(ReadError::TimedOut | ReadError::NotLeader { .. } | ReadError::Moving) => {
                    names.push("read timed out");
                    continue;
                }
                Err(ReadError::Stopping | ReadError::Overloaded | ReadError::Witness) => continue,
                Err(error) => return Err(format!("{read:?} failed: {error}")),
            };
            if index < read.floor {
                return Err(format!("{read:?} stands at {index} only, by {epoch:?}"));
            }
            if index > observer.log_len(read.group) {
                let there = observer.log_len(read.group);
                return Err(format!("{read:?} stands at {index}, and only {there} entries were ever applied"));
            }
            names.push(match read.consistency {
                Consistency::Linearizable => "linearizable read",
                Consistency::Quorum => "quorum read",
                Consistency::AtLeast(_) => "read at least",
                Consistency::Stale => "stale read",
            });
            if matches!(read.consistency, Consistency::Linearizable | Consistency::Quorum) {
                self.acknowledged(read.group, index);
            }
        }
        Ok(names)
    }
}
