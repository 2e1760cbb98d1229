use proptest::prelude::*;

use super::*;

/// The checksum of a header whose other fields were changed by hand.
fn sum_header(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[..AT_HEADER_CRC]);
    put_u32(bytes, AT_HEADER_CRC, crc);
}

/// Frames for the decoder's tests too: a header with any length, summed rightly.
pub(crate) fn header_with_body_len(body_len: u32) -> Vec<u8> {
    let mut bytes = FrameHeader::of_body(9, 9, b"").encode().to_vec();
    put_u32(&mut bytes, AT_BODY_LEN, body_len);
    sum_header(&mut bytes);
    bytes
}

#[test]
fn golden_bytes() {
    let frame = encode_frame(7, 0x0102_0304_0506_0708, b"synod");
    #[rustfmt::skip]
    let golden = [
        b'S', b'Y', b'N', b'W',  1, 0,  7,  0,
        5, 0, 0, 0,  0x7d, 0xd3, 0x04, 0x1e,
        8, 7, 6, 5, 4, 3, 2, 1,
        0, 0, 0, 0,  0xa3, 0xaa, 0x94, 0x46,
        b's', b'y', b'n', b'o', b'd', 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(frame, golden);
}

#[test]
fn each_broken_field_has_its_own_error() {
    let check = |at: usize, value: u8, sum: bool, expected: fn(&FrameError) -> bool| {
        let mut bytes = FrameHeader::of_self_checked(3, 1, 100).encode();
        bytes[at] = value;
        if sum {
            sum_header(&mut bytes);
        }
        let error = FrameHeader::decode(&bytes).unwrap_err();
        assert!(expected(&error), "byte {at}: {error:?}");
    };
    check(AT_MAGIC, b'X', true, |e| matches!(e, FrameError::Magic(_)));
    check(AT_VERSION, 2, true, |e| matches!(e, FrameError::Version(2)));
    check(AT_KIND, 4, false, |e| matches!(e, FrameError::HeaderCrc { .. }));
    check(AT_FLAGS, 2, true, |e| matches!(e, FrameError::Flags(2)));
    check(AT_BODY_CRC, 1, true, |e| matches!(e, FrameError::Reserved));
    check(AT_RESERVED, 1, true, |e| matches!(e, FrameError::Reserved));
    check(AT_BODY_LEN + 3, 1, true, |e| matches!(e, FrameError::TooLong { .. }));
    assert_eq!(FrameHeader::decode(&[0; 31]), Err(FrameError::TooShort(31)));
}

#[test]
fn the_longest_body_is_legal_and_one_byte_more_is_not() {
    let longest = header_with_body_len(FRAME_BODY_BYTES_MAX);
    assert_eq!(FrameHeader::decode(&longest).unwrap().body_len, FRAME_BODY_BYTES_MAX);
    let longer = header_with_body_len(FRAME_BODY_BYTES_MAX + 1);
    assert!(matches!(FrameHeader::decode(&longer), Err(FrameError::TooLong { .. })));
}

#[test]
fn frames_are_appended_behind_what_is_there() {
    let mut out = b"0123456789abcdef".to_vec();
    append_frame(&mut out, 3, 1, b"one");
    append_frame_with(&mut out, 4, 2, |out| out.extend_from_slice(&[7; 16]));
    assert_eq!(out[..16], *b"0123456789abcdef");
    assert_eq!(out[16..], [encode_frame(3, 1, b"one"), encode_frame(4, 2, &[7; 16])].concat());
}

proptest! {
    #[test]
    fn headers_come_back_as_they_went(kind: u8, tag: u64, body in prop::collection::vec(any::<u8>(), 0..100), sums_itself: bool) {
        let header = if sums_itself {
            FrameHeader::of_self_checked(kind, tag, body.len())
        } else {
            FrameHeader::of_body(kind, tag, &body)
        };
        prop_assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
        prop_assert_eq!(header.frame_bytes() % FRAME_ALIGN, 0);
    }

    #[test]
    fn any_bytes_decode_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..64), fix: bool) {
        if fix && FRAME_HEADER_BYTES <= bytes.len() {
            put_u32(&mut bytes, AT_MAGIC, FRAME_MAGIC);
            put_u16(&mut bytes, AT_VERSION, FRAME_VERSION);
            sum_header(&mut bytes);
        }
        if let Ok(header) = FrameHeader::decode(&bytes) {
            prop_assert_eq!(&header.encode()[..], &bytes[..FRAME_HEADER_BYTES]);
        }
    }

    #[test]
    fn one_changed_bit_is_found(body in prop::collection::vec(any::<u8>(), 0..50), at: prop::sample::Index, bit in 0..8_u8) {
        let mut frame = encode_frame(3, 5, &body);
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        let checked = FrameHeader::decode(&frame).and_then(|header| header.check_body(&frame[FRAME_HEADER_BYTES..]));
        prop_assert!(checked.is_err());
    }
}
