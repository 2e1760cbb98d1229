//! Packets are dropped between nodes, each in a network namespace of its own: both ways or one way, around a leader or
//! any node, between two of three, and by chance. Clients reach all nodes all the while.

use std::time::Duration;

use synod::{Config, Member, NodeId};

use super::cluster::Ground;
use super::netns::Namespaces;
use super::room::lacks_root;
use super::world::{World, millis, some_node};
use super::{NODES, Trouble};
use crate::disk::Dice;

/// Entries that must be acknowledged between two partitions.
const ENTRIES_BETWEEN: u64 = 300;
/// Of all packets so many in a hundred are lost.
const LOSS_PERCENT: u64 = 30;

/// The kinds of partitions, and whether a quorum can talk meanwhile.
const KINDS: [(&str, bool); 8] = [
    ("a leader cut off", true),
    ("any node cut off", true),
    ("a leader that hears nobody", true),
    ("a leader that nobody hears", true),
    ("two that do not hear each other", true),
    ("one that does not hear another", true),
    ("all cut off", false),
    ("30 % of all packets lost", false),
];

/// Namespaces, if they can be made here.
pub(super) fn ground(mut configs: Vec<Config>) -> Result<Result<Ground, String>, Trouble> {
    if let Some(why) = lacks_root() {
        return Ok(Err(format!("{why}: network namespaces")));
    }
    let namespaces = match Namespaces::make() {
        Ok(namespaces) => namespaces,
        Err(Trouble::Tool { command, text }) => {
            return Ok(Err(format!("`{command}` says: {text} (needs the packages iproute2 and nftables)")));
        }
        Err(trouble) => return Err(trouble),
    };
    if let Err(trouble) = namespaces.drop_at(1, &[format!("numgen random mod 100 < {LOSS_PERCENT}")]) {
        return Ok(Err(format!("{trouble} (needs the package nftables)")));
    }
    namespaces.drop_at(1, &[])?;
    let members: Vec<Member> = (1..=NODES).map(|node| Member { node, address: Namespaces::address(node) }).collect();
    for config in &mut configs {
        config.members.clone_from(&members);
        config.allow_plaintext = true;
    }
    Ok(Ok(Ground { namespaces: Some(namespaces), ..Ground::plain(configs) }))
}

/// Partitions the cluster for about so long altogether, each kind at least once.
pub(super) fn run(world: &mut World, dice: &mut Dice, seconds: u64) -> Result<(), Trouble> {
    let time = Duration::from_secs(seconds);
    let (mut total, mut lengths) = (Duration::ZERO, Vec::new());
    while total < time || lengths.len() < KINDS.len() {
        let length = millis(dice, 200..2000);
        total += length + Duration::from_millis(700);
        lengths.push(length);
    }
    world.plan(lengths.len() as u64, time);
    for (at, length) in lengths.into_iter().enumerate() {
        if !world.has_time() {
            break;
        }
        let (kind, goes_on) = KINDS[at % KINDS.len()];
        let unheard = draw(world, dice, kind);
        apply(world, &unheard)?;
        world.sleep(length)?;
        if goes_on {
            world.await_progress(&format!("commits by the others: {kind}"), 0)?;
        }
        // Rules that met no packet have parted nobody: a link may be down from the last partition.
        world.wait_for("a packet to be dropped", |world| {
            let dropped = (1..=NODES).map(|node| namespaces(world).dropped_at(node));
            Ok(0 < dropped.sum::<Result<u64, Trouble>>()?)
        })?;
        apply(world, &Unheard::default())?;
        world.faults.happened(kind, 1);
        world.await_progress(&format!("commits after a partition: {kind}"), ENTRIES_BETWEEN)?;
    }
    Ok(())
}

/// Who does not hear whom.
#[derive(Default)]
struct Unheard {
    /// (who, whom)
    pairs: Vec<(NodeId, NodeId)>,
    /// Everyone loses some packets.
    loss: bool,
}

fn draw(world: &mut World, dice: &mut Dice, kind: &str) -> Unheard {
    let leads = kind.contains("leader");
    let one = if leads { world.some_leader(dice) } else { some_node(dice) };
    let others: Vec<NodeId> = (1..=NODES).filter(|node| *node != one).collect();
    let other = others[dice.below(others.len())];
    let hears_none = |one: NodeId| (1..=NODES).filter(move |other| *other != one).map(move |other| (one, other));
    let unheard = others.iter().map(|other| (*other, one));
    let pairs = match kind {
        "a leader cut off" | "any node cut off" => hears_none(one).chain(unheard).collect(),
        "a leader that hears nobody" => hears_none(one).collect(),
        "a leader that nobody hears" => unheard.collect(),
        "two that do not hear each other" => vec![(one, other), (other, one)],
        "one that does not hear another" => vec![(one, other)],
        "all cut off" => (1..=NODES).flat_map(hears_none).collect(),
        _ => Vec::new(),
    };
    Unheard { loss: pairs.is_empty(), pairs }
}

fn apply(world: &World, unheard: &Unheard) -> Result<(), Trouble> {
    for node in 1..=NODES {
        let of = |pair: &&(NodeId, NodeId)| pair.0 == node;
        let from = |pair: &(NodeId, NodeId)| format!("ip saddr {}", Namespaces::address(pair.1).ip());
        let mut rules: Vec<String> = unheard.pairs.iter().filter(of).map(from).collect();
        if unheard.loss {
            rules.push(format!("numgen random mod 100 < {LOSS_PERCENT}"));
        }
        namespaces(world).drop_at(node, &rules)?;
    }
    Ok(())
}

fn namespaces(world: &World) -> &Namespaces {
    world.ground.namespaces.as_ref().expect("the ground of this plan has them")
}
