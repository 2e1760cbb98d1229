//! Small files that are only ever replaced as a whole, with a checksum.
//!
//! `[magic 8 bytes][crc32c of the archive u32][format u32][archive]`. A replacement is written beside the file, synced,
//! and renamed over it: whatever happens in between, the file is the old one or the new one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use rkyv::util::AlignedVec;

const HEAD_BYTES: usize = 16;
/// Far more than a file of the largest node has: a longer one is not read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why bytes are no such file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// They are damaged.
    Damaged,
    /// They are of another format, written by another release.
    Format,
}

/// Puts the head before an archive.
pub(crate) fn seal(magic: [u8; 8], format: u32, archive: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + archive.len());
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&crc32c::crc32c(archive).to_le_bytes());
    bytes.extend_from_slice(&format.to_le_bytes());
    bytes.extend_from_slice(archive);
    bytes
}

/// The archive behind an intact head.
pub(crate) fn unseal(magic: [u8; 8], format: u32, bytes: &[u8]) -> Result<AlignedVec<16>, Broken> {
    let (head, archive) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(Broken::Damaged)?;
    if head[..8] != magic || head[8..12] != crc32c::crc32c(archive).to_le_bytes() {
        return Err(Broken::Damaged);
    }
    if head[12..] != format.to_le_bytes() {
        return Err(Broken::Format);
    }
    let mut aligned = AlignedVec::with_capacity(archive.len());
    aligned.extend_from_slice(archive);
    Ok(aligned)
}

/// Reads a file.
pub(crate) fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces a file of a directory, durably.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut new = File::create(&temporary)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    // The rename is durable only with its directory.
    sync_dir(dir)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
