//! Connections on real executors over real loopback sockets.

use std::cell::{Cell, RefCell};
use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::{LocalExecutorBuilder, Placement};
use synod_transport::{Chunk, Connection, Decoder, FrameHeader, Outbox, encode_frame};

/// Far beyond what any step takes: reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let theirs = listener.accept().unwrap().0;
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    ours.set_write_timeout(Some(PATIENCE)).unwrap();
    (ours, theirs)
}

/// Runs a future on a small executor on this thread.
fn run<T>(future: impl Future<Output = T>) -> T {
    LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).ring_depth(32).make().unwrap().run(future)
}

/// Sends what is queued, waiting where the socket is full: the way that a shard goes too.
async fn send_all(connection: &Connection, outbox: &RefCell<Outbox<Rc<[u8]>>>, waits: &Cell<u32>) {
    while !outbox.borrow_mut().flush_with(|slices| connection.try_send(slices)).unwrap() {
        let copy = outbox.borrow_mut().copy_pinned(16 << 10);
        waits.set(waits.get() + 1);
        let written = connection.write_some(&copy).await.unwrap();
        outbox.borrow_mut().advance(written);
    }
}

#[test]
fn eight_mebibytes_come_back_through_decoder_and_outbox() {
    const FRAMES: u64 = 1024;
    const BODY_BYTES: usize = 8 << 10;
    let (mut client, theirs) = socket_pair();
    let mut reads = client.try_clone().unwrap();
    let body = |tag: u64| -> Vec<u8> { (0..BODY_BYTES).map(|at| (at as u64 * 31 + tag) as u8).collect() };
    let writer = std::thread::spawn(move || {
        for tag in 0..FRAMES {
            let frame = encode_frame(9, tag, &body(tag));
            // Small pieces that cut headers and bodies anywhere.
            for piece in frame.chunks(1 + (tag as usize * 37) % 3000) {
                client.write_all(piece).unwrap();
            }
        }
        client.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let reader = std::thread::spawn(move || {
        let mut expected = 0;
        let mut decoder = Decoder::new();
        loop {
            let n = reads.read(decoder.space()).unwrap();
            decoder.filled(n);
            while let Some(frame) = decoder.next().unwrap() {
                assert_eq!((frame.header.kind, frame.header.tag), (9, expected));
                assert!(frame.body == body(expected), "frame {expected} came back changed");
                expected += 1;
            }
            if n == 0 {
                return expected;
            }
        }
    });
    run(async move {
        let connection = Connection::from_socket(theirs).unwrap();
        let outbox = RefCell::new(Outbox::new(usize::MAX / 2));
        let mut decoder = Decoder::new();
        loop {
            let n = connection.read(decoder.space()).await.unwrap();
            decoder.filled(n);
            while let Some(frame) = decoder.next().unwrap() {
                let header = frame.header.encode().to_vec();
                let body: Rc<[u8]> = Rc::from(frame.body);
                let end = body.len() as u32;
                let parts = [Chunk::Owned(header), Chunk::Shared { bytes: body, start: 0, end }];
                outbox.borrow_mut().push_bulk(parts, 0).unwrap();
            }
            send_all(&connection, &outbox, &Cell::new(0)).await;
            if n == 0 {
                return;
            }
        }
    });
    writer.join().unwrap();
    assert_eq!(reader.join().unwrap(), FRAMES);
}

#[test]
fn a_full_socket_takes_nothing_and_the_writer_waits_for_it() {
    const FRAMES: usize = 40;
    let (mut client, theirs) = socket_pair();
    let buffer: Rc<[u8]> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    let waits = Cell::new(0);
    run(async {
        let connection = Connection::from_socket(theirs).unwrap();
        let outbox = RefCell::new(Outbox::new(usize::MAX / 2));
        for tag in 0..FRAMES as u64 {
            let header = FrameHeader::of_self_checked(9, tag, buffer.len()).encode().to_vec();
            let end = buffer.len() as u32;
            let parts = [Chunk::Owned(header), Chunk::Shared { bytes: Rc::clone(&buffer), start: 0, end }];
            outbox.borrow_mut().push_bulk(parts, 0).unwrap();
        }
        // Until not one more byte goes: the kernel moves some on to the receiver in between.
        let mut left = usize::MAX;
        while outbox.borrow().queued_bytes() < left {
            left = outbox.borrow().queued_bytes();
            outbox.borrow_mut().flush_with(|slices| connection.try_send(slices)).unwrap();
        }
        assert!(!outbox.borrow().is_empty(), "the socket took 40 MiB that nobody reads");
        let reader = std::thread::spawn(move || {
            let mut decoder = Decoder::new();
            let mut frames = 0;
            while frames < FRAMES {
                let n = client.read(decoder.space()).unwrap();
                decoder.filled(n);
                while let Some(frame) = decoder.next().unwrap() {
                    assert_eq!(frame.header.tag, frames as u64);
                    assert!(frame.body.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
                    frames += 1;
                }
            }
        });
        send_all(&connection, &outbox, &waits).await;
        reader.join().unwrap();
    });
    assert!(0 < waits.get());
}

#[test]
fn a_shutdown_wakes_a_parked_reader_and_tells_the_other_end() {
    let (mut client, theirs) = socket_pair();
    run(async move {
        let connection = Connection::from_socket(theirs).unwrap();
        let reader = glommio::spawn_local({
            let connection = Rc::clone(&connection);
            async move { connection.read(&mut [0; 100]).await.unwrap() }
        });
        // Long enough for the reader's poll to reach the kernel.
        glommio::timer::sleep(Duration::from_millis(20)).await;
        let begun = Instant::now();
        connection.shutdown();
        assert_eq!(reader.await, 0);
        assert!(begun.elapsed() < PATIENCE);
        connection.shutdown();
        assert_eq!(connection.read(&mut [0; 100]).await.unwrap(), 0);
        assert!(connection.try_send(&[IoSlice::new(b"late")]).is_err());
        assert_eq!(client.read(&mut [0; 100]).unwrap(), 0);
    });
}

#[test]
fn a_shutdown_wakes_a_writer_that_waits_for_a_full_socket() {
    let (_client, theirs) = socket_pair();
    run(async move {
        let connection = Connection::from_socket(theirs).unwrap();
        let writer = glommio::spawn_local({
            let connection = Rc::clone(&connection);
            async move {
                let zeros = vec![0; 1 << 20];
                loop {
                    if let Err(error) = connection.write_some(&zeros).await {
                        return error.kind();
                    }
                }
            }
        });
        glommio::timer::sleep(Duration::from_millis(100)).await;
        connection.shutdown();
        assert_eq!(writer.await, std::io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn dropping_a_connection_tells_the_other_end_although_a_poll_is_armed() {
    let (mut client, theirs) = socket_pair();
    run(async move {
        let connection = Connection::from_socket(theirs).unwrap();
        client.write_all(b"x").unwrap();
        // Read less than the buffer takes: glommio arms a poll for the next read.
        assert_eq!(connection.read(&mut [0; 100]).await.unwrap(), 1);
        glommio::timer::sleep(Duration::from_millis(20)).await;
        drop(connection);
        // Without a turn of the executor in between.
        assert_eq!(client.read(&mut [0; 100]).unwrap(), 0);
    });
}

#[test]
fn a_dropped_read_loses_no_byte() {
    let (mut client, theirs) = socket_pair();
    run(async move {
        let connection = Connection::from_socket(theirs).unwrap();
        let reader = glommio::spawn_local({
            let connection = Rc::clone(&connection);
            async move { connection.read(&mut [0; 100]).await }
        });
        glommio::timer::sleep(Duration::from_millis(20)).await;
        assert!(reader.cancel().await.is_none());
        client.write_all(b"kept").unwrap();
        let mut buf = [0; 100];
        assert_eq!(connection.read(&mut buf).await.unwrap(), 4);
        assert_eq!(&buf[..4], b"kept");
    });
}
