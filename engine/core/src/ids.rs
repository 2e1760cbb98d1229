//! Slots, members and ballots.

use core::fmt;

/// A position in a group's log. The first slot is 1; 0 stands for "none yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Slot(pub u64);

impl Slot {
    /// Before the first slot.
    pub const ZERO: Self = Self(0);

    /// The slot behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The slot before this one.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.checked_sub(1).expect("slot 0 has no predecessor"))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A voter's number in its group, never used again by another replica of that group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct MemberId(pub u16);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl MemberId {
    /// Numbers from here on are no voters' numbers: see [`MemberId::outsider`].
    pub const OUTSIDERS: u16 = 0x8000;

    /// How a replica that has no vote is addressed: by the place of its node in the caller's list of peers.
    #[must_use]
    pub fn outsider(peer: usize) -> Self {
        assert!(peer < usize::from(Self::OUTSIDERS), "a group has few peers");
        Self(Self::OUTSIDERS + peer as u16)
    }

    /// The place in the caller's list of peers, of a replica that is addressed as an outsider.
    #[must_use]
    pub fn outsider_peer(self) -> Option<usize> {
        self.0.checked_sub(Self::OUTSIDERS).map(usize::from)
    }
}

/// Names a copy of a group for good: the log that holds its votes. A log that was lost or damaged is made anew under
/// another id.
///
/// The id says whether the replica is a *witness*, which keeps votes and no payloads. So whatever names a replica names
/// its kind too, and none ever becomes one of the other kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct ReplicaId(pub u128);

impl ReplicaId {
    /// The bit that witnesses have.
    const WITNESS: u128 = 1 << 127;

    /// The id with the same other bits of a replica of that kind.
    #[must_use]
    pub fn of_kind(self, witness: bool) -> Self {
        Self(if witness { self.0 | Self::WITNESS } else { self.0 & !Self::WITNESS })
    }

    /// Whether the replica keeps votes only.
    #[must_use]
    pub fn is_witness(self) -> bool {
        self.0 & Self::WITNESS != 0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A ballot: (round, member), ordered by round first. The zero ballot is below all that are ever begun.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Ballot {
    /// The round, at most [`Ballot::ROUND_MAX`].
    pub round: u64,
    /// Who leads this ballot.
    pub member: MemberId,
}

impl Ballot {
    /// Below every ballot that is ever begun.
    pub const ZERO: Self = Self { round: 0, member: MemberId(0) };
    /// The highest round that exists: it leaves the member 16 bits of the packed form.
    pub const ROUND_MAX: u64 = (1 << 48) - 1;
    /// How far a ballot may lie above what a replica has promised. An honest one is a few rounds ahead; a larger jump
    /// is refused, since it would use up the rounds of the group.
    pub const ROUND_JUMP_MAX: u64 = 1 << 32;

    /// The 64-bit form, which orders like the ballot itself.
    #[must_use]
    pub fn pack(self) -> u64 {
        assert!(self.round <= Self::ROUND_MAX);
        (self.round << 16) | u64::from(self.member.0)
    }

    /// The inverse of [`Ballot::pack`]; every number is some ballot.
    #[must_use]
    pub fn unpack(packed: u64) -> Self {
        Self { round: packed >> 16, member: MemberId((packed & 0xffff) as u16) }
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_ballots_order_like_ballots() {
        let b = |round, member| Ballot { round, member: MemberId(member) };
        let all = [Ballot::ZERO, b(1, 1), b(1, 2), b(2, 1), b(Ballot::ROUND_MAX, u16::MAX)];
        for x in all {
            assert_eq!(Ballot::unpack(x.pack()), x);
            for y in all {
                assert_eq!(x.cmp(&y), x.pack().cmp(&y.pack()));
            }
        }
    }
}
