//! The `ipam` section of a network configuration.

use std::net::IpAddr;
use std::path::PathBuf;

use netlink::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::range::{Range, RangeSet, refuse_overlaps};
use super::{Error, Result};

const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// A route for the pod, in the specification's notation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) dst: Prefix,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<u32>,
}

impl Route {
    /// A route without any option.
    pub(crate) fn to(dst: Prefix) -> Route {
        Route { dst, gw: None, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// DNS settings that are handed to the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) nameservers: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) options: Vec<String>,
}

/// A valid `ipam` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(super) range_sets: Vec<RangeSet>,
    pub(super) data_dir: PathBuf,
    routes: Vec<Route>,
    resolv_conf: Option<PathBuf>,
}

fn refused(key: &str, value: &Value, problem: impl std::fmt::Display) -> Error {
    Error::Config {
        key: key.to_owned(),
        value: Some(value.to_string()),
        problem: problem.to_string(),
    }
}

fn path(ipam: &Value, key: &str) -> Result<Option<PathBuf>> {
    match ipam.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            Ok(Some(text).filter(|text| !text.is_empty()).map(PathBuf::from))
        }
        Some(other) => Err(refused(&format!("ipam.{key}"), other, "must be a path")),
    }
}

fn range_sets(value: Option<&Value>, place: &str) -> Result<Vec<RangeSet>> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let list = value
        .as_array()
        .ok_or_else(|| refused(place, value, "must be a list of lists of ranges"))?;
    list.iter()
        .enumerate()
        .map(|(at, set)| RangeSet::parse(set, &format!("{place}[{at}]")))
        .collect()
}

impl Config {
    /// Reads the section. The runtime's ranges come first, then a single range that is written
    /// directly in the section, then `ranges`.
    pub(crate) fn parse(ipam: &Value, runtime_ranges: Option<&Value>) -> Result<Config> {
        let mut sets = range_sets(runtime_ranges, "runtimeConfig.ipRanges")?;
        if ipam.get("subnet").is_some_and(|subnet| !subnet.is_null()) {
            sets.push(RangeSet(vec![Range::parse(ipam, "ipam".to_owned())?]));
        }
        sets.extend(range_sets(ipam.get("ranges"), "ipam.ranges")?);
        if sets.is_empty() {
            let problem = "at least one range is needed".to_owned();
            return Err(Error::Config { key: "ipam.ranges".to_owned(), value: None, problem });
        }
        refuse_overlaps(&sets)?;
        let routes = match ipam.get("routes").filter(|routes| !routes.is_null()) {
            None => Vec::new(),
            Some(value) => Vec::deserialize(value).map_err(|e| refused("ipam.routes", value, e))?,
        };
        Ok(Config {
            range_sets: sets,
            data_dir: path(ipam, "dataDir")?.unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            routes,
            resolv_conf: path(ipam, "resolvConf")?,
        })
    }

    /// What removal needs of the section: the folder, and the range sets if they can be read.
    pub(crate) fn for_teardown(ipam: &Value) -> Config {
        let parsed = Config::parse(ipam, None).ok();
        let range_sets = parsed.map(|config| config.range_sets).unwrap_or_default();
        let data_dir = path(ipam, "dataDir").ok().flatten();
        let data_dir = data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        Config { range_sets, data_dir, routes: Vec::new(), resolv_conf: None }
    }

    /// An address with the length of the subnet whose range holds it.
    pub(crate) fn with_subnet(&self, address: std::net::IpAddr) -> Option<Prefix> {
        let range = self.range_sets.iter().find_map(|set| set.range_of(address))?;
        Prefix::new(address, range.subnet.length())
    }

    /// The routes that every pod gets.
    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// What the file at `resolvConf` says; nothing if there is none.
    pub(crate) fn dns(&self) -> Result<Dns> {
        let Some(path) = &self.resolv_conf else { return Ok(Dns::default()) };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            operation: "read ipam.resolvConf",
            path: path.clone(),
            source,
        })?;
        Ok(parse_resolv_conf(&text))
    }
}

/// The lines that resolv.conf(5) describes; comments and other lines are passed over.
fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_ascii_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resolv_conf_lines_become_dns() {
        let dns = parse_resolv_conf(
            "# comment\nnameserver 10.0.0.10\nnameserver fd00::a\nsearch a.b c.d\noptions ndots:5\ndomain x\n;z\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.10", "fd00::a"]);
        assert_eq!((dns.search.len(), dns.domain.as_str()), (2, "x"));
        assert_eq!(dns.options, ["ndots:5"]);
    }

    #[test]
    fn bad_sections_name_key_and_value() {
        for (ipam, words) in [
            (json!({}), "ipam.ranges"),
            (json!({"ranges": []}), "ipam.ranges"),
            (json!({"ranges": [[]]}), "ipam.ranges[0]"),
            (json!({"ranges": {}}), "ipam.ranges {}"),
            (json!({"ranges": [[{}]]}), "ipam.ranges[0][0].subnet"),
            (json!({"ranges": [[{"subnet": "10.0.0.1/24"}]]}), "\"10.0.0.1/24\": has host bits"),
            (json!({"ranges": [[{"subnet": "10.0.0.0/31"}]]}), "too small"),
            (json!({"ranges": [[{"subnet": "fd00::/127"}]]}), "too small"),
            (
                json!({"ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}]]}),
                "rangeStart \"10.0.1.1\"",
            ),
            (
                json!({"ranges": [[{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.255"}]]}),
                "rangeEnd",
            ),
            (
                json!({"ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}]]}),
                "before rangeStart",
            ),
            (
                json!({"ranges": [[{"subnet": "10.0.0.0/24", "gateway": "fd00::1"}]]}),
                "gateway \"fd00::1\"",
            ),
            (json!({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}), "mixes"),
            (
                json!({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.128/25"}]]}),
                "overlap",
            ),
            (
                json!({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/16"}]]}),
                "overlap",
            ),
            (json!({"subnet": "10.0.0.0/24", "ranges": [[{"subnet": "10.0.0.0/25"}]]}), "overlap"),
            (json!({"subnet": "10.0.0.0/24", "dataDir": 5}), "ipam.dataDir 5"),
            (json!({"subnet": "10.0.0.0/24", "routes": [{"dst": "x"}]}), "ipam.routes"),
        ] {
            let error = Config::parse(&ipam, None).unwrap_err();
            assert_eq!(error.code(), 7);
            assert!(error.to_string().contains(words), "{error} should say {words}");
        }
    }

    #[test]
    fn the_runtimes_ranges_come_first() {
        let ipam = json!({"subnet": "10.1.0.0/24", "ranges": [[{"subnet": "fd00::/64"}]]});
        let runtime = json!([[{"subnet": "10.9.0.0/24"}]]);
        let config = Config::parse(&ipam, Some(&runtime)).unwrap();
        let sets: Vec<String> = config.range_sets.iter().map(ToString::to_string).collect();
        assert_eq!(sets[0], "10.9.0.1-10.9.0.254");
        assert_eq!(sets[1], "10.1.0.1-10.1.0.254");
        assert_eq!(sets[2], "fd00::1-fd00::ffff:ffff:ffff:ffff");
    }
}
