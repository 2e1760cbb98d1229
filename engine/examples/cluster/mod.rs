//! Three nodes of one cluster in this process, for the examples. In earnest each is a process on a machine of its own.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use synod::{Config, GroupId, Handle, Member, Node, NodeId, Options, new_cluster_id};

/// The one group that there is by default.
pub(crate) const GROUP: GroupId = 1;
/// How long anything may take before an example gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What is not so yet is looked at again after so long.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct Cluster {
    dir: PathBuf,
    configs: BTreeMap<NodeId, Config>,
    options: Box<dyn Fn(NodeId) -> Options>,
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    /// Makes a new cluster and starts its nodes 1, 2 and 3, each with the options that are given for it.
    pub(crate) fn start(name: &str, options: impl Fn(NodeId) -> Options + 'static) -> Result<Self, Box<dyn Error>> {
        let dir = std::env::temp_dir().join(format!("synod-example-{name}-{}", std::process::id()));
        let (configs, nodes) = (BTreeMap::new(), BTreeMap::new());
        let mut cluster = Self { dir, configs, options: Box::new(options), nodes };
        let id = new_cluster_id();
        let members = members(id)?;
        for node in 1..=3 {
            let dir = cluster.dir.join(format!("node-{node}"));
            let mut config = Config::new(id, node, dir, members.clone());
            // Segments of the log are zeroed before they are used; little is written here.
            (config.segment_mib, config.spare_segments) = (4, 0);
            Node::init(&config)?;
            cluster.configs.insert(node, config);
            cluster.start_node(node)?;
        }
        Ok(cluster)
    }

    pub(crate) fn start_node(&mut self, node: NodeId) -> Result<(), Box<dyn Error>> {
        let started = Node::start(self.configs[&node].clone(), (self.options)(node))?;
        self.nodes.insert(node, started);
        Ok(())
    }

    pub(crate) fn stop_node(&mut self, node: NodeId) {
        if let Some(node) = self.nodes.remove(&node) {
            node.shutdown();
        }
    }

    /// Stops all nodes and removes their directories.
    pub(crate) fn shutdown(mut self) -> Result<(), Box<dyn Error>> {
        (1..=3).for_each(|node| self.stop_node(node));
        Ok(std::fs::remove_dir_all(self.dir)?)
    }

    /// The running nodes.
    pub(crate) fn handles(&self) -> impl Iterator<Item = Handle> {
        self.nodes.values().map(Node::handle)
    }

    /// The node that leads the group and takes its proposals, once there is one.
    pub(crate) fn leader(&self) -> Result<Handle, Box<dyn Error>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let leads = |node: &Handle| node.info(GROUP).is_some_and(|info| info.epoch > 0);
            if let Some(leader) = self.handles().find(leads) {
                return Ok(leader);
            }
            std::thread::sleep(PAUSE);
        }
        Err("no node leads".into())
    }

    /// Tries something with whoever leads, until it succeeds: leadership may be lost at any time. What fails may have taken
    /// effect all the same, so it must be something that does no harm the second time.
    pub(crate) fn with_leader<T>(
        &self,
        mut attempt: impl FnMut(&Handle) -> Result<T, Box<dyn Error>>,
    ) -> Result<T, Box<dyn Error>> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.leader().and_then(|leader| attempt(&leader)) {
                Err(_) if Instant::now() < end => std::thread::sleep(PAUSE),
                outcome => return outcome,
            }
        }
    }
}

/// Addresses on a loopback host of the cluster's own, so that nobody else is given the port of a node that is down.
fn members(cluster: u128) -> Result<Vec<Member>, Box<dyn Error>> {
    let [.., a, b, c] = cluster.to_be_bytes();
    let listen = |_| TcpListener::bind((Ipv4Addr::new(127, a, b, c), 0));
    // All are drawn before the first is let go.
    let listeners = (1..=3).map(listen).collect::<Result<Vec<_>, _>>()?;
    let member = |(listener, node): (&TcpListener, NodeId)| Ok(Member { node, address: listener.local_addr()? });
    listeners.iter().zip(1..).map(member).collect()
}
