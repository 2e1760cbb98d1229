//! Tests across crates, and what they are made of.
//!
//! - [`sim`]: whole clusters on a simulated network, disk and clock, driven by a seed; [`disk`] is its disk.
//! - [`chaos`]: real processes under real faults: kills, pauses, partitions, disks that fail.
//! - [`check`]: checkers of histories, streams and votes.
//! - [`fuzz`]: every decoder under arbitrary bytes.
//! - [`model`]: the real core under a model checker.
//! - [`schedules`]: what takes an exact moment, on a few [`shards`] moved by hand.
//! - [`orders`]: what an operator has done to real nodes.
//! - [`memory_logs`], [`pipes`]: a log store and a transport of one's own; [`relay`]: TCP that stands still.
//! - [`Cluster`]: a cluster in this process, over real disks and sockets. It waits with a generous limit and says what it
//!   waited for; no test asserts a duration.

pub mod chaos;
pub mod check;
#[cfg(test)]
mod classics;
pub mod disk;
pub mod fuzz;
pub mod leases;
pub mod lone;
#[cfg(test)]
mod made;
pub mod memory_logs;
pub mod model;
mod moved;
pub mod orders;
pub mod pipes;
pub mod relay;
pub mod schedules;
pub mod shards;
pub mod sim;
pub mod sums;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use synod::{Config, Entries, Event, Handle, Member, Node, Options, ProposeError, new_cluster_id};
use synod_transport::hello::{Hello, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Role};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Size of a segment of tests' logs, in MiB: they are zeroed before they are used, and many nodes start.
pub const SEGMENT_MIB: u64 = 8;

/// Waits until something holds.
///
/// # Panics
/// With `what`, when it does not in time.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first words of a stranger that dials shard 0 of node 1: a test changes in it what it is about.
pub fn hello(role: Role, cluster: u128, node: u64) -> Hello {
    Hello {
        role,
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        cluster,
        node,
        incarnation: 1,
        boot: 1,
        target_node: 1,
        target_incarnation: 0,
        shard: 0,
        shard_count: 1,
        first_shards: 1,
        phase_2: 0,
        replacement: false,
        founder: false,
        founding: 0,
        replica: 0,
        rules: Vec::new(),
        target_replica: 0,
        seen_replica: 0,
        wal_sequence_seen: 0,
    }
}

/// A cluster in this process. Its directory goes with it.
pub struct Cluster {
    /// The nodes' configurations, by node number less one.
    pub configs: Vec<Config>,
    /// The running nodes, by node number less one; a stopped one is `None`.
    pub nodes: Vec<Option<Node>>,
    /// Sessions by group and the number that a test calls them by.
    sessions: Mutex<HashMap<(u64, u64), u64>>,
    dir: tempfile::TempDir,
}

/// The first port of this process's addresses: below those that the system gives to outgoing connections.
const FIRST_PORT: u16 = 10_000;
/// Where the system begins to do so, at the lowest.
const LAST_PORT: u16 = 32_000;

/// Loopback addresses that nobody else takes, not even while their node is down: the host part is made of this process's
/// number, and outgoing connections get neither these hosts nor these ports.
///
/// # Panics
/// When this process has used all of its ports.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, high.wrapping_add(1) & 0x7f, middle, low);
    let address = || {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < LAST_PORT, "this process has used all of its ports");
        SocketAddr::from((host, port))
    };
    // Something may listen on all hosts.
    std::iter::repeat_with(address).filter(|address| TcpListener::bind(address).is_ok()).take(count).collect()
}

/// What a node's listener has heard.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Vec<Event>>>);

impl Heard {
    /// All of it, in order.
    ///
    /// # Panics
    /// When the listener has panicked.
    pub fn all(&self) -> Vec<Event> {
        self.0.lock().expect("no holder panics").clone()
    }

    /// Waits until an event was heard, of which it is told how often it must have been.
    ///
    /// # Panics
    /// When it is not.
    pub fn wait(&self, times: usize, is_it: impl Fn(&Event) -> bool) {
        let end = Instant::now() + PATIENCE;
        while self.all().iter().filter(|event| is_it(event)).count() < times {
            assert!(Instant::now() < end, "it was never heard: {:?}", self.all());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Cluster {
    /// Starts a new cluster; `change` may alter each node's configuration first.
    pub fn start(count: usize, change: impl Fn(&mut Config)) -> Self {
        let mut cluster = Self::prepare(count, change);
        (1..=count as u64).for_each(|node| cluster.start_node(node));
        cluster
    }

    /// As [`start`](Self::start), with all nodes stopped.
    pub fn prepare(count: usize, change: impl Fn(&mut Config)) -> Self {
        // `RUST_LOG=debug cargo test` shows what the nodes did.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cluster = new_cluster_id();
        let addresses = free_addresses(count);
        let member = |(at, address): (usize, &SocketAddr)| Member { node: at as u64 + 1, address: *address };
        let members: Vec<Member> = addresses.iter().enumerate().map(member).collect();
        let config = |node: u64| {
            let mut config = Config::new(cluster, node, dir.path().join(format!("node-{node}")), members.clone());
            (config.spare_segments, config.segment_mib) = (1, SEGMENT_MIB);
            change(&mut config);
            Node::init(&config).expect("a new directory is initialised");
            config
        };
        let configs: Vec<Config> = (1..=count as u64).map(config).collect();
        let nodes = configs.iter().map(|_| None).collect();
        Self { configs, nodes, sessions: Mutex::default(), dir }
    }

    /// Where the nodes' directories are.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Starts a stopped node.
    pub fn start_node(&mut self, node: u64) {
        self.start_with(node, Options::default());
    }

    /// Starts a stopped node with state machines.
    pub fn start_summing(&mut self, node: u64, sums: &sums::Sums) {
        self.start_with(node, Options { machines: Some(sums.machines(node)), ..Options::default() });
    }

    /// Starts a stopped node with state machines or not, and gives what its listener hears.
    pub fn start_heard(&mut self, node: u64, sums: Option<&sums::Sums>) -> Heard {
        let heard = Heard::default();
        let told = Arc::clone(&heard.0);
        let tell = move |event: &Event| told.lock().expect("no holder panics").push(event.clone());
        let machines = sums.map(|sums| sums.machines(node));
        self.start_with(node, Options { machines, events: Some(Arc::new(tell)), ..Options::default() });
        heard
    }

    fn start_with(&mut self, node: u64, options: Options) {
        let started = Node::start(self.configs[node as usize - 1].clone(), options);
        self.nodes[node as usize - 1] = Some(started.unwrap_or_else(|error| panic!("node {node}: {error}")));
    }

    /// Stops a node cleanly.
    pub fn stop_node(&mut self, node: u64) {
        self.nodes[node as usize - 1].take().expect("it runs").shutdown();
    }

    /// All running nodes.
    pub fn handles(&self) -> Vec<Handle> {
        self.nodes.iter().flatten().map(Node::handle).collect()
    }

    /// A running node.
    pub fn node(&self, node: u64) -> Handle {
        self.nodes[node as usize - 1].as_ref().expect("it runs").handle()
    }

    /// The node that leads a group and takes its proposals.
    pub fn leader(&self, group: u64) -> Handle {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            for node in self.nodes.iter().flatten() {
                if node.handle().info(group).is_some_and(|info| info.epoch > 0) {
                    return node.handle();
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("group {group} has no leader after {PATIENCE:?}");
    }

    /// The id of the session that a test calls by this number; it is opened at first use.
    pub fn session(&self, group: u64, client: u64) -> u64 {
        let mut sessions = self.sessions.lock().expect("no holder panics");
        let open = || {
            let end = Instant::now() + PATIENCE;
            loop {
                match self.leader(group).open_session(group).wait() {
                    Ok(session) => return session.id(),
                    Err(error) => assert!(Instant::now() < end, "group {group} opens no session: {error}"),
                }
            }
        };
        *sessions.entry((group, client)).or_insert_with(open)
    }

    /// Commits entries exactly once, whoever leads: in the session of `client`, `sequence` being the first one's.
    pub fn commit(&self, group: u64, client: u64, sequence: u64, entries: &Entries) {
        let session = self.session(group, client);
        let end = Instant::now() + PATIENCE;
        loop {
            let outcome = self.leader(group).propose_in_session(group, session, sequence, entries.clone()).wait();
            match outcome {
                Ok(_) | Err(ProposeError::Duplicate) => return,
                // The leader has changed; within a session it is safe to say it again.
                Err(ProposeError::Rejected(_) | ProposeError::Unknown | ProposeError::Superseded)
                    if Instant::now() < end => {}
                Err(error) => panic!("group {group}, sequence {sequence}: {error}"),
            }
        }
    }

    /// All entries of a group up to an index, as one node tells them.
    pub fn log(&self, node: u64, group: u64, up_to: u64) -> Vec<Vec<u8>> {
        let mut tail = self.node(node).subscribe(group, 1);
        let mut log = Vec::new();
        let end = Instant::now() + PATIENCE;
        while tail.next_index() <= up_to {
            assert!(
                Instant::now() < end,
                "group {group} stays at index {} on node {node}: {:#?}",
                tail.next_index(),
                self.nodes.iter().flatten().map(|n| n.handle().info(group)).collect::<Vec<_>>()
            );
            let entries = tail.next(Duration::from_millis(200)).expect("the log is readable");
            log.extend(entries.entries.iter().map(<[u8]>::to_vec));
        }
        log
    }
}
