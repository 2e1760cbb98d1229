//! Bugs to be planted on purpose, one at a time, chosen at run time: the proof that the tests can fail. Without the feature
//! `planted` nothing of this is compiled, and no bug can be.
//!
//! Each is a rule of the protocol left out, where an implementation may well forget it.

/// A bug to plant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Votes leave before their records are durable.
    VotesLeaveEarly = 1,
    /// A candidate asks for promises before its own is durable, so a restart may begin the ballot again.
    PrepareLeavesEarly,
    /// To accept does not promise.
    AcceptPromisesNothing,
    /// A new leader adopts the value accepted at the lowest ballot.
    LowestBallotIsAdopted,
    /// A new leader adopts only the first open slot and fills nothing behind it.
    OnlyFirstSlotIsAdopted,
    /// A cumulative acknowledgement runs over slots held from older ballots.
    OldSlotsAreAcknowledged,
    /// Commit knowledge is believed over a value accepted at a lower ballot.
    LowerBallotIsCommitted,
    /// Promises of other attempts and ballots count.
    StalePromisesCount,
    /// Every batch takes effect, void or not.
    VoidTakesEffect,
    /// A session takes any higher sequence, and any again.
    SessionsTakeAll,
    /// Recovery forgets promises.
    PromisesAreForgotten,
    /// The tail that recovery kept is not flushed. For the simulator to carry out.
    TailIsNotFlushed,
    /// A configuration is proposed while other slots are in flight.
    ConfigurationOvertakes,
    /// Votes are asked for and given across configurations.
    OldConfigurationsVote,
}

/// All bugs.
pub const BUGS: [Bug; 14] = [
    Bug::VotesLeaveEarly,
    Bug::PrepareLeavesEarly,
    Bug::AcceptPromisesNothing,
    Bug::LowestBallotIsAdopted,
    Bug::OnlyFirstSlotIsAdopted,
    Bug::OldSlotsAreAcknowledged,
    Bug::LowerBallotIsCommitted,
    Bug::StalePromisesCount,
    Bug::VoidTakesEffect,
    Bug::SessionsTakeAll,
    Bug::PromisesAreForgotten,
    Bug::TailIsNotFlushed,
    Bug::ConfigurationOvertakes,
    Bug::OldConfigurationsVote,
];

#[cfg(feature = "planted")]
static PLANTED: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

/// Plants a bug in the whole process, or takes it out again.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u32), core::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is planted.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(core::sync::atomic::Ordering::Relaxed) == bug as u32
}

/// Whether this bug is planted: never, in this build.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}
