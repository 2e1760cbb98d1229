//! A network of TCP connections: bytes in order, late, held back by partitions, lost when a connection ends. And of
//! datagrams beside them, of which each may be lost, come twice, or be overtaken.
//!
//! Invariants: within a connection nothing is lost, doubled or reordered while it lives; each end learns of its end by
//! itself, the other perhaps much later or never.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use synod_transport::frame::Decoder;

/// A connection, unique over the run.
pub type ConnId = u64;

/// Bytes that a direction holds before the socket takes no more.
const SOCKET_BYTES: usize = 256 << 10;

/// The link between the same shard of two nodes. The second end dials.
#[derive(Debug)]
pub struct Link {
    /// The nodes, by place; the first has the lower number.
    pub nodes: [usize; 2],
    /// Their shard.
    pub shard: usize,
    /// The connection that each end believes in.
    pub believes: [Option<ConnId>; 2],
    /// Whether a dial is under way or due.
    pub dialing: bool,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Direction {
    /// When the last bytes on their way arrive.
    pub last_ns: u64,
    /// Bytes on their way, or held back.
    pub bytes: usize,
    /// Pieces on their way, or held back by a partition or a node that stands still, in order: when each arrives.
    pub pieces: VecDeque<(u64, Vec<u8>)>,
    /// Nothing that goes in comes out, and nobody is told.
    pub dead: bool,
}

/// A connection.
pub struct Conn {
    /// Its link.
    pub link: usize,
    /// From the first end to the second, and back.
    pub directions: [Direction; 2],
    /// What each end has received and not yet decoded.
    pub decoders: [Option<Decoder>; 2],
    /// A partition holds back the news of its end from this end.
    pub close_held: [bool; 2],
}

/// All links and connections.
pub struct Network {
    /// By pair of nodes and shard.
    pub links: Vec<Link>,
    /// The connections of which an end still lives.
    pub conns: BTreeMap<ConnId, Conn>,
    /// From node to node: nothing gets through.
    blocked: BTreeSet<(usize, usize)>,
    /// From node to node: no datagram gets through.
    drowned: BTreeSet<(usize, usize)>,
    /// From node to node: what bytes take longer.
    lag_ns: BTreeMap<(usize, usize), u64>,
    next: ConnId,
    /// Per node and shard its links, each with this node's end of it.
    ends: Vec<Vec<(usize, usize)>>,
    shards: usize,
}

impl Network {
    /// A network of so many nodes and shards, without connections.
    pub fn new(nodes: usize, shards: usize) -> Self {
        let mut links = Vec::new();
        for low in 0..nodes {
            for high in low + 1..nodes {
                for shard in 0..shards {
                    links.push(Link { nodes: [low, high], shard, believes: [None; 2], dialing: false });
                }
            }
        }
        let mut ends = vec![Vec::new(); nodes * shards];
        for (at, link) in links.iter().enumerate() {
            for end in 0..2 {
                ends[link.nodes[end] * shards + link.shard].push((at, end));
            }
        }
        Self {
            links,
            conns: BTreeMap::new(),
            blocked: BTreeSet::new(),
            drowned: BTreeSet::new(),
            lag_ns: BTreeMap::new(),
            next: 1,
            ends,
            shards,
        }
    }

    /// How many links a node's shard has.
    pub fn ends(&self, node: usize, shard: usize) -> usize {
        self.ends[node * self.shards + shard].len()
    }

    /// One of a shard's links, and which end of it the shard is.
    pub fn end(&self, node: usize, shard: usize, at: usize) -> (usize, usize) {
        self.ends[node * self.shards + shard][at]
    }

    /// Whether bytes get from one node to another.
    pub fn passes(&self, from: usize, to: usize) -> bool {
        !self.blocked.contains(&(from, to))
    }

    /// Blocks one direction, or opens it.
    pub fn set_blocked(&mut self, from: usize, to: usize, blocked: bool) {
        if blocked {
            self.blocked.insert((from, to));
        } else {
            self.blocked.remove(&(from, to));
        }
    }

    /// Whether a datagram may get from one node to another.
    pub fn passes_datagrams(&self, from: usize, to: usize) -> bool {
        self.passes(from, to) && !self.drowned.contains(&(from, to))
    }

    /// Loses all datagrams of one direction, or no more.
    pub fn set_drowned(&mut self, from: usize, to: usize, drowned: bool) {
        if drowned {
            self.drowned.insert((from, to));
        } else {
            self.drowned.remove(&(from, to));
        }
    }

    /// What bytes take longer from one node to another, on average.
    pub fn lag_ns(&self, from: usize, to: usize) -> u64 {
        if self.lag_ns.is_empty() { 0 } else { self.lag_ns.get(&(from, to)).copied().unwrap_or(0) }
    }

    /// Makes one direction slow, or, with 0, quick again.
    pub fn set_lag(&mut self, from: usize, to: usize, lag_ns: u64) {
        if lag_ns > 0 {
            self.lag_ns.insert((from, to), lag_ns);
        } else {
            self.lag_ns.remove(&(from, to));
        }
    }

    /// A new connection of a link; nobody believes in it yet.
    pub fn connect(&mut self, link: usize) -> ConnId {
        let id = self.next;
        self.next += 1;
        let conn = Conn {
            link,
            directions: Default::default(),
            decoders: [Some(Decoder::new()), Some(Decoder::new())],
            close_held: [false; 2],
        };
        self.conns.insert(id, conn);
        id
    }

    /// Bytes that an end's socket takes now.
    pub fn room(&self, conn: ConnId, end: usize) -> usize {
        self.conns.get(&conn).map_or(0, |conn| SOCKET_BYTES.saturating_sub(conn.directions[end].bytes))
    }

    /// The node at an end of a connection.
    pub fn node(&self, conn: ConnId, end: usize) -> Option<usize> {
        self.conns.get(&conn).map(|conn| self.links[conn.link].nodes[end])
    }

    /// Forgets a connection in which nobody believes any more.
    pub fn forget_dead(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.get(&conn)
            && !self.links[state.link].believes.contains(&Some(conn))
        {
            self.conns.remove(&conn);
        }
    }
}
