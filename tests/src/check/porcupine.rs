//! Histories as text for Porcupine (github.com/anishathalye/porcupine), and back.
//!
//! The format is the one of its key-value test data: a line per event,
//! `{:process 3, :type :invoke, :f :append, :key "7.0", :value "12 "}`, where `:f` is `:append`, `:put` or `:get`, the
//! type `:invoke` or `:ok`, and the value of an invoked `:get` is `nil`. A process has one operation at a time; one
//! that never returns is never used again. Its model of a key is a string that `append` extends and `get` tells: a log.
//!
//! Each window of a history is a key of its own, `group.window`, which begins empty: a key's value is the payloads
//! above the window's base, each with a space behind it. A linearizable read of the tail is a `get`; what it did not
//! tell of its value itself is filled in from the agreed log. Every window ends with a `get` of what the log has there,
//! so that lost and doubled entries show. Other reads and rejected appends have no place in this model and are left
//! out; the fast checker looks at them.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Actions};
use todc_utils::specifications::Specification;

use super::history::{History, Read};
use super::window::{What, Window, cut};

/// A window of so many appends fits a line, whatever the payloads.
pub const OPERATIONS_MAX: usize = 128;
/// Porcupine's reader takes no longer lines.
pub const LINE_BYTES_MAX: usize = 4095;

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    /// Tells a key's value.
    Get,
    /// Replaces it.
    Put,
    /// Extends it.
    Append,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Who.
    pub process: u64,
    /// Whether it is the return, or else the invocation.
    pub is_return: bool,
    /// What.
    pub function: Function,
    /// Of which key.
    pub key: String,
    /// Written, extended by or told; nothing when a `get` is invoked.
    pub value: Option<String>,
}

/// A line that is not of the format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line} is no event of Porcupine's key-value format: {text}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// What it says.
    pub text: String,
}

/// A window does not fit Porcupine's lines: too much was open at its cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a line of {bytes} bytes is too long for Porcupine's reader: cut smaller windows")]
pub struct LineTooLong {
    /// The line's.
    pub bytes: usize,
}

/// Writes a history, cut into windows of at most `operations_max` operations and those open at its cuts.
pub fn export(history: &History, log: &[u64], operations_max: usize) -> Result<String, LineTooLong> {
    let mut text = String::new();
    for event in events(history, log, operations_max) {
        let start = text.len();
        writeln!(text, "{event}").expect("a string takes all");
        let bytes = text.len() - start - 1;
        if LINE_BYTES_MAX < bytes {
            return Err(LineTooLong { bytes });
        }
    }
    Ok(text)
}

/// The events of a history, as [`export`] writes them.
pub fn events(history: &History, log: &[u64], operations_max: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut processes = Processes::default();
    for (number, window) in cut(history, log, operations_max).iter().enumerate() {
        let key = format!("{}.{number}", history.group());
        let mut of_item = BTreeMap::new();
        for (item, is_return) in window.events() {
            let (function, value) = match window.items[item].what {
                What::Append(append, _) | What::Pending(append) => (Function::Append, Some(token(append.payload))),
                What::Read(read) if read.exact().is_some() && is_return => {
                    (Function::Get, Some(told(history, log, window, &read)))
                }
                What::Read(read) if read.exact().is_some() => (Function::Get, None),
                What::Read(_) => continue,
            };
            let process = if is_return {
                of_item.remove(&item).expect("a return follows its call")
            } else {
                *of_item.entry(item).or_insert_with(|| processes.take())
            };
            events.push(Event { process, is_return, function, key: key.clone(), value });
            if is_return {
                processes.give_back(process);
            }
        }
        let end = value(window.base, window.end, |index| log.get(index as usize - 1).copied());
        let process = processes.take();
        let get = |is_return, value| Event { process, is_return, function: Function::Get, key: key.clone(), value };
        events.extend([get(false, None), get(true, Some(end))]);
        processes.give_back(process);
    }
    events
}

/// Reads what [`export`] or Porcupine's own test data wrote.
pub fn parse(text: &str) -> Result<Vec<Event>, ParseError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| parse_line(line).ok_or_else(|| ParseError { line: at + 1, text: line.into() })).collect()
}

/// Whether the events of each key can be explained by a string that is replaced, extended and told: Porcupine's model,
/// searched by todc-utils.
pub fn is_linearizable(events: &[Event]) -> bool {
    let mut keys: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    events.iter().for_each(|event| keys.entry(&event.key).or_default().push(event));
    keys.values().all(|events| is_key_linearizable(events))
}

/// Processes that have nothing open, lowest first.
#[derive(Default)]
struct Processes {
    free: Vec<u64>,
    count: u64,
}

impl Processes {
    fn take(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            self.count += 1;
            self.count - 1
        })
    }

    fn give_back(&mut self, process: u64) {
        self.free.push(process);
    }
}

fn token(payload: u64) -> String {
    format!("{payload} ")
}

/// A value that no append wrote: the log or the window does not reach what was told.
const MISSING: &str = "missing ";

/// The value of a key whose window begins at `base`, when the log has the length `end`.
fn value(base: u64, end: u64, at: impl Fn(u64) -> Option<u64>) -> String {
    if end < base {
        return MISSING.to_owned();
    }
    let mut value = String::new();
    for index in base + 1..=end {
        let Some(payload) = at(index) else { return value + MISSING };
        value += &token(payload);
    }
    value
}

/// The value that a read of the exact tail saw.
fn told(history: &History, log: &[u64], window: &Window, read: &Read) -> String {
    let tail = read.exact().expect("only such reads are exported");
    let entries = history.entries(read);
    value(window.base, tail, |index| {
        let own = index.checked_sub(read.first).and_then(|place| entries.get(place as usize));
        own.or(log.get(index as usize - 1)).copied()
    })
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_return { "ok" } else { "invoke" };
        let function = match self.function {
            Function::Get => "get",
            Function::Put => "put",
            Function::Append => "append",
        };
        write!(f, "{{:process {}, :type :{kind}, :f :{function}, :key \"{}\", :value ", self.process, self.key)?;
        match &self.value {
            Some(value) => write!(f, "\"{value}\"}}"),
            None => write!(f, "nil}}"),
        }
    }
}

fn parse_line(line: &str) -> Option<Event> {
    let rest = line.trim().strip_prefix("{:process ")?.strip_suffix('}')?;
    let (process, rest) = rest.split_once(", :type :")?;
    let (kind, rest) = rest.split_once(", :f :")?;
    let (function, rest) = rest.split_once(", :key \"")?;
    let (key, value) = rest.split_once("\", :value ")?;
    let is_return = match kind {
        "invoke" => false,
        "ok" => true,
        _ => return None,
    };
    let function = match function {
        "get" => Function::Get,
        "put" => Function::Put,
        "append" => Function::Append,
        _ => return None,
    };
    let value = match value {
        "nil" => None,
        quoted => Some(quoted.strip_prefix('"')?.strip_suffix('"')?.to_owned()),
    };
    // Only the invocation of a get has no value.
    if value.is_none() != (function == Function::Get && !is_return) {
        return None;
    }
    Some(Event { process: process.parse().ok()?, is_return, function, key: key.to_owned(), value })
}

/// A key's value as a string.
struct Strings;

impl Specification for Strings {
    type State = String;
    type Operation = (Function, String);

    fn init() -> String {
        String::new()
    }

    fn apply((function, value): &(Function, String), state: &String) -> (bool, String) {
        match function {
            Function::Get => (value == state, state.clone()),
            Function::Put => (true, value.clone()),
            Function::Append => (true, format!("{state}{value}")),
        }
    }
}

fn is_key_linearizable(events: &[&Event]) -> bool {
    // Every operation becomes a process of its own. A `get` without a return says nothing.
    let mut open: BTreeMap<u64, usize> = BTreeMap::new();
    let mut actions: Vec<(usize, bool, &Event)> = Vec::new();
    let mut returns: Vec<Option<&Event>> = Vec::new();
    for event in events {
        if event.is_return {
            let Some(operation) = open.remove(&event.process) else { return false };
            returns[operation] = Some(event);
            actions.push((operation, true, event));
        } else {
            open.insert(event.process, returns.len());
            actions.push((returns.len(), false, event));
            returns.push(None);
        }
    }
    let what = |event: &Event| (event.function, event.value.clone().unwrap_or_default());
    let mut late = Vec::new();
    let mut all = Vec::new();
    for (operation, is_return, event) in actions {
        match (is_return, returns[operation]) {
            (true, _) => all.push((operation, Action::Response(what(event)))),
            (false, Some(_)) => all.push((operation, Action::Call(what(event)))),
            (false, None) if event.function == Function::Get => {}
            // It may take effect after all else: its return comes last.
            (false, None) => {
                all.push((operation, Action::Call(what(event))));
                late.push((operation, Action::Response(what(event))));
            }
        }
    }
    all.append(&mut late);
    all.is_empty() || WGLChecker::<Strings>::is_linearizable(Actions::from_actions(all))
}
