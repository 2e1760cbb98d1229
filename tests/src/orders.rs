//! An operator's orders to real nodes: given to whoever leads the directory, and again when nobody did. What became of an order
//! is not known when the directory's leader changes meanwhile.

use std::time::{Duration, Instant};

use synod::{GroupError, GroupId, GroupOutcome, Handle, MadeGroup, Pending};

use crate::PATIENCE;

/// Gives an order to whoever of these leads the directory.
///
/// # Panics
/// When none of them does in time.
pub fn order(nodes: &[Handle], ask: impl Fn(&Handle) -> Pending<GroupOutcome>) -> GroupOutcome {
    let end = Instant::now() + PATIENCE;
    loop {
        for node in nodes {
            match ask(node).wait() {
                Err(GroupError::Rejected(_) | GroupError::Superseded) => {}
                outcome => return outcome,
            }
        }
        assert!(Instant::now() < end, "nobody leads the directory");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes a group.
///
/// # Errors
/// Why not.
pub fn create(nodes: &[Handle], group: GroupId) -> GroupOutcome {
    let mut lost = false;
    loop {
        match order(nodes, |handle| handle.create_group(group, PATIENCE)) {
            Err(GroupError::Unknown) => lost = true,
            Err(GroupError::Exists(_)) if lost => {
                let known = nodes.iter().flat_map(|node| node.made_groups().expect("it runs"));
                let made = known.filter(|made| made.group == group);
                return Ok(made.max_by_key(|made| made.uid).expect("a node has said so"));
            }
            outcome => return outcome,
        }
    }
}

/// Drops a group; an order whose fate is unknown is given again.
///
/// # Errors
/// Why not.
pub fn drop_group(nodes: &[Handle], group: GroupId) -> Result<(), GroupError> {
    let mut lost = false;
    loop {
        match order(nodes, |handle| handle.drop_group(group, PATIENCE)) {
            Err(GroupError::Unknown) => lost = true,
            Err(GroupError::UnknownGroup(_)) if lost => return Ok(()),
            outcome => return outcome.map(|made| assert!(made.group == group && made.ending)),
        }
    }
}

/// Places a group on a shard.
///
/// # Errors
/// Why not.
pub fn place(nodes: &[Handle], group: GroupId, shard: usize) -> Result<MadeGroup, GroupError> {
    loop {
        match order(nodes, |handle| handle.place_group(group, shard, PATIENCE)) {
            Err(GroupError::Unknown | GroupError::Busy) => {}
            outcome => return outcome,
        }
    }
}
