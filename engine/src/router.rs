//! Several state machines of one group: each entry begins with the number of the machine that it is for.
//!
//! Invariants: a machine gets the entries with its number, without it, in order, each once; one that holds more than the
//! others is not fed again what it holds; the router's durable index is never above what all machines hold.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};

use crate::batch::{Batch, Entries};
use crate::machine::{Checkpoint, CommittedBatch, MachineError, StateMachine};

/// Bytes of the number before an entry.
const NUMBER_BYTES: usize = 4;
/// The largest piece of a section of a checkpoint.
const PIECE_BYTES: usize = 64 << 10;

struct Routed {
    machine: Box<dyn StateMachine>,
    /// The index up to which it was given, or held at the start, what is for it.
    held: u64,
    /// The last index that it was given an entry of.
    given: u64,
}

impl Routed {
    fn new(machine: Box<dyn StateMachine>) -> Self {
        let held = machine.durable_index();
        Self { machine, held, given: held }
    }

    /// What it holds durably, when the group stands at `applied`.
    fn durable(&self, applied: u64) -> u64 {
        let durable = self.machine.durable_index();
        if durable >= self.given { durable.max(applied) } else { durable }
    }
}

/// A state machine that hands each entry to the machine whose number, little-endian in four bytes, stands before it.
///
/// The machines may hold their data in memory or on disk, each with a durable index of its own: the log is kept as far as
/// the one that holds least needs it. A machine on disk to which few entries go should note what has [passed] it.
///
/// [passed]: StateMachine::passed
pub struct Router {
    machines: BTreeMap<u32, Routed>,
    applied: u64,
    /// The ends of the batches applied that are not durable everywhere.
    ends: VecDeque<u64>,
    durable_at_start: u64,
}

impl Router {
    /// A router to these machines, by number. Every replica of the group must have the same numbers.
    pub fn new(machines: impl IntoIterator<Item = (u32, Box<dyn StateMachine>)>) -> Self {
        let machines: BTreeMap<u32, Routed> =
            machines.into_iter().map(|(number, machine)| (number, Routed::new(machine))).collect();
        let durable = machines.values().map(|routed| routed.held).min().unwrap_or(0);
        Self { machines, applied: durable, ends: VecDeque::new(), durable_at_start: durable }
    }

    /// An entry for the machine with this number.
    pub fn entry(number: u32, entry: &[u8]) -> Vec<u8> {
        [&number.to_le_bytes(), entry].concat()
    }

    /// Hands entries that follow each other to one machine, as far as it does not hold them.
    fn hand_over(&mut self, number: u32, slot: u64, first: u64, entries: &[&[u8]]) -> Result<(), MachineError> {
        let routed = self.machines.get_mut(&number).ok_or_else(|| {
            format!(
                "index {first} is for machine {number}, and this node has none of that number: all need the same ones"
            )
        })?;
        let skipped = (routed.held + 1).saturating_sub(first) as usize;
        let Some(entries) = entries.get(skipped..).filter(|entries| !entries.is_empty()) else { return Ok(()) };
        let mut batch = Entries::new();
        entries.iter().for_each(|entry| batch.append_one(entry));
        let body = batch.parts(&mut Vec::new()).concat();
        let entries_of = Batch::decode(&body).map_err(|error| error.to_string())?;
        let first_index = first + skipped as u64;
        routed.machine.apply(&CommittedBatch { slot, first_index, entries: entries_of })?;
        routed.given = first_index + entries.len() as u64 - 1;
        routed.held = routed.given;
        Ok(())
    }
}

impl StateMachine for Router {
    fn durable_index(&self) -> u64 {
        let durable = self.machines.values().map(|routed| routed.durable(self.applied)).min().unwrap_or(self.applied);
        // Only the end of a batch, so that what is handed over again begins where one begins.
        let at = self.ends.partition_point(|end| *end <= durable);
        at.checked_sub(1).map_or(self.durable_at_start, |at| self.ends[at])
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError> {
        let mut run: Option<(u32, u64, Vec<&[u8]>)> = None;
        let mut index = batch.first_index;
        for entry in batch.entries.iter() {
            let (number, rest) = entry.split_first_chunk::<NUMBER_BYTES>().ok_or_else(|| {
                format!("index {index} is too short to begin with the number of a machine: see `Router::entry`")
            })?;
            let number = u32::from_le_bytes(*number);
            match &mut run {
                Some((of, _, entries)) if *of == number => entries.push(rest),
                _ => {
                    if let Some((of, first, entries)) = run.replace((number, index, vec![rest])) {
                        self.hand_over(of, batch.slot, first, &entries)?;
                    }
                }
            }
            index += 1;
        }
        if let Some((of, first, entries)) = run {
            self.hand_over(of, batch.slot, first, &entries)?;
        }
        self.applied = index - 1;
        for routed in self.machines.values_mut().filter(|routed| routed.held < index - 1) {
            routed.machine.passed(index - 1);
            routed.held = index - 1;
        }
        let durable = self.durable_index();
        while self.ends.front().is_some_and(|end| *end < durable) {
            self.ends.pop_front();
        }
        self.ends.push_back(self.applied);
        Ok(())
    }

    fn prepares_proposals(&self) -> bool {
        self.machines.values().any(|routed| routed.machine.prepares_proposals())
    }

    fn before_propose(&mut self, entry: &[u8]) -> Result<Option<Vec<u8>>, MachineError> {
        let (number, rest) = entry
            .split_first_chunk::<NUMBER_BYTES>()
            .ok_or("the entry is too short to begin with the number of a machine: see `Router::entry`")?;
        let number = u32::from_le_bytes(*number);
        let routed = self.machines.get_mut(&number).ok_or_else(|| format!("there is no machine {number}"))?;
        if !routed.machine.prepares_proposals() {
            return Ok(None);
        }
        let prepared = routed.machine.before_propose(rest)?;
        Ok(prepared.map(|prepared| Self::entry(number, &prepared)))
    }

    fn takes_checkpoints(&self) -> bool {
        self.machines.values().all(|routed| routed.machine.takes_checkpoints())
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, MachineError> {
        let mut sections = Vec::new();
        for (number, routed) in &mut self.machines {
            // One that stands before the others has what it holds in its section.
            let index = routed.held.max(self.applied);
            sections.push(Section { number: *number, index, view: routed.machine.checkpoint()? });
        }
        Ok(Box::new(Sections(sections)))
    }

    fn restore(&mut self, index: u64, input: &mut dyn Read) -> Result<(), MachineError> {
        let count = read_number(input)? as usize;
        if count != self.machines.len() {
            let own = self.machines.len();
            return Err(format!("the checkpoint has {count} machines, and this node has {own}").into());
        }
        for (number, routed) in &mut self.machines {
            let of = read_number(input)?;
            if of != u64::from(*number) {
                return Err(format!("the checkpoint has machine {of}, and this node has machine {number}").into());
            }
            let held = read_number(input)?;
            let mut section = SectionReader { input, left: 0, ended: false };
            routed.machine.restore(held, &mut section)?;
            // A machine need not read to the end of its section.
            io::copy(&mut section, &mut io::sink())?;
            (routed.held, routed.given) = (held, held);
        }
        self.applied = index;
        self.ends = [index].into();
        self.durable_at_start = self.durable_at_start.min(index);
        Ok(())
    }

    fn dropped(&mut self) {
        self.machines.values_mut().for_each(|routed| routed.machine.dropped());
    }

    fn skips_what_it_holds(&self) -> bool {
        true
    }
}

struct Section {
    number: u32,
    index: u64,
    view: Box<dyn Checkpoint>,
}

/// [count], then of each its number, its index, and pieces: [length][bytes], the last of length 0. Numbers have 8 bytes.
struct Sections(Vec<Section>);

impl Checkpoint for Sections {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.0.len() as u64).to_le_bytes())?;
        for Section { number, index, view } in self.0 {
            out.write_all(&u64::from(number).to_le_bytes())?;
            out.write_all(&index.to_le_bytes())?;
            view.write(&mut SectionWriter { out })?;
            out.write_all(&0u64.to_le_bytes())?;
        }
        Ok(())
    }
}

struct SectionWriter<'a> {
    out: &'a mut dyn Write,
}

impl Write for SectionWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        if !piece.is_empty() {
            self.out.write_all(&(piece.len() as u64).to_le_bytes())?;
            self.out.write_all(piece)?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct SectionReader<'a> {
    input: &'a mut dyn Read,
    left: u64,
    ended: bool,
}

impl Read for SectionReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            self.left = read_number(self.input)?;
            self.ended = self.left == 0;
        }
        let most = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if self.ended || most == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut out[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn read_number(input: &mut dyn Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a machine was given: (index, entry).
    type Seen = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

    struct Remembers {
        seen: Seen,
        durable: Arc<Mutex<u64>>,
    }

    impl StateMachine for Remembers {
        fn durable_index(&self) -> u64 {
            *self.durable.lock().unwrap()
        }

        fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError> {
            let entries = (batch.first_index..).zip(batch.entries.iter());
            self.seen.lock().unwrap().extend(entries.map(|(index, entry)| (index, entry.to_vec())));
            Ok(())
        }

        fn prepares_proposals(&self) -> bool {
            true
        }

        fn before_propose(&mut self, entry: &[u8]) -> Result<Option<Vec<u8>>, MachineError> {
            match entry {
                b"stamp" => Ok(Some(b"stamped".to_vec())),
                b"refuse" => Err("as asked".into()),
                _ => Ok(None),
            }
        }

        fn takes_checkpoints(&self) -> bool {
            true
        }

        fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, MachineError> {
            let seen = self.seen.lock().unwrap();
            Ok(Box::new(seen.iter().flat_map(|(index, _)| index.to_le_bytes()).collect::<Vec<u8>>()))
        }

        fn restore(&mut self, _: u64, input: &mut dyn Read) -> Result<(), MachineError> {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes)?;
            let indexes = bytes.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().unwrap()));
            *self.seen.lock().unwrap() = indexes.map(|index| (index, Vec::new())).collect();
            Ok(())
        }
    }

    struct One {
        seen: Seen,
        durable: Arc<Mutex<u64>>,
    }

    fn router(durable: [u64; 2]) -> (Router, [One; 2]) {
        let ones = durable.map(|durable| One { seen: Seen::default(), durable: Arc::new(Mutex::new(durable)) });
        let machine = |one: &One| -> Box<dyn StateMachine> {
            Box::new(Remembers { seen: Arc::clone(&one.seen), durable: Arc::clone(&one.durable) })
        };
        (Router::new([(1, machine(&ones[0])), (2, machine(&ones[1]))]), ones)
    }

    #[test]
    fn the_machine_of_an_entry_has_the_last_word_on_it() {
        let (mut router, _) = router([0, 0]);
        assert!(router.prepares_proposals());
        let stamped = router.before_propose(&Router::entry(2, b"stamp")).unwrap();
        assert_eq!(stamped, Some(Router::entry(2, b"stamped")));
        assert_eq!(router.before_propose(&Router::entry(1, b"as it is")).unwrap(), None);
        for (entry, reason) in
            [(Router::entry(1, b"refuse"), "as asked"), (Router::entry(3, b""), "no machine 3"), (vec![1], "too short")]
        {
            assert!(router.before_propose(&entry).unwrap_err().to_string().contains(reason));
        }
    }

    fn apply(router: &mut Router, first_index: u64, to: &[u32]) -> Result<(), MachineError> {
        let mut entries = Entries::new();
        to.iter().for_each(|number| entries.push(&Router::entry(*number, b"entry")).unwrap());
        let body = entries.parts(&mut Vec::new()).concat();
        router.apply(&CommittedBatch { slot: 9, first_index, entries: Batch::decode(&body).unwrap() })
    }

    fn indexes(one: &One) -> Vec<u64> {
        one.seen.lock().unwrap().iter().map(|(index, _)| *index).collect()
    }

    #[test]
    fn each_machine_gets_what_is_for_it() {
        let (mut router, [one, two]) = router([0, 0]);
        apply(&mut router, 1, &[1, 1, 2, 1]).unwrap();
        assert_eq!((indexes(&one), indexes(&two)), (vec![1, 2, 4], vec![3]));
        assert!(one.seen.lock().unwrap().iter().all(|(_, entry)| entry == b"entry"));
    }

    #[test]
    fn a_machine_that_holds_more_is_not_fed_again() {
        let (mut router, [one, two]) = router([3, 1]);
        assert_eq!(router.durable_index(), 1);
        apply(&mut router, 1, &[1, 2, 1]).unwrap();
        apply(&mut router, 4, &[1, 2]).unwrap();
        assert_eq!((indexes(&one), indexes(&two)), (vec![4], vec![2, 5]));
    }

    #[test]
    fn the_durable_index_is_the_end_of_a_batch_that_all_hold() {
        let (mut router, [one, two]) = router([0, 0]);
        apply(&mut router, 1, &[1, 2]).unwrap();
        apply(&mut router, 3, &[1, 1]).unwrap();
        assert_eq!(router.durable_index(), 0);
        *one.durable.lock().unwrap() = 3;
        assert_eq!(router.durable_index(), 0, "the second holds nothing");
        *two.durable.lock().unwrap() = 2;
        // Nothing behind index 2 is for the second; of the second batch the first holds only a part.
        assert_eq!(router.durable_index(), 2);
        *one.durable.lock().unwrap() = 4;
        assert_eq!(router.durable_index(), 4);
    }

    #[test]
    fn one_checkpoint_holds_all_machines() {
        let (mut router_1, _) = router([0, 0]);
        apply(&mut router_1, 1, &[1, 2, 1]).unwrap();
        let mut bytes = Vec::new();
        router_1.checkpoint().unwrap().write(&mut bytes).unwrap();
        let (mut router_2, [one, two]) = router([0, 0]);
        router_2.restore(3, &mut &bytes[..]).unwrap();
        assert_eq!((indexes(&one), indexes(&two)), (vec![1, 3], vec![2]));
        apply(&mut router_2, 4, &[2]).unwrap();
        assert_eq!((indexes(&one), indexes(&two)), (vec![1, 3], vec![2, 4]));
        assert!(router_2.restore(3, &mut &bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn what_is_for_nobody_stops_the_group() {
        let (mut router, _) = router([0, 0]);
        assert!(apply(&mut router, 1, &[1, 7]).unwrap_err().to_string().contains("machine 7"));
        let body = Entries::one(b"abc").unwrap().parts(&mut Vec::new()).concat();
        let batch = CommittedBatch { slot: 1, first_index: 1, entries: Batch::decode(&body).unwrap() };
        assert!(router.apply(&batch).unwrap_err().to_string().contains("too short"));
    }
}
