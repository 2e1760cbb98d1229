//! `synod serve`: one node, in the foreground.
//!
//! It never makes the directory: a node that lost it must not come back empty by itself.

use std::io::IsTerminal;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use synod::{Config, Node, Options};
use tracing_subscriber::EnvFilter;

use crate::error::ToolError;
use crate::terminal::say;

const EXAMPLES: &str = "\
Examples:
  synod init --config node-1.toml        (once; `synod help init` shows the file)
  synod serve --config node-1.toml
  RUST_LOG=synod=debug synod serve --config node-1.toml

One line on stdout says when the node is ready; logs go to stderr. SIGINT and SIGTERM stop it
cleanly. SIGKILL or a power cut lose nothing that was acknowledged: start it again with the same
command.";

/// Run one node in the foreground
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The process to die with, which must be this one's parent
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    if let Some(parent) = args.parent {
        die_with(parent)?;
    }
    log_to_stderr()?;
    let config = Config::read(&args.config).map_err(|error| ToolError::in_file(&args.config, error))?;
    // Before the start, so that a signal during recovery is not lost: it stops the node as soon as it runs.
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| ToolError::Io { what: "cannot wait for signals".into(), error })?;
    let (number, dir) = (config.node, config.dir.clone());
    let address = config.members.iter().find(|member| member.node == number).map(|member| member.address);
    let address = address.expect("a configuration that was read has its node among the members");
    let node = Node::start(config, Options::default())?;
    say(format_args!("node {number} is ready: it listens on {address}, its log is in {}\n", dir.display()));
    signals.forever().next();
    say(format_args!("node {number} stops\n"));
    node.shutdown();
    Ok(())
}

fn log_to_stderr() -> Result<(), ToolError> {
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or("info"))
        .map_err(|error| ToolError::Usage(format!("the environment variable RUST_LOG is malformed: {error}")))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    Ok(())
}

/// Has the system kill this process as soon as its parent ends, however that ends.
fn die_with(parent: u32) -> Result<(), ToolError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| ToolError::Io { what: "cannot be bound to the parent".into(), error: error.into() })?;
    // The parent may have ended before that; then there is no signal any more.
    if getppid().map(Pid::as_raw_nonzero).is_some_and(|pid| u32::try_from(pid.get()) == Ok(parent)) {
        Ok(())
    } else {
        Err(ToolError::Failed(format!("process {parent}, to die with, is not the parent")))
    }
}
