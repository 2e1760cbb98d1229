//! One run: nodes, disks and network in one thread, on one clock that only the next event moves.
//!
//! Invariants: all that happens is an event of the queue, ordered by (time, number); all choices come from the plan's
//! seed; events of a process that has ended are dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use synod::simulation::{Introductions, SimMoves, SimPass, SimShard, SimStore, SimStoreOp, Voted};
use synod::{Config, GroupId};
use synod_core::ReplicaId;

use super::agenda::Agenda;
use super::clock::Clock;
use super::datagrams::Datagram;
use super::files::SimFiles;
use super::groups::Groups;
use super::growth::{STRANGER, member};
use super::load::{Load, Step};
use super::lost::{LogState, Lost};
use super::machine::Kind;
use super::members::Members;
use super::network::{ConnId, Network};
use super::observe::Observer;
use super::plan::{MS, Plan, S, around, pick};
use crate::disk::{Dice, OpId, SimDisk};

/// Appends that the clients plan for once a quorum is well, beside two for each group.
const PLANNED_MIN: u64 = 40;
/// Of 100 that are planned, how many must be acknowledged.
const TRAFFIC_PERCENT_MIN: u64 = 80;
/// The pause between a client's operations once a quorum is well is at most this: what is due is to be done soon.
const THINK_WELL_NS: u64 = 10 * MS;
/// So often it is looked at what is settled and can be forgotten, in events.
const SETTLE_EVENTS: u64 = 4096;
/// How long all are well before some are given up, where witnesses have stood in for who was away.
pub(super) const WARM_UP_NS: u64 = 20 * S;
/// How long a healed quorum may take to commit again.
const LIVENESS_NS: u64 = 60 * S;

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Turn { node: usize, shard: usize, life: u64 },
    Tick { node: usize, shard: usize, life: u64 },
    Disk { node: usize, shard: usize, life: u64, op: OpId },
    Store { node: usize, shard: usize, life: u64 },
    Pass { node: usize, life: u64 },
    Dial { link: usize },
    Accept { link: usize, conn: ConnId, lives: [u64; 2] },
    Connected { link: usize, conn: ConnId, lives: [u64; 2] },
    Deliver { conn: ConnId, end: usize },
    Datagram { from: usize, to: usize, shard: usize, datagram: Datagram },
    Closed { conn: ConnId, end: usize },
    Client { at: usize },
    Start { node: usize },
    Fault { kind: &'static str },
    Heal { blocked: Vec<(usize, usize)> },
    Cut { node: usize, for_ns: u64 },
    CrashAgain { node: usize, life: u64, power: bool },
    RollBack { node: usize, shard: usize },
    Unlag { from: usize, to: usize },
    Undrown { from: usize, to: usize },
    Thaw { node: usize },
    Quicken { node: usize },
    Resume { node: usize },
    Unhang { node: usize },
    Room { node: usize },
    Introduce,
}

/// A frame's sequence, and its votes by group uid.
pub(super) type FrameVotes = (u64, Vec<(u128, Voted)>);

/// A process, while it runs.
pub(super) struct Process {
    pub(super) shards: Vec<SimShard>,
    /// Per shard the store of its checkpoints, and what it was asked for.
    pub(super) stores: Vec<(SimStore, VecDeque<SimStoreOp>)>,
    pub(super) turn_due: Vec<bool>,
    pub(super) scheduled: Vec<BTreeSet<OpId>>,
    /// Per shard the votes in frames that are not durable yet, in the order of the log.
    pub(super) votes: Vec<VecDeque<FrameVotes>>,
    /// Shards whose queues are counted after their next turn.
    pub(super) count_due: Vec<bool>,
    /// What shards tell each other of groups that move, and which is told.
    pub(super) passes: VecDeque<(usize, SimPass)>,
    /// Per shard the port at which it takes datagrams; 0: it takes none.
    pub(super) ports: Vec<u16>,
}

pub(super) struct Node {
    pub(super) config: Config,
    /// The nodes that were introduced, as far as it knows: durably.
    pub(super) known: Introductions,
    /// The ids of its logs, by shard: those it began with, and those it has.
    pub(super) founders: Vec<u128>,
    pub(super) replicas: Vec<u128>,
    pub(super) logs: Vec<LogState>,
    pub(super) disks: Vec<SimDisk>,
    /// Their checkpoints.
    pub(super) files: Vec<SimFiles>,
    pub(super) process: Option<Process>,
    /// Counts starts and ends: events of another life are dropped.
    pub(super) life: u64,
    pub(super) boot: u64,
    /// Frames up to here were told durable, per shard.
    pub(super) acknowledged: Vec<u64>,
    pub(super) clock: Clock,
    pub(super) paused: bool,
    /// What was to happen while it was paused.
    pub(super) waiting: Vec<Event>,
    pub(super) hung: bool,
    /// What each operation of a slow disk takes longer.
    pub(super) slow_ns: u64,
    /// It crashes so often more, soon after its next start.
    pub(super) crash_again: usize,
    pub(super) full: bool,
    pub(super) fail_next: bool,
    /// Down or cut off for good: the liveness phase must do without it.
    pub(super) given_up: bool,
    /// The chosen prefix of each group, as last seen.
    pub(super) chosen: Vec<u64>,
    /// Where its groups are.
    pub(super) moves: SimMoves,
}

/// What a run has seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Events that happened.
    pub events: u64,
    /// Simulated nanoseconds.
    pub simulated_ns: u64,
    /// A hash over all events: equal for equal runs.
    pub trace: u64,
    /// Entries whose proposers know that they are committed.
    pub committed: u64,
    /// How often each thing happened.
    pub marks: BTreeMap<&'static str, u64>,
    /// The most that was seen of what is bounded, and the bound.
    pub peaks: BTreeMap<&'static str, (u64, u64)>,
}

/// One cluster on its way through a plan.
pub struct World {
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    pub(super) now_ns: u64,
    pub(super) agenda: Agenda,
    pub(super) nodes: Vec<Node>,
    /// The groups by their uids, once a node has started.
    pub(super) uids: HashMap<u128, GroupId>,
    pub(super) network: Network,
    pub(super) load: Load,
    pub(super) observer: Observer,
    pub(super) members: Members,
    pub(super) groups: Groups,
    pub(super) lost: Lost,
    pub(super) report: Report,
    pub(super) print: bool,
    pub(super) faults_on: bool,
    pub(super) load_on: bool,
    /// Until then nothing further goes wrong: a log that was rolled back is being found out.
    pub(super) calm_until_ns: u64,
}

impl World {
    /// A cluster of new nodes, all about to start.
    pub fn new(plan: Plan, print: bool) -> Self {
        let mut dice = Dice::new(plan.seed ^ 0x5eed);
        let cluster = u128::from(dice.roll()) << 64 | u128::from(dice.roll() | 1);
        let nodes = (0..plan.nodes).map(|at| {
            let named = |of: &usize| *of != STRANGER || at == STRANGER || plan.introduce_ns == 0;
            let members = (0..plan.nodes).filter(named).map(member).collect();
            let mut config = Config::new(cluster, at as u64 + 1, "", members);
            config.groups = plan.groups;
            config.shards = plan.shards;
            config.phase_2 = plan.phase_2;
            config.witnesses = (0..plan.nodes).filter(|at| plan.is_witness(*at)).map(|at| at as u64 + 1).collect();
            config.retain_mib = plan.retain_mib;
            config.cache_mib = plan.cache_mib;
            config.checkpoint_entries = plan.checkpoint_entries;
            config.hold_entries = plan.hold_entries;
            config.learn_mib_per_second = plan.learn_mib;
            if plan.wal_mib_max > 0 {
                config.wal_mib_max = plan.wal_mib_max;
            }
            if plan.sessions_max > 0 {
                config.sessions_max = plan.sessions_max;
            }
            if plan.queue_ms > 0 {
                config.queue_ms_max = plan.queue_ms;
            }
            if plan.session_idle_s > 0 {
                config.session_idle_seconds = plan.session_idle_s;
            }
            let incarnation = u128::from(dice.roll()) << 64 | u128::from(dice.roll());
            let replica = |shard: usize| ReplicaId(incarnation ^ shard as u128).of_kind(plan.is_witness(at)).0;
            let replicas: Vec<u128> = (0..plan.shards).map(replica).collect();
            Node {
                moves: SimMoves::new(&config),
                config,
                known: Introductions::default(),
                founders: replicas.clone(),
                replicas,
                logs: vec![LogState::default(); plan.shards],
                disks: (0..plan.shards).map(|_| SimDisk::new(plan.segment_bytes)).collect(),
                files: (0..plan.shards).map(|_| SimFiles::default()).collect(),
                process: None,
                life: 0,
                boot: 0,
                acknowledged: vec![0; plan.shards],
                clock: Clock::new(&mut dice, plan.drift_ppm),
                paused: false,
                waiting: Vec::new(),
                hung: false,
                slow_ns: 0,
                crash_again: 0,
                full: false,
                fail_next: false,
                given_up: false,
                chosen: vec![0; plan.groups as usize],
            }
        });
        let nodes: Vec<Node> = nodes.collect();
        let load = Load::new(&plan, &mut dice);
        let replicas: Vec<Vec<u128>> = nodes.iter().map(|node| node.replicas.clone()).collect();
        let mut world = Self {
            network: Network::new(plan.nodes, plan.shards),
            observer: Observer::new(&replicas, plan.groups, Kind::of(plan.machines)),
            members: Members::default(),
            groups: Groups::default(),
            lost: Lost::default(),
            plan,
            dice,
            now_ns: 1,
            agenda: Agenda::default(),
            nodes,
            uids: HashMap::new(),
            load,
            report: Report::default(),
            print,
            faults_on: true,
            load_on: true,
            calm_until_ns: 0,
        };
        for group in 1..=world.plan.groups {
            world.begin_group(group);
        }
        for node in 0..world.plan.nodes {
            let after = world.dice.below(50) as u64 * MS;
            world.after(after, Event::Start { node });
        }
        for at in 0..world.plan.clients {
            let after = around(&mut world.dice, MS);
            world.after(after, Event::Client { at });
        }
        for kind in super::plan::FAULTS {
            world.plan_fault(kind);
        }
        if world.plan.introduce_ns > 0 {
            world.after(world.plan.introduce_ns, Event::Introduce);
        }
        world
    }

    /// Runs the plan to its end.
    ///
    /// # Errors
    /// What went wrong, and when.
    pub fn run(mut self) -> Result<Report, String> {
        let result = self.phases();
        self.report.simulated_ns = self.now_ns;
        for (name, count) in std::mem::take(&mut self.load.outcomes) {
            *self.report.marks.entry(name).or_default() += count;
        }
        match result {
            Ok(()) => Ok(self.report),
            Err(what) => Err(format!("at {:.6} s: {what}", self.now_ns as f64 / S as f64)),
        }
    }

    fn phases(&mut self) -> Result<(), String> {
        // Everything may fail.
        self.run_for(self.plan.safety_ns)?;
        self.introduce_to_all();
        if self.plan.witnesses > 0 {
            // Who was away comes back, before others go for good.
            self.calm_until_ns = self.now_ns + WARM_UP_NS;
            self.heal_all();
            self.run_for(WARM_UP_NS)?;
        }
        // A quorum is healed, the rest stays broken for good: the quorum must commit again.
        self.give_up_a_minority()?;
        self.load.probe(&self.plan);
        let acknowledged = self.load.acknowledged();
        let planned = PLANNED_MIN + 2 * self.plan.groups;
        let before: Vec<u64> = (1..=self.plan.groups).map(|group| self.observer.log_len(group)).collect();
        let end = self.now_ns + LIVENESS_NS;
        loop {
            self.run_for(200 * MS)?;
            self.give_votes_back()?;
            let late = (1..=self.plan.groups).find(|group| !self.is_live(*group, before[*group as usize - 1]));
            let done = self.load.acknowledged() - acknowledged;
            let Some(group) = late else {
                // A quorum that serves some proposals and starves the rest is not well.
                if done * 100 >= planned * TRAFFIC_PERCENT_MIN {
                    break;
                }
                if self.now_ns > end {
                    return Err(format!(
                        "only {done} of {planned} appends were acknowledged, although a quorum is well"
                    ));
                }
                continue;
            };
            if self.now_ns > end {
                return Err(format!(
                    "group {group} does not commit, although a quorum is well: {}",
                    self.describe(group)
                ));
            }
        }
        // All is well again: all replicas must agree on all.
        self.load_on = false;
        self.heal_all();
        let end = self.now_ns + LIVENESS_NS;
        loop {
            self.run_for(200 * MS)?;
            self.give_votes_back()?;
            let late = (1..=self.plan.groups).find(|group| !self.is_settled(*group));
            let Some(group) = late else { break };
            if self.now_ns > end {
                return Err(format!("the replicas of group {group} do not converge: {}", self.describe(group)));
            }
        }
        self.settle_groups(end)?;
        while let Err(why) = self.places_agree() {
            if self.now_ns > end {
                return Err(why);
            }
            self.run_for(200 * MS)?;
        }
        self.report.committed = self.observer.judge()?;
        Ok(())
    }

    /// Whether every healthy replica has been given something new of a group.
    fn is_live(&self, group: GroupId, before: u64) -> bool {
        let well = (0..self.plan.nodes).filter(|node| !self.nodes[*node].given_up);
        self.observer.log_len(group) > before
            && well.into_iter().all(|node| self.position(node, group) > before && self.votes(node, group))
    }

    fn is_settled(&self, group: GroupId) -> bool {
        let infos: Vec<_> = (0..self.plan.nodes).filter_map(|node| self.shard(node, group)?.info(group)).collect();
        let log = self.observer.log_len(group);
        infos.len() == self.plan.nodes
            && infos.iter().all(|info| info.next_index == log + 1 && info.chain == infos[0].chain)
            && infos.iter().all(|info| info.applied_slot == infos[0].applied_slot)
            && (0..self.plan.nodes).all(|node| self.position(node, group) == log && self.votes(node, group))
    }

    /// The last index that a node was given.
    fn position(&self, node: usize, group: GroupId) -> u64 {
        if self.plan.is_witness(node) {
            // It applies nothing, and knows how far it has come.
            return self.shard(node, group).and_then(|shard| shard.info(group)).map_or(0, |info| info.next_index - 1);
        }
        self.observer.position(node, group)
    }

    /// Whether the replica of a node has a vote.
    fn votes(&self, node: usize, group: GroupId) -> bool {
        self.shard(node, group).and_then(|shard| shard.configuration(group)).is_some_and(|(_, votes)| votes)
    }

    pub(super) fn describe(&self, group: GroupId) -> String {
        let node = |at: usize| match self.shard(at, group).and_then(|shard| shard.info(group)) {
            Some(info) => format!(
                "node {}{}: {:?} leader {} epoch {} chosen {} applied {} next index {} chain {:x} {}",
                at + 1,
                if self.nodes[at].given_up { " (given up)" } else { "" },
                self.shard(at, group).and_then(|shard| shard.configuration(group)),
                info.leader,
                info.epoch,
                info.chosen_slot,
                info.applied_slot,
                info.next_index,
                info.chain,
                self.shard(at, group).and_then(|shard| shard.machine_state(group)).unwrap_or_default()
            ),
            None => format!("node {}: down", at + 1),
        };
        let kept = |at: usize| Some(format!("node {} {}", at + 1, self.shard(at, group)?.why_kept()?));
        let kept = (0..self.plan.nodes).filter_map(kept);
        let shard = group as usize % self.plan.shards;
        let link = |link: &super::network::Link| {
            let dead = |end: usize| {
                link.believes[end].and_then(|conn| Some(self.network.conns.get(&conn)?.directions[end].dead))
            };
            let [low, high] = link.nodes;
            format!("{}-{} {:?} dead {:?} {:?}", low + 1, high + 1, link.believes, dead(0), dead(1))
        };
        let links = self.network.links.iter().filter(|link| link.shard == shard).map(link);
        (0..self.plan.nodes).map(node).chain(kept).chain(links).collect::<Vec<_>>().join("; ")
    }

    /// The shard of a node that a group is on.
    pub(super) fn shard_of(&self, node: usize, group: GroupId) -> usize {
        self.nodes[node].moves.shard(group)
    }

    /// Whether the group with this uid is on that shard of a node, as far as that is durable.
    pub(super) fn is_on(&self, node: usize, uid: u128, shard: usize) -> bool {
        let configured = self.uids.get(&uid).copied().filter(|name| *name <= self.plan.groups);
        let Node { config, moves, .. } = &self.nodes[node];
        moves.is_on(config, uid, configured, shard)
    }

    pub(super) fn shard(&self, node: usize, group: GroupId) -> Option<&SimShard> {
        Some(&self.nodes[node].process.as_ref()?.shards[self.shard_of(node, group)])
    }

    // ---- the clock ----

    pub(super) fn after(&mut self, ns: u64, event: Event) {
        self.agenda.put(self.now_ns + ns, event);
    }

    /// Runs on, and forgets now and then what is settled.
    pub(super) fn run_for(&mut self, ns: u64) -> Result<(), String> {
        let end = self.now_ns + ns;
        self.run_until(end)?;
        self.settle()
    }

    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.observer.sync_machines();
        for group in 1..=self.plan.groups {
            for node in 0..self.plan.nodes {
                if let Some(info) = self.shard(node, group).and_then(|shard| shard.info(group)) {
                    self.nodes[node].chosen[group as usize - 1] = info.chosen_slot;
                }
            }
            let chosen = self.nodes.iter().map(|node| node.chosen[group as usize - 1]).min().unwrap_or(0);
            if chosen > self.observer.settled(group) {
                self.observer.settle(group, chosen)?;
            }
        }
        Ok(())
    }

    pub(super) fn run_until(&mut self, end_ns: u64) -> Result<(), String> {
        while let Some((at_ns, event)) = self.agenda.next_by(end_ns) {
            self.now_ns = at_ns;
            if self.report.events.is_multiple_of(SETTLE_EVENTS) {
                self.settle()?;
            }
            self.report.events += 1;
            self.note(&event);
            self.happen(event)?;
        }
        self.now_ns = end_ns;
        Ok(())
    }

    pub(super) fn note(&mut self, event: &Event) {
        let (kind, a, b) = match event {
            Event::Turn { node, shard, .. } => (1, *node, *shard),
            Event::Tick { node, shard, .. } => (2, *node, *shard),
            Event::Disk { node, shard, .. } => (3, *node, *shard),
            Event::Dial { link } => (4, *link, 0),
            Event::Accept { link, .. } => (5, *link, 0),
            Event::Connected { link, .. } => (6, *link, 0),
            Event::Deliver { conn, end } => (7, *conn as usize, *end),
            Event::Closed { conn, end } => (8, *conn as usize, *end),
            Event::Client { at } => (9, *at, 0),
            Event::Start { node } => (10, *node, 0),
            Event::Fault { kind } => (11, kind.len(), 0),
            Event::Heal { blocked } => (12, blocked.len(), 0),
            Event::Resume { node } => (13, *node, 0),
            Event::Unhang { node } => (14, *node, 0),
            Event::Room { node } => (15, *node, 0),
            Event::Cut { node, for_ns } => (16, *node, *for_ns as usize),
            Event::CrashAgain { node, .. } => (17, *node, 0),
            Event::Unlag { from, to } => (18, *from, *to),
            Event::Thaw { node } => (19, *node, 0),
            Event::Quicken { node } => (20, *node, 0),
            Event::RollBack { node, shard } => (21, *node, *shard),
            Event::Store { node, shard, .. } => (22, *node, *shard),
            Event::Pass { node, .. } => (23, *node, 0),
            Event::Datagram { from, to, .. } => (24, *from, *to),
            Event::Undrown { from, to } => (25, *from, *to),
            Event::Introduce => (26, STRANGER, 0),
        };
        for number in [self.now_ns, kind, a as u64, b as u64] {
            self.report.trace = (self.report.trace ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if self.print && !matches!(event, Event::Turn { .. } | Event::Tick { .. } | Event::Client { .. }) {
            println!("{:>14.6} ms  {event:?}", self.now_ns as f64 / MS as f64);
        }
    }

    pub(super) fn mark(&mut self, name: &'static str) {
        *self.report.marks.entry(name).or_default() += 1;
    }

    pub(super) fn happen(&mut self, event: Event) -> Result<(), String> {
        let of = match &event {
            Event::Turn { node, life, .. }
            | Event::Tick { node, life, .. }
            | Event::Disk { node, life, .. }
            | Event::Store { node, life, .. }
            | Event::Pass { node, life } => {
                if self.nodes[*node].life != *life {
                    return Ok(());
                }
                Some(*node)
            }
            Event::Deliver { conn, end, .. } | Event::Closed { conn, end } => self.network.node(*conn, 1 - end),
            Event::Datagram { to, .. } => Some(*to),
            _ => None,
        };
        if let Some(node) = of.filter(|node| self.nodes[*node].paused) {
            self.nodes[node].waiting.push(event);
            return Ok(());
        }
        match event {
            Event::Turn { node, shard, .. } => self.turn(node, shard),
            Event::Tick { node, shard, life } => {
                self.check_noticed(node, shard)?;
                self.with_shard(node, shard, SimShard::tick);
                self.pin(node, shard);
                self.read_log(node, shard);
                if let Some(process) = &mut self.nodes[node].process {
                    process.count_due[shard] = true;
                }
                let after = self.plan.tick_ns * 7 / 8 + self.dice.below(self.plan.tick_ns as usize / 4) as u64;
                self.after(after, Event::Tick { node, shard, life });
                Ok(())
            }
            Event::Disk { node, shard, op, .. } => self.disk_done(node, shard, op),
            Event::Store { node, shard, .. } => self.store_done(node, shard),
            Event::Pass { node, .. } => {
                self.pass(node);
                Ok(())
            }
            Event::Dial { link } => {
                self.dial(link);
                Ok(())
            }
            Event::Accept { link, conn, lives } => {
                self.accept(link, conn, lives);
                Ok(())
            }
            Event::Connected { link, conn, lives } => {
                self.connected(link, conn, lives);
                Ok(())
            }
            Event::Deliver { conn, end } => self.deliver(conn, end),
            Event::Datagram { from, to, shard, datagram } => {
                self.take_datagram((from, to), shard, &datagram);
                Ok(())
            }
            Event::Closed { conn, end } => {
                self.closed(conn, 1 - end);
                Ok(())
            }
            Event::Client { at } => self.client(at),
            Event::Start { node } => self.start(node),
            Event::Fault { kind } => self.fault(kind),
            Event::Heal { blocked } => {
                // What is broken for good stays so.
                let healed = if self.faults_on { blocked } else { Vec::new() };
                healed.into_iter().for_each(|(from, to)| self.unblock(from, to));
                Ok(())
            }
            Event::Cut { node, for_ns } => {
                if self.faults_on && !self.is_calm() {
                    self.cut_off(node, for_ns);
                }
                Ok(())
            }
            Event::CrashAgain { node, life, power } => {
                if self.faults_on && !self.is_calm() && self.nodes[node].life == life {
                    self.crash_for_a_while(node, power);
                }
                Ok(())
            }
            Event::RollBack { node, shard } => {
                self.roll_back(node, shard);
                Ok(())
            }
            Event::Introduce => {
                self.introduce();
                Ok(())
            }
            Event::Unlag { from, to } => {
                self.network.set_lag(from, to, 0);
                Ok(())
            }
            Event::Undrown { from, to } => {
                self.network.set_drowned(from, to, false);
                Ok(())
            }
            // What was given up stays as it is.
            Event::Thaw { node } | Event::Unhang { node } if self.nodes[node].given_up => Ok(()),
            Event::Thaw { node } => {
                self.nodes[node].clock.freeze(self.now_ns, false);
                Ok(())
            }
            Event::Quicken { node } => {
                self.quicken(node);
                Ok(())
            }
            Event::Resume { node } => self.resume(node),
            Event::Unhang { node } => {
                self.nodes[node].hung = false;
                (0..self.plan.shards).for_each(|shard| {
                    self.schedule_disk(node, shard);
                    self.schedule_store(node, shard);
                });
                Ok(())
            }
            Event::Room { node } => {
                self.nodes[node].full = false;
                self.nodes[node].disks.iter_mut().for_each(|disk| disk.limit_bytes(u64::MAX));
                self.nodes[node].files.iter().for_each(|files| files.set_full(false));
                Ok(())
            }
        }
    }

    /// Now and then a reader pins the log of a group for a while, or lets it go, and somebody has the log trimmed.
    fn pin(&mut self, node: usize, shard: usize) {
        if self.plan.pin_ns == 0 || !self.faults_on || self.dice.below(20) > 0 {
            return;
        }
        let group = 1 + self.dice.below(self.plan.groups as usize) as u64;
        let (lets_go, ahead) = (self.dice.below(4) == 0, self.dice.below(20) as u64);
        let age_ns = around(&mut self.dice, self.plan.pin_ns).min(5 * self.plan.pin_ns);
        let pinned = self.with_shard(node, shard, |sim| {
            let info = sim.info(group)?;
            let index = info.first_index + ahead;
            if ahead.is_multiple_of(5) {
                // What a reader has pinned is refused; that nothing else of it goes is asserted where segments go.
                sim.trim(group, (info.first_index + info.next_index) / 2, age_ns);
            }
            // What was trimmed is refused, and nothing else is.
            Some(sim.pin(group, "reader", (!lets_go).then_some((index, age_ns))).is_ok())
        });
        if let Some(Some(pinned)) = pinned {
            assert!(pinned, "a reader is refused");
            self.mark(if lets_go { "reader gone" } else { "log pinned" });
        }
    }

    /// Where there are large entries, somebody reads the log now and then.
    fn read_log(&mut self, node: usize, shard: usize) {
        if self.plan.part_bytes == 0 || self.dice.below(10) > 0 {
            return;
        }
        let group = 1 + self.dice.below(self.plan.groups as usize) as u64;
        let of = self.shard_of(node, group);
        let Some(process) = &mut self.nodes[node].process else { return };
        if of == shard {
            self.load.reads.begin_log(group, &mut self.dice, &mut process.shards[shard]);
        }
    }

    // ---- load ----

    /// Whether this step changes a leader instead; seldom once a quorum is to show that it commits.
    fn changes_leader(&mut self) -> bool {
        let of = if self.faults_on { 1000 } else { 100_000 };
        self.plan.transfer_permille > 0 && (self.dice.below(of) as u64) < self.plan.transfer_permille
    }

    /// The leader of a group hands it over to any node, or resigns.
    fn change_leader(&mut self) {
        let group = 1 + self.dice.below(self.plan.groups as usize) as u64;
        let to = 1 + self.dice.below(self.plan.nodes) as u64;
        let timeout_ns = pick(&mut self.dice, &[MS, 50 * MS, S]);
        let resigns = self.dice.below(4) == 0;
        let leads = |node: &usize| !self.nodes[*node].paused && self.leads(*node, group);
        let Some(node) = (0..self.plan.nodes).find(leads) else { return };
        self.mark(if resigns { "leader told to resign" } else { "leader told to hand over" });
        self.with_shard(node, self.shard_of(node, group), |sim| match resigns {
            true => drop(sim.resign(group)),
            false => sim.transfer(group, to, timeout_ns, |_| ()),
        });
    }

    fn leads(&self, node: usize, group: GroupId) -> bool {
        self.shard(node, group).and_then(|shard| shard.epoch(group)).is_some()
    }

    /// A client reads, on any node.
    fn read(&mut self) {
        let node = self.dice.below(self.plan.nodes);
        let group = 1 + self.dice.below(self.plan.groups as usize) as u64;
        let shard = self.shard_of(node, group);
        if self.nodes[node].paused {
            return;
        }
        let now_ns = self.local_ns(node);
        if let Some(process) = &mut self.nodes[node].process {
            process.shards[shard].set_now(now_ns);
            self.load.reads.begin(node, group, &self.plan, &mut self.dice, &mut process.shards[shard]);
            self.with_shard(node, shard, |_| ());
        }
    }

    fn client(&mut self, at: usize) -> Result<(), String> {
        let reads = self.plan.read_percent > 0 && (self.dice.below(100) as u64) < self.plan.read_percent;
        if self.load_on && reads {
            self.read();
        } else if self.load_on && self.changes_leader() {
            self.change_leader();
        } else if self.load_on {
            let nodes = &mut self.nodes;
            fn up(nodes: &mut [Node], node: usize, group: GroupId) -> Option<&mut SimShard> {
                let node = &mut nodes[node];
                if node.paused {
                    return None;
                }
                Some(&mut node.process.as_mut()?.shards[node.moves.shard(group)])
            }
            let left = self.load.maybe_leave(at, &mut self.dice, |node, group| up(nodes, node, group));
            let step =
                self.load.step(at, self.now_ns, &self.plan, &mut self.dice, &mut self.observer, |node, group| {
                    up(nodes, node, group)
                })?;
            let proposed = if let Step::Proposed(node, group) = step { Some((node, group)) } else { None };
            for (node, group) in left.into_iter().chain(proposed) {
                self.with_shard(node, self.shard_of(node, group), |_| ());
            }
            // Nothing that is told before a turn says that a session has ended.
            self.load.take_outcomes(self.now_ns, &self.plan, &mut self.dice, &mut self.observer, |_| 0);
        }
        let mean = if self.faults_on { self.plan.think_ns } else { self.plan.think_ns.min(THINK_WELL_NS) };
        let pause = around(&mut self.dice, mean);
        let quiet = self.plan.safety_ns / 4..self.plan.safety_ns / 4 + self.plan.quiet_ns;
        let next = if quiet.contains(&self.now_ns) { quiet.end - self.now_ns + pause } else { pause };
        // Nobody sleeps through the time in which a quorum is to show that it commits.
        let warm_up_ns = if self.plan.witnesses > 0 { WARM_UP_NS } else { 0 };
        let well_in_ns = (self.plan.safety_ns + warm_up_ns).saturating_sub(self.now_ns) + THINK_WELL_NS;
        let next = if self.faults_on { next.min(well_in_ns) } else { next };
        self.after(next, Event::Client { at });
        Ok(())
    }
}
