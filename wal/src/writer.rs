//! The pure writer: frames in, disk operations out, completions in, durability events out. No file, thread or clock.
//!
//! Invariants:
//! - frame n is submitted only when n-2 and all before it are durable: at most two frames are in flight;
//! - durability is told in order and cumulatively;
//! - a segment's header is submitted only when every frame before it is durable (else the end that it states could name
//!   a frame that a crash loses), and the first frame behind it only when that header is durable;
//! - the first failed write or preparation poisons the writer for ever: nothing is submitted or told durable after it;
//!   only a full disk is waited out, as long as there is a segment to go on in: a preparation touches nothing in use;
//! - files leave in the order of their generations, so any crash leaves live segments without gaps.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    rc::Rc,
};

use thiserror::Error;

use crate::{
    PAGE_BYTES,
    frame::{FRAME_BYTES_MAX, FrameMeta, SharedFrame},
    marks::{Mark, mark},
    ops::{DiskDone, DiskError, DiskOp, WriteData},
    recover::{Recovery, SegmentInfo},
    segment::{End, SEGMENT_BYTES, SEGMENT_BYTES_MIN, SegmentHeader, wal_tag},
};

/// At most this many frames are in flight.
pub const FRAMES_IN_FLIGHT_MAX: usize = 2;
/// Released files are kept for reuse up to this many above the spare ones; more are deleted.
const SPARE_SURPLUS: usize = 2;

/// What a writer must know.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// Size of a segment file in bytes: a multiple of 4096, [`SEGMENT_BYTES`] by default. Below two times
    /// [`FRAME_BYTES_MAX`] (tests) frames must be smaller: see [`Writer::frame_bytes_max`].
    pub segment_bytes: u64,
    /// How many segments to keep prepared ahead; 0: each is made when it is wanted, and frames wait for it.
    pub spare_segments: usize,
    /// The shard.
    pub shard: u32,
    /// The data directory's incarnation.
    pub incarnation: u128,
    /// A second frame may start beside one in flight when at least this many bytes are pending.
    pub second_frame_bytes_min: usize,
    /// The log should not hold more than this many bytes of disk: see [`Writer::bytes_over_limit`].
    pub bytes_max: u64,
}

impl WriterConfig {
    /// The usual values for a shard of a data directory.
    pub fn new(shard: u32, incarnation: u128) -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            spare_segments: 2,
            shard,
            incarnation,
            second_frame_bytes_min: 64 << 10,
            bytes_max: 64 * SEGMENT_BYTES,
        }
    }
}

/// What the writer tells its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalEvent {
    /// Every frame up to this sequence is durable.
    Durable {
        /// The highest such sequence.
        through: u64,
    },
    /// A new segment is open: its first frames must be the owner's summaries. Also told once after every start.
    Rolled {
        /// The segment.
        generation: u64,
    },
}

/// Why the log cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WalError {
    /// A write or a preparation failed. What was not told durable may be lost, and trying again is no cure: a failed sync
    /// may have dropped the pages.
    #[error(
        "the write-ahead log failed and takes no more writes: {cause}. Restart the node once the disk is sound; \
         recovery finds what is durable"
    )]
    Poisoned {
        /// The first failure.
        cause: DiskError,
    },
}

/// Where a frame was put.
pub type Appended = (u64, u64, u64);

/// The writer of one shard's log.
#[derive(Debug)]
pub struct Writer {
    config: WriterConfig,
    tag: u64,
    state: State,
    /// Whether a segment was opened since the start.
    opened: bool,
    /// Live segments, oldest first; the last is the open one unless `state` says otherwise.
    segments: VecDeque<SegmentInfo>,
    /// Coming segments, being prepared or ready.
    spares: BTreeMap<u64, Spare>,
    /// The last preparation that found no room, while there is one to be done again.
    starved: Option<DiskError>,
    /// Files that recovery found and no segment uses; taken by `start`.
    free: Vec<u64>,
    useless: Vec<u64>,
    prepare_next: u64,
    ticket_next: u64,
    in_flight: VecDeque<InFlight>,
    /// The chain: the last frame appended.
    last_sequence: u64,
    last_crc: u32,
    durable_through: u64,
    poison: Option<DiskError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `start` was not called yet.
    New,
    /// A segment is wanted: frames in flight must become durable and a file be ready.
    Rolling,
    /// The header of this segment is being written.
    Opening { ticket: u64, generation: u64 },
    /// Frames may be appended.
    Open,
}

#[derive(Debug)]
struct Spare {
    recycled: bool,
    state: Preparation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preparation {
    UnderWay,
    Ready,
    /// There was no room.
    Failed,
}

#[derive(Debug)]
struct InFlight {
    ticket: u64,
    sequence: u64,
    durable: bool,
}

impl Writer {
    /// A writer that goes on where `recovery` ended. The driver must have flushed the kept tail before the first
    /// operation is carried out (`disk::files::flush_tail`).
    ///
    /// # Panics
    /// If the configuration's segment size is not a multiple of 4096 of at least three pages.
    pub fn new(config: WriterConfig, recovery: &Recovery) -> Self {
        assert!(config.segment_bytes.is_multiple_of(PAGE_BYTES as u64), "segment_bytes must be a multiple of 4096");
        assert!(SEGMENT_BYTES_MIN <= config.segment_bytes, "segment_bytes must be at least {SEGMENT_BYTES_MIN}");
        Self {
            tag: wal_tag(config.incarnation, config.shard),
            state: State::New,
            opened: false,
            segments: recovery.segments.iter().copied().collect(),
            spares: BTreeMap::new(),
            starved: None,
            free: recovery.free.clone(),
            useless: recovery.useless.clone(),
            prepare_next: recovery.next_generation,
            ticket_next: 1,
            in_flight: VecDeque::with_capacity(FRAMES_IN_FLIGHT_MAX),
            last_sequence: recovery.next_sequence - 1,
            last_crc: recovery.last.map_or(0, |end| end.crc),
            durable_through: recovery.next_sequence - 1,
            poison: None,
            config,
        }
    }

    /// Asks for the first segments. Once the first is ready its header is written, and once that is durable the log is
    /// open ([`WalEvent::Rolled`]).
    ///
    /// # Panics
    /// At a second call.
    pub fn start(&mut self, ops: &mut Vec<DiskOp>) {
        assert_eq!(self.state, State::New, "a writer starts once");
        self.state = State::Rolling;
        for generation in std::mem::take(&mut self.useless) {
            ops.push(DiskOp::Discard { generation });
        }
        // Ascending, so that no rename meets a file that is still to be renamed itself.
        for generation in std::mem::take(&mut self.free) {
            self.reuse(generation, ops);
        }
        self.keep_spares(self.config.spare_segments, ops);
    }

    /// Whether [`append`](Self::append) may be called now, with `pending_bytes` waiting.
    pub fn may_start_frame(&self, pending_bytes: usize) -> bool {
        self.poison.is_none()
            && self.state == State::Open
            && match self.in_flight.len() {
                0 => true,
                1 => self.config.second_frame_bytes_min <= pending_bytes,
                _ => false,
            }
    }

    /// Seals `frame` and submits it; an empty one is a mark that only states what is durable. Gives (sequence,
    /// generation, offset of the frame in the segment's file). `alone` tells that the caller waits for nothing but this
    /// frame: if it is one page and the only one in flight, the disk may write it on the caller's thread.
    ///
    /// # Panics
    /// If the log is poisoned or not open, two frames are in flight, or the frame is larger than
    /// [`frame_bytes_max`](Self::frame_bytes_max): ask [`may_start_frame`](Self::may_start_frame) first.
    pub fn append(&mut self, frame: Rc<SharedFrame>, alone: bool, ops: &mut Vec<DiskOp>) -> Appended {
        assert!(self.poison.is_none(), "a poisoned log takes no frames");
        assert_eq!(self.state, State::Open, "the log is not open");
        assert!(self.in_flight.len() < FRAMES_IN_FLIGHT_MAX, "two frames are in flight");
        let sequence = self.last_sequence + 1;
        assert!(sequence <= self.durable_through + FRAMES_IN_FLIGHT_MAX as u64);
        let frame_bytes_max = self.frame_bytes_max();
        let segment_bytes = self.config.segment_bytes;
        let segment = self.segments.back_mut().expect("an open log has a segment");
        let (generation, offset) = (segment.generation, segment.bytes_used);
        self.last_crc = frame.seal(FrameMeta {
            generation,
            sequence,
            durable_through: self.durable_through,
            prev_crc: self.last_crc,
            tag: self.tag,
        });
        self.last_sequence = sequence;
        let bytes = frame.sealed_bytes().len();
        assert!(bytes <= frame_bytes_max, "a frame of {bytes} bytes; segments of this size take {frame_bytes_max}");
        segment.bytes_used += bytes as u64;
        assert!(segment.bytes_used <= segment_bytes);
        if segment_bytes - segment.bytes_used < frame_bytes_max as u64 {
            self.state = State::Rolling;
        }
        if !self.in_flight.is_empty() {
            mark(Mark::SecondFrame);
        }
        let ticket = self.ticket();
        let alone = alone && self.in_flight.is_empty() && bytes <= PAGE_BYTES;
        self.in_flight.push_back(InFlight { ticket, sequence, durable: false });
        ops.push(DiskOp::Write { ticket, generation, offset, data: WriteData::Frame(frame), alone });
        (sequence, generation, offset)
    }

    /// Takes a `Written` or `Prepared` completion.
    ///
    /// # Errors
    /// If it, or one before it, failed: the log is poisoned.
    ///
    /// # Panics
    /// At a completion that this writer never asked for.
    pub fn on_done(
        &mut self,
        done: DiskDone,
        ops: &mut Vec<DiskOp>,
        events: &mut Vec<WalEvent>,
    ) -> Result<(), WalError> {
        let result = match &done {
            DiskDone::Written { result, .. } | DiskDone::Prepared { result, .. } => result.clone(),
            DiskDone::Read { .. } => {
                panic!("reads are answered to who asked for them, not to the writer")
            }
        };
        match result {
            Err(cause) if self.poison.is_none() => match done {
                DiskDone::Prepared { generation, .. } if self.wait_for_room(generation, &cause) => return Ok(()),
                _ => {
                    mark(Mark::Poisoned);
                    self.poison = Some(cause);
                }
            },
            _ => {}
        }
        if let Some(cause) = &self.poison {
            return Err(WalError::Poisoned { cause: cause.clone() });
        }
        match done {
            DiskDone::Written { ticket, .. } => self.on_written(ticket, events),
            DiskDone::Prepared { generation, .. } => {
                let spare = self.spares.get_mut(&generation).expect("only a coming segment is prepared");
                assert_eq!(spare.state, Preparation::UnderWay, "a segment is prepared once");
                spare.state = Preparation::Ready;
                if self.spares.values().all(|spare| spare.state != Preparation::Failed) {
                    self.starved = None;
                }
            }
            DiskDone::Read { .. } => unreachable!("refused above"),
        }
        self.roll(ops);
        Ok(())
    }

    /// Whether a preparation failed for want of room only, and there is another segment to go on in.
    fn wait_for_room(&mut self, generation: u64, cause: &DiskError) -> bool {
        if !matches!(cause.kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return false;
        }
        let spare = self.spares.get_mut(&generation).expect("only a coming segment is prepared");
        if spare.recycled {
            // It needed no room: this is something else.
            return false;
        }
        mark(Mark::NoRoom);
        spare.state = Preparation::Failed;
        self.starved = Some(cause.clone());
        let none = self.spares.values().all(|spare| spare.state == Preparation::Failed);
        self.opened || self.state != State::Rolling || !none
    }

    /// Why no further segment could be made, if the disk is full: what is open and ready is all there is. To be met by
    /// taking nothing new, [`release`](Self::release) and [`retry_prepare`](Self::retry_prepare).
    pub fn starved(&self) -> Option<&DiskError> {
        self.starved.as_ref()
    }

    /// Tries again to make the segments for which there was no room.
    pub fn retry_prepare(&mut self, ops: &mut Vec<DiskOp>) {
        for (generation, spare) in &mut self.spares {
            if spare.state == Preparation::Failed && self.poison.is_none() {
                mark(Mark::PreparedAgain);
                spare.state = Preparation::UnderWay;
                ops.push(DiskOp::Prepare { generation: *generation, recycle: None });
            }
        }
    }

    /// Frees the oldest segment: its file is reused or deleted. The owner must hold no live record in it, and what
    /// replaces its records must be durable.
    ///
    /// # Panics
    /// If it is not the oldest live segment, or no newer one is open yet.
    pub fn release(&mut self, generation: u64, ops: &mut Vec<DiskOp>) {
        let oldest = self.segments.front().expect("there is a segment");
        assert_eq!(oldest.generation, generation, "segments are released oldest first");
        // Only with an open successor: its header is durable then, so the log never loses its only segment.
        assert!(oldest.sealed && 1 < self.segments.len(), "segment {generation} has no successor yet");
        let segment = self.segments.pop_front().expect("it was there");
        if self.poison.is_some() {
            return;
        }
        if segment.segment_bytes == self.config.segment_bytes {
            self.reuse(generation, ops);
        } else {
            ops.push(DiskOp::Discard { generation });
        }
    }

    /// Asks for coming segments until `segments` are ready or being made, beyond the usual spare ones.
    pub fn prepare_ahead(&mut self, segments: usize, ops: &mut Vec<DiskOp>) {
        if self.poison.is_none() && self.state != State::New {
            self.keep_spares(segments, ops);
        }
    }

    /// The largest frame that may be appended, in bytes, padded.
    pub fn frame_bytes_max(&self) -> usize {
        let page = PAGE_BYTES as u64;
        let half = (self.config.segment_bytes - page) / 2 / page * page;
        half.min(FRAME_BYTES_MAX as u64) as usize
    }

    /// Live segments, oldest first.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = SegmentInfo> + '_ {
        self.segments.iter().copied()
    }

    /// The oldest live segment.
    pub fn oldest(&self) -> Option<SegmentInfo> {
        self.segments.front().copied()
    }

    /// The segment that is open for frames, if one is.
    pub fn open_generation(&self) -> Option<u64> {
        let open = self.state == State::Open;
        self.segments.back().filter(|_| open).map(|segment| segment.generation)
    }

    /// Bytes of disk that live segments hold (whole files).
    pub fn bytes_live(&self) -> u64 {
        self.segments.iter().map(|segment| segment.segment_bytes).sum()
    }

    /// Whether live segments hold more than the configuration's `bytes_max`: time to trim, or to refuse.
    pub fn bytes_over_limit(&self) -> bool {
        self.config.bytes_max < self.bytes_live()
    }

    /// How many coming segments are ready.
    pub fn spares_ready(&self) -> usize {
        self.spares.values().filter(|spare| spare.state == Preparation::Ready).count()
    }

    /// Every frame up to this sequence is durable.
    pub fn durable_through(&self) -> u64 {
        self.durable_through
    }

    /// The sequence that the next frame gets.
    pub fn next_sequence(&self) -> u64 {
        self.last_sequence + 1
    }

    /// Frames that were submitted and not told durable.
    pub fn frames_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a write failed: for ever.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    fn on_written(&mut self, ticket: u64, events: &mut Vec<WalEvent>) {
        if let State::Opening { ticket: header, generation } = self.state
            && header == ticket
        {
            self.on_header_durable(generation, events);
            return;
        }
        let frame = self.in_flight.iter_mut().find(|frame| frame.ticket == ticket).expect("a write in flight");
        assert!(!frame.durable, "a write is answered once");
        frame.durable = true;
        if self.in_flight.front().is_some_and(|first| !first.durable) {
            mark(Mark::WrittenOutOfOrder);
        }
        let before = self.durable_through;
        while let Some(first) = self.in_flight.front().filter(|frame| frame.durable) {
            assert_eq!(first.sequence, self.durable_through + 1, "durability is told in order");
            self.durable_through = first.sequence;
            self.in_flight.pop_front();
        }
        if before < self.durable_through {
            events.push(WalEvent::Durable { through: self.durable_through });
        }
    }

    fn on_header_durable(&mut self, generation: u64, events: &mut Vec<WalEvent>) {
        if let Some(previous) = self.segments.back_mut() {
            previous.sealed = true;
        }
        self.segments.push_back(SegmentInfo {
            generation,
            first_sequence: self.last_sequence + 1,
            bytes_used: PAGE_BYTES as u64,
            segment_bytes: self.config.segment_bytes,
            sealed: false,
        });
        self.state = State::Open;
        self.opened = true;
        events.push(WalEvent::Rolled { generation });
    }

    /// Opens the next segment if one is wanted, nothing is in flight, and its file is ready.
    fn roll(&mut self, ops: &mut Vec<DiskOp>) {
        if self.state != State::Rolling || !self.in_flight.is_empty() {
            if self.state == State::Rolling {
                mark(Mark::RollWaits);
            }
            return;
        }
        assert_eq!(self.durable_through, self.last_sequence, "the end that a header states is durable");
        // Without spare ones the segment is asked for only now that it is wanted.
        self.keep_spares(0, ops);
        let Some(first) = self.spares.first_entry().filter(|spare| spare.get().state == Preparation::Ready) else {
            return;
        };
        let (generation, spare) = first.remove_entry();
        let previous = self.segments.back().map(|segment| End {
            generation: segment.generation,
            sequence: self.last_sequence,
            offset: segment.bytes_used,
            crc: self.last_crc,
        });
        assert_eq!(generation, previous.map_or(1, |end| end.generation + 1), "generations have no gaps");
        let header = SegmentHeader {
            generation,
            segment_bytes: self.config.segment_bytes,
            shard: self.config.shard,
            incarnation: self.config.incarnation,
            first_sequence: self.last_sequence + 1,
            recycled: spare.recycled,
            previous,
        };
        let ticket = self.ticket();
        self.state = State::Opening { ticket, generation };
        ops.push(DiskOp::Write { ticket, generation, offset: 0, data: WriteData::Page(header.encode()), alone: false });
        self.keep_spares(self.config.spare_segments, ops);
    }

    fn keep_spares(&mut self, spares: usize, ops: &mut Vec<DiskOp>) {
        // The segment that is wanted now is no spare.
        let wanted = spares + usize::from(self.state == State::Rolling);
        while self.spares.len() < wanted {
            self.prepare(None, ops);
        }
    }

    fn reuse(&mut self, generation: u64, ops: &mut Vec<DiskOp>) {
        // Never set aside: a file kept while a newer one is deleted would leave a gap for recovery.
        if let Some((wanted, spare)) = self.spares.iter_mut().find(|(_, spare)| spare.state == Preparation::Failed) {
            mark(Mark::ReusedForFailed);
            *spare = Spare { recycled: true, state: Preparation::UnderWay };
            ops.push(DiskOp::Prepare { generation: *wanted, recycle: Some(generation) });
        } else if self.spares.len() < self.config.spare_segments + SPARE_SURPLUS {
            self.prepare(Some(generation), ops);
        } else {
            mark(Mark::Discarded);
            ops.push(DiskOp::Discard { generation });
        }
    }

    fn prepare(&mut self, recycle: Option<u64>, ops: &mut Vec<DiskOp>) {
        let generation = self.prepare_next;
        self.prepare_next += 1;
        self.spares.insert(generation, Spare { recycled: recycle.is_some(), state: Preparation::UnderWay });
        ops.push(DiskOp::Prepare { generation, recycle });
    }

    fn ticket(&mut self) -> u64 {
        self.ticket_next += 1;
        self.ticket_next - 1
    }
}
