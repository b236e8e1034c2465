//! How traffic of this node's own pods is told from other traffic.

use netlink::{Family, Prefix};

use super::address::network;
use super::error::{Error, Given};
use super::settings::Settings;

/// What makes a packet one of a local pod. It decides the short-circuits of
/// `externalTrafficPolicy: Local`, and which traffic to cluster IPs comes from outside the cluster
/// and is masqueraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalDetection {
    /// Its source is in one of these networks; at most one per family.
    ClusterCidr(Vec<Prefix>),
    /// Its source is in a pod CIDR of this node's Node object.
    NodeCidr,
    /// It came in through this bridge.
    BridgeInterface(String),
    /// It came in through an interface whose name begins so.
    InterfaceNamePrefix(String),
    /// Nothing tells: no short-circuit, and nothing counts as coming from outside.
    None,
}

/// The longest name of a network interface: `IFNAMSIZ` less the final zero.
const INTERFACE_NAME: usize = 15;

/// Reads the settings; all of them must be right, even those of another mode.
pub(super) fn detection(
    settings: &Settings,
    warnings: &mut Vec<String>,
) -> Result<LocalDetection, Error> {
    let cidrs = settings.cluster_cidr.as_ref().map(cluster_cidrs).transpose()?;
    let bridge = settings.bridge_interface.as_ref();
    let bridge = bridge.map(|given| given.parse(interface_name)).transpose()?;
    let prefix = settings.interface_name_prefix.as_ref();
    let prefix = prefix.map(|given| given.parse(interface_name)).transpose()?;

    let mode = settings.detect_local_mode.as_ref().map(|given| given.parse(known_mode));
    let (detection, missing) = match mode.transpose()?.unwrap_or(LocalMode::ClusterCidr) {
        LocalMode::ClusterCidr => {
            (cidrs.map(LocalDetection::ClusterCidr), "clusterCIDR (--cluster-cidr)")
        }
        LocalMode::NodeCidr => (Some(LocalDetection::NodeCidr), ""),
        LocalMode::BridgeInterface => (
            bridge.map(LocalDetection::BridgeInterface),
            "detectLocal.bridgeInterface (--pod-bridge-interface)",
        ),
        LocalMode::InterfaceNamePrefix => (
            prefix.map(LocalDetection::InterfaceNamePrefix),
            "detectLocal.interfaceNamePrefix (--pod-interface-name-prefix)",
        ),
    };
    Ok(detection.unwrap_or_else(|| {
        warnings.push(format!(
            "{missing} is not set: traffic of local pods is not told from other traffic"
        ));
        LocalDetection::None
    }))
}

/// `detectLocalMode`, without what belongs to it.
enum LocalMode {
    ClusterCidr,
    NodeCidr,
    BridgeInterface,
    InterfaceNamePrefix,
}

fn known_mode(text: &str) -> Result<LocalMode, &'static str> {
    match text {
        "ClusterCIDR" => Ok(LocalMode::ClusterCidr),
        "NodeCIDR" => Ok(LocalMode::NodeCidr),
        "BridgeInterface" => Ok(LocalMode::BridgeInterface),
        "InterfaceNamePrefix" => Ok(LocalMode::InterfaceNamePrefix),
        _ => Err("must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"),
    }
}

pub(super) fn cluster_cidrs(given: &Given<Vec<String>>) -> Result<Vec<Prefix>, Error> {
    let whole = Given { value: given.value.join(","), setting: given.setting.clone() };
    whole.parse(|_| {
        let cidrs = given
            .value
            .iter()
            .map(|text| network(text.trim()))
            .collect::<Result<Vec<Prefix>, String>>()?;
        for family in [Family::V4, Family::V6] {
            if cidrs.iter().filter(|cidr| cidr.family() == family).count() > 1 {
                return Err(format!("more than one {family} network"));
            }
        }
        Ok(cidrs)
    })
}

fn interface_name(text: &str) -> Result<String, String> {
    if text.len() > INTERFACE_NAME {
        return Err(format!("longer than an interface name can be ({INTERFACE_NAME} bytes)"));
    }
    if text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return Err("not an interface name".to_owned());
    }
    Ok(text.to_owned())
}
