use std::collections::BTreeMap;

use synod_core::{Ballot, Body, Configuration, MemberId, Record, Value};
use synod_wal::record::body_crc;

use super::*;
use crate::batch::Entries;
use crate::config::Member;
use crate::meta::{Directory, DirectoryLock};
use crate::payload::{BatchHeader, Place};
use crate::peers::{Me, Owner, Peers, Said};
use crate::persist::{Summary, arrival_header, readable_record, record_header};

const CLUSTER: u128 = 5;
const NEW_CLUSTER: u128 = 6;

fn ballot(round: u64) -> Ballot {
    Ballot { round, member: MemberId(1) }
}

fn batch(round: u64, bytes: &[u8]) -> Value<Payload> {
    let entries = Entries::one(bytes).unwrap();
    let crc = body_crc(&entries.parts(&mut Vec::new()));
    let header =
        BatchHeader { entries: 1, bytes: entries.body_bytes() as u32, crc, client: 0, sequence: 0, part: None };
    Value { origin: ballot(round), body: Body::Batch(Payload::new(header, Place::Closed(entries))) }
}

fn epoch_start(round: u64) -> Value<Payload> {
    Value { origin: ballot(round), body: Body::EpochStart }
}

/// A stopped node 2 of five, and the node that it may be repaired into.
struct Room {
    config: Config,
    into: Config,
    dir: tempfile::TempDir,
}

fn config(dir: &Path, cluster: u128, node: u64, name: &str) -> Config {
    let members = (1..=5).map(|node| Member { node, address: format!("127.0.0.1:{node}").parse().unwrap() });
    let mut config = Config::new(cluster, node, dir.join(name), members.collect());
    (config.groups, config.segment_mib) = (2, 4);
    config
}

/// Makes the directory of a node that has met all others, and takes it. Its replica has its number.
fn make(config: &Config) -> (Directory, DirectoryLock) {
    let mut meta = MetaV7::draw(CLUSTER, config.node, (1, 1, 0), (false, false));
    let me = u128::from(config.node);
    (meta.logs[0].log, meta.first[0]) = (me, me);
    Directory::init(&config.dir, &meta, (1..=5).collect()).unwrap();
    let (directory, lock) = Directory::open(&config.dir, CLUSTER, config.node, (0, false)).unwrap();
    let owner = Owner { node: config.node, incarnation: directory.incarnation(), founders: Some(vec![me]), shards: 1 };
    let peers = Peers::open(&config.dir, owner).unwrap();
    for node in (1..=5).filter(|node| *node != config.node) {
        let other = u128::from(node);
        let said = Said { node, incarnation: other, boot: 1, founder: true, replica: other, knows: me };
        peers.meet(&Me { shard: 0, replica: me, founder: true }, &said, |_| Ok(())).unwrap();
    }
    (directory, lock)
}

fn accept(slot: u64, round: u64, value: Value<Payload>) -> (u64, Record<Payload>) {
    (0, Record::Accept { slot: Slot(slot), ballot: ballot(round), first: Slot(1), value })
}

/// Writes a node's log.
fn write_log(config: &Config, replica: u128, write: impl FnOnce(&mut ShardWriter)) {
    let dir = meta::log_dir(&config.dir, 0);
    fs::create_dir(&dir).unwrap();
    meta::note_opened(&config.dir, 0).unwrap();
    let mut writer = ShardWriter::create(&dir, 0, replica, 4 * MIB).unwrap();
    write(&mut writer);
    writer.finish().unwrap();
}

/// Writes records of group 1: (chosen prefix that is known then, record).
fn push_all(writer: &mut ShardWriter, config: &Config, records: &[(u64, Record<Payload>)]) {
    for (chosen, record) in records {
        let header = record_header(config.group_uid(1), Slot(*chosen), record);
        let body = match record {
            Record::Accept { value: Value { body: Body::Batch(p), .. }, .. } => p.with_body(<[u8]>::to_vec),
            _ => Vec::new(),
        };
        writer.push(&header, &body).unwrap();
    }
}

/// Writes what the slots up to the end of `apply` did in a group, and that round 4 was promised.
fn push_summary(writer: &mut ShardWriter, uid: u128, apply: ApplyState) {
    let summary = Summary { promised: ballot(4), chosen: apply.slot, apply, arrival: 0, accepted: vec![] };
    let (header, body) = summary.encode(uid);
    writer.push(&header, &body).unwrap();
}

/// Chosen: an epoch start and two entries; accepted: one more. Promised: 7.
fn usual() -> Vec<(u64, Record<Payload>)> {
    vec![
        accept(1, 3, epoch_start(3)),
        accept(2, 3, batch(3, b"one")),
        accept(3, 3, batch(3, b"two")),
        accept(4, 3, batch(3, b"three")),
        (3, Record::Promise { ballot: ballot(7) }),
    ]
}

impl Room {
    fn new(records: &[(u64, Record<Payload>)]) -> Self {
        Self::with_log(|writer, config| push_all(writer, config, records))
    }

    fn with_log(write: impl FnOnce(&mut ShardWriter, &Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (config, into) = (config(dir.path(), CLUSTER, 2, "old"), config(dir.path(), NEW_CLUSTER, 2, "new"));
        let (directory, _lock) = make(&config);
        write_log(&config, directory.log_id(0), |writer| write(writer, &config));
        Self { config, into, dir }
    }

    /// Carries the repair out; what comes of it has so many chosen slots, and entries up to this index.
    fn carry_out(&self, repair: Repair, chosen: u64, index: u64) {
        repair.carry_out(&self.into, &note()).unwrap();
        drop(repair);
        check_repaired(self, chosen, index);
    }

    /// The repaired directory, as the next repair would see it.
    fn repaired(&self) -> Survivor {
        Survivor::read(&self.into, &self.into.dir, Some(2), false).unwrap()
    }

    fn examine(&self) -> Repair {
        Repair::examine(&self.config, &RepairOptions::default()).unwrap()
    }

    fn refusal(&self, options: &RepairOptions) -> String {
        match Repair::examine(&self.config, options) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it should be refused"),
        }
    }

    /// All files of the old directory.
    fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut left = vec![self.config.dir.clone()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                match entry.path() {
                    path if path.is_dir() => left.push(path),
                    path => drop(all.insert(path.clone(), fs::read(path).unwrap())),
                }
            }
        }
        all
    }
}

fn note() -> RepairNote {
    RepairNote { seconds: 86_400, command: "synod repair \"x\"".into() }
}

/// What is in the repaired directory, as a node finds it.
fn check_repaired(room: &Room, chosen: u64, index: u64) {
    let lock = Directory::open(&room.into.dir, NEW_CLUSTER, 2, (0, false)).unwrap();
    assert!(lock.0.is_replacement() && !lock.0.is_founder(0), "it founds nothing");
    let replica = lock.0.log_id(0);
    drop(lock);
    let survivor = room.repaired();
    let found = survivor.shards[0].group(room.into.group_uid(1));
    let Evidence { configuration, promised, accepted, .. } = &found.evidence;
    assert_eq!((found.evidence.chosen, found.apply.next_index), (Slot(chosen), index + 1));
    assert!(accepted.is_empty());
    assert_eq!(configuration.voters.len(), 1);
    assert_eq!(configuration.voter_on(2).unwrap().replica, ReplicaId(replica));
    assert!(promised.round > 1 << 20);
    // The other group was empty.
    let empty = survivor.shards[0].group(room.into.group_uid(2));
    assert_eq!((empty.evidence.chosen, empty.apply.next_index), (Slot(1), 1));
    assert_eq!(empty.evidence.configuration.voters.len(), 1);
}

#[test]
fn what_is_chosen_and_what_is_accepted_is_there_afterwards() {
    let room = Room::new(&usual());
    let before = room.bytes();
    let repair = room.examine();
    let finding = &repair.findings()[0];
    assert_eq!(
        (finding.version, &finding.voters[..], finding.votes, finding.quorum),
        (0, &[1, 2, 3, 4, 5][..], true, false)
    );
    assert_eq!((finding.chosen, finding.index, finding.accepted), (3, 2, 4));
    assert_eq!((finding.kept, finding.kept_entries, finding.lost), (1, 1, 0));
    assert_eq!((&finding.promised[..], finding.new_version), ("7.1", 1));
    assert_eq!(room.bytes(), before, "looking changes nothing");
    room.carry_out(repair, 5, 3);
    // The log is as it was; only the mark is new.
    let mut after = room.bytes();
    assert!(after.remove(&room.config.dir.join("repaired")).is_some());
    assert_eq!(after, before);
    let refused = Directory::open(&room.config.dir, CLUSTER, 2, (0, false)).unwrap_err().to_string();
    assert!(refused.contains("two histories") && refused.contains(&room.into.cluster), "{refused}");
    let refused = room.refusal(&RepairOptions::default());
    assert!(refused.contains("1970-01-02T00:00:00Z"), "{refused}");
    let record = fs::read_to_string(room.into.dir.join(record::RECORD)).unwrap();
    let words = ["\"repair\":\"1970-01-02", "synod repair \\\"x\\\"", "\"group\":2", "\"kept_entries\":1"];
    assert!(words.iter().all(|word| record.contains(word)), "{record}");
}

/// Whatever breaks it off: before the deciding step the old directory can be used as if nothing had been, and from then on
/// the new one can; and it can always be done again.
#[test]
fn a_repair_that_is_broken_off_is_done_or_not() {
    for steps in 0..=STEPS.len() {
        let room = Room::new(&usual());
        let before = room.bytes();
        room.examine().carry_out_up_to(steps, &room.into, &note()).unwrap();
        let decided = steps > DECISION;
        assert_eq!(meta::is_initialised(&room.into.dir).unwrap(), decided, "after {steps} steps");
        if decided {
            check_repaired(&room, 5, 3);
        } else {
            let Err(error) = Directory::open(&room.into.dir, NEW_CLUSTER, 2, (0, false)) else {
                panic!("it is no node's yet")
            };
            assert!(matches!(error, DirectoryError::NotInitialised(_)), "{error}");
            assert_eq!(room.bytes(), before);
        }
        // The old one is closed last, so the same can be done again until then.
        if !room.config.dir.join("repaired").exists() {
            room.carry_out(room.examine(), 5, 3);
        }
        assert!(room.config.dir.join("repaired").exists());
        assert!(!room.into.dir.join(UNFINISHED).exists() || steps + 1 == STEPS.len(), "after {steps} steps");
    }
}

/// A crash in the middle of a step leaves half a log: it is thrown away.
#[test]
fn what_an_earlier_try_left_is_thrown_away() {
    let room = Room::new(&usual());
    let repair = room.examine();
    repair.carry_out_up_to(2, &room.into, &note()).unwrap();
    let log = meta::log_dir(&room.into.dir, 0);
    for entry in fs::read_dir(&log).unwrap().map(Result::unwrap) {
        fs::write(entry.path(), b"half").unwrap();
    }
    room.carry_out(repair, 5, 3);
}

#[test]
fn a_long_log_comes_over_whole_segments() {
    let value = vec![7; 700_000];
    let mut records = vec![accept(1, 3, epoch_start(3))];
    records.extend((2..=20).map(|slot| accept(slot, 3, batch(3, &value))));
    records.push((18, Record::Chosen));
    let room = Room::new(&records);
    room.carry_out(room.examine(), 21, 19);
    let segments = fs::read_dir(meta::log_dir(&room.into.dir, 0)).unwrap().count();
    assert!(segments > 3, "{segments}");
    // The values themselves, too.
    let survivor = room.repaired();
    let log = &survivor.shards[0];
    let mut reader = survey::RecordReader::new(&log.dir);
    for slot in 2..=20 {
        let place = log.index.get(room.into.group_uid(1), slot).unwrap();
        let (_, body) = reader.read(place.record()).unwrap();
        assert_eq!(crate::batch::Batch::decode(&body).unwrap().get(0), &value[..]);
    }
}

/// The beginning of the log is gone, and a checkpoint has what it did, more than the log itself has.
#[test]
fn what_only_a_checkpoint_says_comes_over() {
    let room = Room::new(&usual());
    let mut state = ApplyState::default();
    state.apply(Slot(1), &epoch_start(3));
    for slot in 2..=6 {
        state.apply(Slot(slot), &batch(3, b"x"));
    }
    let uid = room.config.group_uid(1);
    let dir = meta::log_dir(&room.config.dir, 0).join("checkpoints");
    fs::create_dir(&dir).unwrap();
    let mut bytes = Vec::new();
    let mut out = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    let mut encoder = Encoder::new(&Head { cluster: CLUSTER, uid, state }, &mut out).unwrap();
    io::Write::write_all(&mut encoder, &[9; 100_000]).unwrap();
    encoder.finish().unwrap();
    fs::write(dir.join(whole_name(uid, 6)), &bytes).unwrap();
    // One that is damaged is left out.
    bytes[4000] ^= 1;
    fs::write(dir.join(whole_name(uid, 9)), &bytes).unwrap();

    let repair = room.examine();
    let finding = &repair.findings()[0];
    assert_eq!((finding.gone, finding.chosen, finding.index, finding.kept), (6, 6, 5, 0));
    room.carry_out(repair, 7, 5);
    let survivor = room.repaired();
    assert_eq!(survivor.shards[0].group(room.into.group_uid(1)).checkpoints, [Slot(6)]);
    let mut store = survivor.shards[0].checkpoints(NEW_CLUSTER).unwrap();
    let mut decoder = store.decoder(room.into.group_uid(1), 6).unwrap();
    let mut data = Vec::new();
    io::Read::read_to_end(&mut decoder, &mut data).unwrap();
    assert_eq!(data, [9; 100_000]);
}

#[test]
fn a_trimmed_log_begins_with_its_summary() {
    let mut apply = ApplyState::default();
    apply.apply(Slot(1), &epoch_start(3));
    apply.apply(Slot(2), &batch(3, b"gone"));
    let room = Room::with_log(|writer, config| {
        push_summary(writer, config.group_uid(1), apply);
        // It has heard of more than it has.
        let (_, here) = accept(3, 3, batch(3, b"here"));
        push_all(writer, config, &[(2, here), (9, Record::Chosen)]);
    });
    let repair = room.examine();
    let finding = &repair.findings()[0];
    assert_eq!((finding.gone, finding.chosen, finding.index, finding.lost), (2, 3, 2, 6));
    room.carry_out(repair, 4, 2);
    let survivor = room.repaired();
    assert_eq!(survivor.shards[0].group(room.into.group_uid(1)).evidence.gone, Slot(2));
}

/// Its summary is younger than its first entries, which are trimmed up to the second slot.
#[test]
fn a_group_that_came_from_another_shard_keeps_its_entries() {
    let room = Room::with_log(|writer, config| {
        let uid = config.group_uid(1);
        let mut apply = ApplyState::default();
        apply.apply(Slot(1), &epoch_start(3));
        for slot in 2..=4 {
            apply.apply(Slot(slot), &batch(3, b"entry"));
        }
        writer.push(&arrival_header(uid, 5), &[]).unwrap();
        push_summary(writer, uid, apply);
        push_all(writer, config, &[accept(3, 3, batch(3, b"entry")), accept(4, 3, batch(3, b"entry"))]);
        let (header, body) = readable_record(uid, Slot(2), &[(Slot(3), 1, 2), (Slot(4), 1, 3)]);
        writer.push(&header, &body).unwrap();
        let (_, behind) = accept(5, 3, batch(3, b"behind"));
        push_all(writer, config, &[(4, behind), (5, Record::Chosen)]);
    });
    let repair = room.examine();
    let finding = &repair.findings()[0];
    assert_eq!((finding.gone, finding.chosen, finding.index, finding.lost), (2, 5, 4, 0));
    room.carry_out(repair, 6, 4);
    let survivor = room.repaired();
    let log = &survivor.shards[0];
    let found = log.group(room.into.group_uid(1));
    assert_eq!((found.evidence.gone, found.readable.len()), (Slot(2), 2));
    let mut reader = survey::RecordReader::new(&log.dir);
    for (slot, bytes) in [(3, b"entry" as &[u8]), (4, b"entry"), (5, b"behind")] {
        let (_, body) = reader.read(log.index.get(found.uid, slot).unwrap().record()).unwrap();
        assert_eq!(crate::batch::Batch::decode(&body).unwrap().iter().collect::<Vec<_>>(), [bytes]);
    }
}

#[test]
fn another_survivor_adds_what_it_has() {
    let room = Room::new(&usual());
    let other = config(room.dir.path(), CLUSTER, 3, "other");
    let (directory, lock) = make(&other);
    let mut records = usual();
    records.pop();
    records.extend([accept(4, 5, epoch_start(5)), accept(5, 5, batch(5, b"five")), (4, Record::Chosen)]);
    write_log(&other, directory.log_id(0), |writer| push_all(writer, &other, &records));
    let with = RepairOptions { with: vec![other.dir.clone()], ..RepairOptions::default() };
    assert!(room.refusal(&with).contains("in use"), "its node runs");
    drop(lock);
    let twice = RepairOptions { with: vec![other.dir.clone(), other.dir.clone()], ..RepairOptions::default() };
    assert!(room.refusal(&twice).contains("in use"));
    let repair = Repair::examine(&room.config, &with).unwrap();
    let finding = &repair.findings()[0];
    assert_eq!((finding.from, finding.chosen, finding.kept), (3, 4, 1));
    // Two of five.
    assert!(!finding.quorum);
    room.carry_out(repair, 6, 3);
    assert!(other.dir.join("repaired").exists());
}

#[test]
fn what_cannot_be_repaired_is_refused_and_says_why() {
    let usual = usual();
    // A node that runs.
    let room = Room::new(&usual);
    let lock = Directory::open(&room.config.dir, CLUSTER, 2, (0, false)).unwrap();
    assert!(room.refusal(&RepairOptions::default()).contains("in use"));
    drop(lock);
    // The directory of another node or cluster.
    for (cluster, node) in [(CLUSTER, 1), (NEW_CLUSTER, 2)] {
        let foreign = Room { config: config(room.dir.path(), cluster, node, "old"), ..Room::new(&[]) };
        assert!(foreign.refusal(&RepairOptions::default()).contains("belongs to node 2 of cluster"));
    }
    // What it would become.
    let repair = room.examine();
    for (change, word) in [
        ((|c| c.cluster = format!("{CLUSTER:032x}")) as fn(&mut Config), "`cluster` of its own"),
        (|c| c.node = 3, "`node = 2`"),
        (|c| c.groups = 3, "`groups = 2`"),
        (|c| c.shards = 2, "`shards = 1`"),
        (|c| c.dir = c.dir.with_file_name("old"), "`dir` of its own"),
        (|c| c.dir = c.dir.with_file_name("old").join("new"), "`dir` of its own"),
        (|c| c.segment_mib = 1, "segment_mib"),
    ] {
        let mut into = room.into.clone();
        change(&mut into);
        let refused = repair.carry_out(&into, &note()).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused} should say {word}");
    }
    fs::create_dir(&room.into.dir).unwrap();
    fs::write(room.into.dir.join("mine"), b"").unwrap();
    assert!(repair.carry_out(&room.into, &note()).unwrap_err().to_string().contains("not empty"));
    assert!(room.into.dir.join("mine").exists());
    drop(repair);

    // No directory, one that was never started, and one whose log is gone.
    let none = Room { config: config(room.dir.path(), CLUSTER, 2, "none"), ..Room::new(&[]) };
    assert!(none.refusal(&RepairOptions::default()).contains("holds no node"));
    Directory::init(&none.config.dir, &MetaV7::draw(CLUSTER, 2, (1, 1, 0), (false, false)), (1..=5).collect()).unwrap();
    assert!(none.refusal(&RepairOptions::default()).contains("never started"));
    fs::remove_dir_all(meta::log_dir(&room.config.dir, 0)).unwrap();
    assert!(room.refusal(&RepairOptions::default()).contains("is lost"));
}

#[test]
fn a_damaged_log_is_only_taken_when_told_to() {
    let damaged_too = RepairOptions { damaged_too: true, ..RepairOptions::default() };
    // One that peers have found out.
    let room = Room::new(&usual());
    meta::mark_suspect(&room.config.dir, 0, "a peer has seen more").unwrap();
    let refused = room.refusal(&RepairOptions::default());
    assert!(refused.contains("a peer has seen more") && refused.contains("`damaged_too`"), "{refused}");
    let repair = Repair::examine(&room.config, &damaged_too).unwrap();
    assert_eq!(repair.warnings().len(), 1);
    room.carry_out(repair, 5, 3);
    // One with a hole: what is before it is intact.
    let mut records = usual();
    records.remove(2);
    let room = Room::new(&records);
    assert!(room.refusal(&RepairOptions::default()).contains("slot 3 of group 1 is missing"));
    let repair = Repair::examine(&room.config, &damaged_too).unwrap();
    assert_eq!((repair.findings()[0].chosen, repair.findings()[0].lost), (2, 1));
    room.carry_out(repair, 3, 1);
}

/// What an outsider knows as chosen is chosen, but a voter's directory may know more.
#[test]
fn a_node_without_a_vote_is_only_taken_when_told_to() {
    let voters = Configuration::genesis([(1, ReplicaId(1)), (3, ReplicaId(3))]);
    let voters = Configuration { version: 4, ..voters };
    let room = Room::with_log(|writer, config| {
        for id in 1..=2 {
            let mut apply = ApplyState::default();
            let body = Body::Configuration(Box::new(voters.clone()));
            apply.apply(Slot(1), &Value { origin: ballot(1), body });
            push_summary(writer, config.group_uid(id), apply);
        }
    });
    let repair = room.examine();
    assert!(!repair.findings()[0].votes);
    let refused = repair.carry_out(&room.into, &note()).unwrap_err().to_string();
    assert!(refused.contains("no vote in group 1, group 2"), "{refused}");
    drop(repair);
    let options = RepairOptions { without_vote_too: true, ..RepairOptions::default() };
    let repair = Repair::examine(&room.config, &options).unwrap();
    assert_eq!(repair.findings()[1].new_version, 5);
    repair.carry_out(&room.into, &note()).unwrap();
    let survivor = Survivor::read(&room.into, &room.into.dir, Some(2), false);
    assert!(matches!(survivor, Err(RepairError::Directory(DirectoryError::NeverStarted(_)))));
}
