//! [`Node`] and [`Pod`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cni::{Cni, CniOutput};
use crate::host::Host;
use crate::namespace::Namespace;
use crate::network::{Network, NodeRecord};

static NEXT_CONTAINER: AtomicU32 = AtomicU32::new(1);

/// A node of the cluster: a namespace on the LAN, with a folder of its own.
pub struct Node {
    namespace: Namespace,
    number: u8,
    folder: TempDir,
    pin_prefix: String,
}

impl Node {
    pub(crate) fn new(namespace: Namespace, number: u8, pin_prefix: String) -> Node {
        let folder = TempDir::with_prefix("testnet-").expect("a folder");
        Node { namespace, number, folder, pin_prefix }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        format!("192.168.0.{}", self.number).parse().expect("an address")
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        format!("fd00:192:168::{}", self.number).parse().expect("an address")
    }

    /// `10.244.N.0/24`, its pods' subnet if the test has no other wish.
    pub fn pod_cidr(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    /// `fd00:10:N::/64`, the same in IPv6.
    pub fn pod_cidr_v6(&self) -> String {
        format!("fd00:10:{}::/64", self.number)
    }

    /// Its entry in an overlay's node list: IPv4 address, pod subnets of both families.
    pub fn record(&self) -> NodeRecord {
        NodeRecord(json!({
            "name": self.name(), "address": self.v4(), "addresses": [self.v6()],
            "podCIDRs": [self.pod_cidr(), self.pod_cidr_v6()],
        }))
    }

    /// The same with its IPv6 address first.
    pub fn record_v6(&self) -> NodeRecord {
        NodeRecord(json!({
            "name": self.name(), "address": self.v6(), "addresses": [self.v4()],
            "podCIDRs": [self.pod_cidr(), self.pod_cidr_v6()],
        }))
    }

    /// A folder for whatever belongs to this node; it goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes `network.yaml` for the daemon's node agent, whose files are then in the node's own folder;
    /// returns its path.
    pub fn agent_settings(&self, settings: &str) -> String {
        let folder = self.folder();
        std::fs::create_dir_all(folder.join("net.d")).expect("a folder");
        let file = folder.join("network.yaml");
        let paths =
            format!("confDir: {0}/net.d\ndaemonSocket: {0}/cni.sock\n{settings}", folder.display());
        std::fs::write(&file, paths).expect("a file");
        file.display().to_string()
    }

    /// Where reservations are.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("networks")
    }

    /// The names of the files in a network's folder of reservations that are addresses.
    pub fn leases(&self, network: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.data_dir().join(network)) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut leases: Vec<String> = names.filter(|name| name.parse::<IpAddr>().is_ok()).collect();
        leases.sort();
        leases
    }

    /// The file of a reservation.
    pub fn lease_file(&self, network: &str, address: &str) -> PathBuf {
        self.data_dir().join(network).join(address)
    }

    /// A new container with the runtime's loopback up, not attached to anything.
    pub fn container(&self, name: &str) -> Namespace {
        let namespace = Namespace::new(name);
        if !self.pin_prefix.is_empty() {
            namespace.pin(&format!("{}{}-{name}", self.pin_prefix, self.name()));
        }
        namespace
    }

    /// A new pod on a network.
    ///
    /// # Panics
    ///
    /// If ADD fails.
    #[track_caller]
    pub fn pod(&self, network: &Network, name: &str) -> Pod<'_> {
        self.try_pod(network, name).unwrap_or_else(|output| {
            panic!("ADD of pod {name} failed: {} {}", output.stdout, output.stderr)
        })
    }

    /// A new pod on a network, or what ADD said.
    pub fn try_pod(&self, network: &Network, name: &str) -> Result<Pod<'_>, CniOutput> {
        let number = NEXT_CONTAINER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{name}-{number}-{}", std::process::id());
        self.try_attach(network, self.container(name), &id)
    }

    /// A new pod of a namespace of Kubernetes other than `default`, or what ADD said.
    pub fn try_pod_of(
        &self,
        network: &Network,
        kube_namespace: &str,
        name: &str,
    ) -> Result<Pod<'_>, CniOutput> {
        let number = NEXT_CONTAINER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{kube_namespace}-{name}-{number}-{}", std::process::id());
        self.attach(network, self.container(name), &id, kube_namespace)
    }

    /// Attaches a container under this ID, or tells what ADD said.
    pub fn try_attach(
        &self,
        network: &Network,
        container: Namespace,
        id: &str,
    ) -> Result<Pod<'_>, CniOutput> {
        self.attach(network, container, id, "default")
    }

    fn attach(
        &self,
        network: &Network,
        container: Namespace,
        id: &str,
        kube_namespace: &str,
    ) -> Result<Pod<'_>, CniOutput> {
        let mut pod = Pod {
            kube_namespace: kube_namespace.to_owned(),
            node: self,
            config: network.to_json(self),
            id: id.to_owned(),
            container,
            result: Value::Null,
        };
        let output = pod.cni("ADD").run(&self.namespace);
        if !output.status.success() {
            return Err(output);
        }
        pod.result = output.result();
        Ok(pod)
    }
}

impl Host for Node {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

/// A container on a network. Dropping it leaves what ADD made on the node, as a crash would; its
/// namespace goes. [`Pod::delete`] is the orderly way.
pub struct Pod<'a> {
    node: &'a Node,
    kube_namespace: String,
    config: Value,
    id: String,
    container: Namespace,
    result: Value,
}

impl Pod<'_> {
    /// The invocation of a verb for this pod, as a runtime makes it.
    pub fn cni(&self, verb: &str) -> Cni {
        let mut config = self.config.clone();
        let version = config["cniVersion"].as_str().unwrap_or_default();
        let given = match verb {
            "CHECK" => true,
            "DEL" => !matches!(version, "0.3.0" | "0.3.1"),
            _ => false,
        };
        if given && !self.result.is_null() {
            config["prevResult"] = self.result.clone();
        }
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid-{}",
            self.kube_namespace,
            self.container.name(),
            self.id,
            self.id
        );
        Cni::new(verb, &config).container(&self.id, self.container.path()).args(&arguments)
    }

    /// The node it is on.
    pub fn node(&self) -> &Node {
        self.node
    }

    /// The container ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What ADD printed.
    pub fn result(&self) -> &Value {
        &self.result
    }

    /// Its addresses.
    pub fn ips(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().into_iter().flatten();
        ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
    }

    /// Its first IPv4 address.
    #[track_caller]
    pub fn v4(&self) -> IpAddr {
        self.ips().into_iter().find(IpAddr::is_ipv4).expect("an IPv4 address")
    }

    /// Its first IPv6 address.
    #[track_caller]
    pub fn v6(&self) -> IpAddr {
        self.ips().into_iter().find(IpAddr::is_ipv6).expect("an IPv6 address")
    }

    /// The MAC address of its interface, as ADD printed it.
    #[track_caller]
    pub fn mac(&self) -> &str {
        let mut interfaces = self.result["interfaces"].as_array().into_iter().flatten();
        let inside = interfaces.find(|interface| interface.get("sandbox").is_some());
        inside.and_then(|interface| interface["mac"].as_str()).expect("an interface in the pod")
    }

    /// The name of the node's end of its link.
    pub fn host_link(&self) -> String {
        let interfaces = self.result["interfaces"].as_array().into_iter().flatten();
        let outside: Vec<&Value> = interfaces.filter(|i| i.get("sandbox").is_none()).collect();
        outside.last().and_then(|i| i["name"].as_str()).expect("a link on the node").to_owned()
    }

    /// CHECK.
    pub fn check(&self) -> CniOutput {
        self.cni("CHECK").run(&self.node.namespace)
    }

    /// DEL, which must succeed; the container stays.
    #[track_caller]
    pub fn delete(&self) {
        self.cni("DEL").run(&self.node.namespace).result();
    }
}

impl Host for Pod<'_> {
    fn namespace(&self) -> &Namespace {
        &self.container
    }
}
