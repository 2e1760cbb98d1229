//! A log that is cut off right behind what a new group was told: the group is there after the start, with all its votes.

use std::sync::{Arc, Mutex};

use synod::simulation::{SimPlace, SimShard, SimStore};
use synod::{Config, Entries, Member, Outcome};

use crate::disk::{Dice, SimDisk};
use crate::sim::files::SimFiles;

const MS: u64 = 1_000_000;
const SEGMENT_BYTES: u64 = 1 << 20;
const GROUP: u64 = 5;

/// The only node of a cluster: all that it has durably is chosen.
struct Lone {
    shard: Option<SimShard>,
    disk: SimDisk,
    config: Config,
    now_ns: u64,
    seed: u64,
    boots: u64,
}

impl Lone {
    fn new(seed: u64) -> Self {
        let member = Member { node: 1, address: "127.0.0.1:1".parse().unwrap() };
        let config = Config::new(7, 1, "", vec![member]);
        let mut lone = Self { shard: None, disk: SimDisk::new(SEGMENT_BYTES), config, now_ns: 1, seed, boots: 0 };
        lone.start();
        lone
    }

    fn start(&mut self) {
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
    fn crash(&mut self) {
        self.shard = None;
        self.disk.crash(&mut Dice::new(self.boots));
    }

    fn shard(&mut self) -> &mut SimShard {
        self.shard.as_mut().expect("it runs")
    }

    /// One turn, and what it asks of the disk.
    fn turn(&mut self) {
        let shard = self.shard.as_mut().expect("it runs");
        shard.turn().unwrap();
        for op in shard.take_disk_ops() {
            self.disk.start(op);
        }
        for done in self.disk.finish_all() {
            shard.on_disk(done).unwrap();
        }
    }

    fn tick(&mut self) {
        self.now_ns += MS;
        let now_ns = self.now_ns;
        self.shard().set_now(now_ns);
        self.shard().tick();
        self.turn();
    }

    fn until(&mut self, what: &str, holds: impl Fn(&mut Self) -> bool) {
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
                lone.shard().change_groups(GROUP, true, 1000 * MS, reply);
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
