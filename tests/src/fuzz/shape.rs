//! From a fuzzer's input to a decoder's bytes.
//!
//! The low two bits of the first byte are the [`Mode`]; its other bits choose one of the target's legal specimens, where the
//! mode wants one. An edit is an operation, a place and what the operation takes; what is missing at the input's end is zero.

/// How an input is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// As it is.
    Raw = 0,
    /// As it is, but with checksums put right afterwards.
    Summed = 1,
    /// As edits of a specimen, with checksums put right afterwards.
    Edited = 2,
    /// As edits of a specimen, whose checksums then are wrong.
    Damaged = 3,
}

impl Mode {
    /// The mode and the number of the specimen that a first byte asks for.
    pub fn of(first: u8) -> (Self, usize) {
        let mode = [Self::Raw, Self::Summed, Self::Edited, Self::Damaged][usize::from(first & 3)];
        (mode, usize::from(first >> 2))
    }

    /// The first byte of an input of this mode.
    ///
    /// # Panics
    /// If there are not that many specimens.
    pub fn first_byte(self, specimen: usize) -> u8 {
        assert!(specimen < 64, "six bits number the specimens");
        self as u8 | (specimen as u8) << 2
    }
}

/// The longest that edits make of a specimen, in bytes: a script of 512 bytes inserts and copies no more than this.
const GROWTH_BYTES_MAX: usize = 16 << 10;

/// The decoder's bytes for `input`; `fix` puts checksums right.
pub fn shape(input: &[u8], specimens: &[Vec<u8>], fix: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let Some((first, rest)) = input.split_first() else { return Vec::new() };
    let (mode, specimen) = Mode::of(*first);
    let mut bytes = match mode {
        Mode::Raw | Mode::Summed => rest.to_vec(),
        Mode::Edited | Mode::Damaged => edited(&specimens[specimen % specimens.len()], rest),
    };
    if matches!(mode, Mode::Summed | Mode::Edited) {
        fix(&mut bytes);
    }
    bytes
}

/// A specimen after all edits of a script.
fn edited(specimen: &[u8], script: &[u8]) -> Vec<u8> {
    let bytes_max = specimen.len() + GROWTH_BYTES_MAX;
    let mut bytes = specimen.to_vec();
    let mut script = Script { bytes: script };
    while let Some(operation) = script.next_byte() {
        let at = script.number(2) as usize % (bytes.len() + 1);
        edit(&mut bytes, operation, at, &mut script);
        bytes.truncate(bytes_max);
    }
    bytes
}

fn edit(bytes: &mut Vec<u8>, operation: u8, at: usize, script: &mut Script<'_>) {
    let argument = usize::from(operation >> 3);
    let width = 1 << (argument % 4);
    match operation & 7 {
        // A bit.
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (argument % 8);
            }
        }
        // A number, as the script has it.
        1 => put(bytes, at, &script.number(width).to_le_bytes()[..width]),
        // A number at a place that is a multiple of its width, as fields are, that decoders tend to get wrong.
        2 => {
            let number = INTERESTING[usize::from(script.next_byte().unwrap_or(0)) % INTERESTING.len()];
            put(bytes, at / width * width, &number.to_le_bytes()[..width]);
        }
        // A small step up or down.
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = byte.wrapping_add(if argument < 16 {
                    argument as u8 + 1
                } else {
                    15_u8.wrapping_sub(argument as u8)
                });
            }
        }
        // More bytes.
        4 => {
            let inserted: Vec<u8> = (0..=argument).map(|_| script.next_byte().unwrap_or(0)).collect();
            bytes.splice(at..at, inserted);
        }
        // Fewer bytes.
        5 => drop(bytes.drain(at..(at + argument + 1).min(bytes.len()))),
        // A run of other bytes of the same specimen, over what is there or between.
        6 => {
            let from = script.number(2) as usize % (bytes.len() + 1);
            let run = 16 << (argument % 8);
            let copied = bytes[from..(from + run).min(bytes.len())].to_vec();
            if argument & 8 == 0 {
                put(bytes, at, &copied);
            } else {
                bytes.splice(at..at, copied);
            }
        }
        // The end, sooner.
        _ => bytes.truncate(at),
    }
}

/// Lays `value` over what is at `at`, as far as there is anything.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let end = (at + value.len()).min(bytes.len());
    if at < end {
        bytes[at..end].copy_from_slice(&value[..end - at]);
    }
}

/// Numbers around the ends of the integers' ranges and of Synod's bounds.
pub(super) const INTERESTING: [u64; 24] = [
    0,
    1,
    2,
    15,
    16,
    95,
    96,
    4095,
    4096,
    i8::MAX as u64,
    u8::MAX as u64,
    i16::MAX as u64,
    u16::MAX as u64,
    1 << 16,
    (1 << 20) - 1,
    (1 << 20) + 2048,
    (1 << 20) + 2049,
    2 << 20,
    i32::MAX as u64,
    u32::MAX as u64,
    (1 << 48) - 1,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// A script that is read from its start.
struct Script<'a> {
    bytes: &'a [u8],
}

impl Script<'_> {
    fn next_byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, width: usize) -> u64 {
        (0..width).fold(0, |number, at| number | u64::from(self.next_byte().unwrap_or(0)) << (8 * at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_says_how_an_input_is_meant() {
        let specimens = [vec![1, 2, 3], vec![7; 20]];
        let fix = |bytes: &mut Vec<u8>| bytes.push(99);
        let shaped =
            |mode: Mode, specimen, rest: &[u8]| shape(&[&[mode.first_byte(specimen)], rest].concat(), &specimens, fix);
        assert_eq!(shape(&[], &specimens, fix), [0; 0]);
        assert_eq!(shaped(Mode::Raw, 5, &[4, 5]), [4, 5]);
        assert_eq!(shaped(Mode::Summed, 0, &[4, 5]), [4, 5, 99]);
        assert_eq!(shaped(Mode::Edited, 0, &[]), [1, 2, 3, 99]);
        assert_eq!(shaped(Mode::Damaged, 1, &[]), [7; 20]);
        // The lowest bit of byte 2; a number of two bytes at 0; one byte more before byte 1; the end before byte 2.
        assert_eq!(shaped(Mode::Damaged, 0, &[0, 2, 0]), [1, 2, 2]);
        assert_eq!(shaped(Mode::Damaged, 0, &[1 | 1 << 3, 0, 0, 8, 9]), [8, 9, 3]);
        assert_eq!(shaped(Mode::Damaged, 0, &[4, 1, 0, 6]), [1, 6, 2, 3]);
        assert_eq!(shaped(Mode::Damaged, 0, &[7, 2, 0]), [1, 2]);
    }

    #[test]
    fn a_script_never_makes_more_than_its_bound() {
        let copies = [6 | 15 << 3, 0, 0, 0, 0].repeat(200);
        let shaped = shape(&[&[Mode::Damaged.first_byte(0)], &copies[..]].concat(), &[vec![1; 4096]], |_| ());
        assert_eq!(shaped.len(), 4096 + GROWTH_BYTES_MAX);
    }
}
