//! A small blocking client on plain sockets: what the tools and the load generator use.
//!
//! [`NodeClient`] is one connection to one node, with as many requests in flight as its user likes. [`Client`] finds the
//! leader of a group and repeats what is safe to repeat.

pub mod protocol;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use synod_transport::frame::{Decoder, append_frame};
use synod_transport::hello::{Hello, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Role};
use synod_transport::net::listen::dial;

use crate::batch::Entries;
use crate::config::{Cluster, Member};
use crate::groups::{directory_number, name_of};
use crate::introductions::Introduction;
use crate::limits::{APPEND_PART_BYTES_MAX, ENTRY_BYTES_MAX, LARGE_ENTRY_BYTES_MAX};
use crate::membership::{Membership, MembershipChange};
use crate::outcome::{Committed, GroupId, NodeId, Overload, Rejection};
use crate::shard::points::Consistency;
use crate::shard::reads::CommittedEntries;
use crate::wire::{CLIENT_REPLY, CLIENT_REQUEST};
use protocol::{GroupInfoV1, MadeGroupV1, RejectionV1, ReplyV1, Request, SHARDS};

/// Why a client could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke: what was in flight has an unknown outcome.
    #[error("node {node} at {address}: {reason}")]
    Connection {
        /// The node.
        node: NodeId,
        /// Its address.
        address: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// No leader answered in time.
    #[error("group {group} has no leader that answers after {waited:?}: {last}")]
    NoLeader {
        /// The group.
        group: GroupId,
        /// How long it was tried.
        waited: Duration,
        /// The last thing that went wrong.
        last: String,
    },
    /// The cluster has no such node or group.
    #[error("the cluster has no {0}")]
    Unknown(String),
    /// The log begins later.
    #[error("the log of group {group} was trimmed: it begins at index {first_index}")]
    Trimmed {
        /// The group.
        group: GroupId,
        /// The first index that is still there.
        first_index: u64,
    },
    /// The session has ended: closed, not used for too long, or displaced by others.
    #[error("session {session} of group {group} has expired, and {}", match perhaps_committed {
        true => "whether the last batch was committed before is unknown: look for it in the log, then open a new session",
        false => "the last batch is not committed: append it in a new session",
    })]
    SessionExpired {
        /// The group.
        group: GroupId,
        /// The session.
        session: u64,
        /// Whether the batch may have been committed before: an earlier attempt of this call had an unknown outcome.
        perhaps_committed: bool,
    },
    /// A request failed for good.
    #[error("{0}")]
    Failed(String),
}

/// One connection to a node.
pub struct NodeClient {
    member: Member,
    stream: TcpStream,
    decoder: Decoder,
    next_request: u64,
}

impl NodeClient {
    /// Connects to the shard of `group` on a node.
    ///
    /// # Errors
    /// When the node does not answer or refuses.
    pub fn connect(cluster: &Cluster, member: Member, group: GroupId, timeout: Duration) -> Result<Self, ClientError> {
        let hello = Hello {
            role: Role::Client,
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            cluster: cluster.id().ok_or_else(|| ClientError::Unknown("valid id".into()))?,
            node: 0,
            incarnation: 0,
            boot: 0,
            target_node: member.node,
            target_incarnation: 0,
            shard: (group % cluster.shards.max(1) as u64) as u32,
            shard_count: cluster.shards.max(1) as u32,
            first_shards: 0,
            phase_2: 0,
            replacement: false,
            founder: false,
            founding: 0,
            replica: 0,
            rules: Vec::new(),
            target_replica: 0,
            seen_replica: 0,
            wal_sequence_seen: 0,
        };
        let failed = |reason: String| ClientError::Connection { node: member.node, address: member.address, reason };
        let (_, stream) = dial(member.address, &hello, timeout).map_err(|error| failed(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        Ok(Self { member, stream, decoder: Decoder::new(), next_request: 1 })
    }

    fn failed(&self, reason: impl ToString) -> ClientError {
        let Member { node, address } = self.member;
        ClientError::Connection { node, address, reason: reason.to_string() }
    }

    /// A second handle on the same connection, for sending from another thread. Only one of the two may receive, and
    /// only one may send.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn try_clone(&self) -> Result<Self, ClientError> {
        let stream = self.stream.try_clone().map_err(|error| self.failed(error))?;
        Ok(Self { member: self.member, stream, decoder: Decoder::new(), next_request: self.next_request })
    }

    /// Sends requests in one write. Their ids follow each other; the first is returned.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(&mut self, requests: &[Request]) -> Result<u64, ClientError> {
        let first = self.next_request;
        let mut bytes = Vec::new();
        for request in requests {
            append_frame(&mut bytes, CLIENT_REQUEST, self.next_request, &request.encode());
            self.next_request += 1;
        }
        self.stream.write_all(&bytes).map_err(|error| self.failed(error))?;
        Ok(first)
    }

    /// The next reply: the request's id and what was answered. Replies may come in another order than requests.
    /// `None` when nothing came for `timeout`.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn receive(&mut self, timeout: Duration) -> Result<Option<(u64, ReplyV1)>, ClientError> {
        self.stream.set_read_timeout(Some(timeout.max(Duration::from_millis(1)))).map_err(|e| self.failed(e))?;
        loop {
            let frame =
                self.decoder.next().map(|frame| frame.map(|f| (f.header.kind, f.header.tag, ReplyV1::decode(f.body))));
            match frame {
                Ok(Some((CLIENT_REPLY, id, Ok(reply)))) => return Ok(Some((id, reply))),
                Ok(Some(_)) => return Err(self.failed("sent what is no reply")),
                Err(error) => return Err(self.failed(error)),
                Ok(None) => {}
            }
            match self.stream.read(self.decoder.space()) {
                Ok(0) => return Err(self.failed("closed the connection")),
                Ok(n) => self.decoder.filled(n),
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => return Ok(None),
                    std::io::ErrorKind::Interrupted => {}
                    _ => return Err(self.failed(error)),
                },
            }
        }
    }

    /// Sends one request and waits for its reply. An append of one entry that no frame holds goes out in parts; each of
    /// them, and the entry, may take `timeout`.
    ///
    /// # Errors
    /// When the connection is broken or the time is up; the outcome is unknown then.
    pub fn call(&mut self, request: &Request, timeout: Duration) -> Result<ReplyV1, ClientError> {
        if let Request::Append { group, session, entries } = request
            && entries.bytes.len() > ENTRY_BYTES_MAX
        {
            return self.append_in_parts(*group, *session, &entries.bytes, timeout);
        }
        let id = self.send(std::slice::from_ref(request))?;
        let end = Instant::now() + timeout;
        loop {
            match self.receive(end.saturating_duration_since(Instant::now()))? {
                Some((of, reply)) if of == id => return Ok(reply),
                // An answer to a call that was given up.
                Some(_) => {}
                None if Instant::now() >= end => return Err(self.failed("does not answer")),
                None => {}
            }
        }
    }
}

impl NodeClient {
    /// Appends one large entry: a few parts are on their way at a time, until one is refused.
    fn append_in_parts(
        &mut self,
        group: GroupId,
        session: Option<(u64, u64)>,
        entry: &[u8],
        timeout: Duration,
    ) -> Result<ReplyV1, ClientError> {
        let total = u32::try_from(entry.len()).map_err(|_| ClientError::Failed(TOO_LARGE.into()))?;
        let mut parts = (0..).step_by(APPEND_PART_BYTES_MAX).zip(entry.chunks(APPEND_PART_BYTES_MAX));
        let (mut flying, mut last) = (VecDeque::new(), None);
        loop {
            while flying.len() < PARTS_FLYING
                && let Some((offset, bytes)) = parts.next()
            {
                let ends = offset as usize + bytes.len() == entry.len();
                let id = self.send(&[Request::AppendPart { group, session, total, offset, bytes: bytes.to_vec() }])?;
                flying.push_back(id);
                last = ends.then_some(id);
            }
            let Some(reply) = self.reply_to(&mut flying, timeout)? else { continue };
            match reply {
                (id, reply) if Some(id) == last => return Ok(reply),
                (_, ReplyV1::Done) => {}
                (_, refused) => return Ok(refused),
            }
        }
    }

    /// Reads a large entry: a few parts are on their way at a time. What went wrong, if one cannot be had.
    fn read_in_parts(
        &mut self,
        group: GroupId,
        index: u64,
        count: u32,
        timeout: Duration,
    ) -> Result<Result<Vec<u8>, ReplyV1>, ClientError> {
        let mut entry = Vec::new();
        let (mut next, mut came) = (0, BTreeMap::new());
        let mut flying = VecDeque::new();
        for part in 0..count {
            while next < count && flying.len() < PARTS_FLYING {
                flying.push_back(self.send(&[Request::ReadPart { group, index, part: next }])?);
                next += 1;
            }
            while !came.contains_key(&part) {
                match self.reply_to(&mut flying, timeout)? {
                    Some((_, ReplyV1::Part { part, bytes, .. })) => {
                        came.insert(part, bytes);
                    }
                    Some((_, other)) => return Ok(Err(other)),
                    None => {}
                }
            }
            entry.extend_from_slice(&came.remove(&part).expect("it is there now"));
            if entry.len() > LARGE_ENTRY_BYTES_MAX {
                return Err(self.failed("sent an entry over the limit"));
            }
        }
        Ok(Ok(entry))
    }

    /// The next reply to one of several requests; `None` when it was to another, which was given up.
    fn reply_to(
        &mut self,
        flying: &mut VecDeque<u64>,
        timeout: Duration,
    ) -> Result<Option<(u64, ReplyV1)>, ClientError> {
        let Some((id, reply)) = self.receive(timeout)? else { return Err(self.failed("does not answer")) };
        let before = flying.len();
        flying.retain(|of| *of != id);
        Ok((flying.len() < before).then_some((id, reply)))
    }
}

/// Parts of a large entry that are on their way at a time.
const PARTS_FLYING: usize = 4;
const TOO_LARGE: &str = "an entry is larger than 64 MiB";

/// What one node says of itself.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: NodeId,
    /// Its process.
    pub process: u32,
    /// All its groups, by number.
    pub groups: Vec<GroupInfoV1>,
}

/// A client of a cluster.
pub struct Client {
    cluster: Cluster,
    timeout: Duration,
    connections: HashMap<(NodeId, u64), NodeClient>,
    leaders: HashMap<GroupId, NodeId>,
}

impl Client {
    /// A client of the nodes in `cluster`. It connects when it must.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, timeout: Duration::from_secs(30), connections: HashMap::new(), leaders: HashMap::new() }
    }

    /// How long a call may try; 30 s unless told.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Asks one node.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer.
    pub fn call(&mut self, node: NodeId, request: &Request, timeout: Duration) -> Result<ReplyV1, ClientError> {
        let member = self.cluster.members.iter().find(|m| m.node == node).copied();
        let member = member.ok_or_else(|| ClientError::Unknown(format!("node {node}")))?;
        let shard = request.group() % self.cluster.shards.max(1) as u64;
        let key = (node, shard);
        if !self.connections.contains_key(&key) {
            let limit = timeout.min(Duration::from_secs(3));
            self.connections.insert(key, NodeClient::connect(&self.cluster, member, request.group(), limit)?);
        }
        let connection = self.connections.get_mut(&key).expect("it is there now");
        let reply = connection.call(request, timeout);
        if reply.is_err() {
            self.connections.remove(&key);
        }
        reply
    }

    /// Opens a session in a group and gives its id. When an answer is lost a session may be left over; it ends by itself.
    ///
    /// # Errors
    /// When no leader answers in time.
    pub fn open_session(&mut self, group: GroupId) -> Result<u64, ClientError> {
        match self.ask_leader(group, &Request::OpenSession { group })?.0 {
            ReplyV1::Committed { slot, .. } => Ok(slot),
            reply => Err(ClientError::Failed(format!("opening a session in group {group} was answered {reply:?}"))),
        }
    }

    /// Ends a session.
    ///
    /// # Errors
    /// When no leader answers in time.
    pub fn close_session(&mut self, group: GroupId, session: u64) -> Result<(), ClientError> {
        self.ask_leader(group, &Request::CloseSession { group, session }).map(|_| ())
    }

    /// Appends entries exactly once: in a session, `sequence` being the number of the first, from 1. What is unknown is
    /// repeated until it is known. `None`: the session committed them before, at a position that is no longer remembered.
    ///
    /// # Errors
    /// When no leader answers in time, the session has ended, or the sequence does not follow it.
    pub fn append(
        &mut self,
        group: GroupId,
        session: u64,
        sequence: u64,
        entries: &Entries,
    ) -> Result<Option<Committed>, ClientError> {
        let request = Request::Append { group, session: Some((session, sequence)), entries: entries.clone() };
        let (reply, perhaps_committed) = self.ask_leader(group, &request)?;
        match reply {
            ReplyV1::Committed { slot, first_index, count } => Ok(Some(Committed { slot, first_index, count })),
            ReplyV1::Duplicate => Ok(None),
            ReplyV1::SessionExpired => Err(ClientError::SessionExpired { group, session, perhaps_committed }),
            reply => Err(ClientError::Failed(format!(
                "sequence {sequence} of session {session} in group {group} was answered {reply:?}: repeat first what \
                 comes before it"
            ))),
        }
    }

    /// Asks the leader of a group, whoever that is, until the outcome is known: for requests that are safe to repeat. Gives
    /// the answer, and whether an attempt before it may have taken effect.
    fn ask_leader(&mut self, group: GroupId, request: &Request) -> Result<(ReplyV1, bool), ClientError> {
        let start = Instant::now();
        let mut last = String::from("no node was asked");
        let (mut turn, mut unknown) = (0, false);
        let mut without = BTreeSet::new();
        // A large entry takes its time, also at a node that does all it can.
        let mib = if let Request::Append { entries, .. } = request { entries.bytes.len() >> 20 } else { 0 };
        let patience = Duration::from_secs(5 + mib as u64);
        while start.elapsed() < self.timeout {
            let node = self.leaders.get(&group).copied().unwrap_or_else(|| {
                turn += 1;
                self.cluster.members[turn % self.cluster.members.len()].node
            });
            let mut pause = Duration::from_millis(20);
            match self.call(node, request, patience) {
                Ok(
                    reply @ (ReplyV1::Committed { .. }
                    | ReplyV1::Duplicate
                    | ReplyV1::SessionExpired
                    | ReplyV1::OutOfSession),
                ) => {
                    self.leaders.insert(group, node);
                    return Ok((reply, unknown));
                }
                Ok(ReplyV1::Rejected { rejection: RejectionV1::NotLeader, leader }) => {
                    last = format!("node {node} does not lead");
                    if leader > 0 && leader != node {
                        self.leaders.insert(group, leader);
                        pause = Duration::from_millis(1);
                    } else {
                        self.leaders.remove(&group);
                    }
                }
                // One that was just made is not everywhere yet.
                Ok(ReplyV1::Rejected { rejection: RejectionV1::UnknownGroup, .. }) => {
                    without.insert(node);
                    if 2 * without.len() > self.cluster.members.len() {
                        return Err(ClientError::Unknown(format!("group {group}")));
                    }
                    last = format!("node {node} knows no such group");
                    self.leaders.remove(&group);
                }
                Ok(ReplyV1::Rejected { rejection: RejectionV1::TooLarge, .. }) => {
                    return Err(ClientError::Failed(TOO_LARGE.into()));
                }
                Ok(ReplyV1::Rejected { rejection: RejectionV1::Refused, .. }) => {
                    let before = if unknown { "; an earlier try of this append may have been committed" } else { "" };
                    return Err(ClientError::Failed(format!("{}{before}", Rejection::Refused)));
                }
                Ok(ReplyV1::Rejected { rejection: RejectionV1::Overloaded { what, retry_after_ms }, .. }) => {
                    let what = Overload::ALL.get(usize::from(what)).map_or_else(String::new, Overload::to_string);
                    last = format!("node {node} is overloaded: {what}");
                    pause = Duration::from_millis(u64::from(retry_after_ms).clamp(1, 1000));
                }
                // All these are safe to repeat.
                Ok(reply) => {
                    unknown |= !matches!(reply, ReplyV1::Rejected { .. } | ReplyV1::Superseded);
                    last = format!("node {node} answered {reply:?}");
                }
                Err(error) => {
                    unknown = true;
                    last = error.to_string();
                    self.leaders.remove(&group);
                }
            }
            std::thread::sleep(pause);
        }
        Err(ClientError::NoLeader { group, waited: start.elapsed(), last })
    }

    /// Reads what `node` has applied of a group from `from_index` on, waiting for it at most so long.
    ///
    /// # Errors
    /// When the node does not answer or has trimmed it.
    pub fn read(
        &mut self,
        node: NodeId,
        group: GroupId,
        from_index: u64,
        wait: Duration,
    ) -> Result<CommittedEntries, ClientError> {
        let request = Request::Read { group, from_index, bytes_max: 1 << 20, wait_ms: wait.as_millis() as u32 };
        match self.call(node, &request, wait + Duration::from_secs(10))? {
            ReplyV1::InParts { index, parts, next_index } => {
                let key = (node, group % self.cluster.shards.max(1) as u64);
                let connection = self.connections.get_mut(&key).expect("the request went over it");
                let read = connection.read_in_parts(group, index, parts, Duration::from_secs(10));
                if read.is_err() {
                    self.connections.remove(&key);
                }
                let bytes = match read? {
                    Ok(bytes) => bytes,
                    Err(ReplyV1::Trimmed { first_index }) => return Err(ClientError::Trimmed { group, first_index }),
                    Err(reply) => return Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
                };
                let entries = Entries { ends: vec![bytes.len() as u32], bytes };
                Ok(CommittedEntries { first_index: index, entries, next_index, parts: 0 })
            }
            ReplyV1::Entries { first_index, next_index, ends, bytes } => {
                let entries = Entries::from_parts(ends, bytes)
                    .ok_or_else(|| ClientError::Failed(format!("node {node} sent malformed entries")))?;
                Ok(CommittedEntries { first_index, entries, next_index, parts: 0 })
            }
            ReplyV1::Trimmed { first_index } => Err(ClientError::Trimmed { group, first_index }),
            ReplyV1::Failed { text } => Err(ClientError::Failed(format!("node {node}: {text}"))),
            reply => Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
        }
    }

    /// Who votes in a group, as its leader knows it.
    ///
    /// # Errors
    /// When no leader answers in time.
    pub fn membership(&mut self, group: GroupId) -> Result<Membership, ClientError> {
        let (leader, _) = self.leader(group)?;
        match self.call(leader, &Request::Membership { group }, Duration::from_secs(5))? {
            ReplyV1::Failed { text } => Err(ClientError::Failed(text)),
            reply => membership(leader, reply),
        }
    }

    /// Has the leader of a group change who votes, if the voters are still those of `version`. It may take as long as a
    /// call of this client.
    ///
    /// # Errors
    /// When no leader answers in time, or it does not do it: the text says why.
    pub fn change_membership(
        &mut self,
        group: GroupId,
        version: u64,
        change: MembershipChange,
    ) -> Result<Membership, ClientError> {
        let (leader, _) = self.leader(group)?;
        let wait_ms = self.timeout.as_millis().min(u128::from(u32::MAX)) as u32;
        let request = Request::ChangeMembership { group, version, change, wait_ms };
        match self.call(leader, &request, self.timeout + Duration::from_secs(5))? {
            ReplyV1::Failed { text } => Err(ClientError::Failed(text)),
            reply => membership(leader, reply),
        }
    }

    /// Makes a group with a replica on every node, of which `phase_2` choose a value; 0: a majority.
    ///
    /// # Errors
    /// When no leader answers in time, or it is not made: the text says why.
    pub fn create_group(&mut self, group: GroupId, phase_2: u16) -> Result<MadeGroupV1, ClientError> {
        self.order(group, |wait_ms| Request::CreateGroup { group, phase_2, wait_ms })
    }

    /// Drops a group that was made at run time, and all that it holds.
    ///
    /// # Errors
    /// When no leader answers in time, or it is not dropped yet: the text says why.
    pub fn drop_group(&mut self, group: GroupId) -> Result<MadeGroupV1, ClientError> {
        self.order(group, |wait_ms| Request::DropGroup { group, wait_ms })
    }

    /// Has a group moved to another shard on every node. Each follows by itself behind the order.
    ///
    /// # Errors
    /// When no leader answers in time, or it is not ordered: the text says why.
    pub fn place_group(&mut self, group: GroupId, shard: u32) -> Result<MadeGroupV1, ClientError> {
        self.order(group, |wait_ms| Request::PlaceGroup { group, shard, wait_ms })
    }

    /// Gives an order to the leader of the directory of a group's shard, whichever node that is.
    fn order(&mut self, group: GroupId, request: impl Fn(u32) -> Request) -> Result<MadeGroupV1, ClientError> {
        let start = Instant::now();
        let mut last = String::from("no node leads the directory");
        let mut lost = false;
        while start.elapsed() < self.timeout {
            for member in self.cluster.members.clone() {
                let left = self.timeout.saturating_sub(start.elapsed());
                let request = request(left.as_millis().min(u128::from(u32::MAX)) as u32);
                match self.call(member.node, &request, left + Duration::from_secs(5)) {
                    Ok(ReplyV1::Groups { groups }) if groups.len() == 1 => return Ok(groups[0]),
                    Ok(ReplyV1::Failed { text }) if lost => {
                        return Err(ClientError::Failed(format!(
                            "{text} (an earlier answer to this order was lost: it may have been carried out)"
                        )));
                    }
                    Ok(ReplyV1::Failed { text }) => return Err(ClientError::Failed(text)),
                    Ok(ReplyV1::Rejected { .. }) => {}
                    Ok(reply) => return Err(ClientError::Failed(format!("node {} answered {reply:?}", member.node))),
                    Err(error) => (lost, last) = (true, error.to_string()),
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(ClientError::NoLeader { group, waited: start.elapsed(), last })
    }

    /// The groups that were made at run time, by number, as a node knows them.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn made_groups(&mut self, node: NodeId, timeout: Duration) -> Result<Vec<MadeGroupV1>, ClientError> {
        let mut made = Vec::new();
        // The number of shards may have been changed since the cluster's file was written.
        let shards = match self.call(node, &Request::Info { group: 0 }, timeout)? {
            ReplyV1::Info { shards, .. } => u64::from(shards),
            reply => return Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
        };
        for shard in 0..shards {
            match self.call(node, &Request::Groups { group: SHARDS + shard }, timeout)? {
                ReplyV1::Groups { groups } => made.extend(groups),
                reply => return Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
            }
        }
        made.sort_unstable_by_key(|group: &MadeGroupV1| group.group);
        Ok(made)
    }

    /// Introduces a node to `node`, which tells the others; gives what counts of it then. To say it to several nodes, or
    /// again, does no harm.
    ///
    /// # Errors
    /// When `node` does not answer, or refuses: the text says why.
    pub fn introduce(
        &mut self,
        node: NodeId,
        member: Member,
        witness: bool,
        timeout: Duration,
    ) -> Result<Introduction, ClientError> {
        let introduced = self.introduced(node, &Request::Introduce { group: 0, member, witness }, timeout)?;
        introduced.first().copied().ok_or_else(|| ClientError::Failed(format!("node {node} has answered nothing")))
    }

    /// The nodes that were introduced, by number, as `node` knows it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn introductions(&mut self, node: NodeId, timeout: Duration) -> Result<Vec<Introduction>, ClientError> {
        self.introduced(node, &Request::Introductions { group: 0 }, timeout)
    }

    fn introduced(
        &mut self,
        node: NodeId,
        request: &Request,
        timeout: Duration,
    ) -> Result<Vec<Introduction>, ClientError> {
        match self.call(node, request, timeout)? {
            ReplyV1::Introduced { nodes } => {
                let list = nodes.iter().map(protocol::IntroductionV1::decode).collect::<Option<_>>();
                list.ok_or_else(|| ClientError::Failed(format!("node {node} sent what is no address")))
            }
            ReplyV1::Failed { text } => Err(ClientError::Failed(text)),
            reply => Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
        }
    }

    /// Has `node` free what its log holds of a group before an entry; gives the index at which the log begins then.
    ///
    /// # Errors
    /// When the node does not answer, or something is in the way.
    pub fn trim(&mut self, node: NodeId, group: GroupId, before: u64, wait: Duration) -> Result<u64, ClientError> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        match self.call(node, &Request::Trim { group, before, wait_ms }, wait + Duration::from_secs(10))? {
            ReplyV1::Trimmed { first_index } => Ok(first_index),
            ReplyV1::Failed { text } => Err(ClientError::Failed(text)),
            reply => Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
        }
    }

    /// Waits until `node` has applied all of a group that the consistency asks for.
    ///
    /// # Errors
    /// When the node does not answer, or cannot come so far in time.
    pub fn read_index(
        &mut self,
        node: NodeId,
        group: GroupId,
        consistency: Consistency,
        wait: Duration,
    ) -> Result<u64, ClientError> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let request = Request::ReadPoint { group, consistency, wait_ms };
        match self.call(node, &request, wait + Duration::from_secs(10))? {
            ReplyV1::Point { index, .. } => Ok(index),
            ReplyV1::Failed { text } => Err(ClientError::Failed(format!("node {node}: {text}"))),
            reply => Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
        }
    }

    /// Has the leader of a group hand it over to a node.
    ///
    /// # Errors
    /// When there is no leader, or the other does not take over in time.
    pub fn transfer(&mut self, group: GroupId, to: NodeId, timeout: Duration) -> Result<(), ClientError> {
        let (leader, _) = self.leader(group)?;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        match self.call(leader, &Request::Transfer { group, to, timeout_ms }, timeout + Duration::from_secs(10))? {
            ReplyV1::Done => Ok(()),
            ReplyV1::Failed { text } => Err(ClientError::Failed(format!("node {leader}: {text}"))),
            ReplyV1::Rejected { rejection: RejectionV1::NotLeader, .. } => Err(ClientError::Failed(format!(
                "node {leader} led group {group} until now: another election came between; try again"
            ))),
            reply => Err(ClientError::Failed(format!("node {leader} answered {reply:?}"))),
        }
    }

    /// What a node says of itself and its groups.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn info(&mut self, node: NodeId, timeout: Duration) -> Result<NodeInfo, ClientError> {
        let mut info = NodeInfo { node, process: 0, groups: Vec::new() };
        let mut shards = 1;
        let mut shard = 0;
        while shard < shards {
            match self.call(node, &Request::Info { group: SHARDS + shard }, timeout)? {
                ReplyV1::Info { process, shards: all, groups, .. } => {
                    info.process = process;
                    shards = u64::from(all);
                    info.groups.extend(groups);
                }
                reply => return Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
            }
            shard += 1;
        }
        info.groups.sort_by_key(|g| g.group);
        Ok(info)
    }

    /// What a node knows of its groups, or of a directory.
    fn infos(&mut self, node: NodeId, of: GroupId, timeout: Duration) -> Result<Vec<GroupInfoV1>, ClientError> {
        if directory_number(of).is_none() {
            return self.info(node, timeout).map(|info| info.groups);
        }
        match self.call(node, &Request::Info { group: of }, timeout)? {
            ReplyV1::Info { groups, .. } => Ok(groups),
            reply => Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
        }
    }

    /// The node that leads a group, or a directory, and takes proposals, and what it says of the group.
    ///
    /// # Errors
    /// When none does in time.
    pub fn leader(&mut self, group: GroupId) -> Result<(NodeId, GroupInfoV1), ClientError> {
        let start = Instant::now();
        let mut last = String::from("no node leads");
        let mut missed = 0;
        while start.elapsed() < self.timeout {
            for member in self.cluster.members.clone() {
                match self.infos(member.node, group, Duration::from_secs(2)) {
                    Ok(groups) => {
                        let Some(found) = groups.into_iter().find(|g| g.group == group) else {
                            // It may just have been on its way from one shard to another.
                            missed += 1;
                            if missed > self.cluster.members.len() {
                                return Err(ClientError::Unknown(name_of(group)));
                            }
                            continue;
                        };
                        if found.leader == member.node && found.epoch > 0 {
                            return Ok((member.node, found));
                        }
                    }
                    Err(error) => last = error.to_string(),
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(ClientError::NoLeader { group, waited: start.elapsed(), last })
    }
}

/// The voters that a node has answered with.
fn membership(node: NodeId, reply: ReplyV1) -> Result<Membership, ClientError> {
    match reply {
        ReplyV1::Membership { version, phase_1, phase_2, majority, voters, witnesses, learners } => {
            let (phase_1, phase_2) = (phase_1 as usize, phase_2 as usize);
            Ok(Membership { version, phase_1, phase_2, majority, voters, witnesses, learners })
        }
        reply => Err(ClientError::Failed(format!("node {node} answered {reply:?}"))),
    }
}
