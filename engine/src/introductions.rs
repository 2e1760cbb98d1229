//! Nodes that a running cluster is told of, and what each node remembers of that.
//!
//! To *introduce* a node is to say where it listens, so that the others let it in, or dial it, without a restart. What is
//! said at one node spreads to all: whoever hears more than it knew passes on all that it knows.
//!
//! Invariants:
//! - Of two introductions of one node the same one counts everywhere: the one of the higher version, and of two with the same
//!   version the one of the greater address.
//! - A list only grows, and what it says of a node is only replaced by what counts more. So the order in which nodes hear of
//!   introductions makes no difference, as long as all of them fit in.
//! - What the configuration says of a node counts more than any introduction of it.
//! - An introduction gives no vote: who votes, the groups' configurations say.

use std::net::{SocketAddr, SocketAddrV6};

use crate::config::{Config, Member};
use crate::limits::INTRODUCED_MAX;
use crate::outcome::{NodeId, Rejection};

pub(crate) mod file;

/// What a node was introduced as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Introduction {
    /// Its number.
    pub node: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// It is a witness: it votes and keeps no entries.
    pub witness: bool,
    /// Counts how often the node was introduced as something else, from 1; the highest counts. 0: it is a member by the
    /// configuration of the node that was asked, and needs no introduction there.
    pub version: u64,
}

/// Why a node was not introduced. Only [`IntroduceError::Unknown`] leaves it open whether it was.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IntroduceError {
    /// The node that was asked does not take it now: see [`Rejection`].
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// No node has the number 0.
    #[error("0 is no node's number: nodes count from 1")]
    NoNumber,
    /// A node does not introduce itself.
    #[error("node {0} is the one that was asked: introduce it to another node")]
    Itself(NodeId),
    /// Nobody can be dialled there.
    #[error("{0} is no address that a node can be dialled at: say its host and its port")]
    NoAddress(SocketAddr),
    /// The configuration of the node that was asked says something else of it, and counts more.
    #[error(
        "node {node} is among the `members` of this node's configuration, at {address}{}: correct that, and start this node \
         anew",
        if *.witness { " and as a witness" } else { "" }
    )]
    Configured {
        /// The node.
        node: NodeId,
        /// Where it listens by the configuration.
        address: SocketAddr,
        /// Whether it is a witness by the configuration.
        witness: bool,
    },
    /// Another node listens there.
    #[error("{address} is the address of node {node}")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
        /// Whose it is.
        node: NodeId,
    },
    /// Nothing is encrypted, and the configuration does not allow that beyond the machine.
    #[error("nothing is encrypted: nodes at {0} need `allow_plaintext = true` in this node's configuration")]
    Plaintext(SocketAddr),
    /// As many nodes were introduced as can be.
    #[error(
        "{INTRODUCED_MAX} nodes were introduced, and no more can be: add those that stay to the `members` of all \
         configurations"
    )]
    TooMany,
    /// It could not be written down, so nothing has changed.
    #[error("the introduction cannot be written down ({0}), so nothing has changed")]
    NotKept(String),
    /// No answer came.
    #[error("what became of the introduction is not known: introduce the node again, which does no harm")]
    Unknown,
}

/// The outcome: what counts of the node from now on, at the node that was asked, durably.
pub type IntroduceOutcome = Result<Introduction, IntroduceError>;

impl Introduction {
    /// Of two introductions of one node, the one that is greater by this counts.
    fn rank(&self) -> (u64, SocketAddr, bool) {
        (self.version, self.address, self.witness)
    }
}

/// All introductions that a node knows, one of each node, by number.
#[cfg_attr(not(feature = "simulation"), allow(unreachable_pub, reason = "the simulator's nodes have them too"))]
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Introductions {
    list: Vec<Introduction>,
}

#[cfg_attr(not(feature = "simulation"), allow(unreachable_pub, reason = "the simulator's nodes have them too"))]
impl Introductions {
    /// All of them, by the nodes' numbers.
    pub fn list(&self) -> &[Introduction] {
        &self.list
    }

    /// Introduces a node to the one with this configuration. What is known already, or said by the configuration, changes
    /// nothing.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn introduce(&mut self, config: &Config, member: Member, witness: bool) -> IntroduceOutcome {
        let (node, address) = (member.node, canonical(member.address));
        if node == 0 {
            return Err(IntroduceError::NoNumber);
        }
        if node == config.node {
            return Err(IntroduceError::Itself(node));
        }
        if address.port() == 0 || address.ip().is_unspecified() {
            return Err(IntroduceError::NoAddress(address));
        }
        if let Some(configured) = config.members.iter().find(|of| of.node == node) {
            let (at, is_witness) = (canonical(configured.address), config.is_witness(node));
            return if (at, is_witness) == (address, witness) {
                Ok(Introduction { node, address, witness, version: 0 })
            } else {
                Err(IntroduceError::Configured { node, address: at, witness: is_witness })
            };
        }
        if !config.allows(address) {
            return Err(IntroduceError::Plaintext(address));
        }
        let is_there = |of: &Member| of.node != node && canonical(of.address) == address;
        let other = config.members.iter().copied().chain(self.members(config)).find(is_there);
        if let Some(other) = other {
            return Err(IntroduceError::AddressInUse { address, node: other.node });
        }
        let at = self.list.binary_search_by_key(&node, |of| of.node);
        let version = match at {
            Ok(at) if (self.list[at].address, self.list[at].witness) == (address, witness) => return Ok(self.list[at]),
            Ok(at) => self.list[at].version.saturating_add(1),
            Err(_) if self.list.len() >= INTRODUCED_MAX => return Err(IntroduceError::TooMany),
            Err(_) => 1,
        };
        let introduction = Introduction { node, address, witness, version };
        match at {
            Ok(at) => self.list[at] = introduction,
            Err(at) => self.list.insert(at, introduction),
        }
        Ok(introduction)
    }

    /// Takes over what another node knows and counts more than what is known here. Whoever does not fit in any more is left
    /// out.
    pub fn merge(&mut self, heard: &[Introduction]) {
        for introduction in heard {
            match self.list.binary_search_by_key(&introduction.node, |of| of.node) {
                Ok(at) if self.list[at].rank() < introduction.rank() => self.list[at] = *introduction,
                Ok(_) => {}
                Err(at) if self.list.len() < INTRODUCED_MAX => self.list.insert(at, *introduction),
                Err(_) => tracing::warn!(
                    node = introduction.node,
                    "another node knows of this one, and {INTRODUCED_MAX} others were introduced here: add those that stay \
                     to the `members` of all configurations"
                ),
            }
        }
    }

    /// The nodes that the one with this configuration has for members besides those that it names.
    pub(crate) fn members(&self, config: &Config) -> impl Iterator<Item = Member> {
        let counts = |of: &&Introduction| config.members.iter().all(|member| member.node != of.node);
        let usable = |of: &&Introduction| config.allows(of.address);
        let member = |of: &Introduction| Member { node: of.node, address: of.address };
        self.list.iter().filter(counts).filter(usable).map(member)
    }

    /// Logs which introductions the one with this configuration does not act on although others may.
    pub(crate) fn warn_of_conflicts(&self, config: &Config) {
        for introduction in &self.list {
            let Introduction { node, address, witness, .. } = *introduction;
            let configured = config.members.iter().find(|member| member.node == node);
            match configured.map(|member| (canonical(member.address), config.is_witness(node))) {
                Some((at, is_witness)) if (at, is_witness) != (address, witness) => tracing::warn!(
                    node, %address, witness, configured = %at, configured_witness = is_witness,
                    "a node was introduced as something else than what the configuration says, which counts here"
                ),
                None if !config.allows(address) => tracing::warn!(
                    node, %address,
                    "a node was introduced at an address that needs `allow_plaintext = true`: it is not let in here"
                ),
                _ => {}
            }
        }
    }
}

/// The one form of an address that has several.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into()
        }
        other => SocketAddr::new(other.ip().to_canonical(), other.port()),
    }
}

#[cfg(test)]
mod tests;
