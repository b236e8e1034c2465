//! Rules as `nft` writes them: the instructions are followed with the words for what a register holds in
//! place of what it will hold.

use std::collections::BTreeMap;

use netlink::Family;
use netlink::nftables::{
    Compare, DataType, DynsetOperation, Expression, NatKind, Register, RejectWith, SetData, Verdict,
};

use super::super::names::SetId;
use super::words::{Meaning, constant, ct, duration, meta, payload, prefix_length};

/// What a register, with those that follow it, holds.
#[derive(Clone, Debug)]
struct Loaded {
    words: u32,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Constant(Vec<u8>),
    Words {
        text: String,
        meaning: Meaning,
    },
    /// Words after `& mask ^ xor`.
    Bits {
        text: String,
        meaning: Meaning,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
}

/// The statements of a rule.
pub(super) fn statements(family: Family, expressions: &[Expression]) -> String {
    let mut machine = Machine { family, registers: BTreeMap::new(), statements: Vec::new() };
    for expression in expressions {
        machine.follow(expression);
    }
    machine.statements.join(" ")
}

struct Machine {
    family: Family,
    /// By the first register of each value.
    registers: BTreeMap<u32, Loaded>,
    statements: Vec<String>,
}

impl Machine {
    fn follow(&mut self, expression: &Expression) {
        match expression {
            Expression::LoadPayload(field, to) => {
                let (text, meaning) = payload(*field);
                self.load(*to, field.length, text, meaning);
            }
            Expression::LoadMeta(key, to) => {
                let (text, meaning, length) = meta(*key);
                self.load(*to, length, text.to_owned(), meaning);
            }
            Expression::LoadCt(key, to) => {
                let (text, meaning, length) = ct(*key);
                self.load(*to, length, format!("ct {text}"), meaning);
            }
            Expression::LoadCtOriginal(key, to) => {
                let (text, meaning, length) = ct(*key);
                self.load(*to, length, format!("ct original {text}"), meaning);
            }
            Expression::LoadRandom { modulus, to } => {
                let text = format!("numgen random mod {modulus}");
                self.load(*to, 4, text, Meaning::Field(DataType::Mark));
            }
            Expression::LoadDestinationType(to) => {
                self.load(*to, 4, "fib daddr type".to_owned(), Meaning::AddressType);
            }
            Expression::LoadSourceType(to) => {
                self.load(*to, 4, "fib saddr type".to_owned(), Meaning::AddressType);
            }
            Expression::LoadValue(bytes, to) => {
                self.put(*to, bytes.len() as u32, Value::Constant(bytes.clone()));
            }
            Expression::Bitwise { register, mask, xor } => self.bitwise(*register, mask, xor),
            Expression::LookupMap { map, key, value } => self.look_up(map, *key, *value),
            other => {
                let statement = self.statement(other);
                self.statements.push(statement);
            }
        }
    }

    fn statement(&self, expression: &Expression) -> String {
        match expression {
            Expression::Compare(operation, register, value) => {
                self.compare(*operation, *register, value)
            }
            Expression::StoreMeta(key, from) => {
                let (text, meaning, _) = meta(*key);
                let text = text.strip_prefix("meta ").unwrap_or(text);
                format!("meta {text} set {}", self.text(*from, meaning))
            }
            Expression::LookupSet { set, key, inverted } => {
                let not = if *inverted { "!= " } else { "" };
                format!("{} {not}@{set}", self.key(set, *key))
            }
            Expression::LookupVerdict { map, key } => {
                format!("{} vmap @{map}", self.key(map, *key))
            }
            Expression::Verdict(verdict) => match verdict {
                Verdict::Accept => "accept".to_owned(),
                Verdict::Drop => "drop".to_owned(),
                Verdict::Return => "return".to_owned(),
                Verdict::Jump(chain) => format!("jump {chain}"),
                Verdict::Goto(chain) => format!("goto {chain}"),
            },
            Expression::Nat { kind, family, address, port } => {
                self.nat(*kind, *family, *address, *port)
            }
            Expression::Masquerade => "masquerade fully-random".to_owned(),
            Expression::Dynset { set, operation, key, data, timeout_ms } => {
                let operation = match operation {
                    DynsetOperation::Update => "update",
                    DynsetOperation::Delete => "delete",
                };
                let mut text = format!("{operation} @{set} {{ {}", self.key(set, *key));
                if *timeout_ms != 0 {
                    text += &format!(" timeout {}", duration(*timeout_ms));
                }
                if let Some(data) = data {
                    text += &format!(" : {}", self.text(*data, Meaning::Number));
                }
                text + " }"
            }
            Expression::Reject(RejectWith::TcpReset) => "reject with tcp reset".to_owned(),
            Expression::Reject(RejectWith::IcmpUnreachable(code)) => match (self.family, code) {
                // Port unreachable is what `reject` alone means.
                (Family::V4, 3) | (Family::V6, 4) => "reject".to_owned(),
                (Family::V4, code) => format!("reject with icmp {code}"),
                (Family::V6, code) => format!("reject with icmpv6 {code}"),
            },
            Expression::Counter => "counter".to_owned(),
            _ => String::new(), // loads make no statement of their own
        }
    }

    fn load(&mut self, to: Register, length: u32, text: String, meaning: Meaning) {
        self.put(to, length, Value::Words { text, meaning });
    }

    /// What was in the registers, be it in part, is gone.
    fn put(&mut self, Register(to): Register, length: u32, value: Value) {
        let words = length.div_ceil(4);
        self.registers.retain(|at, old| *at + old.words <= to || to + words <= *at);
        self.registers.insert(to, Loaded { words, value });
    }

    fn bitwise(&mut self, Register(at): Register, mask: &[u8], xor: &[u8]) {
        if let Some(loaded) = self.registers.get_mut(&at)
            && let Value::Words { text, meaning } = &mut loaded.value
        {
            let (text, meaning) = (std::mem::take(text), *meaning);
            loaded.value = Value::Bits { text, meaning, mask: mask.into(), xor: xor.into() };
        } else {
            self.registers.remove(&at);
        }
    }

    fn look_up(&mut self, map: &str, key: Register, value: Register) {
        let text = format!("{} map @{map}", self.key(map, key));
        let types = match set(map).and_then(|set| set.spec(self.family).data) {
            Some(SetData::Value(types)) => types,
            _ => &[],
        };
        let meaning = if let [field] = types { Meaning::Field(*field) } else { Meaning::Number };
        let length = types.iter().map(|field| field.padded_length()).sum();
        self.load(value, length, text, meaning);
    }

    /// The registers that make up a key of the set.
    fn key(&self, name: &str, Register(mut at): Register) -> String {
        let Some(set) = set(name) else { return unknown(Register(at)) };
        let mut fields = Vec::new();
        for field in set.spec(self.family).key {
            fields.push(self.text(Register(at), Meaning::Field(*field)));
            at += field.padded_length() / 4;
        }
        fields.join(" . ")
    }

    /// What a register holds; constants mean what is wanted there.
    fn text(&self, register: Register, wanted: Meaning) -> String {
        let Some(loaded) = self.registers.get(&register.0) else { return unknown(register) };
        match &loaded.value {
            Value::Constant(bytes) => constant(wanted, bytes),
            Value::Words { text, .. } => text.clone(),
            Value::Bits { text, meaning, mask, xor } => {
                let number = |bytes: &[u8]| constant(*meaning, bytes);
                let kept_but_set = mask.iter().zip(xor).all(|(mask, xor)| !mask == *xor);
                match (is_zero(xor), is_zero(&inverted(mask))) {
                    (true, _) => format!("{text} & {}", number(mask)),
                    (false, true) => format!("{text} ^ {}", number(xor)),
                    _ if kept_but_set => format!("{text} | {}", number(xor)),
                    _ => format!("{text} & {} ^ {}", number(mask), number(xor)),
                }
            }
        }
    }

    fn compare(&self, operation: Compare, register: Register, value: &[u8]) -> String {
        let loaded = self.registers.get(&register.0).map(|loaded| &loaded.value);
        let unequal = operation == Compare::NotEqual;
        let not = if unequal { "!= " } else { "" };
        match loaded {
            None | Some(Value::Constant(_)) => unknown(register),
            Some(Value::Words { text, meaning }) => {
                format!("{text} {not}{}", constant(*meaning, value))
            }
            Some(Value::Bits { text, meaning, mask, xor }) => {
                use DataType::{Ipv4Addr, Ipv6Addr};
                let number = constant(*meaning, value);
                let length = prefix_length(mask).filter(|_| is_zero(xor));
                let any = unequal && is_zero(value) && is_zero(xor);
                match (meaning, length) {
                    (Meaning::State | Meaning::Status, _) if any => {
                        format!("{text} {}", constant(*meaning, mask))
                    }
                    (Meaning::Field(Ipv4Addr | Ipv6Addr), Some(length)) => {
                        format!("{text} {not}{number}/{length}")
                    }
                    _ => {
                        let operator = if unequal { "!=" } else { "==" };
                        format!("{} {operator} {number}", self.text(register, *meaning))
                    }
                }
            }
        }
    }

    fn nat(&self, kind: NatKind, family: u8, address: Register, port: Register) -> String {
        let kind = match kind {
            NatKind::Source => "snat",
            NatKind::Destination => "dnat",
        };
        let (family, field) = match family {
            2 => ("ip", DataType::Ipv4Addr),
            _ => ("ip6", DataType::Ipv6Addr),
        };
        let to = self.text(address, Meaning::Field(field));
        // A map gives both at once.
        let both = self
            .registers
            .get(&address.0)
            .is_some_and(|loaded| port.0 + 1 == address.0 + loaded.words && port.0 > address.0);
        if both {
            return format!("{kind} {family} to {to}");
        }
        let port = self.text(port, Meaning::Field(DataType::InetService));
        format!("{kind} {family} to {to} : {port}")
    }
}

/// What `nft` refuses: the rule reads what it did not load.
fn unknown(Register(number): Register) -> String {
    format!("<register {number}>")
}

fn set(name: &str) -> Option<SetId> {
    SetId::ALL.into_iter().find(|set| set.name() == name)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn inverted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}
