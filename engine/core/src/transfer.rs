//! Handing leadership over: a leader that has stopped proposing orders a follower that holds all it proposed to campaign
//! at once, and its Prepare bears the order.

use crate::action::Action;
use crate::ids::{Ballot, MemberId};
use crate::marks::{Mark, mark};
use crate::message::Message;
use crate::replica::{Out, Replica, Role};
use crate::value::Payload;

impl<P: Payload> Replica<P> {
    /// Of a leader that takes proposals: how many slots a voter has not acknowledged yet, or are not chosen.
    pub fn lags(&self, member: MemberId) -> Option<u64> {
        self.epoch()?;
        let at = self.members().iter().position(|voter| *voter == member)?;
        let acknowledged = self.progress()[at].0.min(self.log().chosen());
        Some(self.log().last().0.saturating_sub(acknowledged.0))
    }

    /// Orders a voter to take over. The caller has stopped proposing, and serves no read on this leader's word alone from
    /// now on.
    pub fn order(&self, to: MemberId, out: Out<'_, P>) {
        if let Some(ballot) = self.epoch()
            && !self.electorate.is_witness(to)
        {
            out.push(Action::Send { to, message: Message::Campaign { ballot } });
        }
    }

    /// The leader has ordered this replica to take over.
    pub(crate) fn on_order(&mut self, from: MemberId, ballot: Ballot, out: Out<'_, P>) {
        // Anything newer than that leader's ballot makes the order void.
        let follows = ballot.member == from && ballot == self.promised() && matches!(self.role, Role::Follower);
        if follows && !self.is_witness() {
            mark(Mark::CampaignOrdered);
            self.learning = None;
            self.campaign(ballot, out);
        }
    }
}
