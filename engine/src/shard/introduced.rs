//! Nodes that are introduced while the shard runs: each is one more peer, behind those that are there already.
//!
//! Invariants: a peer keeps its place as long as the process lives, so whatever refers to one by its place stays right;
//! whether the replicas of a new one vote, the groups' configurations say, as of any other.

use super::elections::early_tries;
use super::links::Peer;
use super::support::Granted;
use super::{Notice, Shard};
use crate::config::Member;
use crate::introductions::Introduction;
use crate::outcome::NodeId;
use crate::wire::Malformed;
use crate::wire::introductions::{self, INTRODUCTIONS};

/// Whom this shard knows besides the members of the configuration.
#[derive(Debug)]
pub(crate) struct Introduced {
    /// The nodes of the configuration, this one among them: they are what that says.
    configured: Vec<NodeId>,
    /// All introductions that the node knows durably.
    list: Vec<Introduction>,
}

impl Introduced {
    pub(super) fn nobody(node: NodeId, peers: &[NodeId]) -> Self {
        Self { configured: peers.iter().copied().chain([node]).collect(), list: Vec::new() }
    }
}

impl Shard {
    /// The node knows these introductions, durably: all that it knows.
    pub(crate) fn introduce(&mut self, list: Vec<Introduction>) {
        let configured = |of: &&Introduction| self.introduced.configured.contains(&of.node);
        let others: Vec<Introduction> = list.iter().filter(|of| !configured(of)).copied().collect();
        self.introduced.list = list;
        let peers = self.peers.len();
        others.into_iter().for_each(|of| self.take_in(of));
        if self.peers.len() > peers {
            self.grow();
        }
        (0..self.peers.len()).for_each(|peer| self.send_introductions(peer));
    }

    /// All introductions that the node knows.
    pub(crate) fn introductions(&self) -> &[Introduction] {
        &self.introduced.list
    }

    /// From now on the node is a member, and is what it was introduced as.
    fn take_in(&mut self, of: Introduction) {
        let Introduction { node, address, witness, .. } = of;
        let config = &mut self.made.maker.config;
        config.witnesses.retain(|other| *other != node);
        if witness {
            config.witnesses.push(node);
        }
        if let Some(member) = config.members.iter_mut().find(|member| member.node == node) {
            member.address = address;
            return;
        }
        config.members.push(Member { node, address });
        // Epochs of different processes must differ.
        let granted = Granted::starting_at(self.draw(0..u64::MAX));
        self.peers.push(Peer::new(node, granted));
    }

    /// There are more peers than before: who has no vote may ask them, and some may be the better leaders.
    fn grow(&mut self) {
        for at in 0..self.groups.len() as u32 {
            if self.is_gone(at) {
                continue;
            }
            let peers = self.peers.len();
            let group = &mut self.groups[at as usize];
            group.replica.peers_grew(peers);
            let (id, config) = (group.names.id, &self.made.maker.config);
            if group.kind.is_visible() {
                group.preferred = config.preferred(id);
            }
            if self.started {
                self.arm_timer(at, false);
                if self.groups[at as usize].replica.leads() {
                    self.note_stray(at);
                }
            } else {
                self.prefers[at as usize] = early_tries(config.prefers(id));
            }
        }
    }

    // ---- from node to node ----

    /// Tells a peer all that the node knows. One shard does that for all.
    pub(super) fn send_introductions(&mut self, peer: usize) {
        if self.shard.0 == 0 && !self.introduced.list.is_empty() {
            self.push_frame(peer, INTRODUCTIONS, &introductions::encode(&self.introduced.list));
        }
    }

    /// A peer tells what it knows. The node makes it durable before it counts.
    pub(super) fn on_introductions(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let heard = introductions::decode(body)?;
        let known = |of: &Introduction| self.introduced.list.contains(of);
        if !heard.iter().all(known) {
            self.notices.push(Notice::Heard(heard));
        }
        Ok(())
    }
}
