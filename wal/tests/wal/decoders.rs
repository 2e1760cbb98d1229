//! Codecs: golden bytes, round trips, and arbitrary bytes.

use proptest::prelude::*;
use synod_wal::{
    AlignedBuf, End, FRAME_BYTES_MAX, Frame, FrameError, FrameHeader, FrameMeta, RECORD_BODY_BYTES_MAX,
    RECORD_HEADER_BYTES, RecordError, RecordHeader, Records, SegmentError, SegmentHeader, SharedFrame, body_crc,
    check_frame, record_bytes, segment_generation, segment_name,
};

fn golden_record() -> RecordHeader {
    RecordHeader {
        kind: 0x11,
        flags: 0x22,
        version: 0x4433,
        body_len: 5,
        uid: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
        numbers: [1, 2, 3, 4, 5, 6, u64::MAX],
        entries: 9,
        body_crc: body_crc(&[b"hello"]),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_record_header_has_its_golden_bytes() {
    let golden = "1122334405000000000102030405060708090a0b0c0d0e0f\
        01000000000000000200000000000000030000000000000004000000000000000500000000000000\
        0600000000000000ffffffffffffffff090000004cbb719a00000000f54b257f";
    let bytes = golden_record().encode();
    assert_eq!(hex(&bytes), golden);
    assert_eq!(RecordHeader::decode(&bytes), Ok(golden_record()));
}

#[test]
fn the_frame_has_its_golden_bytes() {
    let mut frame = Frame::new(AlignedBuf::new(4096));
    let span = frame.push(&golden_record(), &[b"he", b"", b"llo"]);
    assert_eq!((span.start, span.body_start, span.body_end, span.end), (64, 160, 165, 176));
    let crc = frame.seal(FrameMeta {
        generation: 2,
        sequence: 3,
        durable_through: 1,
        prev_crc: 0x0403_0201,
        tag: 0x1817_1615_1413_1211,
    });
    let bytes = frame.bytes();
    assert_eq!(bytes.len(), 4096);
    let golden = "53594e460100000002000000000000000300000000000000\
        01000000000000007000000001000000010203040def753111121314151617180000000075267682";
    assert_eq!(hex(&bytes[..64]), golden);
    let header = FrameHeader::decode(bytes, 2).expect("an intact frame");
    assert_eq!((header.crc, header.frame_bytes()), (crc, 4096));
    assert_eq!(check_frame(&header, bytes), Ok(()));
    assert!(FrameHeader::decode(bytes, 3).is_err(), "another generation");
}

#[test]
fn the_segment_header_has_its_golden_bytes() {
    let header = SegmentHeader {
        generation: 6,
        segment_bytes: 64 << 20,
        shard: 2,
        incarnation: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
        first_sequence: 10,
        recycled: true,
        previous: Some(End { generation: 5, sequence: 9, offset: 8192, crc: 0xddcc_bbaa }),
    };
    let page = header.encode();
    let golden = "53594e530100030006000000000000000000000400000000\
        000102030405060708090a0b0c0d0e0f0a0000000000000002000000aabbccdd\
        050000000000000009000000000000000020000000000000";
    assert_eq!(hex(&page[..80]), golden);
    assert!(page[80..4092].iter().all(|byte| *byte == 0));
    assert_eq!(hex(&page[4092..]), "3da243b0");
    assert_eq!(SegmentHeader::decode(&page), Ok(header));
}

#[test]
fn segment_names_are_canonical() {
    assert_eq!(segment_name(0x1f), "000000000000001f.seg");
    assert_eq!(segment_generation("000000000000001f.seg"), Some(0x1f));
    for name in ["1f.seg", "000000000000001F.seg", "+00000000000001f.seg", "000000000000001f.seg.tmp", "é.seg"] {
        assert_eq!(segment_generation(name), None, "{name}");
    }
}

#[test]
fn a_record_body_over_the_limit_is_refused() {
    let mut bytes = RecordHeader { body_len: 5, ..golden_record() }.encode();
    bytes[4..8].copy_from_slice(&(RECORD_BODY_BYTES_MAX as u32 + 1).to_le_bytes());
    let crc = body_crc(&[&bytes[..92]]);
    bytes[92..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(RecordHeader::decode(&bytes), Err(RecordError::BodyTooLong(RECORD_BODY_BYTES_MAX as u32 + 1)));
}

#[test]
fn the_largest_record_fits_the_largest_frame() {
    let frame = Frame::new(AlignedBuf::new(FRAME_BYTES_MAX));
    assert!(frame.fits(RECORD_BODY_BYTES_MAX));
    assert_eq!(record_bytes(0), RECORD_HEADER_BYTES);
    assert_eq!(record_bytes(1), RECORD_HEADER_BYTES + 16);
}

#[test]
fn a_record_put_in_the_place_of_another_is_noticed() {
    // Both are intact records of the same length: only the frame's own checksum tells them apart.
    let mut frame = Frame::new(AlignedBuf::new(4096));
    frame.push(&golden_record(), &[b"hello"]);
    frame.seal(FrameMeta { generation: 2, sequence: 3, durable_through: 1, prev_crc: 4, tag: 5 });
    let mut bytes = frame.bytes().to_vec();
    bytes[64..160].copy_from_slice(&RecordHeader { uid: 1, ..golden_record() }.encode());
    let header = FrameHeader::decode(&bytes, 2).expect("the header is untouched");
    assert_eq!(check_frame(&header, &bytes), Err(FrameError::Records));
}

#[test]
fn numbers_without_a_next_one_are_refused() {
    let last = i64::MAX as u64;
    let frame = |sequence| {
        let mut frame = Frame::new(AlignedBuf::new(4096));
        frame.seal(FrameMeta { generation: 2, sequence, durable_through: 1, prev_crc: 4, tag: 5 });
        FrameHeader::decode(frame.bytes(), 2).map(|header| header.sequence)
    };
    assert_eq!(frame(last), Ok(last));
    assert_eq!([frame(last + 1), frame(u64::MAX)], [Err(FrameError::Field); 2]);
    // The header of segment 6 whose log ended with frame 9: both numbers are changed, and the checksum with them.
    let segment = |generation: u64, sequence: u64| {
        let header = SegmentHeader {
            generation: 6,
            segment_bytes: 64 << 20,
            shard: 2,
            incarnation: 3,
            first_sequence: 10,
            recycled: false,
            previous: Some(End { generation: 5, sequence: 9, offset: 8192, crc: 1 }),
        };
        let mut page = header.encode().to_vec();
        for (at, number) in [(8, generation), (40, sequence), (56, generation - 1), (64, sequence - 1)] {
            page[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = body_crc(&[&page[..4092]]);
        page[4092..].copy_from_slice(&crc.to_le_bytes());
        SegmentHeader::decode(&page).map(|header| (header.generation, header.first_sequence))
    };
    assert_eq!(segment(last, last), Ok((last, last)));
    assert_eq!([segment(last + 1, 10), segment(6, last + 1)], [Err(SegmentError::Field); 2]);
}

#[test]
fn a_frame_that_grows_keeps_its_records_and_spans() {
    let build = |grows: bool| {
        let frame = SharedFrame::new(Frame::new(AlignedBuf::new(if grows { 4096 } else { 16 << 10 })));
        let first = frame.push(&golden_record(), &[b"hello"]);
        if grows {
            assert!(!frame.fits(8000));
            frame.grow(AlignedBuf::new(16 << 10));
        }
        let body = [7; 8000];
        let header = RecordHeader { body_len: 8000, body_crc: body_crc(&[&body]), ..golden_record() };
        let second = frame.push(&header, &[&body]);
        frame.seal(FrameMeta { generation: 2, sequence: 3, durable_through: 1, prev_crc: 4, tag: 5 });
        (first, second, frame.sealed_bytes().to_vec())
    };
    assert_eq!(build(true), build(false));
}

#[test]
fn every_flipped_bit_of_a_run_of_records_is_noticed() {
    let mut run = Vec::new();
    for body in [&b"hello"[..], b"", b"0123456789abcdef"] {
        let header = RecordHeader { body_len: body.len() as u32, body_crc: body_crc(&[body]), ..golden_record() };
        run.extend_from_slice(&header.encode());
        run.extend_from_slice(body);
        run.resize(run.len().next_multiple_of(16), 0);
    }
    assert!(Records::new(&run).all(|record| record.is_ok()));
    for bit in 0..run.len() * 8 {
        let mut run = run.clone();
        run[bit / 8] ^= 1 << (bit % 8);
        assert!(Records::new(&run).any(|record| record.is_err()), "bit {bit}");
    }
    for cut in 1..run.len() {
        let intact = Records::new(&run[..cut]).all(|record| record.is_ok());
        assert_eq!(intact, cut == 112 || cut == 208, "cut at {cut}");
    }
}

/// Bytes that are often nearly right: a valid prefix with a few changes, or noise.
fn nearly(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let changed = (changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(move |(changes, cut, cuts)| {
        let mut bytes = valid.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    });
    prop_oneof![changed, prop::collection::vec(any::<u8>(), 0..9000)]
}

fn valid_frame() -> Vec<u8> {
    let mut frame = Frame::new(AlignedBuf::new(8192));
    for body in [&b"hello"[..], b"", &[7; 4000]] {
        let header = RecordHeader { body_len: body.len() as u32, body_crc: body_crc(&[body]), ..golden_record() };
        frame.push(&header, &[body]);
    }
    frame.seal(FrameMeta { generation: 2, sequence: 3, durable_through: 1, prev_crc: 4, tag: 5 });
    frame.bytes().to_vec()
}

fn valid_segment() -> Vec<u8> {
    let header = SegmentHeader {
        generation: 1,
        segment_bytes: 64 << 20,
        shard: 2,
        incarnation: 3,
        first_sequence: 1,
        recycled: false,
        previous: None,
    };
    header.encode().to_vec()
}

fn record() -> impl Strategy<Value = (RecordHeader, Vec<u8>)> {
    let body = prop::collection::vec(any::<u8>(), 0..600);
    let fields = (any::<u8>(), any::<u8>(), any::<u16>(), any::<u128>(), any::<[u64; 7]>(), any::<u32>());
    (fields, body).prop_map(|((kind, flags, version, uid, numbers, entries), body)| {
        let body_len = body.len() as u32;
        let body_crc = body_crc(&[&body]);
        (RecordHeader { kind, flags, version, body_len, uid, numbers, entries, body_crc }, body)
    })
}

proptest! {
    #[test]
    fn records_come_back_from_a_frame(records in prop::collection::vec(record(), 0..12)) {
        let mut frame = Frame::new(AlignedBuf::new(16 << 10));
        let mut spans = Vec::new();
        for (header, body) in &records {
            spans.push(frame.push(header, &[body]));
        }
        frame.seal(FrameMeta { generation: 9, sequence: 1, durable_through: 0, prev_crc: 0, tag: 0 });
        let header = FrameHeader::decode(frame.bytes(), 9).expect("just sealed");
        prop_assert_eq!(check_frame(&header, frame.bytes()), Ok(()));
        let run = &frame.bytes()[64..64 + header.body_len as usize];
        let read: Vec<_> = Records::new(run).collect::<Result<_, _>>().expect("just sealed");
        prop_assert_eq!(read.len(), records.len());
        for ((read, span), (header, body)) in read.iter().zip(spans).zip(&records) {
            prop_assert_eq!((&read.0, read.1), (header, body.as_slice()));
            prop_assert_eq!((read.2.start + 64, read.2.end + 64), (span.start as usize, span.end as usize));
        }
    }

    #[test]
    fn arbitrary_bytes_never_break_the_record_decoder(bytes in nearly(valid_frame()[64..].to_vec())) {
        let _ = RecordHeader::decode(&bytes);
        for (header, body, range) in Records::new(&bytes).flatten() {
            prop_assert!(range.end <= bytes.len());
            prop_assert_eq!(header.check_body(body), Ok(()));
        }
    }

    #[test]
    fn arbitrary_bytes_never_break_the_frame_decoder(bytes in nearly(valid_frame())) {
        if let Ok(header) = FrameHeader::decode(&bytes, 2) {
            prop_assert!(header.frame_bytes() <= FRAME_BYTES_MAX);
            if check_frame(&header, &bytes).is_ok() {
                prop_assert_eq!(bytes[..header.frame_bytes()].to_vec(), valid_frame());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_break_the_segment_decoder(bytes in nearly(valid_segment())) {
        if SegmentHeader::decode(&bytes).is_ok() {
            prop_assert_eq!(bytes[..4096].to_vec(), valid_segment());
        }
    }
}
