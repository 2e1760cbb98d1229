//! What a seed draws: the cluster, its load, and how it will be hurt. Every seed has a mix of its own (swarm testing), so
//! that no kind of fault always hides behind another.

use crate::disk::Dice;

/// Nanoseconds of a microsecond, a millisecond and a second.
pub const US: u64 = 1_000;
/// A millisecond.
pub const MS: u64 = 1_000_000;
/// A second.
pub const S: u64 = 1_000_000_000;

/// A run, as its seed draws it. Means of 0 switch a fault off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Where all choices come from.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Shards of each node.
    pub shards: usize,
    /// Groups, numbered from 1.
    pub groups: u64,
    /// Size of a segment of the log, in bytes.
    pub segment_bytes: u64,
    /// Log kept although nobody needs it, in MiB.
    pub retain_mib: u64,
    /// Clients.
    pub clients: usize,
    /// Proposals that a client without a session keeps in flight.
    pub window: usize,
    /// The largest entry, in bytes.
    pub entry_bytes_max: usize,
    /// A client's mean pause between operations.
    pub think_ns: u64,
    /// How long everything may fail.
    pub safety_ns: u64,
    /// Mean one-way delay of the network.
    pub delay_ns: u64,
    /// Mean duration of a durable write.
    pub disk_ns: u64,
    /// Clocks run off by at most this many millionths.
    pub drift_ppm: u64,
    /// Between ticks.
    pub tick_ns: u64,
    /// Mean time between crashes of some node.
    pub crash_ns: u64,
    /// Of 100 crashes, how many are power cuts; the others only end the process.
    pub power_percent: u64,
    /// Mean time that a node is down.
    pub down_ns: u64,
    /// Mean time between partitions.
    pub partition_ns: u64,
    /// Mean duration of a partition.
    pub partition_for_ns: u64,
    /// Mean time between broken connections.
    pub break_ns: u64,
    /// Mean time between pauses of some node.
    pub pause_ns: u64,
    /// Mean time between disks that hang.
    pub hang_ns: u64,
    /// Mean duration of pauses and hangs.
    pub stall_ns: u64,
    /// Mean time between disks that fail one operation.
    pub disk_error_ns: u64,
    /// Mean time between disks that get full for a while.
    pub full_ns: u64,
}

/// Kinds of faults, as they are named where one is switched off.
pub const FAULTS: [&str; 7] = ["crash", "partition", "break", "pause", "hang", "disk-error", "full"];

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let d = &mut dice;
        let nodes = pick(d, &[3, 3, 3, 3, 5, 5, 1, 2, 4, 7]);
        let shards = pick(d, &[1, 1, 1, 2, 3]);
        let groups = pick(d, &[1, 1, 2, 4, 8, 24]).max(shards as u64);
        let safety_ns = pick(d, &[2 * S, 4 * S, 8 * S, 20 * S]);
        // Each kind of fault in about half of the runs, from rare to relentless.
        let mut mean = || if d.below(2) == 0 { 0 } else { pick(d, &[200 * MS, S, 3 * S, 8 * S]) };
        let [crash_ns, partition_ns, break_ns, pause_ns, hang_ns] = [mean(), mean(), mean(), mean(), mean()];
        let [disk_error_ns, full_ns] = [mean() * 4, mean() * 2];
        let clients = 1 + d.below(6);
        // Enough operations to matter, not so many that the run takes for ever.
        let think_ns = pick(d, &[100 * US, MS, 10 * MS, 50 * MS]).max(safety_ns * clients as u64 / 4000);
        Self {
            seed,
            nodes,
            shards,
            groups,
            segment_bytes: pick(d, &[256 << 10, 512 << 10, 1 << 20]),
            retain_mib: pick(d, &[0, 0, 1]),
            clients,
            window: 1 + d.below(8),
            entry_bytes_max: pick(d, &[16, 100, 1000]),
            think_ns,
            safety_ns,
            delay_ns: pick(d, &[20 * US, 100 * US, MS, 10 * MS]),
            disk_ns: pick(d, &[30 * US, 200 * US, 2 * MS, 10 * MS]),
            drift_ppm: pick(d, &[0, 100, 50_000]),
            tick_ns: pick(d, &[5 * MS, 5 * MS, 10 * MS]),
            crash_ns,
            power_percent: pick(d, &[0, 50, 100]),
            down_ns: pick(d, &[10 * MS, 300 * MS, 2 * S]),
            partition_ns,
            partition_for_ns: pick(d, &[50 * MS, 500 * MS, 4 * S]),
            break_ns,
            pause_ns,
            hang_ns,
            stall_ns: pick(d, &[20 * MS, 700 * MS, 5 * S]),
            disk_error_ns,
            full_ns,
        }
    }

    /// The mean time between faults of a kind of [`FAULTS`].
    pub fn mean_ns(&mut self, fault: &str) -> Option<&mut u64> {
        Some(match fault {
            "crash" => &mut self.crash_ns,
            "partition" => &mut self.partition_ns,
            "break" => &mut self.break_ns,
            "pause" => &mut self.pause_ns,
            "hang" => &mut self.hang_ns,
            "disk-error" => &mut self.disk_error_ns,
            "full" => &mut self.full_ns,
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
