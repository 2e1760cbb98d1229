//! One node's process, as its parent sees it.
//!
//! Invariant: it is killed and reaped when its [`NodeProcess`] is dropped.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

/// How much of a log is shown.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 << 10;

/// A running node.
pub(super) struct NodeProcess {
    child: Child,
    /// The node's own process, which a tracer may stand before; 0 until it is ready.
    ready: Arc<AtomicU32>,
    /// Whether `child` is the node itself.
    direct: bool,
    /// Closed with this value: the node ends then, if nothing else ends it.
    _stdin: ChildStdin,
}

impl NodeProcess {
    /// Starts `program node --config FILE`, behind the words of `wrapper`, which must execute it in their own process
    /// if `direct`. Its log is appended to `log`.
    pub(super) fn start(
        program: &Path,
        wrapper: &[String],
        direct: bool,
        config: &Path,
        log: &Path,
    ) -> std::io::Result<Self> {
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
        let ready = Arc::new(AtomicU32::new(0));
        let tell = Arc::clone(&ready);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(pid) = line.strip_prefix("ready ").and_then(|pid| pid.parse().ok()) {
                    tell.store(pid, Ordering::Release);
                }
            }
        });
        Ok(Self { child, ready, direct, _stdin: stdin })
    }

    /// Whether it has said that it serves.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) != 0
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL; true if it was alive.
    pub(super) fn kill(&mut self) -> bool {
        let alive = self.ended().is_none();
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::KILL);
        }
        if self.pid().is_none() || self.direct {
            let _ = self.child.kill();
        }
        // A tracer ends with what it traces.
        let _ = self.child.wait();
        alive
    }

    /// Has it stand still, or go on.
    pub(super) fn pause(&self, paused: bool) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, if paused { Signal::STOP } else { Signal::CONT });
        }
    }

    /// The most memory that it has had, in bytes.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?.as_raw_nonzero())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    fn pid(&self) -> Option<Pid> {
        let ready = self.ready.load(Ordering::Acquire);
        let pid = if ready == 0 && self.direct { self.child.id() } else { ready };
        Pid::from_raw(i32::try_from(pid).ok()?)
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
