//! The `synod` command: a file per subcommand.
//!
//! Results go to stdout; progress, logs and errors to stderr. An error is one line, `synod: ...`. The exit status is 0
//! for success, 1 for a failure, 2 for wrong usage.

#![forbid(unsafe_code)]

mod append;
mod error;
mod group;
mod init;
mod introduce;
mod lines;
mod local;
mod member;
mod read;
mod repair;
mod serve;
mod status;
mod survey;
mod tail;
mod target;
mod terminal;
mod transfer;
mod trim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::ToolError;

const EXAMPLES: &str = "\
A first cluster, on this machine:
  synod local --nodes 3 --dir /tmp/demo             (leave it running)
  synod status --cluster /tmp/demo/cluster.toml
  printf 'one\\ntwo\\n' | synod append --cluster /tmp/demo/cluster.toml --group 1
  synod tail --cluster /tmp/demo/cluster.toml --node 2 --group 1 --until-end

Exit status: 0 success, 1 failure, 2 wrong usage. `synod help COMMAND` says more of each.";

/// Replicated logs: run nodes, and feed and read their groups.
#[derive(Parser)]
#[command(name = "synod", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Args),
    Serve(serve::Args),
    Local(local::Args),
    Status(status::Args),
    Append(append::Args),
    Tail(tail::Args),
    Member(member::Args),
    Group(group::Args),
    Read(read::Args),
    Repair(repair::Args),
    Transfer(transfer::Args),
    Trim(trim::Args),
}

/// Runs the command that the process was given.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Init(args) => init::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Local(args) => local::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Append(args) => append::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Member(args) => member::run(&args),
        Command::Group(args) => group::run(&args),
        Command::Read(args) => read::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Transfer(args) => transfer::run(&args),
        Command::Trim(args) => trim::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("synod {}", command.get_name())), "{}: {help}", command.get_name());
        }
    }
}
