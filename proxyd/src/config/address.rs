//! Where the servers listen: an address with or without a port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink::Prefix;

use super::error::{Error, Given};

/// A server of the daemon.
pub(super) struct Listener {
    pub(super) port: u16,
    /// Whether it listens on loopback alone, unless told otherwise.
    pub(super) loopback: bool,
}

/// `/healthz` and `/livez`.
pub(super) const HEALTHZ: Listener = Listener { port: 10256, loopback: false };
/// `/metrics` and the other pages.
pub(super) const METRICS: Listener = Listener { port: 10249, loopback: true };

impl Listener {
    /// The address to listen on; `None` if the user turned the server off.
    ///
    /// `address` may be empty, `IP`, or `IP:PORT`; `port` is the deprecated flag, which turns the
    /// server off with 0 and counts only where `address` has no port. `ipv6` says whether
    /// `bindAddress` is an IPv6 address, which moves the default there.
    pub(super) fn address(
        &self,
        address: Option<&Given<String>>,
        port: Option<&Given<i64>>,
        ipv6: bool,
    ) -> Result<Option<SocketAddr>, Error> {
        let port = match port {
            Some(given) => given.within(0..=65535)?,
            None => self.port,
        };
        if port == 0 {
            return Ok(None);
        }
        match address {
            None => Ok(Some(SocketAddr::new(self.default_ip(ipv6), port))),
            Some(given) if given.value.is_empty() => Ok(None),
            Some(given) => given.parse(|text| with_port(text, port)).map(Some),
        }
    }

    fn default_ip(&self, ipv6: bool) -> IpAddr {
        match (ipv6, self.loopback) {
            (false, false) => Ipv4Addr::UNSPECIFIED.into(),
            (false, true) => Ipv4Addr::LOCALHOST.into(),
            (true, false) => Ipv6Addr::UNSPECIFIED.into(),
            (true, true) => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

fn with_port(text: &str, port: u16) -> Result<SocketAddr, &'static str> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse() {
        return Ok(SocketAddr::new(ip, port));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err("the port must be from 1 to 65535"),
        Ok(address) => Ok(address),
        Err(_) => Err("must be an IP address, or an IP address and a port (IP:PORT, [IPv6]:PORT)"),
    }
}

/// A network: a prefix without host bits.
pub(super) fn network(text: &str) -> Result<Prefix, String> {
    let prefix: Prefix = text.parse().map_err(|error: netlink::PrefixError| error.to_string())?;
    if !prefix.is_network() {
        return Err(format!("{text} has host bits set: the network is {}", prefix.network()));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::super::error::Setting;
    use super::*;

    fn given<T>(value: T) -> Option<Given<T>> {
        Some(Given { value, setting: Setting::Flag("--x") })
    }

    fn healthz(text: &str) -> Result<Option<String>, String> {
        HEALTHZ
            .address(given(text.to_owned()).as_ref(), None, false)
            .map(|address| address.map(|address| address.to_string()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_port_is_added_where_there_is_none() {
        for (text, address) in [
            ("10.0.0.1", "10.0.0.1:10256"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("::", "[::]:10256"),
            ("[::1]", "[::1]:10256"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(healthz(text), Ok(Some(address.to_owned())));
        }
        assert_eq!(healthz(""), Ok(None));
    }

    #[test]
    fn rubbish_is_refused_by_the_name_of_the_setting() {
        for text in ["x", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "localhost:1", ":80", "[10"]
        {
            let error = healthz(text).unwrap_err();
            assert!(error.starts_with(&format!("--x: {text:?}: ")), "{error}");
        }
    }

    #[test]
    fn the_default_is_in_the_family_of_the_bind_address() {
        let default = |listener: Listener, ipv6| {
            listener.address(None, None, ipv6).unwrap().unwrap().to_string()
        };
        assert_eq!(default(HEALTHZ, false), "0.0.0.0:10256");
        assert_eq!(default(HEALTHZ, true), "[::]:10256");
        assert_eq!(default(METRICS, false), "127.0.0.1:10249");
        assert_eq!(default(METRICS, true), "[::1]:10249");
    }

    #[test]
    fn the_deprecated_port_fills_in_or_turns_off() {
        let at = |address: &str, port| {
            METRICS.address(given(address.to_owned()).as_ref(), given(port).as_ref(), false)
        };
        assert_eq!(at("10.0.0.1", 99).unwrap().unwrap().port(), 99);
        assert_eq!(at("10.0.0.1:80", 99).unwrap().unwrap().port(), 80);
        assert_eq!(at("10.0.0.1:80", 0).unwrap(), None);
        assert!(at("10.0.0.1", 65536).unwrap_err().to_string().starts_with("--x: "));
    }

    #[test]
    fn host_bits_are_refused_and_the_network_named() {
        assert!(network("10.0.0.1/8").unwrap_err().contains("10.0.0.0/8"));
        assert!(network("10.0.0.0").is_err());
        assert_eq!(network("fd00::/64").unwrap().to_string(), "fd00::/64");
    }
}
