//! Coverage marks: rare branches that tell they were taken, so that a simulation can show that it gets there. Without
//! the feature `marks` nothing of this is compiled.

/// Makes a crate's marks: `marks!("feature", pub enum Mark { /// When it is taken. Name, … })`.
#[macro_export]
macro_rules! marks {
    ($feature:tt, $vis:vis enum $mark:ident { $($(#[doc = $doc:literal])+ $name:ident,)+ }) => {
        /// A rare branch.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $vis enum $mark {
            $($(#[doc = $doc])+ $name,)+
        }

        #[cfg(feature = $feature)]
        const ALL: &[$mark] = &[$($mark::$name,)+];

        #[cfg(feature = $feature)]
        static HITS: [core::sync::atomic::AtomicU64; ALL.len()] =
            [const { core::sync::atomic::AtomicU64::new(0) }; ALL.len()];

        /// All marks, each with how often it was hit in this process.
        #[cfg(feature = $feature)]
        $vis fn hits() -> impl Iterator<Item = ($mark, u64)> {
            ALL.iter().map(|mark| (*mark, HITS[*mark as usize].load(core::sync::atomic::Ordering::Relaxed)))
        }

        /// This branch was taken.
        #[cfg(feature = $feature)]
        $vis fn mark(mark: $mark) {
            HITS[mark as usize].fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }

        /// This branch was taken: nobody asks in this build.
        #[cfg(not(feature = $feature))]
        #[inline(always)]
        $vis const fn mark(_: $mark) {}
    };
}

marks!(
    "marks",
    pub enum Mark {
        /// A Prepare below the promise is refused.
        PrepareBelowPromise,
        /// A Prepare comes again at the ballot that is promised already.
        PrepareAgain,
        /// A promise reports values that are not known to be chosen.
        PromiseReportsValues,
        /// An Accept below the promise is refused.
        AcceptBelowPromise,
        /// What was chosen before an Accept's ballot is missing here.
        AcceptBeforeLearning,
        /// A commit message comes from a leader below the promise.
        CommitBelowPromise,
        /// An Accept comes again and is only acknowledged.
        AcceptAgain,
        /// An Accept replaces what was accepted at an older ballot.
        AcceptOverOlder,
        /// An Accept would leave a gap.
        AcceptLeavesGap,
        /// A Prepare deposes a leader.
        LeaderDeposed,
        /// A Prepare ends a candidacy.
        CandidateDeposed,
        /// Phase 1 is tried again at its ballot.
        Phase1TriedAgain,
        /// A connection comes up during a pre-vote.
        PreVoteOverNewConnection,
        /// A connection comes up during phase 1.
        PrepareOverNewConnection,
        /// A pre-vote is refused.
        PreVoteRefused,
        /// A leader is asked for a pre-vote.
        PreVoteAtLeader,
        /// Who was followed asks for votes.
        PreVoteFromLeader,
        /// A promise of another ballot or attempt comes.
        PromiseStale,
        /// A report of another ballot or attempt comes.
        ReportStale,
        /// A candidate must learn what a promise says is chosen.
        PromiseAhead,
        /// A new leader adopts values.
        ValuesAdopted,
        /// A reported value replaces the candidate's own.
        HigherBallotAdopted,
        /// A leader tells a peer what is chosen, since it lacks more than is in memory or of this ballot.
        PeerCatchesUp,
        /// A peer that caught up is sent Accepts again.
        PeerResumes,
        /// A follower tells a leader from where to go on.
        ExpectedRewinds,
        /// An acknowledgement of another ballot comes.
        AckStale,
        /// A leader hears of a higher promise and resigns.
        LeaderRejected,
        /// A candidate hears of a higher promise.
        CandidateRejected,
        /// A leader without progress sends again.
        ProgressStalled,
        /// A leader without progress gives up.
        LeaderGivesUp,
        /// A quiet group is announced again.
        AnnouncedAgain,
        /// Values to learn did not come: another peer is asked.
        LearnElsewhere,
        /// A follower loses its leader.
        LeaderLost,
        /// A follower promises the ballot of a leader that it hears of only now.
        FollowedPromised,
        /// Fewer than a majority elect a leader, as they may.
        ElectedByFew,
        /// Fewer than a majority choose a value.
        ChosenByFew,
        /// Only a witness tells of a value: its payload is awaited before anybody leads.
        OnlyAStub,
        /// A value of which a witness tells is found with its payload.
        StubMadeWhole,
        /// A witness's vote chooses, in place of one that is away.
        ChosenWithWitness,
        /// A witness says which values are chosen, and they are held.
        StubLearned,
        /// A witness says that a value is chosen which is not held: another is asked for it.
        StubNotHeld,
        /// A leader loses its quorum.
        QuorumLost,
        /// A leader follows a higher one of which it only now hears.
        LeaderFollows,
        /// Commit knowledge reaches beyond what is held at its ballot.
        CommitNotHeld,
        /// A learned value is written.
        LearnedWritten,
        /// A learned value was held already.
        LearnedHeld,
        /// More is to be learned than one answer brought.
        LearnGoesOn,
        /// A follower tells again what its log bears, since the leader may have missed it.
        SettledAgain,
        /// A follower hears its leader resign.
        ResignHeard,
        /// A follower stands for election because its leader has ordered it to.
        CampaignOrdered,
    }
);
