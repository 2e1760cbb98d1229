//! A log store of one's own that wraps the system's: it counts what is written, and could as well copy, delay or fail it.
//!
//! `cargo run -p synod --example log_store`

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use synod::log_store::{Disk, DiskDone, DiskError, DiskOp, LogPlace, LogStore, SegmentSource};
use synod::{Config, DiskBackend, Member, Node, Options, new_cluster_id};

/// The system's files, and how many bytes went into them.
#[derive(Default)]
struct Counted {
    bytes: Arc<AtomicU64>,
}

struct CountedDisk {
    disk: Box<dyn Disk>,
    bytes: Arc<AtomicU64>,
}

impl LogStore for Counted {
    fn segments(&self, place: &LogPlace) -> io::Result<Box<dyn SegmentSource>> {
        DiskBackend::Uring.segments(place)
    }

    fn open(&self, place: &LogPlace, tail: Option<u64>) -> Result<Box<dyn Disk>, DiskError> {
        let disk = DiskBackend::Uring.open(place, tail)?;
        Ok(Box::new(CountedDisk { disk, bytes: Arc::clone(&self.bytes) }))
    }
}

impl Disk for CountedDisk {
    fn submit(&mut self, op: DiskOp) {
        if let DiskOp::Write { data, .. } = &op {
            self.bytes.fetch_add(data.bytes().len() as u64, Ordering::Relaxed);
        }
        self.disk.submit(op);
    }

    fn poll(&mut self, done: &mut Vec<DiskDone>) {
        self.disk.poll(done);
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.disk.event_fd()
    }

    fn wait(&mut self, done: &mut Vec<DiskDone>) {
        self.disk.wait(done);
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }
}

/// Runs a cluster of one node; more nodes differ only in `members`.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("synod-example-log-store-{}", std::process::id()));
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = Config::new(new_cluster_id(), 1, &dir, vec![Member { node: 1, address }]);
    Node::init(&config)?;
    let store = Arc::new(Counted::default());
    let node = Node::start(config, Options { log_store: Some(store.clone()), ..Options::default() })?;
    let log = node.handle();
    log.wait_leader(1, Duration::from_secs(10)).ok_or("no leader")?;
    let committed = log.propose(1, b"an entry").wait()?;
    println!(
        "index {} is durable; {} bytes of log were written",
        committed.first_index,
        store.bytes.load(Ordering::Relaxed)
    );
    node.shutdown();
    Ok(std::fs::remove_dir_all(dir)?)
}
