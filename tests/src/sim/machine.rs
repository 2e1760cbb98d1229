//! The state machines of a simulated cluster: on disk or in memory, with checkpoints or without.
//!
//! A machine's state is the last index that it has applied and a hash over all entries up to there; a checkpoint of it is
//! that and a run of bytes that follows from the hash, so that it has some length and no altered byte goes unseen.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex};

use synod::{Checkpoint, CommittedBatch, MachineError, StateMachine};

use crate::disk::Dice;

/// How far an on-disk machine's own sync lags behind what it applied, in batches.
const SYNC_EVERY: usize = 4;
/// A checkpoint has at most so many bytes behind index and hash.
const FILLING_BYTES_MAX: u64 = 6000;

/// Which machines a plan has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// On disk, with checkpoints for replicas that lag.
    OnDisk,
    /// In memory.
    InMemory,
    /// On disk, without checkpoints.
    WithoutCheckpoints,
}

impl Kind {
    /// The kind with this number in a plan.
    pub fn of(number: u64) -> Self {
        match number {
            1 => Self::InMemory,
            2 => Self::WithoutCheckpoints,
            _ => Self::OnDisk,
        }
    }
}

/// The hash of a state behind one entry more.
pub fn hash_behind(hash: u64, index: u64, entry: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (hash, index, entry).hash(&mut hasher);
    hasher.finish()
}

/// What a replica's machine holds: one on disk outlives the node's process.
#[derive(Debug, Default)]
pub struct Held {
    /// Behind each batch applied since the last sync: the last index and the hash. The first is the synced one.
    boundaries: Vec<(u64, u64)>,
}

impl Held {
    /// The last index that is durable.
    pub fn durable(&self) -> u64 {
        self.boundaries.first().map_or(0, |(index, _)| *index)
    }

    /// The last index that is applied, and the hash.
    pub(crate) fn last(&self) -> (u64, u64) {
        self.boundaries.last().copied().unwrap_or_default()
    }

    /// Makes all that is applied durable.
    pub fn sync(&mut self) {
        if let [_, .., last] = self.boundaries[..] {
            self.boundaries = vec![last];
        }
    }

    /// The process ends: what is not synced is there or not.
    pub fn crash(&mut self, choose: &mut dyn FnMut(usize) -> usize) {
        if !self.boundaries.is_empty() {
            let kept = choose(self.boundaries.len());
            self.boundaries = vec![self.boundaries[kept]];
        }
    }
}

/// What a machine was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Given {
    /// An entry of a group: its index and bytes.
    Entry(u64, u64, Vec<u8>),
    /// A checkpoint of a group: index and hash.
    Restored(u64, u64, u64),
}

/// What a node's machines were given since the observer looked.
pub type Delivered = Arc<Mutex<Vec<Given>>>;

/// A replica's state machine.
pub struct Machine {
    pub(crate) kind: Kind,
    pub(crate) group: u64,
    pub(crate) held: Arc<Mutex<Held>>,
    pub(crate) delivered: Delivered,
    /// How often it was asked for its last word on a proposal.
    pub(crate) asked: u64,
}

/// The bytes of a checkpoint.
fn frozen((index, hash): (u64, u64)) -> Vec<u8> {
    let mut bytes = [index.to_le_bytes(), hash.to_le_bytes()].concat();
    let mut dice = Dice::new(hash);
    for _ in 0..hash % (FILLING_BYTES_MAX / 8) {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes
}

impl StateMachine for Machine {
    fn durable_index(&self) -> u64 {
        if self.kind == Kind::InMemory { 0 } else { self.held.lock().expect("no holder panics").durable() }
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError> {
        let mut held = self.held.lock().expect("no holder panics");
        let (_, mut hash) = held.last();
        let mut index = batch.first_index;
        let mut delivered = self.delivered.lock().expect("no holder panics");
        for entry in batch.entries.iter() {
            hash = hash_behind(hash, index, entry);
            delivered.push(Given::Entry(self.group, index, entry.to_vec()));
            index += 1;
        }
        if held.boundaries.is_empty() {
            held.boundaries.push((0, 0));
        }
        held.boundaries.push((index - 1, hash));
        if held.boundaries.len() > SYNC_EVERY {
            held.sync();
        }
        Ok(())
    }

    fn prepares_proposals(&self) -> bool {
        self.kind == Kind::InMemory
    }

    /// Every other entry goes as a copy, and now and then one is refused: what waits for it comes again.
    fn before_propose(&mut self, entry: &[u8]) -> Result<Option<Vec<u8>>, MachineError> {
        self.asked += 1;
        if self.asked.is_multiple_of(64) {
            return Err("refused on purpose".into());
        }
        Ok(self.asked.is_multiple_of(2).then(|| entry.to_vec()))
    }

    fn takes_checkpoints(&self) -> bool {
        self.kind != Kind::WithoutCheckpoints
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, MachineError> {
        Ok(Box::new(frozen(self.held.lock().expect("no holder panics").last())))
    }

    fn restore(&mut self, index: u64, input: &mut dyn io::Read) -> Result<(), MachineError> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let number = |at: usize| bytes.get(at..at + 8).map(|n| u64::from_le_bytes(n.try_into().expect("eight bytes")));
        let (stated, hash) = (number(0).ok_or("too short")?, number(8).ok_or("too short")?);
        if stated != index || bytes != frozen((index, hash)) {
            return Err(format!("a checkpoint of index {index} has another state: index {stated}").into());
        }
        self.held.lock().expect("no holder panics").boundaries = vec![(index, hash)];
        self.delivered.lock().expect("no holder panics").push(Given::Restored(self.group, index, hash));
        Ok(())
    }
}
