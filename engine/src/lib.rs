//! Synod: a thread-per-core replication engine.
//!
//! A database embeds Synod as its replicated log. A *cluster* of nodes decides many independent logs, *groups*, by
//! Multi-Paxos. Each core of a node, a *shard*, owns a part of the groups, with a write-ahead log on an io_uring of its
//! own and TCP connections of its own; shards share nothing and talk by lock-free channels.
//!
//! # Use
//! Make a [`Config`], [`Node::init`] its directory once, [`Node::start`] it, and take a [`Handle`]:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use synod::{Config, Node, Options};
//! let config = Config::read("node-1.toml".as_ref())?;
//! let node = Node::start(config, Options::default())?;
//! let committed = node.handle().propose(1, b"hello").wait()?;
//! println!("slot {}, index {}", committed.slot, committed.first_index);
//! # Ok(())
//! # }
//! ```
//!
//! Committed entries come back in order to a [`StateMachine`] on the group's shard, to a [`Subscription`] on any
//! thread, or to [`Handle::read`]. [`Producer`] is the fast door for proposals from the shard's own thread. [`client`]
//! talks to a node of another process.
//!
//! # What an outcome means
//! `Ok`: durable on a quorum, and applied here; it will be in every replica's log at this index. Of the errors,
//! [`ProposeError::Rejected`] and [`ProposeError::Superseded`] mean that it never takes effect, and
//! [`ProposeError::Unknown`] that it may. In a [`Session`] it is safe to repeat what is unknown: it takes effect once.
//!
//! # Parts
//! `shard` is one core's event machine, sans-IO, with `payload`, `batch`, `large`, `apply`, `indexes` and `sessions` for what
//! it carries; `wire` and
//! `persist` give messages and log records their bytes, `recovery` reads the latter back and `assemble` makes a shard of
//! them; `checkpoint` keeps what state machines write, on a helper thread, and `router` lets several share a group;
//! `runtime` drives a shard on
//! its executor; `node` owns threads, `dialers` those that connect it to others, `meta` the directory, `peers` what is known
//! of the other nodes, `introductions` which of them were introduced while the cluster ran, `introducer` the way to the
//! thread that keeps those, `open_log` what
//! becomes of a log at a start, `log_store` where logs are, `rehome` what becomes of all logs when the number of shards is another, `repair` what becomes of a cluster that has lost its quorum, `mailbox` the ways in.

mod apply;
mod assemble;
pub mod batch;
mod checkpoint;
pub mod client;
mod clock;
mod config;
mod configuration;
mod dialers;
mod directory;
#[cfg(feature = "simulation")]
pub mod fuzzing;
mod groups;
mod handle;
mod homes;
mod indexes;
mod introducer;
mod introductions;
mod large;
pub mod limits;
pub mod log_store;
mod machine;
mod mailbox;
mod marks;
mod membership;
mod meta;
mod metrics;
mod new_log;
mod node;
mod open_log;
mod outcome;
mod payload;
mod peers;
mod persist;
mod random;
mod recovery;
mod rehome;
pub mod repair;
mod router;
mod runtime;
mod sealed;
mod seen;
mod sessions;
mod shard;
#[cfg(feature = "simulation")]
pub mod simulation;
mod wire;

/// How nodes are connected: the seam for those who bring their own connections, by
/// [`Options::transport`](crate::Options::transport).
pub use synod_transport::net::transport;

pub use batch::{Batch, Entries};
pub use clock::now_ns;
pub use config::{Cluster, Config, ConfigError, DiskBackend, Member, Sync};
pub use groups::{GroupError, GroupOutcome, MadeGroup, directory_group};
pub use handle::{Handle, Pending, Proposer, Session, Subscription};
pub use introductions::{IntroduceError, IntroduceOutcome, Introduction};
pub use machine::{Checkpoint, CommittedBatch, MachineError, StateMachine};
pub use membership::{Membership, MembershipChange, MembershipError, MembershipOutcome};
pub use meta::DirectoryError;
pub use metrics::{Datagrams, Phases};
pub use node::{MachineFactory, Node, OnFatal, Options, StartError, new_cluster_id};
pub use outcome::{Committed, Epoch, GroupId, NodeId, Outcome, Overload, ProposeError, Rejection};
pub use rehome::RehomeError;
pub use router::Router;
pub use shard::events::{Event, OnEvent};
pub use shard::points::{Consistency, ReadPoint};
pub use shard::producers::{LocalShard, Producer};
pub use shard::reads::{CommittedEntries, ReadError};
pub use shard::transfer::TransferError;
