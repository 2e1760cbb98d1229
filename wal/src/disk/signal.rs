//! The event fd on which a driver's owner sleeps.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::{Errno, ReadWriteFlags, preadv2, write},
};

/// A counter that becomes readable when it is raised; shared with the helper thread and the ring.
#[derive(Debug, Clone)]
pub(crate) struct Signal {
    fd: Arc<OwnedFd>,
}

impl Signal {
    pub(crate) fn new() -> io::Result<Self> {
        // Blocking on purpose: io_uring answers a read of a non-blocking eventfd at once with EAGAIN.
        Ok(Self { fd: Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?) })
    }

    pub(crate) fn raise(&self) {
        // It could only fail or block when the counter overflows, which 2^64 completions do not reach.
        let _ = write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Waits until the counter is raised, and takes it.
    pub(crate) fn wait(&self) {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("poll of an eventfd that is open failed: {error}"),
        }
        // Without waiting: another reader on this thread's executor may have taken it.
        let mut counter = [0; 8];
        let mut parts = [io::IoSliceMut::new(&mut counter)];
        let _ = preadv2(&self.fd, &mut parts, u64::MAX, ReadWriteFlags::NOWAIT);
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
