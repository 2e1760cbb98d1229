use std::fs;
use std::path::{Path, PathBuf};

use super::super::contents::whole_name;
use super::super::files::SystemFiles;
use super::super::format::CHUNK_BYTES;
use super::*;
use crate::machine::{CommittedBatch, MachineError};

const CLUSTER: u128 = 3;
const UID: u128 = 7;

/// A machine that holds the bytes of a checkpoint.
#[derive(Default)]
struct Holds(Vec<u8>);

impl StateMachine for Holds {
    fn durable_index(&self) -> u64 {
        0
    }

    fn apply(&mut self, _: &CommittedBatch<'_>) -> Result<(), MachineError> {
        Ok(())
    }

    fn restore(&mut self, _: u64, input: &mut dyn Read) -> Result<(), MachineError> {
        self.0.clear();
        input.read_to_end(&mut self.0)?;
        Ok(())
    }
}

fn store(path: &Path) -> Store {
    Store::open(Box::new(SystemFiles::open(path.to_owned()).unwrap()), CLUSTER).unwrap()
}

/// The state of a group whose slots up to `slot` were batches of one entry.
fn state(slot: u64) -> ApplyState {
    let mut state = ApplyState::default();
    (state.slot, state.next_index) = (Slot(slot), slot + 1);
    state
}

fn data(slot: u64) -> Vec<u8> {
    (0..5 * CHUNK_BYTES + 100).map(|at| (at as u64 * slot / 8) as u8).collect()
}

/// The answer to an operation.
fn answer(store: &mut Store, op: StoreOp) -> StoreDone {
    let mut answers = Vec::new();
    store.carry_out([op], |done| answers.push(done));
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn write(store: &mut Store, uid: u128, slot: u64) -> Kept {
    let op = StoreOp::Write { group: 0, uid, state: state(slot), view: Box::new(data(slot)) };
    match answer(store, op) {
        StoreDone::Written { result, .. } => result.unwrap(),
        _ => panic!("a write is answered"),
    }
}

fn restored(store: &mut Store, slot: u64) -> Result<Vec<u8>, String> {
    let mut machine = Holds::default();
    let index = store.restore(UID, slot, &mut machine)?;
    assert_eq!(index, slot);
    Ok(machine.0)
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Copies a checkpoint from one store to another, from byte `from` up to byte `to`, altered on its way.
fn send(from: &mut Store, to: &mut Store, kept: &Kept, range: std::ops::Range<u64>, alter: impl Fn(u64, &mut Vec<u8>)) {
    let part = Part { uid: UID, slot: kept.slot().0, id: kept.id };
    let mut offset = range.start;
    while offset < range.end {
        let bytes = (range.end - offset).min(10_000) as u32;
        let read = StoreOp::Read { request: 1, uid: UID, slot: part.slot, offset, bytes };
        let StoreDone::Read { result, .. } = answer(from, read) else { panic!("a read is answered") };
        let mut bytes = result.unwrap();
        alter(offset, &mut bytes);
        let append = StoreOp::Append { group: 0, part, offset, bytes };
        let StoreDone::Appended { result, .. } = answer(to, append) else { panic!("it is answered") };
        offset = result.unwrap();
    }
}

fn begin(store: &mut Store, kept: &Kept) -> u64 {
    let part = Part { uid: UID, slot: kept.slot().0, id: kept.id };
    match answer(store, StoreOp::Begin { group: 0, part }) {
        StoreDone::Begun { result, .. } => result.unwrap(),
        _ => panic!("it is answered"),
    }
}

fn finish(store: &mut Store, kept: &Kept) -> Result<Kept, String> {
    let part = Part { uid: UID, slot: kept.slot().0, id: kept.id };
    match answer(store, StoreOp::Finish { group: 0, part }) {
        StoreDone::Finished { result, .. } => result,
        _ => panic!("it is answered"),
    }
}

#[test]
fn a_checkpoint_comes_back_after_a_restart_and_leftovers_go() {
    let dir = tempfile::tempdir().unwrap();
    let kept = write(&mut store(dir.path()), UID, 5);
    fs::write(dir.path().join("half.checkpoint.tmp"), b"half").unwrap();
    let mut again = store(dir.path());
    assert_eq!(again.newest(UID).unwrap(), Some(kept));
    assert_eq!(restored(&mut again, 5).unwrap(), data(5));
    assert_eq!(files(dir.path()).len(), 1);
    assert_eq!(again.newest(UID + 1).unwrap(), None);
}

#[test]
fn an_older_checkpoint_is_taken_when_the_newest_is_damaged_or_foreign() {
    for spoil in [
        |file: &Path, _: &Path| {
            let mut bytes = fs::read(file).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            fs::write(file, bytes).unwrap();
        },
        |file: &Path, _: &Path| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
        },
        // That of another group under this one's name.
        |file: &Path, other: &Path| assert!(fs::copy(other, file).unwrap() > 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path());
        let older = write(&mut store, UID, 5);
        write(&mut store, UID, 9);
        write(&mut store, UID + 1, 9);
        let name = |uid, slot| dir.path().join(whole_name(uid, slot));
        spoil(&name(UID, 9), &name(UID + 1, 9));
        assert_eq!(store.newest(UID).unwrap(), Some(older));
        assert_eq!(files(dir.path()), [name(UID, 5), name(UID + 1, 9)]);
    }
}

#[test]
fn a_fetch_goes_on_after_a_crash_in_the_middle() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = store(there.path());
    let kept = write(&mut server, UID, 5);
    let mut fetching = store(here.path());
    assert_eq!(begin(&mut fetching, &kept), 0);
    send(&mut server, &mut fetching, &kept, 0..100_000, |_, _| ());
    // What a crash has left behind the last whole chunk makes no sense.
    let part = files(here.path()).pop().unwrap();
    let mut bytes = fs::read(&part).unwrap();
    bytes[90_000..].fill(0);
    fs::write(&part, bytes).unwrap();
    let mut fetching = store(here.path());
    let there = begin(&mut fetching, &kept);
    assert!((CHUNK_BYTES as u64..90_000).contains(&there), "{there}");
    send(&mut server, &mut fetching, &kept, there..kept.bytes, |_, _| ());
    assert_eq!(finish(&mut fetching, &kept).unwrap(), kept);
    assert_eq!(restored(&mut fetching, 5).unwrap(), data(5));
}

#[test]
fn a_fetch_with_an_altered_or_a_missing_chunk_is_refused_and_begins_anew() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut server, mut fetching) = (store(there.path()), store(here.path()));
    let kept = write(&mut server, UID, 5);
    begin(&mut fetching, &kept);
    send(&mut server, &mut fetching, &kept, 0..kept.bytes, |offset, bytes| {
        if offset == 70_000 {
            bytes[17] ^= 4;
        }
    });
    let error = finish(&mut fetching, &kept).unwrap_err();
    assert!(error.contains("chunk 1 is damaged"), "{error}");
    assert!(files(here.path()).is_empty());
    begin(&mut fetching, &kept);
    send(&mut server, &mut fetching, &kept, 0..kept.bytes - 40, |_, _| ());
    let error = finish(&mut fetching, &kept).unwrap_err();
    assert!(error.contains("cut off"), "{error}");
    begin(&mut fetching, &kept);
    send(&mut server, &mut fetching, &kept, 0..kept.bytes, |_, _| ());
    finish(&mut fetching, &kept).unwrap();
}

/// However much of it has come: what is not whole is not taken over, and leaves nothing behind.
#[test]
fn truncated_snapshot_installed() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut server, mut fetching) = (store(there.path()), store(here.path()));
    let kept = write(&mut server, UID, 5);
    let chunk = CHUNK_BYTES as u64;
    for bytes in [0, 1, 100, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk, kept.bytes - 1] {
        begin(&mut fetching, &kept);
        send(&mut server, &mut fetching, &kept, 0..bytes, |_, _| ());
        let error = finish(&mut fetching, &kept).unwrap_err();
        assert!(
            ["cut off", "damaged", "no checkpoint"].iter().any(|word| error.contains(word)),
            "{bytes} bytes: {error}"
        );
        assert_eq!(fetching.newest(UID).unwrap(), None, "{bytes} bytes");
        assert!(restored(&mut fetching, 5).is_err());
        // Nor does a start find it.
        assert_eq!(store(here.path()).newest(UID).unwrap(), None, "{bytes} bytes");
    }
    begin(&mut fetching, &kept);
    send(&mut server, &mut fetching, &kept, 0..kept.bytes, |_, _| ());
    assert_eq!(finish(&mut fetching, &kept).unwrap(), kept);
    assert_eq!(restored(&mut fetching, 5).unwrap(), data(5));
}

#[test]
fn a_fetched_checkpoint_of_another_group_or_slot_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut server, mut fetching) = (store(there.path()), store(here.path()));
    write(&mut server, UID + 1, 5);
    let kept = write(&mut server, UID, 5);
    fs::copy(there.path().join(whole_name(UID + 1, 5)), there.path().join(whole_name(UID, 5))).unwrap();
    begin(&mut fetching, &kept);
    let bytes = fs::read(there.path().join(whole_name(UID, 5))).unwrap();
    let part = Part { uid: UID, slot: 5, id: kept.id };
    answer(&mut fetching, StoreOp::Append { group: 0, part, offset: 0, bytes });
    let error = finish(&mut fetching, &kept).unwrap_err();
    assert!(error.contains("another group"), "{error}");

    let other = write(&mut server, UID, 6);
    let lying = Kept { id: other.id + 1, ..other.clone() };
    begin(&mut fetching, &lying);
    let bytes = fs::read(there.path().join(whole_name(UID, 6))).unwrap();
    let part = Part { uid: UID, slot: 6, id: lying.id };
    answer(&mut fetching, StoreOp::Append { group: 0, part, offset: 0, bytes });
    let error = finish(&mut fetching, &lying).unwrap_err();
    assert!(error.contains("not the one that was offered"), "{error}");
}

#[test]
fn what_has_rotted_is_not_given_to_a_peer() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(dir.path());
    let kept = write(&mut store, UID, 5);
    let file = files(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let read = StoreOp::Read { request: 1, uid: UID, slot: kept.slot().0, offset: 0, bytes: 100 };
    let StoreDone::Read { result, .. } = answer(&mut store, read) else { panic!("a read is answered") };
    assert!(result.unwrap_err().contains("damaged"));
}

#[test]
fn checkpoints_written_together_fail_one_by_one() {
    /// A view that cannot be written.
    struct Fails;
    impl Checkpoint for Fails {
        fn write(self: Box<Self>, _: &mut dyn io::Write) -> io::Result<()> {
            Err(io::Error::other("the machine is broken"))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(dir.path());
    write(&mut store, UID, 3);
    let op = |group: u32, slot, view: Box<dyn Checkpoint>| {
        let uid = UID + u128::from(group);
        StoreOp::Write { group, uid, state: state(slot), view }
    };
    let ops = [
        op(0, 5, Box::new(data(5))),
        op(1, 6, Box::new(Fails)),
        StoreOp::Remove { uid: UID, slot: 3 },
        op(2, 7, Box::new(data(7))),
    ];
    let mut told = Vec::new();
    store.carry_out(ops, |done| match done {
        StoreDone::Written { group, result } => told.push((group, result.map(|kept| kept.slot().0).ok())),
        _ => panic!("only writes are answered"),
    });
    assert_eq!(told, [(0, Some(5)), (1, None), (2, Some(7))]);
    let names = [whole_name(UID, 5), whole_name(UID + 2, 7)];
    assert_eq!(files(dir.path()), names.map(|name| dir.path().join(name)), "and no leftovers");
    assert_eq!(restored(&mut store, 5).unwrap(), data(5));
}

/// Writes small checkpoints of some groups at a slot together.
fn write_small(store: &mut Store, uids: impl IntoIterator<Item = u128>, slot: u64) {
    let view = |uid: u128| Box::new(vec![uid as u8; 500]);
    let ops = uids.into_iter().map(|uid| StoreOp::Write { group: 0, uid, state: state(slot), view: view(uid) });
    store.carry_out(ops.collect::<Vec<_>>(), |done| match done {
        StoreDone::Written { result, .. } => drop(result.unwrap()),
        _ => panic!("only writes are answered"),
    });
}

fn remove(store: &mut Store, uid: u128, slot: u64) {
    store.carry_out([StoreOp::Remove { uid, slot }], |_| panic!("it is not answered"));
}

fn check_small(store: &mut Store, uid: u128, slot: u64) {
    let mut machine = Holds::default();
    assert_eq!(store.restore(uid, slot, &mut machine).unwrap(), slot);
    assert_eq!(machine.0, [uid as u8; 500]);
}

#[test]
fn small_checkpoints_that_are_written_together_share_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(dir.path());
    write_small(&mut store, 1..=20, 5);
    assert_eq!(files(dir.path()).len(), 1);
    for again in [false, true] {
        if again {
            store = super::tests::store(dir.path());
        }
        for uid in 1..=20 {
            assert_eq!(store.newest(uid).unwrap().unwrap().slot(), Slot(5));
            check_small(&mut store, uid, 5);
        }
    }
    // A peer gets no byte of another one's.
    let kept = store.newest(3).unwrap().unwrap();
    let read = StoreOp::Read { request: 1, uid: 3, slot: 5, offset: 0, bytes: 1 << 20 };
    let StoreDone::Read { result, .. } = answer(&mut store, read) else { panic!("a read is answered") };
    assert_eq!(result.unwrap().len() as u64, kept.bytes);
    (1..=19).for_each(|uid| remove(&mut store, uid, 5));
    check_small(&mut store, 20, 5);
    remove(&mut store, 20, 5);
    assert!(files(dir.path()).is_empty(), "it goes with the last of them");
}

#[test]
fn damage_in_a_pack_costs_one_group_its_newest_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(dir.path());
    write_small(&mut store, 1..=5, 5);
    write_small(&mut store, 1..=5, 9);
    let pack = files(dir.path()).pop().unwrap();
    let bytes = fs::read(&pack).unwrap();
    for at in (0..bytes.len()).step_by(37) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&pack, &damaged).unwrap();
        let mut looking = Store::look(Box::new(SystemFiles::look(dir.path().to_owned())), CLUSTER).unwrap();
        let mut lost = 0;
        for uid in 1..=5 {
            let intact = looking.slots(uid).into_iter().find(|slot| looking.check(uid, *slot).is_ok());
            lost += usize::from(intact == Some(5));
            assert!(intact >= Some(5));
        }
        assert!(lost <= 1, "byte {at} costs {lost}");
    }
}

#[test]
fn a_group_that_is_idle_keeps_no_pack_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(dir.path());
    write_small(&mut store, 1..=20, 1);
    for slot in 2..30 {
        // Group 20 writes no more, and the others keep two.
        write_small(&mut store, 1..=19, slot);
        if slot > 2 {
            (1..=19).for_each(|uid| remove(&mut store, uid, slot - 2));
        }
        check_small(&mut store, 20, 1);
        assert!(files(dir.path()).len() <= 4, "{:?}", files(dir.path()));
    }
    let mut store = super::tests::store(dir.path());
    check_small(&mut store, 20, 1);
    // As a shard's start does: older ones go.
    for uid in 1..=20 {
        assert_eq!(store.newest(uid).unwrap().unwrap().slot(), Slot(if uid == 20 { 1 } else { 29 }));
    }
    store.remove_all_of(|uid| uid == 20).unwrap();
    assert_eq!(store.newest(20).unwrap(), None);
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn an_old_pack_that_cannot_be_read_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(dir.path());
    write_small(&mut store, 1..=20, 1);
    let old = files(dir.path()).pop().unwrap();
    write_small(&mut store, 1..=19, 2);
    (1..=19).for_each(|uid| remove(&mut store, uid, 1));
    // What is left in it would move into the next one.
    fs::remove_file(old).unwrap();
    write_small(&mut store, 1..=19, 3);
    (1..=19).for_each(|uid| check_small(&mut store, uid, 3));
    assert_eq!(super::tests::store(dir.path()).newest(20).unwrap(), None);
}

#[test]
fn a_pack_that_cannot_be_written_fails_its_checkpoints_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(dir.path());
    write_small(&mut store, 1..=3, 1);
    // Something is in the way of its temporary name.
    fs::create_dir(dir.path().join("0000000000000001.pack.tmp")).unwrap();
    let op = StoreOp::Write { group: 0, uid: 1, state: state(2), view: Box::new(vec![0; 10]) };
    let StoreDone::Written { result, .. } = answer(&mut store, op) else { panic!("a write is answered") };
    result.unwrap_err();
    fs::remove_dir(dir.path().join("0000000000000001.pack.tmp")).unwrap();
    assert_eq!(store.newest(1).unwrap().unwrap().slot(), Slot(1));
    write_small(&mut store, [1], 2);
    check_small(&mut store, 1, 2);
}
