//! What a node knows of its peers for good: whose directory is whose, and which replicas a shard began with.
//!
//! The voters of a shard's groups at the beginning are the cluster's *founding members*, which every founding node's
//! directory names from its making on, with the replicas that they had at their first contact: the shard's *founders*.
//! Members that the configuration gets later found nothing, and neither does a node that was made to join. A replica may vote in a shard only after *mutual* contact with every other
//! member: each of the two holds the other's replica id durably. So a replica that ever voted is known to all others, and
//! the replica of an emptied directory, which bears another id, gets no contact that is mutual: it never votes.
//!
//! Invariants:
//! - A founder is never forgotten nor exchanged for another, whatever becomes of its node or of the configuration.
//! - Two nodes that name other founding members have no contact: they are of two clusters, whatever id these have.
//! - Contact is mutual only between founders, both with the ids that they have now.
//! - What a peer is told to be known is durable before it is told.
//! - A directory passes for its node only until a replacement came, and then never again.
//!
//! Two nodes may disagree on a third member's founder when that member's directory was emptied before it had met both.
//! Neither of its replicas can vote then, as each lacks one of the two; only a replacement can.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rkyv::rancor::Failure;
use rkyv::{Archive, Deserialize, Serialize};
use synod_transport::hello::{HelloStatus, KnownPeer, Refusal};

use crate::meta::{DirectoryError, io_error};
use crate::outcome::NodeId;
use crate::sealed::{self, Broken};

const MAGIC: [u8; 8] = *b"SYNODPRS";
const FORMAT: u32 = 2;
const PEERS: &str = "peers";
/// Replaced directories that are remembered of a peer; beyond that the oldest one is forgotten.
const RETIRED_MAX: usize = 64;

/// The replicas that a shard began with, one of each member, by node.
pub(crate) type Genesis = Vec<(NodeId, u128)>;

/// All that a node knows of its peers.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
struct PeersV2 {
    /// The incarnation of the directory that this belongs to.
    owner: u128,
    /// The members of the cluster when this node was made as one of them, in order; none: it was made later.
    founding: Vec<NodeId>,
    peers: Vec<PeerV1>,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
struct PeerV1 {
    node: NodeId,
    incarnation: u128,
    /// The highest boot count seen of this incarnation.
    boot: u64,
    /// The incarnations that were replaced, oldest first.
    retired: Vec<u128>,
    /// By shard.
    founders: Vec<FounderV1>,
}

/// What is known of a peer's founder in one shard.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
struct FounderV1 {
    /// 0 as long as there was no contact.
    replica: u128,
    /// The founder knows this node's founder, too.
    mutual: bool,
}

/// One end of a contact: this node's shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Me {
    pub(crate) shard: usize,
    pub(crate) replica: u128,
    /// Whether that replica may be a founder.
    pub(crate) founder: bool,
}

/// The other end: what a peer said of itself, in a hello or in the answer to one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u128,
    pub(crate) boot: u64,
    pub(crate) founder: bool,
    pub(crate) replica: u128,
    /// The replica of ours that it holds as a founder, durably; 0 for none.
    pub(crate) knows: u128,
}

/// What came of a contact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Met {
    /// The peer's founder that this node knows from now on; 0 for none.
    pub(crate) founder: u128,
    /// The peer is that founder, may be told so, and has not said yet that it knows this node's.
    pub(crate) greet: bool,
    /// The shard's founders, when the last of them was met just now.
    pub(crate) genesis: Option<Genesis>,
}

impl PeersV2 {
    fn peer(&self, node: NodeId) -> Option<&PeerV1> {
        self.peers.iter().find(|peer| peer.node == node)
    }

    fn known(&self, node: NodeId) -> Option<KnownPeer> {
        self.peer(node).map(|peer| KnownPeer {
            incarnation: peer.incarnation,
            boot: peer.boot,
            retired: peer.retired.clone(),
        })
    }

    /// Takes note of a peer that was let in; gives what is known of its founder.
    fn meet(&mut self, me: &Me, said: &Said, shards: usize) -> FounderV1 {
        let at = self.peers.iter().position(|peer| peer.node == said.node).unwrap_or_else(|| {
            self.peers.push(PeerV1 {
                node: said.node,
                incarnation: said.incarnation,
                boot: said.boot,
                retired: Vec::new(),
                founders: vec![FounderV1::default(); shards],
            });
            self.peers.len() - 1
        });
        let peer = &mut self.peers[at];
        if peer.incarnation == said.incarnation {
            peer.boot = peer.boot.max(said.boot);
        } else {
            assert!(!peer.retired.contains(&said.incarnation), "who was replaced is not let in");
            if peer.retired.len() == RETIRED_MAX {
                peer.retired.remove(0);
            }
            peer.retired.push(std::mem::replace(&mut peer.incarnation, said.incarnation));
            peer.boot = said.boot;
        }
        // A shard that the cluster did not begin with has no founders of its own.
        let Some(known) = peer.founders.get_mut(me.shard) else { return FounderV1::default() };
        if me.founder && said.founder && known.replica == 0 {
            known.replica = said.replica;
        }
        let founders = me.founder && said.founder && known.replica == said.replica;
        known.mutual |= founders && said.knows == me.replica;
        *known
    }

    /// A contact as a whole: what is known behind it, and what came of it.
    fn contact(
        &self,
        owner: &Owner,
        me: &Me,
        said: &Said,
        judge: impl FnOnce(Option<&KnownPeer>) -> Result<(), Refusal>,
    ) -> Result<(Self, Met), Refusal> {
        judge(self.known(said.node).as_ref())?;
        let mut next = self.clone();
        let known = next.meet(me, said, owner.shards);
        let founders = me.founder && said.founder && known.replica == said.replica;
        let new = self.genesis(owner, me.shard).is_none();
        let genesis = if new { next.genesis(owner, me.shard) } else { None };
        Ok((next, Met { founder: known.replica, greet: founders && said.knows == 0, genesis }))
    }

    /// A shard's founders, once contact with all of them was mutual.
    fn genesis(&self, owner: &Owner, shard: usize) -> Option<Genesis> {
        if self.founding.is_empty() {
            return None;
        }
        let me = *owner.founders.as_ref()?.get(shard)?;
        let founder = |node: &NodeId| {
            if *node == owner.node {
                return Some((*node, me));
            }
            let known = self.peer(*node)?.founders.get(shard)?;
            known.mutual.then_some((*node, known.replica))
        };
        self.founding.iter().map(founder).collect()
    }
}

/// The node that a [`Peers`] belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u128,
    /// By shard, the replica of its first log; none: this node founds nothing.
    pub(crate) founders: Option<Vec<u128>>,
    /// How many shards the cluster began with: founders are theirs.
    pub(crate) shards: usize,
}

/// What a node knows of its peers, and the file that keeps it.
#[derive(Debug)]
pub(crate) struct Peers {
    dir: PathBuf,
    owner: Owner,
    book: Mutex<PeersV2>,
}

/// Makes the file of a new directory: nobody is known yet. `founding`: the members that found the cluster with this node, in
/// order; none when there is a cluster already.
pub(crate) fn init(dir: &Path, incarnation: u128, founding: Vec<NodeId>) -> Result<(), DirectoryError> {
    write(dir, &PeersV2 { owner: incarnation, founding, peers: Vec::new() }).map_err(io_error(&dir.join(PEERS)))
}

/// A number that two lists of founding members share only by a chance of one to 2^32; 0 for none.
fn digest(founding: &[NodeId]) -> u32 {
    let bytes: Vec<u8> = founding.iter().flat_map(|node| node.to_le_bytes()).collect();
    if founding.is_empty() { 0 } else { crc32c::crc32c(&bytes).max(1) }
}

impl Peers {
    /// Reads a directory's file. Without it there is no start: who was met would be met as for the first time.
    pub(crate) fn open(dir: &Path, owner: Owner) -> Result<Self, DirectoryError> {
        let file = dir.join(PEERS);
        let bytes = match sealed::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(DirectoryError::Damaged(file)),
            read => read.map_err(io_error(&file))?,
        };
        let book = decode(&bytes).map_err(|broken| DirectoryError::broken(file.clone(), broken))?;
        if book.owner != owner.incarnation {
            return Err(DirectoryError::MixedUp(file));
        }
        if book.peers.iter().any(|peer| peer.founders.len() != owner.shards) {
            return Err(DirectoryError::Damaged(file));
        }
        Ok(Self { dir: dir.to_owned(), owner, book: Mutex::new(book) })
    }

    /// Whether this node is one of those that the cluster began with.
    pub(crate) fn founds(&self) -> bool {
        !self.book().founding.is_empty()
    }

    /// The members that the cluster began with; none when this node was made later.
    pub(crate) fn founding_members(&self) -> Vec<NodeId> {
        self.book().founding.clone()
    }

    /// Names the founding members, for the handshake; 0 when this node founds nothing.
    pub(crate) fn founding(&self) -> u32 {
        digest(&self.book().founding)
    }

    /// What is known of a peer.
    pub(crate) fn known(&self, node: NodeId) -> Option<KnownPeer> {
        self.book().known(node)
    }

    /// The founder of a peer's shard that is known, 0 for none.
    pub(crate) fn founder(&self, node: NodeId, shard: usize) -> u128 {
        self.book().peer(node).and_then(|peer| peer.founders.get(shard)).map_or(0, |founder| founder.replica)
    }

    /// A shard's founders, once they are all known; for ever none at a replacement.
    pub(crate) fn genesis(&self, shard: usize) -> Option<Genesis> {
        self.book().genesis(&self.owner, shard)
    }

    /// The members with which this node had no mutual contact yet in a shard.
    pub(crate) fn missing(&self, shard: usize) -> Vec<NodeId> {
        let book = self.book();
        let met =
            |node: &NodeId| book.peer(*node).and_then(|peer| peer.founders.get(shard)).is_some_and(|of| of.mutual);
        book.founding.iter().copied().filter(|node| *node != self.owner.node && !met(node)).collect()
    }

    /// Judges a peer by what is known of it and, when it is let in, takes note of what it said. What comes back is durable.
    ///
    /// # Errors
    /// The judge's refusal, or that nothing can be kept now.
    pub(crate) fn meet(
        &self,
        me: &Me,
        said: &Said,
        judge: impl FnOnce(Option<&KnownPeer>) -> Result<(), Refusal>,
    ) -> Result<Met, Refusal> {
        let mut book = self.book();
        let (next, met) = book.contact(&self.owner, me, said, judge)?;
        if next != *book {
            write(&self.dir, &next).map_err(|error| {
                let file = self.dir.join(PEERS);
                tracing::error!(file = %file.display(), %error, "what was learned of a peer cannot be kept");
                Refusal {
                    status: HelloStatus::Busy,
                    text: format!("node {} cannot write down who you are ({error}): see its log", self.owner.node),
                }
            })?;
        }
        let before = book.known(said.node).filter(|known| known.incarnation != said.incarnation);
        if let Some(before) = before {
            let (old, new) = (format!("{:032x}", before.incarnation), format!("{:032x}", said.incarnation));
            tracing::warn!(node = said.node, old, new, "a peer's directory was replaced by a new one");
        }
        *book = next;
        Ok(met)
    }

    fn book(&self) -> MutexGuard<'_, PeersV2> {
        self.book.lock().expect("no holder panics")
    }
}

fn decode(bytes: &[u8]) -> Result<PeersV2, Broken> {
    let archive = sealed::unseal(MAGIC, FORMAT, bytes)?;
    rkyv::from_bytes::<PeersV2, Failure>(&archive).map_err(|_| Broken::Damaged)
}

fn encode(book: &PeersV2) -> Vec<u8> {
    let archive = rkyv::to_bytes::<Failure>(book).expect("plain numbers always have an archive");
    sealed::seal(MAGIC, FORMAT, &archive)
}

fn write(dir: &Path, book: &PeersV2) -> std::io::Result<()> {
    sealed::replace(dir, PEERS, &encode(book))
}

#[cfg(test)]
mod tests;
