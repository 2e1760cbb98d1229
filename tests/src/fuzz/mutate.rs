//! Changes to an input, as a fuzzer without feedback makes them: small ones mostly, one upon the other.

use super::shape::INTERESTING;
use crate::disk::Dice;

/// The longest input that mutations make, in bytes.
const INPUT_BYTES_MAX: usize = 512;

/// Changes `input` one to four times; `corpus` is what it may be spliced with.
pub fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        once(input, corpus, dice);
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn once(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(input.len() + 1);
    match dice.below(9) {
        0 if at < input.len() => input[at] ^= 1 << dice.below(8),
        1 if at < input.len() => input[at] = dice.roll() as u8,
        2 if at < input.len() => {
            let width = (1 << dice.below(4)).min(input.len() - at);
            let number = INTERESTING[dice.below(INTERESTING.len())].to_le_bytes();
            input[at..at + width].copy_from_slice(&number[..width]);
        }
        3 => {
            let more: Vec<u8> = (0..=dice.below(8)).map(|_| dice.roll() as u8).collect();
            input.splice(at..at, more);
        }
        4 => drop(input.drain(at..(at + 1 + dice.below(16)).min(input.len()))),
        5 => {
            let chunk = input[at..(at + 1 + dice.below(32)).min(input.len())].to_vec();
            let to = dice.below(input.len() + 1);
            input.splice(to..to, chunk);
        }
        6 if !corpus.is_empty() => {
            // The start of one and the end of another, where another stands at the same place.
            let other = &corpus[dice.below(corpus.len())];
            input.truncate(at);
            input.extend_from_slice(other.get(at..).unwrap_or_default());
        }
        7 if !corpus.is_empty() => {
            // A piece of another in between: for scripts, another's edits too.
            let other = &corpus[dice.below(corpus.len())];
            let from = dice.below(other.len() + 1);
            let piece = &other[from..(from + 1 + dice.below(32)).min(other.len())];
            input.splice(at..at, piece.iter().copied());
        }
        8 => input.truncate(at.max(1)),
        _ => input.push(dice.roll() as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_follow_the_dice_and_stay_within_the_bound() {
        let corpus = vec![vec![1; 300], vec![2; 512], Vec::new()];
        let run = |seed| {
            let mut dice = Dice::new(seed);
            let mut input = vec![7; 500];
            for _ in 0..1000 {
                mutate(&mut input, &corpus, &mut dice);
                assert!(input.len() <= INPUT_BYTES_MAX);
            }
            input
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
