//! The thread on which a shard's store blocks.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::store::Store;
use super::{StoreOp, WRITES_MAX};
use crate::mailbox::{Mail, Post};

/// The way to a shard's store.
#[derive(Debug)]
pub(crate) struct Helper {
    running: RefCell<Option<(mpsc::Sender<StoreOp>, JoinHandle<()>)>>,
    stopping: Arc<AtomicBool>,
}

impl Helper {
    /// Starts the thread; answers come as mail.
    pub(crate) fn start(shard: usize, mut store: Store, post: Post) -> Self {
        let (send, receive) = mpsc::channel::<StoreOp>();
        let stopping = store.stopping();
        let run = move || {
            synod_wal::disk::yield_to_shards();
            while let Ok(op) = receive.recv() {
                let ops = std::iter::once(op).chain(receive.try_iter());
                store.carry_out(ops.take(WRITES_MAX), |done| post.send_wait(Mail::Store(done)));
            }
        };
        let name = format!("synod-ckpt-{shard}");
        let thread = std::thread::Builder::new().name(name).spawn(run).expect("the system starts a thread");
        Self { running: RefCell::new(Some((send, thread))), stopping }
    }

    /// Hands over an operation. The shard bounds how many there are.
    pub(crate) fn submit(&self, op: StoreOp) {
        if let Some((send, _)) = &*self.running.borrow() {
            // The thread only ends with this end of the channel.
            let _ = send.send(op);
        }
    }

    /// Ends the thread: what is being written is given up. The next process may come then.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some((send, thread)) = self.running.borrow_mut().take() {
            drop(send);
            let _ = thread.join();
        }
    }
}
