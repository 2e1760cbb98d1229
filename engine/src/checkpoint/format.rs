//! The bytes of a checkpoint's file; `docs/internals/checkpoints.md` has the tables.
//!
//! Invariants: a file is taken only when its header, every chunk and the end behind them are intact, and nothing follows;
//! a chunk's checksum is seeded with its number, so that none can take another's place; lengths are checked before
//! anything is allocated.

use std::io::{self, Read, Write};

use crc32c::{crc32c, crc32c_append};
use synod_core::planted::{Bug, is};

use crate::apply::ApplyState;

const MAGIC: [u8; 8] = *b"SYNODCKP";
/// The version of the layout.
pub(crate) const VERSION: u32 = 5;
const HEADER_BYTES: usize = 96;
/// What a chunk's header takes.
const CHUNK_HEADER_BYTES: usize = 8;
/// Data of one chunk; the last one may have less.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
const END_BYTES: usize = 32;
/// The longest apply state: a thousand sessions and fifteen voters are far less.
const STATE_BYTES_MAX: usize = 1 << 20;

/// What stands at the head of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) cluster: u128,
    pub(crate) uid: u128,
    pub(crate) state: ApplyState,
}

/// Why bytes are not a checkpoint that can be used here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no checkpoint")]
    Magic,
    #[error("it has version {0}, and this release reads version {VERSION}: run the release that wrote it")]
    Version(u32),
    #[error("its header is damaged")]
    Header,
    #[error("it belongs to another cluster")]
    Cluster,
    #[error("it belongs to another group")]
    Group,
    #[error("it stands in the place of another slot")]
    Slot,
    #[error("chunk {0} is damaged")]
    Chunk(u64),
    #[error("it is cut off behind chunk {0}")]
    Cut(u64),
    #[error("its end does not fit its content")]
    End,
    #[error("something follows its end")]
    Behind,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

impl Head {
    /// The bytes before the first chunk.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        self.state.encode(&mut out);
        let state_bytes = (out.len() - HEADER_BYTES) as u32;
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..32].copy_from_slice(&self.cluster.to_le_bytes());
        out[32..48].copy_from_slice(&self.uid.to_le_bytes());
        out[48..56].copy_from_slice(&self.state.slot.0.to_le_bytes());
        out[56..64].copy_from_slice(&(self.state.next_index - 1).to_le_bytes());
        out[64..68].copy_from_slice(&state_bytes.to_le_bytes());
        let crc = crc32c(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(input: &mut dyn Read) -> Result<(Self, u32), FormatError> {
        let mut bytes = vec![0; HEADER_BYTES];
        fill(input, &mut bytes)?.then_some(()).ok_or(FormatError::Magic)?;
        if bytes[..8] != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = u32_at(&bytes, 8);
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let state_bytes = u32_at(&bytes, 64) as usize;
        if state_bytes > STATE_BYTES_MAX || !state_bytes.is_multiple_of(8) {
            return Err(FormatError::Header);
        }
        // As much as there is: a number alone takes no memory.
        if (&mut *input).take(state_bytes as u64).read_to_end(&mut bytes)? < state_bytes {
            return Err(FormatError::Header);
        }
        let crc = u32_at(&bytes, 12);
        bytes[12..16].fill(0);
        if crc32c(&bytes) != crc {
            return Err(FormatError::Header);
        }
        let mut numbers = bytes[HEADER_BYTES..].chunks_exact(8).map(|n| u64_at(n, 0));
        let state = ApplyState::decode(&mut numbers).filter(|_| numbers.next().is_none()).ok_or(FormatError::Header)?;
        if (state.slot.0, state.next_index - 1) != (u64_at(&bytes, 48), u64_at(&bytes, 56)) {
            return Err(FormatError::Header);
        }
        Ok((Self { cluster: u128_at(&bytes, 16), uid: u128_at(&bytes, 32), state }, crc))
    }
}

/// Fills `bytes`, or says that the input ends before.
fn fill(input: &mut dyn Read, bytes: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn chunk_crc(number: u64, bytes: &[u8]) -> u32 {
    crc32c_append(crc32c(&number.to_le_bytes()), bytes)
}

/// The checksums of what was written or read so far.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    chunks: u64,
    bytes: u64,
    crc: u32,
}

impl Totals {
    fn add(&mut self, bytes: &[u8]) {
        self.chunks += 1;
        self.bytes += bytes.len() as u64;
        self.crc = crc32c_append(self.crc, bytes);
    }

    fn encode(&self) -> [u8; END_BYTES] {
        let mut out = [0; END_BYTES];
        out[8..16].copy_from_slice(&self.chunks.to_le_bytes());
        out[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        out[24..28].copy_from_slice(&self.crc.to_le_bytes());
        let crc = chunk_crc(self.chunks, &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Names the content of the file with this header.
    fn id(&self, header_crc: u32) -> u64 {
        u64::from(header_crc) << 32 | u64::from(crc32c_append(self.crc, &self.bytes.to_le_bytes()))
    }
}

/// Writes a checkpoint's data in chunks.
pub(crate) struct Encoder<'a> {
    out: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    header_crc: u32,
    chunk: Vec<u8>,
    totals: Totals,
    written: u64,
}

impl<'a> Encoder<'a> {
    /// Writes the head to `out`.
    ///
    /// # Errors
    /// Those of `out`, here and below.
    pub(crate) fn new(head: &Head, out: &'a mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Self> {
        let head = head.encode();
        out(&head)?;
        let chunk = Vec::with_capacity(CHUNK_HEADER_BYTES + CHUNK_BYTES);
        let (header_crc, written) = (u32_at(&head, 12), head.len() as u64);
        Ok(Self { out, header_crc, chunk, totals: Totals::default(), written })
    }

    fn flush_chunk(&mut self) -> io::Result<()> {
        if self.chunk.len() > CHUNK_HEADER_BYTES {
            let data = &self.chunk[CHUNK_HEADER_BYTES..];
            let (len, crc) = (data.len() as u32, chunk_crc(self.totals.chunks, data));
            self.totals.add(data);
            self.chunk[..4].copy_from_slice(&len.to_le_bytes());
            self.chunk[4..8].copy_from_slice(&crc.to_le_bytes());
            (self.out)(&self.chunk)?;
            self.written += self.chunk.len() as u64;
        }
        self.chunk.clear();
        Ok(())
    }

    /// Writes the end; gives the bytes of the whole file and the name of its content.
    pub(crate) fn finish(mut self) -> io::Result<(u64, u64)> {
        self.flush_chunk()?;
        (self.out)(&self.totals.encode())?;
        Ok((self.written + END_BYTES as u64, self.totals.id(self.header_crc)))
    }
}

impl Write for Encoder<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.chunk.resize(CHUNK_HEADER_BYTES, 0);
        }
        let room = CHUNK_HEADER_BYTES + CHUNK_BYTES - self.chunk.len();
        let taken = bytes.len().min(room);
        self.chunk.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.flush_chunk()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a checkpoint's data, checked chunk by chunk.
pub(crate) struct Decoder<R> {
    input: R,
    pub(crate) head: Head,
    header_crc: u32,
    chunk: Vec<u8>,
    taken: usize,
    totals: Totals,
    ended: bool,
    /// Where the last intact piece ends in the file.
    intact: u64,
}

impl<R: Read> Decoder<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// Why it is no checkpoint of this group of this cluster.
    pub(crate) fn open(mut input: R, cluster: u128, uid: u128) -> Result<Self, FormatError> {
        let (head, header_crc) = Head::decode(&mut input)?;
        if head.cluster != cluster {
            return Err(FormatError::Cluster);
        }
        if head.uid != uid {
            return Err(FormatError::Group);
        }
        let intact = head.encode().len() as u64;
        let (chunk, totals) = (Vec::new(), Totals::default());
        Ok(Self { input, head, header_crc, chunk, taken: 0, totals, ended: false, intact })
    }

    /// Where the last intact piece ends in the file.
    pub(crate) fn intact(&self) -> u64 {
        self.intact
    }

    /// Reads the next chunk, or the end.
    fn next_chunk(&mut self) -> Result<(), FormatError> {
        let number = self.totals.chunks;
        let mut header = [0; CHUNK_HEADER_BYTES];
        if !fill(&mut self.input, &mut header)? {
            return Err(FormatError::Cut(number));
        }
        let len = u32_at(&header, 0) as usize;
        self.taken = 0;
        if len == 0 {
            self.chunk.clear();
            let mut rest = [0; END_BYTES - CHUNK_HEADER_BYTES];
            if !fill(&mut self.input, &mut rest)? {
                return Err(FormatError::Cut(number));
            }
            let end = self.totals.encode();
            if end[..CHUNK_HEADER_BYTES] != header || end[CHUNK_HEADER_BYTES..] != rest {
                return Err(FormatError::End);
            }
            if fill(&mut self.input, &mut [0])? {
                return Err(FormatError::Behind);
            }
            self.intact += END_BYTES as u64;
            self.ended = true;
            return Ok(());
        }
        if len > CHUNK_BYTES {
            return Err(FormatError::Chunk(number));
        }
        self.chunk.resize(len, 0);
        if !fill(&mut self.input, &mut self.chunk)? {
            return Err(FormatError::Cut(number));
        }
        if chunk_crc(number, &self.chunk) != u32_at(&header, 4) && !is(Bug::ChunksAreNotChecked) {
            return Err(FormatError::Chunk(number));
        }
        self.totals.add(&self.chunk);
        self.intact += (CHUNK_HEADER_BYTES + len) as u64;
        Ok(())
    }

    /// Reads and checks all that is left; gives the bytes of the whole file and the name of its content.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn check_rest(&mut self) -> Result<(u64, u64), FormatError> {
        while !self.ended {
            match self.next_chunk() {
                // Whoever does not compare checksums does not compare their sum either.
                Err(FormatError::End) if is(Bug::ChunksAreNotChecked) => break,
                other => other?,
            }
        }
        Ok((self.intact, self.totals.id(self.header_crc)))
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.chunk.len() && !self.ended {
            self.next_chunk().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        }
        let bytes = out.len().min(self.chunk.len() - self.taken);
        out[..bytes].copy_from_slice(&self.chunk[self.taken..self.taken + bytes]);
        self.taken += bytes;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(uid: u128, data: &[u8]) -> (Vec<u8>, u64) {
        let head = Head { cluster: 3, uid, state: ApplyState::default() };
        let mut bytes = Vec::new();
        let mut out = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        let mut encoder = Encoder::new(&head, &mut out).unwrap();
        encoder.write_all(data).unwrap();
        let (len, id) = encoder.finish().unwrap();
        assert_eq!(len, bytes.len() as u64);
        (bytes, id)
    }

    fn check(bytes: &[u8]) -> Result<(u64, u64), FormatError> {
        Decoder::open(bytes, 3, 7)?.check_rest()
    }

    #[test]
    fn what_was_written_comes_back() {
        for len in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let data: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
            let (bytes, id) = file(7, &data);
            assert_eq!(check(&bytes).unwrap(), (bytes.len() as u64, id));
            let mut read = Vec::new();
            Decoder::open(&bytes[..], 3, 7).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, data);
        }
    }

    #[test]
    fn every_altered_bit_and_every_cut_is_found() {
        let (bytes, _) = file(7, b"a few bytes of state");
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&altered).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(check(&bytes[..len]).is_err(), "cut to {len}");
        }
        assert!(matches!(check(&[&bytes[..], &[0]].concat()), Err(FormatError::Behind)));
    }

    #[test]
    fn a_chunk_cannot_take_the_place_of_another() {
        let data = [[1; CHUNK_BYTES], [2; CHUNK_BYTES]].concat();
        let (mut bytes, _) = file(7, &data);
        let chunk = CHUNK_HEADER_BYTES + CHUNK_BYTES;
        let start = bytes.len() - END_BYTES - 2 * chunk;
        bytes[start..start + 2 * chunk].rotate_left(chunk);
        assert!(matches!(check(&bytes), Err(FormatError::Chunk(0))));
    }

    #[test]
    fn a_checkpoint_of_another_group_or_cluster_is_refused() {
        let (bytes, _) = file(8, b"state");
        assert!(matches!(check(&bytes), Err(FormatError::Group)));
        assert!(matches!(Decoder::open(&bytes[..], 4, 8), Err(FormatError::Cluster)));
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let (mut bytes, _) = file(7, b"state");
        bytes[8] = 9;
        assert!(check(&bytes).unwrap_err().to_string().contains("version 9"));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), intact in any::<bool>()) {
            let (mut file, _) = file(7, b"state");
            if intact {
                file.extend_from_slice(&bytes);
            } else {
                file.splice(10.., bytes);
            }
            prop_assert!(check(&file).is_err() || (intact && file.len() == check(&file).unwrap().0 as usize));
        }
    }
}
