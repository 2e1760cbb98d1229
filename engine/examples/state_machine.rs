//! A replicated counter: a state machine that runs on the shard of its group.
//!
//! `cargo run -p synod --example state_machine`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use synod::{CommittedBatch, Config, Member, Node, Options, StateMachine, new_cluster_id};

/// Adds up what the entries say. It lives in memory, so after a restart it gets the whole log again.
struct Counter(Arc<AtomicU64>);

impl StateMachine for Counter {
    fn durable_index(&self) -> u64 {
        0
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        for entry in batch.entries.iter() {
            self.0.fetch_add(std::str::from_utf8(entry)?.parse::<u64>()?, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Runs a cluster of one node; more nodes differ only in `members`.
pub fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("synod-example-machine-{}", std::process::id()));
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = Config::new(new_cluster_id(), 1, &dir, vec![Member { node: 1, address }]);
    Node::init(&config)?;
    let total = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&total);
    let machines: synod::MachineFactory = Arc::new(move |_group| Ok(Some(Box::new(Counter(Arc::clone(&counter))))));
    let node = Node::start(config, Options { machines: Some(machines), ..Options::default() })?;
    let log = node.handle();
    log.wait_leader(1, Duration::from_secs(10)).ok_or("no leader")?;

    for number in 1..=10 {
        // `Ok` means committed on a quorum, and applied here.
        log.propose(1, number.to_string().as_bytes()).wait()?;
    }
    println!("the sum of 1 to 10 is {}", total.load(Ordering::SeqCst));
    assert_eq!(total.load(Ordering::SeqCst), 55);
    node.shutdown();
    Ok(std::fs::remove_dir_all(dir)?)
}
