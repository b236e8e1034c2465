//! One transaction: all of it, or nothing.
//!
//! The kernel wants a whole batch in a single `sendmsg`, so the send buffer is made to fit. It
//! answers errors by sequence number; [`Transaction`] remembers which object each number belongs to.

use rustix::io::Errno;

use super::expression::{Expression, write_value, write_verdict};
use super::object::{
    Chain, DataType, Element, ElementDataRef, ElementRef, Set, SetData, Table, TableFamily,
};
use crate::error::{Error, Result};
use crate::message::{
    ATTRIBUTE_MAX, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Writer, attribute, read_be32,
};
use crate::socket::Socket;

// include/uapi/linux/netfilter/nfnetlink.h
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_BATCH_GENID: u16 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(super) const NFGENMSG_LEN: usize = 4;
// include/uapi/linux/netfilter/nf_tables.h: messages
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFT_MSG_GETGEN: u16 = 16;
// … and attributes
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_GEN_ID: u16 = 1;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;
const NFTA_SET_EXPR: u16 = 17;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_TABLE_USERDATA: u16 = 6;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_DELSET: u16 = 11;
const NFT_SET_CONCAT: u32 = 0x80;
/// The data type number of verdicts.
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
/// libnftnl's user data: a comment is type 0 in rules and in elements.
pub(super) const UDATA_COMMENT: u8 = 0;
/// libnftnl's user data of a set: the key's byte order (type 0, four bytes) is the host's (1). Without
/// it `nft` shows such keys as empty.
const KEY_IN_HOST_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};
/// The same of a map's data (type 1).
const DATA_IN_HOST_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1u32.to_ne_bytes();
    [1, 4, a, b, c, d]
};
/// `NFTNL_UDATA_COMMENT_MAXLEN` less the closing NUL.
const COMMENT_MAX: usize = 127;
/// Bytes of elements per message, below what an attribute can hold.
const ELEMENTS_PER_MESSAGE: usize = ATTRIBUTE_MAX - 4096;

pub(super) fn nft(message: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | message
}

/// `struct nfgenmsg`: family, version, resource id (big endian).
pub(super) fn nfgenmsg(m: &mut Writer, family: u8, resource: u16) {
    let [high, low] = resource.to_be_bytes();
    m.raw(&[family, 0, high, low]);
}

/// The ruleset's generation: it changes with every transaction of anybody in the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(pub u32);

/// A connection to nftables in the network namespace where it was opened.
///
/// Dropping it after a transaction that deleted something waits 13 to 20 ms for the kernel to
/// destroy what was deleted. A daemon keeps it open; a short program drops it beside other work.
pub struct NftSocket {
    pub(super) socket: Socket,
}

impl NftSocket {
    /// Opens the connection in the calling thread's network namespace.
    pub fn open() -> Result<NftSocket> {
        Ok(NftSocket { socket: Socket::open(libc::NETLINK_NETFILTER)? })
    }

    /// The current generation.
    pub fn generation(&mut self) -> Result<Generation> {
        let mut request = Writer::default();
        request.message(nft(NFT_MSG_GETGEN), 0, |m| nfgenmsg(m, 0, 0));
        self.socket
            .get(request, |payload| {
                read_be32(attribute(payload.get(NFGENMSG_LEN..)?, NFTA_GEN_ID)?).map(Generation)
            })
            .map_err(|error| error.during("read the nftables generation"))
    }

    /// The number by which the kernel's notifications tell that a change was made through this socket.
    pub fn port(&self) -> Result<u32> {
        self.socket.port()
    }

    /// Commits the transaction: all of it, or nothing.
    ///
    /// The first error names its object. `ERESTART` if the transaction was made for a generation
    /// that is no more. An empty transaction is a success.
    pub fn commit(&mut self, transaction: Transaction) -> Result<()> {
        let Transaction { mut writer, objects, .. } = transaction;
        if objects.is_empty() {
            return Ok(());
        }
        let begin = self.socket.take_sequences(objects.len() as u32 + 2);
        let last = begin + objects.len() as u32;
        writer.numbered(NFNL_MSG_BATCH_END, 0, 0, |m| nfgenmsg(m, 0, NFNL_SUBSYS_NFTABLES));
        number(writer.bytes_mut(), begin, last);
        if writer.len() > DEFAULT_SEND_BUFFER {
            self.socket.reserve_send_buffer(writer.len() + DEFAULT_SEND_BUFFER)?;
        }
        self.socket
            .send(writer.bytes())
            .map_err(|error| error.during("send nftables transaction"))?;
        let mut failure: Option<Error> = None;
        loop {
            let Some(answers) = self.socket.answers()? else {
                let lost =
                    || Error::new("read the answer to an nftables transaction", Errno::NOBUFS);
                return Err(failure.unwrap_or_else(lost));
            };
            for answer in answers {
                let position = answer.sequence.wrapping_sub(begin) as usize;
                if position > objects.len() {
                    continue; // a late answer to an earlier request
                }
                let refused = answer.error.is_some();
                if let (None, Some(error)) = (&failure, answer.error) {
                    failure = Some(match position {
                        0 => error.during("commit nftables transaction"),
                        _ => error.during(objects[position - 1].clone()),
                    });
                }
                // The kernel answers the last message in any case, unless it refused the beginning.
                if answer.sequence == last || (position == 0 && refused) {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }
}

/// Half of Linux's default (`net.core.wmem_default`), which counts bookkeeping too.
const DEFAULT_SEND_BUFFER: usize = 100 * 1024;

fn write_rule(m: &mut Writer, table: Table<'_>, chain: &str, comment: &str, rule: &[Expression]) {
    m.string(NFTA_RULE_TABLE, table.name);
    m.string(NFTA_RULE_CHAIN, chain);
    m.nest(NFTA_RULE_EXPRESSIONS, |m| rule.iter().for_each(|e| e.write(m)));
    if !comment.is_empty() {
        m.attr(NFTA_RULE_USERDATA, &user_data(comment));
    }
}

/// Numbers the messages from `first` and asks for an acknowledgement of message `last`.
fn number(bytes: &mut [u8], first: u32, last: u32) {
    let (mut at, mut sequence) = (0, first);
    while let Some(length) = crate::message::read_u32(bytes, at) {
        bytes[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
        if sequence == last {
            let flags = crate::message::read_u16(bytes, at + 6).unwrap_or(0) | NLM_F_ACK;
            bytes[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
        }
        at += (length as usize).next_multiple_of(4);
        sequence = sequence.wrapping_add(1);
    }
}

/// Changes to commit together, in order.
pub struct Transaction {
    writer: Writer,
    /// What each message is about, for error messages.
    objects: Vec<String>,
    sets: u32,
    /// The message to which one more element can be added.
    open: Option<OpenMessage>,
}

/// A message about elements, the last of the transaction.
struct OpenMessage {
    kind: u16,
    flags: u16,
    family: TableFamily,
    table: String,
    set: String,
    /// Where it and its list of elements begin.
    message: usize,
    list: usize,
}

/// What becomes of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementChange {
    /// It is added, or stays as it is.
    Add,
    /// It is added; an error (`EEXIST`) if it is there.
    Create,
    /// It is deleted; an error (`ENOENT`) if it is not there.
    Delete,
}

impl Default for Transaction {
    fn default() -> Transaction {
        Transaction::new(None)
    }
}

impl Transaction {
    /// An empty transaction; with a generation it fails (`ERESTART`) if anybody commits before it.
    pub fn new(generation: Option<Generation>) -> Transaction {
        let mut writer = Writer::default();
        writer.message(NFNL_MSG_BATCH_BEGIN, 0, |m| {
            nfgenmsg(m, 0, NFNL_SUBSYS_NFTABLES);
            if let Some(Generation(id)) = generation {
                m.be32(NFNL_BATCH_GENID, id);
            }
        });
        Transaction { writer, objects: Vec::new(), sets: 0, open: None }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Bytes that the kernel will be sent.
    pub fn bytes(&self) -> usize {
        self.writer.len()
    }

    /// The messages as they will be sent, for tests that compare them.
    #[doc(hidden)]
    pub fn wire(&self) -> &[u8] {
        self.writer.bytes()
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table<'_>,
        object: String,
        body: impl FnOnce(&mut Writer),
    ) {
        self.open = None;
        self.writer.message(nft(kind), flags, |m| {
            nfgenmsg(m, table.family.number(), 0);
            body(m);
        });
        self.objects.push(format!("{object} of nftables table {:?}", table.name));
    }

    /// Adds a table, or keeps the one that is there.
    pub fn add_table(&mut self, table: Table<'_>) {
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, table, "creation".into(), |m| {
            m.string(NFTA_TABLE_NAME, table.name);
        });
    }

    /// Adds a table with a comment.
    pub fn add_table_with_comment(&mut self, table: Table<'_>, comment: &str) {
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, table, "creation".into(), |m| {
            m.string(NFTA_TABLE_NAME, table.name);
            m.attr(NFTA_TABLE_USERDATA, &user_data(comment));
        });
    }

    /// Deletes a chain, which must be empty and not be referred to.
    pub fn delete_chain(&mut self, table: Table<'_>, chain: &str) {
        let object = format!("chain {chain:?}");
        self.message(NFT_MSG_DELCHAIN, 0, table, object, |m| {
            m.string(NFTA_CHAIN_TABLE, table.name);
            m.string(NFTA_CHAIN_NAME, chain);
        });
    }

    /// Deletes a set that no rule refers to.
    pub fn delete_set(&mut self, table: Table<'_>, set: &str) {
        let object = format!("set {set:?}");
        self.message(NFT_MSG_DELSET, 0, table, object, |m| {
            m.string(NFTA_SET_TABLE, table.name);
            m.string(NFTA_SET_NAME, set);
        });
    }

    /// Deletes every element of a set.
    pub fn flush_set(&mut self, table: Table<'_>, set: &str) {
        let object = format!("elements of set {set:?}");
        self.message(NFT_MSG_DELSETELEM, 0, table, object, |m| {
            m.string(NFTA_SET_ELEM_LIST_TABLE, table.name);
            m.string(NFTA_SET_ELEM_LIST_SET, set);
        });
    }

    /// Deletes a table with all that is in it.
    pub fn delete_table(&mut self, table: Table<'_>) {
        self.message(NFT_MSG_DELTABLE, 0, table, "deletion".into(), |m| {
            m.string(NFTA_TABLE_NAME, table.name);
        });
    }

    /// Adds a chain, or keeps the one that is there.
    pub fn add_chain(&mut self, table: Table<'_>, chain: &Chain<'_>) {
        let object = format!("chain {:?}", chain.name);
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, table, object, |m| {
            m.string(NFTA_CHAIN_TABLE, table.name);
            m.string(NFTA_CHAIN_NAME, chain.name);
            if let Some(hook) = chain.hook {
                m.nest(NFTA_CHAIN_HOOK, |m| {
                    m.be32(NFTA_HOOK_HOOKNUM, hook.number);
                    m.be32(NFTA_HOOK_PRIORITY, hook.priority as u32);
                });
                m.string(NFTA_CHAIN_TYPE, hook.kind);
            }
        });
    }

    /// Deletes every rule of a chain.
    pub fn flush_chain(&mut self, table: Table<'_>, chain: &str) {
        let object = format!("rules of chain {chain:?}");
        self.message(NFT_MSG_DELRULE, 0, table, object, |m| {
            m.string(NFTA_RULE_TABLE, table.name);
            m.string(NFTA_RULE_CHAIN, chain);
        });
    }

    /// Adds a rule at the end of a chain; an empty comment is none.
    pub fn add_rule(&mut self, table: Table<'_>, chain: &str, comment: &str, rule: &[Expression]) {
        let object = format!("rule {comment:?} in chain {chain:?}");
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, table, object, |m| {
            write_rule(m, table, chain, comment, rule);
        });
    }

    /// Adds a rule at the beginning of a chain; an empty comment is none.
    pub fn insert_rule(
        &mut self,
        table: Table<'_>,
        chain: &str,
        comment: &str,
        rule: &[Expression],
    ) {
        let object = format!("rule {comment:?} in chain {chain:?}");
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE, table, object, |m| {
            write_rule(m, table, chain, comment, rule);
        });
    }

    /// Adds a set or map, or keeps the one that is there.
    pub fn add_set(&mut self, table: Table<'_>, set: &Set<'_>) {
        self.sets += 1;
        let id = self.sets;
        let concatenated_ranges = set.interval && set.key.len() > 1;
        let flags = if set.interval { NFT_SET_INTERVAL } else { 0 }
            | if set.data.is_some() { NFT_SET_MAP } else { 0 }
            | if concatenated_ranges { NFT_SET_CONCAT } else { 0 }
            | if set.dynamic.is_some() { NFT_SET_TIMEOUT | NFT_SET_EVAL } else { 0 };
        let object = format!("set {:?}", set.name);
        self.message(NFT_MSG_NEWSET, NLM_F_CREATE, table, object, |m| {
            m.string(NFTA_SET_TABLE, table.name);
            m.string(NFTA_SET_NAME, set.name);
            m.be32(NFTA_SET_FLAGS, flags);
            m.be32(NFTA_SET_KEY_TYPE, DataType::concatenation(set.key));
            m.be32(NFTA_SET_KEY_LEN, DataType::key_length(set.key));
            match set.data {
                Some(SetData::Verdict) => m.be32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT),
                Some(SetData::Value(types)) => {
                    m.be32(NFTA_SET_DATA_TYPE, DataType::concatenation(types));
                    m.be32(NFTA_SET_DATA_LEN, DataType::key_length(types));
                }
                None => {}
            }
            m.be32(NFTA_SET_ID, id);
            if concatenated_ranges || set.dynamic.is_some() {
                m.nest(NFTA_SET_DESC, |m| {
                    if let Some(size) = set.dynamic {
                        m.be32(NFTA_SET_DESC_SIZE, size);
                    }
                    if concatenated_ranges {
                        m.nest(NFTA_SET_DESC_CONCAT, |m| {
                            for field in set.key {
                                m.nest(NFTA_LIST_ELEM, |m| {
                                    m.be32(NFTA_SET_FIELD_LEN, field.length());
                                });
                            }
                        });
                    }
                });
            }
            if set.counters {
                m.nest(NFTA_SET_EXPR, |m| m.string(NFTA_EXPR_NAME, "counter"));
            }
            let is_host_order = |types: &[DataType]| matches!(types, [t] if t.is_host_order());
            let mut user_data = Vec::new();
            if is_host_order(set.key) {
                user_data.extend(KEY_IN_HOST_ORDER);
            }
            if let Some(SetData::Value(types)) = set.data
                && is_host_order(types)
            {
                user_data.extend(DATA_IN_HOST_ORDER);
            }
            if !user_data.is_empty() {
                m.attr(NFTA_SET_USERDATA, &user_data);
            }
        });
    }

    /// Adds elements. Those that are there already stay as they are, unless `exclusive`: then they
    /// are an error (`EEXIST`).
    pub fn add_elements<'e>(
        &mut self,
        table: Table<'_>,
        set: &str,
        exclusive: bool,
        elements: impl IntoIterator<Item = &'e Element>,
    ) {
        let flags = NLM_F_CREATE | if exclusive { NLM_F_EXCL } else { 0 };
        self.elements(NFT_MSG_NEWSETELEM, flags, table, set, elements, true);
    }

    /// Deletes elements by key; one that is not there is an error (`ENOENT`).
    pub fn delete_elements<'e>(
        &mut self,
        table: Table<'_>,
        set: &str,
        elements: impl IntoIterator<Item = &'e Element>,
    ) {
        self.elements(NFT_MSG_DELSETELEM, 0, table, set, elements, false);
    }

    fn elements<'e>(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table<'_>,
        set: &str,
        elements: impl IntoIterator<Item = &'e Element>,
        with_data: bool,
    ) {
        for element in elements {
            self.element_message(kind, flags, table, set, element.borrow(), with_data);
        }
    }

    /// Changes one element. What concerns the same set in a row shares messages.
    pub fn change_element(
        &mut self,
        change: ElementChange,
        table: Table<'_>,
        set: &str,
        element: ElementRef<'_>,
    ) {
        let (kind, flags, with_data) = match change {
            ElementChange::Add => (NFT_MSG_NEWSETELEM, NLM_F_CREATE, true),
            ElementChange::Create => (NFT_MSG_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, true),
            ElementChange::Delete => (NFT_MSG_DELSETELEM, 0, false),
        };
        self.element_message(kind, flags, table, set, element, with_data);
    }

    fn element_message(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table<'_>,
        set: &str,
        element: ElementRef<'_>,
        with_data: bool,
    ) {
        let fits = self.open.as_ref().filter(|open| {
            (open.kind, open.flags, open.family) == (kind, flags, table.family)
                && open.set == set
                && open.table == table.name
                && self.writer.len() - open.list < ELEMENTS_PER_MESSAGE
        });
        if let Some(open) = fits {
            let (message, list) = (open.message, open.list);
            self.writer.extend(message, list, |m| write_element(m, element, with_data));
            return;
        }
        let message = self.writer.len();
        let mut list = 0;
        self.message(kind, flags, table, format!("elements of set {set:?}"), |m| {
            m.string(NFTA_SET_ELEM_LIST_TABLE, table.name);
            m.string(NFTA_SET_ELEM_LIST_SET, set);
            list = m.len();
            m.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |m| write_element(m, element, with_data));
        });
        let (table, family, set) = (table.name.to_owned(), table.family, set.to_owned());
        self.open = Some(OpenMessage { kind, flags, family, table, set, message, list });
    }
}

pub(super) fn write_element(m: &mut Writer, element: ElementRef<'_>, with_data: bool) {
    m.nest(NFTA_LIST_ELEM, |m| {
        if element.interval_end {
            m.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
        write_value(m, NFTA_SET_ELEM_KEY, element.key);
        if let Some(end) = element.key_end {
            write_value(m, NFTA_SET_ELEM_KEY_END, end);
        }
        if !with_data {
            return;
        }
        match element.data {
            Some(ElementDataRef::Value(value)) => write_value(m, NFTA_SET_ELEM_DATA, value),
            Some(ElementDataRef::Verdict(verdict)) => {
                m.nest(NFTA_SET_ELEM_DATA, |m| write_verdict(m, verdict));
            }
            None => {}
        }
        if let Some(comment) = element.comment {
            m.attr(NFTA_SET_ELEM_USERDATA, &user_data(comment));
        }
    });
}

/// libnftnl's user data with a comment: type, length, text, NUL.
fn user_data(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(COMMENT_MAX);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = vec![UDATA_COMMENT, end as u8 + 1];
    bytes.extend_from_slice(&comment.as_bytes()[..end]);
    bytes.push(0);
    bytes
}

impl Error {
    /// Whether a transaction was made for a generation that is no more.
    pub fn is_stale_generation(&self) -> bool {
        // ERESTART never leaves the kernel through a system call, but it does through netlink.
        self.errno == Errno::from_raw_os_error(85)
    }
}
