//! Packs: small checkpoints of several groups in one file, which all become durable with one sync.
//!
//! Invariants: a pack is written once, as a whole, and not altered; each member has a header of its own, so that damage to
//! one costs no other; a header says nothing about what is in its checkpoint, which is checked like any other.

use std::io;

use crc32c::crc32c;

const MAGIC: [u8; 8] = *b"SYNODPCK";
const VERSION: u32 = 1;
/// What a member's header takes; members begin at multiples of it.
pub(crate) const HEADER_BYTES: usize = 64;
/// So much is read at a time to find members.
const PIECE_BYTES: usize = 64 << 10;

/// A checkpoint in a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    pub(crate) uid: u128,
    pub(crate) slot: u64,
    /// Where its bytes begin in the file, and how many they are.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The name of a pack.
pub(crate) fn pack_name(number: u64) -> String {
    format!("{number:016x}.pack")
}

/// A pack's number, by its name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".pack").filter(|number| number.len() == 16)?;
    u64::from_str_radix(number, 16).ok()
}

/// Puts a checkpoint's bytes behind the others of a pack.
pub(crate) fn append(pack: &mut Vec<u8>, uid: u128, slot: u64, checkpoint: &[u8]) -> Member {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..32].copy_from_slice(&uid.to_le_bytes());
    header[32..40].copy_from_slice(&slot.to_le_bytes());
    header[40..48].copy_from_slice(&(checkpoint.len() as u64).to_le_bytes());
    let crc = crc32c(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    pack.extend_from_slice(&header);
    let member = Member { uid, slot, offset: pack.len() as u64, bytes: checkpoint.len() as u64 };
    pack.extend_from_slice(checkpoint);
    pack.resize(pack.len().next_multiple_of(HEADER_BYTES), 0);
    member
}

/// The member with this header, which ends at `offset`.
fn member(header: &[u8], offset: u64) -> Option<Member> {
    let mut header: [u8; HEADER_BYTES] = header.try_into().ok()?;
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let known = header[..8] == MAGIC && header[8..12] == VERSION.to_le_bytes();
    let uid = u128::from_le_bytes(header[16..32].try_into().expect("sixteen bytes"));
    let (slot, bytes, crc) = (number(32), number(40), (number(8) >> 32) as u32);
    header[12..16].fill(0);
    (known && crc32c(&header) == crc).then_some(Member { uid, slot, offset, bytes })
}

/// The members of a file of `len` bytes that `read` reads at an offset. Where a header is damaged, the search goes on for the
/// next one.
///
/// # Errors
/// Those of `read`.
pub(crate) fn members(len: u64, mut read: impl FnMut(u64, usize) -> io::Result<Vec<u8>>) -> io::Result<Vec<Member>> {
    let (mut found, mut at) = (Vec::new(), 0);
    let (mut piece, mut piece_at) = (Vec::new(), 0);
    while at + HEADER_BYTES as u64 <= len {
        if at < piece_at || at + HEADER_BYTES as u64 > piece_at + piece.len() as u64 {
            (piece, piece_at) = (read(at, PIECE_BYTES)?, at);
            if piece.len() < HEADER_BYTES {
                break; // It was cut meanwhile.
            }
        }
        let start = (at - piece_at) as usize;
        at += HEADER_BYTES as u64;
        if let Some(member) = member(&piece[start..start + HEADER_BYTES], at)
            && member.bytes <= len - at
        {
            at += member.bytes.next_multiple_of(HEADER_BYTES as u64);
            found.push(member);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(pack: &[u8]) -> Vec<Member> {
        let read = |offset: u64, bytes: usize| {
            let start = (offset as usize).min(pack.len());
            Ok(pack[start..pack.len().min(start + bytes)].to_vec())
        };
        members(pack.len() as u64, read).unwrap()
    }

    fn pack(lengths: &[usize]) -> (Vec<u8>, Vec<Member>) {
        let mut pack = Vec::new();
        let members = lengths.iter().zip(1..).map(|(len, at)| append(&mut pack, at, 10 * at as u64, &vec![9; *len]));
        let members = members.collect();
        (pack, members)
    }

    #[test]
    fn names_are_found_again() {
        assert_eq!(number_of(&pack_name(0xab)), Some(0xab));
        for name in ["ab.pack", "00000000000000ab.checkpoint", "zz000000000000ab.pack", ".pack"] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }

    #[test]
    fn damage_to_one_member_costs_no_other() {
        let (bytes, all) = pack(&[100, 70_000, 0, 5]);
        assert_eq!(find(&bytes), all);
        for (at, member) in all.iter().enumerate() {
            let mut damaged = bytes.clone();
            damaged[member.offset as usize - 30] ^= 1;
            let rest: Vec<Member> =
                all.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, of)| *of).collect();
            assert_eq!(find(&damaged), rest);
        }
    }

    #[test]
    fn a_pack_that_was_cut_has_its_first_members() {
        let (bytes, all) = pack(&[100, 1000, 5]);
        for len in 0..bytes.len() {
            let whole = all.iter().filter(|member| member.offset + member.bytes <= len as u64).count();
            assert_eq!(find(&bytes[..len]), all[..whole], "{len} bytes");
        }
    }

    proptest! {
        /// Whatever the bytes are, members lie within them and one behind the other.
        #[test]
        fn any_bytes_are_searched(
            lengths in prop::collection::vec(0usize..300, 0..5),
            noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        ) {
            let (mut bytes, _) = pack(&lengths);
            if !bytes.is_empty() {
                for (at, byte) in noise {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            let mut end = 0;
            for member in find(&bytes) {
                prop_assert!(member.offset >= end && member.offset + member.bytes <= bytes.len() as u64);
                end = member.offset + member.bytes;
            }
        }
    }
}
