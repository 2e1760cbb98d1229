//! Faults of bytes that are durable: what a disk may do to them, or have done, without telling.
//!
//! Invariant: each changes what readers see and what is durable alike, so no crash heals it.

use std::io;

use super::{
    SimDisk,
    choice::SECTOR_BYTES,
    directory::{File, Name, bytes_of},
};

/// Reads of a range that fail, so many times.
#[derive(Debug, Clone, Copy)]
pub(super) struct BadRead {
    generation: u64,
    start: u64,
    end: u64,
    times: u32,
}

impl SimDisk {
    /// Flips one bit of a segment's file, counted from its start.
    ///
    /// # Panics
    /// If there is no such bit.
    pub fn flip_bit(&mut self, generation: u64, bit: u64) {
        let file = self.segment(generation);
        assert!(bit / 8 < file.current.len(), "bit {bit} is behind the file's end");
        for content in [&mut file.current, &mut file.durable] {
            let mut byte = [0];
            content.read(bit / 8, &mut byte);
            content.write(bit / 8, &[byte[0] ^ (1 << (bit % 8))]);
        }
    }

    /// Overwrites bytes of a segment's file, as a stray write does.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn overwrite(&mut self, generation: u64, offset: u64, bytes: &[u8]) {
        let file = self.segment(generation);
        file.current.write(offset, bytes);
        file.durable.write(offset, bytes);
    }

    /// A sector reads as zeros from now on.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn zero_sector(&mut self, generation: u64, sector: u64) {
        self.overwrite(generation, sector * SECTOR_BYTES as u64, &[0; SECTOR_BYTES]);
    }

    /// A sector reads as it did before its page was last made durable: that write was acknowledged and lost.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn stale_sector(&mut self, generation: u64, sector: u64) {
        let offset = sector * SECTOR_BYTES as u64;
        let mut older = [0; SECTOR_BYTES];
        self.segment(generation).older.read(offset, &mut older);
        self.overwrite(generation, offset, &older);
    }

    /// Two sectors, each named by segment and number, have changed places.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn swap_sectors(&mut self, one: (u64, u64), other: (u64, u64)) {
        let offset = |sector: u64| sector * SECTOR_BYTES as u64;
        let one_bytes = self.peek(one.0, offset(one.1), SECTOR_BYTES);
        let other_bytes = self.peek(other.0, offset(other.1), SECTOR_BYTES);
        self.overwrite(one.0, offset(one.1), &other_bytes);
        self.overwrite(other.0, offset(other.1), &one_bytes);
    }

    /// A write of `bytes` bytes that was meant for `from` (segment and offset, both whole sectors) has gone to `to`: there
    /// it stands, and what was at `from` before it is there still.
    ///
    /// # Panics
    /// If there are no such files.
    pub fn misdirect(&mut self, from: (u64, u64), to: (u64, u64), bytes: usize) {
        let moved = self.peek(from.0, from.1, bytes);
        let sector = SECTOR_BYTES as u64;
        for at in from.1 / sector..(from.1 + bytes as u64).div_ceil(sector) {
            self.stale_sector(from.0, at);
        }
        self.overwrite(to.0, to.1, &moved);
    }

    /// The next `times` reads that touch these bytes fail with EIO; then they are fine again.
    ///
    /// # Panics
    /// If `times` is zero.
    pub fn fail_reads(&mut self, generation: u64, offset: u64, bytes: u64, times: u32) {
        assert!(0 < times, "no read would fail");
        self.bad_reads.push(BadRead { generation, start: offset, end: offset + bytes, times });
    }

    /// Takes a segment's file away, as one does who restores a part of a directory.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn lose_file(&mut self, generation: u64) {
        self.directory.remove(Name::Segment(generation)).expect("the segment is there");
        self.directory.sync();
    }

    /// What lies in a segment's file, as readers see it; zeros behind its end.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn peek(&self, generation: u64, offset: u64, bytes: usize) -> Vec<u8> {
        let file = self.directory.file(Name::Segment(generation)).expect("the segment is there");
        bytes_of(file, offset..offset + bytes as u64)
    }

    /// Generations of all segment files, ascending.
    pub fn segments(&self) -> Vec<u64> {
        let segment = |name| if let Name::Segment(generation) = name { Some(generation) } else { None };
        self.directory.names().filter_map(segment).collect()
    }

    pub(super) fn meet_bad_read(&mut self, generation: u64, offset: u64, bytes: usize) -> io::Result<()> {
        let end = offset + bytes as u64;
        let touches = |bad: &BadRead| bad.generation == generation && bad.start < end && offset < bad.end;
        let Some(at) = self.bad_reads.iter().position(touches) else {
            return Ok(());
        };
        self.bad_reads[at].times -= 1;
        if self.bad_reads[at].times == 0 {
            self.bad_reads.remove(at);
        }
        Err(io::Error::from_raw_os_error(5))
    }

    fn segment(&mut self, generation: u64) -> &mut File {
        self.directory.file_mut(Name::Segment(generation)).expect("the segment is there")
    }
}
