//! The documents in a file: split first, then parsed one by one, so that one cannot spoil another.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::api::Document;

/// A document with the line on which it begins, or what is wrong with it.
pub(super) struct Parsed {
    /// From 1.
    pub(super) line: usize,
    /// The document, or the message.
    pub(super) document: Result<Document, String>,
}

/// Hands every document of a file to `each`; those in Lists one by one.
pub(super) fn parse(text: &str, json: bool, each: &mut dyn FnMut(Parsed)) {
    if json { parse_json(text, each) } else { parse_yaml(text, each) }
}

fn parse_yaml(text: &str, each: &mut dyn FnMut(Parsed)) {
    let (mut start, mut start_line) = (0, 1);
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_separator = line.starts_with("---")
            && line[3..].chars().next().is_none_or(|next| next.is_whitespace());
        if is_separator {
            yaml_document(&text[start..at], start_line, each);
            // What follows the dashes on their line belongs to the document.
            (start, start_line) = (at + 3, number + 1);
        }
        at += line.len();
    }
    yaml_document(&text[start..], start_line, each);
}

fn yaml_document(text: &str, line: usize, each: &mut dyn FnMut(Parsed)) {
    let mut first = None;
    for (number, content) in text.lines().enumerate() {
        let content = content.trim();
        if !content.is_empty() && !content.starts_with('#') && content != "..." {
            first = Some(number);
            break;
        }
    }
    let Some(first) = first else { return };
    // A List of all Services of a large cluster is more than the library takes for harmless.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 200_000_000,
            max_nodes: 100_000_000,
            max_total_scalar_bytes: 1 << 30,
        },
    };
    match serde_saphyr::from_str_with_options::<Document>(text, options) {
        Ok(document) => flatten(document, line + first, each),
        Err(error) => {
            let inside = error.location().map_or(first, |l| (l.line() as usize).saturating_sub(1));
            let message = error.without_snippet().to_string();
            each(Parsed { line: line + inside, document: Err(one_line(&message)) });
        }
    }
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

/// A List's items, or the document itself.
fn flatten(document: Document, line: usize, each: &mut dyn FnMut(Parsed)) {
    let Some(item_kind) = document.kind.as_deref().and_then(list_of) else {
        return each(Parsed { line, document: Ok(document) });
    };
    for mut item in document.items.unwrap_or_default() {
        complete(&mut item, item_kind, document.api_version.as_deref());
        flatten(item, line, each);
    }
}

/// `Some("Service")` for `ServiceList`, `Some("")` for `List`.
fn list_of(kind: &str) -> Option<&str> {
    kind.strip_suffix("List")
}

/// Items of a typed list need not say what they are.
fn complete(item: &mut Document, kind: &str, version: Option<&str>) {
    if !kind.is_empty() {
        item.kind.get_or_insert_with(|| kind.to_owned());
        if item.api_version.is_none() {
            item.api_version = version.map(str::to_owned);
        }
    }
}

/// Just enough of a JSON document to see whether it is a List.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

fn parse_json(text: &str, each: &mut dyn FnMut(Parsed)) {
    let mut lines = Lines { text, at: 0, line: 1 };
    for next in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        match next {
            Ok(raw) => json_document(raw, &mut lines, each),
            Err(error) => {
                return each(Parsed { line: error.line(), document: Err(error.to_string()) });
            }
        }
    }
}

fn json_document(raw: &RawValue, lines: &mut Lines<'_>, each: &mut dyn FnMut(Parsed)) {
    let line = lines.of(raw);
    let head: Option<Head<'_>> = serde_json::from_str(raw.get()).ok();
    if let Some(Head { kind: Some(kind), api_version, items: Some(items) }) = head
        && let Some(item_kind) = list_of(&kind)
    {
        for item in items {
            let line = lines.of(item);
            json_object(item, line, &mut |mut parsed| {
                if let Ok(document) = &mut parsed.document {
                    complete(document, item_kind, api_version.as_deref());
                }
                each(parsed);
            });
        }
        return;
    }
    json_object(raw, line, each);
}

fn json_object(raw: &RawValue, line: usize, each: &mut dyn FnMut(Parsed)) {
    match serde_json::from_str::<Document>(raw.get()) {
        Ok(document) => each(Parsed { line, document: Ok(document) }),
        Err(error) => {
            let line = line + error.line().saturating_sub(1);
            each(Parsed { line, document: Err(error.to_string()) });
        }
    }
}

/// Line numbers of pieces of a text, asked in order.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn of(&mut self, raw: &RawValue) -> usize {
        let begin = raw.get().as_ptr() as usize - self.text.as_ptr() as usize;
        if let Some(between) = self.text.get(self.at..begin) {
            self.line += between.bytes().filter(|byte| *byte == b'\n').count();
            self.at = begin;
        }
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(text: &str, json: bool) -> Vec<String> {
        let mut found = Vec::new();
        parse(text, json, &mut |parsed| {
            let what = match parsed.document {
                Ok(document) => {
                    let name = document.metadata.and_then(|m| m.name).unwrap_or_default();
                    format!("{} {name}", document.kind.unwrap_or_default())
                }
                Err(_) => "broken".to_owned(),
            };
            found.push(format!("{}: {what}", parsed.line));
        });
        found
    }

    #[test]
    fn yaml_documents_are_found_with_their_lines() {
        let text = "# a comment\n---\nkind: Service\nmetadata:\n  name: a\n---\n\n---\nkind: [\n---\n\
                    # c\nkind: Node\nmetadata: {name: b}\n--- {kind: Node, metadata: {name: c}}\n";
        let found = summary(text, false);
        assert_eq!(found[0], "3: Service a");
        assert!(found[1].ends_with("broken"), "{found:?}");
        assert_eq!(&found[2..], ["12: Node b", "14: Node c"]);
    }

    #[test]
    fn a_separator_within_a_value_is_none() {
        let text =
            "kind: Service\nmetadata:\n  name: a\n  annotations:\n    x: |\n      ---\n      y\n";
        assert_eq!(summary(text, false), ["1: Service a"]);
    }

    #[test]
    fn json_documents_follow_one_another_and_lists_are_taken_apart() {
        let text = "{\"kind\":\"Node\",\"metadata\":{\"name\":\"a\"}}\n{\"kind\":\"List\",\"items\":[\n\
                    {\"kind\":\"Service\",\"metadata\":{\"name\":\"b\"}},\n{\"kind\":\"Service\",\"spec\":7},\n\
                    {\"kind\":\"Service\",\"metadata\":{\"name\":\"c\"}}]}";
        assert_eq!(summary(text, true), ["1: Node a", "3: Service b", "4: broken", "5: Service c"]);
        let typed = "{\"kind\":\"ServiceList\",\"apiVersion\":\"v1\",\"items\":[{\"metadata\":{\"name\":\"d\"}}]}";
        assert_eq!(summary(typed, true), ["1: Service d"]);
        assert_eq!(summary(typed, false), ["1: Service d"]);
    }
}
