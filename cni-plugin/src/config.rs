//! The network configuration on standard input, parsed once into types that cannot be wrong.

use std::net::IpAddr;

use netlink::{MacAddress, Prefix};
use serde_json::Value;

use crate::bandwidth::Bandwidth;
use crate::daemon::Daemon;
use crate::environment::{Environment, check_interface_name, is_identifier};
use crate::error::{CniError, Result, code};
use crate::hostport::PortMapping;
use crate::ipam::{self, Dns};
use crate::result::Version;
use crate::section::Section;
use crate::vlan::Vlans;

/// How pods are linked to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// veth pairs on a bridge.
    Bridge,
    /// veth pairs with host routes.
    Routed,
}

/// Who gives addresses.
#[derive(Clone, Debug)]
pub(crate) enum Ipam {
    /// Nobody: the interface is for link-layer use.
    None,
    /// We ourselves, in the format of `host-local`.
    HostLocal(ipam::Config),
    /// Another plugin, found in `CNI_PATH`.
    Delegate(String),
}

/// The overlay's settings as far as ADD needs them.
#[derive(Clone, Debug)]
pub(crate) struct OverlayConfig {
    pub(crate) overlay: overlay::Config,
    /// `None`: somebody else keeps the overlay.
    pub(crate) nodes: Option<Vec<overlay::Node>>,
}

/// A network configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) version: Version,
    pub(crate) name: String,
    pub(crate) mode: Mode,
    pub(crate) bridge: String,
    pub(crate) is_gateway: bool,
    pub(crate) is_default_gateway: bool,
    pub(crate) force_address: bool,
    pub(crate) hairpin: bool,
    pub(crate) promiscuous: bool,
    pub(crate) port_isolation: bool,
    pub(crate) mac_spoof_check: bool,
    pub(crate) detect_duplicates: bool,
    pub(crate) container_interface_disabled: bool,
    /// Bytes; `None` is derived from the uplink.
    pub(crate) mtu: Option<u32>,
    pub(crate) vlans: Vlans,
    pub(crate) masquerade: bool,
    pub(crate) masquerade_exclude: Vec<Prefix>,
    pub(crate) ipam: Ipam,
    pub(crate) overlay: Option<OverlayConfig>,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) dns: Option<Dns>,
    pub(crate) port_mappings: Vec<PortMapping>,
    pub(crate) bandwidth: Bandwidth,
    /// Addresses that were asked for by any of the three channels.
    pub(crate) requested_ips: Vec<IpAddr>,
    pub(crate) requested_mac: Option<MacAddress>,
    /// As given: chained plugins hand it on unchanged.
    pub(crate) prev_result: Option<Value>,
    /// The input as it came, for delegates.
    pub(crate) input: Vec<u8>,
}

/// Reads only the version, which every answer must carry; `None` if it is not readable.
pub(crate) fn version_of(input: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(input).ok()?;
    Some(value.get("cniVersion")?.as_str()?.to_owned())
}

/// The version of a configuration. An error with the supported versions if it is none of them.
pub(crate) fn version_in(input: &[u8]) -> Result<Version> {
    let value: Value = serde_json::from_slice(input).map_err(|error| {
        CniError::new(code::DECODE, format!("the network configuration is not JSON: {error}"))
    })?;
    version(&Section::root(&value)?)
}

impl Config {
    /// Parses the input of ADD and CHECK.
    pub(crate) fn parse(input: Vec<u8>, environment: &Environment) -> Result<Config> {
        let value: Value = serde_json::from_slice(&input).map_err(|error| {
            CniError::new(code::DECODE, format!("the network configuration is not JSON: {error}"))
        })?;
        let root = Section::root(&value)?;
        let version = version(&root)?;
        let name = root.string("name")?.unwrap_or_default().to_owned();
        if !is_identifier(&name) {
            return Err(root.error(
                "name",
                "a network needs a name that begins with a letter or digit and holds only letters, digits, '_', '.' and '-'",
            ));
        }
        let runtime = root.section("runtimeConfig")?;
        let link = parse_link(&root)?;
        let config = Config {
            version,
            name,
            ipam: parse_ipam(&root, runtime.as_ref())?,
            overlay: parse_overlay(&root)?,
            daemon: Daemon::parse(&root)?,
            dns: root.decoded("dns")?,
            port_mappings: match &runtime {
                Some(runtime) => PortMapping::parse_all(runtime)?,
                None => Vec::new(),
            },
            bandwidth: match &runtime {
                Some(runtime) => Bandwidth::parse(runtime)?,
                None => Bandwidth::default(),
            },
            requested_ips: requested_ips(&root, runtime.as_ref(), environment)?,
            requested_mac: requested_mac(&root, runtime.as_ref(), environment)?,
            prev_result: root.value("prevResult").cloned(),
            masquerade: root.bool("ipMasq")?,
            masquerade_exclude: networks(&root, "ipMasqExclude")?,
            input: Vec::new(),
            ..link
        };
        config.check_combinations(&root)?;
        Ok(Config { input, ..config })
    }

    fn check_combinations(&self, root: &Section<'_>) -> Result<()> {
        if self.hairpin && self.promiscuous {
            return Err(root.error("promiscMode", "cannot be combined with hairpinMode"));
        }
        if self.vlans.any() && self.is_gateway && self.mode == Mode::Bridge {
            return Err(root.error(
                "isGateway",
                "cannot be combined with vlan yet: the gateway's address would not be in the VLAN",
            ));
        }
        let layer_three = !matches!(self.ipam, Ipam::None);
        if self.container_interface_disabled && layer_three {
            return Err(root.error("disableContainerInterface", "cannot be combined with ipam"));
        }
        if self.mode == Mode::Routed {
            let bridge_only = [
                ("hairpinMode", self.hairpin),
                ("promiscMode", self.promiscuous),
                ("portIsolation", self.port_isolation),
                ("macspoofchk", self.mac_spoof_check),
                ("vlan", self.vlans.any()),
                ("disableContainerInterface", self.container_interface_disabled),
            ];
            // Hairpin is a routed link's nature: the packet goes to the node and comes back.
            for (key, set) in &bridge_only[1..] {
                if *set {
                    return Err(root.error(key, "is for mode \"bridge\""));
                }
            }
            if !layer_three && self.prev_result.is_none() {
                return Err(root.error("ipam", "mode \"routed\" needs addresses"));
            }
        }
        Ok(())
    }

    /// Whether this plugin attaches the pod. Without addresses to give, it works on the interface that the
    /// plugin before it made.
    pub(crate) fn is_chained(&self) -> bool {
        self.prev_result.is_some() && matches!(self.ipam, Ipam::None)
    }

    /// The gateway addresses that pods use are this node's.
    pub(crate) fn serves_gateway(&self) -> bool {
        self.is_gateway || self.mode == Mode::Routed
    }
}

fn version(root: &Section<'_>) -> Result<Version> {
    // What a missing version means (0.1.0) is not supported either.
    let text = root.string("cniVersion")?.unwrap_or("0.1.0");
    Version::parse(text).ok_or_else(|| {
        let supported = Version::ALL.map(Version::as_str).join(", ");
        CniError::new(code::INCOMPATIBLE_VERSION, format!("cniVersion {text:?} is not supported"))
            .details(format!("supported versions: {supported}"))
    })
}

/// The link's own settings; the rest is filled in by the caller.
fn parse_link(root: &Section<'_>) -> Result<Config> {
    let mode = match root.string("mode")?.unwrap_or("bridge") {
        "bridge" => Mode::Bridge,
        "routed" => Mode::Routed,
        _ => return Err(root.error("mode", "use \"bridge\" or \"routed\"")),
    };
    let bridge = root.string("bridge")?.filter(|b| !b.is_empty()).unwrap_or("viaduct0").to_owned();
    check_interface_name(&bridge).map_err(|fault| root.error("bridge", fault))?;
    let is_default_gateway = root.bool("isDefaultGateway")?;
    let mtu = root.number("mtu", 0, 65_535)?.filter(|mtu| *mtu != 0).map(|mtu| mtu as u32);
    if mtu.is_some_and(|mtu| mtu < 68) {
        return Err(root.error("mtu", "IPv4 needs at least 68"));
    }
    Ok(Config {
        version: Version::LATEST,
        name: String::new(),
        mode,
        bridge,
        is_gateway: root.bool("isGateway")? || is_default_gateway,
        is_default_gateway: is_default_gateway || mode == Mode::Routed,
        force_address: root.bool("forceAddress")?,
        hairpin: root.bool("hairpinMode")?,
        promiscuous: root.bool("promiscMode")?,
        port_isolation: root.bool("portIsolation")?,
        mac_spoof_check: root.bool("macspoofchk")?,
        detect_duplicates: root.bool("enabledad")?,
        container_interface_disabled: root.bool("disableContainerInterface")?,
        mtu,
        vlans: Vlans::parse(root)?,
        masquerade: false,
        masquerade_exclude: Vec::new(),
        ipam: Ipam::None,
        overlay: None,
        daemon: None,
        dns: None,
        port_mappings: Vec::new(),
        bandwidth: Bandwidth::default(),
        requested_ips: Vec::new(),
        requested_mac: None,
        prev_result: None,
        input: Vec::new(),
    })
}

/// Networks as CIDRs without host bits.
fn networks(root: &Section<'_>, key: &str) -> Result<Vec<Prefix>> {
    let list: Vec<Prefix> = root.parsed_list(key)?;
    match list.iter().position(|prefix| !prefix.is_network()) {
        Some(at) => Err(CniError::config(format!(
            "{}[{at}] \"{}\": has host bits set, write {}",
            root.path_of(key),
            list[at],
            list[at].network()
        ))),
        None => Ok(list),
    }
}

pub(crate) fn parse_ipam(root: &Section<'_>, runtime: Option<&Section<'_>>) -> Result<Ipam> {
    let Some(section) = root.section("ipam")? else { return Ok(Ipam::None) };
    match section.string("type")?.unwrap_or_default() {
        "" => Ok(Ipam::None),
        "host-local" => {
            let ranges = runtime.and_then(|runtime| runtime.value("ipRanges"));
            let value = root.value("ipam").unwrap_or(&Value::Null);
            Ok(Ipam::HostLocal(ipam::Config::parse(value, ranges)?))
        }
        other if other.contains('/') => Err(section.error("type", "must be a name, not a path")),
        other => Ok(Ipam::Delegate(other.to_owned())),
    }
}

fn parse_overlay(root: &Section<'_>) -> Result<Option<OverlayConfig>> {
    let Some(section) = root.section("overlay")? else { return Ok(None) };
    let backend = match section.string("type")?.unwrap_or("none") {
        "none" => return Ok(None),
        "vxlan" => overlay::Backend::Vxlan(overlay::Vxlan {
            vni: section.number("vni", 1, 0x00ff_ffff)?.unwrap_or(1) as u32,
            port: section.number("port", 1, 65_535)?.unwrap_or(8472) as u16,
            direct_routing: section.bool("directRouting")?,
            tx_checksum_offload: section.optional_bool("txChecksumOffload")?,
        }),
        "host-gw" => overlay::Backend::HostGw,
        _ => return Err(section.error("type", "use \"vxlan\", \"host-gw\" or \"none\"")),
    };
    let device = section.string("device")?.filter(|d| !d.is_empty()).map(str::to_owned);
    let nodes: Option<Vec<overlay::Node>> = match section.value("nodes") {
        None => None,
        Some(_) => Some(parse_nodes(&section)?),
    };
    let node_name = section.string("nodeName")?.unwrap_or_default().to_owned();
    if let Some(nodes) = &nodes
        && !nodes.iter().any(|node| node.name == node_name)
    {
        return Err(section.error("nodeName", "must be the name of one of overlay.nodes"));
    }
    Ok(Some(OverlayConfig { overlay: overlay::Config { backend, node_name, device }, nodes }))
}

fn parse_nodes(overlay: &Section<'_>) -> Result<Vec<overlay::Node>> {
    overlay
        .sections("nodes")?
        .iter()
        .map(|node| {
            let name = node.string("name")?.filter(|name| !name.is_empty());
            let address = node.parsed("address")?.map(|ip: IpAddr| ip.to_canonical());
            let pod_cidrs = networks(node, "podCIDRs")?;
            Ok(overlay::Node {
                name: name.ok_or_else(|| node.error("name", "every node needs a name"))?.to_owned(),
                address: address.ok_or_else(|| node.error("address", "every node needs one"))?,
                addresses: node
                    .parsed_list("addresses")?
                    .into_iter()
                    .map(|ip: IpAddr| ip.to_canonical())
                    .collect(),
                pod_cidrs,
                vtep_mac: node.parsed("vtepMAC")?,
            })
        })
        .collect()
}

/// `runtimeConfig.ips` before `args.cni.ips` before `IP` in `CNI_ARGS`. A prefix length is dropped:
/// the range decides it.
fn requested_ips(
    root: &Section<'_>,
    runtime: Option<&Section<'_>>,
    environment: &Environment,
) -> Result<Vec<IpAddr>> {
    for section in [runtime.cloned(), cni_args(root)?].into_iter().flatten() {
        let requested: Vec<RequestedIp> = section.parsed_list("ips")?;
        if !requested.is_empty() {
            return Ok(requested.into_iter().map(|ip| ip.0).collect());
        }
    }
    let Some(list) = environment.arg("IP").filter(|list| !list.is_empty()) else {
        return Ok(Vec::new());
    };
    list.split(',')
        .map(|text| {
            let parsed = text.trim().parse::<RequestedIp>();
            parsed.map(|ip| ip.0).map_err(|e| {
                CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_ARGS IP={text}: {e}"))
            })
        })
        .collect()
}

/// `10.0.0.5` or `10.0.0.5/24`.
struct RequestedIp(IpAddr);

impl std::str::FromStr for RequestedIp {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<RequestedIp, String> {
        if text.contains('/') {
            return text
                .parse::<Prefix>()
                .map(|p| RequestedIp(p.address().to_canonical()))
                .map_err(|e| e.to_string());
        }
        // Plugins in Go read an IPv4-mapped address as IPv4.
        let parsed = text.parse().map(|ip: IpAddr| RequestedIp(ip.to_canonical()));
        parsed.map_err(|_| "is not an IP address".to_owned())
    }
}

/// `runtimeConfig.mac` before `args.cni.mac` before `MAC` in `CNI_ARGS`.
fn requested_mac(
    root: &Section<'_>,
    runtime: Option<&Section<'_>>,
    environment: &Environment,
) -> Result<Option<MacAddress>> {
    const UNICAST: &str = "must be a unicast address";
    for section in [runtime.cloned(), cni_args(root)?].into_iter().flatten() {
        if let Some(mac) = section.parsed::<MacAddress>("mac")? {
            return if mac.is_unicast() {
                Ok(Some(mac))
            } else {
                Err(section.error("mac", UNICAST))
            };
        }
    }
    let Some(text) = environment.arg("MAC").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let invalid = |problem: String| {
        CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_ARGS MAC={text}: {problem}"))
    };
    match text.parse::<MacAddress>() {
        Ok(mac) if mac.is_unicast() => Ok(Some(mac)),
        Ok(_) => Err(invalid(UNICAST.to_owned())),
        Err(error) => Err(invalid(error.to_string())),
    }
}

fn cni_args<'a>(root: &Section<'a>) -> Result<Option<Section<'a>>> {
    match root.section("args")? {
        Some(args) => args.section("cni"),
        None => Ok(None),
    }
}
