//! A sync that fails, or takes very long: strace joins a node that leads and interferes with its system calls. The nodes
//! of these plans use blocking ones on their disks, since what goes through io_uring cannot be traced.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use synod::{Config, DiskBackend};

use super::cluster::Ground;
use super::process::tail;
use super::world::{World, millis, some_node};
use super::{GROUPS, Trouble};
use crate::disk::Dice;

/// Entries that must be acknowledged between two faults.
const ENTRIES_BETWEEN: u64 = 300;
/// A sync of a slow disk waits so long.
const SLOW: Duration = Duration::from_millis(1500);

/// A process that interferes with the system calls of another, until it is dropped.
struct Tracer {
    process: Child,
    /// What it saw.
    trace: PathBuf,
}

impl Tracer {
    fn join(pid: u32, inject: &str, trace: &Path) -> std::io::Result<Self> {
        let process = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fdatasync", "-e", inject, "-p", &pid.to_string(), "-o"])
            .arg(trace)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, trace: trace.to_owned() })
    }

    /// Whether it has interfered.
    fn has_acted(&self) -> bool {
        let trace = std::fs::read(&self.trace).unwrap_or_default();
        let trace = String::from_utf8_lossy(&trace);
        trace.contains("(INJECTED)") || trace.contains("(DELAYED)")
    }
}

impl Drop for Tracer {
    // SIGTERM has it leave what it traces in order.
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

/// Loopback, if strace may join other processes here.
pub(super) fn ground(mut configs: Vec<Config>) -> Result<Ground, String> {
    let probe = || -> std::io::Result<std::process::Output> {
        let mut traced = Command::new("sleep").arg("0.2").spawn()?;
        let mut strace = Command::new("strace");
        let output = strace.args(["-qq", "-e", "trace=fdatasync", "-p"]).arg(traced.id().to_string()).output();
        traced.wait()?;
        output
    };
    match probe() {
        Ok(output) if output.status.success() => {
            configs.iter_mut().for_each(|config| config.disk = DiskBackend::Blocking);
            Ok(Ground::plain(configs))
        }
        Ok(output) => Err(format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("strace is missing ({error}): install the package strace")),
    }
}

/// One sync of a node fails; it must stop and say so, and come back when it is started again.
pub(super) fn run_errors(world: &mut World, dice: &mut Dice, seconds: u64) -> Result<(), Trouble> {
    let rounds = (seconds / 3).max(2);
    world.plan(rounds, Duration::from_secs(seconds));
    while world.faults.done < rounds && world.has_time() {
        // A leader as a rule: its disk matters most.
        let node = if dice.below(4) == 0 { some_node(dice) } else { world.some_leader(dice) };
        let when = 1 + dice.below(100);
        world.nodes.may_end(node, true);
        let tracer = join(world, node, &format!("inject=fdatasync:error=EIO:when={when}"))?;
        let mut ended = None;
        world.wait_for(&format!("node {node} to stop at its failed sync"), |world| {
            ended = world.nodes.take_ended(node);
            Ok(ended.is_some())
        })?;
        let (status, log) = (ended.expect("it was waited for"), tail(&world.nodes.log(node)));
        if status.success() || !log.contains("cannot go on") {
            return Err(Trouble::Died { node, status: format!("{status}, without a reason"), tail: log });
        }
        if tracer.has_acted() {
            world.faults.happened("a sync that fails", 1);
        }
        drop(tracer);
        world.await_progress("commits without the node whose disk failed", 0)?;
        world.start_node(node)?;
        world.await_nodes()?;
        world.await_progress("commits after a disk error", ENTRIES_BETWEEN)?;
    }
    Ok(())
}

/// Now and then a sync of a leader takes very long: another leads meanwhile, and commits go on.
pub(super) fn run_slow(world: &mut World, dice: &mut Dice, seconds: u64) -> Result<(), Trouble> {
    let rounds = (seconds / 5).max(2);
    world.plan(rounds, Duration::from_secs(seconds));
    while world.faults.done < rounds && world.has_time() {
        let group = 1 + dice.below(GROUPS as usize) as u64;
        let Some(node) = world.leader(group) else { continue };
        let tracer = join(world, node, &format!("inject=fdatasync:delay_enter={}:when=1+20", SLOW.as_micros()))?;
        world.wait_for("another leader than the one whose disk is slow", |world| {
            Ok(world.leader(group).is_some_and(|leader| leader != node))
        })?;
        world.await_progress("commits while a disk is slow", 0)?;
        world.sleep(millis(dice, 500..2500))?;
        world.await_progress("commits while a disk is slow", 0)?;
        if tracer.has_acted() {
            world.faults.happened("a slow disk of a leader", 1);
        }
        drop(tracer);
        world.await_progress("commits after a slow disk", ENTRIES_BETWEEN)?;
    }
    Ok(())
}

fn join(world: &World, node: u64, inject: &str) -> Result<Tracer, Trouble> {
    let trace = world.nodes.log(node).with_extension("strace");
    let pid = world.nodes.pid(node).expect("all nodes run in these plans");
    Tracer::join(pid, inject, &trace).map_err(|error| Trouble::Io { what: "strace".into(), error })
}
