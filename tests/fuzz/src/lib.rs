//! What all targets of libFuzzer share: they find their decoder by its name.

/// Gives an input to the decoder of this name.
///
/// # Panics
/// When there is no such decoder, or it breaks a promise.
pub fn check(name: &str, input: &[u8]) {
    let target = synod_sim::fuzz::target(name).expect("each program is named after a target");
    target.check_or_panic(input, |run| allocation_counter::measure(run).bytes_max);
}
