//! Labels and selectors.

use std::sync::Arc;

/// Labels of an object. Pods of one template share theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(name, _)| (**name).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// Whether nobody shares them.
    pub fn is_only_copy(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// All labels, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    /// Of two values of a key the last one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Labels {
        let mut all: Vec<(Arc<str>, Arc<str>)> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.reverse();
        all.dedup_by(|a, b| a.0 == b.0);
        all.reverse();
        Labels(all.into())
    }
}

/// One condition of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Requirement {
    /// The label is there and has one of these values.
    In(Arc<str>, Vec<Arc<str>>),
    /// The label is not there, or has none of these values.
    NotIn(Arc<str>, Vec<Arc<str>>),
    /// The label is there.
    Exists(Arc<str>),
    /// The label is not there.
    DoesNotExist(Arc<str>),
}

impl Requirement {
    /// Whether labels meet this.
    pub fn matches(&self, labels: &Labels) -> bool {
        let one_of =
            |values: &[Arc<str>], found: &str| values.iter().any(|value| **value == *found);
        match self {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| one_of(values, v)),
            Requirement::NotIn(key, values) => !labels.get(key).is_some_and(|v| one_of(values, v)),
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::DoesNotExist(key) => labels.get(key).is_none(),
        }
    }
}

/// All conditions must be met; without any, everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(pub Vec<Requirement>);

impl Selector {
    /// Whether labels meet every condition.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_mean_what_kubernetes_means() {
        let labels = Labels::from_iter([("a", "1"), ("e", "")]);
        let of = |values: &[&str]| values.iter().map(|v| (*v).into()).collect::<Vec<Arc<str>>>();
        for (requirement, expected) in [
            (Requirement::In("a".into(), of(&["1", "2"])), true),
            (Requirement::In("a".into(), of(&["2"])), false),
            (Requirement::In("b".into(), of(&["1"])), false),
            (Requirement::In("e".into(), of(&[""])), true),
            (Requirement::NotIn("a".into(), of(&["2"])), true),
            (Requirement::NotIn("a".into(), of(&["1"])), false),
            (Requirement::NotIn("b".into(), of(&["1"])), true),
            (Requirement::Exists("e".into()), true),
            (Requirement::Exists("b".into()), false),
            (Requirement::DoesNotExist("b".into()), true),
            (Requirement::DoesNotExist("a".into()), false),
        ] {
            assert_eq!(requirement.matches(&labels), expected, "{requirement:?}");
        }
        assert!(Selector::default().matches(&Labels::default()));
    }

    #[test]
    fn of_two_values_the_last_counts() {
        let labels = Labels::from_iter([("b", "0"), ("a", "1"), ("a", "2")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "0")]);
    }
}
