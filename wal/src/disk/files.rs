//! Segment files in a directory: names, opening, flushing, and reading for recovery.
//!
//! Invariants: a file named `*.seg` always has its full size, since it is made under another name first; nothing here
//! locks the directory, its owner does.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::{
    PAGE_BYTES,
    buf::AlignedBuf,
    disk::DiskConfig,
    ops::DiskError,
    recover::SegmentSource,
    segment::{segment_generation, segment_name},
};

/// Ends the name of a file that is still being made.
const UNFINISHED: &str = ".seg.tmp";
/// File systems that live in memory: what is synced there is gone with the machine.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// Flushes the file of the log's newest segment, and the directory. Must be done after recovery and before anything is
/// written: the kept tail may not be durable yet.
///
/// # Errors
/// If the file or the directory cannot be flushed.
pub fn flush_tail(directory: &Path, generation: u64) -> Result<(), DiskError> {
    let path = directory.join(segment_name(generation));
    let flush = || OpenOptions::new().read(true).write(true).open(&path)?.sync_all();
    flush().map_err(|error| DiskError::from_io("flush", path.display().to_string(), &error))?;
    sync_directory(directory).map_err(|error| DiskError::from_io("flush", directory.display().to_string(), &error))
}

pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The directory of one shard's segments, as the drivers write it.
#[derive(Debug, Clone)]
pub(crate) struct SegmentFiles {
    directory: PathBuf,
    pub(crate) segment_bytes: u64,
    direct: bool,
    memory: bool,
}

impl SegmentFiles {
    /// Looks at the directory: which I/O it can do; and deletes what an earlier process left unfinished.
    pub(crate) fn open(config: &DiskConfig) -> Result<Self, DiskError> {
        let directory = config.directory.clone();
        let failed = |error: &io::Error| DiskError::from_io("use", directory.display().to_string(), error);
        for entry in std::fs::read_dir(&directory).map_err(|error| failed(&error))? {
            let entry = entry.map_err(|error| failed(&error))?;
            if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
                std::fs::remove_file(entry.path()).map_err(|error| failed(&error))?;
            }
        }
        let kind = rustix::fs::statfs(&directory).map_err(|error| failed(&error.into()))?.f_type as u64;
        let memory = matches!(kind & 0xffff_ffff, TMPFS_MAGIC | RAMFS_MAGIC);
        let direct = !memory && takes_direct_writes(&directory).map_err(|error| failed(&error))?;
        Ok(Self { directory, segment_bytes: config.segment_bytes, direct, memory })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.memory
    }

    pub(crate) fn path(&self, generation: u64) -> PathBuf {
        self.directory.join(segment_name(generation))
    }

    pub(crate) fn unfinished_path(&self, generation: u64) -> PathBuf {
        self.directory.join(format!("{generation:016x}{UNFINISHED}"))
    }

    pub(crate) fn file(&self, generation: u64) -> String {
        self.path(generation).display().to_string()
    }

    /// Opens a file for aligned writes, direct where the file system can.
    pub(crate) fn writer(&self, path: &Path, create: bool) -> io::Result<File> {
        let flags = if self.direct { direct_flag() } else { 0 };
        OpenOptions::new().read(true).write(true).create(create).truncate(create).custom_flags(flags).open(path)
    }
}

fn direct_flag() -> i32 {
    OFlags::DIRECT.bits() as i32
}

fn takes_direct_writes(directory: &Path) -> io::Result<bool> {
    let path = directory.join(format!("direct-probe{UNFINISHED}"));
    let mut page = AlignedBuf::new(PAGE_BYTES);
    page.resize(PAGE_BYTES);
    let tried = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(direct_flag())
        .open(&path)
        .and_then(|file| file.write_all_at(&page, 0));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match tried {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

/// The segment files of a directory, for recovery and for offline tools. Reads directly where the file system can, so
/// that a scan does not fill the page cache.
#[derive(Debug)]
pub struct FileSource {
    directory: PathBuf,
    open: Option<(u64, File)>,
}

impl FileSource {
    /// A source over `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), open: None }
    }

    fn file(&mut self, generation: u64) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != generation) {
            let path = self.directory.join(segment_name(generation));
            let direct = OpenOptions::new().read(true).custom_flags(direct_flag()).open(&path);
            let file = match direct {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::open(&path)?,
                other => other?,
            };
            self.open = Some((generation, file));
        }
        Ok(&self.open.as_ref().expect("opened above").1)
    }
}

impl SegmentSource for FileSource {
    fn generations(&mut self) -> io::Result<Vec<u64>> {
        let mut generations = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            generations.extend(entry?.file_name().to_str().and_then(segment_generation));
        }
        Ok(generations)
    }

    fn len(&mut self, generation: u64) -> io::Result<u64> {
        Ok(self.file(generation)?.metadata()?.len())
    }

    fn read_at(&mut self, generation: u64, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.file(generation)?.read_at(buf, offset) {
            // The open was taken but direct reads are not.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let file = File::open(self.directory.join(segment_name(generation)))?;
                let read = file.read_at(buf, offset);
                self.open = Some((generation, file));
                read
            }
            other => other,
        }
    }

    fn name(&self, generation: u64) -> String {
        self.directory.join(segment_name(generation)).display().to_string()
    }
}
