//! Bytes between nodes go through a relay that delays, loses, doubles and changes them. Clients reach all nodes directly.

use std::time::Duration;

use synod::Config;

use super::Trouble;
use super::cluster::Ground;
use super::proxy::{Fault, Proxies};
use super::world::{World, millis};
use crate::disk::Dice;

/// Entries that must be acknowledged between two faults.
const ENTRIES_BETWEEN: u64 = 300;

const KINDS: [(&str, Fault); 7] = [
    ("late bytes", Fault::Delay(Duration::from_millis(40))),
    ("connections that end", Fault::Cut),
    ("connections that are reset", Fault::Reset),
    ("bytes that go nowhere", Fault::Swallow),
    ("changed bits", Fault::Corrupt),
    ("doubled pieces", Fault::Double),
    ("a slow link", Fault::Slow),
];

/// Loopback, with a relay between any two nodes.
pub(super) fn ground(mut configs: Vec<Config>, seed: u64) -> Result<Ground, Trouble> {
    let members = configs[0].members.clone();
    // Of two nodes the one with the higher number dials.
    let links: Vec<(usize, usize)> = (0..configs.len()).flat_map(|from| (0..from).map(move |to| (from, to))).collect();
    let targets: Vec<_> = links.iter().map(|(_, to)| members[*to].address).collect();
    let proxies = Proxies::start(&targets, seed)?;
    for (link, (from, to)) in links.into_iter().enumerate() {
        configs[from].members[to].address = proxies.address(link);
    }
    Ok(Ground { members, proxies: Some(proxies), ..Ground::plain(configs) })
}

/// Disturbs links for about so long altogether: each kind on one link, while the others go on, then on all.
pub(super) fn run(world: &mut World, dice: &mut Dice, seconds: u64) -> Result<(), Trouble> {
    let time = Duration::from_secs(seconds);
    let (mut total, mut lengths) = (Duration::ZERO, Vec::new());
    while total < time || lengths.len() < KINDS.len() {
        let length = millis(dice, 100..1500);
        total += length + Duration::from_millis(500);
        lengths.push(length);
    }
    world.plan(lengths.len() as u64, time);
    for (at, length) in lengths.into_iter().enumerate() {
        if !world.has_time() {
            break;
        }
        let (kind, fault) = KINDS[at % KINDS.len()];
        let links = proxies(world).len();
        let all = dice.below(3) == 0;
        let touched: Vec<usize> = if all { (0..links).collect() } else { vec![dice.below(links)] };
        let before = proxies(world).touched();
        touched.iter().for_each(|link| proxies(world).set(*link, fault));
        world.sleep(length)?;
        if !all {
            world.await_progress(&format!("commits over the other links: {kind}"), 0)?;
        }
        // A link over which nothing went was not disturbed: it may be down from the last disturbance.
        world.wait_for("bytes to disturb", |world| Ok(before < proxies(world).touched()))?;
        touched.iter().for_each(|link| proxies(world).set(*link, Fault::None));
        world.faults.happened(kind, 1);
        world.await_progress(&format!("commits after: {kind}"), ENTRIES_BETWEEN)?;
    }
    Ok(())
}

fn proxies(world: &World) -> &Proxies {
    world.ground.proxies.as_ref().expect("the ground of this plan has them")
}
