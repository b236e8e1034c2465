//! nftables transactions and what is read back.

use std::net::IpAddr;

use netlink::nftables::{
    Chain, DataType, Element, Expression, Hook, Key, NftSocket, RuleTag, Set, Table, TableFamily,
    Transaction, Verdict,
};

use super::{in_namespace, ip, shows, tool};

const TABLE: Table<'static> = Table { family: TableFamily::Inet, name: "test" };
const FRONTEND: &[DataType] = &[DataType::Ipv4Addr, DataType::InetProto, DataType::InetService];
const BACKEND: &[DataType] = &[DataType::Ipv4Addr, DataType::InetService];

fn frontend(n: u32) -> Element {
    let key = Key::new().ip(IpAddr::from((0x0a60_0000 + n).to_be_bytes())).protocol(6).port(80);
    let value = Key::new().ip(IpAddr::from((0x0af4_0000 + n).to_be_bytes())).port(8080);
    Element::new(key).value(value)
}

fn base(transaction: &mut Transaction) {
    transaction.add_table(TABLE);
    let map = Set::new("backends", FRONTEND).map(BACKEND);
    transaction.add_set(TABLE, &map);
    let pair: &[DataType] = &[DataType::Ipv4Addr, DataType::Ipv4Addr];
    transaction.add_set(TABLE, &Set::new("exclude", pair).ranges());
    transaction.add_set(TABLE, &Set::new("services", FRONTEND).verdict_map());
    let hook = Hook { kind: "filter", number: Hook::FORWARD, priority: 0 };
    transaction.add_chain(TABLE, &Chain { name: "forward", hook: Some(hook) });
    transaction.add_chain(TABLE, &Chain { name: "pick", hook: None });
    transaction.add_rule(TABLE, "forward", "first", &[Expression::Counter]);
    transaction.add_rule(TABLE, "forward", "second", &[Expression::Verdict(Verdict::Accept)]);
}

#[test]
fn what_a_transaction_makes_is_what_nft_lists_and_what_is_read_back() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        assert!(socket.rules(TABLE).unwrap().unwrap_or_default().is_empty());
        assert_eq!(socket.elements(TABLE, "backends").unwrap(), None);
        let mut transaction = Transaction::default();
        base(&mut transaction);
        let owned = frontend(1).comment("net/a/eth0");
        transaction.add_elements(TABLE, "backends", true, [&owned, &frontend(2)]);
        let verdict = Element { data: None, ..frontend(3) }.verdict(Verdict::Goto("pick".into()));
        transaction.add_elements(TABLE, "services", true, [&verdict]);
        let range = Element::new(Key::new().ip(ip("10.244.1.0")).ip(ip("10.0.0.0")))
            .to(Key::new().ip(ip("10.244.1.255")).ip(ip("10.255.255.255")));
        transaction.add_elements(TABLE, "exclude", true, [&range]);
        socket.commit(transaction).unwrap();
        shows(
            "nft list ruleset",
            &[
                "10.96.0.1 . tcp . 80 comment \"net/a/eth0\" : 10.244.0.1 . 8080",
                "10.96.0.3 . tcp . 80 : goto pick",
                "10.244.1.0/24 . 10.0.0.0/8",
                "type filter hook forward priority filter; policy accept;",
                "accept comment \"second\"",
            ],
        );
        let tag = |comment: &str| RuleTag { chain: "forward".into(), comment: comment.into() };
        assert_eq!(socket.rules(TABLE).unwrap().unwrap(), [tag("first"), tag("second")]);
        assert_eq!(
            socket.elements(TABLE, "backends").unwrap().unwrap(),
            [owned.clone(), frontend(2)]
        );
        assert_eq!(socket.elements(TABLE, "exclude").unwrap().unwrap(), [range]);
        assert_eq!(socket.element(TABLE, "backends", &frontend(1)).unwrap(), Some(owned));
        assert_eq!(socket.element(TABLE, "backends", &frontend(9)).unwrap(), None);

        let mut transaction = Transaction::default();
        transaction.delete_elements(TABLE, "backends", [&frontend(1)]);
        transaction.flush_chain(TABLE, "forward");
        socket.commit(transaction).unwrap();
        assert_eq!(socket.elements(TABLE, "backends").unwrap().unwrap(), [frontend(2)]);
        assert_eq!(socket.rules(TABLE).unwrap().unwrap(), []);
        let mut transaction = Transaction::default();
        transaction.delete_table(TABLE);
        socket.commit(transaction).unwrap();
        assert_eq!(tool("nft list ruleset"), "");
        socket.commit(Transaction::default()).unwrap();
    });
}

#[test]
fn a_transaction_is_all_or_nothing_and_its_error_names_the_object() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut transaction = Transaction::default();
        base(&mut transaction);
        transaction.add_elements(TABLE, "backends", true, [&frontend(1)]);
        transaction.delete_elements(TABLE, "backends", [&frontend(7)]);
        let error = socket.commit(transaction).unwrap_err();
        assert!(error.to_string().contains("\"backends\"") && error.not_found(), "{error}");
        assert_eq!(tool("nft list ruleset"), "", "nothing was applied");

        let mut transaction = Transaction::default();
        base(&mut transaction);
        transaction.add_elements(TABLE, "backends", true, [&frontend(1)]);
        socket.commit(transaction).unwrap();
        let mut again = Transaction::default();
        again.add_elements(TABLE, "backends", true, [&frontend(1)]);
        assert!(socket.commit(again).unwrap_err().already_exists());
        let mut lenient = Transaction::default();
        lenient.add_elements(TABLE, "backends", false, [&frontend(1)]);
        socket.commit(lenient).unwrap();
    });
}

#[test]
fn thousands_of_errors_do_not_hide_the_first() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut transaction = Transaction::default();
        base(&mut transaction);
        for n in 0..3000 {
            transaction.delete_elements(TABLE, "backends", [&frontend(n)]);
        }
        let error = socket.commit(transaction).unwrap_err();
        assert!(error.not_found() && error.to_string().contains("\"backends\""), "{error}");
        let mut transaction = Transaction::default();
        base(&mut transaction);
        socket.commit(transaction).expect("the socket is still usable");
    });
}

#[test]
fn a_transaction_for_a_generation_that_is_gone_is_refused() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let generation = socket.generation().unwrap();
        tool("nft add table inet foreign");
        let mut transaction = Transaction::new(Some(generation));
        base(&mut transaction);
        let error = socket.commit(transaction).unwrap_err();
        assert!(error.is_stale_generation(), "{error}");
        let current = socket.generation().unwrap();
        assert_ne!(generation, current);
        let mut transaction = Transaction::new(Some(current));
        base(&mut transaction);
        socket.commit(transaction).unwrap();
        shows("nft list tables", &["inet foreign", "inet test"]);
    });
}

#[test]
fn a_hundred_thousand_elements_are_one_transaction() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let elements: Vec<Element> = (0..100_000).map(frontend).collect();
        let mut transaction = Transaction::default();
        base(&mut transaction);
        transaction.add_elements(TABLE, "backends", true, &elements);
        assert!(transaction.bytes() > 4_000_000);
        let before = socket.generation().unwrap();
        socket.commit(transaction).unwrap();
        assert_eq!(socket.generation().unwrap().0, before.0 + 1, "one commit");
        assert_eq!(socket.elements(TABLE, "backends").unwrap().unwrap().len(), 100_000);
        let mut transaction = Transaction::default();
        transaction.delete_elements(TABLE, "backends", &elements[1..]);
        socket.commit(transaction).unwrap();
        assert_eq!(socket.elements(TABLE, "backends").unwrap().unwrap(), elements[..1]);
    });
}
