//! ADD behind another plugin: its interface gets our host ports, masquerade and limits, and its
//! result is handed on unchanged.

use netlink::{Link, Namespace, RouteSocket};
use serde_json::Value;

use super::del::remove_kernel_state;
use super::{Request, network};
use crate::error::{CniError, Result};
use crate::netfilter;
use crate::result::AddResult;

pub(super) fn add(request: &Request, previous: &Value) -> Result<Value> {
    let container = network::open_namespace(request)?;
    let pod = Chained::find(request, previous, &container)?;
    let attached = pod.attach(request);
    if attached.is_err()
        && let Err(error) = remove_kernel_state(&request.owner())
    {
        eprintln!("viaduct: while undoing a failed ADD: {error}");
    }
    attached.map(|()| previous.clone())
}

pub(super) fn check(request: &Request, previous: &Value) -> Result<()> {
    let container = network::open_namespace(request)?;
    let mut pod = Chained::find(request, previous, &container)?;
    let wanted = network::wanted_netfilter(request, &pod.result, &pod.device, None)?;
    netfilter::check(&wanted, &request.owner())?;
    if request.config.bandwidth.any() {
        let link = pod.peer()?.index;
        request.config.bandwidth.check(&mut pod.socket, &request.owner(), link)?;
    }
    Ok(())
}

/// Whether the container's interface in a result is another plugin's: it is there, and no link of
/// ours leads to it.
pub(super) fn is_foreign(request: &Request, previous: &Value) -> bool {
    let (host, ifname) = (request.owner().host_link(), &request.environment.ifname);
    AddResult::parse(previous, "prevResult").is_ok_and(|result| {
        result.container_interface(ifname).is_some()
            && !result.interfaces.iter().any(|interface| interface.name == host)
    })
}

/// A pod whose link somebody else made.
struct Chained {
    socket: RouteSocket,
    /// Its addresses, and only those of the interface in question.
    result: AddResult,
    /// The device by which the node reaches it.
    device: String,
    /// The node's end of its link, if it is a veth.
    peer: Option<Link>,
    ifname: String,
}

impl Chained {
    fn find(request: &Request, previous: &Value, container: &Namespace) -> Result<Chained> {
        let mut result = AddResult::parse(previous, "prevResult")?;
        let ifname = request.environment.ifname.clone();
        let (position, _) = result.container_interface(&ifname).ok_or_else(|| {
            CniError::config(format!("prevResult: has no interface {ifname:?} in a container"))
        })?;
        result.ips = result.ips_of(position).cloned().collect();
        let mut socket = RouteSocket::open()?;
        let device = match result.ips.first() {
            None => String::new(),
            Some(ip) => {
                let address = ip.address.address();
                let route = socket.route_to(address)?.and_then(|route| route.link);
                let link = match route {
                    Some(index) => socket.link_by_index(index)?,
                    None => None,
                };
                let unreachable =
                    || CniError::config(format!("prevResult: this node has no route to {address}"));
                link.ok_or_else(unreachable)?.name
            }
        };
        let mut inside = container.run(RouteSocket::open)??;
        let inner = inside.link_by_name(&ifname)?;
        let peer = match inner.filter(|link| link.kind.as_deref() == Some("veth")) {
            Some(Link { peer: Some(index), .. }) => socket.link_by_index(index)?,
            _ => None,
        };
        Ok(Chained { socket, result, device, peer, ifname })
    }

    fn peer(&self) -> Result<&Link> {
        self.peer.as_ref().ok_or_else(|| {
            CniError::config(format!(
                "bandwidth: interface {:?} is no veth with its other end on this node",
                self.ifname
            ))
        })
    }

    fn attach(mut self, request: &Request) -> Result<()> {
        let wanted = network::wanted_netfilter(request, &self.result, &self.device, None)?;
        network::install_netfilter(request, &wanted, &self.result, &self.device)?;
        if request.config.bandwidth.any() {
            let (link, mtu) = {
                let peer = self.peer()?;
                (peer.index, peer.mtu)
            };
            request.config.bandwidth.apply(&mut self.socket, &request.owner(), link, mtu)?;
        }
        Ok(())
    }
}
