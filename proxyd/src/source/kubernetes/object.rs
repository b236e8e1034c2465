//! Objects as the API client hands them over.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicResourceScope;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::super::api;

/// A kind that is watched.
pub(super) trait Kind: Clone + Debug + Send + Sync + 'static {
    const KIND: &'static str;
    const GROUP: &'static str;
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str;
    /// Objects without these are none of a proxy's business, and never sent.
    const LABELS: Option<&'static str> = None;
    /// The same by fields.
    const FIELDS: Option<&'static str> = None;
    /// Whether a server that does not have this kind is well too.
    const OPTIONAL: bool = false;
}

/// `v1` Service.
#[derive(Clone, Debug)]
pub(super) struct Services;

impl Kind for Services {
    const KIND: &'static str = "Service";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "services";
    const LABELS: Option<&'static str> = Some("!service.kubernetes.io/service-proxy-name");
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug)]
pub(super) struct EndpointSlices;

impl Kind for EndpointSlices {
    const KIND: &'static str = "EndpointSlice";
    const GROUP: &'static str = "discovery.k8s.io";
    const PLURAL: &'static str = "endpointslices";
    const LABELS: Option<&'static str> =
        Some("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name");
}

/// `v1` Node.
#[derive(Clone, Debug)]
pub(super) struct Nodes;

impl Kind for Nodes {
    const KIND: &'static str = "Node";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "nodes";
}

/// `networking.k8s.io/v1` ServiceCIDR, which servers before 1.33 do not have.
#[derive(Clone, Debug)]
pub(super) struct ServiceCidrs;

impl Kind for ServiceCidrs {
    const KIND: &'static str = "ServiceCIDR";
    const GROUP: &'static str = "networking.k8s.io";
    const PLURAL: &'static str = "servicecidrs";
    const OPTIONAL: bool = true;
}

/// `v1` Pod, as long as it has not ended.
#[derive(Clone, Debug)]
pub(super) struct Pods;

impl Kind for Pods {
    const KIND: &'static str = "Pod";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "pods";
    const FIELDS: Option<&'static str> = Some("status.phase!=Succeeded,status.phase!=Failed");
}

/// `v1` Namespace.
#[derive(Clone, Debug)]
pub(super) struct Namespaces;

impl Kind for Namespaces {
    const KIND: &'static str = "Namespace";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "namespaces";
}

/// `networking.k8s.io/v1` NetworkPolicy.
#[derive(Clone, Debug)]
pub(super) struct NetworkPolicies;

impl Kind for NetworkPolicies {
    const KIND: &'static str = "NetworkPolicy";
    const GROUP: &'static str = "networking.k8s.io";
    const PLURAL: &'static str = "networkpolicies";
}

/// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy, which somebody may install.
#[derive(Clone, Debug)]
pub(super) struct ClusterNetworkPolicies;

impl Kind for ClusterNetworkPolicies {
    const KIND: &'static str = "ClusterNetworkPolicy";
    const GROUP: &'static str = "policy.networking.k8s.io";
    const VERSION: &'static str = "v1alpha2";
    const PLURAL: &'static str = "clusternetworkpolicies";
    const OPTIONAL: bool = true;
}

/// An object of a kind.
#[derive(Clone, Debug)]
pub(super) struct ApiObject<K> {
    /// What the client itself needs: names and version.
    metadata: ObjectMeta,
    document: Box<api::Document>,
    /// Why there is no more of it than its metadata: one such object is not to spoil the list that it is in.
    unreadable: Option<String>,
    kind: PhantomData<K>,
}

/// What every object has.
#[derive(Deserialize)]
struct OnlyMetadata {
    metadata: Option<api::Metadata>,
}

impl<'de, K> Deserialize<'de> for ApiObject<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Servers tell the type of an event first. One that does not cannot be read in this way, and then everything
        // is listed anew.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let (document, unreadable) = match serde_json::from_str::<api::Document>(text.get()) {
            Ok(document) => (document, None),
            Err(error) => {
                let OnlyMetadata { metadata } =
                    serde_json::from_str(text.get()).map_err(D::Error::custom)?;
                let why = error.to_string();
                // Where in its line says nothing to whoever reads it.
                let why = why.split(" at line ").next().unwrap_or_default().to_owned();
                (api::Document { metadata, ..api::Document::default() }, Some(why))
            }
        };
        let own = |field: fn(&api::Metadata) -> &Option<String>| {
            document.metadata.as_ref().and_then(|metadata| field(metadata).clone())
        };
        let metadata = ObjectMeta {
            name: own(|metadata| &metadata.name),
            namespace: own(|metadata| &metadata.namespace),
            resource_version: own(|metadata| &metadata.resource_version),
            ..ObjectMeta::default()
        };
        Ok(ApiObject { metadata, document: Box::new(document), unreadable, kind: PhantomData })
    }
}

impl<K: Kind> ApiObject<K> {
    /// The same as a document, and why there is no more of it than its metadata.
    pub(super) fn into_document(self) -> (Box<api::Document>, Option<String>) {
        let mut document = self.document;
        document.api_version = Some(<Self as kube::Resource>::api_version(&()).into_owned());
        document.kind = Some(K::KIND.to_owned());
        (document, self.unreadable)
    }
}

impl<K: Kind> kube::Resource for ApiObject<K> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        K::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        K::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        K::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
