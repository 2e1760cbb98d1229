//! Real nodes: reads of every age, leadership that is handed over, given up and given back, and what listeners hear.

use std::sync::Arc;
use std::time::{Duration, Instant};

use synod::{
    CommittedBatch, Consistency, Entries, Event, MachineFactory, Node, NodeId, Options, ReadError, StateMachine,
    TransferError,
};
use synod_sim::{Cluster, PATIENCE};

const SOON: Duration = Duration::from_secs(20);

/// Counts entries.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn durable_index(&self) -> u64 {
        0
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0 += batch.entries.len() as u64;
        Ok(())
    }
}

/// Hands a group over, whoever leads it now.
fn hand_over(cluster: &Cluster, group: u64, to: NodeId) {
    for _ in 0..100 {
        let ended = cluster.leader(group).transfer(group, to, Duration::from_secs(2)).wait();
        if ended == Ok(()) && cluster.leader(group).node() == to {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("node {to} never takes over");
}

#[test]
fn every_node_reads_what_was_acknowledged_before() {
    let cluster = Cluster::start(3, |c| c.groups = 2);
    for sequence in 1..=20 {
        cluster.commit(1, 1, sequence, &Entries::one(b"entry").unwrap());
        for consistency in [Consistency::Linearizable, Consistency::Quorum, Consistency::AtLeast(sequence)] {
            let node = 1 + sequence % 3;
            let point = cluster.node(node).read_index(1, consistency, SOON).wait().expect("a quorum is well");
            assert_eq!(point.index, sequence, "{consistency:?} on node {node}");
        }
    }
    let stale = cluster.node(1).read_index(1, Consistency::Stale, Duration::ZERO).wait().expect("it asks nobody");
    assert!(stale.index <= 20 && stale.epoch.is_none());
    let ahead = cluster.node(1).read_index(1, Consistency::AtLeast(21), Duration::from_millis(50)).wait();
    assert_eq!(ahead, Err(ReadError::TimedOut));
    let absent = cluster.node(1).read_index(9, Consistency::Stale, SOON).wait();
    assert_eq!(absent, Err(ReadError::UnknownGroup(9)));
}

#[test]
fn a_leader_holds_a_lease_once_it_is_read() {
    let cluster = Cluster::start(3, |_| {});
    cluster.commit(1, 1, 1, &Entries::one(b"entry").unwrap());
    let leader = cluster.leader(1);
    for _ in 0..200 {
        leader.read_index(1, Consistency::Linearizable, SOON).wait().expect("a quorum is well");
        if leader.info(1).is_some_and(|info| info.lease) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("there is never a lease");
}

#[test]
fn a_query_sees_its_machine_at_the_point() {
    let mut cluster = Cluster::start(1, |_| {});
    cluster.stop_node(1);
    let machines: MachineFactory = Arc::new(|_| Ok(Some(Box::new(Counter::default()) as Box<dyn StateMachine>)));
    let options = Options { machines: Some(machines), ..Options::default() };
    cluster.nodes[0] = Some(Node::start(cluster.configs[0].clone(), options).expect("it starts"));
    for sequence in 1..=5 {
        cluster.commit(1, 1, sequence, &Entries::one(b"entry").unwrap());
        let counted = cluster.node(1).query(1, Consistency::Linearizable, SOON, |machine: &Counter| machine.0).wait();
        assert_eq!(counted, Ok(sequence));
    }
    struct Other;
    impl StateMachine for Other {
        fn durable_index(&self) -> u64 {
            0
        }
        fn apply(&mut self, _: &CommittedBatch<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Ok(())
        }
    }
    let counted = cluster.node(1).query(1, Consistency::Stale, SOON, |_: &Other| ()).wait();
    assert_eq!(counted, Err(ReadError::NoMachine));
}

#[test]
fn leadership_goes_where_it_is_sent_and_listeners_hear_of_it() {
    let mut cluster = Cluster::start(3, |c| c.preferred_leader = Some(1));
    cluster.stop_node(3);
    let heard = cluster.start_heard(3, None);
    cluster.commit(1, 1, 1, &Entries::one(b"before").unwrap());
    hand_over(&cluster, 1, 3);
    cluster.commit(1, 1, 2, &Entries::one(b"after").unwrap());
    assert_eq!(cluster.log(1, 1, 2), [b"before".to_vec(), b"after".to_vec()]);
    heard.wait(1, |event| matches!(event, Event::LeaderChanged { group: 1, leader: Some(3), .. }));
    let unknown = cluster.leader(1).transfer(1, 9, SOON).wait();
    assert!(matches!(unknown, Err(TransferError::NotReady(9) | TransferError::NotLeader { .. })), "{unknown:?}");
}

#[test]
fn a_group_goes_back_to_the_node_that_prefers_it() {
    let mut cluster = Cluster::start(3, |c| c.preferred_leader = Some(2));
    cluster.commit(1, 1, 1, &Entries::one(b"entry").unwrap());
    cluster.stop_node(2);
    cluster.commit(1, 1, 2, &Entries::one(b"entry").unwrap());
    cluster.start_node(2);
    // It must have been well for a while first, and after a try that failed the next one comes half a minute later.
    let end = Instant::now() + 5 * PATIENCE;
    while cluster.leader(1).node() != 2 {
        assert!(Instant::now() < end, "node 2 never leads again");
        std::thread::sleep(Duration::from_millis(500));
    }
}
