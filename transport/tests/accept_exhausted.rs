//! A full descriptor table. Alone in its program, since it fills that table.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use synod_transport::{Hello, KIND_HELLO, Listener, Role, encode_frame};

/// Far beyond what any step takes: reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_full_descriptor_table_delays_connections_but_loses_none() {
    let (sender, accepted) = mpsc::channel();
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut serving = listener
        .serve(move |hello, stream| {
            // The test may be over already.
            let _ = sender.send((hello, stream));
        })
        .unwrap();
    // Their descriptors must exist before the table is full.
    let mut first = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let mut second = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();

    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    let mut fill = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        fill.push(file);
    }
    assert!(!fill.is_empty());
    let knock = |client: &mut Socket| {
        client.connect(&serving.local_addr().into()).unwrap();
        client.write_all(&encode_frame(KIND_HELLO, 0, &hello().encode())).unwrap();
    };
    // The kernel took a descriptor for it when accept() began to wait.
    knock(&mut first);
    let _kept = accepted.recv_timeout(PATIENCE).unwrap();
    knock(&mut second);
    assert!(accepted.recv_timeout(Duration::from_millis(200)).is_err());
    drop(fill);

    let (received, mut theirs) = accepted.recv_timeout(PATIENCE).unwrap();
    assert_eq!(received, hello());
    theirs.write_all(b"late").unwrap();
    let mut buf = [0; 4];
    second.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"late");
    serving.stop();
}

fn hello() -> Hello {
    Hello {
        role: Role::Client,
        version_min: 1,
        version_max: 1,
        cluster: 0,
        node: 0,
        incarnation: 0,
        boot: 0,
        target_node: 0,
        target_incarnation: 0,
        shard: 0,
        shard_count: 0,
        wal_sequence_seen: 0,
    }
}
