use proptest::prelude::*;

use super::*;

fn meta() -> MetaV7 {
    MetaV7 {
        cluster: 5,
        node: 2,
        incarnation: 9,
        boot: 0,
        phase_2: 2,
        witness: false,
        era: 0,
        logs: vec![LogIds::new(11), LogIds::new(12)],
        first: vec![11, 12],
        renewed: Vec::new(),
        past: Vec::new(),
        replacement: false,
        moved: Vec::new(),
    }
}

fn open(path: &Path) -> Result<(Directory, DirectoryLock), DirectoryError> {
    Directory::open(path, 5, 2, (2, false))
}

#[test]
fn a_directory_is_one_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node");
    assert!(matches!(open(&path), Err(DirectoryError::NotInitialised(_))));
    Directory::init(&path, &meta(), vec![1]).unwrap();
    assert!(matches!(Directory::init(&path, &meta(), vec![1]), Err(DirectoryError::NotEmpty(_))));
    let (first, lock) = open(&path).unwrap();
    assert_eq!((first.boot(), first.incarnation(), first.log_id(1)), (1, 9, 12));
    assert!(first.is_founder(0));
    assert!(matches!(open(&path), Err(DirectoryError::InUse(_))));
    drop(lock);
    assert!(matches!(Directory::open(&path, 6, 2, (2, false)), Err(DirectoryError::Foreign { .. })));
    assert!(matches!(Directory::open(&path, 5, 3, (2, false)), Err(DirectoryError::Foreign { .. })));
    assert!(matches!(look_into(&path, (5, Some(2), 1)), Err(DirectoryError::Foreign { .. })));
    let other = Directory::open(&path, 5, 2, (0, false)).unwrap_err();
    assert!(matches!(other, DirectoryError::Quorum { theirs: 2, ours: 0, .. }), "{other}");
    assert_eq!(open(&path).unwrap().0.boot(), 2);
}

#[test]
fn all_ids_of_a_new_directory_differ() {
    let (a, b) = (MetaV7::draw(5, 2, (3, 3, 0), (false, false)), MetaV7::draw(5, 2, (3, 3, 0), (false, true)));
    let ids = |meta: &MetaV7| meta.logs.iter().map(|log| log.log).chain([meta.incarnation]).collect::<Vec<_>>();
    let all: std::collections::BTreeSet<u128> = ids(&a).into_iter().chain(ids(&b)).collect();
    assert_eq!(all.len(), 8);
    assert!(!all.contains(&0));
}

#[test]
fn a_replacement_founds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    Directory::init(dir.path(), &MetaV7 { replacement: true, ..meta() }, vec![]).unwrap();
    let (directory, _lock) = open(dir.path()).unwrap();
    assert!(directory.is_replacement() && !directory.is_founder(0));
}

/// Makes shard 0 a log with something in it, opened and marked.
fn with_a_log(path: &Path) {
    Directory::init(path, &meta(), vec![1]).unwrap();
    fs::create_dir(path.join("shard-0")).unwrap();
    fs::write(path.join("shard-0/1"), b"old").unwrap();
    note_opened(path, 0).unwrap();
    mark_suspect(path, 0, "its votes are unsure").unwrap();
    assert_eq!(suspect_reason(path, 0).unwrap().as_deref(), Some("its votes are unsure"));
}

fn check_renewed(path: &Path) {
    let (directory, _lock) = open(path).unwrap();
    let meta_now = directory.snapshot();
    let ids = meta_now.logs[0];
    assert!(meta_now.first[0] == 11 && ids.log != 11 && ids.aside == 0, "{ids:?}");
    assert_eq!([0, 1, 2].map(|home| meta_now.replica_at(home)), [ids.log, 12, ids.log]);
    assert_eq!((directory.rules(0), directory.rules(1)), (Vec::new(), Vec::new()), "each log is one replica");
    assert!(!directory.is_founder(0) && directory.is_founder(1));
    assert_eq!(fs::read(path.join("shard-0.damaged-000000000000000b/1")).unwrap(), b"old");
    assert!(!path.join("shard-0").exists());
    assert!(!was_opened(path, 0).unwrap() && suspect_reason(path, 0).unwrap().is_none());
    assert_eq!(meta_now.logs[1], meta().logs[1]);
}

#[test]
fn a_log_is_set_aside_whole_whatever_crashes() {
    for steps in 1..=RENEWAL.len() {
        let dir = tempfile::tempdir().unwrap();
        with_a_log(dir.path());
        let mut meta = read_meta(dir.path()).unwrap();
        RENEWAL[..steps].iter().for_each(|step| step(dir.path(), &mut meta, 0).unwrap());
        let renewed = read_meta(dir.path()).unwrap().logs[0].log;
        check_renewed(dir.path());
        assert_eq!(read_meta(dir.path()).unwrap().logs[0].log, renewed, "the id was drawn once");
    }
}

#[test]
fn a_new_log_is_not_set_aside_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    with_a_log(dir.path());
    let renewed = open(dir.path()).unwrap().0.renew_replica(0).unwrap();
    check_renewed(dir.path());
    fs::create_dir(dir.path().join("shard-0")).unwrap();
    fs::write(dir.path().join("shard-0/1"), b"new").unwrap();
    let (directory, _lock) = open(dir.path()).unwrap();
    assert_eq!(directory.log_id(0), renewed);
    assert_eq!(fs::read(dir.path().join("shard-0/1")).unwrap(), b"new");
    // And once more: both logs that were set aside stay.
    assert_ne!(directory.renew_replica(0).unwrap(), renewed);
    let aside = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(".damaged-");
    assert_eq!(fs::read_dir(dir.path()).unwrap().map(Result::unwrap).filter(aside).count(), 2);
}

#[test]
fn a_log_that_is_gone_is_renewed_too() {
    let dir = tempfile::tempdir().unwrap();
    Directory::init(dir.path(), &meta(), vec![1]).unwrap();
    let (directory, _lock) = open(dir.path()).unwrap();
    assert_ne!(directory.renew_replica(1).unwrap(), 12);
    assert_eq!(directory.snapshot().logs[1].aside, 0);
}

#[test]
fn every_bit_of_the_meta_file_counts() {
    let bytes = encode_meta(&meta());
    assert_eq!(decode_meta(&bytes), Ok(meta()));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_meta(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn the_head_of_the_meta_file_is_golden() {
    assert_eq!(encode_meta(&meta())[..8], *b"SYNODMET");
    assert_eq!(encode_meta(&meta())[12..16], [7, 0, 0, 0]);
}

#[test]
fn the_format_of_an_older_release_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Directory::init(dir.path(), &meta(), vec![1]).unwrap();
    // The first format had zeros where the number of the format is now.
    fs::write(dir.path().join(META), sealed::seal(MAGIC, 0, &[1; 64])).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, DirectoryError::Format(_)) && error.to_string().contains("release that wrote it"));
}

proptest! {
    #[test]
    fn random_meta_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), sealed: bool) {
        let bytes = if sealed { sealed::seal(MAGIC, FORMAT, &bytes) } else { bytes };
        let _ = decode_meta(&bytes);
    }
}
