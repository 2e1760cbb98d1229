//! Histories as text for Porcupine (github.com/anishathalye/porcupine), and back.
//!
//! The format is that of the Jepsen logs of etcd in its test data (`test_data/jepsen`): one register, one event a line,
//!
//! ```text
//! INFO  jepsen.util - <process> <type> <function> <value>     (tabs between the last four)
//! ```
//!
//! | function | `:invoke` | `:ok` | `:fail` |
//! |---|---|---|---|
//! | `:read` | `nil` | the value, or `nil` if there is none | `:timed-out`: it says nothing |
//! | `:write` | the value | the same | |
//! | `:cas` | `[from to]` | the same: the register had `from` | the same: it had another value |
//!
//! A process has one operation at a time; one whose operation never returns is never used again.
//!
//! A log becomes a register that holds its last entry: the n-th append to be invoked is the number n, and 0, written
//! first, is the empty log. An append with index i is a `cas` from entry i - 1 to its own number; a linearizable read
//! of the tail t is a `read` of entry t. What is in the log without having been acknowledged returns at the end of the
//! file, and then comes a read of the agreed log's last entry. So lost, doubled,
//! made-up and reordered entries break the chain, and no search for the order of concurrent appends is needed. Other
//! reads, refused appends and unknown ones that are not in the log are left out; the fast checker looks at them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Actions};
use todc_utils::specifications::etcd::{EtcdOperation, EtcdSpecification, EtcdStatus};

use super::history::{History, Outcome, Read};

/// Whether an event begins or ends an operation, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It did what it says.
    Ok,
    /// It did nothing: a `cas` that found another value.
    Fail,
}

/// What is done to the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Tells the value, once it has returned; no value before the first write.
    Read(Option<u32>),
    /// Sets it.
    Write(u32),
    /// Sets it if it is the one expected.
    Cas {
        /// Expected.
        from: u32,
        /// New.
        to: u32,
    },
}

/// One line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Who.
    pub process: u64,
    /// Begin or end.
    pub kind: Kind,
    /// Of what.
    pub operation: Operation,
}

/// A line that tells of an operation in another way than the format's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line} is not in the format of Porcupine's Jepsen logs: {text}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// What it says.
    pub text: String,
}

/// Writes a history with its agreed log.
pub fn export(history: &History, log: &[u64]) -> String {
    let mut text = String::new();
    for event in events(history, log) {
        writeln!(text, "{event}").expect("a string takes all");
    }
    text
}

/// The events of a history, as [`export`] writes them.
pub fn events(history: &History, log: &[u64]) -> Vec<Event> {
    let numbers = Numbers::new(history, log);
    let appends = history.appends().iter().filter_map(|append| {
        let index = match append.outcome {
            Outcome::Committed { index } => index,
            Outcome::Duplicate => numbers.index(append.payload).unwrap_or(u64::MAX),
            Outcome::Unknown => numbers.index(append.payload)?,
            Outcome::Rejected | Outcome::Superseded => return None,
        };
        // Nothing stands before index 0: whoever is told it has a chain of its own.
        let from = index.checked_sub(1).map_or(numbers.nobody(), |before| numbers.at(before));
        let cas = Operation::Cas { from, to: numbers.of(append.payload) };
        Some((append.span.call, append.end(), cas, cas))
    });
    let reads = history.reads().iter().filter(|read| read.has_returned()).filter_map(|read| {
        let value = Some(numbers.told(history, read)?);
        Some((read.span.call, read.span.end, Operation::Read(None), Operation::Read(value)))
    });
    // (place, whether it is the end, the operation's name, operation): the place of its call names an operation.
    let mut lines: Vec<(u32, bool, u32, Operation)> = Vec::new();
    for (call, end, called, returned) in appends.chain(reads) {
        lines.push((call, false, call, called));
        // What is in the log without having returned has taken effect by the end: its place is the last.
        lines.push((end, true, call, returned));
    }
    lines.sort_by_key(|line| line.0);
    let mut processes = Processes::default();
    let mut events = processes.alone(Operation::Write(0), Operation::Write(0));
    for (_, is_end, name, operation) in lines {
        let process = if is_end { processes.end(name) } else { processes.begin(name) };
        events.push(Event { process, kind: if is_end { Kind::Ok } else { Kind::Invoke }, operation });
    }
    let end = Operation::Read(Some(numbers.at(log.len() as u64)));
    events.extend(processes.alone(Operation::Read(None), end));
    events
}

/// Reads what [`export`] or Jepsen wrote. Lines that tell of no operation's begin or end are skipped: Jepsen's logs are
/// full of them.
pub fn parse(text: &str) -> Result<Vec<Event>, ParseError> {
    let mut events = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["INFO", "jepsen.util", "-", process, kind, words @ ..] = &words[..] else { continue };
        let Ok(process) = process.parse() else { continue };
        let kind = match *kind {
            ":invoke" => Kind::Invoke,
            ":ok" => Kind::Ok,
            ":fail" => Kind::Fail,
            // The outcome is not known: it stays open.
            ":info" => continue,
            _ => return Err(ParseError { line: at + 1, text: line.into() }),
        };
        if (kind, words) == (Kind::Fail, &[":read", ":timed-out"]) {
            continue;
        }
        let operation = parse_operation(kind, words);
        let operation = operation.ok_or_else(|| ParseError { line: at + 1, text: line.into() })?;
        events.push(Event { process, kind, operation });
    }
    Ok(events)
}

/// Whether a register explains the events: the model that Porcupine has for this format, searched by todc-utils.
pub fn is_linearizable(events: &[Event]) -> bool {
    // Each operation becomes a process of its own, and its call knows its return.
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    let mut operations: Vec<(Operation, Option<Event>)> = Vec::new();
    let mut order: Vec<(usize, bool)> = Vec::new();
    for event in events {
        if event.kind == Kind::Invoke {
            open.insert(event.process, operations.len());
            order.push((operations.len(), false));
            operations.push((event.operation, None));
        } else {
            let Some(operation) = open.remove(&event.process) else { return false };
            order.push((operation, true));
            operations[operation].1 = Some(*event);
        }
    }
    let mut actions = Vec::new();
    let mut late = Vec::new();
    for (number, is_end) in order {
        let (called, returned) = &operations[number];
        // A read that never returned says nothing.
        let Some(operation) = outcome(*called, returned.as_ref()) else { continue };
        actions.push((number, if is_end { Action::Response(operation) } else { Action::Call(operation) }));
        if returned.is_none() {
            // It may take effect after all else.
            late.push((number, Action::Response(operation)));
        }
    }
    actions.append(&mut late);
    actions.is_empty() || WGLChecker::<EtcdSpecification>::is_linearizable(Actions::from_actions(actions))
}

fn outcome(called: Operation, returned: Option<&Event>) -> Option<EtcdOperation> {
    let status = match returned.map(|event| event.kind) {
        Some(Kind::Fail) => EtcdStatus::Fail,
        Some(_) => EtcdStatus::Okay,
        None => EtcdStatus::Unknown,
    };
    match (called, returned.map(|event| event.operation)) {
        (Operation::Read(_), Some(Operation::Read(value))) => Some(EtcdOperation::Read(status, value)),
        (Operation::Read(_), _) => None,
        (Operation::Write(value), _) => Some(EtcdOperation::Write(status, value)),
        (Operation::Cas { from, to }, _) => Some(EtcdOperation::CompareAndSwap(status, (from, to))),
    }
}

/// Entries as numbers.
struct Numbers<'a> {
    log: &'a [u64],
    /// By payload: its number, from 1, and its index, if it has one.
    of: HashMap<u64, (u32, Option<u64>)>,
}

impl<'a> Numbers<'a> {
    fn new(history: &History, log: &'a [u64]) -> Self {
        let numbered = history.appends().iter().zip(1..).map(|(append, number)| (append.payload, (number, None)));
        let mut of: HashMap<u64, (u32, Option<u64>)> = numbered.collect();
        for (payload, index) in log.iter().zip(1..) {
            of.entry(*payload).and_modify(|entry| entry.1 = entry.1.or(Some(index)));
        }
        Self { log, of }
    }

    /// A number that no append has.
    fn nobody(&self) -> u32 {
        self.of.len() as u32 + 1
    }

    fn of(&self, payload: u64) -> u32 {
        self.of.get(&payload).map_or(self.nobody(), |entry| entry.0)
    }

    fn index(&self, payload: u64) -> Option<u64> {
        self.of.get(&payload)?.1
    }

    /// The entry at an index of the agreed log; a second copy of one is nobody's.
    fn at(&self, index: u64) -> u32 {
        let Some(place) = index.checked_sub(1) else { return 0 };
        let payload = self.log.get(place as usize).filter(|payload| self.index(**payload) == Some(index));
        payload.map_or(self.nobody(), |payload| self.of(*payload))
    }

    /// The last entry that a read of the exact tail saw: as it told it, or else from the agreed log.
    fn told(&self, history: &History, read: &Read) -> Option<u32> {
        let tail = read.exact()?;
        let own = history.entries(read).last().filter(|_| read.last() == tail);
        Some(own.map_or_else(|| self.at(tail), |payload| self.of(*payload)))
    }
}

/// Gives each operation a process that has nothing open.
#[derive(Default)]
struct Processes {
    free: Vec<u64>,
    count: u64,
    open: HashMap<u32, u64>,
}

impl Processes {
    fn begin(&mut self, operation: u32) -> u64 {
        let process = self.free.pop().unwrap_or(self.count);
        self.count = self.count.max(process + 1);
        self.open.insert(operation, process);
        process
    }

    fn end(&mut self, operation: u32) -> u64 {
        let process = self.open.remove(&operation).expect("it has begun");
        self.free.push(process);
        process
    }

    /// An operation that nothing overlaps.
    fn alone(&mut self, called: Operation, returned: Operation) -> Vec<Event> {
        // No event has place 0.
        let process = self.begin(0);
        self.end(0);
        let event = |kind, operation| Event { process, kind, operation };
        vec![event(Kind::Invoke, called), event(Kind::Ok, returned)]
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
        };
        write!(f, "INFO  jepsen.util - {}\t:{kind}\t", self.process)?;
        match self.operation {
            Operation::Read(None) => write!(f, ":read\tnil"),
            Operation::Read(Some(value)) => write!(f, ":read\t{value}"),
            Operation::Write(value) => write!(f, ":write\t{value}"),
            Operation::Cas { from, to } => write!(f, ":cas\t[{from} {to}]"),
        }
    }
}

fn parse_operation(kind: Kind, words: &[&str]) -> Option<Operation> {
    match (kind, words) {
        (Kind::Invoke | Kind::Ok, [":read", "nil"]) => Some(Operation::Read(None)),
        (Kind::Ok, [":read", value]) => Some(Operation::Read(Some(value.parse().ok()?))),
        (Kind::Invoke | Kind::Ok, [":write", value]) => Some(Operation::Write(value.parse().ok()?)),
        (_, [":cas", from, to]) => {
            let (from, to) = (from.strip_prefix('[')?.parse().ok()?, to.strip_suffix(']')?.parse().ok()?);
            Some(Operation::Cas { from, to })
        }
        _ => None,
    }
}
