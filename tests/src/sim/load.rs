//! The clients: closed loops that propose through whatever node they believe to lead, and note what they are told.

use std::sync::{Arc, Mutex};

use synod::limits::POSITIONS_MAX;
use synod::simulation::SimShard;
use synod::{Entries, Epoch, GroupId, NodeId, Outcome, ProposeError, Rejection};

use super::observe::{Observer, entry_of, payload};
use super::plan::{Plan, S};
use super::reads::Reads;
use crate::check::history::{self, AppendId};
use crate::disk::Dice;

/// Settled batches of a session that its client remembers, to say them again: more than a group remembers.
const SETTLED_MAX: usize = 10;
/// About so many parts a large entry has at most.
pub(super) const PARTS: usize = 12;
/// A client waits so long for an outcome when it can go on no further otherwise.
const PATIENCE_NS: u64 = 3 * S;

/// How a client proposes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Each proposal for itself.
    Plain,
    /// In a session, one at a time, again until the outcome is known.
    Session,
    /// Through an ordered handle.
    Ordered,
}

/// A proposal that waits for its outcome.
#[derive(Clone, Debug)]
struct Flying {
    ticket: u64,
    way: Way,
    group: GroupId,
    /// Its operation in the history; none when it is only said again.
    append: Option<AppendId>,
    /// The node that has it.
    node: usize,
    entry: Vec<u8>,
    since_ns: u64,
    /// In a session: its number there.
    sequence: u64,
    /// It was committed at this index long ago, and is only said again.
    settled_at: Option<u64>,
}

/// Where a client is with its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seat {
    /// It has none.
    None,
    /// It has asked a node for one.
    Opening { ticket: u64, node: usize, since_ns: u64 },
    /// It has this one.
    Open(u64),
}

#[derive(Debug)]
struct Client {
    way: Way,
    /// The group of a session or a handle; else any.
    group: GroupId,
    /// The node that it takes for each group's leader.
    believes: Vec<usize>,
    flying: Vec<Flying>,
    /// A session's proposal whose outcome is not known: it is said again.
    again: Option<Flying>,
    sequence: u64,
    seat: Seat,
    /// The last batches of its session that are committed: sequence, index, entry.
    settled: Vec<(u64, u64, Vec<u8>)>,
    /// Its handle, which is bound to an epoch and to the node that gave it.
    handle: Option<(u64, Epoch, usize)>,
    /// Groups of which it takes the next in turn, outside its session or handle.
    probes: Vec<GroupId>,
}

/// An outcome, as a shard told it.
pub type Told = (u64, Outcome);

/// All clients.
#[derive(Debug)]
pub struct Load {
    clients: Vec<Client>,
    told: Arc<Mutex<Vec<Told>>>,
    next_ticket: u64,
    next_payload: u64,
    next_handle: u64,
    /// Reads of a known age.
    pub reads: Reads,
    /// Outcomes by name.
    pub outcomes: std::collections::BTreeMap<&'static str, u64>,
}

/// What came of asking a client to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It has proposed or asked for something on this node's shard of the group.
    Proposed(usize, GroupId),
    /// It waits.
    Waits,
}

impl Load {
    /// The clients of a plan.
    pub fn new(plan: &Plan, dice: &mut Dice) -> Self {
        let ways = [Way::Plain, Way::Plain, Way::Session, Way::Ordered];
        let client = |_| Client {
            way: ways[dice.below(ways.len())],
            group: 1 + dice.below(plan.groups as usize) as u64,
            believes: (0..plan.groups).map(|_| dice.below(plan.nodes)).collect(),
            flying: Vec::new(),
            again: None,
            sequence: 0,
            seat: Seat::None,
            settled: Vec::new(),
            handle: None,
            probes: Vec::new(),
        };
        Self {
            clients: (0..plan.clients).map(client).collect(),
            told: Arc::default(),
            next_ticket: 1,
            next_payload: 1,
            next_handle: 1,
            reads: Reads::new(plan.groups),
            outcomes: Default::default(),
        }
    }

    /// From now on one more client goes round all groups.
    pub fn probe(&mut self, plan: &Plan) {
        for group in 1..=plan.groups {
            self.clients[group as usize % plan.clients].probes.push(group);
        }
    }

    /// Lets a client propose, if it may. `shard` gives the shard of a group on a node that is up.
    pub fn step<'a>(
        &mut self,
        at: usize,
        now_ns: u64,
        plan: &Plan,
        dice: &mut Dice,
        observer: &mut Observer,
        shard: impl FnOnce(usize, GroupId) -> Option<&'a mut SimShard>,
    ) -> Result<Step, String> {
        let client = &mut self.clients[at];
        // Every other time it sees to a group that nobody else may use.
        let probe = if dice.below(2) == 0 || client.probes.is_empty() {
            None
        } else {
            Some(client.probes[dice.below(client.probes.len())])
        };
        let way = if probe.is_some() { Way::Plain } else { client.way };
        let window = if way == Way::Session { 1 } else { plan.window };
        if client.flying.iter().filter(|flying| flying.way == way).count() >= window {
            let oldest = client.flying.iter().min_by_key(|flying| flying.since_ns).expect("the window is not 0");
            if oldest.since_ns + PATIENCE_NS < now_ns {
                // Nobody may ever answer: it goes on without knowing.
                let ticket = oldest.ticket;
                self.resolve(ticket, Err(ProposeError::Unknown), None, now_ns, plan, dice, observer);
            }
            return Ok(Step::Waits);
        }
        let group = match (probe, way) {
            (Some(group), _) => group,
            (None, Way::Plain) => 1 + dice.below(plan.groups as usize) as u64,
            (None, Way::Session | Way::Ordered) => client.group,
        };
        // Now and then it asks another node, whatever it believes.
        let believes = &mut client.believes[group as usize - 1];
        if dice.below(16) == 0 {
            *believes = dice.below(plan.nodes);
        }
        let handle = client.handle.filter(|_| way == Way::Ordered);
        let node = handle.map_or(*believes, |(.., node)| node);
        let Some(shard) = shard(node, group) else {
            *believes = dice.below(plan.nodes);
            client.handle = None;
            return Ok(Step::Waits);
        };
        let mut session = None;
        if way == Way::Session {
            match client.seat {
                Seat::Open(id) => session = Some(id),
                Seat::Opening { since_ns, .. } if now_ns <= since_ns + PATIENCE_NS => return Ok(Step::Waits),
                Seat::None | Seat::Opening { .. } => {
                    let (ticket, told) = (self.next_ticket, Arc::clone(&self.told));
                    self.next_ticket += 1;
                    client.seat = Seat::Opening { ticket, node, since_ns: now_ns };
                    shard.open_session(group, move |outcome| {
                        told.lock().expect("no holder panics").push((ticket, outcome));
                    });
                    return Ok(Step::Proposed(node, group));
                }
            }
        }
        if way == Way::Ordered && client.handle.is_none() {
            let Some(epoch) = shard.epoch(group) else {
                *believes = dice.below(plan.nodes);
                return Ok(Step::Waits);
            };
            client.handle = Some((self.next_handle, epoch, node));
            self.next_handle += 1;
        }
        let handle = client.handle.filter(|_| way == Way::Ordered).map(|(handle, epoch, _)| (handle, epoch));
        let repeats =
            way == Way::Session && client.again.is_none() && !client.settled.is_empty() && dice.below(12) == 0;
        let flying = match client.again.take_if(|_| way == Way::Session) {
            Some(flying) => Flying { node, ticket: self.next_ticket, since_ns: now_ns, ..flying },
            None if repeats => {
                let (sequence, index, entry) = client.settled[dice.below(client.settled.len())].clone();
                let (ticket, settled_at) = (self.next_ticket, Some(index));
                Flying { ticket, way, group, append: None, node, entry, since_ns: now_ns, sequence, settled_at }
            }
            None => {
                let payload = self.next_payload;
                self.next_payload += 1;
                let bytes = if plan.part_bytes > 0 && (dice.below(100) as u64) < plan.large_percent {
                    2 * plan.part_bytes + 1 + dice.below(PARTS * plan.part_bytes)
                } else {
                    8 + dice.below(plan.entry_bytes_max)
                };
                let entry = entry_of(payload, bytes);
                let named = handle.map(|(handle, _)| handle as u32);
                let append = observer.history(group).append(now_ns, at as u32, named, payload);
                let append = Some(append.map_err(|full| full.to_string())?);
                client.sequence += u64::from(way == Way::Session);
                let (ticket, sequence) = (self.next_ticket, client.sequence);
                Flying { ticket, way, group, append, node, entry, since_ns: now_ns, sequence, settled_at: None }
            }
        };
        self.next_ticket += 1;
        let (ticket, told) = (flying.ticket, Arc::clone(&self.told));
        let session = session.map(|id| (id, flying.sequence));
        let entries = Entries::one(&flying.entry).expect("it is small");
        client.flying.push(flying);
        shard.propose(group, entries, session, handle, move |outcome| {
            told.lock().expect("no holder panics").push((ticket, outcome));
        });
        Ok(Step::Proposed(node, group))
    }

    /// Appends whose proposers know that they are committed.
    pub fn acknowledged(&self) -> u64 {
        ["committed", "duplicate"].iter().filter_map(|name| self.outcomes.get(name)).sum()
    }

    /// Takes in what shards have told since the last call.
    /// `applied` is the last index that the node which told them has given an entry of a group.
    pub fn take_outcomes(
        &mut self,
        now_ns: u64,
        plan: &Plan,
        dice: &mut Dice,
        observer: &mut Observer,
        applied: impl Fn(GroupId) -> u64,
    ) {
        let told = std::mem::take(&mut *self.told.lock().expect("no holder panics"));
        for (ticket, outcome) in told {
            if outcome == Err(ProposeError::SessionExpired)
                && let Some(flying) = self.flying(ticket)
            {
                observer.expired(flying.group, payload(&flying.entry), applied(flying.group));
            }
            let leader = match outcome {
                Err(ProposeError::Rejected(Rejection::NotLeader { leader })) => leader,
                _ => None,
            };
            self.resolve(ticket, outcome, leader, now_ns, plan, dice, observer);
        }
    }

    fn flying(&self, ticket: u64) -> Option<&Flying> {
        self.clients.iter().flat_map(|client| &client.flying).find(|flying| flying.ticket == ticket)
    }

    /// A node has ended: what it had not answered is unknown.
    pub fn node_ended(&mut self, node: usize, now_ns: u64, plan: &Plan, dice: &mut Dice, observer: &mut Observer) {
        self.reads.node_ended(node);
        // Callbacks of a shard that is gone never speak.
        self.told.lock().expect("no holder panics").clear();
        let of_node = |client: &Client| -> Vec<u64> {
            client.flying.iter().filter(|flying| flying.node == node).map(|flying| flying.ticket).collect()
        };
        let tickets: Vec<u64> = self.clients.iter().flat_map(of_node).collect();
        for ticket in tickets {
            self.resolve(ticket, Err(ProposeError::Unknown), None, now_ns, plan, dice, observer);
        }
        for client in &mut self.clients {
            if matches!(client.seat, Seat::Opening { node: of, .. } if of == node) {
                client.seat = Seat::None;
            }
        }
    }

    /// A client was told what became of its wish for a session.
    fn seated(&mut self, ticket: u64, outcome: Outcome, leader: Option<NodeId>, plan: &Plan, dice: &mut Dice) {
        let is_asking = |client: &&mut Client| matches!(client.seat, Seat::Opening { ticket: of, .. } if of == ticket);
        let Some(client) = self.clients.iter_mut().find(is_asking) else { return };
        client.seat = match outcome {
            Ok(opened) => {
                *self.outcomes.entry("session opened").or_default() += 1;
                (client.sequence, client.settled) = (0, Vec::new());
                Seat::Open(opened.slot)
            }
            Err(_) => {
                client.believes[client.group as usize - 1] = match leader {
                    Some(node) => node as usize - 1,
                    None => dice.below(plan.nodes),
                };
                Seat::None
            }
        };
    }

    /// Now and then a client leaves its session without a word, or closes it and may not have noticed. What waits for its
    /// outcome keeps it.
    pub fn maybe_leave<'a>(
        &mut self,
        at: usize,
        dice: &mut Dice,
        shard: impl FnOnce(usize, GroupId) -> Option<&'a mut SimShard>,
    ) -> Option<(usize, GroupId)> {
        let client = &mut self.clients[at];
        let Seat::Open(id) = client.seat else { return None };
        if client.again.is_some() || client.flying.iter().any(|flying| flying.way == Way::Session) || dice.below(20) > 0
        {
            return None;
        }
        let (group, choice) = (client.group, dice.below(3));
        if choice < 2 {
            client.seat = Seat::None;
        }
        if choice == 0 {
            return None;
        }
        let node = client.believes[group as usize - 1];
        shard(node, group)?.close_session(group, id, |_| ());
        *self.outcomes.entry("session closed").or_default() += 1;
        Some((node, group))
    }

    #[allow(clippy::too_many_arguments)]
    fn resolve(
        &mut self,
        ticket: u64,
        outcome: Outcome,
        leader: Option<NodeId>,
        now_ns: u64,
        plan: &Plan,
        dice: &mut Dice,
        observer: &mut Observer,
    ) {
        let found = self.clients.iter_mut().find_map(|client| {
            let at = client.flying.iter().position(|flying| flying.ticket == ticket)?;
            let flying = client.flying.remove(at);
            Some((client, flying))
        });
        let Some((client, flying)) = found else { return self.seated(ticket, outcome, leader, plan, dice) };
        let (name, noted) = match outcome {
            Ok(committed) => ("committed", history::Outcome::Committed { index: committed.first_index }),
            Err(ProposeError::Duplicate) => ("duplicate", history::Outcome::Duplicate),
            Err(ProposeError::Rejected(Rejection::Overloaded { .. })) => ("overloaded", history::Outcome::Rejected),
            Err(ProposeError::Rejected(_)) => ("rejected", history::Outcome::Rejected),
            Err(ProposeError::Superseded) => ("superseded", history::Outcome::Superseded),
            Err(ProposeError::OutOfSession) => ("out of session", history::Outcome::Unknown),
            Err(ProposeError::SessionExpired) => ("session expired", history::Outcome::Unknown),
            Err(ProposeError::Unknown) => ("unknown", history::Outcome::Unknown),
        };
        let name = if flying.settled_at.is_some() { "said again" } else { name };
        *self.outcomes.entry(name).or_default() += 1;
        if let Some(wrong) = client.wrong(&flying, outcome) {
            observer.wrong(format!("group {}: {flying:?} in {:?}: {wrong}", flying.group, client.seat));
        }
        if let Ok(committed) = outcome {
            self.reads.acknowledged(flying.group, committed.first_index);
        }
        if outcome.is_err() {
            // A client may have sent more through a handle before it learns that it was refused.
            if flying.way == Way::Ordered && dice.below(3) > 0 {
                client.handle = None;
            }
            client.believes[flying.group as usize - 1] = match leader {
                Some(node) => node as usize - 1,
                None => dice.below(plan.nodes),
            };
        }
        let expired = outcome == Err(ProposeError::SessionExpired);
        let Some(append) = flying.append else {
            if expired {
                client.seat = Seat::None;
            }
            return;
        };
        let settled = matches!(outcome, Ok(_) | Err(ProposeError::Duplicate));
        // A client that was told so may try on all the same: never again does it take effect.
        let gives_up = expired && dice.below(3) == 0;
        if flying.way == Way::Session && !settled && !gives_up {
            client.again = Some(flying);
            return;
        }
        observer.appended(flying.group, now_ns, append, noted);
        if gives_up {
            client.seat = Seat::None;
        } else if let (Way::Session, Ok(committed)) = (flying.way, outcome) {
            client.settled.push((flying.sequence, committed.first_index, flying.entry));
            if client.settled.len() > SETTLED_MAX {
                client.settled.remove(0);
            }
        }
    }
}

impl Client {
    /// What is wrong with the answer to a session's batch.
    fn wrong(&self, flying: &Flying, outcome: Outcome) -> Option<String> {
        let behind = self.sequence - flying.sequence.min(self.sequence);
        let known = behind < POSITIONS_MAX as u64;
        match (outcome, flying.settled_at) {
            _ if flying.way != Way::Session => None,
            (Err(ProposeError::OutOfSession), _) => Some("it follows what was committed".into()),
            (Ok(committed), Some(index)) if committed.first_index != index => {
                Some(format!("it was committed at index {index}, not at {}", committed.first_index))
            }
            (Ok(_), Some(_)) if !known => Some("so old a position is not remembered".into()),
            (Err(ProposeError::Duplicate), _) if known => Some("its position is remembered".into()),
            _ => None,
        }
    }
}
