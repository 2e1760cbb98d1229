//! What listeners hear of peers and checkpoints.

use std::time::{Duration, Instant};

use synod::{Entries, Event};
use synod_sim::sums::Sums;
use synod_sim::{Cluster, PATIENCE};

#[test]
fn listeners_hear_of_peers_and_checkpoints() {
    let mut cluster = Cluster::start(3, |config| {
        (config.segment_mib, config.retain_mib, config.wal_mib_max, config.cache_mib) = (4, 4, 40, 4);
        config.preferred_leader = Some(1);
    });
    let sums = Sums::default();
    for node in 1..=2 {
        cluster.stop_node(node);
        cluster.start_summing(node, &sums);
    }
    cluster.stop_node(3);
    let heard = cluster.start_heard(3, Some(&sums));
    let connected = |node| move |event: &Event| *event == Event::PeerConnected { shard: 0, node };
    heard.wait(1, connected(1));
    heard.wait(1, connected(2));

    let mut sequence = 0;
    let mut write = |cluster: &Cluster, entries: u64| {
        for _ in 0..entries {
            sequence += 1;
            cluster.commit(1, 1, sequence, &Entries::one(&[7; 64 << 10]).expect("it is below the limit"));
        }
    };
    write(&cluster, 3);
    let index = cluster.node(3).checkpoint(1).wait().expect("the machine takes checkpoints");
    heard.wait(1, |event| *event == Event::CheckpointTaken { group: 1, index });

    cluster.stop_node(2);
    heard.wait(1, |event| *event == Event::PeerLost { shard: 0, node: 2 });
    sums.forget(2);
    cluster.start_summing(2, &sums);
    heard.wait(2, connected(2));
    assert!(!heard.all().contains(&Event::PeerLost { shard: 0, node: 1 }), "{:?}", heard.all());

    // Who comes back after the others have trimmed their logs is given a checkpoint.
    cluster.stop_node(3);
    sums.forget(3);
    let end = Instant::now() + PATIENCE;
    while cluster.leader(1).info(1).expect("it is there").first_index <= index + 1 {
        assert!(Instant::now() < end, "the log is never trimmed");
        write(&cluster, 50);
        std::thread::sleep(Duration::from_millis(5));
    }
    let heard = cluster.start_heard(3, Some(&sums));
    heard.wait(1, |event| matches!(event, Event::CheckpointInstalled { group: 1, .. }));
}
