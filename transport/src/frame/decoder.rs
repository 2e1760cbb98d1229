//! Cuts a stream of bytes into frames.
//!
//! Invariants:
//! - `0 <= start <= end <= capacity`; `start..end` is received and not yet handed out, and `start` is the start of a frame,
//!   a multiple of 16 from the aligned base: so every body lies at an address that is a multiple of 16.
//! - The buffer never grows beyond one legal frame and [`SPACE_BYTES_MIN`], and only when a checked header asks for it.
//! - After an error nothing is decoded any more: where the next frame would start is unknown.

use super::{FRAME_ALIGN, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameError, FrameHeader};

/// What a decoder has when no longer frame is under way, in bytes.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;
/// The least room that a read is given, in bytes.
pub(crate) const SPACE_BYTES_MIN: usize = 16 << 10;
/// A larger buffer is given back after so many reads that did not need it.
const SHRINK_AFTER_READS: u32 = 64;

const _: () = assert!(SPACE_BYTES_MIN + FRAME_HEADER_BYTES <= BUFFER_BYTES);

/// One received frame. The body lies at an address that is a multiple of 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: FrameHeader,
    /// Its body, checked against the header's checksum unless it bears its own.
    pub body: &'a [u8],
}

/// The receiving end of one connection: owns the buffer that the socket reads into and hands out frames in order.
///
/// A round is: read into [`space`](Self::space), tell [`filled`](Self::filled), call [`next`](Self::next) until it gives
/// no more.
pub struct Decoder {
    buffer: Buffer,
    start: usize,
    end: usize,
    body_bytes_max: u32,
    state: State,
    reads_small: u32,
}

#[derive(Clone, Copy)]
enum State {
    /// What is between start and end is shorter than a header.
    WantsHeader,
    /// A legal header is at start, its body is not whole yet.
    WantsBody(FrameHeader),
    /// Bytes came that were not looked at yet.
    Unread,
    Failed(FrameError),
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// For bodies of at most [`FRAME_BODY_BYTES_MAX`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_body_bytes_max(FRAME_BODY_BYTES_MAX)
    }

    /// For bodies of at most `body_bytes_max` bytes; more than [`FRAME_BODY_BYTES_MAX`] is never taken.
    #[must_use]
    pub fn with_body_bytes_max(body_bytes_max: u32) -> Self {
        Self {
            buffer: Buffer::new(BUFFER_BYTES),
            start: 0,
            end: 0,
            body_bytes_max: body_bytes_max.min(FRAME_BODY_BYTES_MAX),
            state: State::WantsHeader,
            reads_small: 0,
        }
    }

    /// Where the socket may read into: at least 16 KiB.
    ///
    /// # Panics
    /// When [`next`](Self::next) was not called until it gave no more: unread frames have no bound, a partial one has.
    pub fn space(&mut self) -> &mut [u8] {
        let frame_bytes = match self.state {
            State::Unread => panic!("frames are to be taken by next() before more is read"),
            State::WantsHeader => FRAME_HEADER_BYTES,
            State::WantsBody(header) => header.frame_bytes(),
            State::Failed(_) => {
                // Nothing of this stream is ever read again; a reader that goes on must only not fill the memory.
                (self.start, self.end) = (0, 0);
                FRAME_HEADER_BYTES
            }
        };
        let capacity_wanted = (frame_bytes + SPACE_BYTES_MIN).max(BUFFER_BYTES);
        if self.buffer.capacity() < capacity_wanted {
            self.rebase(capacity_wanted);
        } else if self.shrinks(capacity_wanted) {
            self.rebase(BUFFER_BYTES);
        } else if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.capacity() < self.start + frame_bytes
            || self.buffer.capacity() < self.end + SPACE_BYTES_MIN
        {
            self.buffer.bytes_mut().copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let space = &mut self.buffer.bytes_mut()[self.end..];
        assert!(SPACE_BYTES_MIN <= space.len());
        space
    }

    /// Takes bytes that are in memory already, as many as there is room for, and gives how many those are: at least one, unless
    /// there are none.
    ///
    /// # Panics
    /// When [`next`](Self::next) was not called until it gave no more.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let space = self.space();
        let taken = space.len().min(bytes.len());
        space[..taken].copy_from_slice(&bytes[..taken]);
        self.filled(taken);
        taken
    }

    /// Tells that the first `n` bytes of the last [`space`](Self::space) were read into.
    ///
    /// # Panics
    /// When that is more than there was.
    pub fn filled(&mut self, n: usize) {
        assert!(n <= self.buffer.capacity() - self.end, "{n} bytes do not fit into the space that was given");
        self.end += n;
        if n > 0 && !matches!(self.state, State::Failed(_)) {
            self.state = State::Unread;
        }
    }

    /// The next whole frame, or `None` when more must be read first.
    ///
    /// # Errors
    /// When the bytes are not a legal frame: close the connection. The error stays: every later call gives it again.
    #[expect(clippy::should_implement_trait, reason = "frames borrow the buffer, so this cannot be an iterator")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        match self.take_frame() {
            Ok(None) => Ok(None),
            Ok(Some((header, body_at))) => {
                let body = &self.buffer.bytes()[body_at..body_at + header.body_len as usize];
                Ok(Some(Frame { header, body }))
            }
            Err(error) => {
                self.state = State::Failed(error);
                Err(error)
            }
        }
    }

    /// Bytes that the buffer takes now.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Steps over the next frame: its header and where its body starts.
    fn take_frame(&mut self) -> Result<Option<(FrameHeader, usize)>, FrameError> {
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        let received = &self.buffer.bytes()[self.start..self.end];
        if received.len() < FRAME_HEADER_BYTES {
            self.state = State::WantsHeader;
            return Ok(None);
        }
        let header = FrameHeader::decode(received)?;
        header.check_len(self.body_bytes_max)?;
        let Some(frame) = received.get(..header.frame_bytes()) else {
            self.state = State::WantsBody(header);
            return Ok(None);
        };
        header.check_body(&frame[FRAME_HEADER_BYTES..])?;
        let body_at = self.start + FRAME_HEADER_BYTES;
        self.start += header.frame_bytes();
        self.state = State::Unread;
        assert!(self.start <= self.end);
        Ok(Some((header, body_at)))
    }

    /// Whether it is time to give the larger buffer back. Not at once: long frames tend to come in a row.
    fn shrinks(&mut self, capacity_wanted: usize) -> bool {
        if self.buffer.capacity() == BUFFER_BYTES || BUFFER_BYTES < capacity_wanted {
            self.reads_small = 0;
            return false;
        }
        self.reads_small += 1;
        SHRINK_AFTER_READS <= self.reads_small && self.end - self.start <= BUFFER_BYTES - SPACE_BYTES_MIN
    }

    /// Moves what is received to the base of a buffer of `capacity` bytes.
    fn rebase(&mut self, capacity: usize) {
        let received = self.start..self.end;
        assert!(received.len() + SPACE_BYTES_MIN <= capacity);
        let mut buffer = Buffer::new(capacity);
        buffer.bytes_mut()[..received.len()].copy_from_slice(&self.buffer.bytes()[received.clone()]);
        (self.start, self.end) = (0, received.len());
        self.buffer = buffer;
        self.reads_small = 0;
    }
}

/// Zeroed bytes whose base is a multiple of 16, without unsafe code: up to 15 bytes before the base are given up.
struct Buffer {
    bytes: Vec<u8>,
    base: usize,
    capacity: usize,
}

impl Buffer {
    fn new(capacity: usize) -> Self {
        // Zeroed by the allocator: pages of a long frame that never comes are never touched.
        let bytes = vec![0; capacity + FRAME_ALIGN];
        let base = bytes.as_ptr().align_offset(FRAME_ALIGN);
        assert!(base < FRAME_ALIGN);
        Self { bytes, base, capacity }
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.base..self.base + self.capacity]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.base..self.base + self.capacity]
    }
}

#[cfg(test)]
mod tests;
