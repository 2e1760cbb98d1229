//! The bytes of one file, in pages that copies share until one of them is written.
//!
//! Invariants: a page that is absent reads as zeros; nothing is held behind the file's end.

use std::rc::Rc;

/// Bytes of a page of this model; also the log's.
pub(super) const PAGE: usize = synod_wal::PAGE_BYTES;

type Page = [u8; PAGE];

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pages: Rc<Vec<Option<Rc<Page>>>>,
    bytes: u64,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    /// Grows with zeros, or cuts. Whole pages only, as segments are.
    pub(super) fn set_len(&mut self, bytes: u64) {
        assert!(bytes.is_multiple_of(PAGE as u64), "a file of {bytes} bytes");
        self.bytes = bytes;
        Rc::make_mut(&mut self.pages).resize(bytes as usize / PAGE, None);
    }

    /// Fills `buf` from `offset` on; gives how many bytes there were.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let bytes = self.bytes.saturating_sub(offset).min(buf.len() as u64) as usize;
        for (at, start, end) in pieces(offset, bytes) {
            let page = (offset as usize + at) / PAGE;
            let part = &mut buf[at..at + end - start];
            match &self.pages[page] {
                Some(page) => part.copy_from_slice(&page[start..end]),
                None => part.fill(0),
            }
        }
        bytes
    }

    /// Overwrites from `offset` on; a file grows as it must.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        if self.bytes < end {
            self.set_len(end.next_multiple_of(PAGE as u64));
        }
        let pages = Rc::make_mut(&mut self.pages);
        for (at, start, end) in pieces(offset, bytes.len()) {
            let page = pages[(offset as usize + at) / PAGE].get_or_insert_with(|| Rc::new([0; PAGE]));
            Rc::make_mut(page)[start..end].copy_from_slice(&bytes[at..at + end - start]);
        }
    }

    /// Takes the pages that `bytes` bytes from `offset` on touch from `other`, as they are there.
    pub(super) fn take_pages(&mut self, other: &Self, offset: u64, bytes: usize) {
        let end = (offset as usize + bytes).div_ceil(PAGE);
        if self.bytes < (end * PAGE) as u64 {
            self.set_len((end * PAGE) as u64);
        }
        let pages = Rc::make_mut(&mut self.pages);
        for (page, slot) in pages.iter_mut().enumerate().take(end).skip(offset as usize / PAGE) {
            slot.clone_from(other.pages.get(page).unwrap_or(&None));
        }
    }
}

/// Cuts a range at page borders: where each piece lies in the range, and its start and end within its page.
fn pieces(offset: u64, bytes: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let first = offset as usize % PAGE;
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == bytes {
            return None;
        }
        let start = if at == 0 { first } else { 0 };
        let end = PAGE.min(start + bytes - at);
        let piece = (at, start, end);
        at += end - start;
        Some(piece)
    })
}
