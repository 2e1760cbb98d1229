//! Bugs to be planted on purpose, one at a time, chosen at run time: the proof that the tests can fail. Without the feature
//! `planted` nothing of this is compiled, and no bug can be.
//!
//! Each is a rule of the protocol left out, where an implementation may well forget it.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A bug to plant.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[doc = $doc])+ $name,)+
        }

        /// All bugs.
        pub const BUGS: &[Bug] = &[$(Bug::$name,)+];
    };
}

bugs! {
    /// A promise leaves before its record is durable.
    PromiseLeavesEarly,
    /// An acceptance is acknowledged before its record is durable.
    AcceptLeavesEarly,
    /// A candidate asks and leads before its own promise is durable, so a restart may begin the ballot again.
    PrepareLeavesEarly,
    /// A candidate does not write down the ballot that it begins.
    BallotIsNotRecorded,
    /// A leader's own vote counts before its record is durable.
    OwnVoteCountsEarly,
    /// To accept does not promise.
    AcceptPromisesNothing,
    /// A new leader adopts the value accepted at the lowest ballot.
    LowestBallotIsAdopted,
    /// A new leader adopts only the first open slot and fills nothing behind it.
    OnlyFirstSlotIsAdopted,
    /// A new leader forgets what it has accepted itself.
    OwnValuesAreForgotten,
    /// A promise reports only the first slots that are open.
    ReportsAreCutShort,
    /// A promise counts before its report is whole.
    PartialReportsCount,
    /// A promise counts although it says that more is chosen than the candidate knows.
    PromisesAheadCount,
    /// Promises of other attempts and ballots count.
    StalePromisesCount,
    /// One acceptor's promise counts twice.
    SamePromiseCountsTwice,
    /// One acceptor's acknowledgement counts twice.
    SameVoteCountsTwice,
    /// Two quorums may have no voter in common.
    QuorumsDoNotMeet,
    /// A leader is elected by as many voters as choose a value, however few these are.
    Phase1TakesPhase2Quorum,
    /// A cumulative acknowledgement runs over slots held from older ballots.
    OldSlotsAreAcknowledged,
    /// A new leader takes a value of which only witnesses tell for none.
    StubIsTakenForEmpty,
    /// Witnesses are sent what no other voter keeps yet, and choose it by themselves.
    WitnessesAloneChoose,
    /// A leader sends at its ballot what it holds from older ones and has not proposed yet.
    UnproposedIsSent,
    /// Commit knowledge is believed over a value accepted at a lower ballot.
    LowerBallotIsCommitted,
    /// A value to learn is taken for the one that is held in its slot.
    HeldValuesAreNotCompared,
    /// Records bear all that is accepted as chosen.
    UnchosenIsRecordedChosen,
    /// Every batch takes effect, void or not.
    VoidTakesEffect,
    /// A session takes any higher sequence, and any again.
    SessionsTakeAll,
    /// An ordered handle goes on after a refusal.
    HandlesStayOpen,
    /// What was proposed when a leader steps down is told refused.
    UnknownIsToldRefused,
    /// A state machine gets again what it holds.
    MachinesAreFedAgain,
    /// Recovery forgets promises.
    PromisesAreForgotten,
    /// Summaries do not bear the promise, so it goes with the segment that holds it.
    SummariesForgetPromises,
    /// Segments go although voters may still ask for what is in them.
    SegmentsGoUnasked,
    /// Segments go although state machines may still need what is in them.
    MachinesAreForgotten,
    /// Values leave memory before they can be read from the disk.
    ValuesLeaveEarly,
    /// The tail that recovery kept is not flushed. For the simulator to carry out.
    TailIsNotFlushed,
    /// A write that failed is taken for done. For the simulator to carry out, as a driver that tries again would.
    FailedWritesCount,
    /// A frame of a recycled file's former life counts. For the log to carry out.
    StaleFramesCount,
    /// The checksum of a frame's body is not compared. For the log to carry out.
    BodiesAreNotChecked,
    /// Recovery looks for evidence in one segment only: damage in an older one passes for a torn tail.
    SegmentsAreReadAlone,
    /// A frame that a misdirected write has put in another's place counts. For the log to carry out.
    FramesCountAnywhere,
    /// A configuration is proposed while other slots are in flight.
    ConfigurationOvertakes,
    /// Votes are asked for and given across configurations.
    OldConfigurationsVote,
    /// A replica whose log was lost goes on under its old id. For the simulator to carry out.
    WipedReplicaVotes,
    /// Nobody compares the end of its log with what peers have seen of it. For the shard to carry out.
    LogEndIsNotChecked,
    /// A session that has ended, or never was, is taken for a new one.
    UnknownSessionsAreNew,
    /// Sessions that have ended come back with a restart.
    EndedSessionsComeBack,
    /// A lease counts from when the answer to a heartbeat came, not from when the heartbeat was sent. For the shard to
    /// carry out, as the next ones.
    LeasesCountFromReceipt,
    /// A voter that was started promises at once, whatever it was bound to before.
    RestartForgetsSupport,
    /// A leader that has ordered another to take over goes on reading by its lease.
    LeaseIsKeptInTransfer,
    /// A read is confirmed by a round that was asked before it came.
    OlderRoundsConfirm,
    /// A replica that takes over what others have trimmed forgets its promise.
    InstallForgetsPromise,
    /// A checkpoint is taken over before its file is durable.
    CheckpointsAreInstalledEarly,
    /// The checksums of a checkpoint's chunks are not compared.
    ChunksAreNotChecked,
    /// Segments go although readers have pinned them.
    PinsAreIgnored,
    /// The log does not say that a group was made before it holds votes of it.
    GroupsAreNotRecorded,
    /// A group is on its new shard before that has its records durably.
    GroupsMoveEarly,
    /// A guest is gone before the log of its directory says so.
    GuestsGoEarly,
    /// A voter that fetches slowly what it lacks goes on so when its leader waits for it.
    LaggardsNeverHurry,
    /// It is not noticed that replicas have applied different things.
    ChainsAreNotCompared,
    /// A voter that moves to another shard forgets to whom it was bound.
    MovedVotersAreFree,
    /// A group that is made again under a number has the uid of the one before.
    UidsAreUsedAgain,
    /// A state is saved as if it stood behind a large entry of which only the first parts are there.
    HalfEntriesAreSaved,
    /// A leader serves before what it adopted and its epoch start are chosen.
    LeadersServeAtOnce,
    /// A replica that takes over what others have trimmed forgets what it has accepted above.
    InstallForgetsVotes,
    /// A replica that lags is sent what is accepted and not chosen. For the shard to carry out, as the next ones.
    UnchosenIsServed,
    /// Segments go although what is accepted and not chosen lies only there, as in groups that are idle.
    UnchosenIsTrimmed,
    /// Durations are compared as if all clocks ran alike.
    DriftIsIgnored,
    /// What does not fit into a turn's answers is never answered.
    AnswersAreDropped,
    /// While a group is busy its followers are not told what all have, so they keep their logs.
    BusyGroupsAreNotTold,
    /// Files get their names without a sync of the directory. For the simulator's disk to carry out.
    NamesAreNotSynced,
}

#[cfg(feature = "planted")]
static PLANTED: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(u32::MAX);

/// Plants a bug in the whole process, or takes it out again.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(u32::MAX, |bug| bug as u32), core::sync::atomic::Ordering::Relaxed);
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
