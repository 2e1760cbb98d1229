//! One run: nodes, disks and network in one thread, on one clock that only the next event moves.
//!
//! Invariants: all that happens is an event of the queue, ordered by (time, number); all choices come from the plan's
//! seed; events of a process that has ended are dropped.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use synod::simulation::{SimPlace, SimShard, Voted, votes};
use synod::{Config, GroupId, MachineFactory, Member, StateMachine};
use synod_wal::frame::{FRAME_HEADER_BYTES, FrameHeader};
use synod_wal::{DiskDone, DiskOp, Expect, Verdict, WriteData, recover};

use super::load::{Load, Step};
use super::network::{ConnId, Network};
use super::observe::{Machine, Observer};
use super::plan::{MS, Plan, S, US, around, pick};
use crate::disk::{Dice, OpId, OpKind, Outcome, SimDisk};

/// How long a healed quorum may take to commit again.
const LIVENESS_NS: u64 = 60 * S;

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    Turn { node: usize, shard: usize, life: u64 },
    Tick { node: usize, shard: usize, life: u64 },
    Disk { node: usize, shard: usize, life: u64, op: OpId },
    Dial { link: usize },
    Accept { link: usize, conn: ConnId, lives: [u64; 2] },
    Connected { link: usize, conn: ConnId, lives: [u64; 2] },
    Deliver { conn: ConnId, end: usize, bytes: Vec<u8> },
    Closed { conn: ConnId, end: usize },
    Client { at: usize },
    Start { node: usize },
    Fault { kind: &'static str },
    Heal { blocked: Vec<(usize, usize)> },
    Resume { node: usize },
    Unhang { node: usize },
    Room { node: usize },
}

/// A frame's sequence, and its votes by group uid.
type FrameVotes = (u64, Vec<(u128, Voted)>);

/// A process, while it runs.
struct Process {
    shards: Vec<SimShard>,
    turn_due: Vec<bool>,
    scheduled: Vec<BTreeSet<OpId>>,
    /// Per shard the votes in frames that are not durable yet, in the order of the log.
    votes: Vec<VecDeque<FrameVotes>>,
    started_ns: u64,
}

struct Node {
    config: Config,
    incarnation: u128,
    disks: Vec<SimDisk>,
    process: Option<Process>,
    /// Counts starts and ends: events of another life are dropped.
    life: u64,
    boot: u64,
    /// Frames up to here were told durable, per shard.
    acknowledged: Vec<u64>,
    drift_ppm: i64,
    paused: bool,
    /// What was to happen while it was paused.
    waiting: Vec<Event>,
    hung: bool,
    full: bool,
    fail_next: bool,
    /// Down or cut off for good: the liveness phase must do without it.
    given_up: bool,
    /// The chosen prefix of each group, as last seen.
    chosen: Vec<u64>,
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
}

/// One cluster on its way through a plan.
pub struct World {
    plan: Plan,
    dice: Dice,
    now_ns: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    nodes: Vec<Node>,
    network: Network,
    load: Load,
    observer: Observer,
    report: Report,
    print: bool,
    faults_on: bool,
    load_on: bool,
}

impl World {
    /// A cluster of new nodes, all about to start.
    pub fn new(plan: Plan, print: bool) -> Self {
        let mut dice = Dice::new(plan.seed ^ 0x5eed);
        let cluster = u128::from(dice.roll()) << 64 | u128::from(dice.roll() | 1);
        let member = |at: usize| Member {
            node: at as u64 + 1,
            address: format!("127.0.0.1:{}", 1000 + at).parse().expect("an address"),
        };
        let members: Vec<Member> = (0..plan.nodes).map(member).collect();
        let nodes = (0..plan.nodes).map(|at| {
            let mut config = Config::new(cluster, at as u64 + 1, "", members.clone());
            config.groups = plan.groups;
            config.shards = plan.shards;
            config.retain_mib = plan.retain_mib;
            config.cache_mib = 1;
            Node {
                config,
                incarnation: u128::from(dice.roll()) << 64 | u128::from(dice.roll()),
                disks: (0..plan.shards).map(|_| SimDisk::new(plan.segment_bytes)).collect(),
                process: None,
                life: 0,
                boot: 0,
                acknowledged: vec![0; plan.shards],
                drift_ppm: dice.below(2 * plan.drift_ppm as usize + 1) as i64 - plan.drift_ppm as i64,
                paused: false,
                waiting: Vec::new(),
                hung: false,
                full: false,
                fail_next: false,
                given_up: false,
                chosen: vec![0; plan.groups as usize],
            }
        });
        let nodes: Vec<Node> = nodes.collect();
        let load = Load::new(&plan, &mut dice);
        let mut world = Self {
            network: Network::new(plan.nodes, plan.shards),
            observer: Observer::new(plan.nodes, plan.groups),
            plan,
            dice,
            now_ns: 1,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            nodes,
            load,
            report: Report::default(),
            print,
            faults_on: true,
            load_on: true,
        };
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
        // A quorum is healed, the rest stays broken for good: the quorum must commit again.
        self.give_up_a_minority();
        self.load.probe(&self.plan);
        let before: Vec<u64> = (1..=self.plan.groups).map(|group| self.observer.log_len(group)).collect();
        let end = self.now_ns + LIVENESS_NS;
        loop {
            self.run_for(200 * MS)?;
            let late = (1..=self.plan.groups).find(|group| !self.is_live(*group, before[*group as usize - 1]));
            let Some(group) = late else { break };
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
            let late = (1..=self.plan.groups).find(|group| !self.is_settled(*group));
            let Some(group) = late else { break };
            if self.now_ns > end {
                return Err(format!("the replicas of group {group} do not converge: {}", self.describe(group)));
            }
        }
        self.report.committed = self.observer.judge()?;
        Ok(())
    }

    /// Whether every healthy replica has been given something new of a group.
    fn is_live(&self, group: GroupId, before: u64) -> bool {
        let well = (0..self.plan.nodes).filter(|node| !self.nodes[*node].given_up);
        self.observer.log_len(group) > before
            && well.into_iter().all(|node| self.observer.position(node, group) > before)
    }

    fn is_settled(&self, group: GroupId) -> bool {
        let infos: Vec<_> = (0..self.plan.nodes).filter_map(|node| self.shard(node, group)?.info(group)).collect();
        let log = self.observer.log_len(group);
        infos.len() == self.plan.nodes
            && infos.iter().all(|info| info.next_index == log + 1 && info.chain == infos[0].chain)
            && infos.iter().all(|info| info.applied_slot == infos[0].applied_slot)
            && (0..self.plan.nodes).all(|node| self.observer.position(node, group) == log)
    }

    fn describe(&self, group: GroupId) -> String {
        let node = |at: usize| match self.shard(at, group).and_then(|shard| shard.info(group)) {
            Some(info) => format!(
                "node {}: leader {} epoch {} chosen {} applied {} next index {}",
                at + 1,
                info.leader,
                info.epoch,
                info.chosen_slot,
                info.applied_slot,
                info.next_index
            ),
            None => format!("node {}: down", at + 1),
        };
        (0..self.plan.nodes).map(node).collect::<Vec<_>>().join("; ")
    }

    fn shard(&self, node: usize, group: GroupId) -> Option<&SimShard> {
        Some(&self.nodes[node].process.as_ref()?.shards[group as usize % self.plan.shards])
    }

    // ---- the clock ----

    fn after(&mut self, ns: u64, event: Event) {
        self.next_event += 1;
        self.events.insert(self.next_event, event);
        self.queue.push(Reverse((self.now_ns + ns, self.next_event)));
    }

    /// Runs on, and forgets now and then what is settled.
    fn run_for(&mut self, ns: u64) -> Result<(), String> {
        let end = self.now_ns + ns;
        while self.now_ns < end {
            self.run_until(end.min(self.now_ns + 200 * MS))?;
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
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

    fn run_until(&mut self, end_ns: u64) -> Result<(), String> {
        while let Some(Reverse((at_ns, number))) = self.queue.peek().copied()
            && at_ns <= end_ns
        {
            self.queue.pop();
            self.now_ns = at_ns;
            let event = self.events.remove(&number).expect("every number has its event");
            self.report.events += 1;
            self.note(&event);
            self.happen(event)?;
        }
        self.now_ns = end_ns;
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        let (kind, a, b) = match event {
            Event::Turn { node, shard, .. } => (1, *node, *shard),
            Event::Tick { node, shard, .. } => (2, *node, *shard),
            Event::Disk { node, shard, .. } => (3, *node, *shard),
            Event::Dial { link } => (4, *link, 0),
            Event::Accept { link, .. } => (5, *link, 0),
            Event::Connected { link, .. } => (6, *link, 0),
            Event::Deliver { conn, bytes, .. } => (7, *conn as usize, bytes.len()),
            Event::Closed { conn, end } => (8, *conn as usize, *end),
            Event::Client { at } => (9, *at, 0),
            Event::Start { node } => (10, *node, 0),
            Event::Fault { kind } => (11, kind.len(), 0),
            Event::Heal { blocked } => (12, blocked.len(), 0),
            Event::Resume { node } => (13, *node, 0),
            Event::Unhang { node } => (14, *node, 0),
            Event::Room { node } => (15, *node, 0),
        };
        for number in [self.now_ns, kind, a as u64, b as u64] {
            self.report.trace = (self.report.trace ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if self.print && !matches!(event, Event::Turn { .. } | Event::Tick { .. } | Event::Client { .. }) {
            let text = format!("{event:?}");
            println!("{:>14.6} ms  {}", self.now_ns as f64 / MS as f64, &text[..text.len().min(160)]);
        }
    }

    fn mark(&mut self, name: &'static str) {
        *self.report.marks.entry(name).or_default() += 1;
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        let of = match &event {
            Event::Turn { node, life, .. } | Event::Tick { node, life, .. } | Event::Disk { node, life, .. } => {
                if self.nodes[*node].life != *life {
                    return Ok(());
                }
                Some(*node)
            }
            Event::Deliver { conn, end, .. } | Event::Closed { conn, end } => self.network.node(*conn, 1 - end),
            _ => None,
        };
        if let Some(node) = of.filter(|node| self.nodes[*node].paused) {
            self.nodes[node].waiting.push(event);
            return Ok(());
        }
        match event {
            Event::Turn { node, shard, .. } => self.turn(node, shard),
            Event::Tick { node, shard, life } => {
                self.with_shard(node, shard, SimShard::tick);
                let after = self.plan.tick_ns + self.dice.below(MS as usize / 2) as u64;
                self.after(after, Event::Tick { node, shard, life });
                Ok(())
            }
            Event::Disk { node, shard, op, .. } => self.disk_done(node, shard, op),
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
            Event::Deliver { conn, end, bytes } => self.deliver(conn, end, bytes),
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
            Event::Resume { node } => self.resume(node),
            Event::Unhang { node } => {
                self.nodes[node].hung = false;
                (0..self.plan.shards).for_each(|shard| self.schedule_disk(node, shard));
                Ok(())
            }
            Event::Room { node } => {
                self.nodes[node].full = false;
                self.nodes[node].disks.iter_mut().for_each(|disk| disk.limit_bytes(u64::MAX));
                Ok(())
            }
        }
    }

    // ---- processes ----

    /// The clock of a node's process: from its start on, and off by its drift.
    fn local_ns(&self, node: usize) -> u64 {
        let node = &self.nodes[node];
        let started = node.process.as_ref().map_or(0, |process| process.started_ns);
        let elapsed = (self.now_ns - started) as i128;
        (elapsed + elapsed * i128::from(node.drift_ppm) / 1_000_000) as u64 + 1
    }

    /// Feeds a shard and asks for a turn.
    fn with_shard<R>(&mut self, node: usize, shard: usize, event: impl FnOnce(&mut SimShard) -> R) -> Option<R> {
        let now_ns = self.local_ns(node);
        let life = self.nodes[node].life;
        let process = self.nodes[node].process.as_mut()?;
        process.shards[shard].set_now(now_ns);
        let result = event(&mut process.shards[shard]);
        if !std::mem::replace(&mut process.turn_due[shard], true) {
            let after = self.dice.below(20 * US as usize) as u64;
            self.after(after, Event::Turn { node, shard, life });
        }
        Some(result)
    }

    fn turn(&mut self, node: usize, shard: usize) -> Result<(), String> {
        let now_ns = self.local_ns(node);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        process.turn_due[shard] = false;
        process.shards[shard].set_now(now_ns);
        let turned = process.shards[shard].turn();
        if let Err(reason) = turned {
            return Err(format!("node {} stopped: {reason}", node + 1));
        }
        let ops = process.shards[shard].take_disk_ops();
        for op in ops {
            self.submit(node, shard, op);
        }
        self.schedule_disk(node, shard);
        self.send_all(node, shard);
        self.after_turn(node)
    }

    fn after_turn(&mut self, node: usize) -> Result<(), String> {
        self.observer.delivered(node)?;
        self.load.take_outcomes(self.now_ns, &self.plan, &mut self.dice, &mut self.observer);
        Ok(())
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].process.is_some() || self.nodes[node].given_up {
            return Ok(());
        }
        let held: BTreeMap<GroupId, _> =
            (1..=self.plan.groups).map(|group| (group, self.observer.held(node, group))).collect();
        let machines: MachineFactory =
            Arc::new(move |group| Some(Box::new(Machine::new(Arc::clone(&held[&group]))) as Box<dyn StateMachine>));
        let mut shards = Vec::new();
        for shard in 0..self.plan.shards {
            let state = &mut self.nodes[node];
            let place = SimPlace {
                shard,
                incarnation: state.incarnation,
                segment_bytes: self.plan.segment_bytes,
                seed: self.dice.roll(),
            };
            let disk = &mut state.disks[shard];
            let (sim, recovery) = SimShard::recover(&state.config, place, disk, Some(&machines))
                .map_err(|error| format!("node {} does not start: {error}", node + 1))?;
            if let Some(tail) = recovery.tail_generation() {
                disk.flush_tail(tail).map_err(|error| format!("the tail cannot be flushed: {error}"))?;
            }
            disk.open();
            if !matches!(recovery.verdict, Verdict::Clean) {
                self.mark("torn tail");
            }
            self.restarted(node, shard, &sim)?;
            self.nodes[node].acknowledged[shard] = recovery.next_sequence - 1;
            shards.push(sim);
        }
        let state = &mut self.nodes[node];
        state.life += 1;
        state.boot += 1;
        let life = state.life;
        state.process = Some(Process {
            shards,
            turn_due: vec![false; self.plan.shards],
            scheduled: vec![BTreeSet::new(); self.plan.shards],
            votes: vec![VecDeque::new(); self.plan.shards],
            started_ns: self.now_ns,
        });
        for group in 1..=self.plan.groups {
            self.observer.starts(node, group)?;
        }
        for shard in 0..self.plan.shards {
            self.with_shard(node, shard, |shard| shard.start(2));
            let after = self.dice.below(self.plan.tick_ns as usize) as u64;
            self.after(after, Event::Tick { node, shard, life });
        }
        for link in 0..self.network.links.len() {
            if self.network.links[link].nodes[1] == node {
                self.redial(link);
            }
        }
        Ok(())
    }

    /// Compares what a shard has recovered with the votes that were durable.
    fn restarted(&mut self, node: usize, shard: usize, sim: &SimShard) -> Result<(), String> {
        let groups = (1..=self.plan.groups).filter(|group| *group as usize % self.plan.shards == shard);
        let names: BTreeMap<u128, GroupId> =
            groups.map(|group| (sim.uid(group).expect("it is there"), group)).collect();
        // What was on its way when the process ended may have become durable all the same.
        let state = &mut self.nodes[node];
        let expect =
            Expect { shard: shard as u32, incarnation: state.incarnation, segment_bytes: self.plan.segment_bytes };
        let acknowledged = state.acknowledged[shard];
        let mut late = Vec::new();
        recover(&mut state.disks[shard], expect, &mut |_, sequence, header, _| {
            if sequence > acknowledged {
                late.extend(synod::simulation::vote_of(header));
            }
        })
        .map_err(|error| format!("node {}: {error}", node + 1))?;
        for (uid, vote) in late {
            self.observer.voted(node, names[&uid], vote)?;
        }
        for group in names.into_values() {
            let held = sim.held(group).expect("it is there");
            self.observer.restarted(node, group, held.promised, held.chosen, &held.values)?;
        }
        Ok(())
    }

    fn crash(&mut self, node: usize, power: bool) {
        let Some(_process) = self.nodes[node].process.take() else { return };
        self.mark(if power { "power cut" } else { "process killed" });
        let state = &mut self.nodes[node];
        state.life += 1;
        state.paused = false;
        state.waiting.clear();
        state.hung = false;
        state.fail_next = false;
        let mut dice = Dice::new(self.dice.roll());
        for disk in &mut state.disks {
            if power { disk.crash(&mut dice) } else { disk.kill(&mut dice) }
        }
        self.observer.crashed(node, |kept| dice.below(kept));
        self.load.node_ended(node, self.now_ns, &self.plan, &mut self.dice, &mut self.observer);
        // The others learn of it from the system, or not at all.
        for link in 0..self.network.links.len() {
            let Some(end) = self.network.links[link].nodes.iter().position(|at| *at == node) else { continue };
            self.network.links[link].dialing &= end == 0;
            if let Some(conn) = self.network.links[link].believes[end].take() {
                if !power {
                    let delay = around(&mut self.dice, self.plan.delay_ns);
                    self.after(delay, Event::Closed { conn, end });
                }
                self.network.forget_dead(conn);
            }
        }
    }

    fn resume(&mut self, node: usize) -> Result<(), String> {
        if std::mem::take(&mut self.nodes[node].paused) {
            for event in std::mem::take(&mut self.nodes[node].waiting) {
                self.happen(event)?;
            }
        }
        Ok(())
    }

    // ---- disks ----

    fn submit(&mut self, node: usize, shard: usize, op: DiskOp) {
        let state = &mut self.nodes[node];
        if let (DiskOp::Write { generation, data: data @ WriteData::Frame(_), .. }, Some(process)) =
            (&op, &mut state.process)
        {
            let header = FrameHeader::decode(data.bytes(), *generation).expect("it is sealed");
            let votes = votes(&data.bytes()[FRAME_HEADER_BYTES..]).collect();
            process.votes[shard].push_back((header.sequence, votes));
        }
        if matches!(op, DiskOp::Prepare { recycle: Some(_), .. }) {
            self.mark("segment recycled");
        }
        self.nodes[node].disks[shard].start(op);
    }

    fn schedule_disk(&mut self, node: usize, shard: usize) {
        if self.nodes[node].hung {
            return;
        }
        let life = self.nodes[node].life;
        for pending in self.nodes[node].disks[shard].pending() {
            let Some(process) = &mut self.nodes[node].process else { return };
            if pending.ready && process.scheduled[shard].insert(pending.id) {
                let mean = match pending.kind {
                    OpKind::Write { .. } | OpKind::Read { .. } => self.plan.disk_ns,
                    OpKind::Prepare { .. } | OpKind::Discard { .. } => 10 * self.plan.disk_ns,
                };
                let after = around(&mut self.dice, mean);
                self.after(after, Event::Disk { node, shard, life, op: pending.id });
            }
        }
    }

    fn disk_done(&mut self, node: usize, shard: usize, op: OpId) -> Result<(), String> {
        let state = &mut self.nodes[node];
        let Some(process) = &mut state.process else { return Ok(()) };
        if state.hung {
            // It goes on when the disk does.
            process.scheduled[shard].remove(&op);
            return Ok(());
        }
        process.scheduled[shard].remove(&op);
        let is_write =
            state.disks[shard].pending().iter().any(|p| p.id == op && matches!(p.kind, OpKind::Write { .. }));
        let outcome = if is_write && std::mem::take(&mut state.fail_next) {
            pick(&mut self.dice, &[Outcome::Eio, Outcome::Short(512), Outcome::NoSpace])
        } else {
            Outcome::Done
        };
        let done = state.disks[shard].finish(op, outcome);
        self.schedule_disk(node, shard);
        let Some(done) = done else { return Ok(()) };
        if matches!(&done, DiskDone::Prepared { result: Err(_), .. }) {
            self.mark("disk full");
        }
        match self.with_shard(node, shard, |sim| (sim.on_disk(done), sim.durable_through())) {
            Some((Ok(()), durable)) => {
                self.nodes[node].acknowledged[shard] = durable;
                self.became_durable(node, shard, durable)
            }
            Some((Err(_), _)) if outcome != Outcome::Done => {
                // The process ends, loudly, and is started again.
                self.mark("disk failed");
                self.crash(node, false);
                let down = around(&mut self.dice, self.plan.down_ns);
                self.after(down, Event::Start { node });
                Ok(())
            }
            Some((Err(_), _)) if self.nodes[node].full => {
                // A full disk can keep a node from starting: it is tried again.
                self.mark("no room to start");
                self.crash(node, false);
                let down = around(&mut self.dice, S);
                self.after(down, Event::Start { node });
                Ok(())
            }
            Some((Err(reason), _)) => Err(format!("node {} stopped: {reason}", node + 1)),
            None => Ok(()),
        }
    }

    /// Shows the observer the votes that are durable now.
    fn became_durable(&mut self, node: usize, shard: usize, through: u64) -> Result<(), String> {
        loop {
            let process = self.nodes[node].process.as_mut().expect("it runs");
            if process.votes[shard].front().is_none_or(|(sequence, _)| *sequence > through) {
                return Ok(());
            }
            let (_, votes) = process.votes[shard].pop_front().expect("it is the front");
            for (uid, vote) in votes {
                let group = self.group_of(node, shard, uid);
                self.observer.voted(node, group, vote)?;
            }
        }
    }

    fn group_of(&self, node: usize, shard: usize, uid: u128) -> GroupId {
        let sim = &self.nodes[node].process.as_ref().expect("it runs").shards[shard];
        (1..=self.plan.groups).find(|group| sim.uid(*group) == Some(uid)).expect("a record is of a group of its shard")
    }

    // ---- connections ----

    fn redial(&mut self, link: usize) {
        if !std::mem::replace(&mut self.network.links[link].dialing, true) {
            let after = MS + around(&mut self.dice, 10 * MS);
            self.after(after, Event::Dial { link });
        }
    }

    fn dial(&mut self, link: usize) {
        let nodes = self.network.links[link].nodes;
        let [low, high] = nodes;
        self.network.links[link].dialing = false;
        if self.nodes[high].process.is_none() || self.network.links[link].believes[1].is_some() {
            return;
        }
        let reachable = self.network.passes(low, high) && self.network.passes(high, low);
        if !reachable || self.nodes[low].process.is_none() || self.nodes[low].paused || self.nodes[high].paused {
            self.network.links[link].dialing = true;
            let after = around(&mut self.dice, 50 * MS);
            return self.after(after, Event::Dial { link });
        }
        self.network.links[link].dialing = true;
        let conn = self.network.connect(link);
        let lives = nodes.map(|node| self.nodes[node].life);
        let after = around(&mut self.dice, self.plan.delay_ns);
        self.after(after, Event::Accept { link, conn, lives });
    }

    fn accept(&mut self, link: usize, conn: ConnId, lives: [u64; 2]) {
        let nodes = self.network.links[link].nodes;
        if self.nodes[nodes[0]].life == lives[0] {
            let (node, shard) = (nodes[0], self.network.links[link].shard);
            let (peer, boot) = (nodes[1] as u64 + 1, self.nodes[nodes[1]].boot);
            if let Some(old) = self.network.links[link].believes[0].replace(conn) {
                self.mark("connection replaced");
                let after = around(&mut self.dice, self.plan.delay_ns);
                self.after(after, Event::Closed { conn: old, end: 0 });
                self.network.forget_dead(old);
            }
            self.with_shard(node, shard, |sim| sim.peer_connected(peer, conn, boot));
        }
        let after = around(&mut self.dice, self.plan.delay_ns);
        if let Some(state) = self.network.conns.get_mut(&conn) {
            // Nothing overtakes the answer.
            state.directions[0].last_ns = self.now_ns + after;
        }
        self.after(after, Event::Connected { link, conn, lives });
    }

    fn connected(&mut self, link: usize, conn: ConnId, lives: [u64; 2]) {
        let nodes = self.network.links[link].nodes;
        if self.nodes[nodes[1]].life != lives[1] {
            return self.network.forget_dead(conn);
        }
        self.network.links[link].dialing = false;
        let accepted = self.network.links[link].believes[0] == Some(conn);
        if !accepted || !self.network.passes(nodes[0], nodes[1]) {
            // The answer is lost: the other end believes in a connection that nobody uses.
            self.network.forget_dead(conn);
            return self.redial(link);
        }
        let (node, shard) = (nodes[1], self.network.links[link].shard);
        let (peer, boot) = (nodes[0] as u64 + 1, self.nodes[nodes[0]].boot);
        self.network.links[link].believes[1] = Some(conn);
        self.with_shard(node, shard, |sim| sim.peer_connected(peer, conn, boot));
    }

    fn send_all(&mut self, node: usize, shard: usize) {
        for link in 0..self.network.links.len() {
            let state = &self.network.links[link];
            if state.shard != shard {
                continue;
            }
            let Some(end) = state.nodes.iter().position(|at| *at == node) else { continue };
            if let Some(conn) = state.believes[end] {
                self.pump(node, shard, conn, end);
            }
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        for conn in process.shards[shard].take_closed() {
            self.mark("connection closed by a shard");
            self.close(node, conn);
        }
    }

    /// Moves what a shard has to send into the network.
    fn pump(&mut self, node: usize, shard: usize, conn: ConnId, end: usize) {
        let room = self.network.room(conn, end);
        let Some(process) = &mut self.nodes[node].process else { return };
        let bytes = process.shards[shard].take_output(conn, room);
        if bytes.is_empty() {
            return;
        }
        let Some(state) = self.network.conns.get_mut(&conn) else { return };
        let direction = &mut state.directions[end];
        direction.bytes += bytes.len();
        let arrives = (self.now_ns + around(&mut self.dice, self.plan.delay_ns)).max(direction.last_ns + 1);
        direction.last_ns = arrives;
        self.after(arrives - self.now_ns, Event::Deliver { conn, end, bytes });
    }

    fn deliver(&mut self, conn: ConnId, end: usize, bytes: Vec<u8>) -> Result<(), String> {
        let Some(state) = self.network.conns.get_mut(&conn) else { return Ok(()) };
        let link = state.link;
        let nodes = self.network.links[link].nodes;
        let (from, to, shard) = (nodes[end], nodes[1 - end], self.network.links[link].shard);
        if !self.network.passes(from, to) || !self.network.conns[&conn].directions[end].held.is_empty() {
            self.network.conns.get_mut(&conn).expect("it is there").directions[end].held.push(bytes);
            return Ok(());
        }
        let state = self.network.conns.get_mut(&conn).expect("it is there");
        state.directions[end].bytes -= bytes.len();
        if self.network.links[link].believes[1 - end] != Some(conn) {
            let after = around(&mut self.dice, self.plan.delay_ns);
            self.after(after, Event::Closed { conn, end: 1 - end });
            return Ok(());
        }
        let mut decoder = std::mem::take(&mut state.decoders[1 - end]);
        let mut rest = &bytes[..];
        let mut bad = None;
        while !rest.is_empty() && bad.is_none() {
            let space = decoder.space();
            let taken = space.len().min(rest.len()).min(1 + self.dice.below(rest.len()));
            space[..taken].copy_from_slice(&rest[..taken]);
            decoder.filled(taken);
            rest = &rest[taken..];
            bad = self
                .with_shard(to, shard, |sim| {
                    loop {
                        match decoder.next() {
                            Ok(Some(frame)) => sim.receive(conn, &frame),
                            Ok(None) => return None,
                            Err(error) => return Some(error),
                        }
                    }
                })
                .flatten();
        }
        if let Some(state) = self.network.conns.get_mut(&conn) {
            state.decoders[1 - end] = decoder;
        }
        if let Some(error) = bad {
            return Err(format!("node {} sent node {} no frame: {error}", from + 1, to + 1));
        }
        // The socket has room again.
        if self.network.links[link].believes[end] == Some(conn) && !self.nodes[from].paused {
            self.pump(from, shard, conn, end);
        }
        Ok(())
    }

    /// A node closes its end of a connection.
    fn close(&mut self, node: usize, conn: ConnId) {
        let Some(state) = self.network.conns.get(&conn) else { return };
        let link = state.link;
        let Some(end) = self.network.links[link].nodes.iter().position(|at| *at == node) else { return };
        if self.network.links[link].believes[end] == Some(conn) {
            let delay = around(&mut self.dice, self.plan.delay_ns);
            self.after(delay, Event::Closed { conn, end });
            self.closed(conn, end);
        }
    }

    /// An end learns that its connection is over.
    fn closed(&mut self, conn: ConnId, end: usize) {
        let Some(state) = self.network.conns.get(&conn) else { return };
        let link = state.link;
        let nodes = self.network.links[link].nodes;
        if !self.network.passes(nodes[1 - end], nodes[end]) {
            self.network.conns.get_mut(&conn).expect("it is there").close_held[end] = true;
            return;
        }
        if self.network.links[link].believes[end] == Some(conn) {
            self.network.links[link].believes[end] = None;
            let shard = self.network.links[link].shard;
            self.with_shard(nodes[end], shard, |sim| sim.disconnected(conn));
            if end == 1 {
                self.redial(link);
            }
        }
        self.network.forget_dead(conn);
    }

    fn unblock(&mut self, from: usize, to: usize) {
        if self.network.passes(from, to) {
            return;
        }
        self.network.set_blocked(from, to, false);
        let ids: Vec<ConnId> = self.network.conns.keys().copied().collect();
        for conn in ids {
            let Some(state) = self.network.conns.get_mut(&conn) else { continue };
            let nodes = self.network.links[state.link].nodes;
            for end in 0..2 {
                if (nodes[end], nodes[1 - end]) != (from, to) {
                    continue;
                }
                let held = std::mem::take(&mut state.directions[end].held);
                let mut at = self.now_ns;
                for bytes in held {
                    at += 1 + self.dice.below(US as usize) as u64;
                    self.next_event += 1;
                    self.events.insert(self.next_event, Event::Deliver { conn, end, bytes });
                    self.queue.push(Reverse((at, self.next_event)));
                }
                state.directions[end].last_ns = state.directions[end].last_ns.max(at);
                if std::mem::take(&mut state.close_held[1 - end]) {
                    self.next_event += 1;
                    self.events.insert(self.next_event, Event::Closed { conn, end });
                    self.queue.push(Reverse((at + 1, self.next_event)));
                }
            }
        }
    }

    // ---- load ----

    fn client(&mut self, at: usize) -> Result<(), String> {
        if self.load_on {
            let (nodes, shards) = (&mut self.nodes, self.plan.shards);
            let step =
                self.load.step(at, self.now_ns, &self.plan, &mut self.dice, &mut self.observer, |node, group| {
                    let node = &mut nodes[node];
                    if node.paused {
                        return None;
                    }
                    Some(&mut node.process.as_mut()?.shards[group as usize % shards])
                })?;
            if let Step::Proposed(node, group) = step {
                self.with_shard(node, group as usize % self.plan.shards, |_| ());
            }
            self.load.take_outcomes(self.now_ns, &self.plan, &mut self.dice, &mut self.observer);
        }
        let pause = self.load.pause(&self.plan, &mut self.dice);
        self.after(pause, Event::Client { at });
        Ok(())
    }

    // ---- faults ----

    fn plan_fault(&mut self, kind: &'static str) {
        let mean = *self.plan.mean_ns(kind).expect("a kind of fault");
        if mean > 0 {
            let after = around(&mut self.dice, mean);
            self.after(after, Event::Fault { kind });
        }
    }

    fn fault(&mut self, kind: &'static str) -> Result<(), String> {
        if !self.faults_on {
            return Ok(());
        }
        self.plan_fault(kind);
        let node = self.dice.below(self.plan.nodes);
        let stall = around(&mut self.dice, self.plan.stall_ns);
        match kind {
            "crash" => {
                let all = self.dice.below(12) == 0;
                let power = (self.dice.below(100) as u64) < self.plan.power_percent;
                for node in if all { 0..self.plan.nodes } else { node..node + 1 } {
                    if self.nodes[node].process.is_some() {
                        self.crash(node, power);
                        let down = around(&mut self.dice, self.plan.down_ns);
                        self.after(down, Event::Start { node });
                    }
                }
            }
            "partition" => self.partition(),
            "break" if !self.network.conns.is_empty() => {
                self.mark("connection broken");
                let at = self.dice.below(self.network.conns.len());
                let conn = *self.network.conns.keys().nth(at).expect("it is below the length");
                let end = self.dice.below(2);
                let link = self.network.conns[&conn].link;
                let node = self.network.links[link].nodes[end];
                if !self.nodes[node].paused {
                    self.close(node, conn);
                }
            }
            "pause" if self.nodes[node].process.is_some() && !self.nodes[node].paused => {
                self.mark("node paused");
                self.nodes[node].paused = true;
                self.after(stall, Event::Resume { node });
            }
            "hang" if !self.nodes[node].hung => {
                self.mark("disk hung");
                self.nodes[node].hung = true;
                self.after(stall, Event::Unhang { node });
            }
            "disk-error" => self.nodes[node].fail_next = true,
            "full" => {
                self.nodes[node].full = true;
                for disk in &mut self.nodes[node].disks {
                    let bytes = disk.bytes();
                    disk.limit_bytes(bytes);
                }
                self.after(4 * stall, Event::Room { node });
            }
            _ => {}
        }
        Ok(())
    }

    fn partition(&mut self) {
        self.mark("partition");
        let nodes = self.plan.nodes;
        let cut = 1 + self.dice.below((1usize << nodes) - 1);
        let lone = self.dice.below(nodes);
        let shape = self.dice.below(4);
        let mut blocked = Vec::new();
        for from in 0..nodes {
            for to in 0..nodes {
                let side = |node: usize| cut >> node & 1;
                let blocks = from != to
                    && match shape {
                        // Two sides.
                        0 => side(from) != side(to),
                        // One way only.
                        1 => side(from) == 0 && side(to) == 1,
                        // One node cannot be heard.
                        2 => from == lone,
                        // Any directions.
                        _ => self.dice.below(3) == 0,
                    };
                if blocks && self.network.passes(from, to) {
                    self.network.set_blocked(from, to, true);
                    blocked.push((from, to));
                }
            }
        }
        let after = around(&mut self.dice, self.plan.partition_for_ns);
        self.after(after, Event::Heal { blocked });
    }

    /// From now on a quorum is well; the others are down, or stay cut off in one direction or both, for good.
    fn give_up_a_minority(&mut self) {
        self.faults_on = false;
        self.heal_nodes();
        let mut order: Vec<usize> = (0..self.plan.nodes).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.dice.below(at + 1));
        }
        let minority = (self.plan.nodes - 1) / 2;
        for node in order.into_iter().take(self.dice.below(minority + 1)) {
            self.mark("node given up");
            self.nodes[node].given_up = true;
            match self.dice.below(4) {
                0 => self.crash(node, true),
                way => {
                    for other in (0..self.plan.nodes).filter(|other| *other != node) {
                        self.network.set_blocked(node, other, way != 1);
                        self.network.set_blocked(other, node, way != 2);
                    }
                }
            }
        }
        for node in 0..self.plan.nodes {
            if !self.nodes[node].given_up {
                self.after(1, Event::Start { node });
            }
        }
    }

    /// Ends partitions, pauses, hangs and full disks.
    fn heal_nodes(&mut self) {
        for from in 0..self.plan.nodes {
            for to in 0..self.plan.nodes {
                self.unblock(from, to);
            }
        }
        for node in 0..self.plan.nodes {
            self.nodes[node].fail_next = false;
            self.after(1, Event::Resume { node });
            self.after(1, Event::Unhang { node });
            self.after(1, Event::Room { node });
        }
    }

    fn heal_all(&mut self) {
        for node in &mut self.nodes {
            node.given_up = false;
        }
        self.heal_nodes();
        for node in 0..self.plan.nodes {
            self.after(2, Event::Start { node });
        }
    }
}
