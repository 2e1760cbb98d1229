//! Verification: what the load was told, what each replica applied, and whether the two agree.
//!
//! Every entry bears a [`Stamp`]: its producer and the producer's own sequence. A producer numbers its proposals of one
//! group 1, 2, 3 and so on; a refused proposal may leave a gap. The load keeps an [`Acknowledged`] per group, each
//! replica an [`Observer`] per group, and [`verdict`] compares them after the run.
//!
//! Invariant: an entry counts as sound only if it was found exactly once on every replica; all that could not be
//! looked at counts against the run.

mod acknowledged;
mod observer;
mod verdict;

pub use acknowledged::Acknowledged;
pub use observer::{Observer, PRODUCERS_MAX, ProducerLog, RUNS_MAX};
pub use verdict::{DETAILS_MAX, GroupEvidence, ReplicaEvidence, Verdict, verdict};

/// Bytes of a stamp, and so the size of the smallest entry.
pub const PAYLOAD_BYTES_MIN: usize = 16;

/// Who proposed an entry, and as which of its proposals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The producer's number; no two producers of a run share one.
    pub producer: u64,
    /// The producer's count of proposals to this group; the first is 1.
    pub sequence: u64,
}

impl Stamp {
    /// Writes the stamp over the first 16 bytes of an entry: producer and sequence, little-endian.
    ///
    /// # Panics
    /// If `entry` is shorter than a stamp.
    #[inline]
    pub fn write(self, entry: &mut [u8]) {
        entry[..8].copy_from_slice(&self.producer.to_le_bytes());
        entry[8..PAYLOAD_BYTES_MIN].copy_from_slice(&self.sequence.to_le_bytes());
    }

    /// Reads the stamp of an entry; `None` if it has none (too short, or a sequence of 0).
    #[must_use]
    #[inline]
    pub fn read(entry: &[u8]) -> Option<Self> {
        let (producer, rest) = entry.split_first_chunk::<8>()?;
        let (sequence, _) = rest.split_first_chunk::<8>()?;
        let stamp = Self { producer: u64::from_le_bytes(*producer), sequence: u64::from_le_bytes(*sequence) };
        (stamp.sequence != 0).then_some(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_has_its_golden_bytes() {
        let mut entry = [0xff; 18];
        let stamp = Stamp { producer: 0x0102, sequence: 0x0a0b_0c0d };
        stamp.write(&mut entry);
        assert_eq!(entry, [2, 1, 0, 0, 0, 0, 0, 0, 13, 12, 11, 10, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(Stamp::read(&entry), Some(stamp));
    }

    #[test]
    fn short_entries_and_sequence_0_have_no_stamp() {
        for bytes in 0..PAYLOAD_BYTES_MIN {
            assert_eq!(Stamp::read(&vec![1; bytes]), None);
        }
        assert_eq!(Stamp::read(&[0; 16]), None);
    }
}
