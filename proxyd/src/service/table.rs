//! The abstract service table: every frontend, its owner, and what becomes of a connection to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netlink::{Family, Prefix};

use super::plan::ServicePlan;
use crate::cluster::{Affinity, Protocol, ServiceName, ServicePortName};

/// Where a connection can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The endpoint's address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
}

impl From<Backend> for SocketAddr {
    fn from(backend: Backend) -> SocketAddr {
        SocketAddr::new(backend.ip, backend.port)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

/// The address of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A ClusterIP, external IP or load balancer's IP.
    Ip(IpAddr),
    /// The node's addresses of a family.
    Node(Family),
}

/// What a connection is sent to: at most one Service port owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// Address.
    pub address: Address,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

impl FrontendKey {
    /// The family of its packets.
    pub fn family(&self) -> Family {
        match self.address {
            Address::Ip(ip) => Family::of(ip),
            Address::Node(family) => family,
        }
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Address::Ip(ip) => write!(f, "{}/{}", SocketAddr::new(ip, self.port), self.protocol),
            Address::Node(family) => {
                write!(f, "node port {}/{} ({family})", self.port, self.protocol)
            }
        }
    }
}

/// Who is seen by the endpoint instead of the client. Hairpin connections are masqueraded in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Masquerade {
    /// The node, always.
    Always,
    /// The node, if the client is not a pod of the cluster (as far as the daemon can tell).
    OffCluster,
}

/// What becomes of a connection to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// It goes to one of the Cluster policy's endpoints.
    Cluster(Masquerade),
    /// It goes to one of the Local policy's endpoints; as internal traffic does.
    Local,
    /// External traffic with the Local policy: from pods and from the node itself to the Cluster
    /// policy's endpoints, else to the Local policy's; dropped if there are none.
    ByOrigin,
    /// Refused: there is no endpoint anywhere.
    Reject,
    /// Dropped: the policy asks for an endpoint on this node, and all are elsewhere.
    Drop,
}

/// What all frontends of a Service port share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists {
    /// Whose they are.
    pub owner: ServicePortName,
    /// The Cluster policy's endpoints, sorted.
    pub cluster: Vec<Backend>,
    /// The Local policy's endpoints, sorted.
    pub local: Vec<Backend>,
    /// Addresses of endpoints on this node, which could reach themselves; sorted.
    pub hairpin: Vec<IpAddr>,
    /// Session affinity.
    pub affinity: Option<Affinity>,
}

/// A frontend as a dataplane has to make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// What becomes of a connection.
    pub resolution: Resolution,
    /// Whether the address is a ClusterIP.
    pub cluster_ip: bool,
    /// The only clients that are let in, if that is restricted: none within another, sorted.
    pub source_ranges: Option<Arc<[Prefix]>>,
    /// Endpoints.
    pub lists: Arc<Lists>,
}

/// Every Service's plan, and which frontends follow from them.
#[derive(Debug, Default)]
pub struct Table {
    plans: HashMap<ServiceName, ServicePlan>,
    /// Who wants a frontend; the first one has it.
    claims: HashMap<FrontendKey, Vec<ServicePortName>>,
}

/// Frontends that changed: as they are now, or (`None`) gone.
pub type Delta = BTreeMap<FrontendKey, Option<Frontend>>;

impl Table {
    /// Replaces the plan of a Service, and adds the frontends that may have changed to `delta`.
    pub fn replace(&mut self, name: &ServiceName, plan: Option<ServicePlan>, delta: &mut Delta) {
        let before = self.plans.remove(name);
        if before == plan {
            self.plans.extend(plan.map(|plan| (name.clone(), plan)));
            return;
        }
        let mut touched = BTreeSet::new();
        for (key, frontend) in before.iter().flat_map(|plan| &plan.frontends) {
            touched.insert(*key);
            if let Some(claims) = self.claims.get_mut(key) {
                claims.retain(|owner| *owner != frontend.lists.owner);
                if claims.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
        for (key, frontend) in plan.iter().flat_map(|plan| &plan.frontends) {
            touched.insert(*key);
            let claims = self.claims.entry(*key).or_default();
            if let Err(at) = claims.binary_search(&frontend.lists.owner) {
                claims.reserve_exact(1);
                claims.insert(at, frontend.lists.owner.clone());
            }
        }
        self.plans.extend(plan.map(|plan| (name.clone(), plan)));
        delta.extend(touched.into_iter().map(|key| (key, self.frontend(&key).cloned())));
    }

    /// The frontend with this key.
    pub fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        // Within a Service a frontend is there once, whichever of its ports wanted it.
        let owner = self.claims.get(key)?.first()?;
        let frontends = &self.plans.get(&owner.service)?.frontends;
        let at = frontends.binary_search_by_key(key, |(key, _)| *key).ok()?;
        Some(&frontends[at].1)
    }

    /// All frontends, in no order.
    pub fn frontends(&self) -> impl Iterator<Item = (FrontendKey, &Frontend)> {
        self.claims.keys().filter_map(|key| Some((*key, self.frontend(key)?)))
    }

    /// All plans, in no order.
    pub fn plans(&self) -> impl Iterator<Item = (&ServiceName, &ServicePlan)> {
        self.plans.iter()
    }

    /// A Service's plan.
    pub fn plan(&self, name: &ServiceName) -> Option<&ServicePlan> {
        self.plans.get(name)
    }

    /// Frontends that more than one Service port wants: who has it, and who does not.
    pub fn conflicts(
        &self,
    ) -> impl Iterator<Item = (FrontendKey, &ServicePortName, &ServicePortName)> {
        self.claims.iter().filter(|(_, claims)| claims.len() > 1).flat_map(|(key, claims)| {
            let owner = claims.first();
            claims.iter().skip(1).filter_map(move |other| Some((*key, owner?, other)))
        })
    }
}
