//! The nodes of a run: their configurations, and which of them run.

use std::fs;
use std::path::{Path, PathBuf};

use synod::{Config, Member, Node, new_cluster_id};

use super::netns::Namespaces;
use super::process::{NodeProcess, tail};
use super::proxy::Proxies;
use super::small_disk::SmallDisk;
use super::{GROUPS, NODES, Trouble};
use crate::free_addresses;

/// What the nodes stand on, besides this machine.
pub(super) struct Ground {
    /// By node number less one. The addresses of the others may lead through something.
    pub(super) configs: Vec<Config>,
    /// Where clients reach the nodes.
    pub(super) members: Vec<Member>,
    /// The namespaces that the nodes are in.
    pub(super) namespaces: Option<Namespaces>,
    /// What stands between the nodes.
    pub(super) proxies: Option<Proxies>,
    /// The small file system of one node.
    pub(super) disk: Option<SmallDisk>,
}

impl Ground {
    /// Nodes on loopback.
    pub(super) fn plain(configs: Vec<Config>) -> Self {
        let members = configs[0].members.clone();
        Self { configs, members, namespaces: None, proxies: None, disk: None }
    }
}

/// Durable nodes on loopback with small segments, so that many are made and opened, and with all of the log kept.
pub(super) fn default_configs(dir: &Path) -> Vec<Config> {
    let id = new_cluster_id();
    let member = |(node, address)| Member { node, address };
    let members: Vec<Member> = (1..).zip(free_addresses(NODES as usize)).map(member).collect();
    let config = |node| {
        let mut config = Config::new(id, node, dir.join(format!("node-{node}")), members.clone());
        config.groups = GROUPS;
        // A node of two shards on two cores would be pinned to them, and so would the others.
        (config.shards, config.pin) = (2, Some(false));
        (config.segment_mib, config.spare_segments, config.cache_mib) = (8, 1, 16);
        (config.retain_mib, config.wal_mib_max) = (4096, 8192);
        config
    };
    (1..=NODES).map(config).collect()
}

/// The nodes.
pub(super) struct Nodes {
    program: PathBuf,
    dir: PathBuf,
    wrappers: Vec<Vec<String>>,
    /// By node number less one; none: it was killed.
    running: Vec<Option<NodeProcess>>,
    /// Whether it may end by itself.
    may_end: Vec<bool>,
    /// The most memory that any had.
    pub(super) resident_bytes: u64,
}

impl Nodes {
    /// Makes the nodes' directories; none runs yet.
    pub(super) fn init(program: &Path, dir: &Path, ground: &Ground) -> Result<Self, Trouble> {
        let mut wrappers = Vec::new();
        for config in &ground.configs {
            Node::init(config).map_err(|error| Trouble::Violation(format!("a new node cannot be made: {error}")))?;
            let file = config_file(dir, config.node);
            let text = toml::to_string(config).expect("a configuration is plain data");
            fs::write(&file, text).map_err(|error| Trouble::Io { what: file.display().to_string(), error })?;
            wrappers.push(ground.namespaces.as_ref().map(|all| all.enter_words(config.node)).unwrap_or_default());
        }
        let running = ground.configs.iter().map(|_| None).collect();
        let may_end = vec![false; NODES as usize];
        Ok(Self { program: program.to_owned(), dir: dir.to_owned(), wrappers, running, may_end, resident_bytes: 0 })
    }

    /// Starts a node that does not run; it is ready some time later.
    pub(super) fn start(&mut self, node: u64) -> Result<(), Trouble> {
        let at = at(node);
        assert!(self.running[at].is_none(), "node {node} runs already");
        self.may_end[at] = false;
        let config = config_file(&self.dir, node);
        let started = NodeProcess::start(&self.program, &self.wrappers[at], &config, &self.log(node));
        self.running[at] = Some(started.map_err(|error| Trouble::Io { what: format!("cannot start {node}"), error })?);
        Ok(())
    }

    /// SIGKILL. True if it ran.
    pub(super) fn kill(&mut self, node: u64) -> bool {
        self.weigh();
        self.running[at(node)].take().is_some_and(|mut process| process.kill())
    }

    /// SIGSTOP and SIGCONT. True if it runs.
    pub(super) fn pause(&self, node: u64, paused: bool) -> bool {
        self.running[at(node)].as_ref().is_some_and(|process| process.pause(paused))
    }

    /// The nodes that run.
    pub(super) fn running(&self) -> Vec<u64> {
        (1..=NODES).filter(|node| self.running[at(*node)].is_some()).collect()
    }

    /// Whether it runs and serves.
    pub(super) fn is_ready(&self, node: u64) -> bool {
        self.running[at(node)].as_ref().is_some_and(NodeProcess::is_ready)
    }

    /// An error if one that should run has ended.
    pub(super) fn check(&mut self) -> Result<(), Trouble> {
        for node in 1..=NODES {
            if !self.may_end[at(node)]
                && let Some(status) = self.take_ended(node)
            {
                return Err(Trouble::Died { node, status: status.to_string(), tail: tail(&self.log(node)) });
            }
        }
        Ok(())
    }

    /// Whether a node may end by itself from now on: see [`take_ended`](Self::take_ended).
    pub(super) fn may_end(&mut self, node: u64, may_end: bool) {
        self.may_end[at(node)] = may_end;
    }

    /// A node's process.
    pub(super) fn pid(&self, node: u64) -> Option<u32> {
        self.running[at(node)].as_ref().map(NodeProcess::id)
    }

    /// How a node ended by itself, if it has; it does not run any more then.
    pub(super) fn take_ended(&mut self, node: u64) -> Option<std::process::ExitStatus> {
        let ended = self.running[at(node)].as_mut().and_then(NodeProcess::ended)?;
        self.running[at(node)] = None;
        Some(ended)
    }

    /// Notes the memory of all.
    pub(super) fn weigh(&mut self) {
        let most = self.running.iter().flatten().filter_map(NodeProcess::resident_bytes).max();
        self.resident_bytes = self.resident_bytes.max(most.unwrap_or(0));
    }

    /// The nodes that have panicked on any thread, with what they said.
    pub(super) fn panics(&self) -> Result<(), Trouble> {
        for node in 1..=NODES {
            let log = self.log(node);
            let text = fs::read(&log).map_err(|error| Trouble::Io { what: log.display().to_string(), error })?;
            let text = String::from_utf8_lossy(&text);
            if let Some(line) = text.lines().find(|line| line.contains("panicked at") || line.contains("a bug: ")) {
                return Err(Trouble::Violation(format!("node {node} panicked: {line}")));
            }
        }
        Ok(())
    }

    /// A node's log.
    pub(super) fn log(&self, node: u64) -> PathBuf {
        self.dir.join(format!("node-{node}.log"))
    }

    /// What all nodes said last.
    pub(super) fn tails(&self) -> String {
        (1..=NODES).map(|node| format!("  the end of node {node}'s log:\n{}", tail(&self.log(node)))).collect()
    }
}

fn at(node: u64) -> usize {
    node as usize - 1
}

fn config_file(dir: &Path, node: u64) -> PathBuf {
    dir.join(format!("node-{node}.toml"))
}
