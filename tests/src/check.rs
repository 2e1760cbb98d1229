//! Checkers of what clients, replicas and acceptors saw. They know the promises of the product and none of its code.
//!
//! | checker | fed with | promises |
//! |---|---|---|
//! | [`log::check`] | a [`history::History`] of clients and the agreed log | linearizable, in order per handle, nothing lost, doubled or made up; O(n log n), for all operations |
//! | [`wgl::check`] | the same | linearizable: a second opinion by another's search, over windows |
//! | [`stream::Streams`] | what each replica hands to its state machine | no gap, the same on all replicas, once per session and sequence |
//! | [`oracle::Oracle`] | durable votes and promises | one value per slot and per ballot, votes never go back |
//! | [`porcupine`] | the same as [`log::check`] | none of its own: a text that the Porcupine checker reads |
//!
//! A violation is a typed error that tells the operations involved. [`sample`] makes valid histories at random, to
//! test the checkers themselves.

pub mod history;
pub mod log;
pub mod oracle;
pub mod porcupine;
pub mod sample;
pub mod stream;
pub mod violation;
pub mod wgl;
mod window;
