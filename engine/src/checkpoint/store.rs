//! Carries out what shards ask of their checkpoints, on a directory of files. It blocks.
//!
//! Invariants: a file has its final name only when it was written and checked as a whole and is durable; names are made
//! here, of group, slot and content, and never come from elsewhere; what is not whole is taken up again or deleted.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use synod_core::Slot;
use synod_core::planted::{Bug, is};

use super::files::Files;
use super::format::{Decoder, Encoder, FormatError, Head};
use super::{Kept, Part, StoreDone, StoreOp};
use crate::apply::ApplyState;
use crate::machine::{Checkpoint, StateMachine};

/// The checkpoints of one shard.
pub(crate) struct Store {
    files: Box<dyn Files>,
    cluster: u128,
    /// The node stops: what takes long is given up.
    stopping: Arc<AtomicBool>,
}

/// A checkpoint that is written, and not durable under its name yet.
struct Unnamed {
    temporary: String,
    name: String,
    kept: Kept,
}

/// The name of a whole checkpoint.
pub(crate) fn whole_name(uid: u128, slot: u64) -> String {
    format!("{uid:032x}-{slot:016x}.checkpoint")
}

fn part_name(part: &Part) -> String {
    format!("{:032x}-{:016x}-{:016x}.part", part.uid, part.slot, part.id)
}

/// The slot of a whole checkpoint of a group, by its name.
pub(crate) fn slot_of(name: &str, uid: u128) -> Option<u64> {
    let slot = name.strip_prefix(&format!("{uid:032x}-"))?.strip_suffix(".checkpoint")?;
    u64::from_str_radix(slot, 16).ok()
}

/// Reads a file from its beginning to its end.
struct Reading<'a> {
    files: &'a mut dyn Files,
    name: String,
    offset: u64,
    piece: Vec<u8>,
    taken: usize,
}

const PIECE_BYTES: usize = 256 << 10;

impl<'a> Reading<'a> {
    fn new(files: &'a mut dyn Files, name: String) -> Self {
        Self { files, name, offset: 0, piece: Vec::new(), taken: 0 }
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.piece.len() {
            self.piece = self.files.read(&self.name, self.offset, PIECE_BYTES)?;
            self.offset += self.piece.len() as u64;
            self.taken = 0;
        }
        let bytes = out.len().min(self.piece.len() - self.taken);
        out[..bytes].copy_from_slice(&self.piece[self.taken..self.taken + bytes]);
        self.taken += bytes;
        Ok(bytes)
    }
}

impl Store {
    /// The store of a shard of this cluster. What a crash left half written is deleted.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub(crate) fn open(mut files: Box<dyn Files>, cluster: u128) -> io::Result<Self> {
        for name in files.list()? {
            if name.ends_with(".tmp") {
                files.remove(&name)?;
            }
        }
        Ok(Self { files, cluster, stopping: Arc::default() })
    }

    /// Deletes what belongs to groups that are over: they were dropped.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub(crate) fn remove_all_of(&mut self, is_over: impl Fn(u128) -> bool) -> io::Result<()> {
        for name in self.files.list()? {
            let uid = name.get(..32).and_then(|uid| u128::from_str_radix(uid, 16).ok());
            let ours = name.ends_with(".checkpoint") || name.ends_with(".part");
            if ours && uid.is_some_and(&is_over) {
                self.files.remove(&name)?;
            }
        }
        Ok(())
    }

    /// To be set when the node stops.
    pub(crate) fn stopping(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopping)
    }

    /// The slots of all checkpoints of a group, the newest first, whole or not.
    fn slots(&mut self, uid: u128) -> io::Result<Vec<u64>> {
        let mut slots: Vec<u64> = self.files.list()?.iter().filter_map(|name| slot_of(name, uid)).collect();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        Ok(slots)
    }

    fn check(&mut self, name: String, uid: u128) -> Result<Kept, FormatError> {
        let mut decoder = Decoder::open(Reading::new(&mut *self.files, name), self.cluster, uid)?;
        let (bytes, id) = decoder.check_rest()?;
        Ok(Kept { state: decoder.head.state, bytes, id })
    }

    /// The newest checkpoint of a group that is intact. Others that cannot be used are told of and deleted, and so are
    /// older ones.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub(crate) fn newest(&mut self, uid: u128) -> io::Result<Option<Kept>> {
        let mut newest = None;
        for slot in self.slots(uid)? {
            let name = whole_name(uid, slot);
            if newest.is_none() {
                match self.check(name.clone(), uid) {
                    Ok(kept) if kept.slot() == Slot(slot) => {
                        newest = Some(kept);
                        continue;
                    }
                    Ok(_) => tracing::error!(name, "a checkpoint has the name of another slot: it is not used"),
                    Err(error) => tracing::error!(name, %error, "a checkpoint cannot be used: an older one is taken"),
                }
            }
            self.files.remove(&name)?;
        }
        Ok(newest)
    }

    /// Restores a machine from a checkpoint; gives its index.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) fn restore(&mut self, uid: u128, slot: u64, machine: &mut dyn StateMachine) -> Result<u64, String> {
        let reading = Reading::new(&mut *self.files, whole_name(uid, slot));
        let mut decoder = Decoder::open(reading, self.cluster, uid).map_err(|error| error.to_string())?;
        let index = decoder.head.state.next_index - 1;
        machine.restore(index, &mut decoder).map_err(|error| error.to_string())?;
        Ok(index)
    }

    /// Carries out some operations in turn and tells of each that is answered. The checkpoints that they write one behind
    /// the other are made durable together: small ones cost little else.
    pub(crate) fn carry_out_all(&mut self, ops: impl IntoIterator<Item = StoreOp>, mut done: impl FnMut(StoreDone)) {
        let mut writes = Vec::new();
        for op in ops {
            match op {
                StoreOp::Write { group, uid, state, view } => writes.push((group, self.write(uid, state, view))),
                // What is removed has been replaced before, durably: it is none of these.
                StoreOp::Remove { .. } => drop(self.carry_out(op)),
                op => {
                    self.make_durable(std::mem::take(&mut writes), &mut done);
                    self.carry_out(op).into_iter().for_each(&mut done);
                }
            }
        }
        self.make_durable(writes, &mut done);
    }

    /// Carries out one operation.
    pub(crate) fn carry_out(&mut self, op: StoreOp) -> Option<StoreDone> {
        let text = |error: io::Error| error.to_string();
        Some(match op {
            StoreOp::Write { .. } => {
                let mut written = None;
                self.carry_out_all([op], |done| written = Some(done));
                return written;
            }
            StoreOp::Read { request, uid, slot, offset, bytes } => {
                let result = self.read(uid, slot, offset, bytes as usize);
                StoreDone::Read { request, result }
            }
            StoreOp::Begin { group, part } => {
                let result = self.begin(&part).map_err(text);
                StoreDone::Begun { group, part, result }
            }
            StoreOp::Append { group, part, offset, bytes } => {
                let result = self.append(&part, offset, &bytes).map_err(text);
                StoreDone::Appended { group, part, result }
            }
            StoreOp::Finish { group, part } => {
                let result = self.finish(&part);
                if result.is_err() {
                    // The next try begins anew.
                    let _ = self.files.remove(&part_name(&part));
                }
                StoreDone::Finished { group, part, result }
            }
            StoreOp::Restore { group, uid, slot, mut machine } => {
                let result = self.restore(uid, slot, &mut *machine);
                StoreDone::Restored { group, machine, result }
            }
            StoreOp::Remove { uid, slot } => {
                if let Err(error) = self.files.remove(&whole_name(uid, slot))
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(%error, slot, "an old checkpoint cannot be deleted");
                }
                return None;
            }
        })
    }

    /// Bytes for a peer. Before the first ones the whole is checked: what has rotted here must not go round.
    fn read(&mut self, uid: u128, slot: u64, offset: u64, bytes: usize) -> Result<Vec<u8>, String> {
        if offset == 0 {
            self.check(whole_name(uid, slot), uid).map_err(|error| error.to_string())?;
        }
        self.files.read(&whole_name(uid, slot), offset, bytes).map_err(|error| error.to_string())
    }

    /// Writes a checkpoint under a temporary name; nothing of it is durable yet.
    fn write(&mut self, uid: u128, state: ApplyState, view: Box<dyn Checkpoint>) -> io::Result<Unnamed> {
        let name = whole_name(uid, state.slot.0);
        let temporary = format!("{name}.tmp");
        match self.write_to(&temporary, uid, &state, view) {
            Ok((bytes, id)) => Ok(Unnamed { temporary, name, kept: Kept { state, bytes, id } }),
            Err(error) => {
                let _ = self.files.remove(&temporary);
                Err(error)
            }
        }
    }

    /// Makes the files of written checkpoints durable, then gives them their names, then makes these durable.
    fn make_durable(&mut self, writes: Vec<(u32, io::Result<Unnamed>)>, mut done: impl FnMut(StoreDone)) {
        if writes.is_empty() {
            return;
        }
        let temporary = writes.iter().filter_map(|(_, written)| Some(written.as_ref().ok()?.temporary.as_str()));
        let mut synced = self.files.sync_all(&temporary.collect::<Vec<_>>()).into_iter();
        let mut rename = |unnamed: Unnamed| {
            let synced = synced.next().expect("each file was synced");
            let renamed = synced.and_then(|()| self.files.rename(&unnamed.temporary, &unnamed.name));
            if renamed.is_err() {
                let _ = self.files.remove(&unnamed.temporary);
            }
            renamed.map(|()| unnamed.kept)
        };
        let renamed: Vec<_> =
            writes.into_iter().map(|(group, written)| (group, written.and_then(&mut rename))).collect();
        let named = self.files.sync_names();
        for (group, kept) in renamed {
            let named = named.as_ref().map_err(ToString::to_string);
            let result = kept.map_err(|error| error.to_string()).and_then(|kept| named.map(|()| kept));
            done(StoreDone::Written { group, result });
        }
    }

    fn write_to(
        &mut self,
        name: &str,
        uid: u128,
        state: &ApplyState,
        view: Box<dyn Checkpoint>,
    ) -> io::Result<(u64, u64)> {
        self.files.create(name)?;
        let (files, stopping) = (&mut self.files, &self.stopping);
        let mut out = |bytes: &[u8]| match stopping.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the node stops")),
            false => files.append(name, bytes),
        };
        let mut encoder = Encoder::new(&Head { cluster: self.cluster, uid, state: state.clone() }, &mut out)?;
        view.write(&mut encoder)?;
        encoder.finish()
    }

    /// Takes up what was received before, as far as it is intact. Other parts of the group are deleted.
    fn begin(&mut self, part: &Part) -> io::Result<u64> {
        let name = part_name(part);
        let mut found = false;
        for other in self.files.list()? {
            if other == name {
                found = true;
            } else if other.starts_with(&format!("{:032x}-", part.uid)) && other.ends_with(".part") {
                self.files.remove(&other)?;
            }
        }
        if !found {
            self.files.create(&name)?;
            return Ok(0);
        }
        let len = self.files.len(&name)?;
        let intact = match Decoder::open(Reading::new(&mut *self.files, name.clone()), self.cluster, part.uid) {
            Ok(mut decoder) => {
                // How it ends is looked at when all is there.
                let _ = decoder.check_rest();
                decoder.intact()
            }
            Err(_) => 0,
        };
        if intact < len {
            self.files.truncate(&name, intact)?;
        }
        Ok(intact)
    }

    fn append(&mut self, part: &Part, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let name = part_name(part);
        let len = self.files.len(&name)?;
        if len != offset {
            return Err(io::Error::other(format!("{name} has {len} bytes, and byte {offset} was to follow")));
        }
        self.files.append(&name, bytes)?;
        Ok(len + bytes.len() as u64)
    }

    fn finish(&mut self, part: &Part) -> Result<Kept, String> {
        let name = part_name(part);
        let kept = self.check(name.clone(), part.uid).map_err(|error| error.to_string())?;
        if (kept.slot(), kept.id) != (Slot(part.slot), part.id) && !is(Bug::ChunksAreNotChecked) {
            return Err("it is not the one that was offered".into());
        }
        let mut durable = || -> io::Result<()> {
            if !is(Bug::CheckpointsAreInstalledEarly) {
                self.files.sync(&name)?;
            }
            self.files.rename(&name, &whole_name(part.uid, part.slot))?;
            if !is(Bug::CheckpointsAreInstalledEarly) {
                self.files.sync_names()?;
            }
            Ok(())
        };
        durable().map_err(|error| error.to_string())?;
        Ok(kept)
    }
}

#[cfg(test)]
mod tests;
