//! The alerts and the dashboard name no metric that the daemon lacks.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Metrics;
use crate::server::Health;

const ALERTS: &str = include_str!("../../../../deploy/monitoring/alerts.yaml");
const DASHBOARD: &str = include_str!("../../../../deploy/monitoring/dashboard.json");

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    expr: String,
}

/// The names of all samples that the page can have, from its own lines about types.
fn exposed() -> BTreeSet<String> {
    let metrics = Metrics::with_sysctls(|_| Some(1), crate::config::Mode::Nftables);
    super::tests::one_of_each_event(&metrics);
    let (events, _) = std::sync::mpsc::channel();
    let counters = crate::daemon::counters::scrape_hook(events);
    let ready = Health::new(&[], Duration::ZERO).scrape_hook();
    metrics.set_scrape_hook(Box::new(move |text| {
        [&counters, &ready].iter().for_each(|hook| hook(text))
    }));
    let text = metrics.render();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let samples = types.flat_map(|(name, kind)| {
        let endings: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        endings.iter().map(move |ending| format!("{name}{ending}"))
    });
    samples.collect()
}

/// The metrics that an expression names.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    const OPERATORS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];
    const AGGREGATIONS: [&str; 7] = ["sum", "min", "max", "avg", "count", "topk", "bottomk"];
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut rest = expression;
    let mut names = BTreeSet::new();
    while let Some(first) = rest.chars().next() {
        match first {
            '{' => rest = after(rest, '}'),
            '[' => rest = after(rest, ']'),
            '"' => rest = after(&rest[1..], '"'),
            _ if is_name(first) => {
                let (word, tail) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
                rest = tail.trim_start();
                if GROUPING.contains(&word) {
                    rest = if rest.starts_with('(') { after(rest, ')') } else { rest };
                } else if !first.is_ascii_digit()
                    && !rest.starts_with('(')
                    && !OPERATORS.contains(&word)
                    && !AGGREGATIONS.contains(&word)
                {
                    names.insert(word.to_owned());
                }
            }
            _ => rest = &rest[first.len_utf8()..],
        }
    }
    names
}

/// What comes after the next such character.
fn after(text: &str, end: char) -> &str {
    text.split_once(end).map_or("", |(_, rest)| rest)
}

/// Every `expr` of the dashboard, and what its variables ask for.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" => found.push(text.to_owned()),
                    Some(text) if text.starts_with("label_values(") => {
                        let metric = text["label_values(".len()..].split(',').next();
                        found.extend(metric.map(str::to_owned));
                    }
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn names_are_told_from_functions_labels_and_ranges() {
    let names = |expression| metrics_of(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(names("rate(a_total{x=\"b\"}[5m]) / 2.5e3 > 0"), ["a_total"]);
    assert_eq!(names("sum by (le, c) (rate(a[$__rate_interval] offset 5m))"), ["a"]);
    assert_eq!(names("a and on(instance) group_left(b) c:d unless e"), ["a", "c:d", "e"]);
    assert_eq!(names("sum(a) without (b) or topk(3, c)"), ["a", "c"]);
}

#[test]
fn alerts_and_dashboard_name_only_metrics_that_exist() {
    let exposed = exposed();
    let rules: Rules = serde_saphyr::from_str(ALERTS).expect("alerts.yaml");
    let rules = rules.groups.into_iter().flat_map(|group| group.rules);
    let alerts: Vec<String> = rules.map(|rule| rule.expr).collect();
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("dashboard.json");
    let mut panels = Vec::new();
    expressions(&dashboard, &mut panels);
    for (file, all) in [("alerts.yaml", alerts), ("dashboard.json", panels)] {
        assert!(!all.is_empty(), "{file} has no expression");
        for expression in all {
            let names = metrics_of(&expression);
            assert!(!names.is_empty(), "{file}: no metric in {expression}");
            let missing: Vec<_> = names.difference(&exposed).collect();
            assert!(missing.is_empty(), "{file}: there is no {missing:?}, named in {expression}");
        }
    }
}
