//! The handshake: the first frame in each direction, and who is let in.
//!
//! Invariants:
//! - A [`Hello`] that decodes names a role, a version range that is not empty, and, for a peer, a shard below its count.
//! - Bytes behind the known fields are written as zeros and not looked at: a later release may use them, and says in its
//!   version range whether this one can do without.
//! - The dialer sends nothing behind its hello before the reply came.

mod judge;

pub use judge::{Identity, KnownPeer, Refusal, judge, judge_answer};

use crate::bytes::{get_u16, get_u32, get_u64, get_u128, put_u16, put_u32, put_u64, put_u128};

/// The lowest version of the messages that this program speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 10;
/// The highest version of the messages that this program speaks.
pub const PROTOCOL_VERSION_MAX: u16 = 10;
/// Bytes of a hello's body as written here, without the rules behind it.
pub const HELLO_BYTES: usize = 256;
/// How many rules a handshake has room for.
pub const REPLICA_RULES_MAX: usize = 128;
/// Bytes of the longest body taken as a hello or a reply: a later release may say more.
pub const HELLO_BYTES_MAX: usize = 4096 - crate::frame::FRAME_HEADER_BYTES;
/// Bytes of the longest text in a reply.
pub const REPLY_TEXT_BYTES_MAX: usize = 512;

const _: () = assert!(PROTOCOL_VERSION_MIN <= PROTOCOL_VERSION_MAX);
const RULES_BYTES_MAX: usize = REPLICA_RULES_MAX * RULE_BYTES;
const _: () = assert!(HELLO_BYTES + RULES_BYTES_MAX <= HELLO_BYTES_MAX);
const _: () = assert!(REPLY_AT_TEXT + REPLY_TEXT_BYTES_MAX + RULES_BYTES_MAX <= HELLO_BYTES_MAX);

const AT_ROLE: usize = 0;
const AT_VERSION_MIN: usize = 2;
const AT_VERSION_MAX: usize = 4;
const AT_FLAGS: usize = 6;
const AT_SHARD: usize = 8;
const AT_SHARD_COUNT: usize = 12;
const AT_CLUSTER: usize = 16;
const AT_INCARNATION: usize = 32;
const AT_TARGET_INCARNATION: usize = 48;
const AT_NODE: usize = 64;
const AT_BOOT: usize = 72;
const AT_TARGET_NODE: usize = 80;
const AT_WAL_SEQUENCE_SEEN: usize = 88;
const AT_REPLICA: usize = 96;
const AT_TARGET_REPLICA: usize = 112;
const AT_SEEN_REPLICA: usize = 128;
const AT_FOUNDING: usize = 144;
const AT_PHASE_2: usize = 148;
const AT_RULES: usize = 150;
const AT_FIRST_SHARDS: usize = 152;

const REPLY_AT_STATUS: usize = 0;
const REPLY_AT_TEXT_LEN: usize = 2;
const REPLY_AT_SHARD_COUNT: usize = 4;
const REPLY_AT_NODE: usize = 8;
const REPLY_AT_BOOT: usize = 16;
const REPLY_AT_WAL_SEQUENCE_SEEN: usize = 24;
const REPLY_AT_INCARNATION: usize = 32;
const REPLY_AT_REPLICA: usize = 48;
const REPLY_AT_TARGET_REPLICA: usize = 64;
const REPLY_AT_SEEN_REPLICA: usize = 80;
const REPLY_AT_FLAGS: usize = 96;
const REPLY_AT_RULES: usize = 98;
const REPLY_AT_FOUNDING: usize = 100;
const REPLY_AT_FIRST_SHARDS: usize = 104;
const REPLY_AT_TEXT: usize = 112;

/// Bytes of a rule: shards, shard, replica.
const RULE_BYTES: usize = 24;

const FLAG_REPLACEMENT: u16 = 1;
const FLAG_FOUNDER: u16 = 2;

/// Why a body is not a hello or a reply. The connection must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The body is cut off or too long.
    #[error("a handshake body of {0} bytes is too short or too long: run the same release at both ends")]
    Length(usize),
    /// Neither peer nor client.
    #[error("role {0} is neither peer (1) nor client (2): run the same release at both ends")]
    Role(u16),
    /// The lowest version is above the highest.
    #[error("version range {min} to {max} is empty: the other end is broken")]
    VersionRange {
        /// The lowest.
        min: u16,
        /// The highest.
        max: u16,
    },
    /// A peer speaks for a shard that it does not have.
    #[error("shard {shard} of {shard_count} does not exist: the other end is broken")]
    Shard {
        /// The shard, from 0.
        shard: u32,
        /// How many there are.
        shard_count: u32,
    },
    /// A rule names no shard, or there are more rules than there may be.
    #[error("the rules that name replicas are broken: run the same release at both ends")]
    Rules,
    /// The reply bears a status that this program does not know.
    #[error("status {0} is unknown here: run the same release at both ends")]
    Status(u16),
}

/// Who dials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A node of the cluster.
    Peer = 1,
    /// A client.
    Client = 2,
}

/// Which replica a group is on a node whose number of shards was changed, or whose log was begun anew since: of the rules
/// that fit a group's home, the last one counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaRule {
    /// A number of shards that the node has or had; never 0.
    pub shards: u32,
    /// The rule fits homes that have this remainder modulo `shards`; below it.
    pub shard: u32,
    /// The replica.
    pub replica: u128,
}

/// What the dialer says of itself, and whom it expects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Peer or client.
    pub role: Role,
    /// The lowest version of the messages that it speaks.
    pub version_min: u16,
    /// The highest version of the messages that it speaks.
    pub version_max: u16,
    /// Its cluster; a client may say 0: whichever it is.
    pub cluster: u128,
    /// Its node id; 0 for a client.
    pub node: u64,
    /// The incarnation of its directory; 0 for a client.
    pub incarnation: u128,
    /// Its boot count; 0 for a client.
    pub boot: u64,
    /// The node that it means to reach.
    pub target_node: u64,
    /// The incarnation of that node, 0 when not known yet.
    pub target_incarnation: u128,
    /// Its shard that this connection serves, from 0.
    pub shard: u32,
    /// How many shards it has.
    pub shard_count: u32,
    /// How many shards the cluster began with; 0 for a client.
    pub first_shards: u32,
    /// How many voters choose a value in its groups at the beginning, 0 for a majority.
    pub phase_2: u16,
    /// Its directory was made to replace a lost one.
    pub replacement: bool,
    /// Its replica may be a voter of the beginning: its log is the first one of a first directory.
    pub founder: bool,
    /// Names the list of nodes that its cluster began with; 0 when its directory was made later.
    pub founding: u32,
    /// The id of its shard's log, and, without `rules`, the replica that all groups in it are.
    pub replica: u128,
    /// Which replicas the groups of its shard are, when not all are the one that the log is; at most
    /// [`REPLICA_RULES_MAX`].
    pub rules: Vec<ReplicaRule>,
    /// The founding replica of the other's shard that it knows for good, 0 when it knows none yet.
    pub target_replica: u128,
    /// The replica of the other's shard that `wal_sequence_seen` speaks of, 0 for none.
    pub seen_replica: u128,
    /// The highest sequence in that replica's log that it has seen a vote rest on, 0 for none.
    pub wal_sequence_seen: u64,
}

impl Hello {
    /// The body of a frame of kind [`KIND_HELLO`](crate::KIND_HELLO).
    ///
    /// # Panics
    /// With more than [`REPLICA_RULES_MAX`] rules.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HELLO_BYTES];
        put_u16(&mut bytes, AT_ROLE, self.role as u16);
        put_u16(&mut bytes, AT_VERSION_MIN, self.version_min);
        put_u16(&mut bytes, AT_VERSION_MAX, self.version_max);
        put_u32(&mut bytes, AT_SHARD, self.shard);
        put_u32(&mut bytes, AT_SHARD_COUNT, self.shard_count);
        put_u128(&mut bytes, AT_CLUSTER, self.cluster);
        put_u128(&mut bytes, AT_INCARNATION, self.incarnation);
        put_u128(&mut bytes, AT_TARGET_INCARNATION, self.target_incarnation);
        put_u64(&mut bytes, AT_NODE, self.node);
        put_u64(&mut bytes, AT_BOOT, self.boot);
        put_u64(&mut bytes, AT_TARGET_NODE, self.target_node);
        put_u64(&mut bytes, AT_WAL_SEQUENCE_SEEN, self.wal_sequence_seen);
        put_u16(&mut bytes, AT_FLAGS, flags_of(self.replacement, self.founder));
        put_u128(&mut bytes, AT_REPLICA, self.replica);
        put_u128(&mut bytes, AT_TARGET_REPLICA, self.target_replica);
        put_u128(&mut bytes, AT_SEEN_REPLICA, self.seen_replica);
        put_u32(&mut bytes, AT_FOUNDING, self.founding);
        put_u32(&mut bytes, AT_FIRST_SHARDS, self.first_shards);
        put_u16(&mut bytes, AT_RULES, self.rules.len() as u16);
        put_rules(&mut bytes, &self.rules);
        put_u16(&mut bytes, AT_PHASE_2, self.phase_2);
        bytes
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is no legal hello.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        if bytes.len() < HELLO_BYTES || HELLO_BYTES_MAX < bytes.len() {
            return Err(HelloError::Length(bytes.len()));
        }
        let role = match get_u16(bytes, AT_ROLE) {
            1 => Role::Peer,
            2 => Role::Client,
            other => return Err(HelloError::Role(other)),
        };
        let hello = Self {
            role,
            version_min: get_u16(bytes, AT_VERSION_MIN),
            version_max: get_u16(bytes, AT_VERSION_MAX),
            cluster: get_u128(bytes, AT_CLUSTER),
            node: get_u64(bytes, AT_NODE),
            incarnation: get_u128(bytes, AT_INCARNATION),
            boot: get_u64(bytes, AT_BOOT),
            target_node: get_u64(bytes, AT_TARGET_NODE),
            target_incarnation: get_u128(bytes, AT_TARGET_INCARNATION),
            shard: get_u32(bytes, AT_SHARD),
            shard_count: get_u32(bytes, AT_SHARD_COUNT),
            phase_2: get_u16(bytes, AT_PHASE_2),
            replacement: get_u16(bytes, AT_FLAGS) & FLAG_REPLACEMENT != 0,
            founder: get_u16(bytes, AT_FLAGS) & FLAG_FOUNDER != 0,
            founding: get_u32(bytes, AT_FOUNDING),
            replica: get_u128(bytes, AT_REPLICA),
            target_replica: get_u128(bytes, AT_TARGET_REPLICA),
            seen_replica: get_u128(bytes, AT_SEEN_REPLICA),
            wal_sequence_seen: get_u64(bytes, AT_WAL_SEQUENCE_SEEN),
            first_shards: get_u32(bytes, AT_FIRST_SHARDS),
            rules: get_rules(bytes, HELLO_BYTES, get_u16(bytes, AT_RULES))?,
        };
        let (min, max) = (hello.version_min, hello.version_max);
        if max < min {
            return Err(HelloError::VersionRange { min, max });
        }
        let (shard, shard_count) = (hello.shard, hello.shard_count);
        if role == Role::Peer && shard_count <= shard {
            return Err(HelloError::Shard { shard, shard_count });
        }
        Ok(hello)
    }
}

/// What the listener thinks of a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HelloStatus {
    /// Welcome.
    Ok = 0,
    /// The two belong to different clusters.
    ForeignCluster = 1,
    /// This is not the node that was meant.
    WrongNode = 2,
    /// The dialer bears the listener's own node id.
    Duplicate = 3,
    /// The dialer speaks newer versions only.
    NewerVersion = 4,
    /// The dialer speaks older versions only.
    OlderVersion = 5,
    /// The two have different numbers of shards.
    ShardCountDiffers = 6,
    /// The dialer's boot count went back.
    StaleBoot = 7,
    /// A known node, but another directory.
    OtherIncarnation = 8,
    /// No member of this cluster.
    UnknownNode = 9,
    /// Not now.
    Busy = 10,
    /// No refusal: the listener knows the dialer's replica for good from now on. Dial again and name the listener's.
    Greeted = 11,
    /// The dialer's directory was replaced by another one.
    Replaced = 12,
    /// The two directories were made for clusters that began with other nodes.
    OtherFounders = 13,
    /// The groups of the two begin with quorums of different sizes.
    QuorumDiffers = 14,
    /// The two do not agree on how many shards the cluster began with.
    FirstShardsDiffer = 15,
}

impl HelloStatus {
    fn of_code(code: u16) -> Result<Self, HelloError> {
        Ok(match code {
            0 => Self::Ok,
            1 => Self::ForeignCluster,
            2 => Self::WrongNode,
            3 => Self::Duplicate,
            4 => Self::NewerVersion,
            5 => Self::OlderVersion,
            6 => Self::ShardCountDiffers,
            7 => Self::StaleBoot,
            8 => Self::OtherIncarnation,
            9 => Self::UnknownNode,
            10 => Self::Busy,
            11 => Self::Greeted,
            12 => Self::Replaced,
            13 => Self::OtherFounders,
            14 => Self::QuorumDiffers,
            15 => Self::FirstShardsDiffer,
            other => return Err(HelloError::Status(other)),
        })
    }
}

/// The listener's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HelloReply {
    /// Whether the dialer is let in. If not, the connection is closed behind this reply.
    pub status: HelloStatus,
    /// The responder's node id.
    pub node: u64,
    /// The incarnation of its directory.
    pub incarnation: u128,
    /// Its boot count.
    pub boot: u64,
    /// How many shards it has.
    pub shard_count: u32,
    /// How many shards the cluster began with; 0 when it does not say.
    pub first_shards: u32,
    /// Its directory was made to replace a lost one.
    pub replacement: bool,
    /// Its replica may be a voter of the beginning, as in [`Hello::founder`].
    pub founder: bool,
    /// As in [`Hello::founding`].
    pub founding: u32,
    /// The id of its shard's log, as in [`Hello::replica`].
    pub replica: u128,
    /// Which replicas the groups of its shard are, as in [`Hello::rules`].
    pub rules: Vec<ReplicaRule>,
    /// The founding replica of the dialer's shard that it knows for good, 0 for none.
    pub target_replica: u128,
    /// The replica of the dialer's shard that `wal_sequence_seen` speaks of, 0 for none.
    pub seen_replica: u128,
    /// The highest sequence in that replica's log that it has seen a vote rest on, 0 for none.
    pub wal_sequence_seen: u64,
    /// For people: why, and what to do. Cut after [`REPLY_TEXT_BYTES_MAX`] bytes.
    pub text: String,
}

impl HelloReply {
    /// The body of a frame of kind [`KIND_HELLO_REPLY`](crate::KIND_HELLO_REPLY).
    ///
    /// # Panics
    /// With more than [`REPLICA_RULES_MAX`] rules.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = cut(&self.text, REPLY_TEXT_BYTES_MAX);
        let mut bytes = vec![0; REPLY_AT_TEXT];
        put_u16(&mut bytes, REPLY_AT_STATUS, self.status as u16);
        put_u16(&mut bytes, REPLY_AT_TEXT_LEN, text.len() as u16);
        put_u32(&mut bytes, REPLY_AT_SHARD_COUNT, self.shard_count);
        put_u64(&mut bytes, REPLY_AT_NODE, self.node);
        put_u64(&mut bytes, REPLY_AT_BOOT, self.boot);
        put_u64(&mut bytes, REPLY_AT_WAL_SEQUENCE_SEEN, self.wal_sequence_seen);
        put_u128(&mut bytes, REPLY_AT_INCARNATION, self.incarnation);
        put_u128(&mut bytes, REPLY_AT_REPLICA, self.replica);
        put_u128(&mut bytes, REPLY_AT_TARGET_REPLICA, self.target_replica);
        put_u128(&mut bytes, REPLY_AT_SEEN_REPLICA, self.seen_replica);
        put_u16(&mut bytes, REPLY_AT_FLAGS, flags_of(self.replacement, self.founder));
        put_u32(&mut bytes, REPLY_AT_FOUNDING, self.founding);
        put_u16(&mut bytes, REPLY_AT_RULES, self.rules.len() as u16);
        put_u32(&mut bytes, REPLY_AT_FIRST_SHARDS, self.first_shards);
        bytes.extend_from_slice(text.as_bytes());
        put_rules(&mut bytes, &self.rules);
        bytes
    }

    /// Reads a body. A text that is not UTF-8 is read with replacement characters.
    ///
    /// # Errors
    /// When it is no legal reply.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        if bytes.len() < REPLY_AT_TEXT || HELLO_BYTES_MAX < bytes.len() {
            return Err(HelloError::Length(bytes.len()));
        }
        let text_len = get_u16(bytes, REPLY_AT_TEXT_LEN) as usize;
        let text = bytes.get(REPLY_AT_TEXT..REPLY_AT_TEXT + text_len);
        let Some(text) = text.filter(|text| text.len() <= REPLY_TEXT_BYTES_MAX) else {
            return Err(HelloError::Length(bytes.len()));
        };
        Ok(Self {
            status: HelloStatus::of_code(get_u16(bytes, REPLY_AT_STATUS))?,
            node: get_u64(bytes, REPLY_AT_NODE),
            incarnation: get_u128(bytes, REPLY_AT_INCARNATION),
            boot: get_u64(bytes, REPLY_AT_BOOT),
            shard_count: get_u32(bytes, REPLY_AT_SHARD_COUNT),
            replacement: get_u16(bytes, REPLY_AT_FLAGS) & FLAG_REPLACEMENT != 0,
            founder: get_u16(bytes, REPLY_AT_FLAGS) & FLAG_FOUNDER != 0,
            founding: get_u32(bytes, REPLY_AT_FOUNDING),
            replica: get_u128(bytes, REPLY_AT_REPLICA),
            target_replica: get_u128(bytes, REPLY_AT_TARGET_REPLICA),
            seen_replica: get_u128(bytes, REPLY_AT_SEEN_REPLICA),
            wal_sequence_seen: get_u64(bytes, REPLY_AT_WAL_SEQUENCE_SEEN),
            first_shards: get_u32(bytes, REPLY_AT_FIRST_SHARDS),
            rules: get_rules(bytes, REPLY_AT_TEXT + text.len(), get_u16(bytes, REPLY_AT_RULES))?,
            text: String::from_utf8_lossy(text).into_owned(),
        })
    }
}

fn put_rules(bytes: &mut Vec<u8>, rules: &[ReplicaRule]) {
    assert!(rules.len() <= REPLICA_RULES_MAX, "{} rules do not fit into a handshake", rules.len());
    for rule in rules {
        let at = bytes.len();
        bytes.resize(at + RULE_BYTES, 0);
        put_u32(bytes, at, rule.shards);
        put_u32(bytes, at + 4, rule.shard);
        put_u128(bytes, at + 8, rule.replica);
    }
}

fn get_rules(bytes: &[u8], at: usize, count: u16) -> Result<Vec<ReplicaRule>, HelloError> {
    let count = usize::from(count);
    let rules = bytes.get(at..at + count * RULE_BYTES).filter(|_| count <= REPLICA_RULES_MAX);
    let rule = |bytes: &[u8]| {
        let (shards, shard, replica) = (get_u32(bytes, 0), get_u32(bytes, 4), get_u128(bytes, 8));
        (shard < shards).then_some(ReplicaRule { shards, shard, replica })
    };
    rules.and_then(|rules| rules.chunks_exact(RULE_BYTES).map(rule).collect()).ok_or(HelloError::Rules)
}

fn flags_of(replacement: bool, founder: bool) -> u16 {
    (if replacement { FLAG_REPLACEMENT } else { 0 }) | (if founder { FLAG_FOUNDER } else { 0 })
}

/// The longest start of `text` that has at most `bytes_max` bytes and whole characters only.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
