//! The configuration as DEL, GC and STATUS read it: only what they need.
//!
//! A configuration that ADD refuses must not keep a pod from being deleted: the runtime would repeat DEL
//! without end. So DEL and GC take what they can use and leave everything else alone.

use serde_json::Value;

use crate::config::{Ipam, parse_ipam};
use crate::daemon::Daemon;
use crate::environment::is_identifier;
use crate::error::{CniError, Result, code};
use crate::ipam::{self, Attachment};
use crate::section::Section;

/// What removal needs of a network configuration.
pub(crate) struct Teardown {
    /// The network's name. `None` if it has no valid one, so that nothing can exist for it.
    pub(crate) network: Option<String>,
    pub(crate) ipam: Ipam,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) prev_result: Option<Value>,
    /// The input as it came, for delegates.
    pub(crate) input: Vec<u8>,
}

fn parse_json(input: &[u8]) -> Result<Value> {
    serde_json::from_slice(input).map_err(|error| {
        CniError::new(code::DECODE, format!("the network configuration is not JSON: {error}"))
    })
}

fn name(root: &Section<'_>) -> Result<String> {
    let name = root.string("name")?.unwrap_or_default();
    if is_identifier(name) {
        return Ok(name.to_owned());
    }
    Err(root.error(
        "name",
        "a network needs a name that begins with a letter or digit and holds only letters, digits, '_', '.' and '-'",
    ))
}

impl Teardown {
    /// Reads the configuration for DEL and GC.
    pub(crate) fn parse(input: Vec<u8>) -> Result<Teardown> {
        let value = parse_json(&input)?;
        let root = Section::root(&value)?;
        Ok(Teardown {
            network: name(&root).ok(),
            ipam: lenient_ipam(&root),
            daemon: Daemon::for_teardown(&root),
            prev_result: root.value("prevResult").cloned(),
            input,
        })
    }

    /// Reads the configuration for STATUS, whose answer depends on addresses and daemon alone.
    pub(crate) fn parse_for_status(input: Vec<u8>) -> Result<Teardown> {
        let value = parse_json(&input)?;
        let root = Section::root(&value)?;
        Ok(Teardown {
            network: Some(name(&root)?),
            ipam: parse_ipam(&root, root.section("runtimeConfig")?.as_ref())?,
            daemon: Daemon::parse(&root)?,
            prev_result: None,
            input,
        })
    }
}

/// Who gave the addresses, as far as it can be read.
fn lenient_ipam(root: &Section<'_>) -> Ipam {
    let ipam = root.value("ipam");
    let kind = ipam.and_then(|ipam| ipam.get("type")).and_then(Value::as_str).unwrap_or_default();
    match (ipam, kind) {
        (None, _) | (_, "") => Ipam::None,
        (Some(ipam), "host-local") => Ipam::HostLocal(ipam::Config::for_teardown(ipam)),
        // ADD refuses paths, so such a plugin gave no address.
        (_, kind) if kind.contains('/') => Ipam::None,
        (_, kind) => Ipam::Delegate(kind.to_owned()),
    }
}

/// The list of valid attachments that GC gets. libcni sends it under the specification's name and under
/// another that it once had.
pub(crate) fn valid_attachments(input: &[u8]) -> Result<Option<Vec<Attachment>>> {
    let value = parse_json(input)?;
    let root = Section::root(&value)?;
    let keys = ["cni.dev/valid-attachments", "cni.dev/attachments"];
    let Some(key) = keys.into_iter().find(|key| root.value(key).is_some()) else {
        return Ok(None);
    };
    let attachments = root.sections(key)?;
    let parsed = attachments.iter().map(|attachment| {
        let part = |key| -> Result<String> {
            let text = attachment.string(key)?.filter(|text| !text.is_empty());
            Ok(text.ok_or_else(|| attachment.error(key, "every attachment has one"))?.to_owned())
        };
        Ok(Attachment { container_id: part("containerID")?, ifname: part("ifname")? })
    });
    Ok(Some(parsed.collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(change: Value) -> Teardown {
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "viaduct",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]], "dataDir": "/x"}});
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Teardown::parse(config.to_string().into_bytes()).unwrap()
    }

    #[test]
    fn keys_that_removal_does_not_use_are_not_read() {
        for change in [
            json!({"cniVersion": "0.2.0"}),
            json!({"cniVersion": 7}),
            json!({"mtu": -1, "hairpinMode": true, "promiscMode": true, "mode": "warp"}),
            json!({"overlay": {"type": "vxlan", "nodeName": "n1", "nodes": []}}),
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 99999}], "mac": "x", "ips": 5}}),
            json!({"runtimeConfig": 5, "args": "x", "dns": 7, "prevResult": "x"}),
            json!({"onDaemonTimeout": "maybe"}),
        ] {
            let teardown = parse(change.clone());
            assert_eq!(teardown.network.as_deref(), Some("net"), "{change}");
            assert!(matches!(teardown.ipam, Ipam::HostLocal(_)), "{change}");
        }
        let empty = parse(json!({"ipam": {"type": "host-local", "ranges": [], "dataDir": "/x"}}));
        assert!(matches!(empty.ipam, Ipam::HostLocal(_)));
        assert!(matches!(parse(json!({"ipam": {"type": "a/b"}})).ipam, Ipam::None));
        assert_eq!(parse(json!({"name": "../x"})).network, None);
    }
}
