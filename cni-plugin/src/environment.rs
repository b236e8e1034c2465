//! The `CNI_*` environment: parsed once, with every fault in one message.

use std::path::PathBuf;

use crate::error::{CniError, Result, code};

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    fn parse(text: &str) -> Option<Command> {
        Some(match text {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            _ => return None,
        })
    }

    /// Whether the verb depends on `CNI_ARGS`. The others go on without what cannot be read.
    fn reads_args(self) -> bool {
        matches!(self, Command::Add | Command::Check)
    }

    fn needs_attachment(self) -> bool {
        matches!(self, Command::Add | Command::Del | Command::Check)
    }
}

/// The environment of one invocation. Fields that a verb does not use are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) command: Command,
    pub(crate) container_id: String,
    pub(crate) ifname: String,
    /// The container's namespace; DEL may come without.
    pub(crate) netns: Option<PathBuf>,
    /// `CNI_ARGS`, split.
    pub(crate) args: Vec<(String, String)>,
    /// Where delegates are found.
    pub(crate) path: Vec<PathBuf>,
    /// The container's namespace may be the plugin's own (`CNI_NETNS_OVERRIDE`).
    pub(crate) own_netns_allowed: bool,
}

impl Environment {
    /// Reads the environment through `get`; `None` if there is no `CNI_COMMAND` at all, that is, if
    /// somebody started the plugin by hand.
    pub(crate) fn parse(get: impl Fn(&str) -> Option<String>) -> Option<Result<Environment>> {
        let command = get("CNI_COMMAND")?;
        Some(Environment::of_command(&command, get))
    }

    fn of_command(command: &str, get: impl Fn(&str) -> Option<String>) -> Result<Environment> {
        let Some(command) = Command::parse(command) else {
            return Err(invalid(format!(
                "CNI_COMMAND is {command:?}: use ADD, DEL, CHECK, GC, STATUS or VERSION"
            )));
        };
        let present = |name: &str| get(name).filter(|value| !value.is_empty());
        let mut faults = Vec::new();
        let mut required = |name: &str, needed: bool| {
            let value = present(name);
            if needed && value.is_none() {
                faults.push(format!("{name} is missing"));
            }
            value.unwrap_or_default()
        };
        let attached = command.needs_attachment();
        let container_id = required("CNI_CONTAINERID", attached);
        let netns = required("CNI_NETNS", matches!(command, Command::Add | Command::Check));
        let ifname = required("CNI_IFNAME", attached);
        if attached && !container_id.is_empty() && !is_identifier(&container_id) {
            faults.push(format!(
                "CNI_CONTAINERID {container_id:?} must begin with a letter or digit and hold only letters, digits, '_', '.' and '-'"
            ));
        }
        if attached
            && !ifname.is_empty()
            && let Err(fault) = check_interface_name(&ifname)
        {
            faults.push(format!("CNI_IFNAME {ifname:?} {fault}"));
        }
        let args = parse_args(&present("CNI_ARGS").unwrap_or_default())
            .map_err(|fault| {
                if command.reads_args() {
                    faults.push(fault)
                }
            })
            .unwrap_or_default();
        if !faults.is_empty() {
            return Err(invalid(faults.join("; ")));
        }
        Ok(Environment {
            command,
            container_id,
            ifname,
            netns: (!netns.is_empty()).then(|| netns.into()),
            args,
            path: present("CNI_PATH")
                .map(|path| std::env::split_paths(&path).collect())
                .unwrap_or_default(),
            own_netns_allowed: matches!(
                present("CNI_NETNS_OVERRIDE").as_deref(),
                Some("1" | "t" | "T" | "true" | "TRUE" | "True")
            ),
        })
    }

    /// The value of a `CNI_ARGS` key.
    pub(crate) fn arg(&self, key: &str) -> Option<&str> {
        self.args.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

fn invalid(message: String) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, message)
}

/// What the specification allows as container ID and as network name.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// What the kernel allows as interface name.
pub(crate) fn check_interface_name(name: &str) -> std::result::Result<(), &'static str> {
    if name.len() > 15 {
        Err("is longer than 15 bytes")
    } else if name == "." || name == ".." {
        Err("is no interface name")
    } else if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        Err("contains a slash, a colon, or white space")
    } else {
        Ok(())
    }
}

/// `K=V;K=V`.
fn parse_args(text: &str) -> std::result::Result<Vec<(String, String)>, String> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Environment> {
        let get = |name: &str| {
            variables.iter().find(|(k, _)| *k == name).map(|(_, value)| (*value).to_owned())
        };
        Environment::parse(get).unwrap()
    }

    #[test]
    fn every_missing_variable_is_named_in_one_error() {
        let error = parse(&[("CNI_COMMAND", "ADD")]).unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT);
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            assert!(error.message.contains(name), "{error}");
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for ifname in ["a/b", "a:b", "a b", ".", "..", "0123456789abcdef", "a\tb", "a\u{7}b"] {
            let environment =
                [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", ifname)];
            assert!(parse(&environment).is_err(), "{ifname:?} was accepted");
        }
        for id in ["-a", "a/b", "a b", "ä", "_a"] {
            let environment =
                [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")];
            assert!(parse(&environment).is_err(), "{id:?} was accepted");
        }
    }

    #[test]
    fn arguments_are_pairs_and_values_may_hold_equal_signs() {
        let environment =
            parse(&[("CNI_COMMAND", "GC"), ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=a=b;")]);
        assert_eq!(environment.unwrap().arg("K8S_POD_NAME"), Some("a=b"));
        assert!(parse(&[("CNI_COMMAND", "GC"), ("CNI_ARGS", "nonsense")]).is_ok());
    }
}
