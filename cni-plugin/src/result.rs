//! The result of ADD, in the shape of every supported version of the specification.

use std::net::IpAddr;

use netlink::{Family, MacAddress, Prefix};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{CniError, Result, code};
use crate::ipam::{Dns, Route};

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// All that are supported, oldest first.
    pub(crate) const ALL: [Version; 5] =
        [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    /// The newest.
    pub(crate) const LATEST: Version = Version::V1_1_0;

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

/// What ADD made.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct AddResult {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) ips: Vec<Ip>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
    /// Neighbours may remember an address with another MAC address. Not part of what is printed.
    #[serde(skip)]
    pub(crate) stale_neighbours: bool,
}

/// A network interface; with `sandbox` it is in the container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) mtu: Option<u32>,
    pub(crate) sandbox: String,
}

/// An address of one of the interfaces.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Ip {
    pub(crate) interface: Option<usize>,
    pub(crate) address: Prefix,
    pub(crate) gateway: Option<IpAddr>,
}

impl AddResult {
    /// Reads a result as a runtime (`prevResult`) or an IPAM plugin gives it. `null` is an empty one.
    pub(crate) fn parse(value: &Value, what: &str) -> Result<AddResult> {
        if value.is_null() {
            return Ok(AddResult::default());
        }
        AddResult::deserialize(value)
            .map_err(|error| CniError::new(code::DECODE, format!("{what}: {error}")))
    }

    /// The interface in the container that has this name, and its position.
    pub(crate) fn container_interface(&self, ifname: &str) -> Option<(usize, &Interface)> {
        let mut interfaces = self.interfaces.iter().enumerate();
        interfaces.find(|(_, i)| i.name == ifname && !i.sandbox.is_empty())
    }

    /// This result with that of the next plugin behind it.
    pub(crate) fn followed_by(mut self, next: AddResult) -> AddResult {
        let offset = self.interfaces.len();
        self.interfaces.extend(next.interfaces);
        self.ips.extend(
            next.ips
                .into_iter()
                .map(|ip| Ip { interface: ip.interface.map(|position| position + offset), ..ip }),
        );
        self.routes.extend(next.routes);
        if next.dns != Dns::default() {
            self.dns = next.dns;
        }
        self
    }

    /// Whether an interface has this name.
    pub(crate) fn has_interface(&self, name: &str) -> bool {
        self.interfaces.iter().any(|interface| interface.name == name)
    }

    /// The addresses of an interface; those that name none count for every one.
    pub(crate) fn ips_of(&self, interface: usize) -> impl Iterator<Item = &Ip> {
        self.ips.iter().filter(move |ip| ip.interface.is_none_or(|of| of == interface))
    }

    /// Whether there is an address of a family.
    pub(crate) fn has_family(&self, family: Family) -> bool {
        self.ips.iter().any(|ip| ip.address.family() == family)
    }

    /// The result in the shape of a version.
    pub(crate) fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".into(), version.as_str().into());
        let list = |values: Vec<Value>| Value::Array(values);
        if !self.interfaces.is_empty() {
            let interfaces = self.interfaces.iter().map(|i| interface_json(i, version)).collect();
            object.insert("interfaces".into(), list(interfaces));
        }
        if !self.ips.is_empty() {
            object.insert(
                "ips".into(),
                list(self.ips.iter().map(|ip| ip_json(ip, version)).collect()),
            );
        }
        if !self.routes.is_empty() {
            let routes = self.routes.iter().map(|route| route_json(route, version)).collect();
            object.insert("routes".into(), list(routes));
        }
        // Before 1.0.0 the key is there even if there is nothing to say.
        let dns = serde_json::to_value(&self.dns).unwrap_or_default();
        if version < Version::V1_0_0 || dns.as_object().is_some_and(|dns| !dns.is_empty()) {
            object.insert("dns".into(), dns);
        }
        Value::Object(object)
    }
}

fn interface_json(interface: &Interface, version: Version) -> Value {
    let mut object = Map::new();
    object.insert("name".into(), interface.name.as_str().into());
    if let Some(mac) = interface.mac {
        object.insert("mac".into(), mac.to_string().into());
    }
    if let (Some(mtu), true) = (interface.mtu, version >= Version::V1_1_0) {
        object.insert("mtu".into(), mtu.into());
    }
    if !interface.sandbox.is_empty() {
        object.insert("sandbox".into(), interface.sandbox.as_str().into());
    }
    Value::Object(object)
}

fn ip_json(ip: &Ip, version: Version) -> Value {
    let mut object = Map::new();
    if version < Version::V1_0_0 {
        object.insert(
            "version".into(),
            if ip.address.address().is_ipv4() { "4" } else { "6" }.into(),
        );
    }
    if let Some(interface) = ip.interface {
        object.insert("interface".into(), interface.into());
    }
    object.insert("address".into(), ip.address.to_string().into());
    if let Some(gateway) = ip.gateway {
        object.insert("gateway".into(), gateway.to_string().into());
    }
    Value::Object(object)
}

fn route_json(route: &Route, version: Version) -> Value {
    if version >= Version::V1_1_0 {
        return serde_json::to_value(route).unwrap_or_default();
    }
    let mut object = Map::new();
    object.insert("dst".into(), route.dst.to_string().into());
    if let Some(gateway) = route.gw {
        object.insert("gw".into(), gateway.to_string().into());
    }
    Value::Object(object)
}

/// The answer to VERSION.
pub(crate) fn version_json() -> Value {
    let supported = Version::ALL.map(Version::as_str);
    json!({ "cniVersion": Version::LATEST.as_str(), "supportedVersions": supported })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> AddResult {
        let value = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "mac": "0a:58:0a:01:00:02", "mtu": 1450, "sandbox": "/ns"}],
            "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 0},
                    {"address": "fd00::2/64", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}],
        });
        AddResult::parse(&value, "test").unwrap()
    }

    #[test]
    fn each_version_has_its_shape() {
        for version in Version::ALL {
            let json = sample().to_json(version);
            assert_eq!(json["cniVersion"], version.as_str());
            let old = version < Version::V1_0_0;
            assert_eq!(json["ips"][0].get("version").is_some(), old, "{json}");
            assert_eq!(json.get("dns").is_some(), old, "{json}");
            let newest = version == Version::LATEST;
            assert_eq!(json["interfaces"][0].get("mtu").is_some(), newest, "{json}");
            assert_eq!(json["routes"][0].get("mtu").is_some(), newest, "{json}");
        }
        assert_eq!(sample().to_json(Version::V0_4_0)["ips"][1]["version"], "6");
    }

    #[test]
    fn null_is_an_empty_result_and_garbage_is_an_error() {
        assert_eq!(AddResult::parse(&Value::Null, "x").unwrap(), AddResult::default());
        let error = AddResult::parse(&json!({"ips": [{"address": "10.0.0.1"}]}), "prevResult");
        assert!(error.unwrap_err().message.starts_with("prevResult: "));
    }
}
