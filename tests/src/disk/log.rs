//! The real log, [`Writer`] and [`recover`], driven over a [`SimDisk`], with a memory of its own of what was asked of it.
//!
//! Invariants: the memory is told by the calls, never read from the disk; somebody may watch between any two steps, and
//! what he sees is what a crash there would meet.

use std::rc::Rc;

use synod_wal::{
    AlignedBuf, DiskDone, Expect, FRAME_HEADER_BYTES, Frame, FrameHeader, RecordHeader, Recovery, SegmentHeader,
    SharedFrame, Verdict, WalError, WalEvent, Writer, WriterConfig, body_crc, recover, segment_name,
};

use super::{Dice, OpId, Outcome, SimDisk, content::PAGE};

/// Looks at the disk and at what is known of it, between two steps.
pub type Watch<'a> = dyn FnMut(&SimDisk, &History) + 'a;

/// A frame that was submitted.
#[derive(Debug)]
pub struct Issued {
    /// Its records: where they start in the file, their headers and bodies.
    pub records: Vec<(u64, RecordHeader, Vec<u8>)>,
    /// The segment.
    pub generation: u64,
    /// Where it starts in the segment's file.
    pub offset: u64,
    frame: Rc<SharedFrame>,
}

impl Issued {
    /// The frame's bytes on disk.
    pub fn bytes(&self) -> &[u8] {
        self.frame.sealed_bytes()
    }
}

/// What a log was asked to hold, and what it said about it.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// All frames of the log that may be there, by sequence from 1.
    pub issued: Rc<Vec<Rc<Issued>>>,
    /// Frames up to this sequence were told durable.
    pub acknowledged: u64,
    /// Frames from this sequence on were not released.
    pub floor: u64,
}

impl History {
    /// Recovers the log and holds it against this history: exactly the frames from the floor up to the last one that is
    /// wholly there, in order, each record as it was issued, and the right verdict.
    ///
    /// # Errors
    /// What is wrong.
    pub fn recover(&self, disk: &mut SimDisk, expect: Expect) -> Result<Recovery, String> {
        let mut wrong = None;
        let mut last = (0, 0);
        let mut seen = 0;
        let recovery = recover(disk, expect, &mut |place, sequence, header, body| {
            let index = if sequence == last.0 { last.1 + 1 } else { 0 };
            let issued = self.issued.get(sequence as usize - 1);
            let record = issued.and_then(|issued| issued.records.get(index));
            let same = issued.is_some_and(|issued| issued.generation == place.generation)
                && record.is_some_and(|record| (record.0, &record.1, &record.2[..]) == (place.offset, header, body));
            if !same || sequence < last.0 {
                wrong.get_or_insert((sequence, index, place));
            }
            last = (sequence, index);
            seen += 1;
        })
        .map_err(|error| format!("refused after a mere crash: {error}"))?;
        if let Some((sequence, index, place)) = wrong {
            return Err(format!("record {index} of frame {sequence} at {place:?} is not the one issued"));
        }
        let end = self.end_on(disk);
        let first = recovery.segments.first().map_or(1, |segment| segment.first_sequence);
        if (recovery.next_sequence, recovery.durable_through) != (end + 1, end) {
            let (issued, acknowledged) = (self.issued.len(), self.acknowledged);
            return Err(format!(
                "recovered up to frame {}, but up to {end} is there ({acknowledged} acknowledged, {issued} issued)",
                recovery.durable_through
            ));
        }
        if self.floor.max(1) < first {
            return Err(format!("the log starts at frame {first}, but {} was never released", self.floor));
        }
        let records: usize =
            self.issued[first as usize - 1..end as usize].iter().map(|frame| frame.records.len()).sum();
        if seen != records {
            return Err(format!("{seen} records were visited of {records} in frames {first} to {end}"));
        }
        check_verdict(disk, &recovery)?;
        Ok(recovery)
    }

    /// The last frame that is on disk with all those before it: all that were acknowledged are taken for granted.
    fn end_on(&self, disk: &SimDisk) -> u64 {
        let rest = &self.issued[self.acknowledged as usize..];
        let whole =
            |frame: &&Rc<Issued>| disk.peek(frame.generation, frame.offset, frame.bytes().len()) == frame.bytes();
        self.acknowledged + rest.iter().take_while(whole).count() as u64
    }
}

/// A log that ends with nothing behind it is clean, one with a piece of a frame behind it has a torn tail.
fn check_verdict(disk: &SimDisk, recovery: &Recovery) -> Result<(), String> {
    let Some(newest) = recovery.segments.last() else {
        return if recovery.verdict == Verdict::Clean { Ok(()) } else { Err(format!("{:?}", recovery.verdict)) };
    };
    let generation = newest.generation;
    let header = SegmentHeader::decode(&disk.peek(generation, 0, PAGE)).map_err(|error| error.to_string())?;
    let tail = disk.peek(generation, newest.bytes_used, (newest.segment_bytes - newest.bytes_used) as usize);
    let begun = tail.starts_with(b"SYNF") && tail[8..16] == generation.to_le_bytes();
    let frame = tail.chunks(PAGE).any(|page| FrameHeader::decode(page, generation).is_ok());
    let stray = !header.recycled && tail.iter().any(|byte| *byte != 0);
    let expected = if begun || frame || stray {
        Verdict::TornTail { file: segment_name(generation), offset: newest.bytes_used }
    } else {
        Verdict::Clean
    };
    if recovery.verdict != expected {
        return Err(format!("the verdict is {:?}, not {expected:?}", recovery.verdict));
    }
    Ok(())
}

/// A log that runs.
#[derive(Debug)]
pub struct SimLog {
    /// Its disk.
    pub disk: SimDisk,
    /// Its writer.
    pub writer: Writer,
    /// What it was asked and what it said.
    pub history: History,
    /// How many segments it has opened since its start.
    pub opened: u64,
    frame_next: u64,
}

impl SimLog {
    /// What recovery must be told of a log with this configuration.
    pub fn expect(config: &WriterConfig) -> Expect {
        Expect { shard: config.shard, incarnation: config.incarnation, segment_bytes: config.segment_bytes }
    }

    /// Starts a log over what `disk` holds, in the order of a node: recover, flush the kept tail, open the driver, ask for
    /// segments. Its operations are started and not carried out.
    ///
    /// # Errors
    /// What recovery found that it must not find after `history`.
    pub fn start(
        mut disk: SimDisk,
        config: &WriterConfig,
        mut history: History,
        watch: &mut Watch<'_>,
    ) -> Result<Self, String> {
        let recovery = history.recover(&mut disk, Self::expect(config))?;
        let end = recovery.durable_through;
        if end < history.issued.len() as u64 {
            Rc::make_mut(&mut history.issued).truncate(end as usize);
        }
        history.floor = recovery.segments.first().map_or(1, |segment| segment.first_sequence);
        watch(&disk, &history);
        if let Some(tail) = recovery.tail_generation() {
            disk.flush_file(tail).map_err(|error| error.to_string())?;
            watch(&disk, &history);
            disk.flush_directory();
        }
        history.acknowledged = end;
        watch(&disk, &history);
        disk.open();
        watch(&disk, &history);
        let mut writer = Writer::new(config.clone(), &recovery);
        let mut ops = Vec::new();
        writer.start(&mut ops);
        for op in ops {
            disk.start(op);
        }
        watch(&disk, &history);
        Ok(Self { disk, writer, history, opened: 0, frame_next: end + 1 })
    }

    /// Submits a frame with one record per (group, number, length of the body); without records it is a mark.
    ///
    /// # Panics
    /// If the writer takes no frame now, or not such a large one.
    pub fn append(&mut self, records: &[(u128, u64, usize)], watch: &mut Watch<'_>) {
        let frame = SharedFrame::new(Frame::new(AlignedBuf::new(self.writer.frame_bytes_max())));
        let mut issued = Vec::new();
        for &(uid, number, bytes) in records {
            let body = body(number, bytes);
            let header = header(uid, number, &body);
            issued.push((u64::from(frame.push(&header, &[&body]).start), header, body));
        }
        let mut ops = Vec::new();
        let (sequence, generation, offset) = self.writer.append(Rc::clone(&frame), false, &mut ops);
        assert_eq!(sequence, self.frame_next, "frames are numbered without gaps");
        self.frame_next += 1;
        for record in &mut issued {
            assert!(FRAME_HEADER_BYTES as u64 <= record.0);
            record.0 += offset;
        }
        Rc::make_mut(&mut self.history.issued).push(Rc::new(Issued { records: issued, generation, offset, frame }));
        for op in ops {
            self.disk.start(op);
        }
        watch(&self.disk, &self.history);
    }

    /// Releases the oldest segment.
    ///
    /// # Panics
    /// If it may not be released.
    pub fn release(&mut self, watch: &mut Watch<'_>) {
        let oldest = self.writer.oldest().expect("there is a segment");
        let mut ops = Vec::new();
        self.writer.release(oldest.generation, &mut ops);
        self.history.floor = self.writer.oldest().expect("one is open").first_sequence;
        for op in ops {
            self.disk.start(op);
        }
        watch(&self.disk, &self.history);
    }

    /// Lets one operation that `dice` chooses go one step, or answer; false if none is pending.
    ///
    /// # Panics
    /// If the log is poisoned.
    pub fn turn(&mut self, dice: &mut Dice, watch: &mut Watch<'_>) -> bool {
        let ready: Vec<OpId> =
            self.disk.pending().iter().filter(|pending| pending.ready).map(|pending| pending.id).collect();
        if ready.is_empty() {
            return false;
        }
        let id = ready[dice.below(ready.len())];
        if self.disk.advance(id).is_none()
            && let Some(done) = self.disk.finish(id, Outcome::Done)
        {
            self.done(done).expect("the disk is sound");
        }
        watch(&self.disk, &self.history);
        true
    }

    /// Takes an answer of the disk.
    ///
    /// # Errors
    /// If the log is poisoned.
    pub fn done(&mut self, done: DiskDone) -> Result<(), WalError> {
        let mut ops = Vec::new();
        let mut events = Vec::new();
        self.writer.on_done(done, &mut ops, &mut events)?;
        for event in events {
            match event {
                WalEvent::Durable { through } => self.history.acknowledged = through,
                WalEvent::Rolled { .. } => self.opened += 1,
            }
        }
        for op in ops {
            self.disk.start(op);
        }
        Ok(())
    }

    /// Lets all operations end, also those that follow from them.
    ///
    /// # Panics
    /// As [`turn`](Self::turn).
    pub fn settle(&mut self, dice: &mut Dice, watch: &mut Watch<'_>) {
        while self.turn(dice, watch) {}
    }
}

/// The body of a record, told by its number alone.
fn body(number: u64, bytes: usize) -> Vec<u8> {
    let mut dice = Dice::new(number);
    let mut body = Vec::with_capacity(bytes + 8);
    while body.len() < bytes {
        body.extend_from_slice(&dice.roll().to_le_bytes());
    }
    body.truncate(bytes);
    body
}

fn header(uid: u128, number: u64, body: &[u8]) -> RecordHeader {
    RecordHeader {
        kind: 1,
        version: 1,
        body_len: body.len() as u32,
        uid,
        numbers: [number, 0, 0, 0, 0, 0, 0],
        entries: 1,
        body_crc: body_crc(&[body]),
        ..RecordHeader::default()
    }
}
