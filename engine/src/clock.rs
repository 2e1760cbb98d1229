//! The process's clock: nanoseconds since its first use, monotonic.

use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

static START: OnceLock<u64> = OnceLock::new();

/// Nanoseconds since this process first asked; never 0, and never back. All instants of this crate are on it.
///
/// The clock goes on while the machine is suspended: a lease must not outlive what the others take it for.
pub fn now_ns() -> u64 {
    // Another thread may be the first: it has begun before this one reads.
    let start = *START.get_or_init(boot_time_ns);
    boot_time_ns() - start + 1
}

fn boot_time_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
