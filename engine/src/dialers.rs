//! The threads that keep a node's connections up to the peers that it dials, one for each.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::outcome::NodeId;

/// What a dialer is told.
pub(crate) enum Redial {
    /// A shard has no connection, or none any more.
    Shard(usize),
    /// The node stops.
    Stop,
}

/// All dialers of a node.
#[derive(Default)]
pub(crate) struct Dialers {
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    /// No dialer is started any more.
    stopped: bool,
    by_node: HashMap<NodeId, (Sender<Redial>, JoinHandle<()>)>,
}

impl Dialers {
    /// Starts the dialer of a peer for so many shards, unless it has one or the node stops. `spawn` is given what the
    /// dialer is told.
    pub(crate) fn start(&self, node: NodeId, shards: usize, spawn: impl FnOnce(Receiver<Redial>) -> JoinHandle<()>) {
        let mut running = self.running();
        if running.stopped || running.by_node.contains_key(&node) {
            return;
        }
        let (send, receive) = mpsc::channel();
        (0..shards).for_each(|shard| drop(send.send(Redial::Shard(shard))));
        let thread = spawn(receive);
        running.by_node.insert(node, (send, thread));
    }

    /// A shard needs a connection to a peer; nothing happens when that one dials.
    pub(crate) fn redial(&self, node: NodeId, shard: usize) {
        if let Some((dialer, _)) = self.running().by_node.get(&node) {
            let _ = dialer.send(Redial::Shard(shard));
        }
    }

    /// Tells all of them to stop.
    pub(crate) fn stop(&self) {
        let mut running = self.running();
        running.stopped = true;
        running.by_node.values().for_each(|(dialer, _)| drop(dialer.send(Redial::Stop)));
    }

    /// Waits until they have.
    pub(crate) fn join(&self) {
        let ended: Vec<_> = self.running().by_node.drain().collect();
        ended.into_iter().for_each(|(_, (_, thread))| drop(thread.join()));
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().expect("no holder panics")
    }
}
