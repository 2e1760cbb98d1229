//! The drivers: all sockets and threads of this crate, and all its unsafe code.

pub mod datagrams;
pub mod glommio;
pub mod listen;
mod own;
pub mod socket;
pub mod transport;
