//! SQLite, replicated by Synod: how a database embeds it.
//!
//! Each entry of a group's log is a [`Transaction`] of SQL statements. [`SqliteMachine`] carries it out on every node, so
//! all have the same database. [`Database`] is what a user has at a node: writes in a session, each once, with their
//! outcome, and reads that are as fresh as they must be. [`cluster`] runs nodes as processes of their own, for the
//! program's demonstration and the tests.
//!
//! # Parts
//! `statement` is what an entry says and `rules` what it may; `database` is the file, `machine` applies entries to it,
//! `sync` makes it durable, `checkpoint` copies and replaces it, `content` compares it; `client` proposes and reads;
//! `protocol` and `serve` are a node as a process, which `cluster` starts, asks and kills.
//!
//! # Invariants
//! - A statement that SQLite refuses is an outcome, the same on every node; what fails on one node alone stops that node.
//! - The index of the last entry is written in the transaction of its effects.
//! - What may differ between nodes (random numbers, the time, pragmas, statistics) is refused.

mod checkpoint;
mod client;
pub mod cluster;
mod content;
mod database;
mod machine;
#[cfg(test)]
mod machine_test;
pub mod protocol;
mod rules;
pub mod serve;
mod statement;
mod sync;

pub use client::{Database, ExecuteError, QueryError, Rows};
pub use content::Content;
pub use database::{DatabaseError, OUTCOMES_KEPT, Outcome};
pub use machine::SqliteMachine;
pub use statement::{Statement, Transaction, Value};
