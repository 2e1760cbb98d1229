//! A replicated database as its user has it, at one node.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use synod::{Consistency, Entries, GroupId, Handle, ProposeError, ReadError, Rejection};

use crate::content::Content;
use crate::database::{self, Outcome};
use crate::statement::{Statement, Transaction, Value};

/// The most rows that a query gives.
const ROWS_MAX: usize = 100_000;
/// How often a running query looks at the clock, in instructions of SQLite.
const LOOK_OPS: i32 = 10_000;

/// Why the outcome of a transaction is not known here.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The log says so. What is rejected, superseded or unknown may be said again in its session, at any node.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// It was committed, and took effect once; its outcome cannot be read here now. Ask for it by its index.
    #[error("it was committed at index {index}, but its outcome cannot be read: {error}")]
    Unread {
        /// The index.
        index: u64,
        /// Why.
        error: QueryError,
    },
    /// It was committed so long ago that its outcome is forgotten.
    #[error("it was committed at index {0}, so long ago that its outcome is forgotten: look at what it was to change")]
    Forgotten(u64),
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// This node does not stand where it must.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// SQLite says so.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The statement would write.
    #[error("a query must not write: execute it as a transaction")]
    Writes,
    /// It finds too much.
    #[error("the query finds more than 100000 rows: ask for them in parts (LIMIT)")]
    TooMany,
    /// It takes too long.
    #[error("the query took longer than it may")]
    TimedOut,
}

/// What a query found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rows {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
}

/// A replicated database, at one node.
///
/// Writes go through the log of a group, at the node that leads it, in a session: said again after an unknown outcome they
/// take effect once. Reads are run on the caller's thread, on connections of their own, so they never keep the shard
/// waiting; first the group says that this node has applied what the read must see.
#[derive(Clone)]
pub struct Database {
    handle: Handle,
    group: GroupId,
    path: PathBuf,
    timeout: Duration,
}

impl Database {
    /// The database that the machine of `group` keeps in `dir`. Whatever is asked may take as long as `timeout`.
    pub fn new(handle: Handle, group: GroupId, dir: &Path, timeout: Duration) -> Self {
        Self { handle, group, path: database::file_in(dir), timeout }
    }

    /// Opens a session and gives its id; its transactions are numbered from 1.
    ///
    /// # Errors
    /// As those of [`Handle::open_session`].
    pub fn open_session(&self) -> Result<u64, ProposeError> {
        self.handle.open_session(self.group).wait().map(|session| session.id())
    }

    /// Carries out a transaction on all nodes, once, and gives what became of it: also when SQLite has refused it, which is
    /// an outcome like others. `sequence` is its number in the session.
    ///
    /// # Errors
    /// When the outcome is not known here.
    pub fn execute(&self, session: u64, sequence: u64, transaction: &Transaction) -> Result<Outcome, ExecuteError> {
        let too_large = |_| ProposeError::Rejected(Rejection::TooLarge);
        let entries = Entries::one(&transaction.encode()).map_err(too_large)?;
        let committed = self.handle.propose_in_session(self.group, session, sequence, entries).wait()?;
        self.outcome(committed.first_index)
    }

    /// What became of the entry with this index.
    ///
    /// # Errors
    /// When this node does not come so far in time, or the outcome is forgotten.
    pub fn outcome(&self, index: u64) -> Result<Outcome, ExecuteError> {
        // Committed means applied here, except where the machine of a new leader is still being fed.
        let read = || -> Result<Option<Outcome>, QueryError> {
            let connection = self.reader(Consistency::AtLeast(index))?;
            Ok(database::outcome(&connection, index)?)
        };
        let outcome = read().map_err(|error| ExecuteError::Unread { index, error })?;
        outcome.ok_or(ExecuteError::Forgotten(index))
    }

    /// Runs a query on this node's database.
    ///
    /// # Errors
    /// When the node does not stand where it must, or the query fails.
    pub fn query(&self, statement: &Statement, consistency: Consistency) -> Result<Rows, QueryError> {
        let connection = self.reader(consistency)?;
        let mut prepared = connection.prepare(&statement.sql)?;
        if !prepared.readonly() {
            return Err(QueryError::Writes);
        }
        let columns = prepared.column_names().into_iter().map(str::to_owned).collect::<Vec<_>>();
        let mut found = prepared.query(rusqlite::params_from_iter(&statement.parameters))?;
        let mut rows = Vec::new();
        let timed_out = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => QueryError::TimedOut,
            _ => error.into(),
        };
        while let Some(row) = found.next().map_err(timed_out)? {
            if rows.len() == ROWS_MAX {
                return Err(QueryError::TooMany);
            }
            let value = |column| row.get_ref(column).map(Value::from);
            rows.push((0..columns.len()).map(value).collect::<Result<_, _>>()?);
        }
        Ok(Rows { columns, rows })
    }

    /// What this node's database holds, in short.
    ///
    /// # Errors
    /// When the node does not stand where it must, or the database cannot be read.
    pub fn content(&self, consistency: Consistency) -> Result<Content, QueryError> {
        Ok(Content::of(&mut self.reader(consistency)?)?)
    }

    /// A connection that sees at least what the consistency asks for.
    fn reader(&self, consistency: Consistency) -> Result<Connection, QueryError> {
        self.handle.read_index(self.group, consistency, self.timeout).wait()?;
        let connection = database::open_reader(&self.path)?;
        // A reader that stays keeps SQLite's write-ahead log from beginning anew.
        let end = Instant::now() + self.timeout;
        connection.progress_handler(LOOK_OPS, Some(move || Instant::now() >= end))?;
        Ok(connection)
    }
}
