//! What goes out on one connection: two lanes, bounded.
//!
//! Invariants:
//! - The stream is a sequence of whole frames: a bulk frame that was begun is finished before anything overtakes it.
//! - Control goes before bulk at every other frame boundary; each lane keeps its own order.
//! - Each lane holds at most `bytes_max` bytes; what does not fit is refused whole.
//! - What [`Outbox::next_slices`] gives is what [`Outbox::advance`] takes away, as long as nothing was pushed in between;
//!   after [`Outbox::copy_pinned`] also when something was.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::frame::{FRAME_ALIGN, FRAME_HEADER_BYTES};

/// The most slices that are given out at once.
pub const SLICES_MAX: usize = 64;
/// Small pushes to the control lane are gathered into pieces of at most this many bytes.
const CONTROL_MERGE_BYTES_MAX: usize = 64 << 10;

/// A piece of a bulk frame.
#[derive(Clone, Debug)]
pub enum Chunk<S> {
    /// Bytes that only this frame needs, for example its header.
    Owned(Vec<u8>),
    /// A range of a buffer that others use too: it goes out without a copy and is let go when sent.
    Shared {
        /// The buffer.
        bytes: S,
        /// First byte of the range.
        start: u32,
        /// End of the range, exclusive.
        end: u32,
    },
}

impl<S: AsRef<[u8]>> Chunk<S> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared { bytes, start, end } => &bytes.as_ref()[*start as usize..*end as usize],
        }
    }
}

/// The lane has no room for the frame. Bulk waits until some was sent; a full control lane means a stuck connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{queued_bytes} bytes wait to be sent, {frame_bytes} more exceed the bound of {bytes_max}: send first, or close the connection"
)]
pub struct Full {
    /// Bytes in the lane.
    pub queued_bytes: usize,
    /// Bytes that were to be pushed.
    pub frame_bytes: usize,
    /// The lane's bound in bytes.
    pub bytes_max: usize,
}

/// The outgoing queue of one connection. `S` is a cheap handle on a shared buffer, for example an `Rc`.
///
/// A turn is: push, then [`flush_with`](Self::flush_with) once.
#[derive(Debug)]
pub struct Outbox<S> {
    control: VecDeque<ControlPiece>,
    control_bytes: usize,
    /// The chunks of all bulk frames, none of them empty; the first is sent up to `bulk_front_sent`.
    bulk: VecDeque<Chunk<S>>,
    bulk_front_sent: usize,
    bulk_frames: VecDeque<BulkFrame>,
    bulk_bytes: usize,
    /// The first bulk frame has bytes on the wire, or is promised to go next.
    bulk_begun: bool,
    /// A copy of what goes next is being written elsewhere.
    pinned: bool,
    bytes_max: usize,
}

/// One or more whole frames, sent up to `sent`.
#[derive(Debug)]
struct ControlPiece {
    bytes: Vec<u8>,
    sent: usize,
    /// When its first frame was pushed.
    queued_us: u64,
}

/// The part of a bulk frame that is not sent yet.
#[derive(Debug)]
struct BulkFrame {
    chunks: usize,
    bytes: usize,
    queued_us: u64,
}

impl<S: AsRef<[u8]> + Clone> Outbox<S> {
    /// An empty outbox. Each lane takes at most `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            control: VecDeque::new(),
            control_bytes: 0,
            bulk: VecDeque::new(),
            bulk_front_sent: 0,
            bulk_frames: VecDeque::new(),
            bulk_bytes: 0,
            bulk_begun: false,
            pinned: false,
            bytes_max,
        }
    }

    /// Queues one or more whole frames that overtake bulk. Small ones that come in a row are gathered into one slice.
    ///
    /// # Errors
    /// [`Full`]: nothing was queued. The other end does not read: close the connection.
    ///
    /// # Panics
    /// When these cannot be whole frames.
    pub fn push_control(&mut self, frames: Vec<u8>, now_us: u64) -> Result<(), Full> {
        assert_whole_frames(frames.len());
        self.check_room(self.control_bytes, frames.len())?;
        self.control_bytes += frames.len();
        match self.control.back_mut() {
            // A piece that is under way is left alone, so that its age is that of bytes which still wait.
            Some(last) if last.sent == 0 && last.bytes.len() + frames.len() <= CONTROL_MERGE_BYTES_MAX => {
                last.bytes.extend_from_slice(&frames);
            }
            _ => self.control.push_back(ControlPiece { bytes: frames, sent: 0, queued_us: now_us }),
        }
        Ok(())
    }

    /// Queues the parts of exactly one whole frame.
    ///
    /// # Errors
    /// [`Full`]: nothing was queued, the parts are let go; ask [`has_room`](Self::has_room) before building them.
    ///
    /// # Panics
    /// When a range lies outside its buffer, or the parts cannot be a whole frame.
    pub fn push_bulk(&mut self, parts: impl IntoIterator<Item = Chunk<S>>, now_us: u64) -> Result<(), Full> {
        let chunks_before = self.bulk.len();
        self.bulk.extend(parts.into_iter().filter(|part| !part.as_slice().is_empty()));
        let bytes = self.bulk.range(chunks_before..).map(|part| part.as_slice().len()).sum();
        assert_whole_frames(bytes);
        if let Err(full) = self.check_room(self.bulk_bytes, bytes) {
            self.bulk.truncate(chunks_before);
            return Err(full);
        }
        self.bulk_bytes += bytes;
        let chunks = self.bulk.len() - chunks_before;
        self.bulk_frames.push_back(BulkFrame { chunks, bytes, queued_us: now_us });
        Ok(())
    }

    /// Whether the bulk lane takes a frame of `frame_bytes` bytes now.
    #[must_use]
    pub fn has_room(&self, frame_bytes: usize) -> bool {
        self.check_room(self.bulk_bytes, frame_bytes).is_ok()
    }

    /// Bytes in both lanes that are not sent yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.control_bytes + self.bulk_bytes
    }

    /// Whether all was sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued_bytes() == 0
    }

    /// When the oldest frame was pushed that is not wholly sent; `None` when all was. One that is too old tells that the
    /// connection is stuck.
    #[must_use]
    pub fn oldest_us(&self) -> Option<u64> {
        let control = self.control.front().map(|piece| piece.queued_us);
        let bulk = self.bulk_frames.front().map(|frame| frame.queued_us);
        [control, bulk].into_iter().flatten().min()
    }

    /// Puts the slices that go out next into `out`, in order, at most [`SLICES_MAX`] of them, none empty.
    pub fn next_slices<'a>(&'a self, out: &mut Vec<IoSlice<'a>>) {
        out.clear();
        out.extend(self.slices().take(SLICES_MAX).map(IoSlice::new));
    }

    /// Takes away the first `n` bytes of what [`next_slices`](Self::next_slices) gives: they are sent.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn advance(&mut self, mut n: usize) {
        assert!(n <= self.queued_bytes(), "{n} bytes sent of {}", self.queued_bytes());
        self.pinned = false;
        if self.bulk_begun {
            n -= self.advance_bulk_frame(n);
        }
        n -= self.advance_control(n);
        while n > 0 {
            n -= self.advance_bulk_frame(n);
        }
        assert!(self.control.is_empty() == (self.control_bytes == 0));
        assert!(self.bulk_frames.is_empty() == (self.bulk_bytes == 0));
    }

    /// Sends until all is sent or `send` takes less than it was given: a socket that is full. `send` tells how many bytes
    /// it took. True when all was sent.
    ///
    /// # Errors
    /// Those of `send`; what it took before is taken away.
    ///
    /// # Panics
    /// When bytes of [`copy_pinned`](Self::copy_pinned) are not told by [`advance`](Self::advance) yet: they would go twice.
    pub fn flush_with<E>(&mut self, mut send: impl FnMut(&[IoSlice<'_>]) -> Result<usize, E>) -> Result<bool, E> {
        assert!(!self.pinned, "a pinned copy is being written: advance by what was written first");
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (mut count, mut bytes) = (0, 0);
            for (place, slice) in slices.iter_mut().zip(self.slices()) {
                *place = IoSlice::new(slice);
                count += 1;
                bytes += slice.len();
            }
            let sent = send(&slices[..count])?;
            assert!(sent <= bytes, "{sent} bytes sent of {bytes}");
            self.advance(sent);
            if sent < bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A copy of at most `bytes_max` bytes that go out next, all from one lane, which stay next whatever is pushed: for a
    /// write that waits for the socket, across which nothing of the outbox may be borrowed. [`advance`](Self::advance) by
    /// what was written, even if it is nothing, and send nothing else in between. Empty when nothing is queued.
    #[must_use]
    pub fn copy_pinned(&mut self, bytes_max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        if self.control.is_empty() {
            self.bulk_begun = !self.bulk_frames.is_empty();
        }
        if self.bulk_begun {
            copy_up_to(bytes_max, self.bulk_slices(0, self.begun_chunks()), &mut out);
        } else {
            copy_up_to(bytes_max, self.control_slices(), &mut out);
        }
        self.pinned = !out.is_empty();
        out
    }

    /// Lets go of all that is queued. The connection is over: half a frame may be on the wire.
    pub fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    fn check_room(&self, queued_bytes: usize, frame_bytes: usize) -> Result<(), Full> {
        if frame_bytes <= self.bytes_max - queued_bytes {
            Ok(())
        } else {
            Err(Full { queued_bytes, frame_bytes, bytes_max: self.bytes_max })
        }
    }

    /// All that is queued, in the order of the wire.
    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let begun = self.begun_chunks();
        let begun_slices = self.bulk_slices(0, begun);
        begun_slices.chain(self.control_slices()).chain(self.bulk_slices(begun, self.bulk.len()))
    }

    fn control_slices(&self) -> impl Iterator<Item = &[u8]> {
        self.control.iter().map(|piece| &piece.bytes[piece.sent..])
    }

    fn bulk_slices(&self, from: usize, to: usize) -> impl Iterator<Item = &[u8]> {
        self.bulk.range(from..to).enumerate().map(move |(at, chunk)| {
            let sent = if from + at == 0 { self.bulk_front_sent } else { 0 };
            &chunk.as_slice()[sent..]
        })
    }

    /// Chunks that must go before control.
    fn begun_chunks(&self) -> usize {
        if self.bulk_begun { self.bulk_frames.front().map_or(0, |frame| frame.chunks) } else { 0 }
    }

    /// Takes away at most `n` bytes of control; tells how many.
    fn advance_control(&mut self, n: usize) -> usize {
        let mut left = n;
        while left > 0
            && let Some(piece) = self.control.front_mut()
        {
            let taken = left.min(piece.bytes.len() - piece.sent);
            piece.sent += taken;
            left -= taken;
            if piece.sent == piece.bytes.len() {
                self.control.pop_front();
            }
        }
        self.control_bytes -= n - left;
        n - left
    }

    /// Takes away at most `n` bytes of the first bulk frame; tells how many.
    fn advance_bulk_frame(&mut self, n: usize) -> usize {
        let frame = self.bulk_frames.front_mut().expect("bytes of bulk are queued, so a frame is");
        let taken = n.min(frame.bytes);
        frame.bytes -= taken;
        let mut left = taken;
        while left > 0 {
            let chunk = self.bulk.front().expect("a frame's bytes lie in its chunks");
            let chunk_left = chunk.as_slice().len() - self.bulk_front_sent;
            if left < chunk_left {
                self.bulk_front_sent += left;
                left = 0;
            } else {
                self.bulk.pop_front();
                self.bulk_front_sent = 0;
                frame.chunks -= 1;
                left -= chunk_left;
            }
        }
        self.bulk_bytes -= taken;
        self.bulk_begun = frame.bytes > 0;
        if !self.bulk_begun {
            assert!(frame.chunks == 0 && self.bulk_front_sent == 0);
            self.bulk_frames.pop_front();
        }
        taken
    }
}

/// Frames are padded, and so is any row of them: what is not is a bug of whoever laid them, better met here than over there.
fn assert_whole_frames(bytes: usize) {
    assert!(FRAME_HEADER_BYTES <= bytes && bytes.is_multiple_of(FRAME_ALIGN), "{bytes} bytes are no whole frames");
}

fn copy_up_to<'a>(bytes_max: usize, slices: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    for slice in slices {
        let taken = slice.len().min(bytes_max - out.len());
        out.extend_from_slice(&slice[..taken]);
        if out.len() == bytes_max {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
