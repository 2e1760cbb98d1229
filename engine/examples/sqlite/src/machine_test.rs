//! The machine by itself: outcomes, rules, restarts, checkpoints.

use std::path::Path;

use rusqlite::Connection;
use synod::{Batch, CommittedBatch, StateMachine};

use crate::content::Content;
use crate::database::{self, OUTCOMES_KEPT, Outcome};
use crate::machine::SqliteMachine;
use crate::statement::{Statement, Transaction, Value};

/// A machine, with what comes next.
struct Fed {
    machine: Option<SqliteMachine>,
    dir: tempfile::TempDir,
    next: u64,
}

impl Fed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = Some(SqliteMachine::open(dir.path()).unwrap());
        Self { machine, dir, next: 1 }
    }

    /// With a table `t (a INTEGER PRIMARY KEY, b)`.
    fn with_table() -> Self {
        let mut fed = Self::new();
        assert_eq!(fed.sql("CREATE TABLE t (a INTEGER PRIMARY KEY, b)").error, None);
        fed
    }

    fn machine(&mut self) -> &mut SqliteMachine {
        self.machine.as_mut().unwrap()
    }

    fn feed(&mut self, first_index: u64, entries: &[Vec<u8>]) {
        feed(self.machine(), first_index, entries);
    }

    /// Feeds entries in one batch, and gives their outcomes.
    fn batch(&mut self, entries: &[Vec<u8>]) -> Vec<Outcome> {
        let first = self.next;
        self.next += entries.len() as u64;
        self.feed(first, entries);
        (first..self.next).map(|index| self.outcome(index).unwrap()).collect()
    }

    fn sql(&mut self, sql: &str) -> Outcome {
        self.batch(&[entry(sql)]).remove(0)
    }

    fn reader(&self) -> Connection {
        database::open_reader(&database::file_in(self.dir.path())).unwrap()
    }

    fn outcome(&self, index: u64) -> Option<Outcome> {
        database::outcome(&self.reader(), index).unwrap()
    }

    fn number(&self, sql: &str) -> i64 {
        self.reader().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn content(&self) -> Content {
        Content::of(&mut self.reader()).unwrap()
    }

    fn restart(&mut self) {
        self.machine = None;
        self.machine = Some(SqliteMachine::open(self.dir.path()).unwrap());
    }
}

fn feed(machine: &mut SqliteMachine, first_index: u64, entries: &[Vec<u8>]) {
    let mut body = (entries.len() as u32).to_le_bytes().to_vec();
    let mut end = 0;
    for entry in entries {
        end += entry.len() as u32;
        body.extend_from_slice(&end.to_le_bytes());
    }
    body.extend(entries.concat());
    let entries = Batch::decode(&body).unwrap();
    machine.apply(&CommittedBatch { slot: first_index, first_index, entries }).unwrap();
}

fn entry(sql: &str) -> Vec<u8> {
    Transaction::one(sql, []).encode()
}

#[test]
fn an_entry_changes_rows_and_tells_how_many() {
    let mut fed = Fed::with_table();
    let insert =
        Transaction::one("INSERT INTO t VALUES (?1, ?2), (?3, ?4)", [1.into(), "one".into(), 2.into(), Value::Null]);
    assert_eq!(fed.batch(&[insert.encode()]), [Outcome { index: 2, changes: 2, error: None }]);
    assert_eq!(fed.sql("DELETE FROM t").changes, 2);
    assert_eq!((fed.machine().applied(), fed.content().applied), (3, 3));
}

#[test]
fn what_sqlite_refuses_is_an_outcome_and_the_index_goes_on() {
    let mut fed = Fed::with_table();
    let outcomes = fed.batch(&[
        entry("INSERT INTO t VALUES (1, 'one')"),
        entry("INSERT INTO t VALUES (1, 'again')"),
        entry("INSERT INTO nowhere VALUES (1)"),
        entry("colourless green ideas"),
        b"no JSON at all".to_vec(),
        entry("INSERT INTO t VALUES (?1, 'two')"),
        entry("INSERT INTO t VALUES (3, 'three'); DELETE FROM t"),
        entry(""),
        entry("-- nothing"),
        entry("\0"),
        entry("DROP TABLE IF EXISTS nowhere"),
        entry("INSERT INTO t VALUES (2, 'two')"),
    ]);
    let refused: Vec<bool> = outcomes.iter().map(|outcome| outcome.error.is_some()).collect();
    assert_eq!(refused, [false, true, true, true, true, true, true, false, false, false, false, false], "{outcomes:?}");
    assert!(outcomes[1].error.as_ref().unwrap().contains("UNIQUE"), "{outcomes:?}");
    assert_eq!((fed.number("SELECT count(*) FROM t"), fed.machine().applied()), (2, 13));
}

#[test]
fn statements_of_an_entry_take_effect_together_or_not_at_all() {
    let mut fed = Fed::with_table();
    let statement = |sql: &str| Statement::new(sql, []);
    let insert = statement("INSERT INTO t VALUES (7, 'seven')");
    let both = Transaction { statements: vec![insert.clone(), insert.clone()] };
    let other = Transaction { statements: vec![insert, statement("UPDATE t SET b = 'more'")] };
    let outcomes = fed.batch(&[both.encode(), other.encode()]);
    assert!(outcomes[0].error.is_some());
    assert_eq!(outcomes[1], Outcome { index: 3, changes: 2, error: None });
}

/// What takes back the whole transaction must not take the entries beside it along, nor the index.
#[test]
fn a_statement_that_rolls_everything_back_rolls_back_its_entry_only() {
    let mut fed = Fed::with_table();
    fed.sql("CREATE TRIGGER loud BEFORE DELETE ON t BEGIN SELECT RAISE(ROLLBACK, 'not this one'); END");
    let outcomes = fed.batch(&[
        entry("INSERT INTO t VALUES (1, 'one')"),
        entry("INSERT OR ROLLBACK INTO t VALUES (1, 'again')"),
        entry("INSERT INTO t VALUES (2, 'two')"),
        entry("DELETE FROM t"),
        entry("INSERT INTO t VALUES (3, 'three')"),
    ]);
    let refused: Vec<bool> = outcomes.iter().map(|outcome| outcome.error.is_some()).collect();
    assert_eq!(refused, [false, true, false, true, false], "{outcomes:?}");
    assert_eq!(outcomes[3].error.as_deref(), Some("not this one"));
    assert_eq!((fed.number("SELECT sum(a) FROM t"), fed.machine().applied()), (6, 7));
}

/// A key that is looked at only at the end is looked at at the end of its entry: else the batch decided.
#[test]
fn a_deferred_foreign_key_is_its_entrys_own() {
    let mut fed = Fed::with_table();
    fed.sql("CREATE TABLE c (t INTEGER REFERENCES t (a) DEFERRABLE INITIALLY DEFERRED)");
    let good = Transaction {
        statements: vec![
            Statement::new("INSERT INTO c VALUES (2)", []),
            Statement::new("INSERT INTO t VALUES (2, 'two')", []),
        ],
    };
    let outcomes =
        fed.batch(&[entry("INSERT INTO c VALUES (1)"), entry("INSERT INTO t VALUES (1, 'one')"), good.encode()]);
    let refused: Vec<bool> = outcomes.iter().map(|outcome| outcome.error.is_some()).collect();
    assert_eq!(refused, [true, false, false], "{outcomes:?}");
}

#[test]
fn what_may_differ_between_nodes_is_refused() {
    let mut fed = Fed::with_table();
    fed.sql("CREATE TABLE seq (a INTEGER PRIMARY KEY AUTOINCREMENT)");
    for sql in [
        "INSERT INTO t (b) VALUES (random())",
        "INSERT INTO t (b) VALUES (hex(randomblob(8)))",
        "INSERT INTO t (b) VALUES (date('now'))",
        "INSERT INTO t (b) VALUES (CURRENT_TIMESTAMP)",
        "INSERT INTO t (b) VALUES (strftime('%s', 'now'))",
        "INSERT INTO t (b) VALUES (datetime('2020-01-01', 'localtime'))",
        "INSERT INTO t (b) VALUES (sin(1))",
        "INSERT INTO t (b) VALUES (last_insert_rowid())",
        "INSERT INTO t (b) VALUES (changes())",
        "INSERT INTO t (b) VALUES (sqlite_version())",
        "INSERT INTO t (b) VALUES (load_extension('x'))",
        "INSERT INTO t (b) SELECT a FROM (WITH RECURSIVE n(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n) SELECT a FROM n)",
        "INSERT INTO t (b) SELECT file FROM pragma_database_list",
        "INSERT INTO t (b) SELECT pageno FROM dbstat",
        "INSERT INTO t VALUES (9223372036854775807, 'largest')",
        "UPDATE t SET a = 9223372036854775807",
        "INSERT INTO seq VALUES (9223372036854775807)",
        "UPDATE sqlite_sequence SET seq = 9223372036854775807",
        "INSERT INTO sqlite_sequence VALUES ('t', 5)",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 3",
        "ANALYZE",
        "VACUUM",
        "REINDEX nothing",
        "ATTACH ':memory:' AS other",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT mine",
        "RELEASE synod_entry",
        "ROLLBACK TO synod_entry",
        "CREATE TEMP TABLE x (a)",
        "CREATE TEMP VIEW x AS SELECT 1",
        "CREATE TABLE temp.x (a)",
        "CREATE VIEW temp.x AS SELECT 1",
        "CREATE TRIGGER temp.x AFTER INSERT ON main.t BEGIN DELETE FROM t; END",
        "CREATE TABLE temp.x AS SELECT 1",
        "CREATE VIRTUAL TABLE x USING fts5 (a)",
        "UPDATE synod_state SET applied = 0",
        "DELETE FROM Synod_Outcomes",
        "INSERT INTO t (b) SELECT applied FROM synod_state",
        "CREATE TABLE synod_mine (a)",
        "CREATE TABLE x (a REFERENCES synod_state (applied))",
        "CREATE TABLE x (a REFERENCES \"SYNOD_state\" (one))",
        "CREATE INDEX i ON synod_outcomes (error)",
        "CREATE TRIGGER x AFTER UPDATE ON synod_state BEGIN DELETE FROM t; END",
        "ALTER TABLE t RENAME TO synod_t",
        "ALTER TABLE synod_state ADD COLUMN more",
        "DROP TABLE synod_state",
    ] {
        fed.sql("INSERT OR REPLACE INTO t VALUES (1, 'one')");
        let before = (fed.content().rows, fed.number("SELECT count(*) FROM sqlite_schema"));
        let outcome = fed.sql(sql);
        assert!(outcome.error.is_some(), "{sql} was carried out");
        // The outcome itself is a row.
        assert_eq!((fed.content().rows, fed.number("SELECT count(*) FROM sqlite_schema")), (before.0 + 1, before.1));
    }
    assert_eq!(fed.sql("INSERT INTO t VALUES (5, 'five')").error, None);
}

/// SQLite compiles default values, views and triggers when they are used.
#[test]
fn what_is_refused_is_refused_in_its_hiding_places_too() {
    let mut fed = Fed::with_table();
    for hidden in [
        "CREATE TABLE d (a, b DEFAULT (random()))",
        "CREATE TABLE e (a, b DEFAULT CURRENT_TIMESTAMP)",
        "CREATE TABLE h (a, b DEFAULT (strftime('%s')))",
        "CREATE VIEW v AS SELECT random() AS a",
        "CREATE TABLE f (a)",
        "CREATE TABLE g (a)",
        "CREATE TRIGGER later AFTER INSERT ON f BEGIN INSERT INTO t (b) VALUES (julianday('now')); END",
        "CREATE TRIGGER peeks AFTER INSERT ON g BEGIN UPDATE synod_state SET applied = 99; END",
    ] {
        // Some are refused here already.
        fed.sql(hidden);
    }
    for used in [
        "INSERT INTO d (a) VALUES (1)",
        "INSERT INTO e (a) VALUES (1)",
        "INSERT INTO h (a) VALUES (1)",
        "INSERT INTO t (b) SELECT a FROM v",
        "INSERT INTO f VALUES (1)",
        "INSERT INTO g VALUES (1)",
        "CREATE INDEX i ON t (random())",
    ] {
        let outcome = fed.sql(used);
        assert!(outcome.error.is_some(), "{used} was carried out");
    }
    // There is no row that it could change.
    assert_eq!(fed.sql("ALTER TABLE t ADD COLUMN c DEFAULT CURRENT_TIMESTAMP").error, None);
    assert!(fed.sql("INSERT INTO t (b) VALUES (1)").error.is_some());
    assert_eq!(fed.number("SELECT count(*) FROM t"), 0);
}

#[test]
fn ordinary_sql_is_carried_out() {
    let mut fed = Fed::with_table();
    for sql in [
        "CREATE TABLE p (name TEXT NOT NULL UNIQUE, n REAL CHECK (n > 0), t INTEGER REFERENCES t (a) ON DELETE CASCADE)",
        "CREATE INDEX i ON p (lower(name)) WHERE n > 1",
        "CREATE VIEW v AS SELECT p.name, count(*) OVER (ORDER BY n) AS place FROM p JOIN t ON t.a = p.t",
        "CREATE TRIGGER g AFTER INSERT ON p BEGIN UPDATE t SET b = new.name WHERE a = new.t; END",
        "INSERT INTO t VALUES (1, NULL), (2, json('{\"a\": [1, 2]}'))",
        "INSERT INTO p VALUES ('one', 1.5, 1), ('two', 2.5, 2) ON CONFLICT (name) DO UPDATE SET n = excluded.n",
        "INSERT INTO p SELECT upper(name), n * 2, t FROM p WHERE n BETWEEN 1 AND 2 ORDER BY n LIMIT 1",
        "WITH two AS (SELECT 2 AS a) UPDATE p SET n = round(n, 1) WHERE t IN (SELECT a FROM two) RETURNING name",
        "INSERT INTO t (b) SELECT value FROM json_each('[3, 4, 5]')",
        "ALTER TABLE p ADD COLUMN more INTEGER NOT NULL DEFAULT 3 CHECK (more > 2)",
        "ALTER TABLE p RENAME COLUMN more TO less",
        "ALTER TABLE p DROP COLUMN less",
        "CREATE TABLE auto (a INTEGER PRIMARY KEY AUTOINCREMENT, b)",
        "INSERT INTO auto (b) VALUES ('x'), ('y')",
        "ALTER TABLE auto RENAME TO automatic",
        "CREATE TABLE w (k TEXT PRIMARY KEY, v ANY) STRICT, WITHOUT ROWID",
        "INSERT INTO w VALUES ('k', x'00ff')",
        "CREATE TABLE copy AS SELECT * FROM t",
        "REINDEX i",
        "DELETE FROM t WHERE a = 1",
        "DROP TRIGGER g",
        "DROP VIEW v",
        "DROP INDEX i",
        "DROP TABLE p",
        "DROP TABLE automatic",
        "SELECT count(*) FROM t",
    ] {
        assert_eq!(fed.sql(sql).error, None, "{sql}");
    }
}

/// A new SQLite may have new functions and modules: somebody must look at each.
#[test]
fn every_function_and_module_is_known() {
    let connection = Connection::open_in_memory().unwrap();
    let names = |sql: &str| -> Vec<String> {
        let mut select = connection.prepare(sql).unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let refused: Vec<String> = names("SELECT DISTINCT name FROM pragma_function_list ORDER BY name")
        .into_iter()
        .filter(|name| !crate::rules::is_allowed_function(name))
        .collect();
    let known = "bm25 changes current_date current_time current_timestamp date datetime fts3_tokenizer fts5 fts5_get_locale \
                 fts5_insttoken fts5_locale fts5_source_id highlight julianday last_insert_rowid load_extension match \
                 matchinfo offsets optimize random randomblob rtreecheck rtreedepth rtreenode snippet \
                 sqlite_compileoption_get sqlite_compileoption_used sqlite_log sqlite_source_id sqlite_version strftime \
                 time timediff total_changes unixepoch";
    assert_eq!(refused.join(" "), known);
    let modules = names("SELECT name FROM pragma_module_list WHERE name NOT LIKE 'pragma%' ORDER BY name");
    assert_eq!(modules.join(" "), "dbstat fts3 fts3tokenize fts4 fts4aux fts5 fts5vocab rtree rtree_i32");
}

#[test]
fn a_restart_goes_on_where_the_database_stands() {
    let mut fed = Fed::with_table();
    fed.batch(&[entry("INSERT INTO t VALUES (1, 'one')"), entry("INSERT INTO t VALUES (1, 'again')")]);
    let content = fed.content();
    fed.restart();
    assert_eq!((fed.machine().applied(), fed.machine().durable_index(), fed.content()), (3, 3, content.clone()));
    // The log feeds again what it does not know to be durable, and the machine skips what it holds.
    fed.feed(2, &[entry("INSERT INTO t VALUES (1, 'one')"), entry("INSERT INTO t VALUES (1, 'again')")]);
    assert_eq!(fed.content(), content);
    fed.feed(3, &[entry("INSERT INTO t VALUES (1, 'again')"), entry("INSERT INTO t VALUES (2, 'two')")]);
    assert_eq!((fed.number("SELECT count(*) FROM t"), fed.machine().applied()), (2, 4));
}

/// What was applied is told to be durable only once it is.
#[test]
fn the_durable_index_follows() {
    let mut fed = Fed::with_table();
    // A reader that stands before the end keeps the rest from being moved to the database, and so from being told.
    let reader = fed.reader();
    reader.execute_batch("BEGIN").unwrap();
    database::applied(&reader).unwrap();
    let writer = database::open_writer(fed.dir.path()).unwrap();
    assert_eq!(crate::sync::sync(&writer, 0).unwrap(), Some(1));
    fed.sql("INSERT INTO t VALUES (1, 'one')");
    assert_eq!(crate::sync::sync(&writer, 1).unwrap(), None);
    drop(reader);
    assert_eq!(crate::sync::sync(&writer, 1).unwrap(), Some(2));
    let end = std::time::Instant::now() + crate::cluster::PATIENCE;
    while fed.machine().durable_index() < 2 {
        assert!(std::time::Instant::now() < end, "it stays at {}", fed.machine().durable_index());
        fed.machine().sync_soon();
        std::thread::yield_now();
    }
}

/// A power cut takes the end of SQLite's write-ahead log, wherever that ends: the log feeds again what went.
#[test]
fn a_power_cut_takes_whole_batches() {
    let mut fed = Fed::with_table();
    // While this one reads, nothing is moved to the database file: what comes is in the write-ahead log.
    let reader = fed.reader();
    reader.execute_batch("BEGIN").unwrap();
    database::applied(&reader).unwrap();
    let batches: Vec<Vec<Vec<u8>>> = (0..8)
        .map(|batch| {
            (0..3).map(|_| entry(&format!("INSERT INTO t (b) VALUES ('{batch}' || hex(zeroblob(900)))"))).collect()
        })
        .collect();
    batches.iter().for_each(|batch| drop(fed.batch(batch)));
    let content = fed.content();
    let [database, wal] =
        ["database.sqlite", "database.sqlite-wal"].map(|name| std::fs::read(fed.dir.path().join(name)).unwrap());
    let mut seen = std::collections::BTreeSet::new();
    for cut in (0..=wal.len()).step_by(wal.len() / 40) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("database.sqlite"), &database).unwrap();
        std::fs::write(dir.path().join("database.sqlite-wal"), &wal[..cut]).unwrap();
        let mut machine = SqliteMachine::open(dir.path()).unwrap();
        let applied = machine.applied();
        assert_eq!(machine.durable_index(), applied);
        assert!(applied == 0 || (applied - 1).is_multiple_of(3), "cut {cut}: index {applied} is within a batch");
        seen.insert(applied);
        if applied == 0 {
            feed(&mut machine, 1, &[entry("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")]);
        }
        for (at, batch) in (0..).zip(&batches) {
            if applied < 2 + 3 * at {
                feed(&mut machine, 2 + 3 * at, batch);
            }
        }
        let mut reader = database::open_reader(&database::file_in(dir.path())).unwrap();
        assert_eq!(Content::of(&mut reader).unwrap(), content, "cut {cut}");
    }
    assert!(5 < seen.len(), "{seen:?}");
}

/// A sync that succeeds behind one that failed says nothing: the machine must not go on.
#[test]
fn a_database_that_cannot_be_made_durable_stops_the_node() {
    let mut fed = Fed::with_table();
    Connection::open(database::file_in(fed.dir.path())).unwrap().execute_batch("DROP TABLE synod_state").unwrap();
    let end = std::time::Instant::now() + crate::cluster::PATIENCE;
    while fed.machine().failure().is_none() {
        assert!(std::time::Instant::now() < end, "no failure is told");
        fed.machine().sync_soon();
        std::thread::yield_now();
    }
    let remade = "CREATE TABLE synod_state (one INTEGER PRIMARY KEY, applied); INSERT INTO synod_state VALUES (1, 9)";
    Connection::open(database::file_in(fed.dir.path())).unwrap().execute_batch(remade).unwrap();
    let body = [&1u32.to_le_bytes()[..], &0u32.to_le_bytes()].concat();
    let entries = Batch::decode(&body).unwrap();
    let error = fed.machine().apply(&CommittedBatch { slot: 2, first_index: 2, entries }).unwrap_err();
    assert!(error.to_string().contains("durable"), "{error}");
    fed.machine().sync_soon();
    assert!(fed.machine().durable_index() < 2);
}

#[test]
fn old_outcomes_are_forgotten() {
    let mut fed = Fed::new();
    let entries = vec![entry("SELECT 1"); 256];
    while fed.next <= OUTCOMES_KEPT + 256 {
        fed.batch(&entries);
    }
    assert_eq!(fed.outcome(256), None);
    assert_eq!(fed.number("SELECT count(*) FROM synod_outcomes"), OUTCOMES_KEPT as i64);
}

fn checkpoint(fed: &mut Fed) -> Vec<u8> {
    let view = fed.machine().checkpoint().unwrap();
    // What comes behind the view is not in it.
    fed.sql("INSERT INTO t VALUES (100, 'behind')");
    let mut bytes = Vec::new();
    view.write(&mut bytes).unwrap();
    bytes
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_replaces_the_whole_database() {
    let mut fed = Fed::with_table();
    let rows = "INSERT INTO t (b) SELECT json_object('n', x.value, 'm', y.value, 'f', hex(zeroblob(50))) \
                FROM json_each('[1,2,3,4,5,6,7,8,9,10]') AS x, json_each('[1,2,3,4,5,6,7,8,9,10]') AS y";
    for _ in 0..20 {
        assert_eq!(fed.sql(rows).changes, 100);
    }
    let content = fed.content();
    let bytes = checkpoint(&mut fed);
    assert_eq!(files(fed.dir.path()), ["database.sqlite", "database.sqlite-shm", "database.sqlite-wal"]);

    let mut other = Fed::new();
    other.sql("CREATE TABLE old (a)");
    // It goes on reading what it saw, and sees the new one next.
    let mut reader = other.reader();
    let view = reader.transaction().unwrap();
    assert_eq!(database::applied(&view).unwrap(), 1);
    other.machine().restore(content.applied, &mut &bytes[..]).unwrap();
    assert_eq!(database::applied(&view).unwrap(), 1);
    drop(view);
    assert_eq!(Content::of(&mut reader).unwrap(), content);
    assert_eq!((other.machine().applied(), other.machine().durable_index()), (content.applied, content.applied));
    drop(reader);

    // It goes on from there, also after a restart.
    other.next = content.applied + 1;
    other.sql("INSERT INTO t VALUES (100, 'behind')");
    other.restart();
    assert_eq!(other.content(), fed.content());
    assert_eq!(other.machine().durable_index(), content.applied + 1);
}

#[test]
fn a_checkpoint_that_is_none_replaces_nothing() {
    let mut fed = Fed::with_table();
    let bytes = checkpoint(&mut fed);
    let mut other = Fed::with_table();
    let content = other.content();
    let mut refuses = |bytes: &[u8], index: u64| {
        assert!(other.machine().restore(index, &mut &*bytes).is_err());
        assert_eq!(other.content(), content);
    };
    refuses(&bytes, 2);
    refuses(&bytes[..bytes.len() - 1], 1);
    refuses(&[&bytes[..], b"more"].concat(), 1);
    for at in [0, 8, 16, 24, 31] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        refuses(&bytes, 1);
    }
    for end in 0..40 {
        refuses(&bytes[..end], 1);
    }
    let mut damaged = bytes.clone();
    damaged[32 + 100..32 + 200].fill(0x55);
    refuses(&damaged, 1);
}

#[test]
fn what_a_crash_leaves_of_copies_is_removed() {
    let mut fed = Fed::with_table();
    for name in ["checkpoint-abc", "checkpoint-abc-wal"] {
        std::fs::write(fed.dir.path().join(name), "half").unwrap();
    }
    fed.restart();
    assert!(!files(fed.dir.path()).iter().any(|name| name.starts_with("checkpoint")));
}

#[test]
fn another_programs_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let other = Connection::open(database::file_in(dir.path())).unwrap();
    other.execute_batch("CREATE TABLE theirs (a)").unwrap();
    let error = SqliteMachine::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("another directory"), "{error}");
}

/// An error that is the node's own stops it: the entry has no outcome and the index stays.
#[test]
fn a_database_that_cannot_be_written_is_no_outcome() {
    let mut fed = Fed::with_table();
    // The largest size is as a disk that is full.
    fed.machine().limit_pages(8);
    let big = Transaction::one("INSERT INTO t (b) VALUES (zeroblob(1000000))", []).encode();
    let mut body = 1u32.to_le_bytes().to_vec();
    body.extend_from_slice(&(big.len() as u32).to_le_bytes());
    body.extend_from_slice(&big);
    let entries = Batch::decode(&body).unwrap();
    let error = fed.machine().apply(&CommittedBatch { slot: 2, first_index: 2, entries }).unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!((fed.outcome(2), fed.machine().applied()), (None, 1));
    // Once there is room, the log feeds it again.
    fed.restart();
    fed.next = 2;
    assert_eq!(fed.batch(&[big])[0].error, None);
}

#[test]
fn equal_databases_have_equal_hashes_and_others_do_not() {
    let hash = |statements: &[&str]| {
        let mut fed = Fed::with_table();
        // As many entries each.
        statements.iter().for_each(|sql| assert_eq!(fed.sql(sql).error, None, "{sql}"));
        fed.content().hash
    };
    let one = hash(&["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2, 'b')"]);
    assert_eq!(one, hash(&["INSERT INTO t VALUES (2, 'b')", "INSERT INTO t VALUES (1, 'a')"]));
    for other in [
        ["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2, 'c')"],
        ["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2, x'62')"],
        ["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (3, 'b')"],
    ] {
        assert_ne!(one, hash(&other), "{other:?}");
    }
    let odd = ["CREATE TABLE o (rowid, _rowid_, oid)", "INSERT INTO o VALUES (1, 2, 3)"];
    assert_eq!(hash(&odd), hash(&odd));
    let keyed =
        ["CREATE TABLE k (b TEXT, a TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID", "INSERT INTO k VALUES ('x', 'y')"];
    assert_ne!(hash(&keyed), hash(&[keyed[0], "INSERT INTO k VALUES ('y', 'x')"]));
}

/// Numbers that only look random, so that a seed is a workload.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// Statements that often fail, in all ways that there are.
    fn entry(&mut self) -> Vec<u8> {
        let a = self.below(12);
        let statement = |draw: &mut Self| match draw.below(16) {
            0 => format!("INSERT OR ROLLBACK INTO t VALUES ({a}, 'r')"),
            1 => format!("INSERT OR FAIL INTO t VALUES (100, 'f'), ({a}, 'f')"),
            2 => format!("INSERT OR REPLACE INTO t VALUES ({a}, 'p')"),
            3 => format!("DELETE FROM t WHERE a = {a}"),
            4 => format!("INSERT INTO child VALUES ({a}, {})", draw.below(12)),
            5 => format!("DELETE FROM child WHERE parent = {a}"),
            6 => format!("CREATE TABLE x{a} AS SELECT * FROM t"),
            7 => format!("DROP TABLE x{a}"),
            8 => format!("ALTER TABLE x{a} ADD COLUMN c{} DEFAULT 7", draw.below(3)),
            9 => format!("CREATE TRIGGER g{a} AFTER INSERT ON x{a} BEGIN SELECT RAISE(ROLLBACK, 'trigger {a}'); END"),
            10 => format!("INSERT INTO x{a} SELECT * FROM t LIMIT 3"),
            11 => "INSERT INTO t (b) VALUES (random())".to_owned(),
            12 => "nonsense".to_owned(),
            13 => format!("CREATE UNIQUE INDEX i{a} ON x{a} (b)"),
            _ => format!("INSERT INTO t (b) SELECT b || {a} FROM t WHERE length(b) < 20 ORDER BY a LIMIT 2"),
        };
        if self.below(20) == 0 {
            return b"no JSON".to_vec();
        }
        let statements = (0..=self.below(3)).map(|_| Statement::new(statement(self), [])).collect();
        Transaction { statements }.encode()
    }
}

/// However the entries come in batches, and whatever restarts and checkpoints come between.
#[test]
fn the_database_depends_on_the_entries_alone() {
    for seed in 1..=12 {
        let mut draw = Draw(seed);
        let setup = [
            entry("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)"),
            entry("CREATE TABLE child (a UNIQUE, parent INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED)"),
            entry("INSERT INTO t VALUES (1, 'one'), (2, 'two')"),
        ];
        let entries: Vec<Vec<u8>> = setup.into_iter().chain((0..150).map(|_| draw.entry())).collect();
        let mut straight = Fed::new();
        entries.iter().for_each(|entry| drop(straight.batch(std::slice::from_ref(entry))));
        let refused = straight.number("SELECT count(*) FROM synod_outcomes WHERE error IS NOT NULL");
        assert!((20..140).contains(&refused), "seed {seed}: {refused} are refused: that is no mixture");

        let mut other = Fed::new();
        let mut at = 0;
        while at < entries.len() {
            let end = entries.len().min(at + 1 + draw.below(30) as usize);
            // As after a restart, some may come again.
            let first = at - draw.below(at as u64 + 1).min(5) as usize;
            other.feed(first as u64 + 1, &entries[first..end]);
            at = end;
            match draw.below(6) {
                0 => other.restart(),
                1 => {
                    let mut bytes = Vec::new();
                    other.machine().checkpoint().unwrap().write(&mut bytes).unwrap();
                    other = Fed::new();
                    other.machine().restore(at as u64, &mut &bytes[..]).unwrap();
                }
                _ => {}
            }
        }
        assert_eq!(other.content(), straight.content(), "seed {seed}");
    }
}
