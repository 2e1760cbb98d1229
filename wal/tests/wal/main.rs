//! Tests of the write-ahead log through its public API: a log in memory, a log on real files, and decoders on arbitrary
//! bytes.

mod buffers;
mod classics;
mod decoders;
mod disks;
mod evidence;
mod index;
mod log;
mod verdicts;
mod writer;
