//! The command line: flags in, legal [`Conditions`] and paths out.
//!
//! Invariant: a [`Plan`] holds only values that the run can honour; what contradicts itself is refused here, with an
//! error that says what to change, as a usage error (exit status 2).

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use synod::limits::ENTRY_BYTES_MAX;

use crate::conditions::{Client, Conditions, Disk, Leaders, Load, SyncMode};
use crate::verify::PAYLOAD_BYTES_MIN;

/// The largest entry that the engine takes, in bytes.
pub const PAYLOAD_BYTES_MAX: u64 = 64 << 20;
/// The window per group of a closed loop when none is given.
pub const WINDOW_DEFAULT: u32 = 64;

const RUN_SECONDS_MAX: f64 = 86_400.0;

const EXAMPLES: &str = "\
What the numbers mean:
  commits/s   entries that a quorum holds durably and that the leader applied, per second of measured time
  latency     closed loop: from handing in the proposal to its completion; open loop (--rate): from the
              time when it was due, so that a stall counts for every entry that it delayed
  phases      where the time of a commit goes; the leader's disk (wal) and the peers (remote) work side by
              side within quorum
  durability  durable: synced to disk before the answer; os: handed to the kernel; none: the directory is on
              tmpfs, so a power cut loses everything
After every run the logs of all replicas are compared with what was acknowledged: each acknowledged entry must be
there exactly once, in order, on every replica. A violation is printed and the exit status is 1; wrong usage is 2.

Examples:
  synod-bench local
      three replicas, 8 groups, 64 outstanding entries each, for 10 seconds
  synod-bench local --groups 1 --window 1 --json one.json
      the latency of a lone commit, and the report as JSON
  synod-bench local --rate 20000 --seconds 20 --kill-leader-after 8
      a steady 20,000 entries/s from a separate client; the leader dies after 8 seconds and comes back
";

/// Measures durable, replicated commits of Synod, and verifies them.
#[derive(Debug, Parser)]
#[command(name = "synod-bench", version, max_term_width = 110)]
#[command(arg_required_else_help = true, subcommand_required = true)]
#[command(after_help = "Start with `synod-bench local`; `synod-bench local --help` explains flags and numbers.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands; users see `local` only.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run replica processes on this machine, drive them with load, verify, and report.
    #[command(after_long_help = EXAMPLES, after_help = "`--help` explains the numbers and gives examples.")]
    Local(LocalArgs),
    /// A replica process of `local`.
    #[command(hide = true)]
    Replica(ChildArgs),
    /// The load process of `local`.
    #[command(hide = true)]
    Client(ChildArgs),
}

/// The argument of a child process; all else comes over its stdin.
#[derive(Debug, Clone, Args)]
pub struct ChildArgs {
    /// The node's configuration, or the cluster's.
    pub file: PathBuf,
}

/// The flags of `synod-bench local`, as given; [`LocalArgs::plan`] judges them.
#[derive(Debug, Clone, Args)]
pub struct LocalArgs {
    /// Replica processes, each a voter of every group (1 to 9)
    #[arg(long, value_name = "N", default_value_t = 3, allow_negative_numbers = true)]
    pub replicas: i64,
    /// Replicated logs (1 to 65536)
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true)]
    pub groups: i64,
    /// Shards of each replica, one core each (1 to 64)
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub shards: i64,
    /// Bytes of one entry (16 to 67108864; more than 1048576 only with a load inside the leader)
    #[arg(long, value_name = "BYTES", default_value_t = 128, allow_negative_numbers = true)]
    pub payload: i64,
    /// Closed loop: outstanding entries per group (1 to 1048576) [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub window: Option<i64>,
    /// Open loop instead: entries per second over all groups, on a fixed schedule
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub rate: Option<i64>,
    /// Measured time, after the warm-up; fractions are welcome
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, allow_negative_numbers = true)]
    pub seconds: f64,
    /// Load before the measurement begins; fractions are welcome
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, allow_negative_numbers = true)]
    pub warmup: f64,
    /// Where replicas keep their data; empty, new, or left by an earlier run (whose files are removed)
    #[arg(long, value_name = "DIR", default_value = "target/synod-bench")]
    pub dir: PathBuf,
    /// What a replica does before it answers
    #[arg(long, value_enum, default_value_t = SyncMode::Durable)]
    pub sync: SyncMode,
    /// Where the load runs [default: inside; with --kill-leader-after: process]
    #[arg(long, value_enum)]
    pub client: Option<Client>,
    /// How leaders are placed
    #[arg(long, value_enum, default_value_t = Leaders::One)]
    pub leaders: Leaders,
    /// Kill a leader with SIGKILL after so many seconds of measurement, and restart it
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub kill_leader_after: Option<f64>,
    /// Where to write the report as JSON [default: DIR/report.json]
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where to write the latencies for HdrHistogram plotters [default: DIR/report.hgrm]
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Where to write the report as one HTML page [default: DIR/report.html]
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Which write-ahead log backend the replicas use
    #[arg(long, value_enum, default_value_t = Disk::Uring)]
    pub disk: Disk,
    /// MiB of log that each shard keeps behind its trim point (64 to 1048576)
    #[arg(long, value_name = "N", default_value_t = 256, allow_negative_numbers = true)]
    pub retain_mib: i64,
}

/// A run that can be started.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to measure.
    pub conditions: Conditions,
    /// The run directory.
    pub dir: PathBuf,
    /// Where the report goes.
    pub outputs: Outputs,
}

/// The report files of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    /// The report as JSON.
    pub json: PathBuf,
    /// The percentile text of HdrHistogram plotters.
    pub hgrm: PathBuf,
    /// The page.
    pub html: PathBuf,
}

impl Outputs {
    /// Each file with its flag.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &Path); 3] {
        [("json", &self.json), ("hgrm", &self.hgrm), ("html", &self.html)]
    }
}

impl LocalArgs {
    /// Judges the flags together.
    ///
    /// # Errors
    /// When a value is out of range or two flags contradict each other.
    pub fn plan(self) -> Result<Plan, UsageError> {
        let load = self.load()?;
        let seconds = in_range("seconds", self.seconds, 0.1, RUN_SECONDS_MAX)?;
        let conditions = Conditions {
            replicas: in_range("replicas", self.replicas, 1, 9)?,
            groups: in_range("groups", self.groups, 1, 65_536)?,
            shards: in_range("shards", self.shards, 1, 64)?,
            payload: self.payload()?,
            load,
            seconds,
            warmup: in_range("warmup", self.warmup, 0.0, RUN_SECONDS_MAX)?,
            sync: self.sync,
            client: self.client(seconds)?,
            leaders: self.leaders,
            kill_leader_after: self.kill_leader_after,
            disk: self.disk,
            retain_mib: in_range("retain-mib", self.retain_mib, 64, 1 << 20)?,
        };
        let at = |given: Option<PathBuf>, name: &str| given.unwrap_or_else(|| self.dir.join(name));
        let outputs = Outputs {
            json: at(self.json, "report.json"),
            hgrm: at(self.hgrm, "report.hgrm"),
            html: at(self.html, "report.html"),
        };
        if conditions.groups < conditions.shards.into() {
            return Err(UsageError::FewerGroupsThanShards { groups: conditions.groups, shards: conditions.shards });
        }
        let files = outputs.named();
        for (place, (flag, file)) in files.iter().enumerate() {
            if let Some((other, _)) = files[..place].iter().find(|(_, earlier)| earlier == file) {
                return Err(UsageError::OneFileForTwo { flag, other, file: file.to_path_buf() });
            }
        }
        Ok(Plan { conditions, dir: self.dir, outputs })
    }

    fn load(&self) -> Result<Load, UsageError> {
        let window: Option<u32> = match self.window {
            Some(window) => Some(in_range("window", window, 1, 1 << 20)?),
            None => None,
        };
        match (self.rate, window) {
            (Some(_), Some(window)) if window != WINDOW_DEFAULT => Err(UsageError::RateAndWindow { window }),
            (Some(rate), _) => Ok(Load::Open { rate: in_range("rate", rate, 1, 1_000_000_000)? }),
            (None, window) => Ok(Load::Closed { window: window.unwrap_or(WINDOW_DEFAULT) }),
        }
    }

    fn payload(&self) -> Result<u32, UsageError> {
        const { assert!(PAYLOAD_BYTES_MAX <= u32::MAX as u64) };
        if (0..PAYLOAD_BYTES_MIN as i64).contains(&self.payload) {
            return Err(UsageError::PayloadTooSmall { given: self.payload });
        }
        let payload = in_range("payload", self.payload, PAYLOAD_BYTES_MIN as i64, PAYLOAD_BYTES_MAX as i64)?;
        if payload as usize > ENTRY_BYTES_MAX && !self.loads_inside() {
            return Err(UsageError::PayloadFromOutside { given: payload });
        }
        Ok(payload)
    }

    fn loads_inside(&self) -> bool {
        self.kill_leader_after.is_none() && self.client.is_none_or(|client| client == Client::Inside)
    }

    fn client(&self, seconds: f64) -> Result<Client, UsageError> {
        let Some(after) = self.kill_leader_after else {
            return Ok(self.client.unwrap_or(Client::Inside));
        };
        if !(0.0..seconds).contains(&after) {
            return Err(UsageError::KillOutsideTheRun { after, seconds });
        }
        match self.client {
            Some(Client::Inside) => Err(UsageError::KillTheLoad),
            Some(Client::Process) | None => Ok(Client::Process),
        }
    }
}

/// A command line that cannot be honoured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// A number outside its range.
    #[error("--{flag} {given} is out of range: give a number from {least} to {most}")]
    OutOfRange {
        /// The flag, without dashes.
        flag: &'static str,
        /// What was given.
        given: String,
        /// The least legal value.
        least: String,
        /// The greatest legal value.
        most: String,
    },
    /// The clients of a process send entries in batches, not in parts.
    #[error(
        "--payload {given} takes entries in parts, which only a load inside the leader proposes: give at most 1048576, or \
         --client inside without --kill-leader-after"
    )]
    PayloadFromOutside {
        /// What was given, in bytes.
        given: u32,
    },
    /// An entry has no room for its stamp.
    #[error(
        "--payload {given} is too small: an entry bears 16 bytes (producer, sequence) by which it is verified after \
         the run; give at least 16"
    )]
    PayloadTooSmall {
        /// What was given, in bytes.
        given: i64,
    },
    /// A shard would have nothing to do.
    #[error(
        "--groups {groups} is less than --shards {shards}: each shard needs a group; give more groups or fewer shards"
    )]
    FewerGroupsThanShards {
        /// The groups given.
        groups: u32,
        /// The shards given.
        shards: u16,
    },
    /// An open loop has no window.
    #[error(
        "--rate and --window {window} contradict each other: with --rate entries are sent on a schedule, however many \
         are outstanding; drop --window for an open loop or --rate for a closed one"
    )]
    RateAndWindow {
        /// The window given.
        window: u32,
    },
    /// The load would die with the leader.
    #[error(
        "--kill-leader-after needs --client process: with --client inside the load runs in the leader and would die \
         with it; drop --client inside"
    )]
    KillTheLoad,
    /// The kill would never come.
    #[error(
        "--kill-leader-after {after} lies outside the run: it counts from the start of the measured {seconds} seconds; \
         give at least 0 and less than {seconds}, or a longer --seconds"
    )]
    KillOutsideTheRun {
        /// When the leader should die, in seconds.
        after: f64,
        /// The measured time, in seconds.
        seconds: f64,
    },
    /// One file would overwrite another.
    #[error("--{flag} and --{other} both name {}: give each report its own file", file.display())]
    OneFileForTwo {
        /// One flag, without dashes.
        flag: &'static str,
        /// The other.
        other: &'static str,
        /// The file.
        file: PathBuf,
    },
}

impl UsageError {
    /// The same error as clap reports its own: with usage, on stderr; its `exit` ends with status 2.
    #[must_use]
    pub fn into_clap(self) -> clap::Error {
        let kind = match self {
            Self::RateAndWindow { .. } | Self::KillTheLoad | Self::OneFileForTwo { .. } => ErrorKind::ArgumentConflict,
            _ => ErrorKind::ValueValidation,
        };
        let mut command = Cli::command();
        command.build();
        match command.find_subcommand_mut("local") {
            Some(local) => local.error(kind, self),
            None => command.error(kind, self),
        }
    }
}

/// Narrows `given` to the type of the condition, after checking its range.
fn in_range<T, U>(flag: &'static str, given: T, least: T, most: T) -> Result<U, UsageError>
where
    T: Copy + PartialOrd + ToString + TryInto<U>,
{
    let error =
        || UsageError::OutOfRange { flag, given: given.to_string(), least: least.to_string(), most: most.to_string() };
    // Written so that NaN, which compares to nothing, is out of range.
    if !(least <= given && given <= most) {
        return Err(error());
    }
    given.try_into().map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, String> {
        let words = ["synod-bench", "local"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Local(args) = cli.command else { panic!("no user says {line}") };
        args.plan().map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_read_me() {
        let plan = plan("").unwrap();
        assert_eq!(plan.conditions, crate::conditions::sample());
        assert_eq!(plan.dir, Path::new("target/synod-bench"));
        assert_eq!(plan.outputs.html, Path::new("target/synod-bench/report.html"));
    }

    #[test]
    fn legal_lines() {
        let conditions = |line: &str| plan(line).unwrap().conditions;
        assert_eq!(conditions("--rate 5000").load, Load::Open { rate: 5000 });
        assert_eq!(conditions("--rate 5000 --window 64").load, Load::Open { rate: 5000 });
        assert_eq!(conditions("--window 1024").load, Load::Closed { window: 1024 });
        assert_eq!(conditions("--kill-leader-after 3").client, Client::Process);
        assert_eq!(conditions("--kill-leader-after 0 --client process").kill_leader_after, Some(0.0));
        assert_eq!(conditions("--seconds 0.5 --warmup 0.25").seconds, 0.5);
        assert_eq!(conditions("--warmup 0").warmup, 0.0);
        assert_eq!(conditions("--payload 16").payload, 16);
        assert_eq!(conditions("--payload 1048576").payload, 1 << 20);
        assert_eq!(conditions("--payload 67108864").payload, 64 << 20);
        assert_eq!(conditions("--sync os --disk blocking --leaders spread").leaders, Leaders::Spread);
        assert_eq!(plan("--dir d --json x.json").unwrap().outputs.json, Path::new("x.json"));
        assert_eq!(plan("--dir d --json x.json").unwrap().outputs.hgrm, Path::new("d/report.hgrm"));
    }

    #[test]
    fn refused_lines_say_what_to_do() {
        for (line, hint) in [
            ("--payload 15", "give at least 16"),
            ("--payload -1", "from 16 to 67108864"),
            ("--payload 67108865", "from 16 to 67108864"),
            ("--payload 1048577 --client process", "give at most 1048576"),
            ("--replicas 0", "from 1 to 9"),
            ("--groups 0", "from 1 to 65536"),
            ("--shards 65", "from 1 to 64"),
            ("--groups 3 --shards 4", "each shard needs a group"),
            ("--window 0", "from 1 to 1048576"),
            ("--rate 0", "from 1 to 1000000000"),
            ("--rate 5 --window 65", "drop --window"),
            ("--seconds 0", "from 0.1 to 86400"),
            ("--seconds -3", "from 0.1 to 86400"),
            ("--seconds nan", "from 0.1 to 86400"),
            ("--seconds inf", "from 0.1 to 86400"),
            ("--warmup -0.5", "from 0 to 86400"),
            ("--retain-mib 63", "from 64 to 1048576"),
            ("--kill-leader-after 3 --client inside", "drop --client inside"),
            ("--kill-leader-after 10", "less than 10"),
            ("--kill-leader-after -1", "at least 0"),
            ("--kill-leader-after nan", "at least 0"),
            ("--json a --html a", "its own file"),
            ("--sync never", "possible values: durable, os"),
            ("--client", "a value is required"),
            ("--colour", "unexpected argument"),
            ("--groups many", "invalid digit"),
            ("now", "unexpected argument"),
        ] {
            let error = plan(line).expect_err(line);
            assert!(error.contains(hint), "`{line}` gave: {error}");
        }
    }

    #[test]
    fn usage_errors_exit_with_status_2() {
        let error = UsageError::KillTheLoad.into_clap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("Usage: synod-bench local"), "{error}");
    }

    #[test]
    fn help_teaches() {
        let help = Cli::try_parse_from(["synod-bench", "local", "--help"]).unwrap_err();
        assert_eq!(help.exit_code(), 0);
        let help = help.to_string();
        for part in ["What the numbers mean", "Examples:", "--kill-leader-after <SECONDS>", "exit status is 1"] {
            assert!(help.contains(part), "{part} is missing in: {help}");
        }
        assert_eq!(help.matches("\n  synod-bench local").count(), 3);
    }
}
