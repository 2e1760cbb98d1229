//! Load generator for Synod: drives a cluster, verifies what it kept, and reports what it cost.
//!
//! One half is free of the engine: it parses the command line ([`args`]) into [`conditions`], paces entries ([`pace`]),
//! gathers latencies ([`histogram`]), judges what the replicas hold ([`verify`]), and writes the outcome ([`report`],
//! [`live`], [`hgrm`], [`html`]) into a run directory ([`files`]).
//!
//! The other half runs it: [`local`] is the controller; its children are [`replica`]s, which [`watch`] what they apply
//! and have the inside [`load`], and with `--client process` a [`client_load`]. They speak [`messages`].
//!
//! Invariants: a number that was not measured is never shown (`null` in JSON, `-` in text); a run is clean only if
//! every acknowledged entry was found exactly once, in order, on every replica.

#![forbid(unsafe_code)]

pub mod args;
pub mod child;
pub mod client_load;
pub mod conditions;
pub mod files;
pub mod format;
pub mod hgrm;
pub mod histogram;
pub mod html;
pub mod live;
pub mod load;
pub mod local;
pub mod messages;
pub mod pace;
pub mod replica;
pub mod report;
pub mod runs;
pub mod verify;
pub mod watch;
