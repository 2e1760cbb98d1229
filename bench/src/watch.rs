//! The state machine of a run: it watches what its replica applies, and remembers it over a restart.
//!
//! The watches of a shard live on its thread; a closure that the node runs there reaches them. Saving happens on
//! another thread, about once a second, never in the way of a commit.
//!
//! Invariant: `durable_index` is what the file holds, so that the log gives everything behind it again after a kill.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use synod::{CommittedBatch, GroupId, Handle, MachineFactory, StateMachine};

use crate::verify::Observer;

thread_local! {
    static WATCHES: RefCell<Vec<Arc<Watch>>> = const { RefCell::new(Vec::new()) };
}

/// What is known of one group, on its shard's thread.
#[derive(Debug)]
struct Watch {
    group: GroupId,
    /// Only its shard's thread has a use for it, so it never waits.
    observer: Mutex<Observer>,
    saved: AtomicU64,
}

impl Watch {
    fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().expect("no holder panics")
    }
}

struct Machine(Arc<Watch>);

impl StateMachine for Machine {
    fn durable_index(&self) -> u64 {
        self.0.saved.load(Ordering::Relaxed)
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut observer = self.0.observer();
        if batch.first_index != observer.entries() + 1 {
            let (found, expected) = (batch.first_index, observer.entries() + 1);
            return Err(format!("the engine delivers index {found}, but {expected} comes next").into());
        }
        observer.apply_batch(batch.entries.iter());
        Ok(())
    }
}

/// The observers of one shard, as they are saved.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Save {
    groups: BTreeMap<GroupId, Observer>,
}

/// A save that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}; remove the run directory and start again", path.display())]
pub struct SaveError {
    path: PathBuf,
    reason: String,
}

fn failed(path: &Path) -> impl FnOnce(&dyn std::fmt::Display) -> SaveError + '_ {
    move |reason| SaveError { path: path.to_owned(), reason: reason.to_string() }
}

/// The observers of a node.
#[derive(Debug, Clone)]
pub struct Observers {
    dir: PathBuf,
    shards: u64,
}

impl Observers {
    /// The observers of a node with `shards` shards that saves them in `dir`.
    #[must_use]
    pub fn new(dir: &Path, shards: usize) -> Self {
        Self { dir: dir.to_owned(), shards: shards as u64 }
    }

    fn path(&self, shard: u64) -> PathBuf {
        self.dir.join(format!("observers-{shard}.json"))
    }

    /// Makes the machines, each going on where its observer was saved.
    ///
    /// # Errors
    /// When a save is damaged.
    pub fn machines(&self) -> Result<MachineFactory, SaveError> {
        let mut saved = BTreeMap::new();
        for shard in 0..self.shards {
            let path = self.path(shard);
            let text = match std::fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&path)(&error)),
            };
            let save: Save = serde_json::from_slice(&text).map_err(|error| failed(&path)(&error))?;
            saved.extend(save.groups);
        }
        Ok(Arc::new(move |group| {
            let observer = saved.get(&group).cloned().unwrap_or_default();
            let saved = AtomicU64::new(observer.entries());
            let watch = Arc::new(Watch { group, observer: Mutex::new(observer), saved });
            WATCHES.with_borrow_mut(|watches| watches.push(Arc::clone(&watch)));
            Ok(Some(Box::new(Machine(watch))))
        }))
    }

    /// A copy of all observers, by group; without those of a shard that is stopping.
    #[must_use]
    pub fn copy(&self, handle: &Handle) -> BTreeMap<GroupId, Observer> {
        (0..self.shards).flat_map(|shard| copy_shard(handle, shard)).collect()
    }

    /// How many entries each observer has seen, by group.
    #[must_use]
    pub fn observed(&self, handle: &Handle) -> BTreeMap<GroupId, u64> {
        let one = |watch: &Arc<Watch>| (watch.group, watch.observer().entries());
        let shard =
            |shard| handle.on_shard(shard, move |_| WATCHES.with_borrow(|all| all.iter().map(one).collect::<Vec<_>>()));
        (0..self.shards).filter_map(|number| shard(number).ok()).flatten().collect()
    }

    /// Saves all observers. Written and renamed, not synced: it must survive the process only, and a sync would
    /// disturb what is measured.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, handle: &Handle) -> Result<(), SaveError> {
        for shard in 0..self.shards {
            let save = Save { groups: copy_shard(handle, shard) };
            let path = self.path(shard);
            let text = serde_json::to_vec(&save).expect("an observer has string keys only");
            let new = path.with_extension("new");
            std::fs::write(&new, text)
                .and_then(|()| std::fs::rename(&new, &path))
                .map_err(|error| failed(&path)(&error))?;
            let counts: BTreeMap<GroupId, u64> = save.groups.iter().map(|(g, o)| (*g, o.entries())).collect();
            let note = move |watch: &Arc<Watch>| {
                if let Some(entries) = counts.get(&watch.group) {
                    watch.saved.store(*entries, Ordering::Relaxed);
                }
            };
            // A shard that is stopping has nothing more to trim.
            let _ = handle.on_shard(shard, move |_| WATCHES.with_borrow(|all| all.iter().for_each(note)));
        }
        Ok(())
    }
}

fn copy_shard(handle: &Handle, shard: u64) -> BTreeMap<GroupId, Observer> {
    let one = |watch: &Arc<Watch>| (watch.group, watch.observer().clone());
    handle.on_shard(shard, move |_| WATCHES.with_borrow(|all| all.iter().map(one).collect())).unwrap_or_default()
}
