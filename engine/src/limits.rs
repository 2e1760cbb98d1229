//! Every bound of the engine, in one table.

use synod_wal::frame::FRAME_BYTES_MAX;
use synod_wal::record::RECORD_HEADER_BYTES;

/// A mebibyte, in bytes: the unit of the configuration.
pub(crate) const MIB: u64 = 1 << 20;
/// The largest entry that one slot holds: 1 MiB.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// The largest entry: 64 MiB. One that no slot holds is cut into parts, and is alone in its batch.
pub const LARGE_ENTRY_BYTES_MAX: usize = 64 << 20;
/// A part of a large entry: a slot of its own. So small that a frame of the log with one, and with some room for other
/// groups, takes a buffer of 256 KiB.
pub const PART_BYTES_MAX: usize = 240 << 10;
/// The parts of one entry.
pub const PARTS_MAX: usize = LARGE_ENTRY_BYTES_MAX.div_ceil(PART_BYTES_MAX);
/// Slots in flight of a group whose large entry is being proposed: no further part joins them.
pub const PARTS_IN_FLIGHT_MAX: usize = 4;
/// Parts in one frame of the log: the rest of it is for other groups.
pub const PARTS_PER_FRAME_MAX: usize = 2;
/// Large entries of one shard that are not wholly proposed.
pub const LARGE_ENTRIES_MAX: usize = 16;
/// Bytes of large entries that wait on a node until they are wholly proposed.
pub const LARGE_BYTES_MAX: usize = 256 << 20;
/// Large entries that a shard puts together at a time, for state machines and readers.
pub const GATHERS_MAX: usize = 2;
/// Parts that are put together in one turn: what other groups wait for it stays short.
pub const GATHER_PARTS_PER_TURN: usize = 16;
/// A part of an entry in one request of a client, in bytes.
pub const APPEND_PART_BYTES_MAX: usize = 1 << 20;
/// Readers of a shard that wait for large entries.
pub const LARGE_READS_MAX: usize = 64;
/// The most entries in one batch.
pub const BATCH_ENTRIES_MAX: usize = 1 << 16;
/// A batch closes before it grows past this; a single larger entry has a batch of its own.
pub const BATCH_BYTES_MAX: usize = 512 << 10;
/// Bytes that may wait in a group's open batches before proposals are refused as overloaded.
pub const GROUP_QUEUE_BYTES_MAX: usize = 16 << 20;
/// Slots proposed and not yet chosen, per group.
pub const WINDOW_SLOTS: u64 = 64;
/// Bytes proposed and not yet chosen, per group.
pub const WINDOW_BYTES: u64 = 4 << 20;
/// Bytes proposed and not yet applied, of all groups of a shard together. What one node leaves behind when it fails is
/// bounded by it, and so is what another must take over.
pub const SHARD_WINDOW_BYTES: usize = 32 << 20;
/// Memory beyond the cache for values that are not applied yet. When it is full, neither proposals nor values that make
/// a log longer are taken.
pub const UNAPPLIED_BYTES_MAX: usize = 128 << 20;
/// Memory beyond that for values that take the place of others, or are known to be chosen.
pub const REPLACED_BYTES_MAX: usize = 64 << 20;
/// Bytes that may wait on one peer's connection.
pub const PEER_OUTBOX_BYTES_MAX: usize = 8 << 20;
/// Bytes that may wait on one client's connection.
pub const CLIENT_OUTBOX_BYTES_MAX: usize = 8 << 20;
/// The chosen values that one answer to a lagging replica brings.
pub const LEARN_BYTES_MAX: usize = 128 << 10;
/// The entries that one read brings.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// Sessions kept per group.
pub const SESSIONS_MAX: usize = 1024;
/// Batches of one session whose positions are remembered, for those who repeat them; so many may be in flight.
pub const POSITIONS_MAX: usize = 8;
/// Positions remembered per group besides the last one of each session.
pub const EARLIER_POSITIONS_MAX: usize = 256;
/// A group's sessions, as the log bears them: six numbers of a session with one position and three of an earlier position,
/// each in at most nine bytes; how many positions there are takes one.
pub const SESSIONS_BYTES_MAX: usize = SESSIONS_MAX * (6 * 9 + 1) + EARLIER_POSITIONS_MAX * 3 * 9;
/// Groups made at run time that a directory can have; there is one for each shard that the cluster began with.
pub const GROUPS_MADE_MAX: usize = 1024;
/// Groups of the configuration that may be placed on other shards than their own, per directory.
pub const GROUPS_PLACED_MAX: usize = 1024;
/// Groups that a shard may have dropped since its start: each leaves a little memory behind, and beyond that a leader has
/// no further ones made.
pub const GROUPS_DROPPED_MAX: usize = 1 << 16;
/// Orders to make or drop a group that a shard has under way.
pub const GROUP_ORDERS_MAX: usize = 256;
/// Messages in a shard's mailbox.
pub const MAILBOX_MAX: usize = 64 << 10;
/// Reads per shard that wait for a leader's word or for an index.
pub const POINT_READS_MAX: usize = 64 << 10;
/// Nodes that a cluster was told of while it ran.
pub const INTRODUCED_MAX: usize = 64;
/// Client connections per shard.
pub const CLIENTS_MAX: usize = 1024;

const _: () = assert!(RECORD_HEADER_BYTES + ENTRY_BYTES_MAX + 64 + 64 <= FRAME_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= ENTRY_BYTES_MAX);
// Peers are bits of a number here and there.
const _: () = assert!(INTRODUCED_MAX + synod_core::replica::VOTERS_MAX <= 128);
const _: () = assert!(PARTS_MAX <= u16::MAX as usize);
