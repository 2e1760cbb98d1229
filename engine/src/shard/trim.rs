//! What of the log may go, and what keeps it.
//!
//! Invariants: a segment goes only when all that a restart needs of it is durable elsewhere (a newer summary, and what the
//! state machine holds or a checkpoint covers), and when whoever lags can still catch up: from a checkpoint, or, without a
//! state machine, from the apply state. No reader that has pinned the log loses what it needs.

use std::collections::HashMap;

use synod_core::Slot;
use synod_core::planted::{Bug, is};

use super::Shard;
use super::group::Group;
use super::group::GroupKind;
use crate::marks::{Mark, mark};
use crate::outcome::GroupId;

/// Readers that may pin a group's log.
const PINS_MAX: usize = 64;
/// The longest name of a reader.
const PIN_NAME_BYTES_MAX: usize = 256;

/// A reader that needs the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pin {
    index: u64,
    /// When it is forgotten unless it was renewed.
    until_ns: u64,
}

/// Why the oldest segment cannot go, as far as one group is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keeps {
    /// A voter may ask for what is in it, and nothing else would help that one.
    Voter,
    /// It holds what is accepted and not chosen.
    Unchosen,
    /// The state machine needs a newer checkpoint.
    Machine,
    /// A reader needs it, or trimming is paused.
    Reader,
    /// A newer segment's summaries are awaited.
    Summary,
}

impl Group {
    /// The last slot that readers do not need.
    fn unpinned(&self, hold_entries: u64) -> Slot {
        if self.checkpoints.trimming_paused {
            return Slot::ZERO;
        }
        let held = (hold_entries > 0).then(|| (self.checkpoints.index() + 1).saturating_sub(hold_entries));
        let pinned = self.checkpoints.pins.values().map(|pin| pin.index).chain(held).min();
        match pinned {
            Some(index) if !is(Bug::PinsAreIgnored) => self.last_slot_before(index),
            _ => self.apply.slot,
        }
    }
}

/// What a set of summaries says: by the groups' places, the slot up to which older records are replaced; none for a group
/// that was only coming from another shard then. A group that came later is not in it.
pub(super) type Summaries = Vec<Option<Slot>>;

/// Behind which slot a group's entries can be read after a restart when those up to `gone` are: from the first of the newer
/// summaries on behind which no slot is missing. What lies before it in its own segment goes as well.
pub(super) fn readable_behind(at: usize, gone: Slot, newer: &[&Summaries]) -> Option<Slot> {
    newer.iter().filter_map(|slots| slots.get(at).copied().unwrap_or(Some(Slot::ZERO))).find(|of| *of >= gone)
}

impl Shard {
    /// Whether the oldest segment, `generation`, may go.
    pub(super) fn may_release(&self, generation: u64) -> bool {
        let newer = self.newer_summaries(generation);
        let slots: HashMap<u128, u64> = self.index.segment_slots(generation).collect();
        !self.made.is_deleting()
            // What moves is read from the log, or is not of a group yet.
            && !self.moves.is_any()
            // Until nothing is noted of a group that is gone, a start looks for it.
            && !self.moves.is_forgetting()
            && !newer.is_empty()
            && (0..self.groups.len()).all(|at| self.keeps(at, generation, &slots, &newer).is_none())
    }

    pub(super) fn newer_summaries(&self, generation: u64) -> Vec<&Summaries> {
        self.summaries.iter().filter(|(of, _)| *of > generation).map(|(_, slots)| slots).collect()
    }

    /// The last slot of a group for which a segment counts: what is accepted and not chosen does not when it was appended
    /// again, durably, behind it.
    pub(super) fn slot_in(&self, group: &Group, generation: u64, highest: Slot) -> Slot {
        let chosen = group.replica.log().chosen();
        if is(Bug::UnchosenIsTrimmed) {
            return highest.min(chosen);
        }
        let moved = |slot| self.index.get(group.names.uid, slot).is_some_and(|place| place.generation > generation);
        let durable = group.durable == group.appended;
        if highest > chosen && durable && (chosen.0 + 1..=highest.0).all(moved) { chosen } else { highest }
    }

    pub(super) fn keeps(
        &self,
        at: usize,
        generation: u64,
        slots: &HashMap<u128, u64>,
        newer: &[&Summaries],
    ) -> Option<Keeps> {
        let group = &self.groups[at];
        if group.kind == GroupKind::Gone {
            return None;
        }
        // Of one that has come from another shard, what makes sense of its records may lie in this very segment.
        if !newer.is_empty() && newer.iter().all(|slots| slots.get(at) == Some(&None)) {
            return Some(Keeps::Summary);
        }
        let slot = slots.get(&group.names.uid).map_or(Slot::ZERO, |slot| self.slot_in(group, generation, Slot(*slot)));
        let gone = group.gone.max(slot);
        if gone == Slot::ZERO {
            return None;
        }
        if slot > group.replica.log().chosen() {
            return Some(Keeps::Unchosen);
        }
        let has_machine = group.machine.is_some() || group.checkpoints.away;
        if group.checkpoints.taken && gone > group.checkpoints.slot() && !is(Bug::MachinesAreForgotten) {
            return Some(Keeps::Machine);
        }
        // Without checkpoints, who lacks entries that a state machine needs gets them from the log or not at all.
        // And what a witness knows as chosen, voters that hold it and do not know it yet may need, while there is room.
        let tells = group.replica.is_witness() && !self.writer.bytes_over_limit();
        let asked_for = has_machine && !group.checkpoints.taken && !is(Bug::SegmentsGoUnasked) || tells;
        let settled = if asked_for { group.replica.low() } else { Slot(u64::MAX) };
        let unpinned = group.unpinned(self.checkpoints.policy.hold(self.writer.bytes_live()));
        if slot > settled {
            return Some(Keeps::Voter);
        }
        if slot > unpinned {
            return Some(Keeps::Reader);
        }
        match readable_behind(at, gone, newer) {
            None => Some(Keeps::Summary),
            Some(of) if of > group.consumed() && !is(Bug::MachinesAreForgotten) => Some(Keeps::Machine),
            // Who lags behind what can be read is given a checkpoint. None may come for as long as that one cannot go on.
            Some(of) if group.checkpoints.taken && of > group.checkpoints.slot() => Some(Keeps::Machine),
            Some(of) if of > settled.max(gone) => Some(Keeps::Voter),
            Some(of) if of > unpinned.max(gone) => Some(Keeps::Reader),
            Some(_) => None,
        }
    }

    /// Sees to it that a log beyond its budget can be trimmed: has checkpoints taken, and appends again what is accepted
    /// and not chosen in the oldest segment.
    pub(super) fn unpin_oldest(&mut self) {
        let over = self.writer.bytes_live() > self.retain_bytes || self.writer.starved().is_some();
        let Some(oldest) = self.writer.oldest().filter(|oldest| oldest.sealed) else { return };
        if !over && !self.trim_is_ordered(oldest.generation) {
            return;
        }
        let newer = self.newer_summaries(oldest.generation);
        let slots: HashMap<u128, u64> = self.index.segment_slots(oldest.generation).collect();
        let keeps: Vec<(u32, Keeps)> = (0..self.groups.len())
            .filter_map(|at| Some((at as u32, self.keeps(at, oldest.generation, &slots, &newer)?)))
            .collect();
        for (at, keeps) in keeps {
            match keeps {
                Keeps::Machine => self.want_checkpoint(at),
                Keeps::Unchosen => self.rewrite_unchosen(at, oldest.generation),
                Keeps::Voter | Keeps::Reader | Keeps::Summary => {}
            }
        }
    }

    /// A log that takes no proposals never opens a next segment, whose summaries would let older ones go: they are written
    /// again where the log is.
    pub(super) fn renew_summaries(&mut self) {
        let refuses = self.writer.bytes_over_limit() || self.writer.starved().is_some();
        let Some(oldest) = self.writer.oldest().filter(|oldest| oldest.sealed) else { return };
        let wanted = refuses || self.trim_is_ordered(oldest.generation);
        if !wanted || !self.summaries_flying.is_empty() || self.writer.open_generation().is_none() {
            return;
        }
        let newer = self.newer_summaries(oldest.generation);
        let slots: HashMap<u128, u64> = self.index.segment_slots(oldest.generation).collect();
        let keeps = (0..self.groups.len()).filter_map(|at| self.keeps(at, oldest.generation, &slots, &newer));
        let keeps: Vec<Keeps> = keeps.collect();
        if !keeps.is_empty() && keeps.iter().all(|keeps| *keeps == Keeps::Summary) {
            mark(Mark::SummariesRenewed);
            self.write_summaries();
        }
    }

    fn rewrite_unchosen(&mut self, at: u32, generation: u64) {
        let group = &mut self.groups[at as usize];
        let moved =
            |slot: Slot| self.index.get(group.names.uid, slot.0).is_none_or(|place| place.generation > generation);
        let log = group.replica.log();
        let old: Vec<Slot> = (log.chosen().0 + 1..=log.last().0).map(Slot).filter(|slot| !moved(*slot)).collect();
        // A record that is still on its way has the value's place: it is newer than what the index says.
        let on_its_way = group.durable != group.appended;
        if group.checkpoints.rewritten_for == generation
            || old.is_empty()
            || on_its_way
            || self.writer.starved().is_some()
        {
            return;
        }
        mark(Mark::UnchosenRewritten);
        group.checkpoints.rewritten_for = generation;
        self.act(at, &[], |r, out| old.into_iter().for_each(|slot| r.append_again(slot, out)));
    }

    // ---- readers ----

    /// Why a group's log cannot go up to an index: somebody has said that it is needed.
    pub(super) fn pinned_below(&self, at: u32, before: u64) -> Option<String> {
        let group = &self.groups[at as usize];
        let (id, of) = (group.names.id, &group.checkpoints);
        if of.trimming_paused {
            return Some(format!("the trimming of group {id} is paused on this node: let it go on first"));
        }
        let (name, pin) = of.pins.iter().find(|(_, pin)| pin.index < before)?;
        Some(format!(
            "a reader named {name:?} has pinned the log of group {id} from index {} on: unpin it, or trim up to there",
            pin.index
        ))
    }

    /// Keeps a group's log from an index on for a reader with this name, or renews that; `None` lets it go.
    pub(crate) fn pin(&mut self, id: GroupId, name: String, index: Option<(u64, u64)>) -> Result<(), String> {
        let now_ns = self.now_ns;
        let at = self.group_at(id).ok_or_else(|| format!("there is no group {id} on this node"))?;
        let group = &mut self.groups[at as usize];
        let first_index = group.first_index();
        let pins = &mut group.checkpoints.pins;
        let Some((index, age_ns)) = index else {
            pins.remove(&name);
            return Ok(());
        };
        if index < first_index {
            return Err(format!("the log of group {id} was trimmed: it begins at index {first_index}"));
        }
        if name.len() > PIN_NAME_BYTES_MAX || (pins.len() == PINS_MAX && !pins.contains_key(&name)) {
            return Err(format!(
                "at most {PINS_MAX} readers can pin a group's log, with names of at most {PIN_NAME_BYTES_MAX} bytes: \
                 unpin one that is gone"
            ));
        }
        pins.insert(name, Pin { index, until_ns: now_ns.saturating_add(age_ns) });
        Ok(())
    }

    /// Stops the trimming of a group's log, or goes on with it.
    pub(crate) fn pause_trimming(&mut self, id: GroupId, paused: bool) -> Result<(), String> {
        let at = self.group_at(id).ok_or_else(|| format!("there is no group {id} on this node"))?;
        self.groups[at as usize].checkpoints.trimming_paused = paused;
        Ok(())
    }

    /// What is trimmed must not be what a reader needs.
    pub(super) fn check_pins(&self, at: u32, first_before: u64) {
        let group = &self.groups[at as usize];
        let first_index = group.first_index();
        let lost = |index: u64| (first_before..first_index).contains(&index);
        assert!(
            !group.checkpoints.pins.values().any(|pin| lost(pin.index)),
            "group {} is trimmed up to index {first_index}, past a reader that has pinned it",
            group.names.id
        );
    }

    pub(super) fn expire_pins(&mut self, at: u32) {
        let now_ns = self.now_ns;
        let group = &mut self.groups[at as usize];
        let id = group.names.id;
        group.checkpoints.pins.retain(|name, pin| {
            let stays = pin.until_ns > now_ns;
            if !stays {
                mark(Mark::PinExpired);
                tracing::warn!(
                    group = id,
                    name,
                    index = pin.index,
                    "a reader has not renewed its pin: it is forgotten"
                );
            }
            stays
        });
    }

    /// The lowest index that a reader has pinned, how many readers there are, and the seconds until the first is forgotten.
    pub(super) fn pinned(&self, at: u32) -> (u64, u64, u64) {
        let pins = &self.groups[at as usize].checkpoints.pins;
        let until_ns = pins.values().map(|pin| pin.until_ns).min().unwrap_or(0);
        let left = until_ns.saturating_sub(self.now_ns).div_ceil(1_000_000_000);
        (pins.values().map(|pin| pin.index).min().unwrap_or(0), pins.len() as u64, left)
    }
}
