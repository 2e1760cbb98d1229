//! Going on after a quorum was lost for good: what is left of a cluster is made a new cluster.
//!
//! When the majority of a group's voters is lost with its directories, nobody can know any more what it acknowledged, and
//! the group stops for good. A repair goes on from the directories that are left, of nodes that are stopped, and says what
//! may be lost. It never changes their logs: it writes a *new* directory, of a *new cluster*, with the groups' logs as far as
//! the survivors hold them (`plan` has the rule), in which this node's new replica is the only voter. Other nodes join the
//! new cluster as any others do, and are given votes.
//!
//! Why a new cluster: the lost directories may be found again, and two of them are a quorum that can go on from what this
//! one has never seen. Nothing can keep them from that. But the cluster's id is in every directory, handshake, record and
//! checkpoint, as itself or in the groups' uids: nothing of the one history is ever taken for a part of the other.
//!
//! Invariants:
//! - What `examine` looks at is not changed by it, nor used by anybody else meanwhile.
//! - The new directory is a node's only with its `meta` file, which comes last, by one rename. Before that the old one is
//!   as it was; after it the new one is whole.

mod copy;
mod plan;
pub(crate) mod record;
mod survey;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use synod_core::{ReplicaId, Slot};

use crate::apply::{ApplyState, Effect};
use crate::checkpoint::contents::whole_name;
use crate::checkpoint::format::{Encoder, Head};
use crate::config::{Config, ConfigError};
use crate::groups::{directory_group, directory_number, name_of};
use crate::limits::MIB;
use crate::meta::{self, DirectoryError, MetaV7};
use crate::outcome::{GroupId, NodeId};
use crate::payload::Payload;
use crate::peers;
use crate::sealed;
pub(crate) use copy::ShardWriter;
use plan::{Evidence, Plan, plan};
use record::quoted;
use survey::{Subject, Survivor};

/// Says that a directory is being made by a repair, and of which one.
const UNFINISHED: &str = "repairing";

/// Why there is no repair.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// A configuration cannot work, or cannot be that of the repaired node.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A log is damaged, or must not be voted with for another reason.
    #[error(
        "{0}. A sound survivor is better; where there is none, `damaged_too` takes what is intact before the damage"
    )]
    Damaged(String),
    /// The survivors cannot be repaired from.
    #[error("{0}")]
    Refused(String),
    /// The file system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The refusal.
        error: io::Error,
    },
}

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct RepairOptions {
    /// Directories of other survivors, or copies of them: what they hold counts too.
    pub with: Vec<PathBuf>,
    /// Take what is intact of a damaged log.
    pub damaged_too: bool,
    /// Take also groups in which this node has no vote.
    pub without_vote_too: bool,
}

/// Who repairs, for the record.
#[derive(Clone, Debug)]
pub struct RepairNote {
    /// The time, in seconds since 1970.
    pub seconds: u64,
    /// The operator's command.
    pub command: String,
}

/// What the survivors have of a group, and what a repair makes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupFinding {
    /// The group, or a directory: see [`crate::directory_group`].
    pub group: GroupId,
    /// It was being dropped, and that goes on: nothing of it is to be kept.
    pub ending: bool,
    /// The version of the configuration that governed.
    pub version: u64,
    /// The nodes that voted.
    pub voters: Vec<NodeId>,
    /// Whether this node voted.
    pub votes: bool,
    /// Whether the survivors are a quorum still.
    pub quorum: bool,
    /// Whether they are enough to elect a leader: among them they have all that was acknowledged.
    pub whole: bool,
    /// The node whose log is taken.
    pub from: NodeId,
    /// Slots up to here are gone from that log: only what they did is known.
    pub gone: u64,
    /// Slots up to here are known as chosen.
    pub chosen: u64,
    /// The last index known as committed.
    pub index: u64,
    /// The highest slot in which a survivor has accepted something.
    pub accepted: u64,
    /// The highest ballot that a survivor has promised, as round and member.
    pub promised: String,
    /// How many values were accepted and are not known as chosen: they are taken for chosen.
    pub kept: usize,
    /// How many entries are in them.
    pub kept_entries: u64,
    /// How many votes are dropped, for values that others of a higher ballot replace.
    pub dropped: usize,
    /// How many slots are known to be chosen and are held by no survivor: they are lost.
    pub lost: u64,
    /// The version of the configuration that the repair makes.
    pub new_version: u64,
    /// The ballot of that configuration, as round and member.
    pub new_ballot: String,
}

impl GroupFinding {
    /// `group 3`, or `directory 0`.
    pub fn name(&self) -> String {
        name_of(self.group)
    }
}

/// A group, and what becomes of it.
type Planned = (Subject, Plan<Payload>);

/// What can be repaired, with the survivors' directories in hand.
pub struct Repair {
    config: Config,
    survivors: Vec<Survivor>,
    findings: Vec<GroupFinding>,
    /// All groups, as in `findings`, and what becomes of each.
    groups: Vec<Planned>,
    options: RepairOptions,
    /// The new directory, but for its cluster.
    meta: MetaV7,
}

type Step = fn(&Repair, &Config, &RepairNote) -> Result<(), RepairError>;

/// The steps of a repair; each is durable before the next. The one that writes `meta` decides.
const STEPS: [Step; 7] = [
    Repair::begin,
    Repair::write_logs,
    Repair::write_checkpoints,
    Repair::write_rest,
    Repair::decide,
    Repair::close_old,
    Repair::end,
];
const DECISION: usize = 4;

fn at(path: &Path) -> impl FnOnce(io::Error) -> RepairError + '_ {
    move |error| RepairError::Io { path: path.to_owned(), error }
}

impl Repair {
    /// Looks at the directory of a stopped node and at those of other survivors. Nothing is changed.
    ///
    /// # Errors
    /// Why it cannot be repaired from: a directory that is in use, foreign, lost or damaged.
    pub fn examine(config: &Config, options: &RepairOptions) -> Result<Self, RepairError> {
        config.validate()?;
        let mut survivors = vec![Survivor::read(config, &config.dir, Some(config.node), options.damaged_too)?];
        for path in &options.with {
            let other = Survivor::read(config, path, None, options.damaged_too)?;
            if survivors.iter().any(|known| known.meta.incarnation == other.meta.incarnation) {
                return Err(RepairError::Refused(format!("{} is given twice", path.display())));
            }
            survivors.push(other);
        }
        let first_shards = survivors[0].meta.first.len();
        if let Some(other) = survivors.iter().find(|of| of.meta.first.len() != first_shards) {
            return Err(RepairError::Refused(format!(
                "{} says that the cluster began with another number of shards than {} does",
                other.path.display(),
                survivors[0].path.display()
            )));
        }
        let config = Config { first_shards: Some(first_shards), ..config.clone() };
        let meta = MetaV7::draw(0, config.node, (config.shards, first_shards, config.phase_2), (false, true));
        // The directories say which groups were made at run time.
        let (mut made, mut directories) = (Vec::new(), Vec::new());
        for number in 0..first_shards as u64 {
            let (planned, finding, after) =
                plan_group(&survivors, &config, &meta, Subject::of(directory_group(number)));
            made.extend(Subject::all_of(&after.directory));
            directories.push((planned, finding));
        }
        for survivor in &mut survivors {
            made.iter().for_each(|made| survivor.meet(&config, made));
        }
        let others = (1..=config.groups).map(Subject::of).chain(made).map(|subject| {
            let (planned, finding, _) = plan_group(&survivors, &config, &meta, subject);
            (planned, finding)
        });
        let (groups, findings) = others.chain(directories).unzip();
        Ok(Self { config, survivors, findings, groups, options: options.clone(), meta })
    }

    /// What there is of each group, in order.
    pub fn findings(&self) -> &[GroupFinding] {
        &self.findings
    }

    /// What is wrong with the survivors' logs, although they can be used.
    pub fn warnings(&self) -> Vec<String> {
        let shards = self.survivors.iter().flat_map(|survivor| &survivor.shards);
        shards.flat_map(|shard| shard.damage.iter().chain(&shard.torn).cloned()).collect()
    }

    /// Why this is not to be repaired, if so.
    pub fn obstacle(&self) -> Option<String> {
        // What is being dropped need not be whole.
        let kept = || self.findings.iter().filter(|finding| !finding.ending);
        if kept().all(|finding| finding.quorum) {
            return Some(
                "in every group these replicas are a quorum of the voters: nothing is lost, so start them again".into(),
            );
        }
        let without: Vec<String> = kept().filter(|of| !of.votes).map(|of| name_of(of.group)).take(9).collect();
        (!without.is_empty() && !self.options.without_vote_too).then(|| {
            format!(
                "node {} has no vote in {}: a voter's directory knows more; where none is left, \
                 `without_vote_too` takes this one",
                self.config.node,
                without.join(", ")
            )
        })
    }

    /// Writes the directory of the repaired node, which `into` describes, and closes the old ones. Whatever breaks it off,
    /// the new directory is whole or no node's, and the same call may be made again.
    ///
    /// # Errors
    /// Why nothing was repaired.
    pub fn carry_out(&self, into: &Config, note: &RepairNote) -> Result<(), RepairError> {
        self.carry_out_up_to(STEPS.len(), into, note)
    }

    fn carry_out_up_to(&self, steps: usize, into: &Config, note: &RepairNote) -> Result<(), RepairError> {
        self.check(into)?;
        let first = if self.is_decided(into)? { DECISION + 1 } else { 0 };
        STEPS[..steps].iter().skip(first).try_for_each(|step| step(self, into, note))
    }

    /// Whether `into` can be the repaired node's.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, into: &Config) -> Result<(), RepairError> {
        into.validate()?;
        if let Some(obstacle) = self.obstacle() {
            return Err(RepairError::Refused(obstacle));
        }
        let old = &self.config;
        let same = |what: &str, old: u64, new: u64| {
            let text = format!("the repaired node must keep `{what} = {old}`, and its configuration says {new}");
            if old == new { Ok(()) } else { Err(ConfigError::Invalid(text)) }
        };
        same("node", old.node, into.node)?;
        same("groups", old.groups, into.groups)?;
        same("shards", old.shards as u64, into.shards as u64)?;
        // The groups made at run time are named by as many directories as there were.
        same("first_shards", old.first_shards() as u64, into.first_shards() as u64)?;
        if old.cluster_id() == into.cluster_id() {
            return Err(ConfigError::Invalid(format!(
                "the repaired node needs a `cluster` of its own, not {}: else lost nodes that come back would mix their \
                 history with this one",
                old.cluster
            ))
            .into());
        }
        let within = |one: &Path, other: &Path| one.starts_with(other) || other.starts_with(one);
        if let Some(old) = self.survivors.iter().find(|of| within(&real(&of.path), &real(&into.dir))) {
            return Err(ConfigError::Invalid(format!(
                "the repaired node needs a `dir` of its own, apart from {}, which stays as it is",
                old.path.display()
            ))
            .into());
        }
        Ok(())
    }

    /// Names this repair in the directory that it makes.
    fn mark(&self, into: &Config) -> String {
        format!("{:032x} into {}\n", self.survivors[0].meta.incarnation, into.cluster)
    }

    /// Whether a repair of these survivors that was broken off has made the new directory already.
    fn is_decided(&self, into: &Config) -> Result<bool, RepairError> {
        let mark = into.dir.join(UNFINISHED);
        let begun = match fs::read_to_string(&mark) {
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            read => read.map_err(at(&mark))? == self.mark(into),
        };
        match (meta::is_initialised(&into.dir)?, begun) {
            (true, false) => Err(DirectoryError::NotEmpty(into.dir.clone()).into()),
            (decided, _) => Ok(decided),
        }
    }

    fn begin(&self, into: &Config, _: &RepairNote) -> Result<(), RepairError> {
        let dir = &into.dir;
        fs::create_dir_all(dir).map_err(at(dir))?;
        let mark = dir.join(UNFINISHED);
        let ours = mark.try_exists().map_err(at(&mark))?;
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let path = entry.map_err(at(dir))?.path();
            if !ours && !path.starts_with(dir.join(format!("{UNFINISHED}.new"))) {
                return Err(DirectoryError::NotEmpty(dir.clone()).into());
            }
            // What an earlier try left, which nobody has used.
            if path != mark {
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(at(&path))?;
            }
        }
        sealed::replace(dir, UNFINISHED, self.mark(into).as_bytes()).map_err(at(&mark))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sealed::sync_dir(parent).map_err(at(parent))?;
        }
        Ok(())
    }

    fn write_logs(&self, into: &Config, _: &RepairNote) -> Result<(), RepairError> {
        for shard in 0..into.shards {
            let dir = meta::log_dir(&into.dir, shard);
            fs::create_dir(&dir).map_err(at(&dir))?;
            let log = self.meta.logs[shard].log;
            let mut writer = ShardWriter::create(&dir, shard, log, into.segment_mib * MIB)?;
            for (subject, plan) in self.groups_on(shard, into) {
                let old = subject.uid(&self.config);
                let source = self.survivors[plan.base].log_of(old);
                writer.copy((subject.id, subject.uid(into)), source.group(old), source, plan)?;
            }
            writer.finish()?;
        }
        Ok(())
    }

    /// The groups that are at home on a shard.
    fn groups_on(&self, shard: usize, into: &Config) -> impl Iterator<Item = &Planned> {
        let homes = into.homes();
        self.groups.iter().filter(move |(subject, _)| homes.shard(subject.id) == shard)
    }

    /// Copies the checkpoints under the groups' new names.
    fn write_checkpoints(&self, into: &Config, _: &RepairNote) -> Result<(), RepairError> {
        let cluster = into.cluster_id().expect("validated");
        for shard in 0..into.shards {
            let dir = meta::log_dir(&into.dir, shard).join("checkpoints");
            fs::create_dir(&dir).map_err(at(&dir))?;
            let mut stores = BTreeMap::new();
            for (subject, plan) in self.groups_on(shard, into) {
                let number = plan.base;
                let base = &self.survivors[number];
                let (old, uid) = (subject.uid(&self.config), subject.uid(into));
                let source = base.log_of(old);
                let found = source.group(old);
                for slot in &found.checkpoints {
                    let store = match stores.entry(number) {
                        Entry::Occupied(open) => open.into_mut(),
                        Entry::Vacant(vacant) => vacant.insert(source.checkpoints(base.meta.cluster)?),
                    };
                    let mut decoder =
                        store.decoder(found.uid, slot.0).map_err(io::Error::other).map_err(at(&source.dir))?;
                    let head = Head { cluster, uid, state: decoder.head.state.clone() };
                    let path = dir.join(whole_name(uid, slot.0));
                    let mut file = File::create(&path).map_err(at(&path))?;
                    let mut out = |bytes: &[u8]| io::Write::write_all(&mut file, bytes);
                    let mut encoder = Encoder::new(&head, &mut out).map_err(at(&path))?;
                    io::copy(&mut decoder, &mut encoder).map_err(at(&path))?;
                    encoder.finish().map_err(at(&path))?;
                    file.sync_all().map_err(at(&path))?;
                }
            }
            sealed::sync_dir(&dir).map_err(at(&dir))?;
            let log = meta::log_dir(&into.dir, shard);
            sealed::sync_dir(&log).map_err(at(&log))?;
        }
        Ok(())
    }

    fn write_rest(&self, into: &Config, note: &RepairNote) -> Result<(), RepairError> {
        let dir = &into.dir;
        for shard in 0..into.shards {
            meta::note_opened(dir, shard).map_err(at(dir))?;
        }
        peers::init(dir, self.meta.incarnation, Vec::new())?;
        record::write(&self.config.dir, dir, &self.lines(into, note)).map_err(at(dir))?;
        sealed::sync_dir(dir).map_err(at(dir))
    }

    /// With this file the directory is a node's.
    fn decide(&self, into: &Config, _: &RepairNote) -> Result<(), RepairError> {
        let cluster = into.cluster_id().expect("validated");
        Ok(meta::write_meta(&into.dir, &MetaV7 { cluster, ..self.meta.clone() })?)
    }

    /// The survivors' directories are not to be started again. What protects the new cluster from them is its id; this only
    /// keeps an operator from going on with the old one by mistake. This node's comes last: till then the repair can be done
    /// again.
    fn close_old(&self, into: &Config, note: &RepairNote) -> Result<(), RepairError> {
        let text = format!(
            "at {} its groups went on in {} as cluster {}",
            record::utc(note.seconds),
            real(&into.dir).display(),
            into.cluster
        );
        for survivor in self.survivors.iter().rev() {
            meta::mark_repaired(&survivor.path, &text)?;
        }
        Ok(())
    }

    fn end(&self, into: &Config, _: &RepairNote) -> Result<(), RepairError> {
        let mark = into.dir.join(UNFINISHED);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(at(&mark)(error)),
            _ => sealed::sync_dir(&into.dir).map_err(at(&into.dir)),
        }
    }

    /// The record's lines: one of the repair, and one per group.
    fn lines(&self, into: &Config, note: &RepairNote) -> Vec<String> {
        let directories: Vec<String> =
            self.survivors.iter().map(|of| quoted(&real(&of.path).display().to_string())).collect();
        let head = record::head(&format!(
            "{},\"command\":{},\"node\":{},\"directories\":[{}],\"cluster_before\":{},\"cluster_after\":{}",
            quoted(&record::utc(note.seconds)),
            quoted(&note.command),
            into.node,
            directories.join(","),
            quoted(&self.config.cluster),
            quoted(&into.cluster),
        ));
        let group = |of: &GroupFinding| {
            let voters: Vec<String> = of.voters.iter().map(NodeId::to_string).collect();
            let (kind, number) = match directory_number(of.group) {
                Some(number) => ("directory", number),
                None => ("group", of.group),
            };
            format!(
                "{{\"{kind}\":{number},\"before\":{{\"version\":{},\"voters\":[{}],\"chosen\":{},\"index\":{},\"accepted\":{},\
                 \"promised\":{}}},\"after\":{{\"version\":{},\"voters\":[{}],\"ballot\":{},\"from\":{},\"kept\":{},\
                 \"kept_entries\":{},\"dropped\":{},\"lost\":{}}}}}",
                of.version,
                voters.join(","),
                of.chosen,
                of.index,
                of.accepted,
                quoted(&of.promised),
                of.new_version,
                into.node,
                quoted(&of.new_ballot),
                of.from,
                of.kept,
                of.kept_entries,
                of.dropped,
                of.lost,
            )
        };
        std::iter::once(head).chain(self.findings.iter().map(group)).collect()
    }
}

/// A path without detours, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|part| Some((part, fs::canonicalize(part).ok()?)));
    let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    there.map_or_else(absolute, |(part, real)| match path.strip_prefix(part) {
        Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
        _ => real,
    })
}

/// What becomes of a group, what is told of it, and what its slots did in the end.
fn plan_group(
    survivors: &[Survivor],
    config: &Config,
    meta: &MetaV7,
    subject: Subject,
) -> (Planned, GroupFinding, ApplyState) {
    let (uid, home) = (subject.uid(config), subject.home(config));
    let evidence: Vec<Evidence<Payload>> = survivors.iter().map(|of| of.group(uid).evidence.clone()).collect();
    let plan = plan(&evidence, config.node, ReplicaId(meta.replica_at(home)));
    let base = &survivors[plan.base];
    let (finding, after) = finding(&subject, base.meta.node, &evidence, &base.group(uid).apply, &plan);
    ((subject, plan), finding, after)
}

fn finding(
    subject: &Subject,
    from: NodeId,
    evidence: &[Evidence<Payload>],
    apply: &ApplyState,
    plan: &Plan<Payload>,
) -> (GroupFinding, ApplyState) {
    let base = &evidence[plan.base];
    let mut after = apply.clone();
    let mut kept_entries = 0;
    for value in &plan.kept {
        let before = after.next_index;
        if let Effect::Entries { .. } = after.apply(after.slot.next(), value) {
            kept_entries += after.next_index - before;
        }
    }
    let finding = GroupFinding {
        group: subject.id,
        ending: subject.ending,
        version: plan.before.version,
        voters: plan.before.voters.iter().map(|voter| voter.node).collect(),
        votes: plan.voted,
        quorum: plan.quorum,
        whole: plan.whole,
        from,
        gone: base.gone.0,
        chosen: base.chosen.0,
        index: apply.next_index - 1,
        accepted: evidence.iter().map(Evidence::last).max().unwrap_or(Slot::ZERO).0,
        promised: evidence.iter().map(|of| of.promised).max().unwrap_or_default().to_string(),
        kept: plan.kept.len(),
        kept_entries,
        dropped: plan.dropped,
        lost: plan.lost,
        new_version: plan.forced.version,
        new_ballot: plan.ballot.to_string(),
    };
    (finding, after)
}

/// Says what a directory that came out of a repair must not keep to itself.
pub(crate) fn warn_of_repairs(dir: &Path) {
    match record::repairs(dir) {
        Ok(repairs) => {
            for repair in repairs {
                tracing::warn!(
                    repair,
                    "this node's groups come out of a repair: entries may be missing that the lost nodes \
                                        had acknowledged, and those must never be started again"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the record of repairs cannot be read"),
    }
}

#[cfg(test)]
mod tests;
