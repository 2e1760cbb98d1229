//! The processes of the nodes, and their disks: started over what recovery finds, driven turn by turn, ended by kills and
//! power cuts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use synod::simulation::{SimPlace, SimShard, votes};
use synod::GroupId;
use synod_core::planted::{Bug, is};
use synod_wal::frame::{FRAME_HEADER_BYTES, FrameHeader};
use synod_wal::{DiskDone, DiskOp, Expect, Verdict, WriteData, recover};

use super::plan::{S, US, around, pick};
use super::world::{Event, Process, World};
use crate::disk::{Dice, OpId, OpKind, Outcome};

impl World {
    /// The clock of a node's process: from its start on, and off by its drift.
    pub(super) fn local_ns(&self, node: usize) -> u64 {
        let node = &self.nodes[node];
        let started = node.process.as_ref().map_or(0, |process| process.started_ns);
        let elapsed = (self.now_ns - started) as i128;
        (elapsed + elapsed * i128::from(node.drift_ppm) / 1_000_000) as u64 + 1
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
        if !std::mem::replace(&mut process.turn_due[shard], true) {
            let after = self.dice.below(20 * US as usize) as u64;
            self.after(after, Event::Turn { node, shard, life });
        }
        Some(result)
    }

    pub(super) fn turn(&mut self, node: usize, shard: usize) -> Result<(), String> {
        let now_ns = self.local_ns(node);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        process.turn_due[shard] = false;
        process.shards[shard].set_now(now_ns);
        let turned = process.shards[shard].turn();
        if let Err(reason) = turned {
            return Err(format!("node {} stopped: {reason}", node + 1));
        }
        let ops = process.shards[shard].take_disk_ops();
        if !ops.is_empty() {
            for op in ops {
                self.submit(node, shard, op);
            }
            self.schedule_disk(node, shard);
        }
        self.send_all(node, shard);
        self.after_turn(node)
    }

    pub(super) fn after_turn(&mut self, node: usize) -> Result<(), String> {
        self.observer.delivered(node)?;
        self.load.take_outcomes(self.now_ns, &self.plan, &mut self.dice, &mut self.observer);
        Ok(())
    }

    pub(super) fn start(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].process.is_some() || self.nodes[node].given_up {
            return Ok(());
        }
        let machines = self.observer.machines(node);
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
            if let Some(tail) = recovery.tail_generation().filter(|_| !is(Bug::TailIsNotFlushed)) {
                disk.flush_tail(tail).map_err(|error| format!("the tail cannot be flushed: {error}"))?;
            }
            disk.open();
            if !matches!(recovery.verdict, Verdict::Clean) {
                self.mark("torn tail");
            }
            self.restarted(node, shard, &sim, recovery.next_sequence - 1)?;
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
    pub(super) fn restarted(
        &mut self,
        node: usize,
        shard: usize,
        sim: &SimShard,
        last: u64,
    ) -> Result<(), String> {
        let groups = (1..=self.plan.groups).filter(|group| *group as usize % self.plan.shards == shard);
        let names: BTreeMap<u128, GroupId> =
            groups.map(|group| (sim.uid(group).expect("it is there"), group)).collect();
        self.uids.extend(&names);
        // What was on its way when the process ended may have become durable all the same.
        let state = &mut self.nodes[node];
        let expect =
            Expect { shard: shard as u32, incarnation: state.incarnation, segment_bytes: self.plan.segment_bytes };
        let acknowledged = state.acknowledged[shard];
        let mut late = Vec::new();
        if acknowledged < last {
            recover(&mut state.disks[shard], expect, &mut |_, sequence, header, _| {
                if sequence > acknowledged {
                    late.extend(synod::simulation::vote_of(header));
                }
            })
            .map_err(|error| format!("node {}: {error}", node + 1))?;
        }
        for (uid, vote) in late {
            self.observer.voted(node, names[&uid], vote)?;
        }
        for group in names.into_values() {
            let held = sim.held(group).expect("it is there");
            self.observer.restarted(node, group, held.promised, held.chosen, &held.values)?;
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, node: usize, power: bool) {
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

    pub(super) fn resume(&mut self, node: usize) -> Result<(), String> {
        if std::mem::take(&mut self.nodes[node].paused) {
            for event in std::mem::take(&mut self.nodes[node].waiting) {
                self.happen(event)?;
            }
        }
        Ok(())
    }

    // ---- disks ----

    pub(super) fn submit(&mut self, node: usize, shard: usize, op: DiskOp) {
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

    pub(super) fn schedule_disk(&mut self, node: usize, shard: usize) {
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

    pub(super) fn disk_done(&mut self, node: usize, shard: usize, op: OpId) -> Result<(), String> {
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
    pub(super) fn became_durable(&mut self, node: usize, shard: usize, through: u64) -> Result<(), String> {
        loop {
            let process = self.nodes[node].process.as_mut().expect("it runs");
            if process.votes[shard].front().is_none_or(|(sequence, _)| *sequence > through) {
                return Ok(());
            }
            let (_, votes) = process.votes[shard].pop_front().expect("it is the front");
            for (uid, vote) in votes {
                self.observer.voted(node, self.uids[&uid], vote)?;
            }
        }
    }
}
