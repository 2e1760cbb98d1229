//! Coverage marks of the shard: see [`synod_core::marks`].

synod_core::marks!(
    "simulation",
    pub(crate) enum Mark {
        /// A full peer outbox makes all cursors wait.
        OutboxFull,
        /// A full outbox has room again.
        OutboxDrained,
        /// A peer was silent for long: its connection is closed.
        PeerSilent,
        /// A peer has restarted.
        PeerRestarted,
        /// A peer is taken for gone.
        PeerLost,
        /// Datagrams to a peer are no longer answered.
        LaneFellSilent,
        /// A datagram came behind one that was sent later, or came again.
        DatagramStale,
        /// A datagram bears the token of no connection, or makes no sense.
        DatagramRefused,
        /// A log that stands still puts a timer off.
        TimerPutOff,
        /// A log that stands still keeps a node silent.
        LogStuck,
        /// Chosen values are sent out of memory.
        LearnFromMemory,
        /// Chosen values are sent out of the log.
        LearnFromLog,
        /// A request for chosen values waits for its turn.
        LearnWaits,
        /// It waits no longer: the leader may need this vote.
        LearnHurries,
        /// A state machine that starts behind is fed out of the log.
        MachineFromLog,
        /// A state machine that starts behind is fed out of memory.
        MachineFromMemory,
        /// An entry is to be cut into parts.
        LargeEntry,
        /// A part waits, so that others find room beside it.
        PartWaits,
        /// A large entry is given up after some of its parts were proposed.
        LargeCutShort,
        /// The last part of a large entry never came.
        LargeUnfinished,
        /// A state is saved while a large entry is unfinished: without its parts.
        SettledState,
        /// Parts of a large entry are read back, to be put together.
        LargeFromLog,
        /// A large entry is put together for a reader.
        LargeRead,
        /// A large entry is handed to a state machine.
        LargeHandedOver,
        /// An outcome waits for the state machine.
        OutcomeHeld,
        /// Values leave memory.
        CacheReleased,
        /// A segment may go.
        SegmentReleased,
        /// A log that refuses proposals writes its summaries again.
        SummariesRenewed,
        /// A handle was refused: what it sends behind that is refused too.
        HandleRefused,
        /// The log is too large: proposals are refused.
        LogOverLimit,
        /// The disk is full: proposals are refused.
        DiskFull,
        /// Open batches waited too long for a slot.
        QueueExpired,
        /// Open batches are rejected, since the group leads no longer.
        OpenRejected,
        /// Proposals in flight become unknown, since the group leads no longer.
        FlightUnknown,
        /// Votes that wait are replaced by newer ones.
        VotesReplaced,
        /// A batch is void.
        BatchVoid,
        /// A batch of a session was committed before.
        BatchDuplicate,
        /// A batch of a session that has ended is refused.
        SessionUnknown,
        /// A session makes room for a new one.
        SessionDisplaced,
        /// A session that was not used for long ends.
        SessionExpired,
        /// A batch does not fit into the frame that is being filled.
        FrameFull,
        /// A batch waits, since the shard has too much in flight.
        ShardWindowFull,
        /// A value is dropped, since memory is full of what is not applied.
        MemoryFull,
        /// Values leave memory behind others that must stay.
        CacheReleasedBehind,
        /// A voter has bound a group to this leader.
        VoterBound,
        /// A leader says that it leads no longer: its voters are free.
        BindingReleased,
        /// A pre-vote is not answered, since this voter is bound.
        PreVoteWithheld,
        /// A Prepare is not answered, since this voter is bound or leads by a lease.
        PrepareWithheld,
        /// An election is put off, since this voter is bound or has just been started.
        ElectionPutOff,
        /// A group has left for another shard of its node.
        GroupLeft,
        /// A group has come from another shard of its node.
        GroupArrived,
        /// A group did not leave for another shard after all.
        GroupStayed,
        /// What was noted of a moved group that was dropped is gone too.
        MovedGroupForgotten,
        /// An election waits until another has ended.
        ElectionWaits,
        /// A read is answered by a lease.
        LeaseRead,
        /// A read is confirmed by a quorum.
        QuorumRead,
        /// A read is passed on to the leader.
        PointForwarded,
        /// The time of a read is up.
        PointReadExpired,
        /// Another has taken a group over.
        Transferred,
        /// Another has not taken a group over in time.
        TransferFailed,
        /// A group is given back to the node that prefers it.
        GroupGoesHome,
        /// A checkpoint is durable.
        CheckpointWritten,
        /// A checkpoint cannot be taken now: the machine still takes in the log.
        CheckpointPutOff,
        /// A checkpoint could not be written.
        CheckpointFailed,
        /// A replica that lags is offered a checkpoint.
        CheckpointOffered,
        /// A checkpoint lies before what the log says at a start.
        CheckpointBeforeLog,
        /// A machine has neither the log nor a checkpoint to start from.
        CheckpointLacks,
        /// A checkpoint is fetched.
        FetchBegins,
        /// What was fetched before a restart is taken up.
        FetchResumed,
        /// What is fetched did not come and is asked for again.
        FetchAsksAgain,
        /// Another peer has the same checkpoint, and goes on with it.
        FetchGoesOnElsewhere,
        /// A checkpoint is not fetched to its end: another one is offered.
        FetchGivenUp,
        /// The log has brought what a checkpoint was fetched for.
        FetchNotNeeded,
        /// A checkpoint that was fetched is refused.
        FetchFailed,
        /// A checkpoint was fetched and is durable.
        FetchFinished,
        /// A state machine is restored while its shard runs.
        MachineRestored,
        /// A reader has not renewed its pin.
        PinExpired,
        /// A state machine changes an entry before it is proposed.
        EntryPrepared,
        /// A state machine refuses an entry.
        EntryRefused,
        /// Somebody orders a log to be trimmed.
        TrimOrdered,
        /// What is accepted and not chosen is appended again.
        UnchosenRewritten,
    }
);
