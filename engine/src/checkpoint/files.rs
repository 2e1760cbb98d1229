//! The directory of a shard's checkpoints: a few files, written from their beginning to their end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A directory, as the store uses it.
#[cfg_attr(not(feature = "simulation"), allow(unreachable_pub, reason = "the simulator brings one of its own"))]
pub trait Files: Send {
    /// The names of all files.
    ///
    /// # Errors
    /// Those of the system, here and below.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// How many bytes a file has.
    fn len(&mut self, name: &str) -> io::Result<u64>;
    /// Makes an empty file, in the place of another one if there is any.
    fn create(&mut self, name: &str) -> io::Result<()>;
    /// Cuts a file.
    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()>;
    /// Writes behind a file's end.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Reads at most so many bytes; fewer only at the end.
    fn read(&mut self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>>;
    /// Makes a file's bytes durable.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Gives a file another name, in the place of another one if there is any.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes the names durable.
    fn sync_names(&mut self) -> io::Result<()>;
    /// The same directory once more.
    fn again(&self) -> Box<dyn Files>;
}

/// A directory of the system.
#[derive(Debug)]
pub(crate) struct SystemFiles(PathBuf);

impl SystemFiles {
    /// The directory at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self(path))
    }

    /// The same for one who only looks: nothing is made.
    pub(crate) fn look(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Files for SystemFiles {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn len(&mut self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.0.join(name))?.len())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        File::create(self.0.join(name)).map(drop)
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.0.join(name))?.set_len(bytes)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().append(true).open(self.0.join(name))?.write_all(bytes)
    }

    fn read(&mut self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.0.join(name))?;
        let left = file.metadata()?.len().saturating_sub(offset);
        let mut read = vec![0; bytes.min(usize::try_from(left).unwrap_or(bytes))];
        file.read_exact_at(&mut read, offset)?;
        Ok(read)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        File::open(self.0.join(name))?.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn again(&self) -> Box<dyn Files> {
        Box::new(Self(self.0.clone()))
    }
}
