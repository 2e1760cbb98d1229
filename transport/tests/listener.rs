//! The handshake over real loopback sockets: who is let in, and what strangers can do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use synod_transport::hello::{PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN};
use synod_transport::{
    DialError, HandshakeLimits, Hello, HelloReply, HelloStatus, KIND_HELLO, Listener, Role, ServingListener, Socket,
    dial, encode_frame, reply,
};

/// Far beyond what any step takes: reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// The deadline of a handshake where its passing is what the test waits for.
const SHORT: Duration = Duration::from_millis(200);

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn hello() -> Hello {
    Hello {
        role: Role::Peer,
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        cluster: 1,
        node: 2,
        incarnation: 3,
        boot: 4,
        target_node: 5,
        target_incarnation: 6,
        shard: 0,
        shard_count: 1,
        first_shards: 1,
        phase_2: 0,
        replacement: false,
        founder: false,
        founding: 0,
        replica: 0,
        rules: Vec::new(),
        target_replica: 0,
        seen_replica: 0,
        wal_sequence_seen: 7,
    }
}

fn answer(status: HelloStatus, text: &str) -> HelloReply {
    HelloReply {
        status,
        node: 5,
        incarnation: 6,
        boot: 8,
        shard_count: 1,
        first_shards: 1,
        replacement: false,
        founder: true,
        founding: 0,
        replica: 10,
        rules: Vec::new(),
        target_replica: 11,
        seen_replica: 12,
        wal_sequence_seen: 9,
        text: text.into(),
    }
}

/// A listener that hands on what it is given.
fn listener(limits: HandshakeLimits) -> (ServingListener, mpsc::Receiver<(Hello, Socket)>) {
    let (sender, receiver) = mpsc::channel();
    let serving = Listener::bind(any_port())
        .unwrap()
        .serve_within(limits, move |hello, stream| {
            // The test may be over already.
            let _ = sender.send((hello, stream));
        })
        .unwrap();
    (serving, receiver)
}

/// Waits until the other end has closed, and says how long that took.
fn closed_after(mut stream: &TcpStream) -> Duration {
    let begun = Instant::now();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return begun.elapsed(),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return begun.elapsed(),
            Err(error) => panic!("not closed: {error}"),
        }
    }
}

#[test]
fn a_hello_is_answered_and_the_socket_then_works_both_ways() {
    let (serving, accepted) = listener(HandshakeLimits::default());
    let addr = serving.local_addr();
    let dialer = std::thread::spawn(move || dial(addr, &hello(), PATIENCE).unwrap());
    let (received, theirs) = accepted.recv_timeout(PATIENCE).unwrap();
    assert_eq!(received, hello());
    reply(&theirs, &answer(HelloStatus::Ok, "")).unwrap();
    let mut theirs = theirs.into_tcp().unwrap();
    // Behind the reply at once: the dialer must not swallow it.
    theirs.write_all(b"first").unwrap();
    let (answered, mut ours) = dialer.join().unwrap();
    assert_eq!(answered, answer(HelloStatus::Ok, ""));
    let mut buf = [0; 5];
    ours.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"first");
    ours.write_all(b"other").unwrap();
    theirs.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"other");
    assert_eq!((ours.read_timeout().unwrap(), theirs.read_timeout().unwrap()), (None, None));
}

#[test]
fn what_follows_the_hello_is_left_in_the_socket_even_if_it_comes_in_drops() {
    let (serving, accepted) = listener(HandshakeLimits::default());
    let mut stream = TcpStream::connect(serving.local_addr()).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut bytes = encode_frame(KIND_HELLO, 0, &hello().encode());
    bytes.extend_from_slice(b"next");
    for piece in bytes.chunks(7) {
        stream.write_all(piece).unwrap();
    }
    let (received, theirs) = accepted.recv_timeout(PATIENCE).unwrap();
    assert_eq!(received, hello());
    let mut theirs = theirs.into_tcp().unwrap();
    let mut buf = [0; 4];
    theirs.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"next");
}

#[test]
fn a_refusal_reaches_the_dialer_with_its_reason() {
    let (serving, accepted) = listener(HandshakeLimits::default());
    let addr = serving.local_addr();
    let dialer = std::thread::spawn(move || dial(addr, &hello(), PATIENCE));
    let (_, theirs) = accepted.recv_timeout(PATIENCE).unwrap();
    reply(&theirs, &answer(HelloStatus::StaleBoot, "an old copy")).unwrap();
    drop(theirs);
    let error = dialer.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("an old copy"), "{error}");
    let DialError::Refused { reply, .. } = error else { panic!("{error}") };
    assert_eq!(reply.status, HelloStatus::StaleBoot);
}

#[test]
fn a_slow_stranger_is_cut_off_in_time_even_if_it_sends_a_byte_now_and_then() {
    let (serving, _accepted) = listener(HandshakeLimits { timeout: SHORT, ..HandshakeLimits::default() });
    let silent = TcpStream::connect(serving.local_addr()).unwrap();
    let dripping = TcpStream::connect(serving.local_addr()).unwrap();
    let mut drips = dripping.try_clone().unwrap();
    std::thread::spawn(move || {
        // Ends with the connection; far fewer bytes than a hello has.
        for byte in encode_frame(KIND_HELLO, 0, &hello().encode()) {
            if drips.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(SHORT / 4);
        }
    });
    // The hello would take 72 times the deadline.
    assert!(closed_after(&dripping) < SHORT * 30);
    closed_after(&silent);
}

#[test]
fn bytes_that_are_no_hello_close_the_connection_at_once() {
    let (serving, accepted) = listener(HandshakeLimits { timeout: PATIENCE * 2, ..HandshakeLimits::default() });
    let check = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(serving.local_addr()).unwrap();
        stream.write_all(bytes).unwrap();
        assert!(closed_after(&stream) < PATIENCE);
    };
    check(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    check(&[0xff; 1000]);
    check(&encode_frame(KIND_HELLO + 1, 0, &hello().encode()));
    check(&encode_frame(KIND_HELLO, 0, &[0; 256]));
    check(&encode_frame(KIND_HELLO, 0, &hello().encode()[..200]));
    let mut damaged = encode_frame(KIND_HELLO, 0, &hello().encode());
    damaged[100] ^= 1;
    check(&damaged);
    // Over 4 KiB: refused by its header alone.
    check(&encode_frame(KIND_HELLO, 0, &[0; 5000])[..32]);
    assert!(accepted.try_recv().is_err());
}

#[test]
fn too_many_handshakes_at_once_are_told_to_come_again() {
    let (serving, accepted) = listener(HandshakeLimits { timeout: PATIENCE, at_once_max: 1 });
    let holds = TcpStream::connect(serving.local_addr()).unwrap();
    // Accepted in the order of connecting, so the place is taken when this one comes.
    let mut turned_away = TcpStream::connect(serving.local_addr()).unwrap();
    turned_away.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    turned_away.read_to_end(&mut bytes).unwrap();
    let busy = HelloReply::decode(&bytes[32..]).unwrap();
    assert_eq!(busy.status, HelloStatus::Busy);
    drop(holds);
    let addr = serving.local_addr();
    let dialer = std::thread::spawn(move || {
        let begun = Instant::now();
        loop {
            match dial(addr, &hello(), PATIENCE) {
                Ok(connected) => return connected,
                // The place is freed soon after the drop, not at it.
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
        }
    });
    let (_, theirs) = accepted.recv_timeout(PATIENCE).unwrap();
    reply(&theirs, &answer(HelloStatus::Ok, "")).unwrap();
    dialer.join().unwrap();
}

#[test]
fn a_port_in_use_is_a_clear_error_and_is_free_after_the_stop() {
    let first = Listener::bind(any_port()).unwrap();
    let addr = first.local_addr();
    let error = Listener::bind(addr).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("port {} of 127.0.0.1 is in use", addr.port())), "{error}");
    drop(first.serve(|_, _| {}).unwrap());
    Listener::bind(addr).unwrap();
}

#[test]
fn an_address_of_another_machine_is_a_clear_error() {
    let error = Listener::bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("no address of this machine"), "{error}");
}

#[test]
fn a_stop_breaks_off_handshakes_and_waits_for_their_threads() {
    let (mut serving, accepted) = listener(HandshakeLimits { timeout: PATIENCE * 2, ..HandshakeLimits::default() });
    let streams: Vec<_> = (0..10).map(|_| TcpStream::connect(serving.local_addr()).unwrap()).collect();
    let begun = Instant::now();
    serving.stop();
    assert!(begun.elapsed() < PATIENCE);
    serving.stop();
    // The threads are gone, and the sender with them once the listener is.
    drop(serving);
    assert_eq!(accepted.recv().unwrap_err(), mpsc::RecvError);
    for stream in &streams {
        closed_after(stream);
    }
}

#[test]
fn a_panic_of_the_owner_frees_the_place() {
    let mut serving = Listener::bind(any_port())
        .unwrap()
        .serve_within(HandshakeLimits { timeout: PATIENCE, at_once_max: 1 }, |_, _| panic!("on purpose, for a test"))
        .unwrap();
    for _ in 0..3 {
        assert!(matches!(
            dial(serving.local_addr(), &hello(), PATIENCE),
            Err(DialError::Handshake { .. }) | Err(DialError::Refused { .. })
        ));
    }
    serving.stop();
}

#[test]
fn a_dial_that_nobody_answers_ends_in_time() {
    // A port that was free a moment ago.
    let gone = Listener::bind(any_port()).unwrap().local_addr();
    assert!(matches!(dial(gone, &hello(), PATIENCE), Err(DialError::Connect { .. })));
    // Connected by the kernel, never accepted.
    let mute = Listener::bind(any_port()).unwrap();
    let error = dial(mute.local_addr(), &hello(), SHORT).unwrap_err();
    assert!(matches!(error, DialError::Handshake { .. }), "{error}");
    assert!(error.to_string().contains("in time"), "{error}");
}
