//! A cluster of `synod serve` processes in a temporary directory, killed when it is dropped.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustix::process::Signal;
use synod::client::Client;
use synod::{Cluster, Config, GroupId, Member, Node, NodeId, new_cluster_id};
use synod_sim::{SEGMENT_MIB, free_addresses};

use crate::process::{Finished, PATIENCE, Running, arg, run, run_with_input, temporary, wait_for};

pub(crate) struct TestCluster {
    dir: tempfile::TempDir,
    cluster: Cluster,
    nodes: BTreeMap<NodeId, Running>,
}

/// Members with addresses of their own.
pub(crate) fn members(count: u64) -> Vec<Member> {
    (1..).zip(free_addresses(count as usize)).map(|(node, address)| Member { node, address }).collect()
}

impl TestCluster {
    /// Makes a cluster and starts its nodes.
    pub(crate) fn start(nodes: u64, groups: u64, shards: usize) -> Self {
        let (dir, id, members) = (temporary(), new_cluster_id(), members(nodes));
        let config = |node: NodeId| {
            let mut config = Config::new(id, node, format!("node-{node}"), members.clone());
            (config.groups, config.shards) = (groups, shards);
            (config.spare_segments, config.segment_mib) = (1, SEGMENT_MIB);
            config
        };
        let cluster = config(1).cluster();
        std::fs::write(dir.path().join("cluster.toml"), toml::to_string(&cluster).unwrap()).unwrap();
        let mut started = Self { dir, cluster, nodes: BTreeMap::new() };
        for node in 1..=nodes {
            let path = started.config_file(node);
            std::fs::write(&path, toml::to_string(&config(node)).unwrap()).unwrap();
            Node::init(&Config::read(&path).unwrap()).unwrap();
            started.serve(node);
        }
        started.wait_leaders();
        started
    }

    pub(crate) fn cluster_file(&self) -> PathBuf {
        self.dir.path().join("cluster.toml")
    }

    pub(crate) fn config_file(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(format!("node-{node}.toml"))
    }

    pub(crate) fn node_dir(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.cluster.members.iter().map(|member| member.node).collect()
    }

    /// Starts a node and waits until it is ready.
    pub(crate) fn serve(&mut self, node: NodeId) {
        let mut running = Running::start(&["serve", "--config", arg(&self.config_file(node))]);
        running.wait_stdout("is ready");
        assert!(self.nodes.insert(node, running).is_none(), "node {node} runs already");
    }

    /// Starts a node that ends by itself soon, and says why.
    pub(crate) fn serve_until_it_stops(&mut self, node: NodeId, why: &str) {
        let mut running = Running::start(&["serve", "--config", arg(&self.config_file(node))]);
        running.wait_stderr(why);
        assert!(!running.finish().status.success());
    }

    /// Waits until a running node's log says something.
    pub(crate) fn wait_log(&mut self, node: NodeId, text: &str) {
        self.nodes.get_mut(&node).expect("it runs").wait_stderr(text);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: NodeId) {
        // Dropping it does it.
        self.nodes.remove(&node).expect("only a running node is killed");
    }

    /// SIGTERM, which a node answers with a clean end.
    pub(crate) fn stop(&mut self, node: NodeId) {
        let running = self.nodes.remove(&node).expect("only a running node is stopped");
        running.signal(Signal::TERM);
        running.finish().success();
    }

    /// Writes a cluster file that does not say the truth.
    pub(crate) fn write_false_file(&self, change: impl FnOnce(&mut Cluster)) -> PathBuf {
        let mut cluster = self.cluster.clone();
        change(&mut cluster);
        let path = self.dir.path().join("false.toml");
        std::fs::write(&path, toml::to_string(&cluster).unwrap()).unwrap();
        path
    }

    pub(crate) fn pid(&self, node: NodeId) -> u32 {
        self.nodes[&node].pid()
    }

    pub(crate) fn client(&self) -> Client {
        let mut client = Client::new(self.cluster.clone());
        client.set_timeout(PATIENCE);
        client
    }

    /// The leader of a group, and the index that its next entry gets.
    pub(crate) fn leader(&self, group: GroupId) -> (NodeId, u64) {
        let (node, info) = self.client().leader(group).unwrap();
        (node, info.next_index)
    }

    pub(crate) fn status(&self) -> Finished {
        run(&["status", "--cluster", arg(&self.cluster_file())])
    }

    pub(crate) fn wait_leaders(&self) {
        wait_for("a leader of every group", || self.status().status.success().then_some(()));
    }

    /// Starts `synod append`.
    pub(crate) fn append(&self, group: GroupId) -> Running {
        Running::start(&["append", "--cluster", arg(&self.cluster_file()), "--group", &group.to_string()])
    }

    /// Runs `synod append` with an input.
    pub(crate) fn append_all(&self, group: GroupId, input: &[u8]) -> Finished {
        run_with_input(&["append", "--cluster", arg(&self.cluster_file()), "--group", &group.to_string()], input)
    }

    /// What `synod tail --until-end` gives.
    pub(crate) fn tail(&self, node: NodeId, group: GroupId, more: &[&str]) -> Vec<u8> {
        let (file, node, group) = (self.cluster_file(), node.to_string(), group.to_string());
        let mut args = vec!["tail", "--cluster", arg(&file), "--node", &node, "--group", &group, "--until-end"];
        args.extend_from_slice(more);
        run(&args).success()
    }

    /// Fails unless every node's tail of a group is what is expected, byte for byte.
    pub(crate) fn check_tails(&self, group: GroupId, expected: &[u8]) {
        for node in self.nodes() {
            let got = self.tail(node, group, &[]);
            let same = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
            assert!(
                got == expected,
                "node {node}, group {group}: {} bytes instead of {}, the first {same} are the same",
                got.len(),
                expected.len()
            );
        }
    }
}

/// Lines of odd sizes with any bytes, many of them empty, some larger than a batch; the last has no newline.
pub(crate) fn input(seed: u64, lines: usize) -> Vec<u8> {
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut out = Vec::new();
    for line in 0..lines {
        let bytes = match random() % 1000 {
            0..100 => 0,
            100 => 60_000 + random() % 80_000,
            _ => random() % 150,
        };
        out.extend((0..bytes).map(|_| random() as u8).map(|byte| if byte == b'\n' { b'\r' } else { byte }));
        out.push(b'\n');
        if line % 100 == 0 {
            out.extend_from_slice(format!("line {line}\n").as_bytes());
        }
    }
    out.extend_from_slice(b"no newline");
    out
}
