//! Coverage marks: rare branches that tell they were taken, so that a simulation can show that it gets there. Without
//! the feature `marks` nothing of this is compiled.

#[cfg(feature = "marks")]
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! marks {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A rare branch.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mark {
            $($(#[doc = $doc])+ $name,)+
        }

        #[cfg(feature = "marks")]
        const ALL: &[Mark] = &[$(Mark::$name,)+];
    };
}

#[cfg(feature = "marks")]
static HITS: [AtomicU64; ALL.len()] = [const { AtomicU64::new(0) }; ALL.len()];

/// All marks, each with how often it was hit in this process.
#[cfg(feature = "marks")]
pub fn hits() -> impl Iterator<Item = (Mark, u64)> {
    ALL.iter().map(|mark| (*mark, HITS[*mark as usize].load(Ordering::Relaxed)))
}

/// This branch was taken.
#[cfg(feature = "marks")]
pub(crate) fn mark(mark: Mark) {
    HITS[mark as usize].fetch_add(1, Ordering::Relaxed);
}

/// This branch was taken: nobody asks in this build.
#[cfg(not(feature = "marks"))]
#[inline(always)]
pub(crate) const fn mark(_: Mark) {}

marks! {
    /// A second frame starts beside one in flight.
    SecondFrame,
    /// The later of two frames in flight is written first.
    WrittenOutOfOrder,
    /// A segment is full while frames are in flight.
    RollWaits,
    /// There was no room for a coming segment.
    NoRoom,
    /// It is tried again whether there is room.
    PreparedAgain,
    /// A released file takes the place of one for which there was no room.
    ReusedForFailed,
    /// A released file is not needed again.
    Discarded,
    /// A write failed: the log takes no more.
    Poisoned,
    /// A prepared file was never opened.
    UnusedFound,
    /// A header page is torn or of no segment.
    HeaderNotIntact,
    /// A recycled file still has its old header.
    HeaderOfOlder,
    /// The tail is torn.
    TailTorn,
    /// An intact frame stands behind the torn one.
    FrameBehindTorn,
    /// A recycled segment ends where older bytes follow.
    OlderBytesBehind,
}
