//! The directory of a shard's checkpoints, in memory: exact to what a crash may leave of it.
//!
//! Invariants: readers see everything that was done; what is synced stays, whatever a crash chooses; of bytes that are not
//! synced it leaves any first part, with zeros behind it, and of names that are not synced any.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use synod::simulation::Files;

use crate::disk::Dice;

/// One file: what readers see, and what is durable.
#[derive(Clone, Debug, Default)]
struct File {
    current: Vec<u8>,
    durable: Vec<u8>,
}

/// A change of names that is not synced: this one goes, that one comes.
type Change = (Option<String>, Option<(String, usize)>);

#[derive(Clone, Debug, Default)]
struct Directory {
    files: Vec<File>,
    current: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    unsynced: Vec<Change>,
    /// After so many further operations all fail: the power goes in the middle of something.
    left: Option<usize>,
    /// The next write or sync fails.
    fails: bool,
    full: bool,
}

/// The files; a copy is the same directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimFiles(Arc<Mutex<Directory>>);

fn apply(names: &mut BTreeMap<String, usize>, (from, to): &Change) {
    if let Some(from) = from {
        names.remove(from);
    }
    if let Some((to, file)) = to {
        names.insert(to.clone(), *file);
    }
}

impl Directory {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn writes(&mut self) -> io::Result<()> {
        self.step()?;
        match std::mem::take(&mut self.fails) {
            true => Err(io::Error::other("an input/output error")),
            false => Ok(()),
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        let at = *self.current.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.files[at])
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.unsynced.push(change);
    }

    fn crash(&mut self, dice: &mut Dice) {
        for change in std::mem::take(&mut self.unsynced) {
            if dice.below(2) == 0 {
                apply(&mut self.durable, &change);
            }
        }
        self.current = self.durable.clone();
        for file in &mut self.files {
            if file.current != file.durable {
                let common = file.current.iter().zip(&file.durable).take_while(|(a, b)| a == b).count();
                let kept = common + dice.below(file.current.len() - common + 1);
                let len = kept + dice.below(file.current.len() - kept + 1);
                file.current.truncate(kept);
                file.current.resize(len, 0);
                file.durable = file.current.clone();
            }
        }
    }
}

impl SimFiles {
    fn lock(&self) -> MutexGuard<'_, Directory> {
        self.0.lock().expect("no holder panics")
    }

    /// After so many further operations all fail.
    pub(super) fn end_after(&self, steps: usize) {
        self.lock().left = Some(steps);
    }

    /// The process has ended; with `power` what is not synced is there or not.
    pub(crate) fn end(&self, power: bool, dice: &mut Dice) {
        let mut directory = self.lock();
        directory.left = None;
        directory.fails = false;
        if power {
            directory.crash(dice);
        }
    }

    /// The next write fails.
    pub(super) fn fail_next(&self) {
        self.lock().fails = true;
    }

    /// There is no room, or there is again.
    pub(super) fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Alters a bit of some whole checkpoint; false when there is none.
    pub(crate) fn rot(&self, dice: &mut Dice) -> bool {
        let mut directory = self.lock();
        let is_whole = |name: &str| name.ends_with(".checkpoint") || name.ends_with(".pack");
        let whole: Vec<usize> =
            directory.current.iter().filter(|(name, _)| is_whole(name)).map(|(_, at)| *at).collect();
        if whole.is_empty() {
            return false;
        }
        let file = &mut directory.files[whole[dice.below(whole.len())]];
        if file.current.is_empty() || file.current != file.durable {
            return false;
        }
        let bit = dice.below(file.current.len() * 8);
        file.current[bit / 8] ^= 1 << (bit % 8);
        file.durable = file.current.clone();
        true
    }
}

impl Files for SimFiles {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut directory = self.lock();
        directory.step()?;
        Ok(directory.current.keys().cloned().collect())
    }

    fn len(&mut self, name: &str) -> io::Result<u64> {
        let mut directory = self.lock();
        directory.step()?;
        Ok(directory.file(name)?.current.len() as u64)
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut directory = self.lock();
        directory.writes()?;
        if let Ok(file) = directory.file(name) {
            file.current.clear();
            return Ok(());
        }
        directory.files.push(File::default());
        let file = directory.files.len() - 1;
        directory.change((None, Some((name.to_owned(), file))));
        Ok(())
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let mut directory = self.lock();
        directory.writes()?;
        directory.file(name)?.current.truncate(bytes as usize);
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut directory = self.lock();
        directory.writes()?;
        if directory.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        directory.file(name)?.current.extend_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut directory = self.lock();
        directory.step()?;
        let file = &directory.file(name)?.current;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
        Ok(file[start..file.len().min(start.saturating_add(bytes))].to_vec())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut directory = self.lock();
        directory.writes()?;
        let file = directory.file(name)?;
        file.durable = file.current.clone();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut directory = self.lock();
        directory.writes()?;
        let file = *directory.current.get(from).ok_or(io::ErrorKind::NotFound)?;
        directory.change((Some(from.to_owned()), Some((to.to_owned(), file))));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut directory = self.lock();
        directory.step()?;
        directory.file(name)?;
        directory.change((Some(name.to_owned()), None));
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let mut directory = self.lock();
        directory.writes()?;
        for change in std::mem::take(&mut directory.unsynced) {
            apply(&mut directory.durable, &change);
        }
        Ok(())
    }

    fn again(&self) -> Box<dyn Files> {
        Box::new(self.clone())
    }
}
