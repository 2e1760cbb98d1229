//! The state machine: a group's entries, carried out in SQLite.
//!
//! Invariants: an entry takes effect as a whole or not at all, and the index advances either way, in the same transaction;
//! what becomes of an entry depends on it and on the database only, not on the batch in which it stands; an error that
//! is this node's own stops the node, and never counts as an outcome.

use std::io::Read;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use synod::{Checkpoint, CommittedBatch, MachineError, StateMachine};

use crate::checkpoint;
use crate::database::{self, DatabaseError, Outcome};
use crate::rules::{Guard, Ruled};
use crate::statement::Transaction;
use crate::sync::{Syncer, sync};

/// A database that a group's log writes.
///
/// It runs on the thread of the group's shard, and so do its statements. A commit does not wait for the disk; a statement
/// that works long, or must read much that is not in memory, keeps the groups of its shard waiting.
pub struct SqliteMachine {
    // The syncer's connection goes first: the last one to go tidies the write-ahead log up.
    syncer: Syncer,
    connection: Connection,
    guard: Guard,
    dir: PathBuf,
    applied: u64,
}

/// What became of a run of entries.
enum Ran {
    Committed,
    /// A statement has rolled back everything, also the entries before it (`INSERT OR ROLLBACK`).
    RolledBack,
}

/// What became of one entry.
enum Entry {
    Told(Outcome),
    /// It has rolled back everything, for this reason.
    RolledBack(String),
}

impl SqliteMachine {
    /// Opens the database in a directory of its own, and makes it if there is none. All that it holds is durable then.
    ///
    /// # Errors
    /// When it cannot be used: the text says why, and what to do.
    pub fn open(dir: &Path) -> Result<Self, DatabaseError> {
        checkpoint::tidy(dir).map_err(|error| DatabaseError::Io { path: dir.to_owned(), error })?;
        let connection = database::open_writer(dir)?;
        let path = database::file_in(dir);
        let sqlite = |error| DatabaseError::Sqlite { path: path.clone(), error };
        let guard = Guard::install(&connection).map_err(sqlite)?;
        // What a process left that was killed may not be on the disk yet.
        let applied = database::applied(&connection).map_err(sqlite)?;
        let durable = sync(&connection, 0).map_err(sqlite)?.unwrap_or(0);
        let syncer = Syncer::start(path.clone(), durable).map_err(sqlite)?;
        Ok(Self { syncer, connection, guard, dir: dir.to_owned(), applied })
    }

    /// The index of the last entry that was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Has what was applied made durable soon; see [`StateMachine::durable_index`].
    pub fn sync_soon(&self) {
        self.syncer.ask();
    }

    /// Why the node must stop, if it must.
    #[cfg(test)]
    pub(crate) fn failure(&self) -> Option<String> {
        self.syncer.failure()
    }

    /// As if the disk were full behind so many pages.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        let limit = format!("PRAGMA max_page_count = {pages}");
        self.connection.query_row(&limit, [], |_| Ok(())).expect("it is a pragma");
    }

    /// Carries out entries in one transaction.
    fn run<'a>(&mut self, entries: impl Iterator<Item = (u64, &'a [u8])>) -> rusqlite::Result<Ran> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut last = self.applied;
        for (index, entry) in entries {
            match self.entry(index, entry)? {
                Entry::Told(outcome) => database::note_outcome(&self.connection, &outcome)?,
                Entry::RolledBack(_) => return Ok(Ran::RolledBack),
            }
            last = index;
        }
        self.commit(last)?;
        Ok(Ran::Committed)
    }

    /// Carries out entries in a transaction each: one of them takes back all that its transaction has done.
    fn run_apart<'a>(&mut self, entries: impl Iterator<Item = (u64, &'a [u8])>) -> rusqlite::Result<()> {
        for (index, entry) in entries {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            let outcome = match self.entry(index, entry)? {
                Entry::Told(outcome) => outcome,
                Entry::RolledBack(reason) => {
                    self.connection.execute_batch("BEGIN IMMEDIATE")?;
                    Outcome::refused(index, reason)
                }
            };
            database::note_outcome(&self.connection, &outcome)?;
            self.commit(index)?;
        }
        Ok(())
    }

    fn commit(&mut self, last: u64) -> rusqlite::Result<()> {
        database::note_applied(&self.connection, last)?;
        self.connection.execute_batch("COMMIT")?;
        self.applied = last;
        Ok(())
    }

    /// Carries out one entry in the transaction that is open.
    fn entry(&self, index: u64, entry: &[u8]) -> rusqlite::Result<Entry> {
        let transaction = match Transaction::decode(entry) {
            Ok(transaction) => transaction,
            Err(reason) => return Ok(Entry::Told(Outcome::refused(index, reason))),
        };
        let connection = &self.connection;
        connection.execute_batch("SAVEPOINT synod_entry")?;
        let before = connection.total_changes();
        match self.guard.run(connection, || execute(connection, &transaction)) {
            Ruled::Done(()) => {
                connection.execute_batch("RELEASE synod_entry")?;
                // SQLite counts in 32 bits.
                let changes = u64::from(connection.total_changes().wrapping_sub(before) as u32);
                Ok(Entry::Told(Outcome { index, changes, error: None }))
            }
            Ruled::Refused(reason) if connection.is_autocommit() => Ok(Entry::RolledBack(reason)),
            Ruled::Refused(reason) => {
                connection.execute_batch("ROLLBACK TO synod_entry; RELEASE synod_entry")?;
                Ok(Entry::Told(Outcome::refused(index, reason)))
            }
            Ruled::Failed(error) => Err(error),
        }
    }
}

fn execute(connection: &Connection, transaction: &Transaction) -> rusqlite::Result<()> {
    for statement in &transaction.statements {
        let mut prepared = connection.prepare(&statement.sql)?;
        // A text without a statement, or one that does nothing: SQLite would take the former for a misuse.
        if prepared.readonly() && prepared.column_count() == 0 {
            continue;
        }
        let mut rows = prepared.query(rusqlite::params_from_iter(&statement.parameters))?;
        // What it returns is nobody's: whoever proposed it may be gone.
        while rows.next()?.is_some() {}
    }
    Ok(())
}

/// Why a node cannot go on, and what to do.
fn fatal(dir: &Path, error: &rusqlite::Error) -> MachineError {
    format!(
        "{}: {error}: this node stops, as its database would differ from the others'; mend the cause (a full or failing \
         disk, another process that has the file) and start it again, and the log feeds it what it lacks",
        database::file_in(dir).display()
    )
    .into()
}

impl StateMachine for SqliteMachine {
    fn durable_index(&self) -> u64 {
        self.syncer.durable()
    }

    fn apply(&mut self, batch: &CommittedBatch<'_>) -> Result<(), MachineError> {
        if let Some(reason) = self.syncer.failure() {
            return Err(reason.into());
        }
        let entries = || (batch.first_index..).zip(batch.entries.iter());
        let held = self.applied;
        let left = || entries().filter(|(index, _)| *index > held);
        let ran = match self.run(left()) {
            Ok(Ran::RolledBack) => self.run_apart(left()),
            Ok(Ran::Committed) => Ok(()),
            Err(error) => Err(error),
        };
        ran.map_err(|error| fatal(&self.dir, &error))?;
        self.syncer.committed(self.applied);
        Ok(())
    }

    fn takes_checkpoints(&self) -> bool {
        true
    }

    fn checkpoint(&mut self) -> Result<Box<dyn Checkpoint>, MachineError> {
        Ok(Box::new(checkpoint::View::open(&self.dir, self.applied)?))
    }

    fn restore(&mut self, index: u64, input: &mut dyn Read) -> Result<(), MachineError> {
        let received = checkpoint::receive(&self.dir, index, input)?;
        let Self { syncer, connection, .. } = self;
        syncer.replace(index, || checkpoint::install(&received, connection))?;
        self.applied = index;
        Ok(())
    }

    /// Entries may stand in a transaction each, and a crash may come between them.
    fn skips_what_it_holds(&self) -> bool {
        true
    }
}
