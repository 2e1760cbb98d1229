//! A client session as its user has it: it numbers what it proposes, and repeats it safely at any node.
//!
//! What is proposed stays here until it is known to be committed, so that it can be said again. At most
//! [`POSITIONS_MAX`] batches are kept: so many a group remembers, to answer a repeated one with its position.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Handle, Pending, pending, refused};
use crate::batch::Entries;
use crate::clock::now_ns;
use crate::limits::POSITIONS_MAX;
use crate::mailbox::Mail;
use crate::outcome::{GroupId, Outcome, Overload, ProposeError, Rejection};
use crate::sessions::NUMBER_MAX;
use crate::sessions::command::is_session;
use crate::shard::sessions::Ask;

/// A session of a group, in which each batch takes effect once, however often it is proposed; see
/// [`Handle::open_session`].
///
/// Batches are committed in the order in which they are proposed, or not at all. Several may be in flight. When one is
/// not committed, those behind it are not either, and [`Session::retry`] proposes all of them again, also through another
/// node's handle ([`Session::attach`]).
pub struct Session {
    handle: Handle,
    group: GroupId,
    id: u64,
    unsettled: Arc<Mutex<Unsettled>>,
}

/// Batches that are not known to be committed, by their first sequences.
#[derive(Debug)]
struct Unsettled {
    next: u64,
    batches: VecDeque<(u64, Entries)>,
}

impl Session {
    /// A session that was opened elsewhere, by this or another process. `next_sequence` is one more than the number of
    /// entries that were committed in it; whoever is not sure begins with the first that may not be, with the same
    /// entries in the same batches as before.
    ///
    /// # Panics
    /// When `id` is no session's id or `next_sequence` is 0.
    pub fn resume(handle: Handle, group: GroupId, id: u64, next_sequence: u64) -> Self {
        assert!(is_session(id) && next_sequence > 0, "a session's id is a slot, and sequences count from 1");
        let unsettled = Arc::new(Mutex::new(Unsettled { next: next_sequence, batches: VecDeque::new() }));
        Self { handle, group, id, unsettled }
    }

    /// What names it in its group, for ever.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The sequence of the entry that is proposed next; entries count from 1.
    pub fn next_sequence(&self) -> u64 {
        self.unsettled().next
    }

    /// Batches that are not known to be committed: in flight, or waiting for [`Session::retry`].
    pub fn unsettled_batches(&self) -> usize {
        self.unsettled().batches.len()
    }

    /// From now on it proposes at this node: its leader may have changed.
    pub fn attach(&mut self, handle: Handle) {
        self.handle = handle;
    }

    /// Proposes entries behind all that were proposed before. Unless the outcome is `Ok` or [`ProposeError::Duplicate`]
    /// they are kept, and [`Session::retry`] proposes them again; a batch that is refused as overloaded because eight
    /// batches are kept already, or for its size, is not.
    pub fn propose(&mut self, entries: Entries) -> Pending<Outcome> {
        if entries.is_empty() {
            return refused(Rejection::TooLarge);
        }
        let mut unsettled = self.unsettled();
        if unsettled.batches.len() == POSITIONS_MAX {
            return refused(Overload::Session.rejection());
        }
        let sequence = unsettled.next;
        let next = sequence.checked_add(entries.len() as u64).filter(|next| *next <= NUMBER_MAX);
        let Some(next) = next else { return answered(Err(ProposeError::OutOfSession)) };
        unsettled.next = next;
        unsettled.batches.push_back((sequence, entries.clone()));
        drop(unsettled);
        self.send(sequence, entries)
    }

    /// Proposes again, in order, all batches that are not known to be committed. What is committed already is answered
    /// with its position and does not take effect again.
    pub fn retry(&mut self) -> Vec<Pending<Outcome>> {
        let batches: Vec<_> = self.unsettled().batches.iter().cloned().collect();
        batches.into_iter().map(|(sequence, entries)| self.send(sequence, entries)).collect()
    }

    /// Ends the session. What is still in flight may be committed before that, or never.
    pub fn close(self) -> Pending<Result<(), ProposeError>> {
        let (completer, pending) = pending(Err(ProposeError::Unknown));
        let reply = move |outcome: Outcome| completer.complete(outcome.map(|_| ()));
        self.handle.ask(self.group, Ask::Close(self.id), Box::new(reply));
        pending
    }

    fn send(&self, sequence: u64, entries: Entries) -> Pending<Outcome> {
        let permit = match self.handle.large.admit(&entries) {
            Ok(permit) => permit,
            Err(rejection) => return refused(rejection),
        };
        let (completer, pending) = pending(Err(ProposeError::Unknown));
        let unsettled = Arc::clone(&self.unsettled);
        let reply = move |outcome: Outcome| {
            if matches!(outcome, Ok(_) | Err(ProposeError::Duplicate)) {
                lock(&unsettled).batches.retain(|(of, _)| *of != sequence);
            }
            completer.complete(outcome);
        };
        let mail = Mail::Propose {
            group: self.group,
            entries,
            session: Some((self.id, sequence)),
            handle: None,
            submitted_ns: now_ns(),
            permit,
            reply: Box::new(reply),
        };
        match self.handle.post(self.group).deliver(mail) {
            Ok(()) => pending,
            Err(rejection) => refused(rejection),
        }
    }

    fn unsettled(&self) -> MutexGuard<'_, Unsettled> {
        lock(&self.unsettled)
    }
}

/// Each change is one step, so what a thread that panics leaves is whole.
fn lock(unsettled: &Mutex<Unsettled>) -> MutexGuard<'_, Unsettled> {
    unsettled.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answered(outcome: Outcome) -> Pending<Outcome> {
    let (completer, pending) = pending(outcome);
    drop(completer);
    pending
}

impl Handle {
    /// Opens a session in a group, by an entry of its log. This node must lead the group. After
    /// [`ProposeError::Unknown`] open another; one that nobody uses ends by itself.
    pub fn open_session(&self, group: GroupId) -> Pending<Result<Session, ProposeError>> {
        let (completer, pending) = pending(Err(ProposeError::Unknown));
        let handle = self.clone();
        let reply = move |outcome: Outcome| {
            completer.complete(outcome.map(|opened| Session::resume(handle, group, opened.slot, 1)));
        };
        self.ask(group, Ask::Open, Box::new(reply));
        pending
    }

    fn ask(&self, group: GroupId, ask: Ask, reply: Box<dyn FnOnce(Outcome) + Send>) {
        let mail = Mail::Session { group, ask, submitted_ns: now_ns(), reply };
        let post = self.post(group);
        if let Err(mail) = post.send(mail)
            && let Mail::Session { reply, .. } = *mail
        {
            reply(Err(post.refusal().into()));
        }
    }
}
