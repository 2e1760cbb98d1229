//! Who is let in: a pure function of the hello and of what the listener knows.
//!
//! Invariants:
//! - A peer passes only with the cluster, the node and the directory that are expected: an empty directory, a directory put
//!   back from a backup and a second process with the same id all fail.
//! - Each refusal says what to do.

use super::{Hello, HelloStatus, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Role};

/// Who the listener is.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Its cluster.
    pub cluster: u128,
    /// Its node id.
    pub node: u64,
    /// The incarnation of its directory.
    pub incarnation: u128,
    /// Its boot count.
    pub boot: u64,
    /// How many shards it has.
    pub shard_count: u32,
    /// The node ids of the cluster, its own too or not.
    pub members: &'a [u64],
}

/// What the listener remembers of a peer from earlier connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownPeer {
    /// The incarnation of its directory.
    pub incarnation: u128,
    /// The highest boot count seen of it.
    pub boot: u64,
}

/// Why a hello is refused; goes into the reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs. Never [`HelloStatus::Ok`].
    pub status: HelloStatus,
    /// For people: why, and what to do.
    pub text: String,
}

/// Judges a hello.
///
/// A client must speak our version and name our cluster or 0. A peer must besides be a member, mean this node, and come
/// from the directory that `known` remembers, with a boot count that did not go back.
///
/// # Errors
/// The first reason to refuse it.
pub fn judge(hello: &Hello, me: &Identity<'_>, known: Option<&KnownPeer>) -> Result<(), Refusal> {
    judge_version(hello)?;
    let cluster_matches = hello.cluster == me.cluster || (hello.role == Role::Client && hello.cluster == 0);
    refuse_unless(cluster_matches, HelloStatus::ForeignCluster, || {
        format!(
            "this is node {} of cluster {:032x}, you belong to cluster {:032x}: check the address and the cluster id",
            me.node, me.cluster, hello.cluster
        )
    })?;
    match hello.role {
        Role::Client if hello.target_node == 0 => Ok(()),
        Role::Client => judge_target(hello, me),
        Role::Peer => judge_peer(hello, me, known),
    }
}

fn judge_version(hello: &Hello) -> Result<(), Refusal> {
    let (min, max) = (hello.version_min, hello.version_max);
    let ours = format!("this node speaks {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION_MAX}");
    refuse_unless(min <= PROTOCOL_VERSION_MAX, HelloStatus::NewerVersion, || {
        format!("you speak protocol versions {min} to {max}, {ours}: upgrade this node first")
    })?;
    refuse_unless(PROTOCOL_VERSION_MIN <= max, HelloStatus::OlderVersion, || {
        format!("you speak protocol versions {min} to {max}, {ours}: upgrade yourself")
    })
}

fn judge_target(hello: &Hello, me: &Identity<'_>) -> Result<(), Refusal> {
    refuse_unless(hello.target_node == me.node, HelloStatus::WrongNode, || {
        format!("this is node {}, you mean node {}: correct the address of that node", me.node, hello.target_node)
    })
}

fn judge_peer(hello: &Hello, me: &Identity<'_>, known: Option<&KnownPeer>) -> Result<(), Refusal> {
    judge_target(hello, me)?;
    refuse_unless(hello.node != me.node, HelloStatus::Duplicate, || {
        format!("you say that you are node {}, and so am I: stop one of the two, or give it another id", me.node)
    })?;
    refuse_unless(me.members.contains(&hello.node), HelloStatus::UnknownNode, || {
        format!("node {} is no member of this cluster: add it before it is started", hello.node)
    })?;
    let means_this_directory = hello.target_incarnation == 0 || hello.target_incarnation == me.incarnation;
    refuse_unless(means_this_directory, HelloStatus::OtherIncarnation, || {
        format!(
            "node {} has directory {:032x} now, you know it with {:032x}: if its data is lost, run `member replace` for node {}",
            me.node, me.incarnation, hello.target_incarnation, me.node
        )
    })?;
    if let Some(known) = known {
        judge_known(hello, known)?;
    }
    refuse_unless(hello.shard_count == me.shard_count, HelloStatus::ShardCountDiffers, || {
        format!(
            "you have {} shards, node {} has {}: start all nodes with the same number",
            hello.shard_count, me.node, me.shard_count
        )
    })
}

fn judge_known(hello: &Hello, known: &KnownPeer) -> Result<(), Refusal> {
    refuse_unless(hello.incarnation == known.incarnation, HelloStatus::OtherIncarnation, || {
        format!(
            "node {} is known with directory {:032x} and comes with {:032x}, which holds none of its votes: put the old \
             directory back, or run `member replace` for node {}",
            hello.node, known.incarnation, hello.incarnation, hello.node
        )
    })?;
    refuse_unless(known.boot <= hello.boot, HelloStatus::StaleBoot, || {
        format!(
            "node {} was seen at boot {} and comes with boot {}: its directory is an old copy that has forgotten votes; \
             put the newest back, or run `member replace` for node {}",
            hello.node, known.boot, hello.boot, hello.node
        )
    })
}

fn refuse_unless(holds: bool, status: HelloStatus, text: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal { status, text: text() }) }
}

#[cfg(test)]
mod tests;
