//! `synod local`: a cluster of node processes, in the foreground.
//!
//! The nodes die with this process, however it ends. One that ends alone is not started again: this is for trying what
//! a cluster does without it.

mod layout;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use synod::client::Client;
use synod::{Cluster, NodeId};

use crate::error::{ToolError, at};
use crate::survey::Survey;
use crate::terminal::{complain, say};
use layout::{Layout, Wanted};

const EXAMPLES: &str = "\
Examples:
  synod local --nodes 3 --dir demo                 the first time: makes a cluster, then runs it
  synod local --dir demo                           later: runs the same cluster again
  synod local --nodes 5 --dir big --groups 64 --shards 2

While it runs, in another shell:
  synod status --cluster demo/cluster.toml
  kill -9 $(cat demo/node-1.pid)                   the others go on without it
  synod serve --config demo/node-1.toml            and it comes back

Files: DIR/cluster.toml is for clients; DIR/node-N.toml is a node's configuration, DIR/node-N.log
its log, DIR/node-N.pid its process while it runs, DIR/node-N its data.";

const NODES: u64 = 3;
const GROUPS: u64 = 1;
const SHARDS: usize = 1;
/// How long a node may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Run a cluster on this machine, in the foreground
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How many nodes a new cluster gets [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=15))]
    nodes: Option<u64>,
    /// The cluster's directory, made if it is not there
    #[arg(long)]
    dir: PathBuf,
    /// How many groups a new cluster gets, numbered from 1 [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    groups: Option<u64>,
    /// How many shards each node of a new cluster gets, at most one per group [default: 1]
    #[arg(long)]
    shards: Option<usize>,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let wanted = Wanted { nodes: args.nodes, groups: args.groups, shards: args.shards };
    let layout = Layout::open(&args.dir, &wanted)?;
    // Before the first node, so that none can end unseen.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD])
        .map_err(|error| ToolError::Io { what: "cannot wait for signals".into(), error })?;
    let mut nodes = Nodes::default();
    for member in &layout.cluster.members {
        nodes.start(&layout, member.node)?;
    }
    let made = if layout.new { "a new" } else { "the" };
    say(format_args!("{made} cluster of {} nodes starts in {}\n", nodes.running.len(), layout.dir.display()));
    announce_leaders(layout.cluster.clone(), layout.cluster_file());
    for signal in signals.forever() {
        if signal != SIGCHLD {
            nodes.stop();
            return Ok(());
        }
        nodes.reap();
        if nodes.running.is_empty() {
            break;
        }
    }
    Err(ToolError::Failed("all nodes are gone".into()))
}

/// Says, once, when every group has a leader. The thread ends with the process, if not before.
fn announce_leaders(cluster: Cluster, file: PathBuf) {
    const PAUSE: Duration = Duration::from_millis(100);
    std::thread::spawn(move || {
        let mut client = Client::new(cluster.clone());
        while Survey::take(&mut client, &cluster).leaderless(&cluster).is_some() {
            std::thread::sleep(PAUSE);
        }
        let file = file.display();
        let last = cluster.members.last().map_or(1, |member| member.node);
        say(format_args!(
            "every group has a leader; the cluster file is {file}\n\
             try, in another shell:\n  \
             synod status --cluster {file}\n  \
             printf 'hello\\n' | synod append --cluster {file} --group 1\n  \
             synod tail --cluster {file} --node {last} --group 1 --until-end\n\
             Ctrl-C stops all nodes.\n"
        ));
    });
}

/// The node processes. Dropping it stops them.
#[derive(Default)]
struct Nodes {
    running: Vec<Running>,
}

struct Running {
    node: NodeId,
    child: Child,
    log_file: PathBuf,
    pid_file: PathBuf,
}

impl Nodes {
    /// Only to be called on the main thread: a child dies with the thread that made it.
    fn start(&mut self, layout: &Layout, node: NodeId) -> Result<(), ToolError> {
        let (log_file, pid_file) = (layout.log_file(node), layout.pid_file(node));
        let program = std::env::current_exe()
            .map_err(|error| ToolError::Io { what: "cannot find this program's own file".into(), error })?;
        let log = OpenOptions::new().create(true).append(true).open(&log_file).map_err(at(&log_file))?;
        let child = Command::new(&program)
            .args(["serve", "--parent", &std::process::id().to_string(), "--config"])
            .arg(layout.config_file(node))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(at(&log_file))?)
            .stderr(log)
            .spawn()
            .map_err(at(&program))?;
        let pid = child.id();
        self.running.push(Running { node, child, log_file, pid_file: pid_file.clone() });
        fs::write(&pid_file, format!("{pid}\n")).map_err(at(&pid_file))
    }

    /// Says which nodes have ended.
    fn reap(&mut self) {
        self.running.retain_mut(|running| {
            let ended = match running.child.try_wait() {
                Ok(None) => return true,
                Ok(Some(status)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            running.forget_pid();
            let why = last_complaint(&running.log_file).map_or(String::new(), |line| format!(": {line}"));
            complain(format_args!(
                "node {} has ended ({ended}){why}; it is not restarted, its log is {}",
                running.node,
                running.log_file.display()
            ));
            false
        });
    }

    /// Stops all nodes: cleanly, or with force when that takes too long.
    fn stop(&mut self) {
        for running in &self.running {
            // It may have ended already.
            let _ = kill_process(Pid::from_child(&running.child), Signal::TERM);
        }
        let start = Instant::now();
        for mut running in self.running.drain(..) {
            while let Ok(None) = running.child.try_wait() {
                if STOP_PATIENCE <= start.elapsed() {
                    complain(format_args!("node {} does not stop and is killed", running.node));
                    let _ = running.child.kill();
                    let _ = running.child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            running.forget_pid();
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    /// The number may be another process's by now: nobody should kill it by this file.
    fn forget_pid(&self) {
        let _ = fs::remove_file(&self.pid_file);
    }
}

/// The node's own last word, if that is why it ended.
fn last_complaint(log_file: &Path) -> Option<String> {
    // A log may be long, a complaint is one line.
    const LINE_BYTES_MAX: u64 = 4096;
    let mut log = File::open(log_file).ok()?;
    let bytes = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(bytes.saturating_sub(LINE_BYTES_MAX))).ok()?;
    let mut end = Vec::new();
    log.take(LINE_BYTES_MAX).read_to_end(&mut end).ok()?;
    String::from_utf8_lossy(&end).lines().last()?.strip_prefix("synod: ").map(str::to_owned)
}
