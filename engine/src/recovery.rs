//! From the records of a shard's log back to its groups.
//!
//! Records come in the order of the log. A group's promise is the highest in any record; its chosen prefix is what its
//! records bear, as far as the values are there; its apply state starts at a summary and takes in the headers of the
//! chosen values behind it. Only what is accepted and not chosen is held in memory.

use std::collections::{BTreeMap, HashMap};

use synod_core::planted::{Bug, is};
use synod_core::{Ballot, Body, Record, Recovered, Slot, Value};
use synod_wal::index::{Index, Place as IndexPlace};
use synod_wal::ops::RecordPlace;
use synod_wal::record::RecordHeader;

use crate::apply::{ApplyState, Effect};
use crate::batch::Batch;
use crate::groups::name_of;
use crate::indexes::Indexes;
use crate::payload::{Payload, Place};
use crate::persist::{Summary, readable_runs, record_header};
use crate::wire::{BATCH, RECORD_VERSION, kind, value_with};

/// What the log says of one group.
#[derive(Default)]
pub(crate) struct RecoveredGroup {
    promised: Ballot,
    chosen: Slot,
    pub(crate) apply: ApplyState,
    /// Values above the apply state, each with the ballot of its vote.
    values: BTreeMap<Slot, (Ballot, Value<Payload>)>,
    pub(crate) indexes: Indexes,
    /// Up to here slots may be gone from the log.
    pub(crate) gone: Slot,
    /// The number of the move that has brought the group into this log; 0: it has always been in it.
    pub(crate) arrival: u64,
    /// Its arrival was in the log, and so is what of it can be read since.
    arrived: bool,
    /// The summary that comes next is the one that it arrived with: chosen values before that follow.
    arriving: bool,
}

/// Gathers the groups of a shard from the records of its log.
#[derive(Default)]
pub(crate) struct Recoverer {
    groups: HashMap<u128, RecoveredGroup>,
    pub(crate) index: Index,
    /// The first record that makes no sense.
    pub(crate) malformed: Option<(RecordPlace, u128)>,
}

/// A log whose records contradict each other, although each is intact.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the log of {} lacks slot {slot}, which was chosen: it cannot vote. Replace this replica", name_of(*.group))]
pub(crate) struct MissingSlot {
    group: u64,
    slot: Slot,
}

impl Recoverer {
    /// Takes the next record of the log.
    pub(crate) fn record(&mut self, place: RecordPlace, header: &RecordHeader, body: &[u8]) {
        let gone = self.gone(header.uid);
        self.note(place, header, body);
        if header.kind == kind::ARRIVAL {
            self.index.remove(header.uid);
        }
        if self.gone(header.uid) > gone {
            // What is held there may never have been chosen: it must not be given to anybody.
            self.index.trim(header.uid, self.gone(header.uid).0);
        }
        if header.kind == kind::ACCEPT || header.kind == kind::LEARNED {
            let RecordPlace { generation, offset, bytes } = place;
            let place = IndexPlace { generation, offset, bytes, ballot: header.numbers[1] };
            self.index.insert(header.uid, header.numbers[0], place);
        }
    }

    /// As [`Recoverer::record`], for one who does not ask where the values lie.
    pub(crate) fn note(&mut self, place: RecordPlace, header: &RecordHeader, body: &[u8]) {
        let group = self.groups.entry(header.uid).or_default();
        if group.take(header, body).is_none() && self.malformed.is_none() {
            self.malformed = Some((place, header.uid));
        }
    }

    /// What was taken so far of a group that has records.
    pub(crate) fn group(&self, uid: u128) -> Option<&RecoveredGroup> {
        self.groups.get(&uid)
    }

    /// The group with this uid; a group without records is new.
    ///
    /// # Errors
    /// When a chosen slot is missing in the middle of what is there.
    pub(crate) fn finish(
        &mut self,
        group: u64,
        uid: u128,
    ) -> Result<(Recovered<Payload>, RecoveredGroup), MissingSlot> {
        let (recovered, found, hole) = self.finish_up_to_hole(uid);
        match hole {
            Some(slot) => Err(MissingSlot { group, slot }),
            None => Ok((recovered, found)),
        }
    }

    /// As [`Recoverer::finish`]; of a log that lacks a slot in the middle, what is before it, and the slot.
    pub(crate) fn finish_up_to_hole(&mut self, uid: u128) -> (Recovered<Payload>, RecoveredGroup, Option<Slot>) {
        let mut recovered = self.groups.remove(&uid).unwrap_or_default();
        recovered.advance();
        let floor = recovered.apply.slot;
        let mut entries = Vec::new();
        let mut next = floor.next();
        let mut hole = None;
        for (slot, (ballot, value)) in std::mem::take(&mut recovered.values) {
            if slot != next {
                hole = Some(next);
                break;
            }
            next = next.next();
            entries.push((ballot, value));
        }
        // What is chosen is in the apply state now; a prefix that was known but whose values a crash has taken is
        // learned again.
        let promised = if is(Bug::PromisesAreForgotten) {
            entries.iter().map(|(ballot, _)| *ballot).max().unwrap_or_default()
        } else {
            recovered.promised
        };
        let configuration = recovered.apply.configuration.clone();
        (Recovered { promised, floor, configuration, chosen: floor, entries }, recovered, hole)
    }

    /// Up to where the slots of a group may be gone from what was taken so far.
    pub(crate) fn gone(&self, uid: u128) -> Slot {
        self.groups.get(&uid).map_or(Slot::ZERO, |group| group.gone)
    }
}

impl Recoverer {
    /// What is left belongs to groups that were dropped.
    pub(crate) fn forget_others(&mut self) {
        for (uid, _) in self.groups.drain() {
            self.index.remove(uid);
        }
    }
}

/// All that counts of a group: the same before and after its log was copied.
#[derive(PartialEq, Debug)]
pub(crate) struct Digest {
    promised: Ballot,
    told: Slot,
    gone: Slot,
    apply: ApplyState,
    indexes: Indexes,
    /// What is accepted above, as records.
    accepted: Vec<RecordHeader>,
}

impl RecoveredGroup {
    /// What counts of it.
    pub(crate) fn digest(&self, uid: u128) -> Digest {
        let record = |(slot, (ballot, value)): (&Slot, &(Ballot, Value<Payload>))| {
            let record = Record::Accept { slot: *slot, ballot: *ballot, first: Slot::ZERO, value: value.clone() };
            record_header(uid, Slot::ZERO, &record)
        };
        Digest {
            promised: self.promised,
            told: self.chosen,
            gone: self.gone,
            apply: self.apply.clone(),
            indexes: self.indexes.clone(),
            accepted: self.values.iter().map(record).collect(),
        }
    }

    /// The first slot that is missing before others.
    pub(crate) fn hole(&self) -> Option<Slot> {
        let slots = std::iter::successors(Some(self.apply.slot.next()), |slot| Some(slot.next()));
        self.values.keys().zip(slots).find(|(held, slot)| *held != slot).map(|(_, slot)| slot)
    }

    /// Its votes in short.
    pub(crate) fn summary(&self) -> Summary {
        let accepted = self.values.iter().map(|(slot, (ballot, value))| (*slot, *ballot, value.origin));
        Summary {
            promised: self.promised,
            chosen: self.chosen,
            apply: self.apply.clone(),
            arrival: self.arrival,
            accepted: accepted.collect(),
        }
    }

    /// The chosen prefix that the log has heard of: its values may not be there.
    pub(crate) fn told(&self) -> Slot {
        self.chosen
    }

    fn take(&mut self, header: &RecordHeader, body: &[u8]) -> Option<()> {
        if header.version != RECORD_VERSION {
            return None;
        }
        let [slot, ballot, _, _, chosen, _, _] = header.numbers;
        let (slot, ballot) = (Slot(slot), Ballot::unpack(ballot));
        match header.kind {
            kind::PROMISE => self.promised = self.promised.max(ballot),
            kind::CHOSEN => {}
            kind::ACCEPT | kind::LEARNED => {
                if header.flags == BATCH && Batch::decode(body).ok()?.len() != header.entries as usize {
                    return None;
                }
                self.promised = self.promised.max(ballot);
                if slot > self.apply.slot {
                    self.values.insert(slot, (ballot, value_with(header, body, Place::Owned(body.into())).ok()?));
                }
            }
            kind::SUMMARY => {
                let summary = Summary::decode(header, body)?;
                self.promised = self.promised.max(summary.promised);
                self.advance_to(summary.apply.slot);
                if summary.apply.slot > self.apply.slot
                    || (summary.apply.slot == self.apply.slot && summary.apply != self.apply)
                {
                    // What lies between is in segments that are gone; or the replica has taken over what others had
                    // trimmed, and the values that it held there itself were never chosen.
                    self.apply = summary.apply;
                    if !self.arriving {
                        self.gone = self.apply.slot;
                    }
                    self.indexes.clear();
                    self.values = self.values.split_off(&self.apply.slot.next());
                }
                self.chosen = self.chosen.max(summary.chosen);
                (self.arrival, self.arriving) = (summary.arrival, false);
            }
            // What stands before it is of an earlier stay in this log.
            kind::ARRIVAL => {
                *self = Self { arrival: header.numbers[0], arrived: true, arriving: true, ..Self::default() };
            }
            // The arrival itself may be in a segment that is gone: then a summary behind this says what can be read.
            kind::READABLE if !self.arrived => {}
            kind::READABLE => self.take_readable(Slot(header.numbers[0]), body)?,
            _ => return None,
        }
        // The record bears what was chosen among the values before it; what it learns is chosen too.
        self.chosen = self.chosen.max(Slot(chosen));
        if header.kind == kind::LEARNED {
            self.chosen = self.chosen.max(slot);
        }
        self.advance();
        Some(())
    }

    /// Takes in what can be read of a group that has arrived, behind `gone`. Its summary stands before that.
    fn take_readable(&mut self, gone: Slot, body: &[u8]) -> Option<()> {
        for (first, slots, index) in readable_runs(body)? {
            let last = first.0.checked_add(slots)?.checked_sub(1)?;
            let behind = self.indexes.back().is_none_or(|(of, before)| *of < first && *before < index);
            if slots == 0 || first <= gone || last > self.apply.slot.0 || index >= self.apply.next_index || !behind {
                return None;
            }
            self.indexes.push(Slot(last), slots, index);
        }
        self.gone = gone;
        Some(())
    }

    /// Takes in the chosen values that are there.
    fn advance(&mut self) {
        self.advance_to(self.chosen);
    }

    fn advance_to(&mut self, up_to: Slot) {
        while self.apply.slot < up_to
            && let Some((_, value)) = self.values.remove(&self.apply.slot.next())
        {
            let slot = self.apply.slot.next();
            let before = is(Bug::EndedSessionsComeBack).then(|| self.apply.sessions.clone());
            if let (Effect::Entries { first_index }, Body::Batch(batch)) = (self.apply.apply(slot, &value), &value.body)
            {
                // A witness has nothing to read.
                if !value.is_stub() {
                    self.indexes.push(slot, batch.header().slots(), first_index);
                }
            } else if let Some(before) = before.filter(|before| before.len() > self.apply.sessions.len()) {
                self.apply.sessions = before;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use synod_core::MemberId;
    use synod_wal::record::body_crc;

    use super::*;
    use crate::batch::Entries;
    use crate::large::PartOf;
    use crate::payload::BatchHeader;
    use crate::sessions::command::Command;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, member: MemberId(1) }
    }

    fn batch(origin: Ballot, entry: &[u8]) -> Value<Payload> {
        let entries = Entries::one(entry).unwrap();
        let crc = body_crc(&entries.parts(&mut Vec::new()));
        let header =
            BatchHeader { entries: 1, bytes: entries.body_bytes() as u32, crc, client: 0, sequence: 0, part: None };
        Value { origin, body: Body::Batch(Payload::new(header, Place::Closed(entries))) }
    }

    fn feed(recoverer: &mut Recoverer, chosen: u64, record: &Record<Payload>) {
        let header = record_header(7, Slot(chosen), record);
        let body = match record {
            Record::Accept { value: Value { body: Body::Batch(p), .. }, .. }
            | Record::Learned { value: Value { body: Body::Batch(p), .. }, .. } => p.with_body(<[u8]>::to_vec),
            _ => Vec::new(),
        };
        recoverer.record(RecordPlace { generation: 1, offset: 0, bytes: 96 }, &header, &body);
    }

    fn accept(slot: u64, round: u64, value: Value<Payload>) -> Record<Payload> {
        Record::Accept { slot: Slot(slot), ballot: ballot(round), first: Slot(1), value }
    }

    fn epoch_start(round: u64) -> Value<Payload> {
        Value { origin: ballot(round), body: Body::EpochStart }
    }

    fn feed_raw(recoverer: &mut Recoverer, (header, body): (RecordHeader, Vec<u8>)) {
        recoverer.record(RecordPlace { generation: 2, offset: 0, bytes: 96 }, &header, &body);
    }

    /// The records of a group that comes from another shard: its summary is younger than the values that follow.
    fn arrive(recoverer: &mut Recoverer, number: u64) {
        feed_raw(recoverer, (crate::persist::arrival_header(7, number), Vec::new()));
        let mut apply = ApplyState::default();
        apply.apply(Slot(1), &epoch_start(1));
        for slot in 2..=4 {
            apply.apply(Slot(slot), &batch(ballot(1), b"entry"));
        }
        let accepted = vec![(Slot(5), ballot(1), ballot(1))];
        let summary = Summary { promised: ballot(6), chosen: Slot(4), apply, arrival: number, accepted };
        feed_raw(recoverer, summary.encode(7));
        (3..=4).for_each(|slot| feed(recoverer, 0, &accept(slot, 1, batch(ballot(1), b"entry"))));
        feed(recoverer, 0, &accept(5, 1, batch(ballot(1), b"not chosen")));
        let runs = [(Slot(3), 1, 2), (Slot(4), 1, 3)];
        feed_raw(recoverer, crate::persist::readable_record(7, Slot(2), &runs));
    }

    #[test]
    fn a_group_that_came_from_another_shard_is_what_it_was() {
        let mut recoverer = Recoverer::default();
        // Of an earlier stay: it must not count.
        feed(&mut recoverer, 0, &Record::Promise { ballot: ballot(9) });
        feed(&mut recoverer, 1, &accept(1, 9, epoch_start(9)));
        arrive(&mut recoverer, 3);
        assert!((1..=2).all(|slot| recoverer.index.get(7, slot).is_none()));
        assert!((3..=5).all(|slot| recoverer.index.get(7, slot).is_some()));
        let (recovered, group) = recoverer.finish(1, 7).unwrap();
        assert_eq!((recovered.promised, recovered.chosen, recovered.entries.len()), (ballot(6), Slot(4), 1));
        assert_eq!((group.arrival, group.gone, group.apply.next_index), (3, Slot(2), 4));
        assert_eq!(*group.indexes, [(Slot(3), 2), (Slot(4), 3)]);
        assert_eq!(recoverer.malformed, None);
    }

    #[test]
    fn an_arrival_may_be_gone_behind_a_later_summary() {
        let mut whole = Recoverer::default();
        arrive(&mut whole, 3);
        let summary = whole.group(7).unwrap().summary();
        // The segment with its beginning is gone; the rest of it makes no sense until the summary behind it.
        let mut recoverer = Recoverer::default();
        feed(&mut recoverer, 0, &accept(4, 1, batch(ballot(1), b"entry")));
        feed(&mut recoverer, 0, &accept(5, 1, batch(ballot(1), b"not chosen")));
        feed_raw(&mut recoverer, crate::persist::readable_record(7, Slot(2), &[(Slot(3), 1, 2), (Slot(4), 1, 3)]));
        feed_raw(&mut recoverer, summary.encode(7));
        let (recovered, group) = recoverer.finish(1, 7).unwrap();
        assert_eq!((recovered.promised, recovered.chosen, recovered.entries.len()), (ballot(6), Slot(4), 1));
        assert_eq!((group.arrival, group.gone), (3, Slot(4)));
        assert!(recoverer.malformed.is_none() && group.indexes.is_empty());
    }

    #[test]
    fn what_can_be_read_of_a_group_must_make_sense() {
        for runs in [vec![(Slot(2), 1, 2)], vec![(Slot(5), 1, 3)], vec![(Slot(3), 0, 2)], vec![(Slot(3), 1, 9)]] {
            let mut recoverer = Recoverer::default();
            arrive(&mut recoverer, 1);
            feed_raw(&mut recoverer, crate::persist::readable_record(7, Slot(2), &runs));
            assert!(recoverer.malformed.is_some(), "{runs:?}");
        }
    }

    #[test]
    fn a_promise_made_only_by_an_accept_is_found() {
        let mut recoverer = Recoverer::default();
        feed(&mut recoverer, 0, &Record::Promise { ballot: ballot(2) });
        feed(&mut recoverer, 0, &accept(1, 5, epoch_start(5)));
        let (recovered, _) = recoverer.finish(1, 7).unwrap();
        assert_eq!(recovered.promised, ballot(5));
        assert_eq!(recovered.entries.len(), 1);
    }

    #[test]
    fn the_last_vote_for_a_slot_counts_and_the_chosen_are_applied() {
        let mut recoverer = Recoverer::default();
        feed(&mut recoverer, 0, &accept(1, 1, epoch_start(1)));
        feed(&mut recoverer, 0, &accept(2, 1, batch(ballot(1), b"old")));
        feed(&mut recoverer, 1, &accept(2, 2, epoch_start(2)));
        feed(&mut recoverer, 2, &accept(3, 2, batch(ballot(2), b"new")));
        let (recovered, group) = recoverer.finish(1, 7).unwrap();
        assert_eq!((recovered.floor, recovered.chosen), (Slot(2), Slot(2)));
        assert_eq!(recovered.entries.len(), 1);
        assert_eq!(group.apply.next_index, 1);
        // A replica that lags asks for epoch starts too, though they have no entries.
        assert!((1..=3).all(|slot| recoverer.index.get(7, slot).is_some()));
    }

    #[test]
    fn a_chosen_prefix_beyond_the_values_is_learned_again() {
        let mut recoverer = Recoverer::default();
        feed(&mut recoverer, 0, &accept(1, 1, epoch_start(1)));
        feed(&mut recoverer, 9, &Record::Chosen);
        let (recovered, _) = recoverer.finish(1, 7).unwrap();
        assert_eq!(recovered.chosen, Slot(1));
    }

    #[test]
    fn a_summary_replaces_what_was_trimmed() {
        let mut apply = ApplyState::default();
        apply.apply(Slot(1), &epoch_start(1));
        apply.apply(Slot(2), &batch(ballot(1), b"gone"));
        let summary = Summary { promised: ballot(4), chosen: Slot(2), apply, arrival: 0, accepted: vec![] };
        let mut recoverer = Recoverer::default();
        let (header, body) = summary.encode(7);
        recoverer.record(RecordPlace { generation: 2, offset: 0, bytes: 96 }, &header, &body);
        feed(&mut recoverer, 3, &accept(3, 4, batch(ballot(1), b"kept")));
        feed(&mut recoverer, 3, &Record::Chosen);
        let (recovered, group) = recoverer.finish(1, 7).unwrap();
        assert_eq!(recovered.promised, ballot(4));
        assert_eq!(*group.indexes, [(Slot(3), 2)]);
    }

    /// A batch of one entry in a session; a command when the session is a command's.
    fn in_session(client: u64, sequence: u64) -> Value<Payload> {
        let entries = Entries::one(b"").unwrap();
        let crc = body_crc(&entries.parts(&mut Vec::new()));
        let header = BatchHeader { entries: 1, bytes: entries.body_bytes() as u32, crc, client, sequence, part: None };
        Value { origin: ballot(1), body: Body::Batch(Payload::new(header, Place::Closed(entries))) }
    }

    #[test]
    fn sessions_survive_summary_and_restart_and_ended_ones_do_not_come_back() {
        let (open, max) = Command::Open { sessions_max: 8 }.header();
        let (close, third) = Command::Close { session: 3 }.header();
        let mut apply = ApplyState::default();
        apply.apply(Slot(1), &epoch_start(1));
        apply.apply(Slot(2), &in_session(open, max));
        apply.apply(Slot(3), &in_session(open, max));
        apply.apply(Slot(4), &in_session(2, 1));
        let summary =
            Summary { promised: ballot(1), chosen: Slot(4), apply: apply.clone(), arrival: 0, accepted: vec![] };
        let mut recoverer = Recoverer::default();
        let (header, body) = summary.encode(7);
        recoverer.record(RecordPlace { generation: 2, offset: 0, bytes: 96 }, &header, &body);
        // Behind the summary: one more batch, and the end of the other session.
        feed(&mut recoverer, 6, &accept(5, 1, in_session(2, 2)));
        feed(&mut recoverer, 6, &accept(6, 1, in_session(close, third)));
        feed(&mut recoverer, 6, &Record::Chosen);
        let (_, mut group) = recoverer.finish(1, 7).unwrap();
        apply.apply(Slot(5), &in_session(2, 2));
        apply.apply(Slot(6), &in_session(close, third));
        assert_eq!(group.apply, apply);
        let again = [in_session(2, 1), in_session(2, 2), in_session(3, 1)];
        let effects: Vec<Effect> =
            (7..).zip(&again).map(|(slot, value)| group.apply.apply(Slot(slot), value)).collect();
        assert_eq!(
            effects,
            [Effect::Duplicate(Some((Slot(4), 1))), Effect::Duplicate(Some((Slot(5), 2))), Effect::UnknownSession]
        );
    }

    fn part(number: u16) -> Value<Payload> {
        let (bytes, crc, part) = (2, body_crc(&[b"xy"]), Some(PartOf { number, count: 3 }));
        let header = BatchHeader { entries: 1, bytes, crc, client: 0, sequence: 0, part };
        Value { origin: ballot(1), body: Body::Batch(Payload::new(header, Place::Owned((*b"xy").into()))) }
    }

    /// The summary was written while an entry was unfinished: what is before it may be gone, and the parts are not.
    #[test]
    fn the_parts_behind_a_summary_are_read_again() {
        let mut apply = ApplyState::default();
        apply.apply(Slot(1), &epoch_start(1));
        apply.apply(Slot(2), &batch(ballot(1), b"gone"));
        apply.apply(Slot(3), &part(0));
        let summary =
            Summary { promised: ballot(1), chosen: Slot(3), apply: apply.settled(), arrival: 0, accepted: vec![] };
        let (header, body) = summary.encode(7);
        let mut recoverer = Recoverer::default();
        feed(&mut recoverer, 2, &accept(3, 1, part(0)));
        recoverer.record(RecordPlace { generation: 2, offset: 0, bytes: 96 }, &header, &body);
        feed(&mut recoverer, 5, &accept(4, 1, part(1)));
        feed(&mut recoverer, 5, &accept(5, 1, part(2)));
        feed(&mut recoverer, 5, &Record::Chosen);
        let (recovered, group) = recoverer.finish(1, 7).unwrap();
        assert_eq!((recovered.floor, group.apply.next_index), (Slot(5), 3));
        assert_eq!((&*group.indexes, group.indexes.slots(Slot(3))), (&[(Slot(3), 2)].into(), 3));
        assert!((3..=5).all(|slot| recoverer.index.get(7, slot).is_some()));
    }

    /// A replica had accepted what was never chosen, took over from others what was, and started again.
    #[test]
    fn what_was_taken_over_beats_the_values_that_were_held_there() {
        let mut apply = ApplyState::default();
        apply.apply(Slot(1), &epoch_start(1));
        apply.apply(Slot(2), &batch(ballot(1), b"chosen"));
        let installed =
            Summary { promised: ballot(4), chosen: Slot(2), apply: apply.clone(), arrival: 0, accepted: vec![] };
        let mut recoverer = Recoverer::default();
        feed(&mut recoverer, 0, &accept(1, 1, epoch_start(1)));
        feed(&mut recoverer, 0, &accept(2, 2, batch(ballot(2), b"never chosen")));
        feed(&mut recoverer, 0, &accept(3, 2, epoch_start(2)));
        let (header, body) = installed.encode(7);
        recoverer.record(RecordPlace { generation: 1, offset: 0, bytes: 96 }, &header, &body);
        let (recovered, group) = recoverer.finish(1, 7).unwrap();
        assert_eq!(group.apply, apply);
        assert_eq!((recovered.floor, recovered.promised), (Slot(2), ballot(4)));
        // What is accepted above stays; what was held below must not be given to a replica that lags.
        assert_eq!(recovered.entries.len(), 1);
        assert_eq!(
            (1..=3).map(|slot| recoverer.index.get(7, slot).is_some()).collect::<Vec<_>>(),
            [false, false, true]
        );
    }

    #[test]
    fn a_record_of_another_version_or_with_another_number_of_entries_is_told() {
        let value = batch(ballot(1), b"one");
        let Body::Batch(payload) = &value.body else { unreachable!("it is a batch") };
        let body = payload.with_body(<[u8]>::to_vec);
        let header = record_header(7, Slot(0), &accept(1, 1, value));
        let malformed = |header: &RecordHeader| {
            let mut recoverer = Recoverer::default();
            recoverer.record(RecordPlace { generation: 1, offset: 64, bytes: 112 }, header, &body);
            recoverer.malformed.is_some()
        };
        assert!(!malformed(&header));
        assert!(malformed(&RecordHeader { version: RECORD_VERSION + 1, ..header }));
        assert!(malformed(&RecordHeader { entries: 2, ..header }));
    }

    #[test]
    fn a_hole_is_refused() {
        let mut recoverer = Recoverer::default();
        feed(&mut recoverer, 0, &accept(1, 1, epoch_start(1)));
        feed(&mut recoverer, 0, &accept(3, 1, epoch_start(1)));
        assert_eq!(recoverer.finish(1, 7).err(), Some(MissingSlot { group: 1, slot: Slot(2) }));
    }
}
