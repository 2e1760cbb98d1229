//! Who is at the other end, who votes, and whether this shard's own log can be trusted.
//!
//! A connection belongs to a peer's log with its id, and to the replicas that its groups are. A group's configuration says
//! under which number such a replica votes; one that it does not name is addressed as an outsider, and none of its votes
//! is counted.

use synod_core::planted::{Bug, is};
use synod_core::{Configuration, MemberId, ReplicaId};

use super::group::{GroupKind, GroupNames, Lacking};
use super::links::Peer;
use super::{Part, QUIET_NS, Shard, VOTE_WAIT_NS};
use crate::apply::ApplyState;
use crate::peers::Genesis;
use crate::wire;

/// So long a replica asks for entries that some have trimmed, before it takes over what they did with a gap in its log.
const ASK_FOR_ENTRIES_NS: u64 = 5_000_000_000;

impl Shard {
    /// How a group addresses the replica that a peer's connection belongs to.
    pub(super) fn address(&self, at: u32, peer: usize) -> MemberId {
        let configuration = self.groups[at as usize].replica.configuration();
        configuration.member_of(self.replica_of(at, peer)).unwrap_or_else(|| MemberId::outsider(peer))
    }

    /// The replica that a group is on the log that a peer's connection belongs to.
    pub(super) fn replica_of(&self, at: u32, peer: usize) -> ReplicaId {
        self.replica_on(at, &self.peers[peer])
    }

    /// As [`Shard::replica_of`]. Of guests nothing is known before the peer has said it: the rules speak of those at home.
    pub(super) fn replica_on(&self, at: u32, peer: &Peer) -> ReplicaId {
        let GroupNames { uid, home, .. } = self.groups[at as usize].names;
        let by_rule = || if self.homes.shard_of(home) == self.shard.0 { peer.names.of(home) } else { 0 };
        ReplicaId(peer.names.of_named(uid).unwrap_or_else(by_rule))
    }

    /// Whether the replicas of this node keep votes only.
    pub(crate) fn is_witness(&self) -> bool {
        self.made.maker.config.is_witness(self.node)
    }

    /// The peer that a group addresses so: only when its connection belongs to that very replica.
    pub(super) fn peer_of(&self, at: u32, member: MemberId) -> Option<usize> {
        if let Some(peer) = member.outsider_peer() {
            return (peer < self.peers.len()).then_some(peer);
        }
        let voter = self.groups[at as usize].replica.voter(member)?;
        (0..self.peers.len())
            .find(|peer| self.peers[*peer].node == voter.node && self.replica_of(at, *peer) == voter.replica)
    }

    /// The founders of a shard of the beginning are known: the voters of all its groups then, this node's first replica
    /// among them. Told once, when the shard is made or when contact with the last of them was mutual, and never changed. A
    /// group that is not told does not vote.
    pub(crate) fn found(&mut self, first_shard: usize, genesis: &Genesis) {
        let mut founders = genesis.clone();
        founders.sort_unstable();
        let config = &self.made.maker.config;
        let other_kind =
            founders.iter().find(|(node, replica)| config.is_witness(*node) != ReplicaId(*replica).is_witness());
        if let Some((node, replica)) = other_kind {
            let is = if ReplicaId(*replica).is_witness() { "is a witness" } else { "is no witness" };
            self.fatal = Some(format!(
                "node {node} {is} by its own directory, and by this node's configuration it is otherwise: correct `witnesses`, \
                 which must be the same on all nodes"
            ));
            return;
        }
        let genesis = Configuration::genesis(founders.into_iter().map(|(node, replica)| (node, ReplicaId(replica))));
        self.made.found(first_shard, &genesis);
        let first_shards = self.homes.first_shards;
        for at in 0..self.groups.len() as u32 {
            let group = &self.groups[at as usize];
            if group.names.home % first_shards != first_shard as u64 {
                continue;
            }
            let genesis = match group.kind {
                GroupKind::Configured => {
                    let phase_2 = self.made.maker.config.phase_2;
                    genesis.clone().with_phase_2(phase_2).expect("no more than there are members")
                }
                GroupKind::Made(slot) => match self.birth_of(group.names.home, slot) {
                    Some(birth) => birth.sized(genesis.clone()),
                    None => continue,
                },
                GroupKind::Directory | GroupKind::Gone => genesis.clone(),
            };
            self.act(at, &[], |r, out| r.found(genesis, out));
        }
    }

    pub(super) fn note_configuration(&mut self, at: u32) {
        let group = &self.groups[at as usize];
        let configuration = group.replica.configuration();
        if configuration.version > 0 {
            let voters: Vec<u64> = configuration.voters.iter().map(|voter| voter.node).collect();
            let (version, votes) = (configuration.version, group.replica.votes());
            tracing::info!(group = group.names.id, version, ?voters, votes, "another configuration governs");
            self.tell_configuration(at);
        }
    }

    /// A peer's replica that has no vote has caught up with this leader: it gets the vote of the one that its node had
    /// before, and which is no more.
    pub(super) fn give_vote(&mut self, at: u32, outsider: MemberId) {
        let Some(place) = outsider.outsider_peer().filter(|peer| *peer < self.peers.len()) else { return };
        self.propose_change(at, Some(place));
        let (node, replica) = (self.peers[place].node, self.replica_of(at, place));
        let group = &self.groups[at as usize];
        // With too few of them nobody could be elected under it: until then the others go on without this one.
        let next = group.replica.configuration().replace(node, replica).filter(|next| self.works(at, next));
        if let Some(next) = next {
            tracing::info!(group = group.names.id, node, %replica, "a new replica has caught up: it is given a vote");
            self.act(at, &[], |r, out| {
                r.reconfigure(next, out);
            });
        }
    }

    // ---- what was trimmed ----

    /// Sends a peer what the chosen slots of a group did, since the slots are gone.
    pub(super) fn send_state(&mut self, at: u32, peer: u8) {
        let group = &self.groups[at as usize];
        let mut record = Vec::new();
        wire::append_state(&mut record, group.names.uid, &group.apply.settled());
        let now_us = self.now_us();
        self.peers[peer as usize].push_bulk(Part::Owned(record), now_us);
    }

    /// Takes over what the slots did that were trimmed elsewhere and are missing here.
    pub(super) fn install(&mut self, at: u32, peer: usize, state: ApplyState) {
        let group = &mut self.groups[at as usize];
        if !group.replica.can_install(state.slot) || group.checkpoints.away || group.checkpoints.restore.is_some() {
            return;
        }
        // Where this replica begins to lack entries. A peer that began behind them itself does not have them; another may.
        let begins = if group.machine.is_some() { group.machine_next } else { group.apply.next_index };
        if begins < state.next_index && !group.replica.is_witness() {
            let now_ns = self.now_ns;
            let lacking = &mut group.lacking;
            if lacking.from != begins {
                *lacking = Lacking { from: begins, since_ns: now_ns, without: 0 };
            }
            lacking.without |= 1 << peer;
            let (without, since_ns) = (lacking.without, lacking.since_ns);
            let is_without = |at: usize| without & (1 << at) != 0;
            if group.machine.is_some() {
                if !(0..self.peers.len()).all(is_without) {
                    return;
                }
                self.fatal = Some(format!(
                    "the state machine of group {} needs index {begins}, and the other replicas have trimmed their logs \
                     up to index {}: restore its data from a backup that holds index {} or later",
                    group.names.id,
                    state.next_index - 1,
                    state.next_index - 1
                ));
                return;
            }
            // Readers of this log would find a gap: whoever may have the entries is asked first, but not for ever.
            let may_have = |(at, peer): (usize, &Peer)| peer.connection.is_some() && !is_without(at);
            if now_ns < since_ns + ASK_FOR_ENTRIES_NS && self.peers.iter().enumerate().any(may_have) {
                return;
            }
        }
        self.install_state(at, state);
    }

    /// As [`Shard::install`], for a replica whose state machine needs nothing else, or will be given it.
    pub(super) fn install_state(&mut self, at: u32, state: ApplyState) {
        let group = &mut self.groups[at as usize];
        let (slot, configuration) = (state.slot, state.configuration.clone().unwrap_or_default());
        if group.machine.is_none() && !group.checkpoints.away {
            group.machine_next = state.next_index;
        }
        group.apply = state;
        group.gone = slot;
        group.indexes.clear();
        self.index.trim(group.names.uid, slot.0);
        tracing::info!(group = group.names.id, %slot, "what was trimmed elsewhere is taken over");
        self.act(at, &[], |r, out| {
            r.install(slot, configuration, out);
        });
        let group = &self.groups[at as usize];
        if group.kind == GroupKind::Directory {
            self.made.note_applied(group.names.home);
        }
    }

    // ---- the own log ----

    /// Whether votes may leave: after a start only once all peers were met, or a while has passed, since one of them may
    /// know of votes that this log has lost.
    pub(super) fn may_vote(&mut self) -> bool {
        let Some(from) = self.votes_from_ns else { return true };
        if self.now_ns >= from || self.peers.iter().all(|peer| peer.met) {
            self.votes_from_ns = None;
        }
        self.votes_from_ns.is_none()
    }

    pub(super) fn wait_before_voting(&mut self) {
        self.votes_from_ns = Some(self.now_ns + VOTE_WAIT_NS);
    }

    /// A peer has seen votes of this replica that rest on its log up to `seen`. What it says when they first meet is of
    /// earlier processes, so what this one has written since does not count.
    pub(super) fn check_own_log(&mut self, node: u64, seen: u64, first: bool) {
        let end = if first { self.recovered_end } else { self.writer.durable_through() };
        if seen > end && !is(Bug::LogEndIsNotChecked) {
            self.suspect = true;
            self.fatal = Some(format!(
                "this log ends with frame {end}, and node {node} has seen votes that rest on frame {seen}: the end of \
                 the log is damaged, or the directory is an older copy. These replicas must not vote any more; at the \
                 next start they come back as new ones, and get their votes back from the others"
            ));
        }
    }

    /// A peer has seen votes that rest on a log of an earlier era beyond what was copied of it.
    pub(super) fn check_past_log(&mut self, node: u64, lost: Option<(u64, u64)>) {
        if let Some((end, seen)) = lost {
            self.suspect = true;
            self.fatal = Some(format!(
                "this log was copied from one that ended with frame {end}, and node {node} has seen votes that rest on its \
                 frame {seen}: the end of that log was damaged, or the directory was an older copy. These replicas must not \
                 vote any more; at the next start they come back as new ones, and get their votes back from the others"
            ));
        }
    }

    /// A peer's votes rest on its log up to `log_end`: it must never come back with less.
    pub(super) fn note_log_end(&mut self, peer: usize, log_end: u64) {
        let peer = &mut self.peers[peer];
        if log_end > peer.log_end {
            peer.log_end = log_end;
            self.seen.note(self.shard.0, peer.node, peer.log, log_end);
        }
    }

    /// Writes a frame behind the last one once the shard has gone quiet. It says that the last one is durable, so that a
    /// last frame that rots is told from one that was torn.
    pub(super) fn mark_quiet_log(&mut self) {
        let due = self.quiet_mark_ns().is_some_and(|due| self.now_ns >= due);
        if due && self.frames.flying.is_empty() && self.frames.filling.is_empty() {
            self.frames.push_mark();
        }
    }

    /// When that is due, if nothing else is written before.
    pub(super) fn quiet_mark_ns(&self) -> Option<u64> {
        let (since, marked) = self.quiet_since;
        (!marked).then_some(since + QUIET_NS + 1)
    }
}
