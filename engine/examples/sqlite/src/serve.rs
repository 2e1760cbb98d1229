//! One node as a process: it reads requests from its standard input and answers on its standard output.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use synod::{Config, MachineFactory, Node, Options, ProposeError, Rejection, StateMachine};

use crate::protocol::{Reply, Request, Status};
use crate::{Database, ExecuteError, SqliteMachine};

/// The group that has the database. A node has more when it keeps several databases, or one that is sharded.
pub const GROUP: u64 = 1;
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a node keeps its database: beside its log.
pub fn database_dir(config: &Config) -> PathBuf {
    config.dir.with_extension("sqlite")
}

/// A node, and its database.
///
/// # Errors
/// When the node does not start.
pub fn start(config: Config) -> Result<(Node, Database), Box<dyn Error>> {
    let dir = database_dir(&config);
    let machine_dir = dir.clone();
    let machines: MachineFactory =
        Arc::new(move |_group| Ok(Some(Box::new(SqliteMachine::open(&machine_dir)?) as Box<dyn StateMachine>)));
    let node = Node::start(config, Options { machines: Some(machines), ..Options::default() })?;
    let database = Database::new(node.handle(), GROUP, &dir, TIMEOUT);
    Ok((node, database))
}

/// Runs a node until its input ends or says so.
///
/// # Errors
/// When the node does not start, or its output is gone.
pub fn serve(config: Config, input: impl BufRead, mut output: impl Write) -> Result<(), Box<dyn Error>> {
    let number = config.node;
    let (node, database) = start(config)?;
    let mut answer = |reply: &Reply| -> Result<(), Box<dyn Error>> {
        let line = serde_json::to_string(reply)?;
        writeln!(output, "{line}")?;
        Ok(output.flush()?)
    };
    answer(&Reply::Started(number))?;
    for line in input.lines() {
        let reply = match serde_json::from_str::<Request>(&line?) {
            Ok(Request::Stop) => break,
            Ok(request) => carry_out(&node, &database, request),
            Err(error) => Reply::Failed(format!("this is no request: {error}")),
        };
        answer(&reply)?;
    }
    node.shutdown();
    Ok(())
}

fn carry_out(node: &Node, database: &Database, request: Request) -> Reply {
    match request {
        Request::OpenSession => match database.open_session() {
            Ok(session) => Reply::Session(session),
            Err(error) => refused(&error),
        },
        Request::Execute { session, sequence, transaction } => {
            if session == 0 || sequence == 0 {
                return Reply::Failed("open a session first; its transactions count from 1".into());
            }
            match database.execute(session, sequence, &transaction) {
                Ok(outcome) => Reply::Outcome(outcome),
                Err(ExecuteError::Propose(error)) => refused(&error),
                Err(error @ ExecuteError::Unread { .. }) => Reply::Again(error.to_string()),
                Err(error @ ExecuteError::Forgotten(_)) => Reply::Failed(error.to_string()),
            }
        }
        Request::Query { statement, fresh } => match database.query(&statement, fresh.into()) {
            Ok(rows) => Reply::Rows(rows),
            Err(error) => query_refused(&error),
        },
        Request::Content { fresh } => match database.content(fresh.into()) {
            Ok(content) => Reply::Content(content),
            Err(error) => query_refused(&error),
        },
        Request::Status => match node.handle().info(GROUP) {
            Some(info) => Reply::Status(Status {
                node: node.handle().node(),
                leader: info.leader,
                leads: info.epoch > 0,
                committed: info.next_index - 1,
                first: info.first_index,
                checkpoint: info.checkpoint_index,
            }),
            None => Reply::Failed("the node is stopping".into()),
        },
        Request::Checkpoint => match node.handle().checkpoint(GROUP).wait() {
            Ok(index) => Reply::Checkpoint(index),
            Err(reason) => Reply::Failed(reason),
        },
        Request::Stop => Reply::Failed("it is stopping".into()),
    }
}

fn refused(error: &ProposeError) -> Reply {
    match error {
        ProposeError::Rejected(Rejection::NotLeader { leader }) => Reply::NotLeader(leader.unwrap_or(0)),
        // All these are safe to repeat in a session.
        ProposeError::Rejected(Rejection::Overloaded { .. } | Rejection::HandleClosed | Rejection::Stopping)
        | ProposeError::Superseded
        | ProposeError::Unknown => Reply::Again(error.to_string()),
        error => Reply::Failed(error.to_string()),
    }
}

fn query_refused(error: &crate::QueryError) -> Reply {
    match error {
        crate::QueryError::Read(_) => Reply::Again(error.to_string()),
        error => Reply::Failed(error.to_string()),
    }
}
