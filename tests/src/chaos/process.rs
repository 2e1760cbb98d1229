//! One node's process, as its parent sees it.
//!
//! Invariant: it is killed and reaped when its [`NodeProcess`] is dropped.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::child::READY;

/// How much of a log is shown.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 << 10;

/// A running node.
pub(super) struct NodeProcess {
    child: Child,
    ready: Arc<AtomicBool>,
    /// Closed with this value: the node ends then, if nothing else ends it.
    _stdin: ChildStdin,
}

impl NodeProcess {
    /// Starts `program node --config FILE`, behind the words of `wrapper`, which must execute it in their own process.
    /// Its log is appended to `log`.
    pub(super) fn start(program: &Path, wrapper: &[String], config: &Path, log: &Path) -> std::io::Result<Self> {
        let stderr = OpenOptions::new().create(true).append(true).open(log)?;
        let mut words = wrapper.iter().map(PathBuf::from).chain([program.to_owned()]);
        let mut child = Command::new(words.next().expect("the program is one"))
            .args(words)
            .arg("node")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()?;
        let stdin = child.stdin.take().expect("it was asked for");
        let stdout = child.stdout.take().expect("it was asked for");
        let ready = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&ready);
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            tell.store(lines.any(|line| line == READY), Ordering::Release);
        });
        Ok(Self { child, ready, _stdin: stdin })
    }

    /// Whether it has said that it serves.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL; true if it was alive.
    pub(super) fn kill(&mut self) -> bool {
        let alive = self.ended().is_none();
        // Both fail only when it is dead and reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
        alive
    }

    /// Has it stand still, or go on. True if it could be told.
    pub(super) fn pause(&self, paused: bool) -> bool {
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// The most memory that it has had, in bytes.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a file.
pub(super) fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(unreadable: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("    {line}\n")).collect()
}
