//! Deals the records of the old logs out to the new ones.
//!
//! Invariant: the records of a group come into one log, in their order, as they are. Besides them there are only summaries
//! of what stands before them, at the beginning of each segment but the first, as the log wants it.

use std::collections::HashMap;

use synod_wal::ops::RecordPlace;
use synod_wal::record::RecordHeader;

use crate::homes::Homes;
use crate::new_log::NewLog;
use crate::recovery::Recoverer;

/// How many bytes are copied between two lines of the log.
const TELL_BYTES: u64 = 256 << 20;

/// A new log, and the groups that have records in it.
struct Target {
    log: NewLog,
    uids: Vec<u128>,
}

/// Writes all new logs at once.
pub(super) struct Copier<'a> {
    homes: Homes,
    /// By uid; what belongs to no group that there is, is left out.
    home_of: &'a HashMap<u128, u64>,
    targets: Vec<Target>,
    /// What was copied so far.
    so_far: Recoverer,
    bytes: u64,
}

impl<'a> Copier<'a> {
    pub(super) fn new(homes: Homes, home_of: &'a HashMap<u128, u64>, logs: Vec<NewLog>) -> Self {
        let targets = logs.into_iter().map(|log| Target { log, uids: Vec::new() }).collect();
        Self { homes, home_of, targets, so_far: Recoverer::default(), bytes: 0 }
    }

    /// How many bytes of records were copied.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next record of an old log.
    pub(super) fn take(&mut self, place: RecordPlace, header: &RecordHeader, body: &[u8]) -> Result<(), String> {
        let Some(home) = self.home_of.get(&header.uid) else { return Ok(()) };
        let Target { log, uids } = &mut self.targets[self.homes.shard_of(*home)];
        if !log.has_room(body.len()) {
            log.flush()?;
            // What is summed up stands before this place in the log, and the record does not.
            while log.take_rolled() {
                for uid in &*uids {
                    let group = self.so_far.group(*uid).expect("it has records");
                    let (header, body) = group.summary().encode(*uid);
                    log.push(&header, &body)?;
                }
            }
        }
        log.push(header, body)?;
        if self.so_far.group(header.uid).is_none() {
            uids.push(header.uid);
        }
        self.so_far.note(place, header, body);
        let before = self.bytes;
        self.bytes += header.record_bytes() as u64;
        if before / TELL_BYTES != self.bytes / TELL_BYTES {
            tracing::info!(mib = self.bytes >> 20, "records are being copied");
        }
        Ok(())
    }

    /// Makes all durable.
    pub(super) fn finish(self) -> Result<(), String> {
        self.targets.into_iter().try_for_each(|target| target.log.finish())
    }
}
