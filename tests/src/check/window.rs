//! Cuts a history into windows that can be checked one by one.
//!
//! A cut is an instant, and the state at it is the longest prefix of the log that anything which returned before has
//! shown. What is open at the cut and has not been needed for that prefix goes to the next window: since nobody has
//! seen it, putting it off until just after the cut changes nothing before. What is open and needed stays. So the whole
//! is linearizable if and only if each window is, wherever the cuts are; no quiescence is needed.

use std::collections::HashMap;

use super::history::{Append, History, OPEN, Outcome, Read};

/// An operation of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) what: What,
    pub(super) call: u32,
    /// [`OPEN`] where it is not known to have taken effect by any event.
    pub(super) end: u32,
}

/// What it did.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// Stands at this index, as it told or as the log says.
    Append(Append, u64),
    Read(Read),
}

/// A part of a history, between two cuts.
#[derive(Debug)]
pub(super) struct Window {
    /// The length of the log at the first cut.
    pub(super) base: u64,
    /// The length of the log at the second cut.
    pub(super) end: u64,
    /// In the order of invocation.
    pub(super) items: Vec<Item>,
}

impl Window {
    /// The calls (`false`) and returns (`true`) of the items in their order; what has not returned has no return.
    pub(super) fn events(&self) -> Vec<(usize, bool)> {
        let calls = self.items.iter().enumerate().map(|(number, item)| (item.call, number, false));
        let ends = self.items.iter().enumerate().filter(|(_, item)| item.end != OPEN);
        let mut events: Vec<_> = calls.chain(ends.map(|(number, item)| (item.end, number, true))).collect();
        events.sort_unstable();
        events.into_iter().map(|(_, number, end)| (number, end)).collect()
    }
}

impl Item {
    /// Whether it must have taken effect before a cut in which the log has this length.
    fn is_before(&self, cut: u32, length: u64) -> bool {
        self.end < cut
            || match self.what {
                What::Append(_, index) => index <= length,
                What::Read(read) => read.exact().is_some_and(|tail| tail < length),
            }
    }

    /// The length of the log that it shows.
    fn shows(&self) -> u64 {
        match self.what {
            What::Append(_, index) => index,
            What::Read(read) => read.seen(),
        }
    }
}

/// Cuts a history whenever a window has `operations_max`. A window is longer only by what was open at its cuts.
pub(super) fn cut(history: &History, log: &[u64], operations_max: usize) -> Vec<Window> {
    assert!(1 <= operations_max);
    let items = items(history, log);
    let mut windows = Vec::new();
    let (mut base, mut shown, mut begun) = (0, 0, 0);
    let mut window: Vec<Item> = Vec::new();
    for (at, &item) in items.iter().enumerate() {
        window.push(item);
        begun += 1;
        let Some(next) = items.get(at + 1).filter(|_| operations_max <= begun) else { continue };
        let returned = window.iter().filter(|item| item.end < next.call).map(Item::shows);
        shown = returned.fold(shown, u64::max);
        let (before, after) = window.into_iter().partition(|item| item.is_before(next.call, shown));
        windows.push(Window { base, end: shown, items: before });
        (window, base, begun) = (after, shown, 0);
    }
    windows.push(Window { base, end: log.len() as u64, items: window });
    windows
}

/// All operations that say something, in the order of invocation.
fn items(history: &History, log: &[u64]) -> Vec<Item> {
    let places: HashMap<u64, u64> = log.iter().copied().zip(1..).collect();
    let append = |append: &Append| {
        let what = match append.outcome {
            Outcome::Committed { index } => What::Append(*append, index),
            Outcome::Duplicate => What::Append(*append, places.get(&append.payload).copied().unwrap_or(u64::MAX)),
            // What is not in the final log never took effect.
            Outcome::Unknown => What::Append(*append, *places.get(&append.payload)?),
            Outcome::Rejected | Outcome::Superseded => return None,
        };
        Some(Item { what, call: append.span.call, end: append.end() })
    };
    let read = |read: &Read| Item { what: What::Read(*read), call: read.span.call, end: read.span.end };
    let reads = history.reads().iter().filter(|read| read.has_returned()).map(read);
    let mut items: Vec<Item> = history.appends().iter().filter_map(append).chain(reads).collect();
    items.sort_unstable_by_key(|item| item.call);
    items
}
