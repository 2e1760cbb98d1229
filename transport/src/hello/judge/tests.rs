use super::*;

const ME: Identity<'static> =
    Identity { cluster: 0xc1, node: 1, incarnation: 0x11, boot: 3, shard_count: 4, members: &[1, 2, 3] };
const KNOWN: KnownPeer = KnownPeer { incarnation: 0x22, boot: 7 };

fn peer() -> Hello {
    Hello {
        role: Role::Peer,
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        cluster: ME.cluster,
        node: 2,
        incarnation: KNOWN.incarnation,
        boot: KNOWN.boot,
        target_node: ME.node,
        target_incarnation: 0,
        shard: 0,
        shard_count: 4,
        wal_sequence_seen: 0,
    }
}

/// Changes a good peer's hello and checks what comes of it; a refusal's text must hold `hint`.
#[track_caller]
fn check(change: impl FnOnce(&mut Hello), status: HelloStatus, hint: &str) {
    let mut hello = peer();
    change(&mut hello);
    let refusal = judge(&hello, &ME, Some(&KNOWN)).unwrap_err();
    assert_eq!(refusal.status, status);
    assert!(refusal.text.contains(hint), "{}", refusal.text);
    assert!(refusal.text.len() <= crate::hello::REPLY_TEXT_BYTES_MAX);
}

#[test]
fn good_peers_are_let_in() {
    assert_eq!(judge(&peer(), &ME, Some(&KNOWN)), Ok(()));
    assert_eq!(judge(&peer(), &ME, None), Ok(()));
    let knows_us = Hello { target_incarnation: ME.incarnation, ..peer() };
    assert_eq!(judge(&knows_us, &ME, Some(&KNOWN)), Ok(()));
    let later_boot = Hello { boot: KNOWN.boot + 1, ..peer() };
    assert_eq!(judge(&later_boot, &ME, Some(&KNOWN)), Ok(()));
    let wider = Hello { version_min: 0, version_max: u16::MAX, ..peer() };
    assert_eq!(judge(&wider, &ME, Some(&KNOWN)), Ok(()));
}

#[test]
fn peers_are_refused_with_the_reason() {
    check(|h| h.cluster = 0xc2, HelloStatus::ForeignCluster, "cluster id");
    check(|h| h.cluster = 0, HelloStatus::ForeignCluster, "cluster id");
    check(|h| h.target_node = 3, HelloStatus::WrongNode, "address");
    check(|h| h.node = 1, HelloStatus::Duplicate, "stop one");
    check(|h| h.node = 4, HelloStatus::UnknownNode, "add it");
    check(|h| h.shard_count = 5, HelloStatus::ShardCountDiffers, "same number");
    check(|h| h.boot = KNOWN.boot - 1, HelloStatus::StaleBoot, "member replace");
    check(|h| h.incarnation = 0x23, HelloStatus::OtherIncarnation, "member replace");
    check(|h| h.target_incarnation = 0x12, HelloStatus::OtherIncarnation, "member replace");
    let above = PROTOCOL_VERSION_MAX + 1;
    check(|h| (h.version_min, h.version_max) = (above, above), HelloStatus::NewerVersion, "upgrade this node");
    check(|h| (h.version_min, h.version_max) = (0, 0), HelloStatus::OlderVersion, "upgrade yourself");
}

#[test]
fn clients_need_only_the_version_and_the_cluster() {
    let client =
        Hello { role: Role::Client, node: 0, incarnation: 0, boot: 0, target_node: 0, shard_count: 0, ..peer() };
    assert_eq!(judge(&client, &ME, None), Ok(()));
    assert_eq!(judge(&Hello { cluster: 0, ..client.clone() }, &ME, None), Ok(()));
    let foreign = Hello { cluster: 0xc2, ..client };
    assert_eq!(judge(&foreign, &ME, None).unwrap_err().status, HelloStatus::ForeignCluster);
}
