//! What a node that is a process of its own is asked, and what it answers: a line of JSON each.

use serde::{Deserialize, Serialize};
use synod::Consistency;

use crate::{Content, Outcome, Rows, Statement, Transaction};

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fresh {
    /// It sees all that was acknowledged to anyone before.
    #[default]
    Linearizable,
    /// The same, without resting on clocks.
    Quorum,
    /// It sees the entry with this index.
    AtLeast(u64),
    /// Whatever the node has.
    Stale,
}

impl From<Fresh> for Consistency {
    fn from(fresh: Fresh) -> Self {
        match fresh {
            Fresh::Linearizable => Self::Linearizable,
            Fresh::Quorum => Self::Quorum,
            Fresh::AtLeast(index) => Self::AtLeast(index),
            Fresh::Stale => Self::Stale,
        }
    }
}

/// What a node is asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Open a session; at the leader.
    OpenSession,
    /// Carry out a transaction; at the leader.
    Execute {
        /// The session.
        session: u64,
        /// Its number in the session, from 1.
        sequence: u64,
        /// The statements.
        transaction: Transaction,
    },
    /// Run a query on the node's own database.
    Query {
        /// The query.
        statement: Statement,
        /// How fresh its answer must be.
        #[serde(default)]
        fresh: Fresh,
    },
    /// Hash the node's database.
    Content {
        /// How fresh it must be.
        #[serde(default)]
        fresh: Fresh,
    },
    /// Tell how the node stands.
    Status,
    /// Take a checkpoint now.
    Checkpoint,
    /// Stop.
    Stop,
}

/// How a node stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub node: u64,
    /// The node that leads the group, or 0.
    pub leader: u64,
    /// Whether this node leads and takes proposals.
    pub leads: bool,
    /// The last entry that this node knows as committed.
    pub committed: u64,
    /// The first entry that its log still has.
    pub first: u64,
    /// The last entry that its newest checkpoint covers; 0: it has none.
    pub checkpoint: u64,
}

/// What a node answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// The first line: the node has started.
    Started(u64),
    /// A session's id.
    Session(u64),
    /// What became of a transaction.
    Outcome(Outcome),
    /// Another node leads; 0: none is known.
    NotLeader(u64),
    /// The outcome is not known, or there is none: ask again, at any node.
    Again(String),
    /// What a query found.
    Rows(Rows),
    /// What the database holds.
    Content(Content),
    /// How the node stands.
    Status(Status),
    /// The last entry that the newest checkpoint covers.
    Checkpoint(u64),
    /// It cannot be done.
    Failed(String),
}
