//! A datagram: one small control frame that goes beside a connection, so that it waits behind nothing that is queued
//! there.
//!
//! Invariants:
//! - A datagram that decodes is legal whole, and nothing was allocated for it.
//! - It is at most [`DATAGRAM_BYTES_MAX`] long, so that no network on its way has to cut it.
//!
//! It may be lost, come twice, late, or behind one that was sent later: see [`lane`](crate::lane) for what is made of
//! that. The checksum finds damage; that it comes from the other end is shown by the token.

use crate::bytes::{get_u16, get_u32, get_u64, get_u128, put_u16, put_u32, put_u64, put_u128};

/// The first four bytes of every datagram, "SYND".
pub const DATAGRAM_MAGIC: u32 = u32::from_le_bytes(*b"SYND");
/// The version of the datagram's layout.
pub const DATAGRAM_VERSION: u16 = 1;
/// The longest datagram, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 1200;
/// Bytes before the body.
pub const DATAGRAM_HEADER_BYTES: usize = 32;
/// The longest body, in bytes.
pub const DATAGRAM_BODY_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - DATAGRAM_HEADER_BYTES - CRC_BYTES;

/// The checksum behind the body.
const CRC_BYTES: usize = 4;

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 4;
const AT_KIND: usize = 6;
const AT_RESERVED: usize = 7;
const AT_SEQUENCE: usize = 8;
const AT_TOKEN: usize = 16;

const _: () = assert!(AT_TOKEN + 16 == DATAGRAM_HEADER_BYTES);

/// Why bytes are no datagram. They are dropped, and nothing else happens: anybody may send to the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// It is cut off, or longer than any of ours.
    #[error("{0} bytes are too few or too many for a datagram")]
    Length(usize),
    /// Not a datagram of ours.
    #[error("datagram magic is {0:#010x}, not {DATAGRAM_MAGIC:#010x}")]
    Magic(u32),
    /// A layout that this program does not know.
    #[error("datagram version is {0}, this program speaks {DATAGRAM_VERSION}: run the same release at both ends")]
    Version(u16),
    /// It was damaged on its way.
    #[error("datagram checksum is {found:#010x}, computed {computed:#010x}")]
    Crc {
        /// What the datagram says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A field that must be zero is not, or the sequence, which begins at 1, is.
    #[error("a datagram with a reserved field or a sequence that cannot be: run the same release at both ends")]
    Fields,
}

/// One datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram<'a> {
    /// What the body is: the kind of the frame that it would be on the connection.
    pub kind: u8,
    /// Counts the sender's datagrams beside this connection, from 1 on.
    pub sequence: u64,
    /// What the receiver has drawn for this connection, and told the sender over it.
    pub token: u128,
    /// The body.
    pub body: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The datagram's bytes.
    ///
    /// # Panics
    /// When the body is longer than [`DATAGRAM_BODY_BYTES_MAX`], or the sequence is 0.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.body.len() <= DATAGRAM_BODY_BYTES_MAX, "a body of {} bytes", self.body.len());
        assert!(self.sequence > 0, "sequences begin at 1");
        let mut bytes = vec![0; DATAGRAM_HEADER_BYTES];
        put_u32(&mut bytes, AT_MAGIC, DATAGRAM_MAGIC);
        put_u16(&mut bytes, AT_VERSION, DATAGRAM_VERSION);
        bytes[AT_KIND] = self.kind;
        put_u64(&mut bytes, AT_SEQUENCE, self.sequence);
        put_u128(&mut bytes, AT_TOKEN, self.token);
        bytes.extend_from_slice(self.body);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a whole datagram.
    ///
    /// # Errors
    /// When these bytes are none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DatagramError> {
        if !(DATAGRAM_HEADER_BYTES + CRC_BYTES..=DATAGRAM_BYTES_MAX).contains(&bytes.len()) {
            return Err(DatagramError::Length(bytes.len()));
        }
        let magic = get_u32(bytes, AT_MAGIC);
        if magic != DATAGRAM_MAGIC {
            return Err(DatagramError::Magic(magic));
        }
        // Before the checksum: another version may keep it elsewhere.
        let version = get_u16(bytes, AT_VERSION);
        if version != DATAGRAM_VERSION {
            return Err(DatagramError::Version(version));
        }
        let (summed, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
        let (found, computed) = (get_u32(crc, 0), crc32c::crc32c(summed));
        if found != computed {
            return Err(DatagramError::Crc { found, computed });
        }
        let sequence = get_u64(bytes, AT_SEQUENCE);
        if bytes[AT_RESERVED] != 0 || sequence == 0 {
            return Err(DatagramError::Fields);
        }
        Ok(Self {
            kind: bytes[AT_KIND],
            sequence,
            token: get_u128(bytes, AT_TOKEN),
            body: &summed[DATAGRAM_HEADER_BYTES..],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPECIMEN: Datagram<'static> = Datagram { kind: 5, sequence: 0x0102, token: 7 << 64 | 9, body: b"synod" };

    #[test]
    fn fields_lie_where_the_format_says() {
        let bytes = SPECIMEN.encode();
        #[rustfmt::skip]
        let golden = [
            b'S', b'Y', b'N', b'D',  1, 0,  5,  0,
            2, 1, 0, 0, 0, 0, 0, 0,
            9, 0, 0, 0, 0, 0, 0, 0,
            7, 0, 0, 0, 0, 0, 0, 0,
            b's', b'y', b'n', b'o', b'd',
        ];
        assert_eq!(bytes[..37], golden);
        assert_eq!(bytes[37..], crc32c::crc32c(&golden).to_le_bytes());
        assert_eq!(Datagram::decode(&bytes), Ok(SPECIMEN));
    }

    /// A datagram whose byte `at` is another, with a checksum that is right again.
    fn with(at: usize, byte: u8) -> Vec<u8> {
        let mut bytes = SPECIMEN.encode();
        bytes[at] = byte;
        let end = bytes.len() - CRC_BYTES;
        let crc = crc32c::crc32c(&bytes[..end]);
        put_u32(&mut bytes, end, crc);
        bytes
    }

    #[test]
    fn each_broken_field_has_its_own_error() {
        assert!(matches!(Datagram::decode(&with(0, 0)), Err(DatagramError::Magic(_))));
        assert_eq!(Datagram::decode(&with(4, 2)), Err(DatagramError::Version(2)));
        assert_eq!(Datagram::decode(&with(7, 1)), Err(DatagramError::Fields));
        let without_sequence = Datagram { sequence: 1, ..SPECIMEN }.encode();
        assert!(Datagram::decode(&without_sequence).is_ok());
        let mut bytes = without_sequence;
        bytes[AT_SEQUENCE] = 0;
        let end = bytes.len() - CRC_BYTES;
        let crc = crc32c::crc32c(&bytes[..end]);
        put_u32(&mut bytes, end, crc);
        assert_eq!(Datagram::decode(&bytes), Err(DatagramError::Fields));
        assert_eq!(Datagram::decode(&SPECIMEN.encode()[..35]), Err(DatagramError::Length(35)));
        assert_eq!(Datagram::decode(&[0; DATAGRAM_BYTES_MAX + 1]), Err(DatagramError::Length(DATAGRAM_BYTES_MAX + 1)));
    }

    #[test]
    fn every_bit_counts() {
        let bytes = SPECIMEN.encode();
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Datagram::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn datagrams_come_back(
            kind in any::<u8>(), sequence in 1u64.., token in any::<u128>(),
            body in prop::collection::vec(any::<u8>(), 0..=DATAGRAM_BODY_BYTES_MAX),
        ) {
            let datagram = Datagram { kind, sequence, token, body: &body };
            let bytes = datagram.encode();
            prop_assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
            prop_assert_eq!(Datagram::decode(&bytes), Ok(datagram));
        }

        #[test]
        fn random_bytes_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..2 * DATAGRAM_BYTES_MAX), starts in any::<bool>(),
        ) {
            if starts && bytes.len() >= 6 {
                bytes[..6].copy_from_slice(b"SYND\x01\x00");
            }
            prop_assert!(Datagram::decode(&bytes).is_err(), "a checksum is not met by chance");
        }
    }
}
