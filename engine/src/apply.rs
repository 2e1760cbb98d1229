//! The apply state of a group: a function of the chosen log, so equal on every replica.
//!
//! Slots go in one after another; out comes what each one means: entries with their indexes, or nothing. The state is
//! saved in every segment's summary, so that the log below can go.

use synod_core::planted::{Bug, is};
use synod_core::{Ballot, Body, Configuration, Epoch, Slot, Value};
use synod_wal::record::body_crc;

use crate::configuration;
use crate::directory::{Directory, Order};
use crate::large::PartOf;
use crate::marks::{Mark, mark};
use crate::payload::{BatchHeader, Payload};
use crate::sessions::command::Command;
use crate::sessions::{Judgement, NUMBER_MAX, Sessions};

/// The registers of one group, after slot [`ApplyState::slot`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApplyState {
    /// The last slot taken in.
    pub(crate) slot: Slot,
    /// The index that the next entry gets; the first is 1.
    pub(crate) next_index: u64,
    /// The chained checksum.
    pub(crate) chain: u32,
    /// Batches that did not take effect.
    pub(crate) void_batches: u64,
    epoch: Epoch,
    /// A large entry of which only the first parts were taken in.
    unfinished: Option<Unfinished>,
    pub(crate) sessions: Sessions,
    /// The last configuration that was chosen, if any was.
    pub(crate) configuration: Option<Configuration>,
    /// The groups made at run time; only that of a shard's directory has any.
    pub(crate) directory: Directory,
}

/// A large entry whose last part is not taken in. The next slot holds its next part, or it never takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Unfinished {
    /// The slot of its first part.
    first: Slot,
    /// How many parts it has.
    count: u16,
    /// The chained checksum before the first.
    chain: u32,
}

impl Unfinished {
    /// With the part in `slot`; `None` when that is not its next one.
    fn with(self, slot: Slot, part: PartOf) -> Option<Self> {
        (self.count == part.count && self.first.0 + u64::from(part.number) == slot.0).then_some(self)
    }
}

/// What a chosen value means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Entries that got the indexes from `first_index` on: those of a batch, or the one whose last part this is.
    Entries { first_index: u64 },
    /// A part of a large entry, which is not the last.
    Part,
    /// A batch that its session has already seen: its slot and first index, if they are still known.
    Duplicate(Option<(Slot, u64)>),
    /// A batch whose sequence does not follow its session.
    OutOfSession,
    /// A batch of a session that has ended, or never was.
    UnknownSession,
    /// A session was opened, whose id is the slot, or closed, or idle ones were ended; or a group came or went.
    Sessions,
    /// A batch that does not take effect.
    Void,
    /// A no-op, an epoch start or a configuration.
    Nothing,
}

impl Default for ApplyState {
    fn default() -> Self {
        Self {
            slot: Slot::ZERO,
            next_index: 1,
            chain: 0,
            void_batches: 0,
            epoch: Epoch::default(),
            unfinished: None,
            sessions: Sessions::default(),
            configuration: None,
            directory: Directory::default(),
        }
    }
}

impl ApplyState {
    /// Takes in the next slot.
    pub(crate) fn apply(&mut self, slot: Slot, value: &Value<Payload>) -> Effect {
        let body = match &value.body {
            Body::Batch(payload) => Body::Batch(payload.header()),
            Body::Noop => Body::Noop,
            Body::EpochStart => Body::EpochStart,
            Body::Configuration(configuration) => Body::Configuration(configuration.clone()),
        };
        self.apply_header(slot, &Value { origin: value.origin, body })
    }

    /// As [`ApplyState::apply`], for a value of which only the header is at hand.
    pub(crate) fn apply_header(&mut self, slot: Slot, value: &Value<BatchHeader>) -> Effect {
        assert!(slot == self.slot.next(), "slots are applied in order, each once");
        self.slot = slot;
        let takes_effect = self.epoch.apply(value);
        let unfinished = self.unfinished.take();
        let follows = |batch: &BatchHeader| batch.part.is_some_and(|part| part.number > 0);
        if unfinished.is_some() && !matches!(&value.body, Body::Batch(batch) if takes_effect && follows(batch)) {
            mark(Mark::LargeUnfinished);
        }
        let (effect, crc) = match &value.body {
            Body::Batch(_) if !takes_effect => {
                self.void_batches += 1;
                (Effect::Void, 0)
            }
            Body::Batch(batch) => match batch.part {
                Some(part) => self.take_part(slot, batch, part, unfinished),
                None => (self.sequence(slot, batch), batch.crc),
            },
            Body::Configuration(configuration) => {
                self.configuration = Some((**configuration).clone());
                (Effect::Nothing, body_crc(&[&configuration::encode(configuration)]))
            }
            Body::Noop | Body::EpochStart => (Effect::Nothing, 0),
        };
        if let (Effect::Entries { .. }, Body::Batch(batch)) = (effect, &value.body) {
            self.next_index += u64::from(batch.entries);
        }
        let mut link = [0; 24];
        link[..8].copy_from_slice(&slot.0.to_le_bytes());
        link[8..16].copy_from_slice(&value.origin.pack().to_le_bytes());
        link[16] = u8::from(matches!(effect, Effect::Entries { .. }));
        link[17] = self.directory.len() as u8;
        // At most 1024, so two bytes have it.
        link[18..20].copy_from_slice(&(self.sessions.len() as u16).to_le_bytes());
        link[20..].copy_from_slice(&crc.to_le_bytes());
        self.chain = crc32c::crc32c_append(self.chain, &link);
        effect
    }

    /// Takes in a part of a large entry. An entry takes effect with its last part, if all the others stand right before.
    fn take_part(
        &mut self,
        slot: Slot,
        batch: &BatchHeader,
        part: PartOf,
        unfinished: Option<Unfinished>,
    ) -> (Effect, u32) {
        let unfinished = match part.number {
            0 => Some(Unfinished { first: slot, count: part.count, chain: self.chain }),
            _ => unfinished.and_then(|unfinished| unfinished.with(slot, part)),
        };
        match unfinished {
            None => {
                self.void_batches += 1;
                (Effect::Void, 0)
            }
            Some(_) if part.is_last() => (self.sequence(slot, batch), batch.crc),
            Some(_) => {
                self.unfinished = unfinished;
                (Effect::Part, batch.crc)
            }
        }
    }

    /// The last slot behind which no large entry is unfinished.
    pub(crate) fn settled_slot(&self) -> Slot {
        match self.unfinished {
            Some(unfinished) if !is(Bug::HalfEntriesAreSaved) => unfinished.first.prev(),
            _ => self.slot,
        }
    }

    /// The state after [`ApplyState::settled_slot`]: parts touch nothing else before the last one is there. Only such a
    /// state is ever saved, so the parts of an unfinished entry are read again after a restart, and are kept for that.
    pub(crate) fn settled(&self) -> Self {
        match self.unfinished {
            Some(_) if is(Bug::HalfEntriesAreSaved) => Self { unfinished: None, ..self.clone() },
            Some(Unfinished { chain, .. }) => {
                mark(Mark::SettledState);
                Self { slot: self.settled_slot(), chain, unfinished: None, ..self.clone() }
            }
            None => self.clone(),
        }
    }

    /// Exactly-once: within a session only the sequence behind the last one takes effect.
    fn sequence(&mut self, slot: Slot, batch: &BatchHeader) -> Effect {
        let first_index = self.next_index;
        if batch.client == 0 {
            return Effect::Entries { first_index };
        }
        if let Some(command) = Command::of(batch.client, batch.sequence) {
            self.sessions.command(slot, command);
            return Effect::Sessions;
        }
        if let Some(order) = Order::of(batch.client, batch.sequence) {
            self.directory.order(slot, order, self.configuration.as_ref());
            return Effect::Sessions;
        }
        match self.sessions.append(batch.client, batch.sequence, batch.entries, (slot, first_index)) {
            Judgement::Next => Effect::Entries { first_index },
            Judgement::Duplicate(position) => Effect::Duplicate(position),
            Judgement::Gap => Effect::OutOfSession,
            Judgement::Unknown => Effect::UnknownSession,
        }
    }

    /// Appends the state's bytes.
    ///
    /// # Panics
    /// When it is not settled.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.unfinished.is_none(), "only a settled state is saved");
        for number in [self.slot.0, self.next_index, u64::from(self.chain), self.void_batches, self.epoch.origin.pack()]
        {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&u64::from(self.epoch.open).to_le_bytes());
        self.sessions.encode(self.slot, self.next_index, out);
        let configuration = self.configuration.clone().unwrap_or_default();
        out.extend(configuration::numbers(&configuration).flat_map(u64::to_le_bytes));
        out.extend(self.directory.numbers().flat_map(u64::to_le_bytes));
    }

    /// Reads a state back from the numbers that [`ApplyState::encode`] wrote; `None` when they are none.
    pub(crate) fn decode(numbers: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let slot = Slot(numbers.next()?);
        let next_index = numbers.next()?;
        let chain = u32::try_from(numbers.next()?).ok()?;
        let void_batches = numbers.next()?;
        let epoch = Epoch { origin: Ballot::unpack(numbers.next()?), open: numbers.next()? == 1 };
        let small = |number: u64| number <= NUMBER_MAX;
        if next_index == 0 || ![slot.0, next_index, void_batches].into_iter().all(small) {
            return None;
        }
        let sessions = Sessions::decode(slot, next_index, numbers)?;
        let configuration = Some(configuration::take(numbers)?).filter(|c| *c != Configuration::default());
        let directory = Directory::take(slot, numbers)?;
        Some(Self {
            slot,
            next_index,
            chain,
            void_batches,
            epoch,
            unfinished: None,
            sessions,
            configuration,
            directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use synod_core::MemberId;

    use super::*;

    fn value(body: Body<BatchHeader>) -> Value<BatchHeader> {
        Value { origin: Ballot { round: 1, member: MemberId(1) }, body }
    }

    fn batch(client: u64, sequence: u64, entries: u32) -> Value<BatchHeader> {
        value(Body::Batch(BatchHeader { entries, client, sequence, ..BatchHeader::default() }))
    }

    fn run(values: &[Value<BatchHeader>]) -> (ApplyState, Vec<Effect>) {
        let mut state = ApplyState::default();
        let effects = values.iter().map(|v| state.apply_header(state.slot.next(), v)).collect();
        (state, effects)
    }

    /// A session is opened.
    fn open() -> Value<BatchHeader> {
        let (client, sequence) = Command::Open { sessions_max: 8 }.header();
        batch(client, sequence, 1)
    }

    #[test]
    fn only_the_next_sequence_of_a_session_takes_effect() {
        let (state, effects) = run(&[
            value(Body::EpochStart),
            open(),
            batch(2, 1, 3),
            batch(2, 1, 3),
            batch(2, 4, 1),
            batch(2, 6, 1),
            batch(8, 1, 1),
            batch(0, 0, 2),
        ]);
        assert_eq!(
            effects,
            [
                Effect::Nothing,
                Effect::Sessions,
                Effect::Entries { first_index: 1 },
                Effect::Duplicate(Some((Slot(3), 1))),
                Effect::Entries { first_index: 4 },
                Effect::OutOfSession,
                Effect::UnknownSession,
                Effect::Entries { first_index: 5 },
            ]
        );
        assert_eq!(state.next_index, 7);
    }

    fn part(number: u16, count: u16, client: u64, sequence: u64) -> Value<BatchHeader> {
        let part = Some(PartOf { number, count });
        value(Body::Batch(BatchHeader { entries: 1, client, sequence, part, ..BatchHeader::default() }))
    }

    #[test]
    fn an_entry_in_parts_takes_effect_with_the_last() {
        let (state, effects) = run(&[
            value(Body::EpochStart),
            batch(0, 0, 2),
            part(0, 3, 0, 0),
            part(1, 3, 0, 0),
            part(2, 3, 0, 0),
            batch(0, 0, 1),
        ]);
        let entries = |first_index| Effect::Entries { first_index };
        assert_eq!(effects, [Effect::Nothing, entries(1), Effect::Part, Effect::Part, entries(3), entries(4)]);
        assert_eq!((state.next_index, state.void_batches), (5, 0));
    }

    #[test]
    fn what_comes_between_the_parts_ends_the_entry() {
        let others = [value(Body::Noop), value(Body::EpochStart), batch(0, 0, 1), part(0, 3, 0, 0), part(2, 4, 0, 0)];
        for other in others {
            let values = [value(Body::EpochStart), part(0, 3, 0, 0), other.clone(), part(2, 3, 0, 0)];
            let (state, effects) = run(&values);
            assert_eq!(effects[3], Effect::Void, "{other:?}");
            assert_eq!((state.settled(), state.settled_slot()), (state.clone(), Slot(4)), "{other:?}");
        }
        let lone = [value(Body::EpochStart), part(1, 3, 0, 0), part(2, 3, 0, 0)];
        assert_eq!(run(&lone).1[1..], [Effect::Void, Effect::Void]);
        // The same ballot goes on behind an epoch start of another one: the entry was cut in two.
        let mut later = value(Body::EpochStart);
        later.origin.round = 2;
        let cut = [value(Body::EpochStart), part(0, 2, 0, 0), later, part(1, 2, 0, 0)];
        assert_eq!(run(&cut).1[3], Effect::Void);
    }

    #[test]
    fn an_entry_in_parts_has_one_sequence() {
        let parts = |sequence| [part(0, 2, 2, sequence), part(1, 2, 2, sequence)];
        let mut values = vec![value(Body::EpochStart), open()];
        values.extend([parts(1), parts(1), parts(3), parts(2)].concat());
        let (state, effects) = run(&values);
        let last: Vec<Effect> = effects[2..].iter().skip(1).step_by(2).copied().collect();
        let first = Effect::Entries { first_index: 1 };
        let duplicate = Effect::Duplicate(Some((Slot(4), 1)));
        assert_eq!(last, [first, duplicate, Effect::OutOfSession, Effect::Entries { first_index: 2 }]);
        assert_eq!(state.next_index, 3);
    }

    #[test]
    fn a_state_is_saved_without_what_is_unfinished() {
        let before = [value(Body::EpochStart), open(), batch(2, 1, 1)];
        let (settled, _) = run(&before);
        let mut state = settled.clone();
        for number in 0..2 {
            let slot = state.slot.next();
            assert_eq!(state.apply_header(slot, &part(number, 3, 2, 2)), Effect::Part);
            assert_eq!((state.settled(), state.settled_slot()), (settled.clone(), Slot(3)));
        }
        let mut bytes = Vec::new();
        state.settled().encode(&mut bytes);
        let mut numbers = bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap()));
        let mut again = ApplyState::decode(&mut numbers).unwrap();
        // Whoever goes on from there reads the parts again.
        for number in 0..3 {
            let slot = again.slot.next();
            again.apply_header(slot, &part(number, 3, 2, 2));
        }
        let slot = state.slot.next();
        assert_eq!(state.apply_header(slot, &part(2, 3, 2, 2)), Effect::Entries { first_index: 2 });
        assert_eq!(again, state);
        assert_eq!(state.settled_slot(), Slot(6));
    }

    #[test]
    fn a_void_command_touches_no_session() {
        let (state, effects) = run(&[open()]);
        assert_eq!((effects, state.sessions.len()), (vec![Effect::Void], 0));
    }

    #[test]
    fn the_state_survives_its_encoding() {
        let (state, _) = run(&[value(Body::EpochStart), open(), batch(2, 1, 3), value(Body::Noop), batch(0, 0, 1)]);
        assert_eq!(state.void_batches, 1);
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        let mut numbers = bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap()));
        assert_eq!(ApplyState::decode(&mut numbers), Some(state));
        assert_eq!(numbers.next(), None);
    }

    #[test]
    fn a_state_from_which_nothing_could_follow_is_refused() {
        let decode = |at: usize, number: u64| {
            // Slot, next index, checksum, void batches, epoch and whether it is open; no session in no bytes; no
            // configuration; no groups made, and none placed.
            let mut numbers = [5, 7, 0, 1, 1 << 16, 1, 0, 0, 0, 0, 0, 0, 0, 0];
            numbers[at] = number;
            ApplyState::decode(&mut numbers.into_iter()).is_some()
        };
        for at in [0, 1, 3] {
            assert!(decode(at, NUMBER_MAX) && !decode(at, NUMBER_MAX + 1), "number {at}");
        }
    }

    #[test]
    fn the_chain_tells_logs_apart() {
        let (one, _) = run(&[value(Body::EpochStart), batch(0, 0, 1)]);
        let (two, _) = run(&[value(Body::EpochStart), value(Body::Noop)]);
        assert_ne!(one.chain, two.chain);
    }
}
