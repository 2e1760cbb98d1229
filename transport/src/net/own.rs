//! A stream of another transport on an executor.
//!
//! Invariant: no thread but the executor's own ever holds a waker of it, since a task of an executor that is gone must not be
//! woken: a stream gets a *bell*, which is silent once the connection is shut down.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::socket::{check_count, check_written};
use super::transport::ByteStream;

/// The stream, and who waits for it.
pub(super) struct OwnStream {
    stream: Box<dyn ByteStream>,
    reader: Bell,
    writer: Bell,
    over: Cell<bool>,
}

impl OwnStream {
    pub(super) fn new(stream: Box<dyn ByteStream>) -> Self {
        Self { stream, reader: Bell::default(), writer: Bell::default(), over: Cell::new(false) }
    }

    pub(super) fn poll_read(&self, context: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.over.get() {
            return Poll::Ready(Ok(0));
        }
        let most = buf.len();
        let read = self.reader.poll(context, |context| self.stream.poll_read(context, buf));
        read.map(|read| check_count(read?, most))
    }

    pub(super) fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // The writer asks again, and waits.
        match self.send(&mut Context::from_waker(Waker::noop()), slices) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(0),
        }
    }

    pub(super) fn poll_write(&self, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writer.poll(context, |context| self.send(context, &[IoSlice::new(buf)]))
    }

    fn send(&self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let most = slices.iter().map(|slice| slice.len()).sum();
        if self.over.get() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if most == 0 {
            return Poll::Ready(Ok(0));
        }
        self.stream.poll_write(context, slices).map(|sent| check_written(sent?, most))
    }

    pub(super) fn shutdown(&self) {
        self.over.set(true);
        self.stream.shutdown();
        self.reader.close();
        self.writer.close();
    }
}

/// What a stream rings from any thread, and the task that hears it.
struct Bell {
    task: Arc<Task>,
    waker: Waker,
}

#[derive(Default)]
struct Task(Mutex<Option<Waker>>);

impl Default for Bell {
    fn default() -> Self {
        let task = Arc::<Task>::default();
        Self { waker: Waker::from(Arc::clone(&task)), task }
    }
}

impl Bell {
    fn poll<R>(&self, context: &Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> R) -> R {
        let mut task = self.task.lock();
        if !task.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
        drop(task);
        poll(&mut Context::from_waker(&self.waker))
    }

    /// Wakes who waits, a last time.
    fn close(&self) {
        let waker = self.task.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Task {
    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        // Each change is a single step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// The waker stays, and is dropped on its own thread. It is used under the lock: a [`Bell::close`] waits for that.
    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(waker) = &*self.lock() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests;
