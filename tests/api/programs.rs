//! Where etcd, kube-apiserver and kubectl are.

use std::path::{Path, PathBuf};

/// The programs of a control plane.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) etcd: PathBuf,
    pub(crate) apiserver: PathBuf,
    pub(crate) kubectl: PathBuf,
}

impl Programs {
    /// Those of `KUBEBUILDER_ASSETS` if that is set; else those that `tests/cluster/build.py` built, or for
    /// etcd the system's. The error says what is missing.
    pub(crate) fn find() -> Result<Programs, String> {
        let there = |path: PathBuf| {
            if path.is_file() { Ok(path) } else { Err(format!("there is no {}", path.display())) }
        };
        if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS") {
            let of = |name| there(Path::new(&folder).join(name));
            return Ok(Programs {
                etcd: of("etcd")?,
                apiserver: of("kube-apiserver")?,
                kubectl: of("kubectl")?,
            });
        }
        let built = |name| there(cache().join("cluster/bin").join(name));
        let installed = || testnet::programs::installed("etcd").ok_or("etcd is not installed");
        let etcd = built("etcd").or_else(|_| installed())?;
        Ok(Programs { etcd, apiserver: built("kube-apiserver")?, kubectl: built("kubectl")? })
    }
}

/// kube-proxy. The error says what is missing.
pub(crate) fn kube_proxy() -> Result<PathBuf, String> {
    let built = || cache().join("cluster/bin");
    let path = std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(built, PathBuf::from);
    let path = path.join("kube-proxy");
    if path.is_file() { Ok(path) } else { Err(format!("there is no {}", path.display())) }
}

fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").unwrap_or_else(|| "/root".into()).join(".cache");
    set("XDG_CACHE_HOME").unwrap_or_else(home).join("viaduct")
}
