//! Checkpoints: a frozen view of the database, copied by SQLite's online backup while the machine goes on.
//!
//! | Offset | Bytes | Field | |
//! |---:|---:|---|---|
//! | 0 | 8 | magic | `SYNODSQL` |
//! | 8 | 8 | version | 1; another one is refused |
//! | 16 | 8 | index | the last entry whose effect it has |
//! | 24 | 8 | bytes | of the database |
//! | 32 | bytes | database | a file of SQLite |
//!
//! All integers are little-endian. Checksums are Synod's: it restores nothing that is not as it was written.
//!
//! Invariants: the view has what the machine had applied when it was taken, whatever is committed meanwhile; the machine's
//! database is replaced in one transaction, so that a crash leaves the old one or the new one, and readers go on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use synod::{Checkpoint, MachineError};

use crate::database;

const MAGIC: &[u8; 8] = b"SYNODSQL";
const VERSION: u64 = 1;
const HEAD_BYTES: usize = 32;
/// What temporary files are called.
const PREFIX: &str = "checkpoint-";
/// Pages copied at a time.
const PAGES: i32 = 1024;

/// Removes what a crash left of copies.
///
/// # Errors
/// Those of the system.
pub(crate) fn tidy(dir: &Path) -> io::Result<()> {
    let files = match std::fs::read_dir(dir) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for file in files {
        let file = file?;
        if file.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

fn temporary(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new().prefix(PREFIX).tempfile_in(dir)
}

/// The database as it stood when this was opened.
pub(crate) struct View {
    /// In a transaction that reads.
    connection: Connection,
    dir: PathBuf,
    index: u64,
}

impl View {
    /// Opens a view that holds `index`. It costs a connection, whatever the database holds.
    ///
    /// # Errors
    /// Those of SQLite.
    pub(crate) fn open(dir: &Path, index: u64) -> Result<Self, MachineError> {
        let connection = database::open_reader(&database::file_in(dir))?;
        // The first read fixes what the transaction sees.
        connection.execute_batch("BEGIN")?;
        let applied = database::applied(&connection)?;
        if applied != index {
            return Err(format!("the database holds index {applied} where index {index} was applied").into());
        }
        Ok(Self { connection, dir: dir.to_owned(), index })
    }

    /// Copies what it sees, and lets go of it: while it is held SQLite's write-ahead log cannot begin anew.
    fn copy(self) -> io::Result<tempfile::NamedTempFile> {
        let copy = temporary(&self.dir)?;
        let mut to = Connection::open(copy.path()).map_err(io::Error::other)?;
        // A copy that a crash leaves half done is removed. It is a lone file, without a write-ahead log beside it.
        let lone = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF";
        to.execute_batch(lone).map_err(io::Error::other)?;
        copy_pages(&self.connection, &mut to).map_err(io::Error::other)?;
        let mode: String =
            to.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).map_err(io::Error::other)?;
        if mode != "delete" {
            return Err(io::Error::other(format!("the copy's journal_mode is {mode} instead of delete")));
        }
        Ok(copy)
    }
}

impl Checkpoint for View {
    fn write(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        let index = self.index;
        let copy = self.copy()?;
        // By its name: a second look at an open file would begin where SQLite's ended.
        let mut file = File::open(copy.path())?;
        let bytes = file.metadata()?.len();
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(MAGIC);
        [VERSION, index, bytes].iter().for_each(|number| head.extend_from_slice(&number.to_le_bytes()));
        out.write_all(&head)?;
        let copied = io::copy(&mut Read::by_ref(&mut file).take(bytes), out)?;
        if copied == bytes { Ok(()) } else { Err(io::Error::other("the copy was cut off")) }
    }
}

fn copy_pages(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    let backup = Backup::new(from, to)?;
    loop {
        match backup.step(PAGES)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            // Both connections are ours alone.
            step => {
                return Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                    Some(format!("copying the database was answered {step:?}: another process holds it")),
                ));
            }
        }
    }
}

/// Receives a checkpoint into a file beside the database, and looks whether it is what it should be.
///
/// # Errors
/// What is wrong with it, or with the disk.
pub(crate) fn receive(dir: &Path, index: u64, input: &mut dyn Read) -> Result<tempfile::NamedTempFile, MachineError> {
    let mut head = [0; HEAD_BYTES];
    input.read_exact(&mut head)?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    if head[..8] != *MAGIC || number(8) != VERSION {
        return Err("the checkpoint is none of this program, or of another version of it".into());
    }
    let (of, bytes) = (number(16), number(24));
    if of != index {
        return Err(format!("the checkpoint has index {of} instead of {index}").into());
    }
    let mut received = temporary(dir)?;
    let copied = io::copy(&mut (&mut *input).take(bytes), &mut received)?;
    if copied != bytes || input.read(&mut [0])? != 0 {
        return Err(format!("the checkpoint has not the {bytes} bytes that it tells of").into());
    }
    let connection = open_received(received.path())?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(format!("the checkpoint's database is damaged: {verdict}").into());
    }
    let applied = database::applied(&connection)?;
    if applied != index {
        return Err(format!("the checkpoint's database has index {applied} instead of {index}").into());
    }
    Ok(received)
}

fn open_received(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

/// Replaces a database by what was received: in one transaction, which is durable when this returns.
///
/// # Errors
/// Those of SQLite.
pub(crate) fn install(received: &tempfile::NamedTempFile, into: &mut Connection) -> Result<(), MachineError> {
    let from = open_received(received.path())?;
    // No statement may still be held by the cache: it is of the old database.
    into.flush_prepared_statement_cache();
    into.execute_batch("PRAGMA synchronous = FULL")?;
    let copied = copy_pages(&from, into);
    into.execute_batch("PRAGMA synchronous = NORMAL")?;
    Ok(copied?)
}
