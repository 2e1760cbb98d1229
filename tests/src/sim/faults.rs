//! What goes wrong, when it does, and how it is made well again.

use synod::simulation::HeldVotes;

use super::clock::JUMP_NS;
use super::machine::Kind;
use super::plan::around;
use super::world::{Event, World};
use crate::check::oracle::quorum_of;

/// A clock may run off by so many millionths.
const DRIFT_PPM_MAX: u64 = 50_000;

impl World {
    pub(super) fn plan_fault(&mut self, kind: &'static str) {
        let mean = *self.plan.mean_ns(kind).expect("a kind of fault");
        if mean > 0 {
            let after = around(&mut self.dice, mean);
            self.after(after, Event::Fault { kind });
        }
    }

    pub(super) fn fault(&mut self, kind: &'static str) -> Result<(), String> {
        if !self.faults_on {
            return Ok(());
        }
        self.plan_fault(kind);
        if self.is_calm() {
            return Ok(());
        }
        let node = self.dice.below(self.plan.nodes);
        let stall = around(&mut self.dice, self.plan.stall_ns);
        match kind {
            "crash" => {
                let all = self.dice.below(12) == 0;
                let power = (self.dice.below(100) as u64) < self.plan.power_percent;
                for node in if all { 0..self.plan.nodes } else { node..node + 1 } {
                    self.crash_for_a_while(node, power);
                }
                if self.dice.below(6) == 0 {
                    // It comes up and crashes, again and again.
                    self.nodes[node].crash_again = 1 + self.dice.below(4);
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
            "swizzle" => {
                self.mark("swizzle");
                for node in 0..self.plan.nodes {
                    if self.dice.below(4) > 0 {
                        let after = around(&mut self.dice, self.plan.partition_for_ns);
                        let for_ns = around(&mut self.dice, self.plan.partition_for_ns);
                        self.after(after, Event::Cut { node, for_ns });
                    }
                }
            }
            "half-open" if !self.network.conns.is_empty() => {
                self.mark("connection half open");
                let at = self.dice.below(self.network.conns.len());
                let conn = *self.network.conns.keys().nth(at).expect("it is below the length");
                let end = self.dice.below(2);
                self.half_open(conn, end);
            }
            "lag" => {
                let to = self.dice.below(self.plan.nodes);
                if to != node {
                    self.mark("direction slow");
                    let lag = around(&mut self.dice, self.plan.stall_ns);
                    self.network.set_lag(node, to, lag);
                    self.after(stall, Event::Unlag { from: node, to });
                }
            }
            "drown" => {
                let to = self.dice.below(self.plan.nodes);
                if to != node {
                    self.mark("datagrams drowned");
                    self.network.set_drowned(node, to, true);
                    self.after(stall, Event::Undrown { from: node, to });
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
            "slow-disk" => {
                self.mark("disk slow");
                self.nodes[node].slow_ns = 1 + around(&mut self.dice, self.plan.stall_ns / 4);
                self.after(stall, Event::Quicken { node });
            }
            "clock" => self.clock(node, stall),
            "wipe" => self.wipe(node),
            "rot" => self.rot(node),
            "rollback" => self.remember_log(node),
            "members" => self.change_voters()?,
            "groups" => self.change_groups()?,
            "moves" => self.place_a_group(),
            "disk-error" => self.nodes[node].fail_next = true,
            "full" => {
                self.nodes[node].full = true;
                self.nodes[node].files.iter().for_each(|files| files.set_full(true));
                for disk in &mut self.nodes[node].disks {
                    let bytes = disk.bytes();
                    disk.limit_bytes(bytes);
                }
                self.after(2 * stall, Event::Room { node });
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn partition(&mut self) {
        self.mark("partition");
        let nodes = self.plan.nodes;
        let cut = 1 + self.dice.below((1usize << nodes) - 1);
        let (lone, other) = (self.dice.below(nodes), self.dice.below(nodes));
        let shape = self.dice.below(8);
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
                        // One node cannot hear.
                        3 => to == lone,
                        // A ring: each has its neighbours only.
                        4 => (from + 1) % nodes != to && (to + 1) % nodes != from,
                        // Two sides, and one node that sees both.
                        5 => side(from) != side(to) && from != lone && to != lone,
                        // One pair.
                        6 => (from.min(to), from.max(to)) == (lone.min(other), lone.max(other)),
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

    /// Cuts a node off from all, for a while.
    pub(super) fn cut_off(&mut self, node: usize, for_ns: u64) {
        let mut blocked = Vec::new();
        for other in (0..self.plan.nodes).filter(|other| *other != node) {
            for (from, to) in [(node, other), (other, node)] {
                if self.network.passes(from, to) {
                    self.network.set_blocked(from, to, true);
                    blocked.push((from, to));
                }
            }
        }
        self.after(for_ns, Event::Heal { blocked });
    }

    /// Crashes a node that runs, to be started again.
    pub(super) fn crash_for_a_while(&mut self, node: usize, power: bool) {
        if self.nodes[node].process.is_some() {
            self.crash(node, power);
            let down = around(&mut self.dice, self.plan.down_ns);
            self.after(down, Event::Start { node });
        }
    }

    /// A clock stands still, jumps ahead, or runs off otherwise; or all machines were suspended, with what is on its way
    /// between them.
    fn clock(&mut self, node: usize, stall: u64) {
        let now_ns = self.now_ns;
        match self.dice.below(4) {
            0 => {
                self.mark("clock frozen");
                self.nodes[node].clock.freeze(now_ns, true);
                self.after(stall, Event::Thaw { node });
            }
            1 => {
                self.mark("clock jumped");
                let by = around(&mut self.dice, JUMP_NS).min(JUMP_NS);
                self.nodes[node].clock.jump(now_ns, by);
            }
            2 => {
                self.mark("all suspended");
                self.nodes.iter_mut().for_each(|node| node.clock.jump(now_ns, JUMP_NS));
            }
            _ => {
                self.mark("clock runs off otherwise");
                self.nodes[node].clock.run_off(now_ns, &mut self.dice, DRIFT_PPM_MAX);
            }
        }
    }

    /// How many nodes must be well, so that every group whose voters are all nodes can elect and choose.
    fn needed(&self) -> usize {
        let nodes = self.plan.nodes;
        let groups = (1..=self.plan.groups).map(|group| self.observer.quorum(group));
        let quorums = groups.chain([0, self.plan.phase_2].map(|phase_2| quorum_of(nodes, phase_2)));
        quorums.map(|quorum| quorum.max(nodes + 1 - quorum)).max().expect("there is a directory")
    }

    /// From now on a quorum is well; the others are down, or stay cut off in one direction or both, for good.
    pub(super) fn give_up_a_minority(&mut self) -> Result<(), String> {
        self.faults_on = false;
        self.take_changes()?;
        self.replace_spoilt_logs();
        self.heal_nodes();
        let mut order: Vec<usize> = (0..self.plan.nodes).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.dice.below(at + 1));
        }
        let minority = self.plan.nodes - self.needed();
        // Without checkpoints a node that is away keeps the others from trimming, so a log that may not grow stops in the
        // end.
        let pins = self.plan.wal_mib_max > 0 && Kind::of(self.plan.machines) == Kind::WithoutCheckpoints;
        let most = if pins { 0 } else { minority.saturating_sub(self.without_votes()) };
        for node in order.into_iter().take(self.dice.below(most + 1)) {
            if !self.is_borne_without(node) {
                self.mark("only copy");
                continue;
            }
            self.mark("node given up");
            self.nodes[node].given_up = true;
            match self.dice.below(6) {
                0 => self.crash(node, true),
                // One that was refusing for want of room would never look for room again, and lead all the same. And a clock
                // that stands still is beyond what leases allow.
                4 if self.plan.full_ns == 0 && (self.plan.read_percent == 0 || !self.plan.leases()) => {
                    // It would never notice that a connection is dead, and the replica behind it falls behind for good.
                    self.bury_connections(node);
                    self.nodes[node].clock.freeze(self.now_ns, true);
                }
                5 if self.plan.full_ns == 0 => self.nodes[node].hung = true,
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
        Ok(())
    }

    /// Whether, without a node and those that are given up, somebody has each payload of which a witness tells.
    fn is_borne_without(&self, node: usize) -> bool {
        let stays = |at: &usize| *at != node && !self.nodes[*at].given_up;
        let (witnesses, others): (Vec<usize>, Vec<usize>) =
            (0..self.plan.nodes).filter(stays).partition(|at| self.plan.is_witness(*at));
        (1..=self.plan.groups).all(|group| {
            let held = |at: &usize| self.shard(*at, group).and_then(|shard| shard.held(group));
            let others: Vec<HeldVotes> = others.iter().filter_map(held).collect();
            witnesses.iter().all(|witness| held(witness).is_some_and(|of| self.observer.is_borne(group, &of, &others)))
        })
    }

    /// Ends partitions, pauses, hangs and full disks.
    pub(super) fn heal_nodes(&mut self) {
        for from in 0..self.plan.nodes {
            for to in 0..self.plan.nodes {
                self.unblock(from, to);
            }
        }
        for node in 0..self.plan.nodes {
            self.nodes[node].fail_next = false;
            self.nodes[node].crash_again = 0;
            self.nodes[node].clock.freeze(self.now_ns, false);
            for other in 0..self.plan.nodes {
                self.network.set_lag(node, other, 0);
            }
            self.nodes[node].hung = false;
            self.quicken(node);
            self.after(1, Event::Resume { node });
            self.after(1, Event::Room { node });
        }
    }

    pub(super) fn heal_all(&mut self) {
        for node in &mut self.nodes {
            node.given_up = false;
        }
        self.heal_nodes();
        for node in 0..self.plan.nodes {
            self.after(2, Event::Start { node });
        }
    }
}
