//! Makes durable what was committed, on a thread of its own: the shard's must not wait for the disk.
//!
//! Invariants: an index is told to be durable only when SQLite has synced all of its write-ahead log that was there when
//! the index was read; after the first failure nothing is told any more, and the machine stops its node: a sync that
//! succeeds behind one that failed says nothing about what was lost.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::database;

/// What was applied is durable so much later, if nobody asks before.
const PERIOD: Duration = Duration::from_secs(1);
/// So many entries behind the last sync the next one begins at once.
const ENTRIES: u64 = 1024;

/// The thread, and what it has made durable.
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    /// Room for one: who finds it full is heard all the same.
    asks: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    durable: AtomicU64,
    /// Held while the disk is being synced, and while the database is replaced. What failed first.
    failed: Mutex<Option<String>>,
    /// A copy of `failed` that can be looked at without waiting.
    has_failed: std::sync::atomic::AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Syncer {
    /// Starts the thread, for a database of which all is durable that it holds, up to this index.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub(crate) fn start(path: PathBuf, durable: u64) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)?;
        // It never writes rows. What counts is that a checkpoint of the write-ahead log syncs.
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0")?;
        let failed = Mutex::default();
        let shared = Arc::new(Shared { durable: AtomicU64::new(durable), failed, has_failed: false.into() });
        let (asks, asked) = mpsc::sync_channel(1);
        let of = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("synod-sqlite-sync".into())
            .spawn(move || {
                while asked.recv_timeout(PERIOD) != Err(mpsc::RecvTimeoutError::Disconnected) {
                    of.sync(&connection);
                }
            })
            .expect("the system starts a thread");
        Ok(Self { shared, asks: Some(asks), thread: Some(thread) })
    }

    /// The last index that is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Something was committed.
    pub(crate) fn committed(&self, applied: u64) {
        if applied >= self.durable() + ENTRIES {
            self.ask();
        }
    }

    /// Has it sync now.
    pub(crate) fn ask(&self) {
        if let Some(asks) = &self.asks {
            let _ = asks.try_send(());
        }
    }

    /// Why the disk could not be synced.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.shared.has_failed.load(Ordering::Acquire) { self.shared.lock().clone() } else { None }
    }

    /// Replaces the database while nothing is synced; then all up to `index` is durable.
    ///
    /// # Errors
    /// Those of `replace`.
    pub(crate) fn replace<E>(&self, index: u64, replace: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let _lock = self.shared.lock();
        replace()?;
        self.shared.durable.store(index, Ordering::Release);
        Ok(())
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn sync(&self, connection: &Connection) {
        let mut failed = self.lock();
        if failed.is_some() {
            return;
        }
        match sync(connection, self.durable.load(Ordering::Acquire)) {
            Ok(Some(index)) => self.durable.store(index, Ordering::Release),
            Ok(None) => {}
            Err(error) => {
                *failed = Some(format!("the database cannot be made durable: {error}"));
                self.has_failed.store(true, Ordering::Release);
            }
        }
    }
}

/// Makes durable what a database holds, and gives its index; `None` when there is nothing new, or a reader stands before
/// a part of it.
///
/// # Errors
/// When the disk fails.
pub(crate) fn sync(connection: &Connection, durable: u64) -> rusqlite::Result<Option<u64>> {
    // Read first: what comes later need not be synced below.
    let index = database::applied(connection)?;
    if index == durable {
        return Ok(None);
    }
    let (busy, log, moved): (i64, i64, i64) = connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    // The log is synced before it is moved to the database. When it was not moved as a whole it may not have been synced.
    Ok((busy == 0 && log == moved).then_some(index))
}
