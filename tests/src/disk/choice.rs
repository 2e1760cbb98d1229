//! What a crash leaves of what was not synced: chosen by a seed, or enumerated.
//!
//! Invariant: a choice is asked in a fixed order, directory changes first, so the same choice on the same disk leaves the
//! same bytes.

/// Bytes that a disk writes as a whole, except for the one that a power cut tears.
pub const SECTOR_BYTES: usize = 512;

/// What became of one sector of a write that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is as it was before.
    Old,
    /// It was written.
    New,
    /// Only its first bytes were written, so many.
    Torn(usize),
}

/// A sector of a write that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sector {
    /// Which write that was not synced, from 0, in order of their landing, file by file.
    pub write: usize,
    /// Which sector of that write, from 0.
    pub index: usize,
    /// Sectors of that write.
    pub count: usize,
}

/// Decides what a crash leaves.
pub trait CrashChoice {
    /// Whether a change that was not synced, of the directory or of a file's size, has happened.
    fn change(&mut self) -> bool;
    /// What became of a sector.
    fn sector(&mut self, sector: Sector) -> Fate;
}

/// Numbers from a seed (splitmix64), the same on every machine.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Dice that always fall the same way for the same seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`.
    ///
    /// # Panics
    /// If `end` is zero.
    pub fn below(&mut self, end: usize) -> usize {
        assert!(0 < end, "there is no number below zero");
        (self.roll() % end as u64) as usize
    }
}

/// Every change and sector persists by a toss of its own; one sector in eight that does is torn.
impl CrashChoice for Dice {
    fn change(&mut self) -> bool {
        self.roll() & 1 == 0
    }

    fn sector(&mut self, _: Sector) -> Fate {
        match self.below(16) {
            0..8 => Fate::Old,
            8..15 => Fate::New,
            _ => Fate::Torn(self.below(SECTOR_BYTES)),
        }
    }
}

/// Everything persists, or nothing.
impl CrashChoice for bool {
    fn change(&mut self) -> bool {
        *self
    }

    fn sector(&mut self, _: Sector) -> Fate {
        if *self { Fate::New } else { Fate::Old }
    }
}

/// What persists is named by bits, from the lowest up: for at most 64 sectors, counted over all writes, and 64 changes.
#[derive(Debug, Clone, Copy)]
pub struct Subset {
    /// The sectors that persist.
    pub sectors: u64,
    /// The changes that have happened.
    pub changes: u64,
}

impl CrashChoice for Subset {
    fn change(&mut self) -> bool {
        let happened = self.changes & 1 == 1;
        self.changes >>= 1;
        happened
    }

    fn sector(&mut self, _: Sector) -> Fate {
        let new = self.sectors & 1 == 1;
        self.sectors >>= 1;
        if new { Fate::New } else { Fate::Old }
    }
}

/// All changes persist, the first bytes of one write, and of the other writes all or nothing.
#[derive(Debug, Clone, Copy)]
pub struct Prefix {
    /// Which write was cut.
    pub write: usize,
    /// How many bytes of it persist.
    pub bytes: usize,
    /// Whether the other writes persist.
    pub others: bool,
}

impl CrashChoice for Prefix {
    fn change(&mut self) -> bool {
        true
    }

    fn sector(&mut self, sector: Sector) -> Fate {
        if sector.write != self.write {
            return if self.others { Fate::New } else { Fate::Old };
        }
        match self.bytes.saturating_sub(sector.index * SECTOR_BYTES) {
            0 => Fate::Old,
            bytes if bytes < SECTOR_BYTES => Fate::Torn(bytes),
            _ => Fate::New,
        }
    }
}
