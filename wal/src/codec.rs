//! Little-endian integers laid by hand at fixed offsets, and rounding up to a block.
//! Invariant: callers have checked the length of the slice; a miss is a programmer's error and panics.

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// The least multiple of `block` (a power of two) that is not below `bytes`.
pub(crate) const fn round_up(bytes: usize, block: usize) -> usize {
    assert!(block.is_power_of_two());
    (bytes + block - 1) & !(block - 1)
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Words first: recovery looks at whole segments this way.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has the length of the array")
}
