//! Clusters whose logs are in a store of one's own.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use synod::log_store::{DiskError, DiskOp, LogStore};
use synod::simulation::FailingStore;
use synod::{DiskBackend, Entries, Node, Options, StartError};
use synod_sim::memory_logs::MemoryLogs;
use synod_sim::{Cluster, PATIENCE};

/// A node on a store, and the way on which it says why it ends.
fn start(cluster: &mut Cluster, node: u64, store: Arc<dyn LogStore>) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    let on_fatal = Arc::new(move |reason: &str| drop(tell.send(reason.to_owned())));
    let options = Options { on_fatal: Some(on_fatal), log_store: Some(store), ..Options::default() };
    cluster.nodes[node as usize - 1] = Some(Node::start(cluster.configs[node as usize - 1].clone(), options).unwrap());
    told
}

fn entry(n: u64) -> Vec<u8> {
    [&n.to_le_bytes()[..], &vec![n as u8; 20_000]].concat()
}

fn commit(cluster: &Cluster, from: u64, to: u64) {
    (from..=to).for_each(|n| cluster.commit(1, 1, n, &Entries::one(&entry(n)).unwrap()));
}

fn check(cluster: &Cluster, nodes: &[u64], count: u64) {
    let expected: Vec<Vec<u8>> = (1..=count).map(entry).collect();
    for node in nodes {
        assert!(cluster.log(*node, 1, count) == expected, "node {node} has another log");
    }
}

/// Writes, and meanwhile, one node after the other, ends it with all that its store has not answered and lets it come back.
#[test]
fn logs_in_memory_outlive_their_nodes() {
    let mut cluster = Cluster::prepare(3, |c| (c.segment_mib, c.retain_mib, c.cache_mib) = (4, 32, 1));
    let stores: Vec<Arc<MemoryLogs>> = (0..3).map(|_| Arc::default()).collect();
    let mut fatal: Vec<_> = (1..=3).map(|node| start(&mut cluster, node, stores[node as usize - 1].clone())).collect();
    commit(&cluster, 1, 300);
    let mut written = 300;
    for node in 1..=3_u64 {
        let at = node as usize - 1;
        thread::scope(|scope| {
            let writes = scope.spawn(|| commit(&cluster, written + 1, written + 100));
            stores[at].set_failing(true);
            let reason = fatal[at].recv_timeout(PATIENCE).expect("a node without a log ends");
            assert!(reason.contains("cannot write the log in memory"), "{reason}");
            writes.join().expect("the others go on");
        });
        written += 100;
        cluster.stop_node(node);
        stores[at].set_failing(false);
        fatal[at] = start(&mut cluster, node, stores[at].clone());
        check(&cluster, &[node], written);
    }
    // All at once, and the logs are all that there is.
    (1..=3).for_each(|node| cluster.stop_node(node));
    (1..=3).for_each(|node| drop(start(&mut cluster, node, stores[node as usize - 1].clone())));
    check(&cluster, &[1, 2, 3], written);
    // Enough for segments to be used again.
    commit(&cluster, written + 1, written + 1200);
    (1..=3).for_each(|node| cluster.stop_node(node));
    (1..=3).for_each(|node| drop(start(&mut cluster, node, stores[node as usize - 1].clone())));
    for node in 1..=3 {
        let mut tail = cluster.node(node).subscribe(1, written + 1101);
        let end = Instant::now() + PATIENCE;
        let mut log = Vec::new();
        while log.len() < 100 {
            assert!(Instant::now() < end, "node {node} has only {} entries of the end", log.len());
            let entries = tail.next(Duration::from_millis(200)).expect("the end is readable");
            log.extend(entries.entries.iter().map(<[u8]>::to_vec));
        }
        assert!(log == (written + 1101..=written + 1200).map(entry).collect::<Vec<_>>());
    }
    for store in stores {
        assert_eq!(store.count(), 1);
        store.spoil(|segments| assert!(*segments.keys().next().expect("there are some") > 1, "none was trimmed"));
    }
}

#[test]
fn another_number_of_shards_moves_logs_within_their_store() {
    let mut cluster = Cluster::prepare(1, |c| (c.groups, c.segment_mib) = (4, 4));
    let store = Arc::new(MemoryLogs::default());
    drop(start(&mut cluster, 1, store.clone()));
    for group in 1..=4 {
        cluster.commit(group, 1, 1, &Entries::one(&[group as u8]).unwrap());
    }
    for shards in [3, 2] {
        cluster.stop_node(1);
        cluster.configs[0].shards = shards;
        drop(start(&mut cluster, 1, store.clone()));
        assert_eq!(store.count(), shards, "the logs of before are forgotten");
        for group in 1..=4 {
            assert_eq!(cluster.log(1, group, 1), [vec![group as u8]]);
        }
    }
}

/// All groups of a node go to other cores' logs while writes are under way: first of the old logs, whose node votes, then of
/// the new ones. What no write has answered is lost each time; a vote that was given is not, and the group goes on with it.
#[test]
fn group_moved_between_cores_mid_fsync() {
    let mut cluster = Cluster::prepare(3, |c| (c.groups, c.segment_mib, c.shards, c.pin) = (3, 4, 2, Some(false)));
    let stores: Vec<Arc<MemoryLogs>> = (0..3).map(|_| Arc::default()).collect();
    let start_on = |cluster: &mut Cluster, node: u64| start(cluster, node, stores[node as usize - 1].clone());
    let mut fatal: Vec<_> = (1..=3).map(|node| start_on(&mut cluster, node)).collect();
    let mut written = 0;
    for shards in [1, 3, 2] {
        // Without the second node every vote of the third counts.
        commit(&cluster, written + 1, written + 20);
        cluster.stop_node(2);
        commit(&cluster, written + 21, written + 40);
        stores[2].set_failing(true);
        drop(cluster.leader(1).propose(1, b"perhaps"));
        fatal[2].recv_timeout(PATIENCE).expect("a node without a log ends");
        cluster.stop_node(1);
        cluster.stop_node(3);
        stores[2].set_failing(false);
        cluster.configs.iter_mut().for_each(|config| config.shards = shards);
        // A write of the new logs fails: of the third node's first one the segment, then its header, then a frame.
        for number in 1..=3 {
            let left = AtomicI64::new(number);
            let failing = FailingStore::new(stores[2].clone(), move |op| {
                let counts = matches!(op, DiskOp::Write { .. } | DiskOp::Prepare { .. });
                let is_it = counts && left.fetch_sub(1, Ordering::SeqCst) == 1;
                is_it.then(|| DiskError::from_io("write", "the segment", &io::Error::from_raw_os_error(5)))
            });
            let options = Options { log_store: Some(Arc::new(failing)), ..Options::default() };
            let refused = Node::start(cluster.configs[2].clone(), options).err().expect("it is broken off").to_string();
            assert!(refused.contains("cannot be copied"), "{refused}");
        }
        fatal = [1, 3].map(|node| start_on(&mut cluster, node)).into();
        commit(&cluster, written + 41, written + 60);
        fatal.insert(1, start_on(&mut cluster, 2));
        written += 60;
        let expected: Vec<Vec<u8>> = (1..=written).map(entry).collect();
        for node in 1..=3 {
            // What was proposed in the last moment may be there too.
            let log = cluster.log(node, 1, written);
            let kept: Vec<Vec<u8>> = log.into_iter().filter(|entry| entry != b"perhaps").collect();
            assert!(expected.starts_with(&kept) && kept.len() as u64 + 3 >= written, "node {node} has another log");
        }
    }
}

#[test]
fn a_store_that_is_empty_or_holds_garbage_starts_no_node() {
    let mut cluster = Cluster::prepare(1, |c| c.segment_mib = 4);
    let store = Arc::new(MemoryLogs::default());
    drop(start(&mut cluster, 1, store.clone()));
    cluster.commit(1, 1, 1, &Entries::one(b"kept").unwrap());
    cluster.stop_node(1);
    let refused = |store: Option<Arc<dyn LogStore>>| {
        let options = Options { log_store: store, ..Options::default() };
        match Node::start(cluster.configs[0].clone(), options) {
            Err(StartError::Shard { reason, .. }) => reason,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("its votes are lost"),
        }
    };
    for other in [None, Some(Arc::new(MemoryLogs::default()) as Arc<dyn LogStore>)] {
        assert!(refused(other).contains("is it the log store that this node was made with?"));
    }
    let whole: Arc<std::sync::Mutex<Vec<_>>> = Arc::default();
    store.spoil(|segments| whole.lock().unwrap().push(segments.clone()));
    // The first frame behind the header.
    store.spoil(|segments| segments.values_mut().next().unwrap()[4096..4200].fill(0xa5));
    let reason = refused(Some(store.clone()));
    assert!(reason.contains("damaged") && reason.contains("log in memory"), "{reason}");
    store.spoil(|segments| segments.values_mut().for_each(|file| file.fill(0xa5)));
    let reason = refused(Some(store.clone()));
    assert!(reason.contains("is lost"), "{reason}");
    store.spoil(|segments| *segments = whole.lock().unwrap()[0].clone());
    drop(start(&mut cluster, 1, store));
    assert_eq!(cluster.log(1, 1, 1), [b"kept"]);
}

#[test]
fn a_store_whose_write_fails_ends_its_nodes_votes() {
    let mut cluster = Cluster::prepare(3, |_| {});
    let failing = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&failing);
    let store = Arc::new(FailingStore::new(Arc::new(DiskBackend::Uring), move |op| {
        let is_it = matches!(op, DiskOp::Write { .. }) && fails.load(Ordering::SeqCst);
        is_it.then(|| DiskError::from_io("write", "the segment", &io::Error::from_raw_os_error(5)))
    }));
    let fatal = start(&mut cluster, 3, store.clone());
    (1..=2).for_each(|node| cluster.start_node(node));
    commit(&cluster, 1, 20);
    // Without the second node every vote of the third counts.
    cluster.stop_node(2);
    commit(&cluster, 21, 40);
    failing.store(true, Ordering::SeqCst);
    drop(cluster.leader(1).propose(1, b"perhaps"));
    let reason = fatal.recv_timeout(PATIENCE).expect("it ends loudly");
    assert!(reason.contains("cannot write the segment") && reason.contains("shard 0 cannot go on"), "{reason}");
    cluster.stop_node(3);
    failing.store(false, Ordering::SeqCst);
    cluster.start_node(2);
    let fatal = start(&mut cluster, 3, store);
    commit(&cluster, 41, 60);
    let log = cluster.log(3, 1, 60);
    assert!(log[..40] == (1..=40).map(entry).collect::<Vec<_>>());
    assert!(fatal.try_recv().is_err(), "it goes on from what its disk has");
}
