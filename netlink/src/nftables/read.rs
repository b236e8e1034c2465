//! Reading back what a table of ours holds.

use rustix::io::Errno;

use super::object::{Element, ElementData, Table};
use super::transaction::{
    NFGENMSG_LEN, NFTA_SET_ELEM_LIST_ELEMENTS, NftSocket, UDATA_COMMENT, nfgenmsg, nft,
    write_element,
};
use crate::error::{Error, Result};
use crate::message::{NLM_F_DUMP, Writer, attribute, attributes, attributes_after, read_string};

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
const NFTA_DATA_VALUE: u16 = 1;
/// A table that is resized is so once or twice in a row.
const READINGS: usize = 20;

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
        let mut request = Writer::default();
        request.message(nft(NFT_MSG_GETRULE), NLM_F_DUMP, |m| {
            nfgenmsg(m, table.family.number(), 0);
            m.string(NFTA_RULE_TABLE, table.name);
        });
        let rules = self
            .socket
            .dump(request, |payload| {
                let mut rule = RuleTag { chain: String::new(), comment: String::new() };
                for (kind, value) in attributes_after(payload, NFGENMSG_LEN) {
                    match kind {
                        // The kernel's filter is a hint; another table's rule is not ours.
                        NFTA_RULE_TABLE if read_string(value) != table.name => return None,
                        NFTA_RULE_CHAIN => rule.chain = read_string(value),
                        NFTA_RULE_USERDATA => rule.comment = comment(value).unwrap_or_default(),
                        _ => {}
                    }
                }
                Some(rule)
            })
            .map_err(|error| {
                error.during(format!("list the rules of nftables table {:?}", table.name))
            });
        crate::error::found(rules)
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
            m.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |m| write_element(m, key, false));
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

fn parse_elements(payload: &[u8]) -> Vec<Element> {
    attributes_after(payload, NFGENMSG_LEN)
        .filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS)
        .flat_map(|(_, list)| attributes(list))
        .filter_map(|(_, element)| parse_element(element))
        .collect()
}

fn parse_element(bytes: &[u8]) -> Option<Element> {
    let value = |outer: &[u8]| attribute(outer, NFTA_DATA_VALUE).map(<[u8]>::to_vec);
    let mut element = Element { key: Vec::new(), key_end: None, data: None, comment: None };
    for (kind, bytes) in attributes(bytes) {
        match kind {
            NFTA_SET_ELEM_KEY => element.key = value(bytes)?,
            NFTA_SET_ELEM_KEY_END => element.key_end = value(bytes),
            NFTA_SET_ELEM_DATA => element.data = value(bytes).map(ElementData::Value),
            NFTA_SET_ELEM_USERDATA => element.comment = comment(bytes),
            _ => {}
        }
    }
    Some(element)
}

/// The comment in libnftnl's user data.
fn comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == UDATA_COMMENT {
            return Some(read_string(value));
        }
        bytes = &rest[usize::from(*length)..];
    }
    None
}
