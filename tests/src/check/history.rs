//! What clients asked of one group's log, and what they were told.
//!
//! Invariants: events are recorded in the order in which they happen, so that times never go back. What orders two
//! events is the order of recording, not the time: one nanosecond may hold many events. With many threads, a mutex
//! around the history keeps this true, if an invocation is recorded before it is sent and a return after it has come.
//! Memory is bounded by [`Limits`]; a history that is full says so, since what it does not hold is not checked.

use std::fmt;

/// How much a history may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Appends, and as many reads.
    pub operations: usize,
    /// Entries that all reads together told.
    pub entries_read: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { operations: 4 << 20, entries_read: 16 << 20 }
    }
}

/// The history has reached a limit: what follows would go unchecked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the history of group {group} is full: raise its limits, or run shorter")]
pub struct Full {
    /// Whose history.
    pub group: u64,
}

/// When an operation was invoked and when it returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Nanoseconds at invocation.
    pub invoked: u64,
    /// Nanoseconds at return; [`NEVER`] if it has not returned.
    pub returned: u64,
    /// The place of the invocation among all events of the history.
    pub call: u32,
    /// The place of the return among them; [`OPEN`] if it has not returned.
    pub end: u32,
}

/// The return time of what never returned.
pub const NEVER: u64 = u64::MAX;
/// The place of a return that never came.
pub const OPEN: u32 = u32::MAX;

/// What became of an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is in the log, at this index.
    Committed {
        /// As told.
        index: u64,
    },
    /// It is in the log, and the index was not told (a session's duplicate).
    Duplicate,
    /// Never proposed: it never takes effect.
    Rejected,
    /// Another value took its place: it never takes effect.
    Superseded,
    /// It may take effect or not, now or later. Also what has not returned.
    Unknown,
}

/// An append of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Append {
    /// When.
    pub span: Span,
    /// What names the entry: no two appends share it.
    pub payload: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Who asked.
    pub client: u32,
    /// The ordered proposer that it went through; 0 is none.
    pub handle: u32,
}

impl Append {
    /// The place of the return, in so far as the append is known to have taken effect by then.
    pub fn end(&self) -> u32 {
        match self.outcome {
            Outcome::Committed { .. } | Outcome::Duplicate => self.span.end,
            Outcome::Rejected | Outcome::Superseded | Outcome::Unknown => OPEN,
        }
    }
}

/// What a read promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// The state at one instant between invocation and return.
    Linearizable,
    /// Some prefix, not shorter than this index.
    AtLeast(u64),
    /// Some prefix, not shorter than in this client's earlier reads of this kind.
    Monotonic,
    /// Some prefix.
    Stale,
}

/// A read of the tail, of a range, or of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// When.
    pub span: Span,
    /// The highest index, if the reader was told.
    pub tail: Option<u64>,
    /// The index of the first entry told, if any was.
    pub first: u64,
    /// What it promises.
    pub freshness: Freshness,
    /// Who asked.
    pub client: u32,
    start: u32,
    count: u32,
}

impl Read {
    /// The index of the last entry told; 0 if none was.
    pub fn last(&self) -> u64 {
        if self.count == 0 { 0 } else { self.first + u64::from(self.count) - 1 }
    }

    /// The log is at least this long, says the read.
    pub fn seen(&self) -> u64 {
        self.tail.unwrap_or(0).max(self.last())
    }

    /// The exact length of the log at some instant of the read, where it promises one.
    pub fn exact(&self) -> Option<u64> {
        self.tail.filter(|_| self.freshness == Freshness::Linearizable)
    }

    /// Whether it has told anything.
    pub fn has_returned(&self) -> bool {
        self.span.end != OPEN
    }
}

/// Names an append of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendId(u32);

/// Names a read of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadId(u32);

/// The operations of all clients on one group.
#[derive(Clone, Debug)]
pub struct History {
    group: u64,
    limits: Limits,
    now: u64,
    events: u32,
    appends: Vec<Append>,
    reads: Vec<Read>,
    entries: Vec<u64>,
}

impl History {
    /// An empty history.
    pub fn new(group: u64, limits: Limits) -> Self {
        // Four events per pair of an append and a read have to fit the places, and so do the entries.
        assert!(limits.operations < (OPEN / 4) as usize);
        assert!(limits.entries_read < OPEN as usize);
        Self { group, limits, now: 0, events: 0, appends: Vec::new(), reads: Vec::new(), entries: Vec::new() }
    }

    /// A client asks to append; `handle` names its ordered proposer, if it goes through one (never 0).
    pub fn append(&mut self, now: u64, client: u32, handle: Option<u32>, payload: u64) -> Result<AppendId, Full> {
        assert!(handle != Some(0), "0 stands for no handle");
        if self.limits.operations <= self.appends.len() {
            return Err(Full { group: self.group });
        }
        let span = self.open(now);
        let handle = handle.unwrap_or(0);
        self.appends.push(Append { span, payload, outcome: Outcome::Unknown, client, handle });
        Ok(AppendId(self.appends.len() as u32 - 1))
    }

    /// An append returns.
    pub fn appended(&mut self, now: u64, id: AppendId, outcome: Outcome) {
        let end = self.event(now);
        let append = &mut self.appends[id.0 as usize];
        assert!(append.span.end == OPEN, "{append} returns twice");
        (append.span.returned, append.span.end) = (now, end);
        append.outcome = outcome;
    }

    /// A client asks to read.
    pub fn read(&mut self, now: u64, client: u32, freshness: Freshness) -> Result<ReadId, Full> {
        if self.limits.operations <= self.reads.len() {
            return Err(Full { group: self.group });
        }
        let span = self.open(now);
        self.reads.push(Read { span, tail: None, first: 0, freshness, client, start: 0, count: 0 });
        Ok(ReadId(self.reads.len() as u32 - 1))
    }

    /// A read returns: the highest index, if it was told, and the payloads from index `first` on. A read that fails
    /// is left open.
    pub fn was_read(
        &mut self,
        now: u64,
        id: ReadId,
        tail: Option<u64>,
        first: u64,
        entries: &[u64],
    ) -> Result<(), Full> {
        assert!(entries.is_empty() || 1 <= first, "indexes begin at 1");
        if self.limits.entries_read < self.entries.len() + entries.len() {
            return Err(Full { group: self.group });
        }
        let end = self.event(now);
        let start = self.entries.len() as u32;
        self.entries.extend_from_slice(entries);
        let read = &mut self.reads[id.0 as usize];
        assert!(read.span.end == OPEN, "{read} returns twice");
        (read.span.returned, read.span.end) = (now, end);
        (read.tail, read.first, read.start, read.count) = (tail, first, start, entries.len() as u32);
        Ok(())
    }

    /// Whose history.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// All appends, in the order of invocation.
    pub fn appends(&self) -> &[Append] {
        &self.appends
    }

    /// All reads, in the order of invocation.
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// The payloads that a read of this history told, from its first index on.
    pub fn entries(&self, read: &Read) -> &[u64] {
        &self.entries[read.start as usize..][..read.count as usize]
    }

    fn open(&mut self, now: u64) -> Span {
        Span { invoked: now, returned: NEVER, call: self.event(now), end: OPEN }
    }

    fn event(&mut self, now: u64) -> u32 {
        assert!(self.now <= now, "events are recorded in order, and {now} ns comes after {} ns", self.now);
        self.now = now;
        self.events += 1;
        self.events
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invoked at {} ns (event {}), ", self.invoked, self.call)?;
        match self.end {
            OPEN => write!(f, "never returned"),
            end => write!(f, "returned at {} ns (event {end})", self.returned),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed { index } => write!(f, "committed at index {index}"),
            Self::Duplicate => write!(f, "committed before"),
            Self::Rejected => write!(f, "rejected"),
            Self::Superseded => write!(f, "superseded"),
            Self::Unknown => write!(f, "unknown"),
        }
    }
}

impl fmt::Display for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the append of payload {} by client {}", self.payload, self.client)?;
        if self.handle != 0 {
            write!(f, " through handle {}", self.handle)?;
        }
        write!(f, " ({}, {})", self.span, self.outcome)
    }
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {:?} read of client {} ({}", self.freshness, self.client, self.span)?;
        if let Some(tail) = self.tail {
            write!(f, ", tail {tail}")?;
        }
        if self.count != 0 {
            write!(f, ", entries {} to {}", self.first, self.last())?;
        }
        write!(f, ")")
    }
}
