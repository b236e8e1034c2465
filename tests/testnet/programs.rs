//! Where the programs under test are, and those of others.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Host, Node};

/// Folders of plugins that are not ours.
const FOREIGN: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The folder with the binaries under test: `VIADUCT_BIN_DIR`, or where cargo puts them.
///
/// # Panics
///
/// If there is none, with the command that builds them.
pub fn built() -> PathBuf {
    find_built()
        .expect("viaduct is not built: run `cargo build -p cni-plugin`, or set VIADUCT_BIN_DIR")
}

fn find_built() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("VIADUCT_BIN_DIR") {
        return Some(dir.into());
    }
    let executable = std::env::current_exe().expect("the test's own path");
    executable.ancestors().find(|dir| dir.join("viaduct").is_file()).map(Path::to_owned)
}

/// The daemon's binary.
///
/// # Panics
///
/// If there is none.
pub fn proxyd() -> PathBuf {
    let path = built().join("proxyd");
    assert!(
        path.is_file(),
        "proxyd is not built: run `cargo build -p proxyd`, or set VIADUCT_BIN_DIR"
    );
    path
}

/// A plugin's binary: ours, or one that is installed.
///
/// # Panics
///
/// If it is neither.
pub fn plugin(name: &str) -> PathBuf {
    let own = find_built().map(|dir| dir.join(name)).filter(|path| path.is_file());
    own.or_else(|| installed_plugin(name)).unwrap_or_else(|| built().join(name))
}

/// A plugin of another project, if it is installed.
pub fn installed_plugin(name: &str) -> Option<PathBuf> {
    FOREIGN.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// `CNI_PATH`: ours first.
pub fn plugin_path() -> String {
    let foreign = FOREIGN.iter().map(PathBuf::from);
    let dirs = find_built().into_iter().chain(foreign);
    std::env::join_paths(dirs).expect("folders without colons").to_string_lossy().into_owned()
}

/// A program of the host, if it is installed.
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let own = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(own).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The environment in which `iptables` is this variant of it, `legacy` or `nft`, with a lock of the node's own.
///
/// # Errors
///
/// If it is not installed, or the node's folder cannot be written to.
pub fn iptables_environment(node: &Node, variant: &str) -> io::Result<Vec<(&'static str, String)>> {
    let folder = node.folder().join(format!("iptables-{variant}"));
    std::fs::create_dir_all(&folder)?;
    for name in ["iptables", "ip6tables"] {
        for verb in ["", "-save", "-restore"] {
            let link = folder.join(format!("{name}{verb}"));
            let program = format!("{name}-{variant}{verb}");
            let missing = || io::Error::new(io::ErrorKind::NotFound, program.clone());
            let program = installed(&program).ok_or_else(missing)?;
            match std::os::unix::fs::symlink(program, link) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let lock = node.namespace().xtables_lock().display().to_string();
    Ok(vec![
        ("PATH", format!("{}:{path}", folder.display())),
        ("XTABLES_LOCKFILE", lock),
        ("VIADUCT_IPTABLES", variant.to_owned()),
    ])
}
