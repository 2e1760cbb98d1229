//! Runs the `synod` command. Nothing waits for ever, and nothing is left running.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The command under test.
pub(crate) const SYNOD: &str = env!("CARGO_BIN_EXE_synod");
/// Far beyond what anything takes here, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until there is something, or fails with what was waited for.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// A directory of its own on the disk of the build, not on a tmpfs.
pub(crate) fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Finished {
    /// What a command wrote that must have succeeded.
    pub(crate) fn success(self) -> Vec<u8> {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        self.stdout
    }

    /// Fails unless there is exit status 1 and one complaint, which comes last and has all the words.
    pub(crate) fn check_failure(&self, words: &[&str]) {
        let stderr = &self.stderr;
        assert_eq!(self.status.code(), Some(1), "{words:?}: {} {stderr}", self.status);
        let complaints: Vec<&str> = stderr.lines().filter(|line| line.starts_with("synod: ")).collect();
        assert_eq!(complaints.len(), 1, "one line that says {words:?}: {stderr}");
        assert_eq!(stderr.lines().last(), Some(complaints[0]), "it comes last: {stderr}");
        words.iter().for_each(|word| assert!(complaints[0].contains(word), "{} should say {word}", complaints[0]));
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// A command that runs; it is killed when this is dropped.
pub(crate) struct Running {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
}

impl Running {
    /// Starts `synod` with pipes at all three ends.
    pub(crate) fn start<A: AsRef<OsStr>>(args: &[A]) -> Self {
        Self::start_with(args, |_| {})
    }

    /// As [`Self::start`], with a change to the command.
    pub(crate) fn start_with<A: AsRef<OsStr>>(args: &[A], change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(SYNOD);
        command.args(args);
        Self::spawn(command, change)
    }

    /// Starts a command that becomes `synod`, after a change that may replace the pipes.
    pub(crate) fn spawn(mut command: Command, change: impl FnOnce(&mut Command)) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("RUST_LOG");
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let name = format!("{command:?}");
        // The change may have put something else there.
        let stdout = child.stdout.take().map_or_else(Output::none, Output::collect);
        let stderr = Output::collect(child.stderr.take().unwrap());
        Self { name, stdin: child.stdin.take(), child, stdout, stderr }
    }

    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("it is taken once")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for some text on stdout.
    pub(crate) fn wait_stdout(&mut self, text: &str) {
        self.wait_output(text, |running| &running.stdout);
    }

    /// Waits for some text on stderr.
    pub(crate) fn wait_stderr(&mut self, text: &str) {
        self.wait_output(text, |running| &running.stderr);
    }

    fn wait_output(&mut self, text: &str, of: impl Fn(&Self) -> &Output) {
        let start = Instant::now();
        loop {
            // In this order: what a process that has ended wrote may still be on its way.
            let over = self.child.try_wait().unwrap().is_some() && of(self).at_end();
            if of(self).text().contains(text) {
                return;
            }
            let (out, err) = (self.stdout.text(), self.stderr.text());
            assert!(!over, "{} ended without {text:?}: {out}\n{err}", self.name);
            assert!(start.elapsed() < PATIENCE, "{} does not say {text:?}: {out}\n{err}", self.name);
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for the end of a node that must not start.
    pub(crate) fn finish_refused(self) -> Finished {
        let start = Instant::now();
        while !self.stdout.at_end() && start.elapsed() < PATIENCE {
            assert!(!self.stdout.text().contains("is ready"), "{} has started: {}", self.name, self.stderr.text());
            std::thread::sleep(PAUSE);
        }
        self.finish()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end. Whoever reads stdin sees its end first.
    pub(crate) fn finish(mut self) -> Finished {
        drop(self.stdin.take());
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let waited = start.elapsed();
            assert!(waited < PATIENCE, "{} does not end: {}", self.name, self.stderr.text());
            std::thread::sleep(PAUSE);
        };
        let stdout = self.stdout.all();
        let stderr = String::from_utf8_lossy(&self.stderr.all()).into_owned();
        Finished { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `synod` to its end.
pub(crate) fn run<A: AsRef<OsStr>>(args: &[A]) -> Finished {
    Running::start(args).finish()
}

/// Runs what must fail with one complaint that has all the words.
pub(crate) fn check<A: AsRef<OsStr>>(args: &[A], words: &[&str]) {
    run(args).check_failure(words);
}

/// Starts a node that must refuse to start, with one complaint that has all the words.
pub(crate) fn check_refused(config: &Path, words: &[&str]) {
    Running::start(&["serve", "--config", arg(config)]).finish_refused().check_failure(words);
}

/// Runs `synod` to its end with something on stdin.
pub(crate) fn run_with_input<A: AsRef<OsStr>>(args: &[A], input: &[u8]) -> Finished {
    let mut running = Running::start(args);
    let mut stdin = running.take_stdin();
    let input = input.to_vec();
    // It may end before it has read all: then the pipe breaks, and its status tells.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let finished = running.finish();
    writer.join().unwrap();
    finished
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("paths of tests are plain text")
}

/// What a process writes, as it comes.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn collect(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn none() -> Self {
        Self { bytes: Arc::default(), reader: None }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn at_end(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn all(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}
