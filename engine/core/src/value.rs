//! What a slot holds.

use alloc::boxed::Box;

use crate::configuration::Configuration;
use crate::ids::Ballot;

/// A handle on a batch of entries. The core copies and compares nothing of it: the caller keeps the bytes.
pub trait Payload: Clone {
    /// Size of the batch in bytes, for the pipeline's bounds.
    fn bytes(&self) -> u32;

    /// What a witness keeps of it: size, checksum and the like, and none of the bytes.
    #[must_use]
    fn stub(&self) -> Self;

    /// Whether the bytes are missing.
    fn is_stub(&self) -> bool;

    /// Whether both describe the same batch, as far as a stub tells. Origins say which batch it is; this is to find damage.
    fn agrees(&self, other: &Self) -> bool;
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
    /// What a witness keeps of it. All but batches are small, and kept whole.
    #[must_use]
    pub fn stub(&self) -> Self {
        let body = match &self.body {
            Body::Batch(payload) => Body::Batch(payload.stub()),
            body => body.clone(),
        };
        Self { origin: self.origin, body }
    }

    /// Whether its payload is missing: it names a value, and can neither be proposed nor be applied.
    pub fn is_stub(&self) -> bool {
        matches!(&self.body, Body::Batch(payload) if payload.is_stub())
    }

    /// Whether this whole value, of the same slot, is the one that `stub` names.
    pub(crate) fn completes(&self, stub: &Self) -> bool {
        let agrees = match (&self.body, &stub.body) {
            (Body::Batch(payload), Body::Batch(of)) => payload.agrees(of),
            _ => false,
        };
        agrees && self.origin == stub.origin && !self.is_stub()
    }

    /// Size for the pipeline's bounds.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.body {
            Body::Batch(payload) => u64::from(payload.bytes()),
            Body::Noop | Body::EpochStart | Body::Configuration(_) => 0,
        }
    }
}
