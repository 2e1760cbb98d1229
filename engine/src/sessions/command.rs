//! The log entries that open and end sessions.
//!
//! A command is a batch of one empty entry that belongs to a session no client can have: its header says all, so that a
//! replica which only reads headers carries it out too. It has no index and is not delivered.

use synod_core::Slot;

/// Sessions from this number on are commands.
const COMMANDS_FROM: u64 = 1 << 63;
const OPEN: u64 = u64::MAX;
const CLOSE: u64 = u64::MAX - 1;
const EXPIRE: u64 = u64::MAX - 2;

/// What happens to a group's sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// A session begins. If there would be more than `sessions_max` then, the least recently used ones end.
    Open {
        /// As the leader that proposes it is configured.
        sessions_max: u64,
    },
    /// One session ends, if it is there.
    Close {
        /// Its id.
        session: u64,
    },
    /// All sessions end that were not used behind this slot.
    Expire {
        /// The slot.
        unused_since: Slot,
    },
}

impl Command {
    /// The session and sequence of the batch that is this command.
    pub(crate) fn header(self) -> (u64, u64) {
        match self {
            Self::Open { sessions_max } => (OPEN, sessions_max),
            Self::Close { session } => (CLOSE, session),
            Self::Expire { unused_since } => (EXPIRE, unused_since.0),
        }
    }

    /// The command that a batch is; `None` for a client's.
    pub(crate) fn of(client: u64, sequence: u64) -> Option<Self> {
        match client {
            OPEN => Some(Self::Open { sessions_max: sequence }),
            CLOSE => Some(Self::Close { session: sequence }),
            EXPIRE => Some(Self::Expire { unused_since: Slot(sequence) }),
            _ => None,
        }
    }
}

/// Whether a number can be a client's session at all.
pub(crate) fn is_session(id: u64) -> bool {
    (1..COMMANDS_FROM).contains(&id)
}
