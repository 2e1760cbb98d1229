//! Decoders of checkpoints: the file, and several in a pack.

use std::sync::LazyLock;

use crc32c::{crc32c, crc32c_append};
use synod::fuzzing::{checkpoint_specimens, find_packed, pack_specimen, recode_checkpoint};

use super::wal::{put_u32, u32_at};
use super::{Memory, Target, shape};

/// A checkpoint's file.
pub(super) const CHECKPOINT: Target = Target {
    name: "checkpoint",
    about: "the file of a checkpoint, as a start finds it or a peer sends it",
    shape: |input| shape(input, &CHECKPOINTS, |bytes| fix_checkpoint(bytes)),
    run: checkpoint,
    // A chunk as it is read, and one as it is encoded.
    memory: Memory { bytes: 256 << 10, per_byte: 16 },
};

/// A pack of checkpoints.
pub(super) const PACK: Target = Target {
    name: "pack",
    about: "a file of several checkpoints: where each lies",
    shape: |input| shape(input, &PACKS, |bytes| fix_pack(bytes)),
    run: pack,
    memory: Memory { bytes: 1024, per_byte: 4 },
};

static CHECKPOINTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(checkpoint_specimens);

static PACKS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| vec![pack_specimen()]);

const HEADER_BYTES: usize = 96;
const END_BYTES: usize = 32;

/// Puts right the checksums of header, chunks and end.
fn fix_checkpoint(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let mut at = HEADER_BYTES.saturating_add(u32_at(bytes, 64) as usize).min(bytes.len());
    put_u32(bytes, 12, 0);
    let crc = crc32c(&bytes[..at]);
    put_u32(bytes, 12, crc);
    let mut number = 0u64;
    let mut all = 0;
    while at + 8 <= bytes.len() {
        let len = u32_at(bytes, at) as usize;
        let seed = crc32c(&number.to_le_bytes());
        if len == 0 {
            if at + END_BYTES <= bytes.len() {
                put_u32(bytes, at + 24, all);
                let crc = crc32c_append(seed, &bytes[at + 8..at + END_BYTES]);
                put_u32(bytes, at + 4, crc);
            }
            return;
        }
        let end = (at + 8).saturating_add(len).min(bytes.len());
        let crc = crc32c_append(seed, &bytes[at + 8..end]);
        put_u32(bytes, at + 4, crc);
        all = crc32c_append(all, &bytes[at + 8..end]);
        number += 1;
        at = end;
    }
}

/// Puts right the checksums of whatever begins as a member does.
fn fix_pack(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(64).filter(|header| header.starts_with(b"SYNODPCK")) {
        put_u32(header, 12, 0);
        let crc = crc32c(header);
        put_u32(header, 12, crc);
    }
}

fn checkpoint(bytes: &[u8]) -> bool {
    let Some(once) = recode_checkpoint(bytes) else { return false };
    assert_eq!(recode_checkpoint(&once).as_ref(), Some(&once), "what was decoded and encoded decodes to the same");
    true
}

fn pack(bytes: &[u8]) -> bool {
    let mut end = 0;
    for (offset, len) in find_packed(bytes) {
        assert!(offset >= end + 64 && offset.is_multiple_of(64), "each lies behind the one before it");
        end = offset + len;
        assert!(end <= bytes.len() as u64, "it lies in the file");
    }
    end > 0
}
