//! The fast checker: all operations of one group against its agreed log, in O(n log n).
//!
//! Why it is enough: an append tells its index, so the order of the appends is known, and a linearizable read of tail
//! t stands between the appends t and t + 1. A history with such a given order is linearizable if no operation was
//! invoked after one that stands later had returned; one sweep in log order, which keeps the latest invocation so far,
//! finds any. Reads of other kinds only say "the log had reached t when I returned", which bounds appends the same way.

use super::history::{Append, Freshness, History, Outcome, Read};
use super::violation::Violation;

/// What was checked; a test that means something demands that enough was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Appends with a known index or known to be committed.
    pub committed: usize,
    /// Appends without a known outcome that are in the log.
    pub recovered: usize,
    /// Appends that are not in the log.
    pub absent: usize,
    /// Reads that returned.
    pub reads: usize,
}

/// Checks a history against the agreed log: the payloads from index 1 on. The log must be final: whatever of it is
/// not told here counts as never having taken effect.
pub fn check(history: &History, log: &[u64]) -> Result<Checked, Box<Violation>> {
    let places = Places::find(history, log)?;
    check_outcomes(history, &places)?;
    check_handles(history, &places)?;
    check_reads(history, log)?;
    check_monotonic(history)?;
    check_order(history, &places)?;
    let mut checked = Checked::default();
    for (append, place) in history.appends().iter().zip(&places.of_append) {
        match (append.outcome, place) {
            (_, 0) => checked.absent += 1,
            (Outcome::Unknown, _) => checked.recovered += 1,
            _ => checked.committed += 1,
        }
    }
    checked.reads = history.reads().iter().filter(|read| read.has_returned()).count();
    Ok(checked)
}

/// Where each append stands in the log, and the way back.
struct Places {
    /// By append: its index, or 0.
    of_append: Vec<u64>,
    /// By index less one: the append's number.
    at_index: Vec<u32>,
}

impl Places {
    /// Joins appends and log by payload; both sides must be free of doubles, and the log of phantoms.
    fn find(history: &History, log: &[u64]) -> Result<Self, Box<Violation>> {
        let appends = history.appends();
        let mut asked: Vec<(u64, u32)> =
            appends.iter().zip(0..).map(|(append, number)| (append.payload, number)).collect();
        let mut agreed: Vec<(u64, u64)> = log.iter().copied().zip(1..).collect();
        // Payloads are mostly drawn upwards: the sort finds the runs.
        asked.sort();
        agreed.sort();
        if let Some(two) = asked.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(Box::new(Violation::PayloadReused(appends[two[0].1 as usize], appends[two[1].1 as usize])));
        }
        let mut places = Self { of_append: vec![0; appends.len()], at_index: vec![0; log.len()] };
        let mut asked = asked.into_iter().peekable();
        for (payload, index) in agreed {
            while asked.peek().is_some_and(|other| other.0 < payload) {
                asked.next();
            }
            let Some((_, number)) = asked.peek().copied().filter(|other| other.0 == payload) else {
                return Err(Box::new(Violation::Phantom { payload, index }));
            };
            let place = &mut places.of_append[number as usize];
            if *place != 0 {
                let append = appends[number as usize];
                return Err(Box::new(Violation::Doubled { append, first: *place, second: index }));
            }
            *place = index;
            places.at_index[index as usize - 1] = number;
        }
        Ok(places)
    }
}

fn check_outcomes(history: &History, places: &Places) -> Result<(), Box<Violation>> {
    for (&append, &index) in history.appends().iter().zip(&places.of_append) {
        let violation = match append.outcome {
            Outcome::Committed { .. } | Outcome::Duplicate if index == 0 => Violation::Lost(append),
            Outcome::Committed { index: told } if told != index => Violation::Moved { append, index },
            Outcome::Rejected | Outcome::Superseded if index != 0 => Violation::TookEffect { append, index },
            _ => continue,
        };
        return Err(Box::new(violation));
    }
    Ok(())
}

/// Of each handle's appends, in the order asked, those in the log must be a prefix, with rising indexes: a handle
/// promises "in order or not at all", also to what it answered with "unknown".
fn check_handles(history: &History, places: &Places) -> Result<(), Box<Violation>> {
    let appends = history.appends();
    let numbered = appends.iter().zip(0_usize..).filter(|(append, _)| append.handle != 0);
    let mut by_handle: Vec<(u32, usize)> = numbered.map(|(append, number)| (append.handle, number)).collect();
    by_handle.sort();
    for handle in by_handle.chunk_by(|a, b| a.0 == b.0) {
        let mut last: Option<(u64, Append)> = None;
        let mut absent: Option<Append> = None;
        for &(_, number) in handle {
            let (append, index) = (appends[number], places.of_append[number]);
            if index == 0 {
                absent.get_or_insert(append);
                continue;
            }
            if let Some(absent) = absent {
                return Err(Box::new(Violation::HandleGap { absent, later: append, index }));
            }
            if let Some((_, earlier)) = last.filter(|last| index < last.0) {
                return Err(Box::new(Violation::HandleReordered { earlier, later: append, index }));
            }
            last = Some((index, append));
        }
    }
    Ok(())
}

/// Every read, also a stale one, tells a prefix of the log, and keeps the bound that it was asked for.
fn check_reads(history: &History, log: &[u64]) -> Result<(), Box<Violation>> {
    for &read in history.reads().iter().filter(|read| read.has_returned()) {
        if (log.len() as u64) < read.seen() {
            return Err(Box::new(Violation::BeyondLog { read, end: log.len() as u64 }));
        }
        if read.tail.is_some_and(|tail| tail < read.last()) {
            return Err(Box::new(Violation::BeyondTail(read)));
        }
        if !read.keeps_bound() {
            return Err(Box::new(Violation::TooOld(read)));
        }
        for (&told, index) in history.entries(&read).iter().zip(read.first..) {
            let agreed = log[index as usize - 1];
            if told != agreed {
                return Err(Box::new(Violation::ReadDiffers { read, index, told, agreed }));
            }
        }
    }
    Ok(())
}

/// A client's monotonic read sees no less than those which had returned to it before it was invoked.
fn check_monotonic(history: &History) -> Result<(), Box<Violation>> {
    let asked = |read: &&Read| read.has_returned() && read.freshness == Freshness::Monotonic && read.tail.is_some();
    let mut reads: Vec<&Read> = history.reads().iter().filter(asked).collect();
    reads.sort_by_key(|read| (read.client, read.span.end));
    for client in reads.chunk_by(|a, b| a.client == b.client) {
        // By return: the read that has seen most so far.
        let mut most: Vec<&Read> = Vec::with_capacity(client.len());
        for &read in client {
            let returned = client.partition_point(|other| other.span.end < read.span.call);
            if let Some(&&earlier) = most[..returned].last().filter(|earlier| read.tail < earlier.tail) {
                return Err(Box::new(Violation::ClientWentBack { earlier, later: *read }));
            }
            let before = most.last().copied().filter(|before| read.tail <= before.tail);
            most.push(before.unwrap_or(read));
        }
    }
    Ok(())
}

/// What was invoked last among all that stands below a place in the log.
#[derive(Clone, Copy)]
enum Latest {
    Append(Append, u64),
    Read(Read),
}

impl Latest {
    fn call(&self) -> u32 {
        match self {
            Self::Append(append, _) => append.span.call,
            Self::Read(read) => read.span.call,
        }
    }
}

/// The sweep in log order: append 1, reads that saw 1, append 2, and so on.
fn check_order(history: &History, places: &Places) -> Result<(), Box<Violation>> {
    let told = |read: &&Read| read.has_returned() && (read.tail.is_some() || read.last() != 0);
    let mut reads: Vec<&Read> = history.reads().iter().filter(told).collect();
    reads.sort_by_key(|read| read.seen());
    let mut reads = reads.chunk_by(|a, b| a.seen() == b.seen()).peekable();
    let mut latest: Option<Latest> = None;
    for index in 0..=places.at_index.len() as u64 {
        if index != 0 {
            let append = history.appends()[places.at_index[index as usize - 1] as usize];
            let broken = latest.filter(|low| append.end() < low.call());
            if let Some(low) = broken {
                return Err(Box::new(match low {
                    Latest::Append(low, low_index) => {
                        Violation::RealTime { low, low_index, high: append, high_index: index }
                    }
                    Latest::Read(read) => Violation::StaleRead { read, append, index },
                }));
            }
            if latest.is_none_or(|low| low.call() < append.span.call) {
                latest = Some(Latest::Append(append, index));
            }
        }
        let Some(saw) = reads.next_if(|reads| reads[0].seen() == index) else { continue };
        for &&read in saw {
            let broken = latest.filter(|low| read.span.end < low.call());
            if let Some(low) = broken {
                return Err(Box::new(match low {
                    Latest::Append(append, index) => Violation::FutureRead { read, append, index },
                    Latest::Read(later) => Violation::ReadsWentBack { earlier: read, later },
                }));
            }
        }
        // Reads that saw the same length are in no order: they count only for what stands above.
        for &&read in saw.iter().filter(|read| read.exact().is_some()) {
            if latest.is_none_or(|low| low.call() < read.span.call) {
                latest = Some(Latest::Read(read));
            }
        }
    }
    Ok(())
}
