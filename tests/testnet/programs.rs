//! Where the programs under test are, and those of others.

use std::path::{Path, PathBuf};

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
