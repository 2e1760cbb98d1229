//! The file: how it is opened, and the tables in which the replication keeps its state.
//!
//! | table | holds |
//! |---|---|
//! | `synod_state` | the index of the last entry whose effect is in this database |
//! | `synod_outcomes` | what became of the last [`OUTCOMES_KEPT`] entries |
//!
//! Both are written in the transaction of the entries themselves, so they are equal on all nodes at the same index.

use std::path::{Path, PathBuf};

use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::{Deserialize, Serialize};

/// Entries whose outcomes are kept.
pub const OUTCOMES_KEPT: u64 = 4096;
/// The longest text of an outcome.
const ERROR_BYTES_MAX: usize = 1024;
/// Marks our files, in SQLite's header: "SYND".
const APPLICATION_ID: i32 = 0x5359_4e44;
/// The same on all nodes: a checkpoint is copied page by page.
const PAGE_BYTES: u32 = 4096;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite says so.
    #[error("{path}: {error}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: rusqlite::Error,
    },
    /// The system says so.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it says.
        error: std::io::Error,
    },
    /// It is another program's.
    #[error("{path} is no database of this program (application id {found:#x}): name another directory")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What its header has.
        found: i32,
    },
}

/// What became of an entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Its index in the log.
    pub index: u64,
    /// Rows that it changed, those of triggers and foreign keys included.
    pub changes: u64,
    /// Why it changed nothing: SQLite or a rule refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Outcome {
    /// That of an entry that was refused.
    pub(crate) fn refused(index: u64, mut error: String) -> Self {
        if error.len() > ERROR_BYTES_MAX {
            let end = (0..=ERROR_BYTES_MAX).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
            error.truncate(end);
        }
        Self { index, changes: 0, error: Some(error) }
    }
}

/// The database in a directory.
pub(crate) fn file_in(dir: &Path) -> PathBuf {
    dir.join("database.sqlite")
}

/// Opens the database in a directory for writing, and makes it if there is none.
///
/// # Errors
/// When it cannot be opened or is another program's.
pub(crate) fn open_writer(dir: &Path) -> Result<Connection, DatabaseError> {
    let path = file_in(dir);
    let io = |error| DatabaseError::Io { path: dir.to_owned(), error };
    std::fs::create_dir_all(dir).map_err(io)?;
    let sqlite = |error| DatabaseError::Sqlite { path: path.clone(), error };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(sqlite)?;
    let application_id = connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(sqlite)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sqlite)?;
    if application_id != APPLICATION_ID && (application_id != 0 || tables > 0) {
        return Err(DatabaseError::Foreign { path, found: application_id });
    }
    configure(&connection).map_err(sqlite)?;
    if application_id == APPLICATION_ID {
        return Ok(connection);
    }
    // As a whole: a crash leaves an empty file or all of it.
    let make = format!(
        "BEGIN IMMEDIATE;
         PRAGMA application_id = {APPLICATION_ID};
         CREATE TABLE synod_state (one INTEGER PRIMARY KEY CHECK (one = 1), applied INTEGER NOT NULL);
         CREATE TABLE synod_outcomes (at INTEGER PRIMARY KEY, changes INTEGER NOT NULL, error TEXT);
         INSERT INTO synod_state VALUES (1, 0);
         COMMIT"
    );
    connection.execute_batch(&make).map_err(sqlite)?;
    // The name of a new file and directory must outlive a power cut too.
    let sync = |dir: &Path| std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    sync(dir).and_then(|()| dir.parent().filter(|parent| parent.exists()).map_or(Ok(()), sync)).map_err(io)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // `synchronous = NORMAL`: a commit does not wait for the disk, which the shard's thread must not do. A power cut may
    // take the last commits, never a part of one, and the log feeds them again: `durable_index` tells only what the
    // syncer has seen on the disk. Should the syncer fall behind, from 64 MiB on (`wal_autocheckpoint`) commits do its
    // work. What SQLite sorts or must be able to roll back stays in memory (`temp_store`): no file can run full for it.
    connection.execute_batch(&format!(
        "PRAGMA page_size = {PAGE_BYTES};
         PRAGMA synchronous = NORMAL;
         PRAGMA temp_store = MEMORY;
         PRAGMA foreign_keys = ON;
         PRAGMA wal_autocheckpoint = 16384;
         PRAGMA journal_size_limit = {}",
        64 << 20
    ))?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(format!("the file system gives no write-ahead log (journal_mode is {mode}): use a local one")),
        ));
    }
    Ok(())
}

/// Opens the database in a directory for reading.
///
/// # Errors
/// Those of SQLite.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY")?;
    // No other files by way of a query.
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    Ok(connection)
}

/// The index of the last entry whose effect a database has.
///
/// # Errors
/// Those of SQLite.
pub(crate) fn applied(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT applied FROM synod_state", [], |row| row.get(0))
}

/// Notes that all entries up to an index have had their effect, and forgets old outcomes.
///
/// # Errors
/// Those of SQLite.
pub(crate) fn note_applied(connection: &Connection, index: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE synod_state SET applied = ?1")?.execute([index])?;
    let old = index.saturating_sub(OUTCOMES_KEPT);
    connection.prepare_cached("DELETE FROM synod_outcomes WHERE at <= ?1")?.execute([old])?;
    Ok(())
}

/// Notes what became of an entry.
///
/// # Errors
/// Those of SQLite.
pub(crate) fn note_outcome(connection: &Connection, outcome: &Outcome) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT INTO synod_outcomes VALUES (?1, ?2, ?3)")?;
    insert.execute((outcome.index, outcome.changes, &outcome.error))?;
    Ok(())
}

/// What became of an entry, if that is still known.
///
/// # Errors
/// Those of SQLite.
pub(crate) fn outcome(connection: &Connection, index: u64) -> rusqlite::Result<Option<Outcome>> {
    let mut select = connection.prepare_cached("SELECT changes, error FROM synod_outcomes WHERE at = ?1")?;
    select.query_row([index], |row| Ok(Outcome { index, changes: row.get(0)?, error: row.get(1)? })).optional()
}
