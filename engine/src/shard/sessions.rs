//! Sessions, as a shard sees to them: what clients ask of them goes into the log as commands, and the leader proposes that
//! those end which nobody uses.
//!
//! The leader notes now and then which slot it has applied. A session whose last use is not behind the slot noted an idle
//! time ago was idle for so long; one entry ends all of them. A group gets at most one such entry in an idle time, and none
//! when nothing is due, so groups that rest stay silent. The clock only decides when the entry is proposed.

use std::collections::{BTreeSet, HashMap};

use synod_core::Slot;

use super::Shard;
use super::group::{Reply, Run};
use crate::batch::Entries;
use crate::outcome::{ProposeError, Rejection};
use crate::sessions::command::Command;

/// What a client asks for besides appending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    /// A new session.
    Open,
    /// That a session ends.
    Close(u64),
}

/// What was applied when a group's sessions were last looked at.
#[derive(Clone, Copy, Debug)]
struct Noted {
    slot: Slot,
    due_ns: u64,
}

/// When which group's idle sessions may end.
#[derive(Debug)]
pub(crate) struct Expiry {
    sessions_max: u64,
    idle_ns: u64,
    noted: HashMap<u32, Noted>,
    /// The groups of `noted`, by when they are due.
    due: BTreeSet<(u64, u32)>,
}

impl Expiry {
    /// For so many sessions per group, each of which may be idle for so long.
    pub(crate) fn new(sessions_max: usize, idle_seconds: u64) -> Self {
        Self {
            sessions_max: sessions_max as u64,
            idle_ns: idle_seconds.saturating_mul(1_000_000_000),
            noted: HashMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// A group has sessions; `slot` is applied.
    pub(super) fn note(&mut self, at: u32, slot: Slot, now_ns: u64) {
        if !self.noted.contains_key(&at) {
            self.begin(at, slot, now_ns);
        }
    }

    /// The idle times of a group's sessions count from now on.
    pub(super) fn begin(&mut self, at: u32, slot: Slot, now_ns: u64) {
        self.set(at, Noted { slot, due_ns: now_ns.saturating_add(self.idle_ns) });
    }

    fn set(&mut self, at: u32, noted: Noted) {
        self.forget(at);
        self.noted.insert(at, noted);
        self.due.insert((noted.due_ns, at));
    }

    pub(super) fn forget(&mut self, at: u32) {
        if let Some(noted) = self.noted.remove(&at) {
            self.due.remove(&(noted.due_ns, at));
        }
    }

    /// The next group that is due, and the slot that was applied an idle time ago.
    fn first_due(&self, now_ns: u64) -> Option<(u32, Slot)> {
        let (_, at) = self.due.first().filter(|(due_ns, _)| *due_ns <= now_ns)?;
        Some((*at, self.noted[at].slot))
    }
}

impl Shard {
    /// Opens or closes a session for a client.
    pub(crate) fn ask(&mut self, at: u32, ask: Ask, run: Run) -> Result<(), (Run, Rejection)> {
        let command = match ask {
            Ask::Open => Command::Open { sessions_max: self.expiry.sessions_max },
            Ask::Close(session) => Command::Close { session: session ^ self.groups[at as usize].kind.session_mark() },
        };
        self.propose(at, &Entries::one(b"").expect("nothing fits everywhere"), Some(command.header()), run)
    }

    /// As [`Shard::ask`], for mail.
    pub(crate) fn ask_by_mail(&mut self, group: u64, ask: Ask, run: Run) {
        let refused = match self.group_at(group) {
            None => Some((run, self.not_here(group))),
            Some(at) => self.ask(at, ask, run).err(),
        };
        if let Some((run, rejection)) = refused
            && let Reply::Callback(reply) = run.reply
        {
            reply(Err(ProposeError::Rejected(rejection)));
        }
    }

    /// Proposes that sessions end which were idle for too long, in the groups that this node leads.
    pub(super) fn expire_sessions(&mut self) {
        while let Some((at, unused_since)) = self.expiry.first_due(self.now_ns) {
            let group = &self.groups[at as usize];
            let applied = group.apply.slot;
            if group.apply.sessions.len() == 0 {
                self.expiry.forget(at);
                continue;
            }
            let idle = group.apply.sessions.any_idle_since(unused_since);
            if group.replica.epoch().is_some() && idle {
                let command = Command::Expire { unused_since };
                let reply = Reply::Callback(Box::new(|_| ()));
                let run = Run { reply, tag: 0, count: 0, submitted_ns: self.now_ns, handle: None };
                let entries = Entries::one(b"").expect("nothing fits everywhere");
                // If it is refused, or lost with the leadership, they end an idle time later.
                let _ = self.propose(at, &entries, Some(command.header()), run);
            }
            self.expiry.begin(at, applied, self.now_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_due_once_in_an_idle_time() {
        let mut expiry = Expiry::new(8, 1);
        expiry.note(3, Slot(5), 100);
        expiry.note(3, Slot(6), 200);
        assert_eq!(expiry.first_due(1_000_000_099), None);
        assert_eq!(expiry.first_due(1_000_000_100), Some((3, Slot(5))));
        expiry.begin(3, Slot(9), 1_000_000_100);
        assert_eq!(expiry.first_due(2_000_000_099), None);
        assert_eq!(expiry.first_due(2_000_000_100), Some((3, Slot(9))));
        expiry.forget(3);
        assert_eq!(expiry.first_due(u64::MAX), None);
        assert!(expiry.due.is_empty());
    }

    #[test]
    fn a_change_of_leader_counts_anew() {
        let mut expiry = Expiry::new(8, 1);
        expiry.note(3, Slot(5), 100);
        expiry.begin(3, Slot(7), 900_000_000);
        assert_eq!(expiry.first_due(1_100_000_000), None);
        assert_eq!(expiry.first_due(1_900_000_000), Some((3, Slot(7))));
        assert_eq!(expiry.due.len(), 1);
    }
}
