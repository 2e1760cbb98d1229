//! A relay of TCP connections on their way to a node, which can let them stand still: nothing is lost, and nothing
//! moves.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// So often it is looked whether bytes may move again.
const LOOK: Duration = Duration::from_millis(2);

/// Between the dialers of a node and the node. Its threads end with the process, or with their connections.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    still: Arc<AtomicBool>,
}

impl Relay {
    /// Listens at an address, for connections to `target`.
    ///
    /// # Panics
    /// When the address cannot be had.
    pub fn start(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("a relay at {address}: {error}"));
        let address = listener.local_addr().expect("it is bound");
        let still = Arc::<AtomicBool>::default();
        let stands = Arc::clone(&still);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(target) else { continue };
                let ends = Arc::new([near, far]);
                for from in 0..2 {
                    let (ends, stands) = (Arc::clone(&ends), Arc::clone(&stands));
                    std::thread::spawn(move || {
                        // However it ends, the other direction ends too.
                        let _ = pump(&ends[from], &ends[1 - from], &stands);
                        ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
                    });
                }
            }
        });
        Self { address, still }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing moves, or all goes on.
    pub fn stand_still(&self, still: bool) {
        self.still.store(still, Ordering::SeqCst);
    }
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, still: &AtomicBool) -> std::io::Result<()> {
    from.set_read_timeout(Some(LOOK))?;
    to.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        if still.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                while still.load(Ordering::SeqCst) {
                    std::thread::sleep(LOOK);
                }
                to.write_all(&buffer[..read])?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}
