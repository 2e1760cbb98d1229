//! Leader election as a service: the group's leader is the master of some work, and its epoch is the master's token.
//!
//! A master works only while its term lasts. It may be late all the same, when it is held up after it has looked. So what it
//! works on takes the token with each piece of work, and refuses one that is older than another it has seen.
//!
//! `cargo run -p synod --example election`

mod cluster;

use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cluster::{Cluster, GROUP, PATIENCE, PAUSE};
use synod::{Consistency, Entries, Epoch, Event, Handle, NodeId, Options, ProposeError, Proposer};

/// The node that was told, the leader, and its epoch.
type Told = (NodeId, NodeId, Epoch);

/// What the masters work on. It does not know who leads, but it compares tokens.
#[derive(Default)]
struct Storage {
    newest: u64,
}

impl Storage {
    fn write(&mut self, token: Epoch) -> Result<(), String> {
        if token.number() < self.newest {
            return Err(format!("token {token} is old"));
        }
        self.newest = token.number();
        Ok(())
    }
}

/// A node's time as the master.
struct Term {
    node: Handle,
    /// Bound to the epoch: what it proposes is committed in this term or never.
    journal: Proposer,
}

impl Term {
    fn token(&self) -> Epoch {
        self.journal.epoch()
    }

    /// Whether this node still leads, in this very epoch. The first time it asks the others, and gets its lease with that;
    /// from then on the lease answers, which costs no message, as long as it is asked every now and then.
    fn lasts(&self) -> bool {
        let point = self.node.read_index(GROUP, Consistency::Linearizable, PATIENCE).wait();
        point.is_ok_and(|point| point.epoch == Some(self.token()))
    }

    /// Notes a piece of work in the log, and does it.
    fn work(&mut self, storage: &mut Storage) -> Result<(), Box<dyn Error>> {
        if !self.lasts() {
            return Err("the term is over".into());
        }
        self.journal.propose(Entries::one(b"a piece of work")?).wait()?;
        Ok(storage.write(self.token())?)
    }
}

/// Has whoever is elected work as the master, until a listener has told of it.
fn serve(cluster: &Cluster, storage: &mut Storage, told: &Receiver<Told>) -> Result<Term, Box<dyn Error>> {
    // A term may end at any time, even this early. Then another begins.
    let term = cluster.with_leader(|node| {
        let mut term = Term { journal: node.proposer(GROUP)?, node: node.clone() };
        (1..=3).try_for_each(|_| term.work(storage))?;
        Ok(term)
    })?;
    let (node, token) = (term.node.node(), term.token());
    let lease = term.node.info(GROUP).is_some_and(|info| info.lease);
    println!("node {node} has worked with token {token}, lease: {lease}");
    let listener = loop {
        match told.recv_timeout(PATIENCE)? {
            (listener, leader, epoch) if (leader, epoch) == (node, token) => break listener,
            _ => {}
        }
    };
    println!("node {listener} was told that node {node} leads, with token {token}");
    Ok(term)
}

/// Three masters, one after the other.
pub fn main() -> Result<(), Box<dyn Error>> {
    let (tell, told) = channel();
    let options = move |node| {
        let tell = tell.clone();
        // It runs on the threads of the shards, so it only passes on what it is told.
        let listener = move |event: &Event| {
            if let Event::LeaderChanged { leader: Some(leader), epoch: Some(epoch), .. } = event {
                let _ = tell.send((node, *leader, *epoch));
            }
        };
        Options { events: Some(Arc::new(listener)), ..Options::default() }
    };
    let mut cluster = Cluster::start("election", options)?;
    let mut storage = Storage::default();

    let mut first = serve(&cluster, &mut storage, &told)?;
    let next = cluster.handles().map(|node| node.node()).find(|node| *node != first.node.node()).ok_or("no other")?;
    println!("node {} hands over to node {next}", first.node.node());
    let end = Instant::now() + PATIENCE;
    while first.lasts() && Instant::now() < end {
        // It may be refused, for instance while the two are not connected.
        if first.node.transfer(GROUP, next, Duration::from_secs(5)).wait().is_err() {
            std::thread::sleep(PAUSE);
        }
    }

    let second = serve(&cluster, &mut storage, &told)?;
    assert!(second.token() > first.token());
    // The first master is late: neither the group nor the storage takes anything of it.
    let late = first.journal.propose(Entries::one(b"late")?).wait();
    assert!(matches!(late, Err(ProposeError::Rejected(_))), "{late:?}");
    assert!(!first.lasts() && storage.write(first.token()).is_err());

    println!("node {} is stopped", second.node.node());
    cluster.stop_node(second.node.node());
    let third = serve(&cluster, &mut storage, &told)?;
    assert!(third.token() > second.token() && third.node.node() != second.node.node());
    assert!(!second.lasts() && storage.write(second.token()).is_err());
    println!("the tokens {} and {} are refused", first.token(), second.token());
    cluster.shutdown()
}
