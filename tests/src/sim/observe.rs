//! What is watched while a cluster runs, and judged: durable votes, delivered entries, clients' operations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use synod::MachineFactory;
use synod::simulation::{HeldVotes, ProposedConfiguration, Voted};
use synod_core::ReplicaId;

use super::machine::{Delivered, Given, Held, Kind, Machine, hash_behind};
use crate::check::history::{AppendId, History, Limits, Outcome};
use crate::check::log;
use crate::check::oracle::{Member, Oracle, Restarted, Vote, quorum_of};
use crate::check::stream::Streams;
use crate::disk::Dice;

/// All that is known about the run from outside.
pub struct Observer {
    oracle: Oracle,
    streams: Streams,
    histories: Vec<History>,
    /// The payloads of the agreed log, per group, from index 1 on.
    logs: Vec<Vec<u64>>,
    /// The hash of the state behind each entry of the agreed log, from index 0 on.
    hashes: Vec<Vec<u64>>,
    kind: Kind,
    held: BTreeMap<(usize, u64), Arc<Mutex<Held>>>,
    delivered: Vec<Delivered>,
    shards: usize,
    /// The voter that each node's shard is: another one for each of its logs.
    voters: BTreeMap<(usize, usize), Member>,
    /// By node and group: those that are not the voter which their home's log is now.
    moved: BTreeMap<(usize, u64), Member>,
    /// The voters by the ids of their logs.
    by_replica: BTreeMap<u128, Member>,
    /// Appends whose proposers were told that their session has ended, by group and payload; and how long the log was then.
    expired: BTreeMap<(u64, u64), u64>,
    /// The first answer that was wrong.
    wrong: Option<String>,
}

/// A vote as a replica holds it: (slot, ballot, origin, checksum). What was learned as chosen beats any vote.
fn vote_held((slot, ballot, origin, crc): &(u64, u64, u64, u32)) -> Vote {
    let ballot = if *ballot == 0 { u64::MAX } else { *ballot };
    Vote { slot: *slot, ballot, value: value(*origin, *crc) }
}

/// The name of a value: a ballot proposes at most one per slot.
fn value(origin: u64, crc: u32) -> u64 {
    origin.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(crc)
}

/// The payload that names an entry: its first eight bytes.
pub fn payload(entry: &[u8]) -> u64 {
    entry.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The entry of so many bytes that a payload names: no part of it is like another, nor like that of another length.
pub fn entry_of(payload: u64, bytes: usize) -> Vec<u8> {
    let mut entry = payload.to_le_bytes().to_vec();
    let mut dice = Dice::new(payload ^ bytes as u64);
    while entry.len() < bytes {
        entry.extend_from_slice(&dice.roll().to_le_bytes());
    }
    entry.truncate(bytes);
    entry
}

impl Observer {
    /// An observer of so many groups, of nodes with these replicas, by shard.
    pub fn new(replicas: &[Vec<u128>], groups: u64, kind: Kind) -> Self {
        let (nodes, shards) = (replicas.len(), replicas[0].len());
        let witnesses = (0..nodes).filter(|node| ReplicaId(replicas[*node][0]).is_witness()).map(|node| node as Member);
        let all = replicas.iter().enumerate().flat_map(|(node, of)| of.iter().map(move |id| (*id, node as Member)));
        let places = (0..nodes).flat_map(|node| (0..shards).map(move |shard| ((node, shard), node as Member)));
        Self {
            shards,
            voters: places.collect(),
            moved: BTreeMap::new(),
            by_replica: all.collect(),
            oracle: Oracle::among((0..nodes as Member).collect()).with_witnesses(witnesses.collect()),
            streams: Streams::new(1 << 20),
            histories: (1..=groups).map(|group| History::new(group, Limits::default())).collect(),
            logs: vec![Vec::new(); groups as usize],
            hashes: vec![vec![0]; groups as usize],
            kind,
            held: BTreeMap::new(),
            delivered: (0..nodes).map(|_| Delivered::default()).collect(),
            expired: BTreeMap::new(),
            wrong: None,
        }
    }

    /// The machines of a node that starts, for all its groups.
    pub fn machines(&mut self, node: usize) -> MachineFactory {
        let groups = self.logs.len() as u64;
        let held: BTreeMap<u64, _> = (1..=groups).map(|group| (group, self.held(node, group))).collect();
        let delivered = Arc::clone(&self.delivered[node]);
        let kind = self.kind;
        Arc::new(move |group| {
            // Groups made at run time have none.
            let Some(held) = held.get(&group) else { return Ok(None) };
            let (held, delivered) = (Arc::clone(held), Arc::clone(&delivered));
            Ok(Some(Box::new(Machine { kind, group, held, delivered, asked: 0 })))
        })
    }

    /// What a replica's machine holds.
    fn held(&mut self, node: usize, group: u64) -> Arc<Mutex<Held>> {
        Arc::clone(self.held.entry((node, group)).or_default())
    }

    /// A node's shard has a new log: it is another voter.
    pub fn replaced(&mut self, node: usize, shard: usize, replica: u128, groups: &[(u64, bool)]) {
        let number = 1000 + self.by_replica.len() as Member;
        if ReplicaId(replica).is_witness() {
            self.oracle.witness(number);
        }
        self.by_replica.insert(replica, number);
        for (group, is_here) in groups {
            let is = if *is_here { number } else { self.member(node, *group) };
            self.moved.insert((node, *group), is);
        }
        self.voters.insert((node, shard), number);
    }

    /// The voter that a node is in a group.
    fn member(&self, node: usize, group: u64) -> Member {
        let at_home = || self.voters[&(node, group as usize % self.shards)];
        self.moved.get(&(node, group)).copied().unwrap_or_else(at_home)
    }

    /// Whether a node has a durable vote, or a promise, in a group.
    pub fn has_voted(&self, node: usize, group: u64) -> bool {
        self.oracle.has_promised(group, self.member(node, group))
    }

    /// A group in which so many of the founders choose.
    pub fn begins_with(&mut self, group: u64, quorum: usize) {
        self.oracle.begins_with(group, quorum);
    }

    /// How many voters choose in a group.
    pub fn quorum(&self, group: u64) -> usize {
        self.oracle.quorum(group)
    }

    /// Whether a node votes in a group, and whether something is chosen behind the last change of the voters.
    pub fn vote(&self, node: usize, group: u64) -> (bool, bool) {
        let (voters, works) = self.oracle.voters(group);
        (voters.contains(&self.member(node, group)), works)
    }

    /// A value is a configuration.
    pub fn configuration(&mut self, group: u64, proposed: &ProposedConfiguration) -> Result<(), String> {
        let number = |replica: &u128| {
            let number = self.by_replica.get(replica).copied();
            number.ok_or_else(|| format!("group {group}: nobody is replica {replica:032x} of {proposed:?}"))
        };
        let voters: Vec<Member> = proposed.replicas.iter().map(number).collect::<Result<_, _>>()?;
        let quorum = quorum_of(voters.len(), proposed.phase_2);
        let value = value(proposed.origin, proposed.crc);
        self.oracle.configuration(group, proposed.slot, value, voters, quorum);
        Ok(())
    }

    /// A machine's data is lost.
    pub fn machine_lost(&mut self, node: usize, group: u64) {
        *self.held(node, group).lock().expect("no holder panics") = Held::default();
    }

    /// A vote has become durable.
    pub fn voted(&mut self, node: usize, group: u64, vote: Voted) -> Result<(), String> {
        let member = self.member(node, group);
        let judged = match vote {
            Voted::Promise { ballot } => self.oracle.promised(group, member, ballot),
            Voted::Accept { slot, ballot, origin, crc } => {
                self.oracle.voted(group, member, Vote { slot, ballot, value: value(origin, crc) })
            }
            Voted::Learned { slot, origin, crc } => self.oracle.learned(group, member, slot, value(origin, crc)),
        };
        judged.map_err(|violation| violation.to_string())
    }

    /// A replica has come back from its log: its promise, its chosen prefix, and what it holds above: (slot, ballot,
    /// origin, checksum).
    pub fn restarted(
        &mut self,
        node: usize,
        group: u64,
        promised: u64,
        chosen_to: u64,
        held: &[(u64, u64, u64, u32)],
    ) -> Result<(), String> {
        let accepted: Vec<Vote> = held.iter().map(vote_held).collect();
        let now = Restarted { promised, chosen_to, accepted: &accepted };
        self.oracle.restarted(group, self.member(node, group), &now).map_err(|violation| violation.to_string())
    }

    /// What a replica that runs holds must stand for all its durable votes.
    pub fn holds(&self, node: usize, group: u64, held: &HeldVotes) -> Result<(), String> {
        let accepted: Vec<Vote> = held.values.iter().map(vote_held).collect();
        let now = Restarted { promised: held.promised, chosen_to: held.chosen, accepted: &accepted };
        self.oracle.holds(group, self.member(node, group), &now).map_err(|violation| violation.to_string())
    }

    /// Whether what a witness holds and knows as chosen is held by some of `others` as well.
    pub fn is_borne(&self, group: u64, witness: &HeldVotes, others: &[HeldVotes]) -> bool {
        let has = |of: &HeldVotes, slot: u64, named: u64| {
            let held = of.values.iter().find(|(at, ..)| *at == slot);
            slot <= of.chosen || held.is_some_and(|(_, _, origin, crc)| value(*origin, *crc) == named)
        };
        let knows = |of: &HeldVotes| {
            let chosen = |slot: u64| self.oracle.chosen(group, slot);
            (of.chosen + 1..=witness.chosen).all(|slot| chosen(slot).is_some_and(|named| has(of, slot, named)))
        };
        let accepted = |(slot, _, origin, crc): &(u64, u64, u64, u32)| {
            others.iter().any(|of| has(of, *slot, value(*origin, *crc)))
        };
        others.iter().any(knows) && witness.values.iter().all(accepted)
    }

    /// All replicas know everything up to this slot as chosen.
    pub fn settle(&mut self, group: u64, slot: u64) -> Result<(), String> {
        self.oracle.settle(group, slot).map_err(|violation| violation.to_string())
    }

    /// The last slot that is settled.
    pub fn settled(&self, group: u64) -> u64 {
        self.oracle.settled(group)
    }

    /// Every machine syncs now and then, also when nothing more comes.
    pub fn sync_machines(&mut self) {
        for held in self.held.values() {
            held.lock().expect("no holder panics").sync();
        }
    }

    /// A node's process ends. What its machines hold beyond their last sync is there or not.
    pub fn crashed(&mut self, node: usize, mut choose: impl FnMut(usize) -> usize) {
        self.delivered[node].lock().expect("no holder panics").clear();
        for ((_, _), held) in self.held.range((node, 0)..(node + 1, 0)) {
            let mut held = held.lock().expect("no holder panics");
            match self.kind {
                Kind::InMemory => *held = Held::default(),
                Kind::OnDisk | Kind::WithoutCheckpoints => held.crash(&mut choose),
            }
        }
    }

    /// A replica's machine starts to be fed.
    pub fn starts(&mut self, node: usize, group: u64) -> Result<(), String> {
        let next = self.held(node, group).lock().expect("no holder panics").durable() + 1;
        self.streams.start(group, node as u64, next).map_err(|violation| violation.to_string())
    }

    /// A node's shard begins anew, with other machines: what those that it made before were restored to is of no account, but
    /// for what is on disk.
    pub fn made_again(&mut self, node: usize, groups: &[u64]) {
        self.delivered[node].lock().expect("no holder panics").retain(|given| match given {
            Given::Entry(group, ..) | Given::Restored(group, ..) => !groups.contains(group),
        });
        if self.kind == Kind::InMemory {
            groups.iter().for_each(|group| self.machine_lost(node, *group));
        }
    }

    /// Takes in what a node's machines were given.
    pub fn delivered(&mut self, node: usize) -> Result<(), String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        let mut delivered = self.delivered[node].lock().expect("no holder panics");
        for given in delivered.drain(..) {
            let node = node as u64;
            match given {
                Given::Entry(group, index, entry) => {
                    if entry != entry_of(payload(&entry), entry.len()) {
                        return Err(format!("group {group}: index {index} is not the entry that was proposed"));
                    }
                    let told = self.streams.deliver(group, node, index, &entry, None);
                    told.map_err(|violation| violation.to_string())?;
                    let (log, hashes) = (&mut self.logs[group as usize - 1], &mut self.hashes[group as usize - 1]);
                    if index > log.len() as u64 {
                        log.push(payload(&entry));
                        hashes.push(hash_behind(hashes[hashes.len() - 1], index, &entry));
                    }
                }
                Given::Restored(group, index, hash) => {
                    let agreed = self.hashes[group as usize - 1].get(index as usize).copied();
                    if agreed != Some(hash) {
                        return Err(format!(
                            "group {group}: node {} was given a checkpoint of index {index} with hash {hash:#x}, the \
                             others have {agreed:x?}",
                            node + 1
                        ));
                    }
                    self.streams.start(group, node, index + 1).map_err(|violation| violation.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// The history of a group.
    pub fn history(&mut self, group: u64) -> &mut History {
        &mut self.histories[group as usize - 1]
    }

    /// An operation returns.
    pub fn appended(&mut self, group: u64, now_ns: u64, id: AppendId, outcome: Outcome) {
        self.history(group).appended(now_ns, id, outcome);
    }

    /// A proposer was told that its session has ended, by a node that has applied a log of so many entries.
    pub fn expired(&mut self, group: u64, payload: u64, length: u64) {
        self.expired.entry((group, payload)).or_insert(length);
    }

    /// An answer is wrong.
    pub fn wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// What takes effect of a session takes effect before anybody is told that the session has ended.
    fn check_expired(&self) -> Result<(), String> {
        for ((group, payload), length) in &self.expired {
            let log = &self.logs[*group as usize - 1];
            if log.get(*length as usize..).is_some_and(|behind| behind.contains(payload)) {
                return Err(format!(
                    "group {group}: {payload} was committed behind index {length}, where its session had ended"
                ));
            }
        }
        Ok(())
    }

    /// The payload at an index of the agreed log, if any machine was given it.
    pub fn entry(&self, group: u64, index: u64) -> Option<u64> {
        self.logs[group as usize - 1].get(index as usize - 1).copied()
    }

    /// Entries of a group in the agreed log.
    pub fn log_len(&self, group: u64) -> u64 {
        self.logs[group as usize - 1].len() as u64
    }

    /// The last index that a replica's machine was given.
    pub fn position(&self, node: usize, group: u64) -> u64 {
        self.streams.positions(group).get(&(node as u64)).copied().unwrap_or(0)
    }

    /// Judges all operations against the final logs; gives how many entries were committed and known to be.
    pub fn judge(&self) -> Result<u64, String> {
        self.check_expired()?;
        let mut committed = 0;
        for (history, log) in self.histories.iter().zip(&self.logs) {
            let checked = log::check(history, log).map_err(|violation| violation.to_string())?;
            committed += checked.committed as u64;
        }
        Ok(committed)
    }
}
