//! `synod tail`: what a node has committed, byte for byte.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use synod::client::{Client, ClientError};
use synod::{GroupId, NodeId};

use crate::error::ToolError;
use crate::target::Replica;

const EXAMPLES: &str = "\
Examples:
  synod tail --cluster demo/cluster.toml --node 2 --group 1 --until-end > copy.txt
  synod tail --cluster demo/cluster.toml --node 3 --group 1 --from 1001

Entries are written as they are, nothing between them: lines that came in through `synod append`
come out as the same lines. With --until-end the leader is asked how far the group is, and the
command ends when this node has come so far; without it, it follows for ever. It ends quietly when
its reader goes.";

/// How long a node may hold a read that finds nothing. Then it is seen whether the reader of stdout is still there.
const HOLD: Duration = Duration::from_secs(1);

/// Write a node's committed entries to stdout
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    of: Replica,
    /// The index of the first entry wanted
    #[arg(long, value_name = "INDEX", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// End with the last entry that was committed when the command began
    #[arg(long)]
    until_end: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let mut client = args.of.client()?;
    let end = if args.until_end { client.leader(args.of.group)?.1.next_index } else { u64::MAX };
    copy(&mut client, args.of.node, args.of.group, args.from, end)
}

/// Writes a node's entries from index `from` up to `end`, without it, to stdout.
pub(crate) fn copy(client: &mut Client, node: NodeId, group: GroupId, from: u64, end: u64) -> Result<(), ToolError> {
    let mut out = std::io::stdout().lock();
    let mut next = from;
    let mut bytes = Vec::new();
    while next < end {
        let read = client.read(node, group, next, HOLD).map_err(|error| explain(error, next))?;
        if !read.entries.is_empty() && read.first_index != next {
            let found = read.first_index;
            return Err(ToolError::Failed(format!("node {node} gave index {found} for index {next}")));
        }
        bytes.clear();
        let wanted = usize::try_from(end - next).unwrap_or(usize::MAX);
        for entry in read.entries.iter().take(wanted) {
            bytes.extend_from_slice(entry);
            next += 1;
        }
        match out.write_all(&bytes).and_then(|()| out.flush()) {
            Ok(()) if reader_has_gone(&out) => return Ok(()),
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(ToolError::Io { what: format!("cannot write index {next} to stdout"), error }),
        }
    }
    Ok(())
}

fn explain(error: ClientError, next: u64) -> ToolError {
    match error {
        ClientError::Connection { .. } => ToolError::Failed(format!("{error}; go on with `--from {next}`")),
        ClientError::Trimmed { first_index, .. } => {
            ToolError::Failed(format!("{error}; read what is there with `--from {first_index}`"))
        }
        other => other.into(),
    }
}

/// Whether stdout is a pipe that nobody reads any more. Without entries nothing is written, so it must be asked.
fn reader_has_gone(out: &impl AsFd) -> bool {
    // Errors and hang-ups are always told.
    let mut polled = [PollFd::new(out, PollFlags::empty())];
    let told = poll(&mut polled, Some(&Timespec::default()));
    told.is_ok() && polled[0].revents().contains(PollFlags::ERR)
}
