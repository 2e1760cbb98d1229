//! The handle on a batch that core and shard carry instead of bytes.
//!
//! A batch is born in an open batch or in a receive buffer, is copied once into the frame of the write-ahead log, and
//! is from then on only referred to: by apply, by the outboxes, by the log's cache.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use synod_wal::frame::{RecordSpan, SharedFrame};

use crate::batch::Entries;
use crate::large::PartOf;

/// Where the bytes of a batch are.
#[derive(Debug)]
pub(crate) enum Place {
    /// In the receive buffer that is being handled right now.
    Received(Range<usize>),
    /// In a batch that was just closed.
    Closed(Entries),
    /// A part of a large entry that is being proposed.
    Part(Rc<Vec<u8>>, Range<usize>),
    /// In a frame of the write-ahead log.
    Framed(Rc<SharedFrame>, RecordSpan),
    /// In memory of its own: read back from the log, or reported in phase 1.
    Owned(Box<[u8]>),
    /// Elsewhere: this is all that a witness keeps of it.
    Stub,
}

/// What a batch's record header says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct BatchHeader {
    pub(crate) entries: u32,
    pub(crate) bytes: u32,
    pub(crate) crc: u32,
    /// The client session, or 0.
    pub(crate) client: u64,
    /// The first sequence number of the batch in its session.
    pub(crate) sequence: u64,
    /// It holds no entries but a part of one.
    pub(crate) part: Option<PartOf>,
}

impl BatchHeader {
    /// How many slots the entries take up that end in this one.
    pub(crate) fn slots(&self) -> u64 {
        self.part.map_or(1, |part| u64::from(part.count))
    }
}

#[derive(Debug)]
struct Inner {
    header: BatchHeader,
    place: RefCell<Place>,
}

/// A batch.
#[derive(Clone, Debug)]
pub(crate) struct Payload(Rc<Inner>);

impl Payload {
    pub(crate) fn new(header: BatchHeader, place: Place) -> Self {
        Self(Rc::new(Inner { header, place: RefCell::new(place) }))
    }

    pub(crate) fn header(&self) -> BatchHeader {
        self.0.header
    }

    /// The frame and the record that hold the batch, once it is in the log.
    pub(crate) fn framed(&self) -> Option<(Rc<SharedFrame>, RecordSpan)> {
        match &*self.0.place.borrow() {
            Place::Framed(frame, span) => Some((Rc::clone(frame), *span)),
            _ => None,
        }
    }

    /// Hands the body to `f`, as one or two pieces. `received` is the receive buffer being handled.
    pub(crate) fn with_parts<R>(&self, received: &[u8], f: impl FnOnce(&[&[u8]]) -> R) -> R {
        match &*self.0.place.borrow() {
            Place::Received(range) => f(&[&received[range.clone()]]),
            Place::Closed(entries) => f(&entries.parts(&mut Vec::new())),
            Place::Part(entry, range) => f(&[&entry[range.clone()]]),
            Place::Framed(frame, span) => {
                frame.with_bytes(|bytes| f(&[&bytes[span.body_start as usize..span.body_end as usize]]))
            }
            Place::Owned(body) => f(&[body]),
            Place::Stub => unreachable!("nobody asks a witness for bytes"),
        }
    }

    /// Hands the body to `f` in one piece.
    pub(crate) fn with_body<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        match &*self.0.place.borrow() {
            Place::Received(_) => unreachable!("a received batch is placed before it is used"),
            Place::Closed(entries) => f(&entries.parts(&mut Vec::new()).concat()),
            Place::Part(entry, range) => f(&entry[range.clone()]),
            Place::Framed(frame, span) => {
                frame.with_bytes(|bytes| f(&bytes[span.body_start as usize..span.body_end as usize]))
            }
            Place::Owned(body) => f(body),
            Place::Stub => unreachable!("nobody asks a witness for bytes"),
        }
    }

    /// Copies the batch out of the frame that holds it.
    pub(crate) fn detach(&self) {
        let body = self.with_body(|body| Box::<[u8]>::from(body));
        self.0.place.replace(Place::Owned(body));
    }

    /// The batch is in the log now. Returns the closed batch's buffers, to be used again.
    pub(crate) fn set_framed(&self, frame: Rc<SharedFrame>, span: RecordSpan) -> Option<Entries> {
        match self.0.place.replace(Place::Framed(frame, span)) {
            Place::Closed(entries) => Some(entries),
            _ => None,
        }
    }
}

impl synod_core::Payload for Payload {
    fn bytes(&self) -> u32 {
        self.0.header.bytes
    }

    fn stub(&self) -> Self {
        if self.is_stub() { self.clone() } else { Self::new(self.header(), Place::Stub) }
    }

    fn is_stub(&self) -> bool {
        matches!(&*self.0.place.borrow(), Place::Stub)
    }

    fn agrees(&self, other: &Self) -> bool {
        self.header() == other.header()
    }
}
