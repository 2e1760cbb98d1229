//! Catching up by checkpoint: offering one to who needs slots that were trimmed, fetching one, and the switch to it.
//!
//! Invariants: at most one checkpoint per group is fetched, with a few messages in flight; it is checked as a whole and
//! durable before a record says so, and that record is durable before the machine is restored; the promise and what is
//! accepted above it stay. What is wrong with it is told, and it is fetched again, from whoever offers one next.

use std::collections::HashMap;

use synod_core::planted::{Bug, is};

use super::Shard;
use super::events::Event;
use super::pace::Rate;
use crate::checkpoint::message::CheckpointMessage;
use crate::checkpoint::{Kept, Part, StoreOp};
use crate::machine::StateMachine;
use crate::marks::{Mark, mark};

/// Messages with bytes of one checkpoint that are asked for and not stored.
const PULLS_MAX: u64 = 4;
/// Reads of checkpoints for peers that the store has not answered.
const READS_MAX: usize = 64;
/// A fetch in which nothing came for so long asks again.
const SILENT_NS: u64 = 1_000_000_000;
/// So often it does, before another peer's offer is taken.
const TRIES_MAX: u32 = 3;
/// A machine that lacks a checkpoint asks for one so often.
const WANT_NS: u64 = 500_000_000;

/// A checkpoint that is being fetched.
#[derive(Debug)]
pub(crate) struct Fetch {
    peer: usize,
    offer: Kept,
    part: Part,
    /// The store has said how much is there.
    begun: bool,
    /// Bytes that were asked for, that were handed to the store, and that it has.
    asked: u64,
    appended: u64,
    stored: u64,
    finishing: bool,
    heard_ns: u64,
    tries: u32,
}

/// What is under way with checkpoints of peers.
#[derive(Debug)]
pub(crate) struct Transfers {
    /// Reads for peers: (peer, group, part, offset).
    reads: HashMap<u64, (usize, u32, Part, u64)>,
    next_read: u64,
    /// Groups that fetch.
    fetching: Vec<u32>,
    rate: Rate,
    want_ns: u64,
    want_peer: usize,
}

impl Transfers {
    pub(super) fn new(rate: Rate) -> Self {
        Self { reads: HashMap::new(), next_read: 0, fetching: Vec::new(), rate, want_ns: 0, want_peer: 0 }
    }
}

impl Shard {
    // ---- who has one ----

    /// Answers a replica that needs slots which are trimmed here.
    pub(super) fn offer_or_state(&mut self, at: u32, peer: u8, from: u64) {
        if self.is_witness() {
            return; // What it has would not help.
        }
        let of = &self.groups[at as usize].checkpoints;
        if !of.taken || self.replica_of(at, peer as usize).is_witness() {
            return self.send_state(at, peer);
        }
        if of.slot().0 < from {
            self.want_checkpoint(at);
            return;
        }
        self.offer(at, peer as usize);
    }

    fn offer(&mut self, at: u32, peer: usize) {
        if let Some(kept) = self.groups[at as usize].checkpoints.newest() {
            mark(Mark::CheckpointOffered);
            let message = CheckpointMessage::Offer(kept.clone());
            self.send_checkpoint(at, peer, &message);
        }
    }

    fn send_checkpoint(&mut self, at: u32, peer: usize, message: &CheckpointMessage) -> bool {
        let uid = self.groups[at as usize].names.uid;
        let now_us = self.now_us();
        let mut record = Vec::new();
        message.append(uid, &mut record);
        self.peers[peer].push_bulk(super::Part::Owned(record), now_us)
    }

    pub(super) fn on_checkpoint_message(&mut self, at: u32, peer: usize, message: CheckpointMessage) {
        if self.is_witness() || self.replica_of(at, peer).is_witness() {
            return; // It has none and needs none.
        }
        match message {
            CheckpointMessage::Offer(offer) => self.on_offer(at, peer, offer),
            CheckpointMessage::Want => {
                if self.groups[at as usize].checkpoints.newest().is_none() {
                    self.want_checkpoint(at);
                }
                self.offer(at, peer);
            }
            CheckpointMessage::Pull { part, offset, bytes } => self.on_pull(at, peer, part, offset, bytes),
            CheckpointMessage::Chunk { part, offset, bytes } => self.on_chunk(at, peer, part, offset, bytes),
        }
    }

    fn on_pull(&mut self, at: u32, peer: usize, part: Part, offset: u64, bytes: u32) {
        let group = &self.groups[at as usize];
        let has = group.checkpoints.kept.iter().any(|kept| (kept.slot().0, kept.id) == (part.slot, part.id));
        if !has {
            return self.offer(at, peer);
        }
        // Whoever is not answered asks again.
        let transfers = &mut self.checkpoints.transfers;
        if transfers.reads.len() < READS_MAX {
            let request = transfers.next_read;
            transfers.next_read += 1;
            transfers.reads.insert(request, (peer, at, part, offset));
            let uid = group.names.uid;
            self.checkpoints.ops.push(StoreOp::Read { request, uid, slot: part.slot, offset, bytes });
            self.note_served(at);
        }
    }

    pub(super) fn on_checkpoint_read(&mut self, request: u64, result: Result<Vec<u8>, String>) {
        let Some((peer, at, part, offset)) = self.checkpoints.transfers.reads.remove(&request) else { return };
        match result {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                self.send_checkpoint(at, peer, &CheckpointMessage::Chunk { part, offset, bytes });
            }
            Err(reason) => {
                let group = &mut self.groups[at as usize];
                let (id, slot) = (group.names.id, part.slot);
                tracing::error!(group = id, slot, reason, "a checkpoint cannot be read for a peer: a new one is taken");
                group.checkpoints.kept.retain(|kept| kept.slot().0 != slot);
                self.checkpoints.ops.push(StoreOp::Remove { uid: part.uid, slot });
                self.want_checkpoint(at);
            }
        }
    }

    // ---- who needs one ----

    fn on_offer(&mut self, at: u32, peer: usize, offer: Kept) {
        let now_ns = self.now_ns;
        let group = &mut self.groups[at as usize];
        let behind = group.replica.can_install(offer.slot());
        let lacks = group.checkpoints.lacks && offer.index() + 1 >= group.first_index();
        if !behind && !lacks {
            return;
        }
        let needs = group.machine_next < offer.state.next_index;
        if !group.checkpoints.taken || !needs {
            // What the entries did is not needed, or held already, or cannot be taken over.
            return self.install(at, peer, offer.state);
        }
        if group.checkpoints.away || group.checkpoints.restore.is_some() {
            return;
        }
        let part = Part { uid: group.names.uid, slot: offer.slot().0, id: offer.id };
        if let Some(fetch) = &mut group.checkpoints.fetch {
            let silent = now_ns > fetch.heard_ns + SILENT_NS && !fetch.finishing;
            let same = (fetch.part, fetch.offer.bytes) == (part, offer.bytes);
            if silent && same && fetch.peer != peer {
                // Another has the very same.
                mark(Mark::FetchGoesOnElsewhere);
                (fetch.peer, fetch.asked, fetch.heard_ns, fetch.tries) = (peer, fetch.appended, now_ns, 0);
            } else if silent && fetch.tries >= TRIES_MAX {
                mark(Mark::FetchGivenUp);
                let silent_peer = fetch.peer;
                group.checkpoints.fetch = None;
                if silent_peer == peer {
                    // It offers and does not give: whoever offers one next comes first.
                    return;
                }
            } else {
                return;
            }
        }
        if group.checkpoints.fetch.is_none() {
            mark(Mark::FetchBegins);
            tracing::info!(
                group = group.names.id,
                from = self.peers[peer].node,
                slot = part.slot,
                bytes = offer.bytes,
                "the log no longer has what is missing here: a checkpoint is fetched"
            );
            group.checkpoints.fetch = Some(Box::new(Fetch {
                peer,
                offer,
                part,
                begun: false,
                asked: 0,
                appended: 0,
                stored: 0,
                finishing: false,
                heard_ns: now_ns,
                tries: 0,
            }));
            if !self.checkpoints.transfers.fetching.contains(&at) {
                self.checkpoints.transfers.fetching.push(at);
            }
            self.checkpoints.ops.push(StoreOp::Begin { group: at, part });
        }
        self.pull(at);
    }

    fn fetch_of(&mut self, at: u32, part: Part) -> Option<&mut Fetch> {
        self.groups[at as usize].checkpoints.fetch.as_deref_mut().filter(|fetch| fetch.part == part)
    }

    pub(super) fn on_fetch_begun(&mut self, at: u32, part: Part, result: Result<u64, String>) {
        let now_ns = self.now_ns;
        let Some(fetch) = self.fetch_of(at, part) else { return };
        match result {
            Ok(there) => {
                if there > 0 {
                    mark(Mark::FetchResumed);
                }
                fetch.begun = true;
                fetch.heard_ns = now_ns;
                (fetch.asked, fetch.appended, fetch.stored) = (there, there, there);
                self.finish_or_pull(at);
            }
            Err(reason) => self.fetch_failed(at, &reason),
        }
    }

    fn fetch_failed(&mut self, at: u32, reason: &str) {
        mark(Mark::FetchFailed);
        let group = &mut self.groups[at as usize];
        if let Some(fetch) = group.checkpoints.fetch.take() {
            let (group, from) = (group.names.id, self.peers[fetch.peer].node);
            tracing::error!(
                group,
                from,
                slot = fetch.part.slot,
                reason,
                "a checkpoint is refused: it is fetched again"
            );
        }
    }

    /// Asks for bytes, as far as few enough are under way and the rate allows.
    fn pull(&mut self, at: u32) {
        let (now_ns, policy) = (self.now_ns, self.checkpoints.policy);
        loop {
            let transfers = &mut self.checkpoints.transfers;
            let Some(fetch) = &mut self.groups[at as usize].checkpoints.fetch else { return };
            let (part, offset, peer) = (fetch.part, fetch.asked, fetch.peer);
            let bytes = u64::from(policy.pull_bytes).min(fetch.offer.bytes.saturating_sub(offset));
            let in_flight = offset - fetch.stored;
            if !fetch.begun
                || bytes == 0
                || in_flight >= PULLS_MAX * u64::from(policy.pull_bytes)
                || !transfers.rate.is_free(now_ns)
            {
                return;
            }
            transfers.rate.take(bytes, now_ns);
            fetch.asked += bytes;
            let message = CheckpointMessage::Pull { part, offset, bytes: bytes as u32 };
            if !self.send_checkpoint(at, peer, &message) {
                return;
            }
        }
    }

    fn on_chunk(&mut self, at: u32, peer: usize, part: Part, offset: u64, bytes: Vec<u8>) {
        let now_ns = self.now_ns;
        let Some(fetch) = self.fetch_of(at, part) else { return };
        let end = offset.saturating_add(bytes.len() as u64);
        if !fetch.begun || fetch.peer != peer || offset != fetch.appended || end > fetch.asked {
            return;
        }
        (fetch.appended, fetch.heard_ns, fetch.tries) = (end, now_ns, 0);
        self.checkpoints.ops.push(StoreOp::Append { group: at, part, offset, bytes });
    }

    pub(super) fn on_fetch_appended(&mut self, at: u32, part: Part, result: Result<u64, String>) {
        let Some(fetch) = self.fetch_of(at, part) else { return };
        match result {
            Ok(stored) => {
                fetch.stored = stored;
                self.finish_or_pull(at);
            }
            Err(reason) => self.fetch_failed(at, &reason),
        }
    }

    fn finish_or_pull(&mut self, at: u32) {
        let Some(fetch) = &mut self.groups[at as usize].checkpoints.fetch else { return };
        let part = fetch.part;
        if fetch.stored >= fetch.offer.bytes && !fetch.finishing {
            fetch.finishing = true;
            self.checkpoints.ops.push(StoreOp::Finish { group: at, part });
        } else {
            self.pull(at);
        }
    }

    pub(super) fn on_fetch_finished(&mut self, at: u32, part: Part, result: Result<Kept, String>) {
        if self.fetch_of(at, part).is_none() {
            return;
        }
        match result {
            Ok(kept) => {
                mark(Mark::FetchFinished);
                self.groups[at as usize].checkpoints.fetch = None;
                self.take_over(at, kept);
            }
            Err(reason) => self.fetch_failed(at, &reason),
        }
    }

    /// A checkpoint from elsewhere is whole and durable: a record says so, and then the machine is restored.
    fn take_over(&mut self, at: u32, kept: Kept) {
        let (state, index) = (kept.state.clone(), kept.index());
        self.keep_checkpoint(at, kept);
        let group = &mut self.groups[at as usize];
        let installs = group.replica.can_install(state.slot);
        // What the log has meanwhile brought may have been enough.
        let needed = group.machine_next <= index && group.checkpoints.index() == index;
        if installs {
            if !needed {
                return self.install_state(at, state);
            }
            self.install_state(at, state);
        }
        if needed {
            let group = &mut self.groups[at as usize];
            group.checkpoints.restore = Some(group.appended);
            self.restore_machines(at);
        }
    }

    /// At the start: a checkpoint that a crash has left before the log says so is taken over now.
    pub(super) fn take_over_own(&mut self) {
        for at in 0..self.groups.len() as u32 {
            let group = &self.groups[at as usize];
            if let Some(kept) = group.checkpoints.newest()
                && group.machine_next > kept.index()
                && group.replica.can_install(kept.slot())
            {
                mark(Mark::CheckpointBeforeLog);
                let state = kept.state.clone();
                self.install_state(at, state);
            }
        }
    }

    /// Hands a machine to the store once the record behind which it is to be restored is durable.
    pub(super) fn restore_machines(&mut self, at: u32) {
        let group = &mut self.groups[at as usize];
        let of = &mut group.checkpoints;
        let durable = of.restore.is_some_and(|seq| group.durable >= seq || is(Bug::CheckpointsAreInstalledEarly));
        if durable && let Some(machine) = group.machine.take() {
            of.restore = None;
            of.away = true;
            let (uid, slot) = (group.names.uid, of.slot().0);
            self.checkpoints.ops.push(StoreOp::Restore { group: at, uid, slot, machine });
        }
    }

    pub(super) fn on_restored(&mut self, at: u32, machine: Box<dyn StateMachine>, result: Result<u64, String>) {
        let group = &mut self.groups[at as usize];
        group.checkpoints.away = false;
        group.machine = Some(machine);
        match result {
            Ok(index) => {
                mark(Mark::MachineRestored);
                group.machine_next = index + 1;
                group.checkpoints.lacks = false;
                tracing::info!(group = group.names.id, index, "the state machine is restored from a checkpoint");
                let group = group.names.id;
                self.tell_event(Event::CheckpointInstalled { group, index });
                self.feed_machine(at);
            }
            Err(reason) => {
                self.fatal = Some(format!(
                    "the state machine of group {} cannot be restored from a checkpoint: {reason}",
                    group.names.id
                ));
            }
        }
    }

    /// Time has passed: what does not come is asked for again.
    pub(super) fn tick_transfers(&mut self) {
        let now_ns = self.now_ns;
        let mut fetching = std::mem::take(&mut self.checkpoints.transfers.fetching);
        fetching.retain(|at| {
            let group = &mut self.groups[*at as usize];
            let chosen = group.replica.log().chosen();
            let lacks = group.checkpoints.lacks;
            let Some(fetch) = &mut group.checkpoints.fetch else { return false };
            if fetch.part.slot <= chosen.0 && !lacks && !fetch.finishing {
                // The log has brought it.
                mark(Mark::FetchNotNeeded);
                group.checkpoints.fetch = None;
                return false;
            }
            if fetch.begun && !fetch.finishing && now_ns > fetch.heard_ns + SILENT_NS && fetch.stored == fetch.appended
            {
                fetch.tries += 1;
                fetch.asked = fetch.appended;
                if fetch.tries < TRIES_MAX {
                    mark(Mark::FetchAsksAgain);
                    fetch.heard_ns = now_ns;
                }
            }
            self.pull(*at);
            true
        });
        self.checkpoints.transfers.fetching.append(&mut fetching);
        if now_ns >= self.checkpoints.transfers.want_ns && !self.peers.is_empty() {
            self.checkpoints.transfers.want_ns = now_ns + WANT_NS;
            let peer = self.checkpoints.transfers.want_peer % self.peers.len();
            self.checkpoints.transfers.want_peer = peer + 1;
            for at in 0..self.groups.len() as u32 {
                if self.groups[at as usize].checkpoints.lacks {
                    self.send_checkpoint(at, peer, &CheckpointMessage::Want);
                }
            }
        }
    }

    /// Bytes of peers' requests and own fetches, for the census.
    #[cfg(feature = "simulation")]
    pub(super) fn transfers_under_way(&self) -> usize {
        self.checkpoints.transfers.reads.len()
    }
}

/// Reads for peers that may be under way.
#[cfg(feature = "simulation")]
pub(super) const TRANSFER_READS_MAX: usize = READS_MAX;
