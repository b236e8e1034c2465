//! The netlink messages of a plain bridge ADD (one IPv4 address, gateway, default route) and nothing
//! else: no configuration, no address management, no result.
//!
//! `floor ADD BRIDGE NAME ADDRESS GATEWAY NETNS`, `floor DEL NAME`.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use netlink::{MacAddress, Namespace, Prefix, Route, RouteSocket, Veth, VethPeer, sysctl};

fn main() -> netlink::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str).unwrap_or_default();
    match argument(1) {
        "ADD" => add(argument(2), argument(3), argument(4), argument(5), argument(6)),
        _ => RouteSocket::open()?.delete_link_by_name(argument(2)).map(drop),
    }
}

fn add(bridge: &str, name: &str, address: &str, gateway: &str, netns: &str) -> netlink::Result<()> {
    let container = Namespace::open(netns)?;
    let mut socket = RouteSocket::open()?;
    let mut inside = container.run(RouteSocket::open)??;
    let address: Prefix = address.parse().unwrap_or(Prefix::default_route(netlink::Family::V4));
    socket.route_to(std::net::IpAddr::from([192, 0, 2, 1]))?;
    let bridge = socket.link_by_name(bridge)?.map(|link| link.index);
    socket.addresses(bridge)?;
    socket.create_veth(&Veth {
        name,
        mac: MacAddress::for_address([0x0a, 0x56], address.address()),
        mtu: 1500,
        master: bridge,
        peer: VethPeer {
            name: "eth0",
            mac: MacAddress::for_address([0x0a, 0x58], address.address()),
            namespace: container.as_fd(),
        },
    })?;
    container.run(|| -> netlink::Result<()> {
        let missing = netlink::IfIndex(0);
        let link = inside.link_by_name("eth0")?.map_or(missing, |link| link.index);
        inside.add_address(link, address, false)?;
        inside.set_up(link)?;
        let default = Prefix::default_route(address.family());
        let gateway = gateway.parse().ok();
        inside.append_route(&Route { gateway, link: Some(link), ..Route::new(default) })
    })??;
    if let Some(host) = socket.link_by_name(name)? {
        socket.link_by_index(host.index)?;
    }
    sysctl::ensure("net/ipv4/ip_forward", "1").map(drop)
}
