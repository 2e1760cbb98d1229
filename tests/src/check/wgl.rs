//! A second opinion: the search of Wing, Gong and Lowe (todc-utils, written by others) over a log, in windows.
//!
//! Where the fast checker reasons about intervals, this one looks for an order in which each operation does what it
//! told. It knows nothing of handles and sessions, and of rejected appends only that the log is explained without them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Actions};
use todc_utils::specifications::Specification;

use super::history::History;
use super::window::{What, Window, cut};

/// Windows beyond this make the search slow.
pub const OPERATIONS_MAX: usize = 1_000;

/// No order explains a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no order explains window {window}: {operations} operations, from index {base} to {end}, events {calls:?}")]
pub struct Unexplained {
    /// Its number, from 0.
    pub window: usize,
    /// How many operations it has.
    pub operations: usize,
    /// The log's length before it.
    pub base: u64,
    /// The log's length behind it.
    pub end: u64,
    /// The places of its first and last invocation.
    pub calls: (u32, u32),
}

/// Searches each window of at most `operations_max` operations (and those open at its cuts). The log is final, as for
/// the fast checker. Tells how many windows there were.
pub fn check(history: &History, log: &[u64], operations_max: usize) -> Result<usize, Unexplained> {
    let agreed: Arc<[u64]> = log.into();
    let windows = cut(history, log, operations_max);
    for (number, window) in windows.iter().enumerate() {
        if !is_explained(history, &agreed, window) {
            let calls = window.items.iter().map(|item| item.call);
            let calls = (calls.clone().min().unwrap_or(0), calls.max().unwrap_or(0));
            let (operations, base, end) = (window.items.len(), window.base, window.end);
            return Err(Unexplained { window: number, operations, base, end, calls });
        }
    }
    Ok(windows.len())
}

fn is_explained(history: &History, agreed: &Arc<[u64]>, window: &Window) -> bool {
    // A violation may have shown more than there is.
    if (agreed.len() as u64) < window.end || window.end < window.base {
        return false;
    }
    let operation = |what: &What| match what {
        What::Append(append, index) => Operation::Append { payload: append.payload, index: *index },
        What::Read(read) => Operation::Read {
            exact: read.exact(),
            seen: read.seen(),
            first: read.first,
            entries: history.entries(read).into(),
        },
    };
    let operations: Vec<Operation> = window.items.iter().map(|item| operation(&item.what)).collect();
    let start = Operation::Start { agreed: Agreed(agreed.clone()), base: window.base };
    let finish = Operation::Finish { end: window.end };
    // Each operation is a process of its own; the first and the last two numbers bracket them.
    let mut actions = vec![(0, Action::Call(start.clone())), (0, Action::Response(start))];
    let mut open = vec![true; operations.len()];
    for (number, is_end) in window.events() {
        let operation = operations[number].clone();
        open[number] = !is_end;
        actions.push((number + 1, if is_end { Action::Response(operation) } else { Action::Call(operation) }));
    }
    // What is open at the cut and belongs here took effect before the cut.
    for (number, operation) in operations.into_iter().enumerate().filter(|(number, _)| open[*number]) {
        actions.push((number + 1, Action::Response(operation)));
    }
    let last = window.items.len() + 1;
    actions.extend([(last, Action::Call(finish.clone())), (last, Action::Response(finish))]);
    WGLChecker::<Log>::is_linearizable(Actions::from_actions(actions))
}

/// A log that is appended to at the end and read.
struct Log;

/// The agreed log, of which a window uses only what is below its base.
#[derive(Clone, PartialEq, Eq)]
struct Agreed(Arc<[u64]>);

impl std::fmt::Debug for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} entries", self.0.len())
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Start { agreed: Agreed, base: u64 },
    Append { payload: u64, index: u64 },
    Read { exact: Option<u64>, seen: u64, first: u64, entries: Arc<[u64]> },
    Finish { end: u64 },
}

#[derive(Clone, Debug)]
struct State {
    agreed: Agreed,
    base: u64,
    entries: Vec<u64>,
}

impl State {
    fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    fn at(&self, index: u64) -> Option<u64> {
        match index.checked_sub(self.base + 1) {
            Some(above) => self.entries.get(above as usize).copied(),
            None => self.agreed.0.get(index as usize - 1).copied(),
        }
    }
}

// Within a window the base and what is below it stay: states differ in their entries only.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        (self.base, &self.entries) == (other.base, &other.entries)
    }
}

impl Eq for State {}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.base, &self.entries).hash(hasher);
    }
}

impl Specification for Log {
    type State = State;
    type Operation = Operation;

    fn init() -> State {
        State { agreed: Agreed(Arc::from([])), base: 0, entries: Vec::new() }
    }

    fn apply(operation: &Operation, state: &State) -> (bool, State) {
        let mut state = state.clone();
        let is_valid = match operation {
            Operation::Start { agreed, base } => {
                state = State { agreed: agreed.clone(), base: *base, entries: Vec::new() };
                true
            }
            Operation::Append { payload, index } => {
                let is_next = *index == state.end() + 1;
                state.entries.push(*payload);
                is_next
            }
            Operation::Read { exact, seen, first, entries } => {
                let fits = exact.is_none_or(|tail| tail == state.end()) && *seen <= state.end();
                fits && entries.iter().zip(*first..).all(|(told, index)| state.at(index) == Some(*told))
            }
            Operation::Finish { end } => {
                let agreed = &state.agreed.0[state.base as usize..*end as usize];
                agreed == state.entries
            }
        };
        (is_valid, state)
    }
}
