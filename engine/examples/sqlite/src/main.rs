//! The `synod-sqlite` command: a replicated SQLite to try, and to read.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use synod::Config;
use synod_sqlite::{cluster, serve};

mod demo;

/// SQLite, replicated by Synod.
///
/// Every write is an entry of a replicated log: SQL that all nodes carry out in the same order. A statement that SQLite
/// refuses is refused on all of them; one whose effect could differ (random(), the time, pragmas) is refused before it
/// does anything. A node that was away is fed the log, or gets a copy of the database when the log no longer goes back so
/// far. How it works: docs/embedding.md.
#[derive(Parser)]
#[command(name = "synod-sqlite", version, about, long_about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show it: three nodes, SQL, a node that is killed and comes back
    ///
    /// Starts three nodes as processes on loopback, and executes SQL: your own with --sql, else a small bank. Compares the
    /// three databases, kills a node by SIGKILL, goes on until the others' logs no longer have what it lacks, starts it
    /// again, and compares once more.
    #[command(after_help = "Examples:\n  synod-sqlite demo\n  synod-sqlite demo --kill leader --dir /tmp/bank\n  \
                            echo \"CREATE TABLE t (a);\nINSERT INTO t VALUES (1);\nSELECT * FROM t;\" | synod-sqlite demo --sql -")]
    Demo(demo::Arguments),
    /// Make the files of a cluster of nodes on this machine
    Init {
        /// Where: it will have node-1.toml, node-2.toml, ... and the nodes' directories
        #[arg(long)]
        dir: PathBuf,
        /// How many nodes
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=7))]
        nodes: u64,
    },
    /// Run one node: requests come as lines of JSON on standard input, replies go to standard output
    #[command(after_help = "Requests, a line each:\n  \
        \"status\"\n  \
        \"open_session\"\n  \
        {\"execute\":{\"session\":2,\"sequence\":1,\"transaction\":{\"statements\":[{\"sql\":\"CREATE TABLE t (a)\"}]}}}\n  \
        {\"query\":{\"statement\":{\"sql\":\"SELECT * FROM t WHERE a = ?1\",\"parameters\":[7]},\"fresh\":\"linearizable\"}}\n  \
        {\"content\":{\"fresh\":{\"at_least\":1}}}\n  \
        \"checkpoint\"\n  \
        \"stop\"\n\n\
        A query is fresh as \"linearizable\", \"quorum\", {\"at_least\":INDEX} or \"stale\". Sessions are opened and \
        transactions executed at the node that leads; one whose outcome is unknown is said again with the same numbers, \
        at any node that leads, and takes effect once. The node stops when its input ends.")]
    Serve {
        /// The node's file, as `init` makes it
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("synod-sqlite: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Init { dir, nodes } => {
            cluster::create(&dir, nodes, std::net::Ipv4Addr::LOCALHOST)?;
            for node in 1..=nodes {
                println!("synod-sqlite serve --config {}", cluster::config_file(&dir, node).display());
            }
            Ok(())
        }
        Command::Serve { config } => serve::serve(Config::read(&config)?, io::stdin().lock(), io::stdout().lock()),
    }
}
