//! A full descriptor table. Alone in its program, since it fills that table.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use synod_transport::hello::{PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN};
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
            let _ = sender.send((hello, stream.into_tcp().unwrap()));
        })
        .unwrap();
    // Their descriptors must exist before the table is full.
    let mut clients = [(); 2].map(|()| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());

    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    let mut fill = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        fill.push(file);
    }
    assert!(!fill.is_empty());
    for client in &mut clients {
        client.connect(&serving.local_addr().into()).unwrap();
        client.write_all(&encode_frame(KIND_HELLO, 0, &hello().encode())).unwrap();
    }
    // One may get in: the kernel takes a descriptor when accept() begins to wait, if there was one then.
    let mut came = Vec::new();
    while let Ok(connection) = accepted.recv_timeout(Duration::from_millis(200)) {
        came.push(connection);
    }
    assert!(came.len() < clients.len());
    drop(fill);

    while came.len() < clients.len() {
        came.push(accepted.recv_timeout(PATIENCE).unwrap());
    }
    assert!(came.iter().all(|(received, _)| *received == hello()));
    for (_, theirs) in &mut came {
        theirs.write_all(b"late").unwrap();
    }
    for client in &mut clients {
        let mut buf = [0; 4];
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"late");
    }
    serving.stop();
}

fn hello() -> Hello {
    Hello {
        role: Role::Client,
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        cluster: 0,
        node: 0,
        incarnation: 0,
        boot: 0,
        target_node: 0,
        target_incarnation: 0,
        shard: 0,
        shard_count: 0,
        first_shards: 1,
        phase_2: 0,
        replacement: false,
        founder: false,
        founding: 0,
        replica: 0,
        rules: Vec::new(),
        target_replica: 0,
        seen_replica: 0,
        wal_sequence_seen: 0,
    }
}
