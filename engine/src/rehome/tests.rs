use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

use synod_core::{Ballot, Body, MemberId, Record, Slot, Value};
use synod_wal::disk::{BlockingDisk, Disk, DiskConfig, FileSource};
use synod_wal::ops::{DiskError, DiskOp};
use synod_wal::record::{RecordHeader, body_crc};

use super::*;
use crate::apply::ApplyState;
use crate::batch::Entries;
use crate::config::{DiskBackend, Member};
use crate::directory::Order;
use crate::log_store::failing::FailingStore;
use crate::meta::DirectoryLock;
use crate::payload::{BatchHeader, Payload, Place};
use crate::peers::{Me, Owner, Said};
use crate::persist::{Summary, record_header};
use crate::wire::kind;

const CLUSTER: u128 = 0xabc;
const GROUPS: u64 = 6;

fn ballot(round: u64) -> Ballot {
    Ballot { round, member: MemberId(1) }
}

fn batch(round: u64, entry: &[u8], (client, sequence): (u64, u64)) -> Value<Payload> {
    let entries = Entries::one(entry).unwrap();
    let crc = body_crc(&entries.parts(&mut Vec::new()));
    let header = BatchHeader { entries: 1, bytes: entries.body_bytes() as u32, crc, client, sequence, part: None };
    Value { origin: ballot(round), body: Body::Batch(Payload::new(header, Place::Closed(entries))) }
}

fn epoch_start(round: u64) -> Value<Payload> {
    Value { origin: ballot(round), body: Body::EpochStart }
}

fn accept(slot: u64, round: u64, value: Value<Payload>) -> Record<Payload> {
    Record::Accept { slot: Slot(slot), ballot: ballot(round), first: Slot(1), value }
}

fn push(log: &mut NewLog, uid: u128, chosen: u64, record: &Record<Payload>) {
    let header = record_header(uid, Slot(chosen), record);
    let body = match record {
        Record::Accept { value: Value { body: Body::Batch(p), .. }, .. }
        | Record::Learned { value: Value { body: Body::Batch(p), .. }, .. } => p.with_body(<[u8]>::to_vec),
        _ => Vec::new(),
    };
    log.push(&header, &body).unwrap();
}

/// A stopped node of three.
struct Room {
    config: Config,
    _dir: tempfile::TempDir,
}

/// Its directory, in use.
struct Open {
    directory: Directory,
    peers: Peers,
    config: Config,
    _lock: DirectoryLock,
}

fn disk(config: DiskConfig) -> Result<Box<dyn Disk>, DiskError> {
    Ok(Box::new(BlockingDisk::new(config)?))
}

impl Room {
    /// With two shards, and something of everything in its logs.
    fn new() -> Self {
        let room = Self::without_logs();
        let open = room.open(2);
        for shard in 0..2 {
            open.write_log(shard, |log| room.fill(shard, log));
        }
        room
    }

    fn without_logs() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let members = (1..=3).map(|node| Member { node, address: format!("127.0.0.1:{node}").parse().unwrap() });
        let mut config = Config::new(CLUSTER, 1, dir.path().join("node"), members.collect());
        (config.groups, config.shards, config.segment_mib) = (GROUPS, 2, 4);
        let meta = MetaV7::draw(CLUSTER, 1, (2, 2, 0), (false, false));
        Directory::init(&config.dir, &meta, vec![1, 2, 3]).unwrap();
        let room = Self { config, _dir: dir };
        let open = room.open(2);
        for shard in 0..2 {
            let me = open.directory.log_id(shard);
            for node in [2, 3] {
                let other = u128::from(node) * 100 + shard as u128;
                let said = Said { node, incarnation: node.into(), boot: 1, founder: true, replica: other, knows: me };
                open.peers.meet(&Me { shard, replica: me, founder: true }, &said, |_| Ok(())).unwrap();
            }
        }
        room
    }

    fn open(&self, shards: usize) -> Open {
        let config = Config { shards, first_shards: Some(2), ..self.config.clone() };
        let (directory, _lock) = Directory::open(&config.dir, CLUSTER, 1, (0, false)).unwrap();
        let owner =
            Owner { node: 1, incarnation: directory.incarnation(), founders: Some(directory.first()), shards: 2 };
        let peers = Peers::open(&config.dir, owner).unwrap();
        Open { directory, peers, config, _lock }
    }

    fn fill(&self, shard: usize, log: &mut NewLog) {
        let config = &self.config;
        for id in (1..=GROUPS).filter(|id| *id as usize % 2 == shard) {
            let uid = config.group_uid(id);
            if id == 5 {
                // It has taken over what others had trimmed, and promised more than it has accepted.
                let mut apply = ApplyState::default();
                apply.apply(Slot(1), &epoch_start(1));
                apply.apply(Slot(2), &batch(1, b"gone", (0, 0)));
                let summary = Summary { promised: ballot(9), chosen: Slot(2), apply, arrival: 0, accepted: vec![] };
                let (header, body) = summary.encode(uid);
                log.push(&header, &body).unwrap();
                push(log, uid, 2, &accept(3, 9, batch(1, b"here", (0, 0))));
                continue;
            }
            push(log, uid, 0, &Record::Promise { ballot: ballot(id) });
            push(log, uid, 0, &accept(1, id, epoch_start(id)));
            push(log, uid, 1, &accept(2, id, batch(id, format!("of {id}").as_bytes(), (0, 0))));
            push(log, uid, 1, &Record::Learned { slot: Slot(3), value: batch(id, b"learned", (0, 0)) });
            push(log, uid, 3, &accept(4, id, batch(id, b"accepted only", (0, 0))));
            push(log, uid, 3, &Record::Promise { ballot: ballot(100 + id) });
        }
        // The directory: two groups made, one of them dropped. Of it records are left.
        let uid = config.directory_uid(shard as u64);
        let orders = [
            Order::Make { id: 100 + shard as u64, phase_2: 0 },
            Order::Make { id: 102 + shard as u64, phase_2: 0 },
            Order::End { made: Slot(3) },
            Order::Forget { made: Slot(3) },
        ];
        push(log, uid, 0, &accept(1, 2, epoch_start(2)));
        for (slot, order) in (2..).zip(orders) {
            push(log, uid, slot - 1, &accept(slot, 2, batch(2, b"", order.header())));
        }
        push(log, uid, 5, &Record::Chosen);
        for slot in [2, 3] {
            let uid = config.made_uid(shard as u64, slot);
            push(log, uid, 0, &accept(1, 3, epoch_start(3)));
            push(log, uid, 1, &accept(2, 3, batch(3, b"of a made one", (0, 0))));
        }
        push(log, 77 + shard as u128, 0, &Record::Promise { ballot: ballot(3) });
    }
}

impl Open {
    fn write_log(&self, shard: usize, fill: impl FnOnce(&mut NewLog)) {
        let logs = self.directory.logs();
        let directory = meta::log_dir(&logs, shard);
        fs::create_dir(&directory).unwrap();
        let of = DiskConfig { directory: directory.clone(), segment_bytes: 4 * MIB, sync: SyncMode::Os };
        let mut log = NewLog::create(disk(of).unwrap(), shard, self.directory.log_id(shard), 4 * MIB).unwrap();
        fill(&mut log);
        log.flush().unwrap();
        meta::note_opened(&logs, shard).unwrap();
        fs::create_dir(directory.join("checkpoints")).unwrap();
        for id in (1..=GROUPS).filter(|id| *id as usize % self.directory.shards() == shard) {
            let name = crate::checkpoint::contents::whole_name(self.config.group_uid(id), 2);
            fs::write(directory.join("checkpoints").join(name), format!("of group {id}")).unwrap();
        }
        fs::write(directory.join("checkpoints/half.part"), b"half").unwrap();
    }

    fn rehome(&self, steps: usize) -> Result<(), RehomeError> {
        rehome_on(&DiskBackend::Blocking, steps, &self.config, &self.directory, &self.peers)
    }

    /// What counts of every group, by uid; that it is on its shard, and which replica it is.
    fn digests(&self) -> BTreeMap<u128, (Digest, u128)> {
        let mut recoverer = Recoverer::default();
        let shards = self.directory.shards();
        let homes = Config { shards, ..self.config.clone() }.homes();
        let mut on = HashMap::new();
        for shard in 0..shards {
            let log = self.directory.log_id(shard);
            let expect = Expect { shard: shard as u32, incarnation: log, segment_bytes: 4 * MIB };
            let dir = meta::log_dir(&self.directory.logs(), shard);
            recover(&mut FileSource::new(&dir), expect, &mut |place, _, header, body| {
                assert_eq!(*on.entry(header.uid).or_insert(shard), shard, "a group is on one shard");
                recoverer.note(place, header, body);
            })
            .unwrap();
        }
        let digest = |(uid, home): (&u128, &u64)| {
            let digest = recoverer.group(*uid)?.digest(*uid);
            let shard = homes.shard_of(*home);
            assert_eq!(on[uid], shard);
            Some((*uid, (digest, self.directory.names(&self.config, shard).of(*home))))
        };
        homes_of_groups(&self.config, &recoverer).iter().filter_map(digest).collect()
    }

    fn checkpoints(&self) -> BTreeMap<String, String> {
        let shards = (0..self.directory.shards()).map(|shard| meta::log_dir(&self.directory.logs(), shard));
        let files = shards.flat_map(|dir| fs::read_dir(dir.join("checkpoints")).unwrap()).map(|entry| entry.unwrap());
        let whole = files.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".checkpoint"));
        whole
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
            .collect()
    }
}

/// All files below a directory but `meta`, whose boot count goes on.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
            found.insert(entry.path(), Vec::new());
        } else if entry.file_name() != "meta" {
            found.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    found
}

#[test]
fn all_that_counts_is_the_same_in_any_number_of_shards() {
    let room = Room::new();
    let open = room.open(2);
    let (mut before, checkpoints) = (open.digests(), open.checkpoints());
    // Six groups, two directories, two groups made at run time.
    assert_eq!((before.len(), checkpoints.len()), (10, 6));
    let first = open.directory.first();
    let genesis = [open.peers.genesis(0), open.peers.genesis(1)];
    drop(open);
    for shards in [1, 3, 6, 2, 5, 2, 1] {
        let open = room.open(shards);
        let old = open.directory.snapshot();
        open.rehome(STEPS.len()).unwrap();
        drop(open);
        let open = room.open(shards);
        assert_eq!(open.directory.shards(), shards);
        assert_eq!((open.digests(), open.checkpoints()), (before, checkpoints.clone()));
        before = open.digests();
        assert_eq!([open.peers.genesis(0), open.peers.genesis(1)], genesis);
        assert_eq!(open.directory.first(), first);
        assert!(!(0..shards).any(|shard| open.directory.is_founder(shard)), "founders were met before");
        for ids in old.logs {
            assert!(open.directory.past_end(ids.log).is_some_and(|end| end > 0), "its end is remembered");
        }
        let eras: Vec<String> = fs::read_dir(&room.config.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("era-") || name.starts_with("shard-"))
            .collect();
        assert_eq!(eras, [format!("era-{}", open.directory.snapshot().era)], "nothing else is left");
    }
}

/// The groups of a log that was begun anew are other replicas, in every number of shards, and the others are what they were.
#[test]
fn a_log_begun_anew_makes_its_groups_other_replicas_for_ever() {
    let room = Room::new();
    let first = room.open(2).directory.first();
    room.open(3).rehome(STEPS.len()).unwrap();
    let open = room.open(3);
    assert_eq!(open.directory.rules(1).len(), 2, "the groups of this shard are two replicas");
    let new = open.directory.renew_replica(1).unwrap();
    assert_eq!(open.directory.rules(1), []);
    assert!(first.iter().all(|log| open.directory.past_end(*log).is_some()), "each has groups in other logs still");
    assert!(!meta::log_dir(&open.directory.logs(), 1).exists());
    let names = |open: &Open| -> Vec<u128> {
        let homes = open.config.homes();
        (0..12).map(|home| open.directory.names(&open.config, homes.shard_of(home)).of(home)).collect()
    };
    let expected: Vec<u128> = (0..12).map(|home| if home % 3 == 1 { new } else { first[home as usize % 2] }).collect();
    assert_eq!(names(&open), expected);
    // What came back from the others.
    open.write_log(1, |log| {
        for id in [1, 4] {
            push(log, open.config.group_uid(id), 0, &accept(1, 200, epoch_start(200)));
        }
    });
    drop(open);
    for shards in [1, 2, 4, 3] {
        room.open(shards).rehome(STEPS.len()).unwrap();
        let open = room.open(shards);
        assert_eq!(names(&open), expected);
        assert_eq!(open.digests()[&open.config.group_uid(4)].1, new);
    }
    let open = room.open(3);
    open.directory.renew_replica(0).unwrap();
    open.directory.renew_replica(2).unwrap();
    assert!(first.iter().all(|log| open.directory.past_end(*log).is_some()), "two divides no three");
    drop(open);
    room.open(1).rehome(STEPS.len()).unwrap();
    let open = room.open(1);
    open.directory.renew_replica(0).unwrap();
    assert!(first.iter().all(|log| open.directory.past_end(*log).is_none()), "nobody is what they were");
    let names = fs::read_dir(&room.config.dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains(".damaged-")).count(), 4, "what was set aside stays");
}

/// What a crash leaves behind each step: the old era, or the new one, and the groups are the same in both.
#[test]
fn a_rehoming_that_is_broken_off_is_done_or_not() {
    for steps in 0..=STEPS.len() {
        let room = Room::new();
        let open = room.open(3);
        let before = open.digests();
        let old = files(&room.config.dir);
        open.rehome(steps).unwrap();
        let decided = steps == STEPS.len();
        if !decided {
            let now = files(&room.config.dir);
            assert!(
                old.iter().all(|(path, bytes)| now.get(path) == Some(bytes)),
                "step {steps} changes what was there"
            );
        }
        drop(open);
        let open = room.open(3);
        assert_eq!(open.directory.shards(), if decided { 3 } else { 2 });
        assert_eq!(open.digests(), before, "after {steps} steps");
        if !decided {
            assert_eq!(files(&room.config.dir), old, "what was begun is thrown away");
            open.rehome(STEPS.len()).unwrap();
            drop(open);
            assert_eq!(room.open(3).digests(), before);
        }
    }
}

/// A store whose write or preparation of this number, counted over all disks, finds the disk full.
fn full_at(number: i64) -> FailingStore {
    let left = AtomicI64::new(number);
    FailingStore::new(Arc::new(DiskBackend::Blocking), move |op| {
        let counts = matches!(op, DiskOp::Write { .. } | DiskOp::Prepare { .. });
        let is_it = counts && left.fetch_sub(1, Relaxed) == 1;
        is_it.then(|| DiskError::from_io("write", "a segment", &ErrorKind::StorageFull.into()))
    })
}

#[test]
fn a_disk_that_fails_or_fills_leaves_the_old_era() {
    let room = Room::new();
    let open = room.open(3);
    let (before, old) = (open.digests(), files(&room.config.dir));
    let mut failures = 0;
    for op in 1.. {
        match rehome_on(&full_at(op), STEPS.len(), &open.config, &open.directory, &open.peers) {
            Ok(()) => break,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("full") && text.contains("`shards = 2` the node starts as before"), "{text}");
                assert_eq!(files(&room.config.dir), old, "operation {op}");
                assert_eq!(open.directory.shards(), 2);
                failures += 1;
            }
        }
    }
    assert!(failures >= 9, "of each log a segment, its header and a frame: {failures}");
    drop(open);
    assert_eq!(room.open(3).digests(), before);
}

/// A crash behind the switch: the start deletes the old era.
#[test]
fn what_was_decided_is_finished_by_the_next_start() {
    let room = Room::new();
    let open = room.open(3);
    let before = open.digests();
    let rehoming = Rehoming::examine(&DiskBackend::Blocking, &open.config, &open.directory, &open.peers).unwrap();
    STEPS.iter().try_for_each(|step| step(&rehoming)).unwrap();
    assert!(room.config.dir.join("shard-0").is_dir());
    drop(rehoming);
    drop(open);
    let open = room.open(3);
    assert_eq!((open.directory.shards(), open.digests()), (3, before));
    assert!(!room.config.dir.join("shard-0").exists() && !room.config.dir.join("shard-1.opened").exists());
}

/// `meta` cannot be written, or perhaps it was: both eras stay until a start has read which it is.
#[test]
fn a_decision_that_fails_takes_nothing_away() {
    let room = Room::new();
    let open = room.open(3);
    let before = open.digests();
    fs::create_dir(room.config.dir.join("meta.new")).unwrap();
    let error = open.rehome(STEPS.len()).unwrap_err().to_string();
    assert!(error.contains("start the node again, with either number"), "{error}");
    let next = meta::era_dir(&room.config.dir, 1);
    assert!(next.is_dir() && room.config.dir.join("shard-0").is_dir() && room.config.dir.join("shard-1").is_dir());
    drop(open);
    fs::remove_dir(room.config.dir.join("meta.new")).unwrap();
    let open = room.open(3);
    assert_eq!((open.directory.shards(), open.digests(), next.exists()), (2, before, false));
}

/// Not even the marks are left that would tell that there were logs.
#[test]
fn an_era_that_is_gone_is_no_new_one() {
    let room = Room::new();
    room.open(3).rehome(STEPS.len()).unwrap();
    fs::remove_dir_all(room.config.dir.join("era-1")).unwrap();
    let error = Directory::open(&room.config.dir, CLUSTER, 1, (0, false)).unwrap_err().to_string();
    assert!(error.contains("era-1 is damaged or gone"), "{error}");
}

#[test]
fn what_is_not_sound_is_not_copied() {
    let check = |spoil: &dyn Fn(&Room, &Open), hint: &str| {
        let room = Room::new();
        let open = room.open(1);
        spoil(&room, &open);
        let old = files(&room.config.dir);
        let error = open.rehome(STEPS.len()).unwrap_err().to_string();
        assert!(error.contains(hint) && error.contains("Nothing was changed"), "{error} should say {hint}");
        assert_eq!(files(&room.config.dir), old);
        assert_eq!(open.directory.shards(), 2);
    };
    let again = "Start the node with `shards = 2` first";
    check(&|room, _| meta::mark_suspect(&room.config.dir, 1, "a peer has seen more").unwrap(), "a peer has seen more");
    check(&|room, _| meta::mark_suspect(&room.config.dir, 1, "a peer has seen more").unwrap(), again);
    check(&|room, _| fs::remove_dir_all(room.config.dir.join("shard-0")).unwrap(), "is lost");
    let segment = |room: &Room| room.config.dir.join("shard-1").join(synod_wal::segment_name(1));
    // The log ends with two frames, so that the first one is known as durable.
    let rot = |room: &Room, _: &Open| {
        let mut bytes = fs::read(segment(room)).unwrap();
        let at = bytes.windows(4).position(|window| window == b"of 1").unwrap();
        bytes[at] ^= 1;
        fs::write(segment(room), bytes).unwrap();
    };
    check(
        &|room, open| {
            fs::remove_dir_all(room.config.dir.join("shard-1")).unwrap();
            open.write_log(1, |log| {
                room.fill(1, log);
                log.flush().unwrap();
                for round in [200, 201, 202] {
                    push(log, room.config.group_uid(1), 0, &Record::Promise { ballot: ballot(round) });
                    log.flush().unwrap();
                }
            });
            rot(room, open);
        },
        again,
    );
    check(
        &|room, _| fs::rename(segment(room), room.config.dir.join("shard-0").join(synod_wal::segment_name(2))).unwrap(),
        "mixed up",
    );
    let strange = |room: &Room, open: &Open| {
        fs::remove_dir_all(room.config.dir.join("shard-0")).unwrap();
        open.write_log(0, |log| {
            let header = RecordHeader { kind: kind::PROMISE, version: 999, uid: 5, ..RecordHeader::default() };
            log.push(&header, &[]).unwrap();
        });
    };
    check(&strange, "cannot read");
    let hole = |room: &Room, open: &Open| {
        fs::remove_dir_all(room.config.dir.join("shard-0")).unwrap();
        open.write_log(0, |log| push(log, room.config.group_uid(2), 0, &accept(2, 1, epoch_start(1))));
    };
    check(&hole, "slot 1 of group");
}

#[test]
fn who_has_not_met_the_others_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room::without_logs();
    let config = Config { dir: dir.path().join("other"), ..room.config.clone() };
    Directory::init(&config.dir, &MetaV7::draw(CLUSTER, 1, (2, 2, 0), (false, false)), vec![1, 2, 3]).unwrap();
    let room = Room { config, _dir: dir };
    let error = room.open(3).rehome(STEPS.len()).unwrap_err().to_string();
    assert!(error.contains("[2, 3] were not met yet: start all nodes with `shards = 2` once"), "{error}");
}

#[test]
fn logs_that_were_never_opened_have_nothing_to_copy() {
    let room = Room::without_logs();
    room.open(3).rehome(STEPS.len()).unwrap();
    let open = room.open(3);
    assert_eq!((open.directory.shards(), open.digests().len()), (3, 0));
}

#[test]
fn more_earlier_logs_than_a_handshake_can_name_are_refused() {
    let meta = MetaV7::draw(CLUSTER, 1, (200, 200, 0), (false, false));
    check_rules(&meta, 2).unwrap();
    check_rules(&meta, 200).unwrap();
    let error = check_rules(&meta, 1).unwrap_err().to_string();
    assert!(error.contains("200 earlier logs") && error.contains("more shards"), "{error}");
}

/// Each segment but the first begins with what stands before it, so that any prefix of them can go.
#[test]
fn new_segments_begin_with_summaries() {
    let room = Room::without_logs();
    let open = room.open(1);
    let (one, two) = (room.config.group_uid(1), room.config.group_uid(2));
    let long = vec![7; 200 << 10];
    for shard in 0..2 {
        open.write_log(shard, |log| {
            let (id, uid) = if shard == 1 { (1, one) } else { (2, two) };
            push(log, uid, 0, &Record::Promise { ballot: ballot(50 + id) });
            push(log, uid, 0, &accept(1, id, epoch_start(id)));
            for slot in 2..40 {
                push(log, uid, slot - 2, &accept(slot, id, batch(id, &long, (0, 0))));
            }
        });
    }
    let before = open.digests();
    open.rehome(STEPS.len()).unwrap();
    assert_eq!(open.digests(), before);
    let mut heads: BTreeMap<u64, Vec<(u8, u128)>> = BTreeMap::new();
    let expect = Expect { shard: 0, incarnation: open.directory.log_id(0), segment_bytes: 4 * MIB };
    let dir = meta::log_dir(&open.directory.logs(), 0);
    recover(&mut FileSource::new(&dir), expect, &mut |place, _, header, _| {
        heads.entry(place.generation).or_default().push((header.kind, header.uid));
    })
    .unwrap();
    assert!(heads.len() >= 4, "{heads:?}");
    for (generation, records) in heads.iter().skip(1).filter(|(_, records)| !records.is_empty()) {
        let both = heads.range(..generation).any(|(_, before)| before.iter().any(|(_, uid)| *uid == one));
        let wanted = if both { vec![(kind::SUMMARY, two), (kind::SUMMARY, one)] } else { vec![(kind::SUMMARY, two)] };
        assert_eq!(records[..wanted.len()], wanted, "segment {generation}");
    }
}
