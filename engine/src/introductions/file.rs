//! The file `introduced` in a node's directory: what the node was told is durable before the node acts on it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rkyv::rancor::Failure;
use rkyv::{Archive, Deserialize, Serialize};

use super::{Introduction, Introductions};
use crate::meta::{DirectoryError, io_error};
use crate::sealed::{self, Broken};
use crate::wire::introductions;

const MAGIC: [u8; 8] = *b"SYNODINT";
const FORMAT: u32 = 1;
const INTRODUCED: &str = "introduced";

#[derive(Archive, Serialize, Deserialize)]
struct IntroducedV1 {
    /// The incarnation of the directory that this belongs to.
    owner: u128,
    /// As the frame between nodes bears it.
    list: Vec<u8>,
}

/// What a node knows of introduced nodes, and the file that keeps it.
#[derive(Debug)]
pub(crate) struct Introduced {
    dir: PathBuf,
    owner: u128,
    known: Mutex<Introductions>,
}

impl Introduced {
    /// Reads a directory's file. Without it nobody was introduced: should it be lost, the other nodes tell it all again.
    pub(crate) fn open(dir: &Path, owner: u128) -> Result<Self, DirectoryError> {
        let file = dir.join(INTRODUCED);
        let known = match sealed::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Introductions::default(),
            read => {
                let bytes = read.map_err(io_error(&file))?;
                let (of, known) = decode(&bytes).map_err(|broken| broken_file(&file, broken))?;
                if of != owner {
                    return Err(DirectoryError::MixedUp(file));
                }
                known
            }
        };
        Ok(Self { dir: dir.to_owned(), owner, known: Mutex::new(known) })
    }

    /// All that is known now.
    pub(crate) fn now(&self) -> Introductions {
        self.known().clone()
    }

    /// Changes what is known; what comes of it is durable. Gives what `change` gave, and whether anything has changed.
    ///
    /// # Errors
    /// When it cannot be written: then nothing has changed.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Introductions) -> R) -> io::Result<(R, bool)> {
        let mut known = self.known();
        let mut next = known.clone();
        let result = change(&mut next);
        let changed = next != *known;
        if changed {
            sealed::replace(&self.dir, INTRODUCED, &encode(self.owner, next.list()))?;
            *known = next;
        }
        Ok((result, changed))
    }

    fn known(&self) -> MutexGuard<'_, Introductions> {
        self.known.lock().expect("no holder panics")
    }
}

/// Nothing in this file is beyond repair: the other nodes know it too.
fn broken_file(file: &Path, broken: Broken) -> DirectoryError {
    match broken {
        Broken::Damaged => DirectoryError::IntroducedDamaged(file.to_owned()),
        Broken::Format => DirectoryError::Format(file.to_owned()),
    }
}

fn decode(bytes: &[u8]) -> Result<(u128, Introductions), Broken> {
    let archive = sealed::unseal(MAGIC, FORMAT, bytes)?;
    let IntroducedV1 { owner, list } =
        rkyv::from_bytes::<IntroducedV1, Failure>(&archive).map_err(|_| Broken::Damaged)?;
    let list = introductions::decode(&list).map_err(|_| Broken::Damaged)?;
    Ok((owner, Introductions { list }))
}

fn encode(owner: u128, list: &[Introduction]) -> Vec<u8> {
    let introduced = IntroducedV1 { owner, list: introductions::encode(list) };
    let archive = rkyv::to_bytes::<Failure>(&introduced).expect("numbers and bytes always have an archive");
    sealed::seal(MAGIC, FORMAT, &archive)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Config, Member};

    const OWNER: u128 = 7;

    fn introduce(introduced: &Introduced, node: u64) -> bool {
        let address = |node: u64| format!("127.0.0.1:{}", 7000 + node).parse().unwrap();
        let config = Config::new(7, 1, "", vec![Member { node: 1, address: address(1) }]);
        let member = Member { node, address: address(node) };
        let (outcome, changed) = introduced.change(|known| known.introduce(&config, member, false)).unwrap();
        assert_eq!(outcome.unwrap().node, node);
        changed
    }

    #[test]
    fn what_was_introduced_is_there_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let introduced = Introduced::open(dir.path(), OWNER).unwrap();
        assert_eq!(introduced.now(), Introductions::default());
        assert!(introduce(&introduced, 4) && introduce(&introduced, 3));
        assert!(!introduce(&introduced, 4), "it is known");
        let again = Introduced::open(dir.path(), OWNER).unwrap().now();
        assert_eq!(again.list().iter().map(|of| of.node).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(again, introduced.now());
    }

    #[test]
    fn what_cannot_be_written_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let introduced = Introduced::open(&dir.path().join("gone"), OWNER).unwrap();
        let heard = introduced.change(|known| {
            let address = "127.0.0.1:7004".parse().unwrap();
            known.merge(&[Introduction { node: 4, address, witness: false, version: 1 }]);
        });
        assert!(heard.is_err());
        assert_eq!(introduced.now(), Introductions::default());
    }

    #[test]
    fn every_bit_of_the_file_counts_and_it_belongs_to_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(introduce(&Introduced::open(dir.path(), OWNER).unwrap(), 4));
        let file = dir.path().join(INTRODUCED);
        let sound = fs::read(&file).unwrap();
        for bit in 0..8 * sound.len() {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, &bytes).unwrap();
            let error = Introduced::open(dir.path(), OWNER).unwrap_err();
            let format = (8 * 12..8 * 16).contains(&bit);
            assert!(
                matches!(error, DirectoryError::Format(_)) == format
                    && matches!(error, DirectoryError::IntroducedDamaged(_)) != format,
                "bit {bit}: {error}"
            );
        }
        fs::write(&file, &sound).unwrap();
        let error = Introduced::open(dir.path(), OWNER + 1).unwrap_err();
        assert!(matches!(error, DirectoryError::MixedUp(_)), "{error}");
    }
}
