//! The files of a log, read through one window of bounded size.
//!
//! Invariant: the window holds what stands in its file, with zeros behind the file's end.

use std::io;

use crate::{
    PAGE_BYTES,
    buf::AlignedBuf,
    frame::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader},
    record::RecordHeader,
    segment::SegmentHeader,
};

use super::{RecoverError, SegmentSource};

/// Recovery reads at most this many bytes at once, and holds no more.
const WINDOW_BYTES: usize = 4 << 20;
const _: () = assert!(FRAME_BYTES_MAX <= WINDOW_BYTES && WINDOW_BYTES.is_multiple_of(PAGE_BYTES));

pub(super) const PAGE: u64 = PAGE_BYTES as u64;

/// The files, read through one window.
pub(super) struct Files<'a> {
    source: &'a mut dyn SegmentSource,
    window: Window,
    /// What all frames of this log bear.
    pub(super) tag: u64,
}

impl<'a> Files<'a> {
    pub(super) fn new(source: &'a mut dyn SegmentSource, tag: u64) -> Self {
        Self { source, window: Window::new(), tag }
    }

    pub(super) fn generations(&mut self) -> Result<Vec<u64>, RecoverError> {
        self.source.generations().map_err(|source| RecoverError::Io { file: "the log's directory".into(), source })
    }

    pub(super) fn name(&self, generation: u64) -> String {
        self.source.name(generation)
    }

    pub(super) fn len(&mut self, generation: u64) -> Result<u64, RecoverError> {
        let file = self.name(generation);
        self.source.len(generation).map_err(|source| RecoverError::Io { file, source })
    }

    pub(super) fn page(&mut self, generation: u64, offset: u64) -> Result<&[u8], RecoverError> {
        self.bytes(generation, offset, PAGE_BYTES)
    }

    /// Bytes of a file; zeros behind its end.
    pub(super) fn bytes(&mut self, generation: u64, offset: u64, bytes: usize) -> Result<&[u8], RecoverError> {
        assert!(bytes <= WINDOW_BYTES && bytes.is_multiple_of(PAGE_BYTES) && offset.is_multiple_of(PAGE));
        if !self.window.holds(generation, offset, bytes) {
            let file_bytes = self.len(generation)?;
            if let Err(source) = self.window.fill(self.source, generation, file_bytes, offset, bytes) {
                return Err(RecoverError::Io { file: self.name(generation), source });
            }
        }
        let at = (offset - self.window.start) as usize;
        Ok(&self.window.buf[at..at + bytes])
    }

    /// A file whose header page is not one of a live segment was never opened, unless frames say otherwise: a segment's
    /// first frame is written only when its header is durable.
    pub(super) fn check_unused(&mut self, generation: u64, newest: Option<&SegmentHeader>) -> Result<(), RecoverError> {
        let file_bytes = self.len(generation)?;
        let mut offset = 0;
        while offset < file_bytes {
            let tag = self.tag;
            let page = self.page(generation, offset)?;
            if let Some(frame) = FrameHeader::decode(page, generation).ok().filter(|frame| frame.tag == tag) {
                let uid = RecordHeader::decode(&page[FRAME_HEADER_BYTES..]).ok().map(|record| record.uid);
                let newest = newest.map_or(0, |newest| newest.generation);
                return Err(RecoverError::Damaged {
                    file: self.name(generation),
                    offset: 0,
                    sequence: frame.sequence,
                    uid,
                    why: format!(
                        "its header page is lost, though frame {} stands at byte {offset}; the newest intact segment is \
                         {newest}",
                        frame.sequence
                    ),
                });
            }
            offset += PAGE;
        }
        Ok(())
    }
}

/// What was read last of one file.
struct Window {
    generation: u64,
    start: u64,
    buf: AlignedBuf,
}

impl Window {
    fn new() -> Self {
        Self { generation: 0, start: 0, buf: AlignedBuf::new(PAGE_BYTES) }
    }

    fn holds(&self, generation: u64, offset: u64, bytes: usize) -> bool {
        let end = self.start + self.buf.len() as u64;
        self.generation == generation && self.start <= offset && offset + bytes as u64 <= end
    }

    /// Moves the window to `offset`, keeping what it holds from there on.
    fn fill(
        &mut self,
        source: &mut dyn SegmentSource,
        generation: u64,
        file_bytes: u64,
        offset: u64,
        bytes: usize,
    ) -> io::Result<()> {
        let held_end = self.start + self.buf.len() as u64;
        let mut have = 0;
        if self.generation == generation && (self.start..held_end).contains(&offset) {
            let at = (offset - self.start) as usize;
            have = self.buf.len() - at;
            self.buf.copy_within(at.., 0);
        }
        // Whole windows, except that a header page is read alone: most files are looked at only there.
        let want = if offset == 0 { PAGE_BYTES } else { WINDOW_BYTES };
        let file_rest = file_bytes.saturating_sub(offset).next_multiple_of(PAGE);
        let want = want.min(file_rest as usize).max(bytes);
        self.generation = generation;
        self.start = offset;
        self.buf.resize(have);
        if self.buf.capacity() < want {
            // Files have one size, so this happens once or twice.
            let held = std::mem::replace(&mut self.buf, AlignedBuf::new(want));
            self.buf.extend_from_slice(&held);
        }
        self.buf.resize(want);
        while have < want {
            let read = match source.read_at(generation, offset + have as u64, &mut self.buf[have..]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // The window holds nothing of use.
                    self.buf.clear();
                    return Err(error);
                }
            };
            if read == 0 {
                break;
            }
            have += read;
            // A read that ends within a page is at the file's end: direct reads go on only at a page.
            if !read.is_multiple_of(PAGE_BYTES) {
                break;
            }
        }
        self.buf[have..].fill(0);
        Ok(())
    }
}
