//! The last word of a group's state machine before entries are proposed.

use std::borrow::Cow;

use super::Shard;
use crate::batch::Entries;
use crate::marks::{Mark, mark};
use crate::outcome::{Overload, Rejection};

impl Shard {
    /// What is proposed in place of an entry; see [`StateMachine::before_propose`](crate::StateMachine::before_propose).
    pub(super) fn prepare_one<'a>(&mut self, at: u32, entry: &'a [u8]) -> Result<Cow<'a, [u8]>, Rejection> {
        let group = &mut self.groups[at as usize];
        if !group.prepares {
            return Ok(Cow::Borrowed(entry));
        }
        let Some(machine) = &mut group.machine else {
            // It is being restored from a checkpoint.
            return Err(Overload::Machine.rejection());
        };
        match machine.before_propose(entry) {
            Ok(None) => Ok(Cow::Borrowed(entry)),
            Ok(Some(prepared)) => {
                mark(Mark::EntryPrepared);
                Ok(Cow::Owned(prepared))
            }
            Err(reason) => {
                mark(Mark::EntryRefused);
                tracing::debug!(group = group.names.id, %reason, "a state machine refuses an entry");
                Err(Rejection::Refused)
            }
        }
    }

    /// The same for a run of entries: all or none are proposed.
    pub(super) fn prepare<'a>(&mut self, at: u32, entries: &'a Entries) -> Result<Cow<'a, Entries>, Rejection> {
        if !self.groups[at as usize].prepares {
            return Ok(Cow::Borrowed(entries));
        }
        let mut prepared = Entries::new();
        for entry in entries.iter() {
            prepared.push(&self.prepare_one(at, entry)?).map_err(|_| Rejection::TooLarge)?;
        }
        Ok(Cow::Owned(prepared))
    }
}
