//! Echo: a line goes to the leader, every node's state machine answers it, and the proposer reads its own one's answer.
//!
//! `cargo run -p synod --example echo`

mod cluster;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use cluster::{Cluster, GROUP, PATIENCE};
use synod::{CommittedBatch, Consistency, Options, StateMachine};

/// Answers each line. It lives in memory, so after a restart it gets the whole log again.
#[derive(Default)]
struct Echo {
    /// By the indexes of the lines.
    answers: BTreeMap<u64, String>,
}

impl StateMachine for Echo {
    fn durable_index(&self) -> u64 {
        0
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        // All nodes get the same lines at the same indexes, so all give the same answers.
        for (index, line) in (batch.first_index..).zip(batch.entries.iter()) {
            self.answers.insert(index, format!("line {index} is: {}", String::from_utf8_lossy(line)));
        }
        Ok(())
    }
}

/// Says three lines to a cluster of three nodes.
pub fn main() -> Result<(), Box<dyn Error>> {
    let options = |_node| Options {
        machines: Some(Arc::new(|_group| Ok(Some(Box::new(Echo::default()))))),
        ..Options::default()
    };
    let cluster = Cluster::start("echo", options)?;

    for line in ["hello", "is anybody there?", "good night"] {
        // Committed: it is on the disks of two nodes at least, and the leader's machine has it. The others' soon will.
        let committed = cluster.with_leader(|leader| Ok(leader.propose(GROUP, line.as_bytes()).wait()?))?;
        let index = committed.first_index;
        for node in cluster.handles() {
            let answer = move |echo: &Echo| echo.answers.get(&index).cloned();
            let answer = node.query(GROUP, Consistency::AtLeast(index), PATIENCE, answer).wait()?;
            assert_eq!(answer, Some(format!("line {index} is: {line}")));
            println!("node {} answers: {}", node.node(), answer.unwrap_or_default());
        }
    }
    cluster.shutdown()
}
