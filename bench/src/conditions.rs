//! The conditions of a run: all that a report must state so that another can repeat it.
//!
//! Invariant: [`Conditions`] that came from the command line are legal; later code never checks them again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is run, for how long and on what. Serialises to flat JSON keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Replica processes; each is a voter of every group.
    pub replicas: u16,
    /// Replicated logs.
    pub groups: u32,
    /// Shards (cores) of each replica.
    pub shards: u16,
    /// Bytes of one entry.
    pub payload: u32,
    /// How proposals are paced; the keys `window` and `rate`, one of them `null`.
    #[serde(flatten)]
    pub load: Load,
    /// Seconds of measurement, after the warm-up.
    pub seconds: f64,
    /// Seconds of load before anything is measured.
    pub warmup: f64,
    /// What an acknowledgement promises.
    pub sync: SyncMode,
    /// Where the load runs.
    pub client: Client,
    /// How leaders are placed.
    pub leaders: Leaders,
    /// Seconds of measurement after which a leader is killed, if one is.
    pub kill_leader_after: Option<f64>,
    /// Which write-ahead log backend the replicas use.
    pub disk: Disk,
    /// MiB of log that each shard keeps behind its trim point.
    pub retain_mib: u64,
}

impl Conditions {
    /// The measured time.
    ///
    /// # Panics
    /// If `seconds` is negative or not finite, which no command line yields.
    #[must_use]
    pub fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The time of load before the measurement.
    ///
    /// # Panics
    /// If `warmup` is negative or not finite, which no command line yields.
    #[must_use]
    pub fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }

    /// When the leader is killed, counted from the start of the measured time.
    ///
    /// # Panics
    /// If `kill_leader_after` is negative or not finite, which no command line yields.
    #[must_use]
    pub fn kill_leader_after(&self) -> Option<Duration> {
        self.kill_leader_after.map(Duration::from_secs_f64)
    }

    /// The fixed rate in entries per second, if the load is an open loop.
    #[must_use]
    pub const fn rate(&self) -> Option<u64> {
        match self.load {
            Load::Open { rate } => Some(rate),
            Load::Closed { .. } => None,
        }
    }

    /// The window of outstanding entries per group, if the load is a closed loop.
    #[must_use]
    pub const fn window(&self) -> Option<u32> {
        match self.load {
            Load::Closed { window } => Some(window),
            Load::Open { .. } => None,
        }
    }
}

/// How proposals are paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "LoadKeys", try_from = "LoadKeys")]
pub enum Load {
    /// A completion makes room for the next proposal.
    Closed {
        /// Outstanding entries per group.
        window: u32,
    },
    /// Proposals follow a clock, whatever the completions do; latency counts from the intended time.
    Open {
        /// Entries per second over all groups.
        rate: u64,
    },
}

/// [`Load`] as it stands in JSON.
#[derive(Serialize, Deserialize)]
struct LoadKeys {
    window: Option<u32>,
    rate: Option<u64>,
}

impl From<Load> for LoadKeys {
    fn from(load: Load) -> Self {
        match load {
            Load::Closed { window } => Self { window: Some(window), rate: None },
            Load::Open { rate } => Self { window: None, rate: Some(rate) },
        }
    }
}

impl TryFrom<LoadKeys> for Load {
    type Error = &'static str;

    fn try_from(keys: LoadKeys) -> Result<Self, Self::Error> {
        match (keys.window, keys.rate) {
            (Some(window), None) => Ok(Self::Closed { window }),
            (None, Some(rate)) => Ok(Self::Open { rate }),
            _ => Err("exactly one of `window` and `rate` must be a number, the other null"),
        }
    }
}

macro_rules! keyword_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident => $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $word,)+ })
            }
        }
    };
}

keyword_enum! {
    /// What a replica does before it answers.
    SyncMode {
        /// Write and sync: survives a power cut.
        Durable => "durable",
        /// Write only: survives the process, not the machine.
        Os => "os",
    }
}

keyword_enum! {
    /// What an acknowledgement was worth in the end.
    Durability {
        /// Written and synced on disk.
        Durable => "durable",
        /// Handed to the operating system.
        Os => "os",
        /// Kept in memory only: the directory is on tmpfs.
        None => "none",
    }
}

keyword_enum! {
    /// Where the load runs.
    Client {
        /// On the leader's shard, through the local handle.
        Inside => "inside",
        /// In a separate process, through the client protocol.
        Process => "process",
    }
}

keyword_enum! {
    /// How leaders are placed.
    Leaders {
        /// One node leads all groups.
        One => "one",
        /// The groups' leaders are spread evenly over the nodes.
        Spread => "spread",
    }
}

keyword_enum! {
    /// Which write-ahead log backend the replicas use.
    Disk {
        /// Direct writes through io_uring.
        Uring => "uring",
        /// Plain blocking system calls.
        Blocking => "blocking",
    }
}

#[cfg(test)]
pub(crate) fn sample() -> Conditions {
    Conditions {
        replicas: 3,
        groups: 8,
        shards: 1,
        payload: 128,
        load: Load::Closed { window: 64 },
        seconds: 10.0,
        warmup: 1.0,
        sync: SyncMode::Durable,
        client: Client::Inside,
        leaders: Leaders::One,
        kill_leader_after: None,
        disk: Disk::Uring,
        retain_mib: 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_round_trip_through_json() {
        let open = Conditions { load: Load::Open { rate: 5000 }, kill_leader_after: Some(2.5), ..sample() };
        for conditions in [sample(), open] {
            let json = serde_json::to_string(&conditions).unwrap();
            assert_eq!(serde_json::from_str::<Conditions>(&json).unwrap(), conditions, "{json}");
        }
    }

    #[test]
    fn a_load_is_either_closed_or_open() {
        let mut json = serde_json::to_value(sample()).unwrap();
        assert_eq!((json["window"].as_u64(), json["rate"].is_null()), (Some(64), true));
        json["rate"] = 5.into();
        assert!(serde_json::from_value::<Conditions>(json).is_err());
    }

    #[test]
    fn words_in_json_and_in_text_are_the_same() {
        for durability in [Durability::Durable, Durability::Os, Durability::None] {
            assert_eq!(serde_json::to_value(durability).unwrap(), durability.to_string());
        }
    }
}
