//! What it costs to keep logs for long: three nodes in this process, over real disks and sockets.
//!
//! ```sh
//! cargo run --release -p synod-bench --example upkeep -- curve     # the log's size with an idle group among a thousand
//! cargo run --release -p synod-bench --example upkeep -- idle      # what ten thousand silent groups cost
//! cargo run --release -p synod-bench --example upkeep -- restart   # a node's start with a full log
//! cargo run --release -p synod-bench --example upkeep -- catch-up  # a follower from far behind, by log and by checkpoint
//! cargo run --release -p synod-bench --example upkeep -- cost      # commit rates with and without checkpoints and catch-up
//! ```
//!
//! All runs are durable, in a directory under `target/`, which is removed afterwards.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use synod::{
    Checkpoint, CommittedBatch, Config, Event, GroupId, Handle, LocalShard, MachineError, MachineFactory, Member, Node,
    NodeId, Options, Outcome, Producer, StateMachine, new_cluster_id,
};

const MIB: u64 = 1 << 20;
/// Longer latencies count as so much.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What it costs to keep logs for long.
#[derive(Parser)]
enum What {
    /// Show the log's size, second by second, while one of many groups is idle.
    Curve {
        /// Groups; the last one is idle.
        #[arg(long, default_value_t = 1000)]
        groups: u64,
        /// For so long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// What the log may keep behind its trim point.
        #[arg(long, default_value_t = 256)]
        retain_mib: u64,
    },
    /// Show how soon groups are ready, and what they cost when they are silent.
    Idle {
        /// Groups.
        #[arg(long, default_value_t = 10_000)]
        groups: u64,
        /// For so long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Show how long a node takes to start with a full log.
    Restart {
        /// The log's size.
        #[arg(long, default_value_t = 1024)]
        mib: u64,
    },
    /// Show how fast a follower catches up, by log and by checkpoint.
    CatchUp {
        /// What it lacks.
        #[arg(long, default_value_t = 512)]
        mib: u64,
    },
    /// Compare commit rates: alone, with checkpoints, with a follower that catches up.
    Cost {
        /// For so long, each time.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// So often each.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Entries outstanding in each group.
        #[arg(long, default_value_t = 64)]
        window: usize,
        /// How fast a follower fetches what it lacks of the log, in MiB per second; 0: as it comes. As configured by
        /// default.
        #[arg(long)]
        learn_mib: Option<u64>,
    },
}

fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    match What::parse() {
        What::Curve { groups, seconds, retain_mib } => curve(groups, seconds, retain_mib),
        What::Idle { groups, seconds } => idle(groups, seconds),
        What::Restart { mib } => restart(mib),
        What::CatchUp { mib } => {
            catch_up(mib, false);
            catch_up(mib, true);
        }
        What::Cost { seconds, runs, window, learn_mib } => cost(Duration::from_secs(seconds), runs, window, learn_mib),
    }
}

// ---- the nodes ----

/// A state in memory of a fixed size, which every entry changes; it holds up to where it was applied.
struct State {
    applied: u64,
    bytes: Vec<u8>,
}

impl StateMachine for State {
    fn durable_index(&self) -> u64 {
        0
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError> {
        for entry in batch.entries.iter() {
            self.applied += 1;
            let at = (self.applied as usize * 64) % self.bytes.len().max(1);
            let fits = entry.len().min(self.bytes.len() - at).min(64);
            self.bytes[at..at + fits].copy_from_slice(&entry[..fits]);
        }
        Ok(())
    }

    fn takes_checkpoints(&self) -> bool {
        true
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, MachineError> {
        // A copy is the plainest frozen view; real ones share what does not change.
        Ok(Box::new([&self.applied.to_le_bytes()[..], &self.bytes].concat()))
    }

    fn restore(&mut self, _: u64, input: &mut dyn io::Read) -> Result<(), MachineError> {
        let mut applied = [0; 8];
        input.read_exact(&mut applied)?;
        self.applied = u64::from_le_bytes(applied);
        self.bytes.clear();
        input.read_to_end(&mut self.bytes)?;
        Ok(())
    }
}

struct Nodes {
    dir: PathBuf,
    configs: Vec<Config>,
    nodes: Vec<Option<Node>>,
    /// Of the first group's machine; the others' are small.
    state_bytes: usize,
    /// Who leads each group and takes proposals, 0 for nobody, as the nodes' listeners are told.
    leaders: Arc<[AtomicU64]>,
}

impl Nodes {
    fn start(groups: u64, state_bytes: usize, change: impl Fn(&mut Config)) -> Self {
        let mut nodes = Self::init(groups, state_bytes, |config| {
            config.preferred_leader = Some(1);
            change(config);
        });
        nodes.serve_all();
        nodes.wait("all groups are led by node 1", |nodes| (1..=groups).all(|group| nodes.leader(group) == 1));
        nodes
    }

    /// Makes the directories.
    fn init(groups: u64, state_bytes: usize, change: impl Fn(&mut Config)) -> Self {
        let dir = PathBuf::from("target/synod-upkeep");
        let _ = std::fs::remove_dir_all(&dir);
        let listeners: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addresses: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().expect("it is bound")).collect();
        drop(listeners);
        let members: Vec<Member> = (1..).zip(addresses).map(|(node, address)| Member { node, address }).collect();
        let cluster = new_cluster_id();
        let config = |node: NodeId| {
            let mut config = Config::new(cluster, node, dir.join(format!("node-{node}")), members.clone());
            config.groups = groups;
            change(&mut config);
            Node::init(&config).expect("a new directory");
            config
        };
        let configs: Vec<Config> = (1..=3).map(config).collect();
        let leaders = (0..=groups).map(|_| AtomicU64::new(0)).collect();
        Self { dir, configs, nodes: vec![None, None, None], state_bytes, leaders }
    }

    fn serve(&mut self, node: NodeId) {
        self.nodes[node as usize - 1] = Some(self.run(node));
    }

    /// Starts all nodes at once.
    fn serve_all(&mut self) {
        let this = &*self;
        let nodes = std::thread::scope(|scope| {
            let starting = [1, 2, 3].map(|node| scope.spawn(move || this.run(node)));
            starting.map(|node| Some(node.join().expect("it starts")))
        });
        self.nodes = nodes.into();
    }

    fn run(&self, node: NodeId) -> Node {
        let state_bytes = self.state_bytes;
        let bytes = move |group| vec![0; if group == 1 { state_bytes } else { 1024 }];
        let machines: MachineFactory =
            Arc::new(move |group| Ok(Some(Box::new(State { applied: 0, bytes: bytes(group) }))));
        let leaders = Arc::clone(&self.leaders);
        let on_event = move |event: &Event| {
            let Event::LeaderChanged { group, leader, .. } = event else { return };
            let Some(known) = leaders.get(*group as usize) else { return };
            if *leader == Some(node) {
                known.store(node, Ordering::Relaxed);
            } else {
                let _ = known.compare_exchange(node, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        };
        let options = Options { machines: Some(machines), events: Some(Arc::new(on_event)), ..Options::default() };
        Node::start(self.configs[node as usize - 1].clone(), options).expect("it starts")
    }

    fn leader(&self, group: GroupId) -> NodeId {
        self.leaders[group as usize].load(Ordering::Relaxed)
    }

    fn are_led(&self) -> bool {
        self.leaders.iter().skip(1).all(|leader| leader.load(Ordering::Relaxed) > 0)
    }

    fn stop(&mut self, node: NodeId) {
        self.nodes[node as usize - 1].take().expect("it runs").shutdown();
    }

    fn handle(&self, node: NodeId) -> Handle {
        self.nodes[node as usize - 1].as_ref().expect("it runs").handle()
    }

    fn wait(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < Duration::from_secs(600), "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
        start.elapsed()
    }

    /// MiB of a node's segments, those in stock among them.
    fn log_mib(&self, node: NodeId) -> u64 {
        let files = std::fs::read_dir(self.dir.join(format!("node-{node}/shard-0"))).expect("the log is there");
        let segments =
            files.flatten().filter(|file| Path::new(&file.file_name()).extension().is_some_and(|e| e == "seg"));
        segments.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum::<u64>() / MIB
    }

    /// How many entries a node lacks that the leader has; nothing while one of them cannot say.
    fn lag(&self, node: NodeId, group: GroupId) -> Option<u64> {
        let next_index = |node| self.handle(node).info(group).map(|info| info.next_index);
        // The follower first: it cannot be ahead of what the leader says behind that.
        let follower = next_index(node)?;
        next_index(1)?.checked_sub(follower)
    }

    fn has_caught_up(&self, node: NodeId, groups: impl IntoIterator<Item = GroupId>) -> bool {
        groups.into_iter().all(|group| self.lag(node, group) == Some(0))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.nodes.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

// ---- the load ----

#[derive(Default)]
struct Done {
    commits: AtomicU64,
    latencies: Mutex<Option<Histogram<u64>>>,
    stop: AtomicBool,
}

/// Keeps a window of entries outstanding in each of its groups.
struct Load {
    groups: Vec<GroupId>,
    window: usize,
    payload: Vec<u8>,
    sent_ns: HashMap<GroupId, VecDeque<u64>>,
    tag: u64,
    done: Arc<Done>,
}

impl Producer for Load {
    fn completed(&mut self, group: GroupId, _: u64, count: u32, outcome: Outcome, now_ns: u64) {
        let sent = self.sent_ns.get_mut(&group).expect("it was sent");
        let mut latencies = self.done.latencies.lock().expect("no holder panics");
        for since in sent.drain(..count as usize) {
            if outcome.is_ok() {
                self.done.commits.fetch_add(1, Ordering::Relaxed);
                if let Some(latencies) = &mut *latencies {
                    latencies.saturating_record(now_ns - since);
                }
            }
        }
    }

    fn wake(&mut self, shard: &mut LocalShard<'_>) {
        if self.done.stop.load(Ordering::Relaxed) {
            return;
        }
        let now_ns = shard.now_ns();
        for group in &self.groups {
            let sent = self.sent_ns.entry(*group).or_default();
            while sent.len() < self.window && shard.propose(*group, self.tag, &self.payload).is_ok() {
                sent.push_back(now_ns);
                self.tag += 1;
            }
        }
    }
}

/// Loads groups on node 1 until the value is dropped.
struct Running(Arc<Done>);

impl Running {
    fn start(nodes: &Nodes, groups: impl IntoIterator<Item = GroupId>, window: usize, payload: usize) -> Self {
        let done = Arc::new(Done::default());
        let groups: Vec<GroupId> = groups.into_iter().collect();
        let load = Load {
            window,
            payload: vec![7; payload],
            sent_ns: HashMap::new(),
            tag: 0,
            done: Arc::clone(&done),
            groups,
        };
        let first = load.groups[0];
        nodes.handle(1).on_shard(first, move |shard| shard.attach(Box::new(load))).expect("the shard runs");
        Self(done)
    }

    fn commits(&self) -> u64 {
        self.0.commits.load(Ordering::Relaxed)
    }

    /// Commits per second and the 99th percentile of latency in microseconds, over so long.
    fn measure(&self, time: Duration) -> (f64, f64) {
        self.measure_while(|| std::thread::sleep(time))
    }

    /// The same, until something has ended.
    fn measure_while(&self, end: impl FnOnce()) -> (f64, f64) {
        *self.0.latencies.lock().expect("no holder panics") =
            Some(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("legal bounds"));
        let (start, before) = (Instant::now(), self.commits());
        end();
        let rate = (self.commits() - before) as f64 / start.elapsed().as_secs_f64();
        let latencies = self.0.latencies.lock().expect("no holder panics").take().expect("it was put there");
        (rate, latencies.value_at_quantile(0.99) as f64 / 1e3)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

// ---- what is shown ----

fn commit_one(nodes: &Nodes, group: GroupId) {
    nodes.handle(1).propose(group, b"once").wait().expect("node 1 leads");
}

fn curve(groups: u64, seconds: u64, retain_mib: u64) {
    let nodes = Nodes::start(groups, 1024, |config| {
        (config.segment_mib, config.retain_mib, config.wal_mib_max) = (16, retain_mib, 4 * retain_mib);
    });
    commit_one(&nodes, groups);
    let load = Running::start(&nodes, 1..groups, 4, 4096);
    println!("{groups} groups, one idle since its first entry; the log keeps {retain_mib} MiB\n");
    println!("second  written MiB  log of node 1  node 2  node 3 (MiB on disk, spares among them)");
    let mut most = 0;
    for second in 1..=seconds {
        std::thread::sleep(Duration::from_secs(1));
        let sizes = [1, 2, 3].map(|node| nodes.log_mib(node));
        most = sizes.into_iter().fold(most, u64::max);
        let written = load.commits() * 4096 / MIB;
        println!("{second:>6}  {written:>11}  {:>13}  {:>6}  {:>6}", sizes[0], sizes[1], sizes[2]);
    }
    drop(load);
    let idle = nodes.handle(1).info(groups).expect("the group is there");
    println!("\nmost: {most} MiB, {:.2} of the budget", most as f64 / retain_mib as f64);
    println!(
        "the idle group's log begins at index {} behind a checkpoint of index {}",
        idle.first_index, idle.checkpoint_index
    );
    if most >= 2 * retain_mib {
        eprintln!("the log grew beyond twice its budget");
        std::process::exit(1);
    }
}

/// Processor seconds of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// Packets over the loopback device of this network namespace, as it has received them: each is counted once. What only
/// acknowledges others, for TCP, is one too.
fn packets() -> u64 {
    let devices = std::fs::read_to_string("/proc/net/dev").expect("procfs");
    let loopback = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).expect("it is there");
    loopback.split_whitespace().nth(1).expect("the packets received").parse().expect("a number")
}

/// MiB of memory that this process has now.
fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    resident.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// Starts all nodes. Gives how long it took until every group had a leader, and until each had committed an entry.
fn start_and_commit(nodes: &mut Nodes, groups: u64) -> (Duration, Duration) {
    let start = Instant::now();
    nodes.serve_all();
    nodes.wait("every group has a leader", Nodes::are_led);
    let led = start.elapsed();
    let mut left: Vec<GroupId> = (1..=groups).collect();
    while !left.is_empty() {
        let propose =
            |group: &GroupId| Some((*group, nodes.handle(nodes.leader(*group).max(1)).propose(*group, b"once")));
        let proposed: Vec<_> = left.iter().filter_map(propose).collect();
        left = proposed.into_iter().filter_map(|(group, proposal)| proposal.wait().is_err().then_some(group)).collect();
    }
    (led, start.elapsed())
}

fn idle(groups: u64, seconds: u64) {
    println!("three nodes in one process, over loopback; {seconds} seconds of silence each\n");
    println!("        ready after, s                                  CPU, part");
    println!("groups  the first start  a clean stop  packets/s  of one core  MiB of memory");
    for groups in [1, groups] {
        let mut nodes = Nodes::init(groups, 64, |config| config.spare_segments = 1);
        let (_, first) = start_and_commit(&mut nodes, groups);
        (1..=3).for_each(|node| nodes.stop(node));
        nodes.leaders.iter().for_each(|leader| leader.store(0, Ordering::Relaxed));
        let (_, again) = start_and_commit(&mut nodes, groups);
        // Until all voters know all, and groups are led by the nodes that prefer them: those wait for some seconds.
        let leaders = || (1..=groups).map(|group| nodes.leader(group)).collect::<Vec<_>>();
        let mut before = Vec::new();
        while before != leaders() {
            before = leaders();
            std::thread::sleep(Duration::from_secs(10));
        }
        let (cpu, before, start) = (cpu_seconds(), packets(), Instant::now());
        std::thread::sleep(Duration::from_secs(seconds));
        let time = start.elapsed().as_secs_f64();
        let (rate, cpu) = ((packets() - before) as f64 / time, (cpu_seconds() - cpu) / time);
        let (first, again, memory) = (first.as_secs_f64(), again.as_secs_f64(), memory_mib());
        println!("{groups:>6}  {first:>15.1}  {again:>12.1}  {rate:>9.0}  {cpu:>11.3}  {memory:>13}");
    }
}

/// Writes so many MiB to group 1.
fn fill(nodes: &Nodes, mib: u64) {
    let load = Running::start(nodes, [1], 64, 64 << 10);
    nodes.wait("the log is filled", |_| load.commits() >= mib * 16);
}

fn restart(mib: u64) {
    let mut nodes = Nodes::start(8, 1024, |config| {
        (config.retain_mib, config.wal_mib_max) = (mib, 2 * mib + 512);
        (config.checkpoint_mib, config.checkpoint_entries) = (0, 0);
    });
    fill(&nodes, mib);
    let held = nodes.log_mib(2);
    nodes.stop(2);
    let start = Instant::now();
    nodes.serve(2);
    let served = start.elapsed();
    nodes.wait("node 2 stands where node 1 stands", |nodes| nodes.has_caught_up(2, 1..=8));
    println!("a log of {held} MiB: started after {served:.2?}, all applied again after {:.2?}", start.elapsed());
}

fn catch_up(mib: u64, by_checkpoint: bool) {
    let state = if by_checkpoint { (mib * MIB) as usize } else { 1024 };
    let mut nodes = Nodes::start(1, state, |config| {
        (config.catch_up_mib_per_second, config.learn_mib_per_second) = (4096, 0);
        (config.retain_mib, config.wal_mib_max) = if by_checkpoint { (64, 2048) } else { (2 * mib, 4 * mib) };
        (config.checkpoint_mib, config.checkpoint_entries) = (0, 0);
    });
    commit_one(&nodes, 1);
    nodes.stop(3);
    fill(&nodes, if by_checkpoint { 512 } else { mib });
    if by_checkpoint {
        nodes.handle(1).checkpoint(1).wait().expect("a checkpoint");
        let next = nodes.handle(1).info(1).expect("the group is there").next_index;
        nodes.handle(1).trim(1, next, Duration::from_secs(60)).wait().expect("nothing is in the way");
    }
    nodes.serve(3);
    let took = nodes.wait("node 3 stands where node 1 stands", |nodes| nodes.has_caught_up(3, [1]));
    let how = if by_checkpoint { "by a checkpoint" } else { "by log" };
    println!("{how}: {mib} MiB in {took:.2?}, {:.0} MiB/s", mib as f64 / took.as_secs_f64());
}

fn median(of: &[f64]) -> f64 {
    let mut of = of.to_vec();
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// An entry of the load whose cost is shown.
const PAYLOAD_BYTES: usize = 128;
/// Who lacks less than so many entries of all groups together is back.
const BACK_ENTRIES: u64 = 10_000;
/// What a follower lacks of a group of its own, while others are loaded.
const BEHIND_MIB: u64 = 256;
/// Groups that are loaded; checkpoints are taken of the first of them, and the group after them is the one that is behind.
const LOADED: u64 = 8;
const BEHIND: GroupId = LOADED + 1;

/// Medians of runs.
#[derive(Default)]
struct Costs {
    name: &'static str,
    rates: Vec<f64>,
    p99s: Vec<f64>,
}

impl Costs {
    fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    fn push(&mut self, (rate, p99): (f64, f64)) {
        self.rates.push(rate);
        self.p99s.push(p99);
    }

    fn print(&self, alone: &Self) {
        let (rate, p99) = (median(&self.rates), median(&self.p99s));
        let (of_rate, of_p99) = (rate / median(&alone.rates), p99 / median(&alone.p99s));
        println!("{:<23}  {rate:>9.0}  {of_rate:>8.2}  {p99:>6.0}  {of_p99:>8.2}", self.name);
    }
}

/// Rates and latencies are those of all loaded groups together.
fn cost(time: Duration, runs: usize, window: usize, learn_mib: Option<u64>) {
    let mut nodes = Nodes::start(BEHIND, 16 << 20, |config| {
        (config.segment_mib, config.retain_mib, config.wal_mib_max) = (16, 2048, 8192);
        (config.checkpoint_mib, config.checkpoint_entries, config.spare_segments) = (0, 0, 8);
        config.learn_mib_per_second = learn_mib.unwrap_or(config.learn_mib_per_second);
    });
    let start = |nodes: &Nodes| {
        let load = Running::start(nodes, 1..=LOADED, window, PAYLOAD_BYTES);
        std::thread::sleep(Duration::from_secs(1));
        load
    };
    let mut alone = Costs::new("alone");
    let mut with_checkpoints = Costs::new("a checkpoint a second");
    let mut with_another = Costs::new("another group is behind");
    let mut without = Costs::new("a follower is away");
    let mut with_catch_up = Costs::new("a follower catches up");
    for run in 1..=runs {
        let load = start(&nodes);
        alone.push(load.measure(time));
        // A checkpoint of 16 MiB a second on every node.
        let checkpoints = AtomicBool::new(true);
        with_checkpoints.push(std::thread::scope(|scope| {
            scope.spawn(|| {
                while checkpoints.load(Ordering::Relaxed) {
                    (1..=3).for_each(|node| drop(nodes.handle(node).checkpoint(1)));
                    std::thread::sleep(Duration::from_secs(1));
                }
            });
            let measured = load.measure(time);
            checkpoints.store(false, Ordering::Relaxed);
            measured
        }));
        // A follower that was away for twice as long: what it costs until it is back.
        stop_with_checkpoints(&mut nodes);
        without.push(load.measure(2 * time));
        nodes.serve(3);
        let mut lacked = 0;
        let mut took = Duration::ZERO;
        with_catch_up.push(load.measure_while(|| {
            took = nodes.wait("node 3 is back", |nodes| {
                let lag = (1..=LOADED).map(|group| nodes.lag(3, group)).sum::<Option<u64>>();
                lacked = lacked.max(lag.unwrap_or(0));
                lag.is_some_and(|lag| lag < BACK_ENTRIES)
            });
        }));
        drop(load);
        let lacked_mib = lacked * PAYLOAD_BYTES as u64 / MIB;
        // The same in a group that nothing else is done in: what it costs the others.
        nodes.wait("node 3 has all", |nodes| nodes.has_caught_up(3, 1..=BEHIND));
        stop_with_checkpoints(&mut nodes);
        let filling = Running::start(&nodes, [BEHIND], 64, PAYLOAD_BYTES);
        nodes.wait("a group is filled", |_| filling.commits() * PAYLOAD_BYTES as u64 >= BEHIND_MIB * MIB);
        drop(filling);
        nodes.serve(3);
        nodes.wait("node 3 has the other groups", |nodes| nodes.has_caught_up(3, 1..=LOADED));
        let load = start(&nodes);
        let mut took_alone = Duration::ZERO;
        with_another.push(load.measure_while(|| {
            took_alone = nodes.wait("node 3 has all", |nodes| nodes.has_caught_up(3, [BEHIND]));
        }));
        eprintln!(
            "run {run} of {runs}: node 3 lacked {lacked_mib} MiB and was back after {took:.1?}; the other group, \
             {BEHIND_MIB} MiB, after {took_alone:.1?}"
        );
    }
    println!(
        "{LOADED} groups, {window} entries of {PAYLOAD_BYTES} bytes outstanding in each; medians of {runs} alternating \
         runs\n"
    );
    println!("                         commits/s  of alone  p99 us  of alone");
    for costs in [&alone, &with_checkpoints, &with_another, &without, &with_catch_up] {
        costs.print(&alone);
    }
}

/// Stops node 3. Its machines will go on from checkpoints, so it will not read its own log again.
fn stop_with_checkpoints(nodes: &mut Nodes) {
    let checkpoints: Vec<_> = (1..=BEHIND).map(|group| nodes.handle(3).checkpoint(group)).collect();
    for taken in checkpoints {
        taken.wait().expect("a checkpoint");
    }
    nodes.stop(3);
}
