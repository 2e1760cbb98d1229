//! A database that tails its log: propose, and read what is committed back in order.
//!
//! `cargo run -p synod --example tail`

use std::time::Duration;

use synod::{Config, Member, Node, Options, new_cluster_id};

/// Runs a cluster of one node; more nodes differ only in `members`.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("synod-example-tail-{}", std::process::id()));
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = Config::new(new_cluster_id(), 1, &dir, vec![Member { node: 1, address }]);
    Node::init(&config)?;
    let node = Node::start(config, Options::default())?;
    let log = node.handle();
    log.wait_leader(1, Duration::from_secs(10)).ok_or("no leader")?;

    for word in ["one", "two", "three"] {
        let committed = log.propose(1, word.as_bytes()).wait()?;
        println!("{word} is committed at index {}", committed.first_index);
    }
    let mut tail = log.subscribe(1, 1);
    while tail.next_index() <= 3 {
        for entry in tail.next(Duration::from_secs(1))?.entries.iter() {
            println!("read {}", String::from_utf8_lossy(entry));
        }
    }
    node.shutdown();
    Ok(std::fs::remove_dir_all(dir)?)
}
