//! A replicated map: put, delete, compare-and-set by version, reads new and old, checkpoints, and a node that comes back.
//!
//! `cargo run -p synod --example kv`

mod cluster;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Read;
use std::sync::Arc;

use cluster::{Cluster, GROUP, PATIENCE};
use serde::{Deserialize, Serialize};
use synod::{Checkpoint, CommittedBatch, Consistency, Entries, Handle, MachineError, Options, StateMachine};

/// An entry of the log: a put, or without a value a delete.
#[derive(Serialize, Deserialize)]
struct Change {
    key: String,
    value: Option<String>,
    /// It is refused unless the key has this version, 0 where there is no such key.
    expected: Option<u64>,
}

/// The version, which is the index of the entry that wrote it, and the value.
type Versioned = (u64, String);

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
struct Map {
    values: BTreeMap<String, Versioned>,
    /// Whether the last thousand changes were made or refused, by index: for those who proposed them.
    outcomes: BTreeMap<u64, bool>,
}

impl Map {
    /// False when the change is refused.
    fn change(&mut self, index: u64, change: Change) -> bool {
        let version = self.values.get(&change.key).map_or(0, |(version, _)| *version);
        if change.expected.is_some_and(|expected| expected != version) {
            return false;
        }
        match change.value {
            Some(value) => self.values.insert(change.key, (index, value)),
            None => self.values.remove(&change.key),
        };
        true
    }
}

impl StateMachine for Map {
    fn durable_index(&self) -> u64 {
        0
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError> {
        for (index, entry) in (batch.first_index..).zip(batch.entries.iter()) {
            // An error stops the node, and an entry that is no change is none on all nodes: it is refused instead.
            let made = toml::from_slice(entry).is_ok_and(|change| self.change(index, change));
            self.outcomes.insert(index, made);
            self.outcomes.remove(&index.saturating_sub(1000));
        }
        Ok(())
    }

    fn takes_checkpoints(&self) -> bool {
        true
    }

    /// All bytes at once, which is enough for a small map: a large one gives a view of itself, which another thread writes.
    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, MachineError> {
        Ok(Box::new(toml::to_string(self)?.into_bytes()))
    }

    fn restore(&mut self, _index: u64, input: &mut dyn Read) -> Result<(), MachineError> {
        *self = toml::from_str(&std::io::read_to_string(input)?)?;
        Ok(())
    }
}

/// Writes in a session: a change takes effect once, also when it is proposed again because its outcome was unknown.
struct Client {
    cluster: Cluster,
    session: u64,
    sequence: u64,
}

impl Client {
    /// Gives the version of what it wrote, or nothing when it is refused.
    fn change(&mut self, key: &str, value: Option<&str>, expected: Option<u64>) -> Result<Option<u64>, Box<dyn Error>> {
        let change = Change { key: key.into(), value: value.map(Into::into), expected };
        let entries = Entries::one(toml::to_string(&change)?.as_bytes())?;
        self.sequence += 1;
        self.cluster.with_leader(|leader| {
            let proposed = leader.propose_in_session(GROUP, self.session, self.sequence, entries.clone());
            let index = proposed.wait()?.first_index;
            let outcome = move |map: &Map| map.outcomes.get(&index).copied();
            let made = leader.query(GROUP, Consistency::AtLeast(index), PATIENCE, outcome).wait()?;
            Ok(made.ok_or("too many changes came behind it")?.then_some(index))
        })
    }
}

fn get(node: &Handle, consistency: Consistency, key: &str) -> Result<Option<Versioned>, Box<dyn Error>> {
    let key = key.to_owned();
    Ok(node.query(GROUP, consistency, PATIENCE, move |map: &Map| map.values.get(&key).cloned()).wait()?)
}

/// Writes and reads, and stops a node meanwhile.
pub fn main() -> Result<(), Box<dyn Error>> {
    let options =
        |_node| Options { machines: Some(Arc::new(|_group| Ok(Some(Box::new(Map::default()))))), ..Options::default() };
    let cluster = Cluster::start("kv", options)?;
    let session = cluster.with_leader(|leader| Ok(leader.open_session(GROUP).wait()?.id()))?;
    let mut client = Client { cluster, session, sequence: 0 };

    let red = client.change("colour", Some("red"), None)?;
    let green = client.change("colour", Some("green"), red)?;
    assert!(red < green && client.change("colour", Some("blue"), red)?.is_none(), "red is no longer there");
    client.change("shape", Some("round"), Some(0))?;
    client.change("shape", None, None)?;

    let leader = client.cluster.leader()?;
    let follower = client.cluster.handles().find(|node| node.node() != leader.node()).ok_or("no follower")?;
    // It answers at once with what it has, which may be old.
    let stale = get(&follower, Consistency::Stale, "colour")?;
    // It asks the leader how far it must have come, so that it sees all that was acknowledged before.
    let newest = get(&follower, Consistency::Linearizable, "colour")?;
    assert_eq!(newest, green.map(|version| (version, "green".into())));
    assert!(stale <= newest && get(&follower, Consistency::Linearizable, "shape")?.is_none());
    println!("node {} had {stale:?}, then {newest:?}", follower.node());

    // When it comes back it begins with its checkpoint, and needs the log only from there on.
    let covered = leader.checkpoint(GROUP).wait()?;
    client.cluster.stop_node(leader.node());
    for number in 1..=10 {
        client.change(&format!("key {number}"), Some("written meanwhile"), None)?;
    }
    client.cluster.start_node(leader.node())?;
    let content = |node: Handle| node.query(GROUP, Consistency::Linearizable, PATIENCE, Map::clone).wait();
    let contents = client.cluster.handles().map(content).collect::<Result<Vec<_>, _>>()?;
    assert!(contents.iter().all(|map| *map == contents[0] && map.values.len() == 11), "{contents:?}");
    println!("node {} was stopped at {covered}, and has all {} keys", leader.node(), contents[0].values.len());
    client.cluster.shutdown()
}
