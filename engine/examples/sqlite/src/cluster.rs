//! A cluster of processes on this machine: started, asked, killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use synod::{Config, Member, Node, new_cluster_id};

use crate::protocol::{Fresh, Reply, Request, Status};
use crate::{Content, Outcome, Rows, Statement, Transaction};

/// How long anything may take before it is given up.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Why a cluster could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The files or processes of the cluster.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A node's directory.
    #[error(transparent)]
    Start(#[from] synod::StartError),
    /// A node is not there (any more).
    #[error("node {node} does not answer: {reason}")]
    Gone {
        /// The node.
        node: u64,
        /// Why.
        reason: String,
    },
    /// A node says no.
    #[error("node {node}: {text}")]
    Refused {
        /// The node.
        node: u64,
        /// Its words.
        text: String,
    },
    /// What must come did not.
    #[error("{what} after {PATIENCE:?}: {last}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// What was seen last.
        last: String,
    },
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ClusterError {
    let what = what.into();
    move |error| ClusterError::Io { what, error }
}

/// A running node.
struct Process {
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nodes that are processes of this machine. They end with it.
pub struct Cluster {
    program: PathBuf,
    dir: PathBuf,
    running: BTreeMap<u64, Process>,
    /// The node that led when it was last asked.
    leader: u64,
    session: u64,
    sequence: u64,
}

/// The configuration file of a node.
pub fn config_file(dir: &Path, node: u64) -> PathBuf {
    dir.join(format!("node-{node}.toml"))
}

/// Makes the files of a cluster of so many nodes in a directory. They listen on this host.
///
/// # Errors
/// When they cannot be made.
pub fn create(dir: &Path, nodes: u64, host: Ipv4Addr) -> Result<(), ClusterError> {
    std::fs::create_dir_all(dir).map_err(io(dir.display().to_string()))?;
    let cluster = new_cluster_id();
    let members: Vec<Member> =
        (1..).zip(free_addresses(host, nodes)?).map(|(node, address)| Member { node, address }).collect();
    for node in 1..=nodes {
        let mut config = Config::new(cluster, node, format!("node-{node}"), members.clone());
        // Small, so that a demonstration sees the log being trimmed: a real database keeps the defaults.
        (config.segment_mib, config.retain_mib, config.wal_mib_max) = (4, 4, 64);
        (config.spare_segments, config.cache_mib, config.checkpoint_mib) = (1, 4, 4);
        let path = config_file(dir, node);
        let text = toml::to_string(&config).expect("a configuration is always TOML");
        std::fs::write(&path, text).map_err(io(path.display().to_string()))?;
        // As it will be read: with the directory beside the file.
        Node::init(&Config::read(&path).map_err(synod::StartError::from)?)?;
    }
    Ok(())
}

/// A loopback host that no other process on this machine takes for its clusters: it is made of this process's number.
pub fn own_host() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high.wrapping_add(1) & 0x7f, middle, low)
}

/// Addresses that are free, each given once by this process. They lie below the range from which the system gives ports
/// to connections: those come and go, and could hold a node's port when it is started again.
fn free_addresses(host: Ipv4Addr, count: u64) -> Result<Vec<SocketAddr>, ClusterError> {
    const PORTS: Range<u64> = 10_000..32_000;
    static FIRST: OnceLock<u64> = OnceLock::new();
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    let first = *FIRST.get_or_init(|| new_cluster_id() as u64 % (PORTS.end - PORTS.start));
    let address = || {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        SocketAddr::from((host, (PORTS.start + (first + given) % (PORTS.end - PORTS.start)) as u16))
    };
    let free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
    let found: Vec<_> = std::iter::repeat_with(address).take(1000).filter(free).take(count as usize).collect();
    if (found.len() as u64) < count {
        return Err(io(format!("{host} has too few free ports"))(std::io::ErrorKind::AddrInUse.into()));
    }
    Ok(found)
}

impl Cluster {
    /// A cluster whose files are in `dir` ([`create`]). `program` is this package's; no node runs yet.
    pub fn new(program: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), dir: dir.into(), running: BTreeMap::new(), leader: 0, session: 0, sequence: 1 }
    }

    /// The nodes that run.
    pub fn running(&self) -> Vec<u64> {
        self.running.keys().copied().collect()
    }

    /// Starts nodes, and waits until they have.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start(&mut self, nodes: &[u64]) -> Result<(), ClusterError> {
        for node in nodes {
            let log = self.dir.join(format!("node-{node}.log"));
            let log_file =
                std::fs::OpenOptions::new().create(true).append(true).open(&log).map_err(io(format!("{log:?}")))?;
            let mut child = Command::new(&self.program)
                .arg("serve")
                .arg("--config")
                .arg(config_file(&self.dir, *node))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log_file)
                .spawn()
                .map_err(io(format!("{}", self.program.display())))?;
            let requests = child.stdin.take().expect("it was asked for");
            let replies = BufReader::new(child.stdout.take().expect("it was asked for"));
            self.running.insert(*node, Process { child, requests, replies });
        }
        for node in nodes {
            match self.receive(*node)? {
                Reply::Started(_) => {}
                reply => return Err(unexpected(*node, reply)),
            }
        }
        Ok(())
    }

    /// Kills a node by SIGKILL: what it had in memory is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, node: u64) -> Result<(), ClusterError> {
        let process = self.running.remove(&node).ok_or_else(|| gone(node, "it does not run"))?;
        drop(process);
        Ok(())
    }

    /// Asks a node.
    ///
    /// # Errors
    /// When it is not there.
    pub fn ask(&mut self, node: u64, request: &Request) -> Result<Reply, ClusterError> {
        let process = self.running.get_mut(&node).ok_or_else(|| gone(node, "it does not run"))?;
        let line = serde_json::to_string(request).expect("texts and numbers always have their JSON") + "\n";
        let sent = process.requests.write_all(line.as_bytes()).and_then(|()| process.requests.flush());
        sent.map_err(|error| gone(node, &error.to_string()))?;
        self.receive(node)
    }

    fn receive(&mut self, node: u64) -> Result<Reply, ClusterError> {
        let process = self.running.get_mut(&node).ok_or_else(|| gone(node, "it does not run"))?;
        let mut line = String::new();
        match process.replies.read_line(&mut line) {
            Ok(0) => {
                let log = self.dir.join(format!("node-{node}.log"));
                Err(gone(node, &format!("its process has ended; see {}", log.display())))
            }
            Ok(_) => serde_json::from_str(&line).map_err(|error| gone(node, &format!("it said {line:?}: {error}"))),
            Err(error) => Err(gone(node, &error.to_string())),
        }
    }

    /// Asks whoever leads, until the answer is known: for what is safe to repeat.
    fn ask_leader(&mut self, request: &Request) -> Result<Reply, ClusterError> {
        let end = Instant::now() + PATIENCE;
        let mut last = String::from("no node runs");
        while Instant::now() < end {
            let running = self.running();
            let node = if running.contains(&self.leader) { self.leader } else { *running.first().unwrap_or(&0) };
            match self.ask(node, request) {
                Ok(Reply::NotLeader(leader)) => {
                    last = format!("node {node} does not lead");
                    // One that is not known, or was killed: the others are asked in turn.
                    let next = running.iter().find(|other| **other > node).or(running.first());
                    let next = next.copied().unwrap_or(0);
                    self.leader = if running.contains(&leader) && leader != node { leader } else { next };
                }
                Ok(Reply::Again(text)) => last = format!("node {node}: {text}"),
                Ok(reply) => {
                    self.leader = node;
                    return Ok(reply);
                }
                Err(error) => return Err(error),
            }
            std::thread::sleep(PAUSE);
        }
        Err(ClusterError::TimedOut { what: "no leader has answered".into(), last })
    }

    /// The node that leads.
    ///
    /// # Errors
    /// When none does in time.
    pub fn leader(&mut self) -> Result<u64, ClusterError> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            for node in self.running() {
                if self.status(node)?.leads {
                    self.leader = node;
                    return Ok(node);
                }
            }
            std::thread::sleep(PAUSE);
        }
        Err(ClusterError::TimedOut { what: "no node leads".into(), last: format!("{:?} run", self.running()) })
    }

    /// Carries out a transaction on all nodes, once, whoever leads, and gives what became of it.
    ///
    /// # Errors
    /// When no leader answers in time.
    pub fn execute(&mut self, transaction: &Transaction) -> Result<Outcome, ClusterError> {
        if self.session == 0 {
            match self.ask_leader(&Request::OpenSession)? {
                Reply::Session(session) => (self.session, self.sequence) = (session, 1),
                reply => return Err(unexpected(self.leader, reply)),
            }
        }
        let request =
            Request::Execute { session: self.session, sequence: self.sequence, transaction: transaction.clone() };
        match self.ask_leader(&request)? {
            Reply::Outcome(outcome) => {
                self.sequence += 1;
                Ok(outcome)
            }
            reply => Err(unexpected(self.leader, reply)),
        }
    }

    /// Says the last transaction again, as who had no answer would: it does not take effect again.
    ///
    /// # Errors
    /// When no leader answers in time.
    pub fn repeat(&mut self, transaction: &Transaction) -> Result<Outcome, ClusterError> {
        self.sequence -= 1;
        self.execute(transaction)
    }

    /// Asks a node until it does not say "again".
    fn ask_until(&mut self, node: u64, request: &Request) -> Result<Reply, ClusterError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.ask(node, request)? {
                Reply::Again(last) if Instant::now() >= end => {
                    return Err(ClusterError::TimedOut { what: format!("node {node} does not come so far"), last });
                }
                Reply::Again(_) => std::thread::sleep(PAUSE),
                reply => return Ok(reply),
            }
        }
    }

    /// Runs a query on a node's own database.
    ///
    /// # Errors
    /// When it fails, or the node does not come so far in time.
    pub fn query(&mut self, node: u64, statement: &Statement, fresh: Fresh) -> Result<Rows, ClusterError> {
        match self.ask_until(node, &Request::Query { statement: statement.clone(), fresh })? {
            Reply::Rows(rows) => Ok(rows),
            reply => Err(unexpected(node, reply)),
        }
    }

    /// What a node's database holds, in short.
    ///
    /// # Errors
    /// When the node does not come so far in time.
    pub fn content(&mut self, node: u64, fresh: Fresh) -> Result<Content, ClusterError> {
        match self.ask_until(node, &Request::Content { fresh })? {
            Reply::Content(content) => Ok(content),
            reply => Err(unexpected(node, reply)),
        }
    }

    /// How a node stands.
    ///
    /// # Errors
    /// When it is not there.
    pub fn status(&mut self, node: u64) -> Result<Status, ClusterError> {
        match self.ask(node, &Request::Status)? {
            Reply::Status(status) => Ok(status),
            reply => Err(unexpected(node, reply)),
        }
    }

    /// Writes until these nodes' logs no longer have the entry behind `index`: who has no more than that must be given a
    /// checkpoint. `filler` gives the transactions.
    ///
    /// # Errors
    /// When it does not come to that in time.
    pub fn outrun(&mut self, index: u64, mut filler: impl FnMut(u64) -> Transaction) -> Result<u64, ClusterError> {
        let end = Instant::now() + PATIENCE;
        let mut written = 0;
        while Instant::now() < end {
            for _ in 0..16 {
                written += 1;
                self.execute(&filler(written))?;
            }
            let mut first = u64::MAX;
            for node in self.running() {
                first = first.min(self.status(node)?.first);
            }
            if first > index + 1 {
                return Ok(first);
            }
        }
        Err(ClusterError::TimedOut {
            what: format!("the logs are not trimmed behind index {index}"),
            last: format!("{written} transactions written"),
        })
    }
}

fn gone(node: u64, reason: &str) -> ClusterError {
    ClusterError::Gone { node, reason: reason.to_owned() }
}

fn unexpected(node: u64, reply: Reply) -> ClusterError {
    match reply {
        Reply::Failed(text) => ClusterError::Refused { node, text },
        reply => ClusterError::Refused { node, text: format!("it answered {reply:?}") },
    }
}
