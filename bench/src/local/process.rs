//! A child process as its controller sees it.
//!
//! Invariants: a child is killed and reaped when its [`Process`] is dropped; one that dies unasked is an error that
//! shows the end of its log.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::messages::{Answer, Order};

/// How much of a dead child's log is shown.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 8 << 10;
/// Clock ticks per second in `/proc`: a fixed part of Linux's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// A child went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It could not be started.
    #[error("cannot start {name}: {source}")]
    Start {
        /// The child.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// It said that it cannot go on.
    #[error("{name} cannot go on: {text}")]
    Failed {
        /// The child.
        name: String,
        /// What it said.
        text: String,
    },
    /// It died unasked.
    #[error("{name} died unexpectedly ({status}); the end of its log, {}:\n{tail}", log.display())]
    Died {
        /// The child.
        name: String,
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// It did not answer in time.
    #[error("{name} does not answer after {waited:?}; its log is {}", log.display())]
    Silent {
        /// The child.
        name: String,
        /// How long it was waited for.
        waited: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// It answered something else.
    #[error("{name} answered out of turn; this is a bug, please report it with the log {}", log.display())]
    OutOfTurn {
        /// The child.
        name: String,
        /// Its log.
        log: PathBuf,
    },
}

/// A running child.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<Answer>,
    log: PathBuf,
}

impl Process {
    /// Starts this very program with other arguments; stderr is appended to `log`.
    pub(super) fn start(name: String, arguments: &[&OsStr], log: &Path) -> Result<Self, ProcessError> {
        let spawn = || {
            let stderr = OpenOptions::new().create(true).append(true).open(log)?;
            Command::new(std::env::current_exe()?)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(stderr)
                .spawn()
        };
        let mut child = spawn().map_err(|source| ProcessError::Start { name: name.clone(), source })?;
        let stdin = child.stdin.take().expect("it was asked for");
        let stdout = child.stdout.take().expect("it was asked for");
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let answer = line.ok().and_then(|line| serde_json::from_str(&line).ok());
                let Some(answer) = answer else { return };
                if send.send(answer).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name, child, stdin, answers, log: log.to_owned() })
    }

    /// Gives an order.
    pub(super) fn tell(&mut self, order: &Order) -> Result<(), ProcessError> {
        let mut line = serde_json::to_string(order).expect("an order has string keys only");
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).map_err(|_| self.died())
    }

    /// Waits for the next answer.
    pub(super) fn hear(&mut self, timeout: Duration) -> Result<Answer, ProcessError> {
        match self.answers.recv_timeout(timeout) {
            Ok(Answer::Failed { text }) => Err(ProcessError::Failed { name: self.name.clone(), text }),
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => Err(self.died()),
            Err(RecvTimeoutError::Timeout) => {
                Err(ProcessError::Silent { name: self.name.clone(), waited: timeout, log: self.log.clone() })
            }
        }
    }

    /// The answer was none to the order.
    pub(super) fn out_of_turn(&self) -> ProcessError {
        ProcessError::OutOfTurn { name: self.name.clone(), log: self.log.clone() }
    }

    /// An error if it is not alive.
    pub(super) fn check(&mut self) -> Result<(), ProcessError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(self.died()),
        }
    }

    /// How it died; it is killed if it only closed its ends.
    fn died(&mut self) -> ProcessError {
        // A child that is about to die closes its ends a little earlier.
        let end = Instant::now() + Duration::from_secs(1);
        let mut status = None;
        while status.is_none() && Instant::now() < end {
            status = self.child.try_wait().ok().flatten();
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        let status = status.map_or_else(|| "it closed its output".to_owned(), |status| status.to_string());
        let tail = tail(&self.log).unwrap_or_else(|error| format!("(unreadable: {error})"));
        ProcessError::Died { name: self.name.clone(), status, log: self.log.clone(), tail }
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        // Both fail only when it is dead and reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// User and system time that it has used, in seconds.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        cpu_seconds(&stat)
    }

    /// Resident bytes now and at most so far.
    pub(super) fn memory(&self) -> (Option<u64>, Option<u64>) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        (kibibytes(&status, "VmRSS:"), kibibytes(&status, "VmHWM:"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// User and system time out of `/proc/PID/stat`. The second field is the program's name in brackets, which may itself
/// hold brackets and spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>());
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The last lines of a file.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    Ok(if shown.is_empty() { "  (empty)".to_owned() } else { format!("  {}", shown.join("\n  ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_numbers_are_read() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a"), None);
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!((kibibytes(status, "VmRSS:"), kibibytes(status, "VmHWM:")), (Some(1 << 20), Some(2 << 20)));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, (0..2000).map(|line| format!("line {line}\n")).collect::<String>()).unwrap();
        let tail = tail(&path).unwrap();
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 1999"), "{tail}");
    }
}
