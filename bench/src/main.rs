//! `synod-bench`: see `synod_bench::args` for the command line.

use std::process::ExitCode;

use clap::Parser;
use synod_bench::args::{Cli, Command};
use synod_bench::{client_load, local, replica};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Local(args) => {
            let plan = args.plan().unwrap_or_else(|error| error.into_clap().exit());
            match local::run(&plan, command_line()) {
                Ok(true) => return ExitCode::SUCCESS,
                Ok(false) => eprintln!("synod-bench: the verification found violations: see above"),
                Err(error) => eprintln!("synod-bench: {error}"),
            }
        }
        Command::Replica(child) => replica::run(&child.file),
        Command::Client(child) => client_load::run(&child.file),
    }
    ExitCode::FAILURE
}

/// The command line, quoted for a shell where it must be.
fn command_line() -> String {
    let quote = |word: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    let words = std::env::args_os().skip(1).map(|word| quote(word.to_string_lossy().into_owned()));
    std::iter::once("synod-bench".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}
