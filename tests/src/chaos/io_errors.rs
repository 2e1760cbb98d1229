//! A sync that fails, or takes very long: injected by strace into a node that uses blocking system calls on its disk.

use std::time::Duration;

use super::Trouble;
use super::cluster::{Ground, Way};
use super::process::tail;
use super::world::{World, millis, some_node};
use crate::disk::Dice;

/// Entries that must be acknowledged between two faults.
const ENTRIES_BETWEEN: u64 = 300;
/// A sync of a slow disk waits so long.
const SLOW: Duration = Duration::from_millis(1500);

/// Loopback, if strace may trace here.
pub(super) fn ground(configs: Vec<synod::Config>) -> Result<Ground, String> {
    let probe = std::process::Command::new("strace").args(["-f", "-qq", "-e", "trace=fdatasync", "true"]).output();
    match probe {
        Ok(output) if output.status.success() => Ok(Ground::plain(configs)),
        Ok(output) => Err(format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("strace is missing ({error}): install the package strace")),
    }
}

/// One sync of a node fails; it must stop and say so, and come back when it is started again.
pub(super) fn run_errors(world: &mut World, dice: &mut Dice, seconds: u64) -> Result<(), Trouble> {
    let rounds = (seconds / 4).max(2);
    world.plan(rounds, Duration::from_secs(seconds));
    while world.faults.done < rounds && world.has_time() {
        let node = victim(world, dice);
        let when = 1 + dice.below(300);
        restart(world, node, &format!("inject=fdatasync:error=EIO:when={when}"))?;
        let mut ended = None;
        world.wait_for(&format!("node {node} to stop at its failed sync"), |world| {
            ended = world.nodes.take_ended(node);
            Ok(ended.is_some())
        })?;
        let (status, log) = (ended.expect("it was waited for"), tail(&world.nodes.log(node)));
        if status.success() || !log.contains("cannot go on") {
            return Err(Trouble::Died { node, status: format!("{status}, without a reason"), tail: log });
        }
        world.faults.happened("a sync that fails", 1);
        world.await_progress("commits without the node whose disk failed", 0)?;
        world.start_node(node)?;
        world.await_nodes()?;
        world.await_progress("commits after a disk error", ENTRIES_BETWEEN)?;
    }
    Ok(())
}

/// Now and then a sync takes very long: others lead meanwhile, and commits go on.
pub(super) fn run_slow(world: &mut World, dice: &mut Dice, seconds: u64) -> Result<(), Trouble> {
    let rounds = (seconds / 5).max(2);
    world.plan(rounds, Duration::from_secs(seconds));
    while world.faults.done < rounds && world.has_time() {
        let node = victim(world, dice);
        let delay_us = SLOW.as_micros();
        restart(world, node, &format!("inject=fdatasync:delay_enter={delay_us}:when=20+40"))?;
        world.await_nodes()?;
        for _ in 0..3 {
            world.sleep(millis(dice, 200..1200))?;
            world.await_progress("commits while a disk is slow", 0)?;
        }
        world.nodes.kill(node);
        world.start_node(node)?;
        world.faults.happened("a slow disk", 1);
        world.await_progress("commits after a slow disk", ENTRIES_BETWEEN)?;
    }
    Ok(())
}

/// A leader as a rule: its disk matters most.
fn victim(world: &mut World, dice: &mut Dice) -> u64 {
    if dice.below(4) == 0 { some_node(dice) } else { world.some_leader(dice) }
}

/// Kills a node and starts it again with something injected into its system calls.
fn restart(world: &mut World, node: u64, inject: &str) -> Result<(), Trouble> {
    world.nodes.kill(node);
    let words = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", inject];
    let tracer = words.map(String::from).to_vec();
    world.nodes.start(node, &Way { tracer, blocking: true })
}
