//! Notifications of nftables, and elements without copies.

use netlink::nftables::{
    Chain, DataType, ElementChange, ElementDataRef, ElementRef, Key, NftEvent, NftMonitor,
    NftSocket, Set, Table, TableFamily, Transaction, VerdictRef,
};

use super::{in_namespace, shows, tool};

const TABLE: Table<'static> = Table { family: TableFamily::Ip, name: "viaduct" };
const FRONTEND: &[DataType] = &[DataType::Ipv4Addr, DataType::InetProto, DataType::InetService];

fn key(port: u16) -> Key {
    Key::new().ip([10, 96, 0, 1].into()).protocol(6).port(port)
}

fn services(count: u16) -> Transaction {
    let mut transaction = Transaction::default();
    transaction.add_table_with_comment(TABLE, "version 1");
    transaction.add_set(TABLE, &Set::new("services", FRONTEND).verdict_map().counted());
    transaction.add_chain(TABLE, &Chain { name: "pick-1", hook: None });
    for port in 1..=count {
        let element = key(port);
        let element = ElementRef::new(&element.0).verdict(VerdictRef::Goto("pick-1"));
        transaction.change_element(ElementChange::Create, TABLE, "services", element);
    }
    transaction
}

#[test]
fn the_monitor_tells_who_changed_what() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut monitor = NftMonitor::open().unwrap();
        let mut next = || {
            let mut events: Vec<NftEvent> = Vec::new();
            monitor.wait(|event| events.push(event)).unwrap();
            events
        };
        socket.commit(services(1)).unwrap();
        let ours = next();
        assert!(ours.iter().all(|event| event.port == socket.port().unwrap()), "{ours:?}");
        assert!(ours.iter().any(|event| event.what.contains("an element of set \"services\"")));
        tool("nft delete table ip viaduct");
        let mut theirs = Vec::new();
        while !theirs.iter().any(|event: &NftEvent| event.what == "table deleted") {
            theirs.extend(next());
        }
        assert!(theirs.iter().all(|event| event.port != socket.port().unwrap()), "{theirs:?}");
        assert!(
            theirs.iter().all(|event| event.is_of(TableFamily::Ip) && event.table == "viaduct")
        );
    });
}

#[test]
fn many_elements_share_messages_and_read_back_with_their_verdicts() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let transaction = services(5000);
        // Three objects before them, and far fewer messages than elements.
        let messages = transaction.wire().windows(2).filter(|pair| *pair == [12, 10]).count();
        assert!(messages < 100, "{messages}");
        socket.commit(transaction).unwrap();
        assert_eq!(socket.table_comment(TABLE).unwrap().as_deref(), Some("version 1"));
        let read = |element: ElementRef<'_>| match element.data {
            Some(ElementDataRef::Verdict(VerdictRef::Goto(chain))) => {
                Some((element.key.to_vec(), chain.to_owned()))
            }
            _ => None,
        };
        let found = socket.parse_elements(TABLE, "services", true, read).unwrap().unwrap();
        assert_eq!(found.len(), 5000);
        assert!(found.contains(&(key(4999).0, "pick-1".to_owned())));
        assert_eq!(socket.parse_elements(TABLE, "absent", true, read).unwrap(), None);
        let mut transaction = Transaction::default();
        for port in 1..=4999 {
            let element = key(port);
            let element = ElementRef::new(&element.0);
            transaction.change_element(ElementChange::Delete, TABLE, "services", element);
        }
        socket.commit(transaction).unwrap();
        shows(
            "nft list map ip viaduct services",
            &["tcp . 5000 counter packets 0 bytes 0 : goto pick-1"],
        );
        assert_eq!(socket.chains(TABLE).unwrap(), ["pick-1"]);
        assert_eq!(socket.sets(TABLE).unwrap(), ["services"]);
    });
}
