//! What comes from strangers: random bytes, too long frames, foreign clusters. The node refuses them and goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use synod::Entries;
use synod_sim::{Cluster, hello};
use synod_transport::frame::{FRAME_HEADER_BYTES, KIND_HELLO, encode_frame};
use synod_transport::hello::{Hello, Role};
use synod_transport::net::listen::{DialError, dial};

/// A small xorshift, so that the test is the same every time.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Sends bytes and waits until the node has closed the connection.
fn send_and_drain(mut stream: TcpStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = stream.write_all(bytes);
    let mut sink = Vec::new();
    let _ = stream.read_to_end(&mut sink);
}

#[test]
fn strangers_are_refused_and_the_node_goes_on() {
    let cluster = Cluster::start(1, |c| c.groups = 1);
    cluster.commit(1, 1, 1, &Entries::one(b"before").unwrap());
    let address = cluster.configs[0].members[0].address;
    let id = u128::from_str_radix(&cluster.configs[0].cluster, 16).unwrap();

    for seed in 1..20 {
        send_and_drain(TcpStream::connect(address).unwrap(), &noise(seed, 300 * seed as usize));
    }
    // A hello of noise, and one that claims four gigabytes.
    send_and_drain(TcpStream::connect(address).unwrap(), &encode_frame(KIND_HELLO, 0, &noise(7, 256)));
    let mut long = encode_frame(KIND_HELLO, 0, &[0; 64]);
    long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    send_and_drain(TcpStream::connect(address).unwrap(), &long);

    let refused = |hello: &Hello, word: &str| match dial(address, hello, Duration::from_secs(10)) {
        Err(DialError::Refused { reply, .. }) => assert!(reply.text.contains(word), "{}", reply.text),
        other => panic!("{other:?}"),
    };
    refused(&hello(Role::Peer, id ^ 1, 2), "cluster");
    refused(&hello(Role::Peer, id, 9), "member");
    refused(&hello(Role::Client, id ^ 1, 0), "cluster");

    // A client that is let in and then sends noise.
    for seed in 1..20 {
        let (_, stream) = dial(address, &hello(Role::Client, id, 0), Duration::from_secs(10)).unwrap();
        let kind = if seed % 2 == 0 { 7 } else { 9 };
        let mut bytes = encode_frame(kind, seed, &noise(seed, 40));
        bytes.extend(noise(seed, FRAME_HEADER_BYTES * 3));
        send_and_drain(stream, &bytes);
    }
    cluster.commit(1, 1, 2, &Entries::one(b"after").unwrap());
    assert_eq!(cluster.log(1, 1, 2), [b"before".to_vec(), b"after".to_vec()]);
}
