//! The fuzzer for the stable toolchain: inputs of a corpus, changed at random, without feedback.
//!
//! Invariant: what is tried at one number depends on the seed, the target's name and the corpus alone, so threads may share
//! the numbers in any way.

use std::ops::Range;

use super::{Measure, Target, mutate};
use crate::disk::Dice;

/// What a run of a hunt has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Inputs tried.
    pub execs: u64,
    /// Those that the decoder took.
    pub taken: u64,
}

/// An input that breaks a decoder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The input.
    pub input: Vec<u8>,
    /// Its number in the hunt.
    pub exec: u64,
    /// What goes wrong.
    pub failure: String,
}

/// The input that is tried at one number.
fn input_at(target: &Target, corpus: &[Vec<u8>], seed: u64, exec: u64) -> Vec<u8> {
    let name = crc32c::crc32c(target.name.as_bytes());
    let mut dice = Dice::new(seed ^ (u64::from(name) << 32));
    dice = Dice::new(dice.roll() ^ exec.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut input = if corpus.is_empty() { Vec::new() } else { corpus[dice.below(corpus.len())].clone() };
    mutate(&mut input, corpus, &mut dice);
    input
}

/// Tries the inputs of these numbers until one breaks the decoder.
///
/// # Errors
/// The first that does.
pub fn hunt(
    target: &Target,
    corpus: &[Vec<u8>],
    seed: u64,
    execs: Range<u64>,
    measure: Measure,
) -> Result<Progress, Found> {
    let mut progress = Progress::default();
    for exec in execs {
        let input = input_at(target, corpus, seed, exec);
        match target.check(&input, measure) {
            Ok(taken) => progress.taken += u64::from(taken),
            Err(failure) => return Err(Found { input, exec, failure }),
        }
        progress.execs += 1;
    }
    Ok(progress)
}

/// Takes away what an input does not need in order to break its decoder.
pub fn shorten(target: &Target, found: Found, measure: Measure) -> Found {
    let mut found = found;
    let mut chunk = found.input.len().div_ceil(2);
    while 0 < chunk {
        let mut at = 0;
        while at < found.input.len() {
            let mut shorter = found.input.clone();
            shorter.drain(at..(at + chunk).min(shorter.len()));
            match target.check(&shorter, measure) {
                Err(failure) => found = Found { input: shorter, failure, ..found },
                Ok(_) => at += chunk,
            }
        }
        chunk /= 2;
    }
    found
}
