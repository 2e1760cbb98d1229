//! A node from any thread: proposing, reading, asking.

mod session;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::batch::Entries;
use crate::client::protocol::GroupInfoV1;
use crate::clock::now_ns;
use crate::config::Member;
use crate::groups::{GroupChange, GroupError, GroupOutcome, MadeGroup};
use crate::homes::Placement;
use crate::introductions::{IntroduceError, IntroduceOutcome, Introduction};
use crate::large::LargeBudget;
use crate::limits::READ_BYTES_MAX;
use crate::machine::StateMachine;
use crate::mailbox::{Mail, Post};
use crate::membership::{Membership, MembershipChange, MembershipError, MembershipOutcome};
use crate::outcome::{Committed, Epoch, GroupId, NodeId, Outcome, ProposeError, Rejection};
use crate::sessions::command::is_session;
use crate::shard::made::GroupReply;
use crate::shard::membership::MembershipReply;
use crate::shard::points::{AtPoint, Consistency, ReadPoint};
use crate::shard::producers::LocalShard;
use crate::shard::reads::{CommittedEntries, ReadError};
use crate::shard::transfer::TransferError;
use crate::shard::trim_orders::TrimReply;

pub use session::Session;

static NEXT_PROPOSER: AtomicU64 = AtomicU64::new(1);
/// A subscriber to a group that is on its way to another shard asks again after so long.
const MOVING_PAUSE: Duration = Duration::from_millis(5);

/// A node, for use from any thread or async task. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    posts: Arc<[Post]>,
    node: NodeId,
    large: LargeBudget,
    placement: Arc<Placement>,
}

/// What comes back to an async caller: a future, or a blocking wait.
pub struct Pending<T> {
    slot: Arc<Mutex<Answer<T>>>,
}

enum Answer<T> {
    Waiting(Option<Waker>),
    There(Option<T>),
}

/// Answers a [`Pending`], once; dropped without an answer it gives `lost`.
struct Completer<T> {
    slot: Arc<Mutex<Answer<T>>>,
    lost: Option<T>,
}

impl<T> Completer<T> {
    fn complete(mut self, value: T) {
        self.lost = Some(value);
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        let mut slot = self.slot.lock().expect("no holder panics");
        let waker = match &mut *slot {
            Answer::Waiting(waker) => waker.take(),
            Answer::There(_) => return,
        };
        *slot = Answer::There(self.lost.take());
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

fn pending<T>(lost: T) -> (Completer<T>, Pending<T>) {
    let slot = Arc::new(Mutex::new(Answer::Waiting(None)));
    (Completer { slot: Arc::clone(&slot), lost: Some(lost) }, Pending { slot })
}

fn unparks_this_thread() -> Waker {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    Waker::from(Arc::new(Unpark(std::thread::current())))
}

impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.slot.lock().expect("no holder panics");
        match &mut *slot {
            Answer::Waiting(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            Answer::There(value) => Poll::Ready(value.take().expect("a future is not polled after its end")),
        }
    }
}

impl<T> Pending<T> {
    /// Waits on this thread.
    pub fn wait(mut self) -> T {
        let waker = unparks_this_thread();
        loop {
            match Pin::new(&mut self).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => return value,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    /// Waits on this thread, for `timeout` at most. What was asked for goes on: of a proposal this says nothing.
    ///
    /// # Errors
    /// The future itself, when there is no answer yet: it can be waited for again.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<T, Self> {
        let waker = unparks_this_thread();
        let begin = Instant::now();
        loop {
            if let Poll::Ready(value) = Pin::new(&mut self).poll(&mut Context::from_waker(&waker)) {
                return Ok(value);
            }
            // A timeout may be longer than any clock shows.
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(self);
            }
            std::thread::park_timeout(left);
        }
    }
}

/// Why a read came back.
fn unread(post: &Post) -> ReadError {
    match post.refusal() {
        Rejection::Stopping => ReadError::Stopping,
        _ => ReadError::Overloaded,
    }
}

impl Handle {
    pub(crate) fn new(posts: Vec<Post>, node: NodeId, placement: Arc<Placement>, large: LargeBudget) -> Self {
        Self { posts: posts.into(), node, placement, large }
    }

    /// This node's number.
    pub fn node(&self) -> NodeId {
        self.node
    }

    fn post(&self, group: GroupId) -> &Post {
        &self.posts[self.placement.shard(group)]
    }

    /// Proposes one entry, of 64 MiB at most. It is committed, and applied on this node, when the future gives `Ok`.
    pub fn propose(&self, group: GroupId, entry: &[u8]) -> Pending<Outcome> {
        match Entries::one(entry) {
            Ok(entries) => self.propose_batch(group, entries),
            Err(_) => refused(Rejection::TooLarge),
        }
    }

    /// Proposes entries that take effect together, in order, with indexes that follow each other.
    pub fn propose_batch(&self, group: GroupId, entries: Entries) -> Pending<Outcome> {
        self.propose_with(group, entries, None, None).unwrap_or_else(refused)
    }

    /// Proposes entries in a session that was opened before ([`Handle::open_session`], [`Session::id`]), for those who
    /// number them themselves: `sequence` is the number of the first, from 1. A batch that the session has committed
    /// before is answered with its position, as often as it is said; so it is safe to repeat an unknown outcome.
    ///
    /// # Panics
    /// When `session` is no session's id or `sequence` is 0.
    pub fn propose_in_session(
        &self,
        group: GroupId,
        session: u64,
        sequence: u64,
        entries: Entries,
    ) -> Pending<Outcome> {
        assert!(is_session(session) && sequence > 0, "a session's id is a slot, and sequences count from 1");
        self.propose_with(group, entries, Some((session, sequence)), None).unwrap_or_else(refused)
    }

    fn propose_with(
        &self,
        group: GroupId,
        entries: Entries,
        session: Option<(u64, u64)>,
        handle: Option<(u64, Epoch)>,
    ) -> Result<Pending<Outcome>, Rejection> {
        if entries.is_empty() {
            return Err(Rejection::TooLarge);
        }
        let permit = self.large.admit(&entries)?;
        let (completer, pending) = pending(Err(ProposeError::Unknown));
        let mail = Mail::Propose {
            group,
            entries,
            session,
            handle,
            submitted_ns: now_ns(),
            permit,
            reply: Box::new(|outcome| completer.complete(outcome)),
        };
        self.post(group).deliver(mail)?;
        Ok(pending)
    }

    /// A proposer whose proposals are committed in their order or not at all. It is bound to the present epoch of this
    /// node's leadership; after a refusal, or when the epoch ends, it refuses everything: open a new one.
    ///
    /// # Errors
    /// When this node does not lead the group.
    pub fn proposer(&self, group: GroupId) -> Result<Proposer, Rejection> {
        let (completer, pending) = pending(None);
        let mail = Mail::Epoch { group, reply: Box::new(|epoch| completer.complete(epoch)) };
        self.post(group).deliver(mail)?;
        let epoch = pending.wait().ok_or(Rejection::NotLeader { leader: self.leader(group) })?;
        let number = NEXT_PROPOSER.fetch_add(1, Ordering::Relaxed);
        Ok(Proposer { handle: self.clone(), group, epoch, number, closed: false })
    }

    /// The node that leads a group, as this node knows it.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.info(group).map(|info| info.leader).filter(|leader| *leader > 0)
    }

    /// Waits until this node leads the group and takes its proposals, or knows that another one leads it. Gives the leader.
    pub fn wait_leader(&self, group: GroupId, timeout: Duration) -> Option<NodeId> {
        let begin = Instant::now();
        loop {
            // Elected, this node takes proposals once a first slot of its own is chosen.
            let takes_proposals = |info: &GroupInfoV1| info.leader != self.node || info.epoch > 0;
            let leader = self.info(group).filter(takes_proposals).map_or(0, |info| info.leader);
            if leader > 0 || begin.elapsed() >= timeout {
                return (leader > 0).then_some(leader);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What this node knows of a group, or of a directory ([`directory_group`](crate::directory_group)); `None` when it has no
    /// such group or is stopping.
    pub fn info(&self, group: GroupId) -> Option<GroupInfoV1> {
        let (completer, pending) = pending(None);
        let mail = Mail::Info { group, reply: Box::new(|info| completer.complete(info)) };
        self.post(group).send(mail).ok()?;
        pending.wait()
    }

    /// Who votes in a group, or in a directory ([`directory_group`](crate::directory_group)), as this node knows it; `None` when
    /// it has no such group or is stopping.
    pub fn membership(&self, group: GroupId) -> Option<Membership> {
        let (completer, pending) = pending(None);
        let mail = Mail::Membership { group, reply: Box::new(|membership| completer.complete(membership)) };
        self.post(group).send(mail).ok()?;
        pending.wait()
    }

    /// Changes who votes in a group, or in a directory ([`directory_group`](crate::directory_group)), that this node leads, if
    /// its voters are still those of `version`. A node that is added
    /// must have caught up first; that, and the change, may take so long in all.
    pub fn change_membership(
        &self,
        group: GroupId,
        version: u64,
        change: MembershipChange,
        timeout: Duration,
    ) -> Pending<MembershipOutcome> {
        let (completer, pending) = pending(Err(MembershipError::Unknown));
        let mail = Mail::ChangeMembership {
            group,
            version,
            change,
            wait_ms: timeout.as_millis() as u64,
            reply: MembershipReply::Callback(Box::new(|outcome| completer.complete(outcome))),
        };
        match self.post(group).deliver(mail) {
            Ok(()) => pending,
            Err(rejection) => answered(Err(rejection.into())),
        }
    }

    /// Introduces a node to this one, and so to the whole cluster: from now on the nodes let it in, or dial it, as if their
    /// configurations named it, also after a restart. It has no vote until it is given one: see
    /// [`Handle::change_membership`]. The outcome is told once this node knows it durably; the others hear of it as soon as
    /// they are connected to one that knows.
    ///
    /// To introduce a node again does no harm, at whatever node. With another address it has moved there: say so to a node
    /// that knows the earlier introduction ([`Handle::introductions`]), or to all, as otherwise the two may be told at the
    /// same version, of which the greater address counts.
    pub fn introduce(&self, member: Member) -> Pending<IntroduceOutcome> {
        self.introduce_as(member, false)
    }

    /// As [`Handle::introduce`], for a node that is a witness by its own configuration.
    pub fn introduce_witness(&self, member: Member) -> Pending<IntroduceOutcome> {
        self.introduce_as(member, true)
    }

    fn introduce_as(&self, member: Member, witness: bool) -> Pending<IntroduceOutcome> {
        let (completer, pending) = pending(Err(IntroduceError::Unknown));
        let reply = Box::new(|outcome| completer.complete(outcome));
        match self.posts[0].deliver(Mail::Introduce { member, witness, reply }) {
            Ok(()) => pending,
            Err(rejection) => answered(Err(rejection.into())),
        }
    }

    /// The nodes that were introduced, by number, as this node knows it; `None` when it is stopping. Those that the
    /// configuration names as well are what that says.
    pub fn introductions(&self) -> Option<Vec<Introduction>> {
        let (completer, pending) = pending(None);
        let mail = Mail::Introductions { reply: Box::new(|list| completer.complete(Some(list))) };
        self.posts[0].send(mail).ok()?;
        pending.wait()
    }

    /// Makes a group with this number, behind those of the configuration, with a replica on every node. To be asked of
    /// the leader of the shard's directory: any other node names it in its refusal.
    pub fn create_group(&self, group: GroupId, timeout: Duration) -> Pending<GroupOutcome> {
        self.create_group_with_quorum(group, 0, timeout)
    }

    /// As [`Handle::create_group`], for a group in which `phase_2` voters choose a value from its beginning on; 0: a
    /// majority. What that means is told at [`MembershipChange::Quorum`].
    pub fn create_group_with_quorum(&self, group: GroupId, phase_2: u16, timeout: Duration) -> Pending<GroupOutcome> {
        self.change_groups(GroupChange::Create(group, phase_2), timeout)
    }

    /// Drops a group that was made at run time: it takes no proposals from the order on, its last slot is chosen, and then
    /// every node deletes what it has of it. Its number is free again when this gives `Ok`. To be asked as
    /// [`Handle::create_group`].
    pub fn drop_group(&self, group: GroupId, timeout: Duration) -> Pending<GroupOutcome> {
        self.change_groups(GroupChange::Drop(group), timeout)
    }

    /// Has a group moved to another shard of every node, counted from 0, so that another core does its work; its own shard is
    /// its number modulo how many there are, or, for one that was made at run time, that of its directory. The order is durable and the same for all nodes when
    /// this gives `Ok`. Each then moves the group by itself, with all that it has, and is away for the group meanwhile:
    /// for as long as it takes to copy what its log holds of it. See [`Handle::shard_of`], and
    /// [`Event::GroupMoved`](crate::Event::GroupMoved). To be asked as [`Handle::create_group`].
    pub fn place_group(&self, group: GroupId, shard: usize, timeout: Duration) -> Pending<GroupOutcome> {
        self.change_groups(GroupChange::Place(group, shard), timeout)
    }

    /// The shard of this node that a group is on now, counted from 0.
    pub fn shard_of(&self, group: GroupId) -> usize {
        self.placement.shard(group)
    }

    fn change_groups(&self, change: GroupChange, timeout: Duration) -> Pending<GroupOutcome> {
        let (completer, pending) = pending(Err(GroupError::Unknown));
        let wait_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let reply = GroupReply::Callback(Box::new(|outcome| completer.complete(outcome)));
        let shard = self.placement.directory_shard(change.group());
        match self.posts[shard].deliver(Mail::ChangeGroups { change, wait_ms, reply }) {
            Ok(()) => pending,
            Err(rejection) => answered(Err(rejection.into())),
        }
    }

    /// The groups that were made at run time, as this node knows them, by number.
    ///
    /// # Errors
    /// When too much is asked of the node at once, or it is stopping.
    pub fn made_groups(&self) -> Result<Vec<MadeGroup>, Rejection> {
        let mut groups = Vec::new();
        for post in &*self.posts {
            let (completer, pending) = pending(None);
            let mail = Mail::Groups { reply: Box::new(|groups| completer.complete(Some(groups))) };
            post.deliver(mail)?;
            groups.extend(pending.wait().ok_or(Rejection::Stopping)?);
        }
        groups.sort_unstable_by_key(|made: &MadeGroup| made.group);
        Ok(groups)
    }

    /// Reads committed entries from `from_index` on, about a mebibyte at most, as this node has applied them; an entry that is
    /// larger comes alone. Without any it waits for `wait`, then answers with none.
    pub fn read(
        &self,
        group: GroupId,
        from_index: u64,
        wait: Duration,
    ) -> Pending<Result<CommittedEntries, ReadError>> {
        let (completer, pending) = pending(Err(ReadError::Stopping));
        let mail = Mail::Read {
            group,
            from_index: from_index.max(1),
            bytes_max: READ_BYTES_MAX,
            wait_ms: wait.as_millis() as u64,
            whole: true,
            reply: Box::new(|answer| completer.complete(answer)),
        };
        let post = self.post(group);
        if let Err(refused) = post.send(mail)
            && let Mail::Read { reply, .. } = *refused
        {
            reply(Err(unread(post)));
        }
        pending
    }

    /// Waits until all that the consistency asks for is applied here, on any node: a linearizable read of what the state
    /// machine keeps elsewhere begins with this.
    pub fn read_index(
        &self,
        group: GroupId,
        consistency: Consistency,
        timeout: Duration,
    ) -> Pending<Result<ReadPoint, ReadError>> {
        let (completer, pending) = pending(Err(ReadError::Stopping));
        self.read_point(group, consistency, timeout, |answer| {
            completer.complete(answer.map(|(point, _)| point));
        });
        pending
    }

    /// Runs a closure over the group's state machine on this node, on its shard's thread, as soon as all that the
    /// consistency asks for is applied. It must not block.
    pub fn query<M: StateMachine, T: Send + 'static>(
        &self,
        group: GroupId,
        consistency: Consistency,
        timeout: Duration,
        query: impl FnOnce(&M) -> T + Send + 'static,
    ) -> Pending<Result<T, ReadError>> {
        let (completer, pending) = pending(Err(ReadError::Stopping));
        self.read_point(group, consistency, timeout, move |answer| {
            completer.complete(answer.and_then(|(_, machine)| {
                let machine = machine.and_then(|machine| (machine as &dyn std::any::Any).downcast_ref::<M>());
                machine.map(query).ok_or(ReadError::NoMachine)
            }));
        });
        pending
    }

    /// Hands a group that this node leads over to another. Proposals wait meanwhile; they are refused as
    /// [`Rejection::NotLeader`] when the other has taken over.
    pub fn transfer(&self, group: GroupId, to: NodeId, timeout: Duration) -> Pending<Result<(), TransferError>> {
        let (completer, pending) = pending(Err(TransferError::Stopping));
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let mail = Mail::Transfer { group, to, timeout_ns, reply: Box::new(|end| completer.complete(end)) };
        // Refused mail is dropped, and its completer with it.
        let _ = self.post(group).send(mail);
        pending
    }

    /// Gives up a group's leadership; the others elect a leader, which may be this node again. False when it does not lead.
    pub fn resign(&self, group: GroupId) -> Pending<bool> {
        let (completer, pending) = pending(false);
        let mail = Mail::Resign { group, reply: Box::new(|led| completer.complete(led)) };
        let _ = self.post(group).send(mail);
        pending
    }

    fn read_point(
        &self,
        group: GroupId,
        consistency: Consistency,
        timeout: Duration,
        reply: impl FnOnce(AtPoint<'_>) + Send + 'static,
    ) {
        let wait_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let mail = Mail::ReadPoint { group, consistency, wait_ns, reply: Box::new(reply) };
        let post = self.post(group);
        if let Err(refused) = post.send(mail)
            && let Mail::ReadPoint { reply, .. } = *refused
        {
            reply(Err(unread(post)));
        }
    }

    /// Every committed entry of a group from `from_index` on, in order, for ever: how a database tails its log.
    pub fn subscribe(&self, group: GroupId, from_index: u64) -> Subscription {
        Subscription { handle: self.clone(), group, next_index: from_index.max(1) }
    }

    /// Has the group's state machine take a checkpoint now. Gives the index that the newest checkpoint covers once it is
    /// durable, or why there is none.
    pub fn checkpoint(&self, group: GroupId) -> Pending<Result<u64, String>> {
        let (completer, pending) = pending(Err("the node is stopping, or too much is asked of it at once".into()));
        let mail = Mail::Checkpoint { group, reply: Box::new(|answer| completer.complete(answer)) };
        // Refused mail is dropped, and its completer with it.
        let _ = self.post(group).send(mail);
        pending
    }

    /// Keeps this node's log of a group from `index` on for a reader of this name: for `age` at most, unless it is pinned
    /// again. A pin lasts as long as the node's process; a log that is pinned grows, and in the end refuses proposals.
    ///
    /// # Errors
    /// When the log begins behind `index`, or too many readers have pinned it.
    pub fn pin(&self, group: GroupId, name: &str, index: u64, age: Duration) -> Result<(), String> {
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let (name, index) = (name.to_owned(), Some((index.max(1), age_ns)));
        self.order(group, |reply| Mail::Pin { group, name, index, reply })
    }

    /// A reader no longer needs the log.
    ///
    /// # Errors
    /// When there is no such group, or the node is stopping.
    pub fn unpin(&self, group: GroupId, name: &str) -> Result<(), String> {
        let name = name.to_owned();
        self.order(group, |reply| Mail::Pin { group, name, index: None, reply })
    }

    /// Frees what this node's log holds of a group before the entry `before`, beyond what it would free by itself, and gives
    /// the index at which the log begins then. That may be lower: the log goes a segment at a time, and those of a shard's
    /// groups lie in the same segments. Checkpoints are taken where the log cannot go without.
    ///
    /// # Errors
    /// When a reader has pinned what is before, when trimming is paused, when the log ends before that entry, or when
    /// something is still in the way after `timeout`; what was freed until then stays freed.
    pub fn trim(&self, group: GroupId, before: u64, timeout: Duration) -> Pending<Result<u64, String>> {
        let (completer, pending) = pending(Err("the node is stopping, or too much is asked of it at once".into()));
        let wait_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let reply = TrimReply::Callback(Box::new(|answer| completer.complete(answer)));
        // Refused mail is dropped, and its completer with it.
        let _ = self.post(group).send(Mail::Trim { group, before, wait_ns, reply });
        pending
    }

    /// Stops the trimming of this node's log of a group, or goes on with it.
    ///
    /// # Errors
    /// When there is no such group, or the node is stopping.
    pub fn pause_trimming(&self, group: GroupId, paused: bool) -> Result<(), String> {
        self.order(group, |reply| Mail::PauseTrimming { group, paused, reply })
    }

    fn order(
        &self,
        group: GroupId,
        mail: impl FnOnce(Box<dyn FnOnce(Result<(), String>) + Send>) -> Mail,
    ) -> Result<(), String> {
        let (completer, pending) = pending(Err("the node is stopping, or too much is asked of it at once".into()));
        let _ = self.post(group).send(mail(Box::new(|answer| completer.complete(answer))));
        pending.wait()
    }

    /// Runs a closure on the thread of a group's shard, for instance to attach a
    /// [`Producer`](crate::Producer). It must not block.
    ///
    /// # Errors
    /// When the shard's mailbox is full or the node is stopping.
    pub fn on_shard<T: Send + 'static>(
        &self,
        group: GroupId,
        run: impl FnOnce(&mut LocalShard<'_>) -> T + Send + 'static,
    ) -> Result<T, Rejection> {
        let (tell, told) = mpsc::channel();
        let mail = Mail::Run(Box::new(move |shard| {
            let _ = tell.send(run(shard));
        }));
        self.post(group).deliver(mail)?;
        told.recv().map_err(|_| Rejection::Stopping)
    }

    /// Lets the producers of a group's shard propose now, not only at the next tick.
    pub fn wake(&self, group: GroupId) {
        let _ = self.post(group).send(Mail::Wake);
    }
}

fn refused(rejection: Rejection) -> Pending<Outcome> {
    answered(Err(ProposeError::Rejected(rejection)))
}

fn answered<T>(answer: T) -> Pending<T> {
    let (completer, pending) = pending(answer);
    drop(completer);
    pending
}

/// Proposes in order or not at all; see [`Handle::proposer`].
pub struct Proposer {
    handle: Handle,
    group: GroupId,
    epoch: Epoch,
    number: u64,
    /// Something was refused that the shard has not heard of.
    closed: bool,
}

impl Proposer {
    /// The epoch that it is bound to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Proposes entries behind all that this proposer has proposed before.
    pub fn propose(&mut self, entries: Entries) -> Pending<Outcome> {
        if self.closed {
            return refused(Rejection::HandleClosed);
        }
        let proposed = self.handle.propose_with(self.group, entries, None, Some((self.number, self.epoch)));
        self.closed = proposed.is_err();
        proposed.unwrap_or_else(refused)
    }
}

/// A cursor over a group's committed entries; see [`Handle::subscribe`].
pub struct Subscription {
    handle: Handle,
    group: GroupId,
    next_index: u64,
}

impl Subscription {
    /// The next entries, waiting for them at most so long; none when the time is up.
    ///
    /// # Errors
    /// When the log was trimmed past this cursor, or the node is stopping.
    pub fn next(&mut self, timeout: Duration) -> Result<CommittedEntries, ReadError> {
        let end = Instant::now() + timeout;
        let entries = loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.handle.read(self.group, self.next_index, left).wait() {
                Err(ReadError::Moving) if !left.is_zero() => std::thread::sleep(MOVING_PAUSE.min(left)),
                answer => break answer?,
            }
        };
        self.next_index += entries.entries.len() as u64;
        Ok(entries)
    }

    /// The index of the entry that comes next.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }
}

impl Committed {
    /// The index of the last of the entries.
    pub fn last_index(&self) -> u64 {
        self.first_index + u64::from(self.count) - 1
    }
}
