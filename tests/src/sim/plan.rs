//! What a seed draws: the cluster, its load, and how it will be hurt. Every seed has a mix of its own (swarm testing), so
//! that no kind of fault always hides behind another.
//!
//! A plan is also a line of text, `name=value` for each field, so that a failing one can be kept although what its seed
//! draws changes.

use std::fmt;
use std::str::FromStr;

use crate::check::oracle::quorum_of;
use crate::disk::Dice;

/// Nanoseconds of a microsecond, a millisecond and a second.
pub const US: u64 = 1_000;
/// A millisecond.
pub const MS: u64 = 1_000_000;
/// A second.
pub const S: u64 = 1_000_000_000;

/// Makes the struct, and its form as a line.
macro_rules! plan {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty,)+) => {
        /// A run, as its seed draws it. Means of 0 switch a fault off.
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct Plan {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl fmt::Display for Plan {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let fields = [$(format!("{}={}", stringify!($name), self.$name)),+];
                f.write_str(&fields.join(" "))
            }
        }

        impl FromStr for Plan {
            type Err = String;

            /// Fields that are not named are 0: faults that came later are off in older plans.
            fn from_str(line: &str) -> Result<Self, String> {
                let mut plan = Self::default();
                for field in line.split_whitespace() {
                    let (name, value) = field.split_once('=').ok_or_else(|| format!("`{field}` is no name=value"))?;
                    match name {
                        $(stringify!($name) => {
                            plan.$name = value.parse().map_err(|error| format!("`{field}`: {error}"))?;
                        })+
                        _ => return Err(format!("a plan has no `{name}`")),
                    }
                }
                plan.check()
            }
        }
    };
}

plan! {
    /// Where all choices come from.
    seed: u64,
    /// Nodes of the cluster.
    nodes: usize,
    /// Shards of each node.
    shards: usize,
    /// Groups, numbered from 1.
    groups: u64,
    /// Size of a segment of the log, in bytes.
    segment_bytes: u64,
    /// Log kept although nobody needs it, in MiB.
    retain_mib: u64,
    /// Values that a shard keeps in memory, in MiB; 0: as few as it can.
    cache_mib: usize,
    /// The log that a shard should not exceed, in MiB; 0: as usual.
    wal_mib_max: u64,
    /// Clients.
    clients: usize,
    /// Proposals that a client without a session keeps in flight.
    window: usize,
    /// The largest entry, in bytes.
    entry_bytes_max: usize,
    /// Entries of more than twice as many bytes are cut into parts of so many; 0: as usual, and none is.
    part_bytes: usize,
    /// Of 100 entries, how many are so large.
    large_percent: u64,
    /// A client's mean pause between operations.
    think_ns: u64,
    /// How long everything may fail.
    safety_ns: u64,
    /// How long of that, in its middle, the clients are silent.
    quiet_ns: u64,
    /// Mean one-way delay of the network.
    delay_ns: u64,
    /// Mean duration of a durable write.
    disk_ns: u64,
    /// Clocks run off by at most this many millionths.
    drift_ppm: u64,
    /// Between ticks.
    tick_ns: u64,
    /// Mean time between crashes of some node.
    crash_ns: u64,
    /// Of 100 crashes, how many are power cuts; the others only end the process.
    power_percent: u64,
    /// Mean time that a node is down.
    down_ns: u64,
    /// Mean time between partitions.
    partition_ns: u64,
    /// Mean duration of a partition.
    partition_for_ns: u64,
    /// Mean time between the nodes being cut off one by one, and healed in another order.
    swizzle_ns: u64,
    /// Mean time between broken connections.
    break_ns: u64,
    /// Mean time between connections that die unheard, at one end or both.
    half_open_ns: u64,
    /// Mean time between directions that become very slow.
    lag_ns: u64,
    /// Mean time between pauses of some node.
    pause_ns: u64,
    /// Mean time between disks that hang.
    hang_ns: u64,
    /// Mean time between disks that get very slow.
    slow_disk_ns: u64,
    /// Mean duration of pauses, hangs, lags, slow disks and frozen clocks.
    stall_ns: u64,
    /// Mean time between disks that fail one operation.
    disk_error_ns: u64,
    /// Mean time between disks that get full for a while.
    full_ns: u64,
    /// Mean time between clocks that stand still, jump ahead, or run off otherwise.
    clock_ns: u64,
    /// Mean time between nodes that lose all their logs in a crash.
    wipe_ns: u64,
    /// Mean time between logs that rot in a crash.
    rot_ns: u64,
    /// Mean time between logs that come back as they were before.
    rollback_ns: u64,
    /// Mean time between changes of who votes in some group.
    members_ns: u64,
    /// Mean time between groups being made, written and dropped.
    groups_ns: u64,
    /// Sessions per group; 0: as many as usual.
    sessions_max: usize,
    /// So long a session may be idle, in seconds; 0: as long as usual.
    session_idle_s: u64,
    /// Of 100 steps of a client, how many are reads; never by a lease where clocks may do anything.
    read_percent: u64,
    /// Of 1000 steps of a client, how many hand a group over or have its leader resign.
    transfer_permille: u64,
    /// The state machines: 0 on disk with checkpoints, 1 in memory, 2 on disk without checkpoints.
    machines: u64,
    /// Entries after which a checkpoint is taken; 0: only when the log needs one.
    checkpoint_entries: u64,
    /// Entries kept in the log behind a checkpoint.
    hold_entries: u64,
    /// How fast a shard fetches what others chose, in MiB per second; 0: as it comes.
    learn_mib: u64,
    /// For how long readers pin a group's log, in the mean; 0: none does.
    pin_ns: u64,
    /// So long a proposal may wait for its slot, in milliseconds; 0: as long as usual.
    queue_ms: u64,
    /// How many voters choose in the groups at their beginning; 0: a majority.
    phase_2: u16,
    /// So many nodes, the last ones, are witnesses.
    witnesses: usize,
    /// Of 100 changes of voters, how many change how many of them choose.
    resize_percent: u64,
    /// Mean time between groups that are placed on another shard.
    moves_ns: u64,
    /// So many nodes, the first ones, take heartbeats as datagrams.
    lane_nodes: usize,
    /// Of 100 datagrams, how many are lost.
    datagram_loss_percent: u64,
    /// Of 100 others, how many come twice.
    datagram_twice_percent: u64,
    /// What a datagram takes longer than bytes of a connection, on average: each by itself, so they overtake each
    /// other.
    datagram_delay_ns: u64,
    /// Mean time between directions in which every datagram is lost for a while.
    drown_ns: u64,
    /// The first node is introduced to the others so long after the beginning; 0: their configurations name it.
    introduce_ns: u64,
}

/// Kinds of faults, as they are named where one is switched off.
pub const FAULTS: [&str; 19] = [
    "crash",
    "partition",
    "swizzle",
    "break",
    "half-open",
    "lag",
    "pause",
    "hang",
    "slow-disk",
    "disk-error",
    "full",
    "clock",
    "wipe",
    "rot",
    "rollback",
    "members",
    "groups",
    "moves",
    "drown",
];

/// A log of so many MiB, kept for nobody, is all that a run writes.
pub const RETAIN_ALL_MIB: u64 = 1024;

/// How fast a run's time goes by.
struct Pace {
    tick_ns: u64,
    safety_ns: u64,
    /// Outages last so many times as long as in a quick run.
    scale: u64,
}

impl Pace {
    /// Quick runs tick as production does and are short. The others tick more seldom, with the same timeouts, and see
    /// minutes go by: what matters in them is what a long time brings, not what a millisecond does.
    fn draw(dice: &mut Dice, nodes: usize, shards: usize, large: bool) -> Self {
        let (tick_ns, safety_ns, scale) = match dice.below(10) {
            _ if large => (5 * MS, S, 1),
            0..2 => (5 * MS, pick(dice, &[S, 2 * S, 4 * S]), 1),
            2..4 => (pick(dice, &[10 * MS, 20 * MS]), pick(dice, &[5 * S, 10 * S, 20 * S]), 2),
            _ => (pick(dice, &[150 * MS, 250 * MS, 300 * MS]), pick(dice, &[120 * S, 240 * S, 400 * S]), 12),
        };
        // Every tick sends heartbeats to all, which answer: a bound on what that costs.
        let events_per_tick = (nodes * shards * (2 + 4 * (nodes - 1))) as u64;
        let ticks_max = TICK_EVENTS_MAX / events_per_tick;
        Self { tick_ns, safety_ns: safety_ns.min(ticks_max * tick_ns), scale }
    }
}

/// About so many events of a run may come from ticks.
const TICK_EVENTS_MAX: u64 = 27_000;
/// The most slots that plans with witnesses may write while all are well, before some are given up.
const WARM_UP_WRITES_MAX: u64 = 50_000;

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let d = &mut dice;
        let nodes = pick(d, &[3, 3, 3, 3, 3, 5, 5, 1, 2, 4, 7]);
        let shards = pick(d, &[1, 1, 1, 2, 3]);
        let groups = pick(d, &[1, 1, 2, 4, 8, 24]).max(shards as u64);
        // Now and then large entries in a hurry, which fill what small ones never do.
        let large = d.below(32) == 0;
        let Pace { tick_ns, safety_ns, scale } = Pace::draw(d, nodes, shards, large);
        // Each kind of fault in two of five runs, from once or twice to relentless.
        let mut mean = || if d.below(5) < 3 { 0 } else { safety_ns / pick(d, &[2, 4, 10, 25]) };
        let [crash_ns, partition_ns, swizzle_ns, break_ns] = [mean(), mean(), mean() * 2, mean()];
        let [half_open_ns, lag_ns, pause_ns, hang_ns] = [mean(), mean(), mean(), mean()];
        let [slow_disk_ns, disk_error_ns, full_ns, clock_ns] = [mean(), mean() * 2, mean() * 2, mean()];
        let clients = 1 + d.below(6);
        // Enough operations to matter, not so many that the run takes for ever.
        let operations = pick(d, &[150, 300, 300, 900]);
        let think_ns = pick(d, &[100 * US, MS, 10 * MS]).max(safety_ns * clients as u64 / operations);
        let lag_ns = if large { safety_ns / 4 } else { lag_ns };
        Self {
            seed,
            nodes,
            shards,
            groups,
            segment_bytes: if large { 2 << 20 } else { pick(d, &[256 << 10, 512 << 10, 1 << 20]) },
            retain_mib: pick(d, &[0, 0, 1]),
            clients,
            window: 1 + d.below(8),
            cache_mib: pick(d, &[0, 1, 1]),
            wal_mib_max: if large { 0 } else { pick(d, &[0, 0, 0, 0, 0, 0, 0, 4]) },
            entry_bytes_max: if large { 200_000 } else { pick(d, &[16, 100, 1000]) },
            think_ns,
            safety_ns,
            quiet_ns: pick(d, &[0, 0, safety_ns / 2]),
            delay_ns: pick(d, &[20 * US, 100 * US, MS, 10 * MS]),
            disk_ns: pick(d, &[30 * US, 200 * US, 2 * MS, 10 * MS]),
            drift_ppm: pick(d, &[0, 100, 50_000]),
            tick_ns,
            crash_ns,
            power_percent: pick(d, &[0, 50, 100]),
            down_ns: pick(d, &[10 * MS, 300 * MS, 2 * S]) * scale,
            partition_ns,
            partition_for_ns: pick(d, &[50 * MS, 500 * MS, 4 * S]) * scale,
            swizzle_ns,
            break_ns,
            half_open_ns,
            lag_ns,
            pause_ns,
            hang_ns,
            slow_disk_ns,
            stall_ns: pick(d, &[20 * MS, 700 * MS, 5 * S]) * scale,
            disk_error_ns,
            full_ns,
            clock_ns,
            ..Self::default()
        }
        .with_lost_logs(large)
        .with_changes_of_voters()
        .with_short_queues()
        .with_sessions(false)
        .with_reads(large)
        .with_machines()
        .with_groups()
        .with_moves()
        .with_quorums()
        .with_large_entries(large)
        .with_witnesses(4)
        .with_lanes()
        .with_introduction()
        .with_pace()
    }

    /// In one of four heartbeats go as datagrams, between all nodes or all but one. Some networks lose few of them,
    /// some all, and that as long as the run goes on. Dice of its own.
    fn with_lanes(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x00d9_7a9e);
        if self.nodes > 1 && dice.below(4) == 0 {
            let d = &mut dice;
            self.lane_nodes = self.nodes - pick(d, &[0, 0, 0, 1]);
            self.datagram_loss_percent = pick(d, &[0, 1, 10, 50, 100]);
            self.datagram_twice_percent = pick(d, &[0, 5, 50]);
            self.datagram_delay_ns = pick(d, &[0, 10 * MS, 200 * MS, 2 * S]);
            self.drown_ns = pick(d, &[0, self.safety_ns / 4, self.safety_ns / 25]);
        }
        self
    }

    /// In two of five plans some entries are cut into parts. Dice of its own.
    fn with_large_entries(mut self, large: bool) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x1a26_e000);
        if !large && dice.below(5) < 2 {
            self.part_bytes = pick(&mut dice, &[16, 100, 1000]);
            self.large_percent = pick(&mut dice, &[3, 10, 30]);
        }
        self
    }

    /// In some plans proposals may wait for a short while only.
    fn with_short_queues(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x40e0_e0e0);
        self.queue_ms = pick(&mut dice, &[0, 0, 1, 50, 400]);
        self
    }

    /// In some plans sessions are few and short-lived. It has dice of its own too.
    fn with_sessions(mut self, rough: bool) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x5e55_1045);
        self.sessions_max = pick(&mut dice, &[0, 0, 1, 2, 3]);
        self.session_idle_s = if rough { pick(&mut dice, &[0, 1]) } else { pick(&mut dice, &[0, 0, 1, 2, 10]) };
        self
    }

    /// Most plans read and hand groups over, with dice of its own again.
    fn with_reads(mut self, large: bool) -> Self {
        if large {
            // All in a hurry to propose.
            return self;
        }
        let mut dice = Dice::new(self.seed ^ 0x6ead_6ead);
        self.read_percent = pick(&mut dice, &[0, 10, 30, 50]);
        self.transfer_permille = pick(&mut dice, &[0, 5, 20, 60]);
        self
    }

    /// Whether clocks run apart by no more than leases allow.
    pub fn leases(&self) -> bool {
        self.clock_ns == 0
    }

    /// In one of four plans logs are lost. It has dice of its own, so that the other plans stay what they are.
    fn with_lost_logs(mut self, large: bool) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x1057_1065);
        if self.nodes < 3 || large || dice.below(4) > 0 {
            return self;
        }
        let mut mean = || if dice.below(3) == 0 { 0 } else { self.safety_ns / pick(&mut dice, &[2, 4, 10]) };
        [self.wipe_ns, self.rot_ns, self.rollback_ns] = [mean(), mean(), mean()];
        self.wal_mib_max = 0;
        // On a full disk even what should be kept goes.
        if dice.below(4) == 0 && self.full_ns == 0 {
            self.retain_mib = RETAIN_ALL_MIB;
        }
        self
    }

    /// In one of four of the others votes are taken away and given back. Dice of its own, as above.
    fn with_changes_of_voters(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x0070_7e55);
        let loses = self.wipe_ns + self.rot_ns + self.rollback_ns > 0;
        if self.nodes > 2 && !loses && self.wal_mib_max == 0 && dice.below(4) == 0 {
            // One that only learns is not waited for when logs are trimmed.
            self.retain_mib = RETAIN_ALL_MIB;
            self.members_ns = self.safety_ns / pick(&mut dice, &[4, 10, 40]);
        }
        self
    }

    /// In one of four groups are made and dropped. Dice of its own.
    fn with_groups(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x06e0_0b5e);
        let loses = self.wipe_ns + self.rot_ns + self.rollback_ns > 0;
        if !loses && dice.below(4) == 0 {
            self.groups_ns = self.safety_ns / pick(&mut dice, &[10, 40, 100]);
        }
        self
    }

    /// In one of three of those with several shards groups move between them. Dice of its own.
    fn with_moves(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x0b0c_e551);
        if self.shards > 1 && dice.below(3) == 0 {
            self.moves_ns = self.safety_ns / pick(&mut dice, &[4, 10, 40]);
        }
        self
    }

    /// In one of three the quorums of the two phases differ in size, from the beginning or later. Where logs are lost, one
    /// log less is enough for either. Dice of its own.
    fn with_quorums(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x0f1e_c51b);
        let loses = self.wipe_ns + self.rot_ns + self.rollback_ns > 0;
        let spare = usize::from(loses);
        if self.nodes > 1 + 2 * spare && dice.below(3) == 0 {
            self.phase_2 = (1 + spare + dice.below(self.nodes - 2 * spare)) as u16;
            self.resize_percent = if self.members_ns > 0 { pick(&mut dice, &[0, 30, 60]) } else { 0 };
        }
        self
    }

    /// A short and rough plan, for the hunt for planted bugs: few groups and small segments, so that much happens to each.
    pub fn draw_rough(seed: u64) -> Self {
        let mut dice = Dice::new(!seed);
        let d = &mut dice;
        // Half of them see longer outages, in as many ticks.
        let (tick_ns, safety_ns, scale) = pick(d, &[(5 * MS, S, 1), (10 * MS, 2 * S, 1), (50 * MS, 10 * S, 6)]);
        let mut mean = || if d.below(5) < 2 { 0 } else { safety_ns / pick(d, &[4, 10, 25]) };
        let [crash_ns, partition_ns, swizzle_ns, break_ns] = [mean(), mean(), mean() * 2, mean()];
        let [half_open_ns, lag_ns, pause_ns, hang_ns] = [mean() * 2, mean(), mean(), mean()];
        let [slow_disk_ns, disk_error_ns] = [mean(), mean() * 2];
        Self {
            seed,
            nodes: pick(d, &[3, 3, 3, 5]),
            shards: 1,
            groups: pick(d, &[1, 1, 2, 3]),
            cache_mib: pick(d, &[0, 1]),
            segment_bytes: pick(d, &[64 << 10, 256 << 10]),
            clients: 2 + d.below(4),
            window: 1 + d.below(8),
            entry_bytes_max: 16,
            think_ns: pick(d, &[5 * MS, 20 * MS]) * scale,
            safety_ns,
            delay_ns: pick(d, &[100 * US, MS, 10 * MS, 40 * MS]),
            disk_ns: pick(d, &[200 * US, 2 * MS, 10 * MS, 40 * MS]),
            tick_ns,
            crash_ns,
            power_percent: pick(d, &[0, 50, 100]),
            down_ns: pick(d, &[10 * MS, 100 * MS, 300 * MS]) * scale,
            partition_ns,
            partition_for_ns: pick(d, &[50 * MS, 200 * MS, 600 * MS]) * scale,
            swizzle_ns,
            break_ns,
            half_open_ns,
            lag_ns,
            pause_ns,
            hang_ns,
            slow_disk_ns,
            stall_ns: pick(d, &[50 * MS, 200 * MS, 700 * MS]) * scale,
            disk_error_ns,
            ..Self::default()
        }
        .with_lost_logs(false)
        .with_changes_of_voters()
        .with_sessions(true)
        .with_reads(false)
        .with_machines()
        .with_groups()
        .with_moves()
        .with_quorums()
        .with_large_entries(false)
        .with_witnesses(3)
        .with_lanes()
    }

    /// In one of so many some nodes are witnesses, fewer than choose; not where logs are lost, which may be the only ones that
    /// have a payload. Dice of its own.
    fn with_witnesses(mut self, of: usize) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x0017_4e55);
        let loses = self.wipe_ns + self.rot_ns + self.rollback_ns > 0;
        // Each shard's directory is decided by majorities.
        let most = quorum_of(self.nodes, self.phase_2).min(quorum_of(self.nodes, 0)) - 1;
        // Nor where all are in a hurry: too much would be written before nodes are given up.
        let parts = 1 + self.entry_bytes_max.checked_div(self.part_bytes).unwrap_or(0);
        let written = self.clients as u64 * super::world::WARM_UP_NS / self.think_ns.max(1) * parts as u64;
        let in_a_hurry = self.entry_bytes_max > 1000 || written > WARM_UP_WRITES_MAX;
        if !loses && most > 0 && !in_a_hurry && dice.below(of) == 0 {
            self.witnesses = 1 + dice.below(most);
        }
        self
    }

    /// In one of four of those in which no logs are lost, and all keep entries, a node is introduced to the others in the
    /// first half. Dice of its own.
    fn with_introduction(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x1274_0d0c);
        let loses = self.wipe_ns + self.rot_ns + self.rollback_ns > 0;
        if self.nodes > 2 && !loses && self.witnesses == 0 && dice.below(4) == 0 {
            self.introduce_ns = self.safety_ns / pick(&mut dice, &[2, 4, 10]);
        }
        self
    }

    /// In half of them nodes that lack much fetch it slowly. Dice of its own.
    fn with_pace(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0x00b0_77ed);
        self.learn_mib = pick(&mut dice, &[0, 0, 32, 1]);
        self
    }

    /// Whether a node keeps votes only.
    pub fn is_witness(&self, node: usize) -> bool {
        self.nodes - self.witnesses <= node
    }

    /// Which state machines there are, and when they take checkpoints; with dice of its own.
    fn with_machines(mut self) -> Self {
        let mut dice = Dice::new(self.seed ^ 0xc4ec_2901);
        let d = &mut dice;
        self.machines = pick(d, &[0, 0, 0, 1, 1, 1, 1, 2]);
        self.checkpoint_entries = pick(d, &[0, 5, 20, 100]);
        self.hold_entries = pick(d, &[0, 0, 0, 10]);
        self.pin_ns = pick(d, &[0, 0, self.safety_ns / 40]);
        self
    }

    /// Refuses what no cluster can be.
    fn check(self) -> Result<Self, String> {
        let counts = [self.nodes as u64, self.shards as u64, self.groups, self.clients as u64, self.window as u64];
        let times = [self.think_ns, self.safety_ns, self.delay_ns, self.disk_ns, self.tick_ns, self.segment_bytes];
        if counts.into_iter().chain(times).any(|number| number == 0) {
            return Err(
                "a plan needs nodes, shards, groups, clients, window, think_ns, safety_ns, delay_ns, disk_ns, \
                        tick_ns and segment_bytes"
                    .into(),
            );
        }
        if usize::from(self.phase_2) > self.nodes {
            return Err("a plan cannot have more nodes choose than there are".into());
        }
        let chosen_by = quorum_of(self.nodes, self.phase_2).min(quorum_of(self.nodes, 0));
        if self.witnesses > 0 && chosen_by <= self.witnesses {
            return Err("a plan cannot have witnesses choose alone".into());
        }
        if self.nodes < self.lane_nodes {
            return Err("a plan cannot have more nodes with datagrams than there are".into());
        }
        if self.introduce_ns > 0 && self.nodes < 2 {
            return Err("a plan needs somebody to whom a node is introduced".into());
        }
        if self.groups < self.shards as u64 {
            return Err("a plan needs a group for each shard".into());
        }
        Ok(self)
    }

    /// The mean time between faults of a kind of [`FAULTS`].
    pub fn mean_ns(&mut self, fault: &str) -> Option<&mut u64> {
        Some(match fault {
            "crash" => &mut self.crash_ns,
            "partition" => &mut self.partition_ns,
            "swizzle" => &mut self.swizzle_ns,
            "break" => &mut self.break_ns,
            "half-open" => &mut self.half_open_ns,
            "lag" => &mut self.lag_ns,
            "pause" => &mut self.pause_ns,
            "hang" => &mut self.hang_ns,
            "slow-disk" => &mut self.slow_disk_ns,
            "disk-error" => &mut self.disk_error_ns,
            "full" => &mut self.full_ns,
            "clock" => &mut self.clock_ns,
            "wipe" => &mut self.wipe_ns,
            "rot" => &mut self.rot_ns,
            "rollback" => &mut self.rollback_ns,
            "members" => &mut self.members_ns,
            "groups" => &mut self.groups_ns,
            "moves" => &mut self.moves_ns,
            "drown" => &mut self.drown_ns,
            _ => return None,
        })
    }
}

/// One of `choices`.
pub fn pick<T: Copy>(dice: &mut Dice, choices: &[T]) -> T {
    choices[dice.below(choices.len())]
}

/// A duration around `mean`, from nearly nothing to many times as much.
pub fn around(dice: &mut Dice, mean_ns: u64) -> u64 {
    // Exponential: minus the logarithm of a number between 0 and 1.
    let unit = ((dice.roll() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    ((mean_ns as f64 * -unit.ln()) as u64).clamp(1, mean_ns.saturating_mul(20).max(1))
}
