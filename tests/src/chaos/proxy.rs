//! Between two nodes: a relay that passes bytes on, or does not.
//!
//! Invariant: a connection that has lost or changed bytes is closed when its fault is over, if the nodes have not done
//! so: nobody is asked to go on with half a stream.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;

use super::Trouble;
use crate::disk::Dice;

const LOOK: Duration = Duration::from_millis(20);
const CONNECT: Duration = Duration::from_secs(1);
const CHUNK: usize = 64 << 10;

/// What happens to the bytes of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// They pass.
    None,
    /// They pass late: by so much, and up to as much again.
    Delay(Duration),
    /// Connections end orderly in the midst of a frame.
    Cut,
    /// Connections are reset in the midst of a frame.
    Reset,
    /// They go nowhere, and nobody is told.
    Swallow,
    /// One bit in each piece is changed.
    Corrupt,
    /// Each piece comes twice.
    Double,
    /// They are taken slowly.
    Slow,
}

/// The relays of all links.
pub(super) struct Proxies {
    links: Vec<Arc<Link>>,
    stop: Arc<AtomicBool>,
}

struct Link {
    address: SocketAddr,
    target: SocketAddr,
    fault: Mutex<Fault>,
    /// Pieces that a fault has touched.
    touched: AtomicU64,
    seed: u64,
}

/// Both ends of a connection. They are closed when both directions have left it.
struct Pair {
    ends: [TcpStream; 2],
    dead: AtomicBool,
}

impl Proxies {
    /// A relay to each of these addresses.
    pub(super) fn start(targets: &[SocketAddr], seed: u64) -> Result<Self, Trouble> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut links = Vec::new();
        for target in targets {
            let listen = || -> std::io::Result<(TcpListener, SocketAddr)> {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                Ok((listener, address))
            };
            let (listener, address) = listen().map_err(|error| Trouble::Io { what: "a relay".into(), error })?;
            let link = Link {
                address,
                target: *target,
                fault: Mutex::new(Fault::None),
                touched: AtomicU64::new(0),
                seed: seed ^ u64::from(address.port()),
            };
            let link = Arc::new(link);
            links.push(Arc::clone(&link));
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || accept(&listener, &link, &stop));
        }
        Ok(Self { links, stop })
    }

    /// Where the relay of a link listens.
    pub(super) fn address(&self, link: usize) -> SocketAddr {
        self.links[link].address
    }

    /// How many links there are.
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// From now on this happens to the bytes of a link.
    pub(super) fn set(&self, link: usize, fault: Fault) {
        *self.links[link].fault.lock().expect("no holder panics") = fault;
    }

    /// How many pieces faults have touched so far, on all links.
    pub(super) fn touched(&self) -> u64 {
        self.links.iter().map(|link| link.touched.load(Ordering::Relaxed)).sum()
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, link: &Arc<Link>, stop: &Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((near, _)) => {
                let Ok(far) = TcpStream::connect_timeout(&link.target, CONNECT) else { continue };
                let pair = Arc::new(Pair { ends: [near, far], dead: AtomicBool::new(false) });
                for from in 0..2 {
                    number += 1;
                    let mut dice = Dice::new(link.seed ^ number << 32);
                    let (pair, link, stop) = (Arc::clone(&pair), Arc::clone(link), Arc::clone(stop));
                    std::thread::spawn(move || {
                        // However it ends, the other direction ends too.
                        let _ = pump(&pair, from, &link, &mut dice, &stop);
                        pair.dead.store(true, Ordering::Relaxed);
                    });
                }
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Passes bytes from one end to the other until either is gone.
fn pump(pair: &Pair, from: usize, link: &Link, dice: &mut Dice, stop: &AtomicBool) -> std::io::Result<()> {
    let (mut reader, mut writer) = (&pair.ends[from], &pair.ends[1 - from]);
    reader.set_nonblocking(false)?;
    reader.set_read_timeout(Some(LOOK))?;
    // A node that does not read must not hold this thread for good.
    writer.set_write_timeout(Some(CONNECT))?;
    writer.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    let mut broken = false;
    while !stop.load(Ordering::Relaxed) && !pair.dead.load(Ordering::Relaxed) {
        let fault = *link.fault.lock().expect("no holder panics");
        if broken && fault == Fault::None {
            break;
        }
        let room = if fault == Fault::Slow { 512 } else { CHUNK };
        let read = match reader.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        };
        let piece = &mut buffer[..read];
        link.touched.fetch_add(u64::from(fault != Fault::None), Ordering::Relaxed);
        match fault {
            Fault::None => writer.write_all(piece)?,
            Fault::Delay(by) => {
                std::thread::sleep(by + by.mul_f64(dice.below(1000) as f64 / 1000.0));
                writer.write_all(piece)?;
            }
            Fault::Slow => {
                std::thread::sleep(LOOK);
                writer.write_all(piece)?;
            }
            Fault::Cut | Fault::Reset => {
                writer.write_all(&piece[..read / 2])?;
                if fault == Fault::Reset {
                    // What is closed without lingering is reset.
                    for end in &pair.ends {
                        SockRef::from(end).set_linger(Some(Duration::ZERO))?;
                    }
                    return Ok(());
                }
                break;
            }
            Fault::Swallow => broken = true,
            Fault::Corrupt => {
                piece[dice.below(read)] ^= 1 << dice.below(8);
                broken = true;
                writer.write_all(piece)?;
            }
            Fault::Double => {
                broken = true;
                writer.write_all(piece)?;
                writer.write_all(piece)?;
            }
        }
    }
    pair.ends.iter().try_for_each(|end| end.shutdown(Shutdown::Both))
}
