//! The Services and endpoints of a case, as manifests and for the peers.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};

/// So many Services with so many endpoints each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
}

impl Size {
    pub(crate) fn name(self) -> String {
        let thousands = self.services / 1000;
        match thousands {
            0 => format!("{} x {}", self.services, self.endpoints),
            _ => format!("{thousands}k x {}", self.endpoints),
        }
    }

    /// A Service's address.
    pub(crate) fn vip(self, service: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + service)
    }

    /// An endpoint's address.
    pub(crate) fn endpoint(self, service: u32, endpoint: u32) -> Ipv4Addr {
        let number = service * self.endpoints + endpoint;
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number)
    }
}

/// An endpoint that no other Service has, for changes.
pub(crate) fn other_endpoint(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 250, 0, 0)) + number)
}

/// A Service and its slice; `replaced` takes the place of the first endpoint.
pub(crate) fn documents(size: Size, service: u32, replaced: Option<Ipv4Addr>) -> String {
    let vip = size.vip(service);
    let mut endpoints = String::new();
    for number in 0..size.endpoints {
        let own = size.endpoint(service, number);
        let address = replaced.filter(|_| number == 0).unwrap_or(own);
        let separator = if number == 0 { "" } else { "," };
        let node = (service + number) % 1000;
        let _ = write!(
            endpoints,
            r#"{separator}{{"addresses":["{address}"],"nodeName":"node-{node}","conditions":{{"ready":true,"serving":true,"terminating":false}}}}"#
        );
    }
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"svc-{service}","namespace":"bench"}},"spec":{{"type":"ClusterIP","clusterIP":"{vip}","clusterIPs":["{vip}"],"ports":[{{"name":"http","port":80,"protocol":"TCP","targetPort":8080}}]}}}}
{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"svc-{service}-x","namespace":"bench","labels":{{"kubernetes.io/service-name":"svc-{service}"}}}},"addressType":"IPv4","ports":[{{"name":"http","port":8080,"protocol":"TCP"}}],"endpoints":[{endpoints}]}}
"#
    )
}

/// Puts a file in its place: nobody sees half of it.
pub(crate) fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    let hidden = folder.join(".new");
    fs::write(&hidden, text).context("write a manifest")?;
    fs::rename(hidden, folder.join(name)).context("put a manifest in its place")
}

/// All of them in one file.
pub(crate) fn write_one_file(size: Size, folder: &Path) -> Result<()> {
    let mut all = String::new();
    for service in 0..size.services {
        all += &documents(size, service, None);
    }
    put(folder, "all.json", &all)
}

/// One file for each Service.
pub(crate) fn write_files(size: Size, folder: &Path) -> Result<()> {
    for service in 0..size.services {
        put(folder, &file_of(service), &documents(size, service, None))?;
    }
    Ok(())
}

/// The file of a Service.
pub(crate) fn file_of(service: u32) -> String {
    format!("svc-{service}.json")
}
