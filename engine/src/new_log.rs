//! A shard's log that is written from its beginning while no shard runs: by a repair, and when the number of shards
//! changes.

use std::rc::Rc;

use synod_wal::buf::AlignedBuf;
use synod_wal::disk::Disk;
use synod_wal::frame::{Frame, SharedFrame};
use synod_wal::ops::DiskOp;
use synod_wal::record::RecordHeader;
use synod_wal::recover::Recovery;
use synod_wal::writer::{WalEvent, Writer, WriterConfig};

/// A new log, written frame by frame; each is durable before the next.
pub(crate) struct NewLog {
    disk: Box<dyn Disk>,
    writer: Writer,
    frame: Rc<SharedFrame>,
    rolled: bool,
}

impl NewLog {
    /// Opens the first segment of a shard's log on an empty disk.
    ///
    /// # Errors
    /// Why not, here and below.
    pub(crate) fn create(disk: Box<dyn Disk>, shard: usize, log: u128, segment_bytes: u64) -> Result<Self, String> {
        let config = WriterConfig { segment_bytes, spare_segments: 1, ..WriterConfig::new(shard as u32, log) };
        let writer = Writer::new(config, &Recovery::empty());
        let frame = Self::empty_frame(&writer);
        let mut log = Self { disk, writer, frame, rolled: false };
        log.with_ops(Writer::start);
        log.settle()?;
        log.rolled = false;
        Ok(log)
    }

    fn empty_frame(writer: &Writer) -> Rc<SharedFrame> {
        SharedFrame::new(Frame::new(AlignedBuf::new(writer.frame_bytes_max())))
    }

    fn with_ops<R>(&mut self, act: impl FnOnce(&mut Writer, &mut Vec<DiskOp>) -> R) -> R {
        let mut ops = Vec::new();
        let result = act(&mut self.writer, &mut ops);
        ops.into_iter().for_each(|op| self.disk.submit(op));
        result
    }

    /// Waits until all is durable and the next frame may start.
    fn settle(&mut self) -> Result<(), String> {
        let ready = |writer: &Writer| writer.frames_in_flight() == 0 && writer.may_start_frame(0);
        while !ready(&self.writer) {
            if let Some(error) = self.writer.starved() {
                return Err(error.to_string());
            }
            if self.disk.in_flight() == 0 {
                return Err(format!("a bug: the new log waits for nothing: {:?}", self.writer));
            }
            let mut done = Vec::new();
            self.disk.wait(&mut done);
            for done in done {
                let mut events = Vec::new();
                let taken = self.with_ops(|writer, ops| writer.on_done(done, ops, &mut events));
                taken.map_err(|error| error.to_string())?;
                self.rolled |= events.iter().any(|event| matches!(event, WalEvent::Rolled { .. }));
            }
        }
        Ok(())
    }

    /// Whether a record with such a body still goes into the frame that is being filled.
    pub(crate) fn has_room(&self, body_bytes: usize) -> bool {
        self.frame.fits(body_bytes)
    }

    /// Whether a segment was opened since the last call: it begins with summaries.
    pub(crate) fn take_rolled(&mut self) -> bool {
        std::mem::take(&mut self.rolled)
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, header: &RecordHeader, body: &[u8]) -> Result<(), String> {
        if !self.has_room(body.len()) {
            self.flush()?;
        }
        self.frame.push(header, &[body]);
        Ok(())
    }

    /// Makes what was added durable.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        if self.frame.is_empty() { Ok(()) } else { self.write() }
    }

    /// As [`NewLog::flush`], and adds a mark: were the last frame to rot, it would not look like one that was torn.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        self.flush()?;
        self.write()
    }

    fn write(&mut self) -> Result<(), String> {
        let next = Self::empty_frame(&self.writer);
        let full = std::mem::replace(&mut self.frame, next);
        self.with_ops(|writer, ops| writer.append(full, false, ops));
        self.settle()
    }
}
