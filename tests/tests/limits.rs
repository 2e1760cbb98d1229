//! What happens at the limits: the log's size, a full disk, a state machine that fails.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use synod::{
    CommittedBatch, Config, Entries, Event, Handle, Node, Options, Overload, ProposeError, ReadError, Rejection,
    StateMachine,
};
use synod_sim::{Cluster, PATIENCE};

const ENTRY_BYTES: usize = 64 << 10;

/// Small segments and little kept, so that limits are near.
fn small(config: &mut Config) {
    config.segment_mib = 4;
    config.retain_mib = 4;
    config.wal_mib_max = 40;
    config.cache_mib = 4;
    config.spare_segments = 2;
    config.preferred_leader = Some(1);
}

fn entry(number: u64) -> Entries {
    let mut bytes = vec![number as u8; ENTRY_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Entries::one(&bytes).expect("it is below the limit")
}

fn number(entry: &[u8]) -> u64 {
    assert_eq!(entry.len(), ENTRY_BYTES);
    u64::from_le_bytes(entry[..8].try_into().expect("eight bytes"))
}

/// The log's files of a node, by generation.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let files =
        std::fs::read_dir(dir.join("shard-0")).expect("the shard's directory").map(|f| f.expect("an entry").path());
    let mut files: Vec<PathBuf> = files.filter(|f| f.extension().is_some_and(|e| e == "seg")).collect();
    files.sort();
    files
}

/// Proposes at node 1 until it refuses for want of room, or has yielded for it: `is_full` tells. Gives how many entries
/// are known to be committed.
fn fill_up(cluster: &Cluster, from: u64, at_most: u64, is_full: impl Fn() -> bool) -> u64 {
    let mut committed = from;
    let end = Instant::now() + 2 * PATIENCE;
    while committed < at_most {
        let session = cluster.session(1, 1);
        match cluster.node(1).propose_in_session(1, session, committed + 1, entry(committed + 1)).wait() {
            Ok(_) | Err(ProposeError::Duplicate) => committed += 1,
            Err(ProposeError::Rejected(Rejection::Overloaded { what: Overload::Log | Overload::Disk, .. })) => {
                return committed;
            }
            Err(
                ProposeError::Rejected(Rejection::NotLeader { .. }) | ProposeError::Unknown | ProposeError::Superseded,
            ) => {
                if is_full() {
                    return committed;
                }
                assert!(Instant::now() < end, "node 1 does not lead, although it has room");
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("entry {committed}: {error}"),
        }
    }
    panic!("{at_most} entries were taken and no limit was met");
}

/// Proposes until it is taken: there must be room again after a while.
fn commit_when_there_is_room(cluster: &Cluster, sequence: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        match cluster.leader(1).propose_in_session(1, cluster.session(1, 1), sequence, entry(sequence)).wait() {
            Ok(_) | Err(ProposeError::Duplicate) => return,
            Err(error) if Instant::now() > end => panic!("entry {sequence}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What a node can still read of the group, from its first index on.
fn tail(cluster: &Cluster, node: u64, up_to: u64) -> Vec<u64> {
    let handle = cluster.node(node);
    let end = Instant::now() + PATIENCE;
    loop {
        let info = handle.info(1).expect("the group is there");
        if info.next_index > up_to {
            match read_from(&handle, info.first_index, up_to) {
                Ok(numbers) => return numbers,
                // It was trimmed meanwhile.
                Err(ReadError::Trimmed { .. }) => {}
                Err(error) => panic!("node {node}: {error}"),
            }
        }
        assert!(Instant::now() < end, "node {node} stays at {info:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn read_from(handle: &Handle, mut from: u64, up_to: u64) -> Result<Vec<u64>, ReadError> {
    let mut numbers = Vec::new();
    while from <= up_to {
        let read = handle.read(1, from, Duration::from_secs(1)).wait()?;
        numbers.extend(read.entries.iter().map(number));
        from = read.first_index + read.entries.len() as u64;
    }
    Ok(numbers)
}

#[test]
fn segments_are_recycled_under_load_and_a_restart_finds_the_rest() {
    let mut cluster = Cluster::start(3, small);
    let entries = 1500;
    for sequence in 1..=entries {
        commit_when_there_is_room(&cluster, sequence);
    }
    for node in 1..=3 {
        let numbers = tail(&cluster, node, entries);
        // Who lagged may have been given what the entries did, and none of them.
        let first = numbers.first().copied().unwrap_or(entries + 1);
        assert!(first > 1, "nothing was trimmed");
        assert_eq!(numbers, (first..=entries).collect::<Vec<_>>(), "node {node}");
        // 94 MiB went through; what is kept, spare and open is a small part of it.
        assert!(segments(&cluster.configs[node as usize - 1].dir).len() <= 12);
    }
    (1..=3).for_each(|node| cluster.stop_node(node));
    (1..=3).for_each(|node| cluster.start_node(node));
    commit_when_there_is_room(&cluster, entries + 1);
    for node in 1..=3 {
        let numbers = tail(&cluster, node, entries + 1);
        let first = numbers.first().copied().unwrap_or(entries + 2);
        assert_eq!(numbers, (first..=entries + 1).collect::<Vec<_>>(), "node {node}");
    }
}

#[test]
fn a_log_at_its_limit_refuses_and_takes_proposals_again_when_it_may_be_trimmed() {
    let mut cluster = Cluster::start(3, small);
    commit_when_there_is_room(&cluster, 1);
    // A reader needs the log.
    cluster.node(1).pin(1, "reader", 1, Duration::from_secs(600)).expect("it is there");
    cluster.stop_node(3);
    let committed = fill_up(&cluster, 1, 2000, || false);
    assert!(committed > 300, "{committed} entries of 64 KiB are far below 40 MiB");
    assert_eq!(tail(&cluster, 1, committed), (1..=committed).collect::<Vec<_>>());
    cluster.node(1).unpin(1, "reader").expect("the node runs");
    cluster.start_node(3);
    commit_when_there_is_room(&cluster, committed + 1);
    for node in 1..=3 {
        let numbers = tail(&cluster, node, committed + 1);
        // The third may have been given what the entries did, and none of them.
        let first = numbers.first().copied().unwrap_or(committed + 2);
        assert!(node == 3 || first <= committed + 1, "node {node}");
        assert_eq!(numbers, (first..=committed + 1).collect::<Vec<_>>(), "node {node}");
    }
}

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u64) -> Result<Self, String> {
        std::fs::create_dir_all(at).map_err(|e| e.to_string())?;
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(at)
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if mount.status.success() {
            Ok(Self(at.to_owned()))
        } else {
            Err(String::from_utf8_lossy(&mount.stderr).into())
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_proposals_before_it_is_met_and_trimming_frees_it() {
    let disks = tempfile::tempdir().expect("a temporary directory");
    let disk = match SmallDisk::mount(&disks.path().join("small"), 30) {
        Ok(disk) => disk,
        Err(why) => return eprintln!("skipped: no small file system can be mounted here: {why}"),
    };
    let mut cluster = Cluster::start(3, |config| {
        small(config);
        // Without the disk's end there would be no limit in sight.
        config.wal_mib_max = 1000;
        if config.node == 1 {
            config.dir = disk.0.join("node-1");
        }
    });
    commit_when_there_is_room(&cluster, 1);
    cluster.node(1).pause_trimming(1, true).expect("the node runs");
    cluster.stop_node(3);
    let free = || statvfs(&disk.0).map(|disk| disk.f_bavail * disk.f_frsize).expect("it is mounted");
    let committed = fill_up(&cluster, 1, 2000, || free() < 4 << 20);
    assert!(committed > 100, "{committed} entries of 64 KiB are far below 30 MiB");
    // The node lives and answers, and nothing is lost.
    assert_eq!(tail(&cluster, 1, committed), (1..=committed).collect::<Vec<_>>());
    // A restart on the full disk works too.
    cluster.stop_node(1);
    let heard = cluster.start_heard(1, None);
    // A pause ends with its process, so the log is trimmed: without any room being freed by hand.
    cluster.start_node(3);
    for sequence in committed + 1..committed + 200 {
        commit_when_there_is_room(&cluster, sequence);
    }
    for node in 1..=3 {
        let numbers = tail(&cluster, node, committed + 199);
        let first = numbers.first().copied().unwrap_or(committed + 200);
        assert_eq!(numbers, (first..=committed + 199).collect::<Vec<_>>(), "node {node}");
    }
    let full = |event: &Event| matches!(event, Event::DiskFull { shard: 0 });
    let has_room = |event: &Event| matches!(event, Event::DiskHasRoom { shard: 0 });
    heard.wait(1, full);
    heard.wait(1, has_room);
    assert!(heard.all().iter().position(full) < heard.all().iter().position(has_room), "{:?}", heard.all());
    drop(cluster);
}

/// Fails at its third entry.
struct Fails(u32);

impl StateMachine for Fails {
    fn durable_index(&self) -> u64 {
        0
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0 += batch.entries.len() as u32;
        if self.0 >= 3 { Err("it has had enough".into()) } else { Ok(()) }
    }
}

#[test]
fn a_state_machine_that_fails_stops_its_node_and_says_why() {
    let mut cluster = Cluster::start(1, |_| {});
    cluster.stop_node(1);
    let reason = Arc::new(Mutex::new(None));
    let options = Options {
        machines: Some(Arc::new(|_| Ok(Some(Box::new(Fails(0)) as Box<dyn StateMachine>)))),
        on_fatal: Some({
            let reason = Arc::clone(&reason);
            Arc::new(move |text| *reason.lock().expect("no holder panics") = Some(text.to_owned()))
        }),
        ..Options::default()
    };
    let node = Node::start(cluster.configs[0].clone(), options).expect("it starts");
    assert_eq!(node.handle().wait_leader(1, PATIENCE), Some(1));
    let end = Instant::now() + PATIENCE;
    let mut applied = 0;
    let said = loop {
        match node.handle().propose(1, b"entry").wait() {
            Ok(_) => applied += 1,
            Err(ProposeError::Rejected(Rejection::NotLeader { .. })) => {}
            Err(error) => assert!(matches!(error, ProposeError::Unknown | ProposeError::Rejected(_)), "{error}"),
        }
        if let Some(said) = reason.lock().expect("no holder panics").take() {
            break said;
        }
        assert!(Instant::now() < end, "the node goes on");
    };
    assert_eq!(applied, 2, "the entry that failed was told committed");
    assert!(said.contains("the state machine of group 1 failed at slot"), "{said}");
    assert!(said.contains("it has had enough"), "{said}");
}

#[test]
fn a_state_machine_that_cannot_be_made_keeps_its_node_from_starting() {
    let mut cluster = Cluster::start(1, |_| {});
    cluster.stop_node(1);
    let broken = || Options { machines: Some(Arc::new(|_| Err("its data is damaged".into()))), ..Options::default() };
    for _ in 0..2 {
        let Err(error) = Node::start(cluster.configs[0].clone(), broken()) else {
            panic!("it starts without its machine")
        };
        let said = error.to_string();
        assert!(said.contains("the state machine of group 1 cannot be made: its data is damaged"), "{said}");
    }
    // Nothing is lost by that.
    cluster.start_node(1);
    assert_eq!(cluster.node(1).wait_leader(1, PATIENCE), Some(1));
}
