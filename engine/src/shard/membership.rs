//! Changing who votes in a group, and how many votes it takes.
//!
//! A change is taken by the group's leader, for the version of the configuration that its asker has seen. It is told
//! done when something behind the new configuration is chosen, which only a leader that the new voters elected brings
//! about: then the old ones are not needed any more.

use synod_core::replica::VOTERS_MAX;
use synod_core::{Configuration, Quorums, ReplicaId};

use super::links::Peer;
use super::{QUORUM_LOST_NS, Shard};
use crate::membership::{Membership, MembershipChange, MembershipError, MembershipOutcome};
use crate::outcome::{GroupId, Rejection};

/// Who is told what became of a change.
pub(crate) enum MembershipReply {
    /// A client's request: connection and request id.
    Client(u64, u64),
    /// Anyone else.
    Callback(Box<dyn FnOnce(MembershipOutcome) + Send>),
}

/// A change under way.
pub(crate) struct PendingChange {
    change: MembershipChange,
    stage: Stage,
    until_ns: u64,
    reply: MembershipReply,
}

enum Stage {
    /// Nothing is proposed: the leader is busy with something else, or the new voter has to catch up.
    Waits,
    /// This configuration is proposed.
    Proposed(Configuration),
    /// It governs.
    Governs(Configuration),
}

impl Shard {
    /// Who votes in a group, as this node knows it.
    pub(crate) fn membership(&self, at: u32) -> Membership {
        self.membership_of(self.groups[at as usize].replica.configuration())
    }

    fn membership_of(&self, configuration: &Configuration) -> Membership {
        let voters: Vec<u64> = configuration.voters.iter().map(|voter| voter.node).collect();
        let mut learners: Vec<u64> = self.peers.iter().map(|peer| peer.node).chain([self.node]).collect();
        learners.retain(|node| !voters.contains(node));
        learners.sort_unstable();
        let (Quorums { phase_1, phase_2 }, majority) = (configuration.quorums(), configuration.phase_2 == 0);
        let witnesses =
            configuration.voters.iter().filter(|voter| voter.is_witness()).map(|voter| voter.node).collect();
        Membership { version: configuration.version, phase_1, phase_2, majority, voters, witnesses, learners }
    }

    /// Changes who votes, if this node leads the group and `version` governs it.
    pub(crate) fn change_membership(
        &mut self,
        id: GroupId,
        version: u64,
        change: MembershipChange,
        until_ns: u64,
        reply: MembershipReply,
    ) {
        let checked = match self.electorate_at(id) {
            None => Err(self.not_here(id).into()),
            Some(at) => self.check_change(at, version, change).map(|()| at),
        };
        match checked {
            Err(error) => self.tell_change(reply, Err(error)),
            Ok(at) => {
                let pending = PendingChange { change, stage: Stage::Waits, until_ns, reply };
                self.groups[at as usize].change = Some(Box::new(pending));
                self.changing.push(at);
                if let MembershipChange::Remove(_) | MembershipChange::Quorum(_) = change {
                    self.propose_change(at, None);
                }
            }
        }
    }

    fn check_change(&self, at: u32, version: u64, change: MembershipChange) -> Result<(), MembershipError> {
        let group = &self.groups[at as usize];
        let configuration = group.replica.configuration();
        if self.stopping {
            return Err(Rejection::Stopping.into());
        }
        if group.replica.epoch().is_none() {
            return Err(Rejection::NotLeader { leader: self.leader_of(at) }.into());
        }
        if configuration.version != version {
            return Err(MembershipError::VersionConflict { version: configuration.version });
        }
        if group.change.is_some() {
            return Err(MembershipError::Busy);
        }
        let unknown = |node: &u64| *node != self.node && self.peers.iter().all(|peer| peer.node != *node);
        if let Some(node) = change.node().filter(unknown) {
            return Err(MembershipError::UnknownNode(node));
        }
        let votes = change.node().is_some_and(|node| configuration.voter_on(node).is_some());
        let is_witness = |node| self.made.maker.config.is_witness(node);
        match change {
            MembershipChange::Quorum(phase_2) => match configuration.resize(phase_2) {
                None => Err(refused(phase_2, configuration.voters.len(), configuration.witnesses())),
                Some(next) if !self.works(at, &next) => Err(self.too_few(at, &next)),
                Some(_) => Ok(()),
            },
            MembershipChange::Add(node) | MembershipChange::AddWitness(node) if votes => {
                Err(MembershipError::VotesAlready(node))
            }
            MembershipChange::Add(node) if is_witness(node) => Err(MembershipError::IsWitness(node)),
            MembershipChange::AddWitness(node) if !is_witness(node) => Err(MembershipError::NoWitness(node)),
            // Any id of its kind will do to see whether there is room.
            MembershipChange::Add(node) | MembershipChange::AddWitness(node)
                if configuration.add(node, ReplicaId(0).of_kind(is_witness(node))).is_none() =>
            {
                let (voters, witnesses) = (configuration.voters.len() + 1, configuration.witnesses() + 1);
                let (room, is_witness) = (voters <= VOTERS_MAX, is_witness(node));
                Err(if room && is_witness {
                    refused(configuration.phase_2, voters, witnesses)
                } else {
                    MembershipError::TooMany
                })
            }
            MembershipChange::Remove(node) if !votes => Err(MembershipError::DoesNotVote(node)),
            MembershipChange::Remove(node) => match configuration.remove(node) {
                None if configuration.voters.len() > 1 => {
                    let witnesses = configuration.witnesses() - usize::from(is_witness(node));
                    Err(refused(configuration.phase_2, configuration.voters.len() - 1, witnesses))
                }
                None => Err(MembershipError::LastVoter(node)),
                Some(next) if !self.works(at, &next) => Err(MembershipError::WouldStop(node)),
                Some(_) => Ok(()),
            },
            MembershipChange::Add(_) | MembershipChange::AddWitness(_) => Ok(()),
        }
    }

    /// How many of the voters of a group's configuration have answered lately, this one counted in.
    pub(super) fn reachable(&self, at: u32, configuration: &Configuration) -> usize {
        let answers = |node: u64, replica: ReplicaId| {
            let lately = |peer: &Peer| self.now_ns < peer.answered_ns + QUORUM_LOST_NS;
            node == self.node
                || self
                    .peers
                    .iter()
                    .any(|peer| peer.node == node && self.replica_on(at, peer) == replica && lately(peer))
        };
        configuration.voters.iter().filter(|voter| answers(voter.node, voter.replica)).count()
    }

    /// Whether under a configuration somebody could be elected, and something chosen, with the voters that have answered
    /// lately.
    pub(super) fn works(&self, at: u32, configuration: &Configuration) -> bool {
        self.reachable(at, configuration) >= configuration.quorums().both()
    }

    fn too_few(&self, at: u32, next: &Configuration) -> MembershipError {
        let (voters, needed) = (next.voters.len(), next.quorums().both());
        MembershipError::TooFew { voters, needed, reached: self.reachable(at, next) }
    }

    /// Has the change of a group proposed, if it waits; `caught_up` is the peer that has just caught up.
    pub(super) fn propose_change(&mut self, at: u32, caught_up: Option<usize>) {
        let group = &self.groups[at as usize];
        let Some(pending) = &group.change else { return };
        if !matches!(pending.stage, Stage::Waits) {
            return;
        }
        let configuration = group.replica.configuration();
        let next = match (pending.change, caught_up.map(|peer| &self.peers[peer])) {
            (MembershipChange::Add(node) | MembershipChange::AddWitness(node), Some(peer)) if peer.node == node => {
                let replica = self.replica_on(at, peer);
                let witness = pending.change == MembershipChange::AddWitness(node);
                configuration.add(node, replica).filter(|_| replica.is_witness() == witness)
            }
            (MembershipChange::Remove(node), _) => configuration.remove(node),
            (MembershipChange::Quorum(phase_2), _) => configuration.resize(phase_2),
            _ => None,
        };
        let Some(next) = next.filter(|next| self.works(at, next)) else { return };
        let mut proposed = false;
        self.act(at, &[], |r, out| proposed = r.reconfigure(next.clone(), out));
        let group = &mut self.groups[at as usize];
        if proposed && let Some(pending) = &mut group.change {
            tracing::info!(group = group.names.id, change = ?pending.change, "a change of voters is proposed");
            pending.stage = Stage::Proposed(next);
        }
    }

    /// Looks what has become of the changes under way.
    pub(super) fn follow_changes(&mut self) {
        for at in std::mem::take(&mut self.changing) {
            self.propose_change(at, None);
            match self.outcome_of_change(at) {
                None => self.changing.push(at),
                Some(outcome) => {
                    let pending = self.groups[at as usize].change.take().expect("it is followed");
                    self.tell_change(pending.reply, outcome);
                }
            }
        }
    }

    /// The group of a change is no more.
    pub(super) fn fail_change(&mut self, change: PendingChange, error: MembershipError) {
        self.tell_change(change.reply, Err(error));
    }

    fn tell_change(&mut self, to: MembershipReply, outcome: MembershipOutcome) {
        match to {
            MembershipReply::Callback(reply) => reply(outcome),
            MembershipReply::Client(connection, request) => self.reply(connection, request, &outcome.into()),
        }
    }

    fn outcome_of_change(&mut self, at: u32) -> Option<MembershipOutcome> {
        let leader = self.leader_of(at);
        let group = &mut self.groups[at as usize];
        let (chosen, leads) = (group.replica.log().chosen(), group.replica.epoch().is_some());
        let governing = group.replica.configuration();
        let pending = group.change.as_mut().expect("it is followed");
        if let Stage::Proposed(next) = &pending.stage
            && governing.version >= next.version
        {
            if governing != next {
                // Another one took its place, or came after it: which, is not seen here.
                return Some(Err(MembershipError::Unknown));
            }
            pending.stage = Stage::Governs(next.clone());
        }
        let late = self.now_ns >= pending.until_ns || self.stopping;
        match &pending.stage {
            // A later configuration was chosen by these voters, or by some whom these have chosen.
            Stage::Governs(next) if chosen > group.replica.configured_at() || governing != next => {
                let next = next.clone();
                Some(Ok(self.membership_of(&next)))
            }
            Stage::Waits if !leads => Some(Err(Rejection::NotLeader { leader }.into())),
            Stage::Waits if late => {
                let (change, configuration) = (pending.change, governing.clone());
                Some(Err(match change {
                    MembershipChange::Add(node) | MembershipChange::AddWitness(node) => {
                        let peer = self.peers.iter().find(|peer| peer.node == node);
                        let next = peer.and_then(|peer| configuration.add(node, self.replica_on(at, peer)));
                        match next.filter(|next| self.reachable(at, next) > self.reachable(at, &configuration)) {
                            Some(next) if !self.works(at, &next) => self.too_few(at, &next),
                            _ => MembershipError::NotCaughtUp(node),
                        }
                    }
                    MembershipChange::Remove(node) => MembershipError::WouldStop(node),
                    MembershipChange::Quorum(phase_2) => match configuration.resize(phase_2) {
                        Some(next) => self.too_few(at, &next),
                        None => MembershipError::Quorum { phase_2, voters: configuration.voters.len() },
                    },
                }))
            }
            _ if late => Some(Err(MembershipError::Unknown)),
            _ => None,
        }
    }
}

/// Why a configuration with so many voters to choose cannot be.
fn refused(phase_2: u16, voters: usize, witnesses: usize) -> MembershipError {
    if usize::from(phase_2) > voters {
        return MembershipError::Quorum { phase_2, voters };
    }
    MembershipError::Witnesses { phase_2: Quorums::of(voters, phase_2).phase_2, voters, witnesses }
}
