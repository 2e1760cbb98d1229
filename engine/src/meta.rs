//! A node's directory: whose it is, and that only one process uses it.
//!
//! `init` draws the directory's incarnation; a start never does, so an empty directory never bootstraps itself. Every
//! start counts up the boot number and makes it durable before anything is sent.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use rustix::fs::{FlockOperation, flock};

const MAGIC: [u8; 8] = *b"SYNODMET";
const META: &str = "meta";
const LOCK: &str = "lock";

/// What a directory says of itself.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MetaV1 {
    pub(crate) cluster: u128,
    pub(crate) node: u64,
    pub(crate) incarnation: u128,
    pub(crate) boot: u64,
    pub(crate) shards: u32,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is not there or was never initialised.
    #[error(
        "{0} holds no node: run `synod init` for a new one. If this node has voted before, its votes are lost with \
         the directory; do not start it empty"
    )]
    NotInitialised(PathBuf),
    /// There is something already.
    #[error("{0} is not empty: a node is only initialised in a new or empty directory")]
    NotEmpty(PathBuf),
    /// Another process uses it.
    #[error("{0} is in use by another process: two nodes must never share a directory")]
    InUse(PathBuf),
    /// It belongs to another node or cluster, or has another number of shards.
    #[error("{path} belongs to {theirs}, but the configuration says {ours}: correct `dir` or the configuration")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it says.
        theirs: String,
        /// What the configuration says.
        ours: String,
    },
    /// Its meta file is damaged.
    #[error("{0} is damaged or of another version: restore it, or replace this node by a new one")]
    Damaged(PathBuf),
    /// The file system refused.
    #[error("{path}: {error}{}", hint(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// The refusal.
        error: std::io::Error,
    },
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => " (make the directory writable for this user)",
        std::io::ErrorKind::StorageFull => " (free some space or choose another `dir`)",
        _ => "",
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DirectoryError + '_ {
    move |error| DirectoryError::Io { path: path.to_owned(), error }
}

/// A directory in use by this process, until it is dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) meta: MetaV1,
    _lock: File,
}

impl Directory {
    /// Makes a new node's directory.
    pub(crate) fn init(path: &Path, meta: MetaV1) -> Result<(), DirectoryError> {
        fs::create_dir_all(path).map_err(io(path))?;
        if fs::read_dir(path).map_err(io(path))?.next().is_some() {
            return Err(DirectoryError::NotEmpty(path.to_owned()));
        }
        write_meta(path, &meta)
    }

    /// Takes the directory for this process and counts up its boot number.
    pub(crate) fn open(path: &Path, cluster: u128, node: u64, shards: u32) -> Result<Self, DirectoryError> {
        if !path.join(META).try_exists().map_err(io(path))? {
            return Err(DirectoryError::NotInitialised(path.to_owned()));
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(io(&lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| DirectoryError::InUse(path.to_owned()))?;
        let mut meta = read_meta(path)?;
        let name = |cluster: u128, node: u64, shards: u32| {
            format!("node {node} of cluster {cluster:032x} with {shards} shard(s)")
        };
        if (meta.cluster, meta.node, meta.shards) != (cluster, node, shards) {
            return Err(DirectoryError::Foreign {
                path: path.to_owned(),
                theirs: name(meta.cluster, meta.node, meta.shards),
                ours: name(cluster, node, shards),
            });
        }
        meta.boot += 1;
        write_meta(path, &meta)?;
        Ok(Self { meta, _lock: lock })
    }
}

fn opened_file(path: &Path, shard: usize) -> PathBuf {
    path.join(format!("shard-{shard}.opened"))
}

/// Notes for good that a shard's log was opened: from now on an empty one is a lost one.
pub(crate) fn note_opened(path: &Path, shard: usize) -> std::io::Result<()> {
    let file = opened_file(path, shard);
    if !file.try_exists()? {
        File::create(&file)?.sync_all()?;
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

/// Whether a shard's log was ever opened.
pub(crate) fn was_opened(path: &Path, shard: usize) -> std::io::Result<bool> {
    opened_file(path, shard).try_exists()
}

fn read_meta(path: &Path) -> Result<MetaV1, DirectoryError> {
    let file = path.join(META);
    let mut bytes = Vec::new();
    File::open(&file).and_then(|f| f.take(4096).read_to_end(&mut bytes)).map_err(io(&file))?;
    decode_meta(&bytes).ok_or(DirectoryError::Damaged(file))
}

/// `[magic][crc32c u32][0 x 4][archive]`.
pub(crate) fn decode_meta(bytes: &[u8]) -> Option<MetaV1> {
    let (head, body) = bytes.split_first_chunk::<16>()?;
    if head[..8] != MAGIC || head[8..12] != crc32c::crc32c(body).to_le_bytes() {
        return None;
    }
    let mut aligned = AlignedVec::<16>::with_capacity(body.len());
    aligned.extend_from_slice(body);
    let archived = rkyv::access::<ArchivedMetaV1, Failure>(&aligned).ok()?;
    rkyv::deserialize::<MetaV1, Failure>(archived).ok()
}

pub(crate) fn encode_meta(meta: &MetaV1) -> Vec<u8> {
    let body = rkyv::to_bytes::<Failure>(meta).expect("plain numbers always have an archive");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&body);
    bytes
}

fn write_meta(path: &Path, meta: &MetaV1) -> Result<(), DirectoryError> {
    let (file, temporary) = (path.join(META), path.join("meta.new"));
    let write = || {
        let mut new = File::create(&temporary)?;
        new.write_all(&encode_meta(meta))?;
        new.sync_all()?;
        fs::rename(&temporary, &file)?;
        // The rename is durable only with its directory.
        File::open(path)?.sync_all()
    };
    write().map_err(io(&file))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const META: MetaV1 = MetaV1 { cluster: 5, node: 2, incarnation: 9, boot: 0, shards: 1 };

    #[test]
    fn a_directory_is_one_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        assert!(matches!(Directory::open(&path, 5, 2, 1), Err(DirectoryError::NotInitialised(_))));
        Directory::init(&path, META).unwrap();
        assert!(matches!(Directory::init(&path, META), Err(DirectoryError::NotEmpty(_))));
        let first = Directory::open(&path, 5, 2, 1).unwrap();
        assert_eq!((first.meta.boot, first.meta.incarnation), (1, 9));
        assert!(matches!(Directory::open(&path, 5, 2, 1), Err(DirectoryError::InUse(_))));
        drop(first);
        assert!(matches!(Directory::open(&path, 6, 2, 1), Err(DirectoryError::Foreign { .. })));
        assert!(matches!(Directory::open(&path, 5, 3, 1), Err(DirectoryError::Foreign { .. })));
        assert_eq!(Directory::open(&path, 5, 2, 1).unwrap().meta.boot, 2);
    }

    #[test]
    fn every_bit_of_the_meta_file_counts() {
        let bytes = encode_meta(&META);
        assert_eq!(decode_meta(&bytes), Some(META));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Only the four spare bytes say nothing.
            assert!(decode_meta(&flipped).is_none() || (12..16).contains(&(bit / 8)), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn random_meta_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_meta(&bytes);
        }
    }
}
