use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A stream that is never ready, and keeps the wakers that it was given.
#[derive(Default)]
struct Silent(Arc<Mutex<Vec<Waker>>>);

impl ByteStream for Silent {
    fn poll_read(&self, context: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().push(context.waker().clone());
        Poll::Pending
    }

    fn poll_write(&self, context: &mut Context<'_>, _: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().push(context.waker().clone());
        Poll::Pending
    }

    fn shutdown(&self) {}
}

#[derive(Default)]
struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_stream_that_is_shut_down_wakes_nobody_any_more() {
    let silent = Silent::default();
    let given = Arc::clone(&silent.0);
    let stream = OwnStream::new(Box::new(silent));
    let (reads, writes) = (Arc::<Count>::default(), Arc::<Count>::default());
    let woken = || [&reads, &writes].map(|count| count.0.load(Ordering::SeqCst));
    let (reader, writer) = (Waker::from(Arc::clone(&reads)), Waker::from(Arc::clone(&writes)));
    assert!(stream.poll_read(&mut Context::from_waker(&reader), &mut [0; 8]).is_pending());
    assert!(stream.poll_write(&mut Context::from_waker(&writer), &[0; 8]).is_pending());
    assert_eq!(stream.try_send(&[IoSlice::new(&[0; 8])]).unwrap(), 0);
    let wake_all = || given.lock().unwrap().iter().for_each(Waker::wake_by_ref);
    wake_all();
    assert_eq!(woken(), [1, 1]);
    stream.shutdown();
    assert_eq!(woken(), [2, 2], "both learn of the end");
    drop((reader, writer));
    assert_eq!([&reads, &writes].map(Arc::strong_count), [1, 1], "the stream has no waker of theirs");
    wake_all();
    assert_eq!(woken(), [2, 2]);
    assert!(matches!(stream.poll_read(&mut Context::from_waker(Waker::noop()), &mut [0; 8]), Poll::Ready(Ok(0))));
    assert!(stream.try_send(&[IoSlice::new(&[0; 8])]).is_err());
}
