//! What comes to a node's UDP port: garbage, foreign and old tokens, and datagrams again. They change nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use synod::{Datagrams, Entries};
use synod_sim::{Cluster, PATIENCE};
use synod_transport::datagram::{DATAGRAM_BYTES_MAX, Datagram};
use synod_transport::frame::{Decoder, encode_frame};
use synod_transport::hello::{Hello, Role};
use synod_transport::lane::LaneOffer;
use synod_transport::net::listen::dial;

const HEARTBEAT: u8 = 5;
const HEARTBEAT_ACK: u8 = 6;
const LANE: u8 = 9;

/// The token that this test draws.
const TOKEN: u128 = 1 << 99 | 7;

/// What this test makes of node 2: a directory that came in the place of its own.
fn hello(cluster: u128, boot: u64) -> Hello {
    Hello { incarnation: 22, boot, replacement: true, replica: 77, ..synod_sim::hello(Role::Peer, cluster, 2) }
}

/// A heartbeat that says that its sender takes datagrams.
fn heartbeat(sent_ns: u64) -> Vec<u8> {
    [sent_ns, 0, 0, 1].iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A connection to node 1, as node 2.
struct Connection {
    stream: TcpStream,
    decoder: Decoder,
}

impl Connection {
    /// Connects, and waits for the offer of a lane.
    fn with_offer(address: SocketAddr, hello: &Hello) -> (Self, LaneOffer) {
        let (_, stream) = dial(address, hello, PATIENCE).expect("node 2 is let in");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A connection on which nothing comes for long is closed.
        let mut lives = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            while lives.write_all(&encode_frame(HEARTBEAT, 0, &heartbeat(1))).is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let mut connection = Self { stream, decoder: Decoder::new() };
        let offer = connection.wait_for(LANE);
        (connection, LaneOffer::decode(&offer).expect("a legal offer"))
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        self.stream.write_all(&encode_frame(kind, 0, body)).unwrap();
    }

    /// Reads until a frame of this kind comes, and gives its body.
    fn wait_for(&mut self, kind: u8) -> Vec<u8> {
        loop {
            while let Some(frame) = self.decoder.next().expect("a node sends frames") {
                if frame.header.kind == kind {
                    return frame.body.to_vec();
                }
            }
            let read = self.stream.read(self.decoder.space()).expect("the node goes on");
            assert!(read > 0, "the connection is closed");
            self.decoder.filled(read);
        }
    }
}

fn datagrams(cluster: &Cluster) -> Datagrams {
    cluster.node(1).on_shard(1, |shard| shard.datagrams()).expect("it runs")
}

fn wait_for(what: &str, cluster: &Cluster, holds: impl Fn(&Datagrams) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(&datagrams(cluster)) {
        assert!(Instant::now() < end, "{what}: {:?}", datagrams(cluster));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Receives datagrams until one answers the heartbeat that was sent at `sent_ns`, as the heartbeat says.
fn wait_for_answer(socket: &UdpSocket, sent_ns: u64) {
    let mut buffer = [0; 2 * DATAGRAM_BYTES_MAX];
    loop {
        let (len, _) = socket.recv_from(&mut buffer).expect("an answer comes");
        let datagram = Datagram::decode(&buffer[..len]).expect("a node sends datagrams");
        assert_eq!(datagram.token, TOKEN);
        if datagram.kind == HEARTBEAT_ACK {
            assert_eq!(datagram.body[..8], sent_ns.to_le_bytes(), "it answers another one");
            return;
        }
    }
}

#[test]
fn only_what_bears_the_token_and_is_new_is_taken_in() {
    let mut cluster = Cluster::start(3, |c| c.udp_lane = c.node == 1);
    cluster.commit(1, 1, 1, &Entries::one(b"before").unwrap());
    cluster.stop_node(2);
    let members = &cluster.configs[0].members;
    let (address, own) = (members[0].address, members[1].address.ip());
    let id = u128::from_str_radix(&cluster.configs[0].cluster, 16).unwrap();
    let (mut connection, offer) = Connection::with_offer(address, &hello(id, 1));
    let socket = UdpSocket::bind((own, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = socket.local_addr().unwrap().port();
    connection.send(LANE, &LaneOffer { port, token: TOKEN }.encode());
    let to = SocketAddr::new(address.ip(), offer.port);
    let send = |token: u128, sequence: u64, sent_ns: u64| {
        let body = heartbeat(sent_ns);
        socket.send_to(&Datagram { kind: HEARTBEAT, sequence, token, body: &body }.encode(), to).unwrap();
    };

    // Once the node has taken in where this end takes datagrams, it sends some.
    wait_for("the node asks by datagram", &cluster, |of| of.sent > 0);
    send(offer.token, 5, 1005);
    wait_for_answer(&socket, 1005);

    // The same again, and one that was sent before: neither is answered.
    send(offer.token, 5, 1005);
    send(offer.token, 4, 1004);
    wait_for("they are late", &cluster, |of| of.stale == 2);
    send(offer.token, 6, 1006);
    wait_for_answer(&socket, 1006);

    // Foreign tokens, this end's own, garbage of all lengths, a frame as a connection has it, a kind that nobody knows.
    let before = datagrams(&cluster).refused;
    send(offer.token ^ 1, 7, 1007);
    send(TOKEN, 7, 1007);
    for len in (0..1400).step_by(100) {
        socket.send_to(&vec![0xa5; len], to).unwrap();
    }
    socket.send_to(&encode_frame(HEARTBEAT, 0, &heartbeat(1007)), to).unwrap();
    let strange = Datagram { kind: 200, sequence: 7, token: offer.token, body: b"" };
    socket.send_to(&strange.encode(), to).unwrap();
    wait_for("they are refused", &cluster, |of| of.refused == before + 2 + 14 + 2);
    send(offer.token, 8, 1008);
    wait_for_answer(&socket, 1008);

    // Another connection has another token, and that of the first one is worth nothing any more.
    let (_again, second) = Connection::with_offer(address, &hello(id, 1));
    assert_ne!(second.token, offer.token);
    let before = datagrams(&cluster);
    send(offer.token, 9, 1009);
    wait_for("it is refused", &cluster, |of| of.refused == before.refused + 1);
    assert_eq!(datagrams(&cluster).taken, before.taken);

    cluster.commit(1, 1, 2, &Entries::one(b"after").unwrap());
    assert_eq!(cluster.log(1, 1, 2), [b"before".to_vec(), b"after".to_vec()]);
}
