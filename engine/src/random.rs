//! Randomness for names and seeds, from the system.

/// 128 bits from the system's generator, never 0: 0 stands for none.
pub(crate) fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the system gives no randomness: {error}"),
        }
    }
    u128::from_le_bytes(bytes).max(1)
}
