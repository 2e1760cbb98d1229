//! Fuzzing of every decoder of bytes from disk and wire.
//!
//! A [`Target`] turns a fuzzer's input into the bytes of a decoder ([`shape`](Target::shape)), gives them to it and checks
//! what comes out ([`run`](Target::run)): no panic, what was decoded survives encoding and decoding, and no more memory than
//! the target's [`Memory`] allows. [`TARGETS`] has them all; [`hunt`] is a fuzzer for the stable toolchain, and
//! `tests/fuzz` has the same targets for cargo-fuzz.
//!
//! Random bytes hardly ever pass a checksum. So the first byte of an input says how the others are meant: see [`shape`].

mod checkpoint;
mod engine;
mod hunt;
mod log;
mod mutate;
mod shape;
mod transport;
mod wal;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use hunt::{Found, Progress, hunt, shorten};
pub use mutate::mutate;
pub use shape::{Mode, shape};

/// Runs a function and gives the most bytes that it held at one time, as an allocator that counts tells them.
pub type Measure = fn(&mut dyn FnMut()) -> u64;

/// How much a decoder may hold at one time: so much, and so much more for each byte that it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Bytes whatever it is given.
    pub bytes: u64,
    /// Bytes more for each byte of its input.
    pub per_byte: u64,
}

impl Memory {
    /// The bound for an input of `len` bytes.
    pub fn bytes_max(self, len: usize) -> u64 {
        self.bytes + self.per_byte * len as u64
    }
}

/// One decoder under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line, and of its corpus.
    pub name: &'static str,
    /// What it decodes.
    pub about: &'static str,
    /// From a fuzzer's input to the decoder's.
    pub shape: fn(&[u8]) -> Vec<u8>,
    /// Decodes and checks. False when the bytes were refused.
    ///
    /// # Panics
    /// When the decoder breaks a promise.
    pub run: fn(&[u8]) -> bool,
    /// What `run` may hold.
    pub memory: Memory,
}

/// Every decoder.
pub const TARGETS: [Target; 19] = [
    transport::WIRE_FRAMES,
    transport::HELLO,
    transport::HELLO_REPLY,
    transport::DATAGRAM,
    engine::MESSAGES,
    engine::ACKS,
    engine::INTRODUCTIONS,
    engine::REQUEST,
    engine::REPLY,
    engine::BATCH,
    wal::RECORDS,
    wal::FRAME,
    wal::SEGMENT,
    log::LOG,
    engine::REPLAY,
    engine::META,
    engine::CONFIG,
    checkpoint::CHECKPOINT,
    checkpoint::PACK,
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// Gives one input to the decoder. True when it was taken, false when it was refused.
    ///
    /// # Errors
    /// What the decoder did wrong.
    pub fn check(&self, input: &[u8], measure: Measure) -> Result<bool, String> {
        let bytes = (self.shape)(input);
        let mut result = Ok(false);
        // Caught inside, so that the count of memory is always ended.
        let held = measure(&mut || {
            result = catch_unwind(AssertUnwindSafe(|| (self.run)(&bytes))).map_err(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_owned()
            });
        });
        let held_max = self.memory.bytes_max(bytes.len());
        if result.is_ok() && held > held_max {
            return Err(format!("{held} bytes were held for an input of {}, at most {held_max} may be", bytes.len()));
        }
        result
    }

    /// As [`check`](Self::check), for a fuzzer that waits for a panic.
    ///
    /// # Panics
    /// When the decoder breaks a promise.
    pub fn check_or_panic(&self, input: &[u8], measure: Measure) {
        if let Err(failure) = self.check(input, measure) {
            panic!("{}: {failure}", self.name);
        }
    }
}
