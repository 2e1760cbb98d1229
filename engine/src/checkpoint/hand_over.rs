//! A checkpoint on its way from one shard's store to another's, on the same node.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::files::Files;
use super::store::Store;
use super::{Kept, Part};

const PIECE_BYTES: usize = 256 << 10;

/// A checkpoint of one store that another one may read.
pub(crate) struct Exported {
    pub(crate) kept: Kept,
    files: Box<dyn Files>,
    name: String,
    range: Range<u64>,
}

impl std::fmt::Debug for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the checkpoint at slot {} in {}", self.kept.slot(), self.name)
    }
}

impl Read for Exported {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let piece = self.files.read(&self.name, self.range.start, out.len().min(left))?;
        out[..piece.len()].copy_from_slice(&piece);
        self.range.start += piece.len() as u64;
        Ok(piece.len())
    }
}

impl Store {
    /// Opens a checkpoint for another store, once it was read and found intact.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn export(&mut self, uid: u128, slot: u64) -> Result<Exported, String> {
        let kept = self.check(uid, slot).map_err(|error| error.to_string())?;
        let (name, range) = self.place(uid, slot);
        Ok(Exported { kept, files: self.files().again(), name, range })
    }

    /// Takes another store's checkpoint over: it is checked again, and durable when this has ended.
    ///
    /// # Errors
    /// Why it is not there.
    pub(super) fn import(&mut self, uid: u128, mut from: Exported) -> Result<Kept, String> {
        let part = Part { uid, slot: from.kept.slot().0, id: from.kept.id };
        let stopping = self.stopping();
        let mut copy = |store: &mut Self| -> io::Result<()> {
            let mut offset = store.begin(&part)?;
            from.range.start += offset;
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                if stopping.load(Ordering::Relaxed) {
                    return Err(io::Error::other("the node stops"));
                }
                match from.read(&mut piece)? {
                    0 => return Ok(()),
                    bytes => offset = store.append(&part, offset, &piece[..bytes])?,
                }
            }
        };
        copy(self).map_err(|error| error.to_string())?;
        self.finish(&part)
    }
}
