//! Lists about many groups at once: questions to voters and their answers, reads that a follower passes on and what the
//! leader says to them. All four have one layout, in `docs/internals/wire_format.md`.

use synod_core::Ballot;

use super::Malformed;

/// Wire frame kind: a leader asks whether its ballots are still promised, and asks to bind groups.
pub(crate) const ROUND: u8 = 40;
/// Wire frame kind: a voter names the ballots that are.
pub(crate) const ROUND_ANSWER: u8 = 41;
/// Wire frame kind: a follower asks up to where it must have applied.
pub(crate) const POINTS: u8 = 42;
/// Wire frame kind: what the leader says to that.
pub(crate) const POINTS_ANSWER: u8 = 43;

/// The most entries that one frame holds; what is more waits for the next turn.
pub(crate) const LIST_ENTRIES_MAX: usize = 16 << 10;
const HEADER_BYTES: usize = 24;
const ENTRY_BYTES: usize = 32;

/// What a list says as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct ListHeader {
    /// Counts what its asker asks; an answer bears it back.
    pub(crate) number: u64,
    /// The asker's clock; an answer bears it back.
    pub(crate) sent_ns: u64,
    /// In a voter's answer: the epoch of its support; 0: none.
    pub(crate) epoch: u64,
}

/// What it says of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ListEntry {
    pub(crate) uid: u128,
    /// The leader's ballot; zero where it is asked for.
    pub(crate) ballot: Ballot,
    /// Whether to bind, or bound; whether to ask a quorum; an index.
    pub(crate) number: u64,
}

/// A frame's body.
pub(crate) fn encode(header: &ListHeader, entries: &[ListEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + entries.len() * ENTRY_BYTES);
    for number in [header.number, header.sent_ns, header.epoch] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for entry in entries {
        out.extend_from_slice(&entry.uid.to_le_bytes());
        out.extend_from_slice(&entry.ballot.pack().to_le_bytes());
        out.extend_from_slice(&entry.number.to_le_bytes());
    }
    out
}

/// What a frame's body says.
pub(crate) fn decode(body: &[u8]) -> Result<(ListHeader, impl Iterator<Item = ListEntry> + '_), Malformed> {
    let (head, entries) = body.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed("the head of a list"))?;
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() || entries.len() > LIST_ENTRIES_MAX {
        return Err(Malformed("the length of a list"));
    }
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let header = ListHeader { number: number(head, 0), sent_ns: number(head, 8), epoch: number(head, 16) };
    let entries = entries.iter().map(move |entry| ListEntry {
        uid: u128::from_le_bytes(entry[..16].try_into().expect("sixteen bytes")),
        ballot: Ballot::unpack(number(entry, 16)),
        number: number(entry, 24),
    });
    Ok((header, entries))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use synod_core::MemberId;

    use super::*;

    #[test]
    fn lists_come_back_and_their_bytes_stay() {
        let header = ListHeader { number: 1, sent_ns: 2, epoch: 3 };
        let entry = ListEntry { uid: 4, ballot: Ballot { round: 5, member: MemberId(6) }, number: 7 };
        let bytes = encode(&header, &[entry, entry]);
        let (decoded, entries) = decode(&bytes).unwrap();
        assert_eq!((decoded, entries.collect::<Vec<_>>()), (header, vec![entry, entry]));
        let mut golden = vec![0; HEADER_BYTES + ENTRY_BYTES];
        for (at, byte) in [(0, 1), (8, 2), (16, 3), (24, 4), (40, 6), (42, 5), (48, 7)] {
            golden[at] = byte;
        }
        assert_eq!(bytes[..HEADER_BYTES + ENTRY_BYTES], golden);
        assert!(decode(&bytes[1..]).is_err());
        assert!(decode(&vec![0; HEADER_BYTES + (LIST_ENTRIES_MAX + 1) * ENTRY_BYTES]).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&body).map(|(_, entries)| entries.count());
        }
    }
}
