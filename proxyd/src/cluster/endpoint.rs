//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use netlink::Family;

use super::service::{Protocol, ServiceName};

/// Namespace and name of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// An EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The Service, from the label `kubernetes.io/service-name`.
    pub service: ServiceName,
    /// `addressType`.
    pub family: Family,
    /// Ports, the same for all endpoints.
    pub ports: Vec<SlicePort>,
    /// Endpoints, by their first addresses.
    pub endpoints: Vec<Endpoint>,
    /// `endpoints.kubernetes.io/last-change-trigger-time`, in nanoseconds since 1970.
    pub triggered: Option<i64>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Its name, as in the Service; empty if unnamed.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// The port at which the endpoints listen.
    pub port: u16,
}

/// An endpoint: at most a hundred bytes, since there may be hundreds of thousands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: IpAddr,
    /// State.
    pub conditions: Conditions,
    /// The node it is on, if it is known.
    pub node: Option<Arc<str>>,
    /// For whom it is meant, if there are hints.
    pub hints: Option<Box<Hints>>,
}

/// `endpoints[].conditions`, with the API's defaults for what is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// May get new connections.
    pub ready: bool,
    /// Answers, though it may be terminating.
    pub serving: bool,
    /// Is going away.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions { ready: true, serving: true, terminating: false }
    }
}

/// `endpoints[].hints`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Zones whose clients should use it.
    pub zones: Vec<Arc<str>>,
    /// Nodes whose clients should use it.
    pub nodes: Vec<Arc<str>>,
}
