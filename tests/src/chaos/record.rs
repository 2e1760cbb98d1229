//! What clients asked and were told, while many of them do so at once.
//!
//! Invariant: an invocation is recorded before it is sent and a return after it has come, under the lock of the group's
//! history, with a time that is taken under that lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::GROUPS;
use crate::check::history::{AppendId, Freshness, Full, History, Limits, Outcome, ReadId};

/// What clients were told, counted by entry.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// By outcome.
    pub appends: BTreeMap<&'static str, u64>,
    /// Reads that told something.
    pub reads: u64,
}

impl Told {
    /// Entries that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        ["committed", "duplicate"].iter().filter_map(|kind| self.appends.get(kind)).sum()
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries acknowledged (", self.acknowledged())?;
        for (at, (kind, count)) in self.appends.iter().enumerate() {
            write!(f, "{}{count} {kind}", if at == 0 { "" } else { ", " })?;
        }
        write!(f, "), {} reads", self.reads)
    }
}

/// The histories of all groups.
pub(super) struct Records {
    began: Instant,
    groups: Vec<Group>,
    told: Mutex<Told>,
    /// What clients were told that no promise allows.
    wrong: Mutex<Vec<String>>,
}

struct Group {
    history: Mutex<History>,
    /// Entries acknowledged.
    acknowledged: AtomicU64,
    /// Of this run's milliseconds: the last acknowledgement, and the longest time between two.
    last_ms: AtomicU64,
    silence_ms: AtomicU64,
}

impl Records {
    pub(super) fn new() -> Self {
        let group = |group| Group {
            history: Mutex::new(History::new(group, Limits::default())),
            acknowledged: AtomicU64::new(0),
            last_ms: AtomicU64::new(0),
            silence_ms: AtomicU64::new(0),
        };
        let groups = (1..=GROUPS).map(group).collect();
        Self { began: Instant::now(), groups, told: Mutex::default(), wrong: Mutex::default() }
    }

    fn group(&self, group: u64) -> &Group {
        &self.groups[group as usize - 1]
    }

    /// A client is about to ask for these entries to be appended, together.
    pub(super) fn invoke(&self, group: u64, client: u32, payloads: &[u64]) -> Vec<AppendId> {
        let mut history = self.history(group);
        let now = self.now_ns();
        let ids: Result<Vec<AppendId>, Full> =
            payloads.iter().map(|payload| history.append(now, client, None, *payload)).collect();
        drop(history);
        ids.unwrap_or_else(|full| {
            self.wrong(full.to_string());
            Vec::new()
        })
    }

    /// They were told an outcome. A known index is that of the first.
    pub(super) fn returned(&self, group: u64, ids: &[AppendId], outcome: Outcome) {
        let kind = match outcome {
            Outcome::Committed { .. } => "committed",
            Outcome::Duplicate => "duplicate",
            Outcome::Rejected => "rejected",
            Outcome::Superseded => "superseded",
            Outcome::Unknown => "unknown",
        };
        if outcome != Outcome::Unknown {
            let mut history = self.history(group);
            let now = self.now_ns();
            for (id, above) in ids.iter().zip(0..) {
                let outcome = match outcome {
                    Outcome::Committed { index } => Outcome::Committed { index: index + above },
                    other => other,
                };
                history.appended(now, *id, outcome);
            }
        }
        let count = ids.len() as u64;
        *self.told.lock().expect("no holder panics").appends.entry(kind).or_default() += count;
        if matches!(outcome, Outcome::Committed { .. } | Outcome::Duplicate) {
            let of = self.group(group);
            let now_ms = self.began.elapsed().as_millis() as u64;
            of.silence_ms.fetch_max(now_ms - of.last_ms.swap(now_ms, Ordering::Relaxed).min(now_ms), Ordering::Relaxed);
            of.acknowledged.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// A client is about to read.
    pub(super) fn read(&self, group: u64, client: u32) -> Option<ReadId> {
        let mut history = self.history(group);
        let now = self.now_ns();
        // A node tells what it has applied, which may lag, also behind what it told before it was killed.
        let id = history.read(now, client, Freshness::Stale);
        drop(history);
        id.map_err(|full| self.wrong(full.to_string())).ok()
    }

    /// It was told the log's end and these payloads.
    pub(super) fn was_read(&self, group: u64, id: ReadId, tail: u64, first: u64, payloads: &[u64]) {
        let mut history = self.history(group);
        let now = self.now_ns();
        let told = history.was_read(now, id, Some(tail), first, payloads);
        drop(history);
        match told {
            Ok(()) => self.told.lock().expect("no holder panics").reads += 1,
            Err(full) => self.wrong(full.to_string()),
        }
    }

    /// A client was told what no promise allows.
    pub(super) fn wrong(&self, text: String) {
        let mut wrong = self.wrong.lock().expect("no holder panics");
        if wrong.len() < 10 {
            wrong.push(text);
        }
    }

    /// The first of these.
    pub(super) fn first_wrong(&self) -> Option<String> {
        self.wrong.lock().expect("no holder panics").first().cloned()
    }

    /// Entries acknowledged, by group.
    pub(super) fn acknowledged(&self) -> Vec<u64> {
        self.groups.iter().map(|group| group.acknowledged.load(Ordering::Relaxed)).collect()
    }

    /// The longest time that a group went without an acknowledgement since [`listen`](Self::listen).
    pub(super) fn silence(&self) -> Duration {
        let longest = self.groups.iter().map(|group| group.silence_ms.load(Ordering::Relaxed)).max();
        Duration::from_millis(longest.unwrap_or(0))
    }

    /// Silence counts from now on.
    pub(super) fn listen(&self) {
        self.groups.iter().for_each(|group| group.silence_ms.store(0, Ordering::Relaxed));
    }

    pub(super) fn told(&self) -> Told {
        self.told.lock().expect("no holder panics").clone()
    }

    pub(super) fn history(&self, group: u64) -> MutexGuard<'_, History> {
        self.group(group).history.lock().expect("no holder panics")
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}
