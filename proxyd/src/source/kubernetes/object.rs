//! Objects as the API client hands them over: the fields of [`api::Document`], and the metadata that the
//! client itself needs.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicResourceScope;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::api;

/// A kind that is watched.
pub(super) trait Kind: Clone + Debug + Send + Sync + 'static {
    const KIND: &'static str;
    const GROUP: &'static str;
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str;
    /// Objects without these are none of a proxy's business, and never sent.
    const LABELS: Option<&'static str> = None;
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

/// An object of a kind.
#[derive(Clone, Debug)]
pub(super) struct ApiObject<K> {
    metadata: ObjectMeta,
    /// Or why they cannot be: one such object is not to spoil the list that it is in.
    fields: Result<Fields, String>,
    kind: PhantomData<K>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    spec: Option<api::Spec>,
    status: Option<api::Status>,
    address_type: Option<String>,
    endpoints: Option<Vec<api::Endpoint>>,
    ports: Option<Vec<api::EndpointPort>>,
}

impl<'de, K> Deserialize<'de> for ApiObject<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let metadata = match object.get("metadata") {
            Some(metadata) => ObjectMeta::deserialize(metadata).map_err(D::Error::custom)?,
            None => ObjectMeta::default(),
        };
        let fields = Fields::deserialize(&object).map_err(|error| error.to_string());
        Ok(ApiObject { metadata, fields, kind: PhantomData })
    }
}

impl<K: Kind> ApiObject<K> {
    /// The same as a document, and why there is no more of it than its name.
    pub(super) fn into_document(self) -> (api::Document, Option<String>) {
        let metadata = self.metadata;
        let texts = |map: Option<std::collections::BTreeMap<String, String>>| {
            map.map(|map| map.into_iter().map(|(key, value)| (key, Some(value))).collect())
        };
        let (fields, unreadable) = match self.fields {
            Ok(fields) => (fields, None),
            Err(error) => (Fields::default(), Some(error)),
        };
        let document = api::Document {
            api_version: Some(<Self as kube::Resource>::api_version(&()).into_owned()),
            kind: Some(K::KIND.to_owned()),
            metadata: Some(api::Metadata {
                name: metadata.name,
                namespace: metadata.namespace,
                labels: texts(metadata.labels),
                annotations: texts(metadata.annotations),
                deletion_timestamp: metadata.deletion_timestamp.map(|time| time.0.to_string()),
            }),
            spec: fields.spec,
            status: fields.status,
            address_type: fields.address_type,
            endpoints: fields.endpoints,
            ports: fields.ports,
            items: None,
        };
        (document, unreadable)
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
