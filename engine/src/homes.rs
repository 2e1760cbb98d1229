//! Which group is on which shard, and which replica it is there.
//!
//! Every group has a *home*, a number that it keeps for ever; it is on the shard that this number names modulo the node's
//! number of shards. The home of a group of the configuration is its own number. The groups made at run time have that of
//! their directory: there are as many directories as the cluster had shards at first, and that never changes.
//!
//! A replica keeps its id when its log is copied into the logs of another number of shards. So a log may hold groups that
//! are different replicas, and *rules* say which: the last one that fits a home counts.
//!
//! A group that was placed on another shard of a running node is a *guest* there ([`crate::shard::moving`]): its home stays
//! what it is, and it keeps its id, which no rule of that shard says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use synod_core::Slot;
use synod_transport::hello::ReplicaRule;

use crate::groups::directory_number;
use crate::outcome::GroupId;

/// Which group is on which shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Homes {
    /// The groups of the configuration.
    pub(crate) groups: u64,
    /// How many shards the cluster began with.
    pub(crate) first_shards: u64,
    /// How many shards there are now.
    pub(crate) shards: u64,
}

impl Homes {
    /// The home of a group.
    pub(crate) fn home(&self, group: GroupId) -> u64 {
        match directory_number(group) {
            Some(directory) => directory,
            None if group <= self.groups => group,
            None => group % self.first_shards,
        }
    }

    /// The directory whose log says what becomes of a group.
    pub(crate) fn directory(&self, group: GroupId) -> u64 {
        group % self.first_shards
    }

    /// The home shard of a group.
    pub(crate) fn shard(&self, group: GroupId) -> usize {
        self.shard_of(self.home(group))
    }

    /// The shard of a home.
    pub(crate) fn shard_of(&self, home: u64) -> usize {
        (home % self.shards) as usize
    }

    /// The directories that are on a shard.
    pub(crate) fn directories(&self, shard: usize) -> impl Iterator<Item = u64> + use<> {
        let shards = self.shards;
        (0..self.first_shards).filter(move |directory| directory % shards == shard as u64)
    }
}

/// A group that is a guest on another shard than its home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Away {
    /// The slot of the order that made it; 0 when it is one of the configuration.
    pub(crate) made: Slot,
    /// Where it is.
    pub(crate) shard: usize,
}

/// Where the groups of a running node are: at home, or as guests on other shards.
#[derive(Debug)]
pub(crate) struct Placement {
    homes: Homes,
    /// The groups that are not at home, and where they are.
    away: RwLock<HashMap<GroupId, Away>>,
    /// Whether there may be any: whoever looks for a group asks this first.
    is_any_away: AtomicBool,
}

impl Placement {
    /// All groups are at home, but `away`.
    pub(crate) fn new(homes: Homes, away: impl IntoIterator<Item = (GroupId, Away)>) -> Self {
        let away: HashMap<GroupId, Away> = away.into_iter().collect();
        Self { homes, is_any_away: AtomicBool::new(!away.is_empty()), away: RwLock::new(away) }
    }

    /// The shard that a group is on now.
    pub(crate) fn shard(&self, group: GroupId) -> usize {
        self.away(group).map_or_else(|| self.homes.shard(group), |away| away.shard)
    }

    /// Where the group of this name is, if it is a guest.
    pub(crate) fn away(&self, group: GroupId) -> Option<Away> {
        self.is_any_away.load(Ordering::Acquire).then(|| self.guests().get(&group).copied()).flatten()
    }

    /// The groups made at run time that are guests.
    pub(crate) fn made_away(&self) -> Vec<(GroupId, Away)> {
        let made = |(group, away): (&GroupId, &Away)| (away.made > Slot::ZERO).then_some((*group, *away));
        self.guests().iter().filter_map(made).collect()
    }

    /// The shard whose directory says what becomes of a group.
    pub(crate) fn directory_shard(&self, group: GroupId) -> usize {
        self.homes.shard_of(self.homes.directory(group))
    }

    /// A group is there from now on.
    pub(crate) fn put(&self, group: GroupId, there: Away) {
        self.change(|away| {
            if there.shard == self.homes.shard(group) {
                away.remove(&group);
            } else {
                away.insert(group, there);
            }
        });
    }

    /// A group that the order in this slot made is no more.
    pub(crate) fn forget(&self, group: GroupId, made: Slot) {
        self.change(|away| {
            if away.get(&group).is_some_and(|away| away.made == made) {
                away.remove(&group);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<GroupId, Away>)) {
        let mut away = self.away.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut away);
        self.is_any_away.store(!away.is_empty(), Ordering::Release);
    }

    fn guests(&self) -> RwLockReadGuard<'_, HashMap<GroupId, Away>> {
        // Whoever held it changed nothing half.
        self.away.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a rule fits a home.
fn fits(rule: &ReplicaRule, home: u64) -> bool {
    home % u64::from(rule.shards) == u64::from(rule.shard)
}

/// The replicas that the groups of one shard are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Names {
    rules: Vec<ReplicaRule>,
    /// The one that all of them are, if so.
    only: Option<u128>,
    /// Groups by uid that are another replica than the rules say: guests, and such as were.
    named: HashMap<u128, u128>,
}

impl Names {
    /// All groups are this replica.
    pub(crate) fn all(replica: u128) -> Self {
        Self { rules: Vec::new(), only: Some(replica), named: HashMap::new() }
    }

    /// With groups, by uid, that are other replicas.
    pub(crate) fn with(mut self, named: impl IntoIterator<Item = (u128, u128)>) -> Self {
        self.named.extend(named);
        self
    }

    /// A group, by uid, is this replica, whatever the rules say.
    pub(crate) fn name(&mut self, uid: u128, replica: u128) {
        self.named.insert(uid, replica);
    }

    /// The groups that are not what the rules say, by uid.
    pub(crate) fn named(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.named.iter().map(|(uid, replica)| (*uid, *replica))
    }

    /// How many these are.
    pub(crate) fn named_len(&self) -> usize {
        self.named.len()
    }

    /// What this group is called is of no interest any more.
    pub(crate) fn forget(&mut self, uid: u128) {
        self.named.remove(&uid);
    }

    /// The replica that this group is, if it was named.
    pub(crate) fn of_named(&self, uid: u128) -> Option<u128> {
        self.named.get(&uid).copied()
    }

    /// Those of a shard: what the handshake says. Without rules all are the replica that the log is.
    pub(crate) fn of_shard(shard: (usize, usize), log: u128, rules: &[ReplicaRule]) -> Self {
        let Some(last) = rules.last() else { return Self::all(log) };
        Self { rules: rules.to_vec(), only: fits_shard(last, shard).then_some(last.replica), named: HashMap::new() }
    }

    /// The replica that the groups with this home, which are at home here, are by the rules; 0, which none is, when nothing
    /// is said of them.
    pub(crate) fn of(&self, home: u64) -> u128 {
        self.only.unwrap_or_else(|| named(&self.rules, home))
    }
}

/// The replica that the last fitting rule names; 0 for none.
pub(crate) fn named(rules: &[ReplicaRule], home: u64) -> u128 {
    rules.iter().rev().find(|rule| fits(rule, home)).map_or(0, |rule| rule.replica)
}

/// Whether a rule fits all homes on a shard.
fn fits_shard(rule: &ReplicaRule, (shard, shards): (usize, usize)) -> bool {
    (shards as u64).is_multiple_of(u64::from(rule.shards)) && fits(rule, shard as u64)
}

/// The rules that count for the homes on a shard.
pub(crate) fn rules_of_shard(rules: &[ReplicaRule], of: (usize, usize)) -> Vec<ReplicaRule> {
    let (shard, shards) = (of.0 as u64, of.1 as u64);
    let shared = |rule: &ReplicaRule| divisor(u64::from(rule.shards), shards);
    let meets = |rule: &&ReplicaRule| u64::from(rule.shard) % shared(rule) == shard % shared(rule);
    let from = rules.iter().rposition(|rule| fits_shard(rule, of)).unwrap_or(0);
    rules[from..].iter().filter(meets).copied().collect()
}

/// Adds a rule behind others; those that never count any more go.
pub(crate) fn add_rule(rules: &mut Vec<ReplicaRule>, new: ReplicaRule) {
    rules.retain(|old| !(old.shards.is_multiple_of(new.shards) && fits(&new, u64::from(old.shard))));
    rules.push(new);
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(shards: u32, shard: u32, replica: u128) -> ReplicaRule {
        ReplicaRule { shards, shard, replica }
    }

    #[test]
    fn groups_made_at_run_time_are_where_their_directory_is() {
        for shards in 1..7 {
            let homes = Homes { groups: 10, first_shards: 3, shards };
            assert_eq!((1..=10).map(|group| homes.home(group)).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
            for group in 11..40 {
                let shard = homes.shard(group);
                assert!(homes.directories(shard).any(|directory| directory == group % 3));
            }
            let all: Vec<u64> = (0..shards as usize).flat_map(|shard| homes.directories(shard)).collect();
            assert_eq!(all.len(), 3);
        }
    }

    #[test]
    fn a_newer_rule_replaces_what_it_covers() {
        let mut rules = vec![rule(2, 0, 10), rule(2, 1, 11)];
        add_rule(&mut rules, rule(4, 1, 12));
        assert_eq!(rules.len(), 3);
        assert_eq!([0, 1, 2, 3, 5].map(|home| named(&rules, home)), [10, 12, 10, 11, 12]);
        add_rule(&mut rules, rule(2, 1, 13));
        assert_eq!(rules, [rule(2, 0, 10), rule(2, 1, 13)]);
        add_rule(&mut rules, rule(1, 0, 14));
        assert_eq!(rules, [rule(1, 0, 14)]);
    }

    proptest! {
        /// What a handshake says of a shard names the same replicas as all rules do, and each home has one.
        #[test]
        fn the_rules_of_a_shard_are_enough(
            first in 1u32..6,
            later in prop::collection::vec((1u32..7, any::<u32>()), 0..6),
            shards in 1usize..8,
        ) {
            let mut rules: Vec<_> = (0..first).map(|shard| rule(first, shard, 1 + u128::from(shard))).collect();
            let mut all = rules.clone();
            for (at, (shards, shard)) in later.iter().enumerate() {
                let new = rule(*shards, shard % shards, 100 + at as u128);
                add_rule(&mut rules, new);
                all.push(new);
            }
            for home in 0..100 {
                let shard = home as usize % shards;
                let of_shard = rules_of_shard(&rules, (shard, shards));
                let names = Names::of_shard((shard, shards), 77, &of_shard);
                prop_assert_eq!(names.of(home), named(&all, home));
                prop_assert_ne!(names.of(home), 0);
            }
        }
    }
}
