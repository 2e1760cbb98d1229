//! The client sessions of a group: opened and ended by log entries only, so the same on every replica.
//!
//! Sans-IO and without a clock: a part of the apply state. A session's id is the slot of the entry that opened it, so it
//! is never given twice in a group. Within a session exactly the sequence behind the last one takes effect; what came
//! before is a duplicate, answered with its position while that is remembered; an ended session is unknown for ever.
//!
//! Bounds: at most [`SESSIONS_MAX`] sessions; of each the positions of its last [`POSITIONS_MAX`] batches, and of all
//! together [`EARLIER_POSITIONS_MAX`] besides each one's last. Encoded, a session with one position takes about 12 bytes
//! and at most 56; a whole table at most [`SESSIONS_BYTES_MAX`](crate::limits::SESSIONS_BYTES_MAX).

mod codec;
pub(crate) mod command;

use std::collections::{BTreeMap, VecDeque};

use synod_core::Slot;
use synod_core::planted::{Bug, is};

use crate::limits::{EARLIER_POSITIONS_MAX, POSITIONS_MAX, SESSIONS_MAX};
use crate::marks::{Mark, mark};
use command::Command;

/// No sequence, slot or index is above this, so that counting on never overflows.
pub(crate) const NUMBER_MAX: u64 = i64::MAX as u64;

/// Where a batch of a session took effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    /// How many entries: with those of the later batches it tells the sequences.
    entries: u64,
    slot: u64,
    first_index: u64,
}

/// One session.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Session {
    /// The last sequence that took effect; 0 before the first.
    last: u64,
    /// The slot where it was last used: opened, appended to or repeated.
    used: u64,
    /// The last batches, oldest first; the newest ends at `last`.
    positions: VecDeque<Position>,
}

/// What became of a batch in its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Judgement {
    /// It takes effect.
    Next,
    /// It took effect before, at this slot with this first index if that is still known.
    Duplicate(Option<(Slot, u64)>),
    /// Its sequence does not follow.
    Gap,
    /// There is no such session now.
    Unknown,
}

/// All sessions of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sessions {
    by_id: BTreeMap<u64, Session>,
    /// Sessions by the slot where each was last used. A slot uses one session at most.
    by_use: BTreeMap<u64, u64>,
    /// The sessions of remembered batches that are not the last of theirs, by slot.
    earlier: BTreeMap<u64, u64>,
}

impl Sessions {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether a session was last used in this slot or before.
    pub(crate) fn any_idle_since(&self, slot: Slot) -> bool {
        self.by_use.first_key_value().is_some_and(|(used, _)| *used <= slot.0)
    }

    /// Carries out a command that stands in `slot`.
    pub(crate) fn command(&mut self, slot: Slot, command: Command) {
        match command {
            Command::Open { sessions_max } => {
                let room = sessions_max.clamp(1, SESSIONS_MAX as u64) as usize - 1;
                while self.len() > room
                    && let Some((_, id)) = self.by_use.first_key_value()
                {
                    mark(Mark::SessionDisplaced);
                    self.end(*id);
                }
                let session = Session { last: 0, used: slot.0, positions: VecDeque::new() };
                self.by_id.insert(slot.0, session);
                self.by_use.insert(slot.0, slot.0);
            }
            Command::Close { session } => self.end(session),
            Command::Expire { unused_since } => {
                while let Some((used, id)) = self.by_use.first_key_value()
                    && *used <= unused_since.0
                {
                    mark(Mark::SessionExpired);
                    self.end(*id);
                }
            }
        }
    }

    /// Judges the batch in `slot`, with `entries` entries from `sequence` on, and takes it in. Its first entry gets
    /// `first_index` if it takes effect.
    pub(crate) fn append(
        &mut self,
        id: u64,
        sequence: u64,
        entries: u32,
        (slot, first_index): (Slot, u64),
    ) -> Judgement {
        if is(Bug::UnknownSessionsAreNew) && !self.by_id.contains_key(&id) {
            self.by_id
                .insert(id, Session { last: sequence.saturating_sub(1), used: slot.0, positions: VecDeque::new() });
            self.by_use.insert(slot.0, id);
        }
        let Some(session) = self.by_id.get_mut(&id) else { return Judgement::Unknown };
        self.by_use.remove(&session.used);
        self.by_use.insert(slot.0, id);
        session.used = slot.0;
        let end = sequence.checked_add(u64::from(entries) - 1).filter(|end| sequence > 0 && *end <= NUMBER_MAX);
        let Some(end) = end else { return Judgement::Gap };
        if sequence == session.last + 1 || is(Bug::SessionsTakeAll) {
            if sequence != session.last + 1 {
                session.positions.clear();
            }
            session.last = end;
            self.remember(id, Position { entries: u64::from(entries), slot: slot.0, first_index });
            Judgement::Next
        } else if end <= session.last {
            Judgement::Duplicate(session.position_of(sequence, end))
        } else {
            Judgement::Gap
        }
    }

    /// Remembers a session's newest batch, and forgets what is too much.
    fn remember(&mut self, id: u64, position: Position) {
        let session = self.by_id.get_mut(&id).expect("the caller has it");
        if let Some(previous) = session.positions.back() {
            self.earlier.insert(previous.slot, id);
        }
        session.positions.push_back(position);
        if session.positions.len() > POSITIONS_MAX
            && let Some(oldest) = session.positions.pop_front()
        {
            self.earlier.remove(&oldest.slot);
        }
        if self.earlier.len() > EARLIER_POSITIONS_MAX
            && let Some((_, id)) = self.earlier.pop_first()
            && let Some(session) = self.by_id.get_mut(&id)
        {
            // The oldest of all is the oldest of its session.
            session.positions.pop_front();
        }
    }

    /// Forgets a session, if there is such a one.
    fn end(&mut self, id: u64) {
        let Some(session) = self.by_id.remove(&id) else { return };
        self.by_use.remove(&session.used);
        for position in session.positions {
            self.earlier.remove(&position.slot);
        }
    }
}

impl Session {
    /// The slot of the sequences from `first` to `last`, and the index of the first, if one remembered batch has them all.
    fn position_of(&self, first: u64, last: u64) -> Option<(Slot, u64)> {
        let mut end = self.last;
        for position in self.positions.iter().rev() {
            let start = end.checked_sub(position.entries)? + 1;
            if start <= first && last <= end {
                return Some((Slot(position.slot), position.first_index + (first - start)));
            }
            end = start - 1;
        }
        None
    }
}

#[cfg(test)]
mod tests;
