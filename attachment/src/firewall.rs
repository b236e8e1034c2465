//! Firewalls of other programs that drop what the node forwards, as Docker and ufw set them up.
//!
//! An accepting rule of our own tables cannot overrule a drop elsewhere. So where the policy of iptables'
//! chain FORWARD drops, packets from and to pods are accepted there. Other base chains that drop are named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::Command;

use netlink::nftables::{
    BaseChain, Compare, Expression, Hook, Meta, NftSocket, Payload, Register, Table, TableFamily,
    Transaction, Verdict,
};
use netlink::xtables::{self, Extent};
use netlink::{Family, Prefix};

use crate::iptables::{LOCK_WAIT, find_program, legacy_tables};
use crate::{LinkRecord, Record};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// The beginning of the names of our tables.
const OWN_TABLES: &str = "viaduct";

/// What a comparison of the firewalls found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Rules that were added, in the words of what was wrong.
    pub(crate) repairs: Vec<String>,
    /// Chains that drop and cannot be mended, one sentence each.
    pub(crate) problems: Vec<String>,
}

/// Which packets are accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Accepted {
    /// In by a device. A name that ends with `+` is a beginning.
    In(String),
    /// Out by a device.
    Out(String),
    /// From an address of a network.
    From(Prefix),
    /// To an address of a network.
    To(Prefix),
}

impl fmt::Display for Accepted {
    /// The match as iptables writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accepted::In(device) => write!(f, "-i {device}"),
            Accepted::Out(device) => write!(f, "-o {device}"),
            Accepted::From(network) => write!(f, "-s {network}"),
            Accepted::To(network) => write!(f, "-d {network}"),
        }
    }
}

const R0: Register = Register(0);

impl Accepted {
    /// How the rule is recognised.
    fn comment(&self) -> String {
        format!("viaduct: pods: {self}")
    }

    fn is_of(&self, family: Family) -> bool {
        match self {
            Accepted::In(_) | Accepted::Out(_) => true,
            Accepted::From(network) | Accepted::To(network) => network.family() == family,
        }
    }

    /// The rule, in expressions that the nft variant of iptables reads.
    fn expressions(&self, family: Family) -> Vec<Expression> {
        let device = |key, name: &str| {
            let mut bytes = name.as_bytes().to_vec();
            if bytes.last() == Some(&b'+') {
                bytes.pop();
            } else {
                bytes.push(0);
            }
            vec![Expression::LoadMeta(key, R0), Expression::Compare(Compare::Equal, R0, bytes)]
        };
        let network = |field, network: Prefix| {
            let bytes = |address| match address {
                std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let mask = (0..u32::from(family.bits()) / 8).map(|byte| {
                let ones = u32::from(network.length()).saturating_sub(byte * 8).min(8);
                (0xff00_u32 >> ones) as u8
            });
            let mask: Vec<u8> = mask.collect();
            let xor = vec![0; mask.len()];
            vec![
                Expression::LoadPayload(field, R0),
                Expression::Bitwise { register: R0, mask, xor },
                Expression::Compare(Compare::Equal, R0, bytes(network.first())),
            ]
        };
        let [source, destination] = match family {
            Family::V4 => [Payload::IP_SADDR, Payload::IP_DADDR],
            Family::V6 => [Payload::IP6_SADDR, Payload::IP6_DADDR],
        };
        let mut rule = match self {
            Accepted::In(name) => device(Meta::IifName, name),
            Accepted::Out(name) => device(Meta::OifName, name),
            Accepted::From(prefix) => network(source, *prefix),
            Accepted::To(prefix) => network(destination, *prefix),
        };
        rule.extend([Expression::Counter, Expression::Verdict(Verdict::Accept)]);
        rule
    }
}

/// The packets that pods of these attachments, and pods of the cluster, send and receive.
fn accepted(live: &[&Record], cluster: &[Prefix]) -> BTreeSet<Accepted> {
    let mut all = BTreeSet::new();
    for record in live {
        let device = match &record.link {
            LinkRecord::Bridge { bridge, .. } => bridge.clone(),
            // Of all attachments, and the tunnel.
            LinkRecord::Routed => "vd+".to_owned(),
            LinkRecord::Chained { .. } => continue,
        };
        all.extend([Accepted::In(device.clone()), Accepted::Out(device)]);
    }
    if !all.is_empty() {
        for network in cluster {
            all.extend([Accepted::From(*network), Accepted::To(*network)]);
        }
    }
    all
}

/// Keeps other programs' firewalls from dropping what pods send and receive.
#[derive(Default)]
pub(crate) struct Firewalls {
    /// The extent of each legacy table when our rules were found in it.
    complete: BTreeMap<Family, Extent>,
}

impl Firewalls {
    /// Accepts packets of pods where iptables drops, and names other chains that drop.
    pub(crate) fn admit(&mut self, live: &[&Record], cluster: &[Prefix]) -> Outcome {
        let mut outcome = Outcome::default();
        let accepted = accepted(live, cluster);
        if accepted.is_empty() {
            return outcome;
        }
        if let Ok(mut socket) = NftSocket::open() {
            match socket.base_chains(Hook::FORWARD) {
                Ok(chains) => {
                    for chain in chains.iter().filter(|chain| chain.drops) {
                        admit_in_nftables(&mut socket, chain, &accepted, &mut outcome);
                    }
                }
                Err(error) => outcome.problems.push(error.to_string()),
            }
        }
        for family in FAMILIES {
            self.admit_in_legacy(family, &accepted, &mut outcome);
        }
        outcome
    }

    fn admit_in_legacy(
        &mut self,
        family: Family,
        accepted: &BTreeSet<Accepted>,
        outcome: &mut Outcome,
    ) {
        if !uses_legacy_filter(family) || !xtables::drops_forwarded(family).unwrap_or(false) {
            self.complete.remove(&family);
            return;
        }
        let extent = xtables::extent(family, "filter").ok();
        if extent.is_some() && self.complete.get(&family) == extent.as_ref() {
            return;
        }
        let mut added = 0;
        for packets in accepted.iter().filter(|packets| packets.is_of(family)) {
            match add_legacy_rule(family, packets) {
                Ok(true) => added += 1,
                Ok(false) => {}
                Err(why) => {
                    let program = legacy_program(family);
                    outcome.problems.push(format!(
                        "the policy of chain FORWARD drops packets of pods, and {program} cannot add an exception ({why}): run `{program} -I FORWARD {packets} -j ACCEPT`"
                    ));
                }
            }
        }
        if added > 0 {
            outcome.repairs.push(format!(
                "the policy of chain FORWARD of iptables (legacy, {family}) dropped packets of pods"
            ));
        }
        if let Ok(extent) = xtables::extent(family, "filter") {
            self.complete.insert(family, extent);
        }
    }
}

/// Whether iptables may drop what the node forwards. Asks for less than a comparison of all firewalls.
pub(crate) fn may_drop() -> bool {
    let drops = |family| {
        let table = Table { family, name: "filter" };
        let chain = NftSocket::open().and_then(|mut socket| socket.base_chain(table, "FORWARD"));
        chain.is_ok_and(|chain| chain.is_some_and(|chain| chain.drops))
    };
    [TableFamily::Ip, TableFamily::Ip6].into_iter().any(drops)
        || FAMILIES.into_iter().any(uses_legacy_filter)
}

fn admit_in_nftables(
    socket: &mut NftSocket,
    chain: &BaseChain,
    accepted: &BTreeSet<Accepted>,
    outcome: &mut Outcome,
) {
    if chain.table.starts_with(OWN_TABLES) {
        return;
    }
    let of_iptables = [(TableFamily::Ip, Family::V4), (TableFamily::Ip6, Family::V6)]
        .into_iter()
        .find(|(table, _)| chain.is_of(*table))
        .filter(|_| chain.table == "filter" && chain.name == "FORWARD");
    let Some((table_family, family)) = of_iptables else {
        outcome.problems.push(format!(
            "chain {} of nftables table {} drops what it does not accept: let it accept packets in and out of the devices of pods ({})",
            chain.name,
            chain.table,
            accepted.iter().map(Accepted::to_string).collect::<Vec<_>>().join(", ")
        ));
        return;
    };
    let table = Table { family: table_family, name: "filter" };
    let present: BTreeSet<String> = match socket.rules(table) {
        Ok(rules) => {
            let rules = rules.unwrap_or_default().into_iter();
            rules.filter(|rule| rule.chain == "FORWARD").map(|rule| rule.comment).collect()
        }
        Err(error) => return outcome.problems.push(error.to_string()),
    };
    let mut transaction = Transaction::new(None);
    for packets in accepted.iter().filter(|packets| packets.is_of(family)) {
        if !present.contains(&packets.comment()) {
            let rule = packets.expressions(family);
            transaction.insert_rule(table, "FORWARD", &packets.comment(), &rule);
        }
    }
    if transaction.is_empty() {
        return;
    }
    match socket.commit(transaction) {
        Ok(()) => outcome.repairs.push(format!(
            "the policy of chain FORWARD of iptables (nft, {family}) dropped packets of pods"
        )),
        Err(error) => outcome.problems.push(format!(
            "the policy of chain FORWARD drops packets of pods, and an exception is refused: {error}"
        )),
    }
}

fn uses_legacy_filter(family: Family) -> bool {
    legacy_tables(family).iter().any(|table| table == "filter")
}

fn legacy_program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-legacy",
        Family::V6 => "ip6tables-legacy",
    }
}

/// Whether a rule had to be added.
fn add_legacy_rule(family: Family, packets: &Accepted) -> Result<bool, String> {
    let name = legacy_program(family);
    let program = find_program([name]).ok_or_else(|| format!("{name} is not installed here"))?;
    let text = packets.to_string();
    let run = |action: &str| {
        let comment = packets.comment();
        let mut command = Command::new(&program);
        command.args(["-w", LOCK_WAIT, action, "FORWARD"]).args(text.split(' '));
        command.args(["-m", "comment", "--comment", &comment, "-j", "ACCEPT"]);
        command.output().map_err(|error| error.to_string())
    };
    if run("-C")?.status.success() {
        return Ok(false);
    }
    let output = run("-I")?;
    match output.status.success() {
        true => Ok(true),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
