//! The real Paxos core under every schedule of a small scope: three voters, two of which campaign.
//!
//! A state holds three real replicas ([`synod_core::Replica`]), what each has on disk and in the cache before it, and
//! the set of all packets that ever were sent. A packet stays in the set: it may come late, again, out of order, or
//! never, so the set stands for a network that drops, duplicates and reorders. Records become durable one by one, in
//! order; a vote enters the network when its record is durable; a crash loses the rest of the cache and starts a new
//! replica from the disk. Nothing of the protocol is told again here: the oracle only looks at durable votes.
//!
//! Two steps are shorter than they are in life, and neither hides a schedule that matters to safety: a pre-vote,
//! which changes nothing at the one asked, is asked and answered at once ([`Step::Campaign`]); what a peer serves to one
//! who learns is sent at once. And where a sync can do nothing but add votes to the network, it goes before all else
//! (`State::syncs_first`).

mod memo;
mod oracle;
mod packet;
mod state;
mod turn;
mod voter;

use stateright::{Model, Property};

use memo::Memo;
pub use oracle::Fault;
pub use packet::Packet;
pub use state::State;

/// A bug that the harness plants, to show that the check can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Votes leave before their records are durable.
    EarlyVotes,
    /// A start forgets the promise.
    ForgottenPromise,
    /// A start forgets what was accepted and is not known as chosen.
    ForgottenAccepts,
    /// Promises say that nothing was accepted.
    EmptyReports,
}

/// How much may happen.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The first so many voters campaign.
    pub proposers: usize,
    /// How often each of them campaigns.
    pub ballots: u8,
    /// How many batches are proposed in all.
    pub proposals: usize,
    /// How many crashes there are in all.
    pub crashes: u8,
    /// How often candidates ask again in phase 1.
    pub retries: u8,
    /// Whether leaders announce what is chosen other than by their next proposal.
    pub heartbeats: bool,
    /// A bug of the harness.
    pub bug: Option<Bug>,
}

/// What can happen next. Voters are numbered from 0 here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A packet that was sent once arrives, maybe not for the first time.
    Deliver(Packet),
    /// The oldest record of a voter that is not durable becomes so.
    Sync(usize),
    /// The first voter's election timer fires, and the second grants its pre-vote.
    Campaign(usize, usize),
    /// A candidate's timer fires in phase 1: it asks again, with another attempt.
    Retry(usize),
    /// A leader proposes its next batch.
    Propose(usize),
    /// A leader announces what is chosen.
    Heartbeat(usize),
    /// A voter crashes and starts again from its disk.
    Crash(usize),
}

/// A scope to check, as stateright wants it.
pub struct Check {
    scope: Scope,
    memo: Memo,
}

impl Check {
    /// A check of `scope`.
    pub fn new(scope: Scope) -> Self {
        Self { scope, memo: Memo::default() }
    }

    /// Where the search begins: at nothing, at a leader with all its batches under way, and at the schedule behind the
    /// void rule: the batches are on the first leader's disk only, a second has led without it, and it campaigns again.
    fn beginnings(&self) -> Vec<State> {
        let step = |state: State, step| state.next(&self.scope, &self.memo, &step).expect("it leads on");
        let settled = |state, up: &[usize]| self.settle(state, up);
        let mut led = settled(step(State::new(), Step::Campaign(0, 1)), &[0, 1, 2]);
        for _ in 0..self.scope.proposals {
            led = step(led, Step::Propose(0));
        }
        let mut beginnings = vec![State::new(), led.clone()];
        if self.scope.proposers > 1 && self.scope.ballots > 1 {
            for _ in 0..self.scope.proposals {
                led = step(led, Step::Sync(0));
            }
            let second = settled(settled(step(led, Step::Campaign(1, 2)), &[1, 2]), &[0, 1]);
            beginnings.push(step(step(second, Step::Campaign(0, 2)), Step::Sync(0)));
        }
        beginnings
    }

    /// Syncs and delivers among the voters of `up` until nothing changes.
    fn settle(&self, mut state: State, up: &[usize]) -> State {
        loop {
            let mut steps = Vec::new();
            state.steps(&self.scope, &mut steps);
            let next = steps.iter().find_map(|step| {
                let moves = match step {
                    Step::Sync(me) => up.contains(me),
                    Step::Deliver(packet) => {
                        up.iter().any(|me| voter::member(*me) == packet.from())
                            && up.iter().any(|me| voter::member(*me) == packet.to())
                    }
                    _ => false,
                };
                moves.then(|| state.next(&self.scope, &self.memo, step)).flatten()
            });
            match next {
                Some(next) => state = next,
                None => return state,
            }
        }
    }
}

impl Model for Check {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        self.beginnings()
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        state.steps(&self.scope, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        state.next(&self.scope, &self.memo, &step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one value is chosen in a slot", |_, s: &State| s.fault != Some(Fault::TwoChosen)),
            Property::always("what is applied is chosen", |_, s: &State| s.fault != Some(Fault::AppliedUnchosen)),
            Property::always("a batch takes effect only behind all earlier ones of its epoch", |_, s: &State| {
                s.fault != Some(Fault::OutOfOrder)
            }),
            Property::always("no ballot is begun twice", |_, s: &State| s.fault != Some(Fault::BegunTwice)),
            Property::always("a vote that left is remembered", |_, s: &State| s.fault != Some(Fault::VoteForgotten)),
            Property::always("what may be trimmed is durable at all", |_, s: &State| {
                s.fault != Some(Fault::TrimmedTooEarly)
            }),
            Property::always("the core does not panic", |_, s: &State| s.fault != Some(Fault::Panicked)),
            Property::sometimes("all batches take effect", |check: &Self, s: &State| {
                s.effective() == check.scope.proposals
            }),
            Property::sometimes("a batch is void", |_, s: &State| s.has_void()),
            Property::sometimes("a value is chosen at a later ballot than its own", |_, s: &State| s.has_adopted()),
            Property::sometimes("a crash loses a record", |_, s: &State| s.lost_records()),
        ]
    }
}
