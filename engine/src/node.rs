//! A node: its directory, its shards' threads, its listener, dialers and ticker.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use synod_transport::hello::{
    Hello, HelloReply, HelloStatus, Identity, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Refusal, ReplicaRule, Role,
    judge, judge_answer,
};
use synod_transport::net::listen::{DialError, Listener, ServingListener, dial, dial_over, reply};
use synod_transport::net::socket::Socket;
use synod_transport::net::transport::Transport;
use synod_transport::peer::Backoff;

use crate::clock::now_ns;
use crate::config::{Config, ConfigError, DiskBackend, Member};
use crate::dialers::{Dialers, Redial};
use crate::handle::Handle;
use crate::homes::{Names, Placement};
use crate::introducer::Introducer;
use crate::introductions::file::Introduced;
use crate::large::LargeBudget;
use crate::log_store::{CheckedStore, LogStore};
use crate::machine::{MachineError, StateMachine};
use crate::mailbox::{Mail, Mailbox, PeerHello, Post, mailbox};
use crate::meta::{self, Directory, DirectoryError, DirectoryLock, MetaV7};
use crate::open_log::Opening;
use crate::outcome::{GroupId, NodeId};
use crate::peers::{Me, Met, Owner, Peers, Said};
use crate::random::random_u128;
use crate::rehome::{self, RehomeError};
use crate::repair;
use crate::runtime::{self, Built, Setup};
use crate::seen::Seen;
use crate::shard::events::OnEvent;

mod introducing;

use introducing::members;

/// The ticker's period: it drives timeouts.
const TICK_NS: u64 = 5_000_000;
/// The period for a shard in which nothing is under way; no shard sleeps longer.
const TICK_IDLE_NS: u64 = 25_000_000;
/// The first dial makes the two known to each other, the second says so; one more in case the peer started anew between.
const GREETINGS_MAX: usize = 3;
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The directory has another number of shards, and its logs cannot be copied into as many.
    #[error(transparent)]
    Rehome(#[from] RehomeError),
    /// The port cannot be used.
    #[error("{error}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// A shard cannot start.
    #[error("shard {shard}: {reason}")]
    Shard {
        /// Which.
        shard: usize,
        /// Why, and what to do.
        reason: String,
    },
}

/// Makes the state machine of a group, on the thread of its shard; `None`: the group has none, its log is only read. An
/// error keeps the node from starting, or stops it when the group is made at run time: without its machine a node would let
/// its log go, which nobody has applied.
pub type MachineFactory =
    Arc<dyn Fn(GroupId) -> Result<Option<Box<dyn StateMachine>>, MachineError> + Send + std::marker::Sync>;

/// What happens when a shard cannot go on: its argument says why. By default the reason is logged and the process
/// aborts, since a node must never limp on with a dead shard.
pub type OnFatal = Arc<dyn Fn(&str) + Send + std::marker::Sync>;

/// What a node is given besides its configuration.
#[derive(Clone, Default)]
pub struct Options {
    /// Makes the groups' state machines; without it there are none, and the log is only read.
    pub machines: Option<MachineFactory>,
    /// Called when a shard cannot go on.
    pub on_fatal: Option<OnFatal>,
    /// Told what happens to the groups: who leads, who votes.
    pub events: Option<OnEvent>,
    /// Where the logs are kept; without it in files in the node's directory, as [`Config::disk`] says. A node has one for
    /// life: with another it finds its logs lost, and does not start.
    pub log_store: Option<Arc<dyn LogStore>>,
    /// Makes the connections; without it they are TCP. All nodes of a cluster must have the same. Clients of this crate, and
    /// the tools, connect by TCP only.
    pub transport: Option<Arc<dyn Transport>>,
}

/// A running node. Dropping it stops it as [`Node::shutdown`] does.
pub struct Node {
    handle: Handle,
    shared: Arc<Shared>,
    posts: Vec<Post>,
    listener: Option<ServingListener>,
    threads: Vec<JoinHandle<()>>,
    shards: Vec<JoinHandle<()>>,
    dialers: Arc<Dialers>,
    introducer: Introducer,
    /// The last to go: the next process may come then.
    _lock: DirectoryLock,
}

/// What the node's threads share.
struct Shared {
    config: Config,
    cluster: u128,
    directory: Directory,
    peers: Peers,
    introduced: Introduced,
    /// The nodes that are let in and dialled, this one among them: those of the configuration, and the introduced ones.
    members: RwLock<Vec<Member>>,
    seen: Arc<Seen>,
    logs: Arc<dyn LogStore>,
    transport: Option<Arc<dyn Transport>>,
    stopping: AtomicBool,
    ended: AtomicBool,
    /// Where the groups are.
    placement: Arc<Placement>,
}

/// Why a directory is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// The cluster begins with it.
    First,
    /// The cluster is there already.
    Joining,
    /// In place of one that is lost.
    Replacement,
}

impl Node {
    /// Makes the directory of a new node. Only a directory made here can be started, and only once may a cluster's node
    /// be made: a node that voted and lost its directory must not come back empty, see [`init_replacement`].
    ///
    /// The groups of a new cluster begin when all its nodes have met once.
    ///
    /// [`init_replacement`]: Self::init_replacement
    ///
    /// # Errors
    /// When the configuration cannot work or the directory is not new.
    pub fn init(config: &Config) -> Result<(), StartError> {
        Self::make_directory(config, Made::First)
    }

    /// Makes the directory of a node that joins a cluster which is there already, under a number that the cluster never had.
    /// It has no vote until the groups' configurations name it: see [`Handle::change_membership`]. The other nodes let it
    /// in once it is introduced to one of them ([`Handle::introduce`]), while they run. Those who have it among the `members`
    /// of their configurations need no introduction, and get that with their next start.
    ///
    /// Its own configuration names the nodes that it finds the cluster by; of others that were introduced it is told by them.
    ///
    /// # Errors
    /// When the configuration cannot work or the directory is not new.
    pub fn init_joining(config: &Config) -> Result<(), StartError> {
        if config.members.len() == 1 {
            return Err(ConfigError::Invalid(
                "a node that joins must have the cluster's other nodes among its `members`".into(),
            )
            .into());
        }
        Self::make_directory(config, Made::Joining)
    }

    /// Makes a directory that replaces the one that a node has lost for good. The other nodes take it for the node's
    /// from their first contact on and never let the lost one in again, so that must never be started again. The votes
    /// of the lost one are lost: the new one has none until the groups' configurations name it.
    ///
    /// # Errors
    /// When the configuration cannot work or the directory is not new.
    pub fn init_replacement(config: &Config) -> Result<(), StartError> {
        if config.members.len() == 1 {
            return Err(ConfigError::Invalid(
                "the only node of a cluster cannot be replaced, as nobody else has what it had: put its directory back"
                    .into(),
            )
            .into());
        }
        Self::make_directory(config, Made::Replacement)
    }

    fn make_directory(config: &Config, made: Made) -> Result<(), StartError> {
        config.validate()?;
        let cluster = config.cluster_id().expect("validated");
        let shards = (config.shards, config.first_shards(), config.phase_2);
        let witness = config.is_witness(config.node);
        if made == Made::First {
            config.check_founders(&config.nodes())?;
        }
        let meta = MetaV7::draw(cluster, config.node, shards, (witness, made == Made::Replacement));
        rehome::check_rules(&meta, config.shards)?;
        let founding = if made == Made::First { config.nodes() } else { Vec::new() };
        Ok(Directory::init(&config.dir, &meta, founding)?)
    }

    /// Starts a node: takes its directory, recovers its shards, listens, and joins its peers. Where the configuration has
    /// another number of shards than the directory, the logs are copied first, which takes time and as much disk again.
    ///
    /// # Errors
    /// Whatever stands against it, with what to do.
    pub fn start(mut config: Config, options: Options) -> Result<Self, StartError> {
        config.validate()?;
        if config.udp_lane && options.transport.is_some() {
            return Err(ConfigError::Invalid(
                "`udp_lane` goes with the system's TCP only, and this node has a transport of its own: leave it out"
                    .into(),
            )
            .into());
        }
        let cluster = config.cluster_id().expect("validated");
        // The directory's lock comes first: it is what two processes with one configuration meet.
        let (directory, lock) =
            Directory::open(&config.dir, cluster, config.node, (config.phase_2, config.is_witness(config.node)))?;
        repair::warn_of_repairs(directory.path());
        let first = directory.first();
        if let Some(said) = config.first_shards.filter(|said| *said != first.len()) {
            return Err(ConfigError::Invalid(format!(
                "`first_shards = {said}`, and the directory says that the cluster began with {} shards: correct it, or \
                 leave it out",
                first.len()
            ))
            .into());
        }
        config.first_shards = Some(first.len());
        let owner = Owner {
            node: config.node,
            incarnation: directory.incarnation(),
            shards: first.len(),
            founders: (!directory.is_replacement()).then_some(first),
        };
        let peers = Peers::open(&config.dir, owner)?;
        config.check_founders(&peers.founding_members())?;
        let introduced = Introduced::open(&config.dir, directory.incarnation())?;
        introduced.now().warn_of_conflicts(&config);
        let members = members(&config, &introduced.now());
        let own_logs = options.log_store.clone().map(|store| Arc::new(CheckedStore(store)) as Arc<dyn LogStore>);
        if directory.shards() != config.shards {
            // Nobody else waits for this thread.
            let logs = own_logs.as_deref().unwrap_or(&DiskBackend::Blocking);
            rehome::rehome(logs, &config, &directory, &peers)?;
        }
        let logs = own_logs.unwrap_or_else(|| Arc::new(config.disk));
        let placement = Placement::new(config.homes(), directory.snapshot().places(&config));
        let shared = Arc::new(Shared {
            cluster,
            directory,
            peers,
            introduced,
            members: RwLock::new(members),
            seen: Arc::default(),
            logs,
            transport: options.transport.clone(),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            placement: Arc::new(placement),
            config,
        });
        let config = &shared.config;
        let (posts, mailboxes): (Vec<Post>, Vec<Mailbox>) = (0..config.shards).map(|_| mailbox()).unzip();

        let address = config.address();
        let failed = |error| StartError::Listen { address, error };
        let listener = match &shared.transport {
            Some(transport) => Listener::over(&**transport, address),
            None => Listener::bind(address),
        };
        let listener = listener.map_err(failed)?;

        let large = LargeBudget::default();
        let (introducer, introducing) = Introducer::new();
        let mut node = Self {
            handle: Handle::new(posts.clone(), config.node, Arc::clone(&shared.placement), large.clone()),
            posts,
            listener: None,
            threads: Vec::new(),
            shards: Vec::new(),
            dialers: Arc::default(),
            introducer,
            _lock: lock,
            shared: Arc::clone(&shared),
        };
        // The shards need their clock to open their logs.
        node.start_ticker();
        node.start_introducer(introducing);
        node.start_shards(mailboxes, &options, &large)?;
        shared.start_dialers(&node.dialers, &node.posts);
        // Nobody is let in before the shards have recovered.
        let posts = node.posts.clone();
        let serving = listener.serve(move |hello, stream| shared.welcome(&hello, stream, &posts)).map_err(failed)?;
        node.listener = Some(serving);
        Ok(node)
    }

    fn start_shards(
        &mut self,
        mailboxes: Vec<Mailbox>,
        options: &Options,
        large: &LargeBudget,
    ) -> Result<(), StartError> {
        let cpus = self.cpus();
        let mut ready = Vec::new();
        for (shard, mailbox) in mailboxes.into_iter().enumerate() {
            let (tell, told) = mpsc::channel();
            let (shared, options, dialers) = (Arc::clone(&self.shared), options.clone(), Arc::clone(&self.dialers));
            let on_fatal = options.on_fatal.clone();
            let large = large.clone();
            let setup = Setup {
                cpu: cpus.get(shard).copied(),
                build: Box::new(move || {
                    let (mut built, disk, spares, store) = build_shard(&shared, shard, options.machines.as_ref())?;
                    built.events = options.events;
                    built.large.budget = large;
                    built.moves.note = Some(Arc::new(move |noted| {
                        shared.directory.note_moved(noted).map_err(|error| error.to_string())
                    }));
                    Ok((built, disk, spares, store))
                }),
                opened: {
                    let dir = self.shared.directory.logs();
                    Box::new(move || meta::note_opened(&dir, shard))
                },
                suspect: {
                    let dir = self.shared.directory.logs();
                    Box::new(move |reason| meta::mark_suspect(&dir, shard, reason))
                },
                mailbox,
                posts: self.posts.clone(),
                lane: self.shared.config.udp_lane.then(|| self.shared.config.address()),
                broken: Box::new(move |node| dialers.redial(node, shard)),
                introducer: self.introducer.clone(),
                ready: tell,
            };
            self.shards.push(spawn(&format!("synod-shard-{shard}"), move || run_shard(shard, setup, on_fatal)));
            ready.push(told);
        }
        for (shard, told) in ready.into_iter().enumerate() {
            let reason = match told.recv() {
                Ok(Ok(())) => continue,
                Ok(Err(reason)) => reason,
                Err(_) => "its thread ended before it was ready".into(),
            };
            return Err(StartError::Shard { shard, reason });
        }
        Ok(())
    }

    /// Wakes every shard every few milliseconds: it is their clock, and the guard against an executor that sleeps
    /// although it has something to do.
    fn start_ticker(&mut self) {
        let (shared, posts) = (Arc::clone(&self.shared), self.posts.clone());
        self.threads.push(spawn("synod-ticker", move || {
            let mut ticked_ns = vec![now_ns(); posts.len()];
            while !shared.ended.load(Ordering::Relaxed) {
                let next = posts.iter().zip(&ticked_ns).map(|(post, ticked)| next_tick_ns(*ticked, post.tick_due_ns()));
                let next = next.min().expect("a node has a shard");
                std::thread::sleep(Duration::from_nanos(next.saturating_sub(now_ns()).max(TICK_NS)));
                let now_ns = now_ns();
                for (post, ticked) in posts.iter().zip(&mut ticked_ns) {
                    if next_tick_ns(*ticked, post.tick_due_ns()) <= now_ns {
                        *ticked = now_ns;
                        post.tick();
                    }
                }
            }
        }));
    }

    /// The cores to pin the shards to; none: the system places them.
    fn cpus(&self) -> Vec<usize> {
        let config = &self.shared.config;
        let allowed = rustix::thread::sched_getaffinity(None).ok();
        let cpus: Vec<usize> =
            allowed.map(|set| (0..1024).filter(|cpu| set.is_set(*cpu)).collect()).unwrap_or_default();
        // Several nodes on one machine would pin to the same cores: only pin when asked, or when all are used.
        let pin = config.pin.unwrap_or(config.shards > 1 && config.shards == cpus.len());
        if pin && config.shards <= cpus.len() { cpus } else { Vec::new() }
    }

    /// A handle for any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops: refuses proposals, waits a second at most for those in flight, gives up leadership, closes everything.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some(mut listener) = self.listener.take() {
            listener.stop();
        }
        self.dialers.stop();
        self.posts.iter().for_each(|post| post.send_wait(Mail::Stop));
        self.shards.drain(..).for_each(|thread| drop(thread.join()));
        // The shards need their clock to the end.
        self.shared.ended.store(true, Ordering::Relaxed);
        self.introducer.stop();
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
        self.dialers.join();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn identity<'a>(&self, members: &'a [NodeId]) -> Identity<'a> {
        Identity {
            cluster: self.cluster,
            node: self.config.node,
            incarnation: self.directory.incarnation(),
            replacement: self.directory.is_replacement(),
            founding: self.peers.founding(),
            shard_count: self.config.shards as u32,
            first_shards: self.config.first_shards() as u32,
            phase_2: self.config.phase_2,
            members,
        }
    }

    /// This node's end of a contact.
    fn me(&self, shard: usize) -> Me {
        let founder = self.directory.is_founder(shard) && self.peers.founds();
        Me { shard, replica: self.directory.log_id(shard), founder }
    }

    /// What a shard is told of a peer, which has seen votes of a replica of this node up to a sequence of its log.
    fn peer_hello(&self, shard: usize, said: PeerSaid<'_>) -> PeerHello {
        let PeerSaid { boot, log, rules, seen_log, seen } = said;
        let names = Names::of_shard((shard, self.config.shards), log, rules);
        let lost = self.directory.past_end(seen_log).filter(|end| seen > *end).map(|end| (end, seen));
        let seen = if seen_log == self.directory.log_id(shard) { seen } else { 0 };
        PeerHello { boot, log, names, seen, lost }
    }

    fn members(&self) -> Vec<Member> {
        // It is only ever replaced as a whole.
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers a new connection and hands it to the shard that it is for.
    fn welcome(&self, hello: &Hello, stream: Socket, posts: &[Post]) {
        let shard = hello.shard as usize % posts.len();
        let met = match self.judge(hello, shard) {
            Ok(met) => met,
            Err(refusal) => {
                tracing::warn!(node = hello.node, reason = refusal.text, "a connection is refused");
                // Best effort: the connection is closed in any case.
                let _ = reply(&stream, &self.answer(shard, hello.node, 0, refusal));
                return;
            }
        };
        let greet = met.as_ref().is_some_and(|met| met.greet);
        let status = if greet { HelloStatus::Greeted } else { HelloStatus::Ok };
        let text = if greet { "dial again and name the replica of this node".into() } else { String::new() };
        let founder = met.as_ref().map_or(0, |met| met.founder);
        let answer = self.answer(shard, hello.node, founder, Refusal { status, text });
        let answered = reply(&stream, &answer);
        match met {
            Some(met) => {
                // What was met stays so, whatever became of the answer.
                self.found(shard, met, posts);
                if answered.is_ok() && !greet {
                    let said = PeerSaid {
                        boot: hello.boot,
                        log: hello.replica,
                        rules: &hello.rules,
                        seen_log: hello.seen_replica,
                        seen: hello.wal_sequence_seen,
                    };
                    let peer = self.peer_hello(shard, said);
                    let _ = posts[shard].send(Mail::Peer { node: hello.node, stream, peer });
                }
            }
            None if answered.is_ok() => drop(posts[shard].send(Mail::Client { stream })),
            None => {}
        }
    }

    /// Judges a hello. A peer that is let in is known from now on; a client is not.
    fn judge(&self, hello: &Hello, shard: usize) -> Result<Option<Met>, Refusal> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Refusal { status: HelloStatus::Busy, text: "the node is stopping".into() });
        }
        let members: Vec<NodeId> = self.members().iter().map(|member| member.node).collect();
        let identity = self.identity(&members);
        if hello.role == Role::Client {
            return judge(hello, &identity, None).map(|()| None);
        }
        let said = Said {
            node: hello.node,
            incarnation: hello.incarnation,
            boot: hello.boot,
            founder: hello.founder,
            replica: hello.replica,
            knows: hello.target_replica,
        };
        self.peers.meet(&self.me(shard), &said, |known| judge(hello, &identity, known)).map(Some)
    }

    fn answer(&self, shard: usize, node: NodeId, target_replica: u128, verdict: Refusal) -> HelloReply {
        let me = self.me(shard);
        let (seen_replica, wal_sequence_seen) = self.seen.of(shard, node).unwrap_or_default();
        HelloReply {
            status: verdict.status,
            node: self.config.node,
            incarnation: self.directory.incarnation(),
            boot: self.directory.boot(),
            shard_count: self.config.shards as u32,
            first_shards: self.config.first_shards() as u32,
            replacement: self.directory.is_replacement(),
            founder: me.founder,
            founding: self.peers.founding(),
            replica: me.replica,
            rules: self.directory.rules(shard),
            target_replica,
            seen_replica,
            wal_sequence_seen,
            text: verdict.text,
        }
    }

    /// Tells a shard of its founders, when the last of them was met just now.
    fn found(&self, shard: usize, met: Met, posts: &[Post]) {
        if let Some(genesis) = met.genesis {
            tracing::info!(shard, "all members have met: the shard's groups begin");
            posts[shard].send_wait(Mail::Genesis(shard, genesis));
        }
    }

    /// Keeps the connections of all shards to one peer up.
    fn dial_peer(&self, node: NodeId, wanted: &mpsc::Receiver<Redial>, posts: &[Post]) {
        let mut backoff = Backoff::new(self.config.node << 32 | node);
        let mut refusal = String::new();
        let mut connected: Option<Instant> = None;
        while let Ok(Redial::Shard(shard)) = wanted.recv() {
            // One who lets us in and drops us at once is not dialled in a loop.
            if let Some(since) = connected.take() {
                backoff.lived(since.elapsed().as_micros() as u64);
                std::thread::sleep(Duration::from_micros(backoff.next_pause_us()));
            }
            while !self.stopping.load(Ordering::Relaxed) {
                // It may have moved.
                let address = self.address_of(node);
                match self.dial_shard(node, address, shard, posts) {
                    Ok((peer, stream)) => {
                        connected = Some(Instant::now());
                        refusal.clear();
                        let _ = posts[shard].send(Mail::Peer { node, stream, peer });
                        break;
                    }
                    Err(failure) => {
                        let reason = failure.to_string();
                        if reason != refusal {
                            match failure {
                                DialFailure::Refused(_) => {
                                    tracing::warn!(node, %address, reason, "no connection, and none without help");
                                }
                                DialFailure::NotNow(_) => tracing::debug!(node, %address, reason, "no connection yet"),
                            }
                            refusal = reason;
                        }
                        std::thread::sleep(Duration::from_micros(backoff.next_pause_us()));
                    }
                }
            }
        }
    }

    fn dial(&self, address: SocketAddr, hello: &Hello) -> Result<(HelloReply, Socket), DialError> {
        match &self.transport {
            Some(transport) => dial_over(&**transport, address, hello, DIAL_TIMEOUT),
            None => dial(address, hello, DIAL_TIMEOUT).map(|(reply, stream)| (reply, stream.into())),
        }
    }

    /// Connects a shard to the same shard of a peer. At the first contact the two make each other known first.
    fn dial_shard(
        &self,
        node: NodeId,
        address: SocketAddr,
        shard: usize,
        posts: &[Post],
    ) -> Result<(PeerHello, Socket), DialFailure> {
        for _ in 0..GREETINGS_MAX {
            let hello = self.hello(node, shard);
            let (answer, stream) = match self.dial(address, &hello) {
                Ok((answer, stream)) => (answer, Some(stream)),
                Err(DialError::Refused { reply, .. }) if reply.status == HelloStatus::Greeted => (*reply, None),
                Err(error) => {
                    // Of two directories that do not go together, this node knows which one is out of place.
                    if let DialError::Refused { reply, .. } = &error
                        && reply.status == HelloStatus::OtherIncarnation
                    {
                        judge_answer(reply, node, self.peers.founding(), self.peers.known(node).as_ref())?;
                    }
                    return Err(error.into());
                }
            };
            let said = Said {
                node,
                incarnation: answer.incarnation,
                boot: answer.boot,
                founder: answer.founder,
                replica: answer.replica,
                knows: answer.target_replica,
            };
            let founding = self.peers.founding();
            let met = self.peers.meet(&self.me(shard), &said, |known| judge_answer(&answer, node, founding, known))?;
            self.found(shard, met, posts);
            if let Some(stream) = stream {
                let said = PeerSaid {
                    boot: answer.boot,
                    log: answer.replica,
                    rules: &answer.rules,
                    seen_log: answer.seen_replica,
                    seen: answer.wal_sequence_seen,
                };
                return Ok((self.peer_hello(shard, said), stream));
            }
        }
        Err(DialFailure::NotNow(format!("node {node} greets this node again and again")))
    }

    fn hello(&self, node: NodeId, shard: usize) -> Hello {
        let me = self.me(shard);
        let (seen_replica, wal_sequence_seen) = self.seen.of(shard, node).unwrap_or_default();
        Hello {
            role: Role::Peer,
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            cluster: self.cluster,
            node: self.config.node,
            incarnation: self.directory.incarnation(),
            boot: self.directory.boot(),
            target_node: node,
            target_incarnation: self.peers.known(node).map_or(0, |known| known.incarnation),
            shard: shard as u32,
            shard_count: self.config.shards as u32,
            first_shards: self.config.first_shards() as u32,
            phase_2: self.config.phase_2,
            replacement: self.directory.is_replacement(),
            founder: me.founder,
            founding: self.peers.founding(),
            replica: me.replica,
            rules: self.directory.rules(shard),
            target_replica: self.peers.founder(node, shard),
            seen_replica,
            wal_sequence_seen,
        }
    }
}

/// When a shard is ticked next that was ticked last at `ticked_ns`, and needs its clock at `due_ns`.
fn next_tick_ns(ticked_ns: u64, due_ns: u64) -> u64 {
    due_ns.clamp(ticked_ns + TICK_NS, ticked_ns + TICK_IDLE_NS)
}

/// What a peer has said of its shard.
struct PeerSaid<'a> {
    boot: u64,
    log: u128,
    rules: &'a [ReplicaRule],
    /// The log of this node that `seen` speaks of, 0 for none.
    seen_log: u128,
    seen: u64,
}

/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
enum DialFailure {
    /// One of the two ends does not let the other in, and time will not change that.
    #[error("{0}")]
    Refused(String),
    /// It may be there later.
    #[error("{0}")]
    NotNow(String),
}

impl From<DialError> for DialFailure {
    fn from(error: DialError) -> Self {
        match &error {
            DialError::Refused { reply, .. } if reply.status != HelloStatus::Busy => Self::Refused(error.to_string()),
            _ => Self::NotNow(error.to_string()),
        }
    }
}

impl From<Refusal> for DialFailure {
    fn from(refusal: Refusal) -> Self {
        match refusal.status {
            HelloStatus::Busy => Self::NotNow(refusal.text),
            _ => Self::Refused(refusal.text),
        }
    }
}

/// Runs a shard on this thread to its end.
fn run_shard(shard: usize, setup: Setup, on_fatal: Option<OnFatal>) {
    let reason = match catch_unwind(AssertUnwindSafe(|| runtime::run(setup))) {
        Ok(Ok(())) => return,
        Ok(Err(reason)) => reason,
        Err(panic) => format!("a bug: {}", panic_text(&*panic)),
    };
    let reason = format!("shard {shard} cannot go on: {reason}");
    match on_fatal {
        Some(on_fatal) => on_fatal(&reason),
        None => {
            tracing::error!("{reason}");
            eprintln!("synod: {reason}");
            std::process::abort();
        }
    }
}

/// Recovers a shard's log and makes its groups.
fn build_shard(shared: &Shared, shard: usize, machines: Option<&MachineFactory>) -> Result<Built, String> {
    let Shared { config, directory, peers, introduced, seen, logs, placement, .. } = shared;
    let nodes = shared.members().len();
    let opening = Opening { config, nodes, directory, peers, seen, logs: &**logs, machines, placement };
    let (mut assembled, recovery, store) = opening.recover_or_renew(shard)?;
    assembled.introduce(introduced.now().list().to_vec());
    tracing::info!(shard, verdict = ?recovery.verdict, segments = recovery.segments.len(), "the log is recovered");
    let missing = peers.missing(shard);
    if !missing.is_empty() && shared.me(shard).founder {
        tracing::info!(shard, nodes = ?missing, "the shard's groups begin when these nodes were met once");
    }

    // What recovery found may only be in the page cache: the store makes it durable before any vote rests on it.
    let disk = logs.open(&opening.place(shard), recovery.tail_generation()).map_err(|error| error.to_string())?;
    Ok((assembled, disk, config.spare_segments, store))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).expect("the system starts a thread")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or_else(|| "a panic".into())
}

/// Draws the id of a new cluster.
pub fn new_cluster_id() -> u128 {
    random_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_ticked_when_it_needs_it_and_never_later_than_an_idle_one() {
        const LAST: u64 = 1_000_000_000;
        assert_eq!(next_tick_ns(LAST, 0), LAST + TICK_NS, "it is busy");
        assert_eq!(next_tick_ns(LAST, LAST + 1), LAST + TICK_NS);
        assert_eq!(next_tick_ns(LAST, LAST + 12_000_000), LAST + 12_000_000);
        assert_eq!(next_tick_ns(LAST, u64::MAX), LAST + TICK_IDLE_NS);
    }
}
