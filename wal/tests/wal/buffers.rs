//! Aligned buffers and their pool.

use synod_wal::{AlignedBuf, BufPool, FRAME_BYTES_MAX};

#[test]
fn growth_shows_zeros_also_in_a_used_buffer() {
    let pool = BufPool::new(1 << 20);
    let mut buf = pool.take(100).expect("within the bound");
    assert_eq!(buf.capacity(), 4096);
    assert!(buf.as_ptr().addr().is_multiple_of(4096));
    buf.extend_from_slice(&[7; 4096]);
    drop(buf);
    let mut buf = pool.take(100).expect("within the bound");
    buf.resize(4096);
    assert!(buf.iter().all(|byte| *byte == 0));
    buf[5] = 9;
    buf.resize(3);
    buf.resize(10);
    assert_eq!(buf[5], 0);
}

#[test]
fn the_bound_counts_what_is_handed_out() {
    let pool = BufPool::new(20 << 10);
    let small = pool.take(1).expect("4 KiB");
    let middle = pool.take(4097).expect("16 KiB");
    assert_eq!(pool.in_use_bytes(), 20 << 10);
    assert!(pool.take(1).is_none(), "the bound is reached");
    drop(middle);
    assert_eq!(pool.in_use_bytes(), 4 << 10);
    assert!(pool.take(16 << 10).is_some());
    drop(small);
    assert_eq!(pool.in_use_bytes(), 0);
}

#[test]
fn the_largest_class_holds_the_largest_frame_and_nothing_larger_is_given() {
    let pool = BufPool::new(usize::MAX);
    assert_eq!(pool.take(FRAME_BYTES_MAX).expect("a class").capacity(), FRAME_BYTES_MAX);
    assert!(pool.take(FRAME_BYTES_MAX + 1).is_none());
}

#[test]
fn a_buffer_may_outlive_its_pool() {
    let mut buf = BufPool::new(4096).take(1).expect("within the bound");
    buf.extend_from_slice(b"abc");
    assert_eq!(&buf[..], b"abc");
    assert_eq!(AlignedBuf::new(1).capacity(), 4096);
}
