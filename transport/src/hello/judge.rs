//! Who is let in: a pure function of what a node says of itself and of what the other end knows.
//!
//! Invariants:
//! - A peer passes only with the cluster, the node and the directory that are expected: an empty directory, a directory put
//!   back from a backup and a second process with the same id all fail. A new directory passes only if it says that it was
//!   made as a replacement, and the one it replaced never again.
//! - Both ends judge by the same rules: the listener the hello, the dialer the answer.
//! - Each refusal says what to do.

use super::{Hello, HelloReply, HelloStatus, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Role};

/// Who judges.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Its cluster.
    pub cluster: u128,
    /// Its node id.
    pub node: u64,
    /// The incarnation of its directory.
    pub incarnation: u128,
    /// Its directory was made to replace a lost one.
    pub replacement: bool,
    /// Names the list of nodes that its cluster began with, as in [`Hello::founding`].
    pub founding: u32,
    /// How many shards it has.
    pub shard_count: u32,
    /// How many shards the cluster began with.
    pub first_shards: u32,
    /// How many voters choose a value in its groups at the beginning, 0 for a majority.
    pub phase_2: u16,
    /// The node ids of the cluster, its own too or not.
    pub members: &'a [u64],
}

/// What a node remembers of a peer, for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownPeer {
    /// The incarnation of its directory.
    pub incarnation: u128,
    /// The highest boot count seen of it.
    pub boot: u64,
    /// The incarnations that this one replaced.
    pub retired: Vec<u128>,
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
/// from the directory that `known` remembers, with a boot count that did not go back, or from one made to replace it.
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
        format!(
            "node {} does not know a node {}: introduce it (`synod member introduce`), or add it to the `members` of node {0}'s \
             configuration",
            me.node, hello.node
        )
    })?;
    // Who dials a replacement still knows the directory that was lost.
    let means_this_directory =
        me.replacement || hello.target_incarnation == 0 || hello.target_incarnation == me.incarnation;
    refuse_unless(means_this_directory, HelloStatus::OtherIncarnation, || {
        format!(
            "this is directory {:032x} of node {}, you know it with {:032x}: if that one replaced this one, stop this one for \
             good; else put that one back, or, if it is lost for good, run `synod init --replace` in an empty directory",
            me.incarnation, me.node, hello.target_incarnation
        )
    })?;
    let said = Said { node: hello.node, incarnation: hello.incarnation, boot: hello.boot, new: hello.replacement };
    judge_known(&said, known)?;
    judge_founding(me.founding, hello.node, hello.founding)?;
    refuse_unless(hello.shard_count == me.shard_count, HelloStatus::ShardCountDiffers, || {
        format!(
            "you have {} shards, node {} has {}: start all nodes with the same number",
            hello.shard_count, me.node, me.shard_count
        )
    })?;
    refuse_unless(hello.phase_2 == me.phase_2, HelloStatus::QuorumDiffers, || {
        format!(
            "your groups begin with `phase_2 = {}`, those of node {} with {}: make all directories with the same value",
            hello.phase_2, me.node, me.phase_2
        )
    })?;
    refuse_unless(hello.first_shards == me.first_shards, HelloStatus::FirstShardsDiffer, || {
        format!(
            "you say that the cluster began with {} shards, node {} says with {}: make your directory anew with the right \
             `first_shards`",
            hello.first_shards, me.node, me.first_shards
        )
    })
}

/// Judges what the listener at `target_node` answered, by the rules that it judges the dialer by.
///
/// # Errors
/// The first reason not to use the connection.
pub fn judge_answer(
    answer: &HelloReply,
    target_node: u64,
    founding: u32,
    known: Option<&KnownPeer>,
) -> Result<(), Refusal> {
    refuse_unless(answer.node == target_node, HelloStatus::WrongNode, || {
        format!("node {} answers at the address of node {target_node}: correct that address", answer.node)
    })?;
    let said = Said { node: answer.node, incarnation: answer.incarnation, boot: answer.boot, new: answer.replacement };
    judge_known(&said, known)?;
    judge_founding(founding, answer.node, answer.founding)
}

/// Two nodes that a cluster began with must agree on all of these: each counts votes by its own list.
fn judge_founding(mine: u32, node: u64, theirs: u32) -> Result<(), Refusal> {
    refuse_unless(mine == theirs || mine == 0 || theirs == 0, HelloStatus::OtherFounders, || {
        format!(
            "node {node} was made with other `members` than the node that it meets: a cluster's first nodes are made with the \
             same ones; make one that joins later with `synod init --join`, in an empty directory"
        )
    })
}

/// What a peer says of its directory.
struct Said {
    node: u64,
    incarnation: u128,
    boot: u64,
    /// Made to replace a lost one.
    new: bool,
}

fn judge_known(said: &Said, known: Option<&KnownPeer>) -> Result<(), Refusal> {
    let Some(known) = known else { return Ok(()) };
    let Said { node, incarnation, boot, new } = *said;
    refuse_unless(!known.retired.contains(&incarnation), HelloStatus::Replaced, || {
        format!(
            "directory {incarnation:032x} of node {node} was replaced by {:032x}: stop it and never start it again",
            known.incarnation
        )
    })?;
    refuse_unless(new || incarnation == known.incarnation, HelloStatus::OtherIncarnation, || {
        format!(
            "node {node} is known with directory {:032x} and has {incarnation:032x} now, which holds none of its votes: put \
             the old directory back, or, if it is lost for good, run `synod init --replace` in an empty one",
            known.incarnation
        )
    })?;
    refuse_unless(incarnation != known.incarnation || known.boot <= boot, HelloStatus::StaleBoot, || {
        format!(
            "node {node} was seen at boot {} and comes with boot {boot}: its directory is an old copy that has forgotten \
             votes; put the newest back, or, if that is lost for good, run `synod init --replace` in an empty one",
            known.boot
        )
    })
}

fn refuse_unless(holds: bool, status: HelloStatus, text: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal { status, text: text() }) }
}

#[cfg(test)]
mod tests;
