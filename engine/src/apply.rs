//! The apply state of a group: a function of the chosen log, so equal on every replica.
//!
//! Slots go in one after another; out comes what each one means: entries with their indexes, or nothing. The state is
//! saved in every segment's summary, so that the log below can go.

use synod_core::{Ballot, Body, Configuration, Epoch, Slot, Value};
use synod_wal::record::body_crc;

use crate::configuration;
use crate::directory::{Directory, Order};
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
    pub(crate) sessions: Sessions,
    /// The last configuration that was chosen, if any was.
    pub(crate) configuration: Option<Configuration>,
    /// The groups made at run time; only that of a shard's directory has any.
    pub(crate) directory: Directory,
}

/// What a chosen value means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Entries that got the indexes from `first_index` on.
    Entries { first_index: u64 },
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
        let (effect, crc) = match &value.body {
            Body::Batch(_) if !takes_effect => {
                self.void_batches += 1;
                (Effect::Void, 0)
            }
            Body::Batch(batch) => (self.sequence(slot, batch), batch.crc),
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
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
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
        Some(Self { slot, next_index, chain, void_batches, epoch, sessions, configuration, directory })
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
            // configuration; no groups.
            let mut numbers = [5, 7, 0, 1, 1 << 16, 1, 0, 0, 0, 0, 0, 0, 0];
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
