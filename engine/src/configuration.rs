//! The bytes of a configuration, on disk and on the wire: little-endian numbers of 64 bits.

use synod_core::{Configuration, MemberId, ReplicaId, Voter};

/// The bytes of a configuration.
pub(crate) fn encode(configuration: &Configuration) -> Vec<u8> {
    numbers(configuration).flat_map(u64::to_le_bytes).collect()
}

/// Version, next number, phase-2 quorum, how many voters; then of each its number, node, and replica, low half first.
pub(crate) fn numbers(configuration: &Configuration) -> impl Iterator<Item = u64> + '_ {
    let Configuration { version, next_member, phase_2, voters } = configuration;
    let head = [*version, u64::from(*next_member), u64::from(*phase_2), voters.len() as u64];
    head.into_iter().chain(voters.iter().flat_map(|voter| {
        let replica = voter.replica.0;
        [u64::from(voter.member.0), voter.node, replica as u64, (replica >> 64) as u64]
    }))
}

/// Reads a configuration back; `None` when the bytes are none, or none that could govern.
pub(crate) fn decode(bytes: &[u8]) -> Option<Configuration> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut numbers = chunks.iter().map(|n| u64::from_le_bytes(*n));
    let configuration = take(&mut numbers)?;
    (rest.is_empty() && numbers.next().is_none() && (!configuration.voters.is_empty() || configuration.is_end()))
        .then_some(configuration)
}

/// Takes a configuration off a run of numbers.
pub(crate) fn take(numbers: &mut impl Iterator<Item = u64>) -> Option<Configuration> {
    let (version, next_member) = (numbers.next()?, u16::try_from(numbers.next()?).ok()?);
    let (phase_2, count) = (u16::try_from(numbers.next()?).ok()?, numbers.next()?);
    if count > synod_core::replica::VOTERS_MAX as u64 || version > i64::MAX as u64 {
        return None;
    }
    let mut voters = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let member = MemberId(u16::try_from(numbers.next()?).ok()?);
        let (node, low, high) = (numbers.next()?, numbers.next()?, numbers.next()?);
        voters.push(Voter { member, node, replica: ReplicaId(u128::from(high) << 64 | u128::from(low)) });
    }
    let configuration = Configuration { version, next_member, phase_2, voters };
    configuration.is_legal().then_some(configuration)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_configuration_comes_back() {
        let genesis = Configuration::genesis([(4, ReplicaId(u128::MAX >> 1)), (9, ReplicaId(3))]);
        let next = genesis.replace(9, ReplicaId(1 << 70)).unwrap();
        let witness = genesis.add(7, ReplicaId(5).of_kind(true)).unwrap();
        for configuration in [next, witness, genesis.resize(1).unwrap(), genesis.end(), genesis] {
            let bytes = encode(&configuration);
            assert_eq!(decode(&bytes), Some(configuration));
            assert_eq!(decode(&bytes[..bytes.len() - 8]), None);
            assert_eq!(decode(&[&bytes[..], &[0; 8]].concat()), None);
        }
    }

    #[test]
    fn one_that_names_a_voter_twice_is_refused() {
        let mut twice = Configuration::genesis([(4, ReplicaId(1)), (9, ReplicaId(3))]);
        twice.voters[1] = twice.voters[0];
        assert_eq!(decode(&encode(&twice)), None);
    }

    #[test]
    fn one_in_which_more_choose_than_there_are_is_refused() {
        let mut few = Configuration::genesis([(4, ReplicaId(1)), (9, ReplicaId(3))]);
        few.phase_2 = 3;
        assert_eq!(decode(&encode(&few)), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(configuration) = decode(&bytes) {
                prop_assert_eq!(encode(&configuration), bytes);
            }
        }
    }
}
