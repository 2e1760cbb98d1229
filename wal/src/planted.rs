//! Bugs to be planted on purpose in recovery, one at a time. Without the feature `planted` none can be.

/// A bug to plant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A frame of a recycled file's former life counts.
    StaleFramesCount = 1,
    /// The checksum of a frame's body is not compared.
    BodiesAreNotChecked,
    /// What a segment states of the end of the one before it is not compared.
    SegmentsAreReadAlone,
    /// A frame counts wherever it stands.
    FramesCountAnywhere,
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Plants a bug in the whole process, or takes it out again.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u32), std::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is planted.
#[cfg(feature = "planted")]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u32
}

/// Whether this bug is planted: never, in this build.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
