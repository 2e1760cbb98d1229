//! The thin driver of a shard: one glommio executor that moves bytes between sockets, disk, mailbox and the shard.
//!
//! Socket, mailbox and disk tasks only feed the shard and ask for a turn; the turn task, woken locally, runs after all
//! tasks that are ready and flushes once. No borrow of the shard is held across an await. Except for the transport's
//! drivers, only this file and its `lane` know glommio.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::{LocalExecutorBuilder, Placement};
use synod_transport::Socket;
use synod_transport::frame::Decoder;
use synod_transport::net::glommio::Connection;
use synod_wal::disk::{Disk, UringDisk};

use crate::checkpoint::helper::Helper;
use crate::checkpoint::store::Store;
use crate::clock::now_ns;
use crate::introducer::{Introducer, Introducing};
use crate::mailbox::{Mail, Mailbox, PeerHello, Post};
use crate::outcome::{NodeId, Rejection};
use crate::random::random_u128;
use crate::shard::clients::CLIENT_BODY_BYTES_MAX;
use crate::shard::membership::MembershipReply;
use crate::shard::moving::Pass;
use crate::shard::points::point_reply;
use crate::shard::serve::read_reply;
use crate::shard::transfer::transfer_reply;
use crate::shard::{Notice, Shard};

mod lane;

use lane::LaneSocket;

/// How long a stopping shard waits for what is in flight.
const STOP_NS: u64 = 1_000_000_000;
/// glommio starts no executor with less.
const LOCKED_BYTES_MIN: u64 = 512 << 10;
/// Mail handled before the turn gets its chance.
const MAIL_PER_TURN: usize = 4096;

/// A shard, its disk, how many segments are zeroed ahead, and where its checkpoints are.
pub(crate) type Built = (Shard, Box<dyn Disk>, usize, Store);

/// Makes durable that a shard's log must not be voted with again, and why.
pub(crate) type NoteSuspect = Box<dyn Fn(&str) -> std::io::Result<()> + Send>;
/// Makes durable that a shard's log was opened.
pub(crate) type NoteOpened = Box<dyn FnOnce() -> std::io::Result<()> + Send>;

/// What a shard's thread is given.
pub(crate) struct Setup {
    /// The core to run on; none: wherever the system puts it.
    pub(crate) cpu: Option<usize>,
    /// Builds the shard and its disk, on the shard's thread.
    pub(crate) build: Box<dyn FnOnce() -> Result<Built, String> + Send>,
    /// Makes it durable that the shard's log is open. Carried out before the first frame is written, so before any vote.
    pub(crate) opened: NoteOpened,
    /// Called when the log turns out to have lost votes.
    pub(crate) suspect: NoteSuspect,
    pub(crate) mailbox: Mailbox,
    /// The mailboxes of all shards of the node, by shard.
    pub(crate) posts: Vec<Post>,
    /// Where the node listens, if it takes datagrams there too.
    pub(crate) lane: Option<SocketAddr>,
    /// Told of every peer whose connection broke.
    pub(crate) broken: Box<dyn Fn(NodeId) + Send>,
    /// Given all introductions of nodes.
    pub(crate) introducer: Introducer,
    /// Told once that the shard's log is open, or why it cannot be.
    pub(crate) ready: mpsc::Sender<Result<(), String>>,
}

/// Runs a shard until it is stopped. An error is the reason why it cannot go on.
pub(crate) fn run(setup: Setup) -> Result<(), String> {
    // The executor panics or says little where these are missing.
    if let Err(reason) = check_system() {
        let _ = setup.ready.send(Err(reason));
        return Ok(());
    }
    let placement = setup.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let made = LocalExecutorBuilder::new(placement)
        // The log has a ring of its own: glommio's needs little.
        .io_memory(64 << 10)
        .ring_depth(128)
        .preempt_timer(Duration::from_millis(10))
        .make();
    let executor = match made {
        Ok(executor) => executor,
        Err(error) => {
            let _ = setup.ready.send(Err(format!("the shard's executor cannot start: {error}")));
            return Ok(());
        }
    };
    executor.run(async move {
        let Setup { build, opened, suspect, mailbox, posts, lane, broken, introducer, ready, .. } = setup;
        let (mut shard, disk, spares, store) = match build() {
            Ok(built) => built,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        let lane = match lane.map(LaneSocket::open).transpose() {
            Ok(lane) => lane.map(Rc::new),
            Err(reason) => {
                let _ = ready.send(Err(reason));
                return Ok(());
            }
        };
        if let Some(lane) = &lane {
            shard.lanes.open(lane.port(), Box::new(random_u128));
        }
        let mailbox = Rc::new(mailbox);
        let helper = Helper::start(shard.shard_number(), store, posts[shard.shard_number()].clone());
        let driver = Rc::new(Driver {
            shard: RefCell::new(shard),
            disk: RefCell::new(Some(disk)),
            helper,
            opened: Cell::new(Some(opened)),
            suspect,
            turn: Signal::default(),
            ended: Signal::default(),
            over: Cell::new(false),
            end: RefCell::new(None),
            links: RefCell::new(HashMap::new()),
            next_link: Cell::new(1),
            stop_by_ns: Cell::new(0),
            posts,
            lane: RefCell::new(lane.clone()),
            broken,
            introducer,
            ready: Cell::new(Some(ready)),
            passes: RefCell::new(VecDeque::new()),
        });
        driver.event(|shard| shard.start(spares));
        glommio::spawn_local(Rc::clone(&driver).turns()).detach();
        glommio::spawn_local(Rc::clone(&driver).reap_disk()).detach();
        let datagrams = lane.map(|lane| glommio::spawn_local(Rc::clone(&driver).take_datagrams(lane)));
        glommio::spawn_local(Rc::clone(&driver).take_mail(Rc::clone(&mailbox))).detach();
        driver.ended.wait().await;
        if let Some(datagrams) = datagrams {
            // The socket is closed here: a task that waits for ever would keep it.
            datagrams.cancel().await;
        }
        // No other thread may wake a task of an executor that is gone.
        mailbox.close();
        driver.close();
        driver.helper.stop();
        driver.over.set(true);
        // Tasks that never end keep the shard alive: who still waits for it is told now.
        driver.shard.borrow_mut().abandon();
        let end = driver.end.borrow_mut().take();
        end.unwrap_or(Ok(()))
    })
}

/// Whether the system lets the executor do its work, whatever the disk is; otherwise what to do.
fn check_system() -> Result<(), String> {
    UringDisk::probe()?;
    match rustix::process::getrlimit(rustix::process::Resource::Memlock).current {
        Some(bytes) if bytes < LOCKED_BYTES_MIN => Err(format!(
            "only {} KiB of memory may be locked, {} KiB are needed: raise the limit (`ulimit -l {1}`, or LimitMEMLOCK= of \
             a service)",
            bytes >> 10,
            LOCKED_BYTES_MIN >> 10
        )),
        _ => Ok(()),
    }
}

/// Wakes one task of this thread.
#[derive(Default)]
struct Signal {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    fn set(&self) {
        if !self.set.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Waits until it is set, and clears it.
    async fn wait(&self) {
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// One connection: a peer's, or a client's.
struct Link {
    connection: Rc<Connection>,
    /// The peer's node; none: a client.
    node: Option<u64>,
    /// The socket took less than there was: the writer goes on.
    blocked: Cell<bool>,
    write: Signal,
    closed: Cell<bool>,
}

struct Driver {
    shard: RefCell<Shard>,
    /// None once the shard is closed: its owner may start the next node on the same files.
    disk: RefCell<Option<Box<dyn Disk>>>,
    helper: Helper,
    opened: Cell<Option<NoteOpened>>,
    suspect: NoteSuspect,
    turn: Signal,
    ended: Signal,
    /// The shard is abandoned. Tasks that were ready then still run once: they must leave it alone.
    over: Cell<bool>,
    end: RefCell<Option<Result<(), String>>>,
    links: RefCell<HashMap<u64, Rc<Link>>>,
    next_link: Cell<u64>,
    stop_by_ns: Cell<u64>,
    posts: Vec<Post>,
    /// The socket for datagrams, until the shard is closed.
    lane: RefCell<Option<Rc<LaneSocket>>>,
    broken: Box<dyn Fn(NodeId) + Send>,
    introducer: Introducer,
    ready: Cell<Option<mpsc::Sender<Result<(), String>>>>,
    /// What other shards are told of groups that move, and which.
    passes: RefCell<VecDeque<(usize, Pass)>>,
}

impl Driver {
    /// Feeds the shard and asks for a turn.
    fn event<R>(&self, event: impl FnOnce(&mut Shard) -> R) -> R {
        let mut shard = self.shard.borrow_mut();
        shard.now_ns = now_ns();
        let result = event(&mut shard);
        self.turn.set();
        result
    }

    /// The disk of a shard that is not closed.
    fn disk(&self) -> RefMut<'_, Box<dyn Disk>> {
        RefMut::map(self.disk.borrow_mut(), |disk| disk.as_mut().expect("tasks leave a closed shard alone"))
    }

    fn finish(&self, end: Result<(), String>) {
        let end = match (self.ready.take(), end) {
            // Whoever starts the node gets the reason.
            (Some(ready), Err(reason)) => {
                let _ = ready.send(Err(reason));
                Ok(())
            }
            (_, end) => end,
        };
        self.end.borrow_mut().get_or_insert(end);
        self.ended.set();
    }

    /// A log that has lost votes is noted as such before anything else can happen to it.
    fn note_suspect(&self, shard: &Shard, reason: &str) {
        if shard.suspect
            && let Err(error) = (self.suspect)(reason)
        {
            tracing::error!(%error, "cannot note that this log must not be voted with: do not start this node again");
        }
    }

    // ---- the turn ----

    async fn turns(self: Rc<Self>) {
        loop {
            self.turn.wait().await;
            if self.over.get() {
                return;
            }
            if let Err(error) = self.run_turn() {
                self.finish(Err(error));
                return;
            }
            if self.shard.borrow().wants_turn() {
                self.turn.set();
                // Others run before it.
                glommio::executor().yield_now().await;
            }
        }
    }

    fn run_turn(&self) -> Result<(), String> {
        let mut shard = self.shard.borrow_mut();
        let mut disk = self.disk();
        let mut done = Vec::new();
        loop {
            shard.now_ns = now_ns();
            if let Err(reason) = shard.complete() {
                self.note_suspect(&shard, &reason);
                return Err(reason);
            }
            shard.flush(now_ns());
            // What goes to peers takes the longer way: it leaves first.
            self.send_all(&mut shard);
            if shard.started
                && let Some(opened) = self.opened.take()
            {
                opened().map_err(|error| format!("cannot note that the log is open: {error}"))?;
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Ok(()));
                }
            }
            for op in shard.disk_ops.drain(..) {
                disk.submit(op);
            }
            disk.poll(&mut done);
            if done.is_empty() {
                break;
            }
            shard.now_ns = now_ns();
            for done in done.drain(..) {
                shard.on_disk(done).map_err(|error| error.to_string())?;
            }
        }
        shard.checkpoints.ops.drain(..).for_each(|op| self.helper.submit(op));
        self.posts[shard.shard_number()].set_tick_due(shard.next_tick_ns());
        let notices = std::mem::take(&mut shard.notices);
        let stop_by = self.stop_by_ns.get();
        if stop_by > 0 && (shard.is_idle() || shard.now_ns >= stop_by) {
            shard.resign_all();
            shard.complete()?;
            shard.flush(now_ns());
            self.send_all(&mut shard);
            self.finish(Ok(()));
        }
        drop(disk);
        drop(shard);
        for notice in notices {
            match notice {
                Notice::Close(connection) => self.close_link(connection),
                Notice::Forward(connection, request, decoded) => self.forward(connection, request, decoded),
                Notice::Pass(to, pass) => self.passes.borrow_mut().push_back((to, pass)),
                Notice::Heard(list) => self.introducer.take(Introducing::Heard(list)),
            }
        }
        self.send_passes();
        Ok(())
    }

    /// Posts what other shards are told of groups that move, as far as their mailboxes have room: none is lost, nor out of
    /// order.
    fn send_passes(&self) {
        let mut passes = self.passes.borrow_mut();
        while let Some((to, pass)) = passes.pop_front() {
            if let Err(refused) = self.posts[to].send(Mail::Pass(pass))
                && let Mail::Pass(pass) = *refused
            {
                return passes.push_front((to, pass));
            }
        }
    }

    /// Sends what is queued, as far as the sockets take it at once.
    fn send_all(&self, shard: &mut Shard) {
        let links = self.links.borrow();
        self.send_datagrams(shard, &links);
        for at in 0..shard.peers.len() {
            if let Some(id) = shard.peers[at].connection
                && let Some(link) = links.get(&id)
                && !link.blocked.get()
            {
                self.send(id, link, &mut shard.peers[at].outbox);
            }
        }
        for id in std::mem::take(&mut shard.clients.ready) {
            if let Some(link) = links.get(&id)
                && !link.blocked.get()
                && let Some(outbox) = shard.clients.outbox(id)
            {
                self.send(id, link, outbox);
            }
        }
    }

    fn send(&self, id: u64, link: &Rc<Link>, outbox: &mut crate::shard::links::Outgoing) {
        match outbox.flush_with(|slices| link.connection.try_send(slices)) {
            Ok(true) => {}
            Ok(false) => {
                link.blocked.set(true);
                link.write.set();
            }
            Err(error) => {
                tracing::debug!(connection = id, %error, "a connection broke while sending");
                link.connection.shutdown();
            }
        }
    }

    // ---- disk ----

    async fn reap_disk(self: Rc<Self>) {
        let event = self.disk().event_fd().try_clone_to_owned();
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.finish(Err(format!("the disk's event descriptor: {error}"))),
        };
        // SAFETY: the descriptor is owned, open, and given away here: the file closes it.
        let event = unsafe { BufferedFile::from_raw_fd(event.into_raw_fd()) };
        let mut done = Vec::new();
        loop {
            if let Err(error) = event.read_at(0, 8).await {
                return self.finish(Err(format!("the disk's event descriptor {}: {error}", event.as_raw_fd())));
            }
            if self.over.get() {
                return;
            }
            self.disk().poll(&mut done);
            let failed = self.event(|shard| done.drain(..).find_map(|done| shard.on_disk(done).err()));
            if let Some(error) = failed {
                return self.finish(Err(error.to_string()));
            }
        }
    }

    // ---- mail ----

    async fn take_mail(self: Rc<Self>, mailbox: Rc<Mailbox>) {
        loop {
            mailbox.ready().await;
            for _ in 0..MAIL_PER_TURN {
                if self.over.get() {
                    return;
                }
                let Some(mail) = mailbox.take() else { break };
                self.on_mail(mail);
            }
            // Let the turn run before more mail is taken.
            glommio::executor().yield_now().await;
        }
    }

    fn on_mail(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Peer { node, stream, peer } => {
                tracing::debug!(node, log = format!("{:032x}", peer.log), seen = peer.seen, "a peer is connected");
                self.add_link(stream, Some((node, peer)));
            }
            Mail::Client { stream } => self.add_link(stream, None),
            Mail::Introduce { member, witness, reply } => {
                self.introducer.take(Introducing::Asked { member, witness, reply });
            }
            Mail::Stop => {
                self.stop_by_ns.set(now_ns() + STOP_NS);
                self.event(|shard| shard.stopping = true);
            }
            Mail::Tick => self.event(|shard| {
                shard.producers.due = true;
                shard.tick();
            }),
            mail => {
                let elsewhere = mail.group().map(|group| self.shard.borrow().placement.shard(group));
                match elsewhere.filter(|shard| *shard != self.shard.borrow().shard_number()) {
                    // It has moved since this was posted.
                    Some(shard) => drop(self.posts[shard].send(mail)),
                    None => self.event(|shard| shard.on_mail(mail)),
                }
            }
        }
    }

    // ---- connections ----

    fn add_link(self: &Rc<Self>, stream: Socket, peer: Option<(u64, PeerHello)>) {
        let connection = match Connection::from_socket(stream) {
            Ok(connection) => connection,
            Err(error) => return tracing::warn!(%error, "a new connection is lost"),
        };
        let id = self.next_link.replace(self.next_link.get() + 1);
        let link = Rc::new(Link {
            connection,
            node: peer.as_ref().map(|(node, _)| *node),
            blocked: Cell::new(false),
            write: Signal::default(),
            closed: Cell::new(false),
        });
        let (mut old, mut refused) = (None, false);
        self.event(|shard| match peer {
            Some((node, hello)) => {
                old = shard.peers.iter().find(|p| p.node == node).and_then(|p| p.connection);
                shard.peer_connected(node, id, hello);
            }
            None => refused = !shard.clients.add(id),
        });
        if refused {
            tracing::warn!("too many client connections: one is refused");
            return link.connection.shutdown();
        }
        if let Some(old) = old.and_then(|old| self.links.borrow_mut().remove(&old)) {
            // A newer connection of the same peer replaces this one; nobody needs to dial.
            old.closed.set(true);
            old.connection.shutdown();
            old.write.set();
        }
        self.links.borrow_mut().insert(id, Rc::clone(&link));
        glommio::spawn_local(Rc::clone(self).read(id, Rc::clone(&link))).detach();
        glommio::spawn_local(Rc::clone(self).write(id, link)).detach();
    }

    async fn read(self: Rc<Self>, id: u64, link: Rc<Link>) {
        let mut decoder = match link.node {
            Some(_) => Decoder::new(),
            None => Decoder::with_body_bytes_max(CLIENT_BODY_BYTES_MAX),
        };
        loop {
            match link.connection.read(decoder.space()).await {
                Ok(0) => break,
                Ok(n) => decoder.filled(n),
                Err(error) => {
                    tracing::debug!(connection = id, %error, "a connection broke");
                    break;
                }
            }
            // A peer that always has something would keep all others waiting.
            glommio::yield_if_needed().await;
            if self.over.get() {
                return;
            }
            let bad = self.event(|shard| {
                loop {
                    match decoder.next() {
                        Ok(Some(frame)) if link.node.is_some() => {
                            shard.on_peer_frame(id, frame.header.kind, frame.body);
                        }
                        Ok(Some(frame)) => shard.on_client_frame(id, frame.header.kind, frame.header.tag, frame.body),
                        Ok(None) => return None,
                        Err(error) => return Some(error),
                    }
                }
            });
            if let Some(error) = bad {
                tracing::warn!(connection = id, node = link.node, %error, "a connection sent no frame: closing it");
                break;
            }
        }
        self.close_link(id);
    }

    /// Goes on where a socket took less than there was.
    async fn write(self: Rc<Self>, id: u64, link: Rc<Link>) {
        loop {
            link.write.wait().await;
            if link.closed.get() {
                return;
            }
            // One piece, awaited; then the turn goes on with vectored sends.
            let piece = self.shard.borrow_mut().outbox(id).map(|outbox| outbox.copy_pinned(64 << 10));
            if let Some(piece) = piece.filter(|piece| !piece.is_empty()) {
                match link.connection.write_some(&piece).await {
                    Ok(sent) => {
                        if let Some(outbox) = self.shard.borrow_mut().outbox(id)
                            && !link.closed.get()
                        {
                            outbox.advance(sent);
                        }
                    }
                    Err(_) => {
                        link.connection.shutdown();
                        return;
                    }
                }
            }
            link.blocked.set(false);
            self.event(|shard| shard.clients.ready.push(id));
        }
    }

    fn close_link(&self, id: u64) {
        let Some(link) = self.links.borrow_mut().remove(&id) else { return };
        link.closed.set(true);
        link.connection.shutdown();
        link.write.set();
        self.event(|shard| shard.disconnected(id));
        if let Some(node) = link.node {
            (self.broken)(node);
        }
    }

    fn close(&self) {
        self.lane.take();
        for (_, link) in self.links.borrow_mut().drain() {
            link.closed.set(true);
            link.connection.shutdown();
        }
        // Buffers must outlive the writes that read them.
        let mut done = Vec::new();
        let mut disk = self.disk.borrow_mut().take().expect("a shard is closed once");
        while disk.in_flight() > 0 {
            disk.wait(&mut done);
        }
        // It ends here and not with the last task: its thread must not delete files that the next node reads.
        drop(disk);
    }

    /// A client's request for a group of another shard goes there, and its reply comes back.
    fn forward(&self, connection: u64, request: u64, decoded: crate::client::protocol::Request) {
        use crate::client::protocol::{ReplyV1, Request, rejected};
        use crate::groups::GroupChange;
        use crate::shard::made::GroupReply;
        use crate::shard::trim_orders::{TrimReply, trim_reply};
        let to = self.posts[self.shard.borrow().shard_for(&decoded)].clone();
        let back = self.posts[self.shard.borrow().shard_number()].clone();
        let reply = move |reply: ReplyV1| {
            if back.send(Mail::Reply { connection, request, reply }).is_err() {
                tracing::warn!(connection, request, "a mailbox is full: a client's reply is lost");
            }
        };
        let mail = match decoded {
            Request::Append { group, session, entries } => {
                let permit = match self.shard.borrow().large.budget.admit(&entries) {
                    Ok(permit) => permit,
                    Err(rejection) => return reply(rejected(rejection)),
                };
                Mail::Propose {
                    group,
                    entries,
                    session,
                    handle: None,
                    submitted_ns: now_ns(),
                    permit,
                    reply: Box::new(move |outcome| reply(outcome.into())),
                }
            }
            Request::AppendPart { .. } => unreachable!("parts are gathered where they come in"),
            Request::ReadPart { group, index, part } => Mail::ReadPart { group, index, part, reply: Box::new(reply) },
            Request::OpenSession { .. } | Request::CloseSession { .. } => {
                let (group, ask) = decoded.session_ask().expect("it is one");
                let reply = Box::new(move |outcome: crate::outcome::Outcome| reply(outcome.into()));
                Mail::Session { group, ask, submitted_ns: now_ns(), reply }
            }
            Request::Read { group, from_index, bytes_max, wait_ms } => Mail::Read {
                group,
                from_index,
                bytes_max: bytes_max as usize,
                wait_ms: u64::from(wait_ms),
                whole: false,
                reply: Box::new(move |answer| reply(read_reply(answer))),
            },
            Request::ReadPoint { group, consistency, wait_ms } => Mail::ReadPoint {
                group,
                consistency,
                wait_ns: u64::from(wait_ms) * 1_000_000,
                reply: Box::new(move |answer| reply(point_reply(answer.map(|(point, _)| point)))),
            },
            Request::Transfer { group, to, timeout_ms } => Mail::Transfer {
                group,
                to,
                timeout_ns: u64::from(timeout_ms) * 1_000_000,
                reply: Box::new(move |end| reply(transfer_reply(end))),
            },
            Request::Trim { group, before, wait_ms } => Mail::Trim {
                group,
                before,
                wait_ns: u64::from(wait_ms) * 1_000_000,
                reply: TrimReply::Callback(Box::new(move |answer| reply(trim_reply(answer)))),
            },
            Request::CreateGroup { group, phase_2, wait_ms } => Mail::ChangeGroups {
                change: GroupChange::Create(group, phase_2),
                wait_ms: u64::from(wait_ms),
                reply: GroupReply::Callback(Box::new(move |outcome| reply(outcome.into()))),
            },
            Request::PlaceGroup { group, shard, wait_ms } => Mail::ChangeGroups {
                change: GroupChange::Place(group, shard as usize),
                wait_ms: u64::from(wait_ms),
                reply: GroupReply::Callback(Box::new(move |outcome| reply(outcome.into()))),
            },
            Request::DropGroup { group, wait_ms } => Mail::ChangeGroups {
                change: GroupChange::Drop(group),
                wait_ms: u64::from(wait_ms),
                reply: GroupReply::Callback(Box::new(move |outcome| reply(outcome.into()))),
            },
            Request::Groups { .. } => Mail::Groups { reply: Box::new(move |groups| reply(groups.into())) },
            Request::Introduce { member, witness, .. } => {
                Mail::Introduce { member, witness, reply: Box::new(move |outcome| reply(outcome.into())) }
            }
            Request::Introductions { .. } => {
                Mail::Introductions { reply: Box::new(move |list| reply((&list[..]).into())) }
            }
            Request::Info { .. } => Mail::InfoAll { reply: Box::new(reply) },
            Request::Membership { group } => Mail::Membership {
                group,
                reply: Box::new(move |membership| {
                    reply(membership.map_or_else(|| rejected(Rejection::UnknownGroup), ReplyV1::from));
                }),
            },
            Request::ChangeMembership { group, version, change, wait_ms } => Mail::ChangeMembership {
                group,
                version,
                change,
                wait_ms: u64::from(wait_ms),
                reply: MembershipReply::Callback(Box::new(move |outcome| reply(outcome.into()))),
            },
        };
        if let Err(rejection) = to.deliver(mail) {
            let reply = rejected(rejection);
            self.event(|shard| shard.reply(connection, request, &reply));
        }
    }
}
