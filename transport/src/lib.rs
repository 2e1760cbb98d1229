//! The transport of Synod: how bytes travel between nodes, and between clients and nodes.
//!
//! It knows nothing of Paxos or of the log: kinds of messages are numbers, bodies are bytes, nodes are numbers.
//!
//! # Pure parts: no socket, thread or clock
//! - [`frame`]: the 32-byte frame header, the helpers that lay a frame, and the [`Decoder`] that cuts a byte stream into
//!   frames.
//! - [`hello`]: the first frame on each connection, its reply, and [`judge`], which says who is let in.
//! - [`outbox`]: what goes out on one connection, in two lanes and within bounds.
//! - [`datagram`] and [`lane`]: small frames that go beside a connection, and which of them are let in.
//! - [`peer`]: when to dial a peer again.
//!
//! # Drivers: thin, all I/O is here
//! - [`net::glommio`]: a connected socket on a shard's executor; [`net::datagrams`]: one for datagrams.
//! - [`net::listen`]: the port of a node and the handshake at both ends, on plain threads.
//! - [`net::transport`]: the seam for connections that are not the system's TCP; [`net::socket`] is either.
//!
//! # The way of a connection
//! ```text
//! dialer                                      listener
//! dial(): connect, Hello ───────────────────▶ one short-lived thread reads it, calls on_hello(Hello, Socket)
//!                                             owner: judge(), then reply()
//! HelloReply ◀────────────────────────────────
//! both hand the socket to the shard that owns it: Connection::from_socket()
//! reader task: read() → Decoder::space/filled/next → messages
//! turn's end:  Outbox::flush_with(try_send) → if bytes are left: copy_pinned, write_some, advance
//! ```
//!
//! # Invariants
//! - No decoder panics, reads beyond its input or allocates more than its bound, whatever the bytes.
//! - A header is checked whole (magic, version, checksum, flags, length) before anything is allocated for its body.
//! - Every queue and buffer has a bound, and every handshake a deadline.
//! - A connection that broke the format is never read again: an error of the [`Decoder`] stays.
//!
//! What is absent on purpose: encryption (a [`Transport`] may bring it), compression, retransmission (TCP has it), and any
//! knowledge of what a body means.
//! The bytes are drawn in `docs/internals/wire_format.md`.

pub mod datagram;
pub mod frame;
pub mod hello;
pub mod lane;
pub mod net;
pub mod outbox;
pub mod peer;

mod bytes;

pub use datagram::{DATAGRAM_BODY_BYTES_MAX, DATAGRAM_BYTES_MAX, DATAGRAM_HEADER_BYTES, Datagram, DatagramError};
pub use frame::{
    Decoder, FLAG_SELF_CHECKED, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FRAME_VERSION, Frame, FrameError,
    FrameHeader, KIND_HELLO, KIND_HELLO_REPLY, append_frame, append_frame_with, encode_frame,
};
pub use hello::{
    HELLO_BYTES, HELLO_BYTES_MAX, Hello, HelloError, HelloReply, HelloStatus, Identity, KnownPeer, REPLICA_RULES_MAX,
    Refusal, ReplicaRule, Role, judge, judge_answer,
};
pub use lane::{LANE_OFFER_BYTES, Lane, LaneOffer, UNANSWERED_MAX};
pub use net::datagrams::DatagramSocket;
pub use net::glommio::Connection;
pub use net::listen::{DialError, HandshakeLimits, Listener, ServingListener, dial, dial_over, reply};
pub use net::socket::Socket;
pub use net::transport::{Acceptor, ByteStream, Transport};
pub use outbox::{Chunk, Full, Outbox};
pub use peer::Backoff;
