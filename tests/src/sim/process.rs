//! The processes of the nodes, and their disks: started over what recovery finds, driven turn by turn, ended by kills and
//! power cuts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use synod::GroupId;
use synod::simulation::{NoShard, SimShard, SimStore, SimStoreOp, configuration_of, configurations, votes};
use synod_core::planted::{Bug, is};
use synod_wal::frame::{FRAME_HEADER_BYTES, FrameHeader};
use synod_wal::{DiskDone, DiskOp, Expect, Verdict, WriteData, recover};

use super::plan::{MS, S, US, around, pick};
use super::world::{Event, Process, World};
use crate::disk::{Dice, OpId, OpKind, Outcome};

/// Operations that a store takes up at most before it tells of the first.
const STORE_OPS_AT_ONCE: usize = 6;
/// One in so many times a node that stores or gives a piece of a checkpoint ends there: a fetch is too short to be hit by
/// chance.
const CRASHES_WHILE_FETCHING: usize = 12;

impl World {
    /// What a node's clock shows.
    pub(super) fn local_ns(&self, node: usize) -> u64 {
        self.nodes[node].clock.now_ns(self.now_ns)
    }

    /// Feeds a shard and asks for a turn.
    pub(super) fn with_shard<R>(
        &mut self,
        node: usize,
        shard: usize,
        event: impl FnOnce(&mut SimShard) -> R,
    ) -> Option<R> {
        let now_ns = self.local_ns(node);
        let life = self.nodes[node].life;
        let process = self.nodes[node].process.as_mut()?;
        process.shards[shard].set_now(now_ns);
        let result = event(&mut process.shards[shard]);
        self.ask_for_turn(node, shard, life);
        Some(result)
    }

    fn ask_for_turn(&mut self, node: usize, shard: usize, life: u64) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if !std::mem::replace(&mut process.turn_due[shard], true) {
            let after = self.dice.below(20 * US as usize) as u64;
            self.after(after, Event::Turn { node, shard, life });
        }
    }

    pub(super) fn turn(&mut self, node: usize, shard: usize) -> Result<(), String> {
        let now_ns = self.local_ns(node);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        process.turn_due[shard] = false;
        process.shards[shard].set_now(now_ns);
        let turned = process.shards[shard].turn();
        if let Err(reason) = turned {
            if process.shards[shard].is_suspect() && self.nodes[node].logs[shard].spoilt.is_some() {
                self.mark("older log noticed by a peer");
                self.crash(node, false);
                self.renew(node, shard);
                let down = around(&mut self.dice, self.plan.down_ns);
                self.after(down, Event::Start { node });
                return Ok(());
            }
            if self.lost.checkpoint && node == self.rotting_node() && reason.contains("restored from a checkpoint") {
                // It has rotted between the look at it and its use: the process ends, loudly, and is started again.
                self.crash_for_a_while(node, false);
                return Ok(());
            }
            return Err(format!("node {} stopped: {reason}", node + 1));
        }
        let (ops, again) = (process.shards[shard].take_disk_ops(), process.shards[shard].wants_turn());
        if again {
            let life = self.nodes[node].life;
            self.ask_for_turn(node, shard, life);
        }
        if !ops.is_empty() {
            for op in ops {
                self.submit(node, shard, op)?;
            }
            self.schedule_disk(node, shard);
        }
        self.submit_to_store(node, shard);
        self.send_passes(node, shard);
        self.send_all(node, shard);
        self.count(node, shard)?;
        self.after_turn(node)
    }

    /// After a tick's turn: no queue may be fuller than it may be.
    fn count(&mut self, node: usize, shard: usize) -> Result<(), String> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        if !std::mem::take(&mut process.count_due[shard]) {
            return Ok(());
        }
        for bound in process.shards[shard].census() {
            let (peak, max) = self.report.peaks.entry(bound.name).or_default();
            (*peak, *max) = ((*peak).max(bound.value), (*max).max(bound.max));
            if bound.value > bound.max {
                return Err(format!(
                    "node {}: {} {}, at most {} are allowed",
                    node + 1,
                    bound.value,
                    bound.name,
                    bound.max
                ));
            }
        }
        self.check_votes(node, shard)
    }

    /// Of one group at a time: what its replica holds in memory must stand for all its durable votes.
    fn check_votes(&self, node: usize, shard: usize) -> Result<(), String> {
        let state = &self.nodes[node];
        let group = 1 + self.now_ns / self.plan.tick_ns % self.plan.groups;
        let judged = state.moves.shard(group) == shard && state.logs[shard].spoilt.is_none();
        match state.process.as_ref().and_then(|process| process.shards[shard].held(group)) {
            Some(held) if judged => self.observer.holds(node, group, &held),
            _ => Ok(()),
        }
    }

    pub(super) fn after_turn(&mut self, node: usize) -> Result<(), String> {
        self.observer.delivered(node)?;
        let (process, moves) = (self.nodes[node].process.as_ref(), &self.nodes[node].moves);
        let applied = |group: GroupId| {
            let info = process.and_then(|process| process.shards[moves.shard(group)].info(group));
            info.map_or(0, |info| info.next_index - 1)
        };
        self.load.take_outcomes(self.now_ns, &self.plan, &mut self.dice, &mut self.observer, applied);
        for name in self.load.reads.take_answers(&self.observer)? {
            self.mark(name);
        }
        Ok(())
    }

    pub(super) fn start(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].process.is_some() || self.nodes[node].given_up {
            return Ok(());
        }
        if !self.may_start(node) {
            self.after(100 * MS, Event::Start { node });
            return Ok(());
        }
        let machines = self.observer.machines(node);
        self.nodes[node].moves = self.nodes[node].moves.started(&self.nodes[node].config);
        let (mut shards, mut stores) = (Vec::new(), Vec::new());
        for shard in 0..self.plan.shards {
            let seed = self.dice.roll();
            let place = self.place(node, shard, seed);
            let mut store = self.open_store(node, shard)?;
            let state = &mut self.nodes[node];
            let mut recovered =
                SimShard::recover(&state.config, place, &mut state.disks[shard], &mut store, Some(&machines));
            if let Err(NoShard::Damaged(_)) = &recovered
                && state.logs[shard].spoilt.is_some()
            {
                self.mark("damaged log set aside");
                let here = (1..=self.plan.groups).filter(|group| self.shard_of(node, *group) == shard);
                let here: Vec<GroupId> = here.collect();
                self.observer.made_again(node, &here);
                self.renew(node, shard);
                let place = self.place(node, shard, seed);
                store = self.open_store(node, shard)?;
                let state = &mut self.nodes[node];
                recovered =
                    SimShard::recover(&state.config, place, &mut state.disks[shard], &mut store, Some(&machines));
            }
            let (mut sim, recovery) =
                recovered.map_err(|error| format!("node {} does not start: {error}", node + 1))?;
            let disk = &mut self.nodes[node].disks[shard];
            if let Some(tail) = recovery.tail_generation().filter(|_| !is(Bug::TailIsNotFlushed)) {
                disk.flush_tail(tail).map_err(|error| format!("the tail cannot be flushed: {error}"))?;
            }
            disk.open();
            if !matches!(recovery.verdict, Verdict::Clean) {
                self.mark("torn tail");
            }
            let last = recovery.next_sequence - 1;
            if !self.begins_spoilt(node, shard, last) {
                self.restarted(node, shard, &sim, last)?;
            }
            self.nodes[node].acknowledged[shard] = recovery.next_sequence - 1;
            sim.introduce(&self.nodes[node].known);
            shards.push(sim);
            stores.push((store, VecDeque::new()));
        }
        let state = &mut self.nodes[node];
        state.life += 1;
        state.boot += 1;
        let life = state.life;
        if let Some(left) = state.crash_again.checked_sub(1) {
            state.crash_again = left;
            let soon = self.dice.below(40) as u64 * MS;
            let power = (self.dice.below(100) as u64) < self.plan.power_percent;
            self.agenda.put(self.now_ns + soon, Event::CrashAgain { node, life, power });
        }
        let state = &mut self.nodes[node];
        state.process = Some(Process {
            shards,
            stores,
            turn_due: vec![false; self.plan.shards],
            scheduled: vec![BTreeSet::new(); self.plan.shards],
            votes: vec![VecDeque::new(); self.plan.shards],
            count_due: vec![false; self.plan.shards],
            passes: VecDeque::new(),
            ports: vec![0; self.plan.shards],
        });
        self.open_lanes(node);
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
    pub(super) fn restarted(&mut self, node: usize, shard: usize, sim: &SimShard, last: u64) -> Result<(), String> {
        let groups = (1..=self.plan.groups).filter(|group| self.shard_of(node, *group) == shard);
        let names: BTreeMap<u128, GroupId> =
            groups.map(|group| (sim.uid(group).expect("it is there"), group)).collect();
        self.uids.extend(&names);
        self.check_made_groups(node, shard, sim)?;
        // What was on its way when the process ended may have become durable all the same.
        let state = &mut self.nodes[node];
        let expect =
            Expect { shard: shard as u32, incarnation: state.replicas[shard], segment_bytes: self.plan.segment_bytes };
        let acknowledged = state.acknowledged[shard];
        let (mut late, mut proposed) = (Vec::new(), Vec::new());
        if acknowledged < last {
            recover(&mut state.disks[shard], expect, &mut |_, sequence, header, body| {
                if sequence > acknowledged {
                    proposed.extend(configuration_of(header, body));
                    late.extend(synod::simulation::vote_of(header, body));
                }
            })
            .map_err(|error| format!("node {}: {error}", node + 1))?;
        }
        proposed.retain(|configuration| self.is_on(node, configuration.uid, shard));
        late.retain(|(uid, _)| self.is_on(node, *uid, shard));
        for configuration in &proposed {
            let group = self.name_of(configuration.uid);
            self.observer.configuration(group, configuration)?;
        }
        for (uid, vote) in late {
            let group = self.name_of(uid);
            self.observer.voted(node, group, vote)?;
        }
        self.made_groups_restarted(node, shard, sim)?;
        for group in names.into_values() {
            let held = sim.held(group).expect("it is there");
            self.observer.restarted(node, group, held.promised, held.chosen, &held.values)?;
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, node: usize, power: bool) {
        let Some(process) = self.nodes[node].process.take() else { return };
        self.mark(if power { "power cut" } else { "process killed" });
        let state = &mut self.nodes[node];
        state.life += 1;
        state.paused = false;
        state.waiting.clear();
        state.hung = false;
        state.slow_ns = 0;
        state.fail_next = false;
        let mut dice = Dice::new(self.dice.roll());
        for (shard, (mut store, ops)) in process.stores.into_iter().enumerate() {
            // The first operations were under way: some of their steps are done.
            let first = ops.into_iter().take_while(|op| op.name() != "restore");
            state.files[shard].end_after(dice.below(20));
            drop(store.carry_out(first.take(1 + dice.below(STORE_OPS_AT_ONCE))));
            state.files[shard].end(power, &mut dice);
        }
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

    pub(super) fn resume(&mut self, node: usize) -> Result<(), String> {
        if std::mem::take(&mut self.nodes[node].paused) {
            for event in std::mem::take(&mut self.nodes[node].waiting) {
                self.happen(event)?;
            }
        }
        Ok(())
    }

    // ---- disks ----

    pub(super) fn submit(&mut self, node: usize, shard: usize, op: DiskOp) -> Result<(), String> {
        if let (DiskOp::Write { generation, data: data @ WriteData::Frame(_), .. }, true) =
            (&op, self.nodes[node].process.is_some())
        {
            let header = FrameHeader::decode(data.bytes(), *generation).expect("it is sealed");
            let records = &data.bytes()[FRAME_HEADER_BYTES..];
            // While a log lies about what it held, nothing that goes into it is a vote.
            let judged = self.nodes[node].logs[shard].spoilt.is_none();
            // And what a group brings with it from another shard was said there.
            let is_here = |uid: u128| judged && self.is_on(node, uid, shard);
            let votes = votes(records).filter(|(uid, _)| is_here(*uid)).collect();
            let proposed: Vec<_> = configurations(records).filter(|of| is_here(of.uid)).collect();
            let process = self.nodes[node].process.as_mut().expect("it was just there");
            process.votes[shard].push_back((header.sequence, votes));
            for proposed in proposed {
                let group = self.name_of(proposed.uid);
                self.observer.configuration(group, &proposed)?;
            }
        }
        if matches!(op, DiskOp::Prepare { recycle: Some(_), .. }) {
            self.mark("segment recycled");
        }
        self.nodes[node].disks[shard].start(op);
        Ok(())
    }

    pub(super) fn schedule_disk(&mut self, node: usize, shard: usize) {
        if self.nodes[node].hung {
            return;
        }
        let (life, slow_ns) = (self.nodes[node].life, self.nodes[node].slow_ns);
        for pending in self.nodes[node].disks[shard].pending() {
            let Some(process) = &mut self.nodes[node].process else { return };
            if pending.ready && process.scheduled[shard].insert(pending.id) {
                let mean = match pending.kind {
                    OpKind::Write { .. } | OpKind::Read { .. } => self.plan.disk_ns,
                    OpKind::Prepare { .. } | OpKind::Discard { .. } => 10 * self.plan.disk_ns,
                };
                let after = around(&mut self.dice, mean + slow_ns);
                self.after(after, Event::Disk { node, shard, life, op: pending.id });
            }
        }
    }

    /// The disks of a node are quick again: what is under way takes no longer than it should.
    pub(super) fn quicken(&mut self, node: usize) {
        self.nodes[node].slow_ns = 0;
        for shard in 0..self.plan.shards {
            if let Some(process) = &mut self.nodes[node].process {
                process.scheduled[shard].clear();
            }
            self.schedule_disk(node, shard);
            self.schedule_store(node, shard);
        }
    }

    // ---- checkpoints ----

    fn open_store(&self, node: usize, shard: usize) -> Result<SimStore, String> {
        let state = &self.nodes[node];
        SimStore::open(&state.config, Box::new(state.files[shard].clone())).map_err(|error| error.to_string())
    }

    fn submit_to_store(&mut self, node: usize, shard: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let ops = process.shards[shard].take_store_ops();
        let waiting = &mut process.stores[shard].1;
        let idle = waiting.is_empty();
        waiting.extend(ops);
        if idle {
            self.schedule_store(node, shard);
        }
    }

    /// The store carries out its next operations, unless its disk hangs.
    pub(super) fn schedule_store(&mut self, node: usize, shard: usize) {
        let state = &self.nodes[node];
        let Some(process) = state.process.as_ref().filter(|_| !state.hung) else { return };
        if !process.stores[shard].1.is_empty() {
            let (life, mean) = (state.life, 4 * self.plan.disk_ns + state.slow_ns);
            let after = around(&mut self.dice, mean);
            self.after(after, Event::Store { node, shard, life });
        }
    }

    pub(super) fn store_done(&mut self, node: usize, shard: usize) -> Result<(), String> {
        let state = &mut self.nodes[node];
        let Some(process) = state.process.as_mut().filter(|_| !state.hung) else { return Ok(()) };
        let (store, ops) = &mut process.stores[shard];
        let at_once = ops.len().min(1 + self.dice.below(STORE_OPS_AT_ONCE));
        let ops: Vec<SimStoreOp> = ops.drain(..at_once).collect();
        let names: Vec<&str> = ops.iter().map(SimStoreOp::name).collect();
        let writes = |name: &&str| ["write", "append", "finish"].contains(name);
        if names.iter().any(writes) && std::mem::take(&mut state.fail_next) {
            state.files[shard].fail_next();
        }
        let dones = store.carry_out(ops);
        let moves = names.iter().any(|name| ["append", "read"].contains(name));
        for name in names {
            match name {
                "write" => self.mark("checkpoint written"),
                "finish" => self.mark("checkpoint fetched"),
                "restore" => self.mark("machine restored"),
                "read" => self.mark("checkpoint read"),
                _ => {}
            }
        }
        for done in dones {
            self.with_shard(node, shard, |sim| sim.on_store(done));
        }
        self.schedule_store(node, shard);
        let may_crash = moves && self.faults_on && self.plan.crash_ns > 0 && !self.is_calm();
        if may_crash && self.dice.below(CRASHES_WHILE_FETCHING) == 0 {
            let power = self.dice.below(4) == 0;
            self.crash_for_a_while(node, power);
        }
        Ok(())
    }

    pub(super) fn disk_done(&mut self, node: usize, shard: usize, op: OpId) -> Result<(), String> {
        let state = &mut self.nodes[node];
        let Some(process) = &mut state.process else { return Ok(()) };
        // An operation of a hung disk goes on when the disk does; one of a slow disk may have been done sooner.
        if !process.scheduled[shard].remove(&op) || state.hung {
            return Ok(());
        }
        let is_write =
            state.disks[shard].pending().iter().any(|p| p.id == op && matches!(p.kind, OpKind::Write { .. }));
        let mut dropped = false;
        let outcome = if is_write && std::mem::take(&mut state.fail_next) {
            if self.dice.below(3) == 0 {
                // The bytes get there, and the sync fails.
                state.disks[shard].advance(op);
                dropped = true;
                Outcome::Eio
            } else {
                pick(&mut self.dice, &[Outcome::Eio, Outcome::Short(512), Outcome::NoSpace])
            }
        } else {
            Outcome::Done
        };
        let mut done = state.disks[shard].finish(op, outcome);
        if let Some(DiskDone::Written { result, .. }) = &mut done
            && is(Bug::FailedWritesCount)
        {
            *result = Ok(());
        }
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
                self.mark(if dropped { "sync failed" } else { "disk failed" });
                // The log is written and read past the page cache: what a failed sync has dropped is not seen again.
                self.crash(node, dropped);
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
    pub(super) fn became_durable(&mut self, node: usize, shard: usize, through: u64) -> Result<(), String> {
        loop {
            let process = self.nodes[node].process.as_mut().expect("it runs");
            if process.votes[shard].front().is_none_or(|(sequence, _)| *sequence > through) {
                return Ok(());
            }
            let (_, votes) = process.votes[shard].pop_front().expect("it is the front");
            for (uid, vote) in votes {
                let group = self.name_of(uid);
                self.observer.voted(node, group, vote)?;
            }
        }
    }
}
