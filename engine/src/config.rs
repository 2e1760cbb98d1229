//! A node's configuration: a TOML file or a struct, checked as a whole before anything starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use synod_core::planted::{Bug, is};
use synod_core::{Quorums, Slot};

use crate::groups::directory_number;
use crate::homes::Homes;
use crate::limits::{BATCH_ENTRIES_MAX, SESSIONS_MAX};
use crate::outcome::{GroupId, NodeId};

/// An hour: the longest that `queue_ms_max` may let a proposal wait.
const QUEUE_MS_MAX: u64 = 3_600_000;
/// A node has no more shards.
const SHARDS_MAX: usize = 1024;
/// A year: the longest time that a session may be idle.
const SESSION_IDLE_SECONDS_MAX: u64 = 365 * 24 * 3600;

/// When a vote counts as durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// After fdatasync: survives a power cut.
    #[default]
    Durable,
    /// When the operating system has it: survives only a crash of the process. For measurements.
    Os,
}

/// How the log reaches the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBackend {
    /// An io_uring of its own per shard.
    #[default]
    Uring,
    /// Blocking system calls on the shard's thread: for fault injection. The executor needs io_uring all the same.
    Blocking,
}

/// One node of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its number; never 0.
    pub node: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What a client must know of a cluster: the file that `synod local` writes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The cluster's id, as 32 hexadecimal digits.
    pub cluster: String,
    /// How many groups there are, numbered from 1.
    pub groups: u64,
    /// How many shards each node has.
    pub shards: usize,
    /// All nodes.
    pub members: Vec<Member>,
}

impl Cluster {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When the file cannot be read, is no such TOML, or says what cannot work.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        let cluster: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), error: Box::new(error) })?;
        if cluster.id().is_none() {
            return Err(ConfigError::Invalid("`cluster` must be 32 hexadecimal digits, not all zero".into()));
        }
        check_cluster(cluster.groups, cluster.shards, &cluster.members)?;
        Ok(cluster)
    }

    /// The cluster's id as a number.
    pub(crate) fn id(&self) -> Option<u128> {
        cluster_id(&self.cluster)
    }
}

fn cluster_id(text: &str) -> Option<u128> {
    let hexadecimal = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|id| hexadecimal && *id != 0)
}

/// All that a node must know to start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The cluster's 128-bit id, as 32 hexadecimal digits: the same on all nodes, drawn once.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// This node's directory.
    pub dir: PathBuf,
    /// How many groups there are; they are numbered from 1, and the first members vote in each.
    #[serde(default = "defaults::groups")]
    pub groups: u64,
    /// How many shards (cores) this node uses; the same on all nodes. A start with another number than the directory has
    /// copies the node's logs first, and nodes of different numbers do not talk to each other.
    #[serde(default = "defaults::shards")]
    pub shards: usize,
    /// How many shards the cluster began with, if `shards` was changed since. A directory knows it; only a new one in a
    /// cluster that is there already must be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_shards: Option<usize>,
    /// How many voters choose a value in the `groups` at their beginning, at least 1; 0: a majority. To elect a leader it then
    /// takes all voters but one less than that. The same on all nodes, and fixed with the directory: the quorums of a group
    /// that is there are changed by [`MembershipChange::Quorum`](crate::MembershipChange::Quorum).
    #[serde(default)]
    pub phase_2: u16,
    /// The members that are *witnesses*: they vote, keep votes and no entries, never lead, and serve no reads. The same on all
    /// nodes, and fixed with the directory: a node becomes one, or is one no longer, as a new node or with a directory made to
    /// replace its own. Among the voters of a group they must be fewer than choose a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<NodeId>,
    /// When a vote counts as durable.
    #[serde(default)]
    pub sync: Sync,
    /// How the log reaches the disk.
    #[serde(default)]
    pub disk: DiskBackend,
    /// The node that should lead all groups; without it, leaders are spread evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_leader: Option<NodeId>,
    /// Log kept per shard for readers and lagging replicas, in MiB, although nobody needs it any more. State machines take
    /// checkpoints in time for it, so that the log stays near this.
    #[serde(default = "defaults::retain_mib")]
    pub retain_mib: u64,
    /// Log per shard, in MiB, at which new proposals are refused as overloaded.
    #[serde(default = "defaults::wal_mib_max")]
    pub wal_mib_max: u64,
    /// Size of a segment of the log, in MiB, from 4 on.
    #[serde(default = "defaults::segment_mib")]
    pub segment_mib: u64,
    /// Segments zeroed at the start, ahead of need, per shard. Two are kept ready in any case, also with 0 or 1 here.
    #[serde(default = "defaults::spare_segments")]
    pub spare_segments: usize,
    /// Memory per shard, in MiB, for recent batches.
    #[serde(default = "defaults::cache_mib")]
    pub cache_mib: usize,
    /// Memory per shard, in MiB, for the log's index: 40 bytes per slot. Beyond it, log that nobody needs goes before
    /// `retain_mib` is reached; at twice as much new proposals are refused as overloaded.
    #[serde(default = "defaults::index_mib")]
    pub index_mib: usize,
    /// Entries in one slot, from 1 to 65536: proposals that come while a group's log is busy share a slot up to there. They
    /// never wait for others to come. A batch that is proposed as one is not cut.
    #[serde(default = "defaults::batch_entries_max")]
    pub batch_entries_max: usize,
    /// How long a proposal may wait for its slot, in milliseconds, before it is refused as overloaded.
    #[serde(default = "defaults::queue_ms_max")]
    pub queue_ms_max: u64,
    /// Client sessions kept per group, at most 1024. When one more is opened, the least recently used one ends.
    #[serde(default = "defaults::sessions_max")]
    pub sessions_max: usize,
    /// A session that is not used for so long, in seconds, is ended by the leader: at the latest after twice that.
    #[serde(default = "defaults::session_idle_seconds")]
    pub session_idle_seconds: u64,
    /// By how many percent the clocks of two nodes may run apart. Reads by a leader's lease rest on it, and nothing else.
    #[serde(default = "defaults::clock_drift_percent")]
    pub clock_drift_percent: u64,
    /// A state machine's checkpoint is taken when so many entries were applied since the last; 0: never for that.
    #[serde(default = "defaults::checkpoint_entries")]
    pub checkpoint_entries: u64,
    /// A checkpoint is taken when so many MiB of entries were applied since the last; 0: never for that.
    #[serde(default = "defaults::checkpoint_mib")]
    pub checkpoint_mib: u64,
    /// A checkpoint is taken when the last is so many seconds old and something was applied since; 0: never for that.
    #[serde(default = "defaults::checkpoint_seconds")]
    pub checkpoint_seconds: u64,
    /// Entries kept in each group's log behind its newest checkpoint, while the log is below half of `wal_mib_max`.
    #[serde(default)]
    pub hold_entries: u64,
    /// How fast a shard fetches checkpoints from other nodes, in MiB per second.
    #[serde(default = "defaults::catch_up_mib_per_second")]
    pub catch_up_mib_per_second: u64,
    /// How fast a shard fetches committed entries that it lacks from other nodes' logs, in MiB per second, small ones more
    /// slowly; 0: as fast as they come. It holds while anything is committed that this could hold up, for groups that get on
    /// without this node's vote, and never for less than one and a half times what is committed in them meanwhile: else a
    /// node would never catch up.
    #[serde(default = "defaults::learn_mib_per_second")]
    pub learn_mib_per_second: u64,
    /// Pin each shard to a core of its own. By default when there are enough cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,
    /// Allow addresses other than loopback although nothing is encrypted.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Send heartbeats and their answers by UDP between nodes that both say so here, beside their TCP connections, so
    /// that they do not wait behind what is queued there. Each shard takes datagrams at a port that the system
    /// chooses, at this node's address. Where they do not get through, all goes by TCP. Not with a transport of one's
    /// own.
    #[serde(default)]
    pub udp_lane: bool,
    /// All nodes of the cluster, this one among them. The members that the cluster begins with vote in its groups; a node that
    /// is added here later, or introduced to the running nodes ([`Handle::introduce`](crate::Handle::introduce)), has no vote
    /// until it is given one. What stands here counts more than an introduction.
    pub members: Vec<Member>,
}

mod defaults {
    pub(super) fn groups() -> u64 {
        1
    }
    pub(super) fn shards() -> usize {
        1
    }
    pub(super) fn retain_mib() -> u64 {
        1024
    }
    pub(super) fn wal_mib_max() -> u64 {
        4096
    }
    pub(super) fn segment_mib() -> u64 {
        64
    }
    pub(super) fn spare_segments() -> usize {
        2
    }
    pub(super) fn cache_mib() -> usize {
        64
    }
    pub(super) fn index_mib() -> usize {
        128
    }
    pub(super) fn batch_entries_max() -> usize {
        crate::limits::BATCH_ENTRIES_MAX
    }
    pub(super) fn queue_ms_max() -> u64 {
        2000
    }
    pub(super) fn sessions_max() -> usize {
        crate::limits::SESSIONS_MAX
    }
    pub(super) fn session_idle_seconds() -> u64 {
        3600
    }
    pub(super) fn clock_drift_percent() -> u64 {
        10
    }
    pub(super) fn checkpoint_entries() -> u64 {
        1_000_000
    }
    pub(super) fn checkpoint_mib() -> u64 {
        256
    }
    pub(super) fn checkpoint_seconds() -> u64 {
        3600
    }
    pub(super) fn catch_up_mib_per_second() -> u64 {
        64
    }
    pub(super) fn learn_mib_per_second() -> u64 {
        16
    }
}

/// A configuration that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is no such TOML.
    #[error("{path}: {error}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// A value is out of its range, or two contradict each other.
    #[error("configuration: {0}")]
    Invalid(String),
}

impl Config {
    /// A configuration with all defaults.
    pub fn new(cluster: u128, node: NodeId, dir: impl Into<PathBuf>, members: Vec<Member>) -> Self {
        Self {
            cluster: format!("{cluster:032x}"),
            node,
            dir: dir.into(),
            groups: defaults::groups(),
            shards: defaults::shards(),
            first_shards: None,
            phase_2: 0,
            witnesses: Vec::new(),
            sync: Sync::default(),
            disk: DiskBackend::default(),
            preferred_leader: None,
            retain_mib: defaults::retain_mib(),
            wal_mib_max: defaults::wal_mib_max(),
            segment_mib: defaults::segment_mib(),
            spare_segments: defaults::spare_segments(),
            cache_mib: defaults::cache_mib(),
            index_mib: defaults::index_mib(),
            batch_entries_max: defaults::batch_entries_max(),
            queue_ms_max: defaults::queue_ms_max(),
            sessions_max: defaults::sessions_max(),
            session_idle_seconds: defaults::session_idle_seconds(),
            clock_drift_percent: defaults::clock_drift_percent(),
            checkpoint_entries: defaults::checkpoint_entries(),
            checkpoint_mib: defaults::checkpoint_mib(),
            checkpoint_seconds: defaults::checkpoint_seconds(),
            hold_entries: 0,
            catch_up_mib_per_second: defaults::catch_up_mib_per_second(),
            learn_mib_per_second: defaults::learn_mib_per_second(),
            pin: None,
            allow_plaintext: false,
            udp_lane: false,
            members,
        }
    }

    /// Reads and checks a file. A relative `dir` is relative to the file.
    ///
    /// # Errors
    /// When the file cannot be read, is no such TOML, or says what cannot work.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), error: Box::new(error) })?;
        if config.dir.is_relative()
            && let Some(parent) = path.parent()
        {
            config.dir = parent.join(&config.dir);
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first thing that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check(self.cluster_id().is_some(), "`cluster` must be 32 hexadecimal digits, not all zero")?;
        check_cluster(self.groups, self.shards, &self.members)?;
        let is_member = |node| self.members.iter().any(|m| m.node == node);
        check(
            usize::from(self.phase_2) <= self.members.len(),
            "`phase_2` must be at most the number of `members`, or 0 for a majority",
        )?;
        check(is_member(self.node), "`node` is not among the `members`")?;
        check(self.preferred_leader.is_none_or(is_member), "`preferred_leader` is not among the `members`")?;
        check(self.witnesses.iter().all(|node| is_member(*node)), "one of the `witnesses` is not among the `members`")?;
        check(
            self.preferred_leader.is_none_or(|node| !self.is_witness(node)),
            "`preferred_leader` is a witness, which never leads",
        )?;
        check(
            self.members.iter().any(|member| !self.is_witness(member.node)),
            "all `members` are `witnesses`: somebody must keep the entries",
        )?;
        check(
            self.first_shards.is_none_or(|first| (1..=SHARDS_MAX).contains(&first)),
            "`first_shards` must be between 1 and 1024",
        )?;
        check(self.cache_mib >= 1 && self.cache_mib <= 1 << 20, "`cache_mib` must be between 1 and 1048576")?;
        check((4..=1024).contains(&self.segment_mib), "`segment_mib` must be between 4 and 1024")?;
        check(self.index_mib >= 1 && self.index_mib <= 1 << 20, "`index_mib` must be between 1 and 1048576")?;
        check(self.retain_mib >= self.segment_mib, "`retain_mib` must be at least `segment_mib`")?;
        check(
            self.wal_mib_max >= self.retain_mib + 4 * self.segment_mib,
            "`wal_mib_max` must be at least `retain_mib` and four segments, or the log could never be trimmed in time",
        )?;
        check(
            (1..=BATCH_ENTRIES_MAX).contains(&self.batch_entries_max),
            "`batch_entries_max` must be between 1 and 65536",
        )?;
        check(
            (1..=QUEUE_MS_MAX).contains(&self.queue_ms_max),
            "`queue_ms_max` must be between 1 and 3600000, an hour",
        )?;
        check((1..=SESSIONS_MAX).contains(&self.sessions_max), "`sessions_max` must be between 1 and 1024")?;
        check(
            (1..=SESSION_IDLE_SECONDS_MAX).contains(&self.session_idle_seconds),
            "`session_idle_seconds` must be between 1 and 31536000, a year",
        )?;
        check((1..=50).contains(&self.clock_drift_percent), "`clock_drift_percent` must be between 1 and 50")?;
        check(
            (1..=1 << 20).contains(&self.catch_up_mib_per_second),
            "`catch_up_mib_per_second` must be between 1 and 1048576",
        )?;
        check(self.learn_mib_per_second <= 1 << 20, "`learn_mib_per_second` must be at most 1048576; 0: no limit")?;
        check(self.spare_segments <= 1024, "`spare_segments` must be at most 1024")?;
        check(
            self.members.iter().all(|m| self.allows(m.address)),
            "nothing is encrypted yet: set `allow_plaintext = true` to use addresses other than loopback",
        )
    }

    /// Checks who votes at the beginning: witnesses must never be enough to choose a value.
    ///
    /// # Errors
    /// When they could.
    pub(crate) fn check_founders(&self, founding: &[NodeId]) -> Result<(), ConfigError> {
        let witnesses = founding.iter().filter(|node| self.is_witness(**node)).count();
        let enough = usize::from(self.phase_2) <= founding.len();
        let chosen_by = if enough { Quorums::of(founding.len(), self.phase_2).phase_2 } else { 0 };
        if founding.is_empty() || witnesses < chosen_by {
            return Ok(());
        }
        Err(ConfigError::Invalid(format!(
            "{chosen_by} of the {} voters choose a value, and {witnesses} of them are `witnesses`, which keep no entries: \
             what they alone have chosen would be nowhere. Take fewer of them, or a larger `phase_2`",
            founding.len()
        )))
    }

    /// Whether a node may be at an address although nothing is encrypted.
    pub(crate) fn allows(&self, address: SocketAddr) -> bool {
        self.allow_plaintext || address.ip().is_loopback()
    }

    /// Whether a node is a witness.
    pub(crate) fn is_witness(&self, node: NodeId) -> bool {
        self.witnesses.contains(&node)
    }

    /// What clients of this cluster must know.
    pub fn cluster(&self) -> Cluster {
        Cluster {
            cluster: self.cluster.clone(),
            groups: self.groups,
            shards: self.shards,
            members: self.members.clone(),
        }
    }

    /// The cluster's id.
    pub(crate) fn cluster_id(&self) -> Option<u128> {
        cluster_id(&self.cluster)
    }

    /// Where this node listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.members.iter().find(|m| m.node == self.node).expect("validated").address
    }

    /// The nodes, in order.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.members.iter().map(|m| m.node).collect();
        nodes.sort_unstable();
        nodes
    }

    /// Whether this node should lead a group, if it can.
    pub(crate) fn prefers(&self, group: GroupId) -> bool {
        self.preferred(group) == self.node
    }

    /// The node that should lead a group, if it can: the same on all nodes.
    pub(crate) fn preferred(&self, group: GroupId) -> NodeId {
        self.preferred_leader.unwrap_or_else(|| {
            let mut nodes = self.nodes();
            nodes.retain(|node| !self.is_witness(*node));
            nodes[(group % nodes.len() as u64) as usize]
        })
    }

    /// A group's uid: made of the cluster's id, so the same everywhere and nowhere else.
    pub(crate) fn group_uid(&self, group: GroupId) -> u128 {
        self.uid_of(u128::from(group))
    }

    /// How many shards the cluster began with, as far as this says.
    pub(crate) fn first_shards(&self) -> usize {
        self.first_shards.unwrap_or(self.shards)
    }

    /// Which group is on which shard.
    pub(crate) fn homes(&self) -> Homes {
        Homes { groups: self.groups, first_shards: self.first_shards() as u64, shards: self.shards as u64 }
    }

    /// The uid of a directory.
    pub(crate) fn directory_uid(&self, directory: u64) -> u128 {
        self.uid_of(u128::from(u64::MAX - directory))
    }

    /// The uid of the group that the order in a slot of a directory has made. No slot is used twice.
    pub(crate) fn made_uid(&self, directory: u64, slot: u64) -> u128 {
        self.uid_of(u128::from(slot) << 64 | u128::from(directory))
    }

    /// The uid of a group: of the one that the order in slot `made` of its directory has made, or, if that is 0, of the one
    /// that was always there, or of a directory.
    pub(crate) fn uid_of_group(&self, group: GroupId, made: Slot) -> u128 {
        let slot = if is(Bug::UidsAreUsedAgain) { group } else { made.0 };
        match directory_number(group) {
            Some(number) => self.directory_uid(number),
            None if made == Slot::ZERO => self.group_uid(group),
            None => self.made_uid(self.homes().directory(group), slot),
        }
    }

    /// Whether a uid is one of [`Config::made_uid`].
    pub(crate) fn is_made_uid(&self, uid: u128) -> bool {
        self.name_in(uid) >> 64 != 0
    }

    /// The directory whose order has made the group with this uid, or that itself has it.
    #[cfg(feature = "simulation")]
    pub(crate) fn directory_of(&self, uid: u128) -> u64 {
        let name = self.name_in(uid);
        if name >> 64 == 0 { u64::MAX - name as u64 } else { name as u64 }
    }

    /// The name that a uid is made of.
    fn name_in(&self, uid: u128) -> u128 {
        let cluster = self.cluster_id().expect("validated");
        // Each step doubles the bits that are right, from three on.
        let gather =
            (0..6).fold(SCATTER, |inverse, _| inverse.wrapping_mul(2u128.wrapping_sub(SCATTER.wrapping_mul(inverse))));
        (uid ^ cluster.rotate_left(64)).wrapping_mul(gather)
    }

    /// Each name of a cluster's group has a uid of its own.
    fn uid_of(&self, name: u128) -> u128 {
        let cluster = self.cluster_id().expect("validated");
        cluster.rotate_left(64) ^ SCATTER.wrapping_mul(name)
    }
}

/// An odd factor keeps uids of one cluster apart and scatters those of different clusters.
const SCATTER: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// Checks what a node's file and a cluster file have in common.
fn check_cluster(groups: u64, shards: usize, members: &[Member]) -> Result<(), ConfigError> {
    check(!members.is_empty(), "`members` is empty")?;
    check(members.len() <= synod_core::replica::VOTERS_MAX, "there are more than 15 `members`")?;
    check(members.iter().all(|m| m.node > 0), "a member's `node` must not be 0")?;
    let mut nodes: Vec<_> = members.iter().map(|m| m.node).collect();
    nodes.sort_unstable();
    check(nodes.windows(2).all(|w| w[0] != w[1]), "two members have the same `node`")?;
    let mut addresses: Vec<_> = members.iter().map(|m| m.address).collect();
    addresses.sort_unstable();
    check(addresses.windows(2).all(|w| w[0] != w[1]), "two members have the same `address`")?;
    check((1..=1 << 20).contains(&groups), "`groups` must be between 1 and 1048576")?;
    check((1..=SHARDS_MAX).contains(&shards), "`shards` must be between 1 and 1024")?;
    check(groups >= shards as u64, "there are fewer `groups` than `shards`")
}

fn check(holds: bool, text: &str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Invalid(text.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let member = |node: u64| Member { node, address: format!("127.0.0.1:{}", 7000 + node).parse().unwrap() };
        Config::new(7, 1, "data", vec![member(1), member(2), member(3)])
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let check = |change: fn(&mut Config), word: &str| {
            let mut config = config();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(word), "{error} should name {word}");
        };
        config().validate().unwrap();
        check(|c| c.cluster = "12".into(), "cluster");
        check(|c| c.members.clear(), "members");
        check(|c| c.members[1].node = 1, "same `node`");
        check(|c| c.members[1].address = c.members[0].address, "same `address`");
        check(|c| c.node = 9, "node");
        check(|c| c.groups = 0, "groups");
        check(|c| c.shards = 2, "shards");
        check(|c| c.first_shards = Some(0), "first_shards");
        check(|c| c.phase_2 = 4, "phase_2");
        check(|c| c.segment_mib = 2, "segment_mib");
        check(|c| c.retain_mib = 1, "retain_mib");
        check(|c| c.wal_mib_max = 1024, "wal_mib_max");
        check(|c| c.sessions_max = 1025, "sessions_max");
        check(|c| c.session_idle_seconds = 0, "session_idle_seconds");
        check(|c| c.preferred_leader = Some(8), "preferred_leader");
        check(|c| c.witnesses = vec![9], "witnesses");
        check(|c| c.witnesses = vec![1, 2, 3], "witnesses");
        check(|c| (c.preferred_leader, c.witnesses) = (Some(3), vec![3]), "preferred_leader");
        check(|c| c.clock_drift_percent = 80, "clock_drift_percent");
        check(|c| c.members[0].address = "10.0.0.1:1".parse().unwrap(), "allow_plaintext");
    }

    #[test]
    fn witnesses_that_could_choose_alone_are_refused() {
        let founders = |witnesses: &[u64], phase_2| {
            let config = Config { witnesses: witnesses.to_vec(), phase_2, ..config() };
            config.validate().unwrap();
            config.check_founders(&[1, 2, 3]).map_err(|error| error.to_string())
        };
        assert_eq!(founders(&[3], 0), Ok(()));
        assert_eq!(founders(&[2, 3], 3), Ok(()));
        for (witnesses, phase_2) in [(&[2, 3][..], 0), (&[3], 1), (&[2, 3], 2)] {
            assert!(founders(witnesses, phase_2).unwrap_err().contains("keep no entries"));
        }
        let config = Config { witnesses: vec![3], ..config() };
        assert!((1..9).all(|group| config.preferred(group) != 3), "a witness never leads");
    }

    #[test]
    fn a_file_comes_back_and_unknown_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        let text = toml::to_string(&config()).unwrap();
        std::fs::write(&path, &text).unwrap();
        let read = Config::read(&path).unwrap();
        assert_eq!(read.dir, dir.path().join("data"));
        std::fs::write(&path, format!("colour = 3\n{text}")).unwrap();
        assert!(Config::read(&path).unwrap_err().to_string().contains("colour"));
    }

    #[test]
    fn uids_differ_by_group_and_cluster() {
        let one = config();
        let two = Config { cluster: format!("{:032x}", 8), ..config() };
        assert_ne!(one.group_uid(1), one.group_uid(2));
        assert_ne!(one.group_uid(1), two.group_uid(1));
        let made = [one.made_uid(0, 1), one.made_uid(1, 1), one.made_uid(0, 2), one.made_uid(1023, 1 << 62)];
        let others = [one.group_uid(1), one.group_uid(1 << 20), one.directory_uid(0), one.directory_uid(1023)];
        assert!(made.iter().all(|uid| one.is_made_uid(*uid)) && !others.iter().any(|uid| one.is_made_uid(*uid)));
        let all: std::collections::HashSet<u128> = made.into_iter().chain(others).collect();
        assert_eq!(all.len(), 8);
    }
}
