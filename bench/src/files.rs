//! The run directory: ours alone, emptied before each run; and the report files.
//!
//! Invariants: nothing is removed from a directory that does not bear our marker; two runs never share a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::args::Outputs;
use crate::conditions::{Durability, SyncMode};
use crate::histogram::LatencyHistogram;
use crate::report::{Machine, Report};
use crate::{hgrm, html};

/// The file that makes a directory ours.
pub const MARKER: &str = "synod-bench.marker";

const MARKER_TEXT: &str = "\
synod-bench run directory, version 1
All that is in here belongs to synod-bench, which removes it before its next run.
";

/// File systems that live in memory, by their number in statfs(2).
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;

/// A run directory, empty but for the marker, locked until dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    in_memory: bool,
    /// Bears the lock.
    _marker: File,
}

impl RunDir {
    /// Creates the directory, or takes over one that is empty or ours; the leftovers of earlier runs are removed.
    ///
    /// # Errors
    /// When it is not a directory, holds files of others, is in use by another run, or cannot be changed.
    pub fn open(path: &Path) -> Result<Self, FilesError> {
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => return Err(FilesError::NotADirectory { path: path.to_owned() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(failed("create", path))?;
            }
            Err(error) => return Err(failed("examine", path)(error)),
        }
        let marker = take(path)?;
        for name in names(path)?.iter().filter(|name| *name != MARKER) {
            remove(&path.join(name))?;
        }
        let path = path.canonicalize().map_err(failed("resolve", path))?;
        let in_memory = is_in_memory(&path)?;
        Ok(Self { path, in_memory, _marker: marker })
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a replica keeps its data; not created here.
    #[must_use]
    pub fn replica(&self, node: u64) -> PathBuf {
        self.path.join(format!("node-{node}"))
    }

    /// What an acknowledgement is worth in this directory.
    #[must_use]
    pub const fn durability(&self, sync: SyncMode) -> Durability {
        match (self.in_memory, sync) {
            (true, _) => Durability::None,
            (false, SyncMode::Durable) => Durability::Durable,
            (false, SyncMode::Os) => Durability::Os,
        }
    }
}

/// Makes sure that the directory is ours, and locks it.
fn take(path: &Path) -> Result<File, FilesError> {
    let marker_path = path.join(MARKER);
    let found = names(path)?;
    let is_new = found.is_empty();
    if !is_new && !is_marked(&marker_path)? {
        let first = found.iter().min().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return Err(FilesError::Foreign { path: path.to_owned(), found: first });
    }
    let mut marker = OpenOptions::new()
        .read(true)
        .write(true)
        .create(is_new)
        .truncate(false)
        .open(&marker_path)
        .map_err(failed("open", &marker_path))?;
    match flock(&marker, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(FilesError::InUse { path: path.to_owned() }),
        Err(error) => return Err(failed("lock", &marker_path)(error.into())),
    }
    if is_new {
        marker.write_all(MARKER_TEXT.as_bytes()).map_err(failed("write", &marker_path))?;
    }
    Ok(marker)
}

/// Whether `marker` is a file that we wrote.
fn is_marked(marker: &Path) -> Result<bool, FilesError> {
    match fs::symlink_metadata(marker) {
        Ok(found) if !found.is_file() => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("examine", marker)(error)),
    }
    let mut text = Vec::new();
    // A marker that was cut short by a crash is empty; it was made in an empty directory, so that is ours too.
    let limit = MARKER_TEXT.len() as u64 + 1;
    let file = File::open(marker).map_err(failed("open", marker))?;
    file.take(limit).read_to_end(&mut text).map_err(failed("read", marker))?;
    Ok(text.is_empty() || text == MARKER_TEXT.as_bytes())
}

fn names(path: &Path) -> Result<Vec<std::ffi::OsString>, FilesError> {
    let entries = fs::read_dir(path).map_err(failed("list", path))?;
    entries.map(|entry| Ok(entry.map_err(failed("list", path))?.file_name())).collect()
}

/// Removes a file or a whole directory; a link is removed, never followed.
fn remove(path: &Path) -> Result<(), FilesError> {
    let kind = fs::symlink_metadata(path).map_err(failed("examine", path))?;
    let removed = if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(failed("remove", path))
}

fn is_in_memory(path: &Path) -> Result<bool, FilesError> {
    let stat = rustix::fs::statfs(path).map_err(|error| failed("examine the file system of", path)(error.into()))?;
    // The kernel's type is signed on some machines and wider on others; the numbers have 32 bits.
    let magic = stat.f_type as u32;
    Ok(magic == TMPFS_MAGIC || magic == RAMFS_MAGIC)
}

/// Makes sure, before the run, that the report can be written after it: each file is created if it is not there.
///
/// # Errors
/// When one cannot be written.
pub fn prepare_reports(outputs: &Outputs) -> Result<(), FilesError> {
    for (_, path) in outputs.named() {
        OpenOptions::new().append(true).create(true).open(path).map_err(failed("write", path))?;
    }
    Ok(())
}

/// Writes the report files.
///
/// # Errors
/// When one cannot be drawn or written; those before it stay.
pub fn write_reports(report: &Report, latencies: &LatencyHistogram, outputs: &Outputs) -> Result<(), FilesError> {
    let mut json = serde_json::to_string_pretty(report).expect("a report has string keys only");
    json.push('\n');
    write(&outputs.json, &json)?;
    write(&outputs.hgrm, &hgrm::render(latencies))?;
    write(&outputs.html, &html::render(report, latencies)?)
}

fn write(path: &Path, text: &str) -> Result<(), FilesError> {
    fs::write(path, text).map_err(failed("write", path))
}

impl Machine {
    /// The machine that this process runs on.
    #[must_use]
    pub fn here() -> Self {
        let cpus = std::thread::available_parallelism().ok().and_then(|cpus| cpus.get().try_into().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned());
        Self { cpus, kernel }
    }
}

/// The run directory or a report file could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// A file stands where the directory should be.
    #[error("{} is not a directory: name another with --dir, or move it away", path.display())]
    NotADirectory {
        /// Its path.
        path: PathBuf,
    },
    /// Files of others are in it.
    #[error(
        "{} is neither empty nor a run directory of synod-bench (it holds `{found}` and no {MARKER}): nothing was \
         touched; name an empty or new directory with --dir",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        found: String,
    },
    /// Another run is at work in it.
    #[error("{} is in use by another synod-bench: wait for it to end, or name another directory with --dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}; check that the path exists, its permissions and free space", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The page could not be drawn.
    #[error(transparent)]
    Html(#[from] html::HtmlError),
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    let path = path.to_owned();
    move |source| FilesError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_new_directory_is_made_and_marked() {
        let root = temporary();
        let path = root.path().join("a/b");
        let dir = RunDir::open(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join(MARKER)).unwrap(), MARKER_TEXT);
        assert_eq!(dir.replica(2), dir.path().join("node-2"));
    }

    #[test]
    fn leftovers_of_an_earlier_run_are_removed_and_links_are_not_followed() {
        let (root, outside) = (temporary(), temporary());
        fs::write(outside.path().join("precious"), "x").unwrap();
        drop(RunDir::open(root.path()).unwrap());
        fs::create_dir_all(root.path().join("node-1/wal")).unwrap();
        fs::write(root.path().join("report.json"), "{}").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        drop(RunDir::open(root.path()).unwrap());
        assert_eq!(names(root.path()).unwrap(), [MARKER]);
        assert!(outside.path().join("precious").exists());
    }

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let root = temporary();
        fs::write(root.path().join("thesis.txt"), "x").unwrap();
        let error = RunDir::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("thesis.txt") && error.contains("--dir"), "{error}");
        fs::write(root.path().join(MARKER), "something else").unwrap();
        assert!(matches!(RunDir::open(root.path()), Err(FilesError::Foreign { .. })));
        assert!(root.path().join("thesis.txt").exists());
    }

    #[test]
    fn a_marker_that_is_no_file_is_no_marker() {
        let root = temporary();
        fs::create_dir(root.path().join(MARKER)).unwrap();
        assert!(matches!(RunDir::open(root.path()), Err(FilesError::Foreign { .. })));
    }

    #[test]
    fn two_runs_never_share_a_directory() {
        let root = temporary();
        let first = RunDir::open(root.path()).unwrap();
        assert!(matches!(RunDir::open(root.path()), Err(FilesError::InUse { .. })));
        drop(first);
        assert!(RunDir::open(root.path()).is_ok());
    }

    #[test]
    fn a_file_is_no_directory() {
        let root = temporary();
        let path = root.path().join("file");
        fs::write(&path, "x").unwrap();
        assert!(matches!(RunDir::open(&path), Err(FilesError::NotADirectory { .. })));
        assert!(matches!(RunDir::open(&path.join("below")), Err(FilesError::Io { .. })));
    }

    #[test]
    fn durability_on_a_file_system_in_memory_is_none() {
        let root = temporary();
        let mut dir = RunDir::open(root.path()).unwrap();
        dir.in_memory = false;
        assert_eq!(dir.durability(SyncMode::Durable), Durability::Durable);
        assert_eq!(dir.durability(SyncMode::Os), Durability::Os);
        dir.in_memory = true;
        assert_eq!(dir.durability(SyncMode::Durable), Durability::None);
        assert_eq!(dir.durability(SyncMode::Os), Durability::None);
    }

    #[test]
    fn tmpfs_is_recognised_where_there_is_one() {
        // Nearly every Linux mounts one here; where none is, there is nothing to recognise.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.lines().any(|line| line.split(' ').nth(1) == Some("/dev/shm") && line.starts_with("tmpfs ")) {
            assert!(is_in_memory(Path::new("/dev/shm")).unwrap());
        }
        assert!(!is_in_memory(Path::new("/proc")).unwrap());
    }

    #[test]
    fn reports_are_written_and_a_missing_place_is_named() {
        let root = temporary();
        let at = |name: &str| root.path().join(name);
        let outputs = Outputs { json: at("r.json"), hgrm: at("r.hgrm"), html: at("r.html") };
        let (report, latencies) = (crate::report::sample::full(), crate::report::sample::histogram());
        write_reports(&report, &latencies, &outputs).unwrap();
        let json = fs::read_to_string(&outputs.json).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        assert!(fs::read_to_string(&outputs.html).unwrap().starts_with("<!doctype html>"));
        prepare_reports(&outputs).unwrap();
        assert_eq!(fs::read_to_string(&outputs.json).unwrap(), json, "what is there stays till the run is over");
        let outputs = Outputs { hgrm: at("no/r.hgrm"), ..outputs };
        assert!(prepare_reports(&outputs).is_err());
        let error = write_reports(&report, &latencies, &outputs).unwrap_err().to_string();
        assert!(error.contains("no/r.hgrm"), "{error}");
    }

    #[test]
    fn the_machine_is_known() {
        assert!(Machine::here().cpus.is_some_and(|cpus| 0 < cpus));
    }
}
