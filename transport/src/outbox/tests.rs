use std::rc::Rc;

use proptest::prelude::*;

use super::*;

const CONTROL: u8 = b'c';
const BULK: u8 = b'b';

/// A frame that says its lane, number and length, in multiples of 16 bytes.
fn frame(lane: u8, number: u32, units: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; units * FRAME_ALIGN];
    bytes[0] = lane;
    bytes[1..5].copy_from_slice(&number.to_le_bytes());
    let len = bytes.len() as u32;
    bytes[5..9].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// A frame as its header, a range of a shared buffer and a tail, some of them empty.
fn in_parts(frame: &[u8], cut_a: usize, cut_b: usize) -> Vec<Chunk<Rc<[u8]>>> {
    let (a, b) = (cut_a.min(cut_b).min(frame.len()), cut_a.max(cut_b).min(frame.len()));
    vec![
        Chunk::Owned(frame[..a].to_vec()),
        Chunk::Shared { bytes: Rc::from(frame), start: a as u32, end: b as u32 },
        Chunk::Owned(frame[b..].to_vec()),
    ]
}

fn take(outbox: &mut Outbox<Rc<[u8]>>, n: usize, wire: &mut Vec<u8>) {
    let mut left = n;
    while left > 0 {
        let mut slices = Vec::new();
        outbox.next_slices(&mut slices);
        assert!(slices.len() <= SLICES_MAX && slices.iter().all(|slice| !slice.is_empty()));
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let taken = left.min(bytes.len());
        assert!(taken > 0);
        wire.extend_from_slice(&bytes[..taken]);
        outbox.advance(taken);
        left -= taken;
    }
}

fn take_all(outbox: &mut Outbox<Rc<[u8]>>, wire: &mut Vec<u8>) {
    take(outbox, outbox.queued_bytes(), wire);
}

/// The (lane, number) of all frames on the wire, which must be whole.
fn read_frames(mut wire: &[u8]) -> Vec<(u8, u32)> {
    let mut frames = Vec::new();
    while !wire.is_empty() {
        let number = u32::from_le_bytes(wire[1..5].try_into().unwrap());
        let len = u32::from_le_bytes(wire[5..9].try_into().unwrap()) as usize;
        assert_eq!(wire[..len], frame(wire[0], number, len / FRAME_ALIGN));
        frames.push((wire[0], number));
        wire = &wire[len..];
    }
    frames
}

#[test]
fn control_overtakes_at_frame_boundaries_only_wherever_the_socket_stopped() {
    let (a, b, c) = (frame(BULK, 1, 3), frame(BULK, 2, 4), frame(CONTROL, 1, 2));
    for pinned in [false, true] {
        for sent in 0..=a.len() + b.len() {
            let mut outbox = Outbox::new(1000);
            outbox.push_bulk(in_parts(&a, 32, 40), 1).unwrap();
            outbox.push_bulk(in_parts(&b, 32, 33), 2).unwrap();
            let mut wire = Vec::new();
            take(&mut outbox, sent, &mut wire);
            let begins_next = pinned && outbox.copy_pinned(5).len() == 5;
            outbox.push_control(c.clone(), 3).unwrap();
            take_all(&mut outbox, &mut wire);
            assert!(outbox.is_empty());
            let begun = sent + usize::from(begins_next);
            let expected = if begun == 0 {
                [&c[..], &a, &b].concat()
            } else if begun <= a.len() {
                [&a[..], &c, &b].concat()
            } else {
                [&a[..], &b, &c].concat()
            };
            assert_eq!(wire, expected, "{sent} bytes sent, pinned {pinned}");
        }
    }
}

#[test]
fn small_control_frames_are_one_slice_but_not_without_bound() {
    let mut outbox: Outbox<Rc<[u8]>> = Outbox::new(1 << 20);
    for number in 0..100 {
        outbox.push_control(frame(CONTROL, number, 2), 0).unwrap();
    }
    let mut slices = Vec::new();
    outbox.next_slices(&mut slices);
    assert_eq!(slices.len(), 1);
    outbox.push_control(frame(CONTROL, 100, CONTROL_MERGE_BYTES_MAX / FRAME_ALIGN), 0).unwrap();
    let mut slices = Vec::new();
    outbox.next_slices(&mut slices);
    assert_eq!(slices.len(), 2);
}

#[test]
fn each_lane_has_its_bound_and_refuses_whole() {
    let mut outbox = Outbox::new(64);
    outbox.push_bulk(in_parts(&frame(BULK, 1, 3), 32, 48), 1).unwrap();
    let full = Full { queued_bytes: 48, frame_bytes: 32, bytes_max: 64 };
    assert!(!outbox.has_room(32));
    assert_eq!(outbox.push_bulk(in_parts(&frame(BULK, 2, 2), 32, 32), 2), Err(full));
    outbox.push_control(frame(CONTROL, 1, 4), 3).unwrap();
    assert_eq!(outbox.push_control(frame(CONTROL, 2, 2), 4), Err(Full { queued_bytes: 64, ..full }));
    let mut wire = Vec::new();
    take(&mut outbox, 48 + 64, &mut wire);
    assert_eq!(read_frames(&wire), [(CONTROL, 1), (BULK, 1)]);
    assert!(outbox.has_room(64) && !outbox.has_room(65));
}

#[test]
fn the_age_is_that_of_the_oldest_frame_which_is_not_wholly_sent() {
    let mut outbox = Outbox::new(1000);
    assert_eq!(outbox.oldest_us(), None);
    outbox.push_bulk(in_parts(&frame(BULK, 1, 2), 32, 32), 10).unwrap();
    outbox.push_control(frame(CONTROL, 1, 2), 20).unwrap();
    assert_eq!(outbox.oldest_us(), Some(10));
    let mut wire = Vec::new();
    take(&mut outbox, 32 + 1, &mut wire);
    outbox.push_control(frame(CONTROL, 2, 2), 30).unwrap();
    assert_eq!(outbox.oldest_us(), Some(10));
    take(&mut outbox, 31, &mut wire);
    assert_eq!(outbox.oldest_us(), Some(30));
    // A piece under way is not joined: what comes behind it would take its age.
    take(&mut outbox, 1, &mut wire);
    outbox.push_control(frame(CONTROL, 3, 2), 40).unwrap();
    take(&mut outbox, 31, &mut wire);
    assert_eq!(outbox.oldest_us(), Some(40));
    outbox.clear();
    assert_eq!((outbox.oldest_us(), outbox.queued_bytes()), (None, 0));
}

#[test]
fn shared_buffers_are_let_go_when_sent_or_cleared() {
    let bytes: Rc<[u8]> = Rc::from(frame(BULK, 1, 4));
    let mut outbox = Outbox::new(1000);
    for _ in 0..2 {
        outbox.push_bulk([Chunk::Shared { bytes: Rc::clone(&bytes), start: 0, end: 64 }], 0).unwrap();
    }
    assert_eq!(Rc::strong_count(&bytes), 3);
    outbox.advance(64);
    assert_eq!(Rc::strong_count(&bytes), 2);
    outbox.clear();
    assert_eq!(Rc::strong_count(&bytes), 1);
}

#[test]
fn flush_stops_where_the_socket_is_full_and_goes_on_there() {
    let mut outbox = Outbox::new(1 << 20);
    let mut expected = Vec::new();
    for number in 0..100 {
        outbox.push_bulk(in_parts(&frame(BULK, number, 4), 32, 40), 0).unwrap();
        expected.extend(frame(BULK, number, 4));
    }
    let mut wire = Vec::new();
    let mut calls = 0;
    while !outbox
        .flush_with(|slices| {
            calls += 1;
            let mut left = if calls % 2 == 0 { 1000 } else { 0 };
            let before = wire.len();
            for slice in slices {
                let taken = left.min(slice.len());
                wire.extend_from_slice(&slice[..taken]);
                left -= taken;
            }
            Ok::<_, ()>(wire.len() - before)
        })
        .unwrap()
    {}
    assert_eq!(wire, expected);
    outbox.push_control(frame(CONTROL, 1, 2), 0).unwrap();
    assert_eq!(outbox.flush_with(|_| Err("broken")), Err("broken"));
    assert_eq!(outbox.queued_bytes(), 32);
}

#[derive(Clone, Debug)]
enum Step {
    Control {
        units: usize,
    },
    Bulk {
        units: usize,
        cut_a: usize,
        cut_b: usize,
    },
    Take(usize),
    /// A write that waits while the pushes of the next step happen.
    Pinned {
        copied: usize,
        written: usize,
        control_units: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (2..20_usize).prop_map(|units| Step::Control { units }),
        (2..60_usize, 0..1000_usize, 0..1000_usize).prop_map(|(units, cut_a, cut_b)| Step::Bulk {
            units,
            cut_a,
            cut_b
        }),
        (0..1500_usize).prop_map(Step::Take),
        (1..300_usize, 1..300_usize, 2..5_usize).prop_map(|(copied, written, control_units)| Step::Pinned {
            copied,
            written,
            control_units
        }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_wire_bears_whole_frames_in_lane_order(steps in prop::collection::vec(step(), 0..200)) {
        const BYTES_MAX: usize = 3000;
        let mut outbox = Outbox::new(BYTES_MAX);
        let mut wire = Vec::new();
        let (mut controls, mut bulks) = (0, 0);
        for step in steps {
            match step {
                Step::Control { units } => {
                    controls += u32::from(outbox.push_control(frame(CONTROL, controls, units), 0).is_ok());
                }
                Step::Bulk { units, cut_a, cut_b } => {
                    let room = outbox.has_room(units * FRAME_ALIGN);
                    let pushed = outbox.push_bulk(in_parts(&frame(BULK, bulks, units), cut_a, cut_b), 0).is_ok();
                    prop_assert_eq!(room, pushed);
                    bulks += u32::from(pushed);
                }
                Step::Take(n) => {
                    let n = n.min(outbox.queued_bytes());
                    take(&mut outbox, n, &mut wire);
                }
                Step::Pinned { copied, written, control_units } => {
                    let copy = outbox.copy_pinned(copied);
                    prop_assert_eq!(copy.is_empty(), outbox.is_empty());
                    controls += u32::from(outbox.push_control(frame(CONTROL, controls, control_units), 0).is_ok());
                    let written = written.min(copy.len());
                    wire.extend_from_slice(&copy[..written]);
                    outbox.advance(written);
                }
            }
            prop_assert!(outbox.queued_bytes() <= 2 * BYTES_MAX);
        }
        take_all(&mut outbox, &mut wire);
        let frames = read_frames(&wire);
        let of_lane = |lane| frames.iter().filter(move |f| f.0 == lane).map(|f| f.1);
        prop_assert!(of_lane(CONTROL).eq(0..controls));
        prop_assert!(of_lane(BULK).eq(0..bulks));
    }
}
