//! `synod append`: replicates stdin line by line, exactly once.
//!
//! All batches go through a session, in which what is unknown is repeated until it is known; so what comes out of the
//! group is what went in, also over a change of leader. A session that ended while the input paused is replaced by a new
//! one, unless a batch was on its way.

use std::io::Read;
use std::time::Instant;

use synod::client::{Client, ClientError};
use synod::{Entries, GroupId};

use crate::error::ToolError;
use crate::lines::{BATCH_BYTES, Lines};
use crate::target::{ClusterFile, check_group};
use crate::terminal::{Progress, complain};

const EXAMPLES: &str = "\
Examples:
  synod append --cluster demo/cluster.toml --group 1 < input.txt
  journalctl -f | synod append --cluster demo/cluster.toml --group 2

An entry is a line with its newline, at most 64 MiB; a last line without a newline is an entry too.
What one read brings is sent at once, in batches of up to 64 KiB. When the leader dies, what is
unknown is sent again to the next one, and takes effect once: all goes through a session of the
group, and when that has ended because the input paused for long, through a new one. `synod tail`
gives the bytes back.";

/// Replicate stdin line by line
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: ClusterFile,
    /// The group to append to
    #[arg(long)]
    group: GroupId,
}

pub(crate) fn run(args: &Args) -> Result<(), ToolError> {
    let cluster = args.cluster.read()?;
    check_group(&cluster, args.group)?;
    let start = Instant::now();
    let mut client = Client::new(cluster);
    let id = client
        .open_session(args.group)
        .map_err(|error| ToolError::Failed(format!("{error} (nothing was appended)")))?;
    let mut session = Session { client, group: args.group, id, before: 0, entries: 0, bytes: 0 };
    append_all(&mut session, &mut std::io::stdin().lock())?;
    let Session { entries, bytes, group, id, mut client, .. } = session;
    if let Err(error) = client.close_session(group, id) {
        // All is appended, and a session that nobody uses ends by itself.
        complain(format_args!("the session was not closed: {error}"));
    }
    let seconds = start.elapsed().as_secs_f64();
    complain(format_args!("appended {entries} entries, {bytes} bytes to group {group} in {seconds:.3} s"));
    Ok(())
}

/// One run of the command, as the group knows it.
struct Session {
    client: Client,
    group: GroupId,
    id: u64,
    /// Entries acknowledged before the session was opened.
    before: u64,
    /// Entries acknowledged.
    entries: u64,
    /// Their bytes.
    bytes: u64,
}

fn append_all(session: &mut Session, input: &mut impl Read) -> Result<(), ToolError> {
    let mut progress = Progress::new();
    let mut lines = Lines::default();
    let mut buffer = vec![0; BATCH_BYTES];
    loop {
        let read = match input.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ToolError::Io { what: session.so_far("cannot read stdin"), error }),
        };
        lines.push(&buffer[..read]);
        let batch = |lines: &mut Lines| if read == 0 { lines.last() } else { lines.next_batch() };
        while let Some(batch) = batch(&mut lines).map_err(|error| ToolError::Failed(session.so_far(error)))? {
            session.append(&batch)?;
            progress.update(|| format!("{} entries, {} bytes", session.entries, session.bytes));
        }
        if read == 0 {
            assert_eq!(session.entries, lines.taken(), "every line was appended");
            return Ok(());
        }
    }
}

impl Session {
    fn append(&mut self, batch: &Entries) -> Result<(), ToolError> {
        let first = self.entries + 1;
        let last = self.entries + batch.len() as u64;
        // Duplicate or committed: in both cases it is in the log once.
        let mut appended = self.client.append(self.group, self.id, first - self.before, batch);
        if let Err(ClientError::SessionExpired { perhaps_committed: false, .. }) = appended {
            // The input paused for long. What came before is committed, this batch is not: a new session goes on.
            let opened = self.client.open_session(self.group);
            self.id = opened.map_err(|error| ToolError::Failed(self.so_far(error)))?;
            self.before = self.entries;
            appended = self.client.append(self.group, self.id, 1, batch);
        }
        appended.map_err(|error| {
            ToolError::Failed(self.so_far(format_args!("{error}; lines {first} to {last} may be appended or not")))
        })?;
        self.entries = last;
        self.bytes += batch.iter().map(|entry| entry.len() as u64).sum::<u64>();
        Ok(())
    }

    /// A failure with what was done before it.
    fn so_far(&self, failure: impl std::fmt::Display) -> String {
        format!("{failure} ({} lines before are appended)", self.entries)
    }
}
