//! Load from a process of its own, over the client protocol.
//!
//! One driver thread per shard paces that shard's groups and sends; each of its connections has a thread that only
//! receives. What a group has room for goes out as one request, or as a few where the window is large, so that the
//! next ones travel while the first are decided. A scout thread looks for leaders when some are not known.
//!
//! Invariants: an outcome that is not known is never tried again; only the driver touches lanes and samples.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use synod::client::protocol::{RejectionV1, ReplyV1, Request};
use synod::client::{Client, NodeClient};
use synod::{Cluster, Entries, GroupId, NodeId, now_ns};

use crate::child::{answer, log, orders};
use crate::messages::{Answer, LoadPlan, Order, Sample};
use crate::pace::{Chunk, Lane, Noise, Pace, Settled};
use crate::verify::{Acknowledged, Stamp};

/// Bytes of one request, as long as it holds one entry.
const REQUEST_BYTES_MAX: u64 = 256 << 10;
/// A window travels in so many requests at least.
const REQUESTS_PER_WINDOW: u64 = 4;
/// How long a stopped load waits for what is outstanding.
const DRAIN_NS: u64 = 30_000_000_000;
const CONNECT_MAX: Duration = Duration::from_secs(2);
const INFO_MAX: Duration = Duration::from_millis(500);
/// How long a driver sleeps at most.
const DRIVER_STEP: Duration = Duration::from_millis(20);
/// How soon it tries again where a node was overloaded.
const OVERLOADED_STEP: Duration = Duration::from_millis(1);
/// How long the scout waits before it looks again.
const SCOUT_STEP: Duration = Duration::from_millis(10);
/// How long a receiver blocks before it looks whether it is still needed.
const RECEIVER_STEP: Duration = Duration::from_secs(1);

/// Runs the load against the cluster of a file until the controller goes. Returns only when it cannot start.
pub fn run(cluster: &Path) {
    log();
    let cluster = match Cluster::read(cluster) {
        Ok(cluster) => cluster,
        Err(error) => return answer(&Answer::Failed { text: error.to_string() }),
    };
    answer(&Answer::Ready);
    let mut drivers: Vec<DriverHandle> = Vec::new();
    for order in orders() {
        answer(&match order {
            Order::Load(plan) => {
                let pace = Pace::new(plan.load, plan.groups, now_ns());
                drivers = (0..plan.shards).map(|shard| DriverHandle::start(&cluster, &plan, shard, pace)).collect();
                Answer::Done
            }
            Order::Measure => {
                drivers.iter().for_each(|driver| drop(driver.sample()));
                Answer::Done
            }
            Order::Sample => {
                let mut sum = Sample::default();
                drivers.iter().for_each(|driver| sum.merge(&driver.sample()));
                Answer::Sample(sum)
            }
            Order::StopLoad => {
                drivers.iter().for_each(|driver| drop(driver.inbox.send(Event::Stop)));
                Answer::Outcomes(drivers.iter().flat_map(|driver| driver.told.recv().unwrap_or_default()).collect())
            }
            Order::Phases | Order::Status | Order::Evidence => {
                Answer::Failed { text: "a client holds no replica: this order is a bug".to_owned() }
            }
        });
    }
}

/// A driver, from the main thread.
struct DriverHandle {
    inbox: Sender<Event>,
    sample: Arc<Mutex<Sample>>,
    told: Receiver<Vec<(GroupId, Acknowledged)>>,
}

impl DriverHandle {
    fn start(cluster: &Cluster, plan: &LoadPlan, shard: u64, pace: Pace) -> Self {
        let (inbox, events) = channel();
        let (tell, told) = channel();
        let sample = Arc::new(Mutex::new(Sample::default()));
        let (cluster, plan, send, shared) = (cluster.clone(), plan.clone(), inbox.clone(), Arc::clone(&sample));
        std::thread::spawn(move || {
            let outcomes = Driver::new(cluster, &plan, shard, pace, send, shared).run(&events);
            let _ = tell.send(outcomes);
        });
        Self { inbox, sample, told }
    }

    fn sample(&self) -> Sample {
        std::mem::take(&mut self.sample.lock().expect("no holder panics"))
    }
}

/// What a driver reacts to.
enum Event {
    /// A connection brought a reply at a time.
    Reply { link: u64, request: u64, reply: ReplyV1, now_ns: u64 },
    /// A connection is lost.
    Broken { link: u64 },
    /// The scout found leaders.
    Leaders(HashMap<GroupId, NodeId>),
    /// Propose no more.
    Stop,
}

/// A connection to one node's shard.
struct Link {
    number: u64,
    sender: NodeClient,
    flying: HashMap<u64, (usize, Chunk)>,
}

/// A group as the driver sees it.
struct Group {
    lane: Lane,
    leader: Option<NodeId>,
    due: bool,
}

/// What goes to one node in one write: each request with its group and chunk.
#[derive(Default)]
struct Outgoing {
    requests: Vec<Request>,
    chunks: Vec<(usize, Chunk)>,
}

struct Driver {
    cluster: Cluster,
    pace: Pace,
    payload: u64,
    shard: u64,
    groups: Vec<Group>,
    due: Vec<usize>,
    /// Groups whose node was overloaded.
    overloaded: Vec<usize>,
    links: HashMap<NodeId, Link>,
    next_link: u64,
    /// Open loop: the entries of the schedule that were seen to be due.
    seen: u64,
    noise: Noise,
    inbox: Sender<Event>,
    scout: Sender<()>,
    scouting: bool,
    sample: Arc<Mutex<Sample>>,
}

impl Driver {
    fn new(
        cluster: Cluster,
        plan: &LoadPlan,
        shard: u64,
        pace: Pace,
        inbox: Sender<Event>,
        sample: Arc<Mutex<Sample>>,
    ) -> Self {
        let group = |group| Group { lane: Lane::new(group, plan.origin), leader: None, due: false };
        let scout = start_scout(cluster.clone(), inbox.clone());
        Self {
            cluster,
            pace,
            payload: plan.payload.into(),
            shard,
            groups: plan.groups_of(shard).map(group).collect(),
            due: Vec::new(),
            overloaded: Vec::new(),
            links: HashMap::new(),
            next_link: 1,
            seen: 0,
            noise: Noise::new(plan.payload),
            inbox,
            scout,
            scouting: false,
            sample,
        }
    }

    fn run(mut self, events: &Receiver<Event>) -> Vec<(GroupId, Acknowledged)> {
        let mut stop_by_ns = None;
        loop {
            self.ask_scout();
            let mut event = events.recv_timeout(self.patience());
            loop {
                match event {
                    Ok(Event::Stop) => stop_by_ns = Some(now_ns() + DRAIN_NS),
                    Ok(event) => self.on(event),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => unreachable!("the driver holds a sender itself"),
                }
                event = events.try_recv().map_err(|_| RecvTimeoutError::Timeout);
            }
            match stop_by_ns {
                None => self.propose(),
                Some(end) if end <= now_ns() || self.groups.iter().all(|g| g.lane.outstanding() == 0) => {
                    return self.told();
                }
                Some(_) => {}
            }
        }
    }

    /// How long it may sleep if nothing happens.
    fn patience(&self) -> Duration {
        let mut patience = if self.overloaded.is_empty() { DRIVER_STEP } else { OVERLOADED_STEP };
        if let Pace::Open(schedule) = self.pace {
            let now_ns = now_ns();
            let next_ns = schedule.due_ns(schedule.due_count(now_ns));
            patience = patience.min(Duration::from_nanos(next_ns.saturating_sub(now_ns)));
        }
        patience
    }

    fn set_due(&mut self, at: usize) {
        let group = &mut self.groups[at];
        if !group.due && group.leader.is_some() {
            group.due = true;
            self.due.push(at);
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Reply { link, request, reply, now_ns } => self.on_reply(link, request, &reply, now_ns),
            Event::Broken { link } => {
                let broken = self.links.iter().find(|(_, l)| l.number == link).map(|(node, _)| *node);
                if let Some(node) = broken {
                    self.lose(node);
                }
            }
            Event::Leaders(leaders) => {
                self.scouting = false;
                for at in 0..self.groups.len() {
                    let group = &mut self.groups[at];
                    if group.leader.is_none()
                        && let Some(node) = leaders.get(&group.lane.group).copied()
                        && self.connect(node)
                    {
                        self.groups[at].leader = Some(node);
                        self.set_due(at);
                    }
                }
            }
            Event::Stop => unreachable!("the loop takes it"),
        }
    }

    fn on_reply(&mut self, link: u64, request: u64, reply: &ReplyV1, now_ns: u64) {
        let Some((node, link)) = self.links.iter_mut().find(|(_, l)| l.number == link) else { return };
        let Some((at, chunk)) = link.flying.remove(&request) else { return };
        let node = *node;
        let (settled, known) = match reply {
            ReplyV1::Committed { .. } => (Settled::Committed, true),
            ReplyV1::Rejected { rejection: RejectionV1::Overloaded { .. }, .. } => (Settled::Refused, true),
            ReplyV1::Rejected { .. } | ReplyV1::Superseded => (Settled::Refused, false),
            _ => (Settled::Unknown, false),
        };
        self.settle(at, chunk, settled, now_ns);
        let group = &mut self.groups[at];
        // A later refusal of what went to the old leader says nothing about the new one.
        if !known && group.leader == Some(node) {
            group.leader = None;
        }
        match settled {
            Settled::Refused if known => self.overloaded.push(at),
            _ => self.set_due(at),
        }
    }

    fn settle(&mut self, at: usize, chunk: Chunk, settled: Settled, now_ns: u64) {
        let mut sample = self.sample.lock().expect("no holder panics");
        self.groups[at].lane.settle(chunk, settled, &self.pace, now_ns, &mut sample);
    }

    /// A connection is lost, and with it what was in flight on it.
    fn lose(&mut self, node: NodeId) {
        let Some(link) = self.links.remove(&node) else { return };
        let now_ns = now_ns();
        for (at, chunk) in link.flying.into_values() {
            self.settle(at, chunk, Settled::Unknown, now_ns);
        }
        for group in self.groups.iter_mut().filter(|group| group.leader == Some(node)) {
            group.leader = None;
        }
    }

    fn ask_scout(&mut self) {
        if !self.scouting && self.groups.iter().any(|group| group.leader.is_none()) {
            self.scouting = self.scout.send(()).is_ok();
        }
    }

    /// Makes sure of a connection to a node.
    fn connect(&mut self, node: NodeId) -> bool {
        if self.links.contains_key(&node) {
            return true;
        }
        let Some(member) = self.cluster.members.iter().find(|member| member.node == node) else { return false };
        let connected = NodeClient::connect(&self.cluster, *member, self.shard, CONNECT_MAX)
            .and_then(|sender| Ok((sender.try_clone()?, sender)));
        let (mut receiver, sender) = match connected {
            Ok(both) => both,
            Err(error) => {
                tracing::info!(%error, "no connection yet");
                return false;
            }
        };
        let (number, inbox) = (self.next_link, self.inbox.clone());
        self.next_link += 1;
        std::thread::spawn(move || {
            loop {
                let event = match receiver.receive(RECEIVER_STEP) {
                    Ok(None) => continue,
                    Ok(Some((request, reply))) => Event::Reply { link: number, request, reply, now_ns: now_ns() },
                    Err(error) => {
                        tracing::info!(%error, "a connection is lost");
                        let _ = inbox.send(Event::Broken { link: number });
                        return;
                    }
                };
                if inbox.send(event).is_err() {
                    return;
                }
            }
        });
        self.links.insert(node, Link { number, sender, flying: HashMap::new() });
        true
    }

    /// Sends what all groups have room for, one write per node.
    fn propose(&mut self) {
        let now_ns = now_ns();
        if let Pace::Open(schedule) = self.pace {
            let (mut seen, shards) = (self.seen, self.cluster.shards.max(1) as u64);
            let first = self.groups.first().map_or(0, |group| group.lane.group);
            for lane in schedule.newly_due(&mut seen, now_ns) {
                if (lane + 1) % shards == self.shard {
                    self.set_due(((lane + 1 - first) / shards) as usize);
                }
            }
            self.seen = seen;
        }
        for at in std::mem::take(&mut self.overloaded) {
            self.set_due(at);
        }
        let mut outgoing: HashMap<NodeId, Outgoing> = HashMap::new();
        for at in std::mem::take(&mut self.due) {
            self.groups[at].due = false;
            let Some(node) = self.groups[at].leader else { continue };
            self.fill(at, now_ns, outgoing.entry(node).or_default());
        }
        for (node, Outgoing { requests, chunks }) in outgoing {
            let link = self.links.get_mut(&node).expect("a leader without a connection is none");
            match link.sender.send(&requests) {
                Ok(first) => link.flying.extend((first..).zip(chunks)),
                Err(error) => {
                    tracing::info!(%error, "a connection is lost");
                    // Some may have left.
                    chunks.into_iter().for_each(|(at, chunk)| self.settle(at, chunk, Settled::Unknown, now_ns));
                    self.lose(node);
                }
            }
        }
    }

    /// Puts what one group has room for into requests.
    fn fill(&mut self, at: usize, now_ns: u64, out: &mut Outgoing) {
        let lane = &mut self.groups[at].lane;
        let by_bytes = (REQUEST_BYTES_MAX / (self.payload + 4)).max(1);
        let count_max = match self.pace {
            Pace::Closed { window } => by_bytes.min(window.div_ceil(REQUESTS_PER_WINDOW)),
            Pace::Open(_) => by_bytes,
        };
        loop {
            let count = lane.room(&self.pace, now_ns).min(count_max);
            if count == 0 {
                return;
            }
            let Stamp { producer, sequence } = lane.next();
            let mut entries = Entries::new();
            for ahead in 0..count {
                let entry = self.noise.entry(Stamp { producer, sequence: sequence + ahead });
                entries.push(entry).expect("a request is smaller than a batch may be");
            }
            out.chunks.push((at, lane.take(count, &self.pace, now_ns)));
            out.requests.push(Request::Append { group: lane.group, session: None, entries });
        }
    }

    fn told(mut self) -> Vec<(GroupId, Acknowledged)> {
        // What was not answered in time.
        for node in self.links.keys().copied().collect::<Vec<_>>() {
            self.lose(node);
        }
        self.groups.iter().map(|group| (group.lane.group, group.lane.told().clone())).collect()
    }
}

/// Starts the thread that looks for leaders, once for each time that it is asked.
fn start_scout(cluster: Cluster, inbox: Sender<Event>) -> Sender<()> {
    let (ask, asked) = channel();
    std::thread::spawn(move || {
        let members = cluster.members.clone();
        let mut client = Client::new(cluster);
        for () in asked {
            let mut found: HashMap<GroupId, (u64, NodeId)> = HashMap::new();
            for member in &members {
                let Ok(info) = client.info(member.node, INFO_MAX) else { continue };
                for group in info.groups.iter().filter(|group| 0 < group.epoch) {
                    // An old leader may not know yet that it is one no more.
                    let best = found.entry(group.group).or_insert((group.epoch, member.node));
                    *best = (*best).max((group.epoch, member.node));
                }
            }
            let leaders = found.into_iter().map(|(group, (_, node))| (group, node)).collect();
            if inbox.send(Event::Leaders(leaders)).is_err() {
                return;
            }
            std::thread::sleep(SCOUT_STEP);
        }
    });
    ask
}
