//! One node's disk is full, with and without the others' help, and has room again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use synod::Config;

use super::cluster::Ground;
use super::process::tail;
use super::room::{call, lacks_root};
use super::world::World;
use super::{NODES, Trouble};

/// Small disks bear this name and the number of the process that made them.
const PREFIX: &str = "synod-chaos-";
/// The size of the small disk: a few segments for each shard.
const DISK_MIB: u64 = 96;
/// What is left free on a full disk: a node counts its boots there.
const LEFT_BYTES: u64 = 256 << 10;
/// Entries that must be acknowledged between two faults.
const ENTRIES_BETWEEN: u64 = 300;
/// Whose disk it is.
const NODE: u64 = NODES;

/// What a node logs once its disk is full.
const FULL: &str = "no room for a further segment";

/// A small file system in memory, until it is dropped.
pub(super) struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount(at: PathBuf) -> Result<Self, Trouble> {
        std::fs::create_dir_all(&at).map_err(|error| Trouble::Io { what: at.display().to_string(), error })?;
        unmount_stale()?;
        let (size, name) = (format!("size={DISK_MIB}m"), format!("{PREFIX}{}", std::process::id()));
        call(&["mount", "-t", "tmpfs", "-o", &size, &name, &at.to_string_lossy()], "")?;
        Ok(Self { at })
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Takes all room but a little.
    fn fill(&self) -> Result<(), Trouble> {
        let fill = || -> std::io::Result<()> {
            let file = File::options().create(true).append(true).open(self.ballast())?;
            let free = statvfs(&self.at)?;
            let (length, free) = (file.metadata()?.len(), free.f_bavail * free.f_frsize);
            if LEFT_BYTES < free {
                fallocate(&file, FallocateFlags::empty(), length, free - LEFT_BYTES)?;
            }
            Ok(())
        };
        match fill() {
            // The node was faster: it is full all the same.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
            result => result.map_err(|error| Trouble::Io { what: self.ballast().display().to_string(), error }),
        }
    }

    /// Gives it back.
    fn free(&self) -> Result<(), Trouble> {
        let ballast = self.ballast();
        std::fs::remove_file(&ballast).map_err(|error| Trouble::Io { what: ballast.display().to_string(), error })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(trouble) = call(&["umount", "-l", &self.at.to_string_lossy()], "") {
            eprintln!("chaos: {trouble}");
        }
    }
}

/// Unmounts what runs left behind that were killed.
fn unmount_stale() -> Result<(), Trouble> {
    let text =
        std::fs::read_to_string("/proc/mounts").map_err(|error| Trouble::Io { what: "/proc/mounts".into(), error })?;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(at)) = (words.next(), words.next()) else { continue };
        let Some(pid) = name.strip_prefix(PREFIX) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            call(&["umount", "-l", at], "")?;
        }
    }
    Ok(())
}

/// Loopback, with one node on a small disk, if it can be mounted here.
pub(super) fn ground(mut configs: Vec<Config>, dir: &Path) -> Result<Result<Ground, String>, Trouble> {
    if let Some(why) = lacks_root() {
        return Ok(Err(format!("{why}: mount a small file system")));
    }
    let disk = match SmallDisk::mount(dir.join("small-disk")) {
        Ok(disk) => disk,
        Err(Trouble::Tool { command, text }) => return Ok(Err(format!("`{command}` says: {text}"))),
        Err(trouble) => return Err(trouble),
    };
    let config = &mut configs[NODE as usize - 1];
    config.dir = disk.at.join(format!("node-{NODE}"));
    config.segment_mib = 4;
    Ok(Ok(Ground { disk: Some(disk), ..Ground::plain(configs) }))
}

/// Fills the disk again and again.
pub(super) fn run(world: &mut World, seconds: u64) -> Result<(), Trouble> {
    let rounds = (seconds / 5).max(3);
    world.plan(rounds, Duration::from_secs(seconds));
    for round in 0..rounds {
        if !world.has_time() {
            break;
        }
        let before = times_full(world)?;
        disk(world).fill()?;
        world.wait_for("the small disk to be full", |world| Ok(before < times_full(world)?))?;
        go_on(world, "commits while a disk is full")?;
        match round % 3 {
            0 => world.faults.happened("a full disk", 1),
            1 => {
                // Nothing of the log may go now, and the full node's vote is needed: proposals may be refused.
                world.nodes.kill(1);
                world.sleep(Duration::from_millis(1500))?;
                world.start_node(1)?;
                go_on(world, "commits while a disk is full, when the killed node is back")?;
                world.faults.happened("a full disk while another node is away", 1);
            }
            _ => restart(world)?,
        }
        disk(world).free()?;
        world.start_all()?;
        world.await_nodes()?;
        world.await_progress("commits when there is room again", ENTRIES_BETWEEN)?;
    }
    Ok(())
}

/// Waits until every group goes on: a full node leads none while another one has room.
fn go_on(world: &mut World, what: &str) -> Result<(), Trouble> {
    go_on_or_end(world, what, &mut None)
}

/// As [`go_on`], with a full node that may end meanwhile.
fn go_on_or_end(world: &mut World, what: &str, ended: &mut Option<ExitStatus>) -> Result<(), Trouble> {
    let before = world.records.acknowledged();
    world.wait_for(what, |world| {
        if ended.is_none() {
            *ended = world.nodes.take_ended(NODE);
        }
        let now = world.records.acknowledged();
        Ok(now.iter().zip(&before).all(|(now, before)| now > before))
    })
}

/// A node may come back on its full disk, or say that it needs room and end; in no other way.
fn restart(world: &mut World) -> Result<(), Trouble> {
    world.nodes.kill(NODE);
    world.start_node(NODE)?;
    world.nodes.may_end(NODE, true);
    let mut ended = None;
    world.wait_for("the node on the full disk to start or to refuse", |world| {
        ended = world.nodes.take_ended(NODE);
        Ok(ended.is_some() || world.nodes.is_ready(NODE))
    })?;
    // Ready is not yet open: it may find that it lacks room a little later.
    go_on_or_end(world, "commits after a restart on a full disk", &mut ended)?;
    world.nodes.may_end(NODE, false);
    if let Some(status) = ended {
        let tail = tail(&world.nodes.log(NODE));
        if !tail.contains("No space left on device") {
            return Err(Trouble::Died { node: NODE, status: status.to_string(), tail });
        }
        world.faults.happened("a restart that a full disk refuses", 1);
    } else {
        world.faults.happened("a restart on a full disk", 1);
    }
    Ok(())
}

fn disk(world: &World) -> &SmallDisk {
    world.ground.disk.as_ref().expect("the ground of this plan has one")
}

/// How often the node has said that its disk is full.
fn times_full(world: &World) -> Result<usize, Trouble> {
    let log = world.nodes.log(NODE);
    let text = std::fs::read(&log).map_err(|error| Trouble::Io { what: log.display().to_string(), error })?;
    Ok(String::from_utf8_lossy(&text).matches(FULL).count())
}
