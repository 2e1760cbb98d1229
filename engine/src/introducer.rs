//! The way of introductions from the shards to the thread that makes them durable: no shard waits for that.

use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};

use crate::config::Member;
use crate::introductions::{IntroduceOutcome, Introduction};
use crate::outcome::Overload;

/// The answer to who introduces a node.
pub(crate) type IntroduceReply = Box<dyn FnOnce(IntroduceOutcome) + Send>;

/// Introductions that wait to be written down.
const INTRODUCING_MAX: usize = 64;

/// An introduction that comes in.
pub(crate) enum Introducing {
    /// Somebody introduces a node, a witness or not.
    Asked { member: Member, witness: bool, reply: IntroduceReply },
    /// Another node tells all that it knows.
    Heard(Vec<Introduction>),
    /// The node stops.
    Stop,
}

/// The sending end.
#[derive(Clone)]
pub(crate) struct Introducer(SyncSender<Introducing>);

impl Introducer {
    /// The two ends.
    pub(crate) fn new() -> (Self, Receiver<Introducing>) {
        let (send, receive) = mpsc::sync_channel(INTRODUCING_MAX);
        (Self(send), receive)
    }

    /// Passes an introduction on, if there is room. What another node tells is told again with its next connection.
    pub(crate) fn take(&self, introducing: Introducing) {
        match self.0.try_send(introducing) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(Introducing::Asked { reply, .. })) => {
                reply(Err(Overload::Shard.rejection().into()));
            }
            Err(TrySendError::Full(_)) => {
                tracing::warn!("too many introductions at once: what another node knows is not taken over yet");
            }
        }
    }

    /// Ends the receiver, behind what waits.
    pub(crate) fn stop(&self) {
        let _ = self.0.send(Introducing::Stop);
    }
}
