//! Valid histories at random, from a sequential model with concurrency around it: appends and reads are invoked, take
//! effect at one instant, and return later or never. All choices come from numbers, so that a test's seed repeats them
//! and a shrinker can work on them. The events can be altered before they become a history: so faults are planted.

use std::collections::BTreeMap;

use super::history::{Freshness, History, Limits, Outcome};

/// Something that a client does or is told. Operations are named by their place among those of their kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A client asks to append.
    Append {
        /// Who.
        client: u32,
        /// Its ordered proposer.
        handle: Option<u32>,
        /// What.
        payload: u64,
    },
    /// An append returns.
    Appended {
        /// Which append.
        append: usize,
        /// As told.
        outcome: Outcome,
    },
    /// A client asks to read.
    Read {
        /// Who.
        client: u32,
        /// With which promise.
        freshness: Freshness,
    },
    /// A read returns.
    WasRead {
        /// Which read.
        read: usize,
        /// The highest index, if told.
        tail: Option<u64>,
        /// The first entry's index.
        first: u64,
        /// Payloads from there on.
        entries: Vec<u64>,
    },
}

/// A history in the making, and the log that it led to.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// With their times.
    pub events: Vec<(u64, Event)>,
    /// The payloads from index 1 on.
    pub log: Vec<u64>,
}

impl Sample {
    /// Draws a valid history; each number makes one step or none.
    pub fn draw(choices: impl IntoIterator<Item = u32>) -> Self {
        let mut model = Model::default();
        choices.into_iter().for_each(|choice| model.step(choice));
        model.sample
    }

    /// Plays the events to a new history.
    pub fn history(&self) -> History {
        let mut history = History::new(7, Limits::default());
        let (mut appends, mut reads) = (Vec::new(), Vec::new());
        for (now, event) in &self.events {
            match event {
                Event::Append { client, handle, payload } => {
                    appends.push(history.append(*now, *client, *handle, *payload).expect("it fits"));
                }
                Event::Appended { append, outcome } => history.appended(*now, appends[*append], *outcome),
                Event::Read { client, freshness } => {
                    reads.push(history.read(*now, *client, *freshness).expect("it fits"));
                }
                Event::WasRead { read, tail, first, entries } => {
                    history.was_read(*now, reads[*read], *tail, *first, entries).expect("it fits");
                }
            }
        }
        history
    }
}

const CLIENTS: u32 = 5;
const HANDLES: u32 = 3;
const ENTRIES_TOLD_MAX: u64 = 6;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    At(u64),
    /// Never to take effect.
    Dead,
}

#[derive(Clone, Copy)]
struct OpenRead {
    read: usize,
    client: u32,
    freshness: Freshness,
    /// Not shorter than this.
    floor: u64,
    /// The length that it saw, once it has looked.
    saw: Option<u64>,
}

#[derive(Default)]
struct Model {
    sample: Sample,
    now: u64,
    /// By append: its handle (0 is none), payload and state.
    appends: Vec<(u32, u64, State)>,
    /// Appends that have not returned.
    open: Vec<usize>,
    /// Appends that may still take effect, returned or not.
    waiting: Vec<usize>,
    /// By handle: its appends that are not in the log, in order.
    queues: BTreeMap<u32, Vec<usize>>,
    /// By place: the handle in use there. A refused one is replaced.
    handles: [u32; HANDLES as usize],
    handles_made: u32,
    reads: usize,
    open_reads: Vec<OpenRead>,
    /// By client: the highest tail told to its monotonic reads.
    floors: [u64; CLIENTS as usize],
}

impl Model {
    fn step(&mut self, choice: u32) {
        let (kind, with) = (choice % 16, (choice / 16) as usize);
        // Often no time passes: what orders events is their order.
        self.now += [0, 0, 1, 1_000][with % 4];
        match kind {
            0..=3 => self.append(with),
            4..=7 => self.take_effect(with),
            8..=10 => self.return_append(with),
            11..=12 => self.read(with),
            13 => self.look(with),
            _ => self.return_read(with),
        }
    }

    fn event(&mut self, event: Event) {
        self.sample.events.push((self.now, event));
    }

    fn append(&mut self, with: usize) {
        let number = self.appends.len();
        let handle = (with % 2 == 1).then(|| {
            let place = with / 2 % HANDLES as usize;
            if self.handles[place] == 0 {
                self.handles_made += 1;
                self.handles[place] = self.handles_made;
            }
            self.handles[place]
        });
        // Neither dense nor in order.
        let payload = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.appends.push((handle.unwrap_or(0), payload, State::Waiting));
        self.open.push(number);
        self.waiting.push(number);
        if let Some(handle) = handle {
            self.queues.entry(handle).or_default().push(number);
        }
        self.event(Event::Append { client: with as u32 % CLIENTS, handle, payload });
    }

    fn take_effect(&mut self, with: usize) {
        let Some(&picked) = pick(&self.waiting, with) else { return };
        // In the handle's order: its first goes first.
        let handle = self.appends[picked].0;
        let number = if handle == 0 { picked } else { self.queues[&handle][0] };
        self.waiting.retain(|other| *other != number);
        if let Some(queue) = self.queues.get_mut(&handle) {
            queue.remove(0);
        }
        self.sample.log.push(self.appends[number].1);
        self.appends[number].2 = State::At(self.sample.log.len() as u64);
    }

    /// It never takes effect, nor does anything of its handle after it; the handle is used up.
    fn refuse(&mut self, number: usize) {
        let handle = self.appends[number].0;
        let mut dead = vec![number];
        if let Some(queue) = self.queues.get_mut(&handle) {
            let place = queue.iter().position(|other| *other == number).expect("it waits");
            dead = queue.split_off(place);
            self.handles.iter_mut().filter(|used| **used == handle).for_each(|used| *used = 0);
        }
        for number in dead {
            self.appends[number].2 = State::Dead;
            self.waiting.retain(|other| *other != number);
        }
    }

    fn return_append(&mut self, with: usize) {
        let Some(&append) = pick(&self.open, with) else { return };
        self.open.retain(|other| *other != append);
        let refusal = if with.is_multiple_of(2) { Outcome::Rejected } else { Outcome::Superseded };
        let outcome = match (self.appends[append].2, with % 8) {
            (_, 0) => Outcome::Unknown,
            (State::At(_), 1) => Outcome::Duplicate,
            (State::At(index), _) => Outcome::Committed { index },
            (State::Dead, _) => refusal,
            (State::Waiting, _) => {
                self.refuse(append);
                refusal
            }
        };
        self.event(Event::Appended { append, outcome });
    }

    fn read(&mut self, with: usize) {
        let client = with as u32 % CLIENTS;
        let length = self.sample.log.len() as u64;
        let (freshness, floor) = match with / 8 % 5 {
            0 => (Freshness::Stale, 0),
            1 => (Freshness::Monotonic, self.floors[client as usize]),
            2 => (Freshness::AtLeast(length), length),
            _ => (Freshness::Linearizable, 0),
        };
        self.open_reads.push(OpenRead { read: self.reads, client, freshness, floor, saw: None });
        self.reads += 1;
        self.event(Event::Read { client, freshness });
    }

    fn look(&mut self, with: usize) {
        let length = self.sample.log.len() as u64;
        if self.open_reads.is_empty() {
            return;
        }
        let place = with % self.open_reads.len();
        let read = &mut self.open_reads[place];
        let prefix = read.floor + with as u64 % (length - read.floor + 1);
        read.saw = Some(if read.freshness == Freshness::Linearizable { length } else { prefix });
    }

    fn return_read(&mut self, with: usize) {
        let Some(read) = pick(&self.open_reads, with).copied() else { return };
        let place = with % self.open_reads.len();
        if read.saw.is_none() {
            self.look(with);
        }
        let read = self.open_reads.swap_remove(place);
        let saw = read.saw.expect("it has looked");
        let tail = (with % 8 != 7).then_some(saw);
        if tail.is_some() && read.freshness == Freshness::Monotonic {
            let floor = &mut self.floors[read.client as usize];
            *floor = saw.max(*floor);
        }
        let first = 1 + (with as u64 / 8) % (saw + 1);
        let last = saw.min(first + with as u64 % ENTRIES_TOLD_MAX);
        let entries = self.sample.log[first as usize - 1..last as usize].to_vec();
        self.event(Event::WasRead { read: read.read, tail, first, entries });
    }
}

fn pick<T>(from: &[T], with: usize) -> Option<&T> {
    (!from.is_empty()).then(|| &from[with % from.len()])
}
