//! What a slot holds.

use alloc::boxed::Box;

use crate::configuration::Configuration;
use crate::ids::Ballot;

/// A handle on a batch of entries. The core copies and compares nothing of it: the caller keeps the bytes.
pub trait Payload: Clone {
    /// Size of the batch in bytes, for the pipeline's bounds.
    fn bytes(&self) -> u32;
}

/// What a value is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Body<P> {
    /// A batch of entries.
    Batch(P),
    /// Fills a slot that was empty in a whole phase-1 quorum, below the highest one seen.
    Noop,
    /// Ends what a new leader adopted; its own batches come only behind it.
    EpochStart,
    /// Who votes from the next slot on.
    Configuration(Box<Configuration>),
}

/// A value with its origin: the ballot that first proposed it. (slot, origin) names a value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Value<P> {
    /// The ballot that first proposed this value; re-proposing keeps it.
    pub origin: Ballot,
    /// What it is.
    pub body: Body<P>,
}

impl<P: Payload> Value<P> {
    /// Size for the pipeline's bounds.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.body {
            Body::Batch(payload) => u64::from(payload.bytes()),
            Body::Noop | Body::EpochStart | Body::Configuration(_) => 0,
        }
    }
}
