//! A replica process: a node whose state machines watch what they apply, and the load inside it.

use std::path::Path;
use std::time::Duration;

use synod::{Config, Handle, Node, Options};

use crate::child::{answer, log, orders};
use crate::histogram::LatencyHistogram;
use crate::load::InsideLoad;
use crate::messages::{Answer, Applied, GroupStatus, Order, PhaseTimes, Sample};
use crate::watch::Observers;

/// How often the observers are saved.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Runs the node of a configuration file until the controller goes. Returns only when the node cannot start.
pub fn run(config: &Path) {
    log();
    match Replica::start(config) {
        Ok(mut replica) => {
            answer(&Answer::Ready);
            for order in orders() {
                answer(&replica.carry_out(order));
            }
        }
        Err(text) => answer(&Answer::Failed { text }),
    }
}

struct Replica {
    // Dropping it would stop the node.
    _node: Node,
    handle: Handle,
    groups: u64,
    shards: u64,
    observers: Observers,
    load: Option<InsideLoad>,
    /// Elections won before the measured time.
    elections: u64,
}

impl Replica {
    fn start(path: &Path) -> Result<Self, String> {
        let config = Config::read(path).map_err(|error| error.to_string())?;
        let (groups, shards) = (config.groups, config.shards);
        let observers = Observers::new(&config.dir, shards);
        let machines = observers.machines().map_err(|error| error.to_string())?;
        let options = Options { machines: Some(machines), ..Options::default() };
        let node = Node::start(config, options).map_err(|error| error.to_string())?;
        let handle = node.handle();
        let (saver, saved) = (observers.clone(), handle.clone());
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(SAVE_EVERY);
                if let Err(error) = saver.save(&saved) {
                    tracing::error!(%error, "the observers cannot be saved: the log will not be trimmed");
                }
            }
        });
        Ok(Self { _node: node, handle, groups, shards: shards as u64, observers, load: None, elections: 0 })
    }

    fn carry_out(&mut self, order: Order) -> Answer {
        match order {
            Order::Load(plan) => match InsideLoad::start(&self.handle, &plan) {
                Ok(load) => {
                    self.load = Some(load);
                    Answer::Done
                }
                Err(rejection) => Answer::Failed { text: rejection.to_string() },
            },
            Order::Measure => {
                self.elections = self.elections_won();
                for shard in 0..self.shards {
                    let _ = self.handle.on_shard(shard, |local| local.reset_phases());
                }
                self.sample();
                Answer::Done
            }
            Order::Sample => Answer::Sample(self.sample()),
            Order::StopLoad => Answer::Outcomes(self.load.as_ref().map(InsideLoad::stop).unwrap_or_default()),
            Order::Phases => Answer::Phases(self.phases()),
            Order::Status => Answer::Status(self.status()),
            Order::Evidence => Answer::Evidence(self.evidence()),
        }
    }

    fn sample(&self) -> Sample {
        self.load.as_ref().map(InsideLoad::sample).unwrap_or_default()
    }

    fn elections_won(&self) -> u64 {
        (0..self.shards).filter_map(|shard| self.handle.on_shard(shard, |local| local.elections()).ok()).sum()
    }

    fn phases(&self) -> PhaseTimes {
        let mut phases: Vec<(String, LatencyHistogram)> = Vec::new();
        for shard in 0..self.shards {
            let Ok(found) = self.handle.on_shard(shard, |local| local.phases().clone()) else { continue };
            for (at, (name, histogram)) in found.named().into_iter().enumerate() {
                if phases.len() == at {
                    phases.push((name.to_owned(), LatencyHistogram::new()));
                }
                phases[at].1.merge_hdr(histogram);
            }
        }
        let elections = self.elections_won().saturating_sub(self.elections);
        PhaseTimes { phases, elections }
    }

    fn status(&self) -> Vec<GroupStatus> {
        let observed = self.observers.observed(&self.handle);
        let status = |group| {
            let info = self.handle.info(group)?;
            Some(GroupStatus {
                group,
                leads: 0 < info.epoch,
                slot: info.applied_slot,
                applied: info.next_index - 1,
                observed: observed.get(&group).copied().unwrap_or(0),
            })
        };
        (1..=self.groups).filter_map(status).collect()
    }

    fn evidence(&self) -> Vec<Applied> {
        let observers = self.observers.copy(&self.handle);
        let applied = |(group, observer)| {
            let info = self.handle.info(group)?;
            Some(Applied { group, observer, applied: info.next_index - 1, chain: info.chain })
        };
        observers.into_iter().filter_map(applied).collect()
    }
}
