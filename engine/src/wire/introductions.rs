//! The list of introduced nodes, as one node tells it to another and as the file of a directory keeps it. Its layout is in
//! `docs/internals/wire_format.md`. There is one form of each list: what is decoded has these very bytes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::Malformed;
use crate::config::Member;
use crate::introductions::{Introduction, canonical};
use crate::limits::INTRODUCED_MAX;

/// Wire frame kind: the nodes that were introduced, as far as the sender knows.
pub(crate) const INTRODUCTIONS: u8 = 50;

/// Bytes of a node's place: its number, address and kind.
pub(crate) const PLACE_BYTES: usize = 32;
const ENTRY_BYTES: usize = PLACE_BYTES + 8;
const WITNESS: u16 = 1;

/// Appends a node's place.
pub(crate) fn append_place(out: &mut Vec<u8>, member: Member, witness: bool) {
    let address = canonical(member.address);
    let (ip, scope) = match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
        SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
    };
    out.extend_from_slice(&member.node.to_le_bytes());
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&scope.to_le_bytes());
    out.extend_from_slice(&address.port().to_le_bytes());
    out.extend_from_slice(&(if witness { WITNESS } else { 0 }).to_le_bytes());
}

/// A node's place, whether or not there can be such a node.
pub(crate) fn decode_place(bytes: &[u8; PLACE_BYTES]) -> Result<(Member, bool), Malformed> {
    let (node, rest) = bytes.split_first_chunk::<8>().expect("it is longer");
    let (octets, rest) = rest.split_first_chunk::<16>().expect("it is longer");
    let (scope, rest) = rest.split_first_chunk::<4>().expect("it is longer");
    let (ip, scope) = (Ipv6Addr::from(*octets), u32::from_le_bytes(*scope));
    let port = u16::from_le_bytes([rest[0], rest[1]]);
    let address = match ip.to_canonical() {
        IpAddr::V4(_) if scope != 0 => return Err(Malformed("the scope of an address")),
        IpAddr::V4(v4) => SocketAddr::from((v4, port)),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
    };
    let flags = u16::from_le_bytes([rest[2], rest[3]]);
    if flags > WITNESS {
        return Err(Malformed("the kind of a node"));
    }
    Ok((Member { node: u64::from_le_bytes(*node), address }, flags == WITNESS))
}

/// A frame's body.
pub(crate) fn encode(list: &[Introduction]) -> Vec<u8> {
    let mut out = Vec::with_capacity(list.len() * ENTRY_BYTES);
    for Introduction { node, address, witness, version } in list {
        append_place(&mut out, Member { node: *node, address: *address }, *witness);
        out.extend_from_slice(&version.to_le_bytes());
    }
    out
}

/// What a frame's body says: nodes that there can be, by number, each once.
pub(crate) fn decode(body: &[u8]) -> Result<Vec<Introduction>, Malformed> {
    let (entries, rest) = body.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() || entries.len() > INTRODUCED_MAX {
        return Err(Malformed("the length of a list of introductions"));
    }
    let entry = |bytes: &[u8; ENTRY_BYTES]| {
        let (place, version) = bytes.split_first_chunk::<PLACE_BYTES>().expect("it is longer");
        let (Member { node, address }, witness) = decode_place(place)?;
        let version = u64::from_le_bytes(version.try_into().expect("eight bytes"));
        let can_be = node > 0 && version > 0 && address.port() > 0 && !address.ip().is_unspecified();
        can_be.then_some(Introduction { node, address, witness, version }).ok_or(Malformed("an introduction"))
    };
    let list = entries.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    if list.windows(2).any(|pair| pair[0].node >= pair[1].node) {
        return Err(Malformed("the order of introductions"));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list() -> Vec<Introduction> {
        let of = |node, address: &str, witness| {
            let address = address.parse().unwrap();
            Introduction { node, address, witness, version: 10 + node }
        };
        vec![of(4, "127.0.0.1:258", false), of(5, "[fe80::2%3]:7", true), of(9, "[::1]:7009", false)]
    }

    #[test]
    fn lists_come_back_and_their_bytes_stay() {
        let bytes = encode(&list());
        assert_eq!(decode(&bytes).unwrap(), list());
        let mut golden = vec![0; 2 * ENTRY_BYTES];
        for (at, byte) in [(0, 4), (18, 0xff), (19, 0xff), (20, 127), (23, 1), (28, 2), (29, 1), (32, 14)] {
            golden[at] = byte;
        }
        for (at, byte) in [(0, 5), (8, 0xfe), (9, 0x80), (23, 2), (24, 3), (28, 7), (30, 1), (32, 15)] {
            golden[ENTRY_BYTES + at] = byte;
        }
        assert_eq!(bytes[..2 * ENTRY_BYTES], golden);
        assert_eq!(decode(&[]).unwrap(), []);
    }

    #[test]
    fn what_no_node_says_is_refused() {
        let check = |change: &dyn Fn(&mut Vec<u8>), word: &str| {
            let mut bytes = encode(&list());
            change(&mut bytes);
            let error = decode(&bytes).unwrap_err().to_string();
            assert!(error.contains(word), "{error} should name {word}");
        };
        check(&|bytes| bytes.truncate(79), "length");
        check(&|bytes| bytes.resize((INTRODUCED_MAX + 1) * ENTRY_BYTES, 1), "length");
        check(&|bytes| bytes[0] = 0, "an introduction");
        check(&|bytes| bytes[32] = 0, "an introduction");
        check(&|bytes| bytes[28..30].fill(0), "an introduction");
        check(&|bytes| bytes[20..24].fill(0), "an introduction");
        check(&|bytes| bytes[24] = 1, "scope");
        check(&|bytes| bytes[30] = 2, "kind");
        check(&|bytes| bytes[0] = 5, "order");
        check(&|bytes| bytes[0] = 6, "order");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&body);
        }
    }
}
