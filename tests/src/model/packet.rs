//! What travels in the model, and the set of all that was ever sent.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use synod_core::{MemberId, Message, Payload, Vote};

/// A batch, known by its place among those of its leader's epoch, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Batch(pub u8);

impl Payload for Batch {
    fn bytes(&self) -> u32 {
        8
    }

    fn stub(&self) -> Self {
        Self(self.0 | STUB)
    }

    fn is_stub(&self) -> bool {
        self.0 & STUB != 0
    }

    fn agrees(&self, other: &Self) -> bool {
        (self.0 ^ other.0) & !STUB == 0
    }
}

/// Marks what a witness keeps of a batch.
pub(super) const STUB: u8 = 0x80;

/// A message of either kind.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Wire {
    /// One that may leave at once.
    Message(Message<Batch>),
    /// One that left behind its record.
    Vote(Vote<Batch>),
}

/// A message with its ends. Equal packets are one in memory and stay for ever, as they do in the network; so a packet is
/// copied for nothing, and the checker's threads do not meet at its reference count.
#[derive(Clone, Copy)]
pub struct Packet {
    digest: u64,
    content: &'static Content,
}

type Content = (MemberId, MemberId, Wire);

static PACKETS: Mutex<BTreeMap<u64, &'static Content>> = Mutex::new(BTreeMap::new());

impl Packet {
    pub(super) fn new(from: MemberId, to: MemberId, wire: Wire) -> Self {
        let content = (from, to, wire);
        let digest = digest(&content);
        let mut packets = PACKETS.lock().expect("no holder panics");
        let known: &'static Content = packets.entry(digest).or_insert_with(|| Box::leak(Box::new(content.clone())));
        assert!(*known == content, "two packets have one digest");
        Self { digest, content: known }
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Who sent it.
    pub fn from(&self) -> MemberId {
        self.content.0
    }

    /// To whom.
    pub fn to(&self) -> MemberId {
        self.content.1
    }

    /// What it says.
    pub fn wire(&self) -> &Wire {
        &self.content.2
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Packet {}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}: {:?}", self.from(), self.to(), self.wire())
    }
}

/// The same in every run: the hasher has fixed keys.
pub(super) fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A set of packets, in the order of their digests, so that equal sets are equal lists.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Network {
    packets: Vec<Packet>,
    /// The sum of the digests.
    digest: u64,
}

impl Network {
    pub(super) fn insert(&mut self, packet: Packet) {
        if let Err(at) = self.packets.binary_search_by_key(&packet.digest, |p| p.digest) {
            self.packets.insert(at, packet);
            self.digest = self.digest.wrapping_add(packet.digest);
        }
    }

    pub(super) fn contains(&self, packet: &Packet) -> bool {
        self.packets.binary_search_by_key(&packet.digest, |p| p.digest).is_ok()
    }

    pub(super) fn packets(&self) -> &[Packet] {
        &self.packets
    }
}

impl Hash for Network {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}
