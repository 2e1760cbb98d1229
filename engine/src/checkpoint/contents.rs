//! Which whole checkpoints a directory has, and where they lie: each in a file of its own, or in a pack.
//!
//! Invariants: of two copies of one checkpoint one is known, so no file stays that nobody would delete; a pack is deleted
//! with the last of its members that is known.

use std::collections::BTreeMap;
use std::io;

use super::files::Files;
use super::packs::{self, Member, number_of, pack_name};

/// Where a checkpoint lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In a file of its own.
    Alone,
    /// In the pack with this number, at an offset.
    Packed { pack: u64, offset: u64, bytes: u64 },
}

/// A pack's bytes, and those of its members that are known.
#[derive(Clone, Copy, Debug, Default)]
struct Pack {
    bytes: u64,
    known_bytes: u64,
    known: u64,
    /// It cannot be read, so nothing can move out of it.
    stays: bool,
}

/// All whole checkpoints, by group and slot.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    places: BTreeMap<(u128, u64), Place>,
    packs: BTreeMap<u64, Pack>,
    next_pack: u64,
}

/// The name of a checkpoint in a file of its own.
pub(crate) fn whole_name(uid: u128, slot: u64) -> String {
    format!("{uid:032x}-{slot:016x}.checkpoint")
}

/// The group and the slot of a checkpoint in a file of its own, by its name.
fn whole_of(name: &str) -> Option<(u128, u64)> {
    let (uid, slot) = name.strip_suffix(".checkpoint")?.split_once('-')?;
    let whole = uid.len() == 32 && slot.len() == 16;
    whole.then_some((u128::from_str_radix(uid, 16).ok()?, u64::from_str_radix(slot, 16).ok()?))
}

impl Contents {
    /// Looks what is there. Packs without any member that is not known otherwise are left to [`Contents::clean`].
    ///
    /// # Errors
    /// Those of the files, here and below.
    pub(crate) fn find(files: &mut dyn Files) -> io::Result<Self> {
        let mut found = Self::default();
        let names = files.list()?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        for number in numbers {
            let name = pack_name(number);
            let len = files.len(&name)?;
            let members = packs::members(len, |offset, bytes| files.read(&name, offset, bytes))?;
            found.add_pack(number, len, &members);
        }
        for (uid, slot) in names.iter().filter_map(|name| whole_of(name)) {
            found.add(uid, slot, Place::Alone);
        }
        Ok(found)
    }

    /// The number of the next pack.
    pub(crate) fn next_pack(&self) -> u64 {
        self.next_pack
    }

    /// There is another pack.
    pub(crate) fn add_pack(&mut self, number: u64, bytes: u64, members: &[Member]) {
        self.next_pack = self.next_pack.max(number + 1);
        self.packs.insert(number, Pack { bytes, ..Pack::default() });
        for Member { uid, slot, offset, bytes } in members {
            self.add(*uid, *slot, Place::Packed { pack: number, offset: *offset, bytes: *bytes });
        }
    }

    /// There is another checkpoint; one of the same group and slot is forgotten.
    pub(crate) fn add(&mut self, uid: u128, slot: u64, place: Place) {
        self.count(&place, true);
        if let Some(before) = self.places.insert((uid, slot), place) {
            self.count(&before, false);
        }
    }

    fn count(&mut self, place: &Place, comes: bool) {
        if let Place::Packed { pack, bytes, .. } = place {
            let pack = self.packs.get_mut(pack).expect("a pack is there before its members");
            let change = |number: u64, by: u64| if comes { number + by } else { number - by };
            (pack.known_bytes, pack.known) = (change(pack.known_bytes, *bytes), change(pack.known, 1));
        }
    }

    /// Where a checkpoint lies. One that is not known would have a file of its own.
    pub(crate) fn place(&self, uid: u128, slot: u64) -> Place {
        self.places.get(&(uid, slot)).copied().unwrap_or(Place::Alone)
    }

    /// The slots of all checkpoints of a group, the newest first.
    pub(crate) fn slots(&self, uid: u128) -> Vec<u64> {
        self.places.range((uid, 0)..=(uid, u64::MAX)).rev().map(|((_, slot), _)| *slot).collect()
    }

    /// The groups that have any.
    pub(crate) fn groups(&self) -> Vec<u128> {
        let mut groups: Vec<u128> = self.places.keys().map(|(uid, _)| *uid).collect();
        groups.dedup();
        groups
    }

    /// The groups and slots in files of their own.
    pub(crate) fn alone(&self) -> impl Iterator<Item = (u128, u64)> + '_ {
        self.places.iter().filter(|(_, place)| **place == Place::Alone).map(|(key, _)| *key)
    }

    /// The groups and slots in a pack.
    pub(crate) fn members(&self, number: u64) -> impl Iterator<Item = (u128, u64)> + '_ {
        let is_in = move |place: &Place| matches!(place, Place::Packed { pack, .. } if *pack == number);
        self.places.iter().filter(move |(_, place)| is_in(place)).map(|(key, _)| *key)
    }

    /// All packs.
    pub(crate) fn packs(&self) -> impl Iterator<Item = u64> + '_ {
        self.packs.keys().copied()
    }

    /// A pack of which hardly anything is needed, and that can be read.
    pub(crate) fn sparse_pack(&self) -> Option<u64> {
        let is_sparse = |pack: &Pack| !pack.stays && pack.known_bytes * 4 < pack.bytes;
        self.packs.iter().find(|(_, pack)| is_sparse(pack)).map(|(number, _)| *number)
    }

    /// A pack cannot be read: it is no longer taken for sparse.
    pub(crate) fn leave_pack(&mut self, number: u64) {
        if let Some(pack) = self.packs.get_mut(&number) {
            pack.stays = true;
        }
    }

    /// Deletes a checkpoint.
    pub(crate) fn remove(&mut self, files: &mut dyn Files, uid: u128, slot: u64) -> io::Result<()> {
        let place = self.place(uid, slot);
        if self.places.remove(&(uid, slot)).is_some() {
            self.count(&place, false);
        }
        match place {
            Place::Alone => files.remove(&whole_name(uid, slot)),
            Place::Packed { pack, .. } => self.clean_pack(files, pack),
        }
    }

    fn clean_pack(&mut self, files: &mut dyn Files, number: u64) -> io::Result<()> {
        if self.packs.get(&number).is_some_and(|pack| pack.known == 0) {
            self.packs.remove(&number);
            files.remove(&pack_name(number))?;
        }
        Ok(())
    }

    /// Deletes the packs of which nothing is needed.
    pub(crate) fn clean(&mut self, files: &mut dyn Files) -> io::Result<()> {
        self.packs().collect::<Vec<_>>().into_iter().try_for_each(|number| self.clean_pack(files, number))
    }
}
