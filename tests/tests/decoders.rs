//! Every decoder, in the profile that checks arithmetic: all corpora again, and some random inputs. And that the fuzzer can
//! fail.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use synod_sim::fuzz::{Found, Memory, TARGETS, Target, hunt, shape, shorten};

const EXECS: u64 = 20_000;

fn held(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).bytes_max
}

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let dir = package().join("corpus").join(target.name);
    names(&dir).iter().map(|name| fs::read(dir.join(name)).unwrap()).collect()
}

#[test]
fn each_target_has_a_corpus_and_a_program() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "names are different");
    assert_eq!(names(&package().join("corpus")), targets);
    let programs = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&package().join("fuzz_targets")), programs);
    for name in targets {
        let program = fs::read_to_string(package().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(program.contains(&format!("check(\"{name}\"")), "{name}.rs fuzzes another target");
    }
}

#[test]
fn every_corpus_is_decoded_without_a_fault_and_reaches_both_answers() {
    for target in &TARGETS {
        let corpus = corpus(target);
        let check = |input: &Vec<u8>| {
            assert!(input.len() <= 512, "an input of {} bytes for {}", input.len(), target.name);
            target.check(input, held).unwrap_or_else(|failure| panic!("{}: {failure}: {input:02x?}", target.name))
        };
        let taken = corpus.iter().filter(|input| check(input)).count();
        assert!(0 < taken && taken < corpus.len(), "{}: {taken} of {} are taken", target.name, corpus.len());
    }
}

#[test]
fn random_inputs_break_no_decoder() {
    // A thread for each half: the panics that are looked for would come from either.
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for target in TARGETS.iter().skip(half).step_by(2) {
                    let progress = hunt(target, &corpus(target), 1, 0..EXECS, held)
                        .unwrap_or_else(|found| panic!("{}: {}: {:02x?}", target.name, found.failure, found.input));
                    assert_eq!(progress.execs, EXECS);
                    // Without both, the target would not get behind the checksums, or only repeat its specimens.
                    let some = EXECS / 100..EXECS * 9 / 10;
                    assert!(some.contains(&progress.taken), "{}: {progress:?}", target.name);
                }
            });
        }
    });
}

/// Takes four bytes that name a length, and trusts them.
fn trusts_a_length(bytes: &[u8]) -> bool {
    let Some(len) = bytes.first_chunk::<4>() else { return false };
    let len = u32::from_le_bytes(*len) & 0xff_ffff;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(len as usize)));
    true
}

fn reads_too_far(bytes: &[u8]) -> bool {
    match bytes {
        [7, at, rest @ ..] => rest[usize::from(*at) % 64] < 200,
        _ => false,
    }
}

fn planted(run: fn(&[u8]) -> bool) -> Target {
    Target {
        name: "planted",
        about: "a decoder with a fault",
        shape: |input| shape(input, &[vec![0; 70]], |_| ()),
        run,
        memory: Memory { bytes: 4096, per_byte: 8 },
    }
}

fn find(run: fn(&[u8]) -> bool) -> (Target, Found) {
    let target = planted(run);
    let found = hunt(&target, &[vec![2]], 1, 0..1_000_000, held).expect_err("the fault is found");
    assert_eq!(hunt(&target, &[vec![2]], 1, found.exec..found.exec + 1, held), Err(found.clone()), "and found again");
    (target, found)
}

#[test]
fn a_decoder_that_reads_too_far_is_caught_and_its_input_made_shorter() {
    let (target, found) = find(reads_too_far);
    assert!(found.failure.contains("out of bounds"), "{}", found.failure);
    let shorter = shorten(&target, found.clone(), held);
    assert!(shorter.input.len() <= found.input.len() && shorter.input.len() <= 6, "{shorter:?}");
    assert!(target.check(&shorter.input, held).is_err());
}

#[test]
fn a_decoder_that_trusts_a_length_is_caught() {
    let (_, found) = find(trusts_a_length);
    assert!(found.failure.contains("were held"), "{}", found.failure);
}

#[test]
fn the_program_tries_a_file_again_and_knows_its_targets() {
    let fuzz = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_fuzz")).args(args).output().unwrap();
    let list = String::from_utf8(fuzz(&["--list"]).stdout).unwrap();
    assert_eq!(list.lines().count(), TARGETS.len());
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input");
    fs::write(&input, [2]).unwrap();
    let again = fuzz(&["--target", "log", "--input", input.to_str().unwrap()]);
    assert_eq!((again.status.code(), String::from_utf8(again.stdout).unwrap().as_str()), (Some(0), "log: taken\n"));
    let unknown = fuzz(&["--target", "colour"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("--list"));
}
