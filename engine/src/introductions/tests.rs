use proptest::prelude::*;

use super::*;

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn member(node: NodeId, port: u16) -> Member {
    Member { node, address: address(port) }
}

/// Node 1 of three.
fn config() -> Config {
    Config::new(7, 1, "", vec![member(1, 7001), member(2, 7002), member(3, 7003)])
}

fn of(node: NodeId, port: u16, version: u64) -> Introduction {
    Introduction { node, address: address(port), witness: false, version }
}

#[test]
fn what_cannot_be_introduced_is_refused_by_name() {
    let mut known = Introductions::default();
    let mut refused = |member, witness| {
        let before = known.clone();
        let error = known.introduce(&config(), member, witness).unwrap_err();
        assert_eq!(known, before, "{error}");
        error
    };
    assert_eq!(refused(member(0, 7004), false), IntroduceError::NoNumber);
    assert_eq!(refused(member(1, 7004), false), IntroduceError::Itself(1));
    assert_eq!(refused(member(4, 0), false), IntroduceError::NoAddress(address(0)));
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 7004));
    assert_eq!(refused(Member { node: 4, address: anywhere }, false), IntroduceError::NoAddress(anywhere));
    let configured = IntroduceError::Configured { node: 2, address: address(7002), witness: false };
    assert_eq!(refused(member(2, 7004), false), configured);
    assert_eq!(refused(member(2, 7002), true), configured, "another kind");
    assert_eq!(refused(member(4, 7003), false), IntroduceError::AddressInUse { address: address(7003), node: 3 });
    let mapped = Member { node: 4, address: "[::ffff:127.0.0.1]:7003".parse().unwrap() };
    assert_eq!(refused(mapped, false), IntroduceError::AddressInUse { address: address(7003), node: 3 });
    let far = SocketAddr::from(([10, 0, 0, 4], 7004));
    assert_eq!(refused(Member { node: 4, address: far }, false), IntroduceError::Plaintext(far));
    let open = Config { allow_plaintext: true, ..config() };
    assert_eq!(known.introduce(&open, Member { node: 4, address: far }, false).map(|of| of.version), Ok(1));
    assert_eq!(
        known.introduce(&open, Member { node: 5, address: far }, false),
        Err(IntroduceError::AddressInUse { address: far, node: 4 })
    );
}

#[test]
fn a_list_has_its_bound() {
    let mut known = Introductions::default();
    for node in 4..4 + INTRODUCED_MAX as u64 {
        assert_eq!(known.introduce(&config(), member(node, 7000 + node as u16), false).map(|of| of.version), Ok(1));
    }
    assert_eq!(known.introduce(&config(), member(100, 7100), false), Err(IntroduceError::TooMany));
    assert_eq!(known.introduce(&config(), member(4, 7100), false), Ok(of(4, 7100, 2)), "who is in it may move");
    let before = known.clone();
    known.merge(&[of(100, 7101, 9)]);
    assert_eq!(known, before);
}

#[test]
fn a_node_that_is_introduced_again_moves() {
    let mut known = Introductions::default();
    assert_eq!(known.introduce(&config(), member(4, 7004), false), Ok(of(4, 7004, 1)));
    assert_eq!(known.introduce(&config(), member(4, 7004), false), Ok(of(4, 7004, 1)), "it is known");
    assert_eq!(known.introduce(&config(), member(4, 7005), false), Ok(of(4, 7005, 2)));
    assert_eq!(known.introduce(&config(), member(5, 7004), false), Ok(of(5, 7004, 1)), "nobody is there any more");
    // Who has missed that takes it over, and what is older changes nothing.
    let mut other = Introductions::default();
    other.merge(&[of(4, 7004, 1)]);
    other.merge(known.list());
    assert_eq!(other, known);
    other.merge(&[of(4, 7009, 1)]);
    assert_eq!(other, known);
}

#[test]
fn the_configuration_counts_more() {
    let mut known = Introductions::default();
    assert_eq!(known.introduce(&config(), member(2, 7002), false), Ok(of(2, 7002, 0)));
    assert!(known.list().is_empty(), "there is nothing to remember");
    known.merge(&[of(1, 7011, 3), of(2, 7012, 3), of(4, 7004, 1)]);
    assert_eq!(known.list().len(), 3, "others may need them");
    assert_eq!(known.members(&config()).collect::<Vec<_>>(), [member(4, 7004)]);
    // Where node 2 is by the configuration is taken, and where it was introduced is not.
    assert_eq!(known.introduce(&config(), member(5, 7012), false), Ok(of(5, 7012, 1)));
}

fn any_introduction() -> impl Strategy<Value = Introduction> {
    (1u64..5, 7001u16..7004, any::<bool>(), 1u64..4).prop_map(|(node, port, witness, version)| Introduction {
        node,
        address: address(port),
        witness,
        version,
    })
}

proptest! {
    /// Whatever was said to whom, and in whatever order it spreads: all come to the same.
    #[test]
    fn all_orders_lead_to_one_list(said in prop::collection::vec(any_introduction(), 0..12), turn in 0usize..12) {
        let mut in_order = Introductions::default();
        in_order.merge(&said);
        let mut turned = said.clone();
        turned.rotate_left(turn.min(said.len()));
        turned.reverse();
        let mut other = Introductions::default();
        turned.iter().for_each(|introduction| other.merge(&[*introduction]));
        other.merge(in_order.list());
        prop_assert_eq!(&in_order, &other);
        prop_assert!(in_order.list().windows(2).all(|pair| pair[0].node < pair[1].node));
    }
}
