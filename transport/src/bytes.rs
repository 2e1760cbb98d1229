//! Fixed-width little-endian fields at fixed offsets.
//!
//! Invariant: callers check the length of the slice first; an offset out of range is a bug of this crate, never of the
//! bytes, and panics.

macro_rules! field {
    ($get:ident, $put:ident, $int:ty) => {
        pub(crate) fn $get(bytes: &[u8], at: usize) -> $int {
            let mut field = [0; size_of::<$int>()];
            field.copy_from_slice(&bytes[at..at + size_of::<$int>()]);
            <$int>::from_le_bytes(field)
        }

        pub(crate) fn $put(bytes: &mut [u8], at: usize, value: $int) {
            bytes[at..at + size_of::<$int>()].copy_from_slice(&value.to_le_bytes());
        }
    };
}

field!(get_u16, put_u16, u16);
field!(get_u32, put_u32, u32);
field!(get_u64, put_u64, u64);
field!(get_u128, put_u128, u128);
