//! Whether replicas have applied the same: they compare the chained checksums of their apply states.
//!
//! A checksum of each record finds what a disk has changed. This finds what nothing else does: that two replicas hold
//! different values in one slot, be it by a fault of memory or of this program. A leader tells the others its chained checksum
//! at every [`EVERY_SLOTS`]th slot, and where its group falls silent. Who has the same stays silent; who differs tells all
//! what it has, and who differs from that does too. So each learns what most have, and the one that differs from most voters
//! stops before it serves more of what the others do not have.
//!
//! Invariants: what is told is the checksum of an applied slot, so of a chosen one; a replica stops only when more than half
//! of the voters have told the same other checksum of a slot that it has applied.

use synod_core::Slot;
use synod_core::planted::{Bug, is};

use super::Shard;
use super::events::Event;
use crate::wire;

/// A leader tells its checksum so often.
const EVERY_SLOTS: u64 = 1024;
/// Checksums that a replica remembers, so that it can be ahead of its leader's word.
const KEPT: usize = 2;

/// A chained checksum, behind a slot.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Sum {
    slot: Slot,
    chain: u32,
}

/// What another replica has told, and this one has not found to be the same.
#[derive(Clone, Copy, Debug)]
struct Claim {
    peer: usize,
    sum: Sum,
    /// It was said aloud that they differ.
    reported: bool,
}

/// What a group's replica knows of the checksums.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// The last ones of its own.
    own: [Sum; KEPT],
    /// The last one of each other replica that differs, or of a slot that is not applied here yet.
    claims: Vec<Claim>,
    /// The last slot whose checksum was told to all.
    told: Slot,
}

impl Agreement {
    /// Whether the checksum behind `slot` is wanted.
    fn wants(&self, slot: Slot) -> bool {
        slot.0.is_multiple_of(EVERY_SLOTS) || self.claims.iter().any(|claim| claim.sum.slot == slot)
    }

    /// What others have told and is not found to be the same.
    #[cfg(feature = "simulation")]
    pub(super) fn claims(&self) -> usize {
        self.claims.len()
    }

    fn keep(&mut self, sum: Sum) {
        if at_slot(&self.own, sum.slot).is_none() {
            self.own.rotate_right(1);
            self.own[0] = sum;
        }
    }

    /// Keeps the claims that differ from what is here, and those of slots behind `applied`. Gives the own checksum of the last
    /// slot in which one differs.
    fn compare(&mut self, applied: Slot) -> Option<Sum> {
        // What is applied here and not remembered is too old to be compared.
        self.claims
            .retain(|Claim { sum, .. }| at_slot(&self.own, sum.slot).map_or(sum.slot > applied, |own| own != *sum));
        if is(Bug::ChainsAreNotCompared) {
            self.claims.clear();
        }
        self.claims.iter().filter_map(|claim| at_slot(&self.own, claim.sum.slot)).max_by_key(|own| own.slot)
    }
}

fn at_slot(sums: &[Sum], slot: Slot) -> Option<Sum> {
    sums.iter().copied().find(|sum| sum.slot == slot)
}

impl Shard {
    /// A slot was applied.
    pub(super) fn note_chain(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        let sum = Sum { slot: group.apply.slot, chain: group.apply.chain };
        if group.agreement.wants(sum.slot) {
            group.agreement.keep(sum);
            if group.replica.leads() && sum.slot.0.is_multiple_of(EVERY_SLOTS) {
                self.tell_sum(at, sum);
            }
            self.compare_sums(at);
        }
    }

    /// A group that is led from here falls silent.
    pub(super) fn tell_last_chain(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        let sum = Sum { slot: group.apply.slot, chain: group.apply.chain };
        if group.replica.leads() && sum.slot == group.replica.log().chosen() {
            group.agreement.keep(sum);
            self.tell_sum(at, sum);
        }
    }

    /// Tells all who hear of this group, once.
    fn tell_sum(&mut self, at: u32, sum: Sum) {
        let now_us = self.now_us();
        let group = &mut self.groups[at as usize];
        if group.agreement.told >= sum.slot {
            return;
        }
        group.agreement.told = sum.slot;
        let uid = group.names.uid;
        for peer in &mut self.peers {
            peer.push_control(|out| wire::append_applied(out, uid, sum.slot, sum.chain), now_us);
        }
    }

    /// Another replica has applied what is behind this checksum.
    pub(super) fn on_applied(&mut self, at: u32, peer: usize, slot: Slot, chain: u32) {
        let group = &mut self.groups[at as usize];
        let agreement = &mut group.agreement;
        let reported = agreement.claims.iter().any(|claim| claim.peer == peer && claim.reported);
        agreement.claims.retain(|claim| claim.peer != peer);
        agreement.claims.push(Claim { peer, sum: Sum { slot, chain }, reported });
        if group.apply.slot == slot {
            agreement.keep(Sum { slot, chain: group.apply.chain });
        }
        self.compare_sums(at);
    }

    /// Compares what others have told with what is here.
    fn compare_sums(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        if let Some(own) = group.agreement.compare(group.apply.slot) {
            self.tell_sum(at, own);
            self.judge(at, own);
        }
    }

    /// This replica differs from others. It stops when most voters have the same as each other and not as this one.
    fn judge(&mut self, at: u32, own: Sum) {
        let mut claims = std::mem::take(&mut self.groups[at as usize].agreement.claims);
        let group = &self.groups[at as usize];
        let (id, configuration) = (group.names.id, group.replica.configuration());
        let votes = |claim: &&Claim| configuration.voter(self.address(at, claim.peer)).is_some();
        let of_slot: Vec<&Claim> = claims.iter().filter(|claim| claim.sum.slot == own.slot).filter(votes).collect();
        let same = |chain| of_slot.iter().filter(|claim| claim.sum.chain == chain).count();
        let most = of_slot.iter().map(|claim| same(claim.sum.chain)).max().unwrap_or(0);
        if most * 2 > configuration.voters.len() {
            self.fatal = Some(format!(
                "group {id}: what was applied up to slot {} is not what most voters have, so memory or a disk of this node \
                 has changed it: start it again, and if this comes again, make a new directory for it with `synod init \
                 --replace`",
                own.slot.0
            ));
        }
        for claim in claims.iter_mut().filter(|claim| claim.sum.slot == own.slot && !claim.reported) {
            claim.reported = true;
            let (node, slot) = (self.peers[claim.peer].node, own.slot.0);
            tracing::error!(group = id, node, slot, "another node has applied something else than this one");
            self.tell_event(Event::ReplicasDiffer { group: id, slot, node });
        }
        self.groups[at as usize].agreement.claims = claims;
    }
}
