//! What a node makes of introductions, on a thread of its own, and whom it dials.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, mpsc};

use super::{Node, Shared, spawn};
use crate::config::{Config, Member};
use crate::dialers::Dialers;
use crate::introducer::Introducing;
use crate::introductions::{IntroduceError, IntroduceOutcome, Introduction, Introductions};
use crate::mailbox::{Mail, Post};
use crate::outcome::{NodeId, Rejection};

impl Node {
    /// Starts the thread that takes introductions.
    pub(super) fn start_introducer(&mut self, introducing: mpsc::Receiver<Introducing>) {
        let (shared, posts) = (Arc::clone(&self.shared), self.posts.clone());
        let dialers = Arc::clone(&self.dialers);
        self.threads.push(spawn("synod-introducer", move || {
            while let Ok(next) = introducing.recv() {
                match next {
                    Introducing::Asked { member, witness, reply } => {
                        reply(shared.introduce(member, witness, &posts, &dialers));
                    }
                    Introducing::Heard(list) => shared.hear(&list, &posts, &dialers),
                    Introducing::Stop => return,
                }
            }
        }));
    }
}

impl Shared {
    /// Where a member listens now.
    pub(super) fn address_of(&self, node: NodeId) -> SocketAddr {
        let member = self.members().into_iter().find(|member| member.node == node);
        member.expect("nobody is forgotten").address
    }

    /// Starts a dialer for every member that this node dials and that has none. Of two nodes the one with the higher number
    /// dials.
    pub(super) fn start_dialers(self: &Arc<Self>, dialers: &Dialers, posts: &[Post]) {
        let dialled = |member: &Member| member.node < self.config.node;
        for Member { node, .. } in self.members().into_iter().filter(dialled) {
            dialers.start(node, posts.len(), |wanted| {
                let (shared, posts) = (Arc::clone(self), posts.to_vec());
                spawn(&format!("synod-dial-{node}"), move || shared.dial_peer(node, &wanted, &posts))
            });
        }
    }

    /// Somebody introduces a node. That is durable before anything is made of it.
    fn introduce(
        self: &Arc<Self>,
        member: Member,
        witness: bool,
        posts: &[Post],
        dialers: &Dialers,
    ) -> IntroduceOutcome {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Rejection::Stopping.into());
        }
        let changed = self.introduced.change(|known| known.introduce(&self.config, member, witness));
        let (outcome, changed) = changed.map_err(|error| IntroduceError::NotKept(error.to_string()))?;
        if changed {
            self.follow_introductions(posts, dialers);
        }
        outcome
    }

    /// Another node tells which nodes it knows.
    fn hear(self: &Arc<Self>, list: &[Introduction], posts: &[Post], dialers: &Dialers) {
        match self.introduced.change(|known| known.merge(list)) {
            Ok(((), true)) => self.follow_introductions(posts, dialers),
            Ok(((), false)) => {}
            Err(error) => tracing::error!(%error, "what another node knows of introduced nodes cannot be kept"),
        }
    }

    /// Makes members of all that were introduced.
    fn follow_introductions(self: &Arc<Self>, posts: &[Post], dialers: &Dialers) {
        let known = self.introduced.now();
        known.warn_of_conflicts(&self.config);
        tracing::info!(introduced = ?known.list(), "nodes were introduced");
        // A shard must know a peer before it is given a connection.
        posts.iter().for_each(|post| post.send_wait(Mail::Introduced(known.list().to_vec())));
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members(&self.config, &known);
        self.start_dialers(dialers, posts);
    }
}

/// The nodes that one with this configuration has for members.
pub(super) fn members(config: &Config, introduced: &Introductions) -> Vec<Member> {
    config.members.iter().copied().chain(introduced.members(config)).collect()
}
