//! Files of ours on the host: the plugin, and its configuration.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Replaces a file as a whole, unless it holds this already; tells whether it wrote. Whoever runs or reads
/// the old one goes on with it.
pub fn write_if_changed(path: &Path, content: &[u8], mode: u32) -> Result<bool> {
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Runtimes pass over what does not end as a configuration does.
    let hidden = folder.join(format!(".{name}.new"));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&hidden)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&hidden, path)
    };
    let outcome = write();
    if outcome.is_err() {
        // Nothing half-written stays on a full disk.
        let _ = fs::remove_file(&hidden);
    }
    outcome.with_context(|| format!("write {}", path.display()))?;
    Ok(true)
}

/// The configuration that a runtime takes before `ours`: it takes the first of the folder by name.
pub fn taken_before(ours: &Path) -> Result<Option<PathBuf>> {
    let Some(folder) = ours.parent() else { return Ok(None) };
    let failed = || format!("read {}", folder.display());
    let mut before = Vec::new();
    for entry in fs::read_dir(folder).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let kind = path.extension().and_then(|extension| extension.to_str());
        if matches!(kind, Some("conf" | "conflist" | "json")) && path.file_name() < ours.file_name()
        {
            before.push(path);
        }
    }
    Ok(before.into_iter().min())
}

/// Removes a file; tells whether it was there.
pub fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("viaduct");
        assert!(write_if_changed(&path, b"one", 0o755).unwrap());
        assert!(!write_if_changed(&path, b"one", 0o755).unwrap());
        let open = File::open(&path).unwrap();
        assert!(write_if_changed(&path, b"two", 0o755).unwrap());
        assert_eq!(std::io::read_to_string(open).unwrap(), "one", "who runs the old one goes on");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    }

    #[test]
    fn another_configuration_that_comes_first_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("10-viaduct.conflist");
        for name in ["20-other.conflist", "05-notes.txt", "10-viaduct.conflist"] {
            fs::write(folder.path().join(name), "{}").unwrap();
            assert_eq!(taken_before(&ours).unwrap(), None, "{name}");
        }
        let other = folder.path().join("05-other.conf");
        fs::write(&other, "{}").unwrap();
        assert_eq!(taken_before(&ours).unwrap(), Some(other));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let error = write_if_changed(Path::new("/proc/no/x"), b"", 0o644).unwrap_err();
        assert!(format!("{error:#}").starts_with("write /proc/no/x: "), "{error:#}");
    }
}
