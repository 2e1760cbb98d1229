//! Cuts a stream of bytes into entries: a line with its newline is one, and so is a last line without.
//!
//! Invariant: the entries that come out, put together, are the bytes that went in.

use synod::Entries;
use synod::limits::{BATCH_ENTRIES_MAX, LARGE_ENTRY_BYTES_MAX};

/// A batch holds lines up to this together, or a single longer one.
pub(crate) const BATCH_BYTES: usize = 64 << 10;

const _: () = assert!(BATCH_BYTES <= BATCH_ENTRIES_MAX, "even a batch of empty lines must fit");

/// A line that cannot be an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line} is longer than 64 MiB, the most that an entry may have: split it")]
pub(crate) struct LineTooLong {
    /// Its number, from 1.
    pub(crate) line: u64,
}

/// Lines on their way into batches.
#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// What lies before this in `bytes` has been taken.
    start: usize,
    /// There is no newline between `start` and this.
    searched: usize,
    taken: u64,
}

impl Lines {
    /// Adds what was read.
    pub(crate) fn push(&mut self, read: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(read);
    }

    /// How many lines were taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes the next whole lines, as many as make a batch; `None` when there is none yet.
    ///
    /// # Errors
    /// When the next line is too long, whether its end has come or not.
    pub(crate) fn next_batch(&mut self) -> Result<Option<Entries>, LineTooLong> {
        let mut batch = Entries::new();
        let mut batch_bytes = 0;
        while let Some(newline) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + newline + 1;
            let line_bytes = end - self.start;
            if !batch.is_empty() && BATCH_BYTES < batch_bytes + line_bytes {
                break;
            }
            match self.take(end, &mut batch) {
                Ok(()) => batch_bytes += line_bytes,
                // What is before it goes first.
                Err(_) if !batch.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        if !batch.is_empty() {
            return Ok(Some(batch));
        }
        self.searched = self.bytes.len();
        // Its end may be far away: it is not waited for.
        if LARGE_ENTRY_BYTES_MAX < self.searched - self.start { Err(self.too_long()) } else { Ok(None) }
    }

    /// At the end of the input: takes the last line, which has no newline.
    ///
    /// # Errors
    /// When it is too long.
    pub(crate) fn last(&mut self) -> Result<Option<Entries>, LineTooLong> {
        assert!(!self.bytes[self.start..].contains(&b'\n'), "whole lines are taken first");
        if self.start == self.bytes.len() {
            return Ok(None);
        }
        let mut batch = Entries::new();
        self.take(self.bytes.len(), &mut batch)?;
        Ok(Some(batch))
    }

    fn take(&mut self, end: usize, batch: &mut Entries) -> Result<(), LineTooLong> {
        batch.push(&self.bytes[self.start..end]).map_err(|_| self.too_long())?;
        self.start = end;
        self.searched = end;
        self.taken += 1;
        Ok(())
    }

    fn too_long(&self) -> LineTooLong {
        LineTooLong { line: self.taken + 1 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All entries of an input that comes in the given pieces.
    fn entries<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, LineTooLong> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        let mut take = |batch: Entries| {
            let bytes: usize = batch.iter().map(<[u8]>::len).sum();
            assert!(bytes <= BATCH_BYTES || batch.len() == 1);
            all.extend(batch.iter().map(<[u8]>::to_vec));
        };
        for piece in pieces {
            lines.push(piece);
            while let Some(batch) = lines.next_batch()? {
                take(batch);
            }
        }
        if let Some(batch) = lines.last()? {
            take(batch);
        }
        assert_eq!(lines.taken(), all.len() as u64);
        Ok(all)
    }

    proptest! {
        #[test]
        fn the_entries_are_the_lines_however_they_are_read(
            input in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400),
            piece in 1usize..50,
        ) {
            let expected: Vec<Vec<u8>> = input.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            prop_assert_eq!(entries(input.chunks(piece)).unwrap(), expected);
        }
    }

    #[test]
    fn a_batch_of_empty_lines_fits() {
        let input = vec![b'\n'; 3 * BATCH_BYTES];
        assert_eq!(entries([&input[..]]).unwrap().len(), input.len());
    }

    #[test]
    fn a_line_may_be_as_long_as_an_entry() {
        let mut longest = vec![b'x'; LARGE_ENTRY_BYTES_MAX - 1];
        longest.push(b'\n');
        let input = [b"a\n", &longest[..], b"b\n"].concat();
        assert_eq!(entries(input.chunks(1 << 20)).unwrap(), [b"a\n".to_vec(), longest, b"b\n".to_vec()]);
    }

    #[test]
    fn a_longer_line_is_named_and_those_before_it_come_out() {
        let long = vec![b'x'; LARGE_ENTRY_BYTES_MAX + 1];
        for end in ["", "\n", "\nmore\n"] {
            let input = [b"a\nb\n", &long[..], end.as_bytes()].concat();
            assert_eq!(entries([&input[..]]), Err(LineTooLong { line: 3 }));
            let mut lines = Lines::default();
            lines.push(&input);
            assert_eq!(lines.next_batch().unwrap().unwrap().len(), 2);
            assert_eq!(lines.next_batch().unwrap_err(), LineTooLong { line: 3 });
        }
        let exact = vec![b'x'; LARGE_ENTRY_BYTES_MAX];
        assert_eq!(entries([&exact[..]]).unwrap(), [exact]);
    }
}
