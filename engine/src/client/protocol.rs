//! The client protocol: requests and replies on a node's port.
//!
//! A request is a frame of kind `CLIENT_REQUEST` whose tag is the request's id: `[operation u8][0 x 7][group u64]`,
//! then what the operation takes. The reply bears the same id; its body is an archived [`ReplyV1`].

// The derive of an archived enum leaves its generated fields undocumented.
#![allow(missing_docs)]

use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::batch::{Batch, Entries};
use crate::config::Member;
use crate::groups::{GroupError, GroupOutcome, MadeGroup};
use crate::introductions::{IntroduceError, IntroduceOutcome, Introduction};
use crate::limits::{APPEND_PART_BYTES_MAX, ENTRY_BYTES_MAX};
use crate::membership::{Membership, MembershipChange, MembershipError, MembershipOutcome};
use crate::outcome::{Committed, GroupId, NodeId, Outcome, ProposeError, Rejection};
use crate::sessions::command::is_session;
use crate::shard::points::Consistency;
use crate::shard::sessions::Ask;
use crate::wire::introductions::{PLACE_BYTES, append_place, decode_place};

const APPEND: u8 = 1;
const READ: u8 = 2;
const INFO: u8 = 3;
const MEMBERSHIP: u8 = 70;
const ADD_VOTER: u8 = 71;
const REMOVE_VOTER: u8 = 72;
const QUORUM: u8 = 73;
const ADD_WITNESS: u8 = 74;
const INTRODUCE: u8 = 75;
const INTRODUCTIONS: u8 = 76;
const OPEN_SESSION: u8 = 60;
const CLOSE_SESSION: u8 = 61;
const READ_POINT: u8 = 40;
const TRANSFER: u8 = 41;
const CREATE_GROUP: u8 = 80;
const DROP_GROUP: u8 = 81;
const GROUPS: u8 = 82;
const PLACE_GROUP: u8 = 83;
const TRIM: u8 = 90;
const APPEND_PART: u8 = 91;
const READ_PART: u8 = 92;

/// In requests about all groups of a shard: this number and the shard's stand for that shard. No group has such a number.
pub const SHARDS: GroupId = 1 << 63;

/// What a client asks.
#[derive(Clone, Debug)]
pub enum Request {
    /// Append entries, in a session (client, first sequence) or not.
    Append {
        /// The group.
        group: GroupId,
        /// The session's id, which [`Request::OpenSession`] gave, and the sequence of the first entry, from 1.
        session: Option<(u64, u64)>,
        /// The entries.
        entries: Entries,
    },
    /// Append one entry that no frame holds, in a session or not. The requests for its parts follow each other, in order, on
    /// one connection; each is answered [`ReplyV1::Done`] but the last, whose answer is that of an append. A part at offset
    /// 0 begins another entry.
    AppendPart {
        /// The group.
        group: GroupId,
        /// As of [`Request::Append`].
        session: Option<(u64, u64)>,
        /// Bytes of the entry.
        total: u32,
        /// Where this part begins in it.
        offset: u32,
        /// The part, of 1 MiB at most.
        bytes: Vec<u8>,
    },
    /// Read one part of an entry that was answered [`ReplyV1::InParts`].
    ReadPart {
        /// The group.
        group: GroupId,
        /// The entry's index.
        index: u64,
        /// Which part, from 0.
        part: u32,
    },
    /// Read committed entries.
    Read {
        /// The group.
        group: GroupId,
        /// The index of the first entry wanted.
        from_index: u64,
        /// At most about so many bytes.
        bytes_max: u32,
        /// Wait so long for the first one.
        wait_ms: u32,
    },
    /// What a shard knows of its groups, or of a directory that is asked for by its name.
    Info {
        /// Any group of the shard, or [`SHARDS`] and its number.
        group: GroupId,
    },
    /// Who votes in a group.
    Membership {
        /// The group.
        group: GroupId,
    },
    /// Change who votes in a group.
    ChangeMembership {
        /// The group.
        group: GroupId,
        /// The version of its voters that the change is meant for.
        version: u64,
        /// The change.
        change: MembershipChange,
        /// It may take so long.
        wait_ms: u32,
    },
    /// Open a session. The slot of the answer [`ReplyV1::Committed`] is its id; the answer has no entries.
    OpenSession {
        /// The group.
        group: GroupId,
    },
    /// End a session, if it is there. The answer [`ReplyV1::Committed`] has no entries.
    CloseSession {
        /// The group.
        group: GroupId,
        /// The session's id.
        session: u64,
    },
    /// Up to where the node has applied a group, at a consistency.
    ReadPoint {
        /// The group.
        group: GroupId,
        /// How old it may be.
        consistency: Consistency,
        /// Wait so long for it.
        wait_ms: u32,
    },
    /// Hand a group that the node leads over to another node.
    Transfer {
        /// The group.
        group: GroupId,
        /// The node that is to lead it.
        to: NodeId,
        /// Give up after so long.
        timeout_ms: u32,
    },
    /// Make a group; asked of the leader of its shard's directory.
    CreateGroup {
        /// Its number.
        group: GroupId,
        /// How many of its voters choose a value; 0: a majority.
        phase_2: u16,
        /// It may take so long.
        wait_ms: u32,
    },
    /// Drop a group that was made at run time; asked of the leader of its shard's directory.
    DropGroup {
        /// Its number.
        group: GroupId,
        /// It may take so long.
        wait_ms: u32,
    },
    /// Have a group moved to another shard on every node; asked of the leader of its directory.
    PlaceGroup {
        /// Its number.
        group: GroupId,
        /// The shard, counted from 0.
        shard: u32,
        /// It may take so long until that is ordered.
        wait_ms: u32,
    },
    /// Free what the node's log holds of a group before an entry. The answer is [`ReplyV1::Trimmed`].
    Trim {
        /// The group.
        group: GroupId,
        /// The index of the first entry that stays.
        before: u64,
        /// It may take so long.
        wait_ms: u32,
    },
    /// Which groups of a shard were made at run time, as the node knows it.
    Groups {
        /// [`SHARDS`] and the shard's number.
        group: GroupId,
    },
    /// Introduce a node to the one that is asked, which tells the others. The answer is [`ReplyV1::Introduced`], with the one
    /// introduction that counts then.
    Introduce {
        /// Any number.
        group: GroupId,
        /// The node, and where it listens.
        member: Member,
        /// It is a witness.
        witness: bool,
    },
    /// Which nodes were introduced, as the node that is asked knows it. The answer is [`ReplyV1::Introduced`].
    Introductions {
        /// Any number.
        group: GroupId,
    },
}

/// A request that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed client request: {0}")]
pub struct MalformedRequest(&'static str);

impl Request {
    /// The group that is asked.
    pub fn group(&self) -> GroupId {
        match self {
            Self::Append { group, .. } | Self::Read { group, .. } | Self::Info { group } => *group,
            Self::AppendPart { group, .. } | Self::ReadPart { group, .. } => *group,
            Self::ReadPoint { group, .. } | Self::Transfer { group, .. } | Self::Trim { group, .. } => *group,
            Self::Membership { group } | Self::ChangeMembership { group, .. } => *group,
            Self::OpenSession { group } | Self::CloseSession { group, .. } => *group,
            Self::CreateGroup { group, .. } | Self::DropGroup { group, .. } | Self::Groups { group } => *group,
            Self::PlaceGroup { group, .. } => *group,
            Self::Introduce { group, .. } | Self::Introductions { group } => *group,
        }
    }

    /// The group and what is asked, if a session is to be opened or closed.
    pub(crate) fn session_ask(&self) -> Option<(GroupId, Ask)> {
        match self {
            Self::OpenSession { group } => Some((*group, Ask::Open)),
            Self::CloseSession { group, session } => Some((*group, Ask::Close(*session))),
            Self::Append { .. } | Self::Read { .. } | Self::Info { .. } => None,
            Self::AppendPart { .. } | Self::ReadPart { .. } => None,
            Self::ReadPoint { .. } | Self::Transfer { .. } | Self::Trim { .. } => None,
            Self::Membership { .. } | Self::ChangeMembership { .. } => None,
            Self::CreateGroup { .. } | Self::DropGroup { .. } | Self::PlaceGroup { .. } | Self::Groups { .. } => None,
            Self::Introduce { .. } | Self::Introductions { .. } => None,
        }
    }

    /// The body of the request's frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 8];
        out.extend_from_slice(&self.group().to_le_bytes());
        match self {
            Self::Append { session, entries, .. } => {
                out[0] = APPEND;
                let (client, sequence) = session.unwrap_or((0, 0));
                out.extend_from_slice(&client.to_le_bytes());
                out.extend_from_slice(&sequence.to_le_bytes());
                entries.parts(&mut Vec::new()).iter().for_each(|part| out.extend_from_slice(part));
            }
            Self::AppendPart { session, total, offset, bytes, .. } => {
                out[0] = APPEND_PART;
                let (client, sequence) = session.unwrap_or((0, 0));
                out.extend_from_slice(&client.to_le_bytes());
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(&total.to_le_bytes());
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::ReadPart { index, part, .. } => {
                out[0] = READ_PART;
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&u64::from(*part).to_le_bytes());
            }
            Self::Read { from_index, bytes_max, wait_ms, .. } => {
                out[0] = READ;
                out.extend_from_slice(&from_index.to_le_bytes());
                out.extend_from_slice(&bytes_max.to_le_bytes());
                out.extend_from_slice(&wait_ms.to_le_bytes());
            }
            Self::Info { .. } => out[0] = INFO,
            Self::Groups { .. } => out[0] = GROUPS,
            Self::Introductions { .. } => out[0] = INTRODUCTIONS,
            Self::Introduce { member, witness, .. } => {
                out[0] = INTRODUCE;
                append_place(&mut out, *member, *witness);
            }
            Self::CreateGroup { phase_2, wait_ms, .. } => {
                out[0] = CREATE_GROUP;
                out.extend_from_slice(&wait_ms.to_le_bytes());
                out.extend_from_slice(&phase_2.to_le_bytes());
            }
            Self::PlaceGroup { shard, wait_ms, .. } => {
                out[0] = PLACE_GROUP;
                out.extend_from_slice(&wait_ms.to_le_bytes());
                out.extend_from_slice(&shard.to_le_bytes());
            }
            Self::DropGroup { wait_ms, .. } => {
                out[0] = DROP_GROUP;
                out.extend_from_slice(&wait_ms.to_le_bytes());
            }
            Self::Membership { .. } => out[0] = MEMBERSHIP,
            Self::ChangeMembership { version, change, wait_ms, .. } => {
                let (operation, of) = match change {
                    MembershipChange::Add(node) => (ADD_VOTER, *node),
                    MembershipChange::AddWitness(node) => (ADD_WITNESS, *node),
                    MembershipChange::Remove(node) => (REMOVE_VOTER, *node),
                    MembershipChange::Quorum(phase_2) => (QUORUM, u64::from(*phase_2)),
                };
                out[0] = operation;
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(&of.to_le_bytes());
                out.extend_from_slice(&wait_ms.to_le_bytes());
            }
            Self::OpenSession { .. } => out[0] = OPEN_SESSION,
            Self::CloseSession { session, .. } => {
                out[0] = CLOSE_SESSION;
                out.extend_from_slice(&session.to_le_bytes());
            }
            Self::Transfer { to, timeout_ms, .. } => {
                out[0] = TRANSFER;
                out.extend_from_slice(&to.to_le_bytes());
                out.extend_from_slice(&u64::from(*timeout_ms).to_le_bytes());
            }
            Self::Trim { before, wait_ms, .. } => {
                out[0] = TRIM;
                out.extend_from_slice(&before.to_le_bytes());
                out.extend_from_slice(&wait_ms.to_le_bytes());
            }
            Self::ReadPoint { consistency, wait_ms, .. } => {
                out[0] = READ_POINT;
                let (way, index) = match consistency {
                    Consistency::Linearizable => (0u32, 0),
                    Consistency::Quorum => (1, 0),
                    Consistency::AtLeast(index) => (2, *index),
                    Consistency::Stale => (3, 0),
                };
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&way.to_le_bytes());
                out.extend_from_slice(&wait_ms.to_le_bytes());
            }
        }
        out
    }

    /// Reads a request.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(body: &[u8]) -> Result<Self, MalformedRequest> {
        let (head, rest) = body.split_first_chunk::<16>().ok_or(MalformedRequest("too short"))?;
        let group = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
        match head[0] {
            APPEND => {
                let (session, body) = take_session(rest)?;
                let batch = Batch::decode(body).map_err(|_| MalformedRequest("the entries"))?;
                let mut entries = Entries::new();
                for entry in batch.iter() {
                    if entry.len() > ENTRY_BYTES_MAX {
                        return Err(MalformedRequest("a large entry that does not come in parts"));
                    }
                    entries.push(entry).map_err(|_| MalformedRequest("an entry or a batch over its limit"))?;
                }
                Ok(Self::Append { group, session, entries })
            }
            APPEND_PART => {
                let (session, rest) = take_session(rest)?;
                let (place, bytes) = rest.split_first_chunk::<8>().ok_or(MalformedRequest("too short"))?;
                let total = u32::from_le_bytes(place[..4].try_into().expect("four bytes"));
                let offset = u32::from_le_bytes(place[4..].try_into().expect("four bytes"));
                let end = (offset as usize).saturating_add(bytes.len());
                if bytes.is_empty() || bytes.len() > APPEND_PART_BYTES_MAX || end > total as usize {
                    return Err(MalformedRequest("the place of a part"));
                }
                Ok(Self::AppendPart { group, session, total, offset, bytes: bytes.to_vec() })
            }
            READ_PART => {
                let rest: &[u8; 16] = rest.try_into().map_err(|_| MalformedRequest("the length of a read"))?;
                let part = u64::from_le_bytes(rest[8..].try_into().expect("eight bytes"));
                Ok(Self::ReadPart {
                    group,
                    index: u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")),
                    part: u32::try_from(part).map_err(|_| MalformedRequest("the number of a part"))?,
                })
            }
            READ => {
                let rest: &[u8; 16] = rest.try_into().map_err(|_| MalformedRequest("the length of a read"))?;
                Ok(Self::Read {
                    group,
                    from_index: u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")),
                    bytes_max: u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")),
                    wait_ms: u32::from_le_bytes(rest[12..].try_into().expect("four bytes")),
                })
            }
            INFO if rest.is_empty() => Ok(Self::Info { group }),
            GROUPS if rest.is_empty() => Ok(Self::Groups { group }),
            INTRODUCTIONS if rest.is_empty() => Ok(Self::Introductions { group }),
            INTRODUCE => {
                let place: &[u8; PLACE_BYTES] =
                    rest.try_into().map_err(|_| MalformedRequest("the length of an introduction"))?;
                let (member, witness) = decode_place(place).map_err(|of| MalformedRequest(of.0))?;
                Ok(Self::Introduce { group, member, witness })
            }
            CREATE_GROUP => {
                let rest: &[u8; 6] = rest.try_into().map_err(|_| MalformedRequest("the length of an order"))?;
                let wait_ms = u32::from_le_bytes(rest[..4].try_into().expect("four bytes"));
                Ok(Self::CreateGroup { group, phase_2: u16::from_le_bytes([rest[4], rest[5]]), wait_ms })
            }
            PLACE_GROUP => {
                let rest: &[u8; 8] = rest.try_into().map_err(|_| MalformedRequest("the length of an order"))?;
                let [wait_ms, shard] =
                    [&rest[..4], &rest[4..]].map(|number| u32::from_le_bytes(number.try_into().expect("four bytes")));
                Ok(Self::PlaceGroup { group, shard, wait_ms })
            }
            DROP_GROUP => {
                let rest = rest.try_into().map_err(|_| MalformedRequest("the length of an order"))?;
                Ok(Self::DropGroup { group, wait_ms: u32::from_le_bytes(rest) })
            }
            MEMBERSHIP if rest.is_empty() => Ok(Self::Membership { group }),
            operation @ (ADD_VOTER | ADD_WITNESS | REMOVE_VOTER | QUORUM) => {
                let rest: &[u8; 20] =
                    rest.try_into().map_err(|_| MalformedRequest("the length of a change of voters"))?;
                let of = u64::from_le_bytes(rest[8..16].try_into().expect("eight bytes"));
                let quorum = || u16::try_from(of).map_err(|_| MalformedRequest("the quorum"));
                Ok(Self::ChangeMembership {
                    group,
                    version: u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")),
                    change: match operation {
                        ADD_VOTER => MembershipChange::Add(of),
                        ADD_WITNESS => MembershipChange::AddWitness(of),
                        REMOVE_VOTER => MembershipChange::Remove(of),
                        _ => MembershipChange::Quorum(quorum()?),
                    },
                    wait_ms: u32::from_le_bytes(rest[16..].try_into().expect("four bytes")),
                })
            }
            OPEN_SESSION if rest.is_empty() => Ok(Self::OpenSession { group }),
            CLOSE_SESSION => {
                let session = rest.try_into().map(u64::from_le_bytes).ok().filter(|id| is_session(*id));
                let session = session.ok_or(MalformedRequest("the session's id"))?;
                Ok(Self::CloseSession { group, session })
            }
            TRANSFER => {
                let rest: &[u8; 16] = rest.try_into().map_err(|_| MalformedRequest("the length of a transfer"))?;
                let timeout = u64::from_le_bytes(rest[8..].try_into().expect("eight bytes"));
                Ok(Self::Transfer {
                    group,
                    to: u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")),
                    timeout_ms: u32::try_from(timeout).map_err(|_| MalformedRequest("the time for a transfer"))?,
                })
            }
            TRIM => {
                let rest: &[u8; 12] =
                    rest.try_into().map_err(|_| MalformedRequest("the length of an order to trim"))?;
                Ok(Self::Trim {
                    group,
                    before: u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")),
                    wait_ms: u32::from_le_bytes(rest[8..].try_into().expect("four bytes")),
                })
            }
            READ_POINT => {
                let rest: &[u8; 16] = rest.try_into().map_err(|_| MalformedRequest("the length of a read"))?;
                let index = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes"));
                let consistency = match (u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")), index) {
                    (0, 0) => Consistency::Linearizable,
                    (1, 0) => Consistency::Quorum,
                    (2, index) => Consistency::AtLeast(index),
                    (3, 0) => Consistency::Stale,
                    _ => return Err(MalformedRequest("the consistency of a read")),
                };
                let wait_ms = u32::from_le_bytes(rest[12..].try_into().expect("four bytes"));
                Ok(Self::ReadPoint { group, consistency, wait_ms })
            }
            _ => Err(MalformedRequest("the operation")),
        }
    }
}

/// A session and the sequence of the first entry.
type InSession = (u64, u64);

/// The session that a request is in, if it is in one, and what follows.
fn take_session(rest: &[u8]) -> Result<(Option<InSession>, &[u8]), MalformedRequest> {
    let (head, rest) = rest.split_first_chunk::<16>().ok_or(MalformedRequest("too short"))?;
    let client = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    let sequence = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
    if (client == 0) != (sequence == 0) {
        return Err(MalformedRequest("half a session"));
    }
    if client != 0 && !is_session(client) {
        return Err(MalformedRequest("the session's id"));
    }
    Ok(((client != 0).then_some((client, sequence)), rest))
}

/// What one group looks like from one node.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct GroupInfoV1 {
    /// The group.
    pub group: u64,
    /// The node that leads it, or 0.
    pub leader: u64,
    /// The epoch as a number, where this node leads and takes proposals; else 0.
    pub epoch: u64,
    /// The chosen prefix.
    pub chosen_slot: u64,
    /// The last slot applied.
    pub applied_slot: u64,
    /// The index that the next committed entry gets.
    pub next_index: u64,
    /// The first index that can be read.
    pub first_index: u64,
    /// The chained checksum at `applied_slot`.
    pub chain: u32,
    /// Elections won here since the node started.
    pub elections: u64,
    /// The version of the configuration that governs here: how often a replica has taken another's place.
    pub configuration: u64,
    /// How many voters it takes to elect a leader.
    pub phase_1: u32,
    /// How many voters it takes to choose an entry.
    pub phase_2: u32,
    /// Whether this node's replica votes. One that does not is catching up, or waits for the first contact of all nodes.
    pub votes: bool,
    /// Whether it is a witness, which keeps votes and no entries.
    pub witness: bool,
    /// Whether this node leads and holds a lease: it answers linearizable reads without asking anyone. It has none before the
    /// first such read, which gets it.
    pub lease: bool,
    /// The last index that this node's newest checkpoint covers; 0: there is none.
    pub checkpoint_index: u64,
    /// The lowest index that a reader has pinned here; 0: none has.
    pub pinned_index: u64,
    /// How many readers have pinned this node's log of the group.
    pub pins: u64,
    /// The oldest pin is forgotten in so many seconds, unless it is renewed.
    pub pin_seconds: u64,
    /// The shard that it is on, counted from 0.
    pub shard: u32,
}

/// A node's answer.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum ReplyV1 {
    /// The entries are committed.
    Committed {
        /// Their slot.
        slot: u64,
        /// The index of the first.
        first_index: u64,
        /// How many.
        count: u32,
    },
    /// The session has committed them before, at a position that is no longer remembered.
    Duplicate,
    /// The sequence does not follow the session.
    OutOfSession,
    /// They never take effect.
    Superseded,
    /// They may take effect or not.
    Unknown,
    /// They were not proposed.
    Rejected {
        /// What was the matter.
        rejection: RejectionV1,
        /// The leader, or 0.
        leader: u64,
    },
    /// Committed entries.
    Entries {
        /// The index of the first.
        first_index: u64,
        /// The index that the next committed entry gets.
        next_index: u64,
        /// Where each entry ends in `bytes`.
        ends: Vec<u32>,
        /// The entries' bytes.
        bytes: Vec<u8>,
    },
    /// The log begins later, or begins here since it was trimmed.
    Trimmed {
        /// At this index.
        first_index: u64,
    },
    /// What the node knows.
    Info {
        /// The node.
        node: u64,
        /// Its process.
        process: u32,
        /// How many shards it has; a group's shard is its number modulo this.
        shards: u32,
        /// The groups of the asked shard.
        groups: Vec<GroupInfoV1>,
    },
    /// Who votes in a group.
    Membership {
        /// Counts the changes.
        version: u64,
        /// How many voters it takes to elect a leader.
        phase_1: u32,
        /// How many voters it takes to choose a value.
        phase_2: u32,
        /// Both are majorities, and stay so.
        majority: bool,
        /// The nodes that vote.
        voters: Vec<u64>,
        /// Those of them that are witnesses.
        witnesses: Vec<u64>,
        /// The nodes that only learn.
        learners: Vec<u64>,
    },
    /// The request failed.
    Failed {
        /// Why.
        text: String,
    },
    /// The session has ended. The entries do not take effect now; whether they did before is not known.
    SessionExpired,
    /// The node has applied a group up to here.
    Point {
        /// The last index.
        index: u64,
        /// The epoch of the leader that vouched for it, as a number; 0: none had to.
        epoch: u64,
    },
    /// It is done.
    Done,
    /// The entry at this index is so large that it must be read part by part, with [`Request::ReadPart`].
    InParts {
        /// The index.
        index: u64,
        /// How many parts.
        parts: u32,
        /// The index that the next committed entry gets.
        next_index: u64,
    },
    /// One part of an entry.
    Part {
        /// The entry's index.
        index: u64,
        /// Which part, from 0.
        part: u32,
        /// How many parts.
        parts: u32,
        /// The index that the next committed entry gets.
        next_index: u64,
        /// The part's bytes.
        bytes: Vec<u8>,
    },
    /// A group was made or dropped, or these are the groups of the shard that were made at run time.
    Groups {
        /// The groups.
        groups: Vec<MadeGroupV1>,
    },
    /// A node was introduced, or these nodes were.
    Introduced {
        /// What counts of them, by their numbers.
        nodes: Vec<IntroductionV1>,
    },
}

/// An [`Introduction`] on the wire.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct IntroductionV1 {
    /// The node.
    pub node: u64,
    /// Its address, as text.
    pub address: String,
    /// It is a witness.
    pub witness: bool,
    /// The introduction's version.
    pub version: u64,
}

impl IntroductionV1 {
    /// What it says, unless its address is none.
    pub(crate) fn decode(&self) -> Option<Introduction> {
        let Self { node, address, witness, version } = self;
        Some(Introduction { node: *node, address: address.parse().ok()?, witness: *witness, version: *version })
    }
}

impl From<&[Introduction]> for ReplyV1 {
    fn from(list: &[Introduction]) -> Self {
        let node = |of: &Introduction| {
            let Introduction { node, address, witness, version } = *of;
            IntroductionV1 { node, address: address.to_string(), witness, version }
        };
        Self::Introduced { nodes: list.iter().map(node).collect() }
    }
}

impl From<IntroduceOutcome> for ReplyV1 {
    fn from(outcome: IntroduceOutcome) -> Self {
        match outcome {
            Ok(introduction) => (&[introduction][..]).into(),
            Err(IntroduceError::Rejected(rejection)) => rejected(rejection),
            Err(error) => Self::Failed { text: error.to_string() },
        }
    }
}

/// A [`MadeGroup`] on the wire.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct MadeGroupV1 {
    /// Its number.
    pub group: u64,
    /// Its uid.
    pub uid: u128,
    /// It is being dropped, or was.
    pub ending: bool,
}

impl From<Vec<MadeGroup>> for ReplyV1 {
    fn from(groups: Vec<MadeGroup>) -> Self {
        let made = |MadeGroup { group, uid, ending }| MadeGroupV1 { group, uid, ending };
        Self::Groups { groups: groups.into_iter().map(made).collect() }
    }
}

impl From<GroupOutcome> for ReplyV1 {
    fn from(outcome: GroupOutcome) -> Self {
        match outcome {
            Ok(made) => vec![made].into(),
            Err(GroupError::Rejected(rejection)) => rejected(rejection),
            Err(error) => Self::Failed { text: error.to_string() },
        }
    }
}

/// A [`Rejection`] on the wire.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectionV1 {
    /// Another node leads.
    NotLeader,
    /// Try later.
    Overloaded {
        /// What is full: the place of an [`Overload`](crate::Overload) among its kind.
        what: u8,
        /// When there may be room again, in milliseconds.
        retry_after_ms: u32,
    },
    /// Split it.
    TooLarge,
    /// No such group.
    UnknownGroup,
    /// Reopen the handle.
    HandleClosed,
    /// The node is stopping.
    Stopping,
    /// The group is being dropped.
    GroupDropped,
    /// The state machine refuses it.
    Refused,
}

impl ReplyV1 {
    /// The body of the reply's frame.
    pub fn encode(&self) -> AlignedVec {
        rkyv::to_bytes::<Failure>(self).expect("a reply of plain types always has an archive")
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(body: &[u8]) -> Result<Self, MalformedRequest> {
        // The receive buffer is not aligned for an archive.
        let mut aligned = AlignedVec::<16>::with_capacity(body.len());
        aligned.extend_from_slice(body);
        let archived = rkyv::access::<ArchivedReplyV1, Failure>(&aligned).map_err(|_| MalformedRequest("the reply"))?;
        rkyv::deserialize::<Self, Failure>(archived).map_err(|_| MalformedRequest("the reply"))
    }
}

impl From<Outcome> for ReplyV1 {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(Committed { slot, first_index, count }) => Self::Committed { slot, first_index, count },
            Err(ProposeError::Duplicate) => Self::Duplicate,
            Err(ProposeError::OutOfSession) => Self::OutOfSession,
            Err(ProposeError::SessionExpired) => Self::SessionExpired,
            Err(ProposeError::Superseded) => Self::Superseded,
            Err(ProposeError::Unknown) => Self::Unknown,
            Err(ProposeError::Rejected(rejection)) => rejected(rejection),
        }
    }
}

/// The answer to what was refused.
pub(crate) fn rejected(rejection: Rejection) -> ReplyV1 {
    let (rejection, leader) = match rejection {
        Rejection::NotLeader { leader } => (RejectionV1::NotLeader, leader.unwrap_or(0)),
        Rejection::Overloaded { what, retry_after_ms } => {
            (RejectionV1::Overloaded { what: what as u8, retry_after_ms }, 0)
        }
        Rejection::TooLarge => (RejectionV1::TooLarge, 0),
        Rejection::UnknownGroup => (RejectionV1::UnknownGroup, 0),
        Rejection::HandleClosed => (RejectionV1::HandleClosed, 0),
        Rejection::Stopping => (RejectionV1::Stopping, 0),
        Rejection::GroupDropped => (RejectionV1::GroupDropped, 0),
        Rejection::Refused => (RejectionV1::Refused, 0),
    };
    ReplyV1::Rejected { rejection, leader }
}

impl From<Membership> for ReplyV1 {
    fn from(of: Membership) -> Self {
        let Membership { version, phase_1, phase_2, majority, voters, witnesses, learners } = of;
        let (phase_1, phase_2) = (phase_1 as u32, phase_2 as u32);
        Self::Membership { version, phase_1, phase_2, majority, voters, witnesses, learners }
    }
}

impl From<MembershipOutcome> for ReplyV1 {
    fn from(outcome: MembershipOutcome) -> Self {
        match outcome {
            Ok(membership) => membership.into(),
            Err(MembershipError::Rejected(rejection)) => rejected(rejection),
            Err(error) => Self::Failed { text: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use synod_core::Slot;

    use super::*;
    use crate::sessions::command::Command;

    #[test]
    fn requests_come_back() {
        let entries = Entries::one(b"hello").unwrap();
        for request in [
            Request::Append { group: 3, session: Some((7, 1)), entries: entries.clone() },
            Request::Append { group: 3, session: None, entries },
            Request::AppendPart { group: 3, session: Some((7, 1)), total: 9, offset: 4, bytes: b"hello".to_vec() },
            Request::AppendPart { group: 3, session: None, total: 1, offset: 0, bytes: vec![7] },
            Request::ReadPart { group: 4, index: 9, part: 3 },
            Request::Read { group: 4, from_index: 9, bytes_max: 100, wait_ms: 5 },
            Request::Info { group: 1 },
            Request::Membership { group: 5 },
            Request::ChangeMembership { group: 5, version: 2, change: MembershipChange::Add(3), wait_ms: 9 },
            Request::ChangeMembership { group: 5, version: 2, change: MembershipChange::AddWitness(3), wait_ms: 9 },
            Request::ChangeMembership { group: 5, version: 2, change: MembershipChange::Remove(3), wait_ms: 9 },
            Request::ChangeMembership { group: 5, version: 2, change: MembershipChange::Quorum(3), wait_ms: 9 },
            Request::OpenSession { group: 2 },
            Request::CloseSession { group: 2, session: 9 },
            Request::ReadPoint { group: 1, consistency: Consistency::Linearizable, wait_ms: 5 },
            Request::ReadPoint { group: 1, consistency: Consistency::AtLeast(9), wait_ms: 5 },
            Request::Transfer { group: 1, to: 2, timeout_ms: 5 },
            Request::Trim { group: 1, before: 7, wait_ms: 5 },
            Request::CreateGroup { group: 9, phase_2: 2, wait_ms: 5 },
            Request::DropGroup { group: 9, wait_ms: 5 },
            Request::PlaceGroup { group: 9, shard: 3, wait_ms: 5 },
            Request::Groups { group: 9 },
            Request::Introduce {
                group: 1,
                member: Member { node: 4, address: "127.0.0.1:7004".parse().unwrap() },
                witness: true,
            },
            Request::Introductions { group: 1 },
        ] {
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes).unwrap().encode(), bytes);
        }
    }

    #[test]
    fn no_client_has_the_session_of_a_command() {
        let (client, sequence) = Command::Expire { unused_since: Slot(9) }.header();
        let append =
            Request::Append { group: 1, session: Some((client, sequence)), entries: Entries::one(b"").unwrap() };
        assert!(Request::decode(&append.encode()).is_err());
        assert!(Request::decode(&Request::CloseSession { group: 1, session: client }.encode()).is_err());
    }

    #[test]
    fn parts_that_are_none_are_refused() {
        let part = |total, offset, len| {
            let bytes = vec![1; len];
            Request::decode(&Request::AppendPart { group: 1, session: None, total, offset, bytes }.encode()).is_ok()
        };
        assert!(part(10, 5, 5) && part(u32::MAX, 0, APPEND_PART_BYTES_MAX));
        assert!(!part(10, 5, 6) && !part(10, 5, 0) && !part(u32::MAX, 0, APPEND_PART_BYTES_MAX + 1));
        let large =
            Request::Append { group: 1, session: None, entries: Entries::one(&[0; ENTRY_BYTES_MAX + 1]).unwrap() };
        assert!(Request::decode(&large.encode()).is_err());
    }

    #[test]
    fn replies_come_back() {
        for reply in [
            ReplyV1::Committed { slot: 1, first_index: 2, count: 3 },
            ReplyV1::Entries { first_index: 1, next_index: 3, ends: vec![1, 2], bytes: b"ab".to_vec() },
            ReplyV1::Rejected { rejection: RejectionV1::NotLeader, leader: 2 },
            ReplyV1::Membership {
                version: 1,
                phase_1: 1,
                phase_2: 2,
                majority: false,
                voters: vec![1, 2],
                witnesses: vec![2],
                learners: vec![3],
            },
            ReplyV1::Failed { text: "why".into() },
            ReplyV1::InParts { index: 5, parts: 6, next_index: 7 },
            ReplyV1::Part { index: 5, part: 2, parts: 6, next_index: 7, bytes: b"part".to_vec() },
            ReplyV1::Point { index: 5, epoch: 6 },
            ReplyV1::Groups { groups: vec![MadeGroupV1 { group: 9, uid: u128::MAX - 2, ending: true }] },
            ReplyV1::Introduced {
                nodes: vec![IntroductionV1 { node: 4, address: "127.0.0.1:7004".into(), witness: true, version: 2 }],
            },
        ] {
            assert_eq!(ReplyV1::decode(&reply.encode()).unwrap(), reply);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
            let _ = ReplyV1::decode(&bytes);
        }
    }
}
