//! What the pure parts ask of a disk, and what a disk answers.
//!
//! Invariants: every `Write`, `Prepare` and `Read` is answered exactly once; `Discard` is not answered; `Prepare`,
//! `Discard` and `Read` are carried out in the order of their submission, so old segments go in order and a read never
//! meets a file that was recycled before it.

use std::{io, rc::Rc};

use thiserror::Error;

use crate::{buf::AlignedBuf, frame::SharedFrame, record::Records};

/// An order to the disk.
#[derive(Debug)]
pub enum DiskOp {
    /// Write `data` at `offset` and make it durable.
    Write {
        /// Names the write in its answer.
        ticket: u64,
        /// The segment.
        generation: u64,
        /// Bytes from the file's start, a multiple of 4096.
        offset: u64,
        /// What to write; the disk holds it until its answer.
        data: WriteData,
        /// Nothing else is in flight and its owner has nothing better to do than to wait: it may be carried out at once, on
        /// the caller's thread, which saves the wake-ups of a completion.
        alone: bool,
    },
    /// Make the file of a coming segment ready: full size, all blocks written, file and directory entry durable.
    Prepare {
        /// The coming segment.
        generation: u64,
        /// Rename the file of this released or unused segment instead of writing zeros.
        recycle: Option<u64>,
    },
    /// Read records, checked.
    Read {
        /// Names the request in its answer.
        request: u64,
        /// Where the records lie.
        places: Vec<RecordPlace>,
    },
    /// Delete the file of a released or useless segment.
    Discard {
        /// The segment.
        generation: u64,
    },
}

/// What a write carries.
#[derive(Debug)]
pub enum WriteData {
    /// A sealed frame, also in use elsewhere.
    Frame(Rc<SharedFrame>),
    /// A segment's header page.
    Page(AlignedBuf),
}

impl WriteData {
    /// The bytes to write: whole pages, page-aligned.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame.sealed_bytes(),
            Self::Page(page) => page,
        }
    }
}

/// An answer of the disk.
#[derive(Debug)]
pub enum DiskDone {
    /// A write is durable, or has failed.
    Written {
        /// The write's ticket.
        ticket: u64,
        /// Whether it is durable.
        result: Result<(), DiskError>,
    },
    /// A segment's file is ready, or could not be made.
    Prepared {
        /// The segment.
        generation: u64,
        /// Whether it is ready.
        result: Result<(), DiskError>,
    },
    /// Records that were read.
    Read {
        /// The request's name.
        request: u64,
        /// Per place: the whole record (header, body, padding) with its CRCs checked.
        result: Vec<Result<Vec<u8>, DiskError>>,
    },
}

/// Where a record lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordPlace {
    /// The segment.
    pub generation: u64,
    /// The record header, in bytes from the file's start.
    pub offset: u64,
    /// Bytes of the whole record, with padding.
    pub bytes: u32,
}

impl RecordPlace {
    /// Checks that `bytes`, read from here in the file of that name, are one whole record whose checksums are right.
    ///
    /// # Errors
    /// What stands here instead.
    pub fn check(&self, file: impl FnOnce() -> String, bytes: &[u8]) -> Result<(), DiskError> {
        let text = match Records::new(bytes).next() {
            Some(Ok((_, _, range))) if range.len() == self.bytes as usize && range.len() == bytes.len() => {
                return Ok(());
            }
            Some(Ok(_)) => "a record of another length lies".into(),
            Some(Err(error)) => format!("{error}: the record is damaged"),
            None => "no record lies".into(),
        };
        Err(DiskError::invalid("read", file(), format!("{text} at byte {}", self.offset)))
    }
}

/// A failed operation of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot {operation} {file}: {text}")]
pub struct DiskError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// The file or directory.
    pub file: String,
    /// The kind of failure.
    pub kind: io::ErrorKind,
    /// The system's error number, if it came from the system.
    pub errno: Option<i32>,
    /// What happened, and what to do where we know.
    pub text: String,
}

impl DiskError {
    /// An error that the system gave.
    pub fn from_io(operation: &'static str, file: impl Into<String>, error: &io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::StorageFull => "; the disk is full: free space, or move the data directory to a larger one",
            io::ErrorKind::QuotaExceeded => "; the quota is used up: raise it or free space",
            io::ErrorKind::ReadOnlyFilesystem => {
                "; the file system is read-only: see the kernel log for why, then remount"
            }
            io::ErrorKind::PermissionDenied => "; give this user read and write permission on the data directory",
            _ => "",
        };
        Self {
            operation,
            file: file.into(),
            kind: error.kind(),
            errno: error.raw_os_error(),
            text: format!("{error}{advice}"),
        }
    }

    /// An error that this crate found.
    pub fn invalid(operation: &'static str, file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { operation, file: file.into(), kind: io::ErrorKind::InvalidData, errno: None, text: text.into() }
    }
}
