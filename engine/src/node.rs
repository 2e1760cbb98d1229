//! A node: its directory, its shards' threads, its listener, dialers and ticker.

use std::collections::HashMap;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use synod_transport::hello::{
    Hello, HelloReply, HelloStatus, Identity, KnownPeer, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Refusal, Role,
    judge,
};
use synod_transport::net::listen::{Listener, ServingListener, dial, reply};
use synod_transport::peer::Backoff;
use synod_wal::disk::{BlockingDisk, Disk, DiskConfig, FileSource, SyncMode, UringDisk, flush_tail};

use crate::assemble::{ShardPlace, assemble};
use crate::config::{Config, ConfigError, DiskBackend, Sync};
use crate::handle::Handle;
use crate::limits::MIB;
use crate::machine::StateMachine;
use crate::mailbox::{Mail, Mailbox, Post, mailbox};
use crate::meta::{self, Directory, DirectoryError, MetaV1};
use crate::outcome::{GroupId, NodeId};
use crate::runtime::{self, Built, Setup};

/// The ticker's period: it drives timeouts, and no shard sleeps longer.
const TICK: Duration = Duration::from_millis(5);
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

/// Makes the state machine of a group, on the thread of its shard.
pub type MachineFactory = Arc<dyn Fn(GroupId) -> Option<Box<dyn StateMachine>> + Send + std::marker::Sync>;

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
}

/// A running node. Dropping it stops it as [`Node::shutdown`] does.
pub struct Node {
    handle: Handle,
    shared: Arc<Shared>,
    posts: Vec<Post>,
    listener: Option<ServingListener>,
    threads: Vec<JoinHandle<()>>,
    shards: Vec<JoinHandle<()>>,
    dialers: Arc<HashMap<NodeId, mpsc::Sender<Redial>>>,
    _directory: Directory,
}

/// What the node's threads share.
struct Shared {
    config: Config,
    cluster: u128,
    incarnation: u128,
    boot: u64,
    known: Mutex<HashMap<NodeId, KnownPeer>>,
    stopping: AtomicBool,
    ended: AtomicBool,
}

enum Redial {
    Shard(usize),
    Stop,
}

impl Node {
    /// Makes the directory of a new node. Only a directory made here can be started, and only once may a cluster's node
    /// be made: a node that voted and lost its directory must not come back empty.
    ///
    /// # Errors
    /// When the configuration cannot work or the directory is not new.
    pub fn init(config: &Config) -> Result<(), StartError> {
        config.validate()?;
        let meta = MetaV1 {
            cluster: config.cluster_id().expect("validated"),
            node: config.node,
            incarnation: random_u128(),
            boot: 0,
            shards: config.shards as u32,
        };
        Ok(Directory::init(&config.dir, meta)?)
    }

    /// Starts a node: takes its directory, recovers its shards, listens, and joins its peers.
    ///
    /// # Errors
    /// Whatever stands against it, with what to do.
    pub fn start(config: Config, options: Options) -> Result<Self, StartError> {
        config.validate()?;
        let cluster = config.cluster_id().expect("validated");
        // The directory's lock comes first: it is what two processes with one configuration meet.
        let directory = Directory::open(&config.dir, cluster, config.node, config.shards as u32)?;
        let meta = directory.meta;
        let shared = Arc::new(Shared {
            cluster,
            incarnation: meta.incarnation,
            boot: meta.boot,
            known: Mutex::new(HashMap::new()),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            config,
        });
        let config = &shared.config;
        let (posts, mailboxes): (Vec<Post>, Vec<Mailbox>) = (0..config.shards).map(|_| mailbox()).unzip();

        let address = config.address();
        let failed = |error| StartError::Listen { address, error };
        let listener = Listener::bind(address).map_err(failed)?;

        let mut node = Self {
            handle: Handle::new(posts.clone(), config.node),
            posts,
            listener: None,
            threads: Vec::new(),
            shards: Vec::new(),
            dialers: Arc::default(),
            _directory: directory,
            shared: Arc::clone(&shared),
        };
        node.dialers = node.start_dialers();
        node.start_shards(mailboxes, &options)?;
        node.start_ticker();
        // Nobody is let in before the shards have recovered.
        let posts = node.posts.clone();
        let serving = listener.serve(move |hello, stream| shared.welcome(&hello, stream, &posts)).map_err(failed)?;
        node.listener = Some(serving);
        Ok(node)
    }

    /// Starts a dialer for every peer that this node dials, and gives the way to ask it for a shard's connection.
    fn start_dialers(&mut self) -> Arc<HashMap<NodeId, mpsc::Sender<Redial>>> {
        let mut dialers = HashMap::new();
        let config = &self.shared.config;
        // Of two nodes the one with the higher number dials.
        for peer in config.members.iter().filter(|m| m.node < config.node) {
            let (send, receive) = mpsc::channel();
            dialers.insert(peer.node, send);
            let (shared, posts, peer) = (Arc::clone(&self.shared), self.posts.clone(), *peer);
            self.threads.push(spawn(&format!("synod-dial-{}", peer.node), move || {
                shared.dial_peer(peer.node, peer.address, &receive, &posts);
            }));
        }
        Arc::new(dialers)
    }

    fn start_shards(&mut self, mailboxes: Vec<Mailbox>, options: &Options) -> Result<(), StartError> {
        let cpus = self.cpus();
        let mut ready = Vec::new();
        for (shard, mailbox) in mailboxes.into_iter().enumerate() {
            let (tell, told) = mpsc::channel();
            let (shared, options, dialers) = (Arc::clone(&self.shared), options.clone(), Arc::clone(&self.dialers));
            let on_fatal = options.on_fatal.clone();
            let setup = Setup {
                cpu: cpus.get(shard).copied(),
                build: Box::new(move || build_shard(&shared, shard, options.machines.as_ref())),
                opened: {
                    let dir = self.shared.config.dir.clone();
                    Box::new(move || meta::note_opened(&dir, shard))
                },
                mailbox,
                posts: self.posts.clone(),
                broken: Box::new(move |node| {
                    if let Some(dialer) = dialers.get(&node) {
                        let _ = dialer.send(Redial::Shard(shard));
                    }
                }),
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
        for dialer in self.dialers.values() {
            (0..self.posts.len()).for_each(|shard| drop(dialer.send(Redial::Shard(shard))));
        }
        Ok(())
    }

    /// Wakes every shard every few milliseconds: it is their clock, and the guard against an executor that sleeps
    /// although it has something to do.
    fn start_ticker(&mut self) {
        let (shared, posts) = (Arc::clone(&self.shared), self.posts.clone());
        self.threads.push(spawn("synod-ticker", move || {
            while !shared.ended.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                posts.iter().for_each(Post::tick);
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
        self.dialers.values().for_each(|dialer| drop(dialer.send(Redial::Stop)));
        self.posts.iter().for_each(|post| post.send_wait(Mail::Stop));
        self.shards.drain(..).for_each(|thread| drop(thread.join()));
        // The shards need their clock to the end.
        self.shared.ended.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
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
            incarnation: self.incarnation,
            boot: self.boot,
            shard_count: self.config.shards as u32,
            members,
        }
    }

    fn members(&self) -> Vec<NodeId> {
        self.config.members.iter().map(|m| m.node).collect()
    }

    /// Answers a new connection and hands it to the shard that it is for.
    fn welcome(&self, hello: &Hello, stream: TcpStream, posts: &[Post]) {
        let members = self.members();
        let known = self.known.lock().expect("no holder panics").get(&hello.node).copied();
        let refusal = if self.stopping.load(Ordering::Relaxed) {
            Err(Refusal { status: HelloStatus::Busy, text: "the node is stopping".into() })
        } else {
            judge(hello, &self.identity(&members), known.as_ref())
        };
        let mut answer = HelloReply {
            status: HelloStatus::Ok,
            node: self.config.node,
            incarnation: self.incarnation,
            boot: self.boot,
            shard_count: self.config.shards as u32,
            wal_sequence_seen: 0,
            text: String::new(),
        };
        let accepted = refusal.is_ok();
        if let Err(refusal) = refusal {
            tracing::warn!(node = hello.node, reason = refusal.text, "a connection is refused");
            (answer.status, answer.text) = (refusal.status, refusal.text);
        }
        if reply(&stream, &answer).is_err() || !accepted {
            return;
        }
        let post = &posts[hello.shard as usize % posts.len()];
        match hello.role {
            Role::Peer => {
                self.know(hello.node, hello.incarnation, hello.boot);
                let _ = post.send(Mail::Peer { node: hello.node, boot: hello.boot, stream });
            }
            Role::Client => drop(post.send(Mail::Client { stream })),
        }
    }

    fn know(&self, node: NodeId, incarnation: u128, boot: u64) {
        self.known.lock().expect("no holder panics").insert(node, KnownPeer { incarnation, boot });
    }

    /// Keeps the connections of all shards to one peer up.
    fn dial_peer(&self, node: NodeId, address: std::net::SocketAddr, wanted: &mpsc::Receiver<Redial>, posts: &[Post]) {
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
                match self.dial_shard(node, address, shard) {
                    Ok((boot, stream)) => {
                        connected = Some(Instant::now());
                        refusal.clear();
                        let _ = posts[shard].send(Mail::Peer { node, boot, stream });
                        break;
                    }
                    Err(reason) => {
                        if reason != refusal {
                            tracing::debug!(node, %address, reason, "no connection yet");
                            refusal = reason;
                        }
                        std::thread::sleep(Duration::from_micros(backoff.next_pause_us()));
                    }
                }
            }
        }
    }

    fn dial_shard(
        &self,
        node: NodeId,
        address: std::net::SocketAddr,
        shard: usize,
    ) -> Result<(u64, TcpStream), String> {
        let known = self.known.lock().expect("no holder panics").get(&node).copied();
        let hello = Hello {
            role: Role::Peer,
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            cluster: self.cluster,
            node: self.config.node,
            incarnation: self.incarnation,
            boot: self.boot,
            target_node: node,
            target_incarnation: known.map_or(0, |k| k.incarnation),
            shard: shard as u32,
            shard_count: self.config.shards as u32,
            wal_sequence_seen: 0,
        };
        let (answer, stream) = dial(address, &hello, DIAL_TIMEOUT).map_err(|error| error.to_string())?;
        if let Some(known) = known {
            if known.incarnation != answer.incarnation {
                return Err(format!(
                    "node {node} came back with another directory: its votes are lost. It returns as a voter only by \
                     `member replace`"
                ));
            }
            if answer.boot < known.boot {
                return Err(format!("node {node} came back with an older copy of its directory"));
            }
        }
        self.know(node, answer.incarnation, answer.boot);
        Ok((answer.boot, stream))
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
    let config = &shared.config;
    let directory = config.dir.join(format!("shard-{shard}"));
    std::fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    // Recovery does not know the directory's name.
    std::fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let segment_bytes = config.segment_mib * MIB;
    let seed = random_u128() as u64;
    let place = ShardPlace { shard, incarnation: shared.incarnation, segment_bytes, seed };
    let mut files = FileSource::new(&directory);
    let (assembled, recovery) = assemble(config, place, &mut files, machines)?;
    if recovery.segments.is_empty() && meta::was_opened(&config.dir, shard).map_err(|error| error.to_string())? {
        return Err(format!(
            "the log in {} is lost, and with it this node's votes: put its files back, or replace this node by a new \
             one; do not start it empty",
            directory.display()
        ));
    }
    if let Some(tail) = recovery.tail_generation() {
        // What recovery found may only be in the page cache: it must be durable before any vote rests on it.
        flush_tail(&directory, tail).map_err(|error| error.to_string())?;
    }
    tracing::info!(shard, verdict = ?recovery.verdict, segments = recovery.segments.len(), "the log is recovered");

    let disk_config = DiskConfig {
        directory,
        segment_bytes,
        sync: match config.sync {
            Sync::Durable => SyncMode::Durable,
            Sync::Os => SyncMode::Os,
        },
    };
    let disk: Box<dyn Disk> = match config.disk {
        DiskBackend::Uring => Box::new(UringDisk::new(disk_config).map_err(|error| error.to_string())?),
        DiskBackend::Blocking => Box::new(BlockingDisk::new(disk_config).map_err(|error| error.to_string())?),
    };
    Ok((assembled, disk, config.spare_segments))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).expect("the system starts a thread")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or_else(|| "a panic".into())
}

/// 128 bits from the system's generator.
fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the system gives no randomness: {error}"),
        }
    }
    u128::from_le_bytes(bytes).max(1)
}

/// Draws the id of a new cluster.
pub fn new_cluster_id() -> u128 {
    random_u128()
}
