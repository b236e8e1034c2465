//! ADD behind another plugin: its interface gets our host ports, masquerade and limits, and its
//! result is handed on unchanged.

use attachment::{LinkRecord, Record, Records};
use netlink::{Link, Namespace, RouteSocket};
use serde_json::Value;

use super::del::remove_kernel_state;
use super::{Request, network};
use crate::error::{CniError, Result};
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
    network::check_netfilter(&pod.record(request)?)?;
    if request.config.bandwidth.any() {
        let link = pod.peer()?.index;
        request.config.bandwidth.check(&mut pod.socket, &request.owner(), link)?;
    }
    Ok(())
}

/// A pod whose link another plugin made.
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
        let (position, interface) = result.container_interface(&ifname).ok_or_else(|| {
            CniError::config(format!("prevResult: has no interface {ifname:?} in a container"))
        })?;
        network::require_same_namespace(container, interface)?;
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

    fn record(&self, request: &Request) -> Result<Record> {
        let mtu = self.peer.as_ref().map_or(0, |peer| peer.mtu);
        let record = network::record(request, &self.result, mtu, Vec::new(), None)?;
        Ok(Record {
            link: LinkRecord::Chained {
                device: self.device.clone(),
                peer: self.peer.as_ref().map(|peer| (peer.name.clone(), peer.index.0)),
                netns: request.environment.netns.clone().unwrap_or_default(),
            },
            forwarding: attachment::Forwarding::Off,
            ..record
        })
    }

    fn attach(mut self, request: &Request) -> Result<()> {
        let records = Records::of_current_namespace()?;
        let record = self.record(request)?;
        network::install_netfilter(&record, &records)?;
        if request.config.bandwidth.any() {
            let (link, mtu) = (self.peer()?.index, self.peer()?.mtu);
            record.limits.apply(&mut self.socket, &record.owner, link, mtu)?;
        }
        network::write_record(&records, &record);
        Ok(())
    }
}
