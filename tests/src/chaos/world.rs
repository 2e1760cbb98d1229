//! A run under way: nodes, clients, and what was broken so far. Plans work through it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use synod::client::Client;
use synod::{Cluster, GroupId, NodeId};

use super::cluster::{Ground, Nodes};
use super::fault::Faults;
use super::load::Load;
use super::record::Records;
use super::{GROUPS, Judged, NODES, Plan, Report, Settings, Trouble, judge};
use crate::PATIENCE;
use crate::disk::Dice;

/// How often it is looked after everything.
const LOOK: Duration = Duration::from_millis(5);
/// A node that is asked who leads has so long to answer: it may stand still.
const ASK: Duration = Duration::from_millis(150);
const PROGRESS: Duration = Duration::from_secs(1);
/// What every group must commit for "it goes on" to be true.
const ENTRIES_MIN: u64 = 8;

/// A run under way. Its fields are dropped in this order: clients, nodes, then what they stood on.
pub(super) struct World {
    load: Load,
    pub(super) nodes: Nodes,
    pub(super) ground: Ground,
    pub(super) records: Arc<Records>,
    pub(super) faults: Faults,
    pub(super) cluster: Cluster,
    asks: Client,
    dir: PathBuf,
    began: Instant,
    told: Option<Instant>,
    /// When no further fault is begun, however few there were.
    deadline: Instant,
}

impl World {
    /// Starts nodes and clients.
    pub(super) fn start(settings: &Settings, dir: PathBuf, ground: Ground) -> Result<Self, Trouble> {
        let mut nodes = Nodes::init(&settings.program, &dir, &ground)?;
        for node in 1..=NODES {
            nodes.start(node)?;
        }
        let cluster = Cluster { members: ground.members.clone(), ..ground.configs[0].cluster() };
        let records = Arc::new(Records::new());
        let began = Instant::now();
        Ok(Self {
            load: Load::start(&cluster, &records),
            nodes,
            ground,
            records,
            faults: Faults::default(),
            asks: Client::new(cluster.clone()),
            cluster,
            dir,
            began,
            told: settings.progress.then_some(began),
            deadline: began,
        })
    }

    /// Waits until all nodes serve and every group commits.
    pub(super) fn settle(&mut self) -> Result<(), Trouble> {
        self.await_nodes()?;
        self.await_progress("a first commit in every group", 0)?;
        self.records.listen();
        Ok(())
    }

    /// So many faults are to come, in about so much time.
    pub(super) fn plan(&mut self, faults: u64, time: Duration) {
        self.faults.planned = faults;
        self.deadline = Instant::now() + 4 * time + PATIENCE;
    }

    /// Whether there is time for a further fault.
    pub(super) fn has_time(&self) -> bool {
        Instant::now() < self.deadline
    }

    /// Lets time pass.
    pub(super) fn sleep(&mut self, time: Duration) -> Result<(), Trouble> {
        let end = Instant::now() + time;
        loop {
            self.look()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// Waits for what must come.
    pub(super) fn wait_for(
        &mut self,
        what: &str,
        mut ready: impl FnMut(&mut Self) -> Result<bool, Trouble>,
    ) -> Result<(), Trouble> {
        let began = Instant::now();
        while !ready(self)? {
            if PATIENCE < began.elapsed() {
                let evidence = self.evidence();
                return Err(Trouble::Stalled { what: what.into(), waited: began.elapsed(), evidence });
            }
            self.look()?;
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits until every group has committed something more, and all together so much.
    pub(super) fn await_progress(&mut self, what: &str, entries: u64) -> Result<(), Trouble> {
        let before = self.records.acknowledged();
        self.wait_for(what, |world| {
            let now = world.records.acknowledged();
            let more: Vec<u64> = now.iter().zip(&before).map(|(now, before)| now - before).collect();
            Ok(more.iter().all(|more| ENTRIES_MIN <= *more) && entries <= more.iter().sum())
        })
    }

    /// Waits until every node that runs serves.
    pub(super) fn await_nodes(&mut self) -> Result<(), Trouble> {
        self.wait_for("all nodes to be ready", |world| {
            Ok(world.nodes.running().into_iter().all(|node| world.nodes.is_ready(node)))
        })
    }

    /// Starts the nodes that do not run.
    pub(super) fn start_all(&mut self) -> Result<(), Trouble> {
        let running = self.nodes.running();
        (1..=NODES).filter(|node| !running.contains(node)).try_for_each(|node| self.start_node(node))
    }

    /// Starts a node that does not run.
    pub(super) fn start_node(&mut self, node: NodeId) -> Result<(), Trouble> {
        self.nodes.start(node)
    }

    /// The node that leads a group, if one says so.
    pub(super) fn leader(&mut self, group: GroupId) -> Option<NodeId> {
        let asks = &mut self.asks;
        self.nodes.running().into_iter().find(|node| {
            // A first answer may fail for the connection to the process before.
            let info = asks.info(*node, ASK).or_else(|_| asks.info(*node, ASK));
            let groups = info.map(|info| info.groups).unwrap_or_default();
            groups.iter().any(|g| g.group == group && g.leader == *node && 0 < g.epoch)
        })
    }

    /// The leader of any group, or any node if there is none.
    pub(super) fn some_leader(&mut self, dice: &mut Dice) -> NodeId {
        let group = 1 + dice.below(GROUPS as usize) as u64;
        self.leader(group).unwrap_or_else(|| some_node(dice))
    }

    /// Looks after everything once.
    fn look(&mut self) -> Result<(), Trouble> {
        if interrupted().load(Ordering::Relaxed) {
            return Err(Trouble::Interrupted);
        }
        if let Some(wrong) = self.records.first_wrong() {
            return Err(Trouble::Violation(wrong));
        }
        if self.told.is_some_and(|told| PROGRESS < told.elapsed()) {
            self.told = Some(Instant::now());
            eprintln!(
                "{:6.1} s: {} of {} faults, {} entries acknowledged",
                self.began.elapsed().as_secs_f64(),
                self.faults.done,
                self.faults.planned,
                self.records.acknowledged().iter().sum::<u64>()
            );
        }
        self.nodes.check()
    }

    /// All that helps to see why something did not come.
    pub(super) fn evidence(&mut self) -> String {
        let mut text = format!("  acknowledged by group: {:?}\n", self.records.acknowledged());
        // A client of its own: it has no connections to processes that are gone.
        let mut asks = Client::new(self.cluster.clone());
        for node in 1..=NODES {
            match asks.info(node, Duration::from_secs(1)) {
                Ok(info) => info.groups.iter().for_each(|group| text += &format!("  node {node}: {group:?}\n")),
                Err(error) => text += &format!("  {error}\n"),
            }
        }
        text + &self.nodes.tails()
    }

    /// Judges what was told. Nothing is broken any more.
    pub(super) fn judge(&mut self) -> Result<Judged, Trouble> {
        if self.faults.done * 100 < self.faults.planned * super::FAULTS_PERCENT_MIN {
            return Err(Trouble::TooFewFaults { done: self.faults.done, planned: self.faults.planned });
        }
        self.await_nodes()?;
        self.await_progress("every group to commit when all is whole again", 0)?;
        // What was acknowledged is on disk: all die once more.
        self.nodes.weigh();
        for node in 1..=NODES {
            self.nodes.kill(node);
        }
        self.start_all()?;
        self.await_nodes()?;
        self.await_progress("every group to commit after all nodes have died", 0)?;
        self.load.finish();
        self.look()?;
        self.nodes.panics()?;
        self.nodes.weigh();
        let resident = self.nodes.resident_bytes;
        if super::RESIDENT_BYTES_MAX < resident {
            return Err(Trouble::Violation(format!("a node had {} MiB of memory", resident >> 20)));
        }
        judge::judge(self)
    }

    /// What the run has shown.
    pub(super) fn report(&self, plan: Plan, judged: Judged, took: Duration) -> Report {
        Report {
            plan,
            faults: self.faults.clone(),
            told: self.records.told(),
            judged,
            resident_bytes: self.nodes.resident_bytes,
            silence: self.records.silence(),
            took,
        }
    }

    /// Writes the histories in the form that Porcupine reads.
    pub(super) fn write_histories(&self) {
        for group in 1..=GROUPS {
            let history = self.records.history(group);
            let text = crate::check::porcupine::export(&history, &judge::seen(&history));
            let file = self.dir.join(format!("history-{group}.txt"));
            if let Err(error) = std::fs::write(&file, text) {
                eprintln!("chaos: {}: {error}", file.display());
            }
        }
    }
}

/// Any node.
pub(super) fn some_node(dice: &mut Dice) -> NodeId {
    1 + dice.below(NODES as usize) as u64
}

/// A time from a range of milliseconds.
pub(super) fn millis(dice: &mut Dice, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(range.start + dice.below((range.end - range.start) as usize) as u64)
}

/// Set by SIGINT and SIGTERM: a run that is to end takes with it what it has made in the system.
fn interrupted() -> &'static AtomicBool {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).expect("the system takes a handler");
        }
        flag
    })
}
