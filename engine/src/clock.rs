//! The process's clock: nanoseconds since its first use, monotonic.

use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds on this process's monotonic clock; never 0. All instants of this crate are on it.
pub fn now_ns() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1
}
