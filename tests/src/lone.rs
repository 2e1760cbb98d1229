//! The only node of a cluster, driven by hand.

use std::sync::{Arc, Mutex};

use synod::simulation::{SimPlace, SimShard, SimStore};
use synod::{
    Config, Consistency, Entries, Epoch, Member, Outcome, Overload, ProposeError, ReadError, ReadPoint, Rejection,
};

use crate::disk::{self, Dice, SimDisk, Step};
use crate::leases::Told;
use crate::sim::files::SimFiles;

pub(crate) const MS: u64 = 1_000_000;
const SEGMENT_BYTES: u64 = 1 << 20;
const GROUP: u64 = 5;

/// The only node of a cluster: all that it has durably is chosen.
pub(crate) struct Lone {
    shard: Option<SimShard>,
    pub(crate) disk: SimDisk,
    config: Config,
    now_ns: u64,
    seed: u64,
    boots: u64,
}

impl Lone {
    fn new(seed: u64) -> Self {
        Self::of(seed, |_| ())
    }

    /// With another configuration.
    pub(crate) fn of(seed: u64, configure: impl Fn(&mut Config)) -> Self {
        let member = Member { node: 1, address: "127.0.0.1:1".parse().unwrap() };
        let mut config = Config::new(7, 1, "", vec![member]);
        configure(&mut config);
        let mut lone = Self { shard: None, disk: SimDisk::new(SEGMENT_BYTES), config, now_ns: 1, seed, boots: 0 };
        lone.start();
        lone
    }

    pub(crate) fn start(&mut self) {
        self.boots += 1;
        let place = SimPlace {
            shard: 0,
            replica: 1,
            founders: Some(vec![(1, 1)]),
            segment_bytes: SEGMENT_BYTES,
            tight_memory: false,
            part_bytes: 0,
            pull_bytes: 1 << 20,
            seed: 1000 * self.seed + self.boots,
        };
        let mut store = SimStore::open(&self.config, Box::<SimFiles>::default()).unwrap();
        let (mut shard, recovery) = SimShard::recover(&self.config, place, &mut self.disk, &mut store, None).unwrap();
        if let Some(tail) = recovery.tail_generation() {
            self.disk.flush_tail(tail).unwrap();
        }
        self.disk.open();
        shard.set_now(self.now_ns);
        shard.start(2);
        self.shard = Some(shard);
        self.turn();
    }

    /// The power goes.
    pub(crate) fn crash(&mut self) {
        self.shard = None;
        self.disk.crash(&mut Dice::new(self.boots));
    }

    pub(crate) fn shard(&mut self) -> &mut SimShard {
        self.shard.as_mut().expect("it runs")
    }

    /// One turn, and what it asks of the disk.
    pub(crate) fn turn(&mut self) {
        let shard = self.shard.as_mut().expect("it runs");
        shard.turn().unwrap();
        for op in shard.take_disk_ops() {
            self.disk.start(op);
        }
        self.release_disk();
    }

    pub(crate) fn tick(&mut self) {
        self.tick_without_disk();
        self.release_disk();
    }

    /// A millisecond goes by, and the disk answers nothing.
    pub(crate) fn tick_without_disk(&mut self) {
        self.now_ns += MS;
        let now_ns = self.now_ns;
        let shard = self.shard.as_mut().expect("it runs");
        shard.set_now(now_ns);
        shard.tick();
        shard.turn().unwrap();
        for op in shard.take_disk_ops() {
            self.disk.start(op);
        }
    }

    /// The disk answers all that it was asked.
    pub(crate) fn release_disk(&mut self) {
        let shard = self.shard.as_mut().expect("it runs");
        for done in self.disk.finish_all() {
            shard.on_disk(done).unwrap();
        }
    }

    /// Milliseconds go by.
    pub(crate) fn run(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.tick());
    }

    /// A turn in which the first write lands, and its sync fails; gives why the shard must stop.
    pub(crate) fn turn_with_a_failed_sync(&mut self) -> String {
        let shard = self.shard.as_mut().expect("it runs");
        shard.turn().unwrap();
        let ops = shard.take_disk_ops();
        let ids: Vec<_> = ops.into_iter().map(|op| self.disk.start(op)).collect();
        let write = ids[0];
        assert_eq!(self.disk.advance(write), Some(Step::Land));
        let failed = self.disk.finish(write, disk::Outcome::Eio).expect("a write is answered");
        let shard = self.shard.as_mut().expect("it runs");
        let why = shard.on_disk(failed).expect_err("a sync has failed");
        for done in self.disk.finish_all() {
            shard.on_disk(done).expect_err("it stays poisoned");
        }
        why
    }

    pub(crate) fn propose(&mut self, group: u64) -> Told<Outcome> {
        self.propose_bytes(group, b"entry")
    }

    pub(crate) fn propose_bytes(&mut self, group: u64, bytes: &[u8]) -> Told<Outcome> {
        let told = Told::default();
        let tell = Arc::clone(&told);
        let entries = Entries::one(bytes).unwrap();
        self.shard().propose(group, entries, None, None, move |outcome| *tell.lock().unwrap() = Some(outcome));
        told
    }

    fn propose_ordered(&mut self, group: u64, handle: (u64, Epoch)) -> Told<Outcome> {
        let told = Told::default();
        let tell = Arc::clone(&told);
        let entries = Entries::one(b"entry").unwrap();
        self.shard().propose(group, entries, None, Some(handle), move |outcome| *tell.lock().unwrap() = Some(outcome));
        told
    }

    pub(crate) fn read(&mut self, group: u64, how: Consistency) -> Told<Result<ReadPoint, ReadError>> {
        let told = Told::default();
        let tell = Arc::clone(&told);
        self.shard().read_index(group, how, 20_000 * MS, move |answer| *tell.lock().unwrap() = Some(answer));
        told
    }

    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&mut Self) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                return;
            }
            self.tick();
        }
        panic!("{what}");
    }
}

/// Without a summary of the directory before the first record of the group, what follows it in the log would belong to
/// nobody after a start, and the group would begin anew.
#[test]
fn a_vote_is_never_in_the_log_without_its_group() {
    let mut acknowledged = 0;
    for turns in 0..60 {
        let mut lone = Lone::new(turns + 1);
        lone.until("it does not lead", |lone| lone.shard().epoch(1).is_some());
        let told = Arc::new(Mutex::new(None));
        lone.until("it makes no group", |lone| {
            let tell = Arc::clone(&told);
            let reply = Box::new(move |outcome| *tell.lock().unwrap() = Some(outcome));
            if lone.shard().made_groups().is_empty() {
                lone.shard().change_groups(GROUP, Some(0), 1000 * MS, reply);
            }
            lone.turn();
            lone.shard().uid(GROUP).is_some()
        });
        let uid = lone.shard().uid(GROUP);
        lone.until("nobody leads the group", |lone| lone.shard().epoch(GROUP).is_some());
        let outcome = Arc::new(Mutex::new(None::<Outcome>));
        let tell = Arc::clone(&outcome);
        let reply = move |told| *tell.lock().unwrap() = Some(told);
        lone.shard().propose(GROUP, Entries::one(b"kept").unwrap(), None, None, reply);
        for _ in 0..turns {
            lone.turn();
        }
        let is_acknowledged = matches!(*outcome.lock().unwrap(), Some(Ok(_)));
        lone.crash();
        lone.start();
        assert_eq!(lone.shard().uid(GROUP), uid, "behind {turns} turns the group is lost");
        lone.until("nobody leads the group again", |lone| {
            let info = lone.shard().info(GROUP).unwrap();
            info.epoch > 0 && info.applied_slot == info.chosen_slot
        });
        let next_index = lone.shard().info(GROUP).unwrap().next_index;
        if is_acknowledged {
            acknowledged += 1;
            assert_eq!(next_index, 2, "behind {turns} turns what was acknowledged is lost");
        }
    }
    assert!(acknowledged > 30, "hardly anything was acknowledged: {acknowledged}");
}

/// What waits for its slot for longer than `queue_ms_max` is refused, with a hint, and was never proposed.
#[test]
fn what_waits_for_longer_than_queue_ms_max_is_refused() {
    let mut lone = Lone::of(1, |config| config.queue_ms_max = 50);
    lone.until("it does not lead", |lone| lone.shard().epoch(1).is_some());
    lone.run(500);
    // The disk answers nothing: the first is in its slot, and waits there; the others wait for a frame.
    let epoch = lone.shard().epoch(1).unwrap();
    let in_slot = lone.propose(1);
    lone.tick_without_disk();
    let waiting = [lone.propose(1), lone.propose(1)];
    let ordered = lone.propose_ordered(1, (9, epoch));
    for _ in 0..49 {
        lone.tick_without_disk();
    }
    let is_told = |told: &Told<Outcome>| told.lock().unwrap().is_some();
    assert!(!waiting.iter().any(is_told) && !is_told(&ordered), "they may wait so long");
    lone.tick_without_disk();
    lone.tick_without_disk();
    for told in waiting.iter().chain([&ordered]) {
        match *told.lock().unwrap() {
            Some(Err(ProposeError::Rejected(Rejection::Overloaded { what: Overload::Wait, retry_after_ms }))) => {
                assert!((1..=1000).contains(&retry_after_ms));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!is_told(&in_slot), "what is in its slot has no such limit");
    // Later ones are let in again, and the refused ones have left no trace. The ordered handle stays closed.
    let again = lone.propose(1);
    lone.release_disk();
    let closed = lone.propose_ordered(1, (9, epoch));
    lone.until("they are not committed", |_| is_told(&in_slot) && is_told(&again) && is_told(&closed));
    let index = |told: &Told<Outcome>| told.lock().unwrap().unwrap().map(|committed| committed.first_index);
    assert_eq!((index(&in_slot), index(&again)), (Ok(1), Ok(2)));
    assert!(matches!(index(&closed), Err(ProposeError::Rejected(_))), "{:?}", index(&closed));
}
