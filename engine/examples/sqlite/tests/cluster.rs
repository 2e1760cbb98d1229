//! Three real nodes, each a process: one is killed by SIGKILL, and comes back by the log or by a checkpoint.

use std::path::Path;

use synod_sqlite::cluster::{self, Cluster};
use synod_sqlite::protocol::Fresh;
use synod_sqlite::{Content, Statement, Transaction, Value};

const NODES: [u64; 3] = [1, 2, 3];

/// A cluster in a directory that goes with it.
struct Nodes {
    cluster: Cluster,
    // Behind the processes that use it.
    dir: tempfile::TempDir,
}

impl Nodes {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        cluster::create(dir.path(), 3, cluster::own_host()).unwrap();
        let mut cluster = Cluster::new(env!("CARGO_BIN_EXE_synod-sqlite"), dir.path());
        cluster.start(&NODES).unwrap();
        Self { cluster, dir }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Carries out a statement on all nodes, and tells whether it was refused.
    fn refuses(&mut self, sql: &str, parameters: impl IntoIterator<Item = Value>) -> bool {
        self.cluster.execute(&Transaction::one(sql, parameters)).unwrap().error.is_some()
    }

    /// Statements of all kinds; every fifth or so is refused.
    fn work(&mut self, rounds: std::ops::Range<i64>) {
        for round in rounds {
            assert!(!self.refuses("INSERT INTO t VALUES (?1, ?2, 0.1 * ?1)", [round.into(), "text".into()]));
            assert!(self.refuses("INSERT INTO t VALUES (?1, ?2, 0)", [round.into(), "again".into()]), "{round}");
            assert!(self.refuses("INSERT OR ROLLBACK INTO t VALUES (?1, NULL, 0)", [round.into()]), "{round}");
            assert!(self.refuses("INSERT INTO t VALUES (random(), NULL, 0)", []));
            assert!(self.refuses("INSERT INTO missing VALUES (1)", []));
            assert!(!self.refuses("UPDATE t SET b = b || ?1 WHERE a % 3 = ?1 % 3", [round.into()]));
            let both = Transaction {
                statements: vec![
                    Statement::new("DELETE FROM t WHERE a < ?1 - 20", [round.into()]),
                    Statement::new("INSERT INTO log (what) VALUES (?1)", [Value::Blob(vec![round as u8; 100])]),
                ],
            };
            assert_eq!(self.cluster.execute(&both).unwrap().error, None);
        }
    }

    /// All databases, which must be equal, at `nodes`.
    fn equal(&mut self, nodes: &[u64]) -> Content {
        let contents: Vec<Content> =
            nodes.iter().map(|node| self.cluster.content(*node, Fresh::Linearizable).unwrap()).collect();
        assert!(contents.windows(2).all(|two| two[0] == two[1]), "in {}: {contents:?}", self.dir().display());
        contents[0].clone()
    }

    fn number(&mut self, node: u64, sql: &str) -> Value {
        self.cluster.query(node, &Statement::new(sql, []), Fresh::Linearizable).unwrap().rows[0][0].clone()
    }

    /// A node that does not lead.
    fn follower(&mut self) -> u64 {
        let leader = self.cluster.leader().unwrap();
        NODES.into_iter().find(|node| *node != leader).unwrap()
    }
}

fn filler(number: u64) -> Transaction {
    let row = [Value::Integer((number % 16) as i64), Value::Blob(vec![number as u8; 128 << 10])];
    Transaction::one("INSERT OR REPLACE INTO filler VALUES (?1, ?2)", row)
}

#[test]
fn databases_stay_equal_through_kills_and_checkpoints() {
    let mut nodes = Nodes::start();
    for sql in [
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c REAL)",
        "CREATE TABLE log (n INTEGER PRIMARY KEY AUTOINCREMENT, what BLOB)",
        "CREATE TABLE filler (a INTEGER PRIMARY KEY, b BLOB)",
        "CREATE TRIGGER gone AFTER DELETE ON t BEGIN INSERT INTO log (what) VALUES (old.b); END",
    ] {
        assert!(!nodes.refuses(sql, []), "{sql}");
    }
    nodes.work(0..20);
    nodes.equal(&NODES);

    // A follower is killed, and lacks so little that the log has it.
    let victim = nodes.follower();
    nodes.cluster.kill(victim).unwrap();
    nodes.work(20..30);
    nodes.cluster.start(&[victim]).unwrap();
    nodes.equal(&NODES);

    // Another time it lacks what the others' logs no longer have.
    let victim = nodes.follower();
    let held = nodes.cluster.content(victim, Fresh::Linearizable).unwrap().applied;
    nodes.cluster.kill(victim).unwrap();
    let first = nodes.cluster.outrun(held, filler).unwrap();
    assert!(held + 1 < first);
    nodes.work(30..35);
    // Killed once more, perhaps while its database is being replaced.
    nodes.cluster.start(&[victim]).unwrap();
    nodes.cluster.kill(victim).unwrap();
    nodes.cluster.start(&[victim]).unwrap();
    let content = nodes.equal(&NODES);
    assert!(first <= content.applied);
    // Its log has a gap where the checkpoint stands for the entries.
    assert!(held + 1 < nodes.cluster.status(victim).unwrap().first);

    // And it counts as before: without it and one of the others nothing would be committed.
    let leader = nodes.cluster.leader().unwrap();
    let other = NODES.into_iter().find(|node| *node != leader && *node != victim).unwrap();
    nodes.cluster.kill(other).unwrap();
    nodes.work(35..40);
    nodes.equal(&[leader, victim]);
    nodes.cluster.start(&[other]).unwrap();
    let content = nodes.equal(&NODES);

    // All at once: what was acknowledged is there.
    NODES.into_iter().for_each(|node| nodes.cluster.kill(node).unwrap());
    nodes.cluster.start(&NODES).unwrap();
    assert_eq!(nodes.equal(&NODES), content);
}

#[test]
fn a_transaction_takes_effect_once_whoever_leads() {
    let mut nodes = Nodes::start();
    assert!(!nodes.refuses("CREATE TABLE t (a)", []));
    let insert = Transaction::one("INSERT INTO t VALUES ('once')", []);
    let refused = Transaction::one("INSERT INTO nowhere VALUES (1)", []);
    for transaction in [&insert, &refused] {
        let outcome = nodes.cluster.execute(transaction).unwrap();
        // Its answer was lost, and its leader died.
        let leader = nodes.cluster.leader().unwrap();
        nodes.cluster.kill(leader).unwrap();
        assert_eq!(nodes.cluster.repeat(transaction).unwrap(), outcome);
        nodes.cluster.start(&[leader]).unwrap();
        assert_eq!(nodes.cluster.repeat(transaction).unwrap(), outcome);
    }
    for node in NODES {
        assert_eq!(nodes.number(node, "SELECT count(*) FROM t"), Value::Integer(1));
    }
    nodes.equal(&NODES);
}

#[test]
fn the_demonstration_runs() {
    use std::io::Write;
    use std::process::{Command, Stdio};

    let program = env!("CARGO_BIN_EXE_synod-sqlite");
    let mut child = Command::new(program)
        .args(["demo", "--kill", "none", "--sql", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sql = "CREATE TABLE t (a,\n b);\nINSERT INTO t VALUES (1, 'one'), (2, NULL);\nINSERT INTO t VALUES (random(), 3);\n\
               SELECT * FROM t ORDER BY a DESC";
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for said in ["2 rows changed", "random() may differ", "a | b\n    2 | null\n    1 | one", "All databases are equal"]
    {
        assert!(text.contains(said), "{said:?} is not in:\n{text}");
    }
}
