//! The verdict: all replicas have the same stream, and it explains all that clients were told.

use std::fmt;
use std::time::Duration;

use synod::client::protocol::GroupInfoV1;
use synod::client::{Client, ClientError};

use super::load::meaning;
use super::world::World;
use super::{GROUPS, NODES, Trouble};
use crate::check::history::History;
use crate::check::log::{Checked, check};
use crate::check::stream::Streams;

/// Hashes kept per group: as many as entries may be.
const WINDOW: usize = 8 << 20;

/// What was judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Judged {
    /// Entries in the logs of all groups.
    pub entries: u64,
    /// Entries compared on all replicas together.
    pub compared: u64,
    /// Entries that had been acknowledged.
    pub acknowledged: u64,
    /// Entries in the log whose append had no known outcome.
    pub recovered: u64,
    /// Appends that are not in the log: refused, or unknown.
    pub absent: u64,
    /// Reads that told something.
    pub reads: u64,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, compared, acknowledged, recovered, absent, reads } = self;
        write!(
            f,
            "0 of {acknowledged} acknowledged entries lost, 0 doubled; {entries} in the logs ({recovered} of them \
             unknown to their clients), {absent} refused or unknown ones absent; {compared} compared between replicas; \
             linearizable, with {reads} reads"
        )
    }
}

/// Judges a world in which nothing is broken, all nodes run, and no client asks any more.
pub(super) fn judge(world: &mut World) -> Result<Judged, Trouble> {
    let groups = await_agreement(world)?;
    let mut judged = Judged::default();
    let mut streams = Streams::new(WINDOW);
    for Agreed { group, end, mut nodes } in groups {
        let mut log = Vec::new();
        // Whoever was away while others trimmed their logs may begin later: it is compared with those who have it all.
        nodes.sort_unstable();
        for (_, node) in nodes {
            let (first, payloads) = read_all(world, &mut streams, node, group, end)?;
            judged.compared += payloads.len() as u64;
            if first == 1 {
                log = payloads;
            }
        }
        if (log.len() as u64) < end {
            return Err(Trouble::Violation(format!("group {group}: no node has the whole log of {end} entries")));
        }
        let history = world.records.history(group);
        let Checked { committed, recovered, absent, reads } =
            check(&history, &log).map_err(|violation| Trouble::Violation(format!("group {group}: {violation}")))?;
        judged.entries += end;
        judged.acknowledged += committed as u64;
        judged.recovered += recovered as u64;
        judged.absent += absent as u64;
        judged.reads += reads as u64;
    }
    if 0 < streams.unchecked() {
        return Err(Trouble::Violation(format!("{} entries were not compared: keep more hashes", streams.unchecked())));
    }
    Ok(judged)
}

/// A group in which all replicas have applied the same.
struct Agreed {
    group: u64,
    /// The last index.
    end: u64,
    /// Where each node's log begins, and the node.
    nodes: Vec<(u64, u64)>,
}

/// Waits until all replicas have applied the same.
fn await_agreement(world: &mut World) -> Result<Vec<Agreed>, Trouble> {
    let mut agreed = Vec::new();
    let mut client = Client::new(world.cluster.clone());
    world.wait_for("all replicas to have applied the same", |_| {
        let infos: Result<Vec<_>, ClientError> =
            (1..=NODES).map(|node| client.info(node, Duration::from_secs(1))).collect();
        let Ok(infos) = infos else { return Ok(false) };
        let groups = |node: usize| infos[node].groups.iter();
        for (one, other) in (1..NODES as usize).flat_map(|node| groups(0).zip(groups(node))) {
            if one.applied_slot == other.applied_slot && one.chain != other.chain {
                return Err(Trouble::Violation(format!("replicas differ: {one:?} and {other:?}")));
            }
        }
        let begins = |at: usize| (1..).zip(&infos).map(|(node, info)| (info.groups[at].first_index, node)).collect();
        let group =
            |(at, g): (usize, &GroupInfoV1)| Agreed { group: g.group, end: g.next_index - 1, nodes: begins(at) };
        agreed = groups(0).enumerate().map(group).collect();
        let applied = |node: usize| groups(node).map(|g| g.applied_slot);
        Ok((1..NODES as usize).all(|node| applied(node).eq(applied(0))))
    })?;
    assert_eq!(agreed.len() as u64, GROUPS, "every node has every group");
    Ok(agreed)
}

/// Reads a group from one node to its end, into the streams. Gives the first index there is, and the payloads.
fn read_all(world: &World, streams: &mut Streams, node: u64, group: u64, end: u64) -> Result<(u64, Vec<u64>), Trouble> {
    let failed = |error: ClientError| Trouble::Violation(format!("group {group} cannot be read: {error}"));
    let wrong = |error: &dyn fmt::Display| Trouble::Violation(error.to_string());
    let mut client = Client::new(world.cluster.clone());
    let (mut first, mut payloads) = (0, Vec::new());
    let mut next = 1;
    while next <= end {
        let read = match client.read(node, group, next, Duration::from_secs(1)) {
            Ok(read) => read,
            Err(ClientError::Trimmed { first_index, .. }) if first == 0 && next < first_index => {
                next = first_index;
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        if first == 0 {
            first = next;
            streams.start(group, node, first).map_err(|error| wrong(&error))?;
        }
        for (entry, index) in read.entries.iter().zip(read.first_index..=end) {
            let Some((payload, sequence)) = meaning(entry) else {
                return Err(Trouble::Violation(format!("group {group}, node {node}: index {index} is nobody's entry")));
            };
            streams.deliver(group, node, index, entry, sequence).map_err(|error| wrong(&error))?;
            payloads.push(payload);
        }
        if read.entries.is_empty() {
            return Err(Trouble::Violation(format!("group {group}: node {node} has {end} entries but none at {next}")));
        }
        next = read.first_index + read.entries.len() as u64;
    }
    Ok((first, payloads))
}

/// The log as far as reads have told it: what there is to write down of a run that ended before its verdict.
pub(super) fn seen(history: &History) -> Vec<u64> {
    let mut log: Vec<u64> = Vec::new();
    let mut reads: Vec<_> = history.reads().iter().filter(|read| 0 < read.last()).collect();
    reads.sort_by_key(|read| read.first);
    for read in reads {
        let known = log.len() as u64;
        if read.first <= known + 1 && known < read.last() {
            log.extend(&history.entries(read)[(known + 1 - read.first) as usize..]);
        }
    }
    log
}
