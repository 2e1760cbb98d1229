use proptest::prelude::*;

use super::super::tests::header_with_body_len;
use super::super::{FRAME_BODY_BYTES_MAX, append_frame, encode_frame, padded_len};
use super::*;

/// Feeds `bytes` in pieces whose sizes come from `sizes`, round and round; gives all frames and the error that ended it.
fn feed(decoder: &mut Decoder, mut bytes: &[u8], sizes: &[usize]) -> (Vec<(FrameHeader, Vec<u8>)>, Option<FrameError>) {
    let mut frames = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let space = decoder.space();
        assert!(SPACE_BYTES_MIN <= space.len());
        let size = (*sizes.next().unwrap()).clamp(1, space.len()).min(bytes.len());
        space[..size].copy_from_slice(&bytes[..size]);
        decoder.filled(size);
        bytes = &bytes[size..];
        loop {
            match decoder.next() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    assert_eq!(frame.body.as_ptr().align_offset(FRAME_ALIGN), 0);
                    frames.push((frame.header, frame.body.to_vec()));
                }
                Err(error) => {
                    assert_eq!(decoder.next(), Err(error), "the error stays");
                    return (frames, Some(error));
                }
            }
        }
    }
    (frames, None)
}

fn append_self_checked(out: &mut Vec<u8>, kind: u8, tag: u64, body: &[u8]) {
    out.extend_from_slice(&FrameHeader::of_self_checked(kind, tag, body.len()).encode());
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(FRAME_ALIGN), 0);
}

/// A stream of frames, and what must come out of it.
fn stream(bodies: &[(u8, u64, usize, bool)]) -> (Vec<u8>, Vec<(FrameHeader, Vec<u8>)>) {
    let (mut bytes, mut frames) = (Vec::new(), Vec::new());
    for &(kind, tag, len, sums_itself) in bodies {
        let body: Vec<u8> = (0..len).map(|at| (at as u64 ^ tag) as u8).collect();
        let header = if sums_itself {
            append_self_checked(&mut bytes, kind, tag, &body);
            FrameHeader::of_self_checked(kind, tag, len)
        } else {
            append_frame(&mut bytes, kind, tag, &body);
            FrameHeader::of_body(kind, tag, &body)
        };
        frames.push((header, body));
    }
    (bytes, frames)
}

fn bodies() -> impl Strategy<Value = Vec<(u8, u64, usize, bool)>> {
    let len = prop_oneof![4 => 0..200_usize, 2 => 0..40_000_usize, 1 => 40_000..300_000_usize];
    prop::collection::vec((any::<u8>(), any::<u64>(), len, any::<bool>()), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_do_not_depend_on_how_the_bytes_come(
        bodies in bodies(),
        sizes in prop::collection::vec(prop_oneof![1..64_usize, 64..20_000_usize, Just(1 << 20)], 1..20),
    ) {
        let (bytes, frames) = stream(&bodies);
        prop_assert_eq!(feed(&mut Decoder::new(), &bytes, &sizes), (frames, None));
    }

    #[test]
    fn damage_gives_the_frames_before_it_and_then_an_error(
        bodies in prop::collection::vec((any::<u8>(), any::<u64>(), 0..500_usize, Just(false)), 1..6),
        sizes in prop::collection::vec(1..2000_usize, 1..6),
        at: prop::sample::Index,
        bit in 0..8_u8,
    ) {
        let (mut bytes, frames) = stream(&bodies);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (out, error) = feed(&mut Decoder::new(), &bytes, &sizes);
        let mut end = 0;
        let whole = frames.iter().take_while(|(header, _)| {
            end += header.frame_bytes();
            end <= at
        });
        prop_assert!(error.is_some());
        prop_assert_eq!(out.len(), whole.count());
        prop_assert_eq!(&out[..], &frames[..out.len()]);
    }

    #[test]
    fn any_bytes_in_any_pieces_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..4000),
        whole_frames in 0..3_usize,
        sizes in prop::collection::vec(1..500_usize, 1..10),
    ) {
        let mut all = encode_frame(3, 3, b"before").repeat(whole_frames);
        all.extend_from_slice(&bytes);
        let mut decoder = Decoder::new();
        let (frames, _) = feed(&mut decoder, &all, &sizes);
        prop_assert_eq!(frames.len(), whole_frames);
        prop_assert_eq!(decoder.buffer_bytes(), BUFFER_BYTES);
        prop_assert_eq!(feed(&mut Decoder::new(), &all, &[usize::MAX]).0, frames);
    }
}

#[test]
fn a_longer_body_than_allowed_is_refused_before_its_buffer_exists() {
    for (max, len) in [(1000, 1001), (FRAME_BODY_BYTES_MAX, FRAME_BODY_BYTES_MAX + 1), (u32::MAX, u32::MAX)] {
        let mut decoder = Decoder::with_body_bytes_max(max);
        let (frames, error) = feed(&mut decoder, &header_with_body_len(len), &[32]);
        assert_eq!(error, Some(FrameError::TooLong { len, max: max.min(FRAME_BODY_BYTES_MAX) }));
        assert!(frames.is_empty());
        assert_eq!(decoder.buffer_bytes(), BUFFER_BYTES);
    }
}

#[test]
fn the_buffer_grows_to_what_the_longest_frame_needs_and_shrinks_again() {
    let long = vec![5; FRAME_BODY_BYTES_MAX as usize];
    let mut decoder = Decoder::new();
    let (frames, error) = feed(&mut decoder, &encode_frame(3, 1, &long), &[10_000]);
    assert_eq!((frames.len(), error), (1, None));
    let longest = FRAME_HEADER_BYTES + padded_len(long.len()) + SPACE_BYTES_MIN;
    assert_eq!(decoder.buffer_bytes(), longest);
    let short = encode_frame(3, 2, b"short");
    for _ in 0..SHRINK_AFTER_READS {
        assert_eq!(feed(&mut decoder, &short, &[usize::MAX]).0.len(), 1);
    }
    assert_eq!(decoder.buffer_bytes(), BUFFER_BYTES);
    assert_eq!(feed(&mut decoder, &short, &[1]).0.len(), 1);
}

#[test]
fn shrinking_keeps_a_partial_frame() {
    let mut decoder = Decoder::new();
    let (_, error) = feed(&mut decoder, &encode_frame(3, 1, &[1; 200_000]), &[usize::MAX]);
    assert_eq!(error, None);
    assert!(BUFFER_BYTES < decoder.buffer_bytes());
    let slow = encode_frame(3, 2, &[2; 300]);
    let (frames, error) = feed(&mut decoder, &slow, &[1]);
    assert_eq!((frames.len(), error), (1, None));
    assert_eq!(frames[0].1, [2; 300]);
    assert_eq!(decoder.buffer_bytes(), BUFFER_BYTES);
}

#[test]
fn after_an_error_reading_on_costs_no_memory() {
    let mut decoder = Decoder::new();
    assert!(feed(&mut decoder, &[1; 100], &[100]).1.is_some());
    for _ in 0..100 {
        let n = decoder.space().len();
        decoder.filled(n);
        assert!(decoder.next().is_err());
    }
    assert_eq!(decoder.buffer_bytes(), BUFFER_BYTES);
}
