//! A shard on its own, without a disk or peers that answer.

use std::io;
use std::sync::{Arc, Mutex};

use synod_transport::Decoder;
use synod_transport::datagram::Datagram;
use synod_transport::lane::LaneOffer;
use synod_wal::recover::SegmentSource;

use super::*;
use crate::assemble::{ShardPlace, assemble};
use crate::checkpoint::files::SystemFiles;
use crate::checkpoint::store::Store;
use crate::config::{Config, Member};
use crate::homes::{Names, Placement};
use crate::introductions::Introduction;
use crate::large::Cutting;
use crate::limits::{INTRODUCED_MAX, MIB};
use crate::metrics::Datagrams;
use crate::wire::introductions::{INTRODUCTIONS, encode};

/// A directory without a log.
struct Nothing;

impl SegmentSource for Nothing {
    fn generations(&mut self) -> io::Result<Vec<u64>> {
        Ok(Vec::new())
    }

    fn len(&mut self, _: u64) -> io::Result<u64> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn read_at(&mut self, _: u64, _: u64, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn name(&self, generation: u64) -> String {
        generation.to_string()
    }
}

/// The shard of node 1 of three, just started over an empty directory.
fn started() -> Shard {
    started_with(1)
}

/// As [`started`], with so many groups.
fn started_with(groups: u64) -> Shard {
    let mut shard = assembled(groups);
    shard.start(2);
    shard
}

/// The shard before its start.
fn assembled(groups: u64) -> Shard {
    let address = |node: u64| format!("127.0.0.1:{node}").parse().unwrap();
    let members = (1..=3).map(|node| Member { node, address: address(node) }).collect();
    let config = Config { groups, ..Config::new(7, 1, "", members) };
    let dir = tempfile::tempdir().unwrap();
    let files = SystemFiles::open(dir.path().join("checkpoints")).unwrap();
    let mut store = Store::open(Box::new(files), 7).unwrap();
    let place = ShardPlace {
        shard: 0,
        log: 1,
        names: Names::all(1),
        placement: Arc::new(Placement::new(config.homes(), [])),
        groups: (1..=config.groups).collect(),
        moved: Vec::new(),
        segment_bytes: 4 * MIB,
        memory: Memory::new(1 << 20),
        cutting: Cutting::default(),
        seed: 1,
        founders: vec![(0, vec![(1, 1), (2, 2), (3, 3)])],
        seen: Arc::default(),
        pull_bytes: 1 << 20,
    };
    assemble(&config, &place, &mut Nothing, &mut store, None).unwrap().0
}

/// A peer's first frame of a handshake: it has seen votes that rest on this shard's log up to `seen`.
fn meet(shard: &mut Shard, node: u64, seen: u64) {
    shard.peer_connected(
        node,
        node,
        PeerHello { boot: 1, log: u128::from(node), names: Names::all(u128::from(node)), seen, lost: None },
    );
}

/// How many segments the shard has asked for since it was last looked.
fn prepared(shard: &mut Shard) -> usize {
    shard.disk_ops.drain(..).filter(|op| matches!(op, DiskOp::Prepare { .. })).count()
}

#[test]
fn behind_a_restart_the_stock_of_segments_grows_one_by_one() {
    let mut new = assembled(1);
    new.start(8);
    let all = prepared(&mut new);
    assert!(all >= 8, "a new log has them at once");
    let mut shard = assembled(1);
    shard.recovered_end = 1;
    shard.start(8);
    shard.started = true;
    let mut asked = prepared(&mut shard);
    assert!(asked < 5, "{asked} of {all} are asked for at once");
    for _ in 0..20 {
        shard.tick();
        let more = prepared(&mut shard);
        shard.tick();
        assert!(more <= 1 && prepared(&mut shard) == 0, "one at a time");
        asked += more;
        shard.now_ns += SPARE_EVERY_NS;
    }
    assert_eq!(asked, all);
}

#[test]
fn votes_wait_until_all_peers_were_met() {
    let mut shard = started();
    assert!(!shard.may_vote());
    meet(&mut shard, 2, 0);
    assert!(!shard.may_vote(), "node 3 may know of votes that were lost");
    meet(&mut shard, 3, 0);
    assert!(shard.may_vote());
    // What they know was said then: it does not wait again when they are gone.
    shard.disconnected(2);
    shard.disconnected(3);
    assert!(shard.may_vote());
}

#[test]
fn votes_wait_no_longer_than_a_while() {
    let mut shard = started();
    let began = shard.now_ns;
    meet(&mut shard, 2, 0);
    shard.now_ns = began + VOTE_WAIT_NS - 1;
    assert!(!shard.may_vote());
    shard.now_ns += 1;
    assert!(shard.may_vote(), "node 3 may never come");
}

/// Also over the connection that it had: its process may only have stood still.
#[test]
fn listeners_hear_of_a_peer_that_is_lost_and_heard_again() {
    let mut shard = started();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&heard);
    shard.events = Some(Arc::new(move |event: &Event| tell.lock().unwrap().push(event.clone())));
    shard.started = true;
    meet(&mut shard, 2, 0);
    shard.now_ns += PEER_LOST_NS + 1;
    shard.tick();
    let heartbeat = Heartbeat { sent_ns: 1, wal_sequence: 0, full: false, support: 0 };
    for _ in 0..2 {
        shard.on_heartbeat(0, &heartbeat.encode(), Way::Connection).unwrap();
    }
    let (connected, lost) = (Event::PeerConnected { shard: 0, node: 2 }, Event::PeerLost { shard: 0, node: 2 });
    assert_eq!(*heard.lock().unwrap(), [connected.clone(), lost, connected]);
}

#[test]
fn a_log_that_ends_before_what_a_peer_has_seen_is_suspect() {
    let mut shard = started();
    shard.recovered_end = 7;
    meet(&mut shard, 2, 7);
    assert!(!shard.suspect && shard.complete().is_ok());
    meet(&mut shard, 3, 8);
    assert!(shard.suspect);
    let fatal = shard.complete().unwrap_err();
    assert!(fatal.contains("ends with frame 7, and node 3 has seen votes that rest on frame 8"), "{fatal}");
}

#[test]
fn at_the_first_meeting_only_what_recovery_found_counts() {
    // Since the start it has written nothing durably, and recovery has found nine frames.
    let mut shard = started();
    shard.recovered_end = 9;
    assert_eq!(shard.writer.durable_through(), 0);
    shard.check_own_log(2, 9, true);
    assert!(!shard.suspect);
    // Later the log has what it has: whoever has seen more of it is right.
    shard.check_own_log(2, 1, false);
    assert!(shard.suspect);
}

#[test]
fn a_peer_that_comes_again_is_compared_with_the_log_as_it_is() {
    let mut shard = started();
    shard.recovered_end = 9;
    meet(&mut shard, 2, 9);
    shard.disconnected(2);
    meet(&mut shard, 2, 1);
    assert!(shard.suspect, "this process has made nothing durable, and a vote has left");
}

fn heartbeat(sent_ns: u64, full: bool) -> [u8; 32] {
    Heartbeat { sent_ns, wal_sequence: 0, full, support: wire::TAKES_DATAGRAMS }.encode()
}

#[test]
fn a_heartbeat_that_was_overtaken_does_not_say_how_the_disk_is() {
    let mut shard = started();
    meet(&mut shard, 2, 0);
    shard.on_heartbeat(0, &heartbeat(20, false), Way::Datagram).unwrap();
    shard.on_heartbeat(0, &heartbeat(10, true), Way::Connection).unwrap();
    assert!(!shard.peers[0].disk_full);
    shard.on_heartbeat(0, &heartbeat(30, true), Way::Connection).unwrap();
    assert!(shard.peers[0].disk_full);
    // Behind another connection may be a machine whose clock has begun anew.
    meet(&mut shard, 2, 0);
    shard.on_heartbeat(0, &heartbeat(1, false), Way::Connection).unwrap();
    assert!(!shard.peers[0].disk_full);
}

/// A shard that has a socket for datagrams, and a connection to node 2, which has offered a lane.
fn with_lane(own_token: u128) -> Shard {
    let mut shard = started();
    shard.lanes.open(7, Box::new(move || own_token));
    meet(&mut shard, 2, 0);
    shard.on_heartbeat(0, &heartbeat(1, false), Way::Connection).unwrap();
    shard.on_lane_offer(0, &LaneOffer { port: 8, token: 5 }.encode()).unwrap();
    shard
}

/// Takes what waits for the connection to node 2, and gives the kinds of its frames.
fn sent(shard: &mut Shard) -> Vec<u8> {
    let mut bytes = Vec::new();
    let taken: Result<bool, ()> = shard.peers[0].outbox.flush_with(|slices| {
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    });
    assert_eq!(taken, Ok(true));
    let (mut decoder, mut kinds, mut bytes) = (Decoder::new(), Vec::new(), &bytes[..]);
    while !bytes.is_empty() {
        bytes = &bytes[decoder.push(bytes)..];
        while let Some(frame) = decoder.next().unwrap() {
            kinds.push(frame.header.kind);
        }
    }
    kinds
}

/// Nothing else shows that the connection lives.
#[test]
fn a_heartbeat_goes_over_the_connection_once_a_second_although_datagrams_are_enough() {
    let mut shard = with_lane(9);
    assert_eq!(sent(&mut shard), [LANE, HEARTBEAT_ACK]);
    let (mut by_datagram, mut by_connection) = (0, Vec::new());
    for sequence in 1..=30 {
        shard.now_ns += pulse::HEARTBEAT_NS;
        shard.send_heartbeats();
        by_connection.extend(sent(&mut shard));
        let parcels = std::mem::take(&mut shard.lanes.outgoing);
        let [parcel] = &parcels[..] else { panic!("a heartbeat to node 2: {parcels:?}") };
        let asked = Datagram::decode(&parcel.bytes).unwrap();
        assert_eq!((parcel.port, asked.token, asked.sequence, asked.kind), (8, 5, sequence, HEARTBEAT));
        by_datagram += 1;
        let answer = Datagram { kind: HEARTBEAT_ACK, sequence, token: 9, body: asked.body };
        assert!(shard.on_datagram(&answer.encode()) && !shard.on_datagram(&answer.encode()));
        assert_eq!(shard.peers[0].answered_ns, shard.now_ns);
    }
    // The first goes both ways: nothing is known of the lane yet.
    assert_eq!((by_datagram, by_connection), (30, vec![HEARTBEAT; 3]));
    let expected = Datagrams { sent: 30, taken: 30, stale: 30, refused: 0, peers: 1 };
    assert_eq!(shard.datagrams(), expected);
}

#[test]
fn a_datagram_counts_only_while_its_connection_lasts() {
    let mut shard = with_lane(9);
    let beat = heartbeat(2, false);
    let datagram = |sequence| Datagram { kind: HEARTBEAT, sequence, token: 9, body: &beat }.encode();
    assert!(shard.on_datagram(&datagram(1)));
    assert_eq!(shard.lanes.outgoing.len(), 1, "it is answered by datagram");
    shard.disconnected(2);
    let heard = shard.peers[0].beat_ns;
    shard.now_ns += 1_000_000;
    assert!(!shard.on_datagram(&datagram(2)));
    assert_eq!((shard.peers[0].beat_ns, shard.lanes.outgoing.len()), (heard, 1));
}

#[test]
fn a_shard_without_a_socket_takes_no_notice_of_offers() {
    let mut shard = started();
    meet(&mut shard, 2, 0);
    shard.on_heartbeat(0, &heartbeat(1, false), Way::Connection).unwrap();
    shard.on_lane_offer(0, &LaneOffer { port: 8, token: 5 }.encode()).unwrap();
    shard.now_ns += pulse::HEARTBEAT_NS;
    shard.send_heartbeats();
    assert_eq!(sent(&mut shard), [HEARTBEAT_ACK, HEARTBEAT]);
    assert!(shard.lanes.outgoing.is_empty());
    assert!(shard.on_lane_offer(0, b"no offer").is_err());
}

/// A leader whose connections stand still one after another chooses nothing, however well its datagrams come.
#[test]
fn a_peer_whose_connection_is_silent_is_lost_although_its_datagrams_come() {
    let mut shard = with_lane(9);
    shard.started = true;
    let began = shard.now_ns;
    for sequence in 1.. {
        shard.now_ns += pulse::HEARTBEAT_NS;
        let beat = heartbeat(1 + sequence, false);
        assert!(shard.on_datagram(&Datagram { kind: HEARTBEAT, sequence, token: 9, body: &beat }.encode()));
        shard.tick();
        let closed = shard.notices.iter().any(|notice| matches!(notice, Notice::Close(2)));
        assert_eq!((closed, shard.peers[0].lost), (shard.now_ns > began + PEER_SILENT_NS, closed));
        if closed {
            return;
        }
    }
}

fn introduction(node: u64, port: u16, witness: bool) -> Introduction {
    Introduction { node, address: ([127, 0, 0, 1], port).into(), witness, version: 1 }
}

fn nodes(shard: &Shard) -> Vec<u64> {
    shard.peers.iter().map(|peer| peer.node).collect()
}

#[test]
fn an_introduced_node_is_one_more_peer_behind_the_others() {
    let mut shard = started_with(3);
    let preferred = |shard: &Shard| shard.groups[..3].iter().map(|group| group.preferred).collect::<Vec<_>>();
    assert_eq!(preferred(&shard), [2, 3, 1]);
    // The first and the third of four are what the configuration says.
    let of =
        [introduction(1, 7, true), introduction(0xfff, 8, true), introduction(3, 9, true), introduction(4, 10, false)];
    shard.introduce(of.into());
    assert_eq!(nodes(&shard), [2, 3, 0xfff, 4]);
    let witnesses = |shard: &Shard| shard.made.maker.config.witnesses.clone();
    assert_eq!(witnesses(&shard), [0xfff]);
    assert_eq!(shard.membership(0).learners, [4, 0xfff], "the founders vote");
    assert_eq!(shard.introductions(), of);
    assert_eq!(
        preferred(&shard),
        [2, 3, 4],
        "as on a node that is started with all of them, of which one is a witness"
    );
    // They may become something else, and stay where they are.
    let of = [introduction(5, 11, false), introduction(4, 12, true), introduction(0xfff, 8, false)];
    shard.introduce(of.into());
    assert_eq!(nodes(&shard), [2, 3, 0xfff, 4, 5]);
    assert_eq!(witnesses(&shard), [4]);
    let address = |node| shard.made.maker.config.members.iter().find(|member| member.node == node).unwrap().address;
    assert_eq!((address(4).port(), address(3).port()), (12, 3));
}

#[test]
fn as_many_nodes_as_can_be_introduced_are_peers() {
    let mut shard = started();
    shard.introduce((4..4 + INTRODUCED_MAX as u64).map(|node| introduction(node, node as u16, false)).collect());
    assert_eq!(shard.peers.len(), 2 + INTRODUCED_MAX);
    shard.started = true;
    shard.now_ns += QUORUM_LOST_NS + 1;
    shard.tick();
    assert_eq!(shard.silent_peers.0, (1 << (2 + INTRODUCED_MAX)) - 1, "none of them was ever heard");
    meet(&mut shard, 3 + INTRODUCED_MAX as u64, 0);
    shard.now_ns += SILENT_AGAIN_NS + BEAT_NS;
    shard.tick();
    assert_eq!(shard.silent_peers.0, (1 << (1 + INTRODUCED_MAX)) - 1, "the last one was");
}

#[test]
fn what_a_peer_tells_of_introduced_nodes_is_passed_on_when_it_is_new() {
    let mut shard = started();
    meet(&mut shard, 2, 0);
    let mut hear = |body: &[u8]| {
        shard.on_peer_frame(2, INTRODUCTIONS, body);
        let notices = std::mem::take(&mut shard.notices);
        if let [Notice::Heard(list)] = &notices[..] {
            shard.introduce(list.clone());
        }
        format!("{notices:?}")
    };
    let known = [introduction(4, 7, false)];
    assert!(hear(&encode(&known)).starts_with("[Heard([Introduction { node: 4"));
    assert_eq!(hear(&encode(&known)), "[]", "it is known now");
    assert_eq!(hear(&[1; 39]), "[Close(2)]");
}
