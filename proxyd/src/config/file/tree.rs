//! A YAML or JSON document as a tree that knows its lines, so that every complaint about a field
//! can say which and where.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::super::duration;
use super::super::error::{Error, Given, Setting};

/// A value of the document.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A field of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    key: String,
    line: u64,
    node: Node,
}

impl fmt::Display for Node {
    /// Scalars as they are, collections by their kind: enough to recognise the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Null => f.write_str("null"),
            Node::Bool(value) => value.fmt(f),
            Node::Int(value) => value.fmt(f),
            Node::Float(value) => value.fmt(f),
            Node::Text(value) => f.write_str(value),
            Node::List(_) => f.write_str("a list"),
            Node::Map(_) => f.write_str("a mapping"),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        // No field is that large; as a float it still fails with its own name.
        Ok(i64::try_from(value).map_or(Node::Float(value as f64), Node::Int))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push(Entry { key: key.value, line: key.referenced.line(), node });
        }
        Ok(Node::Map(entries))
    }
}

/// A mapping that is being read: what is taken is known, what is left at the end is not.
pub(super) struct Section {
    file: Arc<Path>,
    path: String,
    entries: Vec<Entry>,
}

impl Section {
    /// The document's outermost mapping.
    pub(super) fn parse(file: &Path, text: &str) -> Result<Section, Error> {
        let syntax = |reason| Error::Syntax { file: file.to_owned(), reason };
        match serde_saphyr::from_str(text) {
            Ok(Node::Map(entries)) => {
                Ok(Section { file: file.into(), path: String::new(), entries })
            }
            Ok(_) => Err(syntax("not a mapping of fields".to_owned())),
            Err(error) => Err(syntax(error.without_snippet().to_string())),
        }
    }

    /// Complains about the first field that nobody took.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.entries.first() {
            None => Ok(()),
            Some(entry) => Err(Error::UnknownField(self.setting(entry))),
        }
    }

    fn setting(&self, entry: &Entry) -> Setting {
        let path = format!("{}{}", self.path, entry.key);
        Setting::Field { path, file: self.file.clone(), line: entry.line }
    }

    /// Takes a field; null is the same as absent, as in Go.
    fn take(&mut self, key: &str) -> Option<Given<Node>> {
        let position = self.entries.iter().position(|entry| entry.key == key)?;
        let entry = self.entries.remove(position);
        let setting = self.setting(&entry);
        match entry.node {
            Node::Null => None,
            value => Some(Given { value, setting }),
        }
    }

    fn take_as<T>(
        &mut self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&Node) -> Option<T>,
    ) -> Result<Option<Given<T>>, Error> {
        let Some(given) = self.take(key) else { return Ok(None) };
        match convert(&given.value) {
            Some(value) => Ok(Some(Given { value, setting: given.setting })),
            None => Err(given.refuse(format!("must be {expected}"))),
        }
    }

    /// A text; empty is the same as absent, as everywhere in this kind.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<Given<String>>, Error> {
        let text = self.take_as(key, "a string", |node| match node {
            Node::Text(text) => Some(text.clone()),
            _ => None,
        })?;
        Ok(text.filter(|text| !text.value.is_empty()))
    }

    /// `true` or `false`.
    pub(super) fn switch(&mut self, key: &str) -> Result<Option<Given<bool>>, Error> {
        self.take_as(key, "true or false", |node| match node {
            Node::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A whole number.
    pub(super) fn int(&mut self, key: &str) -> Result<Option<Given<i64>>, Error> {
        self.take_as(key, "a whole number", |node| match node {
            Node::Int(value) => Some(*value),
            _ => None,
        })
    }

    /// A number.
    pub(super) fn float(&mut self, key: &str) -> Result<Option<Given<f32>>, Error> {
        self.take_as(key, "a number", |node| match node {
            Node::Int(value) => Some(*value as f32),
            Node::Float(value) => Some(*value as f32),
            _ => None,
        })
    }

    /// A duration that may be `0s` and mean it.
    pub(super) fn duration(&mut self, key: &str) -> Result<Option<Given<Duration>>, Error> {
        let Some(text) = self.take_as(key, "a duration such as 30s", |node| match node {
            Node::Text(text) => Some(text.clone()),
            _ => None,
        })?
        else {
            return Ok(None);
        };
        let value = text.parse(duration::parse)?;
        Ok(Some(Given { value, setting: text.setting }))
    }

    /// A duration where `0s` is the same as absent.
    pub(super) fn positive_duration(
        &mut self,
        key: &str,
    ) -> Result<Option<Given<Duration>>, Error> {
        Ok(self.duration(key)?.filter(|given| !given.value.is_zero()))
    }

    /// A list of texts; empty is the same as absent.
    pub(super) fn texts(&mut self, key: &str) -> Result<Option<Given<Vec<String>>>, Error> {
        let texts = self.take_as(key, "a list of strings", |node| match node {
            Node::List(nodes) => nodes
                .iter()
                .map(|node| match node {
                    Node::Text(text) => Some(text.clone()),
                    _ => None,
                })
                .collect(),
            _ => None,
        })?;
        Ok(texts.filter(|texts: &Given<Vec<String>>| !texts.value.is_empty()))
    }

    /// A field of any form that has no effect.
    pub(super) fn ignored(&mut self, key: &str) -> Option<Setting> {
        self.take(key).map(|given| given.setting)
    }

    /// A nested mapping; absent is the same as empty.
    pub(super) fn section(&mut self, key: &str) -> Result<Section, Error> {
        let entries = self.take_as(key, "a mapping", |node| match node {
            Node::Map(entries) => Some(entries.clone()),
            _ => None,
        })?;
        let path = format!("{}{key}.", self.path);
        let entries = entries.map_or_else(Vec::new, |given| given.value);
        Ok(Section { file: self.file.clone(), path, entries })
    }

    /// All fields of this mapping, each of which must be `true` or `false`.
    pub(super) fn switches(mut self) -> Result<Vec<Given<(String, bool)>>, Error> {
        let keys: Vec<String> = self.entries.iter().map(|entry| entry.key.clone()).collect();
        let mut switches = Vec::new();
        for key in keys {
            if let Some(Given { value, setting }) = self.switch(&key)? {
                switches.push(Given { value: (key, value), setting });
            }
        }
        Ok(switches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> Section {
        Section::parse(Path::new("f.yaml"), text).unwrap()
    }

    #[test]
    fn nested_fields_know_their_path_and_line() {
        let mut root = section("a: 1\nb:\n  c:\n    d: x\n");
        let mut c = root.section("b").unwrap().section("c").unwrap();
        let error = c.int("d").unwrap_err().to_string();
        assert_eq!(error, r#"b.c.d (f.yaml line 4): "x": must be a whole number"#);
        assert_eq!(root.finish().unwrap_err().to_string(), "unknown field a (f.yaml line 1)");
    }

    #[test]
    fn json_fields_have_lines_too() {
        let mut root = section("{\"b\": {\n \"c\": 1,\n \"d\": null}}");
        let mut b = root.section("b").unwrap();
        assert!(b.int("d").unwrap().is_none());
        assert_eq!(b.finish().unwrap_err().to_string(), "unknown field b.c (f.yaml line 2)");
        root.finish().unwrap();
    }

    #[test]
    fn what_is_no_single_mapping_is_a_syntax_error() {
        for text in ["", "- a\n", "a: [\n", "a: 1\na: 2\n", "a: 1\n---\nb: 1\n"] {
            let result = Section::parse(Path::new("f.yaml"), text);
            assert!(matches!(result, Err(Error::Syntax { .. })), "{text:?}");
        }
    }
}
