//! The clients: for each group one that proposes each batch for itself, several in flight, and one in a session that
//! repeats what is unknown; for each node one that reads all groups from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use synod::client::protocol::{RejectionV1, ReplyV1, Request};
use synod::client::{Client, ClientError, NodeClient};
use synod::{Cluster, Entries, NodeId};

use super::GROUPS;
use super::record::Records;
use crate::check::history::{AppendId, Outcome};
use crate::check::stream::Sequence;

/// Entries of a plain batch, and of a session's.
const BATCH: usize = 16;
const SESSION_BATCH: usize = 4;
/// Plain batches in flight of one client.
const WINDOW: usize = 4;
/// The least time between two batches of a client: there is a machine to share, and a log to keep.
const PACE: Duration = Duration::from_millis(5);
/// A node that says nothing for so long is given up.
const GIVE_UP: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(10);

/// An entry: what names it, and its place in a session.
const ENTRY_BYTES: usize = 24;

/// The bytes of an entry.
pub(super) fn entry(payload: u64, sequence: Option<Sequence>) -> [u8; ENTRY_BYTES] {
    let Sequence { client, sequence } = sequence.unwrap_or(Sequence { client: 0, sequence: 0 });
    let mut bytes = [0; ENTRY_BYTES];
    for (place, number) in bytes.chunks_exact_mut(8).zip([payload, client, sequence]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// What an entry says; `None` for bytes that no client has sent.
pub(super) fn meaning(entry: &[u8]) -> Option<(u64, Option<Sequence>)> {
    let bytes: &[u8; ENTRY_BYTES] = entry.try_into().ok()?;
    let mut numbers = bytes.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().expect("eight bytes")));
    let (payload, client, sequence) = (numbers.next()?, numbers.next()?, numbers.next()?);
    Some((payload, (client != 0).then_some(Sequence { client, sequence })))
}

/// All clients, each on a thread of its own.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts them.
    pub(super) fn start(cluster: &Cluster, records: &Arc<Records>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut number = 0;
        let mut seat = || {
            number += 1;
            let (cluster, records, stop) = (cluster.clone(), Arc::clone(records), Arc::clone(&stop));
            Seat { number, cluster, records, stop, payloads: 0 }
        };
        for group in 1..=GROUPS {
            let plain = seat();
            threads.push(std::thread::spawn(move || Plain::new(plain, group).run()));
            let session = seat();
            threads.push(std::thread::spawn(move || append_in_session(session, group)));
        }
        for member in &cluster.members {
            let (seat, node) = (seat(), member.node);
            threads.push(std::thread::spawn(move || read_all(&seat, node)));
        }
        Self { stop, threads }
    }

    /// Stops them and waits for them: what is in flight gets its outcome first, as far as there is one to be had.
    pub(super) fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Load {
    // A failed run does not wait for clients that wait for nodes.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What every client has.
struct Seat {
    number: u32,
    cluster: Cluster,
    records: Arc<Records>,
    stop: Arc<AtomicBool>,
    payloads: u64,
}

impl Seat {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Payloads that no other append of this run has.
    fn payloads(&mut self, count: usize) -> Vec<u64> {
        let base = u64::from(self.number) << 40 | self.payloads;
        self.payloads += count as u64;
        (base..base + count as u64).collect()
    }
}

/// Proposes batches, each for itself. An unknown outcome stays unknown.
struct Plain {
    seat: Seat,
    group: u64,
    /// The node that it takes for the leader, as a place in the list.
    believes: usize,
    connection: Option<NodeClient>,
    /// Sends no more on this connection.
    leaving: bool,
    flying: BTreeMap<u64, (Instant, Vec<AppendId>)>,
    last: Instant,
}

impl Plain {
    fn new(seat: Seat, group: u64) -> Self {
        let (believes, last) = (group as usize % seat.cluster.members.len(), Instant::now());
        Self { seat, group, believes, connection: None, leaving: false, flying: BTreeMap::new(), last }
    }

    fn run(mut self) {
        while !self.seat.stopped() || !self.flying.is_empty() {
            if self.connection.is_none() {
                self.connect();
                continue;
            }
            if self.leaving && self.flying.is_empty() {
                self.connection = None;
                continue;
            }
            let may_send = !self.seat.stopped() && !self.leaving && self.flying.len() < WINDOW;
            if may_send && PACE <= self.last.elapsed() {
                self.send();
            } else {
                let rest = if may_send { PACE.saturating_sub(self.last.elapsed()) } else { RETRY };
                self.receive(rest);
            }
        }
    }

    fn connect(&mut self) {
        let member = self.seat.cluster.members[self.believes];
        match NodeClient::connect(&self.seat.cluster, member, self.group, CONNECT) {
            Ok(connection) => (self.connection, self.leaving) = (Some(connection), false),
            Err(_) => {
                self.believe_next();
                std::thread::sleep(RETRY);
            }
        }
    }

    fn believe_next(&mut self) {
        self.believes = (self.believes + 1) % self.seat.cluster.members.len();
    }

    fn send(&mut self) {
        self.last = Instant::now();
        let payloads = self.seat.payloads(BATCH);
        let mut entries = Entries::new();
        for payload in &payloads {
            entries.push(&entry(*payload, None)).expect("a small batch fits");
        }
        let ids = self.seat.records.invoke(self.group, self.seat.number, &payloads);
        let request = Request::Append { group: self.group, session: None, entries };
        let connection = self.connection.as_mut().expect("it was just there");
        match connection.send(&[request]) {
            Ok(request) => drop(self.flying.insert(request, (Instant::now(), ids))),
            Err(_) => {
                self.seat.records.returned(self.group, &ids, Outcome::Unknown);
                self.lose();
            }
        }
    }

    fn receive(&mut self, patience: Duration) {
        let connection = self.connection.as_mut().expect("it was just there");
        match connection.receive(patience) {
            Ok(Some((request, reply))) => {
                if let Some((_, ids)) = self.flying.remove(&request) {
                    self.settle(&ids, reply);
                }
            }
            Ok(None) => {
                let oldest = self.flying.values().next();
                if oldest.is_some_and(|(sent, _)| GIVE_UP <= sent.elapsed()) {
                    self.lose();
                }
            }
            Err(_) => self.lose(),
        }
    }

    /// The connection is no more: what is in flight will never be known.
    fn lose(&mut self) {
        for (_, ids) in std::mem::take(&mut self.flying).into_values() {
            self.seat.records.returned(self.group, &ids, Outcome::Unknown);
        }
        self.connection = None;
        self.believe_next();
    }

    fn settle(&mut self, ids: &[AppendId], reply: ReplyV1) {
        let outcome = match reply {
            ReplyV1::Committed { first_index, count, .. } if count as usize == ids.len() => {
                Outcome::Committed { index: first_index }
            }
            ReplyV1::Superseded => Outcome::Superseded,
            ReplyV1::Unknown => Outcome::Unknown,
            ReplyV1::Rejected { rejection: RejectionV1::NotLeader, leader } => {
                if !self.leaving {
                    let hinted = self.seat.cluster.members.iter().position(|member| member.node == leader);
                    match hinted.filter(|hinted| *hinted != self.believes) {
                        Some(hinted) => self.believes = hinted,
                        None => self.believe_next(),
                    }
                    // A cluster without a leader is not asked in a loop.
                    std::thread::sleep(RETRY);
                }
                self.leaving = true;
                Outcome::Rejected
            }
            ReplyV1::Rejected { rejection: RejectionV1::Overloaded { .. } | RejectionV1::Stopping, .. } => {
                std::thread::sleep(RETRY);
                Outcome::Rejected
            }
            other => {
                let group = self.group;
                self.seat.records.wrong(format!("group {group}: an append of {} entries got {other:?}", ids.len()));
                Outcome::Unknown
            }
        };
        self.seat.records.returned(self.group, ids, outcome);
    }
}

/// Appends in a session, one batch at a time, each until its outcome is known.
fn append_in_session(mut seat: Seat, group: u64) {
    let mut client = Client::new(seat.cluster.clone());
    client.set_timeout(Duration::from_secs(2));
    let mut sequence = 1;
    let opened = loop {
        match client.open_session(group) {
            Ok(opened) => break opened,
            Err(_) if seat.stopped() => return,
            Err(_) => {}
        }
    };
    while !seat.stopped() {
        let payloads = seat.payloads(SESSION_BATCH);
        let ids = seat.records.invoke(group, seat.number, &payloads);
        let count = append_once(&mut client, &seat, (group, opened), sequence, &payloads, &ids);
        sequence += count;
        std::thread::sleep(PACE);
    }
}

/// Gives how far the session went on.
fn append_once(
    client: &mut Client,
    seat: &Seat,
    (group, opened): (u64, u64),
    first: u64,
    payloads: &[u64],
    ids: &[AppendId],
) -> u64 {
    let session = u64::from(seat.number);
    let mut entries = Entries::new();
    for (payload, sequence) in payloads.iter().zip(first..) {
        let sequence = Sequence { client: session, sequence };
        entries.push(&entry(*payload, Some(sequence))).expect("a small batch fits");
    }
    loop {
        let outcome = match client.append(group, opened, first, &entries) {
            Ok(Some(committed)) => Outcome::Committed { index: committed.first_index },
            Ok(None) => Outcome::Duplicate,
            Err(ClientError::NoLeader { .. }) if !seat.stopped() => continue,
            Err(ClientError::NoLeader { .. }) => Outcome::Unknown,
            Err(error) => {
                seat.records.wrong(format!("group {group}: session {session} at {first} got: {error}"));
                Outcome::Unknown
            }
        };
        seat.records.returned(group, ids, outcome);
        return payloads.len() as u64;
    }
}

/// Reads all groups of one node, on and on.
fn read_all(seat: &Seat, node: NodeId) {
    let mut client = Client::new(seat.cluster.clone());
    let mut next: Vec<u64> = vec![1; GROUPS as usize];
    while !seat.stopped() {
        for (group, from) in (1..).zip(&mut next) {
            let Some(id) = seat.records.read(group, seat.number) else { return };
            match client.read(node, group, *from, Duration::from_millis(5)) {
                Ok(read) => {
                    let payloads: Option<Vec<u64>> =
                        read.entries.iter().map(|entry| meaning(entry).map(|(payload, _)| payload)).collect();
                    let Some(payloads) = payloads else {
                        return seat.records.wrong(format!("group {group}: node {node} has an entry that nobody sent"));
                    };
                    seat.records.was_read(group, id, read.next_index - 1, read.first_index, &payloads);
                    *from = read.first_index + payloads.len() as u64;
                }
                Err(ClientError::Trimmed { first_index, .. }) => *from = first_index,
                Err(_) => std::thread::sleep(RETRY),
            }
            if seat.stopped() {
                return;
            }
        }
        std::thread::sleep(PACE);
    }
}
