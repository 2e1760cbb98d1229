//! The demonstration: three processes, one of which is killed and comes back.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use clap::ValueEnum;
use synod_sqlite::cluster::{self, Cluster};
use synod_sqlite::protocol::Fresh;
use synod_sqlite::{Outcome, Rows, Statement, Transaction, Value};

const NODES: [u64; 3] = [1, 2, 3];
const ACCOUNTS: i64 = 10;
/// Bytes of a row that makes the log grow.
const FILLER_BYTES: usize = 96 << 10;

/// What the demonstration is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the nodes keep their data, which is left there; by default a temporary directory, which is not
    #[arg(long)]
    dir: Option<PathBuf>,
    /// SQL to execute instead of the bank: a file, or - for standard input. A statement ends with a line that ends in ";"
    /// (a CREATE TRIGGER with one that ends in "END;")
    #[arg(long, value_name = "FILE")]
    sql: Option<PathBuf>,
    /// Transfers between the bank's accounts
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    transfers: u32,
    /// Which node to kill
    #[arg(long, value_enum, default_value_t = Victim::Follower)]
    kill: Victim,
}

#[derive(Clone, Copy, ValueEnum)]
enum Victim {
    /// One that does not lead
    Follower,
    /// The one that leads: another takes over
    Leader,
    /// None: it ends after the SQL
    None,
}

/// Runs the demonstration.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let temporary;
    let dir = match &arguments.dir {
        Some(dir) => dir.clone(),
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path().to_owned()
        }
    };
    if cluster::config_file(&dir, 1).exists() {
        println!("A cluster is in {} already: its nodes go on from where they were.", dir.display());
    } else {
        cluster::create(&dir, NODES.len() as u64, cluster::own_host())?;
    }
    let mut cluster = Cluster::new(std::env::current_exe()?, &dir);
    cluster.start(&NODES)?;
    let leader = cluster.leader()?;
    println!("Three nodes run as processes; node {leader} leads.");

    match arguments.sql.as_deref() {
        Some(path) if path == "-" => script(&mut cluster, io::stdin().lock())?,
        Some(path) => script(&mut cluster, BufReader::new(File::open(path)?))?,
        None => bank(&mut cluster, arguments.transfers)?,
    }
    compare(&mut cluster)?;

    let leader = cluster.leader()?;
    let victim = match arguments.kill {
        Victim::None => return Ok(()),
        Victim::Leader => leader,
        Victim::Follower => NODES.into_iter().find(|node| *node != leader).expect("there are three"),
    };
    let held = cluster.status(victim)?.committed;
    cluster.kill(victim)?;
    println!("\nNode {victim} is killed (SIGKILL); it has index {held}. The others go on without it.");
    show(&mut cluster, "CREATE TABLE IF NOT EXISTS filler (a INTEGER PRIMARY KEY, b BLOB)")?;
    let filler = |number: u64| {
        let bytes = vec![number as u8; FILLER_BYTES];
        Transaction::one(
            "INSERT OR REPLACE INTO filler VALUES (?1, ?2)",
            [Value::Integer((number % 32) as i64), Value::Blob(bytes)],
        )
    };
    let first = cluster.outrun(held, filler)?;
    let leader = cluster.leader()?;
    println!(
        "Node {leader} leads. The others' logs begin at index {first} now: what node {victim} lacks is gone there."
    );
    cluster.start(&[victim])?;
    println!("Node {victim} starts again, and must be given a checkpoint of the database:");
    compare(&mut cluster)
}

/// Executes a transaction of one statement, and shows what became of it.
fn show(cluster: &mut Cluster, sql: &str) -> Result<Outcome, Box<dyn Error>> {
    let outcome = cluster.execute(&Transaction::one(sql, []))?;
    let Outcome { index, changes, error } = &outcome;
    match error {
        None => println!("  {sql}\n    index {index}: {changes} rows changed"),
        Some(error) => println!("  {sql}\n    index {index}: refused on all nodes: {error}"),
    }
    Ok(outcome)
}

fn bank(cluster: &mut Cluster, transfers: u32) -> Result<(), Box<dyn Error>> {
    show(
        cluster,
        "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, balance INTEGER NOT NULL \
         CHECK (balance >= 0))",
    )?;
    show(
        cluster,
        "CREATE TABLE IF NOT EXISTS transfer (id INTEGER PRIMARY KEY, payer INTEGER, payee INTEGER, amount)",
    )?;
    for id in 1..=ACCOUNTS {
        let sql = "INSERT INTO account VALUES (?1, ?2, 100) ON CONFLICT DO NOTHING";
        cluster.execute(&Transaction::one(sql, [id.into(), format!("owner {id}").as_str().into()]))?;
    }
    let (mut made, mut refused) = (0, 0);
    // Drawn here, not in the statement: all nodes must draw the same.
    let mut draw = 1u64;
    let mut next = |below: i64| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((draw >> 33) % below as u64) as i64
    };
    for _ in 0..transfers {
        let (payer, payee, amount) = (next(ACCOUNTS) + 1, next(ACCOUNTS) + 1, next(60) + 1);
        // Both accounts and the note, or none of it.
        let change = "UPDATE account SET balance = balance + ?2 WHERE id = ?1";
        let note = "INSERT INTO transfer (payer, payee, amount) VALUES (?1, ?2, ?3)";
        let transaction = Transaction {
            statements: vec![
                Statement::new(change, [payer.into(), (-amount).into()]),
                Statement::new(change, [payee.into(), amount.into()]),
                Statement::new(note, [payer.into(), payee.into(), amount.into()]),
            ],
        };
        let outcome = cluster.execute(&transaction)?;
        *(if outcome.error.is_none() { &mut made } else { &mut refused }) += 1;
    }
    println!("  {made} transfers were made; {refused} were refused, as the payer had not enough (CHECK).");
    println!("What could differ between nodes is refused:");
    show(cluster, "INSERT INTO transfer (amount) VALUES (random())")?;
    show(cluster, "INSERT INTO transfer (amount) SELECT unixepoch('now')")?;
    let total = Statement::new("SELECT count(*) AS accounts, sum(balance) AS total FROM account", []);
    for node in cluster.running() {
        println!("Asked at node {node}, linearizably:");
        print(&cluster.query(node, &total, Fresh::Linearizable)?);
    }
    Ok(())
}

/// Executes the statements of a text; those that read are asked of every node in turn.
fn script(cluster: &mut Cluster, input: impl BufRead) -> Result<(), Box<dyn Error>> {
    let mut sql = String::new();
    let mut turn = 0;
    let mut lines = input.lines();
    loop {
        let line = lines.next().transpose()?;
        let ended = line.is_none();
        if let Some(line) = line {
            if !sql.is_empty() {
                sql.push('\n');
            }
            sql.push_str(line.trim_end());
        }
        if (!ended && !is_complete(&sql)) || sql.trim().is_empty() {
            if ended {
                return Ok(());
            }
            continue;
        }
        let statement = std::mem::take(&mut sql);
        let word = statement.split_whitespace().next().unwrap_or_default().to_uppercase();
        if ["SELECT", "VALUES", "EXPLAIN"].contains(&&*word) {
            let nodes = cluster.running();
            let node = nodes[turn % nodes.len()];
            turn += 1;
            println!("  {}\n    at node {node}:", statement.trim());
            match cluster.query(node, &Statement::new(&*statement, []), Fresh::Linearizable) {
                Ok(rows) => print(&rows),
                Err(error) => println!("    {error}"),
            }
        } else {
            show(cluster, statement.trim())?;
        }
        if ended {
            return Ok(());
        }
    }
}

fn is_complete(sql: &str) -> bool {
    let text = sql.trim().to_uppercase();
    if text.starts_with("CREATE TRIGGER") { text.ends_with("END;") } else { text.ends_with(';') }
}

fn print(rows: &Rows) {
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        value => serde_json::Value::from(value.clone()).to_string(),
    };
    println!("    {}", rows.columns.join(" | "));
    for row in &rows.rows {
        println!("    {}", row.iter().map(text).collect::<Vec<_>>().join(" | "));
    }
}

/// Shows that all databases are equal.
fn compare(cluster: &mut Cluster) -> Result<(), Box<dyn Error>> {
    let nodes = cluster.running();
    let mut contents = Vec::new();
    for node in nodes {
        // All that was acknowledged: nothing is written meanwhile, so all stand at the same index.
        let content = cluster.content(node, Fresh::Linearizable)?;
        println!("  node {node}: index {}, {} rows, hash {}", content.applied, content.rows, content.hash);
        contents.push(content);
    }
    if contents.windows(2).any(|two| two[0] != two[1]) {
        return Err("the databases differ: this must not be, please report it with the directory".into());
    }
    println!("All databases are equal.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_complete;

    #[test]
    fn a_statement_ends_with_its_line() {
        assert!(is_complete("SELECT 1;") && !is_complete("SELECT 1") && !is_complete("SELECT 1;\nFROM"));
        let trigger = "create trigger g after insert on t begin\ndelete from t;";
        assert!(!is_complete(trigger) && is_complete(&format!("{trigger}\nend;")));
    }
}
