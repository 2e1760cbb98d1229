use proptest::prelude::*;

use super::*;

const FOUNDING: u32 = 0x71;

fn hello() -> Hello {
    Hello {
        role: Role::Peer,
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        cluster: 0xc1,
        node: 2,
        incarnation: 0x22,
        boot: 7,
        target_node: 1,
        target_incarnation: 0,
        shard: 1,
        shard_count: 4,
        first_shards: 3,
        phase_2: 3,
        replacement: true,
        founder: true,
        founding: FOUNDING,
        replica: 0x44,
        rules: vec![ReplicaRule { shards: 3, shard: 2, replica: 0x77 }],
        target_replica: 0x55,
        seen_replica: 0x66,
        wal_sequence_seen: 99,
    }
}

#[test]
fn golden_bytes_of_a_hello() {
    let bytes = hello().encode();
    let mut golden = [0; HELLO_BYTES + 24];
    for (at, value) in [
        (0, 1),      // role
        (2, 10),     // version_min
        (4, 10),     // version_max
        (6, 3),      // flags: replacement 1, founder 2
        (8, 1),      // shard
        (12, 4),     // shard_count
        (16, 0xc1),  // cluster
        (32, 0x22),  // incarnation
        (64, 2),     // node
        (72, 7),     // boot
        (80, 1),     // target_node
        (88, 99),    // wal_sequence_seen
        (96, 0x44),  // replica
        (112, 0x55), // target_replica
        (128, 0x66), // seen_replica
        (144, 0x71), // founding
        (148, 3),    // phase_2
        (150, 1),    // rules
        (152, 3),    // first_shards
        (256, 3),    // shards
        (260, 2),    // shard
        (264, 0x77), // replica
    ] {
        golden[at] = value;
    }
    assert_eq!(bytes, golden);
}

#[test]
fn golden_bytes_of_a_reply() {
    let reply = HelloReply {
        status: HelloStatus::WrongNode,
        node: 3,
        incarnation: 0x33,
        boot: 8,
        shard_count: 4,
        first_shards: 3,
        replacement: false,
        founder: true,
        founding: FOUNDING,
        replica: 0x44,
        rules: vec![ReplicaRule { shards: 3, shard: 2, replica: 0x77 }],
        target_replica: 0x55,
        seen_replica: 0x66,
        wal_sequence_seen: 77,
        text: "no".into(),
    };
    let mut golden = [0; 138];
    for (at, value) in [
        (0, 2),      // status
        (2, 2),      // text_len
        (4, 4),      // shard_count
        (8, 3),      // node
        (16, 8),     // boot
        (24, 77),    // wal_sequence_seen
        (32, 0x33),  // incarnation
        (48, 0x44),  // replica
        (64, 0x55),  // target_replica
        (80, 0x66),  // seen_replica
        (96, 2),     // flags
        (98, 1),     // rules
        (100, 0x71), // founding
        (104, 3),    // first_shards
        (112, b'n'), // text
        (113, b'o'),
        (114, 3),    // shards
        (118, 2),    // shard
        (122, 0x77), // replica
    ] {
        golden[at] = value;
    }
    assert_eq!(reply.encode(), golden);
}

#[test]
fn illegal_hellos_are_refused() {
    let check = |change: fn(&mut Hello), expected: HelloError| {
        let mut broken = hello();
        change(&mut broken);
        assert_eq!(Hello::decode(&broken.encode()), Err(expected));
    };
    check(|h| (h.version_min, h.version_max) = (3, 2), HelloError::VersionRange { min: 3, max: 2 });
    check(|h| h.shard = 4, HelloError::Shard { shard: 4, shard_count: 4 });
    let mut bytes = hello().encode();
    bytes[0] = 3;
    assert_eq!(Hello::decode(&bytes), Err(HelloError::Role(3)));
    assert_eq!(Hello::decode(&bytes[..255]), Err(HelloError::Length(255)));
    assert_eq!(Hello::decode(&[0; HELLO_BYTES_MAX + 1]), Err(HelloError::Length(HELLO_BYTES_MAX + 1)));
}

#[test]
fn a_longer_hello_of_a_later_release_is_read() {
    let mut bytes = hello().encode().to_vec();
    bytes[200] = 1;
    bytes.resize(1000, 1);
    assert_eq!(Hello::decode(&bytes), Ok(hello()));
}

#[test]
fn broken_rules_are_refused() {
    let rule = ReplicaRule { shards: 3, shard: 2, replica: 7 };
    let bytes = Hello { rules: vec![rule; REPLICA_RULES_MAX], ..hello() }.encode();
    assert!(bytes.len() <= HELLO_BYTES_MAX && Hello::decode(&bytes).is_ok());
    assert_eq!(Hello::decode(&bytes[..bytes.len() - 1]), Err(HelloError::Rules), "cut off");
    let mut many = bytes.clone();
    many[AT_RULES] = REPLICA_RULES_MAX as u8 + 1;
    many.resize(bytes.len() + RULE_BYTES, 0);
    assert_eq!(Hello::decode(&many), Err(HelloError::Rules));
    let none = Hello { rules: vec![ReplicaRule { shard: 3, ..rule }], ..hello() }.encode();
    assert_eq!(Hello::decode(&none), Err(HelloError::Rules), "there is no such shard");
    let reply = HelloReply { rules: vec![rule; REPLICA_RULES_MAX], ..reply_of(HelloStatus::Ok, "é".repeat(300)) };
    let bytes = reply.encode();
    assert!(bytes.len() <= HELLO_BYTES_MAX && HelloReply::decode(&bytes).is_ok());
    assert_eq!(HelloReply::decode(&bytes[..bytes.len() - 1]), Err(HelloError::Rules));
}

#[test]
fn a_text_is_cut_between_characters_and_read_lossily() {
    let mut reply = reply_of(HelloStatus::Busy, "é".repeat(300));
    let read = HelloReply::decode(&reply.encode()).unwrap();
    assert_eq!(read.text, "é".repeat(256));
    reply.text = format!("x{}", "é".repeat(300));
    let mut bytes = reply.encode();
    assert_eq!(HelloReply::decode(&bytes).unwrap().text, format!("x{}", "é".repeat(255)));
    bytes[REPLY_AT_TEXT] = 0xff;
    assert!(HelloReply::decode(&bytes).unwrap().text.starts_with('\u{fffd}'));
}

fn reply_of(status: HelloStatus, text: String) -> HelloReply {
    HelloReply {
        status,
        node: 1,
        incarnation: 2,
        boot: 3,
        shard_count: 4,
        first_shards: 3,
        replacement: true,
        founder: false,
        founding: FOUNDING,
        replica: 5,
        rules: Vec::new(),
        target_replica: 6,
        seen_replica: 7,
        wal_sequence_seen: 8,
        text,
    }
}

#[test]
fn all_statuses_have_their_own_code() {
    for code in 0..=15 {
        assert_eq!(HelloStatus::of_code(code).unwrap() as u16, code);
    }
    assert_eq!(HelloStatus::of_code(16), Err(HelloError::Status(16)));
}

proptest! {
    #[test]
    fn hellos_come_back_as_they_went(
        client: bool,
        versions in (any::<u16>(), any::<u16>()),
        ids in any::<(u128, u64, u128, u64)>(),
        target in any::<(u64, u128)>(),
        shards in (any::<u32>(), 1..=u32::MAX),
        flags: (bool, bool),
        replicas in any::<(u128, u128, u128)>(),
        rules in prop::collection::vec(any::<(u32, u32, u128)>(), 0..4),
        wal_sequence_seen: u64,
    ) {
        let hello = Hello {
            role: if client { Role::Client } else { Role::Peer },
            version_min: versions.0.min(versions.1),
            version_max: versions.0.max(versions.1),
            cluster: ids.0,
            node: ids.1,
            incarnation: ids.2,
            boot: ids.3,
            target_node: target.0,
            target_incarnation: target.1,
            shard: shards.0 % shards.1,
            shard_count: shards.1,
            first_shards: shards.0,
            phase_2: shards.1 as u16,
            replacement: flags.0,
            founder: flags.1,
            founding: FOUNDING,
            replica: replicas.0,
            rules: rules.iter().map(|(shard, more, replica)| ReplicaRule {
                shards: shard.saturating_add(*more).max(1),
                shard: *shard % shard.saturating_add(*more).max(1),
                replica: *replica,
            }).collect(),
            target_replica: replicas.1,
            seen_replica: replicas.2,
            wal_sequence_seen,
        };
        prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }

    #[test]
    fn replies_come_back_as_they_went(
        code in 0..=15_u16,
        ids in any::<(u64, u128, u64, u32, u64)>(),
        flags: (bool, bool),
        replicas in any::<(u128, u128, u128)>(),
        rules in prop::collection::vec(any::<(u32, u32, u128)>(), 0..4),
        text in ".{0,100}",
    ) {
        let reply = HelloReply {
            status: HelloStatus::of_code(code).unwrap(),
            node: ids.0,
            incarnation: ids.1,
            boot: ids.2,
            shard_count: ids.3,
            first_shards: ids.3,
            replacement: flags.0,
            founder: flags.1,
            founding: FOUNDING,
            replica: replicas.0,
            rules: rules.iter().map(|(shard, more, replica)| ReplicaRule {
                shards: shard.saturating_add(*more).max(1),
                shard: *shard % shard.saturating_add(*more).max(1),
                replica: *replica,
            }).collect(),
            target_replica: replicas.1,
            seen_replica: replicas.2,
            wal_sequence_seen: ids.4,
            text,
        };
        prop_assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), small in 0..14_u8) {
        let mut bytes = bytes;
        let _ = Hello::decode(&bytes);
        let _ = HelloReply::decode(&bytes);
        if 4 <= bytes.len() {
            // Legal codes in front, so that the rest is looked at too.
            bytes[..4].copy_from_slice(&[small, 0, small, 0]);
        }
        let _ = Hello::decode(&bytes);
        if let Ok(reply) = HelloReply::decode(&bytes) {
            // Each byte that is no character becomes three.
            prop_assert!(reply.text.len() <= 3 * REPLY_TEXT_BYTES_MAX);
        }
    }
}
