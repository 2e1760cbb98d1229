//! Load inside a node: one producer per shard, refilled in the turn that completed.
//!
//! The hot path is the refill of a group: per entry it writes a stamp into noise and hands it to the shard; all else
//! is done once per run of entries. The load of a shard lives on its thread; a closure that the node runs there
//! reaches it.
//!
//! Invariants: only groups with something to do are visited in a turn; the outcomes of a group come in the order of
//! its proposals.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use synod::{GroupId, Handle, LocalShard, Outcome, Producer, ProposeError, Rejection};

use crate::messages::{LoadPlan, Sample};
use crate::pace::{Chunk, Lane, Noise, Pace, Settled};
use crate::verify::{Acknowledged, Stamp};

thread_local! {
    static LOAD: RefCell<Option<Rc<RefCell<ShardLoad>>>> = const { RefCell::new(None) };
}

/// How often groups that this node does not lead are looked at again.
const LOOK_AGAIN_NS: u64 = 10_000_000;
/// How long a stopped load waits for what is outstanding.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// An open loop wakes its shards this often at most.
const PACER_STEP: Duration = Duration::from_micros(100);

/// The load of a node, from any thread.
pub struct InsideLoad {
    handle: Handle,
    shards: u64,
}

impl InsideLoad {
    /// Starts to propose to all groups that this node leads, now or later.
    ///
    /// # Errors
    /// When the node is stopping.
    pub fn start(handle: &Handle, plan: &LoadPlan) -> Result<Self, Rejection> {
        let pace = Pace::new(plan.load, plan.groups, synod::now_ns());
        for shard in 0..plan.shards {
            let plan = plan.clone();
            handle.on_shard(shard, move |local| {
                let load = Rc::new(RefCell::new(ShardLoad::new(&plan, shard, pace)));
                LOAD.set(Some(Rc::clone(&load)));
                local.attach(Box::new(ShardProducer(load)));
            })?;
        }
        if let Pace::Open(schedule) = pace {
            let (handle, shards) = (handle.clone(), plan.shards);
            // It ends with the process, as the load does.
            std::thread::spawn(move || {
                loop {
                    let now_ns = synod::now_ns();
                    let next_ns = schedule.due_ns(schedule.due_count(now_ns));
                    std::thread::sleep(Duration::from_nanos(next_ns.saturating_sub(now_ns)).max(PACER_STEP));
                    (0..shards).for_each(|shard| handle.wake(shard));
                }
            });
        }
        Ok(Self { handle: handle.clone(), shards: plan.shards })
    }

    fn on_all<T: Send + 'static>(&self, run: fn(&mut ShardLoad) -> T) -> impl Iterator<Item = T> {
        let on_shard = move |_: &mut LocalShard<'_>| {
            let load = LOAD.with_borrow(|load| load.clone()).expect("the load was started on all shards");
            run(&mut load.borrow_mut())
        };
        (0..self.shards).filter_map(move |shard| self.handle.on_shard(shard, on_shard).ok())
    }

    /// What was done since the last time.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let mut sum = Sample::default();
        self.on_all(|load| std::mem::take(&mut load.sample)).for_each(|sample| sum.merge(&sample));
        sum
    }

    /// Stops, waits for what is outstanding, and tells what became of all entries. What is not known after half a
    /// minute is unknown.
    #[must_use]
    pub fn stop(&self) -> Vec<(GroupId, Acknowledged)> {
        let start = Instant::now();
        self.on_all(|load| load.stopping = true).for_each(drop);
        while 0 < self.on_all(|load| load.outstanding()).sum::<u64>() && start.elapsed() < DRAIN_MAX {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.on_all(ShardLoad::told).flatten().collect()
    }
}

/// A group as this load sees it.
struct Group {
    lane: Lane,
    /// What is outstanding, in the order of proposing.
    flying: VecDeque<Chunk>,
    /// The tag of the next entry, and of the first that is outstanding.
    next_tag: u64,
    settled_tag: u64,
    /// In the list of groups that are visited in the next turn.
    due: bool,
    /// Not led by this node.
    away: bool,
}

/// The load of one shard.
struct ShardLoad {
    pace: Pace,
    shards: u64,
    first_group: GroupId,
    groups: Vec<Group>,
    due: Vec<u32>,
    away_count: usize,
    look_again_ns: u64,
    /// Open loop: the entries of the schedule that were seen to be due.
    seen: u64,
    noise: Noise,
    sample: Sample,
    stopping: bool,
}

struct ShardProducer(Rc<RefCell<ShardLoad>>);

impl Producer for ShardProducer {
    fn completed(&mut self, group: GroupId, tag: u64, count: u32, outcome: Outcome, now_ns: u64) {
        self.0.borrow_mut().completed(group, tag, count.into(), outcome, now_ns);
    }

    fn wake(&mut self, shard: &mut LocalShard<'_>) {
        self.0.borrow_mut().wake(shard);
    }
}

impl ShardLoad {
    fn new(plan: &LoadPlan, shard: u64, pace: Pace) -> Self {
        let group = |group| Group {
            lane: Lane::new(group, plan.origin),
            flying: VecDeque::new(),
            next_tag: 1,
            settled_tag: 1,
            due: false,
            away: true,
        };
        let groups: Vec<Group> = plan.groups_of(shard).map(group).collect();
        Self {
            pace,
            shards: plan.shards,
            first_group: groups.first().map_or(0, |g| g.lane.group),
            due: Vec::with_capacity(groups.len()),
            away_count: groups.len(),
            groups,
            look_again_ns: 0,
            seen: 0,
            noise: Noise::new(plan.payload),
            sample: Sample::default(),
            stopping: false,
        }
    }

    fn place_of(&self, group: GroupId) -> usize {
        ((group - self.first_group) / self.shards) as usize
    }

    fn set_due(&mut self, place: usize) {
        let group = &mut self.groups[place];
        if !group.due && !group.away {
            group.due = true;
            self.due.push(place as u32);
        }
    }

    fn completed(&mut self, group: GroupId, tag: u64, count: u64, outcome: Outcome, now_ns: u64) {
        let place = self.place_of(group);
        let group = &mut self.groups[place];
        assert_eq!(tag, group.settled_tag, "outcomes come in the order of proposing");
        group.settled_tag += count;
        let settled = match outcome {
            Ok(_) => Settled::Committed,
            Err(ProposeError::Rejected(_) | ProposeError::Superseded) => Settled::Refused,
            Err(
                ProposeError::Unknown
                | ProposeError::Duplicate
                | ProposeError::OutOfSession
                | ProposeError::SessionExpired,
            ) => Settled::Unknown,
        };
        let mut rest = count;
        while 0 < rest {
            let chunk = group.flying.front_mut().expect("what is told was proposed");
            let part = chunk.split(rest, &self.pace);
            if chunk.count == 0 {
                group.flying.pop_front();
            }
            rest -= part.count;
            group.lane.settle(part, settled, &self.pace, now_ns, &mut self.sample);
        }
        if settled != Settled::Committed && !group.away {
            group.away = true;
            self.away_count += 1;
        }
        self.set_due(place);
    }

    fn wake(&mut self, shard: &mut LocalShard<'_>) {
        let now_ns = shard.now_ns();
        if 0 < self.away_count && self.look_again_ns <= now_ns {
            self.look_again_ns = now_ns + LOOK_AGAIN_NS;
            self.look(shard, now_ns);
        }
        if let Pace::Open(schedule) = self.pace {
            let mut seen = self.seen;
            for lane in schedule.newly_due(&mut seen, now_ns) {
                let group = lane + 1;
                if group % self.shards == self.first_group % self.shards {
                    self.set_due(self.place_of(group));
                }
            }
            self.seen = seen;
        }
        for place in std::mem::take(&mut self.due) {
            self.groups[place as usize].due = false;
            if !self.stopping {
                self.refill(place as usize, shard, now_ns);
            }
        }
    }

    /// Looks for groups that this node leads by now.
    fn look(&mut self, shard: &LocalShard<'_>, now_ns: u64) {
        for place in 0..self.groups.len() {
            let group = &mut self.groups[place];
            if group.away && shard.epoch(group.lane.group).is_some() {
                group.away = false;
                self.away_count -= 1;
                // Until now it was for the leader of that time to propose.
                group.lane.skip(&self.pace, now_ns);
                self.set_due(place);
            }
        }
    }

    /// Proposes what a group has room for.
    fn refill(&mut self, place: usize, shard: &mut LocalShard<'_>, now_ns: u64) {
        let group = &mut self.groups[place];
        let Stamp { producer, sequence } = group.lane.next();
        let room = group.lane.room(&self.pace, now_ns);
        let mut accepted = 0;
        let mut refused = None;
        while accepted < room {
            let entry = self.noise.entry(Stamp { producer, sequence: sequence + accepted });
            if let Err(rejection) = shard.propose(group.lane.group, group.next_tag + accepted, entry) {
                refused = Some(rejection);
                break;
            }
            accepted += 1;
        }
        if 0 < accepted {
            group.next_tag += accepted;
            let chunk = group.lane.take(accepted, &self.pace, now_ns);
            if !group.flying.back_mut().is_some_and(|last| last.join(&chunk)) {
                group.flying.push_back(chunk);
            }
        }
        match refused {
            None => {}
            Some(Rejection::Overloaded { .. }) => self.set_due(place),
            Some(_) => {
                group.away = true;
                self.away_count += 1;
            }
        }
    }

    fn outstanding(&mut self) -> u64 {
        self.groups.iter().map(|group| group.lane.outstanding()).sum()
    }

    fn told(&mut self) -> Vec<(GroupId, Acknowledged)> {
        let tell = |group: &mut Group| {
            for chunk in group.flying.drain(..) {
                group.lane.settle(chunk, Settled::Unknown, &self.pace, 0, &mut self.sample);
            }
            (group.lane.group, group.lane.told().clone())
        };
        self.groups.iter_mut().map(tell).collect()
    }
}
