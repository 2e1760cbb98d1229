//! What a process must be allowed: io_uring, some locked memory, its files. Without it, a node says what it misses.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::process::geteuid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use synod::{Config, DiskBackend, Node, new_cluster_id};

use crate::cluster::members;
use crate::process::{Running, SYNOD, arg, check_refused, run, temporary};

/// The same on every architecture.
const IO_URING_SETUP: i64 = 425;
/// A user that owns nothing.
const NOBODY: u32 = 65534;

/// A node of its own, which was never started, and its file.
fn node(dir: &Path, disk: DiskBackend) -> PathBuf {
    let path = dir.join("node.toml");
    let mut config = Config::new(new_cluster_id(), 1, "data", members(1));
    (config.disk, config.spare_segments) = (disk, 1);
    fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    Node::init(&Config::read(&path).unwrap()).unwrap();
    path
}

/// The node starts when nothing is denied.
fn check_starts(config: &Path) {
    let mut serve = Running::start(&["serve", "--config", arg(config)]);
    serve.wait_stdout("is ready");
}

/// Starts `synod` where the kernel answers every `io_uring_setup` with an error.
fn start_without_io_uring(args: &[&str], errno: Errno) -> Running {
    let answer = SeccompAction::Errno(errno.raw_os_error().unsigned_abs());
    let rules = [(IO_URING_SETUP, vec![])].into();
    let arch = std::env::consts::ARCH.try_into().expect("seccompiler knows this architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).unwrap();
    let filter = BpfProgram::try_from(filter).unwrap();
    // A filter is never taken off again: a thread bears it that ends, and what that thread starts.
    let start = move || {
        seccompiler::apply_filter(&filter).unwrap();
        Running::start(args)
    };
    std::thread::scope(|scope| scope.spawn(start).join()).unwrap()
}

#[test]
fn a_node_without_io_uring_says_so() {
    for disk in [DiskBackend::Uring, DiskBackend::Blocking] {
        let dir = temporary();
        let config = node(dir.path(), disk);
        let serve = ["serve", "--config", arg(&config)];
        for (errno, advice) in [(Errno::PERM, "kernel.io_uring_disabled"), (Errno::NOSYS, "Linux 5.17")] {
            let finished = start_without_io_uring(&serve, errno).finish_refused();
            finished.check_failure(&["shard 0", "io_uring cannot be used", advice, "seccomp"]);
            // That would help neither: the runtime needs io_uring whatever the disk.
            assert!(!finished.stderr.contains("blocking disk"), "{}", finished.stderr);
        }
        check_starts(&config);
    }
}

#[test]
fn what_needs_no_io_uring_works_without() {
    let dir = temporary();
    let config = dir.path().join("node.toml");
    let text = toml::to_string(&Config::new(new_cluster_id(), 1, "data", members(1))).unwrap();
    fs::write(&config, text).unwrap();
    start_without_io_uring(&["init", "--config", arg(&config)], Errno::PERM).finish().success();
    check_starts(&config);
}

#[test]
fn a_local_cluster_without_io_uring_says_so() {
    let dir = temporary();
    let local = ["local", "--dir", arg(dir.path()), "--nodes", "1"];
    let finished = start_without_io_uring(&local, Errno::PERM).finish();
    assert_eq!(finished.status.code(), Some(1));
    let stderr = finished.stderr;
    assert!(stderr.contains("node 1 has ended (exit status: 1): shard 0: ") && stderr.contains("io_uring"), "{stderr}");
    assert!(stderr.ends_with("synod: all nodes are gone\n"), "{stderr}");
}

#[test]
fn too_little_lockable_memory_is_named() {
    let dir = temporary();
    let config = node(dir.path(), DiskBackend::Uring);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -l 64 && exec \"$0\" \"$@\"", SYNOD, "serve", "--config", arg(&config)]);
    let finished = Running::spawn(limited, |_| {}).finish_refused();
    finished.check_failure(&["shard 0", "memory may be locked", "ulimit -l", "512 KiB"]);
    check_starts(&config);
}

/// A directory, and a user to whom the modes of its files mean something.
struct Denying {
    dir: tempfile::TempDir,
    /// Not ourselves: we are root.
    nobody: bool,
}

impl Denying {
    /// None, with a word why, when there is no such user here.
    fn new() -> Option<Self> {
        let dir = temporary();
        let denying = Self { dir, nobody: geteuid().is_root() };
        denying.set_mode("", 0o755);
        // Whether this user may be taken, and reaches the program and the directory.
        let mut probe = Command::new(SYNOD);
        probe.arg("--version").current_dir(denying.dir.path());
        denying.change(&mut probe);
        match probe.output() {
            Ok(output) if output.status.success() => Some(denying),
            other => {
                eprintln!("skipped: user {NOBODY} cannot run {SYNOD} here: {other:?}");
                None
            }
        }
    }

    fn change(&self, command: &mut Command) {
        if self.nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn set_mode(&self, file: &str, mode: u32) {
        fs::set_permissions(self.path(file), Permissions::from_mode(mode)).unwrap();
    }

    /// Gives a file a mode for as long as a command runs, which must fail by it.
    fn check(&self, (file, mode): (&str, u32), args: &[&str], words: &[&str]) {
        let path = self.path(file);
        let before = fs::metadata(&path).unwrap().permissions();
        self.set_mode(file, mode);
        let finished = Running::start_with(args, |command| self.change(command)).finish_refused();
        fs::set_permissions(&path, before).unwrap();
        finished.check_failure(words);
    }
}

impl Drop for Denying {
    fn drop(&mut self) {
        // What is still denied could not be removed.
        for file in ["data", "data/shard-0"] {
            let _ = fs::set_permissions(self.path(file), Permissions::from_mode(0o755));
        }
    }
}

#[test]
fn files_without_permission_are_named() {
    let Some(denying) = Denying::new() else { return };
    let config = node(denying.dir.path(), DiskBackend::Uring);
    check_starts(&config);
    let data = denying.path("data");
    let serve = ["serve", "--config", arg(&config)];
    let denied = "Permission denied";
    denying.check(("node.toml", 0), &serve, &[arg(&config), denied]);
    denying.check(("node.toml", 0), &["status", "--cluster", arg(&config)], &[arg(&config), denied]);
    // It is there, so nobody may be told to make a new one.
    denying.check(("data", 0), &serve, &[arg(&data), denied]);
    denying.check(("data", 0o555), &serve, &[arg(&data), denied, "writable"]);

    let new = denying.path("new.toml");
    let other = Config { dir: "closed/data".into(), ..Config::read(&config).unwrap() };
    fs::write(&new, toml::to_string(&other).unwrap()).unwrap();
    let closed = denying.path("closed");
    fs::create_dir(&closed).unwrap();
    denying.check(("closed", 0o555), &["init", "--config", arg(&new)], &[arg(&closed), denied, "writable"]);
    let local = arg(&closed).to_owned() + "/local";
    denying.check(("closed", 0o555), &["local", "--dir", &local], &[&local, denied]);
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);

    // Whoever may is not disturbed by any of this.
    check_starts(&config);
}

#[test]
fn a_log_without_permission_is_named() {
    let Some(denying) = Denying::new() else { return };
    let config = node(denying.dir.path(), DiskBackend::Uring);
    let mut serve = Running::start(&["serve", "--config", arg(&config)]);
    serve.wait_stderr("the log is open");
    drop(serve);
    // The directory's own files are everybody's, the log is not.
    for (file, mode) in [("data", 0o777), ("data/lock", 0o666), ("data/meta", 0o666)] {
        denying.set_mode(file, mode);
    }
    let shard = denying.path("data/shard-0");
    let serve = ["serve", "--config", arg(&config)];
    denying.check(("data/shard-0", 0), &serve, &["shard 0", arg(&shard), "Permission denied"]);
    let files = fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path());
    let segment = files.filter(|path| path.extension().is_some_and(|end| end == "seg")).min().unwrap();
    let name = format!("data/shard-0/{}", segment.file_name().unwrap().to_str().unwrap());
    denying.check((&name, 0), &serve, &["shard 0", arg(&segment), "ermission"]);
    check_starts(&config);
}

#[test]
fn nothing_is_said_of_a_directory_that_is_not_there() {
    let dir = temporary();
    let config = node(dir.path(), DiskBackend::Uring);
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    check_refused(&config, &["holds no node", "synod init"]);
    run(&["init", "--config", arg(&config)]).success();
    check_starts(&config);
}
