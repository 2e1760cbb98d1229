//! What a replicated statement may do: only what has the same effect on every node.
//!
//! Three nets, each for what slips through the others: an authorizer looks at every statement while it is compiled;
//! functions that depend on anything but their arguments are replaced by ones that refuse, since SQLite compiles
//! default values without asking the authorizer; and what a statement has done is looked at before it is kept.
//!
//! Invariants: what is not known to be deterministic is refused; a refusal depends on the statement and the database
//! only; nothing reaches the tables in which the replication keeps its own state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::functions::FunctionFlags;
use rusqlite::hooks::{Action, AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ffi};

/// Tables whose names begin so belong to the replication.
pub(crate) const OWN: &str = "synod_";
/// How many tables these are.
const OWN_TABLES: i64 = 2;
/// The longest text or blob, and row, that a statement may make. Many rows are bounded by their statement only.
const VALUE_BYTES_MAX: i32 = 16 << 20;

/// Functions of their arguments alone, on every processor: those of the C library's mathematics (sin, exp, pow) are not
/// among them, as it rounds their last digit as the processor likes.
const FUNCTIONS: &str = "-> ->> abs avg ceil ceiling char coalesce concat concat_ws count cume_dist degrees dense_rank \
    first_value floor format glob group_concat hex if ifnull iif instr json json_array json_array_insert \
    json_array_length json_each json_error_position json_extract json_group_array json_group_object json_insert \
    json_object json_patch json_pretty json_quote json_remove json_replace json_set json_tree json_type json_valid jsonb \
    jsonb_array jsonb_array_insert jsonb_each jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert \
    jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set jsonb_tree lag last_value lead length like likelihood \
    likely lower ltrim max median min mod nth_value ntile nullif octet_length percent_rank percentile percentile_cont \
    percentile_disc pi printf quote radians rank replace round row_number rtrim sign soundex sqrt string_agg substr \
    substring subtype sum total trim trunc typeof unhex unicode unistr unistr_quote unlikely upper zeroblob";
/// What `ALTER TABLE` calls inside; SQLite itself lets nobody else call them.
const ALTER_FUNCTIONS: &str = "sqlite_add_constraint sqlite_drop_column sqlite_drop_constraint sqlite_fail \
    sqlite_find_constraint sqlite_rename_column sqlite_rename_quotefix sqlite_rename_table sqlite_rename_test";
/// Virtual tables that are always there and tell of this node: its pages, its statements.
const NODE_TABLES: &str = "dbstat sqlite_dbpage sqlite_stmt bytecode tables_used fts3tokenize";

fn is_one_of(names: &str, name: &str) -> bool {
    names.split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case(name))
}

fn begins_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether statements may call a function.
pub(crate) fn is_allowed_function(name: &str) -> bool {
    is_one_of(FUNCTIONS, name) || is_one_of(ALTER_FUNCTIONS, name)
}

/// Why a function is refused.
fn refusal_of_function(name: &str) -> String {
    format!(
        "{name}() may differ between nodes: compute the value before the statement is proposed, and give it as a \
         parameter"
    )
}

/// Keeps a connection's statements to the rules while it is armed.
pub(crate) struct Guard {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    armed: AtomicBool,
    /// The statement alters a table.
    alters: AtomicBool,
    /// The schema may have changed since the guard was armed.
    defines: AtomicBool,
    reason: Mutex<Option<String>>,
}

impl Guard {
    /// Puts a guard on a connection.
    ///
    /// # Errors
    /// Those of SQLite.
    pub(crate) fn install(connection: &Connection) -> rusqlite::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of = Arc::clone(&shared);
        connection.authorizer(Some(move |context: AuthContext<'_>| of.authorize(&context)))?;
        let of = Arc::clone(&shared);
        connection.update_hook(Some(move |_: Action, _: &str, _: &str, rowid| of.changed(rowid)))?;
        // The same on all nodes, whatever they were built with.
        for (limit, most) in [
            (Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX),
            (Limit::SQLITE_LIMIT_SQL_LENGTH, 1 << 20),
            (Limit::SQLITE_LIMIT_COLUMN, 2000),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 200),
            (Limit::SQLITE_LIMIT_FUNCTION_ARG, 100),
            (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 32_766),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        ] {
            connection.set_limit(limit, most)?;
        }
        for (name, arguments) in functions_of(connection)? {
            if !is_allowed_function(&name) {
                let reason = refusal_of_function(&name);
                let refuse = move |_: &rusqlite::functions::Context<'_>| -> rusqlite::Result<i64> {
                    Err(rusqlite::Error::UserFunctionError(reason.clone().into()))
                };
                connection.create_scalar_function(&*name, arguments, FunctionFlags::SQLITE_UTF8, refuse)?;
            }
        }
        Ok(Self { shared })
    }

    /// Runs what a replicated statement asks for, under the rules. When it broke one, gives the reason instead: what was
    /// done must be rolled back then.
    pub(crate) fn run<T>(&self, connection: &Connection, run: impl FnOnce() -> rusqlite::Result<T>) -> Ruled<T> {
        let shared = &*self.shared;
        *shared.reason() = None;
        shared.alters.store(false, Ordering::Relaxed);
        shared.defines.store(false, Ordering::Relaxed);
        shared.armed.store(true, Ordering::Relaxed);
        let result = run();
        shared.armed.store(false, Ordering::Relaxed);
        match (result, shared.reason().take()) {
            // An error of the disk is one, whatever rule was broken besides.
            (Err(error), _) if !is_refusal(&error) => Ruled::Failed(error),
            (_, Some(reason)) => Ruled::Refused(reason),
            (Err(error), None) => Ruled::Refused(text_of(&error)),
            (Ok(value), None) => match self.judge(connection) {
                Ok(None) => Ruled::Done(value),
                Ok(Some(reason)) => Ruled::Refused(reason.into()),
                Err(error) => Ruled::Failed(error),
            },
        }
    }

    /// Looks at what was done.
    fn judge(&self, connection: &Connection) -> rusqlite::Result<Option<&'static str>> {
        // Else the commit would fail, and with it the entries before.
        if unresolved_foreign_keys(connection)? {
            return Ok(Some("FOREIGN KEY constraint failed"));
        }
        if self.shared.defines.load(Ordering::Relaxed) {
            let own = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'synod\\_%' ESCAPE '\\'";
            if connection.query_row(own, [], |row| row.get::<_, i64>(0))? != OWN_TABLES {
                return Ok(Some("names that begin with synod_ are the replication's own"));
            }
            // Such a key would have a say when the replication writes its state.
            let keys = "SELECT count(*) FROM sqlite_schema AS s, pragma_foreign_key_list(s.name) AS f \
                        WHERE s.type = 'table' AND f.\"table\" LIKE 'synod\\_%' ESCAPE '\\'";
            if connection.query_row(keys, [], |row| row.get::<_, i64>(0))? != 0 {
                return Ok(Some("a foreign key to the replication's own tables"));
            }
        }
        Ok(None)
    }
}

/// What became of a statement under the rules.
pub(crate) enum Ruled<T> {
    /// Done.
    Done(T),
    /// SQLite or a rule says no, on every node.
    Refused(String),
    /// This node cannot go on.
    Failed(rusqlite::Error),
}

impl Shared {
    fn reason(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn authorize(&self, context: &AuthContext<'_>) -> Authorization {
        if !self.armed.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        match self.judge(context) {
            None => Authorization::Allow,
            Some(reason) => {
                self.reason().get_or_insert(reason);
                Authorization::Deny
            }
        }
    }

    /// Why an action is refused.
    fn judge(&self, context: &AuthContext<'_>) -> Option<String> {
        use AuthAction as A;
        let own = |name: &str| {
            begins_with(name, OWN).then(|| "names that begin with synod_ are the replication's own".to_owned())
        };
        match context.action {
            // `temp.t` is no temporary table to SQLite's authorizer until its name is written down.
            A::Insert { .. } if context.database_name == Some("temp") => {
                Some("what is temporary is not replicated".into())
            }
            A::Transaction { .. } | A::Savepoint { .. } => {
                Some("an entry is a transaction already: put its statements into one entry".into())
            }
            A::Attach { .. } | A::Detach { .. } => Some("only one database is replicated".into()),
            A::CreateTempIndex { .. }
            | A::CreateTempTable { .. }
            | A::CreateTempTrigger { .. }
            | A::CreateTempView { .. }
            | A::DropTempIndex { .. }
            | A::DropTempTable { .. }
            | A::DropTempTrigger { .. }
            | A::DropTempView { .. } => Some("what is temporary is not replicated".into()),
            A::Analyze { .. } => Some("statistics are samples, and could differ between nodes".into()),
            A::CreateVtable { .. } | A::DropVtable { .. } => Some("virtual tables are not replicated".into()),
            // Whatever is left ends: what it loops over is there.
            A::Recursive => Some("a recursive query might never end, on all nodes".into()),
            // `ALTER TABLE` checks the rows with it.
            A::Pragma { pragma_name, .. }
                if pragma_name.eq_ignore_ascii_case("quick_check") && self.alters.load(Ordering::Relaxed) =>
            {
                None
            }
            A::Pragma { pragma_name, .. } => Some(format!("PRAGMA {pragma_name}: pragmas are each node's own")),
            A::Function { function_name } => {
                (!is_allowed_function(function_name)).then(|| refusal_of_function(function_name))
            }
            A::Read { table_name, .. } if is_one_of(NODE_TABLES, table_name) => {
                Some(format!("{table_name} tells of this node, not of the database"))
            }
            A::Insert { table_name } | A::Update { table_name, column_name: "seq" }
                if table_name == "sqlite_sequence" =>
            {
                Some("sqlite_sequence is SQLite's own".into())
            }
            A::AlterTable { table_name, .. } => {
                self.alters.store(true, Ordering::Relaxed);
                self.defines.store(true, Ordering::Relaxed);
                own(table_name)
            }
            A::CreateTable { table_name: name } | A::CreateView { view_name: name } => {
                self.defines.store(true, Ordering::Relaxed);
                own(name)
            }
            A::CreateIndex { index_name: name, table_name } | A::CreateTrigger { trigger_name: name, table_name } => {
                self.defines.store(true, Ordering::Relaxed);
                own(name).or_else(|| own(table_name))
            }
            A::Read { table_name, .. }
            | A::Insert { table_name }
            | A::Update { table_name, .. }
            | A::Delete { table_name }
            | A::DropTable { table_name }
            | A::DropIndex { table_name, .. }
            | A::DropTrigger { table_name, .. } => own(table_name),
            A::DropView { .. } | A::Reindex { .. } | A::Select => None,
            _ => Some("SQLite asks for something that these rules do not know".into()),
        }
    }

    /// A row was written.
    fn changed(&self, rowid: i64) {
        if rowid == i64::MAX && self.armed.load(Ordering::Relaxed) {
            // Behind it SQLite draws rowids at random, or reports a full disk where the table has AUTOINCREMENT.
            let reason = "the largest rowid of all: SQLite would draw those behind it at random";
            self.reason().get_or_insert(reason.to_owned());
        }
    }
}

/// Whether an error is the statement's: then it is the same on every node. All that is not known to be so is this
/// node's: its disk, its memory, its file.
pub(crate) fn is_refusal(error: &rusqlite::Error) -> bool {
    let code = match error {
        rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } => error.extended_code,
        rusqlite::Error::InvalidParameterCount(..)
        | rusqlite::Error::MultipleStatement
        | rusqlite::Error::NulError(_)
        | rusqlite::Error::InvalidQuery => return true,
        _ => return false,
    };
    // The lowest byte is the code; the others say more of it.
    matches!(
        code & 0xff,
        ffi::SQLITE_ERROR
            | ffi::SQLITE_CONSTRAINT
            | ffi::SQLITE_MISMATCH
            | ffi::SQLITE_TOOBIG
            | ffi::SQLITE_RANGE
            | ffi::SQLITE_AUTH
    )
}

/// What SQLite says, without the statement itself.
fn text_of(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        error => error.to_string(),
    }
}

/// Whether the transaction, as it stands, violates a foreign key that is looked at only when it is committed.
fn unresolved_foreign_keys(connection: &Connection) -> rusqlite::Result<bool> {
    let (mut current, mut highest) = (0, 0);
    // SAFETY: the handle is that of a connection which is open as long as it is borrowed, and used by this thread alone
    // meanwhile; the two numbers are written before the call returns.
    let code = unsafe {
        let status = ffi::SQLITE_DBSTATUS_DEFERRED_FKS;
        ffi::sqlite3_db_status(connection.handle(), status, &raw mut current, &raw mut highest, 0)
    };
    match code {
        ffi::SQLITE_OK => Ok(current != 0),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// The names of all functions of a connection, and how many arguments each takes.
fn functions_of(connection: &Connection) -> rusqlite::Result<Vec<(String, i32)>> {
    let mut statement = connection.prepare("SELECT DISTINCT name, narg FROM pragma_function_list ORDER BY 1, 2")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}
