//! Load generator for Synod: drives a cluster, verifies what it kept, and reports what it cost.
//!
//! Everything in this half is free of the engine: it parses the command line ([`args`]) into [`conditions`], gathers
//! latencies ([`histogram`]), judges what the replicas hold ([`verify`]), and writes the outcome ([`report`], [`live`],
//! [`hgrm`], [`html`]) into a run directory ([`files`]).
//!
//! Invariants: a number that was not measured is never shown (`null` in JSON, `-` in text); a run is clean only if
//! every acknowledged entry was found exactly once, in order, on every replica.

#![forbid(unsafe_code)]

pub mod args;
pub mod conditions;
pub mod files;
pub mod format;
pub mod hgrm;
pub mod histogram;
pub mod html;
pub mod live;
pub mod report;
pub mod runs;
pub mod verify;
