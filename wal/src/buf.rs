//! Page-aligned byte buffers for direct I/O, and a pool with a byte bound. Unsafe allocation lives only here.
//!
//! Invariants:
//! - all bytes up to the capacity are initialised from the allocation on, and `len <= capacity`;
//! - growth shows zeros or the bytes just copied, never what a former user left;
//! - a pool never has more than its bound handed out, and never keeps more than 4 MiB free per class.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    cell::{Cell, RefCell},
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    rc::Rc,
};

use crate::{PAGE_BYTES, frame::FRAME_BYTES_MAX};

/// Capacities of pooled buffers, in bytes, ascending. The largest holds the largest frame.
pub const BUF_CLASSES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, FRAME_BYTES_MAX];

/// A pool keeps at most this many free bytes per class.
const FREE_BYTES_MAX: usize = 4 << 20;

/// A fixed-capacity byte buffer that starts at a multiple of 4096.
pub struct AlignedBuf {
    /// `None` only while being dropped.
    block: Option<Block>,
    len: usize,
    pool: Option<Rc<Pool>>,
}

impl AlignedBuf {
    /// An empty buffer outside any pool, of at least `capacity` bytes, rounded up to whole pages.
    ///
    /// # Panics
    /// If `capacity` is zero.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a buffer needs a capacity");
        Self { block: Some(Block::new(capacity.next_multiple_of(PAGE_BYTES))), len: 0, pool: None }
    }

    /// Bytes that the buffer can hold.
    pub fn capacity(&self) -> usize {
        self.block().layout.size()
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.capacity() - self.len
    }

    /// Sets the length; new bytes are zero.
    ///
    /// # Panics
    /// If `len` is over the capacity.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes in a buffer of {}", self.capacity());
        let old = std::mem::replace(&mut self.len, len);
        if old < len {
            self[old..].fill(0);
        }
    }

    /// Forgets all bytes.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.remaining(), "{} bytes into {} left", bytes.len(), self.remaining());
        let at = self.len;
        self.len += bytes.len();
        self[at..].copy_from_slice(bytes);
    }

    fn block(&self) -> &Block {
        self.block.as_ref().expect("a buffer has its block until it is dropped")
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the block owns `capacity` initialised bytes (zeroed at allocation), and `len <= capacity`.
        unsafe { std::slice::from_raw_parts(self.block().start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.block().start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity())
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let (Some(block), Some(pool)) = (self.block.take(), self.pool.take()) {
            pool.give_back(block);
        }
    }
}

/// Buffers of a few classes, with a bound over all that is handed out. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct BufPool {
    pool: Rc<Pool>,
}

impl BufPool {
    /// A pool that hands out at most `bytes_max` bytes at a time, counted by capacity.
    pub fn new(bytes_max: usize) -> Self {
        Self { pool: Rc::new(Pool { bytes_max, in_use_bytes: Cell::new(0), free: RefCell::default() }) }
    }

    /// An empty buffer of the least class that holds `bytes_min`. `None` when the bound is reached, or when no class is
    /// that large.
    pub fn take(&self, bytes_min: usize) -> Option<AlignedBuf> {
        let class = BUF_CLASSES.iter().position(|capacity| bytes_min <= *capacity)?;
        let in_use_bytes = self.pool.in_use_bytes.get() + BUF_CLASSES[class];
        if in_use_bytes > self.pool.bytes_max {
            return None;
        }
        self.pool.in_use_bytes.set(in_use_bytes);
        let block = self.pool.free.borrow_mut()[class].pop().unwrap_or_else(|| Block::new(BUF_CLASSES[class]));
        Some(AlignedBuf { block: Some(block), len: 0, pool: Some(Rc::clone(&self.pool)) })
    }

    /// Bytes handed out, counted by capacity.
    pub fn in_use_bytes(&self) -> usize {
        self.pool.in_use_bytes.get()
    }

    /// The bound over what is handed out, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.pool.bytes_max
    }
}

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufPool({} of {} bytes in use)", self.in_use_bytes(), self.bytes_max())
    }
}

struct Pool {
    bytes_max: usize,
    in_use_bytes: Cell<usize>,
    free: RefCell<[Vec<Block>; BUF_CLASSES.len()]>,
}

impl Pool {
    fn give_back(&self, block: Block) {
        let bytes = block.layout.size();
        let class =
            BUF_CLASSES.iter().position(|capacity| *capacity == bytes).expect("pooled blocks have a class's size");
        self.in_use_bytes.set(self.in_use_bytes.get().checked_sub(bytes).expect("a block returns once"));
        let free = &mut self.free.borrow_mut()[class];
        if (free.len() + 1) * bytes <= FREE_BYTES_MAX {
            free.push(block);
        }
    }
}

/// Owns one allocation.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

impl Block {
    fn new(bytes: usize) -> Self {
        assert!(bytes > 0 && bytes.is_multiple_of(PAGE_BYTES));
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("a buffer's size is far below isize::MAX");
        // SAFETY: the layout's size is not zero (asserted above).
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout, and is freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

const _: () = {
    let mut class = 0;
    while class < BUF_CLASSES.len() {
        assert!(BUF_CLASSES[class].is_multiple_of(PAGE_BYTES));
        class += 1;
    }
};
