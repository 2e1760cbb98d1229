use super::*;

const ME: Identity<'static> = Identity {
    cluster: 0xc1,
    node: 1,
    incarnation: 0x11,
    replacement: false,
    founding: 5,
    shard_count: 4,
    first_shards: 2,
    phase_2: 2,
    members: &[1, 2, 3],
};
const INCARNATION: u128 = 0x22;
const RETIRED: u128 = 0x21;
const BOOT: u64 = 7;

fn known() -> KnownPeer {
    KnownPeer { incarnation: INCARNATION, boot: BOOT, retired: vec![0x20, RETIRED] }
}

fn peer() -> Hello {
    Hello {
        role: Role::Peer,
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        cluster: ME.cluster,
        node: 2,
        incarnation: INCARNATION,
        boot: BOOT,
        target_node: ME.node,
        target_incarnation: 0,
        shard: 0,
        shard_count: 4,
        first_shards: 2,
        phase_2: 2,
        replacement: false,
        founder: false,
        founding: 5,
        replica: 0,
        rules: Vec::new(),
        target_replica: 0,
        seen_replica: 0,
        wal_sequence_seen: 0,
    }
}

/// Changes a good peer's hello and checks what comes of it; a refusal's text must hold `hint`.
#[track_caller]
fn check(change: impl FnOnce(&mut Hello), status: HelloStatus, hint: &str) {
    let mut hello = peer();
    change(&mut hello);
    let refusal = judge(&hello, &ME, Some(&known())).unwrap_err();
    assert_eq!(refusal.status, status);
    assert!(refusal.text.contains(hint), "{}", refusal.text);
    assert!(refusal.text.len() <= crate::hello::REPLY_TEXT_BYTES_MAX);
}

#[test]
fn good_peers_are_let_in() {
    assert_eq!(judge(&peer(), &ME, Some(&known())), Ok(()));
    assert_eq!(judge(&peer(), &ME, None), Ok(()));
    let knows_us = Hello { target_incarnation: ME.incarnation, ..peer() };
    assert_eq!(judge(&knows_us, &ME, Some(&known())), Ok(()));
    let later_boot = Hello { boot: BOOT + 1, ..peer() };
    assert_eq!(judge(&later_boot, &ME, Some(&known())), Ok(()));
    let wider = Hello { version_min: 0, version_max: u16::MAX, ..peer() };
    assert_eq!(judge(&wider, &ME, Some(&known())), Ok(()));
}

#[test]
fn peers_are_refused_with_the_reason() {
    check(|h| h.cluster = 0xc2, HelloStatus::ForeignCluster, "cluster id");
    check(|h| h.cluster = 0, HelloStatus::ForeignCluster, "cluster id");
    check(|h| h.target_node = 3, HelloStatus::WrongNode, "address");
    check(|h| h.node = 1, HelloStatus::Duplicate, "stop one");
    check(|h| h.node = 4, HelloStatus::UnknownNode, "node 1 does not know a node 4: introduce it");
    check(|h| h.shard_count = 5, HelloStatus::ShardCountDiffers, "same number");
    check(|h| h.phase_2 = 0, HelloStatus::QuorumDiffers, "phase_2");
    check(|h| h.first_shards = 4, HelloStatus::FirstShardsDiffer, "`first_shards`");
    check(|h| h.boot = BOOT - 1, HelloStatus::StaleBoot, "synod init --replace");
    check(|h| h.incarnation = RETIRED, HelloStatus::Replaced, "never start it again");
    let retired = |h: &mut Hello| (h.incarnation, h.replacement) = (RETIRED, true);
    check(retired, HelloStatus::Replaced, "never start it again");
    let stale = |h: &mut Hello| (h.boot, h.replacement) = (BOOT - 1, true);
    check(stale, HelloStatus::StaleBoot, "old copy");
    check(|h| h.incarnation = 0x23, HelloStatus::OtherIncarnation, "synod init --replace");
    check(|h| h.target_incarnation = 0x12, HelloStatus::OtherIncarnation, "synod init --replace");
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

#[test]
fn a_replacement_is_let_in_at_either_end() {
    let new = Hello { incarnation: 0x23, boot: 1, replacement: true, ..peer() };
    assert_eq!(judge(&new, &ME, Some(&known())), Ok(()));
    let replacement = Identity { replacement: true, ..ME };
    let means_the_lost_one = Hello { target_incarnation: 0x10, ..peer() };
    assert_eq!(judge(&means_the_lost_one, &replacement, Some(&known())), Ok(()));
    assert_eq!(judge(&means_the_lost_one, &ME, None).unwrap_err().status, HelloStatus::OtherIncarnation);
}

#[test]
fn an_answer_is_judged_like_a_hello() {
    let answer = HelloReply {
        status: HelloStatus::Ok,
        node: 2,
        incarnation: INCARNATION,
        boot: BOOT,
        shard_count: 4,
        first_shards: 2,
        replacement: false,
        founder: true,
        founding: 5,
        replica: 1,
        rules: Vec::new(),
        target_replica: 0,
        seen_replica: 0,
        wal_sequence_seen: 0,
        text: String::new(),
    };
    let status = |change: fn(&mut HelloReply), known: Option<&KnownPeer>| {
        let mut answer = answer.clone();
        change(&mut answer);
        judge_answer(&answer, 2, 5, known).map_err(|refusal| refusal.status)
    };
    let known = known();
    assert_eq!(status(|_| {}, Some(&known)), Ok(()));
    assert_eq!(status(|_| {}, None), Ok(()));
    assert_eq!(status(|a| a.boot += 1, Some(&known)), Ok(()));
    assert_eq!(status(|a| a.node = 3, None), Err(HelloStatus::WrongNode));
    assert_eq!(status(|a| a.boot -= 1, Some(&known)), Err(HelloStatus::StaleBoot));
    assert_eq!(status(|a| a.incarnation = 0x23, Some(&known)), Err(HelloStatus::OtherIncarnation));
    assert_eq!(status(|a| a.incarnation = RETIRED, Some(&known)), Err(HelloStatus::Replaced));
    let replaced = |a: &mut HelloReply| (a.incarnation, a.boot, a.replacement) = (0x23, 1, true);
    assert_eq!(status(replaced, Some(&known)), Ok(()));
}

#[test]
fn nodes_that_began_with_other_members_have_no_contact() {
    let other = Hello { founding: 6, ..peer() };
    let refusal = judge(&other, &ME, None).unwrap_err();
    assert_eq!(refusal.status, HelloStatus::OtherFounders);
    assert!(refusal.text.contains("--join"), "{refusal}");
    // Who was made later names none, whoever is asked.
    assert_eq!(judge(&Hello { founding: 0, ..peer() }, &ME, None), Ok(()));
    assert_eq!(judge(&other, &Identity { founding: 0, ..ME }, None), Ok(()));
}
