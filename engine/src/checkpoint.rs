//! Checkpoints on disk: what the entries up to an index did, with all that a replica must know to go on behind it.
//!
//! `format` gives a checkpoint its bytes, `packs` puts small ones into one file, `files` is the directory and `contents` what
//! lies where in it, `store` carries out what shards ask for. The store blocks: it runs on a helper thread (`helper`) in
//! production, and where the simulator says in a simulation.

pub(crate) mod contents;
pub(crate) mod files;
pub(crate) mod format;
pub(crate) mod hand_over;
pub(crate) mod helper;
pub(crate) mod message;
pub(crate) mod packs;
pub(crate) mod store;

use synod_core::Slot;

use self::hand_over::Exported;
use crate::apply::ApplyState;
use crate::machine::{Checkpoint, StateMachine};

/// Checkpoints that a shard has written at a time, when they are small: the store makes them durable together.
pub(crate) const WRITES_MAX: usize = 64;
/// A checkpoint with no more bytes is small.
pub(crate) const SMALL_BYTES: u64 = 256 << 10;

/// A checkpoint that is whole and durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    /// The apply state at its slot.
    pub(crate) state: ApplyState,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// Names the file's content: two files with this and the same length and slot are equal.
    pub(crate) id: u64,
}

impl Kept {
    /// The last slot that it covers.
    pub(crate) fn slot(&self) -> Slot {
        self.state.slot
    }

    /// The last index that it covers.
    pub(crate) fn index(&self) -> u64 {
        self.state.next_index - 1
    }
}

/// Names a checkpoint that is being received: its group, slot and content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) uid: u128,
    pub(crate) slot: u64,
    pub(crate) id: u64,
}

/// What a shard asks of its store. All are answered but `Remove`.
pub(crate) enum StoreOp {
    /// Write a checkpoint and make it durable.
    Write { group: u32, uid: u128, state: ApplyState, view: Box<dyn Checkpoint> },
    /// Read bytes of a checkpoint's file for a peer.
    Read { request: u64, uid: u128, slot: u64, offset: u64, bytes: u32 },
    /// Receive a checkpoint, or go on with it.
    Begin { group: u32, part: Part },
    /// Bytes that were received.
    Append { group: u32, part: Part, offset: u64, bytes: Vec<u8> },
    /// All bytes were received: check the whole and make it durable.
    Finish { group: u32, part: Part },
    /// Restore a machine from a checkpoint.
    Restore { group: u32, uid: u128, slot: u64, machine: Box<dyn StateMachine> },
    /// Open a checkpoint for the store of another shard.
    Export { group: u32, uid: u128, slot: u64 },
    /// Take over a checkpoint of the store of another shard.
    Import { group: u32, uid: u128, from: Exported },
    /// Make durable where a group is. Here since it blocks.
    Note { group: u32, note: Box<dyn FnOnce() -> Result<(), String> + Send> },
    /// Delete a checkpoint.
    Remove { uid: u128, slot: u64 },
}

/// What a store answers. Failures are told in words.
pub(crate) enum StoreDone {
    Written {
        group: u32,
        result: Result<Kept, String>,
    },
    Read {
        request: u64,
        result: Result<Vec<u8>, String>,
    },
    /// Bytes that are there already and make sense.
    Begun {
        group: u32,
        part: Part,
        result: Result<u64, String>,
    },
    /// Bytes that are there now.
    Appended {
        group: u32,
        part: Part,
        result: Result<u64, String>,
    },
    Finished {
        group: u32,
        part: Part,
        result: Result<Kept, String>,
    },
    Exported {
        group: u32,
        result: Result<Exported, String>,
    },
    Imported {
        group: u32,
        result: Result<Kept, String>,
    },
    Noted {
        group: u32,
        result: Result<(), String>,
    },
    /// The machine comes back, with the index that it stands at.
    Restored {
        group: u32,
        machine: Box<dyn StateMachine>,
        result: Result<u64, String>,
    },
}

impl StoreDone {
    /// The group that it is for.
    pub(crate) fn group(&self) -> Option<u32> {
        match self {
            Self::Written { group, .. } | Self::Begun { group, .. } | Self::Appended { group, .. } => Some(*group),
            Self::Finished { group, .. } | Self::Restored { group, .. } | Self::Exported { group, .. } => Some(*group),
            Self::Imported { group, .. } | Self::Noted { group, .. } => Some(*group),
            Self::Read { .. } => None,
        }
    }
}

impl StoreOp {
    /// What it is, for a simulator's trace.
    #[cfg(feature = "simulation")]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Read { .. } => "read",
            Self::Begin { .. } => "begin",
            Self::Append { .. } => "append",
            Self::Finish { .. } => "finish",
            Self::Restore { .. } => "restore",
            Self::Export { .. } => "export",
            Self::Import { .. } => "import",
            Self::Note { .. } => "note",
            Self::Remove { .. } => "remove",
        }
    }
}
