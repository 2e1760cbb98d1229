//! Sockets for datagrams on real executors.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use synod_transport::{DATAGRAM_BYTES_MAX, DatagramSocket};

/// Far beyond what any step takes: reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a future on a small executor on this thread.
fn run<T>(future: impl Future<Output = T>) -> T {
    LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).ring_depth(32).make().unwrap().run(future)
}

fn here(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[test]
fn each_datagram_comes_whole_and_one_that_is_too_long_fills_the_buffer() {
    let other = UdpSocket::bind(here(0)).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    let back = other.local_addr().unwrap();
    run(async move {
        let socket = DatagramSocket::bind(here(1)).unwrap();
        assert_ne!(socket.port(), 1, "the system chooses");
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        // Two wait already; the next ones come while the socket waits for them.
        let lens = [5, DATAGRAM_BYTES_MAX, 0, DATAGRAM_BYTES_MAX + 1, DATAGRAM_BYTES_MAX + 100, 7];
        for len in &lens[..2] {
            other.send_to(&vec![*len as u8; *len], here(socket.port())).unwrap();
        }
        for (at, len) in lens.iter().enumerate() {
            let received = if at < 2 {
                socket.receive(&mut buffer).await.unwrap()
            } else {
                let (sends, to) = (other.try_clone().unwrap(), here(socket.port()));
                let bytes = vec![*len as u8; *len];
                let sender = std::thread::spawn(move || sends.send_to(&bytes, to).unwrap());
                let received = socket.receive(&mut buffer).await.unwrap();
                sender.join().unwrap();
                received
            };
            assert_eq!(received, (*len).min(buffer.len()));
            assert!(buffer[..received].iter().all(|byte| *byte == *len as u8));
        }
        // What nobody takes is no error.
        socket.send(b"lost", here(1)).unwrap();
        socket.send(b"hello", back).unwrap();
        let (len, from) = other.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"hello"[..], here(socket.port())));
    });
}

#[test]
fn no_two_sockets_share_a_port() {
    run(async {
        let sockets: Vec<DatagramSocket> = (0..50).map(|_| DatagramSocket::bind(here(0)).unwrap()).collect();
        let ports: std::collections::BTreeSet<u16> = sockets.iter().map(DatagramSocket::port).collect();
        assert_eq!(ports.len(), sockets.len());
    });
}
