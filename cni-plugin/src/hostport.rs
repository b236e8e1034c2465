//! Host ports: which ports of the node lead to which ports of a pod.

use std::net::IpAddr;

pub(crate) use attachment::{HostPort, Protocol};
use netlink::Family;
use netlink::conntrack::Conntrack;

use crate::error::{CniError, Result};
use crate::section::Section;

/// One entry of `runtimeConfig.portMappings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortMapping {
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) protocol: Protocol,
    /// Only on this address of the node; unspecified means every one of its family, `None` of both.
    pub(crate) host_ip: Option<IpAddr>,
}

impl PortMapping {
    pub(crate) fn parse_all(runtime: &Section<'_>) -> Result<Vec<PortMapping>> {
        let entries = runtime.sections("portMappings")?;
        entries.iter().filter_map(|entry| PortMapping::parse(entry).transpose()).collect()
    }

    /// `None` if no host port is asked for: runtimes list all ports of a container.
    fn parse(entry: &Section<'_>) -> Result<Option<PortMapping>> {
        if entry.number("hostPort", 0, 65_535)? == Some(0) {
            return Ok(None);
        }
        let port = |key| -> Result<u16> {
            let number = entry.number(key, 1, 65_535)?;
            Ok(number.ok_or_else(|| entry.error(key, "a port from 1 to 65535 is needed"))? as u16)
        };
        let protocol =
            match entry.string("protocol")?.unwrap_or("tcp").to_ascii_lowercase().as_str() {
                "tcp" | "" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                "sctp" => Protocol::Sctp,
                _ => return Err(entry.error("protocol", "use tcp, udp or sctp")),
            };
        // Plugins in Go read an IPv4-mapped address as IPv4.
        let host_ip: Option<IpAddr> = entry.parsed("hostIP")?.map(|ip: IpAddr| ip.to_canonical());
        if host_ip.is_some_and(|ip| ip.is_ipv6() && ip.is_loopback()) {
            return Err(entry.error(
                "hostIP",
                "cannot be served: IPv6 has no translation of loopback addresses, use 127.0.0.1 or an address of the node",
            ));
        }
        Ok(Some(PortMapping {
            host_port: port("hostPort")?,
            container_port: port("containerPort")?,
            protocol,
            host_ip,
        }))
    }

    fn to(&self, host_ip: Option<IpAddr>, pod_ip: IpAddr) -> HostPort {
        HostPort {
            protocol: self.protocol,
            host_ip,
            host_port: self.host_port,
            pod_ip,
            container_port: self.container_port,
        }
    }

    /// What the mapping means for a pod with these addresses: the first of each family is used.
    fn resolve(&self, at: usize, pod_ips: &[IpAddr]) -> Result<Vec<HostPort>> {
        let of = |family| pod_ips.iter().copied().find(|ip| Family::of(*ip) == family);
        let Some(host_ip) = self.host_ip else {
            let both = [of(Family::V4), of(Family::V6)].into_iter().flatten();
            return Ok(both.map(|pod_ip| self.to(None, pod_ip)).collect());
        };
        let family = Family::of(host_ip);
        let specific = Some(host_ip).filter(|ip| !ip.is_unspecified());
        match of(family) {
            Some(pod_ip) => Ok(vec![self.to(specific, pod_ip)]),
            // "Every IPv6 address" of the node, for a pod that has none: there is nothing to do.
            None if specific.is_none() => Ok(Vec::new()),
            None => Err(CniError::config(format!(
                "runtimeConfig.portMappings[{at}].hostIP \"{host_ip}\": the pod has no {family} address"
            ))),
        }
    }
}

/// All host ports of a pod with these addresses.
pub(crate) fn resolve(mappings: &[PortMapping], pod_ips: &[IpAddr]) -> Result<Vec<HostPort>> {
    let mut ports: Vec<HostPort> = Vec::new();
    for (at, mapping) in mappings.iter().enumerate() {
        for port in mapping.resolve(at, pod_ips)? {
            let same = ports.iter().find(|p| {
                (p.host_ip, p.protocol, p.host_port)
                    == (port.host_ip, mapping.protocol, mapping.host_port)
                    && Family::of(p.pod_ip) == Family::of(port.pod_ip)
            });
            match same {
                None => ports.push(port),
                Some(other) if *other == port => {}
                Some(_) => {
                    return Err(CniError::config(format!(
                        "runtimeConfig.portMappings[{at}].hostPort {}: is mapped twice with different targets",
                        mapping.host_port
                    )));
                }
            }
        }
    }
    Ok(ports)
}

/// Ends the UDP flows to these host ports that began under the translation of before.
pub(crate) fn forget_udp_flows(ports: &[(Family, u16)]) -> netlink::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let mut conntrack = Conntrack::open()?;
    for (family, port) in ports {
        for flow in conntrack.udp_flows_to_port(*family, *port)? {
            conntrack.delete_udp_flow(&flow)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mappings(value: serde_json::Value) -> Result<Vec<PortMapping>> {
        let runtime = json!({ "portMappings": value });
        PortMapping::parse_all(&Section::root(&runtime).unwrap())
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_port_without_host_ip_is_on_both_families_of_the_pod() {
        let mapping = mappings(json!([{"hostPort": 80, "containerPort": 8080}])).unwrap();
        assert_eq!(mapping[0].protocol, Protocol::Tcp);
        assert_eq!(resolve(&mapping, &ips(&["10.0.0.2", "fd00::2"])).unwrap().len(), 2);
        assert_eq!(resolve(&mapping, &ips(&["10.0.0.2"])).unwrap().len(), 1);
    }

    #[test]
    fn ports_are_read_as_containerd_writes_them() {
        let mapping = mappings(json!([
            {"HostPort": 8099, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": ""},
            {"HostPort": 0, "ContainerPort": 53, "Protocol": "udp", "HostIP": ""},
        ]));
        let mapping = mapping.unwrap();
        assert_eq!(
            (mapping.len(), mapping[0].host_port, mapping[0].container_port),
            (1, 8099, 8080)
        );
    }

    #[test]
    fn an_unspecified_host_ip_means_its_family_and_a_specific_one_needs_a_pod_address() {
        let any = mappings(json!([{"hostPort": 80, "containerPort": 80, "hostIP": "::"}])).unwrap();
        assert_eq!(resolve(&any, &ips(&["10.0.0.2"])).unwrap(), vec![]);
        assert_eq!(resolve(&any, &ips(&["fd00::2"])).unwrap()[0].host_ip, None);
        let one = mappings(json!([{"hostPort": 80, "containerPort": 80, "hostIP": "fd00::9"}]));
        let error = resolve(&one.unwrap(), &ips(&["10.0.0.2"])).unwrap_err();
        assert!(error.message.contains("portMappings[0].hostIP"), "{error}");
    }

    #[test]
    fn bad_mappings_name_their_key() {
        for (value, word) in [
            (json!([{"hostPort": 65536, "containerPort": 80}]), "portMappings[0].hostPort 65536"),
            (json!([{"hostPort": 80}]), "portMappings[0].containerPort"),
            (json!([{"hostPort": 80, "containerPort": 65536}]), "containerPort 65536"),
            (
                json!([{"hostPort": 80, "containerPort": 1, "protocol": "icmp"}]),
                "protocol \"icmp\"",
            ),
            (json!([{"hostPort": 80, "containerPort": 1, "hostIP": "nine"}]), "hostIP \"nine\""),
            (json!({"hostPort": 80}), "portMappings"),
        ] {
            let error = mappings(value).unwrap_err();
            assert!(error.message.contains(word), "{error} should name {word}");
        }
    }

    #[test]
    fn one_host_port_cannot_lead_to_two_places() {
        let twice = mappings(json!([
            {"hostPort": 80, "containerPort": 8080}, {"hostPort": 80, "containerPort": 8081}]));
        assert!(resolve(&twice.unwrap(), &ips(&["10.0.0.2"])).is_err());
    }
}
