//! Reading back what a table of ours holds.

use std::hash::{DefaultHasher, Hash, Hasher};

use rustix::io::Errno;

use super::expression::read_verdict;
use super::object::{Element, ElementDataRef, ElementRef, Table};
use super::transaction::{
    NFGENMSG_LEN, NFTA_RULE_EXPRESSIONS, NFTA_SET_ELEM_LIST_ELEMENTS, NftSocket, UDATA_COMMENT,
    nfgenmsg, nft, write_element,
};
use crate::error::{Error, Result};
use crate::message::{
    NLM_F_DUMP, Writer, attribute, attributes, attributes_after, read_be32, read_be64, read_string,
};

// include/uapi/linux/netfilter/nf_tables.h
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_EXPR: u16 = 7;
const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_COUNTER_PACKETS: u16 = 2;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETSET: u16 = 10;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_USERDATA: u16 = 6;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
/// Verdict of a chain's policy (`include/uapi/linux/netfilter.h`).
const NF_DROP: u32 = 0;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
/// A table that is resized is so once or twice in a row.
const READINGS: usize = 20;

/// A chain that sees packets at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// Number of the family of its table (`NFPROTO_*`).
    family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether it drops what no rule of it accepts.
    pub drops: bool,
}

impl BaseChain {
    /// Whether its table is of this family.
    pub fn is_of(&self, family: super::TableFamily) -> bool {
        self.family == family.number()
    }
}

/// The number of the hook, and the chain.
fn parse_base_chain(payload: &[u8]) -> Option<(u32, BaseChain)> {
    let (mut hook, mut drops) = (None, false);
    let mut chain = BaseChain {
        family: *payload.first()?,
        table: String::new(),
        name: String::new(),
        drops: false,
    };
    for (kind, value) in attributes_after(payload, NFGENMSG_LEN) {
        match kind {
            NFTA_CHAIN_TABLE => chain.table = read_string(value),
            NFTA_CHAIN_NAME => chain.name = read_string(value),
            NFTA_CHAIN_HOOK => hook = attribute(value, NFTA_HOOK_HOOKNUM).and_then(read_be32),
            NFTA_CHAIN_POLICY => drops = read_be32(value)? == NF_DROP,
            _ => {}
        }
    }
    chain.drops = drops;
    Some((hook?, chain))
}

/// A rule as far as it can be recognised: its chain and its comment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleTag {
    /// The chain it is in.
    pub chain: String,
    /// Its comment; empty if it has none.
    pub comment: String,
}

impl NftSocket {
    /// The rules of a table, in order; `None` if there is no such table.
    pub fn rules(&mut self, table: Table<'_>) -> Result<Option<Vec<RuleTag>>> {
        self.parse_rules(table, |tag, _| tag)
    }

    /// The rules of a table, each with a number that tells rules apart by what they do, in order; `None` if there is no
    /// such table. What a rule has counted makes no difference.
    pub fn rule_digests(&mut self, table: Table<'_>) -> Result<Option<Vec<(RuleTag, u64)>>> {
        self.parse_rules(table, |tag, expressions| (tag, digest(expressions)))
    }

    /// The rules of a table with the packets that their (first) counters have seen, in order; `None` if
    /// there is no such table. Rules without a counter have seen none.
    pub fn rule_packets(&mut self, table: Table<'_>) -> Result<Option<Vec<(RuleTag, u64)>>> {
        self.parse_rules(table, |tag, expressions| (tag, packets_of(expressions)))
    }

    fn parse_rules<T>(
        &mut self,
        table: Table<'_>,
        make: impl Fn(RuleTag, &[u8]) -> T,
    ) -> Result<Option<Vec<T>>> {
        let mut request = Writer::default();
        request.message(nft(NFT_MSG_GETRULE), NLM_F_DUMP, |m| {
            nfgenmsg(m, table.family.number(), 0);
            m.string(NFTA_RULE_TABLE, table.name);
        });
        let rules = self
            .socket
            .dump(request, |payload| {
                let mut rule = RuleTag { chain: String::new(), comment: String::new() };
                let mut expressions: &[u8] = &[];
                for (kind, value) in attributes_after(payload, NFGENMSG_LEN) {
                    match kind {
                        // The kernel's filter is a hint; another table's rule is not ours.
                        NFTA_RULE_TABLE if read_string(value) != table.name => return None,
                        NFTA_RULE_CHAIN => rule.chain = read_string(value),
                        NFTA_RULE_USERDATA => rule.comment = comment(value).unwrap_or_default(),
                        NFTA_RULE_EXPRESSIONS => expressions = value,
                        _ => {}
                    }
                }
                Some(make(rule, expressions))
            })
            .map_err(|error| {
                error.during(format!("list the rules of nftables table {:?}", table.name))
            });
        crate::error::found(rules)
    }

    /// Whether the table is there, and its comment (empty if it has none).
    pub fn table_comment(&mut self, table: Table<'_>) -> Result<Option<String>> {
        let mut request = Writer::default();
        request.message(nft(NFT_MSG_GETTABLE), 0, |m| {
            nfgenmsg(m, table.family.number(), 0);
            m.string(NFTA_TABLE_NAME, table.name);
        });
        let answer = self.socket.get(request, |payload| {
            let data = attributes_after(payload, NFGENMSG_LEN)
                .find(|(kind, _)| *kind == NFTA_TABLE_USERDATA);
            Some(data.and_then(|(_, bytes)| comment(bytes)).unwrap_or_default())
        });
        crate::error::found(
            answer.map_err(|error| error.during(format!("read nftables table {:?}", table.name))),
        )
    }

    /// The base chains at a hook, of all tables.
    pub fn base_chains(&mut self, hook: u32) -> Result<Vec<BaseChain>> {
        let mut request = Writer::default();
        request.message(nft(NFT_MSG_GETCHAIN), NLM_F_DUMP, |m| nfgenmsg(m, 0, 0));
        let chains = self.socket.dump(request, |payload| {
            parse_base_chain(payload).filter(|(number, _)| *number == hook).map(|(_, chain)| chain)
        });
        chains.map_err(|error| error.during("list the base chains of nftables"))
    }

    /// A base chain; `None` if there is no such chain, or if it has no hook.
    pub fn base_chain(&mut self, table: Table<'_>, chain: &str) -> Result<Option<BaseChain>> {
        let mut request = Writer::default();
        request.message(nft(NFT_MSG_GETCHAIN), 0, |m| {
            nfgenmsg(m, table.family.number(), 0);
            m.string(NFTA_CHAIN_TABLE, table.name);
            m.string(NFTA_CHAIN_NAME, chain);
        });
        let found = self.socket.get(request, |payload| Some(parse_base_chain(payload)));
        let found = found.map_err(|error| error.during(format!("read nftables chain {chain:?}")));
        Ok(crate::error::found(found)?.flatten().map(|(_, chain)| chain))
    }

    /// The names of the chains of a table.
    pub fn chains(&mut self, table: Table<'_>) -> Result<Vec<String>> {
        self.names(table, NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME)
    }

    /// The names of the sets and maps of a table.
    pub fn sets(&mut self, table: Table<'_>) -> Result<Vec<String>> {
        self.names(table, NFT_MSG_GETSET, NFTA_SET_TABLE, NFTA_SET_NAME)
    }

    fn names(
        &mut self,
        table: Table<'_>,
        message: u16,
        table_attribute: u16,
        name_attribute: u16,
    ) -> Result<Vec<String>> {
        let mut request = Writer::default();
        request.message(nft(message), NLM_F_DUMP, |m| {
            nfgenmsg(m, table.family.number(), 0);
            m.string(table_attribute, table.name);
        });
        let names = self.socket.dump(request, |payload| {
            let text = |wanted| {
                let found = attributes_after(payload, NFGENMSG_LEN).find(|(k, _)| *k == wanted);
                found.map(|(_, value)| read_string(value))
            };
            (text(table_attribute)? == table.name).then(|| text(name_attribute)).flatten()
        });
        let what = format!("list nftables table {:?}", table.name);
        Ok(crate::error::found(names.map_err(|error| error.during(what)))?.unwrap_or_default())
    }

    /// What `parse` makes of each element of a set, ordered; `None` if there is no such set. For sets
    /// of many elements: nothing is copied but what `parse` keeps.
    ///
    /// `settled` as in [`NftSocket::elements`]; without it one reading is enough, which shows no element
    /// that is not there, but may lack some.
    pub fn parse_elements<T: Ord>(
        &mut self,
        table: Table<'_>,
        set: &str,
        settled: bool,
        mut parse: impl FnMut(ElementRef<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let mut before: Option<Vec<T>> = None;
        for _ in 0..READINGS {
            let mut request = Writer::default();
            request.message(nft(NFT_MSG_GETSETELEM), NLM_F_DUMP, |m| set_header(m, table, set));
            let lists = self.socket.dump(request, |payload| {
                Some(elements_of(payload).filter_map(&mut parse).collect::<Vec<T>>())
            });
            let what = || format!("list set {set:?} of nftables table {:?}", table.name);
            let lists = lists.map_err(|error| error.during(what()));
            let Some(lists) = crate::error::found(lists)? else { return Ok(None) };
            let datagrams = lists.len();
            let mut elements: Vec<T> = lists.into_iter().flatten().collect();
            elements.sort_unstable();
            elements.dedup();
            if !settled || datagrams <= 1 || before.as_ref() == Some(&elements) {
                return Ok(Some(elements));
            }
            before = Some(elements);
        }
        Err(Error {
            operation: format!("list set {set:?} of nftables table {:?}", table.name),
            errno: Errno::INTR,
            detail: Some(format!("no two of {READINGS} readings agree")),
        })
    }

    /// The elements of a set or map, ordered by key; `None` if there is no such set.
    ///
    /// The kernel walks a hash table anew for every datagram and counts how far it was. If the table
    /// grows or shrinks meanwhile, which is not reported, elements are shown twice or not at all. So a
    /// set that takes more than one datagram is read until two readings agree.
    pub fn elements(&mut self, table: Table<'_>, set: &str) -> Result<Option<Vec<Element>>> {
        let mut before = None;
        for _ in 0..READINGS {
            let Some((elements, datagrams)) = self.read_elements(table, set)? else {
                return Ok(None);
            };
            if datagrams <= 1 || before.as_ref() == Some(&elements) {
                return Ok(Some(elements));
            }
            before = Some(elements);
        }
        Err(Error {
            operation: format!("list set {set:?} of nftables table {:?}", table.name),
            errno: Errno::INTR,
            detail: Some(format!("no two of {READINGS} readings agree")),
        })
    }

    fn read_elements(
        &mut self,
        table: Table<'_>,
        set: &str,
    ) -> Result<Option<(Vec<Element>, usize)>> {
        let mut request = Writer::default();
        request.message(nft(NFT_MSG_GETSETELEM), NLM_F_DUMP, |m| set_header(m, table, set));
        let lists =
            self.socket.dump(request, |payload| Some(parse_elements(payload))).map_err(|error| {
                error.during(format!("list set {set:?} of nftables table {:?}", table.name))
            });
        let Some(lists) = crate::error::found(lists)? else { return Ok(None) };
        let datagrams = lists.len();
        let mut elements: Vec<Element> = lists.into_iter().flatten().collect();
        elements.sort_by(|a, b| (&a.key, &a.key_end).cmp(&(&b.key, &b.key_end)));
        elements.dedup_by(|a, b| (&a.key, &a.key_end) == (&b.key, &b.key_end));
        Ok(Some((elements, datagrams)))
    }

    /// The element with this key, or `None`; `None` as well if there is no such set.
    pub fn element(
        &mut self,
        table: Table<'_>,
        set: &str,
        key: &Element,
    ) -> Result<Option<Element>> {
        let mut request = Writer::default();
        request.message(nft(NFT_MSG_GETSETELEM), 0, |m| {
            set_header(m, table, set);
            m.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |m| write_element(m, key.borrow(), false));
        });
        let answer = self
            .socket
            .get(request, |payload| Some(parse_elements(payload).into_iter().next()))
            .map_err(|error| {
                error.during(format!("look up in set {set:?} of nftables table {:?}", table.name))
            });
        Ok(crate::error::found(answer)?.flatten())
    }
}

fn set_header(m: &mut Writer, table: Table<'_>, set: &str) {
    nfgenmsg(m, table.family.number(), 0);
    m.string(NFTA_SET_ELEM_LIST_TABLE, table.name);
    m.string(NFTA_SET_ELEM_LIST_SET, set);
}

fn elements_of(payload: &[u8]) -> impl Iterator<Item = ElementRef<'_>> {
    attributes_after(payload, NFGENMSG_LEN)
        .filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS)
        .flat_map(|(_, list)| attributes(list))
        .filter_map(|(_, element)| parse_element(element))
}

fn parse_elements(payload: &[u8]) -> Vec<Element> {
    elements_of(payload).map(|element| element.to_owned()).collect()
}

fn parse_element(bytes: &[u8]) -> Option<ElementRef<'_>> {
    let mut element = ElementRef::new(&[]);
    for (kind, bytes) in attributes(bytes) {
        match kind {
            NFTA_SET_ELEM_KEY => element.key = attribute(bytes, NFTA_DATA_VALUE)?,
            NFTA_SET_ELEM_KEY_END => element.key_end = attribute(bytes, NFTA_DATA_VALUE),
            NFTA_SET_ELEM_FLAGS => {
                element.interval_end = read_be32(bytes)? & NFT_SET_ELEM_INTERVAL_END != 0;
            }
            NFTA_SET_ELEM_DATA => {
                let value = attribute(bytes, NFTA_DATA_VALUE).map(ElementDataRef::Value);
                element.data = value.or_else(|| read_verdict(bytes).map(ElementDataRef::Verdict));
            }
            NFTA_SET_ELEM_USERDATA => element.comment = comment_ref(bytes),
            NFTA_SET_ELEM_EXPR => {
                element.packets = counter_packets(bytes).unwrap_or(0);
            }
            _ => {}
        }
    }
    Some(element)
}

/// The packets that a counter, as an expression, has seen.
fn counter_packets(expression: &[u8]) -> Option<u64> {
    let data = attribute(expression, NFTA_EXPR_DATA)?;
    attribute(data, NFTA_COUNTER_PACKETS).and_then(read_be64)
}

fn is_counter(expression: &[u8]) -> bool {
    attribute(expression, NFTA_EXPR_NAME).is_some_and(|name| read_string(name) == "counter")
}

fn packets_of(expressions: &[u8]) -> u64 {
    let mut all = attributes(expressions).map(|(_, expression)| expression);
    all.find(|expression| is_counter(expression)).and_then(counter_packets).unwrap_or(0)
}

fn digest(expressions: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let all = attributes(expressions).map(|(_, expression)| expression);
    all.filter(|expression| !is_counter(expression)).for_each(|one| one.hash(&mut hasher));
    hasher.finish()
}

/// The comment in libnftnl's user data.
fn comment(bytes: &[u8]) -> Option<String> {
    comment_ref(bytes).map(str::to_owned)
}

fn comment_ref(mut bytes: &[u8]) -> Option<&str> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == UDATA_COMMENT {
            return std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok();
        }
        bytes = &rest[usize::from(*length)..];
    }
    None
}
