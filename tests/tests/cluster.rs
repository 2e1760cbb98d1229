//! Clusters that commit, stop, start again and lose a node.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use synod::limits::ENTRY_BYTES_MAX;
use synod::{
    CommittedBatch, Config, DiskBackend, Entries, MachineError, MachineFactory, Node, Options, Outcome, ProposeError,
    Rejection, Session, StateMachine,
};
use synod_sim::{Cluster, PATIENCE};

fn check_cluster(count: usize, groups: u64, shards: usize, disk: DiskBackend) {
    let mut cluster = Cluster::start(count, |c: &mut Config| (c.groups, c.shards, c.disk) = (groups, shards, disk));
    let mut expected = vec![Vec::new(); groups as usize];
    for round in 0..2 {
        for group in 1..=groups {
            for n in 0..20 {
                let entry = format!("round {round} group {group} entry {n}").into_bytes();
                cluster.commit(group, 1, round * 20 + n + 1, &Entries::one(&entry).unwrap());
                expected[group as usize - 1].push(entry);
            }
        }
        for node in 1..=count as u64 {
            for group in 1..=groups {
                let expected = &expected[group as usize - 1];
                assert_eq!(&cluster.log(node, group, expected.len() as u64), expected);
            }
        }
        // All stop, and start again from their logs.
        (1..=count as u64).for_each(|node| cluster.stop_node(node));
        (1..=count as u64).for_each(|node| cluster.start_node(node));
    }
}

#[test]
fn three_nodes_commit_and_restart() {
    check_cluster(3, 4, 1, DiskBackend::Uring);
}

#[test]
fn shards_share_the_groups() {
    check_cluster(3, 5, 2, DiskBackend::Uring);
}

#[test]
fn one_node_is_a_cluster() {
    check_cluster(1, 2, 1, DiskBackend::Uring);
}

#[test]
fn the_blocking_backend_does_the_same() {
    check_cluster(3, 2, 1, DiskBackend::Blocking);
}

#[test]
fn a_minority_may_be_away() {
    let mut cluster = Cluster::start(3, |c| c.groups = 3);
    let mut batch = Entries::one(b"without").unwrap();
    batch.push(b"one").unwrap();
    for group in 1..=3 {
        cluster.commit(group, 1, 1, &Entries::one(b"all").unwrap());
    }
    cluster.stop_node(1);
    for group in 1..=3 {
        cluster.commit(group, 1, 2, &batch);
    }
    cluster.start_node(1);
    for group in 1..=3 {
        assert_eq!(cluster.log(1, group, 3), [b"all".to_vec(), b"without".to_vec(), b"one".to_vec()]);
    }
}

#[test]
fn a_proposer_is_bound_to_its_epoch() {
    let cluster = Cluster::start(3, |c| c.groups = 1);
    loop {
        let handle = cluster.leader(1);
        let Ok(mut proposer) = handle.proposer(1) else { continue };
        let first = proposer.propose(Entries::one(b"1").unwrap());
        let second = proposer.propose(Entries::one(b"2").unwrap());
        match (first.wait(), second.wait()) {
            (Ok(first), Ok(second)) => {
                assert!(first.first_index < second.first_index);
                break;
            }
            // In order or not at all: never the second without the first.
            (Err(ProposeError::Rejected(_)), second) => assert!(second.is_err(), "{second:?}"),
            _ => {}
        }
    }
}

#[test]
fn a_session_takes_each_sequence_once() {
    let cluster = Cluster::start(3, |c| c.groups = 1);
    cluster.commit(1, 77, 1, &Entries::one(b"a").unwrap());
    cluster.commit(1, 77, 1, &Entries::one(b"a").unwrap());
    let ahead = loop {
        match cluster.leader(1).propose_in_session(1, cluster.session(1, 77), 3, Entries::one(b"c").unwrap()).wait() {
            Err(ProposeError::Rejected(_) | ProposeError::Unknown) => {}
            outcome => break outcome,
        }
    };
    assert_eq!(ahead, Err(ProposeError::OutOfSession));
    cluster.commit(1, 77, 2, &Entries::one(b"b").unwrap());
    assert_eq!(cluster.log(1, 1, 2), [b"a", b"b"]);
}

/// Proposes in a session at whoever leads until the outcome is known.
fn settle(cluster: &Cluster, session: &mut Session, entry: &[u8]) -> Outcome {
    let mut outcome = session.propose(Entries::one(entry).unwrap()).wait();
    let end = Instant::now() + PATIENCE;
    while matches!(outcome, Err(ProposeError::Rejected(_) | ProposeError::Unknown | ProposeError::Superseded)) {
        assert!(Instant::now() < end, "{outcome:?}");
        session.attach(cluster.leader(1));
        outcome = session.retry().pop().expect("it is not settled").wait();
    }
    outcome
}

fn open(cluster: &Cluster) -> Session {
    Session::resume(cluster.leader(1), 1, cluster.session(1, 1), 1)
}

#[test]
fn a_session_goes_on_at_another_node_and_a_repeated_batch_has_its_position() {
    let mut cluster = Cluster::start(3, |c| c.groups = 1);
    let mut session = open(&cluster);
    let first = settle(&cluster, &mut session, b"one").unwrap();
    assert_eq!((first.first_index, session.next_sequence(), session.unsettled_batches()), (1, 2, 0));
    // Another process that does not know how far it went begins with what may not be committed.
    let mut again = Session::resume(cluster.leader(1), 1, session.id(), 1);
    assert_eq!(settle(&cluster, &mut again, b"one").unwrap(), first);
    let leader = cluster.leader(1).node();
    cluster.stop_node(leader);
    assert_eq!(settle(&cluster, &mut session, b"two").unwrap().first_index, 2);
    let other = leader % 3 + 1;
    assert_eq!(cluster.log(other, 1, 2), [&b"one"[..], b"two"]);
}

#[test]
fn a_session_keeps_what_is_not_committed_and_at_most_eight_batches() {
    let cluster = Cluster::start(3, |c| c.groups = 1);
    let leader = cluster.leader(1).node();
    let follower = cluster.node(leader % 3 + 1);
    let mut session = Session::resume(follower, 1, cluster.session(1, 1), 1);
    let flights: Vec<_> = (0..9_u8).map(|entry| session.propose(Entries::one(&[entry]).unwrap())).collect();
    let outcomes: Vec<_> = flights.into_iter().map(|flight| flight.wait()).collect();
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    assert_eq!((session.unsettled_batches(), session.next_sequence()), (8, 9));
    let end = Instant::now() + PATIENCE;
    while session.unsettled_batches() > 0 {
        assert!(Instant::now() < end);
        session.attach(cluster.leader(1));
        for flight in session.retry() {
            // Whatever it is: what is not committed stays in the session.
            let _ = flight.wait();
        }
    }
    let log: Vec<Vec<u8>> = (0..8).map(|entry| vec![entry]).collect();
    assert_eq!(cluster.log(leader, 1, 8), log);
}

#[test]
fn a_session_that_was_closed_or_displaced_is_unknown_for_ever() {
    let cluster = Cluster::start(1, |c| {
        c.groups = 1;
        c.sessions_max = 2;
    });
    let handle = cluster.leader(1);
    let (mut one, mut two) = (open(&cluster), handle.open_session(1).wait().unwrap());
    let first = settle(&cluster, &mut one, b"one").unwrap();
    settle(&cluster, &mut two, b"two").unwrap();
    let mut three = handle.open_session(1).wait().unwrap();
    let mut again = Session::resume(handle.clone(), 1, one.id(), 1);
    assert_eq!(settle(&cluster, &mut again, b"one"), Err(ProposeError::SessionExpired));
    let id = two.id();
    two.close().wait().unwrap();
    assert_eq!(
        settle(&cluster, &mut Session::resume(handle.clone(), 1, id, 2), b"more"),
        Err(ProposeError::SessionExpired)
    );
    assert_eq!(settle(&cluster, &mut three, b"three").unwrap().first_index, first.first_index + 2);
}

#[test]
fn a_session_that_nobody_uses_expires_and_is_unknown_after_a_restart_too() {
    let mut cluster = Cluster::start(1, |c| {
        c.groups = 1;
        c.session_idle_seconds = 1;
    });
    let mut session = open(&cluster);
    settle(&cluster, &mut session, b"one").unwrap();
    let opened = cluster.leader(1).info(1).expect("it runs").applied_slot;
    let end = Instant::now() + PATIENCE;
    while cluster.leader(1).info(1).expect("it runs").applied_slot == opened {
        assert!(Instant::now() < end, "no session expires");
        std::thread::sleep(Duration::from_millis(20));
    }
    let expired = cluster.leader(1).info(1).expect("it runs").applied_slot;
    assert_eq!(settle(&cluster, &mut session, b"two"), Err(ProposeError::SessionExpired));
    cluster.stop_node(1);
    cluster.start_node(1);
    assert!(cluster.leader(1).info(1).expect("it runs").applied_slot >= expired);
    session.attach(cluster.leader(1));
    assert_eq!(session.retry().pop().expect("it is not settled").wait(), Err(ProposeError::SessionExpired));
    assert_eq!(cluster.log(1, 1, 1), [b"one"]);
}

#[test]
fn entries_of_a_mebibyte_pass_and_so_do_larger_ones() {
    let cluster = Cluster::start(3, |c| c.groups = 1);
    let large = vec![7; ENTRY_BYTES_MAX];
    for sequence in 1..=8 {
        cluster.commit(1, 1, sequence, &Entries::one(&large).unwrap());
    }
    let larger = vec![7; ENTRY_BYTES_MAX + 1];
    cluster.commit(1, 1, 9, &Entries::one(&larger).unwrap());
    for node in 1..=3 {
        let log = cluster.log(node, 1, 9);
        assert!(log[8] == larger && log[..8].iter().all(|entry| *entry == large));
    }
}

/// Holds what it was given, and what it had before.
struct Holds {
    durable: u64,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl StateMachine for Holds {
    fn durable_index(&self) -> u64 {
        self.durable
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.seen.lock().expect("no holder panics").push(batch.first_index);
        self.durable = batch.first_index + batch.entries.len() as u64 - 1;
        Ok(())
    }
}

/// What a leader applies may be chosen by others' votes, before its own log has it: a power cut can leave its state
/// machine ahead of its log.
#[test]
fn a_state_machine_may_stand_before_the_end_of_its_log() {
    let mut cluster = Cluster::start(1, |_| {});
    for sequence in 1..=3 {
        cluster.commit(1, 1, sequence, &Entries::one(b"early").unwrap());
    }
    cluster.stop_node(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let machine = Arc::clone(&seen);
    let machines: MachineFactory = Arc::new(move |_| {
        Ok(Some(Box::new(Holds { durable: 5, seen: Arc::clone(&machine) }) as Box<dyn StateMachine>))
    });
    let options = Options { machines: Some(machines), ..Options::default() };
    cluster.nodes[0] = Some(Node::start(cluster.configs[0].clone(), options).expect("it starts"));
    for sequence in 4..=7 {
        cluster.commit(1, 1, sequence, &Entries::one(b"late").unwrap());
    }
    assert_eq!(*seen.lock().expect("no holder panics"), [6, 7]);
}

/// Stamps entries with a number of its own before they are proposed, and keeps what it applies.
struct Stamps {
    stamped: u64,
    applied: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl StateMachine for Stamps {
    fn durable_index(&self) -> u64 {
        0
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError> {
        self.applied.lock().expect("no holder panics").extend(batch.entries.iter().map(<[u8]>::to_vec));
        Ok(())
    }

    fn prepares_proposals(&self) -> bool {
        true
    }

    fn before_propose(&mut self, entry: &[u8]) -> Result<Option<Vec<u8>>, MachineError> {
        match entry {
            b"refuse" => Err("as asked".into()),
            b"grow" => Ok(Some(vec![0; (64 << 20) + 1])),
            _ => {
                self.stamped += 1;
                Ok(Some([entry, &self.stamped.to_le_bytes()].concat()))
            }
        }
    }
}

#[test]
fn what_a_state_machine_makes_of_an_entry_is_the_same_on_all_replicas() {
    let mut cluster = Cluster::start(3, |_| {});
    let mut applied = vec![];
    for node in 1..=3 {
        cluster.stop_node(node);
    }
    for node in 0..3 {
        let of = Arc::new(Mutex::new(vec![]));
        applied.push(Arc::clone(&of));
        // Each would stamp with other numbers.
        let first = 1000 * node as u64;
        let machines: MachineFactory = Arc::new(move |group| {
            let applied = Arc::clone(&of);
            Ok((group == 1).then(|| Box::new(Stamps { stamped: first, applied }) as Box<dyn StateMachine>))
        });
        let options = Options { machines: Some(machines), ..Options::default() };
        cluster.nodes[node] = Some(Node::start(cluster.configs[node].clone(), options).expect("it starts"));
    }
    for round in 0..20 {
        let mut batch = Entries::new();
        (0..3).for_each(|n| batch.push(&[round as u8, n]).expect("it is small"));
        cluster.commit(1, 1, 3 * round + 1, &batch);
    }
    for entry in [&b"refuse"[..], b"grow"] {
        let refused = loop {
            match cluster.leader(1).propose(1, entry).wait() {
                Err(ProposeError::Rejected(Rejection::NotLeader { .. } | Rejection::Overloaded { .. })) => {}
                outcome => break outcome,
            }
        };
        let expected = if entry == b"grow" { Rejection::TooLarge } else { Rejection::Refused };
        assert_eq!(refused, Err(ProposeError::Rejected(expected)));
    }
    let logs = [1, 2, 3].map(|node| cluster.log(node, 1, 60));
    assert!(logs[0] == logs[1] && logs[1] == logs[2]);
    for (at, entry) in logs[0].iter().enumerate() {
        assert_eq!((entry.len(), &entry[..2]), (10, &[at as u8 / 3, at as u8 % 3][..]));
    }
    let end = Instant::now() + PATIENCE;
    while applied.iter().any(|of| *of.lock().expect("no holder panics") != logs[0]) {
        assert!(Instant::now() < end, "a machine was given something else");
        std::thread::sleep(Duration::from_millis(10));
    }
}
