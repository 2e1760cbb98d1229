//! What the records of the log mean: the engine's side of the write-ahead log.

use synod_core::{Ballot, Record, Slot};
use synod_wal::record::{RecordHeader, body_crc};

use crate::apply::ApplyState;
use crate::payload::Payload;
use crate::wire::{RECORD_VERSION, ValueFields, kind, plain_header, value_header};

/// The header of a core record; the body, if any, is the value's batch.
pub(crate) fn record_header(uid: u128, chosen: Slot, record: &Record<Payload>) -> RecordHeader {
    match record {
        Record::Promise { ballot } => plain_header(kind::PROMISE, uid, [0, ballot.pack(), 0, 0, chosen.0, 0, 0]),
        Record::Accept { slot, ballot, first, value } => {
            let fields = ValueFields { slot: *slot, ballot: *ballot, first: *first, chosen };
            value_header(kind::ACCEPT, uid, &fields, value)
        }
        Record::Learned { slot, value } => {
            let fields = ValueFields { slot: *slot, ballot: Ballot::ZERO, first: Slot::ZERO, chosen };
            value_header(kind::LEARNED, uid, &fields, value)
        }
        Record::Installed { .. } => unreachable!("a summary stands for it"),
        Record::Chosen => plain_header(kind::CHOSEN, uid, [0, 0, 0, 0, chosen.0, 0, 0]),
    }
}

/// What a record says about a vote, for an observer of durable state.
#[cfg(feature = "simulation")]
pub(crate) fn vote_of(header: &RecordHeader, body: &[u8]) -> Option<(u128, crate::simulation::Voted)> {
    use crate::simulation::Voted;
    let [slot, ballot, origin, ..] = header.numbers;
    let crc = crate::wire::batch_crc(header, body);
    let voted = match header.kind {
        kind::PROMISE => Voted::Promise { ballot },
        kind::ACCEPT => Voted::Accept { slot, ballot, origin, crc },
        kind::LEARNED => Voted::Learned { slot, origin, crc },
        _ => return None,
    };
    Some((header.uid, voted))
}

/// A group's votes in short, at the head of every segment: what replaces all its older records but the values above
/// `apply.slot`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Summary {
    pub(crate) promised: Ballot,
    pub(crate) chosen: Slot,
    pub(crate) apply: ApplyState,
    /// The number of the move that has brought the group into this log; 0: it has always been in it.
    pub(crate) arrival: u64,
    /// (slot, ballot, origin) of what is accepted above the chosen prefix.
    pub(crate) accepted: Vec<(Slot, Ballot, Ballot)>,
}

impl Summary {
    /// The record: its header and its body.
    pub(crate) fn encode(&self, uid: u128) -> (RecordHeader, Vec<u8>) {
        let mut body = Vec::new();
        self.apply.encode(&mut body);
        body.extend_from_slice(&(self.accepted.len() as u64).to_le_bytes());
        for (slot, ballot, origin) in &self.accepted {
            for number in [slot.0, ballot.pack(), origin.pack()] {
                body.extend_from_slice(&number.to_le_bytes());
            }
        }
        let numbers = [self.apply.slot.0, self.promised.pack(), self.arrival, 0, self.chosen.0, 0, 0];
        let header = RecordHeader {
            body_len: body.len() as u32,
            body_crc: body_crc(&[&body]),
            ..plain_header(kind::SUMMARY, uid, numbers)
        };
        (header, body)
    }

    /// The summary of a record; `None` when it is none.
    pub(crate) fn decode(header: &RecordHeader, body: &[u8]) -> Option<Self> {
        if header.kind != kind::SUMMARY || header.version != RECORD_VERSION {
            return None;
        }
        let (numbers, rest) = body.as_chunks::<8>();
        if !rest.is_empty() {
            return None;
        }
        let mut numbers = numbers.iter().map(|n| u64::from_le_bytes(*n));
        let apply = ApplyState::decode(&mut numbers)?;
        let count = numbers.next()?;
        let mut accepted = Vec::new();
        for _ in 0..count {
            let (slot, ballot, origin) = (numbers.next()?, numbers.next()?, numbers.next()?);
            accepted.push((Slot(slot), Ballot::unpack(ballot), Ballot::unpack(origin)));
        }
        let [_, promised, arrival, _, chosen, _, _] = header.numbers;
        let (promised, chosen) = (Ballot::unpack(promised), Slot(chosen));
        let summary = Self { promised, chosen, apply, arrival, accepted };
        (numbers.next().is_none() && summary.apply.slot.0 == header.numbers[0]).then_some(summary)
    }
}

/// A group comes into this log by the move with this number: what the log says of it before is of an earlier stay, and does
/// not count.
pub(crate) fn arrival_header(uid: u128, number: u64) -> RecordHeader {
    plain_header(kind::ARRIVAL, uid, [number, 0, 0, 0, 0, 0, 0])
}

/// Runs in one record of [`readable_record`]: it goes with others into a frame.
pub(crate) const READABLE_RUNS_MAX: usize = 2000;

/// Numbers of one run in a record of [`readable_record`].
const RUN_NUMBERS: usize = 3;

/// What of a group that has arrived can still be read, behind slot `gone`: some of its indexes, in order.
pub(crate) fn readable_record(uid: u128, gone: Slot, runs: &[(Slot, u64, u64)]) -> (RecordHeader, Vec<u8>) {
    let numbers = runs.iter().flat_map(|(first, slots, index)| [first.0, *slots, *index]);
    let body: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
    let plain = plain_header(kind::READABLE, uid, [gone.0, 0, 0, 0, 0, 0, 0]);
    (RecordHeader { body_len: body.len() as u32, body_crc: body_crc(&[&body]), ..plain }, body)
}

/// The runs of a record of [`readable_record`]: first slot, how many slots, index of the first entry. `None` when it is none.
pub(crate) fn readable_runs(body: &[u8]) -> Option<impl Iterator<Item = (Slot, u64, u64)> + '_> {
    let (runs, rest) = body.as_chunks::<{ 8 * RUN_NUMBERS }>();
    let number = |run: &[u8; 8 * RUN_NUMBERS], at: usize| {
        u64::from_le_bytes(run[8 * at..8 * at + 8].try_into().expect("eight bytes"))
    };
    rest.is_empty().then(|| runs.iter().map(move |run| (Slot(number(run, 0)), number(run, 1), number(run, 2))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use synod_core::MemberId;

    use super::*;

    #[test]
    fn a_summary_comes_back() {
        let ballot = Ballot { round: 4, member: MemberId(2) };
        let summary = Summary {
            promised: ballot,
            chosen: Slot(0),
            apply: ApplyState::default(),
            arrival: 3,
            accepted: vec![(Slot(1), ballot, ballot), (Slot(2), ballot, Ballot::ZERO)],
        };
        let (header, body) = summary.encode(7);
        header.check_body(&body).unwrap();
        assert_eq!(Summary::decode(&header, &body), Some(summary));
    }

    #[test]
    fn what_can_be_read_comes_back() {
        let runs = [(Slot(4), 1, 9), (Slot(5), 3, 12)];
        let (header, body) = readable_record(7, Slot(3), &runs);
        header.check_body(&body).unwrap();
        assert_eq!(readable_runs(&body).unwrap().collect::<Vec<_>>(), runs);
        assert!(readable_runs(&body[1..]).is_none());
    }

    proptest! {
        #[test]
        fn random_summaries_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let header = plain_header(kind::SUMMARY, 1, [0; 7]);
            let _ = Summary::decode(&header, &body);
        }
    }
}
