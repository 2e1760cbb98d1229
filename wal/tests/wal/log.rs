//! A log in memory: the writer driven against a tiny disk that keeps files as byte vectors, and recovery from it.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    rc::Rc,
};

use synod_wal::{
    AlignedBuf, Appended, DiskDone, DiskError, DiskOp, Expect, Frame, RecordHeader, RecordPlace, RecoverError,
    Recovery, SegmentSource, SharedFrame, WalError, WalEvent, Writer, WriterConfig, body_crc, recover, segment_name,
};

pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;
pub(crate) const PAGE: u64 = 4096;
pub(crate) const INCARNATION: u128 = 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00;
pub(crate) const SHARD: u32 = 3;
pub(crate) const EXPECT: Expect = Expect { shard: SHARD, incarnation: INCARNATION, segment_bytes: SEGMENT_BYTES };

pub(crate) fn config() -> WriterConfig {
    WriterConfig { segment_bytes: SEGMENT_BYTES, bytes_max: 2 * SEGMENT_BYTES, ..WriterConfig::new(SHARD, INCARNATION) }
}

/// A record of group 7 whose body is `body` and whose first number is `number`.
pub(crate) fn header(number: u64, body: &[u8]) -> RecordHeader {
    RecordHeader {
        kind: 1,
        version: 1,
        body_len: body.len() as u32,
        uid: 7,
        numbers: [number, 0, 0, 0, 0, 0, 0],
        entries: 1,
        body_crc: body_crc(&[body]),
        ..RecordHeader::default()
    }
}

pub(crate) fn frame(records: &[(u64, &[u8])]) -> Rc<SharedFrame> {
    let frame = SharedFrame::new(Frame::new(AlignedBuf::new(64 << 10)));
    for (number, body) in records {
        frame.push(&header(*number, body), &[body]);
    }
    frame
}

/// Files in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk {
    pub(crate) files: BTreeMap<u64, Vec<u8>>,
}

impl MemoryDisk {
    /// Carries out one operation.
    pub(crate) fn run(&mut self, op: DiskOp) -> Option<DiskDone> {
        match op {
            DiskOp::Write { ticket, generation, offset, data, .. } => {
                let file = self.files.get_mut(&generation).expect("the file was prepared");
                let bytes = data.bytes();
                file[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
                Some(DiskDone::Written { ticket, result: Ok(()) })
            }
            DiskOp::Prepare { generation, recycle } => {
                let recycled = recycle.map(|old| self.files.remove(&old).expect("recycled files exist"));
                let file = recycled.unwrap_or_else(|| vec![0; SEGMENT_BYTES as usize]);
                assert!(self.files.insert(generation, file).is_none(), "prepared twice");
                Some(DiskDone::Prepared { generation, result: Ok(()) })
            }
            DiskOp::Discard { generation } => {
                self.files.remove(&generation).expect("discarded files exist");
                None
            }
            DiskOp::Read { .. } => panic!("the writer never reads"),
        }
    }

    pub(crate) fn recover(&mut self) -> Result<(Recovery, Vec<Seen>), RecoverError> {
        let mut seen = Vec::new();
        let recovery = recover(self, EXPECT, &mut |place, sequence, header, body| {
            seen.push(Seen { place, sequence, number: header.numbers[0], body: body.to_vec() });
        })?;
        Ok((recovery, seen))
    }
}

/// A record that recovery visited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) place: RecordPlace,
    pub(crate) sequence: u64,
    pub(crate) number: u64,
    pub(crate) body: Vec<u8>,
}

impl SegmentSource for MemoryDisk {
    fn generations(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.files.keys().rev().copied().collect())
    }

    fn len(&mut self, generation: u64) -> io::Result<u64> {
        Ok(self.files[&generation].len() as u64)
    }

    fn read_at(&mut self, generation: u64, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = &self.files[&generation];
        let rest = &file[file.len().min(offset as usize)..];
        let bytes = rest.len().min(buf.len());
        buf[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }

    fn name(&self, generation: u64) -> String {
        segment_name(generation)
    }
}

/// A writer and its disk. Operations wait in `ops` until they are driven.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) disk: MemoryDisk,
    pub(crate) writer: Writer,
    pub(crate) ops: VecDeque<DiskOp>,
    pub(crate) events: Vec<WalEvent>,
}

impl Log {
    /// A started log over what `disk` holds; nothing was carried out yet.
    pub(crate) fn starting(mut disk: MemoryDisk) -> Self {
        let (recovery, _) = disk.recover().expect("the log is sound");
        let mut log = Self { disk, writer: Writer::new(config(), &recovery), ops: VecDeque::new(), events: Vec::new() };
        log.with_ops(Writer::start);
        log
    }

    /// An open log over what `disk` holds.
    pub(crate) fn open(disk: MemoryDisk) -> Self {
        let mut log = Self::starting(disk);
        log.drive();
        assert!(log.writer.may_start_frame(0));
        log.events.clear();
        log
    }

    pub(crate) fn with_ops<R>(&mut self, f: impl FnOnce(&mut Writer, &mut Vec<DiskOp>) -> R) -> R {
        let mut ops = Vec::new();
        let result = f(&mut self.writer, &mut ops);
        self.ops.extend(ops);
        result
    }

    /// Submits a frame with these records, without carrying it out.
    pub(crate) fn submit(&mut self, records: &[(u64, &[u8])]) -> Appended {
        self.with_ops(|writer, ops| writer.append(frame(records), false, ops))
    }

    /// Submits a frame and makes it durable.
    pub(crate) fn append(&mut self, records: &[(u64, &[u8])]) -> Appended {
        let appended = self.submit(records);
        self.drive();
        appended
    }

    /// Carries out all operations, also those that follow from them.
    pub(crate) fn drive(&mut self) {
        while let Some(op) = self.ops.pop_front() {
            self.complete(op);
        }
    }

    pub(crate) fn complete(&mut self, op: DiskOp) {
        if let Some(done) = self.disk.run(op) {
            self.done(done).expect("the log is not poisoned");
        }
    }

    pub(crate) fn done(&mut self, done: DiskDone) -> Result<(), WalError> {
        let mut ops = Vec::new();
        let result = self.writer.on_done(done, &mut ops, &mut self.events);
        self.ops.extend(ops);
        result
    }

    /// Takes the oldest waiting write.
    pub(crate) fn take_write(&mut self) -> DiskOp {
        let at = self.ops.iter().position(|op| matches!(op, DiskOp::Write { .. }));
        self.ops.remove(at.expect("a write is waiting")).expect("it is there")
    }

    pub(crate) fn take_events(&mut self) -> Vec<WalEvent> {
        std::mem::take(&mut self.events)
    }
}

pub(crate) fn disk_error() -> DiskError {
    DiskError::from_io("write", "x.seg", &io::Error::from_raw_os_error(5))
}

pub(crate) fn ticket(op: &DiskOp) -> u64 {
    match op {
        DiskOp::Write { ticket, .. } => *ticket,
        other => panic!("not a write: {other:?}"),
    }
}
