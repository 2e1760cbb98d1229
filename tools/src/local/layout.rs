//! The files of a cluster on this machine.
//!
//! `DIR/node-N.toml`, the directories `DIR/node-N` and, last of all, `DIR/cluster.toml`: when that is there, all is.
//! `DIR/lock` is held by the one process that runs the cluster.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use synod::{Cluster, Config, Member, Node, NodeId, new_cluster_id};

use crate::error::{ToolError, at};

const LOCK: &str = "lock";
const CLUSTER: &str = "cluster.toml";

/// What the flags ask for; `None` takes what is there, or the default.
pub(super) struct Wanted {
    pub(super) nodes: Option<u64>,
    pub(super) groups: Option<u64>,
    pub(super) shards: Option<usize>,
}

/// A cluster's directory, held until this is dropped.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    pub(super) cluster: Cluster,
    /// Whether it was made just now.
    pub(super) new: bool,
    _lock: File,
}

impl Layout {
    /// Takes the directory, and makes a cluster in it if there is none.
    pub(super) fn open(dir: &Path, wanted: &Wanted) -> Result<Self, ToolError> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let dir = dir.canonicalize().map_err(at(dir))?;
        let lock_path = dir.join(LOCK);
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(at(&lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            ToolError::Failed(format!("{} is in use: another `synod local` runs this cluster", dir.display()))
        })?;
        let file = dir.join(CLUSTER);
        let new = !file.exists();
        let cluster = if new {
            create(&dir, wanted)?
        } else {
            Cluster::read(&file).map_err(|error| ToolError::in_file(&file, error))?
        };
        if !new {
            check_wanted(&file, &cluster, wanted)?;
        }
        Ok(Self { dir, cluster, new, _lock: lock })
    }

    /// The cluster file, for clients.
    pub(super) fn cluster_file(&self) -> PathBuf {
        self.dir.join(CLUSTER)
    }

    /// A node's configuration file.
    pub(super) fn config_file(&self, node: NodeId) -> PathBuf {
        config_file(&self.dir, node)
    }

    /// Where a node's output goes.
    pub(super) fn log_file(&self, node: NodeId) -> PathBuf {
        self.dir.join(format!("node-{node}.log"))
    }

    /// Where the process of a running node is written.
    pub(super) fn pid_file(&self, node: NodeId) -> PathBuf {
        self.dir.join(format!("node-{node}.pid"))
    }
}

fn config_file(dir: &Path, node: NodeId) -> PathBuf {
    dir.join(format!("node-{node}.toml"))
}

fn create(dir: &Path, wanted: &Wanted) -> Result<Cluster, ToolError> {
    for found in fs::read_dir(dir).map_err(at(dir))? {
        if found.map_err(at(dir))?.file_name() != LOCK {
            return Err(ToolError::Failed(format!(
                "{} is not empty and has no {CLUSTER}: name a new directory, or empty it if a first start was cut off",
                dir.display()
            )));
        }
    }
    let (nodes, groups) = (wanted.nodes.unwrap_or(super::NODES), wanted.groups.unwrap_or(super::GROUPS));
    let (id, members) = (new_cluster_id(), draw_members(nodes)?);
    let config = |node: NodeId| {
        // Relative to the file, so that the whole directory can be moved.
        let mut config = Config::new(id, node, format!("node-{node}"), members.clone());
        (config.groups, config.shards) = (groups, wanted.shards.unwrap_or(super::SHARDS));
        config
    };
    let cluster = config(members[0].node).cluster();
    // All of them, before anything is written.
    for member in &members {
        config(member.node).validate().map_err(|error| ToolError::Usage(error.to_string()))?;
    }
    for Member { node, .. } in &members {
        let path = config_file(dir, *node);
        let text = toml::to_string(&config(*node)).expect("a configuration is always TOML");
        fs::write(&path, format!("# Node {node}: `synod serve --config` this file.\n{text}")).map_err(at(&path))?;
        Node::init(&Config::read(&path)?)?;
    }
    let (file, temporary) = (dir.join(CLUSTER), dir.join("cluster.new"));
    let text = toml::to_string(&cluster).expect("a cluster is always TOML");
    fs::write(&temporary, format!("# What clients must know: `synod status --cluster` this file.\n{text}"))
        .and_then(|()| fs::rename(&temporary, &file))
        .map_err(at(&file))?;
    Ok(cluster)
}

fn check_wanted(file: &Path, cluster: &Cluster, wanted: &Wanted) -> Result<(), ToolError> {
    let check = |flag: &str, wanted: Option<u64>, found: u64| match wanted {
        Some(wanted) if wanted != found => Err(ToolError::Failed(format!(
            "{} has {found} {flag}, not {wanted}: leave out --{flag}, or name another directory for a new cluster",
            file.display()
        ))),
        _ => Ok(()),
    };
    check("nodes", wanted.nodes, cluster.members.len() as u64)?;
    check("groups", wanted.groups, cluster.groups)?;
    check("shards", wanted.shards.map(|shards| shards as u64), cluster.shards as u64)
}

/// Nodes from 1 on, at loopback ports that are free now.
fn draw_members(nodes: u64) -> Result<Vec<Member>, ToolError> {
    // Below the range from which the system gives ports to connections: those come and go, and one of them could hold
    // a node's port when it is started again.
    const PORTS: std::ops::Range<u16> = 10_000..32_000;
    const TRIES: usize = 1000;
    // Held until all are drawn, so that none is drawn twice.
    let mut held: Vec<(SocketAddr, TcpListener)> = Vec::new();
    for _ in 0..TRIES {
        if held.len() as u64 == nodes {
            break;
        }
        let port = PORTS.start + (new_cluster_id() % PORTS.len() as u128) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        held.extend(TcpListener::bind(address).map(|listener| (address, listener)));
    }
    if (held.len() as u64) < nodes {
        return Err(ToolError::Failed(format!(
            "no {nodes} free ports on {}: stop what holds them",
            Ipv4Addr::LOCALHOST
        )));
    }
    Ok((1..).zip(held).map(|(node, (address, _))| Member { node, address }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Wanted = Wanted { nodes: None, groups: None, shards: None };

    #[test]
    fn a_cluster_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo");
        let wanted = Wanted { nodes: Some(5), groups: Some(4), shards: Some(2) };
        let first = Layout::open(&path, &wanted).unwrap();
        assert!(first.new);
        assert_eq!((first.cluster.members.len(), first.cluster.groups, first.cluster.shards), (5, 4, 2));
        assert!(Layout::open(&path, &ANY).is_err_and(|error| error.to_string().contains("in use")));
        let config = Config::read(&first.config_file(3)).unwrap();
        assert_eq!((config.node, config.cluster()), (3, first.cluster.clone()));
        assert_eq!(config.dir, first.dir.join("node-3"));
        let cluster = first.cluster.clone();
        drop(first);
        for same in [ANY, wanted] {
            let again = Layout::open(&path, &same).unwrap();
            assert!(!again.new);
            assert_eq!(again.cluster, cluster);
        }
        let other = Wanted { groups: Some(3), ..ANY };
        assert!(Layout::open(&path, &other).is_err_and(|error| error.to_string().contains("--groups")));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter"), "dear").unwrap();
        let error = Layout::open(dir.path(), &ANY).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert!(!dir.path().join("node-1").exists());
    }

    #[test]
    fn contradicting_flags_make_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted { nodes: None, groups: Some(1), shards: Some(2) };
        let error = Layout::open(dir.path(), &wanted).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_status(), 2, "{error}");
        assert!(!dir.path().join("node-1.toml").exists());
    }
}
