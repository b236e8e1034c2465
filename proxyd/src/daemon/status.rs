//! What `/status` and `proxyd status` tell.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// How many problems are listed; the rest is counted.
const LISTED: usize = 100;

#[derive(Default)]
struct Facts {
    values: HashMap<&'static str, Value>,
    /// By the part of the daemon that found them.
    problems: BTreeMap<&'static str, Vec<String>>,
}

/// The facts, told by the dataplane thread and read by HTTP requests.
#[derive(Default)]
pub struct Status(Mutex<Facts>);

impl Status {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        // What is behind it is plain data: whoever panicked left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a fact.
    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        self.facts().values.insert(name, value.into());
    }

    /// Takes a fact back.
    pub fn clear(&self, name: &'static str) {
        self.facts().values.remove(name);
    }

    /// Replaces the problems that one part of the daemon found.
    pub fn set_problems(&self, part: &'static str, problems: Vec<String>) {
        self.facts().problems.insert(part, problems);
    }

    /// Everything.
    pub fn to_json(&self) -> Value {
        let facts = self.facts();
        let mut all: serde_json::Map<String, Value> =
            facts.values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let problems: Vec<&String> = facts.problems.values().flatten().collect();
        all.insert("problems".into(), json!(problems[..problems.len().min(LISTED)]));
        all.insert("problemCount".into(), problems.len().into());
        Value::Object(all)
    }
}
