//! The Paxos of Synod: pure state machines, events in, actions out.
//!
//! This crate decides one replicated log, a *group*, among the voters of a configuration. It is Multi-Paxos (Lamport, "The
//! Part-Time Parliament" and "Paxos Made Simple") with a stable leader and prefix-ordered pipelining: one phase 1
//! covers every open slot, acknowledgements are cumulative, and nothing is delivered before all earlier slots.
//!
//! # The door
//! A [`Replica`] takes inputs through its methods ([`Replica::receive`], [`Replica::propose`], [`Replica::durable`],
//! [`Replica::timeout`], ...) and appends [`Action`]s to a list of the caller's. The caller carries them out in order:
//! it appends records to its log, sends messages, and holds each [`Action::SendAfter`] back until the named record,
//! and all before it, are durable. There is no clock here: the caller arms one timer a group, of the kind that
//! [`Replica::timer`] asks for, and calls [`Replica::timeout`] when it fires.
//!
//! # Parts
//! [`ids`] the numbers; [`value`] what a slot holds; [`message`] what travels; [`action`] what the caller must do;
//! [`log`] the slots in memory; [`acceptor`] votes; [`election`] pre-vote and phase 1; [`leader`] phase 2;
//! [`replica`] ties them together; [`epoch`] says at apply which batches take effect; [`configuration`] says who votes, [`reconfigure`]
//! changes it; [`transfer`] hands leadership over.
//!
//! # Invariants
//! - A vote (promise, accept, the candidate's own promise) leaves only behind its durable record: there is no plain
//!   `Send` for a [`Vote`].
//! - `promised` never decreases; every accepted ballot is at most `promised`.
//! - A ballot proposes at most one value per slot, so (slot, origin) names a value.
//! - The log is contiguous: `floor <= chosen <= last`, and what is chosen never changes.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acceptor;
pub mod action;
pub mod configuration;
pub mod election;
pub mod epoch;
pub mod ids;
pub mod leader;
pub mod log;
pub mod marks;
pub mod message;
pub mod planted;
pub mod reconfigure;
pub mod replica;
pub mod transfer;
pub mod value;

pub use action::{Action, Record, RecordSeq};
pub use configuration::{Configuration, Quorums, Voter};
pub use epoch::Epoch;
pub use ids::{Ballot, MemberId, ReplicaId, Slot};
pub use message::{Message, Vote};
pub use replica::{Config, Recovered, Replica, Timer};
pub use value::{Body, Payload, Value};

#[cfg(test)]
mod classics_test;
#[cfg(test)]
mod quorum_test;
#[cfg(test)]
mod reconfigure_test;
#[cfg(test)]
mod replica_test;
#[cfg(test)]
mod witness_test;
