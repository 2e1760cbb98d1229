//! The wire frame: a 32-byte header, a body, zeros up to the next multiple of 16.
//!
//! Invariants:
//! - A header that decodes is legal whole: nobody checks its fields again.
//! - A frame is a multiple of 16 bytes long, so bodies in an aligned buffer are aligned to 16.
//! - The body's length is known to be within bounds before memory is spent on it.
//!
//! Kinds are opaque here, except for [`KIND_HELLO`] and [`KIND_HELLO_REPLY`].

mod decoder;

pub use decoder::{Decoder, Frame};

use crate::bytes::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};

/// The first four bytes of every frame, "SYNW".
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"SYNW");
/// The version of the frame's layout. The versions of the messages inside are agreed on in the hello.
pub const FRAME_VERSION: u16 = 1;
/// Bytes of a header.
pub const FRAME_HEADER_BYTES: usize = 32;
/// The longest body, in bytes.
pub const FRAME_BODY_BYTES_MAX: u32 = 2 << 20;
/// Frames and bodies start at multiples of this many bytes.
pub const FRAME_ALIGN: usize = 16;

/// The kind of the first frame on each connection, sent by the dialer.
pub const KIND_HELLO: u8 = 1;
/// The kind of the listener's answer to it.
pub const KIND_HELLO_REPLY: u8 = 2;

/// The body bears its own checksums: `body_crc` is 0 and not looked at.
pub const FLAG_SELF_CHECKED: u8 = 1;

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 4;
const AT_KIND: usize = 6;
const AT_FLAGS: usize = 7;
const AT_BODY_LEN: usize = 8;
const AT_BODY_CRC: usize = 12;
const AT_TAG: usize = 16;
const AT_RESERVED: usize = 24;
const AT_HEADER_CRC: usize = 28;

const _: () = assert!(AT_HEADER_CRC + 4 == FRAME_HEADER_BYTES);
const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(FRAME_ALIGN));
const _: () = assert!((FRAME_BODY_BYTES_MAX as usize).is_multiple_of(FRAME_ALIGN));

/// Why bytes are not a frame. The connection that sent them must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Fewer bytes than a header has.
    #[error("{0} bytes are not a frame header of {FRAME_HEADER_BYTES}: read more of the stream first")]
    TooShort(usize),
    /// Not a frame of ours.
    #[error(
        "frame magic is {0:#010x}, not {FRAME_MAGIC:#010x}: the other end is no Synod node or client; check the address"
    )]
    Magic(u32),
    /// A layout that this program does not know.
    #[error("frame version is {0}, this program speaks {FRAME_VERSION}: run the same release at both ends")]
    Version(u16),
    /// The header was damaged on its way.
    #[error("header checksum is {found:#010x}, computed {computed:#010x}: damaged on the way; connect again")]
    HeaderCrc {
        /// What the header says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A flag that this program does not know.
    #[error("frame flags {0:#04x} hold unknown bits: run the same release at both ends")]
    Flags(u8),
    /// A field that must be zero is not.
    #[error("a reserved field of the frame header is not zero: run the same release at both ends")]
    Reserved,
    /// The body is longer than this connection may send.
    #[error("body of {len} bytes, at most {max} are taken here: send less at once")]
    TooLong {
        /// What the header says, in bytes.
        len: u32,
        /// The bound, in bytes.
        max: u32,
    },
    /// The body was damaged on its way.
    #[error("body checksum is {computed:#010x}, the header says {found:#010x}: damaged on the way; connect again")]
    BodyCrc {
        /// What the header says.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The bytes between the body and the next frame are not zero.
    #[error(
        "the padding behind a body is not zero: the other end lays frames wrongly; run the same release at both ends"
    )]
    Padding,
}

/// What stands before a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the body is; free for the user of this crate from 3 on.
    pub kind: u8,
    /// [`FLAG_SELF_CHECKED`] or 0.
    pub flags: u8,
    /// Bytes of the body without padding.
    pub body_len: u32,
    /// CRC32C of the body, or 0 when it bears its own checksums.
    pub body_crc: u32,
    /// Free for the user, for example a request's id.
    pub tag: u64,
}

impl FrameHeader {
    /// The header of `body`, whose checksum is computed here.
    ///
    /// # Panics
    /// When the body is longer than [`FRAME_BODY_BYTES_MAX`].
    #[must_use]
    pub fn of_body(kind: u8, tag: u64, body: &[u8]) -> Self {
        Self { kind, flags: 0, body_len: checked_body_len(body.len()), body_crc: crc32c::crc32c(body), tag }
    }

    /// The header of a body of `body_len` bytes that bears its own checksums, so that nobody sums it twice.
    ///
    /// # Panics
    /// When the body is longer than [`FRAME_BODY_BYTES_MAX`].
    #[must_use]
    pub fn of_self_checked(kind: u8, tag: u64, body_len: usize) -> Self {
        Self { kind, flags: FLAG_SELF_CHECKED, body_len: checked_body_len(body_len), body_crc: 0, tag }
    }

    /// Bytes of the whole frame: header, body and padding.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + padded_len(self.body_len as usize)
    }

    /// The header's bytes.
    ///
    /// # Panics
    /// When the header is one that [`decode`](Self::decode) would refuse.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        assert!(self.body_len <= FRAME_BODY_BYTES_MAX, "body of {} bytes", self.body_len);
        assert!(self.flags & !FLAG_SELF_CHECKED == 0, "flags {:#04x}", self.flags);
        assert!(self.flags & FLAG_SELF_CHECKED == 0 || self.body_crc == 0);
        let mut bytes = [0; FRAME_HEADER_BYTES];
        put_u32(&mut bytes, AT_MAGIC, FRAME_MAGIC);
        put_u16(&mut bytes, AT_VERSION, FRAME_VERSION);
        bytes[AT_KIND] = self.kind;
        bytes[AT_FLAGS] = self.flags;
        put_u32(&mut bytes, AT_BODY_LEN, self.body_len);
        put_u32(&mut bytes, AT_BODY_CRC, self.body_crc);
        put_u64(&mut bytes, AT_TAG, self.tag);
        put_u32(&mut bytes, AT_RESERVED, 0);
        let crc = crc32c::crc32c(&bytes[..AT_HEADER_CRC]);
        put_u32(&mut bytes, AT_HEADER_CRC, crc);
        bytes
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// When these are not the first bytes of a legal frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let Some(bytes) = bytes.get(..FRAME_HEADER_BYTES) else {
            return Err(FrameError::TooShort(bytes.len()));
        };
        let magic = get_u32(bytes, AT_MAGIC);
        if magic != FRAME_MAGIC {
            return Err(FrameError::Magic(magic));
        }
        // Before the checksum: another version may keep it elsewhere, and deserves its own error.
        let version = get_u16(bytes, AT_VERSION);
        if version != FRAME_VERSION {
            return Err(FrameError::Version(version));
        }
        let found = get_u32(bytes, AT_HEADER_CRC);
        let computed = crc32c::crc32c(&bytes[..AT_HEADER_CRC]);
        if found != computed {
            return Err(FrameError::HeaderCrc { found, computed });
        }
        let header = Self {
            kind: bytes[AT_KIND],
            flags: bytes[AT_FLAGS],
            body_len: get_u32(bytes, AT_BODY_LEN),
            body_crc: get_u32(bytes, AT_BODY_CRC),
            tag: get_u64(bytes, AT_TAG),
        };
        if header.flags & !FLAG_SELF_CHECKED != 0 {
            return Err(FrameError::Flags(header.flags));
        }
        if get_u32(bytes, AT_RESERVED) != 0 || (header.is_self_checked() && header.body_crc != 0) {
            return Err(FrameError::Reserved);
        }
        header.check_len(FRAME_BODY_BYTES_MAX)?;
        Ok(header)
    }

    /// Whether the body bears its own checksums.
    #[must_use]
    pub fn is_self_checked(&self) -> bool {
        self.flags & FLAG_SELF_CHECKED != 0
    }

    /// Whether the body is short enough.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub(crate) fn check_len(&self, max: u32) -> Result<(), FrameError> {
        if self.body_len <= max { Ok(()) } else { Err(FrameError::TooLong { len: self.body_len, max }) }
    }

    /// Whether `body_and_padding`, all that follows the header in its frame, is what the header says.
    ///
    /// # Errors
    /// [`FrameError::BodyCrc`] or [`FrameError::Padding`].
    pub(crate) fn check_body(&self, body_and_padding: &[u8]) -> Result<(), FrameError> {
        assert!(body_and_padding.len() == padded_len(self.body_len as usize));
        let (body, padding) = body_and_padding.split_at(self.body_len as usize);
        if !self.is_self_checked() {
            let computed = crc32c::crc32c(body);
            if computed != self.body_crc {
                return Err(FrameError::BodyCrc { found: self.body_crc, computed });
            }
        }
        if padding.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(FrameError::Padding) }
    }
}

/// `len` and the zeros behind it, in bytes.
#[must_use]
pub const fn padded_len(len: usize) -> usize {
    len.next_multiple_of(FRAME_ALIGN)
}

/// One whole frame.
///
/// # Panics
/// When the body is longer than [`FRAME_BODY_BYTES_MAX`].
#[must_use]
pub fn encode_frame(kind: u8, tag: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + padded_len(body.len()));
    append_frame(&mut out, kind, tag, body);
    out
}

/// Lays one whole frame behind what `out` holds.
///
/// # Panics
/// When the body is longer than [`FRAME_BODY_BYTES_MAX`].
pub fn append_frame(out: &mut Vec<u8>, kind: u8, tag: u64, body: &[u8]) {
    append_frame_with(out, kind, tag, |out| out.extend_from_slice(body));
}

/// Lays one whole frame behind what `out` holds; `fill` appends the body, in place and without a copy.
///
/// # Panics
/// When the body is longer than [`FRAME_BODY_BYTES_MAX`], or `fill` shortens `out`.
pub fn append_frame_with(out: &mut Vec<u8>, kind: u8, tag: u64, fill: impl FnOnce(&mut Vec<u8>)) {
    let header_at = out.len();
    let body_at = header_at + FRAME_HEADER_BYTES;
    out.resize(body_at, 0);
    fill(out);
    assert!(body_at <= out.len(), "a body is appended, never taken away");
    let header = FrameHeader::of_body(kind, tag, &out[body_at..]);
    out[header_at..body_at].copy_from_slice(&header.encode());
    out.resize(header_at + header.frame_bytes(), 0);
}

fn checked_body_len(len: usize) -> u32 {
    assert!(
        len <= FRAME_BODY_BYTES_MAX as usize,
        "a body of {len} bytes, at most {FRAME_BODY_BYTES_MAX} fit in a frame"
    );
    len as u32
}

#[cfg(test)]
mod tests;
