//! Reads one segment frame by frame, and judges the first bad frame of the newest one.
//!
//! Invariant: `chain` and `offset` stand behind the last intact frame; only intact frames are visited.

use thiserror::Error;

use crate::{
    codec::{is_zero, u32_at, u64_at},
    frame::{FRAME_HEADER_BYTES, FRAME_MAGIC, FrameError, FrameHeader, check_frame},
    marks::{Mark, mark},
    ops::RecordPlace,
    planted::{Bug, is},
    record::{RecordHeader, Records},
    segment::SegmentHeader,
};

use super::{
    RecoverError, Verdict, Visit,
    files::{Files, PAGE},
};

/// The last frame seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    pub(super) sequence: u64,
    pub(super) crc: u32,
}

/// One segment being read.
pub(super) struct Scan<'a, 'b> {
    pub(super) files: &'a mut Files<'b>,
    pub(super) header: &'a SegmentHeader,
    pub(super) chain: Chain,
    pub(super) offset: u64,
}

impl Scan<'_, '_> {
    /// Reads up to the end that the successor states; anything bad before it is damage.
    pub(super) fn read_sealed(&mut self, successor: &SegmentHeader, visit: &mut Visit<'_>) -> Result<(), RecoverError> {
        let end = successor.previous.expect("a header with generation over 1 states an end");
        assert_eq!(end.generation, self.header.generation, "checked by decoding and by the lack of gaps");
        while self.offset < end.offset {
            if let Err(bad) = self.step(end.offset, visit)? {
                if is(Bug::SegmentsAreReadAlone) {
                    // It looks torn, and the next segment is read as if nothing were missing.
                    self.chain = Chain { sequence: end.sequence, crc: end.crc };
                    self.offset = end.offset;
                    return Ok(());
                }
                return self.damaged(format!("{bad}, before the end that segment {} states", successor.generation));
            }
        }
        if (self.offset, self.chain.sequence, self.chain.crc) != (end.offset, end.sequence, end.crc) {
            return self.damaged(format!("its frames end otherwise than segment {} states", successor.generation));
        }
        Ok(())
    }

    /// Reads up to the first bad frame, and judges it.
    pub(super) fn read_newest(&mut self, visit: &mut Visit<'_>) -> Result<Verdict, RecoverError> {
        loop {
            // No room for one more page: nothing can be torn.
            if self.header.segment_bytes < self.offset + PAGE {
                return Ok(Verdict::Clean);
            }
            match self.step(self.header.segment_bytes, visit)? {
                Ok(()) => {}
                // A torn write never leaves an intact frame of another place in the chain.
                Err(bad @ (Bad::Chain | Bad::Sequence(_))) => return self.damaged(bad.to_string()),
                Err(bad) => return self.judge(&bad),
            }
        }
    }

    /// Judges the bad frame X at `offset`: damage if anything behind says that X was acknowledged, else a torn tail.
    fn judge(&mut self, bad: &Bad) -> Result<Verdict, RecoverError> {
        let generation = self.header.generation;
        let sequence = self.chain.sequence + 1;
        let file_bytes = self.files.len(generation)?;
        let head = self.files.page(generation, self.offset)?;
        // The header may be cut in its checksum: magic and generation say that something was written here.
        let mut torn = matches!(bad, Bad::Body(_)) || (u32_at(head, 0) == FRAME_MAGIC && u64_at(head, 8) == generation);
        let mut at = self.offset;
        while at < file_bytes.min(self.header.segment_bytes) {
            let tag = self.files.tag;
            let page = self.files.page(generation, at)?;
            if let Some(frame) = FrameHeader::decode(page, generation).ok().filter(|frame| frame.tag == tag) {
                if sequence + 2 <= frame.sequence {
                    return self.damaged(format!(
                        "{bad}, but frame {} stands behind it, which was written only after frame {sequence} was durable",
                        frame.sequence
                    ));
                }
                if sequence <= frame.durable_through {
                    return self.damaged(format!(
                        "{bad}, but frame {} states that all up to frame {} was durable",
                        frame.sequence, frame.durable_through
                    ));
                }
                mark(Mark::FrameBehindTorn);
                torn = true;
            } else if !self.header.recycled && !torn {
                // A file that was never used before holds zeros where nothing was written.
                torn = !is_zero(page);
            }
            at += PAGE;
        }
        if torn {
            mark(Mark::TailTorn);
            Ok(Verdict::TornTail { file: self.files.name(generation), offset: self.offset })
        } else {
            if self.header.recycled {
                mark(Mark::OlderBytesBehind);
            }
            Ok(Verdict::Clean)
        }
    }

    /// Reads the frame at `offset`, which must end by `limit`, and visits its records. The inner error is a bad frame.
    fn step(&mut self, limit: u64, visit: &mut Visit<'_>) -> Result<Result<(), Bad>, RecoverError> {
        let generation = self.header.generation;
        let head = self.files.page(generation, self.offset)?;
        let frame = match FrameHeader::decode(head, generation) {
            Ok(frame) => frame,
            Err(FrameError::Version(version)) => {
                return Err(RecoverError::UnknownVersion { file: self.files.name(generation), version });
            }
            Err(error) => return Ok(Err(Bad::Header(error))),
        };
        if frame.tag != self.files.tag {
            return Ok(Err(Bad::Tag));
        }
        let end = self.offset + frame.frame_bytes() as u64;
        if limit < end {
            return Ok(Err(Bad::Long));
        }
        if frame.sequence != self.chain.sequence + 1 && !is(Bug::FramesCountAnywhere) {
            return Ok(Err(Bad::Sequence(frame.sequence)));
        }
        let bytes = self.files.bytes(generation, self.offset, frame.frame_bytes())?;
        if let Err(error) = check_frame(&frame, bytes)
            && !is(Bug::BodiesAreNotChecked)
        {
            return Ok(Err(Bad::Body(error)));
        }
        if frame.prev_crc != self.chain.crc && !is(Bug::FramesCountAnywhere) {
            return Ok(Err(Bad::Chain));
        }
        let body = &bytes[FRAME_HEADER_BYTES..][..frame.body_len as usize];
        for record in Records::checked(body) {
            let (header, body, range) = record.expect("the frame was checked");
            let place = RecordPlace {
                generation,
                offset: self.offset + (FRAME_HEADER_BYTES + range.start) as u64,
                bytes: range.len() as u32,
            };
            visit(place, frame.sequence, &header, body);
        }
        self.chain = Chain { sequence: frame.sequence, crc: frame.crc };
        self.offset = end;
        Ok(Ok(()))
    }

    fn damaged<T>(&mut self, why: String) -> Result<T, RecoverError> {
        let generation = self.header.generation;
        let page = self.files.page(generation, self.offset)?;
        // Records have checksums of their own, so one may be readable though its frame is not.
        let uid = RecordHeader::decode(&page[FRAME_HEADER_BYTES..]).ok().map(|record| record.uid);
        Err(RecoverError::Damaged {
            file: self.files.name(generation),
            offset: self.offset,
            sequence: self.chain.sequence + 1,
            uid,
            why,
        })
    }
}

/// Why the next frame is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Bad {
    #[error("no intact frame stands there ({0})")]
    Header(FrameError),
    #[error("a frame of another log stands there")]
    Tag,
    #[error("a frame there is longer than its segment")]
    Long,
    #[error("frame {0} stands there instead")]
    Sequence(u64),
    #[error("the frame there is not intact ({0})")]
    Body(FrameError),
    #[error("the frame there does not follow the one before it")]
    Chain,
}
