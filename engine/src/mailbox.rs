//! Messages into a shard from other threads: a bounded lock-free channel and a waker.
//!
//! A user thread never touches a shard's data; it posts mail. A full mailbox refuses: nothing blocks or spins.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use synod_transport::Socket;

use crate::batch::Entries;
use crate::checkpoint::StoreDone;
use crate::client::protocol::{GroupInfoV1, ReplyV1};
use crate::config::Member;
use crate::groups::{GroupChange, MadeGroup};
use crate::homes::Names;
use crate::introducer::IntroduceReply;
use crate::introductions::Introduction;
use crate::large::LargePermit;
use crate::limits::MAILBOX_MAX;
use crate::membership::{Membership, MembershipChange};
use crate::outcome::{Epoch, GroupId, NodeId, Outcome, Overload, Rejection};
use crate::peers::Genesis;
use crate::shard::checkpoints::CheckpointReply;
use crate::shard::made::GroupReply;
use crate::shard::membership::MembershipReply;
use crate::shard::moving::Pass;
use crate::shard::points::{AtPoint, Consistency};
use crate::shard::producers::LocalShard;
use crate::shard::reads::{CommittedEntries, ReadError};
use crate::shard::sessions::Ask;
use crate::shard::transfer::TransferReply;
use crate::shard::trim_orders::TrimReply;

/// The answer to a proposal.
pub(crate) type OutcomeReply = Box<dyn FnOnce(Outcome) + Send>;
/// The answer to a read.
pub(crate) type EntriesReply = Box<dyn FnOnce(Result<CommittedEntries, ReadError>) + Send>;

/// The answer to a read of a known age.
pub(crate) type PointAnswer = Box<dyn FnOnce(AtPoint<'_>) + Send>;

/// What a peer said of its shard in the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerHello {
    /// Names the start of its process.
    pub(crate) boot: u64,
    /// The id of its log.
    pub(crate) log: u128,
    /// The replicas that its groups are.
    pub(crate) names: Names,
    /// How far it has seen votes rest on our log, as that is now; 0: not at all.
    pub(crate) seen: u64,
    /// It has seen votes rest on more of a log of an earlier era than was copied: up to where that went, and how far it has
    /// seen.
    pub(crate) lost: Option<(u64, u64)>,
}

/// What can be posted to a shard.
pub(crate) enum Mail {
    /// Propose entries.
    Propose {
        group: GroupId,
        entries: Entries,
        session: Option<(u64, u64)>,
        /// Only at this epoch, and only while the handle was never refused.
        handle: Option<(u64, Epoch)>,
        submitted_ns: u64,
        /// Of a large entry.
        permit: Option<LargePermit>,
        reply: OutcomeReply,
    },
    /// Open or close a session.
    Session { group: GroupId, ask: Ask, submitted_ns: u64, reply: OutcomeReply },
    /// Read committed entries.
    Read {
        group: GroupId,
        from_index: u64,
        bytes_max: usize,
        wait_ms: u64,
        /// A large entry comes whole, or it is only said that there is one.
        whole: bool,
        reply: EntriesReply,
    },
    /// Read one part of the large entry at an index.
    ReadPart { group: GroupId, index: u64, part: u32, reply: Box<dyn FnOnce(ReplyV1) + Send> },
    /// Up to where this node has applied a group, and what its state machine says there.
    ReadPoint { group: GroupId, consistency: Consistency, wait_ns: u64, reply: PointAnswer },
    /// Hand a group over to a node.
    Transfer { group: GroupId, to: NodeId, timeout_ns: u64, reply: TransferReply },
    /// Give a group's leadership up.
    Resign { group: GroupId, reply: Box<dyn FnOnce(bool) + Send> },
    /// What this node knows of a group.
    Info { group: GroupId, reply: Box<dyn FnOnce(Option<GroupInfoV1>) + Send> },
    /// What the shard knows of all its groups, for a client of another shard.
    InfoAll { reply: Box<dyn FnOnce(ReplyV1) + Send> },
    /// At which epoch this node takes proposals of a group.
    Epoch { group: GroupId, reply: Box<dyn FnOnce(Option<Epoch>) + Send> },
    /// Who votes in a group.
    Membership { group: GroupId, reply: Box<dyn FnOnce(Option<Membership>) + Send> },
    /// Change who votes in a group whose voters are those of `version`.
    ChangeMembership { group: GroupId, version: u64, change: MembershipChange, wait_ms: u64, reply: MembershipReply },
    /// Introduce a node, a witness or not.
    Introduce { member: Member, witness: bool, reply: IntroduceReply },
    /// These introductions are durable: all that the node knows.
    Introduced(Vec<Introduction>),
    /// The introductions that the node knows.
    Introductions { reply: Box<dyn FnOnce(Vec<Introduction>) + Send> },
    /// Make or drop a group.
    ChangeGroups { change: GroupChange, wait_ms: u64, reply: GroupReply },
    /// The shard's groups that were made at run time.
    Groups { reply: Box<dyn FnOnce(Vec<MadeGroup>) + Send> },
    /// The store of the shard's checkpoints has answered.
    Store(StoreDone),
    /// Take a checkpoint.
    Checkpoint { group: GroupId, reply: CheckpointReply },
    /// Keep the log from an index on for a reader, for so many nanoseconds; none: no longer.
    Pin { group: GroupId, name: String, index: Option<(u64, u64)>, reply: Box<dyn FnOnce(Result<(), String>) + Send> },
    /// Trim a group's log up to before an index, within so many nanoseconds.
    Trim { group: GroupId, before: u64, wait_ns: u64, reply: TrimReply },
    /// Stop trimming, or go on.
    PauseTrimming { group: GroupId, paused: bool, reply: Box<dyn FnOnce(Result<(), String>) + Send> },
    /// Run on the shard's thread.
    Run(Box<dyn FnOnce(&mut LocalShard<'_>) + Send>),
    /// A handshake is done: a peer's connection.
    Peer { node: u64, stream: Socket, peer: PeerHello },
    /// A handshake is done: a client's connection.
    Client { stream: Socket },
    /// A reply for a client of this shard, from another shard.
    Reply { connection: u64, request: u64, reply: ReplyV1 },
    /// The last of the shard's founders was met.
    Genesis(usize, Genesis),
    /// Another shard of the node says something about a group that moves.
    Pass(Pass),
    /// Let the producers propose.
    Wake,
    /// Time has passed.
    Tick,
    /// Refuse proposals, answer what waits, then stop.
    Stop,
}

impl Mail {
    /// The group that it is for, if the shard that has that one must get it.
    pub(crate) fn group(&self) -> Option<GroupId> {
        match self {
            Self::Propose { group, .. } | Self::Session { group, .. } | Self::Read { group, .. } => Some(*group),
            Self::ReadPart { group, .. } | Self::ReadPoint { group, .. } | Self::Transfer { group, .. } => Some(*group),
            Self::Resign { group, .. } | Self::Info { group, .. } | Self::Epoch { group, .. } => Some(*group),
            Self::Membership { group, .. } | Self::ChangeMembership { group, .. } => Some(*group),
            Self::Checkpoint { group, .. } | Self::Pin { group, .. } | Self::Trim { group, .. } => Some(*group),
            Self::PauseTrimming { group, .. } => Some(*group),
            Self::InfoAll { .. } | Self::ChangeGroups { .. } | Self::Groups { .. } | Self::Store(_) => None,
            Self::Run(_) | Self::Peer { .. } | Self::Client { .. } | Self::Reply { .. } | Self::Genesis(..) => None,
            Self::Introduce { .. } | Self::Introduced(_) | Self::Introductions { .. } => None,
            Self::Pass(_) | Self::Wake | Self::Tick | Self::Stop => None,
        }
    }
}

/// The sending end.
#[derive(Clone)]
pub(crate) struct Post {
    mail: Sender<Mail>,
    waker: Arc<AtomicWaker>,
    pulse: Arc<Mutex<Option<Waker>>>,
    closed: Arc<AtomicBool>,
    /// When the shard next needs its clock; 0: at every tick.
    tick_due_ns: Arc<AtomicU64>,
    /// A tick is in the mailbox.
    ticked: Arc<AtomicBool>,
}

impl Post {
    /// Posts; the mail comes back when the mailbox is full or gone.
    pub(crate) fn send(&self, mail: Mail) -> Result<(), Box<Mail>> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Box::new(mail));
        }
        let sent = self.mail.try_send(mail).map_err(|refused| match refused {
            TrySendError::Full(mail) | TrySendError::Disconnected(mail) => Box::new(mail),
        });
        self.waker.wake();
        sent
    }

    /// As [`Post::send`], where nobody needs the mail back.
    ///
    /// # Errors
    /// As [`Post::refusal`] says.
    pub(crate) fn deliver(&self, mail: Mail) -> Result<(), Rejection> {
        self.send(mail).map_err(|_| self.refusal())
    }

    /// Why mail came back: the shard has ended, or its mailbox is full.
    pub(crate) fn refusal(&self) -> Rejection {
        if self.closed.load(Ordering::SeqCst) { Rejection::Stopping } else { Overload::Shard.rejection() }
    }

    /// Posts a tick, and wakes the shard whether it seems to need it or not.
    ///
    /// The channel's waker is used up by its first wake. An executor that went to sleep with that wake in hand (glommio
    /// 0.9 can: `run_task_queues` tells "preempted before I ran anything" as "nothing to run") would sleep for ever; the
    /// other waker stays, and a tick that finds the first one used up uses it.
    pub(crate) fn tick(&self) {
        if self.closed.load(Ordering::SeqCst) {
            return;
        }
        // A shard that takes its mail late needs no second tick.
        if !self.ticked.swap(true, Ordering::SeqCst) && self.mail.try_send(Mail::Tick).is_err() {
            self.ticked.store(false, Ordering::SeqCst);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        } else if let Some(waker) = &*self.pulse.lock().expect("no holder panics") {
            waker.wake_by_ref();
        }
    }

    /// Says when the shard next needs its clock; 0: at every tick.
    pub(crate) fn set_tick_due(&self, due_ns: u64) {
        self.tick_due_ns.store(due_ns, Ordering::Relaxed);
    }

    /// See [`Post::set_tick_due`].
    pub(crate) fn tick_due_ns(&self) -> u64 {
        self.tick_due_ns.load(Ordering::Relaxed)
    }

    /// Posts, waiting for room: for the few messages that must arrive. Gives up when the shard is gone.
    pub(crate) fn send_wait(&self, mut mail: Mail) {
        while let Err(refused) = self.send(mail) {
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            mail = *refused;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The receiving end, on the shard's thread.
pub(crate) struct Mailbox {
    mail: Receiver<Mail>,
    waker: Arc<AtomicWaker>,
    pulse: Arc<Mutex<Option<Waker>>>,
    closed: Arc<AtomicBool>,
    ticked: Arc<AtomicBool>,
}

impl Mailbox {
    /// Takes one message, if there is any.
    pub(crate) fn take(&self) -> Option<Mail> {
        let mail = self.mail.try_recv().ok();
        if matches!(mail, Some(Mail::Tick)) {
            self.ticked.store(false, Ordering::SeqCst);
        }
        mail
    }

    /// Takes no more mail, answers none, and forgets who waits.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakers of this executor's tasks are dropped on its own thread.
        drop(self.waker.take());
        drop(self.pulse.lock().expect("no holder panics").take());
        // What was posted is dropped, and its senders learn that it is lost.
        while self.take().is_some() {}
    }

    /// Waits until there is mail. Only one task of the shard may wait.
    pub(crate) async fn ready(&self) {
        poll_fn(|context| {
            if !self.mail.is_empty() {
                return Poll::Ready(());
            }
            self.waker.register(context.waker());
            self.pulse.lock().expect("no holder panics").get_or_insert_with(|| context.waker().clone());
            // Mail may have come before the waker was there.
            if self.mail.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

impl Drop for Mailbox {
    /// A shard that never came to run takes no mail either.
    fn drop(&mut self) {
        self.close();
    }
}

/// A mailbox and its sending end.
pub(crate) fn mailbox() -> (Post, Mailbox) {
    let (sender, receiver) = bounded(MAILBOX_MAX);
    let (waker, closed) = (Arc::new(AtomicWaker::new()), Arc::new(AtomicBool::new(false)));
    let (pulse, ticked) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
    let post = Post {
        mail: sender,
        waker: Arc::clone(&waker),
        pulse: Arc::clone(&pulse),
        closed: Arc::clone(&closed),
        tick_due_ns: Arc::default(),
        ticked: Arc::clone(&ticked),
    };
    (post, Mailbox { mail: receiver, waker, pulse, closed, ticked })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Handle;
    use crate::homes::{Homes, Placement};
    use crate::large::LargeBudget;
    use crate::outcome::{Committed, ProposeError};

    /// Whoever posts to a full mailbox is refused at once, and whoever was let in gets an answer, also when the shard ends
    /// without one.
    #[test]
    fn mailbox_overflow_drops_completion() {
        let (post, mailbox) = mailbox();
        let placement = Placement::new(Homes { groups: 1, first_shards: 1, shards: 1 }, []);
        let handle = Handle::new(vec![post], 1, Arc::new(placement), LargeBudget::default());
        let mut waiting: Vec<_> = (0..MAILBOX_MAX).map(|_| handle.propose(1, b"entry")).collect();
        for _ in 0..10 {
            assert_eq!(handle.propose(1, b"entry").wait(), Err(Overload::Shard.rejection().into()));
            assert_eq!(handle.read(1, 1, Duration::ZERO).wait().err(), Some(ReadError::Overloaded));
        }
        // Who has waited for long enough can wait again.
        let waits = waiting.pop().expect("it was let in").wait_timeout(Duration::from_millis(1));
        waiting.push(waits.map(|told| panic!("nobody has answered: {told:?}")).unwrap_err());
        // The shard takes half of it, answers every other one, and lets the rest go.
        let committed = Committed { slot: 2, first_index: 1, count: 1 };
        let rest = waiting.split_off(MAILBOX_MAX / 2);
        for at in 0..waiting.len() {
            let Some(Mail::Propose { reply, .. }) = mailbox.take() else { panic!("it was posted") };
            if at % 2 == 0 {
                reply(Ok(committed));
            }
        }
        let told: Vec<Outcome> = waiting.into_iter().map(|pending| pending.wait()).collect();
        for (at, told) in told.into_iter().enumerate() {
            assert_eq!(told, if at % 2 == 0 { Ok(committed) } else { Err(ProposeError::Unknown) });
        }
        // There is room again; then the shard is gone.
        let last = handle.propose(1, b"entry");
        drop(mailbox);
        for pending in rest.into_iter().chain([last]) {
            assert_eq!(pending.wait(), Err(ProposeError::Unknown));
        }
        // Whoever is told that a node is overloaded tries again: not with one that has ended.
        assert_eq!(handle.propose(1, b"entry").wait(), Err(Rejection::Stopping.into()));
        assert_eq!(handle.proposer(1).err(), Some(Rejection::Stopping));
        assert_eq!(handle.read(1, 1, Duration::ZERO).wait().err(), Some(ReadError::Stopping));
        assert_eq!(handle.open_session(1).wait().err(), Some(Rejection::Stopping.into()));
    }

    #[test]
    fn ticks_do_not_pile_up() {
        let (post, mailbox) = mailbox();
        (0..5).for_each(|_| post.tick());
        assert!(matches!(mailbox.take(), Some(Mail::Tick)));
        assert!(mailbox.take().is_none());
        post.tick();
        assert!(matches!(mailbox.take(), Some(Mail::Tick)));
    }
}
