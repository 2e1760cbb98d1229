//! The lane of datagrams beside one connection, as one of its ends sees it: pure, no socket or clock.
//!
//! The connection comes first: over it each end tells the other where it takes datagrams, and the *token* that they
//! must bear, drawn for this connection alone. A lane ends with its connection, and its token with it. What goes by
//! datagram are questions and their answers; a question that was answered shows that datagrams get through both ways.
//!
//! Invariants:
//! - Of what [`Lane::take`] lets in, each was sent later than all before it: nothing comes twice, or behind what is
//!   newer.
//! - While [`Lane::ask`] says that the datagram is enough, fewer than [`UNANSWERED_MAX`] questions before it are
//!   unanswered.

use crate::bytes::{get_u16, get_u128, put_u16, put_u128};
use crate::datagram::Datagram;

/// So many questions in a row without an answer, and the connection is used again as well.
pub const UNANSWERED_MAX: u32 = 2;
/// Bytes of a [`LaneOffer`].
pub const LANE_OFFER_BYTES: usize = 24;

const AT_TOKEN: usize = 0;
const AT_PORT: usize = 16;
const AT_ZEROS: usize = 18;

/// Where an end of a connection takes datagrams, as it tells the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneOffer {
    /// The UDP port, never 0.
    pub port: u16,
    /// What they must bear, never 0.
    pub token: u128,
}

impl LaneOffer {
    /// The body of its frame.
    #[must_use]
    pub fn encode(&self) -> [u8; LANE_OFFER_BYTES] {
        let mut bytes = [0; LANE_OFFER_BYTES];
        put_u128(&mut bytes, AT_TOKEN, self.token);
        put_u16(&mut bytes, AT_PORT, self.port);
        bytes
    }

    /// What a frame's body says; `None` when it is no offer.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let body: &[u8; LANE_OFFER_BYTES] = body.try_into().ok()?;
        let offer = Self { port: get_u16(body, AT_PORT), token: get_u128(body, AT_TOKEN) };
        (offer.port > 0 && offer.token > 0 && body[AT_ZEROS..].iter().all(|byte| *byte == 0)).then_some(offer)
    }
}

/// One end of a lane.
#[derive(Clone, Debug)]
pub struct Lane {
    /// What the other end's datagrams bear.
    token: u128,
    /// Where the other end takes them, once it has told.
    to: Option<LaneOffer>,
    /// The sequence of the last that was sent, and of the last that was let in.
    sent: u64,
    taken: u64,
    /// Questions sent since the last answer.
    unanswered: u32,
    /// Datagrams get through.
    carries: bool,
}

impl Lane {
    /// A lane into which datagrams with this token come, until its connection ends.
    #[must_use]
    pub fn new(token: u128) -> Self {
        Self { token, to: None, sent: 0, taken: 0, unanswered: 0, carries: false }
    }

    /// What the other end's datagrams must bear.
    #[must_use]
    pub fn token(&self) -> u128 {
        self.token
    }

    /// The other end has told where it takes datagrams.
    pub fn open(&mut self, to: LaneOffer) {
        self.to = Some(to);
    }

    /// The next datagram, and the port that it goes to; `None` as long as the other end has not told any.
    ///
    /// # Panics
    /// When the body is longer than [`DATAGRAM_BODY_BYTES_MAX`](crate::datagram::DATAGRAM_BODY_BYTES_MAX).
    #[must_use]
    pub fn next(&mut self, kind: u8, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let LaneOffer { port, token } = self.to?;
        self.sent += 1;
        Some((port, Datagram { kind, sequence: self.sent, token, body }.encode()))
    }

    /// Whether a datagram with this lane's token is let in: only if none that was sent later has been.
    pub fn take(&mut self, sequence: u64) -> bool {
        let newer = sequence > self.taken;
        self.taken = self.taken.max(sequence);
        newer
    }

    /// A question goes as a datagram. Whether that is enough: if not, it must go over the connection as well.
    pub fn ask(&mut self) -> bool {
        self.carries &= !self.is_silent();
        self.unanswered = self.unanswered.saturating_add(1);
        self.carries
    }

    /// A datagram that was let in answers a question.
    pub fn answered(&mut self) {
        self.unanswered = 0;
        self.carries = true;
    }

    /// Whether datagrams get through, as far as one can tell.
    #[must_use]
    pub fn carries(&self) -> bool {
        self.carries
    }

    /// Whether [`UNANSWERED_MAX`] questions in a row have got no answer.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.unanswered >= UNANSWERED_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn offers_come_back_and_what_is_none_is_refused() {
        let offer = LaneOffer { port: 0x0102, token: 7 << 64 | 9 };
        let bytes = offer.encode();
        assert_eq!(bytes[..18], [9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 1]);
        assert_eq!(LaneOffer::decode(&bytes), Some(offer));
        assert_eq!(LaneOffer::decode(&bytes[1..]), None);
        assert_eq!(LaneOffer::decode(&LaneOffer { port: 0, ..offer }.encode()), None);
        assert_eq!(LaneOffer::decode(&LaneOffer { token: 0, ..offer }.encode()), None);
        let mut longer = bytes;
        longer[23] = 1;
        assert_eq!(LaneOffer::decode(&longer), None);
    }

    #[test]
    fn nothing_is_sent_before_the_other_end_has_told_where_to() {
        let mut lane = Lane::new(5);
        assert_eq!(lane.next(5, b"question"), None);
        lane.open(LaneOffer { port: 9, token: 7 });
        for sequence in 1..4 {
            let (port, bytes) = lane.next(5, b"question").unwrap();
            let expected = Datagram { kind: 5, sequence, token: 7, body: b"question" };
            assert_eq!((port, Datagram::decode(&bytes)), (9, Ok(expected)));
        }
    }

    #[test]
    fn a_lane_carries_from_an_answer_on_until_answers_fail_to_come() {
        let mut lane = Lane::new(5);
        assert!(!lane.ask() && !lane.carries(), "nothing is known of it");
        lane.answered();
        assert!(lane.carries());
        for _ in 0..UNANSWERED_MAX {
            assert!(!lane.is_silent() && lane.ask());
        }
        assert!(lane.is_silent() && !lane.ask() && !lane.carries());
        assert!(!lane.ask(), "it stays so until one is answered");
        lane.answered();
        assert!(lane.ask() && !lane.is_silent());
    }

    proptest! {
        /// However datagrams are lost, doubled and reordered: what is let in was sent in that order, each once, and the
        /// newest of all that came is.
        #[test]
        fn what_is_let_in_is_in_order(came in prop::collection::vec(1u64..50, 1..200)) {
            let mut lane = Lane::new(5);
            let taken: Vec<u64> = came.iter().copied().filter(|sequence| lane.take(*sequence)).collect();
            prop_assert!(taken.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(taken.last(), came.iter().max());
        }

        #[test]
        fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(offer) = LaneOffer::decode(&body) {
                prop_assert_eq!(&offer.encode()[..], &body[..]);
            }
        }
    }
}
