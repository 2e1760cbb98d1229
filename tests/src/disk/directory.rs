//! A directory of files in two layers: what is durable, and what was done since and not synced.
//!
//! Invariants:
//! - a reader sees everything that was done; only a crash shows the difference;
//! - a sync of a file makes its bytes and size durable and says nothing of its name; a sync of the directory makes names
//!   durable and says nothing of bytes;
//! - what a failed sync dropped is never made durable by a later one, though readers still see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    rc::Rc,
};

use synod_wal::WriteData;

use super::{
    choice::{CrashChoice, Fate, SECTOR_BYTES, Sector},
    content::Content,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Segment(u64),
    Unfinished(u64),
}

type FileId = u64;
type Entries = BTreeMap<Name, FileId>;

#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    files: BTreeMap<FileId, File>,
    durable: Entries,
    current: Entries,
    unsynced: Vec<Change>,
    file_next: FileId,
}

/// A change of names: `from` goes, `to` comes.
#[derive(Debug, Clone, Copy)]
struct Change {
    from: Option<Name>,
    to: Option<(Name, FileId)>,
    dropped: bool,
}

impl Change {
    fn apply(&self, entries: &mut Entries) {
        if let Some(from) = self.from {
            entries.remove(&from);
        }
        if let Some((to, file)) = self.to {
            entries.insert(to, file);
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct File {
    pub(super) current: Content,
    pub(super) durable: Content,
    /// Per page, what was durable before its last change.
    pub(super) older: Content,
    unsynced: Vec<Unsynced>,
}

/// Bytes that landed, or may have, and are not synced.
#[derive(Debug, Clone)]
struct Unsynced {
    offset: u64,
    data: Rc<WriteData>,
    bytes: usize,
    dropped: bool,
}

impl Unsynced {
    fn bytes(&self) -> &[u8] {
        &self.data.bytes()[..self.bytes]
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.bytes as u64 && other.offset < self.offset + self.bytes as u64
    }
}

impl File {
    fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            if write.dropped {
                self.unsynced.push(write);
            } else {
                self.harden(write.offset, write.bytes());
                // What failed before cannot come back over what was written after it.
                self.unsynced.retain(|failed| !failed.overlaps(&write));
            }
        }
        if self.durable.len() != self.current.len() {
            self.durable.set_len(self.current.len());
        }
    }

    fn harden(&mut self, offset: u64, bytes: &[u8]) {
        self.older.take_pages(&self.durable, offset, bytes.len());
        self.durable.write(offset, bytes);
    }

    fn crash(&mut self, writes: &mut usize, choice: &mut dyn CrashChoice) {
        let grown = (self.durable.len() != self.current.len() && choice.change()).then(|| self.current.len());
        for write in std::mem::take(&mut self.unsynced) {
            let count = write.bytes().len().div_ceil(SECTOR_BYTES);
            for (index, sector) in write.bytes().chunks(SECTOR_BYTES).enumerate() {
                let bytes = match choice.sector(Sector { write: *writes, index, count }) {
                    Fate::Old => 0,
                    Fate::New => sector.len(),
                    Fate::Torn(bytes) => bytes.min(sector.len()),
                };
                if 0 < bytes {
                    self.harden(write.offset + (index * SECTOR_BYTES) as u64, &sector[..bytes]);
                }
            }
            *writes += 1;
        }
        if let Some(bytes) = grown.filter(|bytes| self.durable.len() < *bytes) {
            self.durable.set_len(bytes);
        }
        self.current = self.durable.clone();
    }
}

impl Directory {
    pub(super) fn names(&self) -> impl Iterator<Item = Name> + '_ {
        self.current.keys().copied()
    }

    pub(super) fn file(&self, name: Name) -> io::Result<&File> {
        let file = self.current.get(&name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&self.files[file])
    }

    pub(super) fn file_mut(&mut self, name: Name) -> io::Result<&mut File> {
        let file = self.current.get(&name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.files.get_mut(file).expect("a named file exists"))
    }

    /// Bytes that all files hold.
    pub(super) fn bytes(&self) -> u64 {
        self.current.values().map(|file| self.files[file].current.len()).sum()
    }

    pub(super) fn create(&mut self, name: Name) {
        let file = self.file_next;
        self.file_next += 1;
        self.files.insert(file, File::default());
        self.change(None, Some((name, file)));
    }

    pub(super) fn rename(&mut self, from: Name, to: Name) -> io::Result<()> {
        let file = *self.current.get(&from).ok_or(io::ErrorKind::NotFound)?;
        self.change(Some(from), Some((to, file)));
        Ok(())
    }

    pub(super) fn remove(&mut self, name: Name) -> io::Result<()> {
        self.file(name)?;
        self.change(Some(name), None);
        Ok(())
    }

    /// Bytes that land, to be synced later.
    pub(super) fn write(&mut self, name: Name, offset: u64, data: &Rc<WriteData>, bytes: usize) -> io::Result<()> {
        let file = self.file_mut(name)?;
        file.current.write(offset, &data.bytes()[..bytes]);
        file.unsynced.push(Unsynced { offset, data: Rc::clone(data), bytes, dropped: false });
        Ok(())
    }

    /// A write that failed: nobody sees it, yet parts of it may be there after a crash.
    pub(super) fn write_failed(&mut self, name: Name, offset: u64, data: &Rc<WriteData>) -> io::Result<()> {
        let bytes = data.bytes().len();
        let write = Unsynced { offset, data: Rc::clone(data), bytes, dropped: true };
        self.file_mut(name)?.unsynced.push(write);
        Ok(())
    }

    pub(super) fn sync_file(&mut self, name: Name) -> io::Result<()> {
        self.file_mut(name)?.sync();
        Ok(())
    }

    /// A sync that failed: the system may have dropped what it could not write, and says so once.
    pub(super) fn sync_file_failed(&mut self, name: Name) -> io::Result<()> {
        self.file_mut(name)?.unsynced.iter_mut().for_each(|write| write.dropped = true);
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.extract_if(.., |change| !change.dropped) {
            change.apply(&mut self.durable);
        }
        self.forget_unnamed();
    }

    pub(super) fn sync_failed(&mut self) {
        self.unsynced.iter_mut().for_each(|change| change.dropped = true);
    }

    /// Sectors that a crash would choose about, per write, in the order of the question.
    pub(super) fn unsynced_writes(&self) -> impl Iterator<Item = (usize, &[u8])> + '_ {
        self.files
            .values()
            .flat_map(|file| &file.unsynced)
            .map(|write| (write.bytes.div_ceil(SECTOR_BYTES), write.bytes()))
    }

    /// Changes of names and sizes that a crash would choose about.
    pub(super) fn unsynced_changes(&self) -> usize {
        let sizes = self.files.values().filter(|file| file.durable.len() != file.current.len()).count();
        self.unsynced.len() + sizes
    }

    /// The power goes: of what was not synced only what `choice` says is there, and it is durable.
    pub(super) fn crash(&mut self, choice: &mut dyn CrashChoice) {
        for change in std::mem::take(&mut self.unsynced) {
            if choice.change() {
                change.apply(&mut self.durable);
            }
        }
        self.current = self.durable.clone();
        let mut writes = 0;
        for file in self.files.values_mut() {
            file.crash(&mut writes, choice);
        }
        self.forget_unnamed();
    }

    fn change(&mut self, from: Option<Name>, to: Option<(Name, FileId)>) {
        let change = Change { from, to, dropped: false };
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    /// A file lives as long as a name leads to it, or may after a crash.
    fn forget_unnamed(&mut self) {
        let pending = self.unsynced.iter().filter_map(|change| change.to.map(|(_, file)| file));
        let named: BTreeSet<FileId> =
            self.durable.values().chain(self.current.values()).copied().chain(pending).collect();
        self.files.retain(|file, _| named.contains(file));
    }
}

/// What lies in a file, as readers see it.
pub(super) fn bytes_of(file: &File, range: Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.current.read(range.start, &mut bytes);
    bytes
}
