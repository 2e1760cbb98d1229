//! What is still to happen, in the order of (time, number).
//!
//! Events lie in a slab, so that the heap moves only small keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::world::Event;

/// The events to come.
#[derive(Default)]
pub(super) struct Agenda {
    /// (time, number, place in the slab); numbers rise, so that events of one instant keep their order.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    slab: Vec<Option<Event>>,
    free: Vec<u32>,
    next: u64,
}

impl Agenda {
    /// Puts an event at an instant.
    pub(super) fn put(&mut self, at_ns: u64, event: Event) {
        let place = match self.free.pop() {
            Some(place) => {
                self.slab[place as usize] = Some(event);
                place
            }
            None => {
                self.slab.push(Some(event));
                self.slab.len() as u32 - 1
            }
        };
        self.next += 1;
        self.heap.push(Reverse((at_ns, self.next, place)));
    }

    /// Takes the next event, if it is due by `end_ns`.
    pub(super) fn next_by(&mut self, end_ns: u64) -> Option<(u64, Event)> {
        let Reverse((at_ns, _, place)) = *self.heap.peek()?;
        if end_ns < at_ns {
            return None;
        }
        self.heap.pop();
        self.free.push(place);
        Some((at_ns, self.slab[place as usize].take().expect("every key has its event")))
    }
}
