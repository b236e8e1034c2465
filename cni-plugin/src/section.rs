//! Typed access to a JSON object; every error names the key and the value.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{CniError, Result};

/// An object of the configuration and where it is.
#[derive(Clone)]
pub(crate) struct Section<'a> {
    object: &'a Map<String, Value>,
    path: String,
}

impl<'a> Section<'a> {
    pub(crate) fn root(value: &'a Value) -> Result<Section<'a>> {
        let object = value
            .as_object()
            .ok_or_else(|| CniError::config("the network configuration is not a JSON object"))?;
        Ok(Section { object, path: String::new() })
    }

    /// The path of a key, as a person would write it.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key; `null` is as good as absent.
    ///
    /// Capital letters do not matter, as for plugins in Go: containerd writes `HostPort`, `IngressRate`.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        let alike = || self.object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        let value = self.object.get(key).or_else(|| alike().map(|(_, value)| value));
        value.filter(|value| !value.is_null())
    }

    pub(crate) fn error(&self, key: &str, problem: impl Display) -> CniError {
        let value = self.value(key).map(|v| format!(" {v}")).unwrap_or_default();
        CniError::config(format!("{}{value}: {problem}", self.path_of(key)))
    }

    fn typed<T>(
        &self,
        key: &str,
        kind: &str,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.value(key)
            .map(|value| get(value).ok_or_else(|| self.error(key, format_args!("must be {kind}"))))
            .transpose()
    }

    pub(crate) fn bool(&self, key: &str) -> Result<bool> {
        Ok(self.optional_bool(key)?.unwrap_or(false))
    }

    pub(crate) fn optional_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A number between `min` and `max`, both included.
    pub(crate) fn number(&self, key: &str, min: u64, max: u64) -> Result<Option<u64>> {
        self.typed(key, &format!("a whole number from {min} to {max}"), |value| {
            value.as_u64().filter(|number| (min..=max).contains(number))
        })
    }

    /// A string in the notation of `T`; an empty one is as good as absent.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>> {
        let text = self.string(key)?.filter(|text| !text.is_empty());
        text.map(|text| text.parse().map_err(|e| self.error(key, e))).transpose()
    }

    /// A list of strings in the notation of `T`.
    pub(crate) fn parsed_list<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Vec<T>> {
        self.list(key)?
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let place = format!("{}[{at}] {value}", self.path_of(key));
                let text = value
                    .as_str()
                    .ok_or_else(|| CniError::config(format!("{place}: must be a string")))?;
                text.parse().map_err(|e| CniError::config(format!("{place}: {e}")))
            })
            .collect()
    }

    pub(crate) fn list(&self, key: &str) -> Result<&'a [Value]> {
        Ok(self.typed(key, "a list", Value::as_array)?.map(Vec::as_slice).unwrap_or_default())
    }

    pub(crate) fn section(&self, key: &str) -> Result<Option<Section<'a>>> {
        let object = self.typed(key, "an object", Value::as_object)?;
        Ok(object.map(|object| Section { object, path: self.path_of(key) }))
    }

    /// A list of objects.
    pub(crate) fn sections(&self, key: &str) -> Result<Vec<Section<'a>>> {
        self.list(key)?
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let path = format!("{}[{at}]", self.path_of(key));
                let object = value.as_object().ok_or_else(|| {
                    CniError::config(format!("{path} {value}: must be an object"))
                })?;
                Ok(Section { object, path })
            })
            .collect()
    }

    /// A value that deserializes as `T`.
    pub(crate) fn decoded<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.value(key)
            .map(|value| T::deserialize(value).map_err(|e| self.error(key, e)))
            .transpose()
    }
}
