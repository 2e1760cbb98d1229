//! What replicas tell each other of checkpoints: records of a peer's frame, with kinds of their own.

use synod_core::Slot;
use synod_wal::record::{RecordHeader, body_crc};

use super::{Kept, Part};
use crate::apply::ApplyState;
use crate::wire::{Malformed, append_record, plain_header};

/// Offers a checkpoint: slot, id, bytes of the file; the body is the apply state.
const OFFER: u8 = 50;
/// Asks for an offer.
const WANT: u8 = 51;
/// Asks for bytes of a file: slot, id, offset, how many.
const PULL: u8 = 52;
/// Bytes of a file: slot, id, offset; the body.
const CHUNK: u8 = 53;
/// The kinds of these records.
pub(crate) const KINDS: std::ops::RangeInclusive<u8> = OFFER..=CHUNK;
/// The most bytes of a file in one message.
pub(crate) const PULL_BYTES_MAX: u32 = 256 << 10;

/// A message of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum CheckpointMessage {
    Offer(Kept),
    Want,
    Pull { part: Part, offset: u64, bytes: u32 },
    Chunk { part: Part, offset: u64, bytes: Vec<u8> },
}

impl CheckpointMessage {
    /// Appends the message of the group `uid`.
    pub(crate) fn append(&self, uid: u128, out: &mut Vec<u8>) {
        let (kind, numbers, body) = match self {
            Self::Offer(kept) => {
                let mut body = Vec::new();
                kept.state.encode(&mut body);
                (OFFER, [kept.slot().0, kept.id, kept.bytes, 0, 0, 0, 0], body)
            }
            Self::Want => (WANT, [0; 7], Vec::new()),
            Self::Pull { part, offset, bytes } => {
                (PULL, [part.slot, part.id, *offset, u64::from(*bytes), 0, 0, 0], Vec::new())
            }
            Self::Chunk { part, offset, bytes } => (CHUNK, [part.slot, part.id, *offset, 0, 0, 0, 0], bytes.clone()),
        };
        let crc = if body.is_empty() { 0 } else { body_crc(&[&body]) };
        let header = RecordHeader { body_len: body.len() as u32, body_crc: crc, ..plain_header(kind, uid, numbers) };
        append_record(out, &header, &[&body]);
    }

    /// Decodes a record of these kinds whose checksums hold.
    pub(crate) fn decode(header: &RecordHeader, body: &[u8]) -> Result<Self, Malformed> {
        let [slot, id, c, d, ..] = header.numbers;
        let part = Part { uid: header.uid, slot, id };
        match header.kind {
            OFFER => {
                let (chunks, rest) = body.as_chunks::<8>();
                let mut numbers = chunks.iter().map(|n| u64::from_le_bytes(*n));
                let state = ApplyState::decode(&mut numbers).ok_or(Malformed("the state of a checkpoint"))?;
                if !rest.is_empty() || numbers.next().is_some() || state.slot != Slot(slot) {
                    return Err(Malformed("the state of a checkpoint"));
                }
                Ok(Self::Offer(Kept { state, bytes: c, id }))
            }
            WANT => Ok(Self::Want),
            PULL => match u32::try_from(d) {
                Ok(bytes) if bytes <= PULL_BYTES_MAX => Ok(Self::Pull { part, offset: c, bytes }),
                _ => Err(Malformed("how much of a checkpoint is asked for")),
            },
            CHUNK if body.len() <= PULL_BYTES_MAX as usize => Ok(Self::Chunk { part, offset: c, bytes: body.to_vec() }),
            _ => Err(Malformed("a message about checkpoints")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use synod_wal::record::Records;

    use super::*;

    #[test]
    fn every_message_comes_back() {
        let part = Part { uid: 7, slot: 4, id: 9 };
        for message in [
            CheckpointMessage::Offer(Kept { state: ApplyState::default(), bytes: 400, id: 5 }),
            CheckpointMessage::Want,
            CheckpointMessage::Pull { part, offset: 3, bytes: PULL_BYTES_MAX },
            CheckpointMessage::Chunk { part, offset: 3, bytes: b"bytes".to_vec() },
        ] {
            let mut bytes = Vec::new();
            message.append(7, &mut bytes);
            let (header, body, range) = Records::new(&bytes).next().unwrap().unwrap();
            assert_eq!(range, 0..bytes.len());
            assert_eq!(CheckpointMessage::decode(&header, body).unwrap(), message);
        }
        let more = CheckpointMessage::Pull { part, offset: 3, bytes: PULL_BYTES_MAX + 1 };
        let mut bytes = Vec::new();
        more.append(7, &mut bytes);
        let header = RecordHeader::decode(&bytes).unwrap();
        assert!(CheckpointMessage::decode(&header, &[]).is_err());
    }

    proptest! {
        #[test]
        fn random_messages_never_panic(
            kind in KINDS, numbers in any::<[u64; 7]>(), body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let header = RecordHeader { body_len: body.len() as u32, ..plain_header(kind, 7, numbers) };
            let _ = CheckpointMessage::decode(&header, &body);
        }
    }
}
