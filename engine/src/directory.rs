//! The groups of a shard that were made at run time, and which groups were placed elsewhere: what the log of its *directory*
//! says.
//!
//! Every shard has one group more than it is asked for, the directory, with a replica on every node like any other. Its
//! log holds no entries, only orders: that a group is made, that one is to end, that one has ended, that one is placed on
//! another shard. So all nodes agree on which groups there are, in which order they came and went, and where they should be;
//! and a node that was away learns of it as it learns of anything else. The lists are part of the apply state: summaries,
//! checkpoints and states for peers bear them.
//!
//! Invariants:
//! - A group's uid follows from the slot of the order that made it, and no slot is used twice: the name may be used again,
//!   the uid never.
//! - A name has one group at a time: it is free again only once the group before has ended everywhere that counts, that is
//!   when its last slot is chosen.
//! - What an order does follows from the list and the order alone, so it does the same on every replica.

use std::collections::BTreeMap;

use rkyv::{Archive, Deserialize, Serialize};
use synod_core::{Configuration, ReplicaId, Slot};

use crate::limits::{GROUPS_MADE_MAX, GROUPS_PLACED_MAX};
use crate::outcome::GroupId;

/// Sessions from this number on are orders or the commands of [`crate::sessions`]; no client has such a one.
const MAKE: u64 = u64::MAX - 8;
/// A group is made in which so many voters choose: this number and they.
const MAKE_WITH: u64 = u64::MAX - 32;
const MAKE_WITH_ALL: u64 = MAKE_WITH + synod_core::replica::VOTERS_MAX as u64;
const END: u64 = u64::MAX - 9;
const FORGET: u64 = u64::MAX - 10;
/// A group is placed: this number, how many shards there are, and which one.
const PLACE: u64 = 3 << 62;
const PLACE_LAST: u64 = PLACE | u32::MAX as u64;
/// The same for one that was made at run time.
const PLACE_MADE: u64 = PLACE | 1 << 32;
const PLACE_MADE_LAST: u64 = PLACE_MADE | u32::MAX as u64;

/// What happens to the groups of a shard: a batch of one empty entry whose header says all, as with sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// A group is made, if the name is free, there is room, and its voters, which are those of the directory, are as many
    /// as are to choose.
    Make {
        /// Its name.
        id: GroupId,
        /// How many of its voters choose a value at its beginning; 0: a majority.
        phase_2: u16,
    },
    /// The group takes no proposals any more, and its leader has its last slot chosen.
    End {
        /// The slot of the order that made it.
        made: Slot,
    },
    /// Its last slot is chosen: it is deleted, and its name is free.
    Forget {
        /// The slot of the order that made it.
        made: Slot,
    },
    /// A group of the configuration is to be on this shard from now on, if there is room in the list.
    Place {
        /// Its name.
        id: GroupId,
        /// Where.
        on: On,
    },
    /// The same for a group that was made at run time.
    PlaceMade {
        /// The slot of the order that made it.
        made: Slot,
        /// Where.
        on: On,
    },
}

/// One of so many shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct On {
    pub(crate) shard: u16,
    pub(crate) shards: u16,
}

impl On {
    /// The shard, if there are as many as were meant.
    pub(crate) fn among(self, shards: usize) -> Option<usize> {
        (usize::from(self.shards) == shards).then_some(self.shard.into())
    }

    fn pack(self) -> u64 {
        u64::from(self.shards) << 16 | u64::from(self.shard)
    }

    fn unpack(number: u64) -> Option<Self> {
        let on = Self { shard: number as u16, shards: u16::try_from(number >> 16).ok()? };
        (on.shard < on.shards).then_some(on)
    }
}

impl Order {
    /// The session and sequence of the batch that is this order.
    pub(crate) fn header(self) -> (u64, u64) {
        match self {
            Self::Make { id, phase_2: 0 } => (MAKE, id),
            Self::Make { id, phase_2 } => (MAKE_WITH + u64::from(phase_2), id),
            Self::End { made } => (END, made.0),
            Self::Forget { made } => (FORGET, made.0),
            Self::Place { id, on } => (PLACE | on.pack(), id),
            Self::PlaceMade { made, on } => (PLACE_MADE | on.pack(), made.0),
        }
    }

    /// The order that a batch is; `None` for any other batch.
    pub(crate) fn of(client: u64, sequence: u64) -> Option<Self> {
        match client {
            MAKE => Some(Self::Make { id: sequence, phase_2: 0 }),
            MAKE_WITH..=MAKE_WITH_ALL if client > MAKE_WITH => {
                Some(Self::Make { id: sequence, phase_2: (client - MAKE_WITH) as u16 })
            }
            END => Some(Self::End { made: Slot(sequence) }),
            FORGET => Some(Self::Forget { made: Slot(sequence) }),
            PLACE..=PLACE_LAST => Some(Self::Place { id: sequence, on: On::unpack(client - PLACE)? }),
            PLACE_MADE..=PLACE_MADE_LAST => {
                Some(Self::PlaceMade { made: Slot(sequence), on: On::unpack(client - PLACE_MADE)? })
            }
            _ => None,
        }
    }
}

/// What a group that was made at run time began with.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Birth {
    /// How many voters choose a value at its beginning; 0: a majority.
    pub(crate) phase_2: u16,
    /// Who votes at its beginning, node and replica; none: the shard's founders.
    voters: Vec<(u64, u128)>,
}

impl Birth {
    /// A legal one, always the same.
    #[cfg(feature = "simulation")]
    pub(crate) fn specimen() -> Self {
        Self { phase_2: 2, voters: vec![(1, 5), (2, 8)] }
    }

    /// The configuration that it begins with; `None`: that of the shard's founders.
    pub(crate) fn genesis(&self) -> Option<Configuration> {
        let voters = self.voters.iter().map(|(node, replica)| (*node, ReplicaId(*replica)));
        (!self.voters.is_empty()).then(|| self.sized(Configuration::genesis(voters)))
    }

    /// A configuration with the quorums that the group begins with. The order was for as many voters as there are.
    pub(crate) fn sized(&self, genesis: Configuration) -> Configuration {
        let phase_2 = self.phase_2.min(genesis.voters.len() as u16);
        // Who gave the order has seen that so many may choose; a majority always may.
        genesis.clone().with_phase_2(phase_2).unwrap_or(genesis)
    }
}

/// A group that was made at run time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Made {
    pub(crate) id: GroupId,
    /// It is being dropped.
    pub(crate) ending: bool,
    pub(crate) birth: Birth,
    /// Whether it was ever placed: by the order in which slot, and where.
    pub(crate) placed: Option<(Slot, On)>,
}

/// A group that was placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PlacedGroup {
    pub(crate) id: GroupId,
    /// The slot of the order that made it; 0 when it is one of the configuration.
    pub(crate) made: Slot,
    /// Where it should be.
    pub(crate) on: On,
}

/// What a directory's log says by now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Directory {
    /// The groups made at run time, by the slots of the orders that made them.
    made: BTreeMap<Slot, Made>,
    /// The groups of the configuration that were ever placed: by the slot of which order, and where.
    placed: BTreeMap<GroupId, (Slot, On)>,
}

impl Directory {
    /// Carries out the order in `slot`, under the configuration that governs it.
    pub(crate) fn order(&mut self, slot: Slot, order: Order, configuration: Option<&Configuration>) {
        match order {
            Order::Make { id, phase_2 } => {
                let voters = configuration.map_or(&[][..], |configuration| &configuration.voters);
                // Whoever gave the order has counted the founders, who do not change.
                let enough = voters.is_empty()
                    || configuration.is_some_and(|configuration| configuration.clone().with_phase_2(phase_2).is_some());
                if enough && self.made.len() < GROUPS_MADE_MAX && self.find(id).is_none() {
                    let voters = voters.iter().map(|voter| (voter.node, voter.replica.0)).collect();
                    let birth = Birth { phase_2, voters };
                    self.made.insert(slot, Made { id, ending: false, birth, placed: None });
                }
            }
            Order::End { made } => {
                if let Some(made) = self.made.get_mut(&made) {
                    made.ending = true;
                }
            }
            Order::Forget { made } => {
                if self.made.get(&made).is_some_and(|made| made.ending) {
                    self.made.remove(&made);
                }
            }
            Order::Place { id, on } => {
                if self.has_room_for(id) {
                    self.placed.insert(id, (slot, on));
                }
            }
            Order::PlaceMade { made, on } => {
                if let Some(made) = self.made.get_mut(&made) {
                    made.placed = Some((slot, on));
                }
            }
        }
    }

    /// Whether a group of the configuration may be placed.
    pub(crate) fn has_room_for(&self, id: GroupId) -> bool {
        self.placed.contains_key(&id) || self.placed.len() < GROUPS_PLACED_MAX
    }

    /// The groups that were placed, and where each should be.
    pub(crate) fn placed(&self) -> impl Iterator<Item = PlacedGroup> + '_ {
        let made = |(slot, made): (Slot, &Made)| made.placed.map(|(_, on)| PlacedGroup { id: made.id, made: slot, on });
        let configured = |(id, (_, on)): (&GroupId, &(Slot, On))| PlacedGroup { id: *id, made: Slot::ZERO, on: *on };
        self.placed.iter().map(configured).chain(self.iter().filter_map(made))
    }

    /// The slot of the last order that has placed a group: one that was made by this order, or one of the configuration.
    pub(crate) fn placed_by(&self, id: GroupId, made: Option<Slot>) -> Option<Slot> {
        let placed = match made {
            Some(made) => self.get(made)?.placed,
            None => self.placed.get(&id).copied(),
        };
        placed.map(|(slot, _)| slot)
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.made.len()
    }

    /// All groups, in the order in which they were made.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Made)> {
        self.made.iter().map(|(slot, made)| (*slot, made))
    }

    /// The group that the order in this slot has made, if it is there.
    pub(crate) fn get(&self, made: Slot) -> Option<&Made> {
        self.made.get(&made)
    }

    /// The group of this name, and the slot of the order that made it.
    pub(crate) fn find(&self, id: GroupId) -> Option<(Slot, &Made)> {
        self.iter().find(|(_, made)| made.id == id)
    }

    /// The numbers that stand for it.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let group = |(slot, made): (&Slot, &Made)| {
            let Made { id, ending, birth: Birth { phase_2, voters }, placed } = made;
            let (placed_by, on) = placed.map_or((0, 0), |(slot, on)| (slot.0, on.pack()));
            let head = [slot.0, *id, u64::from(*ending), u64::from(*phase_2), placed_by, on, voters.len() as u64];
            let voters: Vec<u64> =
                voters.iter().flat_map(|(node, replica)| [*node, *replica as u64, (*replica >> 64) as u64]).collect();
            head.into_iter().chain(voters)
        };
        let placed = self.placed.iter().flat_map(|(id, (slot, on))| [*id, slot.0, on.pack()]);
        let made = std::iter::once(self.made.len() as u64).chain(self.made.iter().flat_map(group));
        made.chain(std::iter::once(self.placed.len() as u64)).chain(placed)
    }

    /// Takes a directory off a run of numbers; `None` when they are none that the orders up to `slot` could have made.
    pub(crate) fn take(slot: Slot, numbers: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let count = numbers.next()?;
        if count > GROUPS_MADE_MAX as u64 {
            return None;
        }
        let mut directory = Self::default();
        let (mut last, mut names) = (Slot::ZERO, std::collections::BTreeSet::new());
        for _ in 0..count {
            let (made, id, ending) = (Slot(numbers.next()?), numbers.next()?, numbers.next()?);
            let phase_2 = u16::try_from(numbers.next()?).ok()?;
            let placed = match (Slot(numbers.next()?), numbers.next()?) {
                (Slot::ZERO, 0) => None,
                (ordered, on) if made < ordered && ordered <= slot => Some((ordered, On::unpack(on)?)),
                _ => return None,
            };
            let voters = numbers.next()?;
            let too_many =
                usize::from(phase_2) > synod_core::replica::VOTERS_MAX || voters > 0 && u64::from(phase_2) > voters;
            if too_many || made <= last || made > slot || ending > 1 || voters > synod_core::replica::VOTERS_MAX as u64
            {
                return None;
            }
            let mut of = Vec::with_capacity(voters as usize);
            for _ in 0..voters {
                let (node, low, high) = (numbers.next()?, numbers.next()?, numbers.next()?);
                of.push((node, u128::from(high) << 64 | u128::from(low)));
            }
            let group = Made { id, ending: ending == 1, birth: Birth { phase_2, voters: of }, placed };
            if !names.insert(id) || group.birth.genesis().is_some_and(|genesis| !genesis.is_legal()) {
                return None;
            }
            directory.made.insert(made, group);
            last = made;
        }
        let count = numbers.next()?;
        if count > GROUPS_PLACED_MAX as u64 {
            return None;
        }
        for _ in 0..count {
            let (id, ordered, on) = (numbers.next()?, Slot(numbers.next()?), On::unpack(numbers.next()?)?);
            let follows = directory.placed.last_key_value().is_none_or(|(last, _)| *last < id);
            if !follows || ordered == Slot::ZERO || ordered > slot {
                return None;
            }
            directory.placed.insert(id, (ordered, on));
        }
        Some(directory)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAKE_7: Order = Order::Make { id: 7, phase_2: 0 };

    fn configuration() -> Configuration {
        Configuration::genesis([(4, ReplicaId(u128::MAX >> 1)), (9, ReplicaId(3))])
    }

    fn ordered(orders: &[Order]) -> Directory {
        let mut directory = Directory::default();
        for (at, order) in orders.iter().enumerate() {
            directory.order(Slot(at as u64 + 1), *order, Some(&configuration()));
        }
        directory
    }

    fn names(directory: &Directory) -> Vec<(u64, GroupId)> {
        directory.iter().map(|(slot, made)| (slot.0, made.id)).collect()
    }

    #[test]
    fn a_name_is_free_only_when_its_group_has_ended() {
        let (make, end, forget) = (MAKE_7, Order::End { made: Slot(1) }, Order::Forget { made: Slot(1) });
        assert_eq!(names(&ordered(&[make, make])), [(1, 7)]);
        assert_eq!(names(&ordered(&[make, forget])), [(1, 7)], "nobody said that it is to end");
        assert_eq!(names(&ordered(&[make, end, make])), [(1, 7)]);
        assert_eq!(names(&ordered(&[make, end, forget, make])), [(4, 7)]);
        assert_eq!(names(&ordered(&[make, end, forget, make, end, forget])), [(4, 7)], "those orders are another's");
    }

    #[test]
    fn there_are_no_more_groups_than_may_be() {
        let orders: Vec<Order> = (0..GROUPS_MADE_MAX as u64 + 5).map(|id| Order::Make { id, phase_2: 0 }).collect();
        assert_eq!(ordered(&orders).len(), GROUPS_MADE_MAX);
    }

    #[test]
    fn a_group_begins_with_the_quorums_that_were_ordered() {
        let directory = ordered(&[Order::Make { id: 7, phase_2: 1 }, Order::Make { id: 8, phase_2: 3 }]);
        assert_eq!(names(&directory), [(1, 7)], "two cannot be three");
        let genesis = directory.get(Slot(1)).unwrap().birth.genesis().unwrap();
        assert_eq!(genesis.quorums(), synod_core::Quorums { phase_1: 2, phase_2: 1 });
        let most = Order::Make { id: 7, phase_2: synod_core::replica::VOTERS_MAX as u16 };
        let (client, sequence) = most.header();
        assert_eq!(Order::of(client, sequence), Some(most));
        assert_eq!((Order::of(MAKE_WITH, 7), Order::of(MAKE_WITH_ALL + 1, 7)), (None, None));
    }

    #[test]
    fn orders_and_directories_come_back() {
        let place = |id, shard| Order::Place { id, on: On { shard, shards: 3 } };
        let orders = [
            MAKE_7,
            Order::Make { id: 8, phase_2: 2 },
            Order::End { made: Slot(2) },
            place(5, 2),
            place(4, 0),
            place(5, 1),
            Order::PlaceMade { made: Slot(1), on: On { shard: 2, shards: 3 } },
            Order::PlaceMade { made: Slot(3), on: On { shard: 2, shards: 3 } },
        ];
        for order in orders {
            let (client, sequence) = order.header();
            assert_eq!(Order::of(client, sequence), Some(order));
            assert_eq!(crate::sessions::command::Command::of(client, sequence), None);
            assert!(!crate::sessions::command::is_session(client), "no client can have it");
        }
        let directory = ordered(&orders);
        assert_eq!(directory.get(Slot(1)).unwrap().birth.genesis().unwrap().voters, configuration().voters);
        let placed: Vec<_> = directory.placed().map(|of| (of.id, of.made.0, of.on.shard)).collect();
        assert_eq!(placed, [(4, 0, 0), (5, 0, 1), (7, 1, 2)], "the last order counts, of groups that there are");
        assert_eq!(
            (directory.placed_by(5, None), directory.placed_by(7, Some(Slot(1)))),
            (Some(Slot(6)), Some(Slot(7)))
        );
        let numbers: Vec<u64> = directory.numbers().collect();
        assert_eq!(Directory::take(Slot(8), &mut numbers.iter().copied()), Some(directory));
        assert_eq!(Directory::take(Slot(6), &mut numbers.iter().copied()), None, "placed later than that");
        assert_eq!(Directory::take(Slot(1), &mut numbers.iter().copied()), None, "made later than that");
        assert_eq!(Directory::take(Slot(8), &mut numbers[..numbers.len() - 1].iter().copied()), None);
        let last = On { shard: u16::MAX - 1, shards: u16::MAX };
        let (client, sequence) = Order::Place { id: 1, on: last }.header();
        assert_eq!(Order::of(client, sequence), Some(Order::Place { id: 1, on: last }));
        let made = Order::PlaceMade { made: Slot(9), on: last };
        let (client, sequence) = made.header();
        assert_eq!(Order::of(client, sequence), Some(made));
        assert_eq!(Order::of(PLACE | 3 << 16 | 3, 1), None, "there are only three");
    }

    proptest! {
        #[test]
        fn random_numbers_never_panic(numbers in prop::collection::vec(0u64..20, 0..60)) {
            let mut rest = numbers.iter().copied();
            if let Some(directory) = Directory::take(Slot(100), &mut rest) {
                let taken = numbers.len() - rest.count();
                prop_assert_eq!(directory.numbers().collect::<Vec<_>>(), &numbers[..taken]);
            }
        }
    }
}
