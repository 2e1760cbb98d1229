//! Entries that no slot holds: cut into parts on their way, and whole wherever they are handed over.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use synod::client::protocol::{RejectionV1, ReplyV1, Request};
use synod::client::{Client, ClientError, NodeClient};
use synod::limits::{
    APPEND_PART_BYTES_MAX, ENTRY_BYTES_MAX, LARGE_BYTES_MAX, LARGE_ENTRY_BYTES_MAX, PART_BYTES_MAX, PARTS_MAX,
};
use synod::{Config, Entries, Handle, Member, Node, Overload, ProposeError, Rejection, new_cluster_id};
use synod_sim::disk::Dice;
use synod_sim::sums::{Sum, Sums, sum_with};
use synod_sim::{Cluster, PATIENCE, free_addresses};

/// No part of it is like another.
fn entry(seed: u64, bytes: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut entry = Vec::with_capacity(bytes + 8);
    while entry.len() < bytes {
        entry.extend_from_slice(&dice.roll().to_le_bytes());
    }
    entry.truncate(bytes);
    entry
}

/// Waits until something is there.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + 2 * PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn one_leader(config: &mut Config) {
    (config.groups, config.preferred_leader) = (2, Some(1));
}

fn slots(handle: &Handle, group: u64) -> u64 {
    handle.info(group).expect("it runs").applied_slot
}

#[test]
fn an_entry_of_64_mib_commits_while_another_group_goes_on() {
    let cluster = Cluster::start(3, one_leader);
    cluster.commit(2, 1, 1, &Entries::one(b"small").unwrap());
    cluster.commit(1, 1, 1, &Entries::one(b"before").unwrap());
    let large = entry(1, LARGE_ENTRY_BYTES_MAX);
    wait_for("one leader of both groups", || (cluster.leader(1).node() == cluster.leader(2).node()).then_some(()));
    let (session, entries) = (cluster.session(1, 1), Entries::one(&large).unwrap());
    let (mut meanwhile, mut sequence) = (0, 2);
    let committed = wait_for("a large entry", || {
        let handle = cluster.leader(1);
        let before = slots(&handle, 1);
        let (told, outcome) = std::sync::mpsc::channel();
        let pending = handle.propose_in_session(1, session, 2, entries.clone());
        std::thread::spawn(move || told.send(pending.wait()));
        // The small ones are counted while parts of the large one are in flight.
        loop {
            if let Ok(outcome) = outcome.try_recv() {
                return outcome.ok();
            }
            let parts = slots(&handle, 1) - before;
            cluster.commit(2, 1, sequence, &Entries::one(b"small").unwrap());
            meanwhile += u64::from(0 < parts && parts < PARTS_MAX as u64);
            sequence += 1;
        }
    });
    assert_eq!((committed.first_index, committed.count), (2, 1));
    assert!(meanwhile >= 10, "only {meanwhile} small entries were committed meanwhile");
    cluster.commit(1, 1, 3, &Entries::one(b"behind").unwrap());
    for node in 1..=3 {
        let log = cluster.log(node, 1, 3);
        assert_eq!(log.len(), 3);
        assert!(log[1] == large && log[0] == b"before" && log[2] == b"behind", "node {node}");
    }
}

#[test]
fn an_entry_over_the_limit_is_refused_and_so_is_one_too_many() {
    let cluster = Cluster::start(1, |config| config.groups = 1);
    let handle = cluster.leader(1);
    let too_large = Err(ProposeError::Rejected(Rejection::TooLarge));
    assert_eq!(handle.propose(1, &vec![7; LARGE_ENTRY_BYTES_MAX + 1]).wait(), too_large);
    // They are made first: none is wholly proposed when the last one comes.
    let count = LARGE_BYTES_MAX / LARGE_ENTRY_BYTES_MAX + 1;
    let entries = |seed: usize| Entries::one(&vec![seed as u8; LARGE_ENTRY_BYTES_MAX]).unwrap();
    let all: Vec<Entries> = (0..count).map(entries).collect();
    let pending: Vec<_> = all.into_iter().map(|entries| handle.propose_batch(1, entries)).collect();
    let outcomes: Vec<_> = pending.into_iter().map(synod::Pending::wait).collect();
    let refused = Rejection::Overloaded { what: Overload::Large, retry_after_ms: 100 };
    assert_eq!(outcomes.last(), Some(&Err(ProposeError::Rejected(refused))), "{outcomes:?}");
    // What was refused may come again.
    wait_for("room for another", || handle.propose_batch(1, entries(count)).wait().ok());
}

struct Summing {
    cluster: Cluster,
    sums: Sums,
    expected: Sum,
}

impl Summing {
    /// Memory for a few parts only, so that entries are put together out of the log.
    fn start() -> Self {
        let cluster = Cluster::start(3, |config| {
            (config.segment_mib, config.retain_mib, config.wal_mib_max, config.cache_mib) = (4, 4, 64, 2);
        });
        let mut this = Self { cluster, sums: Sums::default(), expected: (0, 0) };
        (1..=3).for_each(|node| this.cluster.stop_node(node));
        (1..=3).for_each(|node| this.start_node(node));
        this
    }

    fn start_node(&mut self, node: u64) {
        self.cluster.start_summing(node, &self.sums);
    }

    fn stop_node(&mut self, node: u64) {
        self.cluster.stop_node(node);
        self.sums.forget(node);
    }

    fn commit(&mut self, entry: &[u8]) {
        self.cluster.commit(1, 1, self.expected.0 + 1, &Entries::one(entry).unwrap());
        self.expected = sum_with(self.expected, entry);
    }

    fn check(&self, nodes: &[u64]) {
        for node in nodes {
            wait_for("a machine that holds all", || {
                let state = self.sums.of(*node, 1);
                assert!(state.is_none_or(|(count, sum)| count < self.expected.0 || sum == self.expected.1));
                (state == Some(self.expected)).then_some(())
            });
        }
    }
}

/// Each outcome is told when the leader's machine has the entry; all machines get it whole, also after a restart, out of
/// the log or behind a checkpoint, and so does one that was away.
#[test]
fn machines_get_large_entries_whole_and_once() {
    let mut summing = Summing::start();
    let bytes = 5 * ENTRY_BYTES_MAX + 77;
    for seed in 0..3 {
        summing.commit(&entry(seed, bytes));
        summing.commit(b"small");
    }
    summing.check(&[1, 2, 3]);
    summing.stop_node(3);
    for seed in 3..6 {
        summing.commit(&entry(seed, bytes));
        summing.commit(b"small");
    }
    summing.check(&[1, 2]);
    (1..=2).for_each(|node| summing.stop_node(node));
    (1..=3).for_each(|node| summing.start_node(node));
    summing.commit(&entry(6, bytes));
    summing.check(&[1, 2, 3]);
    // More than the log may keep: it goes behind checkpoints, and whoever was away catches up across that.
    summing.stop_node(2);
    for seed in 7..21 {
        summing.commit(&entry(seed, bytes));
    }
    summing.check(&[1, 3]);
    summing.start_node(2);
    summing.commit(b"last");
    summing.check(&[1, 2, 3]);
}

/// A node in a process of its own; it is killed when this is dropped.
struct Process {
    child: Child,
    _stdin: ChildStdin,
}

impl Process {
    fn start(config: &Config, dir: &std::path::Path) -> Self {
        let file = dir.join(format!("node-{}.toml", config.node));
        std::fs::write(&file, toml::to_string(config).expect("a configuration is plain data")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
        command.arg("node").arg("--config").arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program is there");
        let stdin = child.stdin.take().expect("it was asked for");
        let mut lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "node {} does not start", config.node);
        Self { child, _stdin: stdin }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Processes {
    configs: Vec<Config>,
    running: Vec<Option<Process>>,
    dir: tempfile::TempDir,
}

impl Processes {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let id = new_cluster_id();
        let members: Vec<Member> =
            (1..).zip(free_addresses(3)).map(|(node, address)| Member { node, address }).collect();
        let config = |node| {
            let mut config = Config::new(id, node, dir.path().join(format!("node-{node}")), members.clone());
            (config.groups, config.spare_segments, config.cache_mib) = (1, 1, 16);
            Node::init(&config).expect("a new directory is initialised");
            config
        };
        let configs: Vec<Config> = (1..=3).map(config).collect();
        let running = configs.iter().map(|config| Some(Process::start(config, dir.path()))).collect();
        Self { configs, running, dir }
    }

    fn client(&self) -> Client {
        let mut client = Client::new(self.configs[0].cluster());
        client.set_timeout(4 * PATIENCE);
        client
    }

    /// The node that leads, and the last slot that it has applied.
    fn leader(&self, client: &mut Client) -> Option<(u64, u64)> {
        let running = (1..=3).filter(|node| self.running[*node as usize - 1].is_some());
        let asked =
            running.filter_map(|node| match client.call(node, &Request::Info { group: 1 }, Duration::from_secs(5)) {
                Ok(ReplyV1::Info { groups, .. }) => {
                    groups.first().filter(|group| group.epoch > 0).map(|group| (node, group.applied_slot))
                }
                _ => None,
            });
        asked.last()
    }

    /// Kills the leader when it has applied a few slots more.
    fn kill_in_the_middle(&mut self) -> u64 {
        let mut client = self.client();
        let (_, from) = wait_for("a leader", || self.leader(&mut client));
        let leader = wait_for("a large entry on its way", || {
            self.leader(&mut client).filter(|(_, slot)| *slot > from + 8).map(|(node, _)| node)
        });
        self.running[leader as usize - 1] = None;
        leader
    }

    fn start_again(&mut self, node: u64) {
        let config = &self.configs[node as usize - 1];
        self.running[node as usize - 1] = Some(Process::start(config, self.dir.path()));
    }

    /// All entries of a node up to an index.
    fn log(&self, client: &mut Client, node: u64, up_to: u64) -> Vec<Vec<u8>> {
        let mut log: Vec<Vec<u8>> = Vec::new();
        while (log.len() as u64) < up_to {
            let from = log.len() as u64 + 1;
            let read = wait_for("a log", || client.read(node, 1, from, Duration::from_secs(1)).ok());
            log.extend(read.entries.iter().map(<[u8]>::to_vec));
        }
        log
    }
}

/// In a session the client says it again, and it is there once; without one the outcome is not known, and it is there once,
/// whole, or not at all.
#[test]
fn a_leader_that_is_killed_in_the_middle_leaves_no_half_of_an_entry() {
    let mut processes = Processes::start();
    let mut client = processes.client();
    let session = client.open_session(1).unwrap();
    let large = entry(1, LARGE_ENTRY_BYTES_MAX);
    let appended = std::thread::spawn({
        let (mut client, entries) = (processes.client(), Entries::one(&large).unwrap());
        move || client.append(1, session, 1, &entries)
    });
    let killed = processes.kill_in_the_middle();
    let committed = appended.join().unwrap().unwrap();
    assert!(committed.is_none_or(|committed| committed.first_index == 1), "{committed:?}");
    processes.start_again(killed);

    let (leader, _) = wait_for("a leader", || processes.leader(&mut client));
    let other = entry(2, LARGE_ENTRY_BYTES_MAX - 1);
    let unknown = std::thread::spawn({
        let cluster = processes.configs[0].cluster();
        let entries = Entries::one(&other).unwrap();
        move || -> Result<ReplyV1, ClientError> {
            let member = cluster.members[leader as usize - 1];
            let mut node = NodeClient::connect(&cluster, member, 1, PATIENCE)?;
            node.call(&Request::Append { group: 1, session: None, entries }, 2 * PATIENCE)
        }
    });
    let killed = processes.kill_in_the_middle();
    let outcome = unknown.join().unwrap();
    processes.start_again(killed);
    let last = client.append(1, session, 2, &Entries::one(b"last").unwrap()).unwrap().unwrap();
    for node in 1..=3 {
        let log = processes.log(&mut client, node, last.first_index);
        assert!(log[0] == large, "node {node} has another entry of {} bytes", log[0].len());
        assert_eq!(log.last().unwrap(), b"last");
        match log.len() {
            2 => assert!(!matches!(outcome, Ok(ReplyV1::Committed { .. })), "{outcome:?}"),
            3 => assert!(log[1] == other, "node {node} has another entry of {} bytes", log[1].len()),
            more => panic!("node {node} has {more} entries"),
        }
    }
}

/// A client may say anything.
#[test]
fn parts_that_do_not_follow_are_refused() {
    let cluster = Cluster::start(1, |config| config.groups = 1);
    cluster.commit(1, 1, 1, &Entries::one(b"small").unwrap());
    let config = &cluster.configs[0];
    let mut node = NodeClient::connect(&config.cluster(), config.members[0], 1, PATIENCE).unwrap();
    let mut part = |total: usize, offset: usize, bytes: usize| {
        let (total, offset, bytes) = (total as u32, offset as u32, vec![7; bytes]);
        node.call(&Request::AppendPart { group: 1, session: None, total, offset, bytes }, PATIENCE).unwrap()
    };
    let mib = APPEND_PART_BYTES_MAX;
    let follows = |reply: &ReplyV1| !matches!(reply, ReplyV1::Failed { .. });
    assert!(!follows(&part(3 * mib, mib, mib)), "nothing has begun");
    assert_eq!(part(3 * mib, 0, mib), ReplyV1::Done);
    assert!(!follows(&part(3 * mib, 2 * mib, mib)), "one is missing");
    assert!(!follows(&part(4 * mib, mib, mib)), "another entry");
    assert_eq!(part(3 * mib, mib, mib), ReplyV1::Done);
    assert!(matches!(part(3 * mib, 2 * mib, mib), ReplyV1::Committed { first_index: 2, count: 1, .. }));
    let too_large = ReplyV1::Rejected { rejection: RejectionV1::TooLarge, leader: 0 };
    assert_eq!(part(LARGE_ENTRY_BYTES_MAX + 1, 0, mib), too_large);
    // Half an entry is forgotten with its connection, and a new one takes its place.
    assert_eq!(part(LARGE_ENTRY_BYTES_MAX, 0, mib), ReplyV1::Done);
    assert_eq!(part(2 * mib, 0, mib), ReplyV1::Done);
    assert!(matches!(part(2 * mib, mib, mib), ReplyV1::Committed { first_index: 3, .. }));
    let mut read = |index, part| node.call(&Request::ReadPart { group: 1, index, part }, PATIENCE).unwrap();
    let count = (3 * mib).div_ceil(PART_BYTES_MAX) as u32;
    assert!(matches!(read(2, 0), ReplyV1::Part { parts, part: 0, .. } if parts == count));
    for (index, part) in [(1, 0), (2, count), (9, 0)] {
        assert!(!follows(&read(index, part)), "index {index} has no part {part}");
    }
}
