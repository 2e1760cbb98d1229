use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use synod_transport::hello::{
    Hello, HelloReply, Identity, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Role, judge, judge_answer,
};

use super::*;

const MEMBERS: [NodeId; 3] = [1, 2, 3];

fn owner() -> Owner {
    Owner { node: 1, incarnation: 9, founders: Some(vec![11, 12]), shards: 2 }
}

fn said(node: NodeId, knows: u128) -> Said {
    Said { node, incarnation: 100 + u128::from(node), boot: 1, founder: true, replica: 200 + u128::from(node), knows }
}

const ME: Me = Me { shard: 1, replica: 12, founder: true };

fn welcome(_: Option<&KnownPeer>) -> Result<(), Refusal> {
    Ok(())
}

/// A new directory's file.
fn peers(dir: &Path) -> Peers {
    init(dir, 9, MEMBERS.to_vec()).unwrap();
    Peers::open(dir, owner()).unwrap()
}

#[test]
fn what_was_met_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let before = peers(dir.path());
    assert_eq!((before.founder(2, 1), before.known(2), before.genesis(1)), (0, None, None));
    let met = before.meet(&ME, &said(2, 0), welcome).unwrap();
    assert_eq!(met, Met { founder: 202, greet: true, genesis: None });
    let met = before.meet(&ME, &said(2, ME.replica), welcome).unwrap();
    assert_eq!(met, Met { founder: 202, greet: false, genesis: None });
    assert_eq!((before.missing(1), before.missing(0)), (vec![3], vec![2, 3]));

    let after = Peers::open(dir.path(), owner()).unwrap();
    assert_eq!((after.founder(2, 1), after.founder(2, 0)), (202, 0));
    assert_eq!(after.known(2), Some(KnownPeer { incarnation: 102, boot: 1, retired: Vec::new() }));
    let met = after.meet(&ME, &said(3, ME.replica), welcome).unwrap();
    let genesis = vec![(1, 12), (2, 202), (3, 203)];
    assert_eq!(met.genesis.as_ref(), Some(&genesis));
    assert_eq!(after.meet(&ME, &said(3, ME.replica), welcome).unwrap().genesis, None, "told once");
    let last = Peers::open(dir.path(), owner()).unwrap();
    assert_eq!((last.genesis(1), last.genesis(0)), (Some(genesis), None));
    let replacement = Owner { founders: None, ..owner() };
    assert_eq!(Peers::open(dir.path(), replacement).unwrap().genesis(1), None);
}

#[test]
fn the_only_node_begins_at_once() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), 9, vec![1]).unwrap();
    assert_eq!(Peers::open(dir.path(), owner()).unwrap().genesis(0), Some(vec![(1, 11)]));
}

#[test]
fn a_replacement_is_known_and_founds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let peers = peers(dir.path());
    peers.meet(&ME, &said(2, 0), welcome).unwrap();
    let new = Said { incarnation: 300, founder: false, replica: 301, boot: 1, ..said(2, ME.replica) };
    let met = peers.meet(&ME, &new, welcome).unwrap();
    assert_eq!(met, Met { founder: 202, greet: false, genesis: None });
    assert_eq!(peers.known(2), Some(KnownPeer { incarnation: 300, boot: 1, retired: vec![102] }));
    assert_eq!(peers.missing(1), [2, 3]);
    // The replacement itself keeps no founders, and greets nobody.
    let replaced = Me { founder: false, ..ME };
    let met = peers.meet(&replaced, &said(3, 0), welcome).unwrap();
    assert_eq!(met, Met { founder: 0, greet: false, genesis: None });
}

#[test]
fn a_log_begun_anew_is_let_in_and_founds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let peers = peers(dir.path());
    peers.meet(&ME, &said(2, 0), welcome).unwrap();
    let renewed = Said { founder: false, replica: 302, ..said(2, ME.replica) };
    let met = peers.meet(&ME, &renewed, welcome).unwrap();
    assert_eq!((met.founder, met.greet), (202, false));
    assert_eq!(peers.missing(1), [2, 3]);
}

#[test]
fn the_oldest_replaced_directory_is_forgotten_first() {
    let dir = tempfile::tempdir().unwrap();
    let peers = peers(dir.path());
    for incarnation in 1..=RETIRED_MAX as u128 + 2 {
        peers.meet(&ME, &Said { incarnation, founder: false, ..said(2, 0) }, welcome).unwrap();
    }
    let retired = peers.known(2).unwrap().retired;
    assert_eq!((retired.len(), retired[0]), (RETIRED_MAX, 2));
}

#[test]
fn a_refused_peer_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let peers = peers(dir.path());
    let before = fs::read(dir.path().join(PEERS)).unwrap();
    let refusal = Refusal { status: HelloStatus::StaleBoot, text: "no".into() };
    assert_eq!(peers.meet(&ME, &said(2, 0), |_| Err(refusal.clone())), Err(refusal));
    assert_eq!(peers.known(2), None);
    assert_eq!(fs::read(dir.path().join(PEERS)).unwrap(), before);
}

#[test]
fn nothing_is_told_that_cannot_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let peers = peers(dir.path());
    // The place of the new file is taken.
    fs::create_dir(dir.path().join("peers.new")).unwrap();
    let refusal = peers.meet(&ME, &said(2, 0), welcome).unwrap_err();
    assert_eq!(refusal.status, HelloStatus::Busy);
    assert!(refusal.text.contains("cannot write down"), "{}", refusal.text);
    assert_eq!(peers.known(2), None);
}

#[test]
fn a_crash_before_the_rename_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    peers(dir.path()).meet(&ME, &said(2, 0), welcome).unwrap();
    let old = fs::read(dir.path().join(PEERS)).unwrap();
    for len in [0, 7, old.len() - 1, old.len()] {
        fs::write(dir.path().join("peers.new"), &old[..len]).unwrap();
        let peers = Peers::open(dir.path(), owner()).unwrap();
        assert_eq!((peers.founder(2, 1), peers.founder(3, 1)), (202, 0));
    }
    let peers = Peers::open(dir.path(), owner()).unwrap();
    peers.meet(&ME, &said(3, 0), welcome).unwrap();
    assert_eq!(Peers::open(dir.path(), owner()).unwrap().founder(3, 1), 203);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = |owner: Owner| Peers::open(dir.path(), owner).unwrap_err().to_string();
    assert!(error(owner()).contains("peers is damaged or gone"), "{}", error(owner()));
    peers(dir.path());
    let other = error(Owner { incarnation: 8, ..owner() });
    assert!(other.contains("belongs to another directory"), "{other}");
    peers(dir.path()).meet(&ME, &said(2, 0), welcome).unwrap();
    let shards = error(Owner { shards: 3, ..owner() });
    assert!(shards.contains("damaged"), "{shards}");
    fs::write(dir.path().join(PEERS), sealed::seal(MAGIC, FORMAT + 1, &[])).unwrap();
    assert!(error(owner()).contains("another release"), "{}", error(owner()));
}

#[test]
fn every_bit_of_the_peers_file_counts() {
    let dir = tempfile::tempdir().unwrap();
    let peers = peers(dir.path());
    peers.meet(&ME, &said(2, 0), welcome).unwrap();
    peers.meet(&ME, &Said { incarnation: 300, ..said(2, 0) }, welcome).unwrap();
    let bytes = fs::read(dir.path().join(PEERS)).unwrap();
    assert_eq!(decode(&bytes).as_ref(), Ok(&*peers.book()));
    assert_eq!((&bytes[..8], &bytes[12..16]), (&b"SYNODPRS"[..], &[2, 0, 0, 0][..]));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&flipped).is_err(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn random_peers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), sealed: bool) {
        let bytes = if sealed { sealed::seal(MAGIC, FORMAT, &bytes) } else { bytes };
        let _ = decode(&bytes);
    }
}

// ---- three nodes ----

/// A node's directory, with one shard.
#[derive(Clone)]
struct Directory {
    owner: Owner,
    boot: u64,
    replica: u128,
    book: PeersV2,
}

impl Directory {
    fn make(node: NodeId, ids: &mut u128, replacement: bool) -> Self {
        let mut draw = || {
            *ids += 1;
            *ids
        };
        let (incarnation, replica) = (draw(), draw());
        let founders = (!replacement).then(|| vec![replica]);
        let owner = Owner { node, incarnation, founders, shards: 1 };
        Self {
            owner,
            boot: 1,
            replica,
            book: PeersV2 { owner: incarnation, founding: MEMBERS.to_vec(), peers: Vec::new() },
        }
    }

    fn me(&self) -> Me {
        let founder = self.owner.founders.as_ref().is_some_and(|first| first[0] == self.replica);
        Me { shard: 0, replica: self.replica, founder }
    }

    fn hello(&self, target: NodeId) -> Hello {
        let known = self.book.peer(target);
        Hello {
            role: Role::Peer,
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            cluster: 1,
            node: self.owner.node,
            incarnation: self.owner.incarnation,
            boot: self.boot,
            target_node: target,
            target_incarnation: known.map_or(0, |known| known.incarnation),
            shard: 0,
            shard_count: 1,
            first_shards: 1,
            phase_2: 0,
            replacement: self.owner.founders.is_none(),
            founder: self.me().founder,
            founding: 7,
            replica: self.replica,
            rules: Vec::new(),
            target_replica: known.map_or(0, |known| known.founders[0].replica),
            seen_replica: 0,
            wal_sequence_seen: 0,
        }
    }

    fn hear(&self, hello: &Hello) -> Result<(PeersV2, HelloReply), Refusal> {
        let identity = Identity {
            founding: 7,
            cluster: 1,
            node: self.owner.node,
            incarnation: self.owner.incarnation,
            replacement: self.owner.founders.is_none(),
            shard_count: 1,
            first_shards: 1,
            phase_2: 0,
            members: &MEMBERS,
        };
        let said = Said {
            node: hello.node,
            incarnation: hello.incarnation,
            boot: hello.boot,
            founder: hello.founder,
            replica: hello.replica,
            knows: hello.target_replica,
        };
        let (book, met) = self.book.contact(&self.owner, &self.me(), &said, |known| judge(hello, &identity, known))?;
        let answer = HelloReply {
            status: if met.greet { HelloStatus::Greeted } else { HelloStatus::Ok },
            node: self.owner.node,
            incarnation: self.owner.incarnation,
            boot: self.boot,
            shard_count: 1,
            first_shards: 1,
            replacement: self.owner.founders.is_none(),
            founder: self.me().founder,
            founding: 7,
            replica: self.replica,
            rules: Vec::new(),
            target_replica: met.founder,
            seen_replica: 0,
            wal_sequence_seen: 0,
            text: String::new(),
        };
        Ok((book, answer))
    }

    fn hear_answer(&self, answer: &HelloReply) -> Result<PeersV2, Refusal> {
        let said = Said {
            node: answer.node,
            incarnation: answer.incarnation,
            boot: answer.boot,
            founder: answer.founder,
            replica: answer.replica,
            knows: answer.target_replica,
        };
        let judge = |known: Option<&KnownPeer>| judge_answer(answer, answer.node, 7, known);
        self.book.contact(&self.owner, &self.me(), &said, judge).map(|(book, _)| book)
    }

    /// The founders that it may vote with.
    fn votes_with(&self) -> Option<Genesis> {
        self.book.genesis(&self.owner, 0).filter(|_| self.me().founder)
    }
}

/// What is on its way.
#[derive(Clone)]
enum Flying {
    Hello(NodeId, Hello),
    /// To a process: a node's incarnation at a boot.
    Answer((u128, u64), HelloReply),
}

#[derive(Default, Debug)]
struct Seldom {
    voters: u32,
    refused: u32,
    replaced: u32,
    disagreed: u32,
}

struct Three {
    now: BTreeMap<NodeId, Directory>,
    /// Directories that were taken away, as they were then.
    away: Vec<Directory>,
    flying: Vec<Flying>,
    /// Every replica that may have voted, of each node.
    voted: BTreeMap<NodeId, u128>,
    ids: u128,
    state: u64,
    /// The node whose directory is never emptied: without one, nobody is left who could know.
    survivor: NodeId,
}

impl Three {
    fn new(seed: u64) -> Self {
        let mut ids = 0;
        let now = MEMBERS.into_iter().map(|node| (node, Directory::make(node, &mut ids, false))).collect();
        let (away, flying, voted) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut three = Self { now, away, flying, voted, ids, state: seed + 1, survivor: 0 };
        three.survivor = three.node();
        three
    }

    fn roll(&mut self, below: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % below
    }

    fn node(&mut self) -> NodeId {
        MEMBERS[self.roll(MEMBERS.len())]
    }

    fn dial(&mut self) {
        let (from, to) = [(2, 1), (3, 1), (3, 2)][self.roll(3)];
        self.flying.push(Flying::Hello(to, self.now[&from].hello(to)));
    }

    fn deliver(&mut self, seldom: &mut Seldom) {
        if self.flying.is_empty() {
            return;
        }
        let at = self.roll(self.flying.len());
        let (crash_before, crash_behind) = (self.roll(12) == 0, self.roll(12) == 0);
        match self.flying.swap_remove(at) {
            Flying::Hello(to, hello) => {
                let listener = self.now.get_mut(&to).unwrap();
                match listener.hear(&hello) {
                    Ok((book, answer)) => {
                        if crash_before {
                            listener.boot += 1;
                            return;
                        }
                        seldom.replaced += u32::from(book.peers.iter().any(|peer| !peer.retired.is_empty()));
                        listener.book = book;
                        if crash_behind {
                            listener.boot += 1;
                        } else {
                            self.flying.push(Flying::Answer((hello.incarnation, hello.boot), answer));
                        }
                    }
                    Err(_) => seldom.refused += 1,
                }
            }
            Flying::Answer((incarnation, boot), answer) => {
                let dials = |dialer: &&mut Directory| (dialer.owner.incarnation, dialer.boot) == (incarnation, boot);
                if let Some(dialer) = self.now.values_mut().find(dials) {
                    match dialer.hear_answer(&answer) {
                        Ok(book) if !crash_before => dialer.book = book,
                        Ok(_) => dialer.boot += 1,
                        Err(_) => seldom.refused += 1,
                    }
                }
            }
        }
    }

    /// Something befalls a node.
    fn mishap(&mut self) {
        let node = self.node();
        let ids = &mut self.ids;
        let directory = self.now.get_mut(&node).unwrap();
        match self.state >> 40 & 7 {
            0..=3 if node != self.survivor => {
                let replacement = self.state >> 43 & 3 == 0;
                let new = Directory::make(node, ids, replacement);
                self.away.push(std::mem::replace(directory, new));
            }
            4 if node != self.survivor => {
                // The old directory is found again; it is the newest copy.
                if let Some(at) = self.away.iter().position(|old| old.owner.node == node) {
                    std::mem::swap(directory, &mut self.away[at]);
                    directory.boot += 1;
                }
            }
            5 => {
                *ids += 1;
                (directory.replica, directory.boot) = (*ids, directory.boot + 1);
            }
            _ => directory.boot += 1,
        }
    }

    fn check(&mut self, seed: u64, seldom: &mut Seldom) {
        for (node, directory) in &self.now {
            let Some(genesis) = directory.votes_with() else { continue };
            let voter = *self.voted.entry(*node).or_insert_with(|| {
                seldom.voters += 1;
                directory.replica
            });
            assert_eq!(voter, directory.replica, "seed {seed}: two replicas of node {node} may vote");
            assert!(genesis.contains(&(*node, voter)), "seed {seed}: node {node} votes with {genesis:?}");
            let survivor = &self.now[&self.survivor];
            let known = survivor.book.peer(*node).map_or(survivor.replica, |peer| peer.founders[0].replica);
            let renewed = *node == self.survivor;
            assert!(known == voter || renewed, "seed {seed}: node {node} votes, unknown to the survivor");
        }
        let all: Vec<Genesis> = self.now.values().filter_map(Directory::votes_with).collect();
        seldom.disagreed += u32::from(all.windows(2).any(|pair| pair[0] != pair[1]));
    }
}

/// Directories are emptied, replaced, put back, and their logs begun anew, at any point of the first contacts. Whatever
/// happens: of each node, one replica votes for ever. So two quorums share a voter that remembers.
#[test]
fn node_id_reused_with_empty_disk() {
    let mut seldom = Seldom::default();
    for seed in 0..4000 {
        let mut three = Three::new(seed);
        let calm = three.roll(30);
        for _ in 0..150 {
            match three.roll(40 + calm) {
                0 => three.mishap(),
                odd if odd % 2 == 1 => three.dial(),
                _ => three.deliver(&mut seldom),
            }
            three.check(seed, &mut seldom);
        }
    }
    let Seldom { voters, refused, replaced, disagreed } = seldom;
    assert!(voters > 0 && refused > 0 && replaced > 0 && disagreed > 0, "{seldom:?}");
}

/// Without mishaps all begin, each pair after two dials, whatever the order.
#[test]
fn three_nodes_meet() {
    for order in [[(2, 1), (3, 1), (3, 2)], [(3, 2), (2, 1), (3, 1)], [(3, 1), (3, 2), (2, 1)]] {
        let mut three = Three::new(0);
        for (from, to) in order {
            for status in [HelloStatus::Greeted, HelloStatus::Ok] {
                let hello = three.now[&from].hello(to);
                let (book, answer) = three.now[&to].hear(&hello).unwrap();
                three.now.get_mut(&to).unwrap().book = book;
                assert_eq!(answer.status, status);
                let book = three.now[&from].hear_answer(&answer).unwrap();
                three.now.get_mut(&from).unwrap().book = book;
            }
        }
        let founders: Genesis = three.now.values().map(|node| (node.owner.node, node.replica)).collect();
        assert!(three.now.values().all(|node| node.votes_with().as_ref() == Some(&founders)));
    }
}
