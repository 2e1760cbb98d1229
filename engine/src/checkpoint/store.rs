//! Carries out what shards ask of their checkpoints, on a directory of files. It blocks.
//!
//! Invariants: a file has its final name only when it was written and checked as a whole and is durable; names are made
//! here, of group, slot and content, and never come from elsewhere; what is not whole is taken up again or deleted. Small
//! checkpoints that are written together share a pack, and so a sync.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use synod_core::Slot;
use synod_core::planted::{Bug, is};

use super::contents::{Contents, Place, whole_name};
use super::files::Files;
use super::format::{Decoder, Encoder, FormatError, Head};
use super::packs::{self, Member, pack_name};
use super::{Kept, Part, SMALL_BYTES, StoreDone, StoreOp};
use crate::apply::ApplyState;
use crate::machine::{Checkpoint, StateMachine};

/// The checkpoints of one shard.
pub(crate) struct Store {
    files: Box<dyn Files>,
    contents: Contents,
    cluster: u128,
    /// The longest checkpoint that is packed with others.
    packed_bytes_max: usize,
    /// The node stops: what takes long is given up.
    stopping: Arc<AtomicBool>,
}

/// Where a checkpoint was written that is not durable yet.
enum Unnamed {
    /// Under a temporary name.
    Alone(String),
    /// In memory.
    Small(Vec<u8>),
}

/// A group's checkpoint that is being written, if it could be.
struct Written {
    group: u32,
    uid: u128,
    result: io::Result<(Kept, Unnamed)>,
}

fn part_name(part: &Part) -> String {
    format!("{:032x}-{:016x}-{:016x}.part", part.uid, part.slot, part.id)
}

/// A pack that is written.
struct NewPack {
    number: u64,
    bytes: u64,
    members: Vec<Member>,
}

/// Reads a checkpoint from its beginning to its end.
pub(crate) struct Reading<'a> {
    files: &'a mut dyn Files,
    name: String,
    offset: u64,
    /// Where it ends; a file of its own ends by itself.
    end: u64,
    piece: Vec<u8>,
    taken: usize,
}

const PIECE_BYTES: usize = 256 << 10;

impl<'a> Reading<'a> {
    fn new(files: &'a mut dyn Files, (name, range): (String, Range<u64>)) -> Self {
        Self { files, name, offset: range.start, end: range.end, piece: Vec::new(), taken: 0 }
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.piece.len() {
            let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
            self.piece = self.files.read(&self.name, self.offset, PIECE_BYTES.min(left))?;
            self.offset += self.piece.len() as u64;
            self.taken = 0;
        }
        let bytes = out.len().min(self.piece.len() - self.taken);
        out[..bytes].copy_from_slice(&self.piece[self.taken..self.taken + bytes]);
        self.taken += bytes;
        Ok(bytes)
    }
}

/// Reads a checkpoint to its end.
fn kept_of<R: Read>(mut decoder: Decoder<R>) -> Result<Kept, FormatError> {
    let (bytes, id) = decoder.check_rest()?;
    Ok(Kept { state: decoder.head.state, bytes, id })
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
        Self::look(files, cluster)
    }

    /// The same for one who changes nothing.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn look(mut files: Box<dyn Files>, cluster: u128) -> io::Result<Self> {
        let contents = Contents::find(&mut *files)?;
        Ok(Self { files, contents, cluster, packed_bytes_max: SMALL_BYTES as usize, stopping: Arc::default() })
    }

    /// Packs only checkpoints of at most so many bytes.
    #[cfg(feature = "simulation")]
    pub(crate) fn pack_up_to(mut self, bytes: usize) -> Self {
        self.packed_bytes_max = bytes;
        self
    }

    /// Deletes what belongs to groups that are over here: they were dropped, or are on another shard.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub(crate) fn remove_all_of(&mut self, is_over: impl Fn(u128) -> bool) -> io::Result<()> {
        for uid in self.contents.groups().into_iter().filter(|uid| is_over(*uid)) {
            for slot in self.contents.slots(uid) {
                self.contents.remove(&mut *self.files, uid, slot)?;
            }
        }
        for name in self.files.list()?.into_iter().filter(|name| name.ends_with(".part")) {
            let uid = name.get(..32).and_then(|uid| u128::from_str_radix(uid, 16).ok());
            if uid.is_some_and(&is_over) {
                self.files.remove(&name)?;
            }
        }
        self.contents.clean(&mut *self.files)
    }

    /// To be set when the node stops.
    pub(crate) fn stopping(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopping)
    }

    /// The slots of all checkpoints of a group, the newest first, intact or not.
    pub(crate) fn slots(&self, uid: u128) -> Vec<u64> {
        self.contents.slots(uid)
    }

    pub(super) fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// The file of a checkpoint, and where it lies in it.
    pub(super) fn place(&self, uid: u128, slot: u64) -> (String, Range<u64>) {
        match self.contents.place(uid, slot) {
            Place::Alone => (whole_name(uid, slot), 0..u64::MAX),
            Place::Packed { pack, offset, bytes } => (pack_name(pack), offset..offset + bytes),
        }
    }

    /// Opens a checkpoint behind its head.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn decoder(&mut self, uid: u128, slot: u64) -> Result<Decoder<Reading<'_>>, FormatError> {
        let place = self.place(uid, slot);
        Decoder::open(Reading::new(&mut *self.files, place), self.cluster, uid)
    }

    /// Reads the whole of a checkpoint.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn check(&mut self, uid: u128, slot: u64) -> Result<Kept, FormatError> {
        let kept = kept_of(self.decoder(uid, slot)?)?;
        if kept.slot() == Slot(slot) { Ok(kept) } else { Err(FormatError::Slot) }
    }

    /// The newest checkpoint of a group that is intact. Others that cannot be used are told of and deleted, and so are
    /// older ones.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub(crate) fn newest(&mut self, uid: u128) -> io::Result<Option<Kept>> {
        let mut newest = None;
        for slot in self.slots(uid) {
            if newest.is_none() {
                match self.check(uid, slot) {
                    Ok(kept) => {
                        newest = Some(kept);
                        continue;
                    }
                    Err(error) => {
                        let (name, _) = self.place(uid, slot);
                        tracing::error!(name, slot, %error, "a checkpoint cannot be used: an older one is taken");
                    }
                }
            }
            self.contents.remove(&mut *self.files, uid, slot)?;
        }
        Ok(newest)
    }

    /// Restores a machine from a checkpoint; gives its index.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) fn restore(&mut self, uid: u128, slot: u64, machine: &mut dyn StateMachine) -> Result<u64, String> {
        let mut decoder = self.decoder(uid, slot).map_err(|error| error.to_string())?;
        let index = decoder.head.state.next_index - 1;
        machine.restore(index, &mut decoder).map_err(|error| error.to_string())?;
        Ok(index)
    }

    /// Carries out some operations in turn and tells of each that is answered. The checkpoints that they write one behind
    /// the other are made durable together: small ones cost little else.
    pub(crate) fn carry_out(&mut self, ops: impl IntoIterator<Item = StoreOp>, mut done: impl FnMut(StoreDone)) {
        let mut writes = Vec::new();
        for op in ops {
            match op {
                StoreOp::Write { group, uid, state, view } => {
                    writes.push(Written { group, uid, result: self.write(uid, state, view) });
                }
                // What is removed has been replaced before, durably: it is none of these.
                StoreOp::Remove { uid, slot } => self.remove(uid, slot),
                op => {
                    self.make_durable(std::mem::take(&mut writes), &mut done);
                    done(self.answer(op));
                }
            }
        }
        self.make_durable(writes, &mut done);
    }

    fn answer(&mut self, op: StoreOp) -> StoreDone {
        let text = |error: io::Error| error.to_string();
        match op {
            StoreOp::Write { .. } | StoreOp::Remove { .. } => unreachable!("they are carried out on their own"),
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
            StoreOp::Export { group, uid, slot } => StoreDone::Exported { group, result: self.export(uid, slot) },
            StoreOp::Import { group, uid, from } => StoreDone::Imported { group, result: self.import(uid, from) },
            StoreOp::Note { group, note } => StoreDone::Noted { group, result: note() },
        }
    }

    fn remove(&mut self, uid: u128, slot: u64) {
        if let Err(error) = self.contents.remove(&mut *self.files, uid, slot)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, slot, "an old checkpoint cannot be deleted");
        }
    }

    /// Bytes for a peer. Before the first ones the whole is checked: what has rotted here must not go round.
    fn read(&mut self, uid: u128, slot: u64, offset: u64, bytes: usize) -> Result<Vec<u8>, String> {
        if offset == 0 {
            self.check(uid, slot).map_err(|error| error.to_string())?;
        }
        let (name, Range { start, end }) = self.place(uid, slot);
        let offset = start.saturating_add(offset).min(end);
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        self.files.read(&name, offset, bytes.min(left)).map_err(|error| error.to_string())
    }

    /// Writes a checkpoint under a temporary name, or to memory; nothing of it is durable yet.
    fn write(&mut self, uid: u128, state: ApplyState, view: Box<dyn Checkpoint>) -> io::Result<(Kept, Unnamed)> {
        let temporary = format!("{}.tmp", whole_name(uid, state.slot.0));
        let mut small = Vec::new();
        let mut alone = false;
        let (files, stopping, most) = (&mut self.files, &self.stopping, self.packed_bytes_max);
        let mut out = |bytes: &[u8]| {
            if stopping.load(Ordering::Relaxed) {
                return Err(io::Error::other("the node stops"));
            }
            if alone {
                return files.append(&temporary, bytes);
            }
            small.extend_from_slice(bytes);
            if small.len() > most {
                alone = true;
                files.create(&temporary)?;
                files.append(&temporary, &std::mem::take(&mut small))?;
            }
            Ok(())
        };
        let head = Head { cluster: self.cluster, uid, state: state.clone() };
        let written = Encoder::new(&head, &mut out).and_then(|mut encoder| {
            view.write(&mut encoder)?;
            encoder.finish()
        });
        match written {
            Ok((bytes, id)) => {
                let unnamed = if alone { Unnamed::Alone(temporary) } else { Unnamed::Small(small) };
                Ok((Kept { state, bytes, id }, unnamed))
            }
            Err(error) => {
                if alone {
                    let _ = self.files.remove(&temporary);
                }
                Err(error)
            }
        }
    }

    /// Makes written checkpoints durable, those in memory as a pack.
    fn make_durable(&mut self, writes: Vec<Written>, mut done: impl FnMut(StoreDone)) {
        if writes.is_empty() {
            return;
        }
        let (mut small, mut written) = (Vec::new(), Vec::new());
        for Written { group, uid, result } in writes {
            let result = result.and_then(|(kept, unnamed)| match unnamed {
                Unnamed::Alone(temporary) => {
                    self.name(&temporary, &whole_name(uid, kept.slot().0))?;
                    Ok((kept, true))
                }
                Unnamed::Small(bytes) => {
                    small.push((uid, kept.slot().0, bytes));
                    Ok((kept, false))
                }
            });
            written.push((group, uid, result));
        }
        let pack = if small.is_empty() { Ok(None) } else { self.write_pack(&small).map(Some) };
        let named = self.files.sync_names().map_err(|error| error.to_string());
        let pack = pack.map_err(|error| error.to_string()).and_then(|pack| named.clone().map(|()| pack));
        for (group, uid, result) in written {
            let result = result.map_err(|error| error.to_string()).and_then(|(kept, alone)| {
                if alone {
                    named.clone()?;
                    self.contents.add(uid, kept.slot().0, Place::Alone);
                } else {
                    pack.as_ref().map_err(Clone::clone)?;
                }
                Ok(kept)
            });
            done(StoreDone::Written { group, result });
        }
        if let Ok(Some(NewPack { number, bytes, members })) = pack {
            self.contents.add_pack(number, bytes, &members);
            // What has moved into this one is durable here.
            if let Err(error) = self.contents.clean(&mut *self.files) {
                tracing::warn!(%error, "a pack of checkpoints that nobody needs cannot be deleted");
            }
        }
    }

    /// Makes a file durable, and gives it its name, which is not durable yet.
    fn name(&mut self, temporary: &str, name: &str) -> io::Result<()> {
        let renamed = self.files.sync(temporary).and_then(|()| self.files.rename(temporary, name));
        if renamed.is_err() {
            let _ = self.files.remove(temporary);
        }
        renamed
    }

    /// Writes checkpoints as a pack, and what is still needed of an older pack that has hardly anything else.
    fn write_pack(&mut self, small: &[(u128, u64, Vec<u8>)]) -> io::Result<NewPack> {
        let (mut pack, mut members) = (Vec::new(), Vec::new());
        for (uid, slot, bytes) in small {
            members.push(packs::append(&mut pack, *uid, *slot, bytes));
        }
        if let Some(sparse) = self.contents.sparse_pack() {
            for (uid, slot) in self.contents.members(sparse).collect::<Vec<_>>() {
                let (name, Range { start, end }) = self.place(uid, slot);
                match self.files.read(&name, start, (end - start) as usize) {
                    Ok(bytes) => members.push(packs::append(&mut pack, uid, slot, &bytes)),
                    Err(error) => {
                        tracing::warn!(name, %error, "an old pack of checkpoints cannot be read: it stays where it is");
                        self.contents.leave_pack(sparse);
                    }
                }
            }
        }
        let number = self.contents.next_pack();
        let temporary = format!("{}.tmp", pack_name(number));
        let write = |files: &mut dyn Files| {
            files.create(&temporary)?;
            files.append(&temporary, &pack)
        };
        write(&mut *self.files).inspect_err(|_| drop(self.files.remove(&temporary)))?;
        self.name(&temporary, &pack_name(number))?;
        Ok(NewPack { number, bytes: pack.len() as u64, members })
    }

    /// Takes up what was received before, as far as it is intact. Other parts of the group are deleted.
    pub(super) fn begin(&mut self, part: &Part) -> io::Result<u64> {
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
        let intact = match self.part_decoder(part) {
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

    fn part_decoder(&mut self, part: &Part) -> Result<Decoder<Reading<'_>>, FormatError> {
        let reading = Reading::new(&mut *self.files, (part_name(part), 0..u64::MAX));
        Decoder::open(reading, self.cluster, part.uid)
    }

    pub(super) fn append(&mut self, part: &Part, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let name = part_name(part);
        let len = self.files.len(&name)?;
        if len != offset {
            return Err(io::Error::other(format!("{name} has {len} bytes, and byte {offset} was to follow")));
        }
        self.files.append(&name, bytes)?;
        Ok(len + bytes.len() as u64)
    }

    pub(super) fn finish(&mut self, part: &Part) -> Result<Kept, String> {
        let name = part_name(part);
        let kept = self.part_decoder(part).and_then(kept_of).map_err(|error| error.to_string())?;
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
        self.contents.add(part.uid, part.slot, Place::Alone);
        Ok(kept)
    }
}

#[cfg(test)]
mod tests;
