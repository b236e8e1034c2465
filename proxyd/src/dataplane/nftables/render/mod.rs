//! The tables as text that `nft -f` loads. Pure, and from the same elements and rules that are written to
//! the kernel.
//!
//! `value`: fields and ranges; `rule`: rules, by following what their instructions do to the registers;
//! `words`: what they load.

mod rule;
#[cfg(test)]
mod tests;
mod value;
mod words;

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::time::Instant;

use netlink::nftables::{Chain, DataType, Hook, Set, SetData, TableFamily};
use netlink::{Family, Prefix, from_number, to_number};

use super::chains::Chains;
use super::changes::{Changes, difference};
use super::element::{Data, Item, Key};
use super::layout::{Layout, Rule, base_chains};
use super::names::{SetId, Target, table};
use super::state::State;
use super::{FAMILIES, Node};
use crate::service::{Frontend, FrontendKey};
use value::{Fields, Range, Selectors, Types, address};

/// The tables as a start with an empty kernel makes them, in a form that replaces them at once and can be
/// loaded again. In the same order every time.
pub fn render<'a>(
    frontends: impl IntoIterator<Item = (FrontendKey, &'a Frontend)>,
    nodes: &[Node; 2],
) -> String {
    let mut state = State::default();
    let mut changes = Changes::default();
    for (family, node) in FAMILIES.into_iter().zip(nodes) {
        changes.differ(family, difference(Vec::new(), super::node_items(node, family)));
    }
    let mut entries: Vec<_> = frontends.into_iter().map(|(key, f)| (key, Some(f))).collect();
    state.sort(&mut entries);
    // Nothing was programmed before, so nothing depends on the time.
    let now = Instant::now();
    for (key, frontend) in entries {
        state.change(key, frontend, &mut changes, now, None);
    }
    Ruleset { changes: &changes, nodes }.to_string()
}

struct Ruleset<'a> {
    changes: &'a Changes,
    nodes: &'a [Node; 2],
}

impl Display for Ruleset<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for family in FAMILIES {
            // Adding it first makes deleting it right in any case.
            let name = TableName(family);
            writeln!(f, "add table {name}\ndelete table {name}")?;
        }
        for (family, node) in FAMILIES.into_iter().zip(self.nodes) {
            let layout = Layout { family, settings: &node.settings };
            write_table(f, &layout, self.changes)?;
        }
        Ok(())
    }
}

struct TableName(Family);

impl Display for TableName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let table = table(self.0);
        let family = match table.family {
            TableFamily::Inet => "inet",
            TableFamily::Ip => "ip",
            TableFamily::Ip6 => "ip6",
            TableFamily::Bridge => "bridge",
        };
        write!(f, "{family} {}", table.name)
    }
}

fn write_table(f: &mut Formatter<'_>, layout: &Layout<'_>, changes: &Changes) -> fmt::Result {
    let family = layout.family;
    writeln!(
        f,
        "table {} {{\n\tcomment \"{}\"",
        TableName(family),
        super::layout::version(family)
    )?;
    let mut items: HashMap<SetId, Vec<&Item>> = HashMap::new();
    for item in changes.added(family) {
        items.entry(item.set).or_default().push(item);
    }
    // The rules of base chains need it in any case.
    let mut targets = vec![Target::Reject];
    let mut chains = Chains::default();
    chains.insert(Target::Reject);
    targets.extend(changes.new_chains(family, &mut chains));
    targets.sort_unstable();
    let numbered = changes.new_numbers(family, &mut chains).into_iter().map(|(number, target)| {
        Item::new(SetId::Targets, Key::EMPTY.number(number), Data::Goto(target))
    });
    let numbered: Vec<Item> = numbered.collect();
    items.insert(SetId::Targets, numbered.iter().collect());
    for set in SetId::ALL {
        let own = items.get(&set).map(Vec::as_slice).unwrap_or_default();
        write_set(f, family, set, own, &chains)?;
    }
    let rules = layout.rules();
    for (name, hook) in base_chains() {
        let own: Vec<&Rule> = rules.iter().filter(|rule| rule.chain == name).collect();
        write_chain(f, family, &Chain { name, hook }, &own)?;
    }
    for target in targets {
        let rules = layout.target(target);
        let own: Vec<&Rule> = rules.iter().collect();
        write_chain(f, family, &Chain { name: &target.to_string(), hook: None }, &own)?;
    }
    writeln!(f, "}}")
}

fn write_set(
    f: &mut Formatter<'_>,
    family: Family,
    id: SetId,
    items: &[&Item],
    chains: &Chains,
) -> fmt::Result {
    let set = &id.spec(family);
    let kind = if set.data.is_some() { "map" } else { "set" };
    writeln!(f, "\n\t{kind} {} {{", set.name)?;
    match (id, set.data) {
        // `nft` lists types here too, but it takes what `numgen` draws for no mark, and loads the rules
        // only if the key is told by expressions. To the kernel both are the same bytes.
        (SetId::Endpoints(..), Some(SetData::Value(data))) => {
            writeln!(f, "\t\ttypeof {} : {}", Selectors(set.key), Selectors(data))?;
        }
        (_, Some(SetData::Value(data))) => {
            writeln!(f, "\t\ttype {} : {}", Types(set.key), Types(data))?;
        }
        (_, Some(SetData::Verdict)) => writeln!(f, "\t\ttype {} : verdict", Types(set.key))?,
        (_, None) => writeln!(f, "\t\ttype {}", Types(set.key))?,
    }
    if let Some(size) = set.dynamic {
        writeln!(f, "\t\tsize {size}\n\t\tflags dynamic,timeout")?;
    }
    if set.interval {
        writeln!(f, "\t\tflags interval")?;
    }
    if set.counters {
        writeln!(f, "\t\tcounter")?;
    }
    if let ([DataType::Ipv4Addr | DataType::Ipv6Addr], true) = (set.key, set.interval) {
        write_elements(f, ranges(items))?;
    } else {
        write_elements(f, items.iter().map(|item| ElementText { set, item, chains }))?;
    }
    writeln!(f, "\t}}")
}

fn write_chain(
    f: &mut Formatter<'_>,
    family: Family,
    chain: &Chain<'_>,
    rules: &[&Rule],
) -> fmt::Result {
    writeln!(f, "\n\tchain {} {{", chain.name)?;
    if let Some(Hook { kind, number, priority }) = chain.hook {
        let hook = match number {
            Hook::PREROUTING => "prerouting",
            Hook::INPUT => "input",
            Hook::FORWARD => "forward",
            Hook::OUTPUT => "output",
            _ => "postrouting",
        };
        writeln!(f, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
    }
    for Rule { expressions, comment, .. } in rules {
        writeln!(f, "\t\t{} comment \"{comment}\"", rule::statements(family, expressions))?;
    }
    writeln!(f, "\t}}")
}

fn write_elements(
    f: &mut Formatter<'_>,
    elements: impl Iterator<Item = impl Display>,
) -> fmt::Result {
    let mut any = false;
    for element in elements {
        let before = if any { ",\n\t\t\t     " } else { "\t\telements = { " };
        write!(f, "{before}{element}")?;
        any = true;
    }
    if any { writeln!(f, " }}") } else { Ok(()) }
}

struct ElementText<'a> {
    set: &'a Set<'a>,
    item: &'a Item,
    chains: &'a Chains,
}

impl Display for ElementText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ElementText { set, item, chains } = self;
        write!(f, "{}", Fields(set.key, item.key.as_slice()))?;
        if item.free_bits > 0 {
            let bits = set.key.last().map_or(0, |last| last.length() * 8);
            write!(f, "/{}", bits.saturating_sub(item.free_bits.into()))?;
        }
        match (&item.data, set.data) {
            (Data::Goto(target), Some(SetData::Value(types))) => {
                let number = chains.number(*target).unwrap_or_default();
                write!(f, " : {}", Fields(types, &number.to_ne_bytes()))
            }
            (Data::Goto(target), _) => write!(f, " : goto {target}"),
            (Data::Value(bytes), Some(SetData::Value(types))) => {
                write!(f, " : {}", Fields(types, bytes.as_slice()))
            }
            _ => Ok(()),
        }
    }
}

/// The ranges that begin and end at the keys, which are in their order.
fn ranges(items: &[&Item]) -> impl Iterator<Item = Range> {
    let next = items.iter().skip(1).map(Some).chain([None]);
    items.iter().zip(next).filter(|(item, _)| !item.range_end).filter_map(|(item, next)| {
        let first = address(item.key.as_slice())?;
        let family = Family::of(first);
        let last = match next.and_then(|after| address(after.key.as_slice())) {
            Some(after) => from_number(family, to_number(after).checked_sub(1)?),
            // What does not end goes up to the last address.
            None => Prefix::default_route(family).last(),
        };
        Some(Range { first, last })
    })
}
