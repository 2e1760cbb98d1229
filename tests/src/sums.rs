//! State machines in memory that count and sum what they are given, on nodes of this process.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use synod::{Checkpoint, CommittedBatch, GroupId, MachineError, MachineFactory, NodeId, StateMachine};

/// How many entries a machine holds, and a checksum over all of them.
pub type Sum = (u64, u32);

/// What follows from one more entry.
pub fn sum_with(sum: Sum, entry: &[u8]) -> Sum {
    (sum.0 + 1, crc32c::crc32c_append(sum.1, entry))
}

/// What the machines of all nodes hold.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    held: Arc<Mutex<HashMap<(NodeId, GroupId), Sum>>>,
    filling: usize,
}

impl Sums {
    /// Machines whose checkpoints are larger by so many bytes.
    pub fn with_filling(bytes: usize) -> Self {
        Self { filling: bytes, ..Self::default() }
    }

    /// The machines of a node that starts.
    pub fn machines(&self, node: NodeId) -> MachineFactory {
        let sums = self.clone();
        Arc::new(move |group| Ok(Some(Box::new(Machine { at: (node, group), sum: (0, 0), sums: sums.clone() }))))
    }

    /// What a group's machine holds on a node, once it was given something.
    ///
    /// # Panics
    /// When a machine has panicked.
    pub fn of(&self, node: NodeId, group: GroupId) -> Option<Sum> {
        self.held.lock().expect("no holder panics").get(&(node, group)).copied()
    }

    /// A node has ended, and with it its machines.
    ///
    /// # Panics
    /// When a machine has panicked.
    pub fn forget(&self, node: NodeId) {
        self.held.lock().expect("no holder panics").retain(|(of, _), _| *of != node);
    }
}

struct Machine {
    at: (NodeId, GroupId),
    sum: Sum,
    sums: Sums,
}

impl Machine {
    fn show(&self) {
        self.sums.held.lock().expect("no holder panics").insert(self.at, self.sum);
    }
}

impl StateMachine for Machine {
    fn durable_index(&self) -> u64 {
        0
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError> {
        self.sum = batch.entries.iter().fold(self.sum, sum_with);
        self.show();
        Ok(())
    }

    fn takes_checkpoints(&self) -> bool {
        true
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, MachineError> {
        let filling = vec![self.sum.1 as u8; self.sums.filling];
        Ok(Box::new([&self.sum.0.to_le_bytes()[..], &self.sum.1.to_le_bytes(), &filling].concat()))
    }

    fn restore(&mut self, index: u64, input: &mut dyn Read) -> Result<(), MachineError> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let (count, rest) = bytes.split_first_chunk::<8>().ok_or("too short")?;
        let (sum, filling) = rest.split_first_chunk::<4>().ok_or("too short")?;
        self.sum = (u64::from_le_bytes(*count), u32::from_le_bytes(*sum));
        let filled = filling.len() == self.sums.filling && filling.iter().all(|byte| *byte == self.sum.1 as u8);
        if self.sum.0 != index || !filled {
            return Err("the checkpoint has another state".into());
        }
        self.show();
        Ok(())
    }
}
